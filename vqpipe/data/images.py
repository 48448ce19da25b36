"""Image bytes to uint8 RGB and back: what is converted, what is refused, how images are resized.

Converted: grey, palette, CMYK, 1-bit and 16-bit images become 8-bit RGB; transparency is laid over white;
the orientation is applied; of an animation the first frame counts. Other metadata and colour profiles are
ignored, odd or not. Anything else is refused with a word of `vqpipe.data.reasons`.
"""

from __future__ import annotations

import io
import warnings
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vqpipe.data.metadata import bare, turn_of, upright
from vqpipe.errors import ArtifactError, of_system

Filter = Literal["box", "bilinear", "bicubic", "lanczos"]
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats that are opened; the others are rare and some start foreign programs."""
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif",
    ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
"""File name endings, in lower case, that are taken for images; the bytes say which of `FORMATS` they are."""

_FILTERS: dict[str, Image.Resampling] = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class BadImage(ValueError):
    """Bytes that give no image; `reason` is a word of `vqpipe.data.reasons`, `detail` what was seen."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def byte_limit(max_pixels: int) -> int:
    """More bytes than a file of `max_pixels` needs: 8 per pixel (16-bit RGBA) and 1 MiB for the rest."""
    return 8 * max_pixels + (1 << 20)


def decode(data: bytes, max_pixels: int) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an image file to uint8 RGB.

    The pixel count is checked on the header, before anything is decompressed. Where metadata stops the decoder, the
    file is decoded without it; a valid orientation in it is applied all the same.

    Raises:
        BadImage: with reason `empty_file`, `undecodable`, `truncated`, `too_many_pixels` or
            `unsupported_pixels`.
    """
    if not data:
        raise BadImage("empty_file", "0 bytes")
    try:
        return _decode(data, max_pixels)
    except BadImage as error:
        plain = bare(data) if error.reason in ("undecodable", "truncated") else None
        if plain is None:
            raise
        try:
            image = _decode(plain.data, max_pixels)
        except BadImage:
            raise error from None
        return np.array(upright(Image.fromarray(image), plain.turn))


def _decode(data: bytes, max_pixels: int) -> UInt8[np.ndarray, "h w 3"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    found = f"{image.width} x {image.height} pixels, at most {max_pixels} allowed"
                    raise BadImage("too_many_pixels", found)
                image.load()
                return to_rgb(image)
    except (BadImage, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise BadImage("too_many_pixels", str(error)) from error
    except Exception as error:  # Pillow's plugins raise a dozen kinds on damaged bytes
        detail = (f"{type(error).__name__}: {error}".splitlines() or [""])[0].split(" <_io.")[0]
        text = detail.lower()
        cut = any(word in text for word in ("truncated", "unexpected end", "not enough image data"))
        raise BadImage("truncated" if cut else "undecodable", detail) from error


def to_rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """An opened image as uint8 RGB, upright, converted as the module's text says.

    Raises:
        BadImage: with reason `unsupported_pixels`.
    """
    image.load()
    return np.array(_to_rgb(upright(image, turn_of(image))))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray(_sixteen_to_eight(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise BadImage("unsupported_pixels", "mode F (floating point)")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _sixteen_to_eight(values: np.ndarray) -> UInt8[np.ndarray, "h w"]:
    """Scale 0..65535 to 0..255 with rounding; Pillow's own conversion would clip at 255."""
    wide = values.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise BadImage("unsupported_pixels", f"integers from {wide.min()} to {wide.max()}")
    return ((wide * 255 + 32767) // 65535).astype(np.uint8)


def target_shape(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width after scaling the shorter side to `short_side`, the longer one rounded."""
    short = min(height, width)
    return (
        short_side if height == short else (2 * height * short_side + short) // (2 * short),
        short_side if width == short else (2 * width * short_side + short) // (2 * short),
    )


def resize(
    image: UInt8[np.ndarray, "h w 3"], shape: tuple[int, int], filter: Filter
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resize to (height, width) with a filter whose support grows with the reduction (antialiased)."""
    if image.shape[:2] == shape:
        return image
    return np.array(Image.fromarray(image).resize((shape[1], shape[0]), _FILTERS[filter]))


def centre_square(image: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "side side 3"]:
    """Scale the shorter side to `side` pixels (Lanczos, antialiased) and cut out the centre.

    What every tool outside the pipeline does to an image before it reaches a tokenizer.
    """
    scaled = resize(image, target_shape(image.shape[0], image.shape[1], side), "lanczos")
    top, left = (scaled.shape[0] - side) // 2, (scaled.shape[1] - side) // 2
    return np.ascontiguousarray(scaled[top : top + side, left : left + side])


def resize_labels(labels: UInt8[np.ndarray, "h w"], shape: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2"]:
    """Resize a map of class numbers to (height, width) by the nearest pixel: no number is invented."""
    if labels.shape == shape:
        return labels
    return np.array(Image.fromarray(labels).resize((shape[1], shape[0]), Image.Resampling.NEAREST))


def encode_png(image: np.ndarray) -> bytes:
    """Encode uint8 (h, w, 3) or (h, w) as PNG, fast (zlib level 1); equal pixels give equal bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def decode_png(data: bytes | None, where: str = "a PNG image", stage: str | None = None) -> np.ndarray:
    """Decode what `encode_png` wrote.

    Args:
        data: the file's bytes.
        where: the artifact and the image in it, for the message.
        stage: the stage that makes the artifact.

    Raises:
        ArtifactError: the bytes give no image.
    """
    try:
        with Image.open(io.BytesIO(data or b""), formats=("PNG",)) as image:
            return np.array(image)
    except Exception as error:  # as in `_decode`
        if of_system(error) is not None:
            raise
        detail = (f"{type(error).__name__}: {error}".splitlines() or [""])[0].split(" <_io.")[0]
        raise damaged_image(where, detail if data else "0 bytes", stage) from error


def damaged_image(where: str, found: str, stage: str | None) -> ArtifactError:
    """The error for an image of an artifact, which was whole when it was written."""
    run = "dvc checkout" + (f", or dvc repro {stage}" if stage else "")
    return ArtifactError(f"{where} is damaged", found=found, expected="the image that was written", run=run)
