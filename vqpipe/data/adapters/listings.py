"""Files that list images with captions: tables, JSON lines, Karpathy's json, and other json.

What a file is follows from its first bytes: `listing_kind`. Every kind is read into the same rows (`read_listing`);
what a row lacks is noted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from vqpipe.data.records import Bad, SplitName
from vqpipe.data.structured_files import EVERY, TOP, JsonArrays, cells_under_header, rows
from vqpipe.data.text_files import PACKED, lines, open_bytes
from vqpipe.data.walk import is_image
from vqpipe.errors import DataError, printable

METADATA = ("metadata.jsonl", "metadata.csv")
LISTINGS = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".token")
NOTES = ("readme", "license", "licence", "classes", "labels", "index", "notes", "shards", "sizes")
"""Names of files about a data set that are neither a caption nor a list of it."""
Kind = Literal["table", "lines", "karpathy", "json", "coco"]
IMAGE_FIELDS = (
    "file_name", "filename", "image", "image_path", "img_path", "filepath", "file_path", "path", "image_name",
    "image_file", "img", "file",
)  # fmt: skip
"""Fields that name the image, the likeliest first; upper and lower case are the same."""
CAPTION_FIELDS = (
    "caption", "captions", "text", "sentence", "sentences", "title", "description", "comment", "raw", "alt_text",
)  # fmt: skip
"""Fields of a caption or a list of them, the likeliest first."""
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


def split_named(name: str) -> SplitName | None:
    """The split that a folder's name means as a whole (`train2017`, `val`), or None."""
    return WORDS.get(re.sub(r"[\W\d_]+", "", name.lower()))


def split_within(path: str) -> SplitName | None:
    """The split that a path names in a folder or as a word of its file name (`cc3m-train-0001.tar`), or None."""
    *folders, name = path.split("/")
    found = {split for folder in folders if (split := split_named(folder))}
    words = re.split(r"[\W\d_]+", name.lower())
    found = found or {WORDS[word] for word in words if word in WORDS}
    return found.pop() if len(found) == 1 else None


def splits_of(paths: Iterable[str]) -> dict[str, SplitName] | None:
    """The split of each path where all of them name one and some `train`; else None: names state no splits."""
    found = {path: split_within(path) for path in paths}
    if None in found.values() or "train" not in found.values():
        return None
    return {path: split for path, split in found.items() if split is not None}


def folder_splits(folders: Iterable[tuple[str, ...]]) -> tuple[int, dict[str, SplitName]]:
    """How many parts the folders of images share, and the split that each name below these means; empty: none does."""
    known = sorted(set(folders))
    depth = 0
    while known and all(len(parts) > depth and parts[depth] == known[0][depth] for parts in known):
        if len(known) == 1 and len(known[0]) == depth + 1:
            break
        depth += 1
    named = {parts[depth]: split_named(parts[depth]) for parts in known if len(parts) > depth}
    whole = (
        all(len(parts) > depth for parts in known)
        and "train" in named.values()
        and None not in named.values()
    )
    return depth, {name: split for name, split in named.items() if split} if whole else {}


def is_metadata(name: str) -> bool:
    """Whether a file is the list of a Hugging Face image folder, plain or packed."""
    return any(name.lower() == f"{known}{packed}" for known in METADATA for packed in PACKED)


def listing_names(names: list[str]) -> list[str]:
    """The names of a folder that may be lists of images: not what belongs to one image, and no notes."""
    stems = {PurePosixPath(name).stem for name in names if is_image(name)}

    def may(name: str) -> bool:
        lower = name.lower()
        stem, own = PurePosixPath(name).stem, lower.split(".")[0]
        ends = any(lower.endswith(f"{ending}{packed}") for ending in LISTINGS for packed in PACKED)
        known = stem in stems or own in NOTES or lower.endswith("_stats.json")
        return ends and not known and not is_metadata(name)

    return [name for name in names if may(name)]


def field_of(value: dict[str, Any], name: str | None, known: Sequence[str]) -> Any:
    """A field by its name, which may be a path with dots, or the first of the known names that has a value; None
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
    """The captions of a JSON value: itself, those of a list, or those of a field; null has none."""
    if isinstance(value, dict):
        value = field_of(value, name, CAPTION_FIELDS)
    if value is None:
        return []
    parts = value if isinstance(value, list) else [value]
    return [_sentence(part) if isinstance(part, dict) else part for part in parts]


def _sentence(part: dict[str, Any]) -> object:
    """The caption of an object in a list; Karpathy's `tokens` where nothing else is there."""
    found = field_of(part, None, ("raw", *CAPTION_FIELDS))
    tokens = part.get("tokens")
    if found is None and isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
        return " ".join(tokens)
    return found


def head_of(path: Path, encoding: str | None = None) -> str:
    """The first characters of a text file, unpacked; empty for what cannot be read as text.

    Of a file in an unknown older encoding those in ASCII are right; the reader names the encoding.
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
    if columns is None or (
        columns.header is not None and _known_column(columns.header, CAPTION_FIELDS) is None
    ):
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
    if key and is_image(_file_name(key[1])):
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


def _file_name(cell: str) -> str:
    """A cell without the number that Flickr's token files put after the name (`1.jpg#0`)."""
    return re.sub(r"#\w*$", "", cell.strip())


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
        named = _known_column(cells, IMAGE_FIELDS)
        files = [at for at, cell in enumerate(cells) if is_image(_file_name(cell))]
        if named is not None:
            return _Columns(delimiter, named, cells)
        if files:
            found.append(_Columns(delimiter, files[0], None))
    return found[0] if found else None


def read_listing(path: Path, fields: Fields) -> Iterator[Row | Bad]:
    """The rows of a listing in their order; what names no image comes as a `Bad` that counts one annotation.

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
        coco = "a COCO json: dataset.source.kind coco reads it"
        raise DataError(
            f"dataset.source.listing: {path} is not a list of images and captions",
            found=coco if kind else f"it begins: {head_of(path)[:60]!r}",
            expected="a CSV or TSV, JSON lines, Karpathy's json, [{image, caption}, …] or {file: [captions], …}",
            run=None if kind else "name the fields: dataset.source.image_field and caption_field",
        )
    yield from readers[kind](path, fields)


def _table(path: Path, fields: Fields) -> Iterator[Row | Bad]:
    head = head_of(path, fields.encoding)
    columns = _columns(head)
    if columns is None:  # the image column was named, and has no known name
        delimiter = max(DELIMITERS, key=head.partition("\n")[0].count)
        columns = _Columns(delimiter, 0, _first_cells(head, delimiter))
    names = columns.header or []
    image = _column(path, "image_field", fields.image, names, columns.image)
    other = 1 - columns.image if columns.image < 2 else 0
    known = _known_column(names, CAPTION_FIELDS) if names else other
    caption = _column(path, "caption_field", fields.caption, names, known)
    label = _column(path, "label_field", fields.label, names, None) if fields.label is not None else None
    split = _known_column(names, ("split",))
    if caption is None or image is None:
        raise DataError(
            f"{path} has no column of captions", found=", ".join(map(printable, names)),
            expected=f"a column such as {', '.join(CAPTION_FIELDS[:3])}", run="set dataset.source.caption_field",
        )  # fmt: skip
    read = lines(path, fields.encoding, ENCODING)
    for at, (number, raw) in enumerate(rows(read, columns.delimiter, quotes=True)):
        whole = cells_under_header(raw, names, caption, columns.delimiter)
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
        name = _file_name(cells[image])
        yield Row(
            name if is_image(name) else cells[image],
            [cells[caption]] if caption < len(cells) else [],
            cells[split] if split is not None and split < len(cells) else None,
            cells[label] if label is not None and label < len(cells) else None,
        )


def _known_column(names: list[str], fields: Sequence[str]) -> int | None:
    """The column of the likeliest field that is among the names."""
    lower = [name.lower() for name in names]
    return next((lower.index(name) for name in fields if name in lower), None)


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
    for number, line in lines(path, fields.encoding, ENCODING, json=True):
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
        if is_image(_file_name(key)):
            found = [None] if value is None else captions_of(value, fields.caption)
            by_name.setdefault(_file_name(key), []).extend(found)
        elif key == TOP or isinstance(value, dict):
            row = _row(value, fields, f"{path.name}, entry {number}")
            if isinstance(row, Row) and row.split is None and key.lower() in WORDS:
                row = replace(row, split=key)
            yield row
    for name, captions in by_name.items():
        yield Row(name, captions)
