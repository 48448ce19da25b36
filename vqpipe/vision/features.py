"""Pooled CLIP patch features of a split, written in shards that depend on the images and the params alone.

Source of the recipe: VQGAN-LC (Zhu et al. 2024), section 3.2: features after the last norm, projected, not
normalised, average-pooled before they are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d

from vqpipe.artifacts.publish import publish_folder, read_manifest
from vqpipe.artifacts.specs.patches import PATCH_IMAGES, PATCH_SHARD, PATCHES
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.artifacts.tensors import read_tensors, write_tensors
from vqpipe.errors import DataError, MismatchError
from vqpipe.params.patches import PatchesParams
from vqpipe.runtime.preflight import need_disk, need_memory
from vqpipe.runtime.progress import progress_bar
from vqpipe.vision.clip import Clip

FP16_BYTES = 2
FP16_MAX = 65504.0


class Images(Protocol):
    """A split of images in order; `vqpipe.data.loader.ImageSplit` is one."""

    @property
    def ids(self) -> Sequence[str]: ...

    def images(self, start: int, stop: int) -> UInt8[Tensor, "n 3 r r"]: ...


@dataclass(frozen=True)
class Shard:
    """The images `start` to `stop` (not included), the content of one file."""

    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"patches-{self.number:05d}.safetensors"


def plan_shards(num_images: int, bytes_per_image: int, shard_bytes: int) -> list[Shard]:
    """Cut images into shards of whole images, of about `shard_bytes` each and at least one image."""
    step = max(1, shard_bytes // bytes_per_image)
    starts = range(0, num_images, step)
    return [Shard(number, start, min(start + step, num_images)) for number, start in enumerate(starts)]


def pool(features: Float[Tensor, "b gh gw d"], grid: int) -> Float[Tensor, "b n d"]:
    """Average-pool a square grid of features to `grid` x `grid`, row-major.

    Raises:
        MismatchError: `grid` does not divide the features' own grid.
    """
    height, width = features.shape[1:3]
    if height != width or height % grid:
        raise MismatchError(
            "patches.grid does not divide this CLIP's grid of patches",
            found=f"grid {grid}, CLIP {height} x {width}",
            choices=[side for side in range(1, height + 1) if height == width and height % side == 0],
        )
    pooled = avg_pool2d(features.permute(0, 3, 1, 2), height // grid)
    return pooled.flatten(2).transpose(1, 2)


def write_patches(
    clip: Clip, split: Images, params: PatchesParams, out: Path, device: torch.device
) -> dict[str, Any]:
    """Publish the PATCHES artifact of a split and return the stage's metrics.

    Raises:
        DataError: no images, or features that are not finite.
        MismatchError: a grid that does not divide CLIP's.
    """
    num_images, dim = len(split.ids), clip.embed_dim if params.projected else clip.patch_dim
    if num_images == 0:
        raise DataError(
            f"the split {params.split} has no images", expected="1 or more", run="dvc repro dataset"
        )
    pool(torch.zeros(1, *clip.patch_grid, 1), params.grid)
    places = params.grid**2
    per_image = places * dim * FP16_BYTES
    need_disk(out.parent, num_images * per_image, "the patch features")
    shards = plan_shards(num_images, per_image, params.shard_bytes)
    facts = {
        "clip_id": clip.id, "dim": dim, "grid": params.grid, "projected": params.projected,
        "split": params.split,
        "num_images": num_images, "num_vectors": num_images * places, "num_shards": len(shards),
    }  # fmt: skip
    sums = torch.zeros(2, dim, dtype=torch.float64)
    with publish_folder(out, PATCHES, facts) as partial, progress_bar("patches", num_images) as bar:
        rows = {"image": np.arange(num_images, dtype=np.int32), "image_id": list(split.ids)}
        write_table(partial / "images.parquet", PATCH_IMAGES, to_table(PATCH_IMAGES, rows))
        for shard in shards:
            tensors = _extract(clip, split, params, shard, device)
            write_tensors(partial / shard.name, PATCH_SHARD, tensors, {"clip_id": clip.id})
            values = tensors["features"].double()
            sums += torch.stack([values.sum(dim=0), values.square().sum(dim=0)])
            bar.advance(shard.stop - shard.start)
    mean, square = sums / (num_images * places)
    return {
        "num_images": num_images, "num_vectors": facts["num_vectors"], "num_shards": len(shards), "dim": dim,
        "grid": params.grid, "variance_per_dim": float((square - mean.square()).mean()),
        "mean_square_per_dim": float(square.mean()),
    }  # fmt: skip


@torch.no_grad()
def _extract(
    clip: Clip, split: Images, params: PatchesParams, shard: Shard, device: torch.device
) -> dict[str, Tensor]:
    """One shard's tensors, in the order of the images."""
    parts = []
    for start in range(shard.start, shard.stop, params.batch_size):
        stop = min(start + params.batch_size, shard.stop)
        images = split.images(start, stop).to(device).float() / 127.5 - 1
        features = pool(clip.patch_features(images, params.projected), params.grid).float().cpu()
        _check(features, split.ids[start:stop])
        parts.append(features.half().flatten(0, 1))
    features, places = torch.cat(parts), params.grid**2
    numbers = torch.arange(len(features), dtype=torch.int32)
    return {
        "features": features,
        "image": shard.start + torch.div(numbers, places, rounding_mode="floor"),
        "position": numbers % places,
    }


def _check(features: Float[Tensor, "b n d"], ids: Sequence[str]) -> None:
    bad = (
        ~(features.abs() <= FP16_MAX).all(dim=(1, 2))
        if features.numel()
        else torch.zeros(0, dtype=torch.bool)
    )
    if bad.any():
        raise DataError(
            "CLIP gives patch features that are not finite, or too large for fp16",
            found=f"{int(bad.sum())} of {len(ids)} images in a batch, first {ids[int(bad.int().argmax())]}",
            expected=f"values up to {FP16_MAX:.0f}",
            run="dvc repro clip",
        )


def patch_facts(folder: Path) -> dict[str, Any]:
    """The facts of a PATCHES artifact."""
    return read_manifest(folder, PATCHES).facts


def iter_shards(folder: Path) -> Iterator[dict[str, Tensor]]:
    """The shards of a PATCHES artifact in order: `features` F16 [n, d], `image` and `position` I32 [n]."""
    for number in range(patch_facts(folder)["num_shards"]):
        yield read_tensors(folder / Shard(number, 0, 0).name, PATCH_SHARD)[0]


def read_vectors(folder: Path) -> Float32[np.ndarray, "n d"]:
    """All vectors of a PATCHES artifact in one float32 matrix.

    Raises:
        ArtifactError: missing or damaged.
        SetupError: they do not fit into memory.
    """
    facts = patch_facts(folder)
    vectors_bytes = 4 * facts["num_vectors"] * facts["dim"]
    need_memory(vectors_bytes, "the patch features")
    vectors = np.empty((facts["num_vectors"], facts["dim"]), dtype=np.float32)
    start = 0
    for shard in iter_shards(folder):
        features = shard["features"].numpy()
        vectors[start : start + len(features)] = features
        start += len(features)
    return vectors
