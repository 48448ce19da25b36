"""The files of a source: those below a folder, and the members of a tar, the same for every command.

**Folders** (`Walk`). Order: a folder's files by name, then its folders by name, each with all of its files; names are
compared by code point, so the order is the same on every file system. Hidden files and folders (`.name`) are left out
and noted, as are links that lead nowhere, pipes, sockets and devices with an image's name, and what the file system
refuses to list.

The root may be a link, and links in it are followed as long as they stay in it. One that leads out is noted as
`unsafe_path`: a source from elsewhere could otherwise show files of this machine. Nothing is taken twice: a folder or
image that two paths lead to is one. A path without a link wins over one with links; of several links, or of the names
of a hard-linked image, the first in order wins. The other paths are noted as `duplicate_path`. Copies with contents of
their own are different images. A first pass over the names finds which folders and images there are. It keeps 8 bytes
an image; a file is not opened, and its status is read only where it is a link or has another name.

**Tars** (`members`) are read as a stream: nothing is extracted, no link is followed, and a small tar cannot exhaust a
machine. A compressed tar of a megabyte can represent a gigabyte of zeros, which takes as long to skip as to read. Each
header states the length of its member before the member is unpacked: a tar that would grow more than images do is
refused there.
"""

from __future__ import annotations

import errno
import lzma
import os
import posixpath
import re
import stat
import tarfile
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np

from vqpipe.data.images import SUFFIXES, BadImage, byte_limit, decode
from vqpipe.data.records import Bad, Pixels, describe
from vqpipe.errors import DataError, is_of_machine, printable

Key = tuple[int, int]
"""Device and inode: what a file is, under any name."""
OUTSIDE = ("unsafe_path", "a link that leads out of the source")
"""Reason and detail of what `leads_out` refuses."""
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
"""Endings of tars, which the image folder reads without unpacking."""


def is_image(name: str) -> bool:
    """Whether a file name ends as images do; upper and lower case are the same."""
    return name.lower().endswith(SUFFIXES)


def other_file(name: str) -> Bad:
    """What is noted for a file whose name is not an image's."""
    return Bad(printable(name), "other_file", "ends in none of " + " ".join(SUFFIXES))


def hidden(name: str) -> Bad:
    """What is noted for a hidden file or folder."""
    return Bad(printable(name), "hidden", "its name begins with a dot")


def is_inside(name: str) -> bool:
    """Whether a name relative to a folder is, as it is written, in this folder: not absolute and without `..`."""
    return not name.startswith("/") and ".." not in name.split("/")


def is_safe(name: str) -> bool:
    """Whether a name from a tar or a listing is inside its folder on every system; `\\` is written as `/`."""
    return is_inside(name) and not re.match(r"^[A-Za-z]:", name)


def no_images(where: str, bad: Sequence[Bad], expected: str, run: str) -> DataError:
    """The error for a folder or split without a usable image: what was found, what is expected, what to do next.

    Args:
        where: the subject of the sentence, such as `photos`.
        bad: everything that was left out.
        expected: the layout, in words.
        run: the command or the change that helps.
    """
    return DataError(
        f"{where} has no usable image", found=describe(bad), expected=expected, run=other_source(bad) or run
    )


def other_source(bad: Sequence[Bad]) -> str | None:
    """What to do instead, where the files that were left out belong to another kind of source; None elsewhere."""
    archives = sorted(entry.item for entry in bad if entry.item.lower().endswith(ARCHIVES))
    if archives:
        return f"a tar is a source of its own: dataset.source.path: …/{printable(archives[0])}"
    if any((entry.reason, entry.detail) == OUTSIDE for entry in bad):
        return "put the files in place of the links, or name as the source a folder that contains what they lead to"
    return None


class Walk:
    """The files below some folders of a root; may be iterated again, and then costs one pass, not two.

    Yields each file's name, a path relative to the root with `/` between its parts (undecodable bytes as surrogates;
    `printable` of it is the image's id), and a `Bad` for what is left out. Files of every ending come: the caller asks
    `is_image`. Nothing is opened.

    Args:
        root: what names are relative to.
        starts: the folders that are listed, relative to the root and without `..`. A folder that one of them leads to
            belongs to it alone. A missing folder is empty.
    """

    def __init__(self, root: Path, starts: Iterable[str] = (".",)) -> None:
        self.root = root
        self._starts = _outermost(starts)
        self._trees = _Trees()
        self._outside = {name for name in self._starts if leads_out(root, self._path(name))}
        inside = [name for name in self._starts if name not in self._outside]
        paths = [self._path(name) for name in inside]
        real = os.path.realpath(root)
        direct = {path: os.path.realpath(path) == os.path.normpath(os.path.join(real, name))
                  for path, name in zip(paths, inside, strict=True)}  # fmt: skip
        paths.sort(key=lambda path: not direct[path])
        for path in paths:
            self._trees.claim(path)
        for path in paths:
            self._trees.several |= self._trees.add(path)

    def _path(self, name: str) -> str:
        return os.path.join(self.root, name) if name else os.fspath(self.root)

    def __iter__(self) -> Iterator[str | Bad]:
        visit = _Visit(self._trees.copy(), self.root)
        for name in self._starts:
            if name in self._outside:
                if os.path.lexists(self._path(name)):
                    yield Bad(printable(name), *OUTSIDE)
            elif os.path.isdir(self._path(name)):
                yield from visit.files(self._path(name), name)


def _outermost(starts: Iterable[str]) -> list[str]:
    """Folders as normal names (the root is empty) in order, without those inside another one."""
    parts = sorted({PurePosixPath(start).parts for start in starts})
    kept = [p for p in parts if not any(p[:n] in parts for n in range(len(p)))]
    return [name for name in map("/".join, kept) if is_inside(name)]


def leads_out(root: str | Path, path: str | Path) -> bool:
    """Whether a path below a root is, by its links, a place outside of it. The root itself may be a link."""
    real = os.path.realpath(root)
    return not f"{os.path.realpath(path)}/".startswith(real if real.endswith("/") else f"{real}/")


def images_below(root: Path) -> Iterator[str | Bad]:
    """The names of the images below a folder; every other file comes as a `Bad`, in its place."""
    for entry in Walk(root):
        yield entry if isinstance(entry, Bad) or is_image(entry) else other_file(entry)


@dataclass
class _Trees:
    """The real folders that are listed, by the path that they are listed under, and the images in them."""

    folders: dict[Key, str] = field(default_factory=dict)
    images: dict[int, np.ndarray] = field(default_factory=dict)
    """Per device the inodes of plain image files, uint64, sorted."""
    several: set[Key] = field(default_factory=set)
    """Inodes that more than one plain name of the trees has."""

    def copy(self) -> _Trees:
        return _Trees(dict(self.folders), dict(self.images), set(self.several))

    def claim(self, path: str) -> bool:
        """Give a folder to this path, unless another path has it; whether the path has it now."""
        try:
            return self.folders.setdefault(_key(os.stat(path)), path) == path
        except OSError:
            return True  # the visit reports why

    def add(self, top: str) -> set[Key]:
        """Add a tree without following its links; returns the inodes of images that an earlier tree has too."""
        found: dict[int, array[int]] = {}
        waiting = [top]
        while waiting:
            path = waiting.pop()
            if not self.claim(path):
                continue
            try:
                inodes = found.setdefault(os.stat(path).st_dev, array("Q"))
                with os.scandir(path) as entries:
                    for entry in entries:
                        if entry.name.startswith("."):
                            continue
                        kind = _kind(entry)
                        if kind == "folder":
                            waiting.append(entry.path)
                        elif kind == "file" and is_image(entry.name):
                            inodes.append(entry.inode())
            except OSError:
                continue  # the visit reports why
        known: set[Key] = set()
        for device, inodes in found.items():
            new = np.sort(np.frombuffer(inodes, dtype=np.uint64))
            old = self.images.get(device, np.empty(0, np.uint64))
            self.several |= {(device, int(n)) for n in np.unique(new[1:][new[1:] == new[:-1]])}
            known |= {(device, int(n)) for n in np.intersect1d(new, old)}
            self.images[device] = np.union1d(new, old)
        return known

    def has_image(self, key: Key) -> bool:
        """Whether a tree lists this file under a plain name."""
        inodes = self.images.get(key[0])
        if inodes is None or not len(inodes):
            return False
        at = int(np.searchsorted(inodes, np.uint64(key[1])))
        return at < len(inodes) and int(inodes[at]) == key[1]


class _Visit:
    """One pass over the trees, in order."""

    def __init__(self, trees: _Trees, root: str | Path) -> None:
        self.trees, self.root = trees, os.path.realpath(root)
        self.taken: set[Key] = set()
        """Images that were listed and may be met again."""
        self.escaped: set[str] = set()
        """Ids that contain a backslash, which may be an escape of bytes that are not text."""

    def files(self, path: str, name: str) -> Iterator[str | Bad]:
        """The files below one folder; `name` is what it is called below the root, empty for the root."""
        waiting = [(path, name, False, set[Key]())]
        while waiting:
            path, name, linked, foreign = waiting.pop()
            fault = self._enter(path, linked)
            if fault:
                yield Bad(printable(name) or ".", "duplicate_path", fault)
                continue
            if linked:
                foreign = self.trees.add(path)
            try:
                device = os.stat(path).st_dev
                with os.scandir(path) as found:
                    entries = sorted(found, key=attrgetter("name"))
            except OSError as error:
                if is_of_machine(error):
                    raise
                yield Bad(printable(name) or ".", "unreadable", f"a folder: {error.strerror}")
                continue
            folders: list[tuple[str, str, bool, set[Key]]] = []
            for entry in entries:
                own = f"{name}/{entry.name}" if name else entry.name
                kind = "hidden" if entry.name.startswith(".") else _kind(entry)
                target: os.stat_result | OSError | None = _target(entry) if kind == "link" else None
                if isinstance(target, os.stat_result) and leads_out(self.root, entry.path):
                    yield Bad(printable(own), *OUTSIDE)
                elif kind == "folder" or (
                    isinstance(target, os.stat_result) and stat.S_ISDIR(target.st_mode)
                ):
                    folders.append((entry.path, own, kind == "link", foreign))
                elif kind == "hidden":
                    yield hidden(own)
                elif not is_image(entry.name):
                    yield own
                else:
                    fault_found = self._image(entry, own, kind, target, device, foreign)
                    yield own if fault_found is None else Bad(printable(own), *fault_found)
            waiting.extend(reversed(folders))

    def _enter(self, path: str, linked: bool) -> str | None:
        """Why a folder is not listed under this path; None where it is."""
        if linked and _is_above(path):
            return "a link to a folder above it"
        if not self.trees.claim(path):
            return "this folder is listed under another path"
        return None

    def _image(
        self,
        entry: os.DirEntry[str],
        name: str,
        kind: str,
        target: os.stat_result | OSError | None,
        device: int,
        foreign: set[Key],
    ) -> tuple[str, str] | None:
        """Why a file with an image's name is left out, as (reason, detail); None where it is taken."""
        if isinstance(target, OSError):
            gone = target.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
            return ("missing_file" if gone else "unreadable"), f"a link: {target.strerror}"
        if kind == "unknown":
            return "unreadable", "the file system does not say what it is"
        if kind == "other" or (target is not None and not stat.S_ISREG(target.st_mode)):
            return "special_file", "a pipe, socket or device"
        key = (device, entry.inode()) if target is None else _key(target)
        if target is not None:
            if self.trees.has_image(key) or key in self.taken:
                return (
                    "duplicate_path",
                    f"a link to an image that is listed under another path: {_leads_to(entry)}",
                )
            self.taken.add(key)
        elif key in self.taken or key in foreign or key in self.trees.several:
            names = _num_names(entry)
            if (names and key in self.taken) or (names > 1 and key in foreign):
                return "duplicate_path", "another path to an image that is listed"
            if names > 1:
                self.taken.add(key)
        if "\\" in (image_id := printable(name)):
            if image_id in self.escaped:
                return "duplicate_id", "another name is written the same as text"
            self.escaped.add(image_id)
        return None


def _key(found: os.stat_result) -> Key:
    return found.st_dev, found.st_ino


def _kind(entry: os.DirEntry[str]) -> str:
    """What an entry is, from the listing alone where the file system states it: link, folder, file, other, unknown."""
    try:
        if entry.is_symlink():
            return "link"
        if entry.is_dir(follow_symlinks=False):
            return "folder"
        return "file" if entry.is_file(follow_symlinks=False) else "other"
    except OSError:
        return "unknown"


def _target(entry: os.DirEntry[str]) -> os.stat_result | OSError:
    try:
        return os.stat(entry.path)
    except OSError as error:
        return error


def _leads_to(entry: os.DirEntry[str]) -> str:
    try:
        return printable(os.readlink(entry.path))
    except OSError:
        return "?"


def _is_above(path: str) -> bool:
    """Whether a link leads to its own folder or to one above."""
    return Path(os.path.realpath(os.path.dirname(path))).is_relative_to(os.path.realpath(path))


def _num_names(entry: os.DirEntry[str]) -> int:
    """How many names a plain file has; 0 where the listing made its inode up, as some file systems do."""
    try:
        found = os.lstat(entry.path)
    except OSError:
        return 0
    return found.st_nlink if found.st_ino == entry.inode() else 0


MAX_GROWTH = 100
"""Unpacked bytes for each byte of the tar. Compressed images do not grow; uncompressed flat ones grow by 50 or so;
zeros grow by 1,000 in gzip and by 7,000 in xz."""
FREE_BYTES = 64 << 20
"""Unpacked bytes that any tar may have on top."""
MAX_HEADER_BYTES = 1 << 20
"""Longest extended header, which has a name or a few facts and is read whole."""
_HEADERS = {
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
}


@dataclass(frozen=True, slots=True)
class Member:
    """A plain file of the tar: its normalised name and size, and its bytes where they were requested."""

    name: str
    num_bytes: int
    data: bytes | None

    def too_large(self, image_id: str) -> Bad:
        """What is noted for an image whose bytes were not read."""
        return Bad(image_id, "too_many_bytes", f"{self.num_bytes} bytes in the tar; not read")


@dataclass(frozen=True, slots=True)
class BadLink(Bad):
    """A link of the tar; `target` is the name of what it leads to, empty where that is outside of the tar."""

    target: str = ""


class _Header(tarfile.TarInfo):
    """A tar header that is refused before its content is read where that is too long."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _HEADERS and header.size > MAX_HEADER_BYTES:
            raise ValueError(
                f"an extended header of {header.size:,} bytes, at most {MAX_HEADER_BYTES:,} are read"
            )
        return header


def _check_growth(path: Path, packed: int, member: tarfile.TarInfo, end: int) -> None:
    """Raise `DataError` where a tar up to the end of a member, in bytes, is far longer than the file."""
    most = packed * MAX_GROWTH + FREE_BYTES
    if end > most:
        raise DataError(
            f"{path} unpacks to far more than its size; it is not read on",
            found=f"{printable(member.name)[:200]}: {end - member.offset_data:,} bytes, in a file of {packed:,} bytes",
            expected=f"at most {most:,} bytes in all: {MAX_GROWTH} times the file's, and {FREE_BYTES >> 20} MiB",
            run="leave the member out; if its content is meant, unpack the tar, or pack it without compression",
        )


def _link_target(member: tarfile.TarInfo) -> str:
    """Where a link leads: a hard link names a member, a symbolic one is relative to its own folder."""
    if member.linkname.startswith("/"):
        return ""
    start = posixpath.dirname(member.name) if member.issym() else ""
    path = posixpath.normpath(posixpath.join(start, member.linkname))
    return "" if path.split("/")[0] == ".." else printable(path)


def _refused(member: tarfile.TarInfo) -> Bad | None:
    """Why a member must not be used; None where it may be."""
    name = printable(member.name)
    if not is_safe(member.name.replace("\\", "/")):
        return Bad(name, "unsafe_path", "the name leads out of the tar")
    if member.issym() or member.islnk():
        detail = f"a link to {printable(member.linkname)}"
        return BadLink(str(PurePosixPath(name)), "tar_link", detail, target=_link_target(member))
    return None if member.isfile() else Bad(name, "tar_special", "neither a file nor a folder")


def members(path: Path, wanted: str = "", max_bytes: int = 0) -> Iterator[Member | Bad]:
    """Stream a tar (plain, gz, bz2, xz) in the order of its members.

    Files up to `max_bytes` whose name begins with `wanted` come with their bytes, others with none; faulty
    members come as `Bad`, folders not at all.

    Raises:
        DataError: not a tar, or a damaged one; the message names the last member that was read. Or one that would
            unpack to more than `MAX_GROWTH` times its size.
    """
    last = "none"
    try:
        packed = path.stat().st_size
        with tarfile.open(path, "r|*", tarinfo=_Header) as tar:
            for member in tar:
                end: int = tar.offset  # type: ignore[attr-defined]  # where the next header is
                _check_growth(path, packed, member, end)
                if member.isdir():
                    continue
                if refused := _refused(member):
                    yield refused
                    continue
                name = str(PurePosixPath(member.name))
                data = None
                if member.size <= max_bytes and name.startswith(wanted):
                    stream = tar.extractfile(member)
                    data = stream.read() if stream is not None else b""
                    if len(data) != member.size:
                        raise EOFError("the tar ends within a member")
                yield Member(name, member.size, data)
                last = name
                tar.members = []  # type: ignore[attr-defined]  # the stream needs no list, which grows without bound
    except (
        tarfile.TarError,
        EOFError,
        zlib.error,
        lzma.LZMAError,
        OSError,
        UnicodeError,
        ValueError,
        RecursionError,  # headers of headers
    ) as error:
        raise DataError(
            f"{path} is not a sound tar",
            found=f"{type(error).__name__}: {error}; last member read: {printable(last)}",
            expected="a tar, or one packed with gzip, bzip2 or xz",
        ) from error


def read_image(item: str, path: Path, max_pixels: int, root: Path | None = None) -> Pixels | Bad:
    """Read and decode an image file; what cannot be used comes back as a `Bad` with a fixed reason.

    With `root`, the source's folder, a file that a link puts outside of it is refused.
    """
    try:
        if root is not None and leads_out(root, path):
            return Bad(item, *OUTSIDE)
        if not path.is_file():
            return Bad(item, "missing_file", f"no file {printable(path.name)}")
        num_bytes = path.stat().st_size
        if num_bytes > byte_limit(max_pixels):
            return Bad(item, "too_many_bytes", f"{num_bytes} bytes, at most {byte_limit(max_pixels)} read")
        data = path.read_bytes()
    except OSError as error:
        if is_of_machine(error):
            raise
        return Bad(item, "unreadable", error.strerror or type(error).__name__)
    return decode_image(item, data, max_pixels)


def decode_image(item: str, data: bytes, max_pixels: int) -> Pixels | Bad:
    """Decode image bytes; what cannot be used comes back as a `Bad` with a fixed reason."""
    try:
        return decode(data, max_pixels)
    except BadImage as error:
        return Bad(item, error.reason, printable(error.detail))
