"""The training loop.

Step s trains on `batch_at(s + skipped)`, a pure function, so that the loader's position is one number of the
checkpoint. A run that was killed resumes from its last checkpoint and ends with the same bytes as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vqpipe.artifacts.kept import Found, recover
from vqpipe.artifacts.tensors import check_tensors
from vqpipe.engine.batches import check_shares, prefetch
from vqpipe.engine.curves import Trackers, write_curves
from vqpipe.engine.state import CHECKPOINT, Average, TrainingState
from vqpipe.engine.step import Stepper
from vqpipe.engine.trainable import FitResult, Spent, Trainable
from vqpipe.errors import MismatchError, VqpipeError
from vqpipe.params.training import TrainingParams
from vqpipe.runtime.determinism import deterministic_algorithms
from vqpipe.runtime.distributed import broadcast_module, is_main
from vqpipe.runtime.preflight import need_compiler
from vqpipe.runtime.progress import progress_bar

MAX_ROLLBACKS = 5


class TrainingError(VqpipeError):
    """Training that does not come back from non-finite losses."""


def fit(
    trainable: Trainable,
    batch_at: Callable[[int], Any],
    config: TrainingParams,
    *,
    scratch: Path,
    curves: Path | None,
    device: torch.device,
    title: str,
) -> FitResult:
    """Train for `config.num_steps` steps, from the checkpoint in `scratch` where there is one.

    A damaged checkpoint is set aside; the run goes on from the one before it, or from the beginning, to the same end.

    Args:
        trainable: the model and its losses; already on `device`.
        batch_at: the batch of a data step, a pure function of its number; run ahead in a thread.
        scratch: folder for the checkpoint, private to this run's params and inputs.
        curves: where the CSV of the training curves is published at the end.
        title: shown on the progress bar and used for trackers.

    Raises:
        MismatchError: a batch that ranks and micro-batches cannot share, or `channels_last` without convolutions.
        SetupError: `compile` without a compiler; `deterministic`, and an operation that has no deterministic form.
        TrainingError: the loss or a gradient was not finite more than five times; each time the run went back to
            its last checkpoint and passed over the batches in between. Or it was not finite once, and no checkpoint
            is left that is not damaged.
    """
    check_shares(config.batch_size, config.accumulate)
    if config.compile:
        need_compiler(device.type)
    if config.channels_last:
        _set_channels_last(trainable.module)
    broadcast_module(trainable.module)
    state = _prepare(trainable, config, device)
    checkpoint = scratch / "checkpoint.safetensors"
    if _recover(checkpoint, device) == Found.NOTHING:
        state.save(checkpoint)
    else:
        state.load(checkpoint)
    begun = state.step, time.process_time(), time.perf_counter()
    with (
        deterministic_algorithms(config.deterministic),
        _compiled(trainable) if config.compile else nullcontext(),
        progress_bar(title, config.num_steps) as bar,
        Trackers(title) as trackers,
        prefetch(batch_at) as batch_of,
    ):
        stepper = Stepper(trainable, state, config, device)
        bar.advance(state.step)
        while state.step < config.num_steps:
            terms = stepper.step(batch_of(state.step + state.skipped))
            if terms is None:
                reached = state.step
                _roll_back(state, checkpoint, title)
                bar.advance(state.step - reached, "rolled back")
                continue
            for name, value in terms.items():
                total, count = state.window.get(name, (0.0, 0))
                state.window[name] = [total + value, count + 1]
            state.step += 1
            if state.step % config.log_every == 0 or state.step == config.num_steps:
                row = {name: total / count for name, (total, count) in state.window.items()} | {
                    "step": state.step
                }
                state.rows.append(row)
                state.window = {}
                trackers.log(row)
            bar.advance(1, f"loss {terms[f'{trainable.phases[0]}/loss']:.4f}")
            if state.step % config.checkpoint_every == 0:
                state.save(checkpoint)
    spent = Spent(state.step - begun[0], time.process_time() - begun[1], time.perf_counter() - begun[2])
    if curves is not None and is_main():
        write_curves(curves, state.rows)
    trainable.module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    weights = state.average.weights if state.average else trainable.module.state_dict()
    return FitResult(dict(weights), state.average is not None, state.step, state.rollbacks, state.rows, spent)


def _set_channels_last(module: nn.Module) -> None:
    if not any(parameter.ndim == 4 for parameter in module.parameters()):
        raise MismatchError(
            "training.channels_last is true, and there is nothing to lay out",
            found="a model without convolutions",
            expected="channels_last: false",
        )
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@contextmanager
def _compiled(trainable: Trainable) -> Iterator[None]:
    """Let the networks' forward passes run compiled while this is open; their names and weights stay.

    Dropout draws from torch's generator as it does uncompiled, so that it drops the same elements.
    """
    networks, breaks = list(trainable.networks()), list(trainable.uncompiled())
    for network in networks:
        vars(network)["forward"] = torch.compile(network.forward, options={"fallback_random": True})
    for part in breaks:
        vars(part)["forward"] = torch.compiler.disable(part.forward)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for module in [*networks, *breaks]:
            del vars(module)["forward"]


def _prepare(trainable: Trainable, config: TrainingParams, device: torch.device) -> TrainingState:
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for phase in trainable.phases:
        groups = [
            {"weight_decay": config.weight_decay, "lr_scale": 1.0, **g} for g in trainable.parameters(phase)
        ]
        optimizers[phase] = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)
    average = Average(trainable.module, config.ema_decay) if config.ema_decay > 0 else None
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    return TrainingState(trainable.module, optimizers, average, scaler, device)


def _roll_back(state: TrainingState, checkpoint: Path, title: str) -> None:
    """Go back to the last checkpoint and pass over the batches since.

    Where the last one is damaged, go back to the one before and pass over nothing: the run comes to the same place
    again, with a whole checkpoint.
    """
    reached, skipped, rollbacks = state.step, state.skipped, state.rollbacks
    if rollbacks >= MAX_ROLLBACKS:
        raise TrainingError(
            f"{title}: the loss was not finite at step {reached}, after {rollbacks} roll-backs",
            expected="finite losses; lower learning_rate, set precision to fp32 or bf16, or set clip_grad_norm",
        )
    found = _recover(checkpoint, state.device)
    if found == Found.NOTHING:
        raise TrainingError(
            f"{title}: the loss was not finite at step {reached}, and there is no whole checkpoint to go back to",
            run="the same command again: it starts from the beginning",
        )
    state.load(checkpoint)
    if found == Found.BEFORE:
        return
    state.skipped = skipped + reached - state.step + 1
    state.rollbacks = rollbacks + 1
    state.save(checkpoint)


def _recover(checkpoint: Path, device: torch.device) -> Found:
    return recover(checkpoint, lambda path: check_tensors(path, CHECKPOINT), device)
