"""The training loop.

Step s trains on `batch_at(s + skipped)`, a pure function, so that the loader's position is one number of the
checkpoint. A run that was killed resumes from its last checkpoint and ends with the same bytes as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqpipe.engine.curves import Trackers, write_curves
from vqpipe.engine.state import Average, TrainingState
from vqpipe.engine.trainable import FitResult, Trainable, schedule
from vqpipe.errors import VqpipeError
from vqpipe.params.training import TrainingParams
from vqpipe.runtime.device import autocast
from vqpipe.runtime.distributed import all_reduce_sum, average_gradients, barrier, broadcast_module, is_main
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

    Args:
        trainable: the model and its losses; already on `device`.
        batch_at: the batch of a data step, a pure function of its number; run ahead in a thread.
        scratch: folder for the checkpoint, private to this run's params and inputs.
        curves: where the CSV of the training curves is published at the end.
        title: shown on the progress bar and used for trackers.

    Raises:
        TrainingError: the loss or a gradient was not finite more than five times; each time the run went back to
            its last checkpoint and passed over the batches in between.
    """
    broadcast_module(trainable.module)
    state = _prepare(trainable, config, device)
    checkpoint = scratch / "checkpoint.safetensors"
    if checkpoint.is_file():
        state.load(checkpoint)
    elif is_main():
        state.save(checkpoint)
    barrier()
    with (
        progress_bar(title, config.num_steps) as bar,
        Trackers(title) as trackers,
        _prefetch(batch_at) as batch_of,
    ):
        bar.advance(state.step)
        while state.step < config.num_steps:
            terms = _train_step(trainable, state, batch_of(state.step + state.skipped), config, device)
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
            if state.step % config.checkpoint_every == 0 and is_main():
                state.save(checkpoint)
    if curves is not None and is_main():
        write_curves(curves, state.rows)
    weights = state.average.weights if state.average else trainable.module.state_dict()
    return FitResult(dict(weights), state.average is not None, state.step, state.rollbacks, state.rows)


def _prepare(trainable: Trainable, config: TrainingParams, device: torch.device) -> TrainingState:
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for phase in trainable.phases:
        groups = [
            {"weight_decay": config.weight_decay, "lr_scale": 1.0, **g} for g in trainable.parameters(phase)
        ]
        optimizers[phase] = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)
    average = Average(trainable.module, config.ema_decay) if config.ema_decay > 0 else None
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    return TrainingState(trainable.module, optimizers, average, scaler)


def _train_step(
    trainable: Trainable, state: TrainingState, batch: Any, config: TrainingParams, device: torch.device
) -> dict[str, float] | None:
    """One step over all phases; None where a loss or gradient was not finite on any rank."""
    progress = state.step / config.num_steps
    factor = schedule(state.step, config.num_steps, config.warmup_fraction, config.final_lr_fraction)
    terms: dict[str, float] = {"learning_rate": config.learning_rate * factor}
    for phase in trainable.phases:
        if not trainable.active(phase, progress):
            continue
        optimizer = state.optimizers[phase]
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * factor * group["lr_scale"]
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, config.precision):
            loss, named = trainable.loss(phase, batch, progress)
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        state.scaler.unscale_(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        average_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_grad_norm or math.inf)
        # A scaled fp16 gradient may overflow; the scaler then skips the step by itself and lowers its scale.
        if not _finite_everywhere(loss, norm if not state.scaler.is_enabled() else None):
            return None
        state.scaler.step(optimizer)
        terms |= {f"{phase}/loss": float(loss.detach()), f"{phase}/grad_norm": float(norm)}
        terms |= {f"{phase}/{name}": float(value) for name, value in named.items()}
    state.scaler.update()
    if state.average is not None:
        state.average.update(trainable.module)
    return {name: value for name, value in terms.items() if math.isfinite(value)}


def _finite_everywhere(loss: Tensor, norm: Tensor | None) -> bool:
    bad = ~torch.isfinite(loss.detach())
    if norm is not None:
        bad |= ~torch.isfinite(norm)
    return all_reduce_sum(bad.float()).item() == 0


def _roll_back(state: TrainingState, checkpoint: Path, title: str) -> None:
    """Go back to the last checkpoint and pass over the batches since."""
    reached, skipped, rollbacks = state.step, state.skipped, state.rollbacks
    if rollbacks >= MAX_ROLLBACKS:
        raise TrainingError(
            f"{title}: the loss was not finite at step {reached}, after {rollbacks} roll-backs",
            expected="finite losses; lower learning_rate, set precision to fp32 or bf16, or set clip_grad_norm",
        )
    state.load(checkpoint)
    state.skipped = skipped + reached - state.step + 1
    state.rollbacks = rollbacks + 1
    if is_main():
        state.save(checkpoint)
    barrier()


@contextmanager
def _prefetch(batch_at: Callable[[int], Any]) -> Iterator[Callable[[int], Any]]:
    """A reader that makes the next batch in a thread while this one is trained on."""
    with ThreadPoolExecutor(1) as pool:
        waiting: dict[int, Future[Any]] = {}

        def batch_of(step: int) -> Any:
            future = waiting.pop(step, None) or pool.submit(batch_at, step)
            waiting.clear()
            waiting[step + 1] = pool.submit(batch_at, step + 1)
            return future.result()

        yield batch_of
