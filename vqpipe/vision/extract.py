"""From images to shards of patch features: batches go through CLIP while the next ones are decoded.

A batch is a run of positions of the split inside one shard, whatever the number of workers, threads and ranks; an
image that cannot be read leaves it. On a CPU each of torch's threads takes whole batches, with one thread for each:
that is faster than many threads on each small product, and the sums inside are the same for any number of threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from jaxtyping import Float, Float16, Float64, UInt8
from torch import Tensor

from vqpipe.artifacts.publish import file_digest, publish_sealed
from vqpipe.artifacts.seal import need_equal, read_sealed_json
from vqpipe.artifacts.specs.patches import PATCH_SHARD
from vqpipe.artifacts.tensors import write_tensors
from vqpipe.codebooks.search import full_precision
from vqpipe.errors import ArtifactError, DataError
from vqpipe.params.patches import PatchesParams
from vqpipe.runtime.signals import close_pool
from vqpipe.vision.clip import Clip
from vqpipe.vision.features import Shard, pool

FP16_MAX = 65504.0

T = TypeVar("T")
R = TypeVar("R")


class Batch(Protocol):
    """The images at some positions: ids of all, pixels of those that could be read, and the others' reasons."""

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def pixels(self) -> UInt8[Tensor, "m 3 s s"]: ...

    @property
    def bad(self) -> Sequence[tuple[int, str, str]]: ...


class Images(Protocol):
    """A split that is read in order; `vqpipe.data.stream.ImageStream` is one."""

    def __len__(self) -> int: ...

    def read(self, spans: Iterable[range]) -> Generator[Batch, None, None]: ...


@dataclass
class Record:
    """What is known of a finished shard, besides its features; kept next to it as JSON until all are published."""

    kept: list[tuple[int, str]] = field(default_factory=list)
    """Position in the split and id of each image whose features are there."""
    skipped: list[tuple[int, str, str, str]] = field(default_factory=list)
    """Position, id, reason and detail of each image that could not be read."""
    sums: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)
    """Per dimension, of the values as they are written."""
    sha256: str = ""
    """Of the shard."""


@dataclass(frozen=True)
class _Done:
    """One batch after CLIP: the values as they are written, and their float64 sums."""

    batch: Batch
    features: Float16[Tensor, "v d"]
    sums: Float64[Tensor, "2 d"]


def record_path(folder: Path, shard: Shard) -> Path:
    """The record of a shard; it is written after the shard, with a checksum of both."""
    return folder / f"patches-{shard.number:05d}.json"


def extract_shards(
    clip: Clip,
    images: Images,
    params: PatchesParams,
    shards: Sequence[Shard],
    folder: Path,
    device: torch.device,
) -> Generator[tuple[Shard, Record], None, None]:
    """Write each shard and its record into `folder`, both atomically, and yield it.

    Raises:
        DataError: features that are not finite, or too large for fp16.
        ArtifactError, SetupError: as the images' `read`.
    """
    spans = [(shard, span) for shard in shards for span in shard.batches(params.batch_size)]
    work = partial(_forward, clip, params, device)
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    places, dim = params.grid**2, clip_dim(clip, params)
    with (
        closing(images.read(span for _, span in spans)) as decoded,
        closing(_map_threads(work, decoded, threads)) as batches,
    ):
        for (shard, span), done in zip(spans, batches, strict=True):
            if span.start == shard.start:
                record, sums = Record(), torch.zeros(2, dim, dtype=torch.float64)
                features = torch.empty((shard.stop - shard.start) * places, dim, dtype=torch.float16)
            filled = len(record.kept) * places
            features[filled : filled + len(done.features)] = done.features
            sums += done.sums
            _note(record, span, done.batch)
            if span.stop == shard.stop:
                record.sums, record.squares = sums.tolist()
                tensors = _tensors(features, [at for at, _ in record.kept], places)
                write_tensors(folder / shard.name, PATCH_SHARD, tensors, {"clip_id": clip.id})
                record.sha256 = file_digest(folder / shard.name)
                publish_sealed(record_path(folder, shard), vars(record))
                yield shard, record


def clip_dim(clip: Clip, params: PatchesParams) -> int:
    """Dimensions of a feature."""
    return clip.embed_dim if params.projected else clip.patch_dim


def _note(record: Record, span: range, batch: Batch) -> None:
    reasons = {at: (reason, detail) for at, reason, detail in batch.bad}
    for at, (position, name) in enumerate(zip(span, batch.ids, strict=True)):
        if at in reasons:
            record.skipped.append((position, name, *reasons[at]))
        else:
            record.kept.append((position, name))


def _tensors(features: Float16[Tensor, "v d"], images: list[int], places: int) -> dict[str, Tensor]:
    return {
        "features": features[: len(images) * places],
        "image": torch.tensor(images, dtype=torch.int32).repeat_interleave(places),
        "position": torch.arange(places, dtype=torch.int32).repeat(len(images)),
    }


@torch.inference_mode()
def _forward(clip: Clip, params: PatchesParams, device: torch.device, batch: Batch) -> _Done:
    dim = clip_dim(clip, params)
    if not len(batch.pixels):
        empty = torch.zeros(0, dim, dtype=torch.float16)
        return _Done(batch, empty, torch.zeros(2, dim, dtype=torch.float64))
    images = batch.pixels.to(device).float() / 127.5 - 1
    features = pool(clip.patch_features(images, params.projected), params.grid).float().cpu()
    bad = {at for at, _, _ in batch.bad}
    _check(features, [name for at, name in enumerate(batch.ids) if at not in bad])
    written = features.half().flatten(0, 1)
    values = written.double()
    return _Done(batch, written, torch.stack([values.sum(dim=0), values.square().sum(dim=0)]))


def _check(features: Float[Tensor, "b n d"], ids: Sequence[str]) -> None:
    bad = ~(features.abs() <= FP16_MAX).all(dim=2).all(dim=1)
    if bad.any():
        raise DataError(
            "CLIP gives patch features that are not finite, or too large for fp16",
            found=f"{int(bad.sum())} of {len(ids)} images in a batch, first {ids[int(bad.int().argmax())]}",
            expected=f"values up to {FP16_MAX:.0f}",
            run="dvc repro clip",
        )


def _map_threads(work: Callable[[T], R], items: Iterable[T], threads: int) -> Generator[R, None, None]:
    """`work` of each item, in order, on some threads that torch gives one core each; few items wait at a time."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[R]] = deque()
    torch.set_num_threads(1)
    try:
        with full_precision():
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        close_pool(pool)
        torch.set_num_threads(before)


def read_record(folder: Path, shard: Shard) -> Record:
    """The record of a finished shard.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    path, run = record_path(folder, shard), "dvc repro patches"
    if not path.is_file():
        raise ArtifactError(f"{path} is missing", run=run)
    content = read_sealed_json(path, run)
    return Record(
        kept=[(int(at), str(name)) for at, name in content["kept"]],
        skipped=[(int(at), str(name), str(why), str(seen)) for at, name, why, seen in content["skipped"]],
        sums=content["sums"],
        squares=content["squares"],
        sha256=content["sha256"],
    )


def check_shard(folder: Path, shard: Shard) -> None:
    """Compare a finished shard and its record with their checksums.

    Raises:
        ArtifactError: one of the two is missing or damaged.
    """
    path = folder / shard.name
    record = read_record(folder, shard)
    if not path.is_file():
        raise ArtifactError(f"{path} is missing", run="dvc repro patches")
    need_equal(path, file_digest(path), record.sha256, "dvc repro patches")
