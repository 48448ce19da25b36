"""The training loop and its curves.

Step s trains on `batch_at(s + skipped)`, a pure function, so that the loader's position is one number of the
checkpoint. A run that was killed resumes from its last checkpoint and ends with the same bytes as one that was not.
"""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from vqpipe.artifacts.checkpoints import Found, recover
from vqpipe.artifacts.publish import publish_text
from vqpipe.artifacts.tensors import check_tensors
from vqpipe.errors import MismatchError, SetupError, VqpipeError
from vqpipe.runtime.device import deterministic_algorithms, tf32_products
from vqpipe.runtime.distributed import broadcast_module, is_main, world_size
from vqpipe.runtime.env import scratch_root
from vqpipe.runtime.preflight import need_compiler
from vqpipe.runtime.terminal import progress_bar, say
from vqpipe.training.checkpoint import CHECKPOINT, AveragedWeights, TrainingState, moving_tensors
from vqpipe.training.feed import prefetch
from vqpipe.training.muon import Muon
from vqpipe.training.objective import Objective, TrainingCost, TrainingParams, TrainingResult
from vqpipe.training.step import Stepper

MAX_ROLLBACKS = 5


class TrainingError(VqpipeError):
    """Training that does not come back from non-finite losses."""


def run_training(
    objective: Objective,
    batch_at: Callable[[int], Any],
    config: TrainingParams,
    *,
    scratch: Path,
    curves: Path | None,
    device: torch.device,
    title: str,
) -> TrainingResult:
    """Train for `config.num_steps` steps, from the checkpoint in `scratch` where there is one.

    A damaged checkpoint is set aside; the run resumes from the one before it, or starts again, with the same result.

    Args:
        objective: the model and its losses; already on `device`.
        batch_at: the batch of a data step, a pure function of its number: tensors, in tuples, mappings or dataclasses.
            It runs ahead in a thread, which also moves the tensors to `device`.
        scratch: folder for the checkpoint, private to this run's params, inputs and code.
        curves: where the CSV of the training curves is published at the end.
        title: shown on the progress bar and used for trackers.

    Raises:
        MismatchError: a batch that ranks and micro-batches cannot share, `channels_last` without convolutions, or
            `optimizer: muon` for a model without `Objective.hidden`.
        SetupError: `compile` without a compiler; `deterministic`, and an operation that has no deterministic form.
        TrainingError: the loss or a gradient was not finite more than five times; each time the run went back to
            its last checkpoint and skipped the batches in between. Or it was not finite once, and no checkpoint
            is left that is not damaged.
    """
    _check_shares(config)
    if config.compile:
        need_compiler(device.type)
    if config.channels_last:
        _set_channels_last(objective.module)
    broadcast_module(objective.module)
    state = _prepare(objective, config, device)
    checkpoint = scratch / "checkpoint.safetensors"
    if _recover(checkpoint, device) == Found.NOTHING:
        state.save(checkpoint)
    else:
        state.load(checkpoint)
    begun = state.step, time.process_time(), time.perf_counter()
    with (
        deterministic_algorithms(config.deterministic),
        tf32_products(config.precision == "tf32" and device.type == "cuda"),
        _compiled(objective) if config.compile else nullcontext(),
        progress_bar(title, config.num_steps) as bar,
        Trackers(title) as trackers,
        prefetch(batch_at, device) as batch_of,
    ):
        stepper, note = Stepper(objective, state, config, device), ""
        bar.advance(state.step)
        while state.step < config.num_steps:
            terms = stepper.step(batch_of(state.step + state.skipped))
            if terms is None:
                reached = state.step
                _roll_back(state, checkpoint, title, stepper.faults)
                bar.advance(state.step - reached, "rolled back")
                continue
            state.window.add(terms)
            state.step += 1
            if state.step % config.log_every == 0 or state.step == config.num_steps:
                row = state.window.close() | {"step": state.step}
                state.rows.append(row)
                trackers.log(row)
                note = f"loss {row.get(f'{objective.phases[0]}/loss', math.nan):.4f}"
            bar.advance(1, note)
            if state.step % config.checkpoint_every == 0:
                state.save(checkpoint)
    cost = TrainingCost(state.step - begun[0], time.process_time() - begun[1], time.perf_counter() - begun[2])
    if curves is not None and is_main():
        write_curves(curves, state.rows)
    objective.module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    weights = objective.module.state_dict() | (state.average.weights if state.average else {})
    return TrainingResult(weights, state.average is not None, state.step, state.rollbacks, state.rows, cost)


def _check_shares(config: TrainingParams) -> None:
    """Refuse a batch that ranks and micro-batches cannot share evenly."""
    shares = world_size() * config.accumulate
    if config.batch_size % shares:
        raise MismatchError(
            "training.batch_size does not divide among the ranks and their micro-batches",
            found=f"{config.batch_size} over {world_size()} ranks x accumulate {config.accumulate}",
            expected=f"a multiple of {shares}",
        )


def _set_channels_last(module: nn.Module) -> None:
    if not any(parameter.ndim == 4 for parameter in module.parameters()):
        raise MismatchError(
            "training.channels_last is true, and only convolutions have such a layout",
            found="a model without convolutions",
            expected="channels_last: false",
        )
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@contextmanager
def _compiled(objective: Objective) -> Iterator[None]:
    """Let the networks' forward passes run compiled while this is open; their names and weights stay.

    Dropout draws from torch's generator as it does uncompiled, so that it drops the same elements.
    """
    networks, breaks = list(objective.networks()), list(objective.uncompiled())
    for network in networks:
        vars(network)["forward"] = torch.compile(network.forward, options={"fallback_random": True})
    for part in breaks:
        vars(part)["forward"] = torch.compiler.disable(part.forward)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for module in [*networks, *breaks]:
            del vars(module)["forward"]


def _prepare(objective: Objective, config: TrainingParams, device: torch.device) -> TrainingState:
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for phase in objective.phases:
        groups = [
            {"weight_decay": config.weight_decay, "lr_scale": 1.0, **g} for g in objective.parameters(phase)
        ]
        if config.optimizer == "muon":
            hidden = _hidden(objective, phase)
            optimizers[phase] = Muon(groups, hidden, config.learning_rate, config.betas, config.hidden_scale)
            continue
        optimizers[phase] = torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=config.betas, fused=True if device.type == "cuda" else None
        )
    average = None
    if config.ema_decay > 0:
        average = AveragedWeights(moving_tensors(objective.published()), config.ema_decay)
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    return TrainingState(objective.module, optimizers, average, scaler, device)


def _hidden(objective: Objective, phase: str) -> Mapping[nn.Parameter, int]:
    found = objective.hidden(phase)
    if not found:
        raise MismatchError(
            "training.optimizer is muon, and this model names no matrices between its embeddings and its heads",
            found=f"{type(objective.module).__name__}, which is trained by AdamW",
            expected="optimizer: adamw, or a prior",
        )
    return found


def _roll_back(state: TrainingState, checkpoint: Path, title: str, faults: Sequence[str]) -> None:
    """Go back to the last checkpoint and skip the batches since; `faults` names what was not finite.

    Where the last one is damaged, go back to the one before and skip no batch: the run reaches the same step
    again, with an intact checkpoint.
    """
    reached, skipped, rollbacks, named = state.step, state.skipped, state.rollbacks, ", ".join(faults)
    if rollbacks >= MAX_ROLLBACKS:
        raise TrainingError(
            f"{title}: the loss was not finite at step {reached}, after {rollbacks} roll-backs",
            found=named,
            expected="finite losses; lower learning_rate, set precision to fp32 or bf16, or set clip_grad_norm",
        )
    found = _recover(checkpoint, state.device)
    if found == Found.NOTHING:
        raise TrainingError(
            f"{title}: the loss was not finite at step {reached}, and there is no intact checkpoint to go back to",
            found=named,
            run="the same command again: it starts from the beginning",
        )
    state.load(checkpoint)
    if is_main():
        say(f"{title}: step {reached} was not finite ({named}); back to step {state.step}", err=True)
    if found == Found.BEFORE:
        return
    state.skipped = skipped + reached - state.step + 1
    state.rollbacks = rollbacks + 1
    state.save(checkpoint)


def _recover(checkpoint: Path, device: torch.device) -> Found:
    return recover(checkpoint, lambda path: check_tensors(path, CHECKPOINT), device)


TRACKERS = ("tensorboard", "dvclive")


def write_curves(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Publish rows as CSV: column `step` first, the others in alphabetical order, six significant digits."""
    names = ["step", *sorted({name for row in rows for name in row} - {"step"})]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(
            [f"{row[n]:.6g}" if n in row and n != "step" else int(row[n]) if n in row else "" for n in names]
        )
    publish_text(path, text.getvalue())


class Trackers:
    """Live trackers under `$VQPIPE_SCRATCH/trackers/<title>`; none unless `VQPIPE_TRACKERS` names some.

    Raises:
        SetupError: an unknown tracker, or one whose package is not installed.
    """

    def __init__(self, title: str) -> None:
        wanted = (
            [name for name in os.environ.get("VQPIPE_TRACKERS", "").split(",") if name] if is_main() else []
        )
        unknown = [name for name in wanted if name not in TRACKERS]
        if unknown:
            raise SetupError(
                "VQPIPE_TRACKERS names an unknown tracker", found=", ".join(unknown), choices=TRACKERS
            )
        folder = scratch_root() / "trackers" / title.replace("/", "-")
        self._board: Any = None
        self._live: Any = None
        try:
            if "tensorboard" in wanted:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(folder / "tensorboard"))  # type: ignore[no-untyped-call]
            if "dvclive" in wanted:
                from dvclive import Live  # type: ignore[attr-defined]

                self._live = Live(str(folder / "dvclive"), dvcyaml=None, save_dvc_exp=False)
        except ImportError as error:
            raise SetupError(
                f"a tracker's package is missing: {error.name}", run="pip install tensorboard dvclive"
            ) from error

    def log(self, row: Mapping[str, float]) -> None:
        step = int(row["step"])
        for name, value in row.items():
            if name != "step" and self._board is not None:
                self._board.add_scalar(name, value, step)
            if name != "step" and self._live is not None:
                self._live.log_metric(name, value)
        if self._live is not None:
            self._live.step = step
            self._live.sync()

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._board is not None:
            self._board.close()
        if self._live is not None:
            self._live.end()
