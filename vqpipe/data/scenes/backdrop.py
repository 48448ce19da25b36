"""Places as pixels: bands from the sky down, each with its edge, its texture and what its adjectives make of
it."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from jaxtyping import Float32, UInt8

from vqpipe.data.scenes.layout import Part, Scene
from vqpipe.data.scenes.surface import (
    TAU,
    WHITE,
    Area,
    Colour,
    colour_of,
    light,
    mix,
    partner,
    pattern,
    rgb,
    soft,
)
from vqpipe.data.scenes.textures import TEXTURES, Ground
from vqpipe.data.scenes.weather import apply_state
from vqpipe.data.scenes.words import KIND_OF

CALM: Final = np.float32(0.40)
"""How far a part's colour is drawn towards its natural one, so that objects stand out against it."""
NATURAL: Final[dict[str, tuple[int, int, int]]] = {
    "sky": (150, 196, 240), "sea": (70, 136, 196), "water": (76, 150, 190), "sand": (234, 210, 156),
        "dune": (222, 178, 112),
    "foliage": (62, 104, 62), "grass": (112, 168, 78), "lawn": (110, 178, 84), "hill": (110, 150, 96),
    "mountain": (132, 136, 152), "snow": (240, 244, 250), "shore": (150, 140, 98), "skyline": (130, 132, 146),
    "pavement": (186, 184, 180), "road": (110, 110, 118), "pier": (158, 120, 84), "fence": (206, 190, 166),
    "wall": (234, 224, 206), "cupboard": (186, 148, 108), "floor": (186, 150, 116), "curtain": (190, 120,
        120),
    "carpet": (178, 130, 120), "coral": (214, 120, 130), "seabed": (206, 186, 140),
}  # fmt: skip


@cache
def _tone(noun: str, colour: str) -> Colour:
    return rgb(colour) * (1 - CALM) + colour_of(*NATURAL[noun]) * CALM


def _edge(part: Part, resolution: int, rng: np.random.Generator) -> Float32[np.ndarray, "r"]:
    """The height of a part's top edge per column, a share of the picture."""
    x = (np.arange(resolution, dtype=np.float32) + 0.5) / resolution
    phase = rng.random(3).astype(np.float32) * TAU
    if part.edge == "flat":
        return np.full(resolution, part.top, np.float32)
    if part.edge == "blocks":
        steps = rng.random(9, dtype=np.float32)
        return part.top + part.rough * (steps[np.minimum((x * 7 + phase[0] / TAU).astype(int), 8)] * 2 - 1)
    if part.edge == "pickets":
        return part.top + part.rough * (np.abs(np.mod(x / 0.11, 1.0) - 0.5) * -4 + 1)
    if part.edge == "peaks":
        knots = rng.random(8, dtype=np.float32) * 0.7 + np.tile(np.array((0.0, 1.0), np.float32), 4)
        return part.top + part.rough * (
            np.interp(x * 5.5 + phase[1] / TAU, np.arange(8), knots).astype(np.float32) - 0.8
        )
    waves = {"hills": (1.1, 2.3, 3.7), "trees": (4.0, 7.0, 11.0), "bumps": (3.0, 5.0, 9.0)}[part.edge]
    heights = sum(
        np.sin(TAU * x * wave + p) / (k + 1.3) for k, (wave, p) in enumerate(zip(waves, phase, strict=True))
    )
    return (part.top + part.rough * np.asarray(heights)).astype(np.float32)


def backdrop(
    scene: Scene, resolution: int, rng: np.random.Generator, segments: dict[str, int]
) -> tuple[Float32[np.ndarray, "3 r r"], UInt8[np.ndarray, "r r"]]:
    """Paint the parts of a scene's place.

    Returns:
        The picture in sRGB [0, 255], and the map of part indices (`segments` by noun).
    """
    canvas = np.zeros((3, resolution, resolution), np.float32)
    seg = np.zeros((resolution, resolution), np.uint8)
    for part in scene.parts:
        if part.edge == "sides":
            _curtains(canvas, seg, part, rng, segments[part.noun])
            continue
        edge = (
            _edge(part, resolution, rng)
            if part is not scene.parts[0]
            else np.full(resolution, -1, np.float32)
        )
        start = min(max(0, int(edge.min() * resolution) - 1), resolution - 1)
        ground = Ground(resolution, start, part.top, rng)
        area = _surface(part, ground, edge)
        solid = min(int(edge.max() * resolution) + 2, resolution)
        cover = soft(ground.v[: solid - start] - edge[None, :], resolution)
        mix(canvas[:, start:solid], cover, area[:, : solid - start])
        canvas[:, solid:] = area[:, solid - start :]
        seg[start:solid][cover > 0.5] = segments[part.noun]
        seg[solid:] = segments[part.noun]
    return canvas, seg


def _surface(part: Part, g: Ground, edge: Float32[np.ndarray, "r"]) -> Area:
    """The colours of a part over its window."""
    colour = _tone(part.noun, next(word for word in part.words if KIND_OF[word] == "colour"))
    area = np.empty((3, g.v.shape[0], g.u.shape[1]), np.float32)
    area[:] = colour
    motif = next((word for word in part.words if KIND_OF[word] == "pattern"), None)
    if motif:
        strength = 0.55 if part.noun in ("wall", "carpet", "floor", "curtain", "sky") else 0.45
        mix(
            area,
            pattern(motif, g.u, g.v, float(g.rng.random()), False) * np.float32(strength),
            partner(colour),
        )
    texture = TEXTURES[part.noun](g)
    area *= 1.0 + texture
    _gradient(part.noun, area, g, edge)
    for word in part.words:
        if KIND_OF[word] == "condition":
            apply_state(word, area, g, edge)
        elif KIND_OF[word] == "light":
            light(word, area, g.u * 2 - 1, g.depth() * 2 - 1)
    return np.clip(area, 0.0, 255.0, out=area)


def _gradient(noun: str, area: Area, g: Ground, edge: Float32[np.ndarray, "r"]) -> None:
    """The air between: skies and waters lighten towards the horizon, grounds darken towards the viewer."""
    if noun == "sky":
        mix(area, np.clip(g.v * 1.5 - 0.05, 0.0, 0.62) + 0.0 * g.u, WHITE)
    elif noun == "mountain":
        mix(area, soft(edge[None, :] + 0.07 + 0.03 * g.noise(14, 4) - g.v, 40.0) * 0.8, WHITE)
    elif noun in ("wall", "curtain"):
        area *= 1.05 - 0.16 * g.v - 0.14 * np.abs(g.u - 0.35)
    else:
        area *= 1.12 - 0.30 * np.clip(g.depth(), 0.0, 1.0)


def _curtains(
    canvas: Float32[np.ndarray, "3 r r"], seg: UInt8[np.ndarray, "r r"], part: Part, rng: np.random.Generator,
        index: int
) -> None:  # fmt: skip
    """Hang a curtain on both sides, in place."""
    r = canvas.shape[1]
    ground = Ground(r, 0, 0.0, rng)
    area = _surface(part, ground, np.zeros(r, np.float32))
    width = part.rough + 0.03 + 0.05 * np.sin(ground.v * 3.0)
    cover = soft(width - np.minimum(ground.u, 1 - ground.u), r)
    mix(canvas, cover, area)
    seg[cover > 0.5] = index
