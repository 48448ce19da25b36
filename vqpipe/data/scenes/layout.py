"""What is in a scene and where, without a pixel: drawn from (seed, split, index) alone."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final

from vqpipe.data.scenes.caption import Caption
from vqpipe.data.scenes.geometry import Shape
from vqpipe.data.scenes.places import PLACES_BUILT, Place
from vqpipe.data.scenes.shapes_made import MADE
from vqpipe.data.scenes.shapes_nature import NATURE
from vqpipe.data.scenes.statistics import draw_words
from vqpipe.data.scenes.words import SIZES

SHAPES: Final[dict[str, Shape]] = {**NATURE, **MADE}
MAX_HIDDEN: Final = 0.38
"""Most of a thing's box that others may cover when things are placed."""
GAP: Final = 0.14
"""Distance between two centres, as a share of the picture, from which a relation between them is spoken
of."""


@dataclass(frozen=True, slots=True)
class Item:
    """An object. Centre and extent are shares of the picture, `tilt` in degrees, `shear` in widths per
    height."""

    noun: str
    words: tuple[str, ...]
    x: float
    y: float
    width: float
    height: float
    tilt: float = 0.0
    shear: float = 0.0
    mirrored: bool = False

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        return (
            self.x - self.width / 2, self.y - self.height / 2, self.x + self.width / 2,
                self.y + self.height / 2,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a place; `top` is the mean height of its edge, `grain` seeds its texture's irregularities."""

    noun: str
    words: tuple[str, ...]
    top: float
    edge: str
    rough: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that is true of one picture.

    `items` are in drawing order, from back to front; `rests` holds (upper, lower) indices of items where one
    sits on the other; `look` seeds what has no word, such as the course of a hill.
    """

    image_id: str
    place: str
    moods: tuple[str, ...]
    parts: tuple[Part, ...]
    items: tuple[Item, ...]
    rests: tuple[tuple[int, int], ...]
    look: int
    captions: tuple[Caption, ...] = ()

    @property
    def built(self) -> Place:
        """The place's construction."""
        return PLACES_BUILT[self.place]


def lay_out(image_id: str, rng: random.Random, max_objects: int) -> Scene:
    """Draw place, parts and objects of one scene; it has no captions yet."""
    place = rng.choice(tuple(PLACES_BUILT))
    built = PLACES_BUILT[place]
    parts = tuple(
        Part(band.noun, draw_words(band.noun, rng), rng.uniform(*band.top), band.edge, band.rough)
        for band in built.bands
    )
    count = rng.choices(range(1, max_objects + 1), (0.18, 0.34, 0.30, 0.18)[:max_objects])[0]
    items: list[Item] = []
    rests: list[tuple[Item, Item]] = []
    while len(items) < count:
        noun = items[0].noun if items and rng.random() < 0.20 else str(built.nouns.draw(rng))
        fresh = _item(noun, rng)
        lower = _support(fresh, items, [low for _, low in rests], rng)
        placed = _stack(fresh, lower, rng) if lower else _place(fresh, items, parts, built, rng)
        if placed is None and not items:
            continue
        if placed is None:
            break
        if lower:
            rests.append((placed, lower))
        items.append(placed)
    order = sorted(items, key=lambda item: _depth(item, rests))
    index = {id(item): i for i, item in enumerate(order)}
    return Scene(
        image_id, place, draw_words(place, rng), parts, tuple(order),
        tuple((index[id(upper)], index[id(low)]) for upper, low in rests), rng.getrandbits(62),
    )  # fmt: skip


def _item(noun: str, rng: random.Random) -> Item:
    """An object at the origin, with its words and what follows from them for its form."""
    words = draw_words(noun, rng)
    form = SHAPES[noun]
    wide, high = next((SIZES[word] for word in words if word in SIZES), (1.0, 1.0))
    jitter = rng.uniform(0.96, 1.04)
    side = rng.choice((-1.0, 1.0))
    return Item(
        noun, words, 0.0, 0.0, min(0.74, form.width * wide * jitter), min(0.74, form.height * high * jitter),
        tilt=side * rng.uniform(22, 30) if "tilted" in words else 0.0,
        shear=side * rng.uniform(0.40, 0.52) if "crooked" in words else 0.0,
        mirrored=noun not in ("clock", "book") and rng.random() < 0.5,
    )  # fmt: skip


def _place(
    item: Item, others: list[Item], parts: tuple[Part, ...], built: Place, rng: random.Random
) -> Item | None:
    """Find a spot where the item hides little and is little hidden; None where there is none after 24
    tries."""
    horizon = parts[1].top if parts[1].edge != "sides" else parts[2].top
    for _ in range(24):
        x = rng.uniform(item.width / 2, 1 - item.width / 2)
        zone = SHAPES[item.noun].zone
        if zone == "water" and built.water == "water" and built.indoor:
            y = rng.uniform(item.height / 2 + 0.02, 0.92 - item.height / 2)
        elif zone == "water" and built.water:
            water = next(i for i, part in enumerate(parts) if part.noun == built.water)
            y = rng.uniform(parts[water].top + 0.07, parts[water + 1].top + 0.02) - item.height * 0.42
        elif zone == "air":
            lowest = min(0.62, max(horizon + 0.04, item.height + 0.06)) - item.height / 2
            y = rng.uniform(item.height / 2 + 0.02, max(item.height / 2 + 0.03, lowest))
        else:
            y = rng.uniform(*built.ground) - item.height / 2
        placed = replace(item, x=x, y=max(y, item.height / 2 + 0.01))
        if _fits(placed, others):
            return placed
    return None


def _fits(item: Item, others: list[Item]) -> bool:
    stack = [*others, item]
    return all(
        sum(overlap(one, other) for other in stack if other is not one) <= MAX_HIDDEN * one.width * one.height
        for one in stack
    )


def _support(item: Item, items: list[Item], used: list[Item], rng: random.Random) -> Item | None:
    """An earlier item with a free flat top, one time in three, for an item that stands or is small and
    flies."""
    if (SHAPES[item.noun].zone == "air" and item.noun != "bird") or item.tilt or rng.random() > 0.34:
        return None
    for low in items:
        top = SHAPES[low.noun].top
        if (
            top is None
            or low.tilt
            or low.shear
            or "broken" in low.words
            or any(low is other for other in used)
        ):
            continue
        narrow = item.width <= low.width * 1.25
        if narrow and low.box[1] + top * low.height - item.height > 0.01:
            return low
    return None


def _stack(item: Item, low: Item, rng: random.Random) -> Item:
    top = SHAPES[low.noun].top or 0.0
    y = low.box[1] + top * low.height - item.height / 2 + 0.012
    return replace(item, x=min(max(low.x + rng.uniform(-0.04, 0.04) * low.width, 0.0), 1.0), y=y)


def _depth(item: Item, rests: list[tuple[Item, Item]]) -> float:
    """Things in the air are far, things that stand low in the picture near; what sits on a thing comes after
    it."""
    for upper, low in rests:
        if upper is item:
            return _depth(low, rests) + 1e-3
    bottom = item.box[3]
    return (
        bottom - 10.0
        if item.noun in ("sun", "moon", "star")
        else bottom - 5.0 * (SHAPES[item.noun].zone == "air")
    )


def overlap(one: Item, other: Item) -> float:
    """The area that two boxes share."""
    a, b = one.box, other.box
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def relation(scene: Scene, one: int, other: int) -> str | None:
    """The plainest relation of item `one` to item `other`, or None where none is plain.

    One of: on, behind, in front of, to the left of, to the right of, above, below.
    """
    if (one, other) in scene.rests:
        return "on"
    if (other, one) in scene.rests:
        return "under"
    a, b = scene.items[one], scene.items[other]
    shared = overlap(a, b)
    if shared > 0.08 * min(a.width * a.height, b.width * b.height):
        return "behind" if one < other else "in front of"
    across, down = a.x - b.x, a.y - b.y
    if abs(across) >= GAP and abs(across) > 1.2 * abs(down):
        return "to the left of" if across < 0 else "to the right of"
    if abs(down) >= GAP and abs(down) > 1.2 * abs(across):
        return "above" if down < 0 else "below"
    return None
