"""Diffusion and flow matching: predictions and samplers with a network that knows the answer, and a learned toy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.latent_priors import BOTH, latent_params, latent_prior
from vqpipe.errors import ParamsError
from vqpipe.params.base import validate
from vqpipe.priors.contract import Condition
from vqpipe.priors.ddpm import Ddpm, DdpmParams, ScheduleParams, Steps, binned_log_likelihood, kept_times
from vqpipe.priors.flow import Flow
from vqpipe.priors.latent import LatentPrior
from vqpipe.runtime.seeds import torch_rng

SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": {"betas": "linear", "num_steps": 40, "start": 0.002, "end": 0.4},
    "scaled_linear": {"betas": "scaled_linear", "num_steps": 40, "start": 0.002, "end": 0.4},
    "cosine": {"betas": "cosine", "num_steps": 40, "start": None, "end": None},
}
POINT = torch.randn(1, 4, 2, 3, generator=torch_rng(0, "point"), dtype=torch.float64)


def schedule(name: str) -> Tensor:
    return validate(SCHEDULES[name], "schedule", ScheduleParams).values()


def drawn(prior: LatentPrior, predict: Callable[[Tensor, Tensor], Tensor], count: int = 3) -> Tensor:
    """Latents of a network of our own, in float64."""
    rng = torch_rng(1, "noise")

    def noise() -> Tensor:
        return torch.randn(count, *prior.shape, generator=rng, dtype=torch.float64)

    return prior.draw(predict, prior.config.sampling, noise(), noise)


def test_a_cosine_schedule_is_that_of_its_paper() -> None:
    kept, steps = Steps.of(schedule("cosine")).kept, 40
    for place in (0, 7, 20, 38):
        expected = [math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (place + 1, 0)]
        assert float(kept[place]) == pytest.approx(expected[0] / expected[1], rel=1e-12)
    assert float(schedule("cosine")[-1]) == 0.999


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
def test_data_and_noise_come_back_from_each_prediction(prediction: Any) -> None:
    steps = Steps.of(schedule("linear"))
    at, noise = torch.tensor([0, 11, 39]), torch.randn(3, 4, 2, 3, dtype=torch.float64)
    x0 = POINT.expand(3, -1, -1, -1)
    x = steps.noised(x0, at, noise)
    found = steps.data(steps.target(x0, at, noise, prediction), x, at, prediction)
    torch.testing.assert_close(found, x0)
    torch.testing.assert_close(steps.noise(found, x, at), noise)


@pytest.mark.parametrize("name", SCHEDULES)
def test_an_implicit_step_with_eta_1_has_the_posteriors_mean_and_variance(name: str) -> None:
    steps, zero = Steps.of(schedule(name)), torch.zeros(40, 4, 2, 3, dtype=torch.float64)
    at, x, x0 = torch.arange(40), torch.randn_like(zero), POINT.expand(40, -1, -1, -1)
    torch.testing.assert_close(steps.implicit(x0, x, at, 1.0, zero), steps.posterior_mean(x0, x, at))
    torch.testing.assert_close(steps.implicit_deviation(1.0) ** 2, steps.posterior_variance)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("sampler", "eta", "variance"),
    [
        ("ddim", 0.0, "posterior"), ("ddim", 0.7, "learned"), ("ddpm", None, "posterior"), ("ddpm", None, "beta"),
        ("ddpm", None, "learned"),
    ],
)  # fmt: skip
def test_samplers_find_the_data_that_a_network_knows(
    prediction: Any, name: str, sampler: str, eta: float | None, variance: str
) -> None:
    for count, spacing in ((2, "even"), (7, "even"), (40, "even"), (8, "stride"), (5, "offset")):
        how = {"sampler": sampler, "eta": eta, "num_steps": count, "spacing": spacing}
        prior = latent_prior(
            Ddpm, schedule=SCHEDULES[name], prediction=prediction, variance=variance, sampling=how
        )
        steps = Steps.of(schedule(name))

        def predict(x: Tensor, times: Tensor, steps: Steps = steps) -> Tensor:
            noise = steps.noise(POINT.expand_as(x), x, times)
            own = steps.target(POINT.expand_as(x), times, noise, prediction)
            return torch.cat([own, torch.zeros_like(own)], dim=1) if variance == "learned" else own

        found = drawn(prior, predict)
        # `offset` ends at the first step of the training, and not at the data.
        kept = float(steps.kept[0])
        if spacing == "offset":
            assert (found - math.sqrt(kept) * POINT).abs().max() < 8 * math.sqrt(1 - kept)
        else:
            torch.testing.assert_close(found, POINT.expand_as(found))


def test_a_clamp_limits_what_is_predicted() -> None:
    prior = latent_prior(Ddpm, prediction="x0", variance="posterior", sampling={"clamp": 0.5})
    found = drawn(prior, lambda x, times: torch.full_like(x, 3.0))
    torch.testing.assert_close(found, torch.full_like(found, 0.5))


@pytest.mark.parametrize(
    ("count", "spacing", "message"),
    [
        (11, "even", "from 2 to the training's 10"),
        (4, "stride", None),
        (7, "stride", "no whole stride gives 7 of 10"),
        (5, "offset", None),
        (4, "offset", "takes 5 steps"),
        (3, "offset", "ends at step 10"),
    ],
)
def test_steps_that_do_not_exist_are_refused(count: int, spacing: str, message: str | None) -> None:
    change = {"num_steps": count, "spacing": spacing}
    if message is None:
        assert latent_params(Ddpm, sampling=change).sampling.num_steps == count
        return
    with pytest.raises(ParamsError, match=message):
        latent_params(Ddpm, sampling=change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": {"betas": "cosine"}}, "cosine has neither"),
        ({"schedule": {"end": None}}, "cosine has neither"),
        ({"sampling": {"eta": 0.0}}, "ddim needs eta"),
        ({"sampling": {"sampler": "ddim"}}, "ddim needs eta"),
    ],
)
def test_params_that_contradict_each_other_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        latent_params(Ddpm, **change)


def test_kept_steps_have_both_ends() -> None:
    for count in range(2, 101):
        times = kept_times(100, count, "even")
        assert (times[0], times[-1], len(set(times))) == (0, 99, count)


def test_the_binned_likelihood_is_a_distribution() -> None:
    bins = torch.linspace(-1, 1, 256, dtype=torch.float64)
    found = binned_log_likelihood(bins, torch.full_like(bins, 0.3), torch.full_like(bins, -1.0))
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-9)


SDE = {"diffusion": "sigma", "norm": 1.0, "last_step": "tweedie", "last_step_size": 0.04}


@pytest.mark.parametrize("path", ["linear", "gvp"])
@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("last", ["mean", "euler", "tweedie", "ode"])
def test_flows_go_to_the_data_that_a_network_knows(path: str, solver: str, last: str) -> None:
    sde = None if last == "ode" else {**SDE, "last_step": last}
    prior = latent_prior(Flow, path=path, sampling={"solver": solver, "num_steps": 200, "sde": sde})

    def velocity(x: Tensor, times: Tensor) -> Tensor:
        times = times.view(-1, 1, 1, 1).clamp_max(1 - 1e-6)
        if path == "linear":
            return (POINT - x) / (1 - times)
        angle = math.pi / 2 * times
        noise = (x - angle.sin() * POINT) / angle.cos()
        return math.pi / 2 * (angle.cos() * POINT - angle.sin() * noise)

    exact = last == "tweedie" or (path, last, solver) == ("linear", "ode", "euler")
    found = drawn(prior, velocity)
    assert (found - POINT).abs().max() < (1e-4 if exact else 0.25)


def test_an_sde_without_a_slope_at_its_end_is_refused() -> None:
    none = {**SDE, "last_step": None, "last_step_size": None}
    with pytest.raises(ParamsError, match="heun with an sde needs a last_step"):
        latent_params(Flow, sampling={"solver": "heun", "sde": none})
    with pytest.raises(ParamsError, match="given together"):
        latent_params(Flow, sampling={"sde": {**SDE, "last_step": None}})
    assert latent_params(Flow, sampling={"sde": none}).sampling.sde is not None


# Four images of two channels on 2 x 2 positions with unequal chances, and a class each; some noise on each.
MODES = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [-1, -1, -1, 1], [-1, 1, 1, -1]]).float()
CHANCES, SPREAD = torch.tensor([0.4, 0.3, 0.2, 0.1]), 0.1
PLACES = torch.stack([MODES, MODES.roll(1, dims=1)], dim=1).view(4, 2, 2, 2)
TOY: dict[str, dict[str, Any]] = {
    "ddpm": {
        "schedule": {"betas": "cosine", "num_steps": 100, "start": None, "end": None}, "variance": "posterior",
        "prediction": "v",
        "sampling": {"sampler": "ddim", "eta": 0.0, "num_steps": 25},
    },
    "flow": {"sampling": {"solver": "heun", "num_steps": 12}},
}  # fmt: skip


def toy(prior: type[LatentPrior]) -> LatentPrior:
    """A prior trained on the toy images and their classes: 400 steps of 64."""
    network = {"kind": "dit", "patch": 1, "width": 32, "num_layers": 2, "num_heads": 2, "mlp_ratio": 2.0}
    changes = {"condition": "class", "condition_drop": 0.5, "network": network, **TOY[prior.kind]}
    made = latent_prior(prior, channels=2, grid=(2, 2), std=0.0, **changes).train()
    optimizer, rng = torch.optim.AdamW(made.parameters()), torch_rng(0, "toy")
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / 400)
        rows = torch.multinomial(CHANCES, 64, replacement=True, generator=rng)
        batch = PLACES[rows] + SPREAD * torch.randn(64, 2, 2, 2, generator=rng)
        loss = made.loss(batch, made.dropped(Condition(labels=rows.clamp_max(2))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return made.eval()


@pytest.mark.parametrize("kind", BOTH, ids=lambda kind: kind.kind)
def test_a_toy_distribution_is_learned(kind: type[LatentPrior]) -> None:
    prior = toy(kind)

    def drawn_modes(condition: Condition, n: int, guidance: float) -> tuple[Tensor, Tensor]:
        sampling = prior.config.sampling.model_copy(update={"guidance": guidance})
        found = prior.sample(condition, n, sampling, torch_rng(3, "samples"))
        distances = (found[:, None] - PLACES).square().flatten(2).mean(2).sqrt()
        return distances.argmin(1), distances.amin(1)

    modes, distance = drawn_modes(Condition(), 1000, 1.0)
    shares = torch.bincount(modes, minlength=4) / len(modes)
    total_variation = 0.5 * float((shares - CHANCES).abs().sum())
    near = float((distance < 0.5).float().mean())
    print(
        f"{kind.kind}: total variation {total_variation:.3f}, median distance {distance.median():.3f}, {near}"
    )
    assert total_variation < 0.08
    assert float(distance.median()) < 0.16, "the images' own spread is 0.1"
    assert near > 0.85

    labels = torch.arange(3).repeat(100)
    asked = {}
    for guidance in (0.0, 1.0, 2.0):
        modes, _ = drawn_modes(Condition(labels=labels), 300, guidance)
        asked[guidance] = float((modes.clamp_max(2) == labels).float().mean())
    print(f"{kind.kind}: of the asked class {asked}")
    assert asked[1.0] > 0.9
    assert asked[2.0] > 0.9
    assert asked[0.0] < 0.5


def test_the_whole_params_of_a_paper_are_valid() -> None:
    found: DdpmParams = latent_params(
        Ddpm, condition="class", condition_drop=0.1,
        network={"kind": "dit", "patch": 2, "width": 1152, "num_layers": 28, "num_heads": 16, "mlp_ratio": 4.0},
        schedule={"betas": "linear", "num_steps": 1000, "start": 1e-4, "end": 0.02},
        sampling={"guidance": 8.0, "num_steps": 250, "spacing": "even"},
    )  # fmt: skip
    assert found.sampling.num_steps == 250
