"""Paths, losses and samplers of flow matching against the numbers of SiT's code (tests/data)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.latent_priors import equal, recorded
from vqpipe.priors.flow import (
    SdeParams,
    coefficients,
    diffusion,
    interpolated,
    ode_states,
    score,
    sde_states,
    velocity_loss,
)

DATA = recorded("sit")
PATHS = {"linear": "Linear", "gvp": "GVP"}
FORMS = {
    "constant": "constant", "sigma": "sigma", "linear": "linear", "decreasing": "decreasing",
    "hump": "inccreasing-decreasing",
}  # fmt: skip
EVERY = pytest.mark.parametrize("path", PATHS)


def field(x: Tensor, time: Tensor) -> Tensor:
    """The velocity of the recorded trajectories."""
    return float(DATA["field/a"]) * x + float(DATA["field/b"]) * time


@EVERY
def test_paths_and_losses_are_the_same(path: str) -> None:
    theirs = PATHS[path]
    found = coefficients(path, DATA["t"])
    for name, part in zip(("alpha", "d_alpha", "sigma", "d_sigma"), found, strict=True):
        equal(part, DATA[f"{theirs}/{name}"])
    x, velocity = interpolated(path, DATA["x1_data"], DATA["x0_noise"], DATA["t"])
    equal(x, DATA[f"{theirs}/x_t"])
    equal(velocity, DATA[f"{theirs}/target"])
    equal(velocity_loss(DATA["model_out"], velocity), DATA[f"{theirs}/loss_per_sample"])


@EVERY
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_ode_trajectories_are_the_same(path: str, solver: str) -> None:
    start, theirs = DATA["init"], {"euler": "euler", "heun": "heun2"}[solver]
    keys = [key for key in DATA if key.startswith(f"{PATHS[path]}/ode/{theirs}_points")]
    assert keys
    for key in keys:
        points = len(DATA[key])
        times = torch.linspace(0, 1, points, dtype=torch.float64)
        equal(times, DATA[f"{PATHS[path]}/ode/grid_points{points}"])
        times = times.flip(0) if key.endswith("reverse") else times
        equal(torch.stack([start, *ode_states(field, start, times, solver)]), DATA[key])


@EVERY
def test_scores_are_the_same(path: str) -> None:
    time = DATA["coef/t"].view(-1, 1, 1, 1)
    found = score(path, DATA["coef/velocity"], DATA["coef/x"], time)
    equal(found, DATA[f"{PATHS[path]}/coef/score_from_velocity"])


@EVERY
@pytest.mark.parametrize("form", FORMS)
def test_diffusions_are_the_same(path: str, form: str) -> None:
    keys = [key for key in DATA if key.startswith(f"{PATHS[path]}/coef/diffusion_{FORMS[form]}_norm")]
    assert keys
    for key in keys:
        norm = float(key.split("_norm")[1])
        equal(diffusion(form, norm, path, DATA["coef/t"]), DATA[key])


@EVERY
@pytest.mark.parametrize("key", sorted({key.split("/")[2] for key in DATA if "/sde/" in key}))
def test_sde_trajectories_are_the_same(path: str, key: str) -> None:
    solver, last = key.lower().split("_last")
    grid = DATA["sde/grid_last_none_points11" if last == "none" else "sde/grid_last_size0.04_points11"]
    step = None if last == "none" else last
    sde = SdeParams(
        diffusion="sigma",
        norm=1.0,
        last_step=step,
        last_step_size=None if step is None else 1 - float(grid[-1]),
    )
    expected = DATA[f"{PATHS[path]}/sde/{key}"]
    found = list(sde_states(field, DATA["init"], len(grid), solver, path, sde, noises()))
    equal(torch.stack([*found, found[-1]] if last == "none" else found), expected)


def noises() -> Callable[[], Tensor]:
    return iter(DATA["sde/noises"]).__next__
