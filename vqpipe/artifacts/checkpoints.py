"""Checkpoints that a run keeps in scratch: checked before use, and replaced or made again where damaged.

A checkpoint stays under a second name, `NAME.before.ENDING`, when the next one takes its place. A damaged one becomes
`NAME.damaged.ENDING`, and the run resumes from the one before it, or from the beginning. Each damage is one line on
stderr.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

import torch

from vqpipe.artifacts.publish import hidden, remove_leftovers
from vqpipe.errors import ArtifactError
from vqpipe.runtime.distributed import all_reduce_sum, is_main
from vqpipe.runtime.terminal import say


class Found(IntEnum):
    """What `recover` found."""

    NOTHING = 0
    NEWEST = 1
    BEFORE = 2
    """Only the checkpoint before the newest; it has the newest's name now."""


def previous_path(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is."""
    return path.with_name(f"{path.stem}.before{path.suffix}")


@contextmanager
def keeping_previous(path: Path) -> Iterator[None]:
    """While this is open, another checkpoint is put at `path`; the one that was there becomes the one before.

    Two checkpoints are there at any moment once there were two. A file system without hard links has one for a moment.
    """
    with hidden(path, "replaced") as old:
        linked = path.is_file()
        try:
            if linked:
                os.link(path, old)
        except OSError:
            linked = False
            os.replace(path, previous_path(path))
        yield
        if linked:
            os.replace(old, previous_path(path))


def recover(path: Path, check: Callable[[Path], object], device: torch.device) -> Found:
    """Make sure that the checkpoint to resume from is the one at `path`; damaged ones are set aside.

    All ranks call it: rank 0 reads and decides. It also removes what dead processes left in the folder.

    Args:
        path: of the newest checkpoint; absent where there is none.
        check: raises `ArtifactError` where a file is damaged.
        device: where this rank's tensors are.
    """
    found = _recover(path, check) if is_main() else Found.NOTHING
    return Found(int(all_reduce_sum(torch.tensor(int(found), device=device))))


def _recover(path: Path, check: Callable[[Path], object]) -> Found:
    remove_leftovers(path.parent)
    second, notes, found = previous_path(path), list[str](), Found.NOTHING
    for one, what in ((path, Found.NEWEST), (second, Found.BEFORE)):
        if not one.is_file():
            if one == path and second.is_file():
                notes.append(f"{path} is not there")
            continue
        try:
            check(one)
        except (ArtifactError, OSError) as error:
            aside = one.with_name(f"{one.stem}.damaged{one.suffix}")
            notes.append(f"{_damage(error)}; it is set aside as {aside.name}")
            os.replace(one, aside)
        else:
            found = what
            break
    if found == Found.BEFORE:
        os.replace(second, path)
    start = "starts from the beginning" if found == Found.NOTHING else "resumes from the checkpoint before it"
    for note in notes:
        say(f"{note}; the run {start}", err=True)
    return found


def is_intact(check: Callable[[], object], otherwise: str) -> bool:
    """Whether `check` finds no damage; where it finds some, it is printed in one line on stderr.

    Args:
        check: raises `ArtifactError` where a file is damaged or missing.
        otherwise: what happens then, the end of the line.
    """
    try:
        check()
    except (ArtifactError, OSError) as error:
        say(f"{_damage(error)}; {otherwise}", err=True)
        return False
    return True


def _damage(error: ArtifactError | OSError) -> str:
    """What is wrong with a file, on one line; other errors of the system than a failing disk's are raised again."""
    if isinstance(error, OSError):
        if error.errno != errno.EIO:
            raise error
        return f"{error.filename or 'a file'} cannot be read ({error.strerror})"
    problem, *parts = (" ".join(line.split()) for line in str(error).splitlines())
    shown = ", ".join(part for part in parts if not part.startswith("run:"))
    return f"{problem} ({shown})" if shown else problem
