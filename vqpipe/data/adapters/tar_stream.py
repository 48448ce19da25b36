"""Tar files read as a stream: nothing is extracted, and a member can lead nowhere."""

from __future__ import annotations

import lzma
import posixpath
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vqpipe.data.records import Bad
from vqpipe.errors import DataError, printable


@dataclass(frozen=True, slots=True)
class Member:
    """A plain file of the tar: its normalised name and size, and its bytes where they were asked for."""

    name: str
    num_bytes: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class BadLink(Bad):
    """A link of the tar; `target` is the name of what it leads to, empty where that lies outside of the tar."""

    target: str = ""


def _target(member: tarfile.TarInfo) -> str:
    """Where a link leads: a hard link names a member, a symbolic one goes from its own folder."""
    if member.linkname.startswith("/"):
        return ""
    start = posixpath.dirname(member.name) if member.issym() else ""
    path = posixpath.normpath(posixpath.join(start, member.linkname))
    return "" if path.split("/")[0] == ".." else printable(path)


def _fault(member: tarfile.TarInfo) -> tuple[str, str] | None:
    """Why a member must not be used, as (reason, detail)."""
    name = member.name.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/") or re.match(r"^[A-Za-z]:", name):
        return "unsafe_path", "the name leads out of the tar"
    if member.issym() or member.islnk():
        return "tar_link", f"a link to {printable(member.linkname)}"
    if not member.isfile():
        return "tar_special", "neither a file nor a folder"
    return None


def members(path: Path, wanted: str = "", max_bytes: int = 0) -> Iterator[Member | Bad]:
    """Stream a tar (plain, gz, bz2, xz) in the order of its members.

    Files up to `max_bytes` whose name begins with `wanted` come with their bytes, others with none; faulty
    members come as `Bad`, folders not at all.

    Raises:
        DataError: not a tar, or a damaged one; the message names the last member that was read.
    """
    last = "none"
    try:
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                if member.isdir():
                    continue
                fault = _fault(member)
                if fault is not None:
                    name = printable(
                        str(PurePosixPath(member.name)) if fault[0] == "tar_link" else member.name
                    )
                    yield (
                        BadLink(name, *fault, target=_target(member))
                        if fault[0] == "tar_link"
                        else Bad(name, *fault)
                    )
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
    ) as error:
        raise DataError(
            f"{path} is not a sound tar",
            found=f"{type(error).__name__}: {error}; last member read: {printable(last)}",
            expected="a tar, or one packed with gzip, bzip2 or xz",
        ) from error
