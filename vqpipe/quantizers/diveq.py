"""Quantisation as an added error of the right length, so that codes learn from the reconstruction alone.

Paper: DiVeQ, Differentiable Vector Quantization Using the Reparameterization Trick, arXiv 2509.26469, and its public
code.

With e the code nearest to z and v a normal vector of mean e - z and variance `noise_variance` in each dimension,

    z_q = z + |e - z| sg(v / |v|)

has the place of e up to the noise, and a gradient through the length to z and to e. There is no other loss. With u the
direction and no noise, of a gradient g of z_q the code gets the part along the error, u <u, g>, and z the rest.

The space-filling form (`space_filling`, SF-DiVeQ) quantises to the curve of the segments between successive points
p_0 .. p_K, so that all points are drawn to where latents are. A training pass draws one place t in [0, 1] per segment,
a latent takes the segment whose drawn place is nearest, and

    z_q = z + (1 - t) |p_k - z| sg(u_k) + t |p_(k+1) - z| sg(u_(k+1))

with a noisy direction to each end.

In eval there is no noise, and z_q is the code. The public code's space-filling form then takes the nearest place on the
two segments that meet in the point nearest to z, a place that no index of finitely many names: its reconstructions
spend more than log2 K bits. Only to train and sample a prior it keeps the segment's index alone, and decodes a place
drawn at random on it. Here the code of a segment is its middle, the mean of the drawn places, so that indices alone
give z_q. K segments need K + 1 points; the public code has K points and K - 1 segments.

Three more departures. The public code passes its 0.001 as a standard deviation, under the name of a variance; ours is
the variance, as in the paper's formula, and the noise then 32 times larger. The public code starts codes uniform in 0
to 1/K. And it starts the space-filling form with 1,000 steps without quantisation and averages the latents of the last
50, in their order, to the first points; here `init: data` does so with the first batch alone.

Codes that no latent takes get no gradient. `replacement` is the public code's remedy for the form without segments:
after every so many passes a code that was used in too small a share of them becomes a used one, drawn by use. Its shift
of 1e-9 is below float32's rounding for codes of size 1, and the copy would never be taken; `spread` sizes the shift.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn

from vqpipe.params.base import Params
from vqpipe.quantizers.contract import About, Quantized, QuantizerParams, latent_of, rows_of
from vqpipe.quantizers.estimators import straight_through
from vqpipe.quantizers.moments import draw_rows
from vqpipe.quantizers.nearest import CommittedParams, NearestCodeQuantizer
from vqpipe.runtime.distributed import all_reduce_sum, broadcast
from vqpipe.runtime.host import HostScalar, send


class ReplacementParams(Params):
    """Codes that are hardly used become copies of used ones, moved a little."""

    every: int = Field(ge=1)
    """Training passes from one look to the next, which waits for the device once; 100 in the public code. An earlier
    version of it looks every 500 after the first 2,000, and no more in the last 1,000."""
    threshold: float = Field(gt=0, le=1)
    """Share of these passes in which a code must have been used at least once; 0.01 in the public code."""
    spread: float = Field(gt=0)
    """Size of the move, in standard deviations of the codes in each dimension."""


class DiveqParams(QuantizerParams):
    """Quantisation as an added error of the right length (DiVeQ), or to segments between codes (SF-DiVeQ)."""

    kind: Literal["diveq"]
    dim: int = Field(ge=1)
    """Dimension of the z that the quantizer receives, and of its codes."""
    num_codes: int = Field(ge=1)
    """K, the number of codes; with `space_filling` that of the segments."""
    space_filling: bool
    """Quantise to segments between successive points (SF-DiVeQ)."""
    noise_variance: float = Field(ge=0)
    """Of the direction in each dimension, in the latents' unit squared; 0.001 is the public code's default, which warns
    of more than 0.01. 0: no noise (its detached form)."""
    init: Literal["uniform", "data"]
    """At the start: `uniform` in +-1/K, or `data`: codes are latents of the first batch drawn at random, and points are
    the means of equal parts of that batch, in its order (single latents drawn at random, where it has too few)."""
    replacement: ReplacementParams | None
    """What becomes of codes that are hardly used; None: nothing, as in the space-filling form always."""

    @model_validator(mode="after")
    def _segments_need_no_replacement(self) -> DiveqParams:
        if self.space_filling and self.replacement is not None:
            raise ValueError(
                "replacement is for codes, and space_filling has segments; set replacement: null"
            )
        return self


class DiveqQuantizer(NearestCodeQuantizer):
    """One group; `points` is trained: the K codes (K, d), or the ends of the segments (K + 1, d).

    With `replacement` the passes in which each code was used (K,) and their number are buffers.
    """

    kind = "diveq"
    Params = DiveqParams
    about = About(
        title="DiVeQ",
        codes="a parameter, or the middles of segments between points",
        moved_by="the reconstruction, through the length of the error",
        papers="DiVeQ, SF-DiVeQ 2509.26469",
        example={
            "kind": "diveq", "dim": 8, "num_codes": 16, "space_filling": False, "noise_variance": 0.001,
            "init": "uniform", "replacement": None,
        },
    )  # fmt: skip
    own_gradient = True
    uses: Tensor
    passes: Tensor

    def __init__(self, config: DiveqParams) -> None:
        committed = CommittedParams(dim=config.dim, beta=0.0)  # no loss of its own
        super().__init__(committed, ["code"], [config.num_codes], data_init=config.init == "data")
        self.config = config
        points = torch.empty(config.num_codes + config.space_filling, config.dim)
        self.points = nn.Parameter(points.uniform_(-1 / config.num_codes, 1 / config.num_codes))
        if config.replacement is not None:
            self.register_buffer("uses", torch.zeros(config.num_codes))
            self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
            self._passes = HostScalar()

    def live_codes(self) -> tuple[Float[Tensor, "K d"]]:
        """The points, or the middles of their segments; a copy where replacement moves them before the pass ends."""
        if self.config.space_filling:
            return ((self.points[:-1] + self.points[1:]) / 2,)
        return (self.points.clone() if self.training and self.config.replacement else self.points,)

    def set_from_data(self, rows: Float[Tensor, "1 n d"]) -> None:
        """See `DiveqParams.init`."""
        latents, count = rows[0], len(self.points)
        part = len(latents) // count
        if self.config.space_filling and part:
            self.points.copy_(latents[: part * count].view(count, part, -1).mean(1))
        else:
            self.points.copy_(draw_rows(latents, count))

    def _quantise(self, z: Tensor, progress: float) -> Quantized:
        codes = self._codes()
        rows = rows_of(z)
        if self.config.space_filling:
            z_q, index = self._to_segments(rows, codes[0])
        else:
            with torch.no_grad():
                index = self.search(rows, codes[0])
            chosen = F.embedding(index, codes[0])
            z_q = rows + self._error(rows, chosen)
            if not self.training:
                z_q = straight_through(z_q, chosen)
        distance = F.mse_loss(z_q.detach(), rows.detach())
        if self.training and self.config.replacement is not None:
            with torch.no_grad():
                self._replace(index, self.config.replacement)
        indices = index.view(z.shape[0], 1, *z.shape[2:])
        return Quantized(latent_of(z_q, z), indices, z.new_zeros(()), {"distance": distance}, codes)

    def _to_segments(self, rows: Tensor, middles: Tensor) -> tuple[Tensor, Tensor]:
        """z_q and the segment of each row."""
        place = rows.new_full((len(middles), 1), 0.5)
        with torch.no_grad():
            places = middles
            if self.training:
                place.uniform_()
                places = torch.lerp(self.points[:-1], self.points[1:], place)
            index = self.search(rows, places)
        first, second = F.embedding(index, self.points), F.embedding(index + 1, self.points)
        t = F.embedding(index, place)
        z_q = rows + (1 - t) * self._error(rows, first) + t * self._error(rows, second)
        return (z_q if self.training else straight_through(z_q, F.embedding(index, middles))), index

    def _error(self, rows: Float[Tensor, "n d"], aims: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """From rows towards their aims, with a noisy direction in training; the gradient is that of the length."""
        error = aims - rows
        direction = error.detach()
        if self.training and self.config.noise_variance > 0:
            direction = direction + self.config.noise_variance**0.5 * torch.randn_like(direction)
        length = torch.linalg.vector_norm(error, dim=1, keepdim=True)
        return length * F.normalize(direction, dim=1)

    def _replace(self, index: Int64[Tensor, " n"], how: ReplacementParams) -> None:
        used = torch.zeros_like(self.uses)
        used[index] = 1
        self.uses.add_(all_reduce_sum(used).clamp_max(1))
        passes = self._passes.get(self.passes) + 1
        self._passes.set(self.passes, passes)
        if passes % how.every:
            return
        uses = self.uses.cpu()  # the one wait: the draws are by use, from the CPU's generator
        kept = uses >= how.threshold * how.every
        rare = (~kept).nonzero()[:, 0]  # the same on all ranks, as the uses are
        if 0 < len(rare) < len(kept):
            drawn = (uses * kept).multinomial(len(rare), replacement=True)
            noise = torch.randn(len(rare), self.dim)
            rare, drawn, noise = (send(part, index.device) for part in (rare, drawn, noise))
            move = noise * self.points.std(0, correction=0) * how.spread
            self.points[rare] = broadcast(self.points[drawn] + move)
        self.uses.zero_()
