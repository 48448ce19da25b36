"""Checkpoints in scratch: two are there at any moment, damaged ones are set aside, all ranks agree."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.damage import DAMAGES, DELETED
from vqpipe.artifacts import checkpoints
from vqpipe.artifacts.checkpoints import Found, is_intact, keeping_previous, recover
from vqpipe.artifacts.publish import publish_sealed
from vqpipe.artifacts.seal import read_sealed_json
from vqpipe.errors import ArtifactError

CPU = torch.device("cpu")


class Killed(BaseException):
    """Stands for a kill."""


def save(path: Path, number: int) -> None:
    with keeping_previous(path):
        publish_sealed(path, {"number": number, "long": "x" * 100})


def number_in(path: Path) -> int:
    return int(read_sealed_json(path)["number"])


def found_in(path: Path) -> tuple[Found, int]:
    found = recover(path, read_sealed_json, CPU)
    return found, number_in(path)


def three(folder: Path) -> Path:
    for number in range(3):
        save(folder / "c.json", number)
    return folder / "c.json"


def test_the_checkpoint_before_the_newest_is_kept_and_nothing_else(tmp_path: Path) -> None:
    path = three(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["c.before.json", "c.json"]
    assert (number_in(path), number_in(tmp_path / "c.before.json")) == (2, 1)


def test_the_newest_is_taken_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recover(tmp_path / "none.json", read_sealed_json, CPU) == Found.NOTHING
    assert found_in(three(tmp_path)) == (Found.NEWEST, 2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", [*DAMAGES.values(), *DELETED.values()], ids=[*DAMAGES, *DELETED])
def test_a_damaged_one_is_set_aside_for_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    path = three(tmp_path)
    damage(path)
    left = path.read_bytes() if path.exists() else None
    assert found_in(path) == (Found.BEFORE, 1)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(path) in said
    assert said.endswith("the run resumes from the checkpoint before it\n")
    if left is not None:
        assert "set aside as c.damaged.json" in said
        assert (tmp_path / "c.damaged.json").read_bytes() == left
    save(path, 2)
    assert (number_in(path), number_in(tmp_path / "c.before.json")) == (2, 1)


def test_two_damaged_ones_are_named_both_and_the_run_starts_from_the_beginning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = three(tmp_path)
    for name in ("c.json", "c.before.json"):
        (tmp_path / name).write_bytes(b"")
    assert recover(path, read_sealed_json, CPU) == Found.NOTHING
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert all(line.endswith("the run starts from the beginning") for line in said)
    assert sorted(os.listdir(tmp_path)) == ["c.before.damaged.json", "c.damaged.json"]
    assert recover(path, read_sealed_json, CPU) == Found.NOTHING
    assert capsys.readouterr().err == "", "what was set aside is not looked at again"


@pytest.mark.parametrize("damaged", [False, True])
def test_a_run_that_is_killed_at_any_rename_loses_one_checkpoint_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    for stop in count(1):
        folder, calls = tmp_path / str(stop), list[str]()
        folder.mkdir()
        path = three(folder)

        def dying(name: str, stop: int = stop, calls: list[str] = calls) -> Callable[..., Any]:
            real = getattr(os, name)

            def call(*given: Any) -> Any:
                calls.append(name)
                if len(calls) == stop:
                    raise Killed
                return real(*given)

            return call

        with monkeypatch.context() as patch:
            for name in ("link", "replace"):
                patch.setattr(os, name, dying(name))
            try:
                save(path, 3)
            except Killed:
                pass
            else:
                break
        if damaged:
            path.write_bytes(b"")
            assert found_in(path)[1] in (1, 2)
        else:
            assert found_in(path)[1] in (2, 3)
    assert stop == 4, "a link and two renames"


def test_without_hard_links_the_checkpoint_before_is_kept_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    path = three(tmp_path)
    assert (number_in(path), number_in(tmp_path / "c.before.json")) == (2, 1)


def test_a_full_disk_leaves_both(tmp_path: Path) -> None:
    path = three(tmp_path)

    def full() -> None:
        with keeping_previous(path):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        full()
    assert sorted(os.listdir(tmp_path)) == ["c.before.json", "c.json"]
    assert (number_in(path), number_in(tmp_path / "c.before.json")) == (2, 1)


def test_a_disk_that_fails_is_damage_and_another_error_of_the_system_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = three(tmp_path)

    def failing(number: int) -> Callable[[Path], None]:
        def check(at: Path) -> None:
            if at == path:
                raise OSError(number, os.strerror(number), str(at))

        return check

    with pytest.raises(PermissionError):
        recover(path, failing(errno.EACCES), CPU)
    assert path.is_file()
    assert recover(path, failing(errno.EIO), CPU) == Found.BEFORE
    assert "cannot be read (Input/output error)" in capsys.readouterr().err


def test_rank_0_decides_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = three(tmp_path)
    path.write_bytes(b"")

    def never(_: Path) -> None:
        raise AssertionError("only rank 0 reads")

    monkeypatch.setattr(checkpoints, "is_main", lambda: False)
    for answer in Found:
        monkeypatch.setattr(checkpoints, "all_reduce_sum", lambda own, answer=answer: own + int(answer))
        assert recover(path, never, CPU) == answer
    assert path.read_bytes() == b""


def test_what_dead_processes_left_is_removed(tmp_path: Path) -> None:
    path = three(tmp_path)
    for name in (".c.json.partial-999999999", ".other.replaced-999999999", f".c.json.partial-{os.getppid()}"):
        (tmp_path / name).write_bytes(b"half")
    recover(path, read_sealed_json, CPU)
    assert sorted(os.listdir(tmp_path)) == [
        f".c.json.partial-{os.getppid()}", "c.before.json", "c.json",
    ]  # fmt: skip


def test_damage_is_one_line_with_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    def check() -> None:
        raise ArtifactError("x is damaged", found="SHA-256 1", expected="SHA-256 2", run="dvc repro x")

    assert is_intact(lambda: None, "it is made again")
    assert capsys.readouterr().err == ""
    assert not is_intact(check, "it is made again")
    assert (
        capsys.readouterr().err == "x is damaged (found: SHA-256 1, expected: SHA-256 2); it is made again\n"
    )
