"""Deterministic algorithms: the same bytes from the same inputs on the same kind of machine, or an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vqpipe.errors import SetupError

WORKSPACE = ":4096:8"
"""What cuBLAS needs to be told before its sums have one order (8 buffers of 4 MiB per stream)."""

REFUSALS = ("does not have a deterministic implementation", "not deterministic because it uses CuBLAS")
"""What torch says of an operation without a deterministic form, and of a workspace that the user set otherwise."""


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
