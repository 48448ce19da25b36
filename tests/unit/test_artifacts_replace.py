"""Replacing an output: readers get one whole version, and what killed processes left is removed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vqpipe.artifacts import publish
from vqpipe.artifacts.intact import read_whole
from vqpipe.artifacts.publish import fit_name, publish_file, publish_folder, publish_text, put_in_place
from vqpipe.artifacts.spec import FolderSpec
from vqpipe.errors import ArtifactError

BOX = FolderSpec("box", 2, stage="boxes", required=("a.txt",), about="a box")


def fill(folder: Path, text: str = "a") -> None:
    with publish_folder(folder, BOX, {}) as partial:
        (partial / "a.txt").write_text(text)


def gone_process() -> int:
    """The number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def left_behind(folder: Path, name: str, process: int) -> dict[str, bool]:
    """Hidden names of an output as a killed process leaves them; by name, whether it is a folder."""
    made = {}
    for word, is_folder in (("partial", True), ("staged", False), ("replaced", True), ("partial", False)):
        if is_folder:
            path = folder / f".{name}.{word}-{process}"
            path.mkdir(parents=True)
            (path / "a.txt").write_text("half")
        else:
            path = folder / f".{name}{'' if word == 'staged' else '.json'}.{word}-{process}"
            path.write_text("half")
        made[path.name] = is_folder
    return made


def test_the_next_publish_removes_what_dead_processes_left_and_nothing_else(tmp_path: Path) -> None:
    dead = left_behind(tmp_path, "box", gone_process())
    alive = left_behind(tmp_path, "box", os.getppid())
    other = left_behind(tmp_path, "crate", gone_process())
    (tmp_path / ".box.partial-notes").write_text("a name of the user's")
    fill(tmp_path / "box")
    publish_text(tmp_path / "box.json", "{}")
    left = set(os.listdir(tmp_path))
    assert not left & dead.keys()
    assert left == {"box", "box.json", ".box.partial-notes", *alive, *other}


def test_leftovers_of_names_that_were_cut_are_removed(tmp_path: Path) -> None:
    name = "n" * 250
    (tmp_path / fit_name(f".{name}", f".partial-{gone_process()}")).write_text("half")
    publish_text(tmp_path / name, "text")
    assert os.listdir(tmp_path) == [name]


def test_leftovers_are_removed_though_the_number_was_given_to_this_process(tmp_path: Path) -> None:
    mine = left_behind(tmp_path, "box", os.getpid())
    fill(tmp_path / "box")
    publish_text(tmp_path / "box.json", "{}")
    assert not set(os.listdir(tmp_path)) & mine.keys()


def test_a_link_at_the_outputs_path_is_followed_and_stays(tmp_path: Path) -> None:
    store = tmp_path / "store"
    fill(store / "box", "old")
    (tmp_path / "out").symlink_to(store / "box")
    fill(tmp_path / "out", "new")
    assert (tmp_path / "out").is_symlink()
    assert (store / "box" / "a.txt").read_text() == "new"
    assert os.listdir(store) == ["box"]
    assert sorted(os.listdir(tmp_path)) == ["out", "store"]


@pytest.fixture(params=["in one step", "in two steps"])
def exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the system's exchange of two names, and on systems without it."""
    if request.param == "in two steps":
        monkeypatch.setattr(publish, "_exchange", lambda one, two: False)
        monkeypatch.setattr(publish, "_exchanger", lambda: None)
    return str(request.param)


def test_a_folder_is_put_in_place_with_and_without_an_exchange(tmp_path: Path, exchange: str) -> None:
    fill(tmp_path / "box", "old")
    fill(tmp_path / "next", "new")
    put_in_place(tmp_path / "next", tmp_path / "box")
    assert (tmp_path / "box" / "a.txt").read_text() == "new"
    if exchange == "in two steps":
        assert os.listdir(tmp_path) == ["box"]
    fill(tmp_path / "box", "newest")
    assert (tmp_path / "box" / "a.txt").read_text() == "newest"
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_a_reader_gets_one_version_of_a_folder_that_is_replaced_meanwhile(
    tmp_path: Path, exchange: str
) -> None:
    folder = tmp_path / "box"
    fill(folder, "one")
    versions: Iterator[str] = iter(["two", "three"])

    def read() -> tuple[str, str]:
        first = (folder / "a.txt").read_text()
        with_next = next(versions, None)
        if with_next is not None:
            fill(folder, with_next)
        return first, (folder / "a.txt").read_text()

    assert read_whole(folder, read) == ("three", "three")


def test_a_reader_survives_the_moment_without_a_folder(tmp_path: Path, exchange: str) -> None:
    folder = tmp_path / "box"
    fill(folder, "one")
    kept = tmp_path / "kept"

    def read() -> str:
        if not kept.exists():
            os.replace(folder, kept)
            try:
                return (folder / "a.txt").read_text()
            finally:
                shutil.copytree(kept, folder)
        return (folder / "a.txt").read_text()

    assert read_whole(folder, read) == "one"


@pytest.mark.slow
def test_a_folder_that_never_stays_and_one_that_is_damaged_are_errors(tmp_path: Path) -> None:
    folder = tmp_path / "box"
    fill(folder)
    with pytest.raises(ArtifactError, match="again and again"):
        read_whole(folder, lambda: fill(folder))
    tries = []

    def read() -> None:
        tries.append(1)
        raise ArtifactError("damaged")

    with pytest.raises(ArtifactError, match="damaged"):
        read_whole(folder, read)
    assert len(tries) == 1
    with pytest.raises(ArtifactError, match="damaged"):
        read_whole(tmp_path / "nowhere", read)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_clean_up_that_fails_does_not_hide_the_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, what: str
) -> None:
    def refused(*args: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    def fail() -> None:
        made = publish_file(tmp_path / "out") if what == "file" else publish_folder(tmp_path / "out", BOX, {})
        with made as partial:
            (partial if what == "file" else partial / "a.txt").write_text("half")
            for name in ("unlink", "rmdir", "remove"):
                monkeypatch.setattr(os, name, refused)
            raise OSError(errno.EIO, "the first error")

    with pytest.raises(OSError, match="the first error"):
        fail()
    monkeypatch.undo()
    fill(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]  # what stayed is removed by the next run


def test_a_rename_that_fails_without_an_exchange_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "box", "old")
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        if ".partial-" in str(source) and Path(target).name == "box":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(source))
        replace(source, target)

    monkeypatch.setattr(publish, "_exchange", lambda one, two: False)
    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        fill(tmp_path / "box", "new")
    assert (tmp_path / "box/a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["box"]


def test_the_only_version_that_a_killed_process_put_aside_is_put_back(tmp_path: Path) -> None:
    fill(tmp_path / "box", "old")
    (tmp_path / "box").rename(tmp_path / f".box.replaced-{gone_process()}")
    publish.remove_leftovers(tmp_path, "box")
    assert [path.name for path in tmp_path.iterdir()] == ["box"]
    assert (tmp_path / "box/a.txt").read_text() == "old"


def test_a_sidecar_of_another_program_stays(tmp_path: Path) -> None:
    (tmp_path / "box.lineage.json").write_text('{"theirs": true}')
    fill(tmp_path / "box")
    assert (tmp_path / "box.lineage.json").read_text() == '{"theirs": true}'
