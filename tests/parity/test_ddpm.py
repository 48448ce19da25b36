"""Schedules, losses and steps of diffusion against the numbers of DiT's and latent diffusion's code (tests/data)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.latent_priors import equal, latent_prior, recorded
from vqpipe.params.base import validate
from vqpipe.priors.ddpm import Ddpm, DdpmSampling, ScheduleParams, Steps, kept_times
from vqpipe.priors.latent import guided

DATA = recorded("ddpm")
SCHEDULES: dict[str, dict[str, Any]] = {
    "dit1000": {"betas": "linear", "num_steps": 1000, "start": 1e-4, "end": 0.02},
    "ldm1000": {"betas": "scaled_linear", "num_steps": 1000, "start": 0.0015, "end": 0.0195},
}


def betas(name: str) -> Tensor:
    return validate(SCHEDULES[name], "schedule", ScheduleParams).values()


def named(pattern: str) -> list[str]:
    """The second part of the keys that begin so."""
    return sorted({key.split("/")[1] for key in DATA if key.startswith(pattern)})


def sampling(**changes: Any) -> DdpmSampling:
    plain = {
        "guidance": 1.0, "batch": None, "sampler": "ddpm", "num_steps": 1000, "spacing": "even", "eta": None,
        "clamp": None,
    }  # fmt: skip
    return validate({**plain, **changes}, "sampling", DdpmSampling)


def ddpm(prediction: str = "epsilon", channels: int = 4) -> Ddpm:
    return latent_prior(
        Ddpm, channels, schedule=SCHEDULES["dit1000"], prediction=prediction, variance="learned"
    )


def given(noise: Tensor) -> Callable[[], Tensor]:
    return lambda: noise


ALL = Steps.of(betas("dit1000"))
T, X0, NOISE = DATA["in/t"], DATA["in/x0"], DATA["in/noise"]
X, OUT = ALL.noised(X0, T, NOISE), DATA["in/model_out"]


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_the_same(name: str) -> None:
    steps = Steps.of(betas(name))
    equal(betas(name), DATA[f"{name}/betas"])
    equal(steps.kept, DATA[f"{name}/alphas_cumprod"])
    equal(steps.before, DATA[f"{name}/alphas_cumprod_prev"])
    check_posterior(steps, name)


def check_posterior(steps: Steps, where: str) -> None:
    equal(steps.betas, DATA[f"{where}/betas"])
    equal(steps.posterior_variance, DATA[f"{where}/posterior_variance"])
    equal(steps.posterior_log_variance, DATA[f"{where}/posterior_log_variance_clipped"])
    for number, weight in enumerate(steps.posterior_weights, start=1):
        equal(weight, DATA[f"{where}/posterior_mean_coef{number}"])


@pytest.mark.parametrize("name", named("respaced/"))
def test_fewer_steps_are_the_same(name: str) -> None:
    spacing = "stride" if name.startswith("ddim") else "even"
    times = kept_times(1000, int(name.removeprefix("ddim")), spacing)
    steps = Steps.of(betas("dit1000"), times)
    equal(steps.times, DATA[f"respaced/{name}/timestep_map"])
    equal(steps.kept, DATA[f"respaced/{name}/alphas_cumprod"])
    check_posterior(steps, f"respaced/{name}")


@pytest.mark.parametrize("count", named("ldm_ddim/"))
def test_latent_diffusions_steps_are_the_same(count: str) -> None:
    steps = Steps.of(betas("ldm1000"), kept_times(1000, int(count), "offset"), clean=False)
    equal(steps.times, DATA[f"ldm_ddim/{count}/timesteps"])
    equal(steps.kept, DATA[f"ldm_ddim/{count}/alphas"])
    equal(steps.before, DATA[f"ldm_ddim/{count}/alphas_prev"])
    for eta in (0.0, 1.0):
        equal(steps.implicit_deviation(eta), DATA[f"ldm_ddim/{count}/sigmas_eta{eta:.0f}"])


def test_noised_data_and_the_posterior_are_the_same() -> None:
    equal(X, DATA["q_sample"])
    equal(Steps.of(betas("ldm1000")).noised(X0, T, NOISE), DATA["q_sample_ldm"])
    equal(ALL.posterior_mean(X0, X, T), DATA["q_posterior/mean"])
    flat = torch.zeros_like(X)
    equal(ALL.log_variance("posterior", T, flat), DATA["q_posterior/log_variance_clipped"])
    variance = ALL.posterior_variance[T].float().view(-1, 1, 1, 1).expand_as(X)
    equal(variance, DATA["q_posterior/variance"])


@pytest.mark.parametrize(("prediction", "where"), [("epsilon", "loss"), ("x0", "loss_xstart")])
def test_losses_are_the_same(prediction: str, where: str) -> None:
    terms = ddpm(prediction).terms(ALL, OUT, X0, X, T, NOISE)
    equal(terms["mse"], DATA[f"{where}/mse"])
    equal(terms["mse"] + terms["bits"], DATA[f"{where}/total"])
    if prediction == "epsilon":
        equal(terms["bits"], DATA["loss/vb"])
        equal(terms["bits"] * len(ALL.times) / 1000, DATA["loss_rescaled/vb"])


def test_the_mean_of_the_bound_takes_no_gradient() -> None:
    output = OUT.clone().requires_grad_()
    ddpm().terms(ALL, output, X0, X, T, NOISE)["bits"].sum().backward()
    assert output.grad is not None
    assert not output.grad[:, :4].any()
    assert output.grad[:, 4:].any()


@pytest.mark.parametrize("clip", [0, 1])
def test_predicted_distributions_and_steps_are_the_same(clip: int) -> None:
    clamp = 1.0 if clip else None
    x0 = ALL.data(OUT[:, :4], X, T, "epsilon")
    x0 = x0.clamp(-1, 1) if clip else x0
    log_variance = ALL.log_variance("learned", T, OUT[:, 4:])
    where = f"p_mean_variance/clip{clip}"
    equal(x0, DATA[f"{where}/pred_xstart"])
    equal(ALL.posterior_mean(x0, X, T), DATA[f"{where}/mean"])
    equal(log_variance, DATA[f"{where}/log_variance"])
    equal(log_variance.exp(), DATA[f"{where}/variance"])

    prior, noise = ddpm(), given(DATA["in/step_noise"])
    equal(prior.step(ALL, OUT, X, T, sampling(clamp=clamp), noise), DATA[f"ddpm_step/clip{clip}"])
    for key in [key for key in DATA if key.startswith("ddim_step_eta") and key.endswith(f"clip{clip}")]:
        eta = float(key.split("/")[0].removeprefix("ddim_step_eta"))
        implicit = sampling(sampler="ddim", eta=eta, clamp=clamp)
        equal(prior.step(ALL, OUT, X, T, implicit, noise), DATA[key])


def test_steps_of_fewer_are_the_same() -> None:
    steps, at = Steps.of(betas("dit1000"), kept_times(1000, 250, "even")), DATA["in/t_respaced250"]
    equal(steps.times[at], DATA["respaced250/t_seen_by_model"])
    prior, noise = ddpm(), given(DATA["in/step_noise"])
    equal(prior.step(steps, OUT, X, at, sampling(), noise), DATA["ddpm_step_respaced250/clip0"])
    implicit = sampling(sampler="ddim", eta=0.0)
    equal(prior.step(steps, OUT, X, at, implicit, noise), DATA["ddim_step_respaced250_eta0/clip0"])


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_whole_chains_are_the_same(name: str) -> None:
    states: list[Tensor] = []
    slope = float(DATA["loop/a"])

    def predict(x: Tensor, times: Tensor) -> Tensor:
        states.append(x)
        epsilon = slope * x + 0.0003 * times.view(-1, 1, 1, 1).float()
        return torch.cat([epsilon, torch.full_like(x, 0.1)], dim=1)

    noises = DATA["loop/noises"]
    count = len(noises)
    how = sampling(num_steps=count, sampler=name, eta=0.0 if name == "ddim" else None)
    last = ddpm().draw(predict, how, DATA["loop/x_T"], iter(noises).__next__)
    equal(torch.stack([*states[1:], last]), DATA[f"loop/{name}{count}"])


@pytest.mark.parametrize(("key", "channels"), [("repo_first3", 3), ("all_channels", 4)])
def test_guidance_is_the_same(key: str, channels: int) -> None:
    conditional, null = DATA["cfg/model_out"].chunk(2)
    expected_own, expected_null = DATA[f"cfg/{key}"].chunk(2)
    scale = float(DATA["cfg/scale"])
    equal(guided(conditional, null, scale, channels), expected_own)
    equal(torch.cat([expected_own[:, :channels], null[:, channels:]], dim=1), expected_null)


@pytest.mark.parametrize("name", named("ldm_ddim_step/index"))
def test_latent_diffusions_steps_back_are_the_same(name: str) -> None:
    place, scale = name.removeprefix("index").split("_scale")
    steps = Steps.of(betas("ldm1000"), kept_times(1000, 50, "offset"), clean=False)
    x, null = DATA["ldm_ddim_step/x"], DATA["ldm_ddim_step/eps_uncond"]
    epsilon = guided(DATA["ldm_ddim_step/eps_cond"], null, float(scale))
    at = torch.full((len(x),), int(place))
    equal(steps.data(epsilon, x, at, "epsilon"), DATA[f"ldm_ddim_step/{name}/pred_x0"])
    how = sampling(sampler="ddim", eta=0.0, spacing="offset", num_steps=50)
    found = ddpm(channels=x.shape[1]).step(steps, epsilon, x, at, how, given(torch.zeros_like(x)))
    equal(found, DATA[f"ldm_ddim_step/{name}/x_prev"])
