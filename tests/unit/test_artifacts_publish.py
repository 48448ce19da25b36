"""Publishing: a reader gets one whole version, and equal content gives equal bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vqpipe.artifacts.publish import (
    MANIFEST,
    fit_name,
    publish_file,
    publish_folder,
    publish_json,
    publish_sealed,
    publish_text,
    read_manifest,
    tree_digest,
)
from vqpipe.artifacts.seal import read_sealed_json
from vqpipe.artifacts.spec import FolderSpec
from vqpipe.errors import ArtifactError

BOX = FolderSpec("box", 2, stage="boxes", required=("a.txt",), about="a box")


def fill(folder: Path, text: str = "a") -> None:
    with publish_folder(folder, BOX, {"n": 1}) as partial:
        (partial / "a.txt").write_text(text)
        (partial / "deep").mkdir()
        (partial / "deep" / "b.txt").write_text("b")


def test_a_failing_writer_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    publish_text(path, "old")

    def fail() -> None:
        with publish_file(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_failing_writer_leaves_the_old_folder_and_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "box"
    fill(folder)
    before = tree_digest(folder)

    def fail() -> None:
        with publish_folder(folder, BOX, {}) as partial:
            (partial / "a.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert tree_digest(folder) == before
    assert os.listdir(tmp_path) == ["box"]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_sigkill_in_the_middle_leaves_nothing_visible(tmp_path: Path, what: str) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from vqpipe.artifacts.publish import publish_file, publish_folder
from vqpipe.artifacts.spec import FolderSpec
where = Path(sys.argv[1])
if sys.argv[2] == "file":
    with publish_file(where / "out") as partial:
        partial.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
else:
    with publish_folder(where / "out", FolderSpec("box", 2, stage="boxes"), {}) as partial:
        (partial / "a.txt").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), what], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    left = [name for name in os.listdir(tmp_path) if not name.startswith(".")]
    assert left == []
    with pytest.raises(ArtifactError, match="dvc repro boxes"):
        read_manifest(tmp_path / "out", BOX)


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "box"
    fill(folder)
    with publish_folder(folder, BOX, {}) as partial:
        (partial / "a.txt").write_text("new")
    assert (folder / "a.txt").read_text() == "new"
    assert not (folder / "deep").exists()
    assert os.listdir(tmp_path) == ["box"]


def test_equal_folders_have_equal_bytes(tmp_path: Path) -> None:
    fill(tmp_path / "one")
    fill(tmp_path / "two")
    assert (tmp_path / "one" / MANIFEST).read_bytes() == (tmp_path / "two" / MANIFEST).read_bytes()
    assert tree_digest(tmp_path / "one") == tree_digest(tmp_path / "two")


def test_facts_may_be_filled_inside_the_block(tmp_path: Path) -> None:
    facts: dict[str, int] = {}
    with publish_folder(tmp_path / "box", BOX, facts) as partial:
        (partial / "a.txt").write_text("a")
        facts["late"] = 7
    assert read_manifest(tmp_path / "box", BOX).facts == {"late": 7}


def test_a_required_file_that_was_not_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"box lacks a\.txt"), publish_folder(tmp_path / "box", BOX, {}):
        pass
    assert os.listdir(tmp_path) == []


def test_manifest_lists_every_file_with_its_size(tmp_path: Path) -> None:
    fill(tmp_path / "box")
    manifest = read_manifest(tmp_path / "box", BOX)
    assert {name: entry["bytes"] for name, entry in manifest.files.items()} == {"a.txt": 1, "deep/b.txt": 1}


def test_a_truncated_file_is_told_with_both_sizes(tmp_path: Path) -> None:
    fill(tmp_path / "box", "abc")
    (tmp_path / "box" / "a.txt").write_text("a")
    with pytest.raises(ArtifactError, match=r"(?s)a\.txt.*found: +1 bytes.*expected: +3 bytes.*dvc checkout"):
        read_manifest(tmp_path / "box", BOX)


def test_a_lost_file_is_told(tmp_path: Path) -> None:
    fill(tmp_path / "box")
    (tmp_path / "box" / "a.txt").unlink()
    with pytest.raises(ArtifactError, match="no file"):
        read_manifest(tmp_path / "box", BOX)


def test_another_version_or_spec_is_told(tmp_path: Path) -> None:
    fill(tmp_path / "box")
    newer = FolderSpec("box", 3, stage="boxes")
    with pytest.raises(ArtifactError, match=r"(?s)found: +box v2\n.*expected: +box v3\n.*dvc repro boxes"):
        read_manifest(tmp_path / "box", newer)
    with pytest.raises(ArtifactError, match=r"(?s)found: +box v2\n.*expected: +crate v2"):
        read_manifest(tmp_path / "box", FolderSpec("crate", 2, stage="crates"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("[]", "not a JSON object"),
        ('{"spec": "box"}', "carries no checksum"),
    ],
)
def test_a_damaged_manifest_is_told(tmp_path: Path, content: str, problem: str) -> None:
    fill(tmp_path / "box")
    (tmp_path / "box" / MANIFEST).write_text(content)
    with pytest.raises(ArtifactError, match=f"(?s){problem}.*run: +rm -r .*dvc checkout"):
        read_manifest(tmp_path / "box", BOX)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"version": "x"}, "header cannot be read"),
        ({"facts": 1}, "header cannot be read"),
        ({"files": ["a.txt"]}, "list of files cannot be read"),
        ({"files": {"a.txt": 1}}, "list of files cannot be read"),
    ],
)
def test_a_sealed_manifest_of_another_form_is_told(
    tmp_path: Path, change: dict[str, object], problem: str
) -> None:
    fill(tmp_path / "box")
    path = tmp_path / "box" / MANIFEST
    publish_sealed(path, {**read_sealed_json(path), **change})
    with pytest.raises(ArtifactError, match=problem):
        read_manifest(tmp_path / "box", BOX)


def test_a_plain_folder_is_not_an_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a published folder"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("files", "found"), [((), "found:    an empty folder"), (("b.txt", "a.txt"), "found:    a.txt, b.txt")]
)
def test_a_folder_that_is_no_artifact_is_told_from_one_that_is_not_there(
    tmp_path: Path, files: tuple[str, ...], found: str
) -> None:
    for name in files:
        (tmp_path / name).write_text("")
    with pytest.raises(ArtifactError, match=f"is not a {BOX.name} v{BOX.version} artifact\n  {found}"):
        read_manifest(tmp_path, BOX)
    with pytest.raises(ArtifactError, match="nowhere does not exist"):
        read_manifest(tmp_path / "nowhere", BOX)


def test_json_is_sorted_and_refuses_nan(tmp_path: Path) -> None:
    publish_json(tmp_path / "m.json", {"b": 1, "a": 2})
    assert list(json.loads((tmp_path / "m.json").read_text())) == ["a", "b"]
    with pytest.raises(ValueError, match="JSON"):
        publish_json(tmp_path / "n.json", {"x": float("nan")})
    assert not (tmp_path / "n.json").exists()


def test_tree_digest_sees_names_and_content(tmp_path: Path) -> None:
    for name, file, text in [("one", "a", "x"), ("two", "b", "x"), ("three", "a", "y")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    digests = {tree_digest(tmp_path / name) for name in ("one", "two", "three")}
    assert len(digests) == 3


def test_names_of_255_bytes_are_published(tmp_path: Path) -> None:
    for name in ("n" * 255, "é" * 127):
        publish_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"
        fill(tmp_path / "folders" / name)
        fill(tmp_path / "folders" / name, "again")
        assert (tmp_path / "folders" / name / "a.txt").read_text() == "again"
    assert len(os.listdir(tmp_path)) == 3


def test_a_name_is_cut_only_where_it_must_be_and_stays_different() -> None:
    assert fit_name("a" * 251, ".png") == "a" * 251 + ".png"
    cut = [fit_name("é" * 125 + end, ".png") for end in "ab"]
    assert len(set(cut)) == 2
    assert all(len(os.fsencode(name)) <= 255 and name.endswith(".png") for name in cut)
    assert all(name.startswith("é" * 110) for name in cut)


def test_a_tree_with_odd_names_and_a_file_that_cannot_be_read_has_a_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "caf\udce9.png"):
        (tmp_path / name).write_bytes(b"x")
    before = tree_digest(tmp_path)
    given = Path.open

    def refused(path: Path, *args: str) -> object:
        if path.name == "a.png":
            raise PermissionError(13, "Permission denied")
        return given(path, *args)

    monkeypatch.setattr(Path, "open", refused)
    assert tree_digest(tmp_path) == tree_digest(tmp_path) != before
