"""The words of the scenes, and how likely each adjective is for each noun.

These probabilities are the ground truth that the modifying graph is compared with. There are six kinds of adjectives,
and every adjective is visible in the picture. All words are single lowercase words that WordNet 3.0 lists with the
part of speech used here; words that WordNet knows mainly under another part of speech (an `orange` is a fruit first)
are left out.

Each noun has one distribution per kind of adjective: a head of plausible words whose weights follow Zipf's law, and a
thin tail of implausible ones (a checkered sun). Colours and patterns are drawn freely; a word of a later kind is
dropped where a colour or pattern would hide it (`CONFLICTS`), so every probability has a closed form.
"""

from __future__ import annotations

import random
from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate
from math import prod
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
"""A drawn word is dropped again where the thing has one of these colours or patterns: it would not be seen."""

ORDER: Final[tuple[str, ...]] = ("size", "condition", "light", "pattern", "colour", "material")
"""The order of adjective kinds before a noun, as English speakers prefer it."""


def in_order(adjectives: list[str]) -> list[str]:
    """Sort adjectives into the usual English order: `small striped red wooden`."""
    return sorted(adjectives, key=lambda word: ORDER.index(KIND_OF[word]))


EXPONENT: Final = 1.2
"""Zipf's exponent over the ranks of a head."""
TAIL: Final = 0.07
"""Share of the implausible words within a kind."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A distribution over words; `None`, the last outcome, is "no word of this kind"."""

    words: tuple[str | None, ...]
    weights: tuple[float, ...]
    edges: tuple[float, ...]

    @classmethod
    def zipf(
        cls,
        head: str | tuple[str, ...],
        tail: tuple[str, ...] = (),
        presence: float = 1.0,
        share: float = TAIL,
    ) -> Choice:
        """Make a choice from a head in order of likelihood and the words of a tail that are not in it."""
        head = tuple(head.split()) if isinstance(head, str) else head
        rest = tuple(word for word in tail if word not in head)
        share = (1.0 if not head else share) if rest else 0.0
        raw = [(rank + 1) ** -EXPONENT for rank in range(len(head))]
        weights = [presence * (1 - share) * value / sum(raw) for value in raw]
        weights += [presence * share / max(1, len(rest))] * len(rest)
        words: tuple[str | None, ...] = (*head, *rest, None)
        weights.append(max(0.0, 1.0 - presence))
        return cls(words, tuple(weights), tuple(accumulate(weights)))

    def draw(self, rng: random.Random) -> str | None:
        """Draw one outcome."""
        return self.words[min(bisect(self.edges, rng.random()), len(self.words) - 1)]

    def probability(self, word: str) -> float:
        """The probability of one word."""
        return self.weights[self.words.index(word)] if word in self.words else 0.0


Lexeme = dict[str, Choice]
"""The choices of one noun by kind of adjective."""

PRESENCE: Final = {
    "colour": 1.0, "size": 0.45, "pattern": 0.30, "material": 0.26, "condition": 0.24, "light": 0.26,
}  # fmt: skip
OBJECT_CONDITIONS: Final = KINDS["condition"][:7]
OBJECT_LIGHTS: Final = KINDS["light"][:6]


def _thing(
    colour: str, pattern: str = "", material: str = "", condition: str = "", light: str = "", never: str = ""
) -> Lexeme:
    """An object's choices from the heads by kind; `never` lists words that nobody could see on it."""
    heads = {
        "colour": (colour, KINDS["colour"]),
        "size": ("small large tall tiny huge wide thin", KINDS["size"]),
        "pattern": (pattern, KINDS["pattern"]),
        "material": (material, KINDS["material"]),
        "condition": (condition, OBJECT_CONDITIONS),
        "light": (light or "bright dark pale shadowy", OBJECT_LIGHTS),
    }
    return {
        kind: Choice.zipf(
            head,
            tuple(w for w in tail if w not in never.split()),
            PRESENCE[kind] if head else PRESENCE[kind] * 0.2,
        )
        for kind, (head, tail) in heads.items()
    }


def _part(colour: str, pattern: str = "", condition: str = "", light: str = "bright dark pale") -> Lexeme:
    heads = {"colour": colour, "pattern": pattern, "condition": condition, "light": light}
    tails = {"colour": KINDS["colour"], "light": ("bright", "dark", "pale")}
    share = {"colour": 1.0, "pattern": 0.30, "condition": 0.40, "light": 0.25}
    return {
        kind: Choice.zipf(head, tails.get(kind, ()), share[kind], 0.05)
        for kind, head in heads.items()
        if head
    }


OBJECTS: Final[dict[str, Lexeme]] = {
    "sun": _thing("yellow golden red", "", "", "", "bright glowing pale", never="tilted"),
    "moon": _thing("white yellow gray golden", "mottled spotted", "icy stony", "tilted", "glowing bright pale"),
    "star": _thing("yellow white golden blue", "striped", "metallic", "tilted", "bright glowing shiny"),
    "cloud": _thing("white gray pink", "banded", "", "", "dark bright pale"),
    "bird": _thing("brown blue red yellow black white", "spotted striped", "furry", "", "dark bright pale"),
    "kite": _thing("red blue yellow pink purple green", "striped checkered starry", "", "tilted broken",
        "bright shiny"),
    "balloon": _thing("red pink yellow blue purple", "spotted striped starry wavy", "glassy", "tilted",
        "shiny bright"),
    "butterfly": _thing("yellow purple blue pink white", "spotted speckled", "", "", "bright pale"),
    "boat": _thing("white blue red brown", "striped banded", "wooden rusty metallic", "tilted broken", "dark shiny"),
    "fish": _thing("golden blue gray red pink", "striped spotted banded speckled", "", "", "shiny bright glowing"),
    "duck": _thing("yellow white brown green", "mottled speckled", "knitted", "muddy", "bright pale"),
    "tree": _thing("green brown golden red", "mottled", "icy", "snowy crooked mossy", "dark bright shadowy"),
    "cactus": _thing("green gray", "speckled striped", "", "tilted cracked", "dark pale"),
    "flower": _thing("red pink yellow white purple blue", "spotted striped", "glassy", "tilted crooked",
        "bright pale"),
    "mushroom": _thing("red brown white", "spotted speckled", "", "mossy tilted", "pale dark glowing"),
    "rock": _thing("gray brown black white", "mottled speckled banded", "icy", "mossy cracked snowy muddy",
        "dark shiny"),
    "house": _thing(
        "white red yellow brown gray blue", "banded striped", "wooden stony", "snowy crooked mossy", "dark shadowy"
    ),
    "tent": _thing("green yellow blue red", "striped banded", "knitted", "muddy snowy broken", "bright shadowy"),
    "castle": _thing("gray brown white black", "checkered", "stony icy", "broken cracked mossy snowy",
        "dark shadowy"),
    "car": _thing("red blue black white yellow gray", "striped checkered", "rusty metallic", "muddy snowy",
        "shiny dark"),
    "truck": _thing("blue red green yellow gray", "banded striped", "metallic rusty", "muddy cracked",
        "shiny shadowy"),
    "cat": _thing("black gray brown white", "striped mottled spotted", "furry", "muddy", "dark shadowy pale"),
    "dog": _thing("brown black white golden", "spotted mottled", "furry", "muddy snowy", "dark pale"),
    "rabbit": _thing("white gray brown black", "spotted speckled", "furry knitted", "muddy", "pale dark"),
    "ball": _thing(
        "red blue yellow green white pink", "striped spotted checkered starry wavy", "knitted glassy metallic",
        "muddy cracked", "bright shiny", never="tilted",
    ),
    "box": _thing("brown white red blue", "checkered striped starry", "wooden metallic",
        "broken tilted muddy", "dark"),
    "cup": _thing("white blue yellow red green", "spotted wavy striped checkered", "metallic glassy",
        "cracked broken", "shiny pale"),
    "bottle": _thing("green brown blue white", "banded", "glassy metallic", "broken cracked tilted", "dark shiny"),
    "lamp": _thing("yellow white red green", "striped checkered", "metallic glassy", "crooked tilted",
        "glowing bright"),
    "chair": _thing("brown white red blue black", "checkered striped", "wooden metallic", "broken crooked",
        "dark shiny"),
    "clock": _thing("white brown golden black red", "banded", "wooden metallic rusty",
        "broken cracked tilted", "dark"),
    "hat": _thing("black red brown purple pink", "banded striped spotted", "knitted furry", "crooked tilted",
        "bright"),
    "book": _thing("blue red brown green black", "starry striped banded", "", "muddy cracked tilted", "dark shiny"),
    "apple": _thing("red green yellow", "speckled mottled", "glassy", "broken cracked", "shiny bright"),
    "pear": _thing("green yellow brown", "speckled mottled", "", "tilted broken", "pale shiny"),
    "umbrella": _thing("black red blue yellow pink", "striped spotted wavy checkered", "", "broken tilted", "bright"),
    "vase": _thing("blue white green purple", "wavy banded checkered spotted", "glassy stony metallic",
        "cracked broken", "shiny pale"),
    "pumpkin": _thing("golden yellow green", "mottled speckled", "", "cracked muddy snowy", "bright glowing"),
}  # fmt: skip
"""What the head words of every object noun are; the tail is every other word of the kind."""

PARTS: Final[dict[str, Lexeme]] = {
    "sky": _part(
        "blue gray pink golden purple black", "starry banded", "cloudy stormy misty", "bright pale dark"
    ),
    "sea": _part("blue green gray", "wavy", "misty stormy", "dark bright shiny"),
    "water": _part("blue green", "wavy", "misty muddy", "shiny dark bright"),
    "sand": _part("golden yellow brown white", "wavy speckled", "rocky", "pale bright"),
    "dune": _part("golden yellow brown red", "wavy banded", "grassy rocky", "pale bright shadowy"),
    "foliage": _part("green golden brown red", "mottled", "misty snowy flowery", "dark shadowy"),
    "grass": _part("green yellow brown", "mottled striped", "flowery snowy muddy", "bright dark"),
    "lawn": _part("green yellow", "striped checkered", "flowery muddy snowy", "bright dark"),
    "skyline": _part("gray blue brown purple black", "", "misty", "dark pale shadowy"),
    "pavement": _part("gray white brown", "checkered speckled", "snowy mossy muddy", "pale dark"),
    "road": _part("gray black brown", "", "muddy snowy", "dark shiny"),
    "hill": _part("green brown yellow purple", "banded mottled", "grassy misty snowy", "dark pale"),
    "mountain": _part("gray purple brown blue", "banded", "snowy misty", "dark pale shadowy"),
    "snow": _part("white blue", "wavy", "rocky grassy", "bright shiny pale"),
    "shore": _part("brown green yellow", "speckled", "rocky grassy muddy", "dark pale"),
    "pier": _part("brown gray white", "striped", "mossy snowy", "dark pale"),
    "fence": _part("white brown green blue", "", "mossy snowy", "bright dark"),
    "wall": _part(
        "white yellow blue pink green gray", "striped checkered spotted starry wavy", "cracked", "pale bright"
    ),
    "cupboard": _part("brown white blue green", "banded checkered", "cracked", "dark shiny"),
    "floor": _part("brown gray white red", "checkered striped speckled", "muddy", "shiny dark"),
    "curtain": _part("red purple white green", "striped spotted checkered", "", "bright dark"),
    "carpet": _part(
        "red blue purple green brown", "checkered striped starry spotted wavy", "muddy", "dark bright"
    ),
    "coral": _part("pink red purple yellow", "spotted speckled", "mossy", "bright glowing"),
    "seabed": _part("yellow brown gray white", "speckled wavy", "rocky grassy", "dark pale"),
}
"""The parts of places: ground, sky and what is between them."""

PLACES: Final[dict[str, Lexeme]] = {
    name: {"mood": Choice.zipf(moods, ("sunny", "dark", "misty", "rainy", "snowy"), 0.7, 0.06)}
    for name, moods in {
        "beach": "sunny rainy misty",
        "forest": "dark misty sunny rainy snowy",
        "street": "rainy sunny dark",
        "desert": "sunny dark",
        "meadow": "sunny misty rainy",
        "tundra": "snowy misty dark",
        "lake": "misty sunny rainy dark",
        "harbor": "rainy misty sunny",
        "garden": "sunny snowy rainy",
        "kitchen": "sunny dark",
        "bedroom": "dark sunny",
        "reef": "dark sunny",
    }.items()
}
"""A place has at most one mood, which covers the whole picture."""

NOUNS: Final[dict[str, Lexeme]] = {**OBJECTS, **PARTS, **PLACES}


def draw_words(noun: str, rng: random.Random) -> tuple[str, ...]:
    """Draw the adjectives that are true of one instance of a noun, at most one of each kind."""
    drawn = [word for choice in NOUNS[noun].values() if (word := choice.draw(rng)) is not None]
    return tuple(word for word in drawn if CONFLICTS.get(word, frozenset()).isdisjoint(drawn))


def probability(adjective: str, noun: str) -> float:
    """The probability that an instance of `noun` has `adjective`, in closed form."""
    lexeme = NOUNS[noun]
    own = sum(choice.probability(adjective) for choice in lexeme.values())
    foes = sorted(CONFLICTS.get(adjective, frozenset()))  # a set's order would move the last bits of the sum
    return own * prod(
        1.0 - sum(lexeme[kind].probability(foe) for foe in foes if KIND_OF[foe] == kind)
        for kind in ("colour", "pattern")
        if kind in lexeme
    )
