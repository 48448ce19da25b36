"""A scene as pixels: picture, map of parts and nouns, and the visible box of every object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import UInt8

from vqpipe.data.scenes.backdrop import backdrop
from vqpipe.data.scenes.layout import SHAPES, Scene
from vqpipe.data.scenes.paint import paint, shadow, write_segment
from vqpipe.data.scenes.statistics import OBJECTS, PARTS
from vqpipe.data.scenes.weather import mood
from vqpipe.runtime.seeds import numpy_rng

SEGMENTS: Final[tuple[str, ...]] = ("background", *PARTS, *OBJECTS)
"""Names of the values of a segmentation map; 0 does not occur, for every pixel belongs to a part or an
object."""
_INDEX: Final[dict[str, int]] = {name: i for i, name in enumerate(SEGMENTS)}


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawn scene. `boxes` are (x, y, width, height) in pixels around what is visible of each item,
    `visible` the shares of the items that neither others nor the frame hide, `instances` the item index + 1
    per pixel, or 0."""

    image: UInt8[np.ndarray, "r r 3"]
    segmentation: UInt8[np.ndarray, "r r"]
    instances: UInt8[np.ndarray, "r r"]
    boxes: tuple[tuple[float, float, float, float], ...]
    visible: tuple[float, ...]


def draw(scene: Scene, resolution: int, supersample: int = 4) -> Drawing:
    """Draw a scene at any resolution; what has no word in it is drawn from the scene's own seed.

    Args:
        scene: the scene.
        resolution: height and width in pixels.
        supersample: samples per pixel and axis along the edges of objects.
    """
    rng = numpy_rng(scene.look, "scenes", "look")
    phases = rng.random(4)
    canvas, seg = backdrop(scene, resolution, rng, _INDEX)
    instances = np.zeros((resolution, resolution), np.uint8)
    full: list[int] = []
    carried = {upper for upper, _ in scene.rests}
    for number, item in enumerate(scene.items):
        if SHAPES[item.noun].zone == "ground" and number not in carried:
            shadow(canvas, item)
    for number, item in enumerate(scene.items):
        tile, cover = paint(canvas, item, supersample, float(phases[number]))
        write_segment(seg, tile, cover, _INDEX[item.noun])
        write_segment(instances, tile, cover, number + 1)
        full.append(int((cover > 0.5).sum()))
    for word in scene.moods:
        mood(canvas, word, rng)
    image = np.ascontiguousarray(np.clip(canvas + 0.5, 0.0, 255.0).astype(np.uint8).transpose(1, 2, 0))
    boxes, visible = [], []
    for number, extent in enumerate(full):
        mask = instances == number + 1
        boxes.append(_box(mask))
        visible.append(round(int(mask.sum()) / max(1, extent), 4))
    return Drawing(image, seg, instances, tuple(boxes), tuple(visible))


def _box(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return (0.0, 0.0, 0.0, 0.0)
    return (
        float(columns[0]), float(rows[0]), float(columns[-1] - columns[0] + 1), float(rows[-1] - rows[0] + 1),
    )  # fmt: skip
