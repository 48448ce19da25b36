"""A small tar cannot stand for more than a machine can unpack."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from vqpipe.data.adapters import tar_stream
from vqpipe.data.adapters.tar_stream import FREE_BYTES, MAX_GROWTH, MAX_HEADER_BYTES, Member, members
from vqpipe.errors import DataError


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def packed(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data))
    return path


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of all that is unpacked from a gzip stream."""
    lengths: list[int] = []
    given = tarfile._Stream._read  # type: ignore[attr-defined]

    def read(self: object, size: int) -> bytes:
        data: bytes = given(self, size)
        lengths.append(len(data))
        return data

    monkeypatch.setattr(tarfile._Stream, "_read", read)  # type: ignore[attr-defined]
    return lengths


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_SPARSE])
def test_a_member_of_zeros_is_refused_by_its_size(tmp_path: Path, counted: list[int], kind: bytes) -> None:
    good = header("a.png", 3) + b"abc".ljust(512, b"\0")
    path = packed(tmp_path / "x.tar.gz", good + header("zeros.png", 1 << 30, kind) + bytes(4 << 20))
    with pytest.raises(DataError, match=r"(?s)unpacks to far more.*zeros\.png: 1,073,741,824 bytes"):
        list(members(path, max_bytes=1 << 20))
    assert sum(counted) < 1 << 20


def test_many_members_count_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_stream, "FREE_BYTES", 0)
    one = header("zeros.png", 1 << 16) + bytes(1 << 16)
    with pytest.raises(DataError, match="unpacks to far more"):
        list(members(packed(tmp_path / "x.tar.gz", one * 20)))


@pytest.mark.parametrize("kind", sorted(tar_stream._HEADERS))
def test_an_extended_header_of_any_length_is_not_read(
    tmp_path: Path, counted: list[int], kind: bytes
) -> None:
    path = packed(tmp_path / "x.tar.gz", header("x", MAX_HEADER_BYTES + 1, kind) + bytes(4 << 20))
    with pytest.raises(DataError, match="extended header of 1,048,577 bytes"):
        list(members(path))
    assert sum(counted) < 1 << 20


def test_headers_of_headers_are_a_sentence(tmp_path: Path) -> None:
    record = b"11 a=bcdef\n"
    one = header("x", len(record), tarfile.XHDTYPE) + record.ljust(512, b"\0")
    with pytest.raises(DataError, match="not a sound tar"):
        list(members(packed(tmp_path / "x.tar.gz", one * 5000)))


def test_images_that_pack_well_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for at in range(20):
            member = tarfile.TarInfo(f"{at}.bmp")
            member.size = 1 << 20
            tar.addfile(member, io.BytesIO(bytes(1 << 20)))
    assert path.stat().st_size * MAX_GROWTH < 20 << 20 < FREE_BYTES
    found = list(members(path, max_bytes=1 << 20))
    assert [len(entry.data or b"") for entry in found if isinstance(entry, Member)] == [1 << 20] * 20
