"""The masked prior: a distribution that can be enumerated, known tokens, steps, conditions, its loss over many codes."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.small_priors import shared
from vqpipe.errors import MismatchError
from vqpipe.params.base import validate
from vqpipe.priors import cross_entropy
from vqpipe.priors.contract import Condition, ImageSpace
from vqpipe.priors.masked import Masked, MaskedParams, cell_classes
from vqpipe.priors.orders import ParallelSampling, choose, halton_order, step_of
from vqpipe.runtime.seeds import seed_everything, torch_rng

CLASSES = ("red", "green", "blue")
GRID = (3, 4)


def params(**changes: Any) -> MaskedParams:
    own = {"kind": "masked", **shared(), **Masked.example()}
    for name, value in changes.items():
        own[name] = {**own[name], **value} if isinstance(value, dict) else value
    return validate(own, "prior", MaskedParams)


def model(num_codes: tuple[int, ...] = (11,), grid: tuple[int, int] = GRID, **changes: Any) -> Masked:
    """A small model whose logits are far from uniform, in eval mode."""
    seed_everything(0, "test")
    space = ImageSpace(num_codes, grid, CLASSES, resolution=12, map_classes=("sky", "sea", "sand"))
    made = Masked(params(**changes), space)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


def count_evaluations(prior: Masked, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the number of images of every network evaluation from now on."""
    found: list[int] = []
    plain = prior.denoiser.features

    def counted(tokens: Tensor, **rest: Tensor) -> Tensor:
        found.append(len(tokens))
        return plain(tokens, **rest)

    monkeypatch.setattr(prior.denoiser, "features", counted)
    return found


# ---- a distribution over all images of 2 x 2 positions and 4 codes


def every_image() -> Tensor:
    codes = torch.arange(4)
    return torch.cartesian_prod(codes, codes, codes, codes).view(256, 1, 2, 2)


@cache
def toy() -> tuple[Masked, Tensor]:
    """A prior that was trained on a distribution far from independent positions, and that distribution."""
    data = (2 * torch.randn(256, generator=torch_rng(0, "toy"))).softmax(0)
    seed_everything(0, "toy")
    own = params(
        condition="none", condition_drop=0.0,
        model={"width": 64, "num_heads": 4, "dropout": 0.0}, sampling={"order": "halton"},
    )  # fmt: skip
    prior, images, steps = Masked(own, ImageSpace((4,), (2, 2))), every_image(), 700
    optimiser = torch.optim.AdamW(prior.parameter_groups(), lr=4e-3, betas=(0.9, 0.95))
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        prior.loss(images[data.multinomial(512, replacement=True)], Condition()).backward()
        optimiser.step()
        rate.step()
    return prior.eval(), data


def variation(first: Tensor, second: Tensor) -> float:
    """Total variation of two distributions."""
    return float((first.double() - second.double()).abs().sum() / 2)


def drawn(prior: Masked, n: int, **changes: Any) -> Tensor:
    """The shares of all images among samples."""
    sampling = prior.config.sampling.model_copy(update=changes)
    images = prior.sample(Condition(), n, sampling, torch_rng(1, "toy samples")).flatten(1)
    return torch.bincount((images * torch.tensor([64, 16, 4, 1])).sum(1), minlength=256) / n


@torch.no_grad()
def test_one_position_a_step_draws_the_distribution_of_the_data() -> None:
    prior, data = toy()
    likelihood = prior.log_likelihood(every_image(), Condition())
    assert likelihood is not None
    exact = likelihood.double().sum(1).exp()
    assert float(exact.sum()) == pytest.approx(1, abs=1e-5)
    assert variation(exact, data) < 0.05
    # 40,000 samples of a known distribution have a total variation of about 0.02 from it.
    noise = variation(
        torch.bincount(data.multinomial(40_000, replacement=True), minlength=256) / 40_000, data
    )
    found = drawn(prior, 40_000)
    assert variation(found, exact) < 1.5 * noise
    assert variation(found, data) < 0.06
    # Order by confidence with much noise is a random order; without noise it prefers the likely codes.
    assert variation(drawn(prior, 40_000, order="confidence", noise=1e6), data) < 0.06
    assert variation(drawn(prior, 40_000, order="confidence", noise=0.0), data) > 0.1
    assert variation(drawn(prior, 40_000, steps=1), data) > 0.3, "positions of a step are independent"
