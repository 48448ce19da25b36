"""Files of captions as streams of bytes and lines: gzip is unpacked on the way, and memory stays bounded."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from vqpipe.errors import DataError

MAX_LINE = 1 << 20
"""Bytes of a line that are read; what follows up to its end is passed over."""

_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading; gzip, known by its first two bytes (no UTF-8 text has them), is unpacked.

    Raises:
        DataError: the file cannot be read, or is damaged gzip; also while the block reads.
    """
    try:
        with path.open("rb") as raw:
            if raw.peek(2)[:2] == _GZIP:
                with gzip.GzipFile(fileobj=raw) as unpacked:
                    yield cast(BinaryIO, unpacked)
            else:
                yield raw
    except (OSError, EOFError, zlib.error) as error:
        told = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read: {told}", expected="a file, plain or gzip") from error


def lines(path: Path, skip: int = 0) -> Iterator[tuple[int, bytes]]:
    """Lines after the first `skip`, with their numbers from 1; a byte order mark is dropped.

    A line longer than `MAX_LINE` bytes is cut there, between two characters.
    """
    with open_bytes(path) as stream:
        number = 0
        while line := stream.readline(MAX_LINE):
            number += 1
            if len(line) == MAX_LINE and not line.endswith(b"\n"):
                line = _whole_characters(line)
                while (rest := stream.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
            if number > skip:
                yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line


def _whole_characters(line: bytes) -> bytes:
    """The line without its last character, which the cut may have halved."""
    end = len(line) - 1
    while end > 0 and line[end] & 0xC0 == 0x80:
        end -= 1
    return line[:end]
