"""Tar files read as a stream: nothing is extracted, a member leads nowhere, and a small tar cannot exhaust a machine.

A packed tar of a megabyte can stand for a gigabyte of zeros, which takes as long to pass over as to read. Each header
says how long its member is, before the member is unpacked: a tar that would grow more than images do is refused there.
"""

from __future__ import annotations

import lzma
import posixpath
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

from vqpipe.data.records import Bad
from vqpipe.errors import DataError, printable

MAX_GROWTH = 100
"""Unpacked bytes for each byte of the tar. Images that are packed already do not grow; flat ones without a packing of
their own grow by 50 or so; zeros grow by 1,000 in gzip and by 7,000 in xz."""
FREE_BYTES = 64 << 20
"""Unpacked bytes that any tar may have besides."""
MAX_HEADER_BYTES = 1 << 20
"""Longest extended header, which holds a name or a few facts and is read whole."""
_HEADERS = {
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
}


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


class _Header(tarfile.TarInfo):
    """A header that is refused before its content is read, where that is too long for what it holds."""

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
        RecursionError,  # headers of headers
    ) as error:
        raise DataError(
            f"{path} is not a sound tar",
            found=f"{type(error).__name__}: {error}; last member read: {printable(last)}",
            expected="a tar, or one packed with gzip, bzip2 or xz",
        ) from error
