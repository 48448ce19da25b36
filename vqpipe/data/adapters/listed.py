"""The images that listings name: which files list them, where the images lie, and what each says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath

from vqpipe.data.adapters.base import need_inside, within
from vqpipe.data.adapters.layouts import ABOUT, is_metadata, listing_names, splits_of
from vqpipe.data.adapters.listings import WORDS, Fields, Row, listing_kind, read_listing
from vqpipe.data.adapters.side_files import cleaned
from vqpipe.data.captions import identifier
from vqpipe.data.records import Bad
from vqpipe.data.walk import Walk, is_image
from vqpipe.errors import DataError, printable
from vqpipe.params.dataset import Layout, PairsSource, SplitName

KINDS = {"table": ("table", "lines"), "karpathy": ("karpathy",), "json": ("json",)}
NUM_PROBED = 100
"""Names that are looked for to find the folder of the images."""


@dataclass(slots=True)
class Entry:
    """What the listings say of one image."""

    split: SplitName | None
    label: str | None
    captions: list[str] = field(default_factory=list)


@dataclass
class Listed:
    """Entries by the image's path below the root, in the order of the listings."""

    entries: dict[str, Entry] = field(default_factory=dict)
    bad: list[tuple[str, Bad]] = field(default_factory=list)
    states_splits: bool = False


def read_lists(source: PairsSource, root: Path, layout: Layout) -> Listed:
    """Read all listings of a source.

    Raises:
        DataError: no listing, or several of which none is named; a damaged one; no such folder of images.
    """
    fields = Fields(source.image_field, source.caption_field, source.label_field, source.encoding)
    names = _listings(source, root, layout)
    stated = splits_of(names) if source.own_splits else None
    listed = Listed(states_splits=stated is not None)
    for name in names:
        base = _base(source, root, name, layout, fields)
        own = stated[name] if stated else None
        need_inside(root, root / name)
        for row in read_listing(root / name, fields):
            if isinstance(row, Bad):
                listed.bad.append((own or "", row))
            else:
                _add(listed, row, base, own, source.own_splits)
    if layout == "metadata" and source.listing is None:
        listed.bad += _unlisted(root, listed.entries)
    return listed


def _add(listed: Listed, row: Row, base: str, own: SplitName | None, own_splits: bool) -> None:
    """Add a row to its image's entry, or note what is wrong with it."""
    split, word = own, identifier(row.split)
    if own_splits and word is not None:
        split = _split(word)
        listed.states_splits = True
        if split is None:
            detail = f"split {word!r} is none of {', '.join(WORDS)}"
            listed.bad.append(
                ("", Bad(printable(row.image), "bad_annotation", detail, max(1, len(row.captions))))
            )
            return
    name = image_path(row.image, base)
    if name is None:
        listed.bad.append((split or "", Bad(printable(row.image), "unsafe_path", "leads out of the source")))
        return
    label = identifier(row.label)
    entry = listed.entries.setdefault(name, Entry(split, label))
    if entry.split != split:
        detail = f"listed in {split or 'train'} too; {entry.split or 'train'} counts"
        listed.bad.append((split or "", Bad(printable(name), "duplicate_id", detail)))
        return
    captions, faults = cleaned(row.captions)
    entry.captions += captions
    entry.label = entry.label or label
    listed.bad += [(split or "", Bad(printable(name), *fault)) for fault in faults]


def _split(word: str) -> SplitName | None:
    return WORDS.get(word.lower())


def image_path(raw: str, base: str) -> str | None:
    """An image's path below the root from the name in a listing; None where it leads out."""
    name = raw.strip().replace("\\", "/")
    if (
        name.startswith(("/", "~"))
        or re.match(r"^[A-Za-z]:", name)
        or ".." in name.split("/")
        or "\0" in name
    ):
        return None
    return str(PurePosixPath(base) / name)


def _listings(source: PairsSource, root: Path, layout: Layout) -> list[str]:
    """The listings, relative to the root, in the order of their names."""
    if source.listing is not None:
        if (root / source.listing).is_file():
            return [PurePosixPath(source.listing).as_posix()]
        found = sorted(
            path.relative_to(root).as_posix() for path in root.glob(source.listing) if path.is_file()
        )
        if not found:
            if (root / source.listing).exists():
                told = f"dataset.source.listing: {root / source.listing} is no file"
                raise DataError(told, expected=ABOUT[layout])
            within(root, source.listing, "dataset.source.listing", ABOUT[layout])
        return found
    if layout == "metadata":
        found = sorted(
            name for name in Walk(root) if isinstance(name, str) and is_metadata(name.rpartition("/")[2])
        )
        folders = [name.rpartition("/")[0] for name in found]
        twice = next((name for name in found if folders.count(name.rpartition("/")[0]) > 1), None)
        several = found if twice is not None else []
    else:
        found = sorted(_of_kind(root, KINDS[layout]))
        several = found if len(found) > 1 and splits_of(found) is None else []
    if several:
        raise DataError(
            f"dataset.source.listing: several files list images in {root}",
            found=", ".join(map(printable, several[:8])),
            expected="the name of one, or a pattern of those that belong together",
        )
    if not found:
        raise DataError(
            f"dataset.source.listing: no file lists the images of {root}",
            expected=ABOUT[layout],
            run="name it: dataset.source.listing",
        )
    return found


def _of_kind(root: Path, kinds: tuple[str, ...]) -> Iterator[str]:
    """The listings of some kinds in the root and in the folders right below it."""
    for folder in [root, *sorted(child for child in root.iterdir() if child.is_dir())]:
        if folder is not root and folder.name.startswith("."):
            continue
        names = sorted(child.name for child in folder.iterdir() if not child.name.startswith("."))
        for name in listing_names(names):
            if (folder / name).is_file() and listing_kind(folder / name) in kinds:
                yield (folder / name).relative_to(root).as_posix()


def _base(source: PairsSource, root: Path, listing: str, layout: Layout, fields: Fields) -> str:
    """The folder, relative to the root, that a listing's names are relative to."""
    if source.images is not None:
        return (
            within(root, source.images, "dataset.source.images", ABOUT[layout]).relative_to(root).as_posix()
        )
    own = listing.rpartition("/")[0] or "."
    if layout == "metadata":
        return own
    rows = islice((row for row in read_listing(root / listing, fields) if isinstance(row, Row)), NUM_PROBED)
    images = [row.image for row in rows]

    def num_found(base: str) -> int:
        paths = [image_path(image, base) for image in images]
        return sum(path is not None and os.path.isfile(root / path) for path in paths)

    near = {base: num_found(base) for base in (own, ".")}
    below = (
        {base: num_found(base) for top in near for base in _folders_in(root, top)}
        if not any(near.values())
        else {}
    )
    found = {base: count for base, count in {**near, **below}.items() if count}
    most = [base for base, count in found.items() if count == max(found.values())]
    safe = any(image_path(image, own) is not None for image in images)
    if safe and len(set(most) - set(near)) + bool(set(most) & set(near)) != 1:
        shown = ", ".join(printable(image) for image in images[:3])
        raise DataError(
            f"dataset.source.images: where are the images that {printable(listing)} lists?",
            found=f"{shown}, … in each of {', '.join(map(printable, most))}" if most
            else f"{shown}, …; none of the first {len(images)} is in {root} or a folder in it",
            expected="the folder, relative to dataset.source.path, that these names are relative to",
        )  # fmt: skip
    return most[0] if most else own


def _folders_in(root: Path, base: str) -> list[str]:
    """The folders right in a folder, relative to the root, in order."""
    names = sorted(child.name for child in (root / base).iterdir() if child.is_dir())
    return [str(PurePosixPath(base) / name) for name in names if not name.startswith(".")]


def _unlisted(root: Path, entries: dict[str, Entry]) -> Iterator[tuple[str, Bad]]:
    """The images of a Hugging Face folder that no row names, and what the walk left out."""
    for found in Walk(root):
        if isinstance(found, Bad):
            yield "", found
        elif is_image(found) and found not in entries:
            yield "", Bad(printable(found), "no_caption", "no row of the metadata names it")
