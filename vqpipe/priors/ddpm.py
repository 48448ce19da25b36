"""Diffusion over the pre-quantised latent: DDPM (Ho et al., arXiv 2006.11239), DDIM (Song et al., arXiv 2010.02502),
cosine schedule, learned variance and fewer steps (Nichol & Dhariwal, iDDPM, arXiv 2102.09672), v (Salimans & Ho, arXiv
2202.00512, appendix D).

x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise, where a_t is the product of 1 - beta up to t; t = 0 has the least noise.

VQGAN-LC's rows (Tables 4 and 5, appendix A). DiT: `dit` XL/2, linear betas 1e-4 to 0.02, epsilon, learned variance,
label drop 0.1, AdamW 1e-4 and no decay in DiT's paper (4.5e-4 in VQGAN-LC's), batch 256, 400,000 steps, averaging
0.9999; 250 `ddpm` steps of spacing `even`, guidance 8. LDM: `unet`, scaled-linear betas 0.0015 to 0.0195, epsilon,
guidance 1.4, batch 448, 100 epochs, 4.5e-4; DDIM of spacing `offset`.

Letters: b images, c channels, h w the grid, t steps of training, s steps of a sampler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Float64, Int64
from pydantic import Field, model_validator
from torch import Tensor

from vqpipe.params.base import Params
from vqpipe.priors.contract import ImageSpace, PriorParams
from vqpipe.priors.latent import LatentParams, LatentPrior, LatentSampling, Predict

Spacing = Literal["even", "stride", "offset"]
Prediction = Literal["epsilon", "v", "x0"]
Variance = Literal["posterior", "beta", "learned"]


class ScheduleParams(Params):
    """The noise of each step."""

    betas: Literal["linear", "scaled_linear", "cosine"]
    """`linear` from `start` to `end` (DDPM, DiT); `scaled_linear`, whose square roots are linear (latent diffusion);
    `cosine` (iDDPM, equation 17), with neither."""
    num_steps: Annotated[int, Field(ge=2)]
    """Steps of the training, 1,000 in the papers."""
    start: Annotated[float, Field(gt=0, lt=1)] | None
    """The first beta: 1e-4 for DiT, 0.0015 for latent diffusion; null for `cosine`."""
    end: Annotated[float, Field(gt=0, lt=1)] | None
    """The last beta: 0.02 for DiT, 0.0195 for latent diffusion; null for `cosine`."""

    @model_validator(mode="after")
    def _ends_of_lines(self) -> ScheduleParams:
        given = (self.start is not None, self.end is not None)
        if given != ((self.betas != "cosine"),) * 2:
            raise ValueError("linear and scaled_linear betas have start and end, and cosine has neither")
        return self

    def values(self) -> Float64[Tensor, " t"]:
        """The betas."""
        if self.betas == "cosine":
            times = torch.arange(self.num_steps + 1, dtype=torch.float64) / self.num_steps
            kept = torch.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2
            return (1 - kept[1:] / kept[:-1]).clamp_max(0.999)
        assert self.start is not None
        assert self.end is not None
        power = 2 if self.betas == "scaled_linear" else 1
        ends = (self.start ** (1 / power), self.end ** (1 / power))
        return torch.linspace(*ends, self.num_steps, dtype=torch.float64) ** power


def kept_times(num_train: int, count: int, spacing: Spacing) -> list[int]:
    """The training steps that a sampler uses, from the least noise on.

    `even` includes the first and the last, with a stride that need not be whole (iDDPM; DiT's "250"). `stride` starts
    at 0 with a whole stride that gives `count` steps (DiT's "ddim50"). `offset` starts at 1 with the stride
    num_train // count, and may give more than `count` (latent diffusion's uniform steps).

    Raises:
        ValueError: more steps than were trained, or no such steps.
    """
    if not 2 <= count <= num_train:
        raise ValueError(f"num_steps {count} of the sampler is not from 2 to the training's {num_train}")
    if spacing == "even":
        # Added up, not multiplied: a half is rounded as its error falls.
        return [
            round(place)
            for place in accumulate(repeat((num_train - 1) / (count - 1), count - 1), initial=0.0)
        ]
    if spacing == "offset":
        times = list(range(1, num_train + 1, num_train // count))
        if times[-1] == num_train:
            raise ValueError(f"spacing offset with {count} of {num_train} steps ends at step {num_train}")
        return times
    for stride in range(1, num_train):
        if len(range(0, num_train, stride)) == count:
            return list(range(0, num_train, stride))
    raise ValueError(f"no whole stride gives {count} of {num_train} steps; spacing even takes any number")


def _at(values: Float64[Tensor, " s"], like: Tensor) -> Float[Tensor, "b 1 1 1"]:
    """Float64 numbers of each image, at the precision of the states."""
    return values.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class Steps:
    """The steps of a training or of a sampler; its methods take each image's step as its place in these lists."""

    kept: Float64[Tensor, " s"]
    """a, the part of the data's variance that is left at each step."""
    before: Float64[Tensor, " s"]
    """a of the step that each one goes to; 1 where that is the data."""
    times: Int64[Tensor, " s"]
    """What the network is given."""

    @classmethod
    def of(
        cls, betas: Float64[Tensor, " t"], times: Sequence[int] | None = None, clean: bool = True
    ) -> Steps:
        """All steps, or some of them.

        Args:
            times: increasing; None for all.
            clean: whether the last update goes to the data, or to step 0 as in latent diffusion.
        """
        every = (1 - betas).cumprod(0)
        chosen = torch.arange(len(betas)) if times is None else torch.tensor(times)
        kept = every[chosen]
        first = torch.ones(1, dtype=torch.float64) if clean else every[:1]
        return cls(kept, torch.cat([first, kept[:-1]]), chosen)

    def to(self, device: torch.device) -> Steps:
        """The same on a device."""
        return Steps(self.kept.to(device), self.before.to(device), self.times.to(device))

    @property
    def betas(self) -> Float64[Tensor, " s"]:
        """1 - a / a before."""
        return 1 - self.kept / self.before

    @property
    def posterior_variance(self) -> Float64[Tensor, " s"]:
        """Of q(x before | x, x_0) (DDPM, equation 7)."""
        return self.betas * (1 - self.before) / (1 - self.kept)

    @property
    def posterior_log_variance(self) -> Float64[Tensor, " s"]:
        """Its logarithm; the first, of variance 0, is replaced by the second."""
        variance = self.posterior_variance
        return torch.cat([variance[1:2], variance[1:]]).log()

    @property
    def posterior_weights(self) -> tuple[Float64[Tensor, " s"], Float64[Tensor, " s"]]:
        """Of x_0 and of x in the posterior's mean (DDPM, equation 7)."""
        of_data = self.betas * self.before.sqrt() / (1 - self.kept)
        return of_data, (1 - self.before) * (1 - self.betas).sqrt() / (1 - self.kept)

    def noised(self, x0: Tensor, at: Int64[Tensor, " b"], noise: Tensor) -> Tensor:
        """x_t of the data."""
        kept = self.kept[at]
        return _at(kept.sqrt(), x0) * x0 + _at((1 - kept).sqrt(), x0) * noise

    def target(self, x0: Tensor, at: Int64[Tensor, " b"], noise: Tensor, prediction: Prediction) -> Tensor:
        """What the network predicts."""
        if prediction == "v":
            kept = self.kept[at]
            return _at(kept.sqrt(), x0) * noise - _at((1 - kept).sqrt(), x0) * x0
        return noise if prediction == "epsilon" else x0

    def data(self, predicted: Tensor, x: Tensor, at: Int64[Tensor, " b"], prediction: Prediction) -> Tensor:
        """x_0 of a prediction."""
        kept = self.kept[at]
        if prediction == "epsilon":
            return _at((1 / kept).sqrt(), x) * x - _at((1 / kept - 1).sqrt(), x) * predicted
        if prediction == "v":
            return _at(kept.sqrt(), x) * x - _at((1 - kept).sqrt(), x) * predicted
        return predicted

    def noise(self, x0: Tensor, x: Tensor, at: Int64[Tensor, " b"]) -> Tensor:
        """The noise by which x differs from x_0."""
        kept = self.kept[at]
        return (_at((1 / kept).sqrt(), x) * x - x0) / _at((1 / kept - 1).sqrt(), x)

    def posterior_mean(self, x0: Tensor, x: Tensor, at: Int64[Tensor, " b"]) -> Tensor:
        """Of q(x before | x, x_0)."""
        of_data, of_state = self.posterior_weights
        return _at(of_data[at], x) * x0 + _at(of_state[at], x) * x

    def log_variance(self, variance: Variance, at: Int64[Tensor, " b"], raw: Tensor) -> Tensor:
        """Of a step back. `learned`: `raw` from -1 to 1 goes from the posterior's to beta (iDDPM, equation 15)."""
        low, high = (_at(v[at], raw) for v in (self.posterior_log_variance, self.betas.log()))
        if variance == "learned":
            part = (raw + 1) / 2
            return part * high + (1 - part) * low
        if variance == "posterior":
            return low.expand_as(raw)
        first = torch.cat([self.posterior_variance[1:2], self.betas[1:]]).log()
        return _at(first[at], raw).expand_as(raw)

    def ancestral(
        self, x0: Tensor, x: Tensor, at: Int64[Tensor, " b"], log_variance: Tensor, noise: Tensor
    ) -> Tensor:
        """A step back from x (DDPM, algorithm 2); the one from the first step adds no noise."""
        spread = (at > 0).view(-1, *[1] * (x.ndim - 1)) * torch.exp(0.5 * log_variance)
        return self.posterior_mean(x0, x, at) + spread * noise

    def implicit_deviation(self, eta: float) -> Float64[Tensor, " s"]:
        """Of the noise of a DDIM step (DDIM, equation 16): eta 0 is deterministic, 1 as in DDPM."""
        return eta * ((1 - self.before) / (1 - self.kept) * self.betas).sqrt()

    def implicit(self, x0: Tensor, x: Tensor, at: Int64[Tensor, " b"], eta: float, noise: Tensor) -> Tensor:
        """A DDIM step back from x (DDIM, equation 12); the noise of x is derived from x_0."""
        deviation, before = self.implicit_deviation(eta)[at], self.before[at]
        direction = _at((1 - before - deviation**2).sqrt(), x) * self.noise(x0, x, at)
        return _at(before.sqrt(), x) * x0 + direction + _at(deviation, x) * noise

    def variational_bits(
        self, x0: Tensor, x: Tensor, at: Int64[Tensor, " b"], mean: Tensor, log_variance: Tensor
    ) -> Float[Tensor, " b"]:
        """Terms of the variational bound, in bits per number (iDDPM, equations 4 to 7): KL of the posteriors, and at
        the first step the likelihood of x_0 in bins of width 2/255 on [-1, 1]."""
        true = _at(self.posterior_log_variance[at], x)
        off = (self.posterior_mean(x0, x, at) - mean) ** 2 * torch.exp(-log_variance)
        divergence = 0.5 * (-1 + log_variance - true + torch.exp(true - log_variance) + off)
        likelihood = binned_log_likelihood(x0, mean, 0.5 * log_variance)
        nats = torch.where(at == 0, -likelihood.flatten(1).mean(1), divergence.flatten(1).mean(1))
        return nats / math.log(2)


def binned_log_likelihood(x0: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Log-probability of the bin of x_0 under a normal distribution, as in the code of iDDPM: open bins at the ends, a
    tanh approximation of the distribution function, and probabilities of 1e-12 or more."""

    def below(value: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)))

    centred, inverse = x0 - mean, torch.exp(-log_deviation)
    low, high = (below(inverse * (centred + side / 255)) for side in (-1, 1))
    inside = torch.where(x0 > 0.999, 1 - low, high - low)
    return torch.where(x0 < -0.999, high, inside).clamp_min(1e-12).log()


class DdpmSampling(LatentSampling):
    """How latents are drawn."""

    sampler: Literal["ddpm", "ddim"]
    """`ddpm`, ancestral, or `ddim`."""
    num_steps: Annotated[int, Field(ge=2)]
    """s, network evaluations of each image, twice as many with guidance."""
    spacing: Spacing
    """Which steps of the training: `even`, any number of them; `stride` or `offset`, a divisor (see `kept_times`)."""
    eta: Annotated[float, Field(ge=0, le=1)] | None
    """Noise of `ddim`: 0 none, 1 as much as in DDPM; null for `ddpm`."""
    clamp: Annotated[float, Field(gt=0)] | None
    """Largest absolute value of the predicted latent in standard deviations; null for none, as in DiT."""

    @model_validator(mode="after")
    def _eta_of_ddim(self) -> DdpmSampling:
        if (self.sampler == "ddim") != (self.eta is not None):
            raise ValueError("ddim needs eta, and ddpm has none")
        return self


class DdpmParams(LatentParams):
    """Diffusion over the pre-quantised latent."""

    kind: Literal["ddpm"]
    """The kind of prior."""
    schedule: ScheduleParams
    """The noise of each step."""
    prediction: Prediction
    """What the network predicts: the noise, `v` = sqrt(a) noise - sqrt(1 - a) x_0, or the data."""
    variance: Variance
    """Of `ddpm` steps: the posterior's, beta, or `learned` between the two by further channels and a further loss, the
    variational bound in bits, with the weight 1 of DiT. DDIM does not use it."""
    sampling: DdpmSampling
    """How the samples of the metrics and of the grid are drawn."""

    @model_validator(mode="after")
    def _steps_exist(self) -> DdpmParams:
        asked = self.sampling
        found = len(kept_times(self.schedule.num_steps, asked.num_steps, asked.spacing))
        if found != asked.num_steps:
            raise ValueError(f"spacing {asked.spacing} with num_steps {asked.num_steps} takes {found} steps")
        return self


class Ddpm(LatentPrior):
    """The network is given the training's step, 0 to num_steps - 1."""

    kind: ClassVar[str] = "ddpm"
    Params: ClassVar[type[PriorParams]] = DdpmParams
    config: DdpmParams

    @classmethod
    def example(cls) -> dict[str, Any]:
        """A UNet of two levels and ten steps."""
        return {
            "network": {
                "kind": "unet", "channels": 8, "channel_multipliers": [1, 2], "num_blocks": 1,
                "attention_levels": [1], "num_heads": 2, "context_width": 8, "dropout": 0.1,
            },
            "schedule": {"betas": "linear", "num_steps": 10, "start": 1e-3, "end": 0.5},
            "prediction": "epsilon", "variance": "learned",
            "sampling": {
                "guidance": 1.0, "batch": None, "sampler": "ddpm", "num_steps": 5, "spacing": "even",
                "eta": None, "clamp": None,
            },
        }  # fmt: skip

    def __init__(self, config: DdpmParams, space: ImageSpace) -> None:
        super().__init__(config, space, space.latent_channels * (2 if config.variance == "learned" else 1))
        self._steps = Steps.of(config.schedule.values())

    def latent_loss(
        self, batch: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], predict: Predict
    ) -> Float[Tensor, " b"]:
        """Squared error at a uniformly drawn step, and the variational bound of a learned variance."""
        self._steps = steps = self._steps.to(batch.device)
        at = torch.randint(len(steps.times), (len(batch),), device=batch.device)
        x = steps.noised(batch, at, noise)
        return sum(
            self.terms(steps, predict(x, steps.times[at]), batch, x, at, noise).values(), noise.new_zeros(())
        )

    def terms(
        self, steps: Steps, output: Tensor, x0: Tensor, x: Tensor, at: Int64[Tensor, " b"], noise: Tensor
    ) -> dict[str, Float[Tensor, " b"]]:
        """`mse`, and `bits` where the variance is learned; its mean takes no gradient (iDDPM, section 3.1)."""
        channels, prediction = x0.shape[1], self.config.prediction
        own, raw = output[:, :channels], output[:, channels:]
        target = steps.target(x0, at, noise, prediction)
        found = {"mse": (target - own).square().flatten(1).mean(1)}
        if self.config.variance == "learned":
            mean = steps.posterior_mean(steps.data(own.detach(), x, at, prediction), x, at)
            found["bits"] = steps.variational_bits(x0, x, at, mean, steps.log_variance("learned", at, raw))
        return found

    def draw(
        self,
        predict: Predict,
        sampling: DdpmSampling,
        start: Float[Tensor, "b c h w"],
        noise: Callable[[], Tensor],
    ) -> Float[Tensor, "b c h w"]:
        """From the last step kept to the data."""
        schedule = self.config.schedule
        times = kept_times(schedule.num_steps, sampling.num_steps, sampling.spacing)
        steps = Steps.of(schedule.values(), times, sampling.spacing != "offset").to(start.device)
        x = start
        for place in reversed(range(len(times))):
            at = torch.full((len(x),), place, device=x.device)
            x = self.step(steps, predict(x, steps.times[at]), x, at, sampling, noise)
        return x

    def step(
        self,
        steps: Steps,
        output: Tensor,
        x: Tensor,
        at: Int64[Tensor, " b"],
        sampling: DdpmSampling,
        noise: Callable[[], Tensor],
    ) -> Tensor:
        """One step back, from the network's output."""
        channels = x.shape[1]
        x0 = steps.data(output[:, :channels], x, at, self.config.prediction)
        if sampling.clamp is not None:
            x0 = x0.clamp(-sampling.clamp, sampling.clamp)
        if sampling.eta is not None:
            return steps.implicit(x0, x, at, sampling.eta, noise() if sampling.eta else torch.zeros_like(x))
        raw = output[:, channels:] if self.config.variance == "learned" else x
        return steps.ancestral(x0, x, at, steps.log_variance(self.config.variance, at, raw), noise())
