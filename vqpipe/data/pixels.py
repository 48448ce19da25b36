"""Where a loader's pixels are: decoded in memory, or encoded in a memory-mapped pack.

Both give an image as uint8 of shape (3, height, width).
"""

from __future__ import annotations

import hashlib
import mmap
import shlex
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Int64, UInt8

from vqpipe.artifacts.publish import publish_file
from vqpipe.data.images import damaged_image, decode_png
from vqpipe.data.read import Split
from vqpipe.errors import ArtifactError, of_system, printable
from vqpipe.runtime.env import scratch_root, workers
from vqpipe.runtime.preflight import need_disk, need_memory

Image = UInt8[np.ndarray, "3 h w"]
BATCH = 256


class Pixels(Protocol):
    """Images by their position in the split."""

    def get(self, indices: Sequence[int]) -> list[Image]: ...


def _planes(data: bytes, where: str) -> Image:
    return np.ascontiguousarray(decode_png(data, where, "dataset").transpose(2, 0, 1))


class InMemory:
    """All images decoded, one after the other in one buffer.

    Raises:
        ArtifactError: an image is damaged.
        SetupError: too little memory.
    """

    def __init__(
        self, split: Split, heights: Int64[np.ndarray, " n"], widths: Int64[np.ndarray, " n"]
    ) -> None:
        self._shapes = [(3, int(h), int(w)) for h, w in zip(heights, widths, strict=True)]
        self._ends = np.cumsum(3 * heights * widths)
        total = int(self._ends[-1]) if len(self._ends) else 0
        need_memory(total, f"the {split.name} images of {split.dataset}")
        self._buffer = np.empty(total, dtype=np.uint8)
        at, number = 0, 0
        with ThreadPoolExecutor(workers()) as pool:
            for batch in split.batches(["image_id", "image"], rows=BATCH):
                ids, encoded = (batch.column(name).to_pylist() for name in ("image_id", "image"))
                where = [f"{split.dataset}: {split.name} image {image_id}" for image_id in ids]
                for place, planes in zip(where, pool.map(_planes, encoded, where), strict=True):
                    if planes.shape != self._shapes[number]:
                        raise damaged_image(
                            place, f"the shape {planes.shape}, the row says {self._shapes[number]}", "dataset"
                        )
                    self._buffer[at : at + planes.size] = planes.reshape(-1)
                    at, number = at + planes.size, number + 1
        self._views = [
            self._buffer[end - np.prod(shape) : end].reshape(shape)
            for end, shape in zip(self._ends.tolist(), self._shapes, strict=True)
        ]

    def get(self, indices: Sequence[int]) -> list[Image]:
        """Views, not copies."""
        return [self._views[index] for index in indices]


class Packed:
    """Encoded images in one memory-mapped file of the scratch folder; threads decode them on demand.

    The file is named by the hashes of the split's shards: it is built once and serves every process of the
    machine. Each image has a CRC-32 in the index, which is compared as it is read.

    Raises:
        ArtifactError: an image is damaged; also from `get`.
        SetupError: too little disk space.
    """

    def __init__(self, split: Split) -> None:
        key = hashlib.sha256("\n".join(split.digests).encode()).hexdigest()[:16]
        self._path = scratch_root() / "packs" / f"{split.name}-{key}.crc.bin"
        index = self._path.with_suffix(".npy")
        found = _index(index, split.num_images, self._path)
        if found is None:
            _build(split, self._path, index)
            found = _index(index, split.num_images, self._path)
        if found is None:
            raise self._damaged("its index is not what was just written")
        self._ends, self._sums = found.T
        with self._path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._pool = ThreadPoolExecutor(workers())

    def _read(self, index: int) -> Image:
        start = int(self._ends[index - 1]) if index else 0
        data = self._map[start : int(self._ends[index])]
        if zlib.crc32(data) != self._sums[index]:
            raise self._damaged(f"image number {index} has another CRC-32 than when it was written")
        return _planes(data, f"{self._path}: image number {index}")

    def _damaged(self, found: str) -> ArtifactError:
        names = shlex.join(str(self._path.with_suffix(ending)) for ending in (".bin", ".npy"))
        return ArtifactError(
            f"{self._path} is damaged: images that were packed for training", found=found,
            expected="the images of the dataset", run=f"rm {names}, and the same command again",
        )  # fmt: skip

    def get(self, indices: Sequence[int]) -> list[Image]:
        """Decoded images, in order."""
        return list(self._pool.map(self._read, indices))


def _index(index: Path, num_images: int, pack: Path) -> Int64[np.ndarray, "n 2"] | None:
    """End and CRC-32 of each image in a pack; None, and a line on stderr, where it is damaged."""
    if not index.is_file():
        return None
    try:
        found: Int64[np.ndarray, "n 2"] = np.load(index, allow_pickle=False)
        whole = found.shape == (num_images, 2) and pack.stat().st_size == (found[-1, 0] if num_images else 0)
    except (OSError, ValueError, EOFError) as error:
        if of_system(error) is not None:
            raise
        whole = False
    if whole:
        return found
    print(f"{printable(str(pack))} is damaged and is made again", file=sys.stderr)
    return None


def _build(split: Split, path: Path, index: Path) -> None:
    """Write the pack, then its index, each atomically: an index is there only beside a whole pack."""
    path.parent.mkdir(parents=True, exist_ok=True)
    need_disk(
        path.parent, sum(shard.stat().st_size for shard in split.shards), f"the pack of {split.dataset}"
    )
    entries, end = [], 0
    with publish_file(path) as partial, partial.open("wb") as stream:
        for batch in split.batches(["image"], rows=BATCH):
            for data in batch.column("image").to_pylist():
                end += len(data)
                entries.append((end, zlib.crc32(data)))
                stream.write(data)
    with publish_file(index) as partial, partial.open("wb") as stream:
        np.save(stream, np.array(entries, dtype=np.int64).reshape(-1, 2))
