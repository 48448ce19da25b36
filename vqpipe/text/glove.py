"""Vectors of a file in GloVe's text format, for the words that are needed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from pathlib import Path

from vqpipe.errors import DataError
from vqpipe.params.graph import GloveVectors
from vqpipe.runtime.progress import progress_bar

FORMAT = "lines such as `bird 0.418 -0.0412 …`, numbers between single spaces"


@dataclass(frozen=True)
class Glove:
    """What a file says: the vectors of the words that it has, its SHA-256 and its number of lines."""

    vectors: dict[str, list[float]]
    sha256: str
    num_lines: int


def read_glove(config: GloveVectors, words: Collection[str]) -> Glove:
    """Stream the file line by line and keep the vectors of `words`; of a word's several lines the first counts.

    The first line must have exactly `config.dim` numbers. Later ones may have more fields, since some files have
    tokens with spaces in them; the last `config.dim` are the vector.

    Raises:
        DataError: no such file, a line that is no word with `config.dim` finite numbers (the message has its
            number), another SHA-256 than `config.sha256`, or none of the words.
    """
    path = Path(config.path)
    if not path.is_file():
        raise DataError(
            f"graph.vectors.path: there is no file {path}", expected=f"word vectors as text: {FORMAT}"
        )
    needed = {word.encode(): word for word in words}
    found: dict[str, list[float]] = {}
    digest, number, at = sha256(), 0, 0
    with path.open("rb") as stream, progress_bar("reading word vectors", path.stat().st_size) as bar:
        for number, line in enumerate(stream, 1):
            digest.update(line)
            if number % 8192 == 0:
                bar.advance(stream.tell() - at)
                at = stream.tell()
            fields = line.rstrip(b" \r\n").count(b" ")
            if fields < config.dim or (number == 1 and fields != config.dim):
                raise _malformed(path, number, line, config.dim)
            word = needed.get(line[: line.index(b" ")])
            if word is not None and word not in found and fields == config.dim:
                found[word] = _numbers(path, number, line, config.dim)
    if config.sha256 not in (None, digest.hexdigest()):
        raise DataError(
            f"{path} is not the file that graph.vectors.sha256 names",
            found=digest.hexdigest(),
            expected=config.sha256,
        )
    if not found:
        raise DataError(
            f"{path} has none of the vocabulary's words",
            found=f"{number:,} lines without them",
            expected=f"some of {len(needed):,} words such as {', '.join(sorted(words)[:5])}",
        )
    return Glove(found, digest.hexdigest(), number)


def _numbers(path: Path, number: int, line: bytes, dim: int) -> list[float]:
    try:
        values = [float(field) for field in line.split(b" ")[1:]]
    except ValueError:
        raise _malformed(path, number, line, dim) from None
    if not all(map(isfinite, values)):
        raise _malformed(path, number, line, dim)
    return values


def _malformed(path: Path, number: int, line: bytes, dim: int) -> DataError:
    fields = line.rstrip(b" \r\n").split(b" ")
    shown = b" ".join(fields[:4])[:60].decode("utf-8", "backslashreplace")
    header = number == 1 and len(fields) == 2
    return DataError(
        f"{path}: line {number} is no word with {dim} finite numbers",
        found=f"{shown}{' …' if len(fields) > 4 else ''} ({len(fields) - 1} fields after the first)",
        expected=f"{FORMAT}; GloVe's format has no header line" if header else FORMAT,
        run=f"set graph.vectors.dim to {len(fields) - 1}"
        if number == 1 and not header and len(fields) > 1
        else None,
    )
