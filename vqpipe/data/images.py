"""Image bytes to uint8 RGB and back: what is converted, what is refused, how images are resized.

Converted: grey, palette, CMYK, 1-bit and 16-bit images become 8-bit RGB; transparency is laid over white; the
orientation is applied; of an animation the first frame is used. Other metadata and colour profiles are ignored, valid
or not. Anything else is refused with a reason of `vqpipe.data.records.REASONS`.

Metadata is never a reason to lose an image. Where it stops the decoder, `without_metadata` rebuilds the file from the
parts that its pixels need, byte for byte: EXIF, XMP, colour profiles, text, thumbnails and further frames are left out.
Pixels are not repaired: a damaged image stays damaged.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.Image import Transpose

from vqpipe.errors import ArtifactError, of_system

Filter = Literal["box", "bilinear", "bicubic", "lanczos"]
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats that are opened; the others are rare and some start foreign programs."""
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif",
    ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
"""File name endings, in lower case, that are taken for images; the bytes decide which of `FORMATS` they are."""

_FILTERS: dict[str, Image.Resampling] = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class BadImage(ValueError):
    """Bytes that give no image; `reason` is a word of `vqpipe.data.records.REASONS`, `detail` is what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def byte_limit(max_pixels: int) -> int:
    """More bytes than a file of `max_pixels` needs: 8 per pixel (16-bit RGBA) and 1 MiB for the rest."""
    return 8 * max_pixels + (1 << 20)


def decode(data: bytes, max_pixels: int) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an image file to uint8 RGB.

    The pixel count is checked on the header, before anything is decompressed. Where metadata stops the decoder, the
    file is decoded without it; a valid orientation in it is still applied.

    Raises:
        BadImage: with reason `empty_file`, `undecodable`, `truncated`, `too_many_pixels` or
            `unsupported_pixels`.
    """
    if not data:
        raise BadImage("empty_file", "0 bytes")
    try:
        return _decode(data, max_pixels)
    except BadImage as error:
        plain = without_metadata(data) if error.reason in ("undecodable", "truncated") else None
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
        detail = _first_line(error)
        text = detail.lower()
        cut = any(word in text for word in ("truncated", "unexpected end", "not enough image data"))
        raise BadImage("truncated" if cut else "undecodable", detail) from error


def _first_line(error: Exception) -> str:
    """What Pillow reports about damaged bytes, without the address of the stream."""
    return f"{type(error).__name__}: {error}".splitlines()[0].split(" <_io.")[0]


def to_rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """An opened image as uint8 RGB, upright, converted as described above.

    Raises:
        BadImage: with reason `unsupported_pixels`.
    """
    image.load()
    # Pillow's mode of unsigned 16 bits in a TIFF is I;16; in PNG and PPM it is I too.
    if image.mode == "I" and image.format == "TIFF":
        raise BadImage("unsupported_pixels", "integers of 32 bits, or with a sign")
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


LONGEST = 8
"""How many times as long as wide an image may be to be scaled whole for its centre."""


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

    What every tool outside the pipeline does to an image before it reaches a tokenizer. Of an image that is more than
    `LONGEST` times as long as wide only the middle is read, so that a long one costs no more.
    """
    height, width = image.shape[:2]
    kept = LONGEST * min(height, width)
    top, left = max(0, height - kept) // 2, max(0, width - kept) // 2
    image = image[top : top + kept, left : left + kept]
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
        raise damaged_image(where, _first_line(error) if data else "0 bytes", stage) from error


def damaged_image(where: str, found: str, stage: str | None) -> ArtifactError:
    """The error for an image of an artifact, which was whole when it was written."""
    run = "dvc checkout" + (f", or dvc repro {stage}" if stage else "")
    return ArtifactError(f"{where} is damaged", found=found, expected="the image that was written", run=run)


ORIENTATION = 0x0112
_TURNS: dict[Any, Transpose] = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip
_TIFF_TAGS = frozenset((
    254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332,
    336, 338, 339, 340, 341, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532,
))  # fmt: skip
"""Tags that state how a TIFF's pixels are stored, and the orientation."""


def turn_of(image: Image.Image) -> Transpose | None:
    """How an opened image is turned to be upright, by its EXIF or XMP; None where neither can be read."""
    for _ in range(2):  # Pillow keeps the tags that it read before one that it cannot read
        try:
            return _TURNS.get(image.getexif().get(ORIENTATION))
        except Exception:  # invalid metadata raises many kinds of error
            continue
    return None


def upright(image: Image.Image, turn: Transpose | None) -> Image.Image:
    """The image turned; its metadata is dropped, since invalid metadata cannot be written again."""
    return image if turn is None else image.transpose(turn)


@dataclass(frozen=True, slots=True)
class _PlainFile:
    """A file without what its pixels do not need, and the turn that the removed metadata states."""

    data: bytes
    turn: Transpose | None


def without_metadata(data: bytes) -> _PlainFile | None:
    """A JPEG, PNG, WebP or TIFF without metadata; None for another format, or parts that cannot be separated."""
    try:
        if data.startswith(b"\xff\xd8"):
            return _bare_jpeg(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _bare_png(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _bare_webp(data)
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _bare_tiff(data)
    except (struct.error, IndexError):
        pass
    return None


def _turn(exif: list[bytes], xmp: list[bytes]) -> Transpose | None:
    """The turn by raw EXIF (a TIFF header and its tags), or else by raw XMP."""
    for raw in exif:
        tags = Image.Exif()
        for _ in range(2):
            try:
                tags.load(raw)
                value = tags.get(ORIENTATION)
                if value is not None:
                    return _TURNS.get(value)
            except Exception:  # as above
                continue
    found = [re.search(rb'tiff:Orientation(?:="|>)([0-9])', raw) for raw in xmp]
    return next((_TURNS.get(int(match[1])) for match in found if match), None)


def _bare_jpeg(data: bytes) -> _PlainFile | None:
    kept, exif, xmp, at = [data[:2]], list[bytes](), list[bytes](), 2
    while True:
        if data[at] != 0xFF:
            return None  # what follows may be a thumbnail: better no image than another one
        while data[at + 1] == 0xFF:
            at += 1
        marker = data[at + 1]
        if marker == 0xDA:
            return _PlainFile(b"".join([*kept, data[at:]]), _turn(exif, xmp))
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        body = data[at + 4 : end]
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif.append(body)
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/"):
            xmp.append(body)
        jfif = marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14
        adobe = marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12
        if jfif or adobe or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(data[at:end])
        at = end


def _bare_png(data: bytes) -> _PlainFile:
    kept, exif, xmp, at = [data[:8]], list[bytes](), list[bytes](), 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind == b"eXIf":
            exif.append(data[at + 8 : end - 4])
        elif kind == b"iTXt" and data[at + 8 : end].startswith(b"XML:com.adobe.xmp\0\0"):
            xmp.append(data[at + 8 : end - 4])
        if not kind[0] & 0x20 or kind == b"tRNS":  # a lower case first letter marks what is not needed
            kept.append(data[at:end])
        at = end
    return _PlainFile(b"".join(kept), _turn(exif, xmp))


def _bare_webp(data: bytes) -> _PlainFile:
    kept, exif, xmp, at = list[bytes](), list[bytes](), list[bytes](), 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        end = at + 8 + length + length % 2
        if kind == b"EXIF":
            exif.append(data[at + 8 : at + 8 + length])
        elif kind == b"XMP ":
            xmp.append(data[at + 8 : at + 8 + length])
        elif kind == b"VP8X":
            kept.append(data[at : at + 8] + bytes([data[at + 8] & ~0x2C]) + data[at + 9 : end])
        elif kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            kept.append(data[at:end])
        at = end
    body = b"WEBP" + b"".join(kept)
    return _PlainFile(b"RIFF" + struct.pack("<I", len(body)) + body, _turn(exif, xmp))


def _bare_tiff(data: bytes) -> _PlainFile:
    """The first page's tags of the pixels, written over its list of tags; the orientation stays one of them."""
    order, big = ("<" if data[:1] == b"I" else ">"), data[2:4] in (b"+\0", b"\0+")
    start = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    count_format, next_format = (order + "Q", order + "Q") if big else (order + "H", order + "I")
    count = struct.unpack_from(count_format, data, start)[0]
    listed = _tags(data, start + struct.calcsize(count_format), count, 20 if big else 12)
    kept = [entry for entry in listed if _is_needed(order, entry, big)]
    table = struct.pack(count_format, len(kept)) + b"".join(kept) + struct.pack(next_format, 0)
    return _PlainFile(data[:start] + table + data[start + len(table) :], None)


def _tags(data: bytes, start: int, count: int, width: int) -> Iterator[bytes]:
    for at in range(start, min(start + count * width, len(data) - width + 1), width):
        yield data[at : at + width]


def _is_needed(order: str, entry: bytes, big: bool) -> bool:
    """Whether a TIFF tag is one of the pixels, or an orientation that is one number from 1 to 8."""
    tag, kind, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), entry)
    if tag != ORIENTATION:
        return tag in _TIFF_TAGS
    return (kind, number) == (3, 1) and 1 <= struct.unpack_from(order + "H", entry, 12 if big else 8)[0] <= 8


INTERPOLATIONS = ("bicubic", "bilinear")
RESIZE_MODES = ("shortest", "squash")

Encoded = tuple[bytes | None, int, int]
"""An encoded image, and the height and width that its row states."""


@dataclass(frozen=True)
class Preprocess:
    """How an image of any shape becomes the square input of a CLIP; names are those of open_clip's `preprocess_cfg`."""

    side: int
    """Height and width of the square, pixels."""
    interpolation: str
    """`bicubic` or `bilinear`, antialiased."""
    resize_mode: str
    """`shortest` scales the shorter side and takes the centre, `squash` stretches."""

    def __post_init__(self) -> None:
        assert self.interpolation in INTERPOLATIONS, self.interpolation
        assert self.resize_mode in RESIZE_MODES, self.resize_mode


@dataclass(frozen=True)
class DecodedSquares:
    """The images of some rows: those that could be read, and why the others could not."""

    pixels: UInt8[np.ndarray, "m 3 s s"]
    bad: tuple[tuple[int, str, str], ...]
    """Number of the row, a word of `vqpipe.data.records.REASONS`, what was found."""


def to_square(image: UInt8[np.ndarray, "h w 3"], preprocess: Preprocess) -> UInt8[np.ndarray, "s s 3"]:
    """Resize with Pillow, upwards or downwards, and take the centre, where open_clip's transform takes it.

    Only the part that is kept is computed, so that a very long image costs no more than a square one.
    """
    height, width = image.shape[:2]
    side, short = preprocess.side, min(height, width)
    if (height, width) == (side, side):
        return image
    box = (0.0, 0.0, float(width), float(height))
    if preprocess.resize_mode == "shortest" and height != width:
        long = side * max(height, width) // short
        scale = max(height, width) / long
        first = round((long - side) / 2.0) * scale
        last = min(first + side * scale, float(max(height, width)))
        box = (first, 0.0, last, float(height)) if width > height else (0.0, first, float(width), last)
    return np.asarray(
        Image.fromarray(image).resize((side, side), _FILTERS[preprocess.interpolation], box=box)
    )


def decode_squares(preprocess: Preprocess, rows: Sequence[Encoded]) -> DecodedSquares:
    """Decode rows to squares, in a worker process; a row that gives no image is left out with its reason."""
    pixels: list[UInt8[np.ndarray, "s s 3"]] = []
    bad: list[tuple[int, str, str]] = []
    for at, (data, height, width) in enumerate(rows):
        try:
            image = decode(data or b"", max(height * width, 1))
            if image.shape[:2] != (height, width):
                found = f"{image.shape[1]} x {image.shape[0]} pixels, the row says {width} x {height}"
                raise BadImage("size_mismatch", found)
            pixels.append(to_square(image, preprocess))
        except BadImage as error:
            bad.append((at, error.reason, error.detail))
    planes = np.empty((len(pixels), 3, preprocess.side, preprocess.side), dtype=np.uint8)
    for plane, image in zip(planes, pixels, strict=True):
        plane[:] = image.transpose(2, 0, 1)
    return DecodedSquares(planes, tuple(bad))
