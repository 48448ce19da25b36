"""Quantizers with a softmax over all codes, and what every method needs that looks at rows against all codes.

A method says how rows are assigned (`assign`) and which scores decide in eval (`scores`); the rest is here. Its z_q
carries its own gradient, to z and to the codes. Letters: b batch, d dimension, K codes, n = b * h * w rows, r rows of
a tile.

Such a method computes n x K values on every training pass, which no search can avoid, and autograd keeps several of
them. Here they are made for a tile of rows at a time (`in_row_tiles`) and computed again in the backward pass, with
the same random numbers: time is O(n K d), memory O(n d + K d + tile). The price is a second forward pass of a step,
only where n x K is larger than the tile.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vqpipe.params.base import Params
from vqpipe.quantizers.contract import (
    Codebook,
    Quantized,
    Quantizer,
    QuantizerParams,
    check_indices,
    check_latent,
    latent_of,
    rows_of,
)
from vqpipe.quantizers.estimators import straight_through
from vqpipe.quantizers.moments import draw_rows
from vqpipe.runtime.distributed import all_reduce_sum, broadcast_module, gather, world_size


class SoftCodeParams(QuantizerParams):
    """The params of every quantizer with a softmax over all codes."""

    dim: int = Field(ge=1)
    """Dimension of the z that the quantizer receives, and of its codes."""
    num_codes: int = Field(ge=2)
    """K, the number of codes."""


class EntropyParams(QuantizerParams):
    """The entropy penalty of MAGVIT-v2: a sure choice for each latent, even use over all of them."""

    entropy_weight: float = Field(ge=0)
    """Weight of the penalty: 0.1 for `lfq` and 0.05 for `ibq` are common. 0 leaves it out."""
    sample_weight: float = Field(ge=0)
    """Inside the penalty, weight of the mean entropy of each latent's distribution over codes."""
    batch_weight: float = Field(ge=0)
    """Inside the penalty, weight of the entropy of the batch's mean distribution, which is to be large."""
    inverse_temperature: float = Field(gt=0)
    """1 / temperature of those distributions; common: 100."""


class ConstantSchedule(Params):
    """One value throughout."""

    kind: Literal["constant"]
    value: float = Field(gt=0)


class CosineSchedule(Params):
    """From start to end along half a cosine (DALL-E, VQGAN's Gumbel configs)."""

    kind: Literal["cosine"]
    start: float = Field(gt=0)
    end: float = Field(gt=0)
    until: float | None = Field(default=None, gt=0, le=1)
    """Share of the training after which `end` is reached and kept; None: at the end of the training."""


class ExponentialSchedule(Params):
    """From start to end by the same factor at every step (Gumbel-softmax, SQ-VAE)."""

    kind: Literal["exponential"]
    start: float = Field(gt=0)
    end: float = Field(gt=0)
    until: float | None = Field(default=None, gt=0, le=1)
    """Share of the training after which `end` is reached and kept; None: at the end of the training."""


ScheduleParams = Annotated[
    ConstantSchedule | CosineSchedule | ExponentialSchedule, Field(discriminator="kind")
]


def value_at(schedule: ScheduleParams, progress: float) -> float:
    """The schedule's value at a part of the training; `progress` outside [0, 1] counts as its nearer end."""
    if isinstance(schedule, ConstantSchedule):
        return schedule.value
    part = min(max(progress / (schedule.until or 1.0), 0.0), 1.0)
    if isinstance(schedule, CosineSchedule):
        return schedule.end + (schedule.start - schedule.end) * (1 + math.cos(math.pi * part)) / 2
    return math.exp((1 - part) * math.log(schedule.start) + part * math.log(schedule.end))


def rise(warmup: float | None, progress: float) -> float:
    """From 0 to 1 along half a cosine over the first `warmup` of the training; always 1 where it is None."""
    if warmup is None:
        return 1.0
    return (1 - math.cos(math.pi * min(max(progress / warmup, 0.0), 1.0))) / 2


@dataclass(frozen=True)
class Assigned:
    """A method's result for rows; the loss and its terms as in `Quantized`."""

    z_q: Float[Tensor, "n d"]
    indices: Int64[Tensor, " n"]
    loss: Float[Tensor, ""]
    terms: dict[str, Tensor]


class SoftCodeQuantizer(Quantizer):
    """One group; the codes are a parameter of shape (K, d).

    Always in float32, also under autocast. Nothing is shared between ranks except where a method says so.

    Args:
        config: dim and num_codes; the codes start standard normal.
        data_init: set the codes from the first training batch (`initialise`).
    """

    own_gradient = True
    initialised: Tensor

    def __init__(self, config: SoftCodeParams, data_init: bool = False) -> None:
        super().__init__()
        self.dim = config.dim
        self.num_codes = (config.num_codes,)
        self.data_init = data_init
        self.register_buffer("initialised", torch.tensor(not data_init))
        self.codes = nn.Parameter(torch.randn(config.num_codes, config.dim))

    @abstractmethod
    def assign(self, rows: Float[Tensor, "n d"], progress: float) -> Assigned:
        """Quantise rows, float32; in training or in eval, as the module's mode says."""

    @abstractmethod
    def scores(self, rows: Float[Tensor, "r d"]) -> Float[Tensor, "r K"]:
        """Of each code for each row; in eval the code of the largest score is taken."""

    def search(self, rows: Float[Tensor, "n d"]) -> Int64[Tensor, " n"]:
        """The code of each row in eval: here the one with the largest score."""
        parts = in_row_tiles(lambda part: (self.scores(part).argmax(-1),), rows, self.num_codes[0])
        return torch.cat([index for (index,) in parts])

    @torch.no_grad()
    def initialise(self, z: Float[Tensor, "b d h w"]) -> None:
        """See `Quantizer.initialise`; with several ranks the batch is that of all of them, and rank 0's result is
        given to all."""
        if not self.data_init or not self.waits_for_data():
            return
        self.set_from_data(rows_of(gather(z.detach().float())))
        broadcast_module(self)
        self._started.set(self.initialised, True)

    def set_from_data(self, rows: Float[Tensor, "n d"]) -> None:
        """Codes are latents of the first batch, drawn at random."""
        self.codes.copy_(draw_rows(rows, self.num_codes[0]))

    def forward(self, z: Float[Tensor, "b d h w"], progress: float = 1.0) -> Quantized:
        """See `Quantizer.forward`."""
        check_latent(z, self.dim, not self.training)
        if self.training:
            self.initialise(z)
        with torch.autocast(z.device.type, enabled=False):
            done = self.assign(rows_of(z.float()), progress)
        indices = done.indices.view(z.shape[0], 1, *z.shape[2:])
        return Quantized(latent_of(done.z_q, z), indices, done.loss, done.terms, (self.codes,))

    @torch.no_grad()
    def indices(self, z: Float[Tensor, "b d h w"]) -> Int64[Tensor, "b 1 h w"]:
        """See `Quantizer.indices`."""
        check_latent(z, self.dim, True)
        with torch.autocast(z.device.type, enabled=False):
            found = self.search(rows_of(z.float()))
        return found.view(z.shape[0], 1, *z.shape[2:])

    def decode(self, indices: Int[Tensor, "b 1 h w"]) -> Float[Tensor, "b d h w"]:
        """See `Quantizer.decode`."""
        check_indices(indices, self.num_codes)
        return F.embedding(indices[:, 0].long(), self.codes).permute(0, 3, 1, 2)

    @torch.no_grad()
    def codebooks(self) -> list[Codebook]:
        """See `Quantizer.codebooks`."""
        return [Codebook("code", self.codes.detach().clone())]


Step = Callable[[Tensor], tuple[Tensor, ...]]
"""Rows (r, d) to tensors: those per row first in their shape, or sums over the rows."""


TILE = {"cpu": 1 << 22}
"""Values that each intermediate of a step has at once, by device: 16 MB on a CPU."""
OTHER_TILE = 1 << 26
"""The same on any other device: 256 MB."""


def in_row_tiles(step: Step, rows: Float[Tensor, "n d"], width: int) -> list[tuple[Tensor, ...]]:
    """The step's outputs on consecutive parts of the rows; one part where all fit, and under `torch.export`.

    Args:
        step: must depend on its rows, on captured tensors and on torch's global generators alone.
        rows: to share out.
        width: values that the step makes per row: K.
    """
    limit = TILE.get(rows.device.type, OTHER_TILE)
    if torch.compiler.is_exporting() or len(rows) * width <= limit:
        return [step(rows)]
    parts = torch.split(rows, max(1, limit // width))
    if not torch.is_grad_enabled():
        return [step(part) for part in parts]
    return [checkpoint(step, part, use_reentrant=False) for part in parts]


def gumbel_noise(like: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Standard Gumbel noise, -log(-log u), from torch's global generator of the tensor's device.

    Source: Jang et al., arXiv 1611.01144, section 2; -log u is drawn as an exponential variable.
    """
    return -torch.empty_like(like).exponential_().clamp_min(torch.finfo(like.dtype).tiny).log()


def hard_mixture(
    weights: Float[Tensor, "n K"], indices: Int64[Tensor, " n"], codes: Float[Tensor, "K d"]
) -> Float[Tensor, "n d"]:
    """`codes[indices]`, exactly, with the gradient of (onehot + weights - sg(weights)) @ codes.

    That is: to the weights that of the mixture, to the codes that of the chosen ones. The usual sum is off by a
    rounding, so that decoded indices would differ from `z_q`; here the added part is exactly zero.
    """
    chosen = F.embedding(indices, codes)
    if not weights.requires_grad:
        return chosen
    return chosen + (weights - weights.detach()) @ codes.detach()


def entropy(probabilities: Float[Tensor, "*b K"]) -> Float[Tensor, "*b"]:
    """-sum_k p_k log p_k in nats, where 0 log 0 is 0 and has a finite gradient."""
    tiny = torch.finfo(probabilities.dtype).tiny
    return -(probabilities * probabilities.clamp_min(tiny).log()).sum(-1)


def mean_over_ranks(mean: Float[Tensor, "*s"], training: bool) -> Float[Tensor, "*s"]:
    """The mean over all ranks' values, with the gradient of the identity to this rank's.

    A loss f of this mean then has on every rank the value of one process that sees all rows, and after the
    usual averaging of the ranks' gradients its gradient too: rank r of R has f'(mean) dm_r, and their mean is
    f'(mean) d(sum_r m_r / R). Ranks must have equally many rows. In eval, where ranks may see unequal numbers of
    batches, and without ranks, the value is returned unchanged.
    """
    if not training or world_size() == 1:
        return mean
    return straight_through(mean, all_reduce_sum(mean.detach().clone()) / world_size())
