"""How long a tokenizer takes to encode and to decode a batch of images, and how much memory that needs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from vqpipe.artifacts.metrics import Metrics
from vqpipe.errors import DataError, ParamsError
from vqpipe.evaluation.reconstructions import TokenizerLike
from vqpipe.runtime.memory import PeakMemory


class SpeedMetrics(Metrics):
    """Time and memory of a tokenizer on one device; never the same twice.

    Images are on the device before the clock starts: reading, resizing and copying are not part of it. The tokenizer's
    checks of its input are.
    """

    device: str
    """`cpu`, or the name of the GPU."""
    dtype: str
    """Of the images that were encoded, such as `float32`."""
    threads: int
    """Threads of torch on the CPU."""
    batch_size: int
    """Images that are encoded and decoded at once."""
    resolution: int
    """Side of an image in pixels."""
    repeats: int
    """Passes over the batch after two that are not counted; each time below is the median over them."""
    encode_seconds: float
    """Seconds on the clock per image, pixels to indices."""
    decode_seconds: float
    """Seconds on the clock per image, indices to pixels."""
    encode_cpu_seconds: float | None = None
    """Processor seconds of all threads per image, which other work on the machine changes less; None on a GPU."""
    decode_cpu_seconds: float | None = None
    """The same of decoding."""
    peak_memory_bytes: int | None = None
    """The most memory in use at once during one encoding and one decoding of the batch, in addition to what was in use
    before (weights, the batch): allocations on a GPU, otherwise resident memory. None where the system does not report
    it."""


def measure_speed(tokenizer: TokenizerLike, images: Float[Tensor, "b 3 H W"], repeats: int) -> SpeedMetrics:
    """Encode and decode one batch `repeats` times, after two passes that are not counted.

    In the first of these, libraries choose their kernels; memory is measured in the second.

    It resets the process's peak of memory, so a `PeakMemory` of the caller must be read before.

    Args:
        tokenizer: in eval mode, on the images' device.
        images: in [-1, 1], on the device.
        repeats: passes that are timed, 1 or more.

    Raises:
        DataError: no images.
        ParamsError: less than one repeat.
    """
    if repeats < 1:
        raise ParamsError(
            "speed needs at least one timed pass", found=f"repeats {repeats}", expected="1 or more"
        )
    if len(images) == 0:
        raise DataError("speed is measured on at least one image", found="an empty batch")
    where = images.device
    with torch.no_grad():
        tokenizer.decode(
            tokenizer.encode(images)
        )  # libraries load and choose their kernels in the first pass
        _wait(where)
        memory = PeakMemory(where)
        tokenizer.decode(tokenizer.encode(images))
        _wait(where)
        _, peak = memory.read()
        indices = tokenizer.encode(images)
        encode = [_timed(lambda: tokenizer.encode(images), where) for _ in range(repeats)]
        decode = [_timed(lambda: tokenizer.decode(indices), where) for _ in range(repeats)]
    (encode_seconds, encode_cpu), (decode_seconds, decode_cpu) = (
        [statistics.median(column) / len(images) for column in zip(*passes, strict=True)]
        for passes in (encode, decode)
    )
    cuda = where.type == "cuda"
    return SpeedMetrics(
        device=torch.cuda.get_device_name(where) if cuda else where.type,
        dtype=str(images.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        batch_size=len(images),
        resolution=int(images.shape[-1]),
        repeats=repeats,
        encode_seconds=encode_seconds,
        decode_seconds=decode_seconds,
        encode_cpu_seconds=None if cuda else encode_cpu,
        decode_cpu_seconds=None if cuda else decode_cpu,
        peak_memory_bytes=peak,
    )


def _timed(call: Callable[[], Tensor], where: torch.device) -> tuple[float, float]:
    """Seconds on the clock and of the processor that a call takes until its result is there."""
    _wait(where)
    begun, cpu_begun = time.perf_counter(), time.process_time()
    call()
    _wait(where)
    return time.perf_counter() - begun, time.process_time() - cpu_begun


def _wait(where: torch.device) -> None:
    """A GPU works on while the host continues."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)
