"""Captions: sentences that are true of a scene, each with the adjective-noun pairs that it says
attributively.

A pair counts as said where the adjective stands in the noun phrase of its noun, as in `a small red bird`
(small and red). In `the bird is red` nothing is said in this sense: the modifying graph is built from
attributive adjectives.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from vqpipe.data.scenes.caption import Caption, Pair
from vqpipe.data.scenes.layout import SHAPES, Item, Part, Scene, relation
from vqpipe.data.scenes.words import KIND_OF, in_order

MASS: Final = frozenset({"water", "sand", "foliage", "grass", "snow", "coral"})
"""Nouns without an indefinite article."""
SAY: Final = {
    "colour": 0.62,
    "size": 0.62,
    "pattern": 0.80,
    "material": 0.74,
    "condition": 0.78,
    "light": 0.58,
}
"""How likely an adjective that is true is also said, by its kind; at most two or, one time in eight, three
are."""


class _Speaker:
    """Builds noun phrases and remembers the pairs they say."""

    def __init__(self, scene: Scene, rng: random.Random) -> None:
        self.scene, self.rng, self.pairs = scene, rng, list[Pair]()
        numbers = range(len(scene.items))
        self.ways = [
            (one, other, name)
            for one in numbers
            for other in numbers
            if one != other and (name := relation(scene, one, other))
        ]

    def chosen(self, words: tuple[str, ...]) -> list[str]:
        said = [word for word in words if self.rng.random() < SAY[KIND_OF[word]]]
        most = 3 if self.rng.random() < 0.125 else 2
        return in_order(self.rng.sample(said, most) if len(said) > most else said)

    def phrase(self, noun: str, words: tuple[str, ...], definite: bool = False) -> str:
        """A noun phrase with some of the adjectives that are true of the noun."""
        said = self.chosen(words)
        self.pairs += [(word, noun) for word in said]
        body = " ".join([*said, noun])
        if definite:
            return f"the {body}"
        if noun in MASS:
            return body
        return f"an {body}" if body[0] in "aeiou" else f"a {body}"

    def item(self, item: Item, definite: bool = False) -> str:
        return self.phrase(item.noun, item.words, definite)

    def part(self, part: Part, definite: bool = False) -> str:
        return self.phrase(part.noun, part.words, definite)

    def where(self) -> str:
        """`in a dark forest`"""
        article = self.rng.random() < 0.4
        return f"{self.scene.built.preposition} {self.phrase(self.scene.place, self.scene.moods, article)}"

    def pick(self) -> int:
        return self.rng.randrange(len(self.scene.items))

    def pair(self) -> tuple[int, int, str] | None:
        """Two items with a plain relation."""
        return self.rng.choice(self.ways) if self.ways else None


def stands_on(scene: Scene, number: int) -> tuple[str, Part] | None:
    """The part that an item is plainly on (or in), with its preposition; None where that is not plain."""
    item, parts = scene.items[number], scene.parts
    if any(upper == number for upper, _ in scene.rests):
        return None
    zone = SHAPES[item.noun].zone
    top, bottom = item.box[1], item.box[3]
    below = parts[1] if parts[1].edge != "sides" else parts[2]
    if zone == "air" and parts[0].noun == "sky" and bottom < below.top - below.rough and top >= 0:
        return "in", parts[0]
    if zone == "ground" and bottom > parts[-1].top + parts[-1].rough + 0.02:
        return "on", parts[-1]
    water = next((part for part in parts if part.noun == scene.built.water), None)
    if zone == "water" and water and not scene.built.indoor:
        return ("in" if item.noun == "fish" else "on"), water
    return None


def _is_there(s: _Speaker) -> str | None:
    verb = s.rng.choice(("is", "sits", "appears"))
    return f"{s.item(s.scene.items[s.pick()])} {verb} {s.where()}"


def _related(s: _Speaker) -> str | None:
    if (found := s.pair()) is None:
        return None
    one, other, name = found
    start = s.rng.choice(("there is ", "we see ", ""))
    end = f" {s.where()}" if s.rng.random() < 0.4 else ""
    return f"{start}{s.item(s.scene.items[one])} {name} {s.item(s.scene.items[other])}{end}"


def _inverted(s: _Speaker) -> str | None:
    if (found := s.pair()) is None:
        return None
    one, other, name = found
    return f"{name} {s.item(s.scene.items[other], s.rng.random() < 0.6)} is {s.item(s.scene.items[one])}"


def _listed(s: _Speaker) -> str | None:
    if len(s.scene.items) < 2:
        return None
    count = s.rng.randint(2, min(3, len(s.scene.items)))
    phrases = [s.item(s.scene.items[i]) for i in s.rng.sample(range(len(s.scene.items)), count)]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]} {s.where()}"


def _place(s: _Speaker) -> str | None:
    first, *rest = s.scene.parts
    if s.scene.place == first.noun:
        return None
    shown = s.rng.sample(rest, s.rng.randint(1, 2))
    place = s.phrase(s.scene.place, s.scene.moods)
    text = f"{place} with {' and '.join(s.part(part) for part in shown)}"
    if first.noun == "sky" and s.rng.random() < 0.6:
        return f"{text} under {s.part(first)}"
    return f"{text} and {s.part(first)}" if s.rng.random() < 0.4 else text


def _upon(s: _Speaker) -> str | None:
    ways = [(i, found) for i in range(len(s.scene.items)) if (found := stands_on(s.scene, i))]
    if not ways:
        return None
    number, (preposition, part) = s.rng.choice(ways)
    start = s.rng.choice(("there is ", "", ""))
    return f"{start}{s.item(s.scene.items[number])} {preposition} {s.part(part, s.rng.random() < 0.6)}"


def _predicative(s: _Speaker) -> str | None:
    item = s.scene.items[s.pick()]
    words = in_order(s.rng.sample(item.words, min(len(item.words), s.rng.randint(1, 2))))
    text = f"the {item.noun} is {' and '.join(words)}"
    part = s.rng.choice(s.scene.parts)
    if s.rng.random() < 0.5:
        return f"{text} and the {part.noun} is {s.rng.choice(part.words)}"
    return f"{s.where()}, {text}" if s.rng.random() < 0.5 else text


def _relative(s: _Speaker) -> str | None:
    if (found := s.pair()) is None:
        return None
    one, other, name = found
    item = s.scene.items[one]
    told = s.rng.choice(item.words)
    rest = tuple(word for word in item.words if word != told)
    return f"{s.phrase(item.noun, rest)} that is {told} sits {name} {s.item(s.scene.items[other], True)}"


_FORMS: Final[tuple[tuple[Callable[[_Speaker], str | None], float], ...]] = (
    (_is_there, 0.17), (_related, 0.22), (_inverted, 0.09), (_listed, 0.16), (_place, 0.13), (_upon, 0.13),
    (_predicative, 0.05), (_relative, 0.05),
)  # fmt: skip


def describe(scene: Scene, rng: random.Random, max_captions: int) -> tuple[Caption, ...]:
    """Draw three to `max_captions` different captions of a scene."""
    count = rng.randint(3, max_captions)
    forms, weights = zip(*_FORMS, strict=True)
    captions: dict[str, Caption] = {}
    speaker = _Speaker(scene, rng)
    while len(captions) < count:
        speaker.pairs = []
        text = rng.choices(forms, weights)[0](speaker)
        if text is not None:
            captions.setdefault(text, Caption(text, tuple(speaker.pairs)))
    return tuple(captions.values())
