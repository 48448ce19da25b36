"""Options of a training run: they change cost or memory, not the result, and a killed run still resumes exactly."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.recipes import IBQ, VQ, residual
from tests.small_training import (
    BATCH,
    CPU,
    GRID,
    STEPS,
    Distance,
    batch_at,
    dying_at,
    make,
    params,
    same_bytes,
    train,
)
from tests.unit.test_training_loop import batch_at as line_batch
from tests.unit.test_training_loop import run as run_line
from vqpipe.errors import MismatchError, SetupError
from vqpipe.runtime.device import deterministic_algorithms, tf32_products
from vqpipe.tokenizers.objective import TokenizerObjective
from vqpipe.training.loop import _prepare
from vqpipe.training.objective import TrainingResult
from vqpipe.training.step import Stepper, channels_last, micro_batches

COMPILE = torch.compile
COMPILER = pytest.mark.skipif(
    not any(shutil.which(os.environ.get("CXX", name)) for name in ("g++", "clang++")),
    reason="torch.compile on the CPU needs a C++ compiler, and there is none",
)
PLATEAU = {"plateau": {"window": 2, "min_relative_change": 0.9, "earliest": 0.3, "latest": 0.9}}
OPTIONS: dict[str, dict[str, Any]] = {
    "accumulate": {"training": {"accumulate": 2}},
    "channels_last": {"training": {"channels_last": True}},
    "deterministic": {"training": {"deterministic": True}},
    "spectral_norm": {"losses": {"adversarial": {"discriminator": {"spectral_norm": True}}}},
    "r1": {"losses": {"adversarial": {"r1": {"weight": 1.0, "every": 2}}}},
    "plateau": {"losses": {"adversarial": {"start": PLATEAU}}},
}


def close(one: dict[str, Tensor], two: dict[str, Tensor], atol: float) -> None:
    """The same floating-point values but for `atol`."""
    assert set(one) == set(two)
    for name, value in one.items():
        if not value.is_floating_point():
            continue
        torch.testing.assert_close(two[name], value, rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", OPTIONS)
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, name: str) -> None:
    config = params(**OPTIONS[name])
    training, whole = train(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "broken", dying_at(5))
    torch.manual_seed(99)
    resumed_training, resumed = train(config, tmp_path / "broken")
    assert same_bytes(whole.weights, resumed.weights)
    assert same_bytes(training.module.state_dict(), resumed_training.module.state_dict())
    assert whole.rows == resumed.rows
    assert any("ae/adversarial" in row for row in whole.rows)
    if name == "r1":
        assert any("disc/r1" in row for row in whole.rows)
    if name == "plateau":
        assert training.start.started_at == 0.5


def gradients(accumulate: int) -> dict[str, Tensor]:
    """Of one step, unclipped; the discriminator learns, and does not count in the autoencoder's loss yet."""
    config = params(
        losses={"adversarial": {"start": 0.0, "warmup": 1.0}},
        training={"accumulate": accumulate, "clip_grad_norm": 0.0},
    )
    training = make(config)
    torch.manual_seed(1)
    Stepper(training, _prepare(training, config.training, CPU), config.training, CPU).step(batch_at(0))
    return {name: p.grad for name, p in training.module.named_parameters() if p.grad is not None}


def test_micro_batches_add_up_to_the_gradient_of_the_batch() -> None:
    one, four = gradients(1), gradients(4)
    assert set(one) == set(four) == {name for name, _ in make(params()).module.named_parameters()}
    close(one, four, atol=2e-6)
    assert max(float(value.abs().max()) for value in one.values()) > 1e-2


def test_micro_batches_train_the_same_weights_on_the_same_items(tmp_path: Path) -> None:
    plain = {"losses": {"adversarial": {"weight": 0.0}}}
    (first, one), (second, four) = (
        train(params(**plain, training={"accumulate": n}), tmp_path / str(n)) for n in (1, 4)
    )
    close(one.weights, four.weights, atol=1e-5)
    for a, b in zip(one.rows, four.rows, strict=True):
        assert b["ae/loss"] == pytest.approx(a["ae/loss"], rel=1e-5)
    assert int(first.watch.tokens) == int(second.watch.tokens) == STEPS * BATCH * GRID
    assert torch.equal(first.watch.get_buffer("last_used_0"), second.watch.get_buffer("last_used_0"))
    parts = micro_batches((batch_at(0), {"labels": torch.arange(BATCH), "none": None}), 2)
    assert torch.equal(torch.cat([part[0] for part in parts]), batch_at(0))
    assert [part[1]["labels"].tolist() for part in parts] == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    "quantizer",
    [
        {**IBQ, "dim": 4, "init": "data"},
        residual({**VQ, "dim": 4, "init": "data"}),
    ],
    ids=lambda q: q["kind"],
)
def test_codes_start_from_the_whole_batch(quantizer: dict[str, Any]) -> None:
    states = []
    for count in (1, 4):
        training = make(params(quantizer=quantizer))
        torch.manual_seed(2)
        parts = micro_batches(batch_at(0), count)
        training.begin(parts, 0, 0.0)
        training.loss("ae", parts[0], 0.0)  # without micro-batches the first forward pass sets the codes
        states.append(training.tokenizer.quantizer.state_dict())  # type: ignore[attr-defined]
    close(states[0], states[1], atol=1e-5)


class Layouts(TokenizerObjective):
    """Looks at the layout of what it trains on."""

    seen: tuple[bool, bool] = (False, False)

    def begin(self, batches: Sequence[Any], step: int, progress: float) -> None:
        weight = self.tokenizer.encoder.stem.weight
        self.seen = tuple(t.is_contiguous(memory_format=torch.channels_last) for t in (weight, batches[0]))  # type: ignore[assignment]
        super().begin(batches, step, progress)


def test_channels_last_changes_the_layout_and_nothing_else(tmp_path: Path) -> None:
    _, plain = train(params(), tmp_path / "plain")
    config = params(training={"channels_last": True})
    training = make(config, Layouts)
    assert isinstance(training, Layouts)
    _, result = train(config, tmp_path / "last", training=training)
    assert training.seen == (True, True)
    close(plain.weights, result.weights, atol=1e-4)
    assert all(parameter.is_contiguous() for parameter in training.module.parameters())
    labels = torch.arange(16).view(2, 2, 2, 2)
    assert channels_last((labels, batch_at(0)))[0] is labels


def test_channels_last_without_convolutions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="a model without convolutions"):
        run_line(tmp_path, channels_last=True)


@pytest.mark.slow
@COMPILER
def test_compiled_networks_train_the_same_weights_and_resume(tmp_path: Path) -> None:
    """With dropout: compiled or not, the same elements are dropped."""
    _, plain = run_line(tmp_path / "plain")
    line, compiled = run_line(tmp_path / "compiled", compile=True)
    close(plain.weights, compiled.weights, atol=1e-5)
    assert "forward" not in vars(line.networks()[0])

    def dying(step: int) -> Tensor:
        if step == 13:
            raise KeyboardInterrupt
        return line_batch(step)

    with pytest.raises(KeyboardInterrupt):
        run_line(tmp_path / "broken", dying, compile=True)
    torch.manual_seed(99)
    _, resumed = run_line(tmp_path / "broken", compile=True)
    assert same_bytes(compiled.weights, resumed.weights)
    assert compiled.rows == resumed.rows


@pytest.mark.parametrize(("shortcut", "precision"), [(False, "fp32"), (True, "fp32"), (True, "bf16")])
def test_the_losses_go_backward_through_graphs_of_the_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shortcut: bool, precision: str
) -> None:
    """A compiled graph runs backward once; here without the code generator, which takes minutes for a trunk."""
    seen: list[Any] = []

    def graphs_only(function: Any, options: dict[str, Any]) -> Any:
        seen.append(function)
        return COMPILE(function, backend="aot_eager")

    def run(folder: str, compiled: bool) -> tuple[TokenizerObjective, TrainingResult]:
        config = params(trunk={"shortcut": shortcut}, training={"compile": compiled, "precision": precision})
        training = make(config)
        torch.manual_seed(0)
        training.perceptual = Distance()
        return train(config, tmp_path / folder, training=training)

    _, eager = run("eager", False)
    monkeypatch.setattr(torch, "compile", graphs_only)
    training, result = run("graphs", True)
    assert len(seen) == 4  # encoder, decoder, discriminator, perceptual net
    assert any("ae/adaptive_weight" in row for row in result.rows)
    if precision == "fp32":
        close(eager.weights, result.weights, atol=1e-4)
    modules: list[nn.Module] = [*training.networks(), *training.uncompiled()]
    assert all("forward" not in vars(module) for module in modules)


def test_ranks_and_micro_batches_must_share_the_batch(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="4 over 1 ranks x accumulate 3"):
        train(params(training={"accumulate": 3}), tmp_path)


@pytest.mark.parametrize("before", [(False, False), (True, True)])
def test_deterministic_mode_sets_the_flags_and_restores_them(
    before: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)

    def flags() -> tuple[bool, bool]:
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        return torch.are_deterministic_algorithms_enabled(), warn_only

    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    torch.backends.cudnn.benchmark = True
    try:
        with deterministic_algorithms(True):
            assert flags() == (True, False)
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
            assert not torch.backends.cudnn.benchmark
        assert flags() == before
        assert torch.backends.cudnn.benchmark
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
        with deterministic_algorithms(False):
            assert flags() == before
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = benchmark


def test_tf32_is_of_products_on_cuda_and_ends_with_the_training(tmp_path: Path) -> None:
    before = torch.get_float32_matmul_precision()
    assert before == "highest"
    for enabled, inside in ((True, "high"), (False, before)):
        with tf32_products(enabled):
            assert torch.get_float32_matmul_precision() == inside
        assert torch.get_float32_matmul_precision() == before
    plain, rounded = (run_line(tmp_path / name, precision=name)[1] for name in ("fp32", "tf32"))
    assert all(torch.equal(value, rounded.weights[name]) for name, value in plain.weights.items())


def test_deterministic_mode_refuses_what_has_no_deterministic_form(tmp_path: Path) -> None:
    class Unordered(TokenizerObjective):
        def observe(self, progress: float) -> None:
            torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2))

    for option in (False, True):
        config = params(losses={"adversarial": {"weight": 0.0}}, training={"deterministic": option})
        training = make(config, Unordered)
        if not option:
            train(config, tmp_path / "free", training=training)
            continue
        with pytest.raises(SetupError, match="put_ does not have a deterministic implementation"):
            train(config, tmp_path / "strict", training=training)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_roll_back_forgets_the_steps_it_takes_back(tmp_path: Path) -> None:
    def poisoned(step: int) -> Tensor:
        return batch_at(step) * (float("nan") if step == 5 else 1.0)

    config = params(losses={"adversarial": {"start": PLATEAU}})
    training, result = train(config, tmp_path, poisoned)
    assert result.num_rollbacks == 1
    assert (int(training.watch.calls), int(training.watch.tokens)) == (STEPS, STEPS * BATCH * GRID)
    # Windows of two steps; the run went back from step 5 to step 3, within the second of them.
    means = [sum(row["ae/reconstruction"] for row in result.rows[at : at + 2]) / 2 for at in (0, 2)]
    assert training.start.started_at == 0.5
    assert training.start.memory[0].item() == pytest.approx(means[1], rel=1e-6)


def test_a_roll_back_under_fp16_goes_on(tmp_path: Path) -> None:
    def poisoned(step: int) -> Tensor:
        rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        return rows * (float("nan") if step == 9 else 1.0)

    _, result = run_line(tmp_path, poisoned, precision="fp16")
    assert (result.num_rollbacks, result.num_steps) == (1, 20)
    assert all(torch.isfinite(value).all() for value in result.weights.values())
