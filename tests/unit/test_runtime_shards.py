"""The shard map. Workers import this file, so it imports little."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from vqpipe.errors import SetupError
from vqpipe.runtime.shards import map_shards


def square(value: int) -> int:
    return value * value


def fail_on_three(value: int) -> int:
    if value == 3:
        raise ZeroDivisionError(value)
    return value


def die(value: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return value


def die_once(folder: Path, value: int) -> int:
    """Every third shard kills its worker the first time; each run of a shard leaves a line."""
    with (folder / str(value)).open("a") as log:
        log.write("run\n")
    first = (folder / str(value)).read_text() == "run\n"
    if value % 3 == 1 and first:
        os.kill(os.getpid(), signal.SIGKILL)
    return value * value


def own_process(value: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("count", ["1", "2"])
def test_shards_come_in_order_for_any_number_of_workers(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", count)
    assert list(map_shards(square, range(9))) == [i * i for i in range(9)]


@pytest.mark.parametrize("count", ["1", "2"])
def test_an_error_in_a_shard_is_raised(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", count)
    with pytest.raises(ZeroDivisionError):
        list(map_shards(fail_on_three, range(6)))


def test_a_killed_worker_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", "2")
    with pytest.raises(SetupError, match="died 4 times"):
        list(map_shards(die, range(4)))


def test_shards_of_a_killed_worker_run_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", "2")
    assert list(map_shards(partial(die_once, tmp_path), range(10))) == [i * i for i in range(10)]
    runs = {int(path.name): len(path.read_text().splitlines()) for path in tmp_path.iterdir()}
    assert all(runs[value] >= 2 or value % 3 != 1 for value in range(10))
    assert sum(runs.values()) < 30  # what had a result was not run again


def test_a_worker_killed_from_outside_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", "2")
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    killed = []

    def source() -> Iterator[int]:
        for value in range(40):
            if value == 20:
                fresh = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
                own = [c for c in fresh if c.parent() and c.parent() != psutil.Process()]
                killed.append(own[0].pid)
                os.kill(own[0].pid, signal.SIGKILL)
            yield value

    assert list(map_shards(square, source())) == [i * i for i in range(40)]
    assert killed


def test_workers_are_replaced_after_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", "2")
    processes = list(map_shards(own_process, range(12), shards_per_worker=2))
    assert len(set(processes)) >= 3
    assert not set(processes[:2]) & set(processes[-2:])


def test_a_map_that_is_left_early_leaves_no_shard_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", "2")
    results = map_shards(partial(die_once, tmp_path), (3 * i for i in range(50)))
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert len(list(tmp_path.iterdir())) <= 5


def test_shards_are_drawn_no_further_than_two_per_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", "2")
    drawn: list[int] = []

    def source() -> Iterator[int]:
        for value in range(50):
            drawn.append(value)
            yield value

    results = map_shards(square, source())
    assert next(results) == 0
    assert len(drawn) <= 5
    assert list(results) == [i * i for i in range(1, 50)]
