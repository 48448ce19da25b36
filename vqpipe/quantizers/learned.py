"""What the methods share whose codes are a parameter of one group: its start, and a pass over no prior."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vqpipe.codebooks.search import Metric
from vqpipe.params.quantizers.nearest import LearnedCodesParams
from vqpipe.quantizers.moments import draw_rows
from vqpipe.quantizers.nearest import NearestCodeQuantizer
from vqpipe.quantizers.priors import WithoutPrior


class LearnedCodesQuantizer(WithoutPrior, NearestCodeQuantizer):
    """One group; the codes are a parameter of shape (K, d), uniform in +-1/K at the start or set from data.

    Args:
        config: the params.
        metric: of the search.
    """

    def __init__(self, config: LearnedCodesParams, metric: Metric = "euclidean") -> None:
        super().__init__(config, ["code"], [config.num_codes], metric=metric, data_init=config.init == "data")
        bound = 1 / config.num_codes
        self.codes = nn.Parameter(torch.empty(config.num_codes, config.dim).uniform_(-bound, bound))

    def live_codes(self) -> tuple[Float[Tensor, "K d"]]:
        """The parameter itself."""
        return (self.codes.float(),)

    def set_from_data(self, rows: Float[Tensor, "1 n d"]) -> None:
        """Codes are latents of the first batch, drawn at random."""
        self.codes.copy_(draw_rows(rows[0], self.num_codes[0]))


def unit(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of length 1; those shorter than 1e-6 are divided by 1e-6."""
    return rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(1e-6)
