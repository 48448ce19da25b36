"""Image bytes that are sound, odd, damaged or hostile."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vqpipe.data.images import BadImage, decode, decode_png, encode_png, resize, resize_labels, target_shape
from vqpipe.data.reasons import IMAGE_REASONS
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
def test_truncated_files_are_told_from_damaged_ones(kind: str) -> None:
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
