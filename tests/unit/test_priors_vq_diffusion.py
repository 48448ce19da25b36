"""Discrete diffusion: the chain by matrices, distributions that can be enumerated, blocks, conditions, exact resume."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.ranks import run_two
from tests.small_priors import shared
from tests.unit.test_priors_large_k import Largest
from tests.unit.test_training_syncs import reads
from vqpipe.errors import MismatchError
from vqpipe.models.denoiser import Denoiser
from vqpipe.params.base import validate
from vqpipe.priors import vq_diffusion
from vqpipe.priors.contract import Condition, ImageSpace
from vqpipe.priors.discrete import Transitions
from vqpipe.priors.train import PriorTraining
from vqpipe.priors.vq_diffusion import VQDiffusion, VQDiffusionParams, jumps
from vqpipe.runtime.seeds import seed_everything, torch_rng
from vqpipe.training import loop, step
from vqpipe.training.checkpoint import moving_tensors
from vqpipe.training.step import Stepper

CPU = torch.device("cpu")
ONE, TWO, GRID, TEXT = (5,), (3, 4), (2, 3), (4, 8)
CLASSES = ("red", "green", "blue")
GROUPS = pytest.mark.parametrize("num_codes", [ONE, TWO], ids=["one group", "two groups"])


def prior(num_codes: tuple[int, ...] = ONE, grid: tuple[int, int] = GRID, **changes: Any) -> VQDiffusion:
    """A small prior whose predictions are far from uniform, in eval mode."""
    content = {
        **shared(), **VQDiffusion.example(), "kind": "vq_diffusion",
        "text": {"encoder": "clip", "max_tokens": TEXT[0]} if changes.get("condition") == "text" else None,
    }  # fmt: skip
    seed_everything(0, "test")
    space = ImageSpace(num_codes, grid, CLASSES, text_length=TEXT[0], text_dim=TEXT[1])
    made = VQDiffusion(validate({**content, **changes}, "prior", VQDiffusionParams), space)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


def images(num_codes: tuple[int, ...], count: int = 6) -> Tensor:
    rng = torch_rng(1, "images")
    return torch.stack([torch.randint(k, (count, *GRID), generator=rng) for k in num_codes], dim=1)


def labels(count: int = 6) -> Condition:
    return Condition(labels=torch.arange(count) % 3)


def sample(made: VQDiffusion, condition: Condition, n: int = 6, seed: int = 0, **changes: Any) -> Tensor:
    return made.sample(condition, n, made.config.sampling.model_copy(update=changes), torch_rng(seed, "s"))


def matrix(chain: Transitions, before: int, time: int) -> Tensor:
    """[i, j]: probability of state j at a time, from state i at an earlier one, as a product of single steps."""
    whole = torch.eye(chain.num_codes + 1, dtype=torch.float64)
    for at in range(before + 1, time + 1):
        keep, uniform, mask = (float(p) for p in chain.between(torch.tensor(at - 1), torch.tensor(at)))
        own = torch.full_like(whole, uniform) + keep * torch.eye(len(whole), dtype=torch.float64)
        own[:, -1] = mask
        own[-1] = torch.eye(len(whole), dtype=torch.float64)[-1]
        torch.testing.assert_close(own.sum(1), torch.ones(len(whole), dtype=torch.float64))
        whole = whole @ own
    return whole


WIDE = {"keep": (0.9, 0.1), "mask": (0.02, 0.6)}
"""A schedule with much uniform noise, so that its terms count."""


@pytest.mark.parametrize(("before", "time"), [(-1, 0), (2, 3), (0, 4), (-1, 5)])
def test_posterior_and_divergence_are_those_of_the_matrices(before: int, time: int) -> None:
    k = 4
    chain = Transitions(k, 6, **WIDE)
    first, last, whole = matrix(chain, -1, before), matrix(chain, before, time), matrix(chain, -1, time)
    torch.testing.assert_close(first @ last, whole)
    rows = torch.cartesian_prod(torch.arange(k), torch.arange(k + 1))  # of the image, at the time
    codes, tokens = rows.T
    predicted = torch.rand(len(rows), k, dtype=torch.float64, generator=torch_rng(0, "p")).softmax(1)
    given = torch.stack(
        [first[:k] * last[:, at] / whole[:k, at, None] for at in tokens]
    )  # (rows, image, before)
    expected = torch.einsum("ri,rij->rj", predicted, given)
    times = (torch.full((len(rows),), at) for at in (time, before))
    found = chain.posterior(predicted, tokens, *times)
    torch.testing.assert_close(torch.cat([found[0], found[1][:, None]], dim=1), expected)
    assert found[1][tokens == k].tolist() == pytest.approx([chain.stays_masked(time, before)] * k)
    if time - before == 1 and time > 0:
        true = given[torch.arange(len(rows)), codes]
        kl = torch.where(true > 0, true * (true.log() - expected.log()), 0.0).sum(1)
        own = chain.divergence(predicted.log(), codes, tokens, torch.full_like(codes, time))
        torch.testing.assert_close(own, kl)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("schedule", [{}, WIDE], ids=["its own", "wide"])
def test_the_written_gradient_of_the_terms_is_that_of_autograd(
    dtype: torch.dtype, tolerance: float, schedule: dict[str, Any]
) -> None:
    k, times, rng = 7, 6, torch_rng(0, "gradient")
    chain = Transitions(k, times, **schedule)
    grid = torch.cartesian_prod(torch.arange(k), torch.arange(k + 1), torch.arange(times))
    codes, tokens, time = grid.T
    logits = 3 * torch.randn(len(grid), k, generator=rng, dtype=dtype)
    weights = torch.rand(2, len(grid), generator=rng, dtype=dtype)
    found, expected = (logits.clone().requires_grad_() for _ in range(2))
    own = torch.stack(chain.terms(found, codes, tokens, time))
    log_probs = vq_diffusion.predicted_logs(expected)
    cross_entropy = -log_probs.gather(1, codes[:, None])[:, 0]
    whole = torch.stack([chain.divergence(log_probs, codes, tokens, time), cross_entropy])
    torch.testing.assert_close(own, whole, rtol=tolerance, atol=tolerance)
    for terms in (own, whole):
        (terms * weights).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=tolerance, atol=tolerance)


def test_noised_codes_have_the_frequencies_of_the_matrix() -> None:
    chain, n = Transitions(3, 6, **WIDE), 40_000
    numbers, other = torch.rand(1, n, generator=torch_rng(0, "u")), torch.randint(3, (1, n))
    found = chain.noised(torch.ones(1, n, dtype=torch.int64), torch.tensor([2]), numbers, other)
    frequencies = torch.bincount(found[0], minlength=4) / n
    torch.testing.assert_close(frequencies, matrix(chain, -1, 2)[1].float(), rtol=0, atol=0.01)


TOY = ImageSpace((4,), (2, 2))
EVERY = torch.tensor(list(itertools.product(range(4), repeat=4)))
"""All 256 images of 4 codes on a grid of 2 x 2."""


def toy() -> Tensor:
    """Probabilities of all images: 12 of them are possible. No position tells which; two positions nearly do."""
    same = (EVERY[:, 0] == EVERY[:, 3]) & (EVERY[:, 1] == EVERY[:, 2]) & (EVERY[:, 0] != EVERY[:, 1])
    weights = same * (1.0 + torch.arange(256) % 7)
    return weights / weights.sum()


def distance(drawn: Tensor) -> float:
    """Total variation of drawn images from `toy`."""
    index = (drawn.flatten(1) * torch.tensor([64, 16, 4, 1])).sum(1)
    return float((torch.bincount(index, minlength=256) / len(drawn) - toy()).abs().sum() / 2)


def marginal_distance(drawn: Tensor) -> float:
    """The largest total variation of one position's codes."""
    found = nn.functional.one_hot(drawn.flatten(1), 4).float().mean(0)
    true = (nn.functional.one_hot(EVERY, 4) * toy()[:, None, None]).sum(0)
    return float(((found - true).abs().sum(1) / 2).max())


class Exact(nn.Module):
    """The network that knows the toy distribution: each position's posterior, by enumeration."""

    def __init__(self, chain: Transitions) -> None:
        super().__init__()
        self.chain = chain
        self.heads = nn.ModuleList([nn.Identity()])

    def features(self, tokens: Tensor, time: Tensor) -> Tensor:
        step = self.chain.between(torch.full_like(time, -1), time)
        at = tokens[:, 0, None] == EVERY  # (b, 256, 4)
        likely = torch.where(at, (step.keep + step.uniform)[:, None, None], step.uniform[:, None, None])
        likely = torch.where(tokens[:, 0, None] == 4, 1.0, likely).prod(2) * toy()
        codes = nn.functional.one_hot(EVERY, 4).double()
        return torch.einsum("bi,ipk->bpk", likely, codes).clamp_min(1e-30).log()


@pytest.mark.parametrize(
    ("changes", "least", "most"),
    [({}, 0, 0.05), ({"skip": 4}, 0, 0.08), ({"skip": 4, "jump": "last"}, 0.15, 0.35)],
    ids=str,
)
def test_with_the_true_prediction_samples_have_the_true_distribution(
    changes: Any, least: float, most: float
) -> None:
    """Codes of one pass are drawn apart from each other, so that fewer passes give more wrong images; most with the
    posterior of the last skipped time alone. 4,000 images of the distribution itself have a distance of 0.02."""
    made = prior((4,), (2, 2), condition="none", condition_drop=0.0, num_times=50)
    made.denoiser = Exact(made.chains[0])  # type: ignore[assignment, arg-type]
    assert least < distance(sample(made, Condition(), 4000, **changes)) < most


def test_a_toy_distribution_is_learned() -> None:
    """The distance of 2,000 samples from it is about 0.1; that of independent positions is 0.9."""
    content: dict[str, Any] = {
        "num_times": 20, "auxiliary_weight": 0.1,
        "model": {"num_layers": 2, "num_heads": 2, "width": 32, "dropout": 0.0},
    }  # fmt: skip
    config = prior((4,), (2, 2), condition="none", condition_drop=0.0, **content).config
    seed_everything(0, "learn")
    made = VQDiffusion(config, TOY).train()
    optimizer = torch.optim.AdamW(made.parameter_groups(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        batch = EVERY[torch.multinomial(toy(), 128, replacement=True)].view(-1, 1, 2, 2)
        optimizer.zero_grad()
        made.loss(batch, Condition()).backward()
        nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    drawn = sample(made.eval(), Condition(), 2000)
    independent = torch.stack([drawn[torch.randperm(2000), 0, at // 2, at % 2] for at in range(4)], dim=1)
    assert distance(independent) > 0.8
    print(f"vq_diffusion: total variation {distance(drawn):.3f}")
    assert distance(drawn) < 0.15
    assert marginal_distance(drawn) < 0.06


@GROUPS
@pytest.mark.parametrize("changes", [{}, {"guidance": 2.0, "top_p": 0.9, "skip": 2}], ids=str)
def test_an_image_does_not_depend_on_its_batch(
    num_codes: tuple[int, ...], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prior(num_codes)
    whole = sample(made, labels(), **changes)
    assert torch.equal(whole[:2], sample(made, labels(2), 2, **changes))
    assert torch.equal(whole, sample(made, labels(), batch=4, **changes))
    assert not torch.equal(whole, sample(made, labels(), seed=1, **changes))
    assert sample(made, labels(0), 0, **changes).shape == (0, len(num_codes), *GRID)
    monkeypatch.setattr(vq_diffusion, "LOGITS", 2 * min(num_codes))
    assert torch.equal(whole, sample(made, labels(), **changes))


@GROUPS
def test_known_tokens_of_any_subset_stay_and_change_the_others(num_codes: tuple[int, ...]) -> None:
    made, tokens = prior(num_codes), images(num_codes)
    known = torch.where(torch.rand(tokens.shape, generator=torch_rng(3, "k")) < 0.5, tokens, -1)
    known[:, 0, 0, 0] = tokens[:, 0, 0, 0]
    drawn = sample(made, Condition(labels=labels().labels, tokens=known))
    assert torch.equal(drawn[known >= 0], known[known >= 0])
    sizes = torch.tensor(num_codes).view(1, -1, 1, 1)
    other = torch.where(known < 0, known, (known + 1) % sizes)
    changed = sample(made, Condition(labels=labels().labels, tokens=other))
    assert not torch.equal(drawn[known < 0], changed[known < 0])
    assert torch.equal(sample(made, Condition(labels=labels().labels, tokens=tokens)), tokens)


def texts() -> dict[str, Tensor]:
    rng = torch_rng(2, "text")
    return {
        "text": torch.randn(6, *TEXT, generator=rng),
        "text_ids": torch.randint(9, (6, TEXT[0]), generator=rng),
    }


@pytest.mark.parametrize("condition", ["class", "text"])
def test_guidance_takes_one_pass_a_time_and_draws_what_two_would(
    condition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, plain = prior(condition=condition), Denoiser.features
    given = labels() if condition == "class" else Condition(**texts())
    seen: list[int] = []

    def in_two(own: Denoiser, tokens: Tensor, time: Tensor, **both: Tensor) -> Tensor:
        seen.append(len(tokens))
        conditional = plain(own, tokens[:6], time[:6], **{name: value[:6] for name, value in both.items()})
        return torch.cat([conditional, plain(own, tokens[6:], time[6:])])

    drawn = sample(made, given, guidance=3.0)
    monkeypatch.setattr(Denoiser, "features", in_two)
    assert torch.equal(drawn, sample(made, given, guidance=3.0))
    assert seen == [12] * made.config.num_times


@pytest.mark.parametrize("condition", ["class", "text"])
def test_guidance_of_one_is_the_condition_and_of_zero_the_null(condition: str) -> None:
    made, text = prior(condition=condition), texts()
    given = labels() if condition == "class" else Condition(**text)
    plain, null = sample(made, given), sample(made, Condition())
    assert not torch.equal(plain, null)
    assert torch.equal(sample(made, given, guidance=0.0), null)
    assert not torch.equal(sample(made, given, guidance=4.0), plain)
    absent = {"labels": torch.full((6,), -1)} if condition == "class" else {
        **text, "text_ids": torch.full((6, TEXT[0]), -1)
    }  # fmt: skip
    assert torch.equal(sample(made, Condition(**absent)), null)


@GROUPS
def test_blocks_give_the_loss_and_the_gradient_of_the_whole(
    num_codes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> tuple[Tensor, list[Tensor | None]]:
        made = prior(num_codes).train()
        torch.manual_seed(0)
        loss = made.loss(images(num_codes), labels())
        loss.backward()
        return loss.detach(), [p.grad for p in made.parameters()]

    whole, gradients = run()
    monkeypatch.setattr(vq_diffusion, "LOGITS", 5 * min(num_codes))
    blocks, own = run()
    torch.testing.assert_close(blocks, whole)
    torch.testing.assert_close(own, gradients, rtol=1e-4, atol=1e-6)


def test_the_logits_of_a_batch_are_never_all_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, rows = 3000, 10
    monkeypatch.setattr(vq_diffusion, "LOGITS", rows * codes)
    made = prior((codes,))
    with Largest() as largest:
        made.train().loss(images((codes,)), labels()).backward()
        sample(made.eval(), labels(), guidance=2.0)
    assert (
        rows * codes <= largest.elements <= (codes + 1) * 17
    )  # the codes' embedding and its mask, the draw's mask


def test_times_are_recorded_in_training_only_and_stay_out_of_the_average() -> None:
    made = prior()
    assert made.times is not None
    made.loss(images(ONE), labels())
    assert not made.times.visits.any()
    made.train().loss(images(ONE), labels())
    assert int(made.times.visits.sum()) == 6
    assert torch.equal(made.times.visits > 0, made.times.history > 0)
    assert not any(name.startswith("times") for name in moving_tensors({"": made}))
    assert {"times.history", "times.visits"} <= set(made.state_dict())
    assert prior(importance=False).times is None


def test_a_step_reads_one_boolean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "schedule", lambda *_: 1.0)
    objective = PriorTraining(prior().train())
    config = objective.prior.config.training
    stepper = Stepper(objective, loop._prepare(objective, config, CPU), config, CPU)
    for group in stepper.state.optimizers["main"].param_groups:
        group["fused"] = True
    with reads() as found:
        assert stepper.step((images(ONE), labels())) is not None
    assert found == {"_local_scalar_dense": 1}


def trained(scratch: Path, stop: int | None = None) -> dict[str, Tensor]:
    """What 12 steps end with; the run is killed before the batch of step `stop`."""

    def batch_at(number: int) -> Any:
        if number == stop:
            raise KeyboardInterrupt
        return images(ONE).roll(number, 0), labels()

    made = prior(num_times=3).train()  # so few times that they are soon drawn by their losses
    assert made.times is not None
    made.times.visits.fill_(8)
    seed_everything(0, "training")
    training = made.config.training.model_copy(
        update={"num_steps": 12, "checkpoint_every": 3, "ema_decay": 0.9}
    )
    done = loop.run_training(
        PriorTraining(made), batch_at, training, scratch=scratch, curves=None, device=CPU, title="test"
    )
    return done.weights


def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "broken", stop=8)
    again = trained(tmp_path / "broken")
    assert int(whole["times.visits"].min()) > 10
    assert all(torch.equal(whole[name], again[name]) for name in whole)


RANKS = """
import torch
from tests.unit.test_priors_vq_diffusion import ONE, images, labels, prior

made = prior().train()
join()
for step in range(3):
    torch.manual_seed(10 * step + rank)
    loss = made.loss(images(ONE)[3 * rank : 3 * rank + 3], labels().rows(slice(3 * rank, 3 * rank + 3)))
    made.zero_grad()
    loss.backward()
    average_gradients(made)
torch.save({**made.state_dict(), "gradient": made.denoiser.heads[0].weight.grad}, f"rank{rank}.pt")
"""


def test_two_ranks_have_the_same_history(tmp_path: Path) -> None:
    run_two(RANKS, tmp_path)
    one, two = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert int(one["times.visits"].sum()) == 18
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_passes_end_at_the_image() -> None:
    assert (
        jumps(10, 0, "whole") == [(time, time, time - 1) for time in range(9, -1, -1)] == jumps(10, 0, "last")
    )
    assert jumps(10, 3, "whole") == [(9, 9, 5), (5, 5, 1), (1, 1, 0), (0, 0, -1)]
    assert jumps(10, 3, "last") == [(9, 6, 5), (5, 2, 1), (1, 1, 0), (0, 0, -1)]
    assert jumps(10, 99, "whole") == [(9, 9, 0), (0, 0, -1)]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(MismatchError, match="another shape"):
        prior().loss(images(TWO), labels())
    made = prior(condition_drop=0.0)
    with pytest.raises(MismatchError, match=r"guidance 2\.0 needs the null condition"):
        sample(made, labels(), guidance=2.0)
    with pytest.raises(MismatchError, match="needs the null condition"):
        sample(made, Condition())
    with pytest.raises(MismatchError, match="not a class"):
        made.loss(images(ONE), Condition(labels=torch.full((6,), 3)))
    assert made.log_likelihood(images(ONE), labels()) is None
