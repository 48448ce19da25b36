"""The peak of a part of a process is that part's, and is not guessed where the system does not tell it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vqpipe.runtime import memory
from vqpipe.runtime.memory import PeakMemory

CPU = torch.device("cpu")
MIB = 1 << 20


def hold(mebibytes: int) -> float:
    return float(np.ones(mebibytes * MIB // 8).sum())


@pytest.mark.skipif(sys.platform != "linux", reason="the mark of a process is set back on Linux alone")
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
