"""Speed is a median per image over timed passes; memory is that of the passes alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny import write_tokenizer
from vqpipe.errors import DataError, ParamsError
from vqpipe.evaluation import speed
from vqpipe.evaluation.speed import measure_speed
from vqpipe.tokenizers.tokenizer import Tokenizer

MIB = 1 << 20


class Clock:
    """Shows the sum of the seconds that were spent so far."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Scripted:
    """A tokenizer whose calls take as long as a list says, and some memory in each encoding."""

    num_codes, grid, resolution = (4,), (2, 2), 8

    def __init__(self, clock: Clock, encode: list[float], decode: list[float], mebibytes: int = 0) -> None:
        self.clock, self.times, self.mebibytes = clock, {"encode": encode, "decode": decode}, mebibytes

    def spend(self, what: str) -> None:
        self.clock.now += self.times[what].pop(0)

    def encode(self, images: Tensor) -> Tensor:
        self.spend("encode")
        room = np.ones(self.mebibytes * MIB // 8)
        return torch.full((len(images), 1, 2, 2), int(room.sum() < 0))

    def decode(self, indices: Tensor) -> Tensor:
        self.spend("decode")
        return torch.zeros(len(indices), 3, 8, 8)

    def codebooks(self) -> list[object]:
        return []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()
    monkeypatch.setattr(speed.time, "perf_counter", own)
    monkeypatch.setattr(speed.time, "process_time", lambda: own.now / 2)
    return own


def test_the_median_per_image_without_the_passes_before(clock: Clock) -> None:
    # Two passes that are not timed, the indices for decoding, then three timed ones with an outlier.
    model = Scripted(clock, [100.0, 90.0, 80.0, 8.0, 80.0, 4.0], [70.0, 60.0, 2.0, 1.0, 30.0])
    found = measure_speed(model, torch.zeros(4, 3, 8, 8), 3)  # type: ignore[arg-type]
    assert (found.encode_seconds, found.decode_seconds) == (2.0, 0.5)
    assert (found.encode_cpu_seconds, found.decode_cpu_seconds) == (1.0, 0.25)
    assert (found.batch_size, found.repeats, found.resolution, found.device) == (4, 3, 8, "cpu")
    assert model.times == {"encode": [], "decode": []}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not report the peak of a part")
def test_memory_is_what_a_pass_adds(clock: Clock) -> None:
    found = [
        measure_speed(Scripted(clock, [0.0] * 4, [0.0] * 3, size), torch.zeros(1, 3, 8, 8), 1)  # type: ignore[arg-type]
        for size in (0, 64)
    ]
    small, large = (one.peak_memory_bytes for one in found)
    assert small is not None
    assert large is not None
    assert small < 32 * MIB
    assert 60 * MIB < large < 96 * MIB


def test_a_real_tokenizer(tmp_path: Path) -> None:
    model = Tokenizer.from_pretrained(write_tokenizer(tmp_path / "t"))
    found = measure_speed(model, torch.zeros(2, 3, 16, 16), 2)
    assert found.encode_seconds > 0
    assert found.decode_seconds > 0
    assert found.dtype == "float32"
    assert found.threads == torch.get_num_threads()


def test_refusals(clock: Clock) -> None:
    model = Scripted(clock, [], [])
    with pytest.raises(ParamsError, match="repeats 0"):
        measure_speed(model, torch.zeros(1, 3, 8, 8), 0)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least one image"):
        measure_speed(model, torch.zeros(0, 3, 8, 8), 1)  # type: ignore[arg-type]
