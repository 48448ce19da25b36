"""Factorised codes: a codebook of low dimension, with latents and codes on the unit sphere where asked for.

Papers: ViT-VQGAN, arXiv 2110.04627, section 3.2; as a baseline VQGAN-LC, arXiv 2406.11837, section 4.

The search takes place in few dimensions, `dim`; the 1x1 convolutions of the tokenizer map from and to the trunk's.
Without `normalise` that is `vq` there, with codes uniform in +-1/K (VQGAN-LC's FC baseline). With it

    k = argmax_k <z / |z|, e_k / |e_k|>,   z_q = e_k / |e_k|

and both losses lie between the two unit vectors, so that they stay between 0 and 4 / d (means over elements). The
gradient of z_q goes to z / |z|, and on to z through the division, which leaves what is perpendicular to z. Codes are
kept as a parameter of any length and normalised in every pass. A vector shorter than 1e-6 is divided by 1e-6.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vqpipe.params.quantizers.nearest import FcParams
from vqpipe.quantizers.learned import LearnedCodesQuantizer, unit
from vqpipe.quantizers.moments import draw_rows


class FactorisedCodesQuantizer(LearnedCodesQuantizer):
    """One group; the codes are a parameter of shape (K, d)."""

    kind = "fc"

    def __init__(self, config: FcParams) -> None:
        super().__init__(config, metric="cosine" if config.normalise else "euclidean")
        self.normalise = config.normalise
        if config.normalise:
            with torch.no_grad():  # as long as the vectors that they stand for
                self.codes.copy_(unit(self.codes))

    def live_codes(self) -> tuple[Float[Tensor, "K d"]]:
        """The parameter, on the unit sphere where `normalise` says so."""
        return (self.place(self.codes.float()),)

    def place(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """See `NearestCodeQuantizer.place`: on the unit sphere where `normalise` says so."""
        return unit(rows) if self.normalise else rows

    def set_from_data(self, rows: Float[Tensor, "1 n d"]) -> None:
        """Codes are latents of the first batch, drawn at random, in their place."""
        self.codes.copy_(self.place(draw_rows(self.place(rows[0]), self.num_codes[0])))
