"""What numbers were measured on, and how: a digest of the images and one of the protocol, with their readable parts.

Two runs can be compared where both digests agree. They hold no path, time or host, so equal inputs give equal digests
on any machine and for any number of workers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from jaxtyping import UInt8
from torch import Tensor

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
