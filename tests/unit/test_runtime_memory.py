"""The peak of a part of a process is that part's, and is not guessed where the system does not tell it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from vqpipe.runtime import memory
from vqpipe.runtime.memory import PeakMemory

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
MIB = 1 << 20


def hold(mebibytes: int) -> float:
    return float(np.ones(mebibytes * MIB // 8).sum())


class Cycle:
    """Garbage once its name is gone: only the collector frees what it holds."""

    def __init__(self, mebibytes: int) -> None:
        self.itself, self.data = self, np.ones(mebibytes * MIB // 8)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """The collector runs when a test tells it to, not when other tests' garbage happens to call it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the mark of a process is set back on Linux alone")


@LINUX
@pytest.mark.usefixtures("no_collector")
def test_garbage_of_before_that_is_freed_within_the_part_hides_nothing() -> None:
    Cycle(128)
    watch = PeakMemory(CPU)
    gc.collect()
    hold(64)
    own = watch.read()[1]
    assert own is not None
    assert 60 * MIB < own < 128 * MIB


@LINUX
@pytest.mark.usefixtures("no_collector")
def test_memory_that_is_free_and_used_again_counts_for_the_part() -> None:
    freed = [np.ones(2048) for _ in range(4096)]  # 64 MiB in pieces that the allocator keeps
    del freed
    watch = PeakMemory(CPU)
    kept = [np.ones(2048) for _ in range(4096)]
    own = watch.read()[1]
    assert len(kept) == 4096
    assert own is not None
    assert (
        32 * MIB < own < 128 * MIB
    )  # holes in pages with other tests' objects stay resident; all of it, without a trim


@LINUX
@pytest.mark.usefixtures("no_collector")
def test_what_was_held_before_and_freed_is_not_counted() -> None:
    hold(192)
    watch = PeakMemory(CPU)
    hold(64)
    peak, own = watch.read()
    assert own is not None
    assert 60 * MIB < own < 128 * MIB
    assert peak > 192 * MIB
    again = PeakMemory(CPU).read()[1]
    assert again is not None
    assert again < 32 * MIB


def test_where_the_mark_cannot_be_set_back_the_part_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "no folder/clear_refs")
    watch = PeakMemory(CPU)
    hold(16)
    peak, own = watch.read()
    assert own is None
    assert peak > 16 * MIB
