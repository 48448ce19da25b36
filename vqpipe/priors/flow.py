"""Flow matching over the pre-quantised latent as in SiT (Ma et al., arXiv 2401.08740): velocity, ODE and SDE samplers.

x_t = alpha(t) data + sigma(t) noise, from noise at t = 0 to data at t = 1. The network predicts the velocity
alpha' data + sigma' noise (Lipman et al., arXiv 2210.02747; SiT, section 2.1).

VQGAN-LC's SiT rows (Table 4, appendix A): `dit` XL/2, path linear, label drop 0.1, AdamW 1e-4 and no decay in SiT's
paper (4.5e-4 in VQGAN-LC's), batch 256, 400,000 steps, averaging 0.9999, guidance 8; SiT samples with 250 steps of
`heun` or `euler`.

Letters: b images, c channels, h w the grid.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from vqpipe.params.base import Params
from vqpipe.priors.contract import ImageSpace, PriorParams
from vqpipe.priors.latent import LatentParams, LatentPrior, LatentSampling, Predict

PathName = Literal["linear", "gvp"]
Solver = Literal["euler", "heun"]
Diffusion = Literal["constant", "sigma", "linear", "decreasing", "hump"]
LastStep = Literal["mean", "euler", "tweedie"]
VectorField = Callable[[Tensor, Tensor], Tensor]
"""A velocity or a drift: states and a time without dimensions."""


class Coefficients(NamedTuple):
    """A path's numbers at times."""

    alpha: Tensor
    """Of the data."""
    d_alpha: Tensor
    """Its derivative."""
    sigma: Tensor
    """Of the noise."""
    d_sigma: Tensor
    """Its derivative."""


def coefficients(path: PathName, times: Float[Tensor, "..."]) -> Coefficients:
    """`linear`: t and 1 - t. `gvp`: the sine and the cosine of pi t / 2, which keep the variance (SiT, section 2.1)."""
    if path == "linear":
        one = torch.ones_like(times)
        return Coefficients(times, one, 1 - times, -one)
    quarter = math.pi / 2
    sine, cosine = torch.sin(quarter * times), torch.cos(quarter * times)
    return Coefficients(sine, quarter * cosine, cosine, -quarter * sine)


def interpolated(
    path: PathName, data: Tensor, noise: Tensor, times: Float[Tensor, " b"]
) -> tuple[Tensor, Tensor]:
    """x_t and its velocity."""
    alpha, d_alpha, sigma, d_sigma = (
        part.view(-1, *[1] * (data.ndim - 1)) for part in coefficients(path, times)
    )
    return alpha * data + sigma * noise, d_alpha * data + d_sigma * noise


def score(path: PathName, velocity: Tensor, x: Tensor, time: Tensor) -> Tensor:
    """The gradient of the log-density of x_t (SiT, equation 9); infinite at t = 1."""
    alpha, d_alpha, sigma, d_sigma = coefficients(path, time)
    ratio = alpha / d_alpha
    return (ratio * velocity - x) / (sigma**2 - ratio * d_sigma * sigma)


def diffusion(form: Diffusion, norm: float, path: PathName, time: Tensor) -> Tensor:
    """w(t), half the squared size of an SDE's noise; any form keeps the marginals (SiT, section 2.2 and appendix)."""
    match form:
        case "constant":
            return torch.full_like(time, norm)
        case "sigma":
            return norm * coefficients(path, time).sigma
        case "linear":
            return norm * (1 - time)
        case "decreasing":
            return 0.25 * (norm * torch.cos(math.pi * time) + 1) ** 2
    return norm * torch.sin(math.pi * time) ** 2


def _moved(field: VectorField, x: Tensor, now: Tensor, after: Tensor, solver: Solver) -> Tensor:
    """x after a step of Euler, or of Heun: the mean of the slopes at its start and at Euler's end."""
    slope = field(x, now)
    end = x + (after - now) * slope
    return end if solver == "euler" else x + (after - now) * 0.5 * (slope + field(end, after))


def ode_states(
    field: VectorField, start: Tensor, times: Float[Tensor, " n"], solver: Solver
) -> Iterator[Tensor]:
    """The states after the first at each of these times, which may rise or fall."""
    x = start
    for now, after in pairwise(times):
        x = _moved(field, x, now, after, solver)
        yield x


class SdeParams(Params):
    """Noise in the sampler, whose marginals stay those of the ODE (SiT, section 2.2)."""

    diffusion: Diffusion
    """w(t): `constant`, `sigma`, `linear` 1 - t, `decreasing` (cos(pi t) + 1)^2 / 4, `hump` sin^2(pi t)."""
    norm: Annotated[float, Field(gt=0)]
    """Its factor; in `decreasing` that of the cosine. 1 in SiT."""
    last_step: LastStep | None
    """Without noise: `mean` follows the drift, `euler` the velocity, `tweedie` takes the expected data; null: none."""
    last_step_size: Annotated[float, Field(gt=0, lt=1)] | None
    """The time that it takes, 0.04 in SiT; null where there is none."""

    @model_validator(mode="after")
    def _last_step_has_size(self) -> SdeParams:
        if (self.last_step is None) != (self.last_step_size is None):
            raise ValueError("last_step and last_step_size are given together, or both are null")
        return self


def sde_states(
    velocity: VectorField,
    start: Tensor,
    points: int,
    solver: Solver,
    path: PathName,
    sde: SdeParams,
    noise: Callable[[], Tensor],
) -> Iterator[Tensor]:
    """The states after each of points - 1 updates with noise, then after the last step.

    `euler` is Euler-Maruyama; `heun` adds the noise first. Without a last step the updates end at t = 1, where Heun's
    second slope is infinite.

    Args:
        noise: the next standard normal numbers.
    """

    def drift(x: Tensor, time: Tensor) -> Tensor:
        own = velocity(x, time)
        return own + diffusion(sde.diffusion, sde.norm, path, time) * score(path, own, x, time)

    times = torch.linspace(0, 1 - (sde.last_step_size or 0), points, dtype=start.dtype, device=start.device)
    x = start
    for now, after in pairwise(times):
        size = (2 * diffusion(sde.diffusion, sde.norm, path, now) * (after - now)).sqrt() * noise()
        if solver == "euler":
            x = _moved(drift, x, now, after, solver) + size
        else:
            x = _moved(drift, x + size, now, after, solver)
        yield x
    time, one = times[-1], torch.ones_like(times[-1])
    if sde.last_step == "tweedie":
        alpha, _, sigma, _ = coefficients(path, time)
        yield x / alpha + sigma**2 / alpha * score(path, velocity(x, time), x, time)
    elif sde.last_step is not None:
        yield _moved(drift if sde.last_step == "mean" else velocity, x, time, one, "euler")


class FlowSampling(LatentSampling):
    """How latents are drawn."""

    solver: Solver
    """`euler`, one network evaluation a step, or `heun`, two; twice as many with guidance."""
    num_steps: Annotated[int, Field(ge=1)]
    """Steps of equal size from noise to data; with an SDE, those with noise, before its last step."""
    sde: SdeParams | None
    """Null for the ODE."""

    @model_validator(mode="after")
    def _no_slope_at_the_end(self) -> FlowSampling:
        if self.solver == "heun" and self.sde is not None and self.sde.last_step is None:
            raise ValueError("heun with an sde needs a last_step: its second slope is infinite at t = 1")
        return self


class FlowParams(LatentParams):
    """Flow matching over the pre-quantised latent."""

    kind: Literal["flow"]
    """The kind of prior."""
    path: PathName
    """From noise to data: `linear`, as in SiT's main results, or `gvp`, which keeps the variance."""
    times: Literal["uniform", "logit_normal"]
    """Times of the training: `uniform`, as in SiT, or the logistic function of a standard normal number, which are more
    often in the middle (Esser et al., arXiv 2403.03206, section 3.1)."""
    sampling: FlowSampling
    """How the samples of the metrics and of the grid are drawn."""


class Flow(LatentPrior):
    """The network is given the time in [0, 1], as in SiT."""

    kind: ClassVar[str] = "flow"
    Params: ClassVar[type[PriorParams]] = FlowParams
    config: FlowParams

    @classmethod
    def example(cls) -> dict[str, Any]:
        """A transformer of two layers and four steps."""
        return {
            "network": {"kind": "dit", "patch": 1, "width": 16, "num_layers": 2, "num_heads": 2, "mlp_ratio": 2.0},
            "path": "linear",
            "times": "uniform",
            "sampling": {"guidance": 1.0, "batch": None, "solver": "euler", "num_steps": 4, "sde": None},
        }  # fmt: skip

    def __init__(self, config: FlowParams, space: ImageSpace) -> None:
        super().__init__(config, space, space.latent_channels)

    def latent_loss(
        self, batch: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], predict: Predict
    ) -> Float[Tensor, " b"]:
        """Squared error of the velocity at a random time."""
        if self.config.times == "uniform":
            times = torch.rand(len(batch), device=batch.device, dtype=batch.dtype)
        else:
            times = torch.randn(len(batch), device=batch.device, dtype=batch.dtype).sigmoid()
        x, velocity = interpolated(self.config.path, batch, noise, times)
        return velocity_loss(predict(x, times), velocity)

    def draw(
        self,
        predict: Predict,
        sampling: FlowSampling,
        start: Float[Tensor, "b c h w"],
        noise: Callable[[], Tensor],
    ) -> Float[Tensor, "b c h w"]:
        """From t = 0 to t = 1."""

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            return predict(x, time.expand(len(x)))

        x, solver, path = start, sampling.solver, self.config.path
        if sampling.sde is None:
            times = torch.linspace(0, 1, sampling.num_steps + 1, dtype=x.dtype, device=x.device)
            states = ode_states(velocity, x, times, solver)
        else:
            states = sde_states(velocity, x, sampling.num_steps + 1, solver, path, sampling.sde, noise)
        return deque(states, maxlen=1).pop()


def velocity_loss(predicted: Tensor, velocity: Tensor) -> Float[Tensor, " b"]:
    """Mean squared error of each image."""
    return (predicted - velocity).square().flatten(1).mean(1)
