"""Captions one by one, from a dataset or from text of its own, in a stream of bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vqpipe.data.captions import BadCaption, clean_caption, printable
from vqpipe.data.json_stream import JsonArrays
from vqpipe.data.read import open_split
from vqpipe.errors import DataError
from vqpipe.params.corpus import CocoCorpus, CorpusParams, DatasetCorpus, ParquetCorpus, TextCorpus, TsvCorpus


def read_captions(
    source: CorpusParams, split: str = "train", unusable: Counter[str] | None = None
) -> Iterator[tuple[str, str]]:
    """Yield (id, caption) in the source's order; captions of one image share its id.

    Captions come out of `clean_caption`: Unicode NFC on one line. Those that are empty, no text or no UTF-8
    are left out, and counted by reason in `unusable` where it is given. A line too short for its columns
    counts as empty.

    Args:
        source: where the captions lie.
        split: split of a `dataset`; the other kinds are one text, which is `train`.
        unusable: receives the number of captions left out, by a word of `vqpipe.data.reasons`.

    Raises:
        DataError: nothing at the path, not of its kind, no such split, or no usable caption in it.
        ArtifactError: `dataset` names no published dataset.
    """
    if split != "train" and not isinstance(source, DatasetCorpus):
        raise DataError(f"a {source.kind} corpus has no splits", found=split, choices=["train"])
    lost = Counter[str]() if unusable is None else unusable
    usable = 0
    for caption_id, raw in _raw(source, split):
        try:
            caption = clean_caption(raw)
        except BadCaption as error:
            lost[error.reason] += 1
            continue
        usable += 1
        yield caption_id, caption
    if usable == 0:
        raise DataError(
            f"corpus: no usable caption in {source.path}",
            found=", ".join(f"{count} {reason}" for reason, count in lost.most_common())
            or "no captions at all",
            expected=EXPECTED[source.kind],
        )


EXPECTED = {
    "dataset": "a dataset whose split has captions; for a source without any, name a corpus of another kind",
    "coco": 'json such as {"annotations": [{"image_id": 1, "caption": "a red bus"}]}',
    "text": "UTF-8 text, one caption a line",
    "tsv": "UTF-8 lines with tabs between columns; corpus.caption_column counts from 0",
    "parquet": "a Parquet file, or a folder of them, with the column corpus.caption_column",
}
"""The layout of each kind of corpus, for error messages."""


def _raw(source: CorpusParams, split: str) -> Iterator[tuple[str, object]]:
    path = Path(source.path)
    match source:
        case DatasetCorpus():
            return _from_dataset(path, split)
        case CocoCorpus():
            return _from_coco(_file(source, path))
        case TextCorpus():
            return ((str(number), line) for number, line in _lines(_file(source, path)))
        case TsvCorpus():
            return _from_tsv(source, _file(source, path))
        case ParquetCorpus():
            return _from_parquet(source, path)


def _file(source: CorpusParams, path: Path) -> Path:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise DataError(
            f"corpus.path: {path} is not a file", found=found, expected=EXPECTED[source.kind],
            run="put the file there, or set corpus.path in params.yaml",
        )  # fmt: skip
    return path


def _from_dataset(path: Path, split: str) -> Iterator[tuple[str, object]]:
    for batch in open_split(path, split).batches(["image_id", "captions"]):
        for image_id, captions in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield from ((image_id, caption) for caption in captions or [])


def _from_coco(path: Path) -> Iterator[tuple[str, object]]:
    for _, annotation, _, _ in JsonArrays(path).elements("annotations"):
        if isinstance(annotation, dict):
            yield printable(str(annotation.get("image_id", ""))), annotation.get("caption")
        else:
            yield "", annotation if not isinstance(annotation, str) else None


def _lines(path: Path, skip: int = 0) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1; a byte order mark is dropped."""
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if number > skip:
                    yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except OSError as error:
        raise DataError(f"corpus.path: {path} cannot be read: {error.strerror}") from error


def _from_tsv(source: TsvCorpus, path: Path) -> Iterator[tuple[str, object]]:
    for number, line in _lines(path, source.num_header_lines):
        cells = line.rstrip(b"\r\n").split(b"\t")
        caption_id = str(number)
        if source.id_column is not None and source.id_column < len(cells):
            caption_id = cells[source.id_column].decode("utf-8", "backslashreplace")
        yield caption_id, cells[source.caption_column] if source.caption_column < len(cells) else b""


def _from_parquet(source: ParquetCorpus, path: Path) -> Iterator[tuple[str, object]]:
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [_file(source, path)]
    if not files:
        raise DataError(f"corpus.path: no *.parquet in {path}", expected=EXPECTED["parquet"])
    wanted = [name for name in (source.caption_column, source.id_column) if name is not None]
    row = 0
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                names = opened.schema_arrow.names
                lacking = [name for name in wanted if name not in names]
                if lacking:
                    raise DataError(f"{file} has no column {lacking[0]}", choices=names)
                for batch in opened.iter_batches(batch_size=4096, columns=wanted):
                    captions = _texts(batch.column(source.caption_column))
                    ids = batch.column(source.id_column).to_pylist() if source.id_column else None
                    for at, value in enumerate(captions):
                        caption_id = str(ids[at]) if ids is not None else str(row + at)
                        yield from (
                            (caption_id, one) for one in (value if isinstance(value, list) else [value])
                        )
                    row += batch.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(
                f"{file} cannot be read as Parquet: {error}", expected=EXPECTED["parquet"]
            ) from error


def _texts(column: pa.Array) -> Iterable[object]:
    """Values of a caption column; strings as bytes, so that one that is no UTF-8 does not stop the batch."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = column.cast(pa.large_binary() if pa.types.is_large_string(kind) else pa.binary())
    values: list[object] = column.to_pylist()
    return values
