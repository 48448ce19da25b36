"""The files that belong to an image by their name: x.txt, x.caption, x.json and x.cls of x.jpg."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vqpipe.data.adapters.listings import NOTES, captions_of
from vqpipe.data.captions import clean_captions
from vqpipe.data.encodings import unicode_encoding
from vqpipe.data.records import Bad
from vqpipe.data.walk import is_image, other_file
from vqpipe.errors import is_of_machine, printable

TEXT_ENDINGS = (".txt", ".caption")
"""Endings of the files with one caption a line that have the name of an image."""
SIDE_BYTES = 1 << 20
"""Bytes of such a file that are read; a larger one is refused."""
_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Sides:
    """An image's name and those of its side files; text comes before json."""

    image: str
    texts: tuple[str, ...]
    label: str | None


@dataclass(frozen=True, slots=True)
class SideContent:
    """The content of an image's side files; `bad` are (reason, detail, annotations)."""

    captions: tuple[str, ...]
    label: str | None
    bad: tuple[tuple[str, str, int], ...]


def group_sides(names: Sequence[str], dotted: bool) -> tuple[list[Sides], list[Bad]]:
    """Find the files that belong to each image of a folder or a tar, in the order of the images.

    They have the image's name without its ending, or with it (x.jpg.txt), followed by their own ending. In a tar
    (`dotted`) the key of WebDataset, the name up to its first dot, counts too where nothing has the whole name:
    1.image.jpg and 1.caption.txt. A second image of the same files is refused, as are captions without an image.
    """
    by_stem: dict[str, list[str]] = {}
    others: list[str] = []
    for name in names:
        if not is_image(name):
            is_side = name.lower().endswith((*TEXT_ENDINGS, ".json", ".cls"))
            (by_stem.setdefault(_stem(name), []) if is_side else others).append(name)
    by_name = {
        name: [*by_stem.get(_stem(name), ()), *by_stem.get(name, ())] for name in filter(is_image, names)
    }
    owned = {side for files in by_name.values() for side in files}
    by_key: dict[str, list[str]] = {}
    for side in (side for files in by_stem.values() for side in files if dotted and side not in owned):
        by_key.setdefault(key_of(side), []).append(side)
    owners: dict[str, str] = {}
    pairs: list[Sides] = []
    bad: list[Bad] = []
    for name, own in by_name.items():
        shared = [] if own else by_key.get(key_of(name), [])
        files = own or shared
        first = owners.setdefault(key_of(name) if shared else _stem(name), name)
        if first != name:
            detail = f"a second image of the same captions; {printable(first)} counts"
            bad.append(Bad(printable(name), "duplicate_id", detail))
            continue
        owned.update(shared)
        texts = sorted((one for one in files if not one.lower().endswith(".cls")), key=_text_first)
        label = next((one for one in files if one.lower().endswith(".cls")), None)
        pairs.append(Sides(name, tuple(texts), label))
    folders = {_folder(pair.image) for pair in pairs}
    images = {word for pair in pairs for word in (_stem(pair.image), key_of(pair.image))}
    for side in (side for files in by_stem.values() for side in files if side not in owned):
        bad += _left_over(side, _folder(side) in folders)
    bad += [other_file(name) for name in others if not {_stem(name), key_of(name)} & images]
    return pairs, bad


def _left_over(name: str, with_images: bool) -> list[Bad]:
    """What is noted of a side file without an image: nothing of a shard's statistics, an annotation of captions."""
    base = name.rpartition("/")[2].lower()
    if base.endswith("_stats.json"):
        return []
    if not with_images or base.split(".")[0] in NOTES:
        return [Bad(printable(name), "other_file", "belongs to no image")]
    return [Bad(printable(name), "orphan_annotation", "no image of its name", int(not base.endswith(".cls")))]


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).suffix else name


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _text_first(name: str) -> tuple[int, str]:
    endings = [*TEXT_ENDINGS, ".json"]
    return next(at for at, ending in enumerate(endings) if name.lower().endswith(ending)), name


def read_sides(
    files: Mapping[str, bytes | None] | None,
    names: Sequence[str],
    caption_field: str | None,
    encoding: str | None,
) -> SideContent:
    """Read the side files of an image.

    Args:
        files: their bytes by name; None: the names are paths.
        names: the files; `.cls` is the class, json a caption or a list of them, others one caption a line.
        caption_field: the json's field of the caption. Where it is given, json is read and text is not; else json
            is read where there is no text.
        encoding: what text without a byte order mark is in; None: UTF-8 or UTF-16.
    """
    label: str | None = None
    bad: list[tuple[str, str, int]] = []
    raws: list[object] = []
    json_names = [name for name in names if name.lower().endswith(".json")]
    text_names = [name for name in names if name.lower().endswith(TEXT_ENDINGS)]
    use_json = bool(json_names) and (caption_field is not None or not text_names)
    for name in names:
        is_label = name.lower().endswith(".cls")
        if not is_label and name not in (json_names if use_json else text_names):
            continue
        data = _data(files, name)
        if isinstance(data, str):
            bad.append(("bad_annotation", f"{_base(name)}: {data}", int(not is_label)))
            continue
        text = _text(data, encoding)
        if is_label:
            label = _label(text)
        elif use_json:
            try:
                raws += captions_of(json.loads(text), caption_field)
            except (ValueError, RecursionError):
                bad.append(("bad_annotation", f"{_base(name)}: not JSON", 1))
        else:
            lines = [line for line in _LINE_END.split(text) if line.strip()]
            raws += lines or [""]
    captions, faults = clean_captions(raws)
    return SideContent(captions, label, (*bad, *((*fault, 1) for fault in faults)))


def key_of(name: str) -> str:
    """WebDataset's key of a member: its name up to the first dot of its last part."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _base(name: str) -> str:
    return printable(name.rpartition("/")[2])


def _data(files: Mapping[str, bytes | None] | None, name: str) -> bytes | str:
    """The bytes of a file, or why there are none."""
    if files is not None:
        data = files[name]
        return "too large" if data is None else data
    path = Path(name)
    try:
        if path.stat().st_size > SIDE_BYTES:
            return "too large"
        return path.read_bytes() if path.is_file() else "not a plain file"
    except OSError as error:
        if is_of_machine(error):
            raise
        return error.strerror or type(error).__name__


def _text(data: bytes, encoding: str | None) -> str:
    """Text without its byte order mark; bytes that are not text become lone surrogates."""
    name, mark = unicode_encoding(data)
    if encoding is not None and not mark:
        name = encoding
    return data[mark:].decode(name, "surrogateescape" if name == "utf-8" else "replace")


def _label(text: str) -> str | None:
    word = " ".join(text.split())
    return printable(word) or None
