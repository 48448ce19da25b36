"""Vector quantisation with a codebook learned by gradient descent.

Papers: VQ-VAE, arXiv 1711.00937; VQGAN, arXiv 2012.09841.

K codes of dimension d start uniform in +-1/K; each latent takes the nearest one (squared Euclidean distance).
Two losses move the two sides towards each other; `beta_on` says which of them beta weighs, `commitment` as in
VQ-VAE or `codebook`, the legacy order of VQGAN's public code (`vqpipe.quantizers.nearest.code_losses`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vqpipe.codebooks.load import Prior
from vqpipe.params.quantizers.nearest import VqParams
from vqpipe.quantizers.contract import Names
from vqpipe.quantizers.moments import draw_rows
from vqpipe.quantizers.nearest import NearestCodeQuantizer
from vqpipe.quantizers.priors import need_none


class VectorQuantizer(NearestCodeQuantizer):
    """One group; the codes are a parameter of shape (K, d)."""

    kind = "vq"

    def __init__(self, config: VqParams) -> None:
        super().__init__(config, ["code"], [config.num_codes], data_init=config.init == "data")
        bound = 1 / config.num_codes
        self.codes = nn.Parameter(torch.empty(config.num_codes, config.dim).uniform_(-bound, bound))

    @classmethod
    def from_prior(cls, config: VqParams, prior: Prior) -> Self:
        """See `QuantizerModule.from_prior`; takes no prior."""
        need_none(cls.kind, prior)
        return cls(config)

    @classmethod
    def skeleton(cls, config: VqParams, tensors: Mapping[str, Tensor], names: Names | None) -> Self:
        """See `QuantizerModule.skeleton`; the params say every shape."""
        return cls(config)

    def live_codes(self) -> tuple[Float[Tensor, "K d"]]:
        """The parameter itself."""
        return (self.codes.float(),)

    def set_from_data(self, rows: Float[Tensor, "1 n d"]) -> None:
        """Codes are latents of the first batch, drawn at random."""
        self.codes.copy_(draw_rows(rows[0], self.num_codes[0]))
