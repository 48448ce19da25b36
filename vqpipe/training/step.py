"""One optimiser step: micro-batches, gradients averaged over ranks, clipping, and the check that all is finite.

The host waits for the device once in a step, for one boolean: whether losses and gradient norms of all phases on all
ranks were finite. Weights have been changed by then; a step that was not finite is undone by the loop, which goes back
to its last checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vqpipe.runtime.device import autocast
from vqpipe.runtime.distributed import all_reduce_sum, data_parallel, world_size
from vqpipe.training.checkpoint import TrainingState
from vqpipe.training.objective import Decay, Objective, TrainingParams
from vqpipe.training.window import Packed, StepTerms, pack, read


def schedule(
    step: int, num_steps: int, warmup_fraction: float, final_fraction: float, decay: Decay = "cosine"
) -> float:
    """Factor on the peak learning rate at `step` (0-based): linear warm-up, then `decay` to `final_fraction`."""
    warmup = max(1, round(warmup_fraction * num_steps)) if warmup_fraction > 0 else 0
    if step < warmup:
        return (step + 1) / warmup
    part = (step - warmup) / max(1, num_steps - 1 - warmup)
    if decay == "linear":
        return final_fraction + (1 - final_fraction) * (1 - min(part, 1.0))
    return final_fraction + (1 - final_fraction) * 0.5 * (
        1 + float(torch.cos(torch.tensor(torch.pi * min(part, 1.0))))
    )


def over_tensors(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The batch with every tensor changed: a tensor, or a tuple, mapping or dataclass of such; None and whole numbers
    stay.

    Raises:
        TypeError: a batch of another type.
    """
    if isinstance(batch, Tensor):
        return change(batch)
    if batch is None or isinstance(batch, int):
        return batch
    if isinstance(batch, tuple):
        parts = [over_tensors(part, change) for part in batch]
        return tuple(parts) if type(batch) is tuple else type(batch)(*parts)
    if isinstance(batch, Mapping):
        return {name: over_tensors(part, change) for name, part in batch.items()}
    if is_dataclass(batch) and not isinstance(batch, type):
        own = vars(batch)
        return replace(batch, **{f.name: over_tensors(own[f.name], change) for f in fields(batch)})
    raise TypeError(
        f"a batch of type {type(batch).__name__}; expected tensors in tuples, mappings or dataclasses"
    )


def micro_batches(batch: Any, count: int) -> list[Any]:
    """The batch cut along its first axis into `count` equal parts, in order."""
    if count == 1:
        return [batch]
    return [over_tensors(batch, lambda t, i=i: t.tensor_split(count)[i]) for i in range(count)]  # type: ignore[misc]


def channels_last(batch: Any) -> Any:
    """The batch with its 4-D floating-point tensors in the channels-last layout; their values stay."""

    def change(tensor: Tensor) -> Tensor:
        images = tensor.ndim == 4 and tensor.is_floating_point()
        return tensor.contiguous(memory_format=torch.channels_last) if images else tensor

    return over_tensors(batch, change)


class PhaseLoss(nn.Module):
    """A phase's loss as a module with the phase's parameters, over which data-parallel training averages gradients.

    `Objective.loss` is its forward pass. So everything inside the loss, such as `autograd.grad` or modules of other
    phases, is done before the averaging of this phase's gradients begins, and the parameters of other phases are not
    averaged.
    """

    def __init__(self, objective: Objective, phase: str, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.objective, self.phase = objective, phase
        self.weights = nn.ParameterList(parameters)

    def forward(self, batch: Any, progress: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        loss, terms = self.objective.loss(self.phase, batch, progress)
        # The averaging waits for every parameter behind a returned tensor.
        plain = {name: t.detach() if isinstance(t, Tensor) else t for name, t in terms.items()}
        return loss, plain


class Stepper:
    """Takes steps; made once per run, when all ranks have the same weights."""

    def __init__(
        self, objective: Objective, state: TrainingState, config: TrainingParams, device: torch.device
    ) -> None:
        self.objective, self.state, self.config, self.device = objective, state, config, device
        self.faults: list[str] = []
        """The terms of the last step that was not finite, with their values."""
        self.parameters = {
            phase: [p for group in optimizer.param_groups for p in group["params"]]
            for phase, optimizer in state.optimizers.items()
        }
        self.losses = {
            phase: data_parallel(PhaseLoss(objective, phase, own), objective.unused(phase))
            for phase, own in self.parameters.items()
        }

    def step(self, batch: Any) -> StepTerms | None:
        """One step over all phases on this rank's share of the batch.

        Returns:
            The terms for the curves, on the device; None where a loss or gradient was not finite on any rank. Weights,
            moments, averages and buffers have then to be restored.
        """
        state, config, objective = self.state, self.config, self.objective
        progress = state.step / config.num_steps
        factor = schedule(
            state.step, config.num_steps, config.warmup_fraction, config.final_lr_fraction, config.decay
        )
        terms = [pack({"learning_rate": config.learning_rate * factor})]
        checked: list[Tensor] = []
        parts = micro_batches(channels_last(batch) if config.channels_last else batch, config.accumulate)
        objective.begin(parts, state.step, progress)
        for phase in objective.phases:
            if not objective.active(phase, progress):
                continue
            optimizer = state.optimizers[phase]
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * factor * group["lr_scale"]
            optimizer.zero_grad(set_to_none=True)
            for loss, named in self._backward(phase, parts, progress):
                checked.append(loss)
                terms.append(named)
            state.scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.parameters[phase], config.clip_grad_norm or math.inf)
            terms.append(pack({f"{phase}/grad_norm": norm}))
            # A scaled fp16 gradient may overflow; the scaler then skips the step by itself and lowers its scale.
            if not state.scaler.is_enabled():
                checked.append(norm)
            state.scaler.step(optimizer)
        state.scaler.update()
        if state.average is not None:
            state.average.update()
        if not self._all_finite(checked):
            (found,) = read([terms], self.device)
            self.faults = [f"{name} {value}" for name, value in found.items() if not math.isfinite(value)]
            return None
        objective.observe((state.step + 1) / config.num_steps)
        return terms

    def _backward(self, phase: str, parts: list[Any], progress: float) -> Iterator[tuple[Tensor, Packed]]:
        """Add up the gradients of the phase's mean loss over micro-batches and ranks; each one's loss and terms."""
        module, scaler = self.losses[phase], self.state.scaler
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            wait = isinstance(module, DistributedDataParallel) and not last
            with module.no_sync() if wait else nullcontext():  # type: ignore[operator, union-attr]
                with autocast(self.device, self.config.precision):
                    loss, named = module(part, progress)
                packed = pack({"loss": loss, **named}, f"{phase}/")
                scaler.scale(loss / len(parts) if len(parts) > 1 else loss).backward()  # type: ignore[no-untyped-call]
            yield loss.detach(), packed

    def _all_finite(self, values: list[Tensor]) -> bool:
        """Whether all values are, on all ranks; the one place where a step waits for the device."""
        bad = (
            torch.stack([value.to(self.device, torch.float64) for value in values])
            .isfinite()
            .logical_not()
            .any()
        )
        if world_size() > 1:
            bad = all_reduce_sum(bad.to(torch.int32))
        return not bool(bad)
