"""Checks before long work, so that it fails in its first second rather than in its last."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from vqpipe.errors import SetupError, human_bytes

LEAST_FREE = 1 << 20
"""Bytes below which a file system counts as full."""


def need_place(folder: Path, names: Sequence[str] = (), what: str | None = None) -> None:
    """Raise `SetupError` unless files can be made in `folder`, which may have to be made itself.

    Nothing is left behind: the test file has no name, or is removed at once.

    Args:
        names: of the files to be made, for the limit of the file system.
        what: how the message names the place; by default by its path.
    """
    shown = what or str(folder / next(iter(names), ""))
    at, new = _existing(folder)
    if new and os.path.islink(link := at / new[-1]):
        raise SetupError(f"{shown} cannot be written: {link} is a link to nothing", found=os.readlink(link))
    if not at.is_dir():
        raise SetupError(f"{shown} cannot be written: {at} is a file", expected="a folder")
    _need_short(shown, at, [*names, *new])
    may = {"effective_ids": True} if os.access in os.supports_effective_ids else {}
    if not os.access(at, os.W_OK | os.X_OK, **may):
        raise SetupError(
            f"{shown} cannot be written: {at} is not writable",
            expected="a folder that this user may write to",
        )
    free = shutil.disk_usage(at).free
    if free < LEAST_FREE:
        raise SetupError(
            f"{shown} cannot be written: no space is left", found=f"{human_bytes(free)} free at {at}"
        )
    try:
        with tempfile.TemporaryFile(dir=at) as stream:
            stream.write(bytes(4096))
    except OSError as error:
        raise SetupError(f"{shown} cannot be written", found=f"{at}: {error.strerror}") from error


def need_short(path: Path) -> None:
    """Raise `SetupError` where a part of a path that is not there yet is longer than the file system takes."""
    _need_short(str(path), *_existing(path))


def _existing(path: Path) -> tuple[Path, list[str]]:
    """The part of a path that is there, and the names below it that are not, the last one first."""
    at, new = path.absolute(), list[str]()
    while not os.path.exists(at):
        new.append(at.name)
        at = at.parent
    return at, new


def _need_short(shown: str, at: Path, names: list[str]) -> None:
    """Raise `SetupError` where a name is longer than the file system at `at` takes."""
    limit = os.pathconf(at, "PC_NAME_MAX")
    for name in names:
        length = len(os.fsencode(name))
        if length > limit:
            raise SetupError(
                f"{shown} cannot be written: a name is too long",
                found=f"{length} bytes: {name[:40]}…", expected=f"at most {limit} bytes",
            )  # fmt: skip


def need_disk(folder: Path, num_bytes: int, what: str) -> None:
    """Raise `SetupError` unless the file system of `folder` has `num_bytes` free."""
    at, _ = _existing(folder)
    free = shutil.disk_usage(at).free
    if free < num_bytes:
        raise SetupError(
            f"not enough disk space for {what}",
            found=f"{human_bytes(free)} free at {at}, {human_bytes(num_bytes - free)} too little",
            expected=human_bytes(num_bytes),
        )


def need_memory(num_bytes: int, what: str) -> None:
    """Raise `SetupError` unless the machine reports `num_bytes` of available memory."""
    import psutil

    free = psutil.virtual_memory().available
    if free < num_bytes:
        raise SetupError(
            f"not enough memory for {what}",
            found=f"{human_bytes(free)} available, {human_bytes(num_bytes - free)} too little",
            expected=human_bytes(num_bytes),
        )


def need_compiler(device_type: str) -> None:
    """Raise `SetupError` unless `torch.compile` finds what it builds code with: a C++ compiler, on CUDA Triton and a
    C compiler.

    Args:
        device_type: `cpu` or `cuda`.
    """
    usual: tuple[str, ...]
    if device_type == "cuda":
        if find_spec("triton") is None:
            raise SetupError(
                "training.compile needs Triton on CUDA, and it is not installed",
                expected="the package triton, or training.compile: false", run="pip install triton",
            )  # fmt: skip
        variable, usual = "CC", ("gcc", "clang")
    else:
        variable, usual = "CXX", ("clang++",) if sys.platform == "darwin" else ("g++",)
        if os.environ.get("TORCH_INDUCTOR_INSTALL_GXX"):
            return
    named = os.environ.get(variable)
    names = shlex.split(named)[:1] if named else usual
    if not any(map(shutil.which, names)):
        raise SetupError(
            f"training.compile needs a {'C' if variable == 'CC' else 'C++'} compiler, and there is none",
            found=f"no {' or '.join(names) or 'name'} on the PATH" + (f" ({variable}={named})" if named else ""),
            expected=f"a compiler, or its path in {variable}, or training.compile: false",
        )  # fmt: skip
