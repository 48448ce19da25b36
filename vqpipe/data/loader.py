"""Images of a dataset as tensors: whole splits in order, and random batches with crop and flip.

Nothing is resized here: `dataset.resize` did that with its named filter. A crop of `resolution` pixels is
taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from vqpipe.data.pixels import InMemory, Packed, Pixels
from vqpipe.data.read import open_split
from vqpipe.errors import MismatchError
from vqpipe.runtime.seeds import numpy_rng

Crop = Literal["centre", "random"]
MEMORY_BYTES = 2 << 30
"""Splits up to this size are decoded into memory, larger ones are decoded as they are read."""


class ImageSplit:
    """One split of a dataset; make it with `ImageSplit.open`.

    Attributes:
        ids: image ids in order.
        labels: int64 of shape (n,), the class number, -1 for none.
        captions: the captions of each image.
        num_classes: number of classes, 0 where the source has none.
        class_names: names of the classes by number.
        resolution: height and width of the crops, pixels.
    """

    def __init__(
        self,
        resolution: int,
        ids: list[str],
        labels: Int64[np.ndarray, " n"],
        captions: list[list[str]],
        class_names: list[str],
        shapes: Int64[np.ndarray, "n 2"],
        pixels: Pixels,
    ) -> None:
        self.resolution = resolution
        self.ids, self.labels, self.captions, self.class_names = ids, labels, captions, class_names
        self.num_classes = len(class_names)
        self._room = shapes - resolution
        self._pixels = pixels

    @classmethod
    def open(cls, dataset: Path, split: str, resolution: int, memory_bytes: int = MEMORY_BYTES) -> ImageSplit:
        """Open a split of a published dataset.

        Args:
            dataset: folder of the dataset artifact.
            split: `train`, `validation` or `test`.
            resolution: height and width of the crops, pixels.
            memory_bytes: largest decoded size that is held in memory.

        Raises:
            ArtifactError: no dataset there, or a damaged one.
            DataError: no such split.
            MismatchError: an image is smaller than `resolution`.
            SetupError: too little memory or disk.
        """
        found = open_split(dataset, split)
        ids: list[str] = []
        captions: list[list[str]] = []
        labels, shapes = [np.empty(0, dtype=np.int64)], [np.empty((0, 2), dtype=np.int64)]
        for batch in found.batches(["image_id", "height", "width", "label", "captions"]):
            ids += batch.column("image_id").to_pylist()
            captions += [list(texts or ()) for texts in batch.column("captions").to_pylist()]
            labels.append(batch.column("label").fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64))
            sides = [batch.column(name).to_numpy(zero_copy_only=False) for name in ("height", "width")]
            shapes.append(np.stack(sides, axis=1).astype(np.int64))
        sizes = np.concatenate(shapes)
        small = int((sizes.min(axis=1) < resolution).sum())
        if small:
            raise MismatchError(
                f"{dataset}: {small} of {len(sizes)} {split} images are smaller than {resolution} pixels",
                found=f"shorter sides from {sizes.min()} pixels",
                expected=f"{resolution} or more: set dataset.resize.short_side (scenes: source.resolution)",
                run="dvc repro dataset",
            )
        small_enough = 3 * int(sizes.prod(axis=1).sum()) <= memory_bytes
        pixels: Pixels = InMemory(found, sizes[:, 0], sizes[:, 1]) if small_enough else Packed(found)
        names = [str(name) for name in found.facts["classes"]]
        return cls(resolution, ids, np.concatenate(labels), captions, names, sizes, pixels)

    def __len__(self) -> int:
        return len(self.ids)

    def images(self, start: int, stop: int) -> UInt8[Tensor, "n 3 r r"]:
        """Centre crops of the images from `start` up to `stop` or the end, in order."""
        return self.gather(range(start, min(stop, len(self))), None, "centre", False)

    def gather(
        self,
        indices: Sequence[int] | Int64[np.ndarray, " n"],
        rng: np.random.Generator | None,
        crop: Crop,
        flip: bool,
        share: slice = slice(None),
        upright: Bool[np.ndarray, " n"] | None = None,
    ) -> UInt8[Tensor, "n 3 r r"]:
        """Crops of the named images, in the order of `indices`.

        Args:
            indices: positions in the split.
            rng: draws the crops and flips; needed for `random` or `flip`. What it draws depends on the
                number of indices and the images' sizes alone.
            crop: `centre`, or `random` with all positions equally likely.
            flip: mirror each image left to right with probability 1/2.
            share: which of the crops to make, all of them unless told; the draws stay those of all.
            upright: images that are not mirrored whatever is drawn for them, one for each index; the draws stay.
        """
        order = np.asarray(indices, dtype=np.int64)
        side = self.resolution
        room = self._room[order]
        corners = room // 2
        mirrored = np.zeros(len(order), dtype=bool)
        if crop == "random" or flip:
            if rng is None:
                raise ValueError("random crops and flips need a random generator")
            if crop == "random":
                corners = rng.integers(0, room + 1)
            if flip:
                mirrored = rng.random(len(order)) < 0.5
                if upright is not None:
                    mirrored &= ~upright
        order, corners, mirrored = order[share], corners[share], mirrored[share]
        out = np.empty((len(order), 3, side, side), dtype=np.uint8)
        pictures = self._pixels.get(order.tolist())
        for at, (picture, (top, left)) in enumerate(zip(pictures, corners.tolist(), strict=True)):
            out[at] = picture[:, top : top + side, left : left + side]
        if mirrored.any():
            out[mirrored] = out[mirrored][..., ::-1]
        return torch.from_numpy(out)


def to_float(images: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """uint8 0..255 to float32 -1..1; `to_uint8` is its exact inverse."""
    return images.to(torch.float32) / 127.5 - 1.0


def to_uint8(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Floats to uint8: values are clamped to -1..1 and rounded to the nearest of 256 steps."""
    return ((images.to(torch.float32).clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


@lru_cache(maxsize=4)
def _permutation(num_items: int, seed: int, epoch: int) -> Int64[np.ndarray, " n"]:
    order = numpy_rng(seed, "epoch", epoch).permutation(num_items)
    order.setflags(write=False)
    return order


def epoch_order(
    num_items: int, batch_size: int, seed: int, step: int, rank: int = 0, world_size: int = 1
) -> Int64[np.ndarray, " b"]:
    """Positions of the items of one step's batch: a pure function, so that training resumes anywhere.

    Each epoch is a permutation of its own; its last partial batch is dropped.

    Args:
        num_items: number of items.
        batch_size: items per step over all ranks.
        seed: seed of the permutations.
        step: number of the step, from 0, counted through all epochs.
        rank: this process; it gets its share of the batch, batch_size / world_size items.
        world_size: number of processes.

    Raises:
        MismatchError: fewer items than a batch, or a batch that the processes cannot share evenly.
    """
    if not 1 <= batch_size <= num_items:
        raise MismatchError(
            "the data do not fill one batch", found=f"{num_items} images, batch_size {batch_size}",
            expected="a batch_size of 1 to the number of train images",
        )  # fmt: skip
    if batch_size % world_size:
        raise MismatchError(
            "batch_size does not divide among the processes", found=f"{batch_size} over {world_size}",
            expected=f"a multiple of {world_size}",
        )  # fmt: skip
    epoch, batch = divmod(step, num_items // batch_size)
    share = batch_size // world_size
    start = batch * batch_size + rank * share
    return _permutation(num_items, seed, epoch)[start : start + share]
