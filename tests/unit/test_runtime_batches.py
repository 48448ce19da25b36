"""Batches that are read ahead and shared out by turns, and arrays that are in a file when they are large."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.live import LiveImages
from tests.ranks import run_two
from vqpipe.errors import SetupError
from vqpipe.runtime import batches, preflight
from vqpipe.runtime.batches import AHEAD, in_turns, large_array, read_ahead, slices


def test_slices_cover_all_items_in_order() -> None:
    assert slices(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert slices(6, 3) == [slice(0, 3), slice(3, 6)]
    assert slices(0, 3) == []


def test_reading_ahead_keeps_the_order_and_few_batches() -> None:
    live = LiveImages()

    def read(number: int) -> torch.Tensor:
        return live.count(torch.full((4, 1), number))

    seen = [int(batch[0]) for batch in read_ahead(read, range(50))]
    assert seen == list(range(50))
    assert live.total == 200
    assert live.peak <= 4 * (AHEAD + 2), "those ahead, the one that is worked on and the one before it"
    assert live.now == 0


def test_the_next_batches_are_read_while_one_is_worked_on() -> None:
    read = [threading.Event() for _ in range(5)]

    def mark(number: int) -> int:
        read[number].set()
        return number

    for number in read_ahead(mark, range(5)):
        assert all(read[at].wait(60) for at in range(number, min(number + AHEAD, 4) + 1))


def test_requests_are_drawn_as_they_are_needed() -> None:
    drawn: list[int] = []

    def requests() -> Iterator[int]:
        for number in range(100):
            drawn.append(number)
            yield number

    reader = read_ahead(lambda number: number, requests())
    assert next(reader) == 0
    assert drawn == list(range(AHEAD + 1))
    reader.close()  # type: ignore[attr-defined]


def test_an_error_of_the_reader_reaches_the_caller_in_its_place() -> None:
    def read(number: int) -> int:
        if number == 2:
            raise ValueError("damaged")
        return number

    reader = read_ahead(read, range(5))
    assert [next(reader), next(reader)] == [0, 1]
    with pytest.raises(ValueError, match="damaged"):
        next(reader)


def test_one_rank_does_all_batches_in_order() -> None:
    assert list(in_turns([1, 2, 3], lambda item: 10 * item, lambda read: read + 1)) == [11, 21, 31]
    assert list(in_turns([], lambda item: item, lambda read: read)) == []


@pytest.mark.slow
def test_two_ranks_take_turns_and_the_first_gets_all(tmp_path: Path) -> None:
    program = """
from vqpipe.runtime.batches import in_turns
from vqpipe.runtime.distributed import from_main, gather_to_main
join()
for count in (0, 1, 5, 6):
    done = []
    def work(item):
        done.append(item)
        return item * item
    found = list(in_turns(range(count), lambda item: item, work))
    assert done == list(range(count))[rank::2], done
    assert found == ([item * item for item in range(count)] if rank == 0 else []), found
assert gather_to_main(rank) == ([0, 1] if rank == 0 else [])
assert from_main(lambda: f"made on {rank}") == "made on 0"
"""
    run_two(program, tmp_path)


def test_a_large_array_is_in_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    assert not isinstance(large_array((3, 4), np.float32, "rows"), np.memmap)
    assert not (tmp_path / "scratch").exists()
    monkeypatch.setattr(batches, "IN_MEMORY", 47)
    array = large_array((3, 4), np.float32, "rows")
    assert isinstance(array, np.memmap)
    assert (array.shape, array.dtype) == ((3, 4), np.float32)
    array[:] = np.arange(12).reshape(3, 4)
    assert torch.from_numpy(array).sum() == 66
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_large_array_needs_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path))
    monkeypatch.setattr(batches, "IN_MEMORY", 0)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(SetupError, match="the rows"):
        large_array((3, 4), np.float32, "the rows")
