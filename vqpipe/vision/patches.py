"""The PATCHES artifact: images go through an image tower in batches, features become shards, and these are published.

A batch is a run of positions of the split inside one shard, for any number of workers, threads and ranks. On a CPU each
of torch's threads takes whole batches, with one thread for each: that is faster than many threads on each small
product, and the sums inside are the same for any number of threads. All ranks write shards into a scratch folder, where
a run that was killed finds them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, Protocol, Self

import torch
from jaxtyping import Float, Float16, Float64, UInt8
from pydantic import Field, model_validator
from torch import Tensor

from vqpipe.artifacts.checkpoints import is_intact
from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.publish import file_digest, publish_folder, publish_sealed, remove_leftovers
from vqpipe.artifacts.seal import need_equal, read_sealed_json
from vqpipe.artifacts.specs.patches import PATCH_IMAGES, PATCH_SHARD, PATCHES
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.artifacts.tensors import write_tensors
from vqpipe.errors import ArtifactError, DataError
from vqpipe.params.base import Params
from vqpipe.runtime.distributed import all_reduce_sum, barrier, is_main, rank, world_size
from vqpipe.runtime.env import workers
from vqpipe.runtime.preflight import need_disk
from vqpipe.runtime.signals import close_pool
from vqpipe.runtime.terminal import progress_bar
from vqpipe.vision.clip import Clip
from vqpipe.vision.efficientnet import EfficientNetLite0, EfficientNetLite0Params
from vqpipe.vision.features import FP16_BYTES, Shard, check_grid, plan_shards, pool, total_variance
from vqpipe.vision.vectors import map_threads

FP16_MAX = 65504.0


Tower = Clip | EfficientNetLite0


class ClipTower(Params):
    """The run's CLIP."""

    kind: Literal["clip"] = "clip"
    """The tower."""


TowerParams = Annotated[ClipTower | EfficientNetLite0Params, Field(discriminator="kind")]


class PatchesParams(Params):
    """The `patches` section."""

    tower: TowerParams = ClipTower()
    """The network that features come from: the CLIP of the run, or one trained on ImageNet's labels. A codebook of
    another tower than the run's CLIP is foreign to a variant whose losses use CLIP (`foreign_codebook`)."""

    split: Literal["train", "validation", "test"]
    """The split whose images are used; a codebook should see `train` alone."""
    projected: bool
    """Apply CLIP's visual projection after the last norm, as VQGAN-LC does; else keep the tower's width. False for
    other towers, which have none."""
    grid: Annotated[int, Field(ge=1)]
    """Side of the grid that features are average-pooled to before writing; divides the tower's own grid."""
    batch_size: Annotated[int, Field(ge=1)]
    """Images per forward pass."""
    shard_bytes: Annotated[int, Field(ge=1 << 10)]
    """Size of a shard of features, in bytes; a shard has whole images."""

    @model_validator(mode="after")
    def _fits_the_tower(self) -> Self:
        tower = self.tower
        if isinstance(tower, ClipTower):
            return self
        if self.projected:
            raise ValueError(f"tower {tower.kind} has no projection; set projected: false")
        if tower.grid % self.grid:
            raise ValueError(
                f"grid {self.grid} does not divide the tower's {tower.grid} x {tower.grid} features "
                f"(image_size {tower.image_size}, stride {tower.stride})"
            )
        return self


class PatchesMetrics(Metrics):
    """What the `patches` stage measures of the features that it writes."""

    num_images: int
    """Images whose features were written."""
    num_vectors: int
    """Features, one for each place of the grid of each image."""
    num_shards: int
    """Files of features."""
    dim: int
    """Dimensions of a feature."""
    grid: int
    """Side of the grid that features were pooled to."""
    variance_per_dim: float
    """Variance of the features, averaged over dimensions: what k-means can explain at most."""
    mean_square_per_dim: float
    """Mean square of the features, averaged over dimensions."""


ImageBatch = tuple[list[str], UInt8[Tensor, "b 3 s s"]]
"""The ids of the images at some positions of a split, and their RGB pixels."""


class ImageSource(Protocol):
    """A split that is read in order: `vqpipe.data.stream.ImageStream`, which this layer does not import."""

    def __len__(self) -> int: ...

    def read(self, spans: Iterable[range]) -> Generator[ImageBatch, None, None]: ...


def load_tower(params: PatchesParams, clip: Path, device: torch.device) -> Tower:
    """The tower that the params name; `clip` is the CLIP artifact, which only the tower `clip` reads.

    Raises:
        ArtifactError, SetupError: as `Clip.load` and `EfficientNetLite0.load`.
    """
    if isinstance(params.tower, ClipTower):
        return Clip.load(clip, device)
    return EfficientNetLite0.load(params.tower, device)


def write_patches(
    tower: Tower,
    images: ImageSource,
    params: PatchesParams,
    out: Path,
    scratch: Path,
    device: torch.device,
) -> PatchesMetrics | None:
    """Publish the PATCHES artifact of a split and return the stage's metrics (None on ranks other than 0).

    Under torchrun all ranks call this with one scratch folder on a file system that they share: of the shards that
    are not there yet rank r makes the r-th, the (r + W)-th, ..., and rank 0 publishes. The bytes are the same for
    any number of ranks, threads and workers, and after any number of kills. A shard that is damaged is made again.

    Args:
        tower: the CLIP, or another tower.
        images: the split, as squares of the tower's size.
        params: see `PatchesParams`.
        out: where the artifact is published.
        scratch: folder that finished shards stay in until the artifact is published; its name must differ for
            other params, inputs and code.
        device: where the tower runs.

    Raises:
        DataError: no images, or features that are not finite.
        MismatchError: a grid that does not divide the tower's.
        SetupError: too little disk space.
        ArtifactError, SetupError: as the images' `read`.
    """
    if not len(images):
        raise DataError(
            f"the split {params.split} has no images", expected="1 or more", run="dvc repro dataset"
        )
    check_grid(tower.patch_grid, params.grid)
    per_image = params.grid**2 * feature_dim(tower, params) * FP16_BYTES
    shards = plan_shards(len(images), per_image, params.shard_bytes)
    _write_missing(tower, images, params, shards, per_image, out, scratch, device)
    return _publish(tower, params, shards, out, scratch) if is_main() else None


def _write_missing(
    tower: Tower,
    images: ImageSource,
    params: PatchesParams,
    shards: list[Shard],
    per_image: int,
    out: Path,
    scratch: Path,
    device: torch.device,
) -> None:
    """Write this rank's share of the shards that are missing or damaged."""
    missing = torch.zeros(len(shards), dtype=torch.long, device=device)
    if is_main():
        remove_leftovers(scratch)
        missing += torch.tensor(_missing(scratch, shards), device=device)
    missing = all_reduce_sum(missing)  # as rank 0 sees it
    left = [shard for shard, is_missing in zip(shards, missing.tolist(), strict=True) if is_missing]
    if is_main():
        need_disk(scratch, per_image * sum(s.stop - s.start for s in left), "the patch features")
        if not _on_one_disk(scratch, out.parent):
            need_disk(out.parent, per_image * len(images), "the patch features")
    own = left[rank() :: world_size()]
    with (
        progress_bar("patches", sum(s.stop - s.start for s in own)) as bar,
        closing(write_shards(tower, images, params, own, scratch, device)) as done,
    ):
        for shard in done:
            bar.advance(shard.stop - shard.start)
    barrier()


def _missing(scratch: Path, shards: list[Shard]) -> list[bool]:
    """Which shards are to be made; one that was made and is damaged is named on stderr."""

    def is_missing(shard: Shard) -> bool:
        if not (scratch / shard.name).is_file() and not shard_record_path(scratch, shard).is_file():
            return True
        return not is_intact(lambda: check_shard(scratch, shard), f"{shard.name} is made again")

    pool = ThreadPoolExecutor(workers())
    try:
        return list(pool.map(is_missing, shards))
    finally:
        close_pool(pool)


def _on_one_disk(scratch: Path, folder: Path) -> bool:
    while not folder.exists():
        folder = folder.absolute().parent
    return scratch.stat().st_dev == folder.stat().st_dev


def _publish(
    tower: Tower, params: PatchesParams, shards: list[Shard], out: Path, scratch: Path
) -> PatchesMetrics:
    records = [read_shard_record(scratch, shard) for shard in shards]
    ids = [name for record in records for name in record.ids]
    num_vectors = len(ids) * params.grid**2
    facts = {
        "clip_id": tower.id, "dim": feature_dim(tower, params), "grid": params.grid, "projected": params.projected,
        "split": params.split, "num_images": len(ids), "num_vectors": num_vectors, "num_shards": len(shards),
    }  # fmt: skip
    with publish_folder(out, PATCHES, facts) as partial:
        rows = {"image": list(range(len(ids))), "image_id": ids}
        write_table(partial / "images.parquet", PATCH_IMAGES, to_table(PATCH_IMAGES, rows))
        for shard in shards:
            _link_or_copy(scratch / shard.name, partial / shard.name)
    sums, squares = (
        torch.tensor([getattr(record, name) for record in records], dtype=torch.float64).sum(dim=0)
        for name in ("sums", "squares")
    )
    variance, mean_square = total_variance(sums, squares, num_vectors)
    return PatchesMetrics(
        num_images=len(ids),
        num_vectors=num_vectors,
        num_shards=len(shards),
        dim=feature_dim(tower, params),
        grid=params.grid,
        variance_per_dim=variance,
        mean_square_per_dim=mean_square,
    )


def _link_or_copy(source: Path, target: Path) -> None:
    """The same file under a second name, so that a run killed here loses no shard; a copy on another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@dataclass
class ShardRecord:
    """What is known of a finished shard in addition to its features; a JSON file next to it until all are published."""

    ids: list[str] = field(default_factory=list)
    """Of its images, in order."""
    sums: list[float] = field(default_factory=list)
    """Of the values as they are written, per dimension."""
    squares: list[float] = field(default_factory=list)
    """Of their squares, per dimension."""
    sha256: str = ""
    """Of the shard."""


@dataclass(frozen=True)
class _BatchFeatures:
    """One batch after the tower: the values as they are written, and their float64 sums."""

    ids: list[str]
    features: Float16[Tensor, "v d"]
    sums: Float64[Tensor, "2 d"]


def shard_record_path(folder: Path, shard: Shard) -> Path:
    """The record of a shard; it is written after the shard, with a checksum of both."""
    return folder / f"patches-{shard.number:05d}.json"


def write_shards(
    tower: Tower,
    images: ImageSource,
    params: PatchesParams,
    shards: Sequence[Shard],
    folder: Path,
    device: torch.device,
) -> Generator[Shard, None, None]:
    """Write each shard and its record into `folder`, both atomically, and yield it.

    Raises:
        DataError: features that are not finite, or too large for fp16.
        ArtifactError, SetupError: as the images' `read`.
    """
    spans = [(shard, span) for shard in shards for span in shard.batches(params.batch_size)]
    work = partial(_forward, tower, params, device)
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    places, dim = params.grid**2, feature_dim(tower, params)
    with (
        closing(images.read(span for _, span in spans)) as decoded,
        closing(map_threads(work, decoded, threads)) as batches,
    ):
        for (shard, span), done in zip(spans, batches, strict=True):
            if span.start == shard.start:
                record, sums = ShardRecord(), torch.zeros(2, dim, dtype=torch.float64)
                features = torch.empty((shard.stop - shard.start) * places, dim, dtype=torch.float16)
            filled = len(record.ids) * places
            features[filled : filled + len(done.features)] = done.features
            sums += done.sums
            record.ids += done.ids
            if span.stop == shard.stop:
                record.sums, record.squares = sums.tolist()
                tensors = _tensors(features, shard, places)
                write_tensors(folder / shard.name, PATCH_SHARD, tensors, {"clip_id": tower.id})
                record.sha256 = file_digest(folder / shard.name)
                publish_sealed(shard_record_path(folder, shard), vars(record))
                yield shard


def feature_dim(tower: Tower, params: PatchesParams) -> int:
    """Dimensions of a feature."""
    return tower.embed_dim if params.projected and isinstance(tower, Clip) else tower.patch_dim


def _tensors(features: Float16[Tensor, "v d"], shard: Shard, places: int) -> dict[str, Tensor]:
    images = torch.arange(shard.start, shard.stop, dtype=torch.int32)
    return {
        "features": features,
        "image": images.repeat_interleave(places),
        "position": torch.arange(places, dtype=torch.int32).repeat(len(images)),
    }


@torch.inference_mode()
def _forward(tower: Tower, params: PatchesParams, device: torch.device, batch: ImageBatch) -> _BatchFeatures:
    ids, pixels = batch
    images = pixels.to(device).float() / 127.5 - 1
    if isinstance(tower, Clip):
        features = tower.patch_features(images, params.projected)
    else:
        features = tower.patch_features(images)
    features = pool(features, params.grid).float().cpu()
    _check_finite(features, ids, params.tower.kind)
    written = features.half().flatten(0, 1)
    values = written.double()
    return _BatchFeatures(ids, written, torch.stack([values.sum(dim=0), values.square().sum(dim=0)]))


def _check_finite(features: Float[Tensor, "b n d"], ids: Sequence[str], kind: str) -> None:
    bad = ~(features.abs() <= FP16_MAX).all(dim=2).all(dim=1)
    if bad.any():
        raise DataError(
            f"the tower {kind} gives patch features that are not finite, or too large for fp16",
            found=f"{int(bad.sum())} of {len(ids)} images in a batch, first {ids[int(bad.int().argmax())]}",
            expected=f"values up to {FP16_MAX:.0f}",
            run="dvc repro clip" if kind == "clip" else None,
        )


def read_shard_record(folder: Path, shard: Shard) -> ShardRecord:
    """The record of a finished shard.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    path, run = shard_record_path(folder, shard), "dvc repro patches"
    if not path.is_file():
        raise ArtifactError(f"{path} is missing", run=run)
    content = read_sealed_json(path, run)
    return ShardRecord(
        ids=[str(name) for name in content["ids"]],
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
    record = read_shard_record(folder, shard)
    if not path.is_file():
        raise ArtifactError(f"{path} is missing", run="dvc repro patches")
    need_equal(path, file_digest(path), record.sha256, "dvc repro patches")
