"""Counts the images that are in memory, for tests of work that streams."""

from __future__ import annotations

import threading
import weakref

import torch
from torch import Tensor


class LiveImages:
    """Images whose memory has not been freed: `now`, and at most `peak` at a time. Views keep their images alive."""

    def __init__(self) -> None:
        self.now, self.peak, self.total = 0, 0, 0
        self._lock = threading.RLock()

    def count(self, images: Tensor) -> Tensor:
        """A copy of a batch of images (first dimension) that is counted until its memory is freed."""
        array = images.numpy().copy()
        with self._lock:
            self.now += len(array)
            self.total += len(array)
            self.peak = max(self.peak, self.now)
        weakref.finalize(array, self._freed, len(array))
        return torch.from_numpy(array)

    def _freed(self, number: int) -> None:
        with self._lock:
            self.now -= number
