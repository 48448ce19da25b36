"""Batches of any shape: read ahead, cut into micro-batches, laid out for convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vqpipe.errors import MismatchError
from vqpipe.runtime.distributed import world_size
from vqpipe.runtime.signals import close_pool


def over_tensors(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The batch with every tensor changed: a tensor, or a tuple, mapping or dataclass of such; None stays.

    Raises:
        TypeError: a batch of another type.
    """
    if isinstance(batch, Tensor):
        return change(batch)
    if batch is None:
        return None
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


def check_shares(batch_size: int, accumulate: int) -> None:
    """Refuse a batch that ranks and micro-batches cannot share evenly.

    Raises:
        MismatchError: `batch_size` is no multiple of ranks times micro-batches.
    """
    if batch_size % (world_size() * accumulate):
        raise MismatchError(
            "training.batch_size does not divide among the ranks and their micro-batches",
            found=f"{batch_size} over {world_size()} ranks x accumulate {accumulate}",
            expected=f"a multiple of {world_size() * accumulate}",
        )


@contextmanager
def prefetch(batch_at: Callable[[int], Any]) -> Iterator[Callable[[int], Any]]:
    """A reader that makes the next batch in a thread while this one is trained on."""
    pool, waiting = ThreadPoolExecutor(1), dict[int, Future[Any]]()

    def batch_of(step: int) -> Any:
        future = waiting.pop(step, None) or pool.submit(batch_at, step)
        waiting.clear()
        waiting[step + 1] = pool.submit(batch_at, step + 1)
        return future.result()

    try:
        yield batch_of
    finally:
        close_pool(pool)
