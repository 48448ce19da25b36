"""The captions that a command line names by a path alone: their kind follows from the form of the files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from vqpipe.artifacts.publish import MANIFEST
from vqpipe.data.adapters import ADAPTERS
from vqpipe.data.adapters.caption_files import (
    DatasetCorpus,
    JsonLinesCorpus,
    ParquetCorpus,
    Tables,
    TsvCorpus,
)
from vqpipe.data.corpus import CorpusParams, read_captions
from vqpipe.data.structured_files import rows
from vqpipe.data.text_files import lines
from vqpipe.errors import DataError
from vqpipe.params.base import load_params, validate

NAMES = ("caption", "captions", "text", "sentence", "sentences", "raw", "title", "description", "alt")
"""What the captions' key or column is called, in this order of preference; compared in lower case."""
PARAMS = (".yaml", ".yml")
MAX_PARAMS = 1 << 20
"""A params file is smaller than this, in bytes."""
NUM_LOOKED_AT = 20
"""Lines that are looked at to find a file's columns."""
EXPECTED = (
    "captions (.json as COCO or Karpathy write it, .jsonl, .txt, .tsv, .csv, .parquet, each maybe compressed), a "
    "folder of one of these, a dataset artifact, or a params file (.yaml) with the section corpus"
)


def named_captions(path: Path, option: str) -> Iterator[tuple[str, str]]:
    """Yield (id, caption) of a file or folder, whose kind follows from its form.

    Args:
        path: captions of any kind that `vqpipe.data.corpus` reads, a dataset artifact, or a params file.
        option: the option that names the path, for messages.

    Raises:
        DataError: nothing is there, it is of none of these kinds, or no caption in it can be used.
        ArtifactError, ParamsError: a damaged dataset; a params file that names no corpus.
    """
    if path.is_dir():
        return read_captions(_of_folder(path, option))
    if not path.is_file():
        raise DataError(f"{option}: {path} does not exist", expected=EXPECTED)
    if path.name.lower().endswith(PARAMS):
        if path.stat().st_size > MAX_PARAMS:
            raise DataError(f"{option}: {path} is too large for a params file", expected=EXPECTED)
        return read_captions(load_params(path, "corpus", CorpusParams))  # type: ignore[arg-type]
    return read_captions(_of_file(path, str(path), option))


def _kind(name: str) -> str | None:
    """The kind of corpus that usually has files of a name's ending."""
    lower = name.lower()
    known = ((kind, (*ADAPTERS[kind].endings, *ADAPTERS[kind].further_endings)) for kind in ADAPTERS)
    return next((kind for kind, endings in known if endings and lower.endswith(endings)), None)


def _of_folder(folder: Path, option: str) -> CorpusParams:
    if (folder / MANIFEST).is_file():
        return DatasetCorpus(kind="dataset", path=str(folder))
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    first: dict[str, Path] = {}
    for file in files:
        if kind := _kind(file.name):
            first.setdefault(kind, file)
    if len(first) != 1:
        names = ", ".join(file.name for file in files[:5]) or "no files"
        raise DataError(
            f"{option}: {folder} is neither a dataset artifact nor a folder of captions of one kind",
            found=", ".join(f"{kind} ({file.name})" for kind, file in first.items()) or names,
            expected=EXPECTED,
        )
    return _of_file(next(iter(first.values())), str(folder), option)


def _of_file(file: Path, path: str, option: str) -> CorpusParams:
    """The source of the captions at `path`, which is `file` or a folder of files like it."""
    kind = _kind(file.name)
    files: str | None = None
    if kind is None:
        kind = "parquet" if _begins(file, b"PAR1") else None
    if kind == "coco" and _is_json_lines(file):
        kind = "jsonl"
        if path != str(file):  # whose usual ending is another
            files = f"*{file.name[file.name.lower().rindex('.json') :]}"
    match kind:
        case "jsonl":
            return JsonLinesCorpus(kind="jsonl", path=path, files=files, caption_field=_key(file, option))
        case "tsv":
            return _table(file, path, option)
        case "parquet":
            return ParquetCorpus(kind="parquet", path=path, caption_column=_parquet_column(file, option))
        case None:
            raise DataError(f"{option}: {file} is not a file of captions", found=file.name, expected=EXPECTED)
        case _:
            return validate({"kind": kind, "path": path}, "corpus", CorpusParams, option)  # type: ignore[arg-type]


def _begins(file: Path, magic: bytes) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(magic)) == magic


def _first_values(file: Path) -> list[Any]:
    """The JSON values of the first lines; None for a line that is not JSON."""
    values = []
    for _, line in islice(lines(file, json=True), NUM_LOOKED_AT):
        try:
            values.append(json.loads(line.decode("utf-8", "replace")))
        except (ValueError, RecursionError):
            values.append(None)
    return values


def _is_json_lines(file: Path) -> bool:
    """Whether a .json file has an object on each line; one object alone is JSON as others write it."""
    with_value = _first_values(file)[:2]
    return len(with_value) == 2 and all(isinstance(value, dict) for value in with_value)


def _named(words: Sequence[str]) -> str | None:
    """The word that is a name of captions."""
    known = {word.strip().lower(): word for word in reversed(words)}
    return next((known[name] for name in NAMES if name in known), None)


def _key(file: Path, option: str) -> str:
    objects = [value for value in _first_values(file) if isinstance(value, dict)]
    if not objects:
        return NAMES[0]  # lines of captions alone have no key
    keys = list(dict.fromkeys(key for value in objects for key in value))
    key = _named(keys)
    if key is None:
        raise DataError(
            f"{option}: {file} has no key of captions",
            found=", ".join(keys[:8]) or "no keys",
            expected=f"one of {', '.join(NAMES)}; or name a params file whose corpus.caption_field is another",
        )
    return key


def _table(file: Path, path: str, option: str) -> TsvCorpus:
    """The column of a table that its header names, or, without a header, the one with the most text."""
    delimiter = "," if file.name.lower().endswith(Tables.further_endings) else "\t"
    found = [cells for _, cells in islice(rows(lines(file, lone_cr=False), delimiter, True), NUM_LOOKED_AT)]
    if not found:
        raise DataError(f"{option}: {file} is empty", expected=EXPECTED)
    if name := _named(found[0]):
        return TsvCorpus(kind="tsv", path=path, caption_column=found[0].index(name), num_header_lines=1)
    width = max(map(len, found))
    spaces = [sum(cells[at].count(" ") for cells in found if at < len(cells)) for at in range(width)]
    return TsvCorpus(kind="tsv", path=path, caption_column=spaces.index(max(spaces)), num_header_lines=0)


def _parquet_column(file: Path, option: str) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns: list[str] = pq.read_schema(file).names
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{option}: {file} cannot be read as Parquet: {error}") from error
    column = _named(columns)
    if column is None:
        raise DataError(
            f"{option}: {file} has no column of captions",
            found=", ".join(columns[:8]),
            expected=f"one of {', '.join(NAMES)}; or name a params file whose corpus.caption_column is another",
        )
    return column
