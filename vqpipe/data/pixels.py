"""Where a loader's pixels are: decoded in memory, or encoded in a memory-mapped pack.

Both give an image as uint8 of shape (3, height, width).
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from vqpipe.artifacts.kept import is_sound
from vqpipe.artifacts.publish import publish_file
from vqpipe.artifacts.seal import need_equal
from vqpipe.artifacts.spec import TensorSpec
from vqpipe.artifacts.tensors import check_tensors, read_tensors, write_tensors
from vqpipe.data.images import damaged_image, decode_png
from vqpipe.data.read import Split
from vqpipe.errors import ArtifactError
from vqpipe.runtime.env import scratch_root, workers
from vqpipe.runtime.preflight import need_disk, need_memory
from vqpipe.runtime.signals import close_pool

Image = UInt8[np.ndarray, "3 h w"]
BATCH = 256
BLOCK, PIECE = 64 << 20, 1 << 20
"""Bytes of a pack that have one checksum, and that are read at once."""
PACK = TensorSpec("pack", 1, {"ends": "I64"}, stage="dataset", about="the index of encoded images in scratch")


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
        pool = ThreadPoolExecutor(workers())
        try:
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
    machine. Each process compares it with its checksums when it first opens it; a damaged one is built again.

    Raises:
        ArtifactError: an image is damaged; also from `get`.
        SetupError: too little disk space.
    """

    def __init__(self, split: Split) -> None:
        key = hashlib.sha256("\n".join(split.digests).encode()).hexdigest()[:16]
        self._path = path = scratch_root() / "packs" / f"{split.name}-{key}.bin"
        self._pool = ThreadPoolExecutor(workers())
        if not _index(path).is_file() or not is_sound(
            lambda: _check(path, self._pool), "the pack is built again"
        ):
            _build(split, path, self._pool)
        self._ends = read_tensors(_index(path), PACK)[0]["ends"].numpy()
        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def _read(self, index: int) -> Image:
        start = int(self._ends[index - 1]) if index else 0
        data = self._map[start : int(self._ends[index])]
        return _planes(data, f"{self._path}: image number {index}")

    def get(self, indices: Sequence[int]) -> list[Image]:
        """Decoded images, in order."""
        return list(self._pool.map(self._read, indices))


_sound: dict[Path, tuple[object, ...]] = {}
"""The state in which this process has compared each pack with its checksums."""


def _index(path: Path) -> Path:
    """Where each image of a pack ends, and the checksums of the pack; carries a checksum of itself."""
    return path.with_suffix(".safetensors")


def _check(path: Path, pool: ThreadPoolExecutor) -> None:
    """Compare a pack with its checksums, once per process.

    Raises:
        ArtifactError: the pack is missing, or it or its index is damaged.
    """
    blocks = check_tensors(_index(path), PACK).facts["blocks"]
    if not path.is_file():
        raise ArtifactError(f"{path} is missing")
    status = path.stat()
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, tuple(blocks))
    if _sound.get(path) == state:
        return
    for found, expected in zip_longest(_digests(path, pool), blocks, fillvalue=""):
        need_equal(path, found, expected)
    _sound[path] = state


def _digests(path: Path, pool: ThreadPoolExecutor) -> list[str]:
    """SHA-256 of each `BLOCK` bytes of a file, computed in parallel."""
    return list(pool.map(partial(_digest, path), range(0, path.stat().st_size, BLOCK)))


def _digest(path: Path, start: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        stream.seek(start)
        for _ in range(0, BLOCK, PIECE):
            digest.update(stream.read(PIECE))
    return digest.hexdigest()


def _build(split: Split, path: Path, pool: ThreadPoolExecutor) -> None:
    """Write the pack, then its index, each atomically: an index is there only where there is a whole pack."""
    path.parent.mkdir(parents=True, exist_ok=True)
    need_disk(
        path.parent, sum(shard.stat().st_size for shard in split.shards), f"the pack of {split.dataset}"
    )
    lengths: list[int] = []
    with publish_file(path) as whole:
        with whole.open("wb") as stream:
            for batch in split.batches(["image"], rows=BATCH):
                for data in batch.column("image").to_pylist():
                    lengths.append(len(data))
                    stream.write(data)
        blocks = _digests(whole, pool)
    ends = torch.from_numpy(np.cumsum(np.asarray(lengths, dtype=np.int64)))
    write_tensors(_index(path), PACK, {"ends": ends}, {"blocks": blocks}, sealed=True)
