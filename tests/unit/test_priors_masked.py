"""The masked prior: a distribution that can be enumerated, known tokens, steps, conditions, the loss in blocks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.small_priors import shared
from vqpipe.errors import MismatchError, ParamsError
from vqpipe.params.base import validate
from vqpipe.priors import cross_entropy
from vqpipe.priors.contract import Condition, ImageSpace
from vqpipe.priors.masked import Masked, MaskedParams
from vqpipe.priors.orders import ParallelSampling, choose, halton_order, step_of
from vqpipe.runtime.seeds import seed_everything, torch_rng

CLASSES = ("red", "green", "blue")
GRID = (3, 4)


def params(**changes: Any) -> MaskedParams:
    own = {"kind": "masked", **shared(), **Masked.example()}
    own["sampling"] = {**own["sampling"], "order": "confidence", "noise": 4.5}
    own["model"] = {**own["model"], "width": 16, "dropout": 0.1}
    for name, value in changes.items():
        own[name] = {**own[name], **value} if isinstance(value, dict) else value
    if own["sampling"]["order"] == "halton" and "noise" not in changes.get("sampling", {}):
        own["sampling"]["noise"] = 0.0
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


EVERY = torch.cartesian_prod(*[torch.arange(4)] * 4)
"""All 256 images of 2 x 2 positions."""
SPACE = ImageSpace((4,), (2, 2))


def toy() -> Tensor:
    """Probabilities of all images. 12 of them are possible: opposite corners are equal, neighbours are not."""
    a, b, c, d = EVERY.unbind(1)
    weights = ((a == d) & (b == c) & (a != b)) * (1.0 + torch.arange(256) % 7)
    return weights / weights.sum()


def variation(first: Tensor, second: Tensor) -> float:
    """Total variation of two distributions."""
    return float((first.double() - second.double()).abs().sum() / 2)


def shares(prior: Masked, n: int, **changes: Any) -> Tensor:
    """The shares of all images among samples."""
    sampling = prior.config.sampling.model_copy(update=changes)
    images = prior.sample(Condition(), n, sampling, torch_rng(1, "toy samples")).flatten(1)
    return torch.bincount((images * torch.tensor([64, 16, 4, 1])).sum(1), minlength=256) / n


class Exact(torch.nn.Module):
    """The network that knows the toy distribution: what each position is, given the others that are known."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList([torch.nn.Linear(4, 4, bias=False)])
        torch.nn.init.eye_(self.heads[0].weight)  # type: ignore[arg-type]

    def features(self, tokens: Tensor) -> Tensor:
        fits = ((tokens == EVERY) | (tokens == 4)).all(dim=2)  # (b, 256)
        codes = torch.nn.functional.one_hot(EVERY, 4).float()
        return torch.einsum("bi,ipk->bpk", fits * toy(), codes).clamp_min(1e-30).log()


def toy_params() -> MaskedParams:
    return params(
        condition="none", condition_drop=0.0, sampling={"order": "halton"},
        model={"width": 32, "num_heads": 2, "dropout": 0.0},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "least", "most"),
    [
        ({}, 0, 0.03),
        ({"order": "confidence", "noise": 1e6}, 0, 0.03),
        ({"order": "confidence", "noise": 0.0}, 0.35, 0.55),
        ({"steps": 1}, 0.9, 1),
    ],
    ids=str,
)
def test_with_the_true_predictions_one_position_a_step_draws_the_distribution(
    changes: Any, least: float, most: float
) -> None:
    """8,000 images of the distribution itself have a distance of about 0.015 from it. A random order, which much
    noise is, does as well as Halton's; the order of confidence alone prefers likely codes; a single step has
    independent positions."""
    prior = Masked(toy_params(), SPACE).eval()
    prior.denoiser = Exact()  # type: ignore[assignment]
    assert least <= variation(shares(prior, 8000, **changes), toy()) <= most


def test_a_toy_distribution_is_learned() -> None:
    """In Halton order the distance can be computed; independent positions have 0.9."""
    seed_everything(0, "learn")
    prior, steps = Masked(toy_params(), SPACE).train(), 400
    optimizer = torch.optim.AdamW(prior.parameter_groups(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = EVERY[torch.multinomial(toy(), 128, replacement=True)].view(-1, 1, 2, 2)
        optimizer.zero_grad()
        prior.loss(batch, Condition()).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        likelihood = prior.eval().log_likelihood(EVERY.view(256, 1, 2, 2), Condition())
    assert likelihood is not None
    exact = likelihood.double().sum(1).exp()
    assert float(exact.sum()) == pytest.approx(1, abs=1e-5)
    assert variation(exact, toy()) < 0.1
    assert variation(shares(prior, 8000), exact) < 0.03, "samples have the likelihood's distribution"


# ---- sampling


def known_tokens(shares: list[int], num_codes: tuple[int, ...] = (11,)) -> Tensor:
    """Known tokens, of which so many positions of each image are not known."""
    rng = torch_rng(3, "known")
    tokens = torch.stack([torch.randint(k, (len(shares), *GRID), generator=rng) for k in num_codes], dim=1)
    for image, count in enumerate(shares):
        holes = torch.randperm(12, generator=rng)[:count]
        tokens[image].flatten(1)[:, holes] = -1
    return tokens


@pytest.mark.parametrize("order", ["confidence", "halton"])
def test_a_hole_takes_no_more_steps_than_it_has_positions(
    order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = model(condition="none", sampling={"order": order, "steps": 8})
    sampling, found = prior.config.sampling, count_evaluations(prior, monkeypatch)
    for hole, steps in ((12, 8), (3, 3), (1, 1), (0, 0)):
        found.clear()
        tokens = known_tokens([hole, 0])
        images = prior.sample(Condition(tokens=tokens), 2, sampling, torch_rng(0, "s"))
        assert len(found) == steps
        assert torch.equal(images[tokens >= 0], tokens[tokens >= 0])
        assert 0 <= int(images.min()) <= int(images.max()) < 11
    found.clear()
    assert prior.sample(Condition(), 0, sampling, torch_rng(0, "s")).shape == (0, 1, *GRID)
    assert not found


@pytest.mark.parametrize("order", ["confidence", "halton"])
@pytest.mark.parametrize("num_codes", [(11,), (7, 13)])
def test_an_image_depends_neither_on_the_others_nor_on_their_holes(
    order: str, num_codes: tuple[int, ...]
) -> None:
    prior = model(num_codes, sampling={"order": order, "guidance": 2.0, "guidance_ramp": "linear"})
    sampling = prior.config.sampling
    tokens = known_tokens([12, 2, 5, 7, 0], num_codes)
    condition = Condition(labels=torch.tensor([0, 1, 2, -1, 0]), tokens=tokens)
    five = prior.sample(condition, 5, sampling, torch_rng(0, "s"))
    pairs = prior.sample(condition, 5, sampling.model_copy(update={"batch": 2}), torch_rng(0, "s"))
    three = prior.sample(condition.rows(slice(3)), 3, sampling, torch_rng(0, "s"))
    assert torch.equal(five, pairs)
    assert torch.equal(five[:3], three)
    assert not torch.equal(five, prior.sample(condition, 5, sampling, torch_rng(1, "s")))


def test_a_code_of_one_group_alone_can_be_known() -> None:
    prior = model((7, 13), condition="none")
    tokens = known_tokens([6, 12], (7, 13))
    tokens[:, 0, 0] = 3
    images = prior.sample(Condition(tokens=tokens), 2, prior.config.sampling, torch_rng(0, "s"))
    assert torch.equal(images[tokens >= 0], tokens[tokens >= 0])
    for group, codes in enumerate((7, 13)):
        assert 0 <= int(images[:, group].min()) <= int(images[:, group].max()) < codes


def test_guidance_follows_the_class_and_zero_ignores_it() -> None:
    prior = model(sampling={"order": "halton"})
    sampling = prior.config.sampling
    first, second = (Condition(labels=torch.full((4,), label)) for label in (0, 1))

    def draw(condition: Condition, guidance: float) -> Tensor:
        own = sampling.model_copy(update={"guidance": guidance})
        return prior.sample(condition, 4, own, torch_rng(0, "s"))

    assert torch.equal(draw(first, 0.0), draw(second, 0.0))
    assert torch.equal(draw(first, 0.0), draw(Condition(labels=torch.full((4,), -1)), 1.0))
    assert not torch.equal(draw(first, 1.0), draw(second, 1.0))
    assert not torch.equal(draw(first, 1.0), draw(first, 4.0))
    undropped = model(condition_drop=0.0).eval()
    with pytest.raises(MismatchError, match="guidance 2"):
        undropped.sample(first, 4, sampling.model_copy(update={"guidance": 2.0}), torch_rng(0, "s"))


@pytest.mark.parametrize("condition", ["class", "label_map"])
def test_guidance_takes_one_pass_a_step_and_draws_what_two_would(
    condition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = model(condition=condition, sampling={"guidance": 3.0})
    rng = torch_rng(2, "maps")
    maps = torch.randint(-1, 3, (4, 12, 12), generator=rng)
    given = (
        Condition(labels=torch.tensor([0, 1, 2, -1])) if condition == "class" else Condition(label_map=maps)
    )
    seen = count_evaluations(prior, monkeypatch)
    drawn = prior.sample(given, 4, prior.config.sampling, torch_rng(0, "s"))
    assert seen == [8] * 4
    plain = prior._features

    def in_two(tokens: Tensor, both: dict[str, Tensor]) -> Tensor:
        assert len(tokens) == 8
        own = {name: value[:4] for name, value in both.items()}
        return torch.cat([plain(tokens[:4], own), plain(tokens[4:], prior._given(Condition(), 4))])

    monkeypatch.setattr(prior, "_features", in_two)
    assert torch.equal(drawn, prior.sample(given, 4, prior.config.sampling, torch_rng(0, "s")))


def test_annealed_draws_end_with_the_likeliest_code() -> None:
    prior = model(
        condition="none", sampling={"draws": "annealed", "steps": 1, "score": "logit", "noise": 2.0}
    )
    images = prior.sample(Condition(), 3, prior.config.sampling, torch_rng(0, "s"))
    with torch.no_grad():
        likeliest = prior.denoiser(torch.full((3, 1, 12), 11))[0].argmax(-1)
    assert torch.equal(images.flatten(1), likeliest)


def test_top_k_keeps_the_likeliest_code() -> None:
    prior = model(condition="none", sampling={"top_k": 1, "steps": 12, "order": "halton"})
    first, second = (
        prior.sample(Condition(), 2, prior.config.sampling, torch_rng(seed, "s")) for seed in (0, 1)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("schedule", ["cosine", "arccos", "linear", "square", "root"])
@pytest.mark.parametrize("counts", ["ceil", "floor", "ends"])
@pytest.mark.parametrize("steps", [1, 5, 12, 40])
def test_every_step_draws_and_the_last_one_draws_the_rest(schedule: Any, counts: Any, steps: int) -> None:
    sampling = ParallelSampling(
        guidance=1.0, temperature=1.0, top_k=None, top_p=1.0, order="halton", steps=steps, schedule=schedule,
        counts=counts,
    )  # fmt: skip
    unknown, drawn = torch.tensor([12, 7, 0]), torch.zeros(3, dtype=torch.int64)
    for at in range(min(steps, 12)):
        step = step_of(at, unknown, drawn, sampling)
        more = step.drawn - drawn
        assert torch.equal(more > 0, at < unknown.clamp_max(steps))
        drawn = step.drawn
    assert torch.equal(drawn, unknown)


def test_the_highest_scores_are_chosen_among_the_masked() -> None:
    scores = torch.tensor([[1.0, 5.0, 5.0, 2.0], [4.0, 3.0, 2.0, 1.0]])
    masked = torch.tensor([[True, True, True, True], [False, True, True, True]])
    expected = [[False, True, False, False], [False, True, True, False]]
    assert choose(scores, masked, torch.tensor([1, 2])).tolist() == expected


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (3, 4), (32, 32)])
def test_the_halton_order_covers_any_grid_once(grid: tuple[int, int]) -> None:
    assert sorted(halton_order(grid)) == list(range(grid[0] * grid[1]))


# ---- training


def test_the_loss_is_the_cross_entropy_of_masked_positions() -> None:
    """With all predictions uniform each masked position costs ln k, divided by the number expected."""
    prior = model((11,), condition="none", condition_drop=0.0, model={"dropout": 0.0})
    for parameter in prior.denoiser.heads.parameters():
        torch.nn.init.zeros_(parameter)
    torch.manual_seed(0)
    losses = [
        float(prior.loss(torch.zeros(64, 1, *GRID, dtype=torch.int64), Condition()).detach())
        for _ in range(20)
    ]
    assert sum(losses) / 20 == pytest.approx(math.log(11), rel=0.01)
    # The progresses of a batch are evenly spaced, so that its number of masked positions hardly varies.
    assert max(losses) / min(losses) < 1.05


def gradients(prior: Masked, condition: Condition) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(0)
    prior.zero_grad()
    tokens = torch.stack([torch.arange(6 * 12).view(6, *GRID) % k for k in prior.space.num_codes], dim=1)
    loss = prior.loss(tokens, condition)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in prior.parameters() if p.grad is not None]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("num_codes", [(11,), (7, 13)])
def test_blocks_of_positions_give_the_loss_and_the_gradient_of_the_whole(
    num_codes: tuple[int, ...], smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = model(num_codes, label_smoothing=smoothing).train()
    condition = Condition(labels=torch.arange(6) % 3)
    whole, expected = gradients(prior, condition)
    monkeypatch.setattr(cross_entropy, "LOGITS", 5 * max(num_codes))
    blocks, found = gradients(prior, condition)
    torch.testing.assert_close(blocks, whole)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_samples_do_not_depend_on_the_size_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = model((7, 13), sampling={"guidance": 2.0})
    condition = Condition(labels=torch.arange(4) % 3)
    whole = prior.sample(condition, 4, prior.config.sampling, torch_rng(0, "s"))
    monkeypatch.setattr(cross_entropy, "LOGITS", 40)
    assert torch.equal(whole, prior.sample(condition, 4, prior.config.sampling, torch_rng(0, "s")))


@torch.no_grad()
def test_the_likelihood_in_halton_order_is_a_distribution() -> None:
    for steps in (1, 2):
        prior = model((3, 4), (1, 2), sampling={"order": "halton", "steps": steps})
        images = torch.cartesian_prod(*(torch.arange(k) for k in (3, 3, 4, 4))).view(-1, 2, 1, 2)
        found = prior.log_likelihood(images, Condition(labels=torch.ones(len(images), dtype=torch.int64)))
        assert found is not None
        assert float(found.double().sum(1).exp().sum()) == pytest.approx(1, abs=1e-5)
    assert model().log_likelihood(torch.zeros(1, 1, *GRID, dtype=torch.int64), Condition()) is None


@pytest.mark.parametrize("field", ["temperature", "temperature_last"])
def test_temperatures_of_all_steps_are_finite_or_refused(field: str) -> None:
    least = {field: 1e-6, "temperature_last": 1e-6, "temperature_power": 0.05}
    sampling = params(sampling=least).sampling
    ones = torch.ones(1, dtype=torch.int64)
    for at in range(sampling.steps):
        found = step_of(at, ones * 100, ones * at, sampling).temperature
        assert found.isfinite().all()
        assert (found >= 0.99e-6).all()
    for changes in ({field: 1e-310}, {"temperature_power": 0.01}):
        with pytest.raises(ParamsError, match="greater than or equal to"):
            params(sampling={**least, **changes})


def test_noise_that_an_order_would_ignore_is_refused() -> None:
    with pytest.raises(ParamsError, match="noise is of order: confidence and of draws: annealed"):
        params(sampling={"order": "halton", "noise": 1.0})
    assert params(sampling={"order": "halton", "noise": 0.0}).sampling.noise == 0
    assert params(sampling={"order": "halton", "noise": 1.0, "draws": "annealed"}).sampling.noise == 1
    assert params(sampling={"order": "confidence", "noise": 1.0}).sampling.noise == 1


# ---- label maps


def test_a_map_changes_its_own_cell_and_one_that_does_not_divide_is_refused() -> None:
    prior = model(condition="label_map")
    tokens = torch.full((2, 1, 12), 11)
    maps = torch.zeros(2, 12, 12, dtype=torch.int64)
    maps[1, :4, :3] = 2
    with torch.no_grad():
        cells = prior._given(Condition(label_map=maps), 2)["cells"]
        first, second = prior._features(tokens, {"cells": cells})
    assert cells.tolist() == [[0] * 12, [2, *[0] * 11]]
    assert not torch.allclose(first, second)
    space = ImageSpace((11,), (5, 4), map_classes=("sky",), resolution=12)
    with pytest.raises(MismatchError, match="does not divide"):
        Masked(params(condition="label_map"), space)
