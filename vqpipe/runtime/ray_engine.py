"""`map_shards` with Ray: on the cluster that `RAY_ADDRESS` names, or on this machine."""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from vqpipe.errors import SetupError
from vqpipe.runtime.env import workers
from vqpipe.runtime.signals import take_back

T = TypeVar("T")
R = TypeVar("R")

OBJECT_STORE = 256 << 20
"""Bytes of shared memory for a Ray of this machine; shards are far smaller."""
CONNECT_SECONDS = 10.0
"""How long the head of a cluster may take to answer."""


def map_on_ray(
    work: Callable[[T], R], shards: Iterable[T], shards_per_worker: int | None, retries: int
) -> Iterator[R]:
    """Yield `work(shard)` for each shard, in order; see `vqpipe.runtime.shards.map_shards`.

    Each shard is a task of one CPU, which Ray runs again up to `retries` times when its worker or node dies. The
    shards go to the workers with the tasks; nothing of the working directory is uploaded. Every node needs the
    same vqpipe at the same path as here, or installed.

    Raises:
        SetupError: Ray is not installed or cannot be reached, or a shard's workers died again and again.
        Exception: any that `work` raises.
    """
    with _connected() as ray:
        task = ray.remote(num_cpus=1, max_retries=retries, max_calls=shards_per_worker or 0)(_call)
        shared = ray.put(work)
        limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting: deque[Any] = deque()
        try:
            for shard in shards:
                waiting.append(task.remote(shared, shard))
                if len(waiting) >= limit:
                    yield _result(ray, waiting.popleft())
            while waiting:
                yield _result(ray, waiting.popleft())
        finally:
            for reference in waiting:
                ray.cancel(reference, force=False)


def _call(work: Callable[[T], R], shard: T) -> R:
    return work(shard)


def _result(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise SetupError(
            "Ray gave up on a shard after its workers died again and again, most often because memory ran out",
            found=str(error).strip().splitlines()[0],
            run="the same command again, with more memory for each CPU of the cluster",
        ) from error


@contextmanager
def _connected() -> Iterator[Any]:
    """The module `ray`, connected; a connection that was there before stays."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray starts
    try:
        import ray
    except ImportError as error:
        raise SetupError(
            "VQPIPE_ENGINE=ray needs Ray, which is not installed", run="pip install 'vqpipe[ray]'"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS")
    own: dict[str, Any] = {} if address else {"num_cpus": workers(), "object_store_memory": OBJECT_STORE}
    try:
        if address and address.count(":") == 1:
            host, port = address.split(":")
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()  # Ray waits minutes
        ray.init(
            address=address or "local", include_dashboard=None if address else False, log_to_driver=False,
            logging_level=logging.ERROR, runtime_env={"env_vars": _worker_environment()}, **own,
        )  # fmt: skip
        take_back()  # Ray handles SIGTERM by itself and exits with 1 or 15
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        raise SetupError(
            "Ray cannot be reached" if address else "Ray cannot be started on this machine",
            found=f"RAY_ADDRESS={address}: {error}" if address else str(error),
            run="ray status" if address else "VQPIPE_ENGINE=local and the same command again",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _worker_environment() -> dict[str, str]:
    """One thread a task, and this checkout first among the places that Python imports from."""
    root = str(Path(__file__).resolve().parents[2])
    known = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place and place != root]
    return {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([root, *known])}
