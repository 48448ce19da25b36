"""The watch over codes in training: dead codes by hand, one warning for a collapse, equal state however it is fed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.ranks import run_two
from vqpipe.tokenizers.objective import CodeWatch

K, STEPS, EVERY = 64, 100, 5


def update(watch: CodeWatch, indices: Tensor) -> dict[str, float]:
    return watch.record(watch.count(indices))


def batch(step: int, kinds: int, n: int = 8) -> torch.Tensor:
    """Indices (n, 1, 4, 4) that use the first `kinds` codes evenly."""
    generator = torch.Generator().manual_seed(step)
    return torch.randint(kinds, (n, 1, 4, 4), generator=generator)


def kinds(step: int, collapse: bool) -> int:
    return 2 if collapse and step > 40 else K


def train(watch: CodeWatch, first: int, last: int, collapse: bool, parts: int = 1) -> list[dict[str, float]]:
    rows = []
    for step in range(first, last + 1):
        for part in batch(step, kinds(step, collapse)).chunk(parts):
            terms = update(watch, part)
        rows.append(terms)
    return rows


def test_a_collapse_is_told_once_and_a_healthy_run_never(capsys: pytest.CaptureFixture[str]) -> None:
    watch = CodeWatch([K], STEPS, EVERY, title="vq")
    train(watch, 1, STEPS, collapse=False)
    assert capsys.readouterr().err == ""
    assert watch.metrics().collapse_step is None
    watch = CodeWatch([K], STEPS, EVERY, title="vq")
    train(watch, 1, 54, collapse=True)
    assert capsys.readouterr().err == ""  # two windows are low, the third is not over
    train(watch, 55, STEPS, collapse=True)
    told = capsys.readouterr().err
    assert told.count("seems to collapse") == 1
    assert told.startswith("vq: the codebook seems to collapse at step 55: perplexity 2.0 of 64 codes")
    assert watch.metrics().plain() == {
        "collapse_step": 55,
        "collapse_steps": [55],
        "dead_after_steps": [EVERY],
    }


def test_a_dip_that_passes_and_the_first_steps_are_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    watch = CodeWatch([K], STEPS, EVERY)
    for step in range(1, STEPS + 1):
        update(watch, batch(step, 1 if step <= 10 or 40 < step <= 50 else K))
    assert capsys.readouterr().err == ""


def test_the_group_that_collapses_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    watch = CodeWatch([K, 5, K], STEPS, EVERY)
    for step in range(1, STEPS + 1):
        whole, poor = batch(step, K), batch(step, 2)
        update(watch, torch.cat([whole, torch.zeros_like(whole), poor], dim=1))
    told = capsys.readouterr().err
    assert told.count("seems to collapse") == 1  # five codes are too few to judge
    assert "group 2" in told
    assert watch.metrics().collapse_steps == [None, None, 25]


def test_dead_codes_of_a_sequence_by_hand() -> None:
    """Four codes, four tokens a step, so that n is max(window 2, ceil(4 * 4 / 4)) = 4 steps."""
    watch = CodeWatch([4], 8, 2)
    steps = ["0123", "0120", "0100", "0000", "0000", "0010", "0000", "0000"]
    rows = [update(watch, torch.tensor([int(c) for c in codes]).view(1, 1, 2, 2)) for codes in steps]
    assert [bool(row) for row in rows] == [False, True] * 4
    assert rows[1] == pytest.approx(
        {"window_used_share_0": 1.0, "window_perplexity_0": math.exp(-(0.375 * math.log(0.375)
         + 0.25 * math.log(0.25) * 2 + 0.125 * math.log(0.125)))}
    )  # fmt: skip
    assert watch.dead_after(0) == 4
    # At step 4 all were used in steps 1 to 4; at 6, code 3 (last at 1) and code 2 (at 2) are dead; at 8, code 1
    # (last at 6) lives.
    assert [rows[step - 1]["dead_share_0"] for step in (4, 6, 8)] == [0.0, 0.5, 0.5]
    assert rows[7]["window_used_share_0"] == 0.25
    assert rows[7]["window_perplexity_0"] == 1.0


@pytest.mark.parametrize("at", [23, 47, 58])
def test_a_run_that_resumes_goes_on_as_if_it_had_not_stopped(
    at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, first, second = (CodeWatch([K], STEPS, EVERY) for _ in range(3))
    rows = train(whole, 1, STEPS, collapse=True)
    told = capsys.readouterr().err
    before = train(first, 1, at, collapse=True)
    second.load_state_dict(first.state_dict())
    assert before + train(second, at + 1, STEPS, collapse=True) == rows
    assert capsys.readouterr().err == told
    check_equal(whole, second)


def test_micro_batches_make_no_difference(capsys: pytest.CaptureFixture[str]) -> None:
    one, four = CodeWatch([K], STEPS, EVERY), CodeWatch([K], STEPS, EVERY, calls_per_step=4)
    rows = train(one, 1, STEPS, collapse=True)
    assert train(four, 1, STEPS, collapse=True, parts=4) == rows
    assert four.metrics() == one.metrics()
    check_equal(one, four, but="calls")
    assert capsys.readouterr().err.count("seems to collapse") == 2


def test_within_a_window_nothing_is_read_from_the_device() -> None:
    """A tensor on `meta` has no values, so that reading one raises."""
    watch = CodeWatch([K, K], STEPS, EVERY)
    pairs = [torch.cat([batch(step, K), batch(step + 1, K)], dim=1) for step in range(1, EVERY + 1)]
    assert update(watch, pairs[0]) == {}
    watch.to("meta")
    for pair in pairs[1:-1]:
        assert update(watch, pair.to("meta")) == {}
    with pytest.raises(RuntimeError, match="meta"):
        update(watch, pairs[-1].to("meta"))  # the window closes


def test_a_run_that_rolls_back_counts_from_there() -> None:
    watch = CodeWatch([K], STEPS, EVERY)
    rows = train(watch, 1, 7, collapse=False)
    kept = {name: tensor.clone() for name, tensor in watch.state_dict().items()}
    rows += train(watch, 8, 33, collapse=False)
    watch.load_state_dict(kept)
    assert train(watch, 8, 33, collapse=False) == rows[7:]


def check_equal(a: CodeWatch, b: CodeWatch, but: str = "") -> None:
    other = b.state_dict()
    assert set(other) == set(a.state_dict())
    for name, tensor in a.state_dict().items():
        assert name == but or torch.equal(tensor, other[name]), name


RANKS = """
import contextlib, io
import torch
from tests.unit.test_tokenizers_watch import K, EVERY, STEPS, batch, check_equal, kinds, update
from vqpipe.tokenizers.objective import CodeWatch

alone, errors = CodeWatch([K], STEPS, EVERY), io.StringIO()
with contextlib.redirect_stderr(io.StringIO()):
    rows = [update(alone, batch(step, kinds(step, True))) for step in range(1, STEPS + 1)]
join()
shared = CodeWatch([K], STEPS, EVERY)
with contextlib.redirect_stderr(errors):
    mine = [update(shared, batch(step, kinds(step, True)).chunk(2)[rank]) for step in range(1, STEPS + 1)]
assert mine == rows
check_equal(alone, shared)
assert errors.getvalue().count("seems to collapse") == (rank == 0)
"""


@pytest.mark.slow
def test_two_ranks_hold_the_state_of_one(tmp_path: Path) -> None:
    run_two(RANKS, tmp_path)
