"""The device that tensors are on, the precision of training, and deterministic algorithms."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

from vqpipe.errors import SetupError
from vqpipe.runtime.distributed import local_rank

Precision = Literal["fp32", "tf32", "bf16", "fp16"]


def device() -> torch.device:
    """The device named by `VQPIPE_DEVICE`, or CUDA where there is one, or the CPU.

    Raises:
        SetupError: the variable is not a device, or not one of this machine.
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
            "VQPIPE_DEVICE is not a device of this machine",
            found=f"{name} ({str(error).splitlines()[0]})",
            choices=["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))],
        ) from error
    return chosen


def autocast(where: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The autocast context of a precision; `fp32` and `tf32` have none."""
    if precision in ("fp32", "tf32"):
        return nullcontext()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(where.type, dtype=dtype)


@contextmanager
def tf32_products(enabled: bool) -> Iterator[None]:
    """Let CUDA round the factors of float32 matrix products to TF32 (10 bits after the point) while this is open. Torch
    rounds those of convolutions in any case."""
    before = torch.get_float32_matmul_precision()
    if enabled:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


WORKSPACE = ":4096:8"
"""The workspace with which cuBLAS adds in a fixed order (8 buffers of 4 MiB per stream)."""

REFUSALS = ("does not have a deterministic implementation", "not deterministic because it uses CuBLAS")
"""Parts of torch's messages on an operation without a deterministic form, and on another workspace set by the user."""


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Let torch take deterministic kernels alone while this is open; what was set before comes back at the end.

    On the CPU every operation that the pipeline trains with is deterministic already, for a fixed number of
    threads. On CUDA this chooses deterministic kernels for convolutions, `index_add`, embeddings and cuBLAS products.
    These have none and raise: the backward pass of bilinear or bicubic `interpolate` (`perceptual.kind: clip` with a
    CLIP whose pictures are of another side than the tokenizer's), of adaptive pooling and of reflection or
    replication padding, `bincount` with weights, and `cumsum`. Sparse products (the graph of `vqct`) go
    through cuSPARSE, which torch neither checks nor makes deterministic.

    Raises:
        SetupError: an operation that has no deterministic form; the message is torch's and names it.
    """
    if not enabled:
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    benchmark, workspace = torch.backends.cudnn.benchmark, os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace or WORKSPACE
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if not any(text in str(error) for text in REFUSALS):
            raise
        raise SetupError(
            "training.deterministic is true, and an operation has no deterministic form here",
            found=str(error).split(",")[0],
            expected="deterministic: false, or params that do not need it",
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
        if workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
