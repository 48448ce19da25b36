"""Work over a split batch by batch: the next batches are read ahead in a thread, and the ranks take turns.

A few batches are in memory at a time, for any number of images. A batch is always the same items and is worked
on whole by one rank, so that results are the same bits for any number of ranks and workers.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from vqpipe.runtime.distributed import gather_to_main, rank, world_size
from vqpipe.runtime.env import scratch_root
from vqpipe.runtime.preflight import need_disk
from vqpipe.runtime.signals import close_pool

T = TypeVar("T")
B = TypeVar("B")
R = TypeVar("R")

AHEAD = 2
"""Batches that are read while the one before them is worked on."""
IN_MEMORY = 64 << 20
"""Bytes up to which `large_array` is in memory."""


def slices(count: int, batch_size: int) -> list[slice]:
    """Consecutive batches of `count` items; the last one may be short."""
    return [slice(at, min(at + batch_size, count)) for at in range(0, count, batch_size)]


def read_ahead(read: Callable[[T], B], requests: Iterable[T], ahead: int = AHEAD) -> Iterator[B]:
    """`read` of each request, in order; up to `ahead` further ones are read in a thread while the caller works.

    Requests are drawn as they are needed. The thread is one, so that `read` need not be thread-safe; a reader that
    decodes images has its own `VQPIPE_WORKERS` threads.
    """
    pool, waiting = ThreadPoolExecutor(1), deque[Future[B]]()
    try:
        for request in requests:
            waiting.append(pool.submit(read, request))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        close_pool(pool)


def in_turns(items: Sequence[T], read: Callable[[T], B], work: Callable[[B], R]) -> Iterator[R]:
    """`work(read(item))` of each item in order; the ranks take the items in turn, and rank 0 alone gets the results.

    All ranks must run through it: on the others it yields nothing, and ends when all items are done.

    Args:
        items: the same on all ranks.
        read: gives what a rank works on; called ahead in a thread.
        work: its results, on the CPU, are pickled to rank 0.
    """
    done = map(work, read_ahead(read, items[rank() :: world_size()]))
    if world_size() == 1:
        yield from done
        return
    for _ in range(math.ceil(len(items) / world_size())):
        for result in gather_to_main(next(done, None)):
            if result is not None:
                yield result


def large_array(shape: tuple[int, ...], dtype: Any, what: str) -> np.ndarray:
    """An array to be filled: in memory up to 64 MiB, beyond that mapped from an unnamed file in the scratch folder.

    The file disappears with the array, or with the process.

    Args:
        what: names the content in the error.

    Raises:
        SetupError: too little disk space.
    """
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if num_bytes <= IN_MEMORY:
        return np.empty(shape, dtype)
    folder = scratch_root()
    folder.mkdir(parents=True, exist_ok=True)
    need_disk(folder, num_bytes, what)
    with tempfile.TemporaryFile(dir=folder) as stream:
        if hasattr(
            os, "posix_fallocate"
        ):  # a full disk is an error here, and not a crash when the array is filled
            os.posix_fallocate(stream.fileno(), 0, num_bytes)
        else:
            stream.truncate(num_bytes)
        return np.memmap(stream, dtype, "r+", shape=shape)
