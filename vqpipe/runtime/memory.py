"""Peak memory of a part of a process, apart from what the process held before."""

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
    """Watches from its making to `read`, on a GPU its allocations and else the process's resident memory.

    The largest resident memory that the system tells is that of the whole process: libraries, weights that were read,
    whatever came before. Linux lets a process set its mark back to what it holds now, which is done here; elsewhere the
    part alone is not known and is told as None, not guessed. Garbage of before is collected first, and free memory is
    handed back to the system: freed or used again in the part, it would hide as much of the part's own.

    Args:
        device: where the part's tensors live.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        _let_go()
        self._before = _peak(device)
        """The process's peak up to now, which setting the mark back would lose."""
        self._held = _set_back(device)

    def read(self) -> tuple[int, int | None]:
        """Bytes: the process's peak so far, and the peak since the watch began over what was held then, or None."""
        own = None
        if self._held is not None:
            cuda = self._device.type == "cuda"
            now = torch.cuda.max_memory_allocated(self._device) if cuda else _status("VmHWM")
            own = max(0, now - self._held)
        return max(self._before, _peak(self._device)), own


def _let_go() -> None:
    """Free what nothing refers to; glibc keeps freed memory resident for later use until it is told to trim."""
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
    """Set the mark back and return what is held now, in bytes; None where the system has no such mark."""
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
