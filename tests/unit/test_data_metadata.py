"""Sound pixels are used whatever metadata lies beside them, and are turned where a valid orientation is readable."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from vqpipe.data.images import BadImage, decode

MAX_PIXELS = 1 << 20
X, Y = np.meshgrid(np.arange(96), np.arange(64))
PICTURE = np.stack([X * 2, Y * 3, X + Y], -1).astype(np.uint8)


def saved(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, kind, **options)
    return buffer.getvalue()


JPEG = saved("JPEG", quality=90)
PLAIN = decode(JPEG, MAX_PIXELS)
TURNS = {
    1: PLAIN, 2: PLAIN[:, ::-1], 3: PLAIN[::-1, ::-1], 4: PLAIN[::-1], 5: PLAIN.transpose(1, 0, 2),
    6: np.rot90(PLAIN, -1), 7: PLAIN[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(PLAIN),
}  # fmt: skip
SHORT, LONG, RATIONAL, ASCII, SIGNED = 3, 4, 5, 2, 9
AT = 8 + 2 + 12 * 2 + 4
"""Where the data behind two tags begins."""


def tags(*entries: tuple[int, int, int, bytes], behind: bytes = b"", order: str = "<") -> bytes:
    """A TIFF header with one list of tags (number, type, count, four bytes of value)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    body = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    return head + struct.pack(order + "H", len(entries)) + body + struct.pack(order + "I", 0) + behind


def turned(value: int, order: str = "<") -> tuple[int, int, int, bytes]:
    return (0x112, SHORT, 1, struct.pack(order + "HH", value, 0))


def word(value: int) -> bytes:
    return struct.pack("<I", value)


def app1(payload: bytes, jpeg: bytes = JPEG) -> bytes:
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + jpeg[2:]


def exif(payload: bytes) -> bytes:
    return app1(b"Exif\0\0" + payload)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", TURNS)
def test_each_orientation_is_applied(value: int, order: str) -> None:
    assert np.array_equal(decode(exif(tags(turned(value, order), order=order)), MAX_PIXELS), TURNS[value])


ODD_TURNED = {
    "a resolution with denominator zero": tags(turned(6), (0x11A, RATIONAL, 1, word(AT)), behind=word(72) + word(0)),
    "two resolutions": tags(turned(6), (0x11A, RATIONAL, 2, word(AT)), behind=word(72) + word(1)),
    "an offset far behind the end": tags(turned(6), (0x10F, ASCII, 40, word(60_000))),
    "a width that is a ratio": tags(turned(6), (0x100, RATIONAL, 1, word(AT)), behind=word(96) + word(1)),
    "a GPS list behind the end": tags(turned(6), (0x8825, LONG, 1, word(9999))),
    "a maker that is a number": tags(turned(6), (0x10F, SHORT, 1, word(7))),
    "a negative offset": tags(turned(6), (0x8769, SIGNED, 1, struct.pack("<i", -1))),
    "a list of tags at 0": tags(turned(6), (0x8769, LONG, 1, word(0))),
    "a tag of an unknown type": tags(turned(6), (0x10F, 77, 1, word(1))),
    "a count of billions": tags(turned(6), (0x10F, ASCII, 0xFFFFFFFF, word(AT))),
    "an orientation that is a list": tags((0x112, SHORT, 2, struct.pack("<HH", 6, 1))),
    "the header twice": b"Exif\0\0" + tags(turned(6)),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_TURNED)
def test_odd_tags_beside_an_orientation_cost_neither(name: str) -> None:
    assert np.array_equal(decode(exif(ODD_TURNED[name]), MAX_PIXELS), TURNS[6])


ODD_PLAIN = {
    "nothing": b"", "garbage": b"GARBAGE!" * 4, "a header cut short": tags(turned(6))[:11],
    "an orientation of 0": tags(turned(0)), "an orientation of 9": tags(turned(9)),
    "a huge orientation": tags(turned(65_535)),
    "an orientation as text": tags((0x112, ASCII, 4, b"6\0\0\0")),
    "a list of tags behind the end": b"II*\0" + word(60_000),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_PLAIN)
def test_what_is_no_orientation_turns_nothing(name: str) -> None:
    assert np.array_equal(decode(exif(ODD_PLAIN[name]), MAX_PIXELS), PLAIN)


def test_odd_parts_of_a_jpeg_are_passed_over() -> None:
    profile = app1(b"", JPEG)  # an empty part
    icc = JPEG[:2] + b"\xff\xe2" + struct.pack(">H", 20) + b"ICC_PROFILE\0\x05\x01junk" + JPEG[2:]
    multi = JPEG[:2] + b"\xff\xe2" + struct.pack(">H", 14) + b"MPF\0II*\0\xff\xff\xff\xff" + JPEG[2:]
    xmp = app1(b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta broken")
    for data in (profile, icc, multi, xmp, JPEG + b"trailing" * 100, exif(tags(turned(1)) + b"\0" * 60_000)):
        assert np.array_equal(decode(data, MAX_PIXELS), PLAIN)


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    check = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def with_chunk(extra: bytes) -> bytes:
    png = saved("PNG")
    return png[:33] + extra + png[33:]


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * (PngImagePlugin.MAX_TEXT_CHUNK + 1))),
        chunk(b"iCCP", b"name\0\0notzlib"),
        chunk(b"iCCP", b"name\0\x07notzlib"),
        chunk(b"tEXt", b"k\0v", crc=1),
        chunk(b"pHYs", b"\0"),
        chunk(b"gAMA", b""),
        chunk(b"eXIf", b"GARBAGE!"),
        chunk(b"zzZz", b"private"),
        chunk(b"acTL", b"\0" * 8),
    ],
    ids=["text bomb", "iccp", "iccp method", "text crc", "phys", "gama", "exif", "private", "animation"],
)  # fmt: skip
def test_odd_chunks_of_a_png_are_passed_over(extra: bytes) -> None:
    assert np.array_equal(decode(with_chunk(extra), MAX_PIXELS), PICTURE)


def test_a_png_and_a_webp_are_turned_by_their_exif() -> None:
    assert np.array_equal(
        decode(with_chunk(chunk(b"eXIf", tags(turned(6)))), MAX_PIXELS), np.rot90(PICTURE, -1)
    )
    webp = saved("WEBP", lossless=True, exif=b"Exif\0\0" + tags(turned(8)))
    assert np.array_equal(decode(webp, MAX_PIXELS), np.rot90(PICTURE))


def test_damaged_pixels_stay_damaged() -> None:
    bad_crc = with_chunk(b"").replace(b"IDAT", b"IDAU", 1)
    for data in (JPEG[: len(JPEG) // 2], exif(tags(turned(6)))[:600], bad_crc):
        with pytest.raises(BadImage) as caught:
            decode(data, MAX_PIXELS)
        assert caught.value.reason in ("truncated", "undecodable")
