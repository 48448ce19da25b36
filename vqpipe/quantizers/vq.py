"""Vector quantisation with a codebook learned by gradient descent.

Papers: VQ-VAE, arXiv 1711.00937; VQGAN, arXiv 2012.09841.

K codes of dimension d start uniform in +-1/K; each latent takes the nearest one (squared Euclidean distance, or with
`distance: cosine` the largest cosine; the code itself goes on, not normalised, where `fc` passes on a unit vector).
Two losses move the two sides towards each other; `beta_on` says which of them beta weighs, `commitment` as in
VQ-VAE or `codebook`, the legacy order of VQGAN's public code (`vqpipe.quantizers.nearest.code_losses`).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from vqpipe.quantizers.contract import About
from vqpipe.quantizers.nearest import LEARNED_EXAMPLE, LearnedCodesParams, LearnedCodesQuantizer


class VqParams(LearnedCodesParams):
    """A codebook that is learned by gradient descent (VQ-VAE, VQGAN)."""

    kind: Literal["vq"]
    distance: Literal["cosine", "euclidean"] = "euclidean"
    """How the nearest code is found: `euclidean` in the papers; `cosine` in SEED-Voken's VQ with `l2_normalize`."""

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `distance` where it is the papers', so that stored params stay what they were."""
        return {
            name: value for name, value in handler(self).items() if (name, value) != ("distance", "euclidean")
        }


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

    def __init__(self, config: VqParams) -> None:
        super().__init__(config, metric=config.distance)
