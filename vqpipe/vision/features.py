"""Patch features as they are written and read back: how a grid is pooled, how images share shards, all vectors as one.

The recipe is VQGAN-LC's (Zhu et al. 2024), section 3.2: features after the last norm, projected, not normalised,
average-pooled before they are written. `vqpipe.vision.patches` makes them.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float16
from torch import Tensor
from torch.nn.functional import avg_pool2d

from vqpipe.artifacts.intact import need_intact
from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.spec import check_header
from vqpipe.artifacts.specs.patches import PATCH_SHARD, PATCHES
from vqpipe.artifacts.tensors import read_tensor_header, read_tensors
from vqpipe.errors import ArtifactError, MismatchError

FP16_BYTES = 2


@dataclass(frozen=True)
class Shard:
    """The images `start` to `stop` (not included) of a split, the content of one file."""

    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"patches-{self.number:05d}.safetensors"

    def batches(self, batch_size: int) -> list[range]:
        """The positions of each forward pass; the last one may be short."""
        return [range(at, min(at + batch_size, self.stop)) for at in range(self.start, self.stop, batch_size)]


def plan_shards(num_images: int, bytes_per_image: int, shard_bytes: int) -> list[Shard]:
    """Cut images into shards of whole images, of about `shard_bytes` each and at least one image."""
    step = max(1, shard_bytes // bytes_per_image)
    starts = range(0, num_images, step)
    return [Shard(number, start, min(start + step, num_images)) for number, start in enumerate(starts)]


def check_grid(patch_grid: tuple[int, int], grid: int) -> None:
    """Raise unless `grid` divides the tower's own grid, so that every pooled feature is the mean of equal blocks.

    Raises:
        MismatchError: it does not.
    """
    height, width = patch_grid
    if height != width or height % grid:
        raise MismatchError(
            "patches.grid does not divide this CLIP's grid of patches",
            found=f"grid {grid}, CLIP {height} x {width}",
            choices=[side for side in range(1, height + 1) if height == width and height % side == 0],
        )


def pool(features: Float[Tensor, "b gh gw d"], grid: int) -> Float[Tensor, "b n d"]:
    """Average-pool a square grid of features to `grid` x `grid`, row-major.

    Raises:
        MismatchError: as `check_grid`.
    """
    check_grid((features.shape[1], features.shape[2]), grid)
    pooled = avg_pool2d(features.permute(0, 3, 1, 2), features.shape[1] // grid)
    return pooled.flatten(2).transpose(1, 2)


def patch_facts(folder: Path) -> dict[str, Any]:
    """The facts of a PATCHES artifact."""
    return read_manifest(folder, PATCHES).facts


def iter_shards(folder: Path) -> Iterator[dict[str, Tensor]]:
    """The shards of a PATCHES artifact in order: `features` F16 [n, d], `image` and `position` I32 [n]."""
    for number in range(patch_facts(folder)["num_shards"]):
        yield read_tensors(folder / Shard(number, 0, 0).name, PATCH_SHARD)[0]


class MappedVectors:
    """All vectors of a PATCHES artifact, on disk: a slice reads its own bytes and nothing else."""

    def __init__(self, parts: list[Float16[np.ndarray, "m d"]], dim: int) -> None:
        self.parts = parts
        """The features of each shard, mapped, in order."""
        self.dim = dim
        self._ends = np.cumsum([len(part) for part in parts]).tolist()

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.dim

    def __getitem__(self, rows: slice, /) -> Float16[np.ndarray, "m d"]:
        """Consecutive vectors: a mapped view where they are in one shard, else a copy."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError("mapped vectors are read in order: a slice without a step")
        found: list[Float16[np.ndarray, "m d"]] = []
        at = bisect_right(self._ends, start)
        while start < stop:
            first = self._ends[at - 1] if at else 0
            found.append(self.parts[at][start - first : stop - first])
            start, at = int(self._ends[at]), at + 1
        if len(found) == 1:
            return found[0]
        return np.concatenate(found) if found else np.empty((0, self.dim), dtype=np.float16)


def open_vectors(folder: Path) -> MappedVectors:
    """Map the vectors of a PATCHES artifact, after each shard was compared with its checksum.

    Raises:
        ArtifactError: missing or damaged, or shards with another number of vectors than in the facts.
    """
    facts = patch_facts(folder)
    parts = [_map(folder / Shard(number, 0, 0).name, facts["dim"]) for number in range(facts["num_shards"])]
    mapped = MappedVectors(parts, facts["dim"])
    if len(mapped) != facts["num_vectors"]:
        raise ArtifactError(
            f"{folder}: the shards are not those of the manifest",
            found=f"{len(mapped)} vectors", expected=f"{facts['num_vectors']}", run="dvc repro patches",
        )  # fmt: skip
    return mapped


def _map(path: Path, dim: int) -> Float16[np.ndarray, "m d"]:
    need_intact(path)
    header, entries = read_tensor_header(path)
    check_header(header, PATCH_SHARD, path)
    entry = entries.get("features", {})
    if entry.get("dtype") != "F16" or entry["shape"][1:] != [dim] or not entry["shape"][0]:
        raise ArtifactError(f"{path}: not the features of the manifest", found=json.dumps(entry))
    with path.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little") + entry["data_offsets"][0]
    return np.memmap(path, dtype=np.float16, mode="r", offset=start, shape=tuple(entry["shape"]))


def total_variance(
    sums: Float[Tensor, " d"], squares: Float[Tensor, " d"], count: int
) -> tuple[float, float]:
    """Variance and mean square per dimension, from float64 sums over `count` vectors."""
    mean, square = sums / count, squares / count
    return float((square - mean.square()).mean()), float(square.mean())
