"""What numbers were measured on, and how: a digest of the images and one of the protocol, with their readable parts.

Two runs can be compared where both digests agree. They hold no path, time or host, so equal inputs give equal digests
on any machine and for any number of workers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Float64, UInt8
from torch import Tensor

from vqpipe.errors import DataError
from vqpipe.runtime.seeds import numpy_rng

MEASURED = "measured"
"""The entry of a metrics file that holds the record."""
DIGITS = 16
"""Hexadecimal digits of SHA-256 that are kept."""


class Measured(TypedDict):
    """The record; each side is nested JSON with its `digest`."""

    images: dict[str, Any]
    protocol: dict[str, Any]


class ImagesDigest:
    """A digest over the pixels of a set of images, as they were measured; neither order nor names count."""

    def __init__(self) -> None:
        self._digests: list[bytes] = []
        self._shapes: set[str] = set()

    def add(self, images: UInt8[Tensor, "b c h w"]) -> None:
        """Take further images; how they are divided into batches makes no difference."""
        shape = " x ".join(map(str, images.shape[1:]))
        if len(images):
            self._shapes.add(shape)
        for image in images.cpu().numpy():
            self._digests.append(hashlib.sha256(shape.encode() + b"\0" + image.tobytes()).digest())

    def record(self, split: str) -> dict[str, Any]:
        """`split`, `num_images`, `pixels` (channels x height x width) and `digest`."""
        return {
            "split": split, "num_images": len(self._digests), "pixels": ", ".join(sorted(self._shapes)),
            "digest": _short(b"".join(sorted(self._digests))),
        }  # fmt: skip


def text_digest(texts: Iterable[str]) -> str:
    """A digest over texts whose order does not count."""
    digests = sorted(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts)
    return _short(b"".join(digests))


def measured(images: Mapping[str, Any], protocol: Mapping[str, Any]) -> Measured:
    """The record of an evaluation.

    Args:
        images: as `ImagesDigest.record`.
        protocol: all that a number depends on besides the images and what is measured, as nested JSON: the number of
            the code's protocol, params, the networks that judge.
    """
    parts = _plain(protocol)
    return {"images": dict(images), "protocol": {**parts, "digest": _short(_canonical(parts))}}


def _plain(content: Any) -> Any:
    """Lists as text, since a summary of metrics keeps numbers and text alone."""
    if isinstance(content, Mapping):
        return {name: _plain(value) for name, value in content.items()}
    return ", ".join(map(str, content)) if isinstance(content, list | tuple) else content


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]


# MERGED DOC (fold into the docstring, then delete): """Means with 95 % intervals by the bootstrap."""

CHUNK = 1 << 22
"""Draws held in memory at once."""


def mean_interval(values: Float64[np.ndarray, " n"], num_bootstrap: int, seed: int) -> dict[str, float]:
    """The mean and its percentile-bootstrap 95 % interval (Efron 1979): `{"mean", "low", "high"}`.

    Images are resampled with replacement `num_bootstrap` times; `low` and `high` are the 2.5th and 97.5th
    percentiles of the resampled means. The draws depend on `seed`, `n` and `num_bootstrap` alone, so
    intervals of two measures of the same images rest on the same resamples.

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
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def summarise(
    table: Mapping[str, Float64[np.ndarray, " n"]], num_bootstrap: int, seed: int
) -> dict[str, dict[str, float]]:
    """`mean_interval` of every column."""
    return {name: mean_interval(values, num_bootstrap, seed) for name, values in table.items()}
