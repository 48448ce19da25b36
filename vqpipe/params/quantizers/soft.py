"""Params of the quantizers whose gradient runs through a softmax over all codes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vqpipe.params.base import Params


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


class SoftCodeParams(Params):
    """What every quantizer with a softmax over all codes states."""

    dim: int = Field(ge=1)
    """Dimension of the z that the quantizer receives, and of its codes."""
    num_codes: int = Field(ge=2)
    """K, the number of codes."""


class GumbelParams(SoftCodeParams):
    """Logits of a 1x1 convolution, sampled by Gumbel-softmax (Gumbel-VQ)."""

    kind: Literal["gumbel"]
    temperature: ScheduleParams
    """Of the Gumbel-softmax. VQGAN's f8-8192 config: cosine from 0.9 to 1e-6; DALL-E: cosine from 1 to
    1/16."""
    kl_weight: float = Field(ge=0)
    """Weight of the divergence to uniform, in nats per position. VQGAN's f8-8192 config: 1e-8; its class
    default: 5e-4."""
    kl_warmup: float | None = Field(default=None, gt=0, le=1)
    """Share of the training over which the weight rises from 0 along half a cosine; None: full from the
    start."""
    hard: bool
    """In training: true gives the sampled code with the soft sample's gradient (straight-through), false the
    mixture of codes. In eval it is always the code of the largest logit."""


class SqVaeParams(SoftCodeParams):
    """Stochastic quantisation with a learned variance (Gaussian SQ-VAE)."""

    kind: Literal["sq_vae"]
    temperature: ScheduleParams
    """Of the Gumbel-softmax sample. The paper: exponential, from 1."""
    weight: float = Field(ge=0)
    """Weight of the two latent terms, in nats per position. With a reconstruction loss that is a mean over n
    values per position, the evidence bound at decoder variance v has weight 2 v / n beside a squared
    error."""
    variance: Literal["global", "position"]
    """`global`: one learned variance (the paper's type I). `position`: that plus one of each position, by a
    1x1 convolution of z (its type III; there the encoder has an output for it)."""
    start_variance: float = Field(gt=0)
    """The global variance at the start; with `init: data`, in units of the first batch's variance."""
    init: Literal["normal", "data"]
    """Codes at the start: `normal` with variance 1, or `data`: latents of the first batch drawn at random."""


class EntropyParams(Params):
    """The entropy penalty of MAGVIT-v2: sure of each latent, even over all of them."""

    entropy_weight: float = Field(ge=0)
    """Weight of the penalty: 0.1 for `lfq` and 0.05 for `ibq` are common. 0 leaves it out."""
    sample_weight: float = Field(ge=0)
    """Inside the penalty, weight of the mean entropy of each latent's distribution over codes."""
    batch_weight: float = Field(ge=0)
    """Inside the penalty, weight of the entropy of the batch's mean distribution, which is to be large."""
    inverse_temperature: float = Field(gt=0)
    """1 / temperature of those distributions; common: 100."""


class IbqParams(SoftCodeParams, EntropyParams):
    """Index backpropagation: every code gets a gradient through the softmax over all of them (IBQ)."""

    kind: Literal["ibq"]
    beta: float = Field(ge=0)
    """Weight of the codebook term |sg(z) - e|^2; common: 0.25."""
    init: Literal["uniform", "data"]
    """Codes at the start: `uniform` in +-1/K, or `data`: latents of the first batch drawn at random."""
