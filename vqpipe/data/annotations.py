"""What is known of the pixels of a split's images: label maps and objects, for centre crops.

Letters: n images, b of a batch, r side of the crops in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from vqpipe.data.images import decode_png
from vqpipe.data.read import open_split
from vqpipe.data.records import Thing
from vqpipe.errors import MismatchError
from vqpipe.runtime.env import workers


@dataclass(frozen=True)
class LabelMaps:
    """The label maps of a split as PNGs in memory, decoded on demand by `VQPIPE_WORKERS` threads; None for an image
    without one.

    Value 0 of a PNG is the background, which is no class; value v is class v - 1.
    """

    pngs: list[bytes | None]
    classes: tuple[str, ...]
    """Names of the classes of pixels."""
    resolution: int
    """r: maps are cropped as the images are."""
    where: str
    """The dataset and the split, for messages."""

    @classmethod
    def open(cls, dataset: Path, split: str, resolution: int) -> LabelMaps:
        """Read the maps of a split.

        Raises:
            ArtifactError: no dataset there, or a damaged one.
        """
        found = open_split(dataset, split)
        pngs = [png for batch in found.batches(["segmentation"]) for png in batch.column(0).to_pylist()]
        classes = tuple(str(name) for name in found.facts.get("categories") or ())
        return cls(pngs, classes, resolution, f"{dataset}: {split} label map")

    def get(self, rows: Sequence[int]) -> Int64[Tensor, "b r r"]:
        """Centre crops of the maps, -1 where no class is known.

        Raises:
            ArtifactError: a damaged PNG.
            MismatchError: a map smaller than the images, or a pixel whose class has no name.
        """
        out = torch.full((len(rows), self.resolution, self.resolution), -1, dtype=torch.int64)
        for _ in self._pool.map(self._read, rows, out.numpy()):
            pass  # an error of the first such map is raised here
        if out.numel() and int(out.max()) >= len(self.classes):
            raise MismatchError(
                f"{self.where}: a pixel of an unknown class", found=int(out.max()) + 1,
                expected=f"1 to {len(self.classes)}, or 0 for none",
            )  # fmt: skip
        return out

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(workers())

    def _read(self, row: int, out: Int64[np.ndarray, "r r"]) -> None:
        png, side = self.pngs[row], self.resolution
        if png is None:
            return
        whole = decode_png(png, f"{self.where} {row}", "dataset")
        if min(whole.shape) < side:
            raise MismatchError(
                f"{self.where} {row} is smaller than the images",
                found=" x ".join(map(str, whole.shape)), expected=f"{side} x {side} or more",
                run="dvc repro dataset",
            )  # fmt: skip
        top, left = ((length - side) // 2 for length in whole.shape)
        np.subtract(whole[top : top + side, left : left + side], 1, out=out, dtype=np.int64)


def things_of(dataset: Path, split: str, resolution: int, min_visible: float = 0.0) -> list[list[Thing]]:
    """The objects in the centre crop of each image of a split, in order, their boxes in pixels of the crop.

    An object belongs to the crop where the centre of its box does; what reaches out of the crop is cut off.

    Args:
        dataset: folder of the dataset artifact.
        split: `train`, `validation` or `test`.
        resolution: r.
        min_visible: objects of which less is visible are left out.

    Raises:
        ArtifactError: no dataset there, or a damaged one.
    """
    found: list[list[Thing]] = []
    for batch in open_split(dataset, split).batches(["height", "width", "things"]):
        for row in batch.to_pylist():
            top, left = (row["height"] - resolution) // 2, (row["width"] - resolution) // 2
            own = []
            for thing in row["things"] or ():
                x, y, w, h = thing["box"]
                x, y = x - left, y - top
                visible = 1.0 if thing["visible"] is None else thing["visible"]
                inside = 0 <= x + w / 2 < resolution and 0 <= y + h / 2 < resolution
                low, high = (max(x, 0.0), max(y, 0.0)), (min(x + w, resolution), min(y + h, resolution))
                if inside and visible >= min_visible:
                    box = (low[0], low[1], high[0] - low[0], high[1] - low[1])
                    own.append(Thing(thing["name"], box, tuple(thing["adjectives"] or ()), visible))
            found.append(own)
    return found
