"""Encoded images to squares of a network's input, as CLIP's preprocessing does it; what worker processes run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vqpipe.data.images import BadImage, decode

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
RESIZE_MODES = ("shortest", "squash")

Encoded = tuple[bytes | None, int, int]
"""An encoded image, and the height and width that its row says."""


@dataclass(frozen=True)
class Fit:
    """How an image of any shape becomes a square; the names are those of open_clip's `preprocess_cfg`."""

    side: int
    """Height and width of the square, pixels."""
    interpolation: str
    """`bicubic` or `bilinear`, antialiased."""
    resize_mode: str
    """`shortest` scales the shorter side and takes the centre, `squash` stretches."""

    def __post_init__(self) -> None:
        assert self.interpolation in FILTERS, self.interpolation
        assert self.resize_mode in RESIZE_MODES, self.resize_mode


@dataclass(frozen=True)
class Fitted:
    """The images of some rows: those that could be read, and why the others could not."""

    pixels: UInt8[np.ndarray, "m 3 s s"]
    bad: tuple[tuple[int, str, str], ...]
    """Place among the rows, a word of `vqpipe.data.reasons`, what was seen."""


def fit_square(image: UInt8[np.ndarray, "h w 3"], fit: Fit) -> UInt8[np.ndarray, "s s 3"]:
    """Resize with Pillow, upwards or downwards, and take the centre, where open_clip's transform takes it.

    Only the part that is kept is computed, so that a very long image costs no more than a square one.
    """
    height, width = image.shape[:2]
    side, short = fit.side, min(height, width)
    if (height, width) == (side, side):
        return image
    box = (0.0, 0.0, float(width), float(height))
    if fit.resize_mode == "shortest" and height != width:
        long = side * max(height, width) // short
        scale = max(height, width) / long
        first = round((long - side) / 2.0) * scale
        last = min(first + side * scale, float(max(height, width)))
        box = (first, 0.0, last, float(height)) if width > height else (0.0, first, float(width), last)
    return np.asarray(Image.fromarray(image).resize((side, side), FILTERS[fit.interpolation], box=box))


def fit_images(fit: Fit, rows: Sequence[Encoded]) -> Fitted:
    """Decode rows and fit them; a row that gives no image is left out with its reason."""
    pixels: list[UInt8[np.ndarray, "s s 3"]] = []
    bad: list[tuple[int, str, str]] = []
    for at, (data, height, width) in enumerate(rows):
        try:
            image = decode(data or b"", max(height * width, 1))
            if image.shape[:2] != (height, width):
                found = f"{image.shape[1]} x {image.shape[0]} pixels, the row says {width} x {height}"
                raise BadImage("size_mismatch", found)
            pixels.append(fit_square(image, fit))
        except BadImage as error:
            bad.append((at, error.reason, error.detail))
    planes = np.empty((len(pixels), 3, fit.side, fit.side), dtype=np.uint8)
    for plane, image in zip(planes, pixels, strict=True):
        plane[:] = image.transpose(2, 0, 1)
    return Fitted(planes, tuple(bad))
