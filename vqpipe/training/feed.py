"""Batches made ahead of the step, on the device before they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vqpipe.runtime.signals import close_pool
from vqpipe.training.step import over_tensors


@contextmanager
def prefetch(batch_at: Callable[[int], Any], device: torch.device) -> Iterator[Callable[[int], Any]]:
    """A reader of batches on `device`; a thread makes and moves the next one while this one is trained on.

    On CUDA the thread copies from pinned memory on a stream of its own. The stream that the reader is called on waits
    for the copy, and the host does not.

    Args:
        batch_at: the batch of a step: tensors in tuples, mappings or dataclasses.
        device: where the batches go.
    """
    pool, waiting = ThreadPoolExecutor(1), dict[int, Future[Any]]()
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def make(step: int) -> tuple[Any, torch.cuda.Event | None]:
        batch = batch_at(step)
        if stream is None:
            return over_tensors(batch, lambda part: part.to(device)), None
        with torch.cuda.stream(stream):
            moved = over_tensors(batch, lambda part: _pinned(part).to(device, non_blocking=True))
            return moved, stream.record_event()

    def batch_of(step: int) -> Any:
        future = waiting.pop(step, None) or pool.submit(make, step)
        waiting.clear()
        waiting[step + 1] = pool.submit(make, step + 1)
        batch, copied = future.result()
        if copied is not None:
            present = torch.cuda.current_stream(device)
            present.wait_event(copied)
            over_tensors(batch, lambda part: _used_on(part, present))
        return batch

    try:
        yield batch_of
    finally:
        close_pool(pool)


def _pinned(tensor: Tensor) -> Tensor:
    return tensor.pin_memory() if tensor.device.type == "cpu" else tensor


def _used_on(tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
    """Keep the tensor's memory, which another stream allocated, until this stream is done with it."""
    tensor.record_stream(stream)
    return tensor
