"""The terms of a step on the device, and their means over the steps of one row of the curves.

Within a window nothing is read: each micro-batch's terms are packed into one vector per device and dtype. At the end
of a window, or before a checkpoint, all vectors come to the host in one copy, and ranks exchange them in one
collective.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from vqpipe.runtime.distributed import average, world_size


@dataclass(frozen=True)
class Packed:
    """Named scalars of one micro-batch, or of a step."""

    names: tuple[str, ...]
    """Those of `vectors` in order, then those of `floats`."""
    vectors: tuple[Shaped[Tensor, " n"], ...]
    """Copies of the scalars that are tensors, one vector per device and dtype."""
    floats: tuple[float, ...] = ()
    """The others."""


StepTerms = Sequence[Packed]
"""Of one step; a name that occurs several times has one value per micro-batch, of which the mean is taken."""


def pack(terms: Mapping[str, Tensor | float], prefix: str = "") -> Packed:
    """The terms in few copies on their device, without waiting for it."""
    alike: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}
    floats: dict[str, float] = {}
    for name, value in terms.items():
        if isinstance(value, Tensor):
            alike.setdefault((value.device, value.dtype), {})[name] = value.detach().reshape(())
        else:
            floats[name] = value
    names = [name for part in alike.values() for name in part] + list(floats)
    vectors = tuple(torch.stack(list(part.values())) for part in alike.values())
    return Packed(tuple(prefix + name for name in names), vectors, tuple(floats.values()))


def read(steps: Sequence[StepTerms], device: torch.device) -> list[dict[str, float]]:
    """Each step's terms on the host, means over micro-batches and ranks; the same on all ranks.

    All ranks call it with as many steps, of the same names in the same order.
    """
    flat = [packed for step in steps for packed in step]
    vectors = [vector.to(device, torch.float64) for packed in flat for vector in packed.vectors]
    floats = [value for packed in flat for value in packed.floats]
    if world_size() > 1:
        vectors.append(torch.tensor(floats, dtype=torch.float64, device=device))
    tensors = iter(average(torch.cat(vectors)).tolist() if vectors else [])
    numbers = {
        id(packed): [next(tensors) for vector in packed.vectors for _ in range(len(vector))]
        for packed in flat
    }
    plain = tensors if world_size() > 1 else iter(floats)
    for packed in flat:
        numbers[id(packed)] += [next(plain) for _ in packed.floats]
    found = []
    for step in steps:
        values: dict[str, list[float]] = {}
        for packed in step:
            for name, value in zip(packed.names, numbers[id(packed)], strict=True):
                values.setdefault(name, []).append(value)
        found.append({name: sum(own) / len(own) for name, own in values.items()})
    return found


class Window:
    """Sums of terms since the last row; terms that are not finite are left out."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._sums: dict[str, list[float]] = {}
        self._waiting: list[StepTerms] = []

    def add(self, terms: StepTerms) -> None:
        """Record one step; nothing is read."""
        self._waiting.append(terms)

    def settle(self) -> dict[str, list[float]]:
        """Sum and count of each term, for a checkpoint; reads what waits on the device."""
        waiting, self._waiting = self._waiting, []
        for terms in read(waiting, self.device) if waiting else ():
            for name, value in terms.items():
                if math.isfinite(value):
                    total, count = self._sums.get(name, (0.0, 0))
                    self._sums[name] = [total + value, count + 1]
        return self._sums

    def close(self) -> dict[str, float]:
        """The mean of each term; the next window begins."""
        sums = self.settle()
        self._sums = {}
        return {name: total / count for name, (total, count) in sums.items()}

    def restore(self, sums: Mapping[str, Iterable[float]]) -> None:
        """Continue from `settle`'s result of a checkpoint; what waits is forgotten."""
        self._sums, self._waiting = {name: list(own) for name, own in sums.items()}, []
