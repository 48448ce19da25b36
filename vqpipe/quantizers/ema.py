"""A codebook that follows the mean of its latents, without gradient.

Papers: VQ-VAE, arXiv 1711.00937, appendix A.1; restart of dead codes: Jukebox, arXiv 2005.00341, section 3.1.

After each training pass, with n_k the uses of code k in the batch of all ranks and s_k the sum of their latents:

    N_k <- decay N_k + (1 - decay) n_k          cluster sizes, `initial_size` at the start
    m_k <- decay m_k + (1 - decay) s_k          sums, the codes at the start
    e_k <- m_k / ((N_k + epsilon) / (N + K epsilon) N),   N = sum_k N_k

The last line divides by sizes that are smoothed, so that a code which is never used does not divide by 0. A pass
returns the codes as they were before it. In eval nothing moves.

With `initial_size: 1` a code that is not used stays where it is, since N_k and m_k shrink alike, until N_k is as small
as epsilon (1,146 passes at 0.99 and 1e-5); then it shrinks towards 0. With 0, the form of VQGAN-LC's public code, its
N_k is 0 and e_k = m_k (N + K epsilon) / (epsilon N), about m_k / epsilon: the first pass throws it that far out, and it
comes back by a factor `decay` a pass, until it is the nearest of some latent. So that start works as a restart of
codes. VQGAN-LC's public code also moves codes in eval, and those of each rank apart; here neither is done.

The loss is beta |z - sg(e)|^2, the commitment: it moves the encoder. Codes are a buffer, so losses on codes
(`Quantized.vectors`) do not reach them.

With `restart`, every so many passes the codes with N_k below the threshold become latents of that pass, drawn at
random from all ranks (rank 0 draws), and count as used once a pass, or as often as the threshold says where that is
more, so that they have time to be used.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from vqpipe.params.base import Params
from vqpipe.quantizers.contract import About
from vqpipe.quantizers.moments import draw_rows
from vqpipe.quantizers.nearest import CommittedParams, NearestCodeQuantizer
from vqpipe.runtime.distributed import all_reduce_sum, broadcast, gather
from vqpipe.runtime.host import HostScalar


class RestartParams(Params):
    """Codes that are hardly used become latents of the batch."""

    threshold: float = Field(gt=0)
    """Smoothed uses per step, over all ranks, under which a code is dead."""
    every: int = Field(ge=1)
    """Training steps (forward passes) from one look for dead codes to the next; a look waits for the device once."""


class EmaParams(CommittedParams):
    """A codebook that follows the mean of its latents, without gradient (VQ-VAE's appendix)."""

    kind: Literal["ema"]
    num_codes: int = Field(ge=1)
    """K, the number of codes."""
    decay: float = Field(ge=0, lt=1)
    """Of the moving averages; 0.99 in the paper and in VQGAN-LC's baseline."""
    epsilon: float = Field(gt=0)
    """Uses that every code counts as having had (Laplace smoothing); common: 1e-5."""
    init: Literal["uniform", "data"]
    """Codes at the start: `uniform` in +-1/K, or `data`: latents of the first batch drawn at random."""
    restart: RestartParams | None
    """Restart dead codes; None: leave them."""
    initial_size: Literal[0, 1] = 1
    """Uses that every code counts as having had at the start: 1, so that unused codes stay in place; or 0, as in
    VQGAN-LC's public code, which throws unused codes far out and lets them come back."""

    @property
    def trains_codes(self) -> bool:
        """False: the codes are a buffer."""
        return False


class MovingAverageQuantizer(NearestCodeQuantizer):
    """One group; codes (K, d), sums (K, d), cluster sizes (K,) and the number of passes are buffers."""

    kind = "ema"
    Params = EmaParams
    about = About(
        title="EMA",
        codes="a buffer that follows the mean of its latents",
        moved_by="no gradient; moving averages, optional restart of dead codes",
        papers="VQ-VAE 1711.00937, appendix A.1",
        example={
            "kind": "ema", "dim": 8, "num_codes": 16, "beta": 1.0, "decay": 0.99, "epsilon": 1e-5, "init": "uniform",
            "restart": None,
        },
    )  # fmt: skip
    codes: Tensor
    sums: Tensor
    cluster_sizes: Tensor
    passes: Tensor

    def __init__(self, config: EmaParams) -> None:
        super().__init__(config, ["code"], [config.num_codes], data_init=config.init == "data")
        self.decay, self.epsilon, self.restart = config.decay, config.epsilon, config.restart
        bound = 1 / config.num_codes
        codes = torch.empty(config.num_codes, config.dim).uniform_(-bound, bound)
        self.register_buffer("codes", codes)
        self.register_buffer("sums", codes.clone())
        self.register_buffer("cluster_sizes", torch.full((config.num_codes,), float(config.initial_size)))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self._passes = HostScalar()

    def live_codes(self) -> tuple[Float[Tensor, "K d"]]:
        """The codes; in training a copy, since they move before the pass ends."""
        return (self.codes.clone() if self.training else self.codes,)

    def set_from_data(self, rows: Float[Tensor, "1 n d"]) -> None:
        """Codes are latents of the first batch, drawn at random; each counts as used `initial_size` times."""
        self.codes.copy_(draw_rows(rows[0], self.num_codes[0]))
        self.sums.copy_(self.codes)

    def losses(
        self,
        rows: Float[Tensor, "n d"],
        codes: Float[Tensor, "K d"],
        indices: Int64[Tensor, " n"],
        progress: float,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """See `NearestCodeQuantizer.losses`: beta times the commitment."""
        commitment = F.mse_loss(rows, F.embedding(indices, codes))
        return self.beta * commitment, {"commitment": commitment.detach()}

    def move_codes(self, rows: Float[Tensor, "n d"], indices: Int64[Tensor, " n"]) -> None:
        """See `NearestCodeQuantizer.move_codes`: a step of the moving averages."""
        found = rows.new_zeros(len(self.codes), rows.shape[1] + 1)  # sums and, as the last column, counts
        found.index_add_(0, indices, F.pad(rows, (0, 1), value=1))
        all_reduce_sum(found)
        self.sums.lerp_(found[:, :-1], 1 - self.decay)
        self.cluster_sizes.lerp_(found[:, -1], 1 - self.decay)
        total = self.cluster_sizes.sum()
        smoothed = (self.cluster_sizes + self.epsilon) / (total + len(self.codes) * self.epsilon) * total
        self.codes.copy_(self.sums / smoothed[:, None])
        passes = self._passes.get(self.passes) + 1
        self._passes.set(self.passes, passes)
        if self.restart is not None and passes % self.restart.every == 0:
            self._revive(rows, self.restart.threshold)

    def _revive(self, rows: Tensor, threshold: float) -> None:
        # The one wait: how many rows are drawn decides what the CPU's generator gives next.
        dead = (self.cluster_sizes < threshold).nonzero()[:, 0]  # the same on all ranks, as the sizes are
        if len(dead) == 0:
            return
        drawn = broadcast(draw_rows(gather(rows), len(dead)))
        self.codes[dead] = drawn
        self.cluster_sizes[dead] = max(1.0, threshold)
        self.sums[dead] = drawn * max(1.0, threshold)
