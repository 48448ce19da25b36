"""Pictures for the page: PNG data URIs, thumbnails and heat maps of reconstruction errors."""

from __future__ import annotations

import base64
import io

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
    rgb = Image.fromarray(images.decode_png(content, where, stage)).convert("RGB")
    if max_pixels is not None and max(rgb.size) > max_pixels:
        scale = max_pixels / max(rgb.size)
        rgb = rgb.resize(
            (max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale))), Image.Resampling.BOX
        )
    return np.asarray(rgb)


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
