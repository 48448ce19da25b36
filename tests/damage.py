"""What a failing disk or a crash leaves of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def flip(path: Path, part: float = 0.5) -> None:
    """Change one bit of the byte at this part of the file."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * part)] ^= 0x10
    path.write_bytes(content)


def cut(path: Path, part: float = 0.5) -> None:
    """Keep this part of the file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "flipped": flip,
    "flipped at the start": lambda path: flip(path, 0.0),
    "flipped at the end": lambda path: flip(path, 1 - 1e-9),
    "cut": cut,
    "cut by one byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
}
DELETED: dict[str, Callable[[Path], None]] = {"deleted": Path.unlink}
