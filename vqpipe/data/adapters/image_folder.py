"""Class folders of images, in a folder or a tar of one; captions are made from class names by template.

With `classes: folders` the first folder below a split's folder is the class, at any depth. Classes are numbered in the
order of their folder names over all splits. The files and their order are those of `vqpipe.data.walk`: each split's
folder is a start of its own, so no image is in two splits. In a tar the same names are taken; a link in it is another
name of an image, or leads to nothing that is read.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal, Self

from pydantic import Field, model_validator

from vqpipe.data.adapters.base import (
    Adapter,
    Holdout,
    Plan,
    check_splits,
    chunked,
    need_inside,
    need_source,
    shown,
    split_of,
)
from vqpipe.data.captions import BadCaption, clean_caption
from vqpipe.data.images import byte_limit
from vqpipe.data.records import SPLITS, Bad, Record, SplitName, describe
from vqpipe.data.walk import BadLink, Member, Walk, hidden, is_image, members, other_file, other_source
from vqpipe.errors import DataError, printable
from vqpipe.params.base import Params

LAYOUT = """class folders in the folders of dataset.source.splits, below dataset.source.path (folder or tar):
train/robin/001.jpg  train/jay/002.png …  val/robin/003.jpg …
classes.tsv (optional: folder, tab, name)
with classes: none, images at any depth: 00000/00001.png …"""
MAX_TABLE_BYTES = 16 << 20
MAX_TOPS = 8
"""Names that an error shows of what is there."""
AT_ANY_DEPTH = "dataset.source.classes: none takes images at any depth"
EMPTY_SPLIT = "put images there, or set dataset.source.splits in params.yaml"


class ImageFolderSource(Params):
    """A folder, or a tar of one (plain, gz, bz2 or xz), that contains class folders of images."""

    kind: Literal["image_folder"]
    """Names this source."""
    path: str = Field(min_length=1)
    """The folder or the tar."""
    splits: dict[SplitName, str]
    """Folder of each split that exists as such, relative to the root of the folder or tar, which is `.`."""
    holdout: Holdout
    """Shares of train that become the splits that do not exist as such."""
    classes: Literal["folders", "none"]
    """`folders`: the first folder below a split is the class. `none`: images have no class, at any depth."""
    class_names: str | None = None
    """Table of class folder, tab, name, relative to the root; null: folder names with `_` as a space."""
    templates: tuple[str, ...]
    """Captions of every image; `{}` is the class name, `{a}` is a or an. Without classes, plain sentences."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_splits(set(self.splits), self.holdout)
        for template in self.templates:
            if not template.strip():
                raise ValueError("templates: an empty caption")
            if (template.count("{}") == 1) != (self.classes == "folders"):
                rule = "exactly one {}" if self.classes == "folders" else "no {} when classes is none"
                raise ValueError(f"templates: {template!r} must have {rule}")
        if self.class_names is not None and self.classes == "none":
            raise ValueError("class_names needs classes: folders")
        return self


Found = Member | Bad


def _tree(source: ImageFolderSource) -> Walk | None:
    """The split folders of a source that is a folder; None for a tar."""
    root = Path(source.path)
    return Walk(root, source.splits.values()) if root.is_dir() else None


def _list(source: ImageFolderSource, tree: Walk | None, max_bytes: int = 0) -> Iterator[Found]:
    if tree is None:
        yield from members(Path(source.path), max_bytes=max_bytes)
    else:
        for entry in tree:
            yield Member(entry, 0, None) if isinstance(entry, str) else entry


class _Places:
    """Which split, and which folder in it, a name belongs to."""

    def __init__(self, source: ImageFolderSource) -> None:
        self.source = source
        pairs = [(PurePosixPath(folder).parts, name) for name, folder in source.splits.items()]
        self.folders: list[tuple[tuple[str, ...], SplitName]] = sorted(pairs, key=lambda pair: -len(pair[0]))

    def split(self, name: str) -> tuple[SplitName, tuple[str, ...]] | None:
        """The split, and the parts of the name below its folder; the deepest folder wins."""
        parts = tuple(name.split("/"))
        for folder, split in self.folders:
            if parts[: len(folder)] == folder and len(parts) > len(folder):
                return split, parts[len(folder) :]
        return None

    def image(self, name: str) -> tuple[SplitName, tuple[str, ...]] | None:
        """The same for an image that is used, None for every other name."""
        place = self.split(name)
        if place is None or not is_image(name) or name == self.source.class_names:
            return None
        lacks_class = self.source.classes == "folders" and len(place[1]) == 1
        return None if lacks_class or hidden_part(name, place[1]) is not None else place


def _read_names(source: ImageFolderSource) -> dict[str, str] | None:
    """The class table: class folder -> name (up to the first comma, as ImageNet's tables list synonyms)."""
    if source.class_names is None:
        return None
    root, wanted = Path(source.path), str(PurePosixPath(source.class_names))
    if root.is_dir():
        need_inside(root, root / wanted)
        data = (root / wanted).read_bytes() if (root / wanted).is_file() else None
    else:
        found = (entry for entry in members(root, wanted, MAX_TABLE_BYTES) if isinstance(entry, Member))
        data = next((entry.data for entry in found if entry.name == wanted), None)
    if data is None:
        raise DataError(
            f"dataset.source.class_names: no {wanted} in {root}",
            expected="a table with one line for each class folder: folder, tab, name; or class_names: null",
        )
    names: dict[str, str] = {}
    for number, line in enumerate(
        data.decode("utf-8", "replace").removeprefix("\ufeff").splitlines(), start=1
    ):
        if not line.strip():
            continue
        folder, _, name = line.partition("\t")
        try:
            names[folder.strip()] = clean_caption(name.split(",")[0])
        except BadCaption as error:
            raise DataError(
                f"{wanted}, line {number}: not a class", found=repr(line), expected="folder, tab, name"
            ) from error
    return names


def captions_of_class(name: str | None, templates: Iterable[str]) -> tuple[str, ...]:
    """The captions of a class: `{}` is its name, `{a}` the article that fits its first letter."""
    if name is None:
        return tuple(templates)
    article = "an" if name[:1].lower() in "aeiou" else "a"
    return tuple(template.replace("{a}", article).replace("{}", name) for template in templates)


def _classes(source: ImageFolderSource, found: set[str]) -> dict[str, tuple[int, str]]:
    """Number and name of each class by its folder; names of several classes as the table has them.

    Raises:
        DataError: the class table lacks a folder.
    """
    table = _read_names(source)
    if table is None:
        return {folder: (n, printable(folder).replace("_", " ")) for n, folder in enumerate(sorted(found))}
    lacking = sorted(found - set(table))
    if lacking:
        raise DataError(
            f"{source.class_names} names no class for {len(lacking)} of {len(found)} class folders",
            found=shown(lacking, 5),
            expected="one line per class folder: folder, tab, name",
        )
    return {folder: (number, table[folder]) for number, folder in enumerate(sorted(found))}


def _distinct(classes: Mapping[str, tuple[int, str]]) -> dict[str, str]:
    """The label of each class folder: its name, followed by the folder where several classes have that name."""
    times = Counter(name for _, name in classes.values())
    return {
        folder: name if times[name] == 1 else f"{name} ({folder})" for folder, (_, name) in classes.items()
    }


class _Survey:
    """One pass over the names: the class folders that contain images, and what is left out."""

    def __init__(self, source: ImageFolderSource, places: _Places) -> None:
        self.source, self.places = source, places
        self.classes: set[str] = set()
        self.bad: list[tuple[str, Bad]] = []
        self.images: dict[SplitName, int] = dict.fromkeys(source.splits, 0)
        self.tops: dict[str, None] = {}
        """The first names of a tar, two parts of each, for the error."""
        self._ids: set[str] = set()
        self._folders: set[str] = set()
        self._hidden: set[str] = set()

    def folder(self, tree: Walk) -> None:
        """Survey a folder, whose names are all different."""
        for entry in _list(self.source, tree):
            self._add(entry)

    def tar(self) -> None:
        """Survey a tar, where a name may come twice and a link is another name of a member."""
        links: list[int] = []
        for entry in _list(self.source, None):
            name = entry.item if isinstance(entry, Bad) else entry.name
            if len(self.tops) <= MAX_TOPS:
                self.tops.setdefault("/".join(name.split("/")[:2]))
            place = self.places.split(name)
            top = hidden_part(name, place[1]) if place else None
            if place and top is not None:
                if top not in self._hidden:
                    self._hidden.add(top)
                    self.bad.append((place[0], hidden(top)))
                continue
            if isinstance(entry, BadLink):
                links.append(len(self.bad))
            image_id = printable(name)
            if place and not isinstance(entry, Bad) and is_image(name) and image_id in self._ids:
                detail = "twice in the tar; the first one counts"
                self.bad.append((place[0], Bad(image_id, "duplicate_id", detail)))
            elif self._add(entry):
                self._ids.add(image_id)
                self._folders.update(map(str, PurePosixPath(image_id).parents))
        for at in links:
            split, link = self.bad[at]
            if isinstance(link, BadLink) and (link.target in self._ids or link.target in self._folders):
                detail = "a link to what is listed under another name"
                self.bad[at] = (split, Bad(link.item, "duplicate_path", detail))

    def _add(self, entry: Found) -> bool:
        """Count one entry; whether it is an image that is used."""
        name = entry.item if isinstance(entry, Bad) else entry.name
        place = self.places.split(f"{name}/" if isinstance(entry, Bad) else name)
        if isinstance(entry, Bad):  # which may be a split's folder itself
            self.bad.append((place[0] if place else "", entry))
        elif place is None or name == self.source.class_names:
            return False
        elif not is_image(name):
            self.bad.append((place[0], other_file(name)))
        elif self.source.classes == "folders" and len(place[1]) == 1:
            self.bad.append((place[0], Bad(printable(name), "no_class", "is next to the class folders")))
        else:
            self.images[place[0]] += 1
            if self.source.classes == "folders":
                self.classes.add(place[1][0])
            return True
        return False

    def check(self) -> None:
        """Raise `DataError` where a split's folder has no image; the message states what was found instead."""
        empty = [split for split in SPLITS if self.images.get(split) == 0]
        if not empty:
            return
        root, own = Path(self.source.path), [bad for split, bad in self.bad if split == empty[0]]
        tops = _tops(root) if root.is_dir() else list(self.tops)
        flat = any(bad.reason == "no_class" for bad in own)
        raise DataError(
            f"dataset.source.splits.{empty[0]}: no image in {self.source.splits[empty[0]]!r} of {root}",
            found=f"at the top: {shown(tops, MAX_TOPS)}; left out of this split: "
            f"{describe(own)}; images in the other splits: {sum(self.images.values())}",
            expected=LAYOUT.splitlines(),
            run=other_source(own) or (AT_ANY_DEPTH if flat else EMPTY_SPLIT),
        )  # fmt: skip


def hidden_part(name: str, below: tuple[str, ...]) -> str | None:
    """The file or folder of a name that is hidden, where one of the parts below the split's folder is."""
    for at, part in enumerate(below):
        if part.startswith(".") and part != "..":
            rest = len(below) - at - 1
            return name.rsplit("/", rest)[0] if rest else name
    return None


def _tops(root: Path) -> list[str]:
    """The first entries of a folder, two levels deep, for the error."""
    tops: list[str] = []
    for child in sorted(path for path in root.iterdir() if not path.name.startswith(".")):
        try:
            inside = sorted(os.listdir(child)) if child.is_dir() else []
        except OSError:
            inside = []
        tops += [f"{child.name}/{name}" for name in inside] or [child.name]
        if len(tops) > MAX_TOPS:
            break
    return tops


class ImageFolder(Adapter):
    """Images in class folders, with captions made from the class names."""

    kind = "image_folder"
    Params = ImageFolderSource
    layout = LAYOUT
    may_be_pairs = True

    def plan(self, source: ImageFolderSource, max_pixels: int) -> Plan:
        """List the images: in a folder as `vqpipe.data.walk` does, in a tar in its own order.

        Both are read twice: for the names, and for the images.

        Raises:
            DataError: nothing at the path, a split without images, a damaged tar, or a class without a name.
        """
        root = need_source(Path(source.path), LAYOUT)
        places, tree = _Places(source), _tree(source)
        survey = _Survey(source, places)
        survey.tar() if tree is None else survey.folder(tree)
        survey.check()
        classes = _classes(source, survey.classes)
        labels = _distinct(classes)
        captions = {
            folder: captions_of_class(name, source.templates) for folder, (_, name) in classes.items()
        }
        without = captions_of_class(None, source.templates)

        def items() -> Iterator[tuple[SplitName, int, Record | Bad]]:
            given: set[str] = set()
            for entry in _list(source, tree, byte_limit(max_pixels)):
                place = None if isinstance(entry, Bad) else places.image(entry.name)
                if isinstance(entry, Bad) or place is None:
                    continue
                split, below = place
                image_id = printable(entry.name)
                if tree is None:
                    if image_id in given:
                        continue
                    given.add(image_id)
                has_class = source.classes == "folders"
                known = (classes[below[0]][0], labels[below[0]]) if has_class else (None, None)
                texts = captions[below[0]] if has_class else without
                if split == "train":
                    split = split_of(image_id, source.holdout)
                if tree is not None:
                    yield split, 0, Record(image_id, root / entry.name, texts, *known)
                elif entry.data is None:
                    yield split, 0, entry.too_large(image_id)
                else:
                    yield split, len(entry.data), Record(image_id, entry.data, texts, *known)

        return Plan(chunked(items()), classes=list(labels.values()), bad=survey.bad)
