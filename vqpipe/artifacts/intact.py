"""Reading what was written: content is compared with its checksum, and several files of a folder are of one version."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from vqpipe.artifacts.publish import MANIFEST, file_digest
from vqpipe.artifacts.seal import check_seal, need_equal, read_sealed_json
from vqpipe.artifacts.spec import repair_command
from vqpipe.errors import ArtifactError

SMALL = 16 << 20
"""Bytes up to which a file is compared with its checksum at every read; a larger one once per process."""
TRIES, PAUSE = 100, 0.01
"""How often a folder is read again if it was replaced during each reading before, and the seconds in between."""

_intact: dict[Path, tuple[Any, ...]] = {}
"""The state in which this process has compared each large file with its checksum."""


def need_intact(path: Path, run: str | None = None) -> None:
    """Compare a file with its checksum: in the manifest of its folder, and without one its own seal.

    A file of more than 16 MB that has not changed is compared once per process.

    Args:
        run: the command that makes the file again, for one that is in no folder with a manifest.

    Raises:
        ArtifactError: other content than was written, or no checksum.
    """
    manifest = path.parent / MANIFEST
    run = repair_command(path.parent) if manifest.is_file() else run or "download it, or make it again"
    status = path.stat()
    stated = None
    if manifest.is_file():
        entry = read_sealed_json(manifest, run).get("files", {}).get(path.name)
        if entry is None:
            raise ArtifactError(f"{path} is not in its folder's manifest", run=run)
        stated = entry["sha256"]
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, stated)
    if status.st_size > SMALL and _intact.get(path) == state:
        return
    if stated is None:
        check_seal(path, run)
    else:
        need_equal(path, file_digest(path), stated, run)
    _intact[path] = state


def read_intact(path: Path, run: str | None = None) -> bytes:
    """The bytes of a small file; arguments and errors as `need_intact`."""
    need_intact(path, run)
    return path.read_bytes()


def generation(folder: Path) -> tuple[int, ...] | None:
    """An identity of one version of a published folder, other than its content; None where there is none."""
    try:
        status = (folder / MANIFEST).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _is_being_replaced(folder: Path) -> bool:
    """Whether a process that cannot exchange two folders in one step has just put this one aside."""
    with suppress(OSError):
        return any(child.name.startswith(f".{folder.name}.replaced-") for child in folder.parent.iterdir())
    return False


P = ParamSpec("P")
T = TypeVar("T")


def read_whole(folder: Path, read: Callable[[], T]) -> T:
    """What `read` gives of one version of a published folder; it runs again where the folder was replaced meanwhile.

    Raises:
        ArtifactError: of `read`; or the folder was replaced during every reading.
    """
    last: Exception | None = None
    for _ in range(TRIES):
        before = generation(folder)
        try:
            result = read()
        except (ArtifactError, OSError) as error:
            if generation(folder) == before and not _is_being_replaced(folder):
                raise
            last = error
            time.sleep(PAUSE)
            continue
        if generation(folder) == before:
            return result
    raise ArtifactError(
        f"{folder} is being replaced again and again", expected="one writer at a time"
    ) from last


def reads_whole(read: Callable[Concatenate[Path, P], T]) -> Callable[Concatenate[Path, P], T]:
    """Let a function that reads several files of a folder, its first argument, see one version of it."""

    @wraps(read)
    def again(folder: Path, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return read_whole(folder, lambda: read(folder, *args, **kwargs))

    return again
