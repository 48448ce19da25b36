"""What an image file holds beside its pixels: the orientation is read, the rest is never a reason to lose the pixels.

`bare` rebuilds a file from the parts that its pixels need, byte for byte: for files whose other parts (EXIF, XMP,
colour profiles, text, thumbnails, further frames) stop a decoder. Nothing of the pixels is mended: a damaged image
stays one.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image
from PIL.Image import Transpose

ORIENTATION = 0x0112
_TURNS: dict[Any, Transpose] = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip
_TIFF_TAGS = frozenset((
    254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332,
    336, 338, 339, 340, 341, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532,
))  # fmt: skip
"""Tags that say how a TIFF's pixels are stored, and the orientation."""


def turn_of(image: Image.Image) -> Transpose | None:
    """How an opened image is turned to be upright, by its EXIF or XMP; None where neither says so in a readable way."""
    for _ in range(2):  # Pillow keeps the tags that it read before one that it cannot read
        try:
            return _TURNS.get(image.getexif().get(ORIENTATION))
        except Exception:  # odd metadata raises a dozen kinds, and an unhashable value one more
            continue
    return None


def upright(image: Image.Image, turn: Transpose | None) -> Image.Image:
    """The image turned; its metadata is not written anew, as odd metadata cannot be."""
    return image if turn is None else image.transpose(turn)


@dataclass(frozen=True, slots=True)
class Bare:
    """A file without what its pixels do not need, and the turn that the removed metadata asked for."""

    data: bytes
    turn: Transpose | None


def bare(data: bytes) -> Bare | None:
    """A JPEG, PNG, WebP or TIFF without metadata; None for another format, or parts that cannot be told apart."""
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


def _bare_jpeg(data: bytes) -> Bare | None:
    kept, exif, xmp, at = [data[:2]], list[bytes](), list[bytes](), 2
    while True:
        if data[at] != 0xFF:
            return None  # what follows may be a thumbnail: better no image than another one
        while data[at + 1] == 0xFF:
            at += 1
        marker = data[at + 1]
        if marker == 0xDA:
            return Bare(b"".join([*kept, data[at:]]), _turn(exif, xmp))
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


def _bare_png(data: bytes) -> Bare:
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
    return Bare(b"".join(kept), _turn(exif, xmp))


def _bare_webp(data: bytes) -> Bare:
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
    return Bare(b"RIFF" + struct.pack("<I", len(body)) + body, _turn(exif, xmp))


def _bare_tiff(data: bytes) -> Bare:
    """The first page's tags of the pixels, written over its list of tags; the orientation stays one of them."""
    order, big = ("<" if data[:1] == b"I" else ">"), data[2:4] in (b"+\0", b"\0+")
    start = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    count_format, next_format = (order + "Q", order + "Q") if big else (order + "H", order + "I")
    count = struct.unpack_from(count_format, data, start)[0]
    listed = _tags(data, start + struct.calcsize(count_format), count, 20 if big else 12)
    kept = [entry for entry in listed if _is_needed(order, entry, big)]
    table = struct.pack(count_format, len(kept)) + b"".join(kept) + struct.pack(next_format, 0)
    return Bare(data[:start] + table + data[start + len(table) :], None)


def _tags(data: bytes, start: int, count: int, width: int) -> Iterator[bytes]:
    for at in range(start, min(start + count * width, len(data) - width + 1), width):
        yield data[at : at + width]


def _is_needed(order: str, entry: bytes, big: bool) -> bool:
    """Whether a TIFF tag is one of the pixels, or an orientation that is one number from 1 to 8."""
    tag, kind, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), entry)
    if tag != ORIENTATION:
        return tag in _TIFF_TAGS
    return (kind, number) == (3, 1) and 1 <= struct.unpack_from(order + "H", entry, 12 if big else 8)[0] <= 8
