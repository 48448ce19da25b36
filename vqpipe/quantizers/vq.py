"""Vector quantisation with a codebook learned by gradient descent.

Papers: VQ-VAE, arXiv 1711.00937; VQGAN, arXiv 2012.09841.

K codes of dimension d start uniform in +-1/K; each latent takes the nearest one (squared Euclidean distance).
Two losses move the two sides towards each other; `beta_on` says which of them beta weighs, `commitment` as in
VQ-VAE or `codebook`, the legacy order of VQGAN's public code (`vqpipe.quantizers.nearest.code_losses`).
"""

from __future__ import annotations

from typing import Literal

from vqpipe.quantizers.contract import About
from vqpipe.quantizers.nearest import LEARNED_EXAMPLE, LearnedCodesParams, LearnedCodesQuantizer


class VqParams(LearnedCodesParams):
    """A codebook that is learned by gradient descent (VQ-VAE, VQGAN)."""

    kind: Literal["vq"]


class VectorQuantizer(LearnedCodesQuantizer):
    """One group; the codes are a parameter of shape (K, d)."""

    kind = "vq"
    Params = VqParams
    about = About(
        title="VQ",
        codes="a parameter (K, d)",
        moved_by="its codebook loss",
        papers="VQ-VAE 1711.00937, VQGAN 2012.09841",
        example={"kind": "vq", **LEARNED_EXAMPLE},
    )
