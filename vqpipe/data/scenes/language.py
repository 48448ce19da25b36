"""Text that is true of a scene: captions, referring expressions, and questions with their answers.

A caption comes with the (adjective, noun) pairs that it states attributively: those where the adjective is in the noun
phrase of its noun, as in `a small red bird` (small and red). `The bird is red` states no pair in this sense, because
the modifying graph is built from attributive adjectives.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import Final

from vqpipe.data.records import Question, Referring
from vqpipe.data.scenes.grammar import KIND_OF, in_order
from vqpipe.data.scenes.layout import GAP, Caption, Item, Pair, Part, Scene, overlap, relation
from vqpipe.data.scenes.shapes import SHAPES

MASS: Final = frozenset({"water", "sand", "foliage", "grass", "snow", "coral"})
"""Nouns without an indefinite article."""
MENTIONED: Final = {
    "colour": 0.62,
    "size": 0.62,
    "pattern": 0.80,
    "material": 0.74,
    "condition": 0.78,
    "light": 0.58,
}
"""Probability that a caption mentions a true adjective, by its kind; at most two or, one time in eight, three."""


class _Writer:
    """Builds noun phrases and records the pairs that they state."""

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
        mentioned = [word for word in words if self.rng.random() < MENTIONED[KIND_OF[word]]]
        most = 3 if self.rng.random() < 0.125 else 2
        return in_order(self.rng.sample(mentioned, most) if len(mentioned) > most else mentioned)

    def phrase(self, noun: str, words: tuple[str, ...], definite: bool = False) -> str:
        """A noun phrase with some of the adjectives that are true of the noun."""
        mentioned = self.chosen(words)
        self.pairs += [(word, noun) for word in mentioned]
        body = " ".join([*mentioned, noun])
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


def resting_place(scene: Scene, number: int) -> tuple[str, Part] | None:
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


def _is_there(s: _Writer) -> str | None:
    verb = s.rng.choice(("is", "sits", "appears"))
    return f"{s.item(s.scene.items[s.pick()])} {verb} {s.where()}"


def _related(s: _Writer) -> str | None:
    if (found := s.pair()) is None:
        return None
    one, other, name = found
    start = s.rng.choice(("there is ", "we see ", ""))
    end = f" {s.where()}" if s.rng.random() < 0.4 else ""
    return f"{start}{s.item(s.scene.items[one])} {name} {s.item(s.scene.items[other])}{end}"


def _inverted(s: _Writer) -> str | None:
    if (found := s.pair()) is None:
        return None
    one, other, name = found
    return f"{name} {s.item(s.scene.items[other], s.rng.random() < 0.6)} is {s.item(s.scene.items[one])}"


def _listed(s: _Writer) -> str | None:
    if len(s.scene.items) < 2:
        return None
    count = s.rng.randint(2, min(3, len(s.scene.items)))
    phrases = [s.item(s.scene.items[i]) for i in s.rng.sample(range(len(s.scene.items)), count)]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]} {s.where()}"


def _place(s: _Writer) -> str | None:
    first, *rest = s.scene.parts
    if s.scene.place == first.noun:
        return None
    shown = s.rng.sample(rest, s.rng.randint(1, 2))
    place = s.phrase(s.scene.place, s.scene.moods)
    text = f"{place} with {' and '.join(s.part(part) for part in shown)}"
    if first.noun == "sky" and s.rng.random() < 0.6:
        return f"{text} under {s.part(first)}"
    return f"{text} and {s.part(first)}" if s.rng.random() < 0.4 else text


def _upon(s: _Writer) -> str | None:
    ways = [(i, found) for i in range(len(s.scene.items)) if (found := resting_place(s.scene, i))]
    if not ways:
        return None
    number, (preposition, part) = s.rng.choice(ways)
    start = s.rng.choice(("there is ", "", ""))
    return f"{start}{s.item(s.scene.items[number])} {preposition} {s.part(part, s.rng.random() < 0.6)}"


def _predicative(s: _Writer) -> str | None:
    item = s.scene.items[s.pick()]
    words = in_order(s.rng.sample(item.words, min(len(item.words), s.rng.randint(1, 2))))
    text = f"the {item.noun} is {' and '.join(words)}"
    part = s.rng.choice(s.scene.parts)
    if s.rng.random() < 0.5:
        return f"{text} and the {part.noun} is {s.rng.choice(part.words)}"
    return f"{s.where()}, {text}" if s.rng.random() < 0.5 else text


def _relative(s: _Writer) -> str | None:
    if (found := s.pair()) is None:
        return None
    one, other, name = found
    item = s.scene.items[one]
    predicate = s.rng.choice(item.words)
    rest = tuple(word for word in item.words if word != predicate)
    return f"{s.phrase(item.noun, rest)} that is {predicate} sits {name} {s.item(s.scene.items[other], True)}"


_FORMS: Final[tuple[tuple[Callable[[_Writer], str | None], float], ...]] = (
    (_is_there, 0.17), (_related, 0.22), (_inverted, 0.09), (_listed, 0.16), (_place, 0.13), (_upon, 0.13),
    (_predicative, 0.05), (_relative, 0.05),
)  # fmt: skip


def describe(scene: Scene, rng: random.Random, max_captions: int) -> tuple[Caption, ...]:
    """Draw three to `max_captions` different captions of a scene."""
    count = rng.randint(3, max_captions)
    forms, weights = zip(*_FORMS, strict=True)
    captions: dict[str, Caption] = {}
    writer = _Writer(scene, rng)
    while len(captions) < count:
        writer.pairs = []
        text = rng.choices(forms, weights)[0](writer)
        if text is not None:
            captions.setdefault(text, Caption(text, tuple(writer.pairs)))
    return tuple(captions.values())


NUMBERS: Final = ("zero", "one", "two", "three", "four")
PLURALS: Final = {"fish": "fish", "box": "boxes", "butterfly": "butterflies"}
SIDES: Final = {"left": (0, -1.0), "right": (0, 1.0), "top": (1, -1.0), "bottom": (1, 1.0)}


def plural(noun: str) -> str:
    """The plural of an object noun."""
    return PLURALS.get(noun, f"{noun}s")


def is_possible(scene: Scene, one: int, other: int, name: str) -> bool:
    """Whether a generous reader could accept this relation of item `one` to item `other`."""
    a, b = scene.items[one], scene.items[other]
    across, down = a.x - b.x, a.y - b.y
    slack = 0.02
    return {
        "to the left of": across < slack, "to the right of": across > -slack,
        "above": down < slack, "below": down > -slack, "on": down < slack, "under": down > -slack,
    }.get(name, overlap(a, b) > 0.0)  # fmt: skip


def _matches(scene: Scene, noun: str, words: tuple[str, ...]) -> list[int]:
    return [i for i, item in enumerate(scene.items) if item.noun == noun and set(words) <= set(item.words)]


def _by_words(scene: Scene, number: int, rng: random.Random) -> str | None:
    """`the small red bird`: the fewest adjectives that single the item out."""
    item = scene.items[number]
    for count in range(3):
        ways = [w for w in combinations(item.words, count) if _matches(scene, item.noun, w) == [number]]
        if ways:
            return " ".join(["the", *in_order(list(rng.choice(ways))), item.noun])
    return None


def _by_side(scene: Scene, number: int, rng: random.Random) -> str | None:
    """`the bird on the left`: where two or more share a noun and one is plainly farther out than the others."""
    item = scene.items[number]
    others = [i for i in _matches(scene, item.noun, ()) if i != number]
    if not others:
        return None
    sides = [
        side
        for side, (axis, sign) in SIDES.items()
        if all(
            sign * ((item.x, item.y)[axis] - (scene.items[i].x, scene.items[i].y)[axis]) >= GAP
            for i in others
        )
    ]
    where = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
    return f"the {item.noun} {where[rng.choice(sides)]}" if sides else None


def _by_relation(scene: Scene, number: int, rng: random.Random) -> str | None:
    """`the bird to the left of the red house`, where no other bird could be there."""
    item = scene.items[number]
    rivals = [i for i in _matches(scene, item.noun, ()) if i != number]
    for other in rng.sample(range(len(scene.items)), len(scene.items)):
        name = relation(scene, number, other) if other != number else None
        anchor = _by_words(scene, other, rng) if name else None
        if name and anchor and not any(r == other or is_possible(scene, r, other, name) for r in rivals):
            return f"the {item.noun} {name} {anchor}"
    return None


def refer(scene: Scene, rng: random.Random) -> tuple[Referring, ...]:
    """One expression per item that has one; each is true of that item alone."""
    out = []
    for number in range(len(scene.items)):
        forms = (_by_words, _by_words, _by_side, _by_relation)
        for form in rng.sample(forms, len(forms)):
            if (text := form(scene, number, rng)) is not None:
                out.append(Referring(number, text))
                break
    return tuple(out)


def ask(scene: Scene, rng: random.Random) -> tuple[Question, ...]:
    """At most one question of each of COCO-QA's four kinds, each with a one-word answer."""
    made = (_object(scene, rng), _number(scene, rng), _color(scene, rng), _location(scene, rng))
    return tuple(question for question in made if question is not None)


def _unique(scene: Scene) -> list[int]:
    nouns = [item.noun for item in scene.items]
    return [i for i, noun in enumerate(nouns) if nouns.count(noun) == 1]


def _object(scene: Scene, rng: random.Random) -> Question | None:
    numbers = range(len(scene.items))
    ways: list[Question] = []
    for anchor in _unique(scene):
        for one in numbers:
            name = relation(scene, one, anchor) if one != anchor else None
            if name and not any(
                is_possible(scene, i, anchor, name) for i in numbers if i not in (one, anchor)
            ):
                text = f"what is {name} the {scene.items[anchor].noun}?"
                ways.append(Question(text, scene.items[one].noun, "object"))
    for item in scene.items:
        ways += [
            Question(f"which object is {word}?", item.noun, "object")
            for word in item.words
            if sum(word in other.words for other in scene.items) == 1
        ]
    return rng.choice(ways) if ways else None


def _number(scene: Scene, rng: random.Random) -> Question:
    counts = Counter(item.noun for item in scene.items)
    noun = rng.choices(list(counts), [count**2 for count in counts.values()])[0]
    count = counts[noun]
    return Question(f"how many {plural(noun)} are there?", NUMBERS[count], "number")


def _color(scene: Scene, rng: random.Random) -> Question:
    bearers = [scene.items[i] for i in _unique(scene)]
    bearer = rng.choice(bearers) if bearers and rng.random() < 0.7 else rng.choice(scene.parts)
    colour = next(word for word in bearer.words if KIND_OF[word] == "colour")
    return Question(f"what color is the {bearer.noun}?", colour, "color")


def _location(scene: Scene, rng: random.Random) -> Question | None:
    unique = _unique(scene)
    if not unique:
        return None
    return Question(f"where is the {scene.items[rng.choice(unique)].noun}?", scene.place, "location")
