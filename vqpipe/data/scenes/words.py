"""The words of the scenes grammar: six kinds of adjectives, every one of them visible in the picture.

All are single lowercase words that WordNet 3.0 lists with the part of speech used here. Words that WordNet
knows mainly under the other part of speech (an `orange` is a fruit first) are left out.
"""

from __future__ import annotations

from typing import Final

Rgb = tuple[int, int, int]

COLOURS: Final[dict[str, Rgb]] = {
    "red": (214, 48, 44),
    "blue": (52, 104, 212),
    "green": (58, 158, 70),
    "yellow": (246, 216, 62),
    "purple": (134, 66, 176),
    "pink": (244, 142, 184),
    "white": (246, 245, 240),
    "black": (44, 42, 50),
    "brown": (134, 88, 52),
    "gray": (146, 149, 156),
    "golden": (216, 166, 46),
}
"""sRGB of each colour word, before light and material."""

KINDS: Final[dict[str, tuple[str, ...]]] = {
    "colour": tuple(COLOURS),
    "size": ("tiny", "small", "large", "huge", "tall", "wide", "thin"),
    "pattern": ("striped", "spotted", "checkered", "wavy", "starry", "mottled", "banded", "speckled"),
    "material": ("wooden", "metallic", "glassy", "furry", "knitted", "rusty", "icy", "stony"),
    "condition": (
        "tilted", "crooked", "broken", "cracked", "muddy", "snowy", "mossy",
        "cloudy", "stormy", "misty", "rainy", "rocky", "grassy", "flowery",
    ),
    "light": ("bright", "dark", "pale", "glowing", "shiny", "shadowy", "sunny"),
}  # fmt: skip
"""Adjectives by kind, in the order in which they are drawn; a thing has at most one of each kind."""

KIND_OF: Final[dict[str, str]] = {word: kind for kind, words in KINDS.items() for word in words}

SIZES: Final[dict[str, tuple[float, float]]] = {
    "tiny": (0.62, 0.62),
    "small": (0.80, 0.80),
    "large": (1.28, 1.28),
    "huge": (1.60, 1.60),
    "tall": (0.95, 1.45),
    "wide": (1.50, 0.95),
    "thin": (0.60, 1.10),
}
"""Factors on the width and the height of a thing."""

CONFLICTS: Final[dict[str, frozenset[str]]] = {
    "dark": frozenset({"black", "gray", "brown"}),
    "pale": frozenset({"white", "gray", "pink", "black"}),
    "bright": frozenset({"black", "white", "gray", "brown"}),
    "shadowy": frozenset({"black"}),
    "glowing": frozenset({"black", "brown"}),
    "shiny": frozenset({"white"}),
    "wooden": frozenset({"golden", "mottled", "wavy"}),
    "metallic": frozenset({"golden", "banded"}),
    "rusty": frozenset({"golden", "brown", "mottled", "spotted"}),
    "icy": frozenset({"golden", "brown", "mottled"}),
    "stony": frozenset({"golden", "checkered", "mottled"}),
    "knitted": frozenset({"checkered", "wavy", "speckled"}),
    "snowy": frozenset({"white"}),
    "mossy": frozenset({"green"}),
    "muddy": frozenset({"brown"}),
    "cracked": frozenset({"black", "checkered"}),
}
"""A drawn word is dropped again where the thing has one of these colours or patterns: it would not be
seen."""

ORDER: Final[tuple[str, ...]] = ("size", "condition", "light", "pattern", "colour", "material")
"""The order of adjective kinds before a noun, as English speakers prefer it."""


def in_order(adjectives: list[str]) -> list[str]:
    """Sort adjectives into the usual English order: `small striped red wooden`."""
    return sorted(adjectives, key=lambda word: ORDER.index(KIND_OF[word]))
