"""Peak memory of one part of a process, apart from what the process used before."""

from __future__ import annotations

import ctypes
import gc
import re
import resource
import sys
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Measures from its construction to `read`: allocations on a GPU, otherwise the process's resident memory.

    The peak that the system reports is that of the whole process, with libraries, weights and all earlier work. Linux
    lets a process reset its peak to its current memory, which is done here; elsewhere the peak of the part alone is not
    known and is None. Garbage is collected and free memory returned to the system first, since memory that the part
    frees or uses again would hide as much of its own.

    Args:
        device: where the part's tensors live.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        _let_go()
        self._before = _peak(device)
        """The process's peak up to now, which the reset would lose."""
        self._held = _set_back(device)

    def read(self) -> tuple[int, int | None]:
        """Bytes: the process's peak so far, and how far the part's peak is above the memory at its start, or None."""
        own = None
        if self._held is not None:
            cuda = self._device.type == "cuda"
            now = torch.cuda.max_memory_allocated(self._device) if cuda else _status("VmHWM")
            own = max(0, now - self._held)
        return max(self._before, _peak(self._device)), own


def _let_go() -> None:
    """Free what nothing refers to; glibc keeps freed memory resident for later use until `malloc_trim`."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _peak(device: torch.device) -> int:
    """Bytes: of the GPU's allocations, or the largest resident set of this process so far."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _set_back(device: torch.device) -> int | None:
    """Reset the peak and return the memory in use now, in bytes; None where the system cannot reset it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    try:
        CLEAR.write_text("5", encoding="ascii")
        return _status("VmRSS")
    except OSError:
        return None


def _status(name: str) -> int:
    """Bytes of an entry of this process's status; a kernel without the entry has no such file either."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None, f"{STATUS} has no {name}"
    return int(found.group(1)) * 1024
