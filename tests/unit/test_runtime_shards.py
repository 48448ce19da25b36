"""The shard map. Workers import this file, so it imports little."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

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
    with pytest.raises(SetupError, match="a worker process died"):
        list(map_shards(die, range(4)))


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
