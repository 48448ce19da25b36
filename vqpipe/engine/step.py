"""One optimiser step: micro-batches, gradients averaged over ranks, clipping, and the check that all is finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vqpipe.engine.batches import channels_last, micro_batches
from vqpipe.engine.state import TrainingState
from vqpipe.engine.trainable import Trainable, schedule
from vqpipe.params.training import TrainingParams
from vqpipe.runtime.device import autocast
from vqpipe.runtime.distributed import average, data_parallel, world_size


class PhaseLoss(nn.Module):
    """A phase's loss as a module of the phase's own parameters, which is what averages gradients over ranks.

    The whole of `Trainable.loss` is its forward pass. So what the loss does inside, with modules of other phases or
    with `autograd.grad`, is over before the averaging of this phase's gradients begins, and the parameters of other
    phases take no part in it.
    """

    def __init__(self, trainable: Trainable, phase: str, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.trainable, self.phase = trainable, phase
        self.weights = nn.ParameterList(parameters)

    def forward(self, batch: Any, progress: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        loss, terms = self.trainable.loss(self.phase, batch, progress)
        # The averaging waits for every parameter that a tensor given back here leads to.
        plain = {name: t.detach() if isinstance(t, Tensor) else t for name, t in terms.items()}
        return loss, plain


class Stepper:
    """Takes steps; made once per run, after all ranks hold the same weights."""

    def __init__(
        self, trainable: Trainable, state: TrainingState, config: TrainingParams, device: torch.device
    ) -> None:
        self.trainable, self.state, self.config, self.device = trainable, state, config, device
        self.parameters = {
            phase: [p for group in optimizer.param_groups for p in group["params"]]
            for phase, optimizer in state.optimizers.items()
        }
        self.losses = {
            phase: data_parallel(PhaseLoss(trainable, phase, own)) for phase, own in self.parameters.items()
        }

    def step(self, batch: Any) -> dict[str, float] | None:
        """One step over all phases on this rank's share of the batch.

        Returns:
            The terms for the curves, means over micro-batches and ranks; None where a loss or gradient was not finite
            on any rank.
        """
        state, config, trainable = self.state, self.config, self.trainable
        progress = state.step / config.num_steps
        factor = schedule(state.step, config.num_steps, config.warmup_fraction, config.final_lr_fraction)
        terms: dict[str, float] = {"learning_rate": config.learning_rate * factor}
        parts = micro_batches(channels_last(batch) if config.channels_last else batch, config.accumulate)
        trainable.begin(parts, progress)
        for phase in trainable.phases:
            if not trainable.active(phase, progress):
                continue
            optimizer = state.optimizers[phase]
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * factor * group["lr_scale"]
            optimizer.zero_grad(set_to_none=True)
            named = self._backward(phase, parts, progress)
            state.scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.parameters[phase], config.clip_grad_norm or math.inf)
            # A scaled fp16 gradient may overflow; the scaler then skips the step by itself and lowers its scale.
            if not math.isfinite(named["loss"]) or not (state.scaler.is_enabled() or torch.isfinite(norm)):
                if state.scaler.is_enabled():
                    state.scaler.update()  # or it would refuse to unscale again; the roll-back restores its scale
                return None
            state.scaler.step(optimizer)
            terms |= {f"{phase}/{name}": value for name, value in named.items()}
            terms[f"{phase}/grad_norm"] = float(norm)
        state.scaler.update()
        if state.average is not None:
            state.average.update(trainable.module)
        trainable.observe(terms, (state.step + 1) / config.num_steps)
        return {name: value for name, value in terms.items() if math.isfinite(value)}

    def _backward(self, phase: str, parts: list[Any], progress: float) -> dict[str, float]:
        """Gradients of the phase's mean loss over micro-batches and ranks; its loss and terms, means likewise."""
        module, scaler = self.losses[phase], self.state.scaler
        named_values: dict[str, list[float]] = {}
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            wait = isinstance(module, DistributedDataParallel) and not last
            with module.no_sync() if wait else nullcontext():  # type: ignore[operator, union-attr]
                with autocast(self.device, self.config.precision):
                    loss, named = module(part, progress)
                scaler.scale(loss / len(parts) if len(parts) > 1 else loss).backward()  # type: ignore[no-untyped-call]
            for name, value in {"loss": loss.detach(), **named}.items():
                named_values.setdefault(name, []).append(float(value))
        means = {name: sum(values) / len(values) for name, values in named_values.items()}
        return _over_ranks(means, self.device)


def _over_ranks(terms: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """The means of named numbers over ranks, in one collective; the same on all ranks."""
    if world_size() == 1:
        return dict(terms)
    names = sorted(terms)
    means = average(torch.tensor([terms[name] for name in names], dtype=torch.float64, device=device))
    return dict(zip(names, means.tolist(), strict=True))
