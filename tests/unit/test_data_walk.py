"""The files of a source: order, links, hidden and special files, names; and the members of a tar."""

from __future__ import annotations

import gzip
import io
import os
import socket
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import vqpipe.data.walk as module
from tests.tiny import picture
from vqpipe.data import walk
from vqpipe.data.records import Bad, count_by_reason, describe
from vqpipe.data.stream import squares
from vqpipe.data.walk import (
    FREE_BYTES,
    MAX_GROWTH,
    MAX_HEADER_BYTES,
    Member,
    Walk,
    images_below,
    is_image,
    members,
    no_images,
)
from vqpipe.errors import DataError
from vqpipe.evaluation.evaluate import read_folder


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", "1")


def put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def listed(walk: Walk) -> tuple[list[str], dict[str, str]]:
    """Names, and reasons of what is left out."""
    entries = list(walk)
    assert entries == list(walk)
    return [e for e in entries if isinstance(e, str)], {
        e.item: e.reason for e in entries if isinstance(e, Bad)
    }


@pytest.mark.parametrize("name", ["a.JPG", "a.Jpeg", "a.jfif", "a.JPE", "x.y.Png", "a.TIFF", "\udcff.pnm"])
def test_endings_in_any_case(name: str) -> None:
    assert is_image(name)
    assert not is_image(name + ".txt")
    assert not is_image(name.rpartition(".")[2])


def test_files_come_by_code_point_then_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "z.png", "B.png", "a.png", "é.png", "b/1.png", "a.d/2.png", "a/3.png", "a/deep/4.png")
    order = ["B.png", "a.png", "z.png", "é.png", "a/3.png", "a/deep/4.png", "a.d/2.png", "b/1.png"]
    assert listed(Walk(tmp_path))[0] == order
    given = os.scandir

    class Backwards(list):  # type: ignore[type-arg]
        def __enter__(self) -> Backwards:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    def backwards(path: str) -> Backwards:
        return Backwards(sorted(given(path), key=lambda entry: entry.name, reverse=True))

    monkeypatch.setattr(module.os, "scandir", backwards)
    assert listed(Walk(tmp_path))[0] == order


def test_links_that_point_at_each_other_multiply_nothing(tmp_path: Path) -> None:
    put(tmp_path, "birds/0.png", "boats/1.png")
    (tmp_path / "birds/also").symlink_to("../boats")
    (tmp_path / "boats/also").symlink_to("../birds")
    (tmp_path / "birds/up").symlink_to("..")
    (tmp_path / "birds/far").symlink_to(tmp_path.parent)
    (tmp_path / "self.png").symlink_to("self.png")
    names, bad = listed(Walk(tmp_path))
    assert names == ["birds/0.png", "boats/1.png"]
    again = ("birds/also", "boats/also", "birds/up")
    left_out = {"self.png": "missing_file", "birds/far": "unsafe_path"}
    assert bad == {**dict.fromkeys(again, "duplicate_path"), **left_out}


def test_a_path_without_a_link_wins_over_an_earlier_link(tmp_path: Path) -> None:
    put(tmp_path, "m/1.png", "m/notes.txt")
    (tmp_path / "a").symlink_to("m")
    (tmp_path / "b.png").symlink_to("m/1.png")
    (tmp_path / "c.txt").symlink_to("m/notes.txt")
    names, bad = listed(Walk(tmp_path))
    assert names == ["c.txt", "m/1.png", "m/notes.txt"]  # only images are taken once
    assert bad == {"a": "duplicate_path", "b.png": "duplicate_path"}


def test_of_several_links_to_what_no_start_lists_the_first_counts(tmp_path: Path) -> None:
    put(tmp_path, "out/s/1.png", "out/s/2.png", "out/one.png", "in/p.png")
    root = tmp_path / "in"
    (root / "a.png").symlink_to("../out/s/1.png")
    (root / "b.png").symlink_to("../out/one.png")
    (root / "c.png").symlink_to(tmp_path / "out/one.png")
    (root / "link").symlink_to("../out/s")
    (root / "other").symlink_to("../out/s")
    (root / "wide").symlink_to("../out")
    (tmp_path / "out/back").symlink_to(root)
    names, bad = listed(Walk(tmp_path, ["in"]))
    assert names == ["in/a.png", "in/b.png", "in/p.png", "in/link/2.png"]
    expected = ("c.png", "link/1.png", "other", "wide/one.png", "wide/back", "wide/s")
    assert bad == {f"in/{name}": "duplicate_path" for name in expected}


def test_no_link_leads_out_of_the_root(tmp_path: Path) -> None:
    outside, root = put(tmp_path / "in-out", "1.png", "1.txt", "deep/2.png"), put(tmp_path / "in", "p.png")
    (root / "a.png").symlink_to(outside / "1.png")
    (root / "a.txt").symlink_to("../in-out/1.txt")
    (root / "b").symlink_to(outside)
    (root / "c").symlink_to("b/deep")
    (root / "d").symlink_to("/")
    (root / "e.png").symlink_to("../in-out/nothing.png")
    left_out = {**dict.fromkeys(("a.png", "a.txt", "b", "c", "d"), "unsafe_path"), "e.png": "missing_file"}
    assert listed(Walk(root)) == (["p.png"], left_out)
    (tmp_path / "root").symlink_to("in")
    assert listed(Walk(tmp_path / "root")) == (["p.png"], left_out)
    assert listed(Walk(root, ["b", "gone"])) == ([], {"b": "unsafe_path"})


def test_a_hard_link_is_the_same_image(tmp_path: Path) -> None:
    put(tmp_path, "train/1.png", "train/2.png", "train/2.txt")
    (tmp_path / "test").mkdir()
    os.link(tmp_path / "train/1.png", tmp_path / "test/copy.png")
    os.link(tmp_path / "train/2.txt", tmp_path / "test/2.txt")
    names, bad = listed(Walk(tmp_path))
    assert names == ["test/2.txt", "test/copy.png", "train/2.png", "train/2.txt"]
    assert bad == {"train/1.png": "duplicate_path"}


def test_hard_links_over_starts_and_linked_folders(tmp_path: Path) -> None:
    root = put(tmp_path / "in", "a/1.png", "z/2.png", "z/3.png")
    outside = put(tmp_path / "out", "4.png")
    os.link(root / "a/1.png", root / "z/one.png")
    os.link(root / "z/2.png", outside / "two.png")
    os.link(root / "z/3.png", outside / "three.png")
    os.link(outside / "4.png", outside / "four.png")
    (root / "m").symlink_to(outside)
    expected = ["in/a/1.png", "in/m/4.png", "in/z/2.png", "in/z/3.png"]
    again = ("in/z/one.png", "in/m/two.png", "in/m/three.png", "in/m/four.png")
    assert listed(Walk(tmp_path, ["in"])) == (expected, dict.fromkeys(again, "duplicate_path"))
    assert listed(Walk(tmp_path, ["in/z", "in/m", "in/a"])) == (
        ["in/a/1.png", "in/m/4.png", "in/m/three.png", "in/m/two.png"],
        dict.fromkeys(("in/z/one.png", "in/m/four.png", "in/z/2.png", "in/z/3.png"), "duplicate_path"),
    )


def test_inodes_that_a_file_system_made_up_prove_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "1.png", "2.png", "d/3.png")
    given = os.scandir

    class Entry:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.name, self.path = entry.name, entry.path
            self.is_dir, self.is_file, self.is_symlink = entry.is_dir, entry.is_file, entry.is_symlink

        def inode(self) -> int:
            return 0xFFFFFFFF

    class Listing(list):  # type: ignore[type-arg]
        def __enter__(self) -> Listing:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(module.os, "scandir", lambda path: Listing(map(Entry, given(path))))
    assert listed(Walk(tmp_path)) == (["1.png", "2.png", "d/3.png"], {})


def test_starts_own_their_folders(tmp_path: Path) -> None:
    put(tmp_path, "all/1.png", "train/2.png", "train/held/3.png", "skipped/4.png")
    (tmp_path / "linked").symlink_to("all")
    (tmp_path / "val").symlink_to("train/held")
    names, bad = listed(Walk(tmp_path, ["val", "train", "linked", "../x", "/etc", "absent"]))
    assert names == ["linked/1.png", "train/2.png", "val/3.png"]
    assert bad == {"train/held": "duplicate_path"}
    assert listed(Walk(tmp_path, ["train/held", "train"]))[0] == ["train/2.png", "train/held/3.png"]


def test_hidden_and_special_files_are_noted_and_never_opened(tmp_path: Path) -> None:
    put(tmp_path, "1.png", ".git/x.png", ".git/y.png", ".DS_Store", "d/._1.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "linked.jpg").symlink_to("pipe")
    (tmp_path / "gone.png").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as unix:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's path may have about 100 bytes
        try:
            unix.bind("s.png")
        finally:
            os.chdir(here)
    names, bad = listed(Walk(tmp_path))
    assert names == ["1.png", "pipe"]
    assert bad == {
        ".git": "hidden", ".DS_Store": "hidden", "d/._1.png": "hidden", "pipe.png": "special_file",
        "linked.jpg": "special_file", "s.png": "special_file", "gone.png": "missing_file",
    }  # fmt: skip


def test_a_folder_that_cannot_be_listed_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a/1.png", "b/2.png")
    given = os.scandir

    def refused(path: str) -> object:
        if os.path.basename(path) == "a":
            raise PermissionError(13, "Permission denied", path)
        return given(path)

    monkeypatch.setattr(module.os, "scandir", refused)
    assert listed(Walk(tmp_path)) == (["b/2.png"], {"a": "unreadable"})


def test_two_names_that_are_the_same_as_text(tmp_path: Path) -> None:
    for name in (b"\xff.png", b"\\udcff.png"):
        (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    names, bad = listed(Walk(tmp_path))
    assert (len(names), bad) == (1, {"\\udcff.png": "duplicate_id"})


def test_evaluate_and_tokenize_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index, name in enumerate(("z.png", "a/1.PNG", "a/2.jfif", "b/locked.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(index, True).save(tmp_path / name, "JPEG" if name.endswith("jfif") else "PNG")
    put(tmp_path, "notes.txt", ".hidden.png", "bad.gif")
    (tmp_path / "a/loop").symlink_to("..")
    given = Path.read_bytes

    def refused(path: Path) -> bytes:
        if path.name == "locked.png":
            raise PermissionError(13, "Permission denied")
        return given(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    found = list(squares(tmp_path, 8))
    images, left_out = read_folder(tmp_path, 8)
    kept = [entry for entry in found if not isinstance(entry, Bad)]
    assert images.ids == [image_id for image_id, _ in kept] == ["z.png", "a/1.PNG", "a/2.jfif"]
    pixels = torch.from_numpy(np.stack([image for _, image in kept])).permute(0, 3, 1, 2)
    assert torch.equal(images.pixels, pixels)
    assert left_out == count_by_reason(entry for entry in found if isinstance(entry, Bad))
    assert left_out == {"duplicate_path": 1, "hidden": 1, "other_file": 1, "undecodable": 1, "unreadable": 1}


def test_the_error_says_what_was_found(tmp_path: Path) -> None:
    put(tmp_path, "1.HEIC", "2.heic", "LICENSE", "bad\nname.txt", ".git/x")
    bad = [entry for entry in images_below(tmp_path) if isinstance(entry, Bad)]
    told = describe(bad)
    assert told == (
        "2 .heic files (such as 1.HEIC); 1 .txt files (such as bad\\nname.txt); "
        "1 hidden (such as .git); 1 no ending files (such as LICENSE)"
    )
    error = str(no_images("photos", bad, "images", "look elsewhere"))
    assert error.startswith("photos has no usable image\n")
    assert "run:      look elsewhere" in error
    assert "dataset.source.path: …/x.tgz" in str(no_images("p", [module.other_file("x.tgz")], "images", "no"))
    assert "found:    nothing" in str(no_images("p", [], "images", "no"))


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
    monkeypatch.setattr(walk, "FREE_BYTES", 0)
    one = header("zeros.png", 1 << 16) + bytes(1 << 16)
    with pytest.raises(DataError, match="unpacks to far more"):
        list(members(packed(tmp_path / "x.tar.gz", one * 20)))


@pytest.mark.parametrize("kind", sorted(walk._HEADERS))
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
