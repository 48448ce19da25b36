"""Captions one by one, from a dataset or from text of its own, in a stream of bounded memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from vqpipe.data.captions import BadCaption, printable, usable_caption
from vqpipe.data.json_stream import JsonArrays
from vqpipe.data.read import open_split
from vqpipe.data.streams import lines
from vqpipe.data.text_columns import text_rows
from vqpipe.errors import DataError
from vqpipe.params.corpus import (
    CocoCorpus,
    CorpusOfFiles,
    CorpusParams,
    DatasetCorpus,
    JsonLinesCorpus,
    ManyCorpora,
    OneCorpus,
    ParquetCorpus,
    TextCorpus,
    TsvCorpus,
)

Raw = Iterator[tuple[str, object]]
"""(id, caption as it lies in the source)."""


def read_captions(
    source: CorpusParams, split: str = "train", unusable: Counter[str] | None = None
) -> Iterator[tuple[str, str]]:
    """Yield (id, caption) in the source's order; captions of one image share its id.

    Captions are as they were written, but for white space at their ends. Those that are empty, no text or no
    UTF-8 are left out, and counted by reason in `unusable` where it is given. A line too short for its columns
    counts as empty. What has no ids of its own gets the number of its line or row, with the file in front
    where the source is a folder of text.

    Args:
        source: where the captions lie.
        split: split of a `dataset`; the other kinds are one text, which is `train`.
        unusable: receives the number of captions left out, by a word of `vqpipe.data.reasons`.

    Raises:
        DataError: nothing at the path, not of its kind, no such split, or no usable caption in it. Of `many`
            sources each must have one.
        ArtifactError: `dataset` names no published dataset.
    """
    if split != "train" and not isinstance(source, DatasetCorpus):
        raise DataError(f"a {source.kind} corpus has no splits", found=split, choices=["train"])
    lost = Counter[str]() if unusable is None else unusable
    if not isinstance(source, ManyCorpora):
        yield from _usable(source, split, lost)
        return
    for label, own in zip(source.labels(), source.sources, strict=True):
        placed = own.model_copy(update={"path": str(Path(source.path) / own.path)})
        for caption_id, caption in _usable(placed, split, lost):
            yield f"{label}:{caption_id}", caption


def _usable(source: OneCorpus, split: str, lost: Counter[str]) -> Iterator[tuple[str, str]]:
    usable, own = 0, Counter[str]()
    for caption_id, raw in _raw(source, split):
        try:
            caption = usable_caption(raw)
        except BadCaption as error:
            own[error.reason] += 1
            lost[error.reason] += 1
            continue
        usable += 1
        yield caption_id, caption
    if usable == 0:
        raise DataError(
            f"corpus: no usable caption in {source.path}",
            found=", ".join(f"{count} {reason}" for reason, count in own.most_common())
            or "no captions at all",
            expected=EXPECTED[source.kind],
        )


EXPECTED = {
    "dataset": "a dataset whose split has captions; for a source without any, name a corpus of another kind",
    "coco": 'json such as {"annotations": [{"image_id": 1, "caption": "a red bus"}]}',
    "jsonl": 'lines such as {"caption": "a red bus"}; the key is corpus.caption_field',
    "text": "UTF-8 text, one caption a line",
    "tsv": "UTF-8 lines with tabs between columns; corpus.caption_column counts from 0",
    "parquet": "Parquet with the column corpus.caption_column",
}
"""The layout of each kind of corpus, for error messages."""

ENDINGS = {
    "coco": (".json", ".json.gz"),
    "jsonl": (".jsonl", ".jsonl.gz"),
    "text": (".txt", ".txt.gz"),
    "tsv": (".tsv", ".tsv.gz"),
    "parquet": (".parquet",),
}
"""The usual endings of each kind's files: what is read of a folder without `corpus.files`."""


def _raw(source: OneCorpus, split: str) -> Raw:
    match source:
        case DatasetCorpus():
            return _from_dataset(Path(source.path), split)
        case CocoCorpus():
            return (pair for _, file in corpus_files(source) for pair in _from_coco(file))
        case JsonLinesCorpus():
            return (pair for label, file in corpus_files(source) for pair in _from_jsonl(source, label, file))
        case TextCorpus():
            return (
                (f"{label}{number}", line)
                for label, file in corpus_files(source)
                for number, line in lines(file)
            )
        case TsvCorpus():
            return (pair for label, file in corpus_files(source) for pair in _from_tsv(source, label, file))
        case ParquetCorpus():
            return _from_parquet(source)


def corpus_files(source: CorpusOfFiles) -> list[tuple[str, Path]]:
    """The files of a corpus in the order of their names, each with what stands in front of its line numbers.

    That is nothing for a single file and `name:` for one of a folder. Hidden files are passed over.

    Raises:
        DataError: nothing at the path, or no such file in the folder.
    """
    kind, path = source.kind, Path(source.path)
    if path.is_file() and source.files is None:
        return [("", path)]
    if not path.is_dir():
        raise DataError(
            f"corpus.path: {path} is not a {'folder' if source.files else 'file or folder'}",
            found="a file" if path.is_file() else "nothing",
            expected=f"the folder of corpus.files = {source.files}" if source.files else EXPECTED[kind],
            run="put it there, or set corpus.path in params.yaml",
        )
    patterns = [source.files] if source.files else [f"*{ending}" for ending in ENDINGS[kind]]
    found = {
        file.relative_to(path).as_posix(): file
        for pattern in patterns
        for file in path.glob(pattern)
        if file.is_file() and not file.name.startswith(".")
    }
    if not found:
        others = sorted(child.name for child in path.iterdir())
        raise DataError(
            f"corpus: {path} holds no {' and no '.join(patterns)}",
            found=f"{', '.join(others[:5])}{', …' if len(others) > 5 else ''}"
            if others
            else "an empty folder",
            expected=f"{EXPECTED[kind]}; corpus.files names files of another ending",
        )
    return [(f"{printable(name)}:", found[name]) for name in sorted(found)]


def _from_dataset(path: Path, split: str) -> Raw:
    for batch in open_split(path, split).batches(["image_id", "captions"]):
        for image_id, captions in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield from ((image_id, caption) for caption in captions or [])


def _from_coco(path: Path) -> Raw:
    for _, annotation, _, _ in JsonArrays(path).elements("annotations"):
        if isinstance(annotation, dict):
            yield printable(str(annotation.get("image_id", ""))), annotation.get("caption")
        else:
            yield "", annotation if not isinstance(annotation, str) else None


def _from_jsonl(source: JsonLinesCorpus, label: str, path: Path) -> Raw:
    for number, line in lines(path):
        caption_id, value = f"{label}{number}", _json(line)
        if isinstance(value, dict):
            if source.id_field is not None and source.id_field in value:
                caption_id = printable(str(value[source.id_field]))
            value = value.get(source.caption_field)
        yield from ((caption_id, one) for one in (value if isinstance(value, list) else [value]))


def _json(line: bytes) -> object:
    """The value of a line; an empty line is an empty caption, and a damaged one none at all."""
    text = line.decode("utf-8", "surrogateescape")
    try:
        return json.loads(text) if text.strip() else ""
    except (json.JSONDecodeError, RecursionError):
        return None


def _from_tsv(source: TsvCorpus, label: str, path: Path) -> Raw:
    for number, line in lines(path, source.num_header_lines):
        cells = line.rstrip(b"\r\n").split(b"\t")
        caption_id = f"{label}{number}"
        if source.id_column is not None and source.id_column < len(cells):
            caption_id = cells[source.id_column].decode("utf-8", "backslashreplace")
        yield caption_id, cells[source.caption_column] if source.caption_column < len(cells) else b""


def _from_parquet(source: ParquetCorpus) -> Raw:
    row = 0
    for _, file in corpus_files(source):
        for name, texts in text_rows(file, source.caption_column, source.id_column):
            caption_id = str(row) if name is None else name
            yield from ((caption_id, text) for text in texts)
            row += 1
