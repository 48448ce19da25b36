"""Scratch folders for checkpoints: named by what they depend on, locked while in use, removed on success."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vqpipe.errors import SetupError
from vqpipe.runtime.env import is_main_process, scratch_root
from vqpipe.runtime.preflight import need_place
from vqpipe.runtime.signals import Stopped
from vqpipe.runtime.terminal import say

NUM_CHANGES = 3
"""Differences between two runs that are named."""


@contextmanager
def scratch_folder(stage: str, key: str, about: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """Lock and yield `$VQPIPE_SCRATCH/<stage>/<key>`; it is removed when the block ends well and kept when it does not.

    Under torchrun all ranks share the folder; rank 0 holds the lock and cleans up. An unfinished run of the same stage
    under another key is reported in one line on stderr, and left alone.

    Args:
        stage: the folder's parent.
        key: names the folder: a hash of all that its content depends on.
        about: the params, inputs and code behind the key, so that a later run can report how it differs.

    Raises:
        SetupError: another process has locked the same folder, or nothing can be written there.
    """
    folder = scratch_root() / stage / key
    need_place(folder, what=f"VQPIPE_SCRATCH ({scratch_root()})")
    folder.mkdir(parents=True, exist_ok=True)
    if not is_main_process():
        yield folder
        return
    lock_path = folder.with_name(f"{key}.lock")
    with lock_path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SetupError(
                f"another process is running {stage} with the same params and inputs",
                found=f"a lock on {folder}",
                expected="one run at a time",
            ) from error
        lock.truncate(0)
        lock.write(json.dumps(about or {}))
        lock.flush()
        if note := unfinished(stage, key, about or {}):
            say(note, err=True)
        try:
            yield folder
        except Stopped as stop:
            stop.kept = folder
            raise
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # the work is done; what is left there does no harm
            lock_path.unlink()


def unfinished(stage: str, key: str, about: Mapping[str, Any]) -> str | None:
    """One line on the newest run of a stage that was begun under another key and is neither running nor finished.

    Args:
        stage, key, about: as `scratch_folder`.
    """
    left = [
        (changed, folder)
        for folder in (scratch_root() / stage).iterdir()
        if folder.is_dir()
        and folder.name != key
        and (changed := _last_change(folder)) is not None
        and not _is_locked(folder)
    ]
    if not left:
        return None
    changed, folder = max(left)
    differs = _differences(_about(folder), about)
    named = "; ".join(differs[:NUM_CHANGES]) + ("; …" if len(differs) > NUM_CHANGES else "")
    others = f" (and {len(left) - 1} older)" if len(left) > 1 else ""
    return (
        f"{stage}: an unfinished run of other params, inputs or code, {_age(time.time() - changed)} old, is left as it "
        f"is: {folder}{others}; it resumes when {named or 'its params, inputs and code'} "
        f"{'is' if len(differs) == 1 else 'are'} as before; remove the folder if it is not needed"
    )


def _last_change(folder: Path) -> float | None:
    """When a folder or a file in it changed; None where it is empty, or another process is removing it."""
    try:
        inside = list(folder.iterdir())
        return max(path.stat().st_mtime for path in (folder, *inside)) if inside else None
    except OSError:
        return None


def _is_locked(folder: Path) -> bool:
    try:
        with folder.with_name(f"{folder.name}.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _about(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads(folder.with_name(f"{folder.name}.lock").read_text())
    except (OSError, ValueError, RecursionError):  # damaged
        return {}
    return content if isinstance(content, dict) else {}


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`name A (here B)` for each value that differs, by dotted name; nothing where the other run has no value."""
    found: list[str] = []
    for name in theirs:
        one, two = theirs[name], ours.get(name)
        if isinstance(one, dict) and isinstance(two, dict):
            found += _differences(one, two, f"{prefix}{name}.")
        elif one != two:
            found.append(f"{prefix}{name}" + ("" if _is_long(one, two) else f" = {one} (now {two})"))
    return found


def _is_long(*values: Any) -> bool:
    return any(len(str(value)) > 30 for value in values)


def _age(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} seconds"
