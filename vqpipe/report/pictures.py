"""Pictures for the page: PNG data URIs, thumbnails and heat maps of reconstruction errors."""

from __future__ import annotations

import base64
import io
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from markupsafe import Markup
from PIL import Image

from vqpipe.data import images
from vqpipe.report.blocks import Picture

_RAMP = np.array(
    [
        (0, 0, 12),
        (50, 10, 90),
        (120, 28, 109),
        (188, 55, 84),
        (237, 105, 37),
        (251, 180, 26),
        (252, 255, 164),
    ],
    dtype=np.float64,
)
"""Anchor colours of the heat map, from no error to the largest; lightness rises along it."""


_SIGNED = np.array(
    [(33, 80, 160), (146, 190, 222), (247, 247, 245), (244, 165, 115), (165, 25, 45)], dtype=np.float64
)
"""Anchor colours from -1 (blue) over 0 (near white) to 1 (red)."""


def decode_png(
    content: bytes, max_pixels: int | None = None, where: str = "a picture", stage: str | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a PNG file to RGB; shrink it (area average) where its longer side exceeds `max_pixels`.

    Args:
        where, stage: as for `vqpipe.data.images.decode_png`.

    Raises:
        ArtifactError: the bytes give no image.
    """
    return shrunk(
        np.asarray(Image.fromarray(images.decode_png(content, where, stage)).convert("RGB")), max_pixels
    )


def shrunk(pixels: UInt8[np.ndarray, "h w 3"], max_pixels: int | None) -> UInt8[np.ndarray, "h w 3"]:
    """The picture, area averaged where its longer side exceeds `max_pixels`."""
    height, width = pixels.shape[:2]
    if max_pixels is None or max(height, width) <= max_pixels:
        return pixels
    scale = max_pixels / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


HIDDEN = (235, 235, 235)
"""The colour of what is not known of a picture."""


def decode_labels(content: bytes, where: str) -> UInt8[np.ndarray, "h w"]:
    """The classes of a label map or mask that a prior's folder has as a PNG of one channel.

    Raises:
        ArtifactError: the bytes give no image.
    """
    return images.decode_png(content, where, "prior")


@cache
def palette() -> UInt8[np.ndarray, "256 3"]:
    """White, then colours of which each is as far from all before it as a grid of 7 x 7 x 7 colours allows."""
    levels = np.linspace(30, 235, 7)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    chosen = [np.full(3, 255.0)]
    nearest = np.full(len(grid), np.inf)
    while len(chosen) < 256:
        nearest = np.minimum(nearest, np.square(grid - chosen[-1]).sum(1))
        chosen.append(grid[nearest.argmax()])
    return np.round(chosen).astype(np.uint8)


def label_colours(classes: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """A label map in the colours of `palette`: 0, no class, is white."""
    return palette()[classes]


def picture(pixels: UInt8[np.ndarray, "h w 3"], alt: str, caption: str = "", right: bool = False) -> Picture:
    """A picture of RGB pixels, as PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(uri, alt, pixels.shape[1], pixels.shape[0], caption, right)


def mean_error(a: UInt8[np.ndarray, "h w 3"], b: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """Absolute difference of two pictures, averaged over the channels, in grey levels of [0, 255]."""
    return np.abs(a.astype(np.float64) - b.astype(np.float64)).mean(axis=2)


def heat_map(values: Float[np.ndarray, "h w"], top: float) -> UInt8[np.ndarray, "h w 3"]:
    """Colour values of [0, top]; larger ones get the last colour."""
    return _along(_RAMP, np.clip(values / top, 0, 1))


def signed_map(values: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colour values of [-1, 1]: blue below 0, red above."""
    return _along(_SIGNED, (np.clip(values, -1, 1) + 1) / 2)


def _along(ramp: Float[np.ndarray, "n 3"], share: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    at = share * (len(ramp) - 1)
    low = np.minimum(at.astype(np.int64), len(ramp) - 2)
    part = (at - low)[..., None]
    return np.round(ramp[low] * (1 - part) + ramp[low + 1] * part).astype(np.uint8)


def heat_scale() -> str:
    """The CSS gradient of `heat_map`'s colours, from no error on."""
    return _gradient(_RAMP)


def signed_scale() -> str:
    """The CSS gradient of `signed_map`'s colours, from -1 to 1."""
    return _gradient(_SIGNED)


def scale_bar(text: str, gradient: str, low: str, high: str) -> Markup:
    """A bar of colours with the values at its ends, such as `scale_bar("norm", heat_scale(), "0", "2")`."""
    return Markup('<p class="scale">{} {}<span style="background:{}"></span>{}</p>').format(
        text, low, gradient, high
    )


def _gradient(ramp: Float[np.ndarray, "n 3"]) -> str:
    stops = ", ".join(f"rgb({int(r)} {int(g)} {int(b)})" for r, g, b in ramp)
    return f"linear-gradient(to right, {stops})"
