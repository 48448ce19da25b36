"""How images with captions lie on disk: which layout a folder has, told from some of its names."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

from vqpipe.data.adapters.listings import WORDS, Kind, captions_of, head_of, listing_kind
from vqpipe.data.adapters.tar_stream import Member, members
from vqpipe.data.walk import ARCHIVES, is_image
from vqpipe.errors import DataError
from vqpipe.params.dataset import Layout, SplitName

ABOUT: dict[Layout, str] = {
    "folder": "x.jpg beside x.txt, one caption a line",
    "webdataset": "shards 00000.tar, … of x.jpg, x.txt, x.json, x.cls",
    "metadata": "metadata.jsonl or metadata.csv beside the images (file_name, text), in one folder or one a split",
    "table": "a CSV or TSV with a column of image names and one of captions",
    "karpathy": "Karpathy's dataset_*.json (filename, split, sentences)",
    "json": "a json of [{image, caption}, …] or {file: [captions], …}",
}
"""The layouts of the source `pairs`, in words."""
TEXT_ENDINGS = (".txt", ".caption")
"""Endings of the files with one caption a line that lie beside an image of the same name."""
METADATA = ("metadata.jsonl", "metadata.csv")
LISTINGS = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".token")
PACKED = ("", ".gz", ".bz2", ".xz", ".zst")
NOTES = ("readme", "license", "licence", "classes", "labels", "index", "notes", "shards", "sizes")
"""Names of files that speak of a data set and are no caption or list of it."""
MAX_FOLDERS = 60
MAX_LISTINGS = 20
MAX_TWINS = 20
MAX_MEMBERS = 40


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
    """The files of a folder that have an image's name and may hold its captions."""
    known = list(names)
    images = {stem for name in known if is_image(name) for stem in (name, PurePosixPath(name).stem)}
    return [
        name
        for name in known
        if name.lower().endswith((*TEXT_ENDINGS, ".json")) and PurePosixPath(name).stem in images
    ]


def _has_caption(path: Path) -> bool:
    """Whether a file beside an image holds words: not the numbers of boxes, nor json without a caption."""
    head = head_of(path)
    if not path.name.lower().endswith(".json"):
        return any(char.isalpha() for char in head)
    try:
        return bool(captions_of(json.loads(head), None))
    except (ValueError, RecursionError):
        return False


def _pairs_in_tar(path: Path) -> bool:
    """Whether the first members of a tar are images with captions beside them."""
    try:
        names = [entry.name for entry in islice(members(path), MAX_MEMBERS) if isinstance(entry, Member)]
    except DataError:
        return False
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    images = {key_of(name) for name in names if is_image(name)}
    others = {key_of(name) for name in names if name.lower().endswith((*TEXT_ENDINGS, ".json"))}
    return bool(images & others)


def key_of(name: str) -> str:
    """WebDataset's key of a member: its name up to the first dot of its last part."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


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
    """What to write in params to read what lies at a path with the source `pairs`; None where it is no such thing."""
    layout = recognise(path)
    if layout is None:
        return None
    root, listing = path, ""
    if path.is_file() and layout != "webdataset":
        root, listing = path.parent, f", listing: {json.dumps(path.name, ensure_ascii=False)}"
    shown = json.dumps(str(root), ensure_ascii=False)
    return (
        f"{path} holds images with captions ({ABOUT[layout]}), which the source pairs reads: dataset.source: "
        f"{{kind: pairs, path: {shown}, layout: {layout}{listing}, "
        "holdout: {validation: 0.1, test: 0.1, seed: 0}}"
    )


def hinted(error: DataError, path: Path, behind: str = "") -> DataError:
    """The error of another reader, with what to write in params where the path holds images with captions."""
    told = hint(path) if path.exists() else None
    if told is None:
        return error
    if str(error).splitlines()[-1].startswith("  run: "):
        return DataError(f"{error}; or: {told}{behind}".splitlines())
    return DataError(str(error).splitlines(), run=told + behind)
