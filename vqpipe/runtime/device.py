"""The device that tensors live on and the precision that training runs at."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from vqpipe.errors import SetupError
from vqpipe.runtime.distributed import local_rank

Precision = Literal["fp32", "bf16", "fp16"]


def device() -> torch.device:
    """The device named by `VQPIPE_DEVICE`, or CUDA where there is one, or the CPU.

    Raises:
        SetupError: the variable names no device, or one that is not there.
    """
    name = os.environ.get("VQPIPE_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        if chosen.type == "cuda":
            if chosen.index is None:
                chosen = torch.device("cuda", local_rank())
            torch.cuda.get_device_properties(chosen)
        else:
            torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise SetupError(
            "VQPIPE_DEVICE names no device of this machine",
            found=f"{name} ({str(error).splitlines()[0]})",
            choices=["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))],
        ) from error
    return chosen


def autocast(where: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The autocast context of a precision; `fp32` is none."""
    if precision == "fp32":
        return nullcontext()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(where.type, dtype=dtype)
