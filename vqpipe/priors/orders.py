"""Which positions a masked prior draws at which step, and with how much randomness.

At every step all masked positions are predicted and some of them are drawn: those with the highest confidence (MaskGIT,
Chang et al., 2022, section 3.2), or the next ones of a Halton sequence, which are far from each other (Besnier et al.,
2025, arXiv 2503.17076, section 4). Every image counts its own unknown positions, so a smaller hole never takes more
steps, and what is drawn for an image does not depend on the others.

Letters: b images, n positions in raster order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal, Self

import torch
from jaxtyping import Bool, Float, Float64, Int64
from pydantic import Field, model_validator
from torch import Tensor

from vqpipe.priors.sampling import COLDEST, TokenSampling

Schedule = Literal["cosine", "arccos", "linear", "square", "root"]


class ParallelSampling(TokenSampling):
    """How tokens are drawn in parallel. `temperature` is that of the first step.

    r is the share of an image's steps that are done: after the step, unless `counts` is `ends`.
    """

    steps: Annotated[int, Field(ge=1)]
    """Network evaluations of an image, without guidance; fewer where fewer positions are unknown."""
    order: Literal["confidence", "halton"]
    """Positions of the highest score plus noise first, or those of a Halton sequence."""
    schedule: Schedule
    """The share of positions that are masked, as a function of r."""
    noise: Annotated[float, Field(ge=0)] = 0.0
    """Scale of the Gumbel noise on the scores of order `confidence`, and of the temperature of `draws: annealed`; it
    falls linearly, by 1 - r."""
    batch: Annotated[int, Field(ge=1)] | None = None
    """Images drawn at once, or null for all; each image's random numbers do not depend on it."""
    counts: Literal["ceil", "floor", "ends"] = "ceil"
    """How many positions stay masked: the share of them rounded up (MaskGIT's paper, Halton-MaskGIT) or down
    (1d-tokenizer). `ends` rounds up, with r from 0 at the first step to 1 at the last (Halton-MaskGIT's sampler by
    confidence)."""
    score: Literal["log_probability", "logit"] = "log_probability"
    """What the confidence in a drawn code is, before top-k and top-p: MaskGIT's, or 1d-tokenizer's."""
    draws: Literal["full", "annealed"] = "full"
    """Codes are drawn at the step's temperature, or, as in 1d-tokenizer, at that times `noise` (1 - r): the last step
    takes the likeliest codes."""
    temperature_last: Annotated[float, Field(ge=COLDEST)] | None = None
    """The temperature of the last step, or null for `temperature`. In between its inverse follows
    `temperature_power`."""
    temperature_power: Annotated[float, Field(ge=0.05)] = 1.0
    """p: the inverse temperature to the power 1 / p changes linearly from the first step to the last. Of a smaller p
    that number could be infinite."""
    num_warm: Annotated[int, Field(ge=0)] = 0
    """First steps at twice their temperature (Halton-MaskGIT)."""
    guidance_ramp: Literal["constant", "linear", "power_cosine"] = "constant"
    """The scale of a step is 1 + f (guidance - 1), where q is the share of steps done before it and f is 1, q, or
    (1 - cos(pi q^3)) / 2 (RAR, Yu et al., 2024)."""

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        if self.draws == "annealed" and self.noise == 0:
            raise ValueError(
                "draws: annealed has the temperature noise (1 - r), and noise is 0: all images would be one"
            )
        if self.order == "halton" and self.score == "logit":
            raise ValueError("score: logit is of order: confidence; a Halton order has no scores")
        if self.order == "halton" and self.draws == "full" and self.noise != 0:
            raise ValueError(
                "noise is of order: confidence and of draws: annealed; with a Halton order it must be 0"
            )
        if self.temperature_last is None and self.temperature_power != 1:
            raise ValueError("temperature_power needs temperature_last")
        if self.guidance == 1 and self.guidance_ramp != "constant":
            raise ValueError("guidance_ramp needs guidance other than 1")
        return self


def masked_share(schedule: Schedule, progress: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """The share of positions that are masked when `progress`, in [0, 1], is done: from 1 down to 0.

    MaskGIT, section 3.3 and figure 8: cos(pi r / 2), arccos(r) / (pi / 2), 1 - r, 1 - r^2, 1 - sqrt(r).
    """
    match schedule:
        case "cosine":
            return torch.cos(progress * (math.pi / 2))
        case "arccos":
            return torch.arccos(progress) / (math.pi / 2)
        case "linear":
            return 1 - progress
        case "square":
            return 1 - progress.square()
        case "root":
            return 1 - progress.sqrt()


def num_masked(schedule: Schedule, progress: Float[Tensor, "*b"], count: int) -> Int64[Tensor, "*b"]:
    """Of `count` positions, those that training masks: the share rounded up, at least one."""
    return (masked_share(schedule, progress) * count).ceil().long().clamp(1, count)


@dataclass(frozen=True)
class Step:
    """What a step of each image does; tensors on the CPU."""

    drawn: Int64[Tensor, " b"]
    """Positions drawn when it is done, of those that were unknown."""
    guidance: Float64[Tensor, " b"]
    temperature: Float64[Tensor, " b"]
    """Divides the logits."""
    draw: Float64[Tensor, " b"]
    """Divides them once more where codes are drawn, not where they are scored."""
    noise: Float64[Tensor, " b"]
    """Scale of the Gumbel noise on the scores."""


def step_of(
    at: int, unknown: Int64[Tensor, " b"], drawn: Int64[Tensor, " b"], sampling: ParallelSampling
) -> Step:
    """Step `at`, from 0, of images with so many unknown positions, of which `drawn` are drawn already.

    An image takes as many steps as it has unknown positions, and `sampling.steps` at most. Each of them draws at least
    one position and leaves at least one for each later step; the last one draws the rest.
    """
    steps = unknown.clamp(1, sampling.steps)
    spread = (at / (steps - 1).clamp_min(1).double()).clamp_max(1)
    if sampling.counts == "ends":
        before = after = torch.where(steps == 1, 1.0, spread)
    else:
        before, after = (((at + more) / steps.double()).clamp_max(1) for more in (0, 1))
    share = masked_share(sampling.schedule, after.float())  # the references round float32 numbers
    if sampling.counts == "floor":
        total = unknown - (unknown * share).floor().long()
    else:
        total = (unknown * (1 - share)).floor().long()
    later = (steps - 1 - at).clamp_min(0)
    total = torch.where(later > 0, total.maximum(drawn + 1).minimum(unknown - later), unknown)

    first, last = (
        t ** (-1 / sampling.temperature_power)
        for t in (sampling.temperature, sampling.temperature_last or sampling.temperature)
    )
    temperature = (first + (last - first) * spread) ** -sampling.temperature_power
    ramp = {"constant": torch.ones_like(before), "linear": before}.get(
        sampling.guidance_ramp, (1 - torch.cos(math.pi * before**3)) / 2
    )
    noise = sampling.noise * (1 - after)
    return Step(
        total,
        1 + (sampling.guidance - 1) * ramp,
        temperature * 2 if at < sampling.num_warm else temperature,
        noise if sampling.draws == "annealed" else torch.ones_like(noise),
        noise,
    )


def choose(
    scores: Float[Tensor, "b n"], masked: Bool[Tensor, "b n"], count: Int64[Tensor, " b"]
) -> Bool[Tensor, "b n"]:
    """The `count` masked positions of each image with the highest scores; the first ones among equals."""
    order = scores.masked_fill(~masked, -torch.inf).argsort(dim=1, descending=True, stable=True)
    chosen: Tensor = (order.argsort(dim=1) < count.to(scores.device)[:, None]) & masked
    return chosen


def confidence(
    logits: Float[Tensor, "m k"], codes: Int64[Tensor, " m"], score: Literal["log_probability", "logit"]
) -> Float[Tensor, " m"]:
    """The score of drawn codes: their logit, or the natural logarithm of their probability."""
    own = logits.gather(1, codes[:, None])[:, 0]
    return own - logits.logsumexp(dim=1) if score == "log_probability" else own


def gumbel(uniform: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Standard Gumbel noise from uniform numbers, -log(-log u), with both logarithms' arguments at least 1e-20."""
    return -(-uniform.clamp_min(1e-20).log()).clamp_min(1e-20).log()


@lru_cache
def halton_order(grid: tuple[int, int]) -> tuple[int, ...]:
    """The positions of a grid, in raster order, as a Halton sequence first hits them.

    Point i = 1, 2, 3, ... has the row floor(rows * v) with v the base-2 radical inverse of i, and the column
    accordingly in base 3 (Besnier et al., 2025, section 4.2), in integers. Their grids are square.
    """
    rows, columns = grid
    found: dict[int, None] = {}
    point = 0
    while len(found) < rows * columns:
        point += 1
        found.setdefault(_scaled_inverse(point, 2, rows) * columns + _scaled_inverse(point, 3, columns))
    return tuple(found)


def _scaled_inverse(index: int, base: int, side: int) -> int:
    """floor(side * v), v the radical inverse: the digits of `index` mirrored at the point."""
    mirrored, whole = 0, 1
    while index:
        index, digit = divmod(index, base)
        mirrored, whole = mirrored * base + digit, whole * base
    return side * mirrored // whole
