"""Checks before long work, so that it fails in its first second and not in its last."""

from __future__ import annotations

import shutil
from pathlib import Path

from vqpipe.errors import SetupError


def need_disk(folder: Path, num_bytes: int, what: str) -> None:
    """Raise `SetupError` unless the file system of `folder` has `num_bytes` free."""
    at = folder.absolute()
    while not at.exists():
        at = at.parent
    free = shutil.disk_usage(at).free
    if free < num_bytes:
        raise SetupError(
            f"not enough disk space for {what}",
            found=f"{free / 1e9:.2f} GB free at {at}",
            expected=f"{num_bytes / 1e9:.2f} GB",
        )


def need_memory(num_bytes: int, what: str) -> None:
    """Raise `SetupError` unless the machine reports `num_bytes` of available memory."""
    import psutil

    free = psutil.virtual_memory().available
    if free < num_bytes:
        raise SetupError(
            f"not enough memory for {what}",
            found=f"{free / 1e9:.2f} GB available",
            expected=f"{num_bytes / 1e9:.2f} GB",
        )
