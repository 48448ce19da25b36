"""Which layout of images with captions a folder has, recognised from some of its names; and hints to users."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Literal

from vqpipe.data.adapters.listings import (
    Kind,
    captions_of,
    head_of,
    is_metadata,
    listing_kind,
    listing_names,
)
from vqpipe.data.adapters.side_files import TEXT_ENDINGS, key_of
from vqpipe.data.walk import ARCHIVES, Member, is_image, members
from vqpipe.errors import DataError

Layout = Literal["folder", "webdataset", "metadata", "table", "karpathy", "json"]
ABOUT: dict[Layout, str] = {
    "folder": "x.jpg and x.txt, one caption a line",
    "webdataset": "shards 00000.tar, … of x.jpg, x.txt, x.json, x.cls",
    "metadata": "metadata.jsonl or metadata.csv with the images (file_name, text), in one folder or one a split",
    "table": "a CSV or TSV with a column of image names and one of captions",
    "karpathy": "Karpathy's dataset_*.json (filename, split, sentences)",
    "json": "a json of [{image, caption}, …] or {file: [captions], …}",
}
"""The layouts of the source `pairs`, in words."""
MAX_FOLDERS = 60
MAX_LISTINGS = 20
MAX_TWINS = 20
MAX_MEMBERS = 40


def recognise(path: Path) -> Layout | None:
    """The layout of images with captions at a path, by a look at some names and first bytes; None: none is seen."""
    return next(iter(layouts_at(path)), None)


def layouts_at(path: Path) -> list[Layout]:
    """All layouts that are seen at a path, the likeliest first."""
    if path.is_file():
        if path.name.lower().endswith(ARCHIVES):
            return ["webdataset"] if _pairs_in_tar(path) else []
        layout = _layout_of(listing_kind(path), path)
        return [layout] if layout else []
    found: dict[Layout, None] = {}
    shards: list[Path] = []
    for depth, folder, names in _some_folders(path):
        if any(is_metadata(name) for name in names):
            found["metadata"] = None
        shards += [folder / name for name in names if name.lower().endswith(ARCHIVES)]
        if any(_has_caption(folder / name) for name in _twins(names)[:MAX_TWINS]):
            found["folder"] = None
        if depth < 2:
            for name in listing_names(names)[:MAX_LISTINGS]:
                layout = _layout_of(listing_kind(folder / name), folder / name)
                if layout and layout != "metadata":
                    found[layout] = None
    if any(_pairs_in_tar(shard) for shard in shards[:3]):
        found["webdataset"] = None
    return [
        layout
        for layout in ("metadata", "webdataset", "karpathy", "table", "json", "folder")
        if layout in found
    ]


def _layout_of(kind: Kind | None, path: Path) -> Layout | None:
    if kind is None or kind == "coco":
        return None
    return "metadata" if is_metadata(path.name) else "table" if kind == "lines" else kind


def _some_folders(root: Path) -> Iterator[tuple[int, Path, list[str]]]:
    """(depth, folder, names of its files in order) of the first folders, breadth first; nothing hidden."""
    waiting = [(0, root)]
    for _ in range(MAX_FOLDERS):
        if not waiting:
            return
        depth, folder = waiting.pop(0)
        files: list[str] = []
        folders: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        folders.append(entry.name)
                    elif entry.is_file():
                        files.append(entry.name)
        except OSError:
            continue
        yield depth, folder, sorted(files)
        if depth < 4:
            waiting += [(depth + 1, folder / name) for name in sorted(folders)]


def _twins(names: Iterable[str]) -> list[str]:
    """The files of a folder that have an image's name and may contain its captions."""
    known = list(names)
    images = {stem for name in known if is_image(name) for stem in (name, PurePosixPath(name).stem)}
    return [
        name
        for name in known
        if name.lower().endswith((*TEXT_ENDINGS, ".json")) and PurePosixPath(name).stem in images
    ]


def _has_caption(path: Path) -> bool:
    """Whether a file with an image's name has words: not the numbers of boxes, nor json without a caption."""
    head = head_of(path)
    if not path.name.lower().endswith(".json"):
        return any(char.isalpha() for char in head)
    try:
        return bool(captions_of(json.loads(head), None))
    except (ValueError, RecursionError):
        return False


def _pairs_in_tar(path: Path) -> bool:
    """Whether the first members of a tar are images with captions."""
    try:
        names = [entry.name for entry in islice(members(path), MAX_MEMBERS) if isinstance(entry, Member)]
    except DataError:
        return False
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    images = {key_of(name) for name in names if is_image(name)}
    others = {key_of(name) for name in names if name.lower().endswith((*TEXT_ENDINGS, ".json"))}
    return bool(images & others)


def coco_files(path: Path) -> list[str]:
    """The COCO json files in a folder and the folders in it, by their names in it."""
    return [
        (folder / name).relative_to(path).as_posix()
        for depth, folder, names in (_some_folders(path) if path.is_dir() else ())
        if depth < 2
        for name in listing_names(names)[:MAX_LISTINGS]
        if listing_kind(folder / name) == "coco"
    ]


def hint(path: Path) -> str | None:
    """What to write in params to read a path with the source `pairs`; None where it does not have its layouts."""
    layout = recognise(path)
    if layout is None:
        return None
    root, listing = path, ""
    if path.is_file() and layout != "webdataset":
        root, listing = path.parent, f", listing: {json.dumps(path.name, ensure_ascii=False)}"
    shown = json.dumps(str(root), ensure_ascii=False)
    return (
        f"{path} has images with captions ({ABOUT[layout]}), which the source pairs reads: dataset.source: "
        f"{{kind: pairs, path: {shown}, layout: {layout}{listing}, "
        "holdout: {validation: 0.1, test: 0.1, seed: 0}}"
    )


def hinted(error: DataError, path: Path, also: str = "") -> DataError:
    """The error of another reader, with what to write in params where the path has images with captions."""
    advice = hint(path) if path.exists() else None
    if advice is None:
        return error
    if str(error).splitlines()[-1].startswith("  run: "):
        return DataError(f"{error}; or: {advice}{also}".splitlines())
    return DataError(str(error).splitlines(), run=advice + also)
