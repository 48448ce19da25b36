"""Files that list images with captions: tables, JSON lines, Karpathy's json, and json of one's own.

What a file is, its first bytes say: `listing_kind`. Every kind is read into the same rows; what a row lacks is noted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vqpipe.data.json_stream import EVERY, TOP, JsonArrays
from vqpipe.data.records import Bad
from vqpipe.data.streams import lines, open_bytes
from vqpipe.data.text_rows import fitted, rows
from vqpipe.data.walk import is_image
from vqpipe.errors import DataError, printable
from vqpipe.params.dataset import SplitName

Kind = Literal["table", "lines", "karpathy", "json", "coco"]
IMAGE_FIELDS = (
    "file_name", "filename", "image", "image_path", "img_path", "filepath", "file_path", "path", "image_name",
    "image_file", "img", "file",
)  # fmt: skip
"""Fields that name the image, the likeliest first; upper and lower case are the same."""
CAPTION_FIELDS = (
    "caption", "captions", "text", "sentence", "sentences", "title", "description", "comment", "raw", "alt_text",
)  # fmt: skip
"""Fields that hold a caption or a list of them, the likeliest first."""
WORDS: dict[str, SplitName] = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation",
    "validation": "validation", "dev": "validation", "test": "test", "testing": "test", "eval": "test",
    "evaluation": "test", "restval": "train",
}  # fmt: skip
"""What a split is called."""
HEAD_BYTES = 1 << 16
ENCODING = "dataset.source.encoding"
DELIMITERS = ("\t", ",", "|", ";")


@dataclass(frozen=True, slots=True)
class Row:
    """An image of a listing: its file name, and captions, split and class as they were written."""

    image: str
    captions: Sequence[object]
    split: object = None
    label: object = None


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of the fields, None: the known names; and the encoding of the files, None: a Unicode one."""

    image: str | None = None
    caption: str | None = None
    label: str | None = None
    encoding: str | None = None


def field_of(value: dict[str, Any], name: str | None, known: Sequence[str]) -> Any:
    """A field by its name, which may be a path with dots, or the first of the known names that says something; None
    without it."""
    if name is None:
        lower = {key.strip().lower(): key for key in value}
        found = [value[lower[key]] for key in known if key in lower]
        return next((one for one in found if one not in (None, "", [])), found[0] if found else None)
    if name in value:
        return value[name]
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None  # type: ignore[assignment]
    return value


def captions_of(value: Any, name: str | None) -> list[object]:
    """The captions that a JSON value holds: itself, those of a list, or those of a field; null holds none."""
    if isinstance(value, dict):
        value = field_of(value, name, CAPTION_FIELDS)
    if value is None:
        return []
    parts = value if isinstance(value, list) else [value]
    return [_sentence(part) if isinstance(part, dict) else part for part in parts]


def _sentence(part: dict[str, Any]) -> object:
    """The caption of an object in a list; Karpathy's `tokens` where nothing else holds it."""
    found = field_of(part, None, ("raw", *CAPTION_FIELDS))
    tokens = part.get("tokens")
    if found is None and isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
        return " ".join(tokens)
    return found


def head_of(path: Path, encoding: str | None = None) -> str:
    """The first characters of a text file, unpacked; empty for what cannot be read as text.

    Of a file in an unknown older encoding those in ASCII are right: which one it is, the reader says.
    """
    for tried in (encoding, "latin-1"):
        try:
            with open_bytes(path, tried) as stream:
                return stream.read(HEAD_BYTES).decode("utf-8", "replace")
        except DataError:
            continue
    return ""


def _first_cells(head: str, delimiter: str) -> list[str]:
    first = next(rows(enumerate(head.encode().splitlines(), start=1), delimiter, quotes=True), (0, []))
    return [cell.strip() for cell in first[1]]


def listing_kind(path: Path) -> Kind | None:
    """What a file lists and how, by its first bytes; `coco` where it is COCO's; None where it lists no images."""
    head = head_of(path)
    start = head.lstrip()
    if start.startswith("["):
        return "json" if _names(start, IMAGE_FIELDS) and _names(start, CAPTION_FIELDS) else None
    if start.startswith("{"):
        return _object_kind(start)
    columns = _columns(head)
    if columns is None or (columns.header is not None and _caption_column(columns.header) is None):
        return None
    return "table"


def _object_kind(start: str) -> Kind | None:
    first = _json(start.partition("\n")[0])
    if isinstance(first, dict) and isinstance(field_of(first, None, IMAGE_FIELDS), str):
        return "lines" if captions_of(first, None) else None
    if re.search(r'"images"\s*:\s*\[', start):
        return "karpathy" if re.search(r'"(sentences|sentids)"\s*:', start) else "coco"
    if '"annotations"' in start and '"image_id"' in start:
        return "coco"
    key = re.match(r'\{\s*"((?:[^"\\]|\\.)+)"\s*:', start)
    if key and is_image(_file_part(key[1])[0]):
        return "json"
    listed = re.match(r'\{\s*"\w+"\s*:\s*\[\s*\{\s*"', start)
    return "json" if listed and _names(start, IMAGE_FIELDS) and _names(start, CAPTION_FIELDS) else None


def _names(start: str, fields: Sequence[str]) -> bool:
    return re.search(rf'"({"|".join(fields)})"\s*:', start, re.IGNORECASE) is not None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # damaged, nested too deep, or a number that is too long
        return None


def _file_part(cell: str) -> tuple[str, bool]:
    """A cell without the number that Flickr's token files put behind the name (`1.jpg#0`)."""
    name = re.sub(r"#\w*$", "", cell.strip())
    return name, name != cell.strip()


@dataclass(frozen=True, slots=True)
class _Columns:
    delimiter: str
    image: int
    header: list[str] | None


def _columns(head: str) -> _Columns | None:
    """How a table is written: its delimiter, its header where it has one, and the column of the image."""
    found = []
    for delimiter in DELIMITERS:
        cells = _first_cells(head, delimiter)
        if len(cells) < 2:
            continue
        lower = [cell.lower() for cell in cells]
        named = [lower.index(name) for name in IMAGE_FIELDS if name in lower]
        files = [at for at, cell in enumerate(cells) if is_image(_file_part(cell)[0])]
        if named:
            found.append((0, _Columns(delimiter, named[0], cells)))
        elif files:
            found.append((1, _Columns(delimiter, files[0], None)))
    return min(found, key=lambda entry: entry[0])[1] if found else None


def read_listing(path: Path, fields: Fields) -> Iterator[Row | Bad]:
    """The rows of a listing in their order; what names no image comes as a `Bad` that stands for one annotation.

    Raises:
        DataError: the file lists no images, is damaged, or lacks a field that was named.
    """
    readers: dict[Kind, Callable[[Path, Fields], Iterator[Row | Bad]]] = {
        "table": _table, "lines": _lines, "karpathy": _karpathy, "json": _whole,
    }  # fmt: skip
    kind = listing_kind(path)
    if kind is None and (fields.image is not None or fields.caption is not None):
        suffixes = [suffix.lower() for suffix in path.suffixes]
        kind = "lines" if ".jsonl" in suffixes else "json" if ".json" in suffixes else "table"
    if kind is None or kind == "coco":
        told = "a COCO json: dataset.source.kind coco reads it"
        raise DataError(
            f"dataset.source.listing: {path} is no list of images and captions",
            found=told if kind else f"it begins: {head_of(path)[:60]!r}",
            expected="a CSV or TSV, JSON lines, Karpathy's json, [{image, caption}, …] or {file: [captions], …}",
            run=None if kind else "name the fields: dataset.source.image_field and caption_field",
        )
    yield from readers[kind](path, fields)


def _table(path: Path, fields: Fields) -> Iterator[Row | Bad]:
    head = head_of(path, fields.encoding)
    columns = _columns(head)
    if columns is None:  # the image column was named, and holds no name that is known
        delimiter = max(DELIMITERS, key=head.partition("\n")[0].count)
        columns = _Columns(delimiter, 0, _first_cells(head, delimiter))
    names = columns.header or []
    image = _column(path, "image_field", fields.image, names, columns.image)
    lower = [name.lower() for name in names]
    other = 1 - columns.image if columns.image < 2 else 0
    known = _caption_column(names) if names else other
    caption = _column(path, "caption_field", fields.caption, names, known)
    label = _column(path, "label_field", fields.label, names, None) if fields.label is not None else None
    split = lower.index("split") if "split" in lower else None
    if caption is None or image is None:
        raise DataError(
            f"{path} has no column of captions", found=", ".join(map(printable, names)),
            expected=f"a column such as {', '.join(CAPTION_FIELDS[:3])}", run="set dataset.source.caption_field",
        )  # fmt: skip
    read = lines(path, 0, fields.encoding, ENCODING)
    for at, (number, raw) in enumerate(rows(read, columns.delimiter, quotes=True)):
        whole = fitted(raw, names, caption, columns.delimiter)
        if whole is None:
            detail = f"{len(raw)} columns, and the header has {len(names)}"
            yield Bad(f"{path.name}, line {number}", "bad_annotation", detail, 1)
            continue
        cells = [cell.strip(" ") for cell in whole]
        if (at == 0 and columns.header is not None) or not any(cells):
            continue
        if image >= len(cells) or not cells[image]:
            yield Bad(f"{path.name}, line {number}", "bad_annotation", "no image", 1)
            continue
        name = _file_part(cells[image])[0]
        yield Row(
            name if is_image(name) else cells[image],
            [cells[caption]] if caption < len(cells) else [],
            cells[split] if split is not None and split < len(cells) else None,
            cells[label] if label is not None and label < len(cells) else None,
        )


def _caption_column(names: list[str]) -> int | None:
    lower = [name.lower() for name in names]
    return next((lower.index(name) for name in CAPTION_FIELDS if name in lower), None)


def _column(path: Path, option: str, name: str | None, names: list[str], known: int | None) -> int | None:
    """A column by the name or the number (from 0) that the params give; `known` without one."""
    if name is None:
        return known
    if name in names:
        return names.index(name)
    if name.isdecimal() and not names:
        return int(name)
    raise DataError(
        f"dataset.source.{option}: {path} has no column {name}",
        found="no header; columns are numbers from 0" if not names else None,
        choices=[printable(each) for each in names] or None,
    )


def _row(value: Any, fields: Fields, where: str) -> Row | Bad:
    """The row of a JSON object with fields for the image, its captions, its split and its class."""
    if not isinstance(value, dict):
        return Bad(where, "bad_annotation", "not an object", 1)
    image = field_of(value, fields.image, IMAGE_FIELDS)
    if isinstance(image, dict):  # {"image": {"path": …}}
        image = field_of(image, None, IMAGE_FIELDS)
    if not isinstance(image, str) or not image.strip():
        return Bad(where, "bad_annotation", "no image", 1)
    label = field_of(value, fields.label, ()) if fields.label is not None else None
    return Row(image, captions_of(value, fields.caption), value.get("split"), label)


def _lines(path: Path, fields: Fields) -> Iterator[Row | Bad]:
    for number, line in lines(path, 0, fields.encoding, ENCODING, json=True):
        if line.strip():
            value = _json(line.decode("utf-8", "surrogateescape"))
            yield _row(value, fields, f"{path.name}, line {number}")


def _karpathy(path: Path, fields: Fields) -> Iterator[Row | Bad]:
    source = JsonArrays(path, fields.encoding, ENCODING)
    for number, (_, element, _, _) in enumerate(source.elements("images"), start=1):
        row = _row(element, fields, f"{path.name}, image {number}")
        if isinstance(row, Row) and fields.image is None and isinstance(element.get("filename"), str):
            folder, name = element.get("filepath"), element["filename"]
            whole = f"{folder}/{name}" if isinstance(folder, str) and folder else name
            row = Row(whole, captions_of(element.get("sentences"), fields.caption), row.split, row.label)
        yield row


def _whole(path: Path, fields: Fields) -> Iterator[Row | Bad]:
    """A json list of objects, at the top or under a key, or an object of captions by file name."""
    source = JsonArrays(path, fields.encoding, ENCODING)
    by_name: dict[str, list[object]] = {}
    for number, (key, value, _, _) in enumerate(source.elements(TOP, EVERY), start=1):
        if is_image(_file_part(key)[0]):
            said = [None] if value is None else captions_of(value, fields.caption)
            by_name.setdefault(_file_part(key)[0], []).extend(said)
        elif key == TOP or isinstance(value, dict):
            row = _row(value, fields, f"{path.name}, entry {number}")
            if isinstance(row, Row) and row.split is None and key.lower() in WORDS:
                row = replace(row, split=key)
            yield row
    for name, captions in by_name.items():
        yield Row(name, captions)
