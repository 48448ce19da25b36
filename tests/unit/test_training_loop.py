"""The training loop: schedule, averages, checkpoints, exact resume, roll-back."""

from __future__ import annotations

import csv
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from tests.damage import DAMAGES, DELETED
from vqpipe.artifacts.tensors import read_tensor_header
from vqpipe.errors import SetupError
from vqpipe.params.base import validate
from vqpipe.training import loop
from vqpipe.training.checkpoint import AveragedWeights, moving_tensors
from vqpipe.training.loop import MAX_ROLLBACKS, TrainingError, run_training
from vqpipe.training.objective import Decay, Objective, TrainingParams, TrainingResult
from vqpipe.training.step import schedule

CPU = torch.device("cpu")
TRAINING = {
    "num_steps": 20, "batch_size": 4, "learning_rate": 0.05, "betas": [0.9, 0.99], "weight_decay": 0.0,
    "warmup_fraction": 0.2, "final_lr_fraction": 0.1, "clip_grad_norm": 1.0, "ema_decay": 0.9,
    "precision": "fp32", "log_every": 6, "checkpoint_every": 4,
}  # fmt: skip


class Line(Objective):
    """Two phases on a line fit; dropout makes the global random state matter."""

    phases = ("main", "late")

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = nn.ModuleDict(
            {"a": nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1)), "b": nn.Linear(1, 1)}
        )

    def parameters(self, phase: str) -> list[dict[str, Any]]:
        return [{"params": list(self.module["a" if phase == "main" else "b"].parameters())}]

    def active(self, phase: str, progress: float) -> bool:
        return phase == "main" or progress >= 0.5

    def networks(self) -> list[nn.Module]:
        return [self.module["a"]]

    def loss(self, phase: str, batch: Tensor, progress: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        target = batch.sum(1, keepdim=True)
        if phase == "late":
            return (self.module["b"](target) - 1).square().mean(), {}
        error = (self.module["a"](batch) - target).square().mean()
        return error, {"error": error.detach(), "progress": progress}


def batch_at(step: int) -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(step))


def run(folder: Path, batches: Any = batch_at, **changes: Any) -> tuple[Line, TrainingResult]:
    config = validate({**TRAINING, **changes}, "training", TrainingParams)
    line = Line()
    folder.mkdir(exist_ok=True)
    torch.manual_seed(1)
    return line, run_training(
        line, batches, config, scratch=folder, curves=folder / "curves.csv", device=CPU, title="line"
    )


def equal(one: TrainingResult, two: TrainingResult) -> bool:
    return (
        all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)
        and one.rows == two.rows
    )


def test_schedule_warms_up_peaks_and_ends_at_its_final_fraction() -> None:
    factors = [schedule(step, 100, 0.1, 0.2) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == pytest.approx(1.0)
    assert factors[99] == pytest.approx(0.2)
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert schedule(0, 100, 0.0, 0.2) == pytest.approx(1.0)


def test_a_linear_decay_falls_by_equal_steps() -> None:
    factors = [schedule(step, 100, 0.1, 0.2, "linear") for step in range(100)]
    assert factors[:10] == [schedule(step, 100, 0.1, 0.2) for step in range(10)]
    assert factors[10:] == pytest.approx([1 - 0.8 * (step - 10) / 89 for step in range(10, 100)])


def test_the_loop_takes_its_rates_from_the_decay_that_its_params_name(tmp_path: Path) -> None:
    for decay in get_args(Decay):
        _, result = run(tmp_path / decay, decay=decay, log_every=1)
        expected = [0.05 * schedule(step, 20, 0.2, 0.1, decay) for step in range(20)]
        assert [row["learning_rate"] for row in result.rows] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("field", "usual", "other"), [("decay", "cosine", "linear"), ("optimizer", "adamw", "muon")]
)
def test_params_without_a_newer_field_mean_the_usual_and_are_written_without_it(
    field: str, usual: str, other: str
) -> None:
    config = validate(TRAINING, "training", TrainingParams)
    plain = config.model_dump(mode="json")
    assert getattr(config, field) == usual
    assert field not in plain
    changed = validate({**TRAINING, field: other}, "training", TrainingParams).model_dump(mode="json")
    assert changed == plain | {field: other}


class Partly(nn.Module):
    """A trained and a frozen parameter, a buffer that moves, one that does not, and one of whole numbers."""

    frozen_buffers = ("still",)

    def __init__(self) -> None:
        super().__init__()
        self.trained = nn.Parameter(torch.zeros(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("moving", torch.zeros(2))
        self.register_buffer("still", torch.ones(2))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


def test_average_starts_at_the_first_update_and_follows_what_moves() -> None:
    module = nn.ModuleDict({"part": Partly(), "other": nn.Linear(1, 1)})
    average = AveragedWeights(moving_tensors({"part": module["part"]}), 0.9)
    assert set(average.weights) == {"part.trained", "part.moving"}
    with torch.no_grad():
        for value, decay in ((3.0, 0.0), (5.0, 3 / 12), (2.0, 4 / 13)):
            before = average.weights["part.trained"].clone()
            module["part"].trained.fill_(value)  # type: ignore[union-attr, operator]
            module["part"].moving.fill_(value)  # type: ignore[union-attr, operator]
            average.update()
            for found in average.weights.values():
                torch.testing.assert_close(found, decay * before + (1 - decay) * value)


def test_it_learns_and_the_phases_start_when_they_are_active(tmp_path: Path) -> None:
    line, result = run(tmp_path, num_steps=200)
    errors = [row["main/error"] for row in result.rows]
    assert errors[-1] < 0.5 * errors[0]
    assert "late/loss" not in result.rows[10]
    assert "late/loss" in result.rows[-1]
    assert result.averaged
    assert result.num_steps == 200
    assert not torch.equal(result.weights["a.0.weight"], line.module.state_dict()["a.0.weight"])


def test_no_average_keeps_the_last_weights(tmp_path: Path) -> None:
    line, result = run(tmp_path, ema_decay=0.0)
    assert not result.averaged
    assert torch.equal(result.weights["a.0.weight"], line.module.state_dict()["a.0.weight"])


@pytest.mark.parametrize("stop", [1, 5, 8, 13, 19])
def test_a_run_that_stops_anywhere_goes_on_to_the_same_weights_and_curves(tmp_path: Path, stop: int) -> None:
    _, whole = run(tmp_path / "whole")
    taken: list[int] = []

    def dying(step: int) -> Tensor:
        taken.append(step)
        if step == stop:
            raise KeyboardInterrupt
        return batch_at(step)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", dying)
    torch.manual_seed(99)
    _, resumed = run(tmp_path / "broken")
    assert equal(whole, resumed)
    assert (tmp_path / "whole/curves.csv").read_bytes() == (tmp_path / "broken/curves.csv").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingResult, bytes]:
    """The end and the curves of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return run(folder)[1], (folder / "curves.csv").read_bytes()


def stopped(folder: Path) -> Path:
    """The newest checkpoint, of step 12, of a run that was stopped at step 13; the one before is of step 8."""

    def dying(step: int) -> Tensor:
        if step == 13:
            raise KeyboardInterrupt
        return batch_at(step)

    with pytest.raises(KeyboardInterrupt):
        run(folder, dying)
    return folder / "checkpoint.safetensors"


@pytest.mark.parametrize("damage", [*DAMAGES.values(), *DELETED.values()], ids=[*DAMAGES, *DELETED])
@pytest.mark.parametrize("both", [False, True])
def test_a_damaged_checkpoint_costs_steps_and_changes_nothing(
    tmp_path: Path,
    whole: tuple[TrainingResult, bytes],
    damage: Callable[[Path], None],
    both: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    newest = stopped(tmp_path)
    damage(newest)
    if both:
        damage(tmp_path / "checkpoint.before.safetensors")
    assert capsys.readouterr().err == ""
    taken: list[int] = []
    torch.manual_seed(99)
    _, resumed = run(tmp_path, lambda step: (taken.append(step), batch_at(step))[1])
    assert min(taken) == (0 if both else 8)
    assert equal(whole[0], resumed)
    assert (tmp_path / "curves.csv").read_bytes() == whole[1]
    said = capsys.readouterr().err.splitlines()
    if damage is Path.unlink:
        assert len(said) == (0 if both else 1)
    else:
        assert len(said) == (2 if both else 1)
        assert str(newest) in said[0]
        assert (tmp_path / "checkpoint.damaged.safetensors").is_file()


@pytest.mark.parametrize("poison", [(9,), (6, 9), (9, 14)])
def test_a_roll_back_over_a_damaged_checkpoint_comes_to_the_same_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    poison: tuple[int, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def poisoned(step: int) -> Tensor:
        return batch_at(step) * (float("nan") if step in poison else 1.0)

    _, undisturbed = run(tmp_path / "whole", poisoned)
    assert undisturbed.num_rollbacks == len(poison)
    roll_back, damages = loop._roll_back, list(DAMAGES.values())

    def damaged(state: Any, checkpoint: Path, *rest: Any) -> None:
        if damages:
            damages.pop()(checkpoint)
        roll_back(state, checkpoint, *rest)

    monkeypatch.setattr(loop, "_roll_back", damaged)
    _, result = run(tmp_path / "damaged", poisoned)
    assert not damages
    assert equal(undisturbed, result)
    assert (result.num_rollbacks, result.num_steps) == (len(poison), 20)
    assert "resumes from the checkpoint before it" in capsys.readouterr().err


def test_a_roll_back_without_a_whole_checkpoint_ends_and_the_next_run_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(step: int) -> Tensor:
        return batch_at(step) * (float("nan") if step == 9 else 1.0)

    _, undisturbed = run(tmp_path / "whole", poisoned)
    roll_back = loop._roll_back

    def damaged(state: Any, checkpoint: Path, *rest: Any) -> None:
        for path in tmp_path.glob("damaged/*.safetensors"):
            path.write_bytes(b"")
        roll_back(state, checkpoint, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_roll_back", damaged)
        with pytest.raises(TrainingError, match=r"(?s)no intact checkpoint.*same command again"):
            run(tmp_path / "damaged", poisoned)
    assert equal(undisturbed, run(tmp_path / "damaged", poisoned)[1])


def test_a_batch_that_is_not_finite_is_passed_over_after_a_roll_back(tmp_path: Path) -> None:
    def poisoned(step: int) -> Tensor:
        return batch_at(step) * (float("nan") if step == 9 else 1.0)

    _, result = run(tmp_path, poisoned)
    assert result.num_rollbacks == 1
    assert result.num_steps == 20
    assert all(torch.isfinite(value).all() for value in result.weights.values())


def test_a_roll_back_names_what_was_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, lambda step: batch_at(step) * (float("nan") if step == 9 else 1.0))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("line: step 9 was not finite (main/loss nan, main/error nan, main/grad_norm nan")
    assert line.endswith("; back to step 8")


def test_a_gradient_that_is_not_finite_is_named_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss of sqrt(0) is finite, and its gradient is not; the step before the check has changed weights."""

    class Steep(Line):
        def loss(
            self, phase: str, batch: Tensor, progress: float
        ) -> tuple[Tensor, dict[str, Tensor | float]]:
            loss, terms = super().loss(phase, batch, progress)
            poisoned = phase == "main" and bool((batch == 0).all())
            return loss + (self.module["a"](batch) * 0).sum().sqrt() if poisoned else loss, terms

    config = validate(TRAINING, "training", TrainingParams)
    steep = Steep()
    torch.manual_seed(1)
    result = run_training(
        steep, lambda step: batch_at(step) * (step != 6), config,
        scratch=tmp_path, curves=None, device=CPU, title="steep",
    )  # fmt: skip
    assert (result.num_rollbacks, result.num_steps) == (1, 20)
    assert all(value.isfinite().all() for value in result.weights.values())
    assert "steep: step 6 was not finite (main/grad_norm nan)" in capsys.readouterr().err


def test_losses_that_are_never_finite_end_in_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=rf"(?s)after {MAX_ROLLBACKS} roll-backs.*main/loss nan"):
        run(tmp_path, lambda step: batch_at(step) * float("nan"))


def test_the_checkpoint_is_safetensors_and_tells_where_it_stands(tmp_path: Path) -> None:
    run(tmp_path)
    header, tensors = read_tensor_header(tmp_path / "checkpoint.safetensors")
    assert header.facts["step"] == 20
    assert {"random/cpu", "module/a.0.weight", "average/a.0.weight", "optimizer/main/0/exp_avg"} <= set(
        tensors
    )


def test_curves_have_a_row_per_window_and_one_at_the_end(tmp_path: Path) -> None:
    run(tmp_path)
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert [int(row["step"]) for row in rows] == [6, 12, 18, 20]
    assert next(iter(rows[0])) == "step"
    assert float(rows[0]["main/progress"]) == pytest.approx(sum(range(6)) / 6 / 20)


def test_an_unknown_tracker_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VQPIPE_TRACKERS", "wandb")
    with pytest.raises(SetupError, match="VQPIPE_TRACKERS names an unknown tracker"):
        run(tmp_path, lambda step: pytest.fail(f"the batch of step {step} was taken"))


def test_tensorboard_gets_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_TRACKERS", "tensorboard")
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    run(tmp_path)
    assert list((tmp_path / "scratch/trackers/line/tensorboard").glob("events*"))
