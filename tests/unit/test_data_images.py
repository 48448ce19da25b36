"""Image bytes that are sound, odd, damaged or hostile, and metadata that never costs sound pixels."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from vqpipe.data import images
from vqpipe.data.build import Resize, scaled
from vqpipe.data.images import (
    BadImage,
    centre_square,
    decode,
    decode_png,
    encode_png,
    resize,
    resize_labels,
    target_shape,
)
from vqpipe.data.records import IMAGE_REASONS, Bad, Record
from vqpipe.errors import ArtifactError

MAX_PIXELS = 1 << 20
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reason(data: bytes, max_pixels: int = MAX_PIXELS) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data, max_pixels)
    assert caught.value.reason in IMAGE_REASONS
    return caught.value.reason


def png_header(width: int, height: int) -> bytes:
    """A few bytes that announce a huge picture."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0),
        b"IDAT": zlib.compress(b"\0" * 999),
    }
    packed = [
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_come_back_exactly(kind: str) -> None:
    assert np.array_equal(decode(saved(Image.fromarray(PICTURE), kind), MAX_PIXELS), PICTURE)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_come_back_nearly(kind: str) -> None:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    smooth = np.stack(
        [np.tile(ramp, (48, 1)), np.full((48, 64), 90, np.uint8), 255 - np.tile(ramp, (48, 1))], axis=2
    )
    got = decode(saved(Image.fromarray(smooth), kind, quality=95), MAX_PIXELS)
    assert got.shape == smooth.shape
    assert np.abs(got.astype(int) - smooth).mean() < 4


def test_grey_becomes_three_equal_channels() -> None:
    grey = PICTURE[..., 0]
    got = decode(saved(Image.fromarray(grey)), MAX_PIXELS)
    assert np.array_equal(got, np.repeat(grey[..., None], 3, axis=2))


def test_one_bit_becomes_black_and_white() -> None:
    bits = PICTURE[..., 0] > 127
    got = decode(saved(Image.fromarray(bits)), MAX_PIXELS)
    assert np.array_equal(got[..., 1], bits * np.uint8(255))


def test_cmyk_becomes_rgb() -> None:
    got = decode(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100), MAX_PIXELS)
    assert np.abs(got.astype(int) - [255, 0, 0]).max() < 8


def test_palette_becomes_its_colours() -> None:
    image = Image.new("P", (4, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1, 1, 0])
    got = decode(saved(image), MAX_PIXELS)
    assert got[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 255, 0], [255, 0, 0]]


def test_transparency_is_laid_over_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    assert decode(saved(palette, transparency=0), MAX_PIXELS)[0].tolist() == [[255, 255, 255], [0, 0, 255]]
    half = decode(saved(Image.new("RGBA", (1, 1), (0, 0, 0, 128))), MAX_PIXELS)
    assert np.abs(half.astype(int) - 127).max() <= 1
    grey = decode(saved(Image.new("LA", (1, 1), (10, 0))), MAX_PIXELS)
    assert grey.tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str) -> None:
    values = np.array([[0, 128, 257, 32768, 65535]], dtype=np.uint16)
    got = decode(saved(Image.fromarray(values), kind), MAX_PIXELS)
    assert got[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_floating_point_and_wide_integers_are_refused() -> None:
    assert reason(saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")) == "unsupported_pixels"
    assert reason(saved(Image.fromarray(np.full((4, 4), 1 << 20, np.int32)), "TIFF")) == "unsupported_pixels"
    assert reason(saved(Image.fromarray(np.full((4, 4), 255, np.int32)), "TIFF")) == "unsupported_pixels", (
        "numbers below 65,536 are not of 16 bits for that"
    )


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(orientation: int, turns: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = decode(saved(Image.fromarray(PICTURE), "PNG", exif=exif), MAX_PIXELS)
    assert np.array_equal(got, np.rot90(PICTURE, turns))


def test_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    got = decode(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), MAX_PIXELS)
    assert got[0, 0].tolist() == [255, 0, 0]


def test_empty_and_foreign_bytes() -> None:
    assert reason(b"") == "empty_file"
    assert reason(b"not an image at all") == "undecodable"
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "undecodable"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_truncated_files_are_distinguished_from_damaged_ones(kind: str) -> None:
    big = np.array(Image.fromarray(PICTURE).resize((200, 200)))
    data = saved(Image.fromarray(big), kind)
    assert reason(data[: len(data) // 2]) == "truncated"


def test_damaged_pixels() -> None:
    data = bytearray(saved(Image.fromarray(PICTURE)))
    data[data.index(b"IDAT") + 10] ^= 0xFF
    assert reason(bytes(data)) == "undecodable"


def test_a_bomb_is_refused_on_its_header() -> None:
    for width in (50_000, 1 << 20):  # the second is above Pillow's own limit as well
        assert reason(png_header(width, 50_000)) == "too_many_pixels"
    fits = saved(Image.fromarray(PICTURE))
    assert reason(fits, max_pixels=12 * 20 - 1) == "too_many_pixels"
    assert decode(fits, max_pixels=12 * 20).shape == (12, 20, 3)


@pytest.mark.parametrize(
    ("shape", "short", "expected"),
    [((10, 20), 5, (5, 10)), ((333, 100), 50, (167, 50)), ((7, 7), 64, (64, 64))],
)
def test_target_shape(shape: tuple[int, int], short: int, expected: tuple[int, int]) -> None:
    assert target_shape(*shape, short) == expected


@pytest.mark.parametrize("name", ["box", "bilinear", "bicubic", "lanczos"])
def test_reduction_is_antialiased(name: str) -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize(stripes, (8, 8), name)  # type: ignore[arg-type]
    assert np.abs(small[:, 1:-1].astype(int) - 127).max() < 8


def test_labels_keep_their_numbers() -> None:
    labels = RNG.choice(np.array([0, 7, 200], np.uint8), (30, 50))
    assert set(np.unique(resize_labels(labels, (13, 21)))) <= {0, 7, 200}


def test_png_round_trip_is_exact_and_repeatable() -> None:
    assert np.array_equal(decode_png(encode_png(PICTURE)), PICTURE)
    for damaged in (b"", b"no image", encode_png(PICTURE)[:-40]):
        with pytest.raises(ArtifactError, match=r"(?s)a.parquet: image 7 is damaged.*dvc repro dataset"):
            decode_png(damaged, "a.parquet: image 7", "dataset")
    assert np.array_equal(decode_png(encode_png(PICTURE[..., 0])), PICTURE[..., 0])
    assert encode_png(PICTURE) == encode_png(PICTURE.copy())


SMOOTH = np.stack(
    [np.add.outer(np.arange(24) * 5, np.arange(36) * 3), np.add.outer(np.arange(24), np.arange(36) * 6),
     np.add.outer(np.arange(24) * 9, np.arange(36))], -1,
).astype(np.uint8)  # fmt: skip


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


JPEG, PNG = encoded("JPEG", quality=95), encoded("PNG")


def tags(*entries: tuple[int, int, int, bytes], order: str = "<", rest: bytes = b"") -> bytes:
    """A TIFF header and its tags (number, type, count, four bytes)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    body = b"".join(
        struct.pack(order + "HHI", tag, kind, count) + value for tag, kind, count, value in entries
    )
    return head + struct.pack(order + "H", len(entries)) + body + struct.pack(order + "I", 0) + rest


def turned(number: int, order: str = "<") -> tuple[int, int, int, bytes]:
    return (0x112, 3, 1, struct.pack(order + "HH", number, 0))


def segment(body: bytes, marker: int = 0xE1) -> bytes:
    return JPEG[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + JPEG[2:]


def exif(raw: bytes) -> bytes:
    return segment(b"Exif\0\0" + raw)


def chunk(kind: bytes, body: bytes, broken: int = 0) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ broken)


def png(*chunks: bytes, last: bool = False) -> bytes:
    at = len(PNG) - 12 if last else 33
    return PNG[:at] + b"".join(chunks) + PNG[at:]


def tiff(*entries: tuple[int, int, int, bytes], following: int = 0) -> bytes:
    data = encoded("TIFF")
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    own = [data[start + 2 + 12 * n : start + 14 + 12 * n] for n in range(count)]
    own += [struct.pack("<HHI", tag, kind, number) + value for tag, kind, number, value in entries]
    own.sort(key=lambda entry: int(struct.unpack_from("<H", entry)[0]))
    table = struct.pack("<H", len(own)) + b"".join(own) + struct.pack("<I", following)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + table


def webp(**options: object) -> bytes:
    return encoded("WEBP", lossless=True, exact=True, **options)


SIX, LONG = turned(6), struct.Struct("<I").pack
XMP = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'

TURNED = {
    "short": exif(tags(SIX)), "big_endian": exif(tags(turned(6, ">"), order=">")),
    "rational_of_zero": exif(tags(SIX, (0x11A, 5, 1, LONG(38)), rest=struct.pack("<II", 72, 0))),
    "rational_width": exif(tags((0x100, 5, 1, LONG(38)), SIX, rest=struct.pack("<II", 96, 1))),
    "negative_offset": exif(tags(SIX, (0x8769, 9, 1, struct.pack("<i", -1)))),
    "offset_behind": exif(tags(SIX, (0x10F, 2, 40, LONG(60000)))),
    "zero_offset": exif(tags(SIX, (0x8769, 4, 1, LONG(0)))),
    "gps_behind": exif(tags(SIX, (0x8825, 4, 1, LONG(9999)))),
    "number_as_make": exif(tags((0x10F, 3, 1, LONG(7)), SIX)),
    "unknown_type": exif(tags(SIX, (0x131, 99, 4, b"abc\0"))), "huge": exif(tags(SIX, rest=bytes(65000))),
    "the_first_of_two": exif(tags((0x112, 3, 2, b"\6\0\6\0"))),
    "cut_behind_it": exif(tags(SIX)[:-4]), "two_headers": exif(b"Exif\0\0" + tags(SIX)), "xmp": segment(XMP),
    "and_a_short_profile": segment(b"ICC_PROFILE\0", 0xE2)[:-len(JPEG) + 2] + exif(tags(SIX))[2:],
    "png": png(chunk(b"eXIf", tags(SIX))), "png_at_the_end": png(chunk(b"eXIf", tags(SIX)), last=True),
    "png_broken_sum": png(chunk(b"eXIf", tags(SIX), 1)),
    "webp": webp(exif=tags(SIX)), "webp_negative": webp(exif=tags(SIX, (0x8769, 9, 1, struct.pack("<i", -1)))),
    "tiff": tiff(SIX), "tiff_negative": tiff(SIX, (0x8769, 9, 1, struct.pack("<i", -1))),
    "tiff_number_as_make": tiff(SIX, (0x10F, 3, 1, LONG(7))), "tiff_lost_page": tiff(SIX, following=10**9),
}  # fmt: skip

AS_IT_IS = {
    "empty_exif": segment(b"Exif\0\0"), "garbage": exif(b"GARBAGE!" * 4), "nine": exif(tags(turned(9))),
    "zero": exif(tags(turned(0))), "text": exif(tags((0x112, 2, 4, b"6\0\0\0"))),
    "cut_before_it": exif(tags(SIX)[:14]), "xmp_garbage": segment(XMP[:29] + b"\xff\xfe" * 40),
    "profile": segment(b"ICC_PROFILE\0\1\1junk", 0xE2), "short_profile": segment(b"ICC_PROFILE\0\5", 0xE2),
    "frames": segment(b"MPF\0junkjunk", 0xE2), "short_jfif": segment(b"JFIF", 0xE0),
    "short_adobe": segment(b"Adobe", 0xEE),
    "photoshop": segment(b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x10abc", 0xED), "comment": segment(b"", 0xFE),
    "trailing": JPEG + b"garbage" * 99, "second_picture_cut": JPEG + JPEG[:99],
    "png_text_bomb": png(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2 << 20)))),
    "png_text_bomb_at_the_end": png(chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(2 << 20))), last=True),
    "png_text_method": png(chunk(b"zTXt", b"k\0\7junk")), "png_profile_method": png(chunk(b"iCCP", b"n\0\1xx")),
    "png_profile_empty": png(chunk(b"iCCP", b"")), "png_broken_sum": png(chunk(b"tEXt", b"a\0b", 1)),
    "png_raw_profile": png(chunk(b"tEXt", b"Raw profile type exif\0zz\n\n\nnothex")),
    "png_garbage_exif": png(chunk(b"eXIf", b"junk")), "png_short_dpi": png(chunk(b"pHYs", b"\0\0")),
    "png_short_gamma": png(chunk(b"gAMA", b"")), "png_short_animation": png(chunk(b"acTL", b"\0")),
    "png_trailing": PNG + b"junk" * 9, "webp_garbage_exif": webp(exif=b"junkjunk"),
    "webp_profile": webp(icc_profile=b"junk"),
    "webp_cut_exif": webp(exif=tags(turned(1)))[:-5],
    "tiff_nine": tiff(turned(9)), "tiff_text": tiff((0x112, 2, 2, b"6\0\0\0")),
    "tiff_exif_negative": tiff((0x8769, 9, 1, b"\xff" * 4)),
}  # fmt: skip


def check(data: bytes, expected: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode(data, 1 << 16)
    assert found.shape == expected.shape
    if data.startswith(b"\xff\xd8"):
        assert np.abs(found.astype(int) - expected).mean() < 6
    else:
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", TURNED)
def test_a_readable_orientation_is_applied_with_any_other_metadata(name: str) -> None:
    check(TURNED[name], np.rot90(SMOOTH, 3))


@pytest.mark.parametrize("name", AS_IT_IS)
def test_sound_pixels_are_used_with_any_metadata(name: str) -> None:
    check(AS_IT_IS[name], SMOOTH)


@pytest.mark.parametrize("number", range(1, 9))
def test_every_orientation_with_and_without_what_stops_the_decoder(number: int) -> None:
    plain = decode(exif(tags(turned(number))), 1 << 16)
    assert plain.shape[:2] == ((24, 36) if number < 5 else (36, 24))
    stopped = segment(b"ICC_PROFILE\0", 0xE2)[: 4 + 14] + exif(tags(turned(number)))[2:]
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(io.BytesIO(stopped))
    assert np.array_equal(decode(stopped, 1 << 16), plain)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (JPEG[: len(JPEG) // 2], "truncated"), (PNG[: len(PNG) // 2], "truncated"), (webp()[:-9], "undecodable"),
        (png(chunk(b"tRNS", b"\0")), "truncated"), (PNG[:45] + bytes([PNG[45] ^ 255]) + PNG[46:], "undecodable"),
        (exif(tags(SIX))[:60], "truncated"), (png(chunk(b"tEXt", b"a\0b", 1))[:-60], "undecodable"),
    ],
)  # fmt: skip
def test_damaged_pixels_are_not_mended(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage) as caught:
        decode(data, 1 << 16)
    assert caught.value.reason == reason


@pytest.mark.parametrize("shape", [(7, 40), (40, 7), (16, 16), (9, 9), (33, 21), (45, 30), (56, 7)])
def test_a_centre_square_is_the_centre_of_the_whole_image_scaled(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    whole = resize(image, target_shape(*shape, 16), "lanczos")
    top, left = (whole.shape[0] - 16) // 2, (whole.shape[1] - 16) // 2
    assert np.array_equal(centre_square(image, 16), whole[top : top + 16, left : left + 16])


def test_of_a_very_long_image_the_middle_alone_is_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((5, 3000, 3), dtype=np.uint8)
    image[:, 1490:1510] = np.random.default_rng(0).integers(0, 256, (5, 20, 3), dtype=np.uint8)
    seen: list[tuple[int, ...]] = []
    plain = images.resize
    monkeypatch.setattr(images, "resize", lambda own, *rest: (seen.append(own.shape), plain(own, *rest))[1])
    found = centre_square(image, 16)
    assert seen == [(5, 40, 3)]
    assert np.array_equal(found, centre_square(image[:, 1480:1520], 16))


def test_a_narrow_image_is_refused_and_not_scaled_up_beyond_the_limit() -> None:
    narrow = Record("n", np.zeros((2000, 1, 3), dtype=np.uint8))
    config = Resize(short_side=64, filter="box", too_small="upscale")
    found = scaled(narrow, config, 1 << 20)
    assert isinstance(found, Bad)
    assert (found.reason, found.detail) == (
        "too_many_pixels", "1 x 2000 pixels, scaled up to 64 x 128000; at most 1048576 allowed",
    )  # fmt: skip
    assert isinstance(scaled(narrow, config, 64 * 128000), Record)
