"""Referring expressions and questions whose truth follows from the scene itself."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations
from typing import Final

from vqpipe.data.records import Question, Referring
from vqpipe.data.scenes.layout import GAP, Scene, overlap, relation
from vqpipe.data.scenes.words import KIND_OF, in_order

NUMBERS: Final = ("zero", "one", "two", "three", "four")
PLURALS: Final = {"fish": "fish", "box": "boxes", "butterfly": "butterflies"}
SIDES: Final = {"left": (0, -1.0), "right": (0, 1.0), "top": (1, -1.0), "bottom": (1, 1.0)}


def plural(noun: str) -> str:
    """The plural of an object noun."""
    return PLURALS.get(noun, f"{noun}s")


def might(scene: Scene, one: int, other: int, name: str) -> bool:
    """Whether a generous reader could say that item `one` stands in this relation to item `other`."""
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
    """`the bird on the left`: where two or more share a noun and one lies plainly farther out than the
    others."""
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
    """`the bird to the left of the red house`, where no other bird might be there."""
    item = scene.items[number]
    rivals = [i for i in _matches(scene, item.noun, ()) if i != number]
    for other in rng.sample(range(len(scene.items)), len(scene.items)):
        name = relation(scene, number, other) if other != number else None
        anchor = _by_words(scene, other, rng) if name else None
        if name and anchor and not any(r == other or might(scene, r, other, name) for r in rivals):
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
            if name and not any(might(scene, i, anchor, name) for i in numbers if i not in (one, anchor)):
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
