"""A map over shards, in order, on as many processes as the environment allows, here or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

from vqpipe.errors import SetupError
from vqpipe.runtime.env import engine, workers
from vqpipe.runtime.signals import hold_signals, is_stopping

T = TypeVar("T")
R = TypeVar("R")

RETRIES = 3
"""How often a shard is run again after the worker that may have had it died."""


def map_shards(
    work: Callable[[T], R], shards: Iterable[T], shards_per_worker: int | None = None
) -> Iterator[R]:
    """Yield `work(shard)` for each shard, in the order of the shards with any engine and number of workers.

    `VQPIPE_ENGINE` says where: on `VQPIPE_WORKERS` processes of this machine (with one worker, in this process),
    or as tasks of Ray. At most two shards per worker are in flight, so memory stays bounded. When a worker is
    killed, the shards without a result run again on a fresh one.

    Args:
        work: a module-level function (or a `functools.partial` of one) whose result depends on its argument
            alone.
        shards: the arguments; they are drawn as they are needed.
        shards_per_worker: a worker process is replaced after about so many shards; None: never. For work that
            leaves memory behind.

    Raises:
        SetupError: workers died again and again, most often for lack of memory; or Ray is not there.
        Exception: any that `work` raises.
    """
    if engine() == "ray":
        from vqpipe.runtime.ray_engine import map_on_ray

        yield from map_on_ray(work, shards, shards_per_worker, RETRIES)
        return
    count = workers()
    if count == 1:
        yield from (work(shard) for shard in shards)
        return
    processes = _Processes(work, count, shards_per_worker)
    try:
        for shard in shards:
            processes.submit(_Waiting(shard))
            if len(processes.waiting) >= 2 * count:
                yield processes.next_result()
        while processes.waiting:
            yield processes.next_result()
    finally:
        processes.close()


def _begin_worker(parent: Connection) -> None:
    """Set a worker up: one thread, no end by Ctrl-C, which is for the parent to act on, and none without the parent."""
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Connection) -> None:
    """End this worker when the other end of the pipe is closed: by the parent, or by its death."""
    with suppress(EOFError, OSError):
        parent.recv_bytes()
    os._exit(1)


def _start_server() -> None:
    """Start the process that forks the workers, with SIGINT blocked in it and so in each worker from its beginning."""
    resource_tracker.ensure_running()  # which unblocks SIGINT
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@dataclass
class _Waiting(Generic[T, R]):
    """A shard in flight."""

    shard: T
    future: Future[R] | None = None
    deaths: int = 0

    def has_result(self) -> bool:
        """Whether the shard need not run again: it has a result, or `work` raised."""
        future = self.future
        if future is None or not future.done() or future.cancelled():
            return False
        return not isinstance(future.exception(), BrokenProcessPool)


class _Processes(Generic[T, R]):
    """A process pool that is replaced when one of its workers dies, or when it has served long enough."""

    def __init__(self, work: Callable[[T], R], count: int, shards_per_worker: int | None) -> None:
        self.work, self.count = work, count
        self.waiting: deque[_Waiting[T, R]] = deque()
        self._context = multiprocessing.get_context("forkserver")
        self._workers_end, self._own_end = self._context.Pipe(duplex=False)
        self._lifetime = shards_per_worker * count if shards_per_worker else None
        self._pool = self._fresh()

    def _fresh(self) -> ProcessPoolExecutor:
        self._served = 0
        _start_server()
        return ProcessPoolExecutor(
            self.count, mp_context=self._context, initializer=_begin_worker, initargs=(self._workers_end,)
        )

    def submit(self, entry: _Waiting[T, R]) -> None:
        """Start a shard; it is the last in line."""
        self.waiting.append(entry)
        if self._lifetime is not None and self._served >= self._lifetime:
            self._pool.shutdown(wait=False)  # its workers end when the shards that they have are done
            self._pool = self._fresh()
        self._start(entry)

    def _start(self, entry: _Waiting[T, R]) -> None:
        self._served += 1
        entry.future = None
        with (
            hold_signals(),
            suppress(BrokenProcessPool),
        ):  # then `next_result` finds the shard without a result
            entry.future = self._pool.submit(self.work, entry.shard)  # may start workers

    def next_result(self) -> R:
        """Wait for the first shard in line, in as many pools as it takes."""
        first = self.waiting[0]
        while True:
            with suppress(BrokenProcessPool):
                if first.future is not None:
                    result = first.future.result()
                    self.waiting.popleft()
                    return result
            self._replace()

    def _replace(self) -> None:
        """Put a new pool in place of a broken one and run the shards without a result again."""
        self._pool.shutdown(wait=True)
        self._pool = self._fresh()
        for entry in self.waiting:
            if entry.has_result():
                continue
            entry.deaths += 1
            if entry.deaths > RETRIES:
                raise SetupError(
                    f"worker processes died {entry.deaths} times on the same shards, most often for lack of memory",
                    found=f"{self.count} workers",
                    run=f"VQPIPE_WORKERS={max(1, self.count // 2)} and the same command again",
                )
            self._start(entry)

    def close(self) -> None:
        """Drop what has not begun and wait for what has; where a signal ends this process, the workers end at once."""
        if is_stopping():
            self._own_end.close()
            self._pool.shutdown(wait=False)  # waiting would never end if a result was being sent
            return
        for entry in self.waiting:
            if entry.future is not None:
                entry.future.cancel()
        self._pool.shutdown(wait=True)
        self._own_end.close()
        self._workers_end.close()
