"""Scratch folders for checkpoints: named by what they depend on, locked while in use, removed on success."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vqpipe.errors import SetupError
from vqpipe.runtime.env import is_main_process, scratch_root


@contextmanager
def scratch_folder(stage: str, key: str) -> Iterator[Path]:
    """Lock and yield `$VQPIPE_SCRATCH/<stage>/<key>`; it is removed when the block ends well and kept when it does not.

    Under torchrun all ranks share the folder; rank 0 holds the lock and cleans up.

    Raises:
        SetupError: another process holds the same folder.
    """
    folder = scratch_root() / stage / key
    folder.mkdir(parents=True, exist_ok=True)
    if not is_main_process():
        yield folder
        return
    lock_path = folder.with_name(f"{key}.lock")
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SetupError(
                f"another process is running {stage} with the same params and inputs",
                found=f"a lock on {folder}",
                expected="one run at a time",
            ) from error
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
        lock_path.unlink(missing_ok=True)
