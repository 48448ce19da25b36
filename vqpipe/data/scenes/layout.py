"""What is in a scene and where, without pixels: drawn from (seed, split, index) alone."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final

from vqpipe.data.scenes.grammar import OBJECTS, SIZES, Choice, draw_words
from vqpipe.data.scenes.shapes import SHAPES

Pair = tuple[str, str]
"""(adjective, noun)"""


@dataclass(frozen=True, slots=True)
class Caption:
    """A lowercase sentence and the pairs that it states, in order."""

    text: str
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Band:
    """A part that fills the picture from its top edge down.

    `top` is the range of heights of its edge (shares of the picture, y down), `edge` the edge's form and
    `rough` how far it strays.
    """

    noun: str
    top: tuple[float, float] = (0.0, 0.0)
    edge: str = "flat"
    rough: float = 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """What a place is made of, back to front, and which objects occur there.

    `water` names the part that carries boats; `ground` is the range of heights of objects on the ground.
    """

    bands: tuple[Band, ...]
    ground: tuple[float, float]
    nouns: Choice
    water: str | None = None
    preposition: str = "in"
    indoor: bool = False


def _built(
    *bands: Band, ground: tuple[float, float], nouns: str, water: str | None = None, at: str = "in",
    indoor: bool = False,
) -> Place:  # fmt: skip
    return Place(bands, ground, Choice.zipf(nouns, tuple(OBJECTS), 1.0, 0.16), water, at, indoor)


SKY: Final = Band("sky")

PLACES_BUILT: Final[dict[str, Place]] = {
    "beach": _built(
        SKY, Band("sea", (0.40, 0.48)), Band("sand", (0.60, 0.68), "hills", 0.03), ground=(0.76, 0.95),
        nouns="umbrella ball boat sun bird dog chair kite hat fish balloon duck star cloud", water="sea", at="on",
    ),
    "forest": _built(
        SKY, Band("foliage", (0.12, 0.26), "trees", 0.07), Band("grass", (0.62, 0.70), "hills", 0.03),
        ground=(0.74, 0.95), nouns="tree mushroom bird rabbit tent rock flower cat house butterfly moon dog",
    ),
    "street": _built(
        SKY, Band("skyline", (0.22, 0.34), "blocks", 0.12), Band("pavement", (0.60, 0.64)), Band("road",
            (0.74, 0.78)),
        ground=(0.78, 0.95), nouns="car truck house dog lamp cat clock balloon tree cloud umbrella box bird", at="on",
    ),
    "desert": _built(
        SKY, Band("dune", (0.40, 0.52), "hills", 0.10), Band("sand", (0.66, 0.74), "hills", 0.04),
        ground=(0.76, 0.95), nouns="cactus rock sun tent truck bird castle car star moon hat bottle",
    ),
    "meadow": _built(
        SKY, Band("hill", (0.38, 0.48), "hills", 0.10), Band("grass", (0.58, 0.66), "hills", 0.03),
        ground=(0.74, 0.95), nouns="flower butterfly rabbit sun kite tree cloud balloon dog house ball bird",
    ),
    "tundra": _built(
        SKY, Band("mountain", (0.24, 0.36), "peaks", 0.16), Band("snow", (0.56, 0.64), "hills", 0.04),
        ground=(0.72, 0.95), nouns="rock tent rabbit moon dog house cloud star hat truck bird castle",
    ),
    "lake": _built(
        SKY, Band("hill", (0.28, 0.38), "hills", 0.09), Band("water", (0.50, 0.56)),
        Band("shore", (0.82, 0.88), "hills", 0.03), ground=(0.88, 0.97),
        nouns="duck boat tree fish cloud bird sun rock tent moon flower", water="water", at="by",
    ),
    "harbor": _built(
        SKY, Band("sea", (0.36, 0.44)), Band("pier", (0.70, 0.76)), ground=(0.80, 0.96),
        nouns="boat box fish bird truck cat bottle cloud lamp duck sun chair", water="sea",
    ),
    "garden": _built(
        SKY, Band("fence", (0.34, 0.42), "pickets", 0.03), Band("lawn", (0.62, 0.68)), ground=(0.74, 0.95),
        nouns="flower tree butterfly cat chair pumpkin apple mushroom bird sun vase ball rabbit",
    ),
    "kitchen": _built(
        Band("wall"), Band("cupboard", (0.42, 0.50)), Band("floor", (0.70, 0.76)), ground=(0.76, 0.95),
        nouns="cup bottle apple pear chair vase clock lamp box cat pumpkin fish book", indoor=True,
    ),
    "bedroom": _built(
        Band("wall"), Band("curtain", (0.0, 0.0), "sides", 0.12), Band("carpet", (0.60, 0.68)), ground=(0.72, 0.95),
        nouns="lamp chair book clock hat box cat vase ball umbrella cup balloon", indoor=True,
    ),
    "reef": _built(
        Band("water"), Band("coral", (0.56, 0.66), "bumps", 0.10), Band("seabed", (0.78, 0.84), "hills", 0.03),
        ground=(0.82, 0.96), nouns="fish rock star bottle boat ball box castle duck vase", water="water", indoor=True,
    ),
}  # fmt: skip
"""By class name, in the order of the class indices."""


MAX_HIDDEN: Final = 0.38
"""Most of a thing's box that others may cover when things are placed."""
GAP: Final = 0.14
"""Distance between two centres, as a share of the picture, from which on a relation between them is stated."""


@dataclass(frozen=True, slots=True)
class Item:
    """An object. Centre and extent are shares of the picture, `tilt` is in degrees, `shear` in widths per height."""

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
            self.x - self.width / 2, self.y - self.height / 2, self.x + self.width / 2, self.y + self.height / 2,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a place; `top` is the mean height of its edge, as a share of the picture."""

    noun: str
    words: tuple[str, ...]
    top: float
    edge: str
    rough: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that is true of one picture.

    `items` are in drawing order, from back to front; `rests` has the (upper, lower) indices of items where one
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
    """Find a spot where the item hides little and is little hidden; None where 24 tries find none."""
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
    """An earlier item with a free flat top, one time in three, for an item on the ground or a bird."""
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
    """Order of drawing: objects in the air are far, low ones near; what sits on an object comes after it."""
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

    One of: on, under, behind, in front of, to the left of, to the right of, above, below.
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
