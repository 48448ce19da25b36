"""Factorised codes: a codebook of low dimension, with latents and codes on the unit sphere where asked for.

Papers: ViT-VQGAN, arXiv 2110.04627, section 3.2; as a baseline VQGAN-LC, arXiv 2406.11837, section 4.

The search takes place in few dimensions, `dim`; the 1x1 convolutions of the tokenizer map from and to the trunk's.
Without `normalise` that is `vq` there, with codes uniform in +-1/K (VQGAN-LC's FC baseline, whose public code has
`beta: 0.33` with `beta_on: codebook`). With it

    k = argmax_k <z / |z|, e_k / |e_k|>,   z_q = e_k / |e_k|

and both losses are taken between the two unit vectors, so that they stay between 0 and 4 / d (means over elements). The
gradient of z_q goes to z / |z|, and on to z through the division, which keeps the part perpendicular to z. Codes are
kept as a parameter of any length and normalised in every pass. A vector shorter than 1e-6 is divided by 1e-6.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vqpipe.quantizers.contract import About
from vqpipe.quantizers.moments import draw_rows
from vqpipe.quantizers.nearest import LEARNED_EXAMPLE, LearnedCodesParams, LearnedCodesQuantizer, unit


class FcParams(LearnedCodesParams):
    """A codebook of low dimension (factorised codes: ViT-VQGAN, VQGAN-LC's FC baseline). `dim` is that dimension:
    32 in ViT-VQGAN, 8 in VQGAN-LC."""

    kind: Literal["fc"]
    normalise: bool
    """Latents and codes on the unit sphere: true in ViT-VQGAN and LlamaGen, false in VQGAN-LC's baseline."""


class FactorisedCodesQuantizer(LearnedCodesQuantizer):
    """One group; the codes are a parameter of shape (K, d)."""

    kind = "fc"
    Params = FcParams
    about = About(
        title="FC",
        codes="a parameter of few dimensions, optionally on the unit sphere",
        moved_by="its codebook loss",
        papers="ViT-VQGAN 2110.04627",
        example={"kind": "fc", **LEARNED_EXAMPLE, "normalise": True},
    )

    def __init__(self, config: FcParams) -> None:
        super().__init__(config, metric="cosine" if config.normalise else "euclidean")
        self.normalise = config.normalise
        if config.normalise:
            with torch.no_grad():  # of the length that they have in every pass
                self.codes.copy_(unit(self.codes))

    def live_codes(self) -> tuple[Float[Tensor, "K d"]]:
        """The parameter, on the unit sphere where `normalise` says so."""
        return (self.prepare(self.codes.float()),)

    def prepare(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """See `NearestCodeQuantizer.prepare`: on the unit sphere where `normalise` says so."""
        return unit(rows) if self.normalise else rows

    def set_from_data(self, rows: Float[Tensor, "1 n d"]) -> None:
        """Codes are latents of the first batch, drawn at random, and prepared as all are."""
        self.codes.copy_(self.prepare(draw_rows(self.prepare(rows[0]), self.num_codes[0])))
