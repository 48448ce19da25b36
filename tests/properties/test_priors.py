"""What every prior of the table does, with the small params of its `example`; the toys go through the same tests."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.ranks import ROOT, run_ranks
from tests.small_priors import shared
from tests.toy_priors import PLACES
from vqpipe.errors import MismatchError, ParamsError
from vqpipe.params.base import validate
from vqpipe.params.plugins import Table
from vqpipe.priors import PRIORS
from vqpipe.priors.artifact import MadeWith, PriorPictures, read_prior, save_prior
from vqpipe.priors.contract import PARTS, Condition, ConditionKind, ImageSpace, Prior, PriorParams
from vqpipe.priors.train import PriorTraining
from vqpipe.runtime.seeds import seed_everything, torch_rng
from vqpipe.training.loop import run_training
from vqpipe.training.objective import TrainingParams, TrainingResult

ALL: Table[Prior] = Table("prior", {**PLACES, **PRIORS._places})
GRID, CHANNELS, CLASSES = (2, 3), 4, ("red", "green", "blue")
SIDE, TEXT = 12, (4, 8)
SPACES = {
    groups: ImageSpace(codes, GRID, CLASSES, CHANNELS, (1.0,) * CHANNELS, SIDE, ("sky", "sea", "sand"), *TEXT)
    for groups, codes in ((1, (5,)), (2, (3, 4)))
}
CASES = [
    pytest.param(kind, condition, groups, id=f"{kind}-{condition}-{groups}")
    for kind in ALL
    for condition in ALL[kind].conditions
    for groups in (SPACES if ALL[kind].models == "tokens" else [1])  # groups are of codes, not of latents
]
EVERY = pytest.mark.parametrize(("kind", "condition", "groups"), CASES)
INDEPENDENT = {"unigram", "normal", "palette", "per_position"}
"""Examples of the docs and the tests that draw each position on its own, and so can learn no image by heart."""
LEARNED = {*((condition, 1) for condition in PARTS), ("class", 2)}
"""Each condition with one group of codes, and one with two, which are trained alike with any condition."""
LEARNERS = [kind for kind in ALL if kind not in INDEPENDENT]
LEARNER = pytest.mark.parametrize(
    ("kind", "condition", "groups"),
    [case for case in CASES if case.values[0] in LEARNERS and case.values[1:] in LEARNED],
)


@pytest.fixture(autouse=True)
def whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PRIORS, "_places", ALL._places)


def make(kind: str, condition: ConditionKind, groups: int) -> Prior:
    """A prior whose predictions are far from uniform, in eval mode."""
    prior = ALL[kind]
    drop = 0.0 if condition == "none" else 0.1
    text = {"encoder": "clip", "max_tokens": TEXT[0]} if condition == "text" else None
    content = {
        **shared(),
        **prior.example(),
        "kind": kind,
        "condition": condition,
        "condition_drop": drop,
        "text": text,
    }
    seed_everything(0, "test")
    made = prior(validate(content, "prior", prior.Params), SPACES[groups])
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


def batch_of(prior: Prior, count: int) -> Tensor:
    rng = torch_rng(1, "images")
    if prior.models == "latents":
        return torch.randn(count, CHANNELS, *GRID, generator=rng)
    return torch.stack(
        [torch.randint(k, (count, *GRID), generator=rng) for k in prior.space.num_codes], dim=1
    )


def given(condition: ConditionKind, count: int) -> Condition:
    rng = torch_rng(2, "condition")
    parts = {
        "labels": torch.arange(count) % len(CLASSES),
        "text": torch.randn(count, *TEXT, generator=rng),
        "text_ids": torch.randint(9, (count, TEXT[0]), generator=rng),
        "label_map": torch.randint(3, (count, SIDE, SIDE), generator=rng),
    }
    return Condition(**{name: parts[name] for name in PARTS[condition]})


def sample(prior: Prior, condition: Condition, n: int, seed: int = 0) -> Tensor:
    return prior.sample(condition, n, prior.config.sampling, torch_rng(seed, "samples"))


@EVERY
def test_the_loss_is_one_finite_number_with_a_gradient(
    kind: str, condition: ConditionKind, groups: int
) -> None:
    prior = make(kind, condition, groups).train()
    loss = prior.loss(batch_of(prior, 6), given(condition, 6))
    assert loss.shape == ()
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert any(p.grad is not None and bool(p.grad.any()) for p in prior.parameters())
    assert all(
        p.grad is not None for p in prior.parameters() if p.requires_grad
    )  # data-parallel training needs it
    trained = {id(p) for group in prior.parameter_groups() for p in group["params"]}
    assert trained == {id(p) for p in prior.parameters() if p.requires_grad}
    assert all(isinstance(term, Tensor) for term in prior.curve_terms(loss.detach()).values())
    inside = {id(module) for module in prior.modules()}
    assert {id(network) for network in prior.networks()} <= inside


@EVERY
def test_samples_are_images_of_the_space_and_follow_the_generator(
    kind: str, condition: ConditionKind, groups: int
) -> None:
    prior, conditions = make(kind, condition, groups), given(condition, 6)
    drawn = sample(prior, conditions, 6)
    assert torch.equal(drawn, sample(prior, conditions, 6))
    assert not torch.equal(drawn, sample(prior, conditions, 6, seed=1))
    assert drawn.shape == batch_of(prior, 6).shape
    assert drawn.dtype == batch_of(prior, 6).dtype
    if prior.models == "tokens":
        for group, codes in enumerate(prior.space.num_codes):
            assert 0 <= int(drawn[:, group].min()) <= int(drawn[:, group].max()) < codes


@EVERY
def test_what_a_prior_does_not_take_is_refused(kind: str, condition: ConditionKind, groups: int) -> None:
    prior = make(kind, condition, groups)
    for other, parts in PARTS.items():
        if parts and not set(parts) <= set(prior.takes):
            with pytest.raises(MismatchError, match="cannot be given"):
                sample(prior, given(other, 6), 6)
    with pytest.raises(RuntimeError, match="eval mode"):
        sample(prior.train(), given(condition, 6), 6)


@EVERY
def test_known_tokens_stay_as_they_are(kind: str, condition: ConditionKind, groups: int) -> None:
    prior = make(kind, condition, groups)
    tokens = torch.zeros(6, groups, *GRID, dtype=torch.int64)
    if prior.known_tokens == "any":
        tokens[:, :, ::2, 1] = -1
    else:
        tokens[:, :, 1:] = -1
    condition_of = Condition(**given(condition, 6).parts, tokens=tokens)
    if prior.known_tokens == "none":
        with pytest.raises(MismatchError, match="cannot be given"):
            sample(prior, condition_of, 6)
        return
    drawn = sample(prior, condition_of, 6)
    assert torch.equal(drawn[tokens >= 0], tokens[tokens >= 0])


def every_image(num_codes: tuple[int, ...]) -> Iterator[Tensor]:
    """All images of one row of two positions, in batches."""
    positions = [codes for codes in num_codes for _ in range(2)]
    grids = torch.cartesian_prod(*(torch.arange(codes) for codes in positions))
    yield grids.view(len(grids), len(num_codes), 1, 2)


@EVERY
@torch.no_grad()
def test_the_likelihood_is_a_distribution_over_images(
    kind: str, condition: ConditionKind, groups: int
) -> None:
    prior = make(kind, condition, groups)
    if prior.log_likelihood(batch_of(prior, 2), given(condition, 2)) is None or prior.models == "latents":
        return
    small = type(prior)(prior.config, replace(prior.space, grid=(1, 2))).eval()
    total = 0.0
    for batch in every_image(small.space.num_codes):
        labels = Condition(labels=torch.ones(len(batch), dtype=torch.int64))
        found = small.log_likelihood(batch, labels if condition == "class" else Condition())
        assert found is not None
        assert len(found) == len(batch)
        total += float(found.double().flatten(1).sum(1).exp().sum())
    assert total <= 1 + 1e-5, "a bound of the likelihood may give less, never more"
    if kind in ("gpt", "unigram"):
        assert total == pytest.approx(1, abs=1e-5)


@EVERY
def test_a_saved_prior_draws_the_same(
    kind: str, condition: ConditionKind, groups: int, tmp_path: Path
) -> None:
    prior, conditions = make(kind, condition, groups), given(condition, 2)
    picture = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    codes = torch.zeros(2, groups, *GRID, dtype=torch.int64)
    nothing = torch.zeros(2, dtype=torch.float64)
    labels = conditions.labels if conditions.labels is not None else torch.full((2,), -1)
    save_prior(
        tmp_path / "prior", prior, True,
        PriorPictures(
            picture, codes, labels, ["", ""], conditions.label_map, picture, picture, ["a", "b"], nothing, nothing
        ),
        MadeWith({"quantizer": "vq", "sha256": "0" * 64}, None),
    )  # fmt: skip
    again = read_prior(tmp_path / "prior").prior
    assert (again.config, again.space) == (prior.config, prior.space)
    # A loaded prior takes no gradient, and on some processors torch then has other kernels, with other last digits.
    prior.requires_grad_(False)
    assert torch.equal(sample(again, conditions, 2), sample(prior, conditions, 2))
    assert not any(p.requires_grad for p in again.parameters())


@EVERY
def test_an_image_is_the_same_however_many_are_drawn(
    kind: str, condition: ConditionKind, groups: int
) -> None:
    prior, conditions = make(kind, condition, groups), given(condition, 6)
    drawn = sample(prior, conditions, 6)
    same(sample(prior, conditions.rows(slice(0, 4)), 4), drawn[:4])
    if "batch" in type(prior.config.sampling).model_fields:
        for size in (1, 4):
            own = prior.config.sampling.model_copy(update={"batch": size})
            same(prior.sample(conditions, 6, own, torch_rng(0, "samples")), drawn)


def same(one: Tensor, two: Tensor) -> None:
    """Equal codes, or latents that differ by rounding, which samplers of many steps amplify."""
    if one.is_floating_point():
        assert float((one - two).abs().max()) < 2e-4 * float(two.abs().max())
    else:
        assert torch.equal(one, two)


@EVERY
def test_a_condition_changes_samples_and_a_dropped_one_does_not(
    kind: str, condition: ConditionKind, groups: int
) -> None:
    prior = make(kind, condition, groups)
    if condition == "none":
        return
    one, two = given(condition, 6), given(condition, 6).rows(torch.arange(5, -1, -1))  # type: ignore[arg-type]
    assert not torch.equal(sample(prior, one, 6), sample(prior, two, 6))
    nothing = sample(prior, Condition(), 6)
    absent = {
        name: torch.full_like(part, -1) for name, part in one.parts.items() if not part.is_floating_point()
    }
    if one.text is not None:
        absent["text"] = torch.zeros_like(one.text)
    same(sample(prior, Condition(**absent), 6), nothing)
    if prior.config.sampling.guidance == 1:
        off = prior.config.sampling.model_copy(update={"guidance": 0.0})
        same(prior.sample(one, 6, off, torch_rng(0, "samples")), nothing)


@pytest.mark.parametrize("kind", PRIORS)
def test_the_most_extreme_params_draw_codes_and_more_extreme_ones_are_refused(kind: str) -> None:
    prior = make(kind, "class", 1)
    fields = {"guidance": (1e6, 1e39)}
    if prior.models == "tokens":
        fields["temperature"] = (1e-6, 1e-310)
    config = prior.config.model_dump(mode="json")

    def changed(**changes: float) -> PriorParams:
        whole = {**config, "sampling": {**config["sampling"], **changes}}
        return validate(whole, "prior", type(prior.config))

    most = changed(**{name: value for name, (value, _) in fields.items()})
    if prior.models == "tokens":  # the quantizer refuses latents that are not finite
        drawn = prior.sample(Condition(labels=torch.arange(3)), 3, most.sampling, torch_rng(0, "test"))
        assert 0 <= int(drawn.min()) <= int(drawn.max()) < prior.space.num_codes[0]
    for name, (_, beyond) in fields.items():
        with pytest.raises(ParamsError, match=name):
            changed(**{name: beyond})


@EVERY
def test_the_training_drops_conditions_as_often_as_the_params_state(
    kind: str, condition: ConditionKind, groups: int
) -> None:
    prior, whole = make(kind, condition, groups), given(condition, 1000)
    seed_everything(0, "dropped")
    left = prior.dropped(whole)
    if condition == "none":
        assert left == whole
        return
    gone = ~prior.given(left, 1000)
    assert float(gone.float().mean()) == pytest.approx(prior.config.condition_drop, abs=0.03)
    for name, part in left.parts.items():
        assert torch.equal(part[~gone], whole.parts[name][~gone])
        assert not part[gone].any() if part.is_floating_point() else (part[gone] == -1).all()


@EVERY
def test_what_was_not_trained_is_not_sampled(kind: str, condition: ConditionKind, groups: int) -> None:
    if condition == "none":
        return
    made = make(kind, condition, groups)
    prior = type(made)(made.config.model_copy(update={"condition_drop": 0.0}), made.space).eval()
    with pytest.raises(MismatchError, match="null condition"):
        sample(prior, Condition(), 6)


def train(
    prior: Prior,
    batches: Sequence[tuple[Tensor, Condition]],
    steps: int,
    scratch: Path,
    stop: int | None = None,
    checkpoint_every: int | None = None,
    optimizer: str = "adamw",
) -> TrainingResult:
    """Train on `batches` in turn; raises `Stopped` before the step `stop`."""
    config = {
        **shared()["training"], "num_steps": steps, "learning_rate": 5e-3, "final_lr_fraction": 0.02,
        "checkpoint_every": checkpoint_every or steps, "optimizer": optimizer,
    }  # fmt: skip

    def batch_at(step: int) -> tuple[Tensor, Condition]:
        if step == stop:
            raise Stopped
        return batches[step % len(batches)]

    seed_everything(0, "training")
    return run_training(
        PriorTraining(prior.train()), batch_at, validate(config, "training", TrainingParams),
        scratch=scratch, curves=None, device=torch.device("cpu"), title="test",
    )  # fmt: skip


class Stopped(Exception):
    """What a killed run is in a test."""


@EVERY
def test_a_stopped_training_goes_on_to_the_same_bytes(
    kind: str, condition: ConditionKind, groups: int, tmp_path: Path
) -> None:
    batches = [(batch_of(make(kind, condition, groups), 4), given(condition, 4))]
    for optimizer in optimizers_of(kind, condition):
        folder, run = tmp_path / optimizer, partial(train, batches=batches, steps=6, optimizer=optimizer)
        whole = run(make(kind, condition, groups), scratch=folder / "whole").weights
        with pytest.raises(Stopped):
            run(make(kind, condition, groups), scratch=folder / "parts", stop=5, checkpoint_every=2)
        again = run(make(kind, condition, groups), scratch=folder / "parts", checkpoint_every=2).weights
        assert whole.keys() == again.keys()
        assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def optimizers_of(kind: str, condition: ConditionKind) -> list[str]:
    """Both for each prior with matrices inside, on one of its conditions."""
    inside = condition == ALL[kind].conditions[-1] and PriorTraining(make(kind, condition, 1)).hidden("main")
    return ["adamw", "muon"] if inside else ["adamw"]


@pytest.mark.parametrize("kind", ["gpt", "masked", "vq_diffusion", "ddpm", "flow"])
def test_muon_moves_the_matrices_between_embeddings_and_heads(kind: str) -> None:
    prior = make(kind, "none", 1)
    hidden = PriorTraining(prior).hidden("main")
    named = {name for name, p in prior.named_parameters() if p in hidden}
    assert all(dict(prior.named_parameters())[name].ndim >= 2 for name in named)
    outside = {name for name, p in prior.named_parameters() if p.ndim >= 2} - named
    assert any("blocks" in name or "down" in name for name in named)
    assert not any("head" in name or "embed" in name or "table" in name for name in named)
    assert not any("blocks" in name and "norm" not in name for name in outside)


@LEARNER
def test_the_loss_falls_on_a_batch_that_can_be_learned(
    kind: str, condition: ConditionKind, groups: int, tmp_path: Path
) -> None:
    for optimizer in optimizers_of(kind, condition):
        learn(make(kind, condition, groups), optimizer, tmp_path / optimizer)


def learn(prior: Prior, optimizer: str, scratch: Path) -> None:
    """Two images by heart, in 120 steps."""
    condition = prior.config.condition
    batch, conditions = batch_of(prior, 2), given(condition, 2)

    @torch.no_grad()
    def mean_loss() -> float:
        """Over the draws of a training loss, without dropout."""
        seed_everything(1, "losses")
        return sum(float(prior.train().loss(batch, conditions)) for _ in range(32)) / 32

    before = mean_loss()
    result = train(prior, [(batch, conditions)], 120, scratch, optimizer=optimizer)
    prior.load_state_dict(result.weights)
    assert mean_loss() < 0.7 * before


TOY = ImageSpace((4,), (2, 2))
DISTANCE = 0.1
"""Largest total variation between the trained prior's joint distribution of a pair of positions and the true one, with
that of 4,000 draws, about 0.03, in it."""


def toy_images(count: int, seed: int) -> Tensor:
    """Images of 2 x 2 codes of which the right column follows from the left: code c is followed by c + 1 (mod 4) with
    probability 0.8, else by c."""
    rng = torch_rng(seed, "toy")
    left = torch.multinomial(torch.tensor([0.4, 0.3, 0.2, 0.1]), count * 2, replacement=True, generator=rng)
    follows = torch.rand(count * 2, generator=rng) < 0.8
    right = torch.where(follows, (left + 1) % 4, left)
    return torch.stack([left.view(count, 2), right.view(count, 2)], dim=-1)[:, None]


def pairs(images: Tensor, one: tuple[int, int], two: tuple[int, int]) -> Tensor:
    """The joint distribution of the codes at two positions, (16,)."""
    codes = 4 * images[:, 0, *one] + images[:, 0, *two]
    return torch.bincount(codes, minlength=16).double() / len(images)


# vq_diffusion needs more than the ten times of its example, and priors over latents another distribution: their own
# unit tests train them on one.
@pytest.mark.parametrize(
    "kind", [kind for kind in LEARNERS if ALL[kind].models == "tokens" and kind != "vq_diffusion"]
)
def test_a_small_distribution_is_learned(kind: str, tmp_path: Path) -> None:
    prior = ALL[kind]
    content = {**shared(), **prior.example(), "kind": kind, "condition": "none", "condition_drop": 0.0}
    seed_everything(0, "test")
    made = prior(validate(content, "prior", prior.Params), TOY)
    batches = [(toy_images(64, seed), Condition()) for seed in range(50)]
    made.load_state_dict(train(made, batches, 600, tmp_path).weights)
    drawn = sample(made.eval(), Condition(), 4000)
    true = toy_images(200_000, 99)
    distances = [
        0.5 * float((pairs(drawn, (0, 0), two) - pairs(true, (0, 0), two)).abs().sum())
        for two in ((0, 1), (1, 0), (1, 1))
    ]
    print(f"{kind}: total variation of pairs {', '.join(f'{own:.3f}' for own in distances)}")
    assert max(distances) < DISTANCE


def test_two_ranks_end_with_the_same_weights(tmp_path: Path) -> None:
    run_ranks(ROOT / "tests/train_prior_ranks.py", str(tmp_path))
    found = sorted(path for path in tmp_path.glob("*-0.safetensors"))
    assert len(found) == sum(
        case.values[0] in PRIORS._places for case in CASES if case.values[0] not in PLACES
    )
    for path in found:
        one, two = load_file(path), load_file(path.with_name(path.name.replace("-0.s", "-1.s")))
        assert one.keys() == two.keys()
        assert all(torch.equal(two[name], tensor) for name, tensor in one.items()), path.name
