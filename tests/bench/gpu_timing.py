"""How the GPU bench measures: times between device events, memory, launches, and the seconds allotted to a row."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Row = dict[str, Any]
LIMIT = 465.0
"""Seconds from the first row to the last: 8 minutes less 15 s in which Python and torch start."""


@dataclass(frozen=True)
class Case:
    """A row that is still to be measured.

    Attributes:
        name: its first cell.
        allotted: seconds that all of it may take on an H100, estimated from the calls that it makes.
        work: gives its figures.
        goal: what they should reach, as a further cell; empty without a goal.
    """

    name: str
    allotted: float
    work: Callable[[], Row]
    goal: Row


def measured(case: Case, left: float) -> Row:
    """The row of a case, or a row that says why there is none: fewer than its seconds are left."""
    if case.allotted > left:
        return {"case": case.name, "left out": f"{case.allotted:g} s allotted, {max(0, int(left))} s left"}
    begun = time.perf_counter()
    row = {"case": case.name, **case.work(), **case.goal}
    return row | {"took": time.perf_counter() - begun}


def seconds(work: Callable[[], object], budget: float = 0.3, most: int = 20) -> float:
    """Median time of a call after one warm-up, over at least 3 calls and about `budget` seconds."""
    work()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < budget and len(times) < most):
        times.append(timed(work))
    return statistics.median(times)


def timed(work: Callable[[], object]) -> float:
    if DEVICE.type != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record()
    work()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1e3


def extra_bytes(work: Callable[[], object]) -> int | None:
    """Peak device memory of a call beyond what is allocated before it; None on a CPU."""
    if DEVICE.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def launches(work: Callable[[], object]) -> Row:
    """Kernels launched, scalars read by Python (the optimiser's counters, which lie on the CPU, are among them) and
    synchronisations with the device in one call of what was called before; nothing on a CPU."""
    if DEVICE.type != "cuda":
        return {}
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        work()
    counts = {event.key: event.count for event in found.key_averages()}

    def total(*parts: str) -> int:
        return sum(count for name, count in counts.items() if any(part in name for part in parts))

    return {
        "kernels": total("cudaLaunchKernel", "cuLaunchKernel"),
        "scalar_reads": total("aten::_local_scalar_dense"),
        "synchronisations": total("cudaStreamSynchronize", "cudaDeviceSynchronize") - 1,
    }


class Precision:
    """TF32 products inside, or not."""

    def __init__(self, tf32: bool) -> None:
        self.name = "high" if tf32 else "highest"

    def __enter__(self) -> None:
        self.before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.name)

    def __exit__(self, *_: object) -> None:
        torch.set_float32_matmul_precision(self.before)


def guarded(name: str, work: Callable[[], Row]) -> Row:
    """A peer's figures, or why there are none: it does not fit, or cannot run here."""
    try:
        return work()
    except torch.cuda.OutOfMemoryError:
        return {name: "out of memory"}
    except Exception as error:
        return {name: f"{type(error).__name__}: {error}"[:160]}
    finally:
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
