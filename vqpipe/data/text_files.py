"""Files of text as streams of UTF-8: unpacked, decoded and split into lines on the way, in bounded memory."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import shlex
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from vqpipe.data.encodings import binary_kind, legacy_encodings, unicode_encoding
from vqpipe.errors import DataError

MAX_LINE = 1 << 20
"""Bytes of a line, or of a string within a line of JSON, that are kept; the rest is skipped."""
MAX_JSON_LINE = 1 << 24
"""Bytes of a line of JSON that are kept after its strings were cut."""
BLOCK = 1 << 20
"""Bytes that are read at once."""
LEGACY_BYTES = 500_000
"""A file is in another encoding than UTF-8 only where it has a run of other bytes in each so many bytes."""

_UNPACK: tuple[tuple[re.Pattern[bytes], Callable[[BinaryIO], object]], ...] = (
    (re.compile(rb"\x1f\x8b"), lambda raw: gzip.GzipFile(fileobj=raw)),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), bz2.BZ2File),
    (re.compile(rb"\xfd7zXZ\x00"), lzma.LZMAFile),
    (
        re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
        lambda raw: pa.CompressedInputStream(raw, "zstd"),
    ),
)
PACKED = ("", ".gz", ".bz2", ".xz", ".zst")
"""What may follow the ending of a text file."""
_RUN = re.compile(rb"[\x80-\xff]+")
_AROUND = re.compile(rb"[\x80-\xff\r\n\t]+")
_BEYOND_ASCII = bytes(range(128, 256))
_LINE_END = re.compile(rb"\r+\n|\r")
NUM_SAMPLES = 200
"""Places that are looked at to name an encoding."""
MIN_RUNS = 3
"""Places that are UTF-8, from which on a file is that and in no other encoding."""
_DAMAGED = "vqpipe.damaged"


def _damaged(error: UnicodeError) -> tuple[str, int]:
    """What cannot be decoded becomes a lone surrogate, so that its caption alone is lost."""
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff", error.end


codecs.register_error(_DAMAGED, _damaged)


@contextmanager
def open_bytes(path: Path, encoding: str | None = None, option: str | None = None) -> Iterator[BinaryIO]:
    """Open a file of text for reading as UTF-8 without a byte order mark.

    gzip, bzip2, xz and zstd, known by their first bytes, are unpacked; UTF-16 and UTF-32 are known by their byte
    order mark or by their bytes. What cannot be decoded becomes bytes that are not UTF-8.

    Args:
        path: the file.
        encoding: what a file without a byte order mark is in. None: UTF-8, UTF-16 or UTF-32, whichever it is; a
            file in an older encoding is an error once its end is reached.
        option: name of the params field that sets `encoding`, for that error.

    Raises:
        DataError: the file cannot be read, is damaged, is not text, or is in an older encoding; also while the
            block reads.
    """
    try:
        with path.open("rb") as raw, _unpacked(raw) as stream:
            yield cast(BinaryIO, io.BufferedReader(_Utf8(_utf8(path, stream, encoding, option)), BLOCK))
    except UnicodeError as error:
        raise DataError(f"{path} cannot be read as {encoding}: {error}") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        detail = getattr(error, "strerror", None) or str(error).strip().splitlines()[0]
        raise DataError(
            f"{path} cannot be read: {detail}", expected="a whole file, plain or as gzip, bzip2, xz or zstd"
        ) from error


@contextmanager
def _unpacked(raw: io.BufferedReader) -> Iterator[BinaryIO]:
    head = raw.peek(10)[:10]
    unpack = next((unpack for magic, unpack in _UNPACK if magic.match(head)), None)
    if unpack is None:
        yield raw
    else:
        with unpack(raw) as stream:  # type: ignore[attr-defined]
            yield stream


class _Utf8(io.RawIOBase):
    """Blocks of bytes as a stream."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        while not self._left:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._left = block
        given = self._left[: len(buffer)]
        buffer[: len(given)] = given
        self._left = self._left[len(given) :]
        return len(given)


def _utf8(path: Path, stream: BinaryIO, encoding: str | None, option: str | None) -> Iterator[bytes]:
    """The bytes of an unpacked stream as UTF-8."""
    head = stream.read(BLOCK)
    kind = binary_kind(head)
    if kind is not None:
        raise DataError(
            f"{path} is not text", found=kind, expected="text, plain or as gzip, bzip2, xz or zstd"
        )
    name, mark = unicode_encoding(head)
    if encoding is not None and not mark:
        name = _exact(encoding, name)
    head = head[mark:]
    plain = codecs.lookup(name).name == "utf-8"
    decoder = None if plain else codecs.getincrementaldecoder(name)(_DAMAGED)
    unsure = not mark and (plain if encoding is None else not name.startswith("utf"))
    watch = _Watch(path, encoding, option) if unsure else None
    while head:
        if watch is not None:
            watch.add(head)
        yield head if decoder is None else decoder.decode(head).encode("utf-8", "surrogatepass")
        head = stream.read(BLOCK)
    if decoder is not None:
        yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")
    if watch is not None:
        watch.end()


def _exact(encoding: str, guess: str) -> str:
    """A named encoding with its byte order, where it has one: that of the bytes, or little-endian."""
    name = codecs.lookup(encoding).name
    if name not in ("utf-16", "utf-32"):
        return name
    return guess if guess.startswith(name) else f"{name}-le"


class _Watch:
    """Distinguishes a file in an older encoding from UTF-8 with damaged places, by its runs of bytes beyond ASCII.

    Where the older encoding was named, it detects a file that is UTF-8 nevertheless.
    """

    def __init__(self, path: Path, encoding: str | None, option: str | None) -> None:
        self._path, self._encoding, self._option = path, encoding, option
        self._bytes = self._good = self._bad = 0
        self._samples: list[bytes] = []
        self._left = b""

    def add(self, block: bytes) -> None:
        self._bytes += len(block)
        if not self._left and block.isascii():
            return
        block = self._left + block
        end = len(block.rstrip(_BEYOND_ASCII))
        if len(block) - end > MAX_LINE:
            end = len(_whole_characters(block))
        self._left = block[end:]
        self._count(block[:end])

    def _count(self, block: bytes) -> None:
        try:
            block.decode("utf-8")
            self._good += sum(1 for _ in _RUN.finditer(block))
            return
        except UnicodeDecodeError:
            pass
        for run in _RUN.finditer(block):
            try:
                run.group().decode("utf-8")
                self._good += 1
            except UnicodeDecodeError:
                self._bad += 1
                if len(self._samples) < NUM_SAMPLES:
                    self._samples.append(_around(block, run.start(), run.end()))

    def end(self) -> None:
        """Raises DataError where most of what is not ASCII is not UTF-8 and this is not rare damage; or where an older
        encoding was named and all of it is UTF-8."""
        self._count(self._left)
        if self._encoding is not None:
            if self._good >= MIN_RUNS and not self._bad:
                raise DataError(
                    f"{self._path} is in UTF-8, not in {self._encoding}",
                    found=f"{self._good:,} places beyond ASCII, all of them UTF-8",
                    expected=f"text in the {self._option}; files in several encodings are sources of kind: many",
                    run=f"set {self._option}: null",
                )
            return
        if self._bad < 2 or self._bad <= self._good or self._bad * LEGACY_BYTES < self._bytes:
            return
        names = legacy_encodings(b"\n".join(self._samples))
        first = max(self._samples, key=len)
        readings: dict[str, str] = {}
        for name in names:
            readings.setdefault(first.decode(name, "replace").strip(), name)
        names = list(readings.values())
        read = " or ".join(f"{name} «{text}»" for text, name in readings.items())
        shown = first.decode("ascii", "backslashreplace").strip()
        raise DataError(
            f"{self._path} is not in UTF-8" + (f"; it looks like {names[0]}" if names else ""),
            found=f"{self._bad:,} places such as {shown}, "
            + (f"which is in {read}" if names else "in no encoding that is known here; is it text?"),
            expected="UTF-8, UTF-16 or UTF-32" + (f"; or text in {self._option}" if self._option else ""),
            run=self._way_out(names),
        )

    def _way_out(self, names: list[str]) -> str:
        if self._option is None:
            return (
                f"iconv -f {names[0] if names else 'ENCODING'} -t utf-8 {shlex.quote(str(self._path))} > FILE"
            )
        if not names:
            return f"set {self._option} to its encoding; utf-8 leaves these captions out"
        return f"set {self._option}: {names[0]}{' if it reads well so' if len(names) > 1 else ''}"


def _around(block: bytes, start: int, end: int) -> bytes:
    """A run of bytes with the ASCII that is left and right of it on its line, to the next word."""
    before = _AROUND.split(block[max(0, start - 30) : start])[-1]
    after = _AROUND.split(block[end : end + 30])[0]
    return before + block[start : min(end, start + 200)] + after


def lines(
    path: Path,
    encoding: str | None = None,
    option: str | None = None,
    *,
    json: bool = False,
    lone_cr: bool = True,
) -> Iterator[tuple[int, bytes]]:
    """The lines of a file as UTF-8 without their ends, with their numbers from 1.

    A line ends with LF, CRLF or CR. One longer than `MAX_LINE` bytes is cut there, between two characters.

    Args:
        path: the file.
        encoding: as in `open_bytes`, and so is `option`.
        json: cut the strings within a long line instead, so that it stays JSON; the line is cut at
            `MAX_JSON_LINE` bytes.
        lone_cr: whether a CR alone ends a line. If not, it does so only in a file that begins without any LF.

    Raises:
        DataError: as `open_bytes`.
    """
    with open_bytes(path, encoding, option) as stream:
        yield from enumerate(_split(stream, json, lone_cr), start=1)


def _split(stream: BinaryIO, json: bool, lone_cr: bool) -> Iterator[bytes]:
    kept, waiting, first = _Kept(json), b"", True  # a CR waits for the LF that may follow it
    while block := stream.read(BLOCK):
        if first:
            lone_cr, first = lone_cr or b"\n" not in block, False
        block = waiting + block
        waiting = b""
        if b"\r" in block:
            end = len(block.rstrip(b"\r")) or max(0, len(block) - MAX_LINE)
            block, waiting = block[:end], block[end:]
            block = _LINE_END.sub(b"\n", block) if lone_cr else block.replace(b"\r\n", b"\n")
        *whole, rest = block.split(b"\n")
        for line in whole:
            yield kept.take(line)
        kept.add(rest)
    if waiting and lone_cr:
        yield from (kept.take(b"") for _ in waiting)
    elif waiting or kept:
        yield kept.take(waiting)


class _Kept:
    """What is kept of the current line."""

    def __init__(self, json: bool) -> None:
        self._json = json
        self._data = bytearray()
        self._strings: _Strings | None = None

    def __bool__(self) -> bool:
        return bool(self._data)

    def take(self, last: bytes) -> bytes:
        """The whole line, whose last piece is given; the next line begins."""
        if self._data or len(last) >= MAX_LINE:
            self.add(last)
            last = bytes(self._data)
            self._data, self._strings = bytearray(), None
            if not self._json and len(last) >= MAX_LINE:
                last = _whole_characters(last)
        return last

    def add(self, piece: bytes) -> None:
        """Take in a piece of the line."""
        if len(self._data) >= (MAX_JSON_LINE if self._json else MAX_LINE):
            return
        if self._json and self._strings is None and len(self._data) + len(piece) >= MAX_LINE:
            piece, self._data, self._strings = bytes(self._data) + piece, bytearray(), _Strings()
        if self._strings is not None:
            piece = self._strings.cut(piece)
        room = (MAX_JSON_LINE if self._json else MAX_LINE) - len(self._data)
        self._data += piece[:room]


class _Strings:
    """Cuts the strings of JSON at `MAX_LINE` bytes, piece by piece; what is around them passes as it is."""

    _QUOTE, _STOP = re.compile(b'"'), re.compile(rb'["\\]')

    def __init__(self) -> None:
        self._inside = False
        self._room = 0
        self._held = b""

    def cut(self, piece: bytes) -> bytes:
        data, at, out = self._held + piece, 0, []
        self._held = b""
        while at < len(data):
            found = (self._STOP if self._inside else self._QUOTE).search(data, at)
            end = found.start() if found else len(data)
            out.append(self._plain(data[at:end]))
            if not found:
                break
            if data[end] == ord('"'):
                out.append(b'"')
                self._inside, self._room, at = not self._inside, MAX_LINE, end + 1
                continue
            size = 6 if data[end + 1 : end + 2] == b"u" else 2
            if end + size > len(data):
                self._held = data[end:]
                break
            out.append(self._escape(data[end : end + size]))
            at = end + size
        return b"".join(out)

    def _plain(self, text: bytes) -> bytes:
        if not self._inside or len(text) < self._room:
            self._room -= len(text)
            return text
        kept = _whole_characters(text[: self._room]) if self._room > 0 else b""
        self._room = 0
        return kept

    def _escape(self, text: bytes) -> bytes:
        pair = text[2:4].lower() in (b"d8", b"d9", b"da", b"db")  # its other half must fit too
        if len(text) + 6 * pair >= self._room:
            self._room = 0
            return b""
        self._room -= len(text)
        return text


def _whole_characters(line: bytes) -> bytes:
    """The line without its last character, which the cut may have halved."""
    end = len(line) - 1
    while end > 0 and line[end] & 0xC0 == 0x80:
        end -= 1
    return line[: max(0, end)]
