"""Params of the quantizers that learn their own codes and take the nearest one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vqpipe.params.base import Params

BetaOn = Literal["commitment", "codebook"]
"""Which term beta weighs; the other term has weight 1. See `vqpipe.quantizers.nearest.code_losses`."""


class NearestCodeParams(Params):
    """What every quantizer with a nearest-code search states."""

    dim: int = Field(ge=1)
    """Dimension of the z that the quantizer receives; 1x1 convolutions around it map from and to the trunk's
    channels."""
    beta: float = Field(ge=0)
    """Weight of one of the two code losses; `beta_on` says which."""
    beta_on: BetaOn
    """`commitment`: beta weighs |z - sg(e)|^2 (VQ-VAE, the papers). `codebook`: beta weighs |sg(z) - e|^2
    (VQGAN's legacy order)."""


class VqParams(NearestCodeParams):
    """A codebook that is learned by gradient descent (VQ-VAE, VQGAN)."""

    kind: Literal["vq"]
    num_codes: int = Field(ge=1)
    """K, the number of codes."""
    init: Literal["uniform", "data"]
    """Codes at the start: `uniform` in +-1/K (the papers' form), or `data`: latents of the first batch drawn
    at random."""
