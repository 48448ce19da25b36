"""The environment's share of configuration: device, workers, engine and scratch. Results do not depend on it."""

from __future__ import annotations

import os
from pathlib import Path

from vqpipe.errors import SetupError

ENGINES = ("local", "ray")
"""`local`: processes of this machine; `ray`: a Ray cluster, or a Ray of this machine where none is named."""


def workers() -> int:
    """Number of worker processes: `VQPIPE_WORKERS`, or the cores this process may use, shared with torchrun's others.

    Raises:
        SetupError: the variable is not a whole number of at least 1.
    """
    text = os.environ.get("VQPIPE_WORKERS")
    if not text:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if not text.isdigit() or int(text) < 1:
        raise SetupError("VQPIPE_WORKERS is not a number of processes", found=text, expected="1 or more")
    return int(text)


def engine() -> str:
    """The engine that maps over shards: `VQPIPE_ENGINE`, by default `local`.

    Raises:
        SetupError: the variable is not an engine.
    """
    name = os.environ.get("VQPIPE_ENGINE") or "local"
    if name not in ENGINES:
        raise SetupError("VQPIPE_ENGINE is not an engine", found=name, choices=ENGINES)
    return name


def scratch_root() -> Path:
    """Folder for checkpoints and caches: `VQPIPE_SCRATCH`, by default `.scratch` in the working directory."""
    return Path(os.environ.get("VQPIPE_SCRATCH") or ".scratch")


def is_main_process() -> bool:
    """Whether this process publishes: rank 0 under torchrun, or the only one."""
    return os.environ.get("RANK", "0") == "0"
