"""Stochastic quantisation whose noise anneals itself: its variance is learned.

Paper: SQ-VAE, arXiv 2205.07547, sections 3 and 4 (Gaussian SQ-VAE).

A latent z is a code plus Gaussian noise of variance s^2, so the code is distributed as

    p(k | z) = softmax_k(-|z - e_k|^2 / (2 s^2))

In training z_q is a Gumbel-softmax sample of it, a mixture of codes at temperature t; in eval the nearest code,
which is its mode. The two latent terms of the evidence bound, in nats per position:

    regularisation = |z - z_q|^2 / (2 s^2)                  (the log-determinants cancel)
    entropy        = -sum_k p(k | z) log p(k | z)
    loss           = weight * (regularisation - entropy), means over positions

Variance: log s^2 is one scalar parameter (the paper's type I); `position` adds exp of a 1x1 convolution of z (type
III, where the paper takes a further output of the encoder), at most exp(40). s^2 is at least 1e-10.

Left out: the decoder's term (D/2) log of the squared error belongs to the reconstruction loss, and `weight` is
the balance that it would find; the noise that the paper adds to z before it quantises (as its public code, z
enters as it is); variances per dimension, with which the nearest code would not be the mode; vMF SQ-VAE.
Nothing is shared between ranks: every term is a mean over positions.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from vqpipe.codebooks.search import nearest
from vqpipe.quantizers.contract import About
from vqpipe.quantizers.soft import (
    Assigned,
    ScheduleParams,
    SoftCodeParams,
    SoftCodeQuantizer,
    gumbel_noise,
    hard_mixture,
    in_row_tiles,
    value_at,
)

LEAST_VARIANCE = 1e-10
LARGEST_LOG_VARIANCE = 40.0
"""Of a position. There the code is already as good as uniform, and gradients are of the order of exp(-40); exp(89) is
infinite in float32, and its gradient not a number."""


class SqVaeParams(SoftCodeParams):
    """Stochastic quantisation with a learned variance (Gaussian SQ-VAE)."""

    kind: Literal["sq_vae"]
    temperature: ScheduleParams
    """Of the Gumbel-softmax sample. The paper: exponential, from 1."""
    weight: float = Field(ge=0)
    """Weight of the two latent terms, in nats per position. With a reconstruction loss that is a mean over n
    values per position, the evidence bound at decoder variance v has weight 2 v / n next to a squared
    error."""
    variance: Literal["global", "position"]
    """`global`: one learned variance (the paper's type I). `position`: that plus one of each position, by a
    1x1 convolution of z (its type III; there the encoder has an output for it)."""
    start_variance: float = Field(gt=0)
    """The global variance at the start; with `init: data`, in units of the first batch's variance."""
    init: Literal["normal", "data"]
    """Codes at the start: `normal` with variance 1, or `data`: latents of the first batch drawn at random."""


class SqVaeQuantizer(SoftCodeQuantizer):
    """One group; codes and variance are trained, by the loss and through z_q alike.

    Training passes compute n x K probabilities (`vqpipe.quantizers.soft`); the search in eval does not.
    """

    kind = "sq_vae"
    Params = SqVaeParams
    about = About(
        title="SQ-VAE",
        codes="a parameter, with a learned noise variance",
        moved_by="the evidence bound",
        papers="SQ-VAE 2205.07547",
        example={
            "kind": "sq_vae", "dim": 8, "num_codes": 16,
            "temperature": {"kind": "exponential", "start": 1.0, "end": 0.05}, "weight": 0.1, "variance": "global",
            "start_variance": 0.5, "init": "normal",
        },
    )  # fmt: skip

    def __init__(self, config: SqVaeParams) -> None:
        super().__init__(config, data_init=config.init == "data")
        self.config = config
        self.log_variance = nn.Parameter(torch.tensor(math.log(config.start_variance)))
        self.log_variance_of = nn.Conv2d(config.dim, 1, 1) if config.variance == "position" else None

    def set_from_data(self, rows: Float[Tensor, "n d"]) -> None:
        """Codes are latents drawn at random; the variance is `start_variance` times that of the latents."""
        super().set_from_data(rows)
        variance = rows.var(0, correction=0).mean().clamp_min(LEAST_VARIANCE)
        self.log_variance.copy_(math.log(self.config.start_variance) + variance.log())

    def variance(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "#n 1"]:
        """s^2 of each row, or one for all."""
        total = self.log_variance.exp().view(1, 1)
        if self.log_variance_of is not None:
            weight, bias = self.log_variance_of.weight.flatten(1), self.log_variance_of.bias
            logs = nn.functional.linear(rows, weight, bias).clamp_max(LARGEST_LOG_VARIANCE)
            total = total + logs.exp()
        return total.clamp_min(LEAST_VARIANCE)

    def _logits(self, rows: Tensor, variance: Tensor) -> Tensor:
        # |z|^2 is the same for all codes, and drops out of the softmax.
        return (rows @ self.codes.T - self.codes.square().sum(1) / 2) / variance

    def scores(self, rows: Float[Tensor, "r d"]) -> Float[Tensor, "r K"]:
        """See `SoftCodeQuantizer.scores`: log p(k | z), up to a constant of each row."""
        return self._logits(rows, self.variance(rows))

    def search(self, rows: Float[Tensor, "n d"]) -> Int64[Tensor, " n"]:
        """See `SoftCodeQuantizer.search`: the nearest code, the mode for any variance."""
        return nearest(rows, self.codes)

    def assign(self, rows: Float[Tensor, "n d"], progress: float) -> Assigned:
        """See `SoftCodeQuantizer.assign`."""
        temperature = value_at(self.config.temperature, progress)

        def step(part: Tensor) -> tuple[Tensor, ...]:
            variance = self.variance(part)
            logits = self._logits(part, variance)
            logs = logits.log_softmax(-1)
            entropy = -(logs.exp() * logs).sum(-1)
            if self.training:
                scores = logits + gumbel_noise(logits)
                index = scores.argmax(-1)
                z_q = (scores / temperature).softmax(-1) @ self.codes
            else:
                index = nearest(part, self.codes)
                z_q = hard_mixture((logits / temperature).softmax(-1), index, self.codes)
            regularisation = (part - z_q).square().sum(-1) / (2 * variance.squeeze(1))
            return z_q, index, regularisation, entropy

        parts = in_row_tiles(step, rows, self.num_codes[0])
        z_q, index, *terms = (torch.cat(values) for values in zip(*parts, strict=True))
        regularisation, entropy = (values.mean() for values in terms)
        return Assigned(
            z_q,
            index,
            self.config.weight * (regularisation - entropy),
            {
                "regularisation": regularisation.detach(),
                "entropy": entropy.detach(),
                "variance": self.variance(rows).mean().detach(),
            },
        )
