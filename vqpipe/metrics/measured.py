"""What comes with a number: its 95 % interval, and the record of the images and the protocol that it was measured with.

Two runs can be compared where the digests of both sides of their records agree. Records have no path, time or host, so
equal inputs give equal digests on any machine and for any number of workers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
from pydantic import ConfigDict, Field
from torch import Tensor

from vqpipe.artifacts.metrics import Metrics
from vqpipe.errors import DataError
from vqpipe.runtime.seeds import numpy_rng

CHUNK = 1 << 22
"""Draws of the bootstrap that are in memory at once."""
MEASURED = "measured"
"""The entry of a metrics file with the record."""
DIGITS = 16
"""Hexadecimal digits of SHA-256 in a digest."""


class Interval(Metrics):
    """A mean over images and its percentile-bootstrap 95 % interval (Efron 1979)."""

    mean: float
    """Over all images."""
    low: float
    """The 2.5th percentile of resampled means."""
    high: float
    """The 97.5th percentile of resampled means."""


class MeasuredImages(Metrics):
    """The images that numbers were measured on; other fields are digests of what belongs to them (`captions`)."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str] = Field(init=False)

    split: str
    """The name of their split."""
    num_images: int
    """Their number."""
    pixels: str
    """Channels x height x width."""
    digest: str
    """Of the pixels of all of them; neither order nor names count."""


class Measured(Metrics):
    """The record of what numbers were measured on, and how."""

    images: MeasuredImages
    """The images."""
    protocol: dict[str, Any]
    """All that a number depends on besides the images and what is measured, as nested JSON of numbers and text, with
    its `digest`."""


def interval(values: Float64[np.ndarray, " n"], num_bootstrap: int, seed: int) -> Interval:
    """The mean and its interval: images are resampled with replacement `num_bootstrap` times.

    The draws depend on `seed`, `n` and `num_bootstrap` alone, so that intervals of two measures of the same images
    use the same resamples.

    Raises:
        DataError: no values, or values that are not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise DataError("a mean needs at least one value, all finite", found=f"{values.size} values")
    rng = numpy_rng(seed, "bootstrap", values.size)
    means = np.empty(num_bootstrap)
    step = max(1, CHUNK // values.size)
    for start in range(0, num_bootstrap, step):
        stop = min(start + step, num_bootstrap)
        means[start:stop] = values[rng.integers(0, values.size, (stop - start, values.size))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(mean=float(values.mean()), low=float(low), high=float(high))


def intervals(
    table: Mapping[str, Float64[np.ndarray, " n"]], num_bootstrap: int, seed: int
) -> dict[str, Interval]:
    """`interval` of every column."""
    return {name: interval(values, num_bootstrap, seed) for name, values in table.items()}


class ImagesDigest:
    """A digest over the pixels of a set of images, as they were measured; neither order nor names count."""

    def __init__(self) -> None:
        self._digests: list[bytes] = []
        self._shapes: set[str] = set()

    def add(self, images: UInt8[Tensor, "b c h w"]) -> None:
        """Add images; how they are divided into batches makes no difference."""
        shape = " x ".join(map(str, images.shape[1:]))
        if len(images):
            self._shapes.add(shape)
        for image in images.cpu().numpy():
            self._digests.append(hashlib.sha256(shape.encode() + b"\0" + image.tobytes()).digest())

    def merge(self, other: ImagesDigest) -> None:
        """Add the images of another digest."""
        self._digests += other._digests
        self._shapes |= other._shapes

    def images(self, split: str, further: Mapping[str, str] | None = None) -> MeasuredImages:
        """The record of the images added so far, with `further` digests by name."""
        own = {
            "split": split, "num_images": len(self._digests), "pixels": ", ".join(sorted(self._shapes)),
            "digest": _short(b"".join(sorted(self._digests))),
        }  # fmt: skip
        return MeasuredImages.model_validate({**own, **(further or {})})


def text_digest(texts: Iterable[str]) -> str:
    """A digest over texts whose order does not count."""
    digests = sorted(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts)
    return _short(b"".join(digests))


def measured_with(images: MeasuredImages, protocol: Mapping[str, Any]) -> Measured:
    """The record of a measurement.

    Args:
        images: from `ImagesDigest.images`.
        protocol: see `Measured.protocol`, without the digest: the number of the code's protocol, params, the networks
            that give the numbers. Lists become text.
    """
    parts = _plain(protocol)
    return Measured(images=images, protocol={**parts, "digest": _short(_canonical(parts))})


def _plain(content: Any) -> Any:
    """Lists as text, since a summary of metrics has numbers and text alone."""
    if isinstance(content, Mapping):
        return {name: _plain(value) for name, value in content.items()}
    return ", ".join(map(str, content)) if isinstance(content, list | tuple) else content


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]
