"""When the discriminator starts: at a part of the training, or when the reconstruction loss stops to fall."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vqpipe.params.losses import PlateauParams, PlateauStart


class DiscriminatorStart(nn.Module):
    """Answers whether the discriminator has started, and remembers what it has seen.

    A fixed start remembers nothing. A plateau has one buffer, float64: mean of the last whole window, sum and number
    of the losses in the present one, and the progress at which it started; -1 stands for none. It is part of the
    checkpoint, so that a resumed or rolled back run decides as if it had never stopped; the losses are means over
    ranks, so that all ranks decide alike.
    """

    memory: Tensor

    def __init__(self, start: float | PlateauStart) -> None:
        super().__init__()
        self.fixed = None if isinstance(start, PlateauStart) else start
        self.plateau: PlateauParams | None = start.plateau if isinstance(start, PlateauStart) else None
        if self.plateau is not None:
            self.register_buffer("memory", torch.tensor([-1.0, 0.0, 0.0, -1.0], dtype=torch.float64))

    @property
    def started_at(self) -> float | None:
        """The progress in [0, 1] at which it starts or started; None while that is not known."""
        if self.plateau is None:
            return self.fixed
        progress = self.memory[3].item()
        return None if progress < 0 else progress

    def passed(self, progress: float, warmup: float = 0.0) -> bool:
        """Whether `progress` is at or after the start plus `warmup`."""
        start = self.started_at
        return start is not None and progress >= start + warmup

    def observe(self, loss: float, progress: float) -> None:
        """Take in one step's reconstruction loss; `progress` is what is reached after that step."""
        plateau = self.plateau
        if plateau is None or self.started_at is not None:
            return
        previous, total, count, _ = self.memory.tolist()
        total, count = total + loss, count + 1
        flat = False
        if count == plateau.window:
            mean = total / count
            flat = previous >= 0 and previous - mean < plateau.min_relative_change * previous
            previous, total, count = mean, 0.0, 0
        begins = (flat and progress >= plateau.earliest) or progress >= plateau.latest
        now = [previous, total, count, progress if begins else -1.0]
        self.memory.copy_(torch.tensor(now, dtype=torch.float64))
