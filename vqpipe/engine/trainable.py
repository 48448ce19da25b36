"""What the loop asks of a model in training, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Trainable(Protocol):
    """A model with its losses.

    `module` is what the averaged weights follow and what a checkpoint holds. `phases` run in turn within each step,
    each with an AdamW of its own: `("main",)`, or `("ae", "disc")` for an autoencoder with a discriminator.
    """

    @property
    def module(self) -> nn.Module: ...

    phases: tuple[str, ...]

    def parameters(self, phase: str) -> list[dict[str, Any]]:
        """Parameter groups for the phase's AdamW; a group may set `weight_decay` and a factor `lr_scale`."""
        ...

    def active(self, phase: str, progress: float) -> bool:
        """Whether the phase runs at this part of the training, `progress` in [0, 1)."""
        ...

    def loss(self, phase: str, batch: Any, progress: float) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """The scalar to minimise and named terms for the curves, on one micro-batch of this rank's share."""
        ...

    def networks(self) -> Sequence[nn.Module]:
        """The modules whose forward passes `training.compile` compiles: static shapes, no search."""
        ...

    def uncompiled(self) -> Sequence[nn.Module]:
        """Parts of `networks()` that stay as they are, each a break between two compiled graphs.

        A weight at which the loss takes `autograd.grad` belongs to one: the graph behind it is then not run, which
        a compiled graph allows only once.
        """
        ...

    def begin(self, batches: Sequence[Any], progress: float) -> None:
        """Called before each step with the micro-batches that the phases are about to see."""
        ...

    def observe(self, terms: Mapping[str, float], progress: float) -> None:
        """Called after each step with its terms, the same on all ranks, and the progress that is now reached.

        What it keeps from one step to the next must be part of the module's state, or a resumed run forgets it.
        """
        ...


class NoHooks:
    """For models that need no hooks around a step and compile their networks whole."""

    def uncompiled(self) -> Sequence[nn.Module]:
        """None."""
        return ()

    def begin(self, batches: Sequence[Any], progress: float) -> None:
        """Nothing."""

    def observe(self, terms: Mapping[str, float], progress: float) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Spent:
    """What the steps of this process took, those before it was resumed left out. Never part of a result's content."""

    num_steps: int
    cpu_seconds: float
    """Processor time of all threads: other work on the machine hardly changes it."""
    seconds: float


@dataclass(frozen=True)
class FitResult:
    """The end of a training run. `weights` are the module's averaged weights where `averaged`, else the last ones."""

    weights: dict[str, Tensor]
    averaged: bool
    num_steps: int
    num_rollbacks: int
    rows: Sequence[Mapping[str, float]]
    spent: Spent


def schedule(step: int, num_steps: int, warmup_fraction: float, final_fraction: float) -> float:
    """Factor on the peak learning rate at `step` (0-based): linear warm-up, then a half cosine to `final_fraction`."""
    warmup = max(1, round(warmup_fraction * num_steps)) if warmup_fraction > 0 else 0
    if step < warmup:
        return (step + 1) / warmup
    part = (step - warmup) / max(1, num_steps - 1 - warmup)
    return final_fraction + (1 - final_fraction) * 0.5 * (
        1 + float(torch.cos(torch.tensor(torch.pi * min(part, 1.0))))
    )
