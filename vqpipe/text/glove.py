"""Vectors of the bundled part of GloVe 6B, or of a file in GloVe's text format, for the words that are needed."""

from __future__ import annotations

import gzip
import re
import zipfile
import zlib
from codecs import BOM_UTF8
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest, sha256
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import pyarrow.parquet as pq
from pydantic import Field, ValidationInfo, field_validator, model_validator

from vqpipe.errors import DataError
from vqpipe.params.base import Params
from vqpipe.runtime.terminal import progress_bar

FORMAT = "lines such as `bird 0.418 -0.0412 …`, numbers between single spaces"
MAX_DAMAGED = 0.001
"""Share of the lines that may be damaged; they are counted."""
BUNDLED = Path(str(files("vqpipe.text") / "resources")) / "glove-6b-100d.parquet"
"""The 24,264 nouns and adjectives of GloVe 6B (Pennington et al., 2014) that come with vqpipe, frequent words first: a
word, its 100 numbers as int8 and their scale in each row. `tests/glove_table.py` makes it."""
BUNDLED_DIM = 100
_SPACES = re.compile(rb" {2,}")


class GloveVectors(Params):
    """GloVe's word vectors (VQCT, Table 5): the bundled part, or a file with a word and its numbers on each line.

    The header line of word2vec's text format is skipped. The file is not a dependency in dvc.yaml: `sha256` makes
    another content under the same name an error. With the bundled part, `{kind: glove, path: null}` is enough: `dim`
    is 100, `unknown` is `error` and `seed` is 0 where they are not given.
    """

    kind: Literal["glove"]
    """Names this kind."""
    path: str | None = Field(min_length=1)
    """Null: the bundled part, 24,264 nouns and adjectives of GloVe 6B. Otherwise a file, such as `glove.6B.300d.txt`:
    plain text, gzip, or a zip, of which the file named for `dim` is read where it has several."""
    dim: int = Field(ge=1)
    """Numbers on each line; 100 for the bundled part."""
    unknown: Literal["error", "drop", "random"]
    """Words that the file lacks: `error`; `drop` leaves them out of the codebook and its graph; `random` draws
    a normal vector with the mean 0 and the standard deviation of the numbers found."""
    hyphens: Literal["whole", "parts"] = "whole"
    """A word with hyphens that the file lacks: `whole`, it is unknown like any other; `parts`, its vector is the mean
    of its parts' where the file has all of them, as of "long-tailed"."""
    seed: int = Field(ge=0)
    """Of the vectors of `unknown: random`."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """What the file's SHA-256 must be; null: not checked."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_bundled_part(cls, data: Any) -> Any:
        bundled = isinstance(data, dict) and data.get("path", "") is None
        return {"dim": BUNDLED_DIM, "unknown": "error", "seed": 0, **data} if bundled else data

    @field_validator("dim")
    @classmethod
    def _as_bundled(cls, dim: int, info: ValidationInfo) -> int:
        if info.data.get("path", "") is None and dim != BUNDLED_DIM:
            raise ValueError(f"the bundled part of GloVe (path: null) has dim: {BUNDLED_DIM}")
        return dim

    @property
    def source(self) -> str:
        """What errors call it."""
        return self.path or "the bundled part of GloVe"


@dataclass(frozen=True)
class Glove:
    """What a file has: the vectors of the words that it has, its SHA-256 and the number of its damaged lines."""

    vectors: dict[str, list[float]]
    sha256: str
    num_lines: int
    num_damaged: int = 0
    member: str | None = None
    """The file of a zip that was read."""


def read_glove(config: GloveVectors, words: Collection[str]) -> Glove:
    """The vectors of `words` in the bundled part or in the file, which is streamed line by line.

    The first line of a file must have exactly `config.dim` numbers, or be the header of word2vec's text format. Later
    ones may have more fields, since some files have tokens with spaces in them; the last `config.dim` are the vector.
    Of a word's several lines the first counts. The SHA-256 is that of the file as it is, packed or not.

    Raises:
        DataError: no such file, damaged packing, a zip without the one file, a first line of another number of
            fields, more than `MAX_DAMAGED` of the lines no word with `config.dim` finite numbers (the message has
            the number of the first), another SHA-256 than `config.sha256`, or none of the words.
    """
    glove = _read_bundled(words) if config.path is None else _read_file(Path(config.path), config.dim, words)
    if config.sha256 not in (None, glove.sha256):
        raise DataError(
            f"{config.source} is not the file that graph.vectors.sha256 names",
            found=glove.sha256,
            expected=config.sha256,
        )
    if not glove.vectors:
        raise DataError(
            f"{config.source} has none of the vocabulary's words",
            found=f"{glove.num_lines:,} lines without them",
            expected=f"some of {len(words):,} words such as {', '.join(sorted(words)[:5])}",
        )
    return glove


def _read_bundled(words: Collection[str]) -> Glove:
    """A number is its int8 code times its row's scale."""
    if not BUNDLED.is_file():
        raise DataError(
            f"the bundled part of GloVe, {BUNDLED.name}, is missing from the package",
            expected="a whole installation of vqpipe",
        )
    table = pq.read_table(BUNDLED).to_pydict()
    needed = set(words)
    rows = zip(table["word"], table["scale"], table["codes"], strict=True)
    found = {
        word: (np.frombuffer(codes, np.int8) * np.float64(scale)).tolist()
        for word, scale, codes in rows
        if word in needed
    }
    with BUNDLED.open("rb") as stream:
        return Glove(found, file_digest(stream, "sha256").hexdigest(), len(table["word"]))


def _read_file(path: Path, dim: int, words: Collection[str]) -> Glove:
    if not path.is_file():
        raise DataError(
            f"graph.vectors.path: there is no file {path}",
            expected=f"word vectors as text: {FORMAT}; or null, the bundled part of GloVe",
        )
    needed = {word.encode(): word for word in words}
    found: dict[str, list[float]] = {}
    number = at = damaged = 0
    first: DataError | None = None
    with (
        _opened(path, dim) as source,
        progress_bar("reading word vectors", path.stat().st_size) as bar,
    ):
        for number, line in enumerate(source.lines, 1):
            source.read(line)
            line = line.removeprefix(BOM_UTF8) if number == 1 else line
            if b"  " in line:
                line = _SPACES.sub(b" ", line)
            if number % 8192 == 0:
                bar.advance(source.raw.tell() - at)
                at = source.raw.tell()
            fields = line.rstrip(b" \r\n").count(b" ")
            if number == 1 and fields != dim:
                if not _is_header(line, dim):
                    raise _malformed(path, number, line, dim)
                continue
            try:
                if fields < dim:
                    raise _malformed(path, number, line, dim)
                word = needed.get(line[: line.index(b" ")])
                if word is not None and word not in found and fields == dim:
                    found[word] = _numbers(path, number, line, dim)
            except DataError as error:
                damaged += 1
                first = first or error
    if first is not None and damaged > MAX_DAMAGED * number:
        raise first
    return Glove(found, source.sha256(), number, damaged, source.member)


class _Source:
    """The lines of a file, unpacked, and the SHA-256 of the file."""

    def __init__(self, path: Path, raw: BinaryIO, lines: BinaryIO, member: str | None = None) -> None:
        self.raw, self.lines, self.member = raw, lines, member
        self._path = path
        self._digest = sha256() if lines is raw else None

    def read(self, line: bytes) -> None:
        """Take note of a line that was read."""
        if self._digest is not None:
            self._digest.update(line)

    def sha256(self) -> str:
        if self._digest is not None:
            return self._digest.hexdigest()
        with self._path.open("rb") as stream:
            return file_digest(stream, "sha256").hexdigest()


@contextmanager
def _opened(path: Path, dim: int) -> Iterator[_Source]:
    """The lines of a plain, gzip or zip file, known by its first bytes."""
    try:
        with path.open("rb") as raw:
            magic = raw.peek(4)[:4]
            if magic == b"PK\x03\x04":
                with zipfile.ZipFile(raw) as archive:
                    member = _member(path, archive, dim)
                    with archive.open(member) as lines:
                        yield _Source(path, raw, cast(BinaryIO, lines), member)
            elif magic[:2] == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=raw) as lines:
                    yield _Source(path, raw, cast(BinaryIO, lines))
            else:
                yield _Source(path, raw, raw)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path} cannot be read: {reason}", expected="a whole file: text, gzip or zip"
        ) from error


def _member(path: Path, archive: zipfile.ZipFile, dim: int) -> str:
    """The one file of a zip, or of several the one whose name has the dimension, such as `glove.6B.300d.txt`."""
    names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
    names = [name for name in names if not name.rpartition("/")[2].startswith(".")]
    named = [name for name in names if re.search(rf"(?<!\d){dim}d", name)]
    if len(names) == 1 or len(named) == 1:
        return (names if len(names) == 1 else named)[0]
    raise DataError(
        f"{path} has {len(names)} files, and {len(named) or 'none'} of them named for {dim} dimensions",
        expected="one file, or one such as glove.6B.300d.txt for graph.vectors.dim: 300",
        choices=names,
        run=f"unzip the one you want, and name it in graph.vectors.path; graph.vectors.dim is {dim}",
    )


def _is_header(line: bytes, dim: int) -> bool:
    """Whether a first line is word2vec's: the number of words and `dim`."""
    fields = line.split()
    return len(fields) == 2 and fields[0].isdigit() and fields[1] == str(dim).encode()


def _numbers(path: Path, number: int, line: bytes, dim: int) -> list[float]:
    try:
        values = [float(field) for field in line.rstrip(b" \r\n").split(b" ")[1:]]
    except ValueError:
        raise _malformed(path, number, line, dim) from None
    if not all(map(isfinite, values)):
        raise _malformed(path, number, line, dim)
    return values


def _malformed(path: Path, number: int, line: bytes, dim: int) -> DataError:
    fields = line.rstrip(b" \r\n").split(b" ")
    shown = b" ".join(fields[:4])[:60].decode("utf-8", "backslashreplace")
    header = len(fields) == 2 and all(field.isdigit() for field in fields)
    width = int(fields[1]) if header else len(fields) - 1
    return DataError(
        f"{path}: line {number} is not a word with {dim} finite numbers",
        found=f"{shown}{' …' if len(fields) > 4 else ''} ({len(fields) - 1} fields after the first)",
        expected=FORMAT,
        run=f"set graph.vectors.dim to {width}" if number == 1 and width else None,
    )
