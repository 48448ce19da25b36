"""One small map over shards, in order, on as many processes as the environment allows."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from vqpipe.errors import SetupError
from vqpipe.runtime.env import engine, workers

T = TypeVar("T")
R = TypeVar("R")


def _quiet_worker() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"


def map_shards(work: Callable[[T], R], shards: Iterable[T]) -> Iterator[R]:
    """Yield `work(shard)` for each shard, in the shards' order whatever the number of workers.

    `work` must be a module-level function (or a `functools.partial` of one) whose result depends on its argument
    alone. At most two shards per worker are in flight, so memory stays bounded. With one worker it runs in this
    process.

    Raises:
        SetupError: a worker process was killed (most often for memory).
        Exception: whatever `work` raises.
    """
    engine()
    count = workers()
    if count == 1:
        yield from (work(shard) for shard in shards)
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_quiet_worker) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for shard in shards:
                waiting.append(pool.submit(work, shard))
                if len(waiting) >= 2 * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise SetupError(
                "a worker process died, most often because memory ran out",
                found=f"{count} workers",
                run=f"VQPIPE_WORKERS={max(1, count // 2)} and the same command again",
            ) from error
        finally:
            for future in waiting:
                future.cancel()
