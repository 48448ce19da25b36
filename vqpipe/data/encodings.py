"""Which encoding text is in: from a byte order mark, from the bytes of UTF-16 and UTF-32, or guessed for a message.

Text without a mark is UTF-8 unless its bytes are those of UTF-16 or UTF-32. Older encodings are never chosen: a
wrong guess would change words without a sign. They are named in an error, with the option that reads them.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Callable
from functools import lru_cache

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as UTF-16's mark does, so it is tried first
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks and the encodings that they name."""

_BINARY = (
    (b"\x89PNG\r\n", "a PNG image"), (b"\xff\xd8\xff", "a JPEG image"), (b"GIF8", "a GIF image"),
    (b"PK\x03\x04", "a zip file"), (b"PAR1", "a Parquet file"), (b"ARROW1", "an Arrow file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z file"), (b"Rar!\x1a\x07", "a rar file"),
    (b"\x04\x22\x4d\x18", "an lz4 file"), (b"SQLite format 3", "an SQLite file"), (b"\x93NUMPY", "a NumPy file"),
    (b"\x89HDF", "an HDF5 file"), (b"\xd0\xcf\x11\xe0", "an old Office file"), (b"\x80\x04\x95", "a pickle"),
    (b"\x1f\x8b", "a gzip file"), (b"BZh", "a bzip2 file"), (b"\xfd7zXZ\x00", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
)  # fmt: skip
_CONTROLS = frozenset([*range(9), *range(14, 32)])
_WIDE = frozenset([*range(0x4E, 0xA0), *range(0xAC, 0xD8), 0x30, 0xFF, 0x20, 0x00])
"""High bytes of Chinese, Japanese and Korean text, with its punctuation and ASCII."""
_BEYOND_ASCII = _WIDE - {0x20, 0x00, *range(0x4E, 0x7B)}
_SAMPLE = 1 << 14


def known_encoding(encoding: str | None) -> str | None:
    """Return the name of an encoding, or None, as it is: the check of a params field.

    Raises:
        ValueError: Python cannot decode it.
    """
    try:
        if encoding is not None:
            "".encode(encoding)
            codecs.getincrementaldecoder(encoding)
    except (LookupError, ValueError):
        raise ValueError("is not an encoding that Python knows, such as utf-8, cp1252 or shift_jis") from None
    return encoding


def binary_kind(head: bytes) -> str | None:
    """The kind of a file that is not text, such as "a zip file", by its first bytes; None where they are not known."""
    if head[257:262] == b"ustar":
        return "a tar file"
    if head.startswith(b"%PDF-"):
        return "a PDF file"
    if _CONTROLS.isdisjoint(head[:64]):
        return None
    return next((name for magic, name in _BINARY if head.startswith(magic)), None)


def unicode_encoding(head: bytes) -> tuple[str, int]:
    """The Unicode encoding of a text by its first bytes, and the length of its byte order mark.

    Without a mark it is UTF-32 or UTF-16 only where the bytes cannot be a text in UTF-8: zero bytes are on one
    side of the pairs alone, line ends are whole pairs, and the pairs are characters of few scripts.
    """
    for mark, name in MARKS:
        if head.startswith(mark):
            return name, len(mark)
    sample = head[:_SAMPLE]
    if _is_utf8(sample) and _CONTROLS.isdisjoint(sample):
        return "utf-8", 0
    for name in ("utf-32-le", "utf-32-be"):
        if len(sample) >= 4 and _share(_decoded(sample, name, 4)) > 0.9:
            return name, 0
    found = [(score, name) for name in ("utf-16-le", "utf-16-be") if (score := _utf16_score(sample, name))]
    return (max(found)[1] if found else "utf-8"), 0


def _is_utf8(data: bytes) -> bool:
    """Whether the bytes are UTF-8; the last character may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return True


def _decoded(data: bytes, encoding: str, width: int) -> str:
    """The text of whole units, or an empty text where one is not a character."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(data[: len(data) // width * width])
    except UnicodeDecodeError:
        return ""


def _share(text: str) -> float:
    """Share of characters that texts have: assigned, printed or white space."""
    good = sum(char in "\t\r\n" or unicodedata.category(char)[0] in "LMNPSZ" for char in text)
    return good / len(text) if text else 0.0


def _utf16_score(data: bytes, encoding: str) -> float:
    """How much the bytes look like UTF-16 of one byte order; 0: not at all."""
    if len(data) < 2:
        return 0.0
    even = len(data) // 2 * 2
    first, second = data[0:even:2], data[1:even:2]
    high, low = (second, first) if encoding.endswith("le") else (first, second)
    zeros = high.count(0)
    pairs = list(zip(high, low, strict=True))
    breaks = sum(
        second == 10 and first not in (0x4E, 0x30) for first, second in pairs
    )  # 上 is 4E 0A, 一 4E 00
    swapped = sum(second == 0 and first not in (0x4E, 0x30) for first, second in pairs)
    if swapped > 0.1 * zeros or sum(pair == (0, 10) for pair in pairs) < 0.5 * breaks:
        return 0.0
    alphabets = {byte for byte in high if byte < 0x20 or byte == 0x30}
    narrow = sum(sorted(map(high.count, alphabets))[-2:]) >= 0.5 * len(high)
    wide = sum(byte in _WIDE for byte in high) >= 0.95 * len(high)
    wide = wide and sum(byte in _BEYOND_ASCII for byte in high) >= 0.3 * (len(high) - zeros)
    if zeros == 0:
        narrow = narrow and sum(byte in _CONTROLS for byte in high) >= 0.5 * len(high)
        wide = (
            wide and len(high) >= 4 and not _is_kana(data) and not any(0xAC <= byte < 0xD8 for byte in high)
        )
    text = data.decode(encoding, "replace")
    share = _share(text)
    if share < 0.9 or not (narrow or wide):
        return 0.0
    return share + sum(" " <= char <= "~" or char in "\t\r\n\u3000\u3001\u3002\uff0c" for char in text) / len(
        text
    )


def _is_kana(data: bytes) -> bool:
    try:
        return _kana(data.decode("cp932")) > 0.2
    except UnicodeDecodeError:
        return False


def legacy_encodings(sample: bytes) -> list[str]:
    """Encodings that lines which are not UTF-8 may be in, the likeliest first; empty where none gives words."""
    east = [name for name, fits in _EASTERN.items() if _fits(sample, name, fits)]
    scores = []
    for rank, name in enumerate(_WESTERN):
        try:
            score = _plausibility(sample.decode(name))
        except UnicodeDecodeError:
            continue
        scores.append((-score, rank, name))
    scores.sort()
    west = [name for score, _, name in scores if -score > 0.5 and -score > -scores[0][0] - 0.5]
    return (east + west)[:3]


_WESTERN = (
    "cp1252", "cp1251", "cp1250", "koi8_r", "cp1253", "cp1255", "cp1256", "cp850", "cp866", "mac_roman",
)  # fmt: skip


@lru_cache(maxsize=4096)
def script(char: str) -> str:
    """The first word of a letter's Unicode name: LATIN, CYRILLIC, CJK, FULLWIDTH, …; empty for what has no name."""
    return unicodedata.name(char, "").partition(" ")[0]


def _plausibility(text: str) -> float:
    """Mean over the characters beyond ASCII: above 1 for words of a language, below 0 for soup."""
    points, total = 0.0, 0
    padded = f" {text} "
    for before, char, after in zip(padded, padded[1:], padded[2:], strict=False):
        if not char.isascii():
            points += _points(before, char, after)
            total += 1
    letters = [char for char in text.lower() if script(char) in ("CYRILLIC", "GREEK")]
    vowels = sum(char in "аеёиоуыэюяіїαεηιουωάέήίόύώ" for char in letters)
    if len(letters) > 10 and not 0.3 < vowels / len(letters) < 0.6:
        points -= total
    return points / max(1, total)


def _points(before: str, char: str, after: str) -> float:
    if not char.isalpha():
        inside = before.isalpha() and after.isalpha()
        if unicodedata.category(char) == "Cc" or "\u2500" <= char <= "\u25ff":
            return -4.0
        fits = {
            "\u2019": before.isalpha(),
            "\u201c": before.isspace() and after.isalnum(),
            "\u201d": not before.isspace() and not after.isalnum(),
            "\u2013": before.isspace() == after.isspace(),
            "\u2014": before.isspace() == after.isspace(),
            "\u2026": not before.isspace(),
        }
        if char in fits:
            return 2.6 if fits[char] else 0.0
        return -1.0 if inside else 0.8 if char in "\u00a0\u00b0\u00ab\u00bb\u20ac\u00a9\u00ae\u00bd" else 0.0
    own = script(char)
    points = 1.0
    for other in (before, after):
        if other.isalpha():
            points += 0.5 if script(other) == own else -2.0
            if own == "LATIN" and not other.isascii():
                points -= 0.8
    if char.isupper() and before.isalpha():
        points -= 2.0 if before.islower() else 0.7
    elif char.islower():
        points += 0.5
    return points


def _fits(sample: bytes, name: str, fits: Callable[[str, bytes], bool]) -> bool:
    try:
        text = sample.decode(name)
    except UnicodeDecodeError:
        return False
    return fits("".join(char for char in text if not char.isascii()), sample)


def _kana(text: str) -> float:
    wide = [char for char in text if not char.isascii()]
    return sum("\u3041" <= char <= "\u30ff" for char in wide) / max(1, len(wide))


def _hangul(text: str) -> float:
    return sum("\uac00" <= char <= "\ud7a3" for char in text) / max(1, len(text))


def _hanzi(text: str) -> float:
    return sum(
        "\u4e00" <= char <= "\u9fff" or "\u3000" <= char <= "\u3002" or char == "\uff0c" for char in text
    ) / max(1, len(text))


def _leads(sample: bytes, most: int) -> float:
    """Share of the two-byte characters whose first byte is from A1 to `most`."""
    leads, at = [], 0
    while at < len(sample):
        if sample[at] >= 0x80:
            leads.append(sample[at])
            at += 1
        at += 1
    return sum(0xA1 <= lead <= most for lead in leads) / max(1, len(leads))


_EASTERN: dict[str, Callable[[str, bytes], bool]] = {
    "cp932": lambda text, _: _kana(text) > 0.2,
    "euc_jp": lambda text, _: _kana(text) > 0.2,
    "cp949": lambda text, sample: _hangul(text) > 0.95 and _leads(sample, 0xC8) > 0.95,
    "big5": lambda text, sample: _hanzi(text) > 0.9 and _leads(sample, 0xC6) > 0.9,
    "gb18030": lambda text, sample: _hanzi(text) > 0.9 and _leads(sample, 0xD7) > 0.7,
}
