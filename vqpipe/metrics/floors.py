"""What numbers are compared with: reconstructions that need no training, and examples that do not belong together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from pydantic import Field
from torch import Tensor

from vqpipe.codebooks.search import nearest
from vqpipe.errors import DataError, MismatchError
from vqpipe.params.base import Params
from vqpipe.runtime.seeds import numpy_rng

Grid = tuple[int, int]


class FloorsParams(Params):
    """The reconstructions that need no training, which every tokenizer is compared with."""

    num_patches: Annotated[int, Field(ge=1)]
    """Raw patches of training images that k-means is fitted to (at most; drawn at random)."""
    num_iterations: Annotated[int, Field(ge=1)]
    """Lloyd iterations of that k-means."""
    max_num_codes: Annotated[int, Field(ge=2)]
    """Largest K of that k-means; a tokenizer with more bits per position is compared with a capped
    floor, whose name ends in `_capped`."""


def cell_shape(images: UInt8[Tensor, "n c h w"], grid: Grid) -> tuple[int, int]:
    """Height and width in pixels of the cell of an image that belongs to one grid position.

    Raises:
        MismatchError: the grid does not divide the images.
    """
    height, width = images.shape[-2:]
    if height % grid[0] or width % grid[1]:
        raise MismatchError(
            "the token grid does not divide the images", found=f"{height} x {width} by {grid}"
        )
    return height // grid[0], width // grid[1]


def to_patches(images: UInt8[Tensor, "n c h w"], grid: Grid) -> UInt8[Tensor, "n p d"]:
    """Cut images into their grid cells, in row order, each flattened as (channel, row, column)."""
    n, c, _, _ = images.shape
    ph, pw = cell_shape(images, grid)
    cut = images.reshape(n, c, grid[0], ph, grid[1], pw).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(n, grid[0] * grid[1], c * ph * pw)


def from_patches(
    patches: UInt8[Tensor, "n p d"], grid: Grid, cell: tuple[int, int]
) -> UInt8[Tensor, "n c h w"]:
    """The inverse of `to_patches`, given the cell's height and width."""
    n, (ph, pw) = len(patches), cell
    cut = patches.reshape(n, grid[0], grid[1], -1, ph, pw).permute(0, 3, 1, 4, 2, 5)
    return cut.reshape(n, cut.shape[1], grid[0] * ph, grid[1] * pw)


def block_mean(images: UInt8[Tensor, "n 3 h w"], grid: Grid) -> UInt8[Tensor, "n 3 h w"]:
    """Replace each grid cell by its mean colour, rounded: the same grid, without a codebook (24 bits per
    position).

    Raises:
        MismatchError: the grid does not divide the images.
    """
    ph, pw = cell_shape(images, grid)
    n, c, height, width = images.shape
    cells = images.reshape(n, c, grid[0], ph, grid[1], pw).double().mean(dim=(3, 5), keepdim=True)
    return cells.round().to(torch.uint8).expand(n, c, grid[0], ph, grid[1], pw).reshape(n, c, height, width)


@dataclass(frozen=True)
class PatchKmeans:
    """A codebook of raw patches: `centroids` float32 of shape (K, 3 * cell height * cell width), levels
    0..255.

    `wanted` is the K at the tokenizer's bits per position; where it is larger than K, the floor is capped, and
    its name ends in `_capped`.
    """

    centroids: Float[Tensor, "k d"]
    grid: Grid
    wanted: int

    @property
    def name(self) -> str:
        return "patch_kmeans" if len(self.centroids) == self.wanted else "patch_kmeans_capped"

    @property
    def bits_per_image(self) -> float:
        return self.grid[0] * self.grid[1] * math.log2(len(self.centroids))

    def reconstruct(self, images: UInt8[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n 3 h w"]:
        """Replace each cell by its nearest centroid (squared error), rounded."""
        patches = to_patches(images, self.grid)
        flat = patches.reshape(-1, patches.shape[-1]).float()
        levels = self.centroids.round().clamp(0, 255).to(torch.uint8).to(images.device)
        chosen = levels[nearest(flat, self.centroids.to(images.device))]
        return from_patches(chosen.reshape(patches.shape), self.grid, cell_shape(images, self.grid))


def draw_patch_positions(
    num_images: int, grid: Grid, num_patches: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw positions (image, cell) without replacement, all of them where there are fewer; sorted by
    image."""
    total = num_images * grid[0] * grid[1]
    flat = np.sort(rng.choice(total, min(num_patches, total), replace=False, shuffle=False))
    return flat // (grid[0] * grid[1]), flat % (grid[0] * grid[1])


def fit_patch_kmeans(
    patches: UInt8[Tensor, "n d"],
    num_codes: Sequence[int],
    grid: Grid,
    *,
    num_iterations: int,
    max_num_codes: int,
    seed: int,
    device: torch.device,
) -> PatchKmeans:
    """k-means on raw patches of training images at a tokenizer's bits per position: K = product of its
    `num_codes`. Under torchrun all ranks call it with the same arguments and share the work.

    K is capped at `max_num_codes` and at a quarter of the patches; the result's name then ends in `_capped`.

    Raises:
        MismatchError: fewer than 8 patches.
    """
    from vqpipe.vision.kmeans import kmeans

    if len(patches) < 8:
        raise MismatchError("k-means on raw patches needs at least 8 patches", found=len(patches))
    wanted = math.prod(num_codes)
    count = min(wanted, max_num_codes, len(patches) // 4)
    found = kmeans(
        patches.float().numpy(), num_clusters=count, num_iterations=num_iterations, seed=seed, device=device
    )
    return PatchKmeans(torch.as_tensor(np.asarray(found.centroids), dtype=torch.float32), grid, wanted)


def other_examples(count: int, seed: int) -> Int64[np.ndarray, " n"]:
    """For each example another one: all are on one cycle, whose order is drawn, as neighbours are often alike.

    Raises:
        DataError: fewer than two examples.
    """
    if count < 2:
        raise DataError("one image alone has no other one", found=f"{count} images", expected="2 or more")
    order = numpy_rng(seed, "other images").permutation(count)
    others = np.empty(count, dtype=np.int64)
    others[order] = np.roll(order, -1)
    return others
