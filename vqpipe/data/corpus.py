"""Captions one by one, from a dataset or from text of its own, in a stream of bounded memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from vqpipe.data.adapters.base import need_inside
from vqpipe.data.adapters.layouts import hinted
from vqpipe.data.captions import BadCaption, Unusable, identifier, usable_caption
from vqpipe.data.json_stream import EVERY, TOP, JsonArrays
from vqpipe.data.read import open_split
from vqpipe.data.streams import MAX_JSON_LINE, PACKED, lines
from vqpipe.data.text_columns import text_rows
from vqpipe.data.text_rows import fitted, rows
from vqpipe.errors import DataError, printable
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

OPTION = "corpus.encoding"
"""The field that names a text's encoding, for messages."""
Raw = Iterator[tuple[str, object]]
"""(id, caption as it lies in the source)."""


def read_captions(
    source: CorpusParams, split: str = "train", unusable: Counter[str] | None = None
) -> Iterator[tuple[str, str]]:
    """Yield (id, caption) in the source's order; captions of one image share its id.

    Captions are as they were written, but for white space at their ends. Those that are empty, no text or
    damaged are left out, and counted by reason in `unusable` where it is given. A line too short for its columns
    counts as empty. What has no ids of its own gets the number of its line or row, with the file in front
    where the source is a folder of text; elements of a JSON file get `#` and their number.

    Args:
        source: where the captions lie.
        split: split of a `dataset`; the other kinds are one text, which is `train`.
        unusable: receives the number of captions left out, by a word of `vqpipe.data.reasons`; an `Unusable`
            also what else is worth a note.

    Raises:
        DataError: nothing at the path, not of its kind, in an encoding that must be named, no such split, or no
            usable caption in it. Of `many` sources each must have one, and no more of its captions may be left
            out than its `max_bad_fraction` says; of others the caller checks that.
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
        before, read = lost.total(), 0
        for caption_id, caption in _usable(placed, split, lost):
            yield f"{label}:{caption_id}", caption
            read += 1
        bad = lost.total() - before
        if bad > own.max_bad_fraction * (bad + read):
            raise DataError(
                f"corpus: of {placed.path}, {bad / (bad + read):.1%} of the captions cannot be used",
                found=f"{bad:,} of {bad + read:,}",
                expected=f"at most its max_bad_fraction = {own.max_bad_fraction:g} of them",
            )


def _usable(source: OneCorpus, split: str, lost: Counter[str]) -> Iterator[tuple[str, str]]:
    usable, own = 0, Unusable()
    try:
        for caption_id, raw in _raw(source, split, own):
            try:
                caption = usable_caption(raw)
            except BadCaption as error:
                own.leave_out(error.reason, caption_id, raw)
                continue
            usable += 1
            yield caption_id, caption
    except DataError as error:
        raise _with_hint(error, source) from error
    finally:
        lost.update(own)
        if isinstance(lost, Unusable):
            for reason, example in own.examples.items():
                lost.examples.setdefault(reason, example)
            lost.without_id += own.without_id
            lost.other_splits += own.other_splits
    if usable == 0:
        counts = ", ".join(f"{count} {reason}" for reason, count in own.most_common())
        nothing = DataError(
            f"corpus: no usable caption in {source.path}",
            found=(counts or "no captions at all") + (f"; {own.hint}" if own.hint else ""),
            expected=EXPECTED[source.kind],
            run=f"set {OPTION} to the encoding of the text" if own["caption_not_utf8"] else None,
        )
        raise _with_hint(nothing, source)


def _with_hint(error: DataError, source: OneCorpus) -> DataError:
    """The error, with what reads the path where images lie beside the captions."""
    if isinstance(source, DatasetCorpus):
        return error
    return hinted(error, Path(source.path), "; and corpus: {kind: dataset, path: artifacts/dataset}")


EXPECTED = {
    "dataset": "a dataset whose split has captions; for a source without any, name a corpus of another kind",
    "coco": 'json such as {"annotations": [{"image_id": 1, "caption": "a red bus"}]}, '
    '[{"image": "1.jpg", "caption": "a red bus"}] or {"1.jpg": ["a red bus"]}',
    "jsonl": 'lines such as {"caption": "a red bus"}; the key is corpus.caption_field',
    "text": "text, one caption a line",
    "tsv": "lines with tabs between columns, or corpus.delimiter; corpus.caption_column is a name or counts from 0",
    "parquet": "Parquet with the column corpus.caption_column",
}
"""The layout of each kind of corpus, for error messages."""

ENDINGS = {
    kind: tuple(ending + packed for packed in PACKED)
    for kind, ending in {"coco": ".json", "jsonl": ".jsonl", "text": ".txt", "tsv": ".tsv"}.items()
} | {"parquet": (".parquet",)}
"""The usual endings of each kind's files: what is read of a folder without `corpus.files`."""
CSV = tuple(".csv" + packed for packed in PACKED)
"""The endings of files with commas between columns; `tsv` reads them in a folder that has none of its own."""


def _raw(source: OneCorpus, split: str, noted: Unusable) -> Raw:
    match source:
        case DatasetCorpus():
            return _from_dataset(Path(source.path), split)
        case CocoCorpus():
            return (pair for _, file in corpus_files(source) for pair in _from_coco(source, file, noted))
        case JsonLinesCorpus():
            files = corpus_files(source)
            return (pair for label, file in files for pair in _from_jsonl(source, label, file, noted))
        case TextCorpus():
            return (
                (f"{label}{number}", line)
                for label, file in corpus_files(source)
                for number, line in lines(file, 0, source.encoding, OPTION)
            )
        case TsvCorpus():
            files = corpus_files(source)
            return (pair for label, file in files for pair in _from_tsv(source, label, file, noted))
        case ParquetCorpus():
            return _from_parquet(source, noted)


def corpus_files(source: CorpusOfFiles) -> list[tuple[str, Path]]:
    """The files of a corpus in the order of their names, each with what stands in front of its line numbers.

    That is nothing for a single file and `name:` for one of a folder. Hidden files are passed over.

    Raises:
        DataError: nothing at the path, no such file in the folder, or a link in it that leads out.
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
    found = _matching(path, patterns)
    if not found and kind == "tsv" and not source.files:
        found = _matching(path, [f"*{ending}" for ending in CSV])
    if not found:
        others = sorted(child.name for child in path.iterdir())
        raise DataError(
            f"corpus: {path} holds no {' and no '.join(patterns)}",
            found=f"{', '.join(others[:5])}{', …' if len(others) > 5 else ''}"
            if others
            else "an empty folder",
            expected=f"{EXPECTED[kind]}; corpus.files names files of another ending",
        )
    for file in found.values():
        need_inside(path, file)
    return [(f"{printable(name)}:", found[name]) for name in sorted(found)]


def _matching(folder: Path, patterns: list[str]) -> dict[str, Path]:
    return {
        file.relative_to(folder).as_posix(): file
        for pattern in patterns
        for file in folder.glob(pattern)
        if file.is_file() and not file.name.startswith(".")
    }


def _from_dataset(path: Path, split: str) -> Raw:
    for batch in open_split(path, split).batches(["image_id", "captions"]):
        for image_id, captions in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield from ((image_id, caption) for caption in captions or [])


def _from_coco(source: CocoCorpus, path: Path, noted: Unusable) -> Raw:
    """Captions of COCO's annotations, of Karpathy's images, of a list of objects, or of lists by image."""
    arrays = JsonArrays(path, source.encoding, OPTION)
    number = found = 0
    for key, element, _, _ in arrays.elements("annotations", "images", TOP):
        if key != "images":
            number += 1
            yield from _of_object(element, f"#{number}", noted)
        elif isinstance(element, dict) and isinstance(element.get("sentences"), list):
            found += 1
            yield from _of_karpathy(element, f"#{found}", noted)
    if number or found:
        return
    noted.hint = f"the keys of {path.name} are {', '.join(arrays.keys) or 'none'}"
    if not {"annotations", "images"}.isdisjoint(arrays.keys):
        return
    for key, element, _, _ in arrays.elements(TOP, EVERY):
        if isinstance(element, str):
            yield printable(key), element


_IDS = ("image_id", "image", "file_name", "filename", "id")


def _of_object(element: object, place: str, noted: Unusable) -> Raw:
    """The captions of an annotation, or of an object of a list, which may name its image in another way."""
    if not isinstance(element, dict):
        yield place, None
        return
    key = next((key for key in _IDS if key in element), "")
    captions = element.get("caption", element.get("captions"))
    if captions is None:
        noted.hint = f"the keys of an element are {', '.join(map(str, list(element)[:8]))}"
    for caption in captions if isinstance(captions, list) else [captions]:
        yield _identified(element.get(key), place, noted), caption


def _of_karpathy(image: dict[str, object], place: str, noted: Unusable) -> Raw:
    sentences = image["sentences"]
    assert isinstance(sentences, list)
    if image.get("split", "train") not in ("train", "restval"):
        noted.other_splits += len(sentences)
        noted.hint = "a split file of Karpathy's without an image whose split is train or restval"
        return
    named = next((image[key] for key in ("cocoid", "filename", "imgid") if key in image), None)
    for sentence in sentences:
        caption = sentence.get("raw") if isinstance(sentence, dict) else None
        yield _identified(named, place, noted), caption


def _identified(value: object, place: str, noted: Unusable) -> str:
    """The text of an id; where there is none, the place in the file, which is counted."""
    text = identifier(value)
    noted.without_id += text is None
    return place if text is None else text


def _from_jsonl(source: JsonLinesCorpus, label: str, path: Path, noted: Unusable) -> Raw:
    for number, line in lines(path, 0, source.encoding, OPTION, json=True):
        value = _json(line)
        for one in value if isinstance(value, list) else [value]:
            caption_id = f"{label}{number}"
            if isinstance(one, dict):
                if source.id_field is not None:
                    caption_id = _identified(one.get(source.id_field), f"{label}#{number}", noted)
                if source.caption_field not in one:
                    noted.hint = (
                        f"the keys of line {number} are {', '.join(map(str, list(one)[:8])) or 'none'}"
                    )
                one = one.get(source.caption_field)
            elif isinstance(one, _Damaged) and one.text.lstrip(" ")[:1] in ("[", "{"):
                noted.hint = f"line {number} is no whole JSON value; kind: coco reads JSON over several lines"
            yield from ((caption_id, text) for text in (one if isinstance(one, list) else [one]))


class _Damaged(NamedTuple):
    """A line that is no JSON."""

    text: str

    def __str__(self) -> str:
        return f"no JSON: {self.text[:60]}"


def _json(line: bytes) -> object:
    """The value of a line; an empty line is an empty caption."""
    text = line.decode("utf-8", "surrogateescape")
    try:
        return json.loads(text) if text.strip() else ""
    except (ValueError, RecursionError):
        return _begun(text) if len(line) >= MAX_JSON_LINE else _Damaged(text)


def _begun(text: str) -> object:
    """The value of a line that was cut within a list: its whole elements."""
    end = len(text)
    for _ in range(8):  # the last commas may stand in the string that was cut
        end = text.rfind(",", 0, max(end, 0))
        for closing in ("]", "]}"):
            with suppress(ValueError, RecursionError):
                return json.loads(text[: max(end, 0)] + closing)
    return _Damaged(text)


def _from_tsv(source: TsvCorpus, label: str, path: Path, noted: Unusable) -> Raw:
    by_comma = path.name.lower().endswith(CSV)
    delimiter = source.delimiter or ("," if by_comma else "\t")
    texts = rows(lines(path, 0, source.encoding, OPTION, lone_cr=False), delimiter, source.quotes)
    skipped = [cells for _, cells in islice(texts, source.header_rows())]
    if len(skipped) < source.header_rows():
        return
    names = skipped[-1] if skipped else []
    caption_at = _column(source.caption_column, names, path, delimiter)
    id_at = None if source.id_column is None else _column(source.id_column, names, path, delimiter)
    header = (
        names if isinstance(source.caption_column, str) else []
    )  # by number, lines are skipped whatever they are
    for number, found in texts:
        caption_id = f"{label}{number}"
        cells = fitted(found, header, caption_at, delimiter)
        if cells is None:
            noted.hint = f"line {number} has {len(found)} columns, and the header {len(names)}"
            yield caption_id, None
            continue
        if id_at is not None:
            caption_id = _identified(cells[id_at] if id_at < len(cells) else None, caption_id, noted)
        if caption_at >= len(cells):
            shown = printable(delimiter.join(cells)[:60])
            noted.hint = f"line {number} has {len(cells)} columns by {_delimiter(delimiter)}: {shown}"
        yield caption_id, cells[caption_at] if caption_at < len(cells) else ""


def _column(column: int | str, names: list[str], path: Path, delimiter: str) -> int:
    """The number of a column.

    Raises:
        DataError: the header does not have its name.
    """
    if isinstance(column, int):
        return column
    stripped = [name.strip() for name in names]
    if column not in stripped:
        raise DataError(
            f"{path} has no column {column} in its header",
            found=f"{len(names)} columns by {_delimiter(delimiter)}; corpus.delimiter names another",
            choices=map(printable, stripped),
        )
    return stripped.index(column)


def _delimiter(delimiter: str) -> str:
    return {"\t": "tab", ",": "comma"}.get(delimiter, repr(delimiter))


def _from_parquet(source: ParquetCorpus, noted: Unusable) -> Raw:
    row = 0
    for _, file in corpus_files(source):
        for name, texts in text_rows(file, source.caption_column, source.id_column):
            noted.without_id += len(texts) * (name is None and source.id_column is not None)
            caption_id = str(row) if name is None else name
            yield from ((caption_id, text) for text in texts)
            row += 1
