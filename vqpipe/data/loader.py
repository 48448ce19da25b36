"""The images of a dataset as tensors: whole splits in order, and random batches with crop and flip.

Nothing is resized here: `dataset.resize` did that with its named filter. A crop of `resolution` pixels is taken. The
pixels are decoded in memory (`InMemory`), or encoded in a memory-mapped pack (`Packed`).
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import zip_longest
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from vqpipe.artifacts.checkpoints import is_intact
from vqpipe.artifacts.publish import publish_file
from vqpipe.artifacts.seal import need_equal
from vqpipe.artifacts.spec import TensorSpec
from vqpipe.artifacts.tensors import check_tensors, read_tensors, write_tensors
from vqpipe.data.images import damaged_image, decode_png
from vqpipe.data.read import Split, open_split
from vqpipe.errors import ArtifactError, MismatchError
from vqpipe.runtime.env import scratch_root, workers
from vqpipe.runtime.preflight import need_disk, need_memory
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.runtime.signals import close_pool

Image = UInt8[np.ndarray, "3 h w"]
BATCH = 256
BLOCK, PIECE = 64 << 20, 1 << 20
"""Bytes of a pack that have one checksum, and that are read at once."""
PACK = TensorSpec("pack", 1, {"ends": "I64"}, stage="dataset", about="the index of encoded images in scratch")


class Pixels(Protocol):
    """Images by their position in the split, each as uint8 of shape (3, height, width)."""

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
        if not _index(path).is_file() or not is_intact(
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
    """Write the pack, then its index, each atomically: an index exists only where the pack is whole."""
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
            memory_bytes: largest decoded size that is kept in memory.

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
            share: which of the crops to make, by default all of them; the draws stay those of all.
            upright: whether each image is never mirrored; the draws stay the same.
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


def drawn_positions(total: int, count: int | None, seed: int) -> Int64[np.ndarray, " n"]:
    """`count` of `total` positions drawn at random, rising; all of them for None or a smaller total.

    Evaluation, judges and tasks share this draw: with equal counts and seeds they measure the same images.
    """
    if count is None or count >= total:
        return np.arange(total)
    return np.sort(numpy_rng(seed, "images").choice(total, count, replace=False))


def epoch_order(num_items: int, batch_size: int, seed: int, step: int) -> Int64[np.ndarray, " b"]:
    """Positions of the items of one step's batch: a pure function, so that training resumes anywhere.

    Each epoch is a permutation of its own; its last partial batch is dropped. A rank takes its `own_share` of a batch.

    Args:
        num_items: number of items.
        batch_size: items per step over all ranks.
        seed: seed of the permutations.
        step: number of the step, from 0, counted through all epochs.

    Raises:
        MismatchError: fewer items than a batch.
    """
    if not 1 <= batch_size <= num_items:
        raise MismatchError(
            "the data do not fill one batch", found=f"{num_items} images, batch_size {batch_size}",
            expected="a batch_size of 1 to the number of train images",
        )  # fmt: skip
    epoch, batch = divmod(step, num_items // batch_size)
    return _permutation(num_items, seed, epoch)[batch * batch_size : (batch + 1) * batch_size]
