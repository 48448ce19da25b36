"""Where a loader's pixels are: decoded in memory, or encoded in a memory-mapped pack.

Both give an image as uint8 of shape (3, height, width).
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Int64, UInt8

from vqpipe.artifacts.publish import publish_file
from vqpipe.data.images import decode_png
from vqpipe.data.read import Split
from vqpipe.runtime.env import scratch_root, workers
from vqpipe.runtime.preflight import need_disk, need_memory
from vqpipe.runtime.signals import close_pool

Image = UInt8[np.ndarray, "3 h w"]
BATCH = 256


class Pixels(Protocol):
    """Images by their position in the split."""

    def get(self, indices: Sequence[int]) -> list[Image]: ...


def _planes(data: bytes) -> Image:
    return np.ascontiguousarray(decode_png(data).transpose(2, 0, 1))


class InMemory:
    """All images decoded, one after the other in one buffer."""

    def __init__(
        self, split: Split, heights: Int64[np.ndarray, " n"], widths: Int64[np.ndarray, " n"]
    ) -> None:
        self._shapes = [(3, int(h), int(w)) for h, w in zip(heights, widths, strict=True)]
        self._ends = np.cumsum(3 * heights * widths)
        total = int(self._ends[-1]) if len(self._ends) else 0
        need_memory(total, f"the {split.name} images of {split.dataset}")
        self._buffer = np.empty(total, dtype=np.uint8)
        at = 0
        pool = ThreadPoolExecutor(workers())
        try:
            for batch in split.batches(["image"], rows=BATCH):
                for planes in pool.map(_planes, batch.column("image").to_pylist()):
                    self._buffer[at : at + planes.size] = planes.reshape(-1)
                    at += planes.size
        finally:
            close_pool(pool)
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
    machine.
    """

    def __init__(self, split: Split) -> None:
        key = hashlib.sha256("\n".join(split.digests).encode()).hexdigest()[:16]
        path = scratch_root() / "packs" / f"{split.name}-{key}.bin"
        index = path.with_suffix(".npy")
        if not index.is_file():
            _build(split, path, index)
        self._ends = np.load(index, allow_pickle=False)
        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._pool = ThreadPoolExecutor(workers())

    def _read(self, index: int) -> Image:
        start = int(self._ends[index - 1]) if index else 0
        return _planes(self._map[start : int(self._ends[index])])

    def get(self, indices: Sequence[int]) -> list[Image]:
        """Decoded images, in order."""
        return list(self._pool.map(self._read, indices))


def _build(split: Split, path: Path, index: Path) -> None:
    """Write the pack, then its index, each atomically: an index is there only beside a whole pack."""
    path.parent.mkdir(parents=True, exist_ok=True)
    need_disk(
        path.parent, sum(shard.stat().st_size for shard in split.shards), f"the pack of {split.dataset}"
    )
    lengths: list[int] = []
    with publish_file(path) as partial, partial.open("wb") as stream:
        for batch in split.batches(["image"], rows=BATCH):
            for data in batch.column("image").to_pylist():
                lengths.append(len(data))
                stream.write(data)
    with publish_file(index) as partial, partial.open("wb") as stream:
        np.save(stream, np.cumsum(np.asarray(lengths, dtype=np.int64)))
