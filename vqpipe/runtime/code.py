"""Which code made a number: a digest over source files of this package."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import vqpipe

ROOT = Path(vqpipe.__file__).parent


def code_digest(parts: Iterable[str], root: Path = ROOT) -> str:
    """The first 12 hexadecimal digits of the SHA-256 over names and bytes of Python files.

    Args:
        parts: files and folders under `root`, such as `engine` or `data/loader.py`; folders with all they hold.
        root: by default the folder of the package `vqpipe`.

    Raises:
        FileNotFoundError: a part that is not there.
    """
    files: set[Path] = set()
    for part in parts:
        path = root / part
        if not path.exists():
            raise FileNotFoundError(path)
        files |= {path} if path.is_file() else set(path.rglob("*.py"))
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda path: path.relative_to(root).as_posix()):
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]
