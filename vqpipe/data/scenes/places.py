"""The places: what they are made of from back to front, where things stand in them, and which things are
found there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vqpipe.data.scenes.statistics import OBJECTS, Choice


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
    """`water` names the part that carries boats; `ground` is the range of heights on which things stand."""

    bands: tuple[Band, ...]
    ground: tuple[float, float]
    nouns: Choice
    water: str | None = None
    preposition: str = "in"
    indoor: bool = False


def _place(
    *bands: Band, ground: tuple[float, float], nouns: str, water: str | None = None, at: str = "in",
    indoor: bool = False,
) -> Place:  # fmt: skip
    return Place(bands, ground, Choice.zipf(nouns, tuple(OBJECTS), 1.0, 0.16), water, at, indoor)


SKY: Final = Band("sky")

PLACES_BUILT: Final[dict[str, Place]] = {
    "beach": _place(
        SKY, Band("sea", (0.40, 0.48)), Band("sand", (0.60, 0.68), "hills", 0.03), ground=(0.76, 0.95),
        nouns="umbrella ball boat sun bird dog chair kite hat fish balloon duck star cloud", water="sea",
            at="on",
    ),
    "forest": _place(
        SKY, Band("foliage", (0.12, 0.26), "trees", 0.07), Band("grass", (0.62, 0.70), "hills", 0.03),
        ground=(0.74, 0.95), nouns="tree mushroom bird rabbit tent rock flower cat house butterfly moon dog",
    ),
    "street": _place(
        SKY, Band("skyline", (0.22, 0.34), "blocks", 0.12), Band("pavement", (0.60, 0.64)), Band("road",
            (0.74, 0.78)),
        ground=(0.78, 0.95), nouns="car truck house dog lamp cat clock balloon tree cloud umbrella box bird",
            at="on",
    ),
    "desert": _place(
        SKY, Band("dune", (0.40, 0.52), "hills", 0.10), Band("sand", (0.66, 0.74), "hills", 0.04),
        ground=(0.76, 0.95), nouns="cactus rock sun tent truck bird castle car star moon hat bottle",
    ),
    "meadow": _place(
        SKY, Band("hill", (0.38, 0.48), "hills", 0.10), Band("grass", (0.58, 0.66), "hills", 0.03),
        ground=(0.74, 0.95), nouns="flower butterfly rabbit sun kite tree cloud balloon dog house ball bird",
    ),
    "tundra": _place(
        SKY, Band("mountain", (0.24, 0.36), "peaks", 0.16), Band("snow", (0.56, 0.64), "hills", 0.04),
        ground=(0.72, 0.95), nouns="rock tent rabbit moon dog house cloud star hat truck bird castle",
    ),
    "lake": _place(
        SKY, Band("hill", (0.28, 0.38), "hills", 0.09), Band("water", (0.50, 0.56)),
        Band("shore", (0.82, 0.88), "hills", 0.03), ground=(0.88, 0.97),
        nouns="duck boat tree fish cloud bird sun rock tent moon flower", water="water", at="by",
    ),
    "harbor": _place(
        SKY, Band("sea", (0.36, 0.44)), Band("pier", (0.70, 0.76)), ground=(0.80, 0.96),
        nouns="boat box fish bird truck cat bottle cloud lamp duck sun chair", water="sea",
    ),
    "garden": _place(
        SKY, Band("fence", (0.34, 0.42), "pickets", 0.03), Band("lawn", (0.62, 0.68)), ground=(0.74, 0.95),
        nouns="flower tree butterfly cat chair pumpkin apple mushroom bird sun vase ball rabbit",
    ),
    "kitchen": _place(
        Band("wall"), Band("cupboard", (0.42, 0.50)), Band("floor", (0.70, 0.76)), ground=(0.76, 0.95),
        nouns="cup bottle apple pear chair vase clock lamp box cat pumpkin fish book", indoor=True,
    ),
    "bedroom": _place(
        Band("wall"), Band("curtain", (0.0, 0.0), "sides", 0.12), Band("carpet", (0.60, 0.68)), ground=(0.72,
            0.95),
        nouns="lamp chair book clock hat box cat vase ball umbrella cup balloon", indoor=True,
    ),
    "reef": _place(
        Band("water"), Band("coral", (0.56, 0.66), "bumps", 0.10), Band("seabed", (0.78, 0.84), "hills",
            0.03),
        ground=(0.82, 0.96), nouns="fish rock star bottle boat ball box castle duck vase", water="water",
            indoor=True,
    ),
}  # fmt: skip
"""By class name, in the order of the class indices."""
