"""What makes an adjective visible on a surface: patterns, materials, states and light, in units of the
picture.

Lengths are shares of the picture: the finest period is 0.07, 4.5 pixels at 64 pixels, so nothing vanishes
there.

A picture has the same bytes on every processor: pixels are computed by numpy's elementwise arithmetic, which IEEE 754
fixes. Matrix products are avoided, since BLAS orders and fuses its steps as the processor allows, and so are numpy's
float32 sine and exponential, whose last bit depends on the instruction set; `sine` and `decay` replace them.
"""

from __future__ import annotations

from math import pi
from typing import Final

import numpy as np
from jaxtyping import Float32

from vqpipe.data.scenes.grammar import COLOURS

Plane = Float32[np.ndarray, "h w"]
Colour = Float32[np.ndarray, "3 1 1"]
Area = Float32[np.ndarray, "3 h w"]

TAU: Final = np.float32(2 * pi)


def colour_of(red: float, green: float, blue: float) -> Colour:
    """A colour in sRGB [0, 255], shaped to broadcast over an area. Areas keep their channels first: it is
    faster."""
    return np.array((red, green, blue), np.float32).reshape(3, 1, 1)


WHITE: Final = colour_of(250, 250, 248)


def rgb(word: str) -> Colour:
    """The colour of a colour word."""
    return colour_of(*COLOURS[word])


def luma(area: Area) -> Plane:
    """The lightness of an area (Rec. 601 weights), in [0, 255]."""
    return area[0] * np.float32(0.299) + area[1] * np.float32(0.587) + area[2] * np.float32(0.114)


def sine(angle: Plane) -> Plane:
    """The sine of angles in radians, computed in float64: rounded to float32, what processors disagree on is gone."""
    return np.sin(angle.astype(np.float64)).astype(np.float32)


def decay(distance: Plane) -> Plane:
    """exp(-distance), by way of float64 as in `sine`."""
    return np.exp(-distance.astype(np.float64)).astype(np.float32)


def soft(value: Plane, gain: float) -> Plane:
    """A smooth step around zero: the pattern's antialiasing."""
    step = value * np.float32(gain)
    step += np.float32(0.5)
    np.maximum(step, 0.0, out=step)
    return np.minimum(step, 1.0, out=step)


def mix(area: Area, share: Plane, colour: Colour) -> None:
    """Blend a colour into an area in place, by a share in [0, 1] per pixel."""
    step = colour - area
    step *= share
    area += step


def partner(colour: Colour) -> Colour:
    """The second colour of a pattern: light on dark surfaces, dark on light ones."""
    dark = float(luma(colour)[0, 0]) < 140
    return colour * 0.25 + WHITE * 0.75 if dark else colour * 0.40 + np.float32(4.0)


def pattern(word: str, u: Plane, v: Plane, phase: float, slant: bool) -> Plane:
    """How much of the second colour a pattern shows at (u, v), in [0, 1].

    Args:
        word: a word of the kind `pattern`.
        u: position across, a share of the picture.
        v: position down.
        phase: where the pattern starts, in [0, 1).
        slant: stripes lean.
    """
    if word == "striped":
        along = (u + v) * np.float32(0.7) if slant else u
        return soft(sine(TAU * (along / 0.085 + phase)), 1.2)
    if word == "banded":
        return soft(sine(TAU * (v / 0.15 + phase)), 2.0)
    if word == "wavy":
        return soft(sine(TAU * (v / 0.085 + phase + 0.22 * sine(TAU * u / 0.14))), 1.2)
    if word == "checkered":
        return soft(sine(TAU * (u / 0.14 + phase)) * sine(TAU * (v / 0.14 + phase)), 3.0)
    if word == "mottled":
        waves = sine(TAU * (u * 6.1 + v * 3.3 + phase)) + sine(TAU * (v * 6.7 - u * 3.9 + 2.7 * phase))
        return soft(waves + 0.8 * sine(TAU * (u * 9.2 - v * 7.6 + phase)) - 0.5, 0.9)
    period, radius = {"spotted": (0.125, 0.037), "speckled": (0.078, 0.019), "starry": (0.15, 0.05)}[word]
    row = np.floor(v / period + phase)
    du = (np.mod(u / period + 0.5 * np.mod(row, 2) + phase, 1.0) - 0.5) * period
    dv = (np.mod(v / period + phase, 1.0) - 0.5) * period
    if word == "starry":
        du, dv = np.abs(du), np.abs(dv)
        return soft(radius - (du + dv) - 1.4 * np.minimum(du, dv), 60.0)
    return soft(radius - np.sqrt(du * du + dv * dv), 64.0)


def material(word: str, area: Area, u: Plane, v: Plane, phase: float) -> None:
    """Turn an area into a material, in place; `u`, `v` run over [0, 1] times the extent of the thing."""
    if word == "wooden":
        rings = sine(TAU * (v / 0.09 + 0.5 * sine(TAU * (u / 0.55 + phase)) + phase))
        area += 0.38 * (colour_of(150, 98, 52) - area)
        area *= 1.0 - 0.30 * soft(rings, 0.9)
    elif word in ("metallic", "golden"):
        gray = luma(area)
        area += (0.55 if word == "metallic" else 0.0) * (gray - area)
        sheen = sine(TAU * (u * 0.8 + v * 0.5) / 0.26 + TAU * phase)
        area *= 0.92 + 0.26 * sheen
        mix(area, soft(sheen - 0.82, 3.2) * 0.8, WHITE)
    elif word == "glassy":
        area += 0.25 * (WHITE - area)
        mix(area, soft(sine(TAU * ((u - v) / 0.30 + phase)) - 0.72, 3.0) * 0.85, WHITE)
    elif word == "furry":
        hair = sine(TAU * (u / 0.09 + v / 0.31 + phase)) * sine(TAU * (v / 0.12 - u / 0.37))
        area *= 0.94 + 0.24 * hair
    elif word == "knitted":
        rib = np.abs(np.mod(u / 0.11 + phase, 1.0) - 0.5)
        area *= 0.74 + 0.40 * soft(sine(TAU * (v / 0.075 + 1.3 * rib)), 0.8)
    elif word == "rusty":
        blotch = sine(TAU * (u * 5.3 + v * 2.1 + phase)) + sine(TAU * (v * 5.9 - u * 4.4 + 3 * phase))
        mix(area, soft(blotch - 0.15, 1.2) * 0.9, colour_of(158, 78, 30))
    elif word == "icy":
        area += 0.50 * (colour_of(196, 228, 250) - area)
        facet = np.abs(np.mod((u + 0.5 * v) / 0.17 + phase, 1.0) - 0.5) + 0.5 * np.abs(
            np.mod((v - u) / 0.21, 1.0) - 0.5
        )
        mix(area, soft(facet - 0.46, 5.0) * 0.75, WHITE)
    elif word == "stony":
        area += 0.55 * (colour_of(142, 140, 134) - area)
        row = np.floor(v / 0.085 + phase)
        joint = np.minimum(
            np.abs(np.mod(v / 0.085 + phase, 1.0) - 0.5) * 0.085,
            np.abs(np.mod(u / 0.13 + 0.5 * np.mod(row, 2), 1.0) - 0.5) * 0.13,
        )
        shade = 1.0 + 0.12 * sine(row * 2.4 + 3.1 * np.floor(u / 0.13 + 0.5 * np.mod(row, 2)))
        area *= shade - 0.45 * soft(0.011 - joint, 70.0)


def light(word: str, area: Area, u: Plane, v: Plane) -> None:
    """Light an area, in place; `u`, `v` are in [-1, 1] over the extent of the thing."""
    if word == "bright":
        gray = luma(area)
        area += 0.30 * (area - gray)
        area *= 1.16
        area += 10.0
    elif word == "dark":
        area *= 0.46
    elif word == "pale":
        area += 0.52 * (colour_of(238, 236, 232) - area)
    elif word == "glowing":
        area += (0.62 * decay(1.6 * (u * u + v * v))) * (colour_of(255, 250, 205) - area)
    elif word == "shiny":
        spot = decay(18.0 * ((u + 0.36) ** 2 + (v + 0.40) ** 2))
        spot += 0.7 * decay(50.0 * (u - 0.3) ** 2 + 9.0 * (v - 0.1) ** 2)
        mix(area, np.minimum(spot * 1.25, 1.0), WHITE)
    elif word == "shadowy":
        area *= 1.0 - 0.64 * soft(u * 0.8 + v * 0.35, 2.6)
