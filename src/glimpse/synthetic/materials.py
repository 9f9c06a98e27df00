"""Materials: what colour a point of a surface has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from glimpse.errors import ConfigError
from glimpse.synthetic.shapes import Array

Colour = tuple[int, int, int]
Pattern = Literal["plain", "stripes", "bars", "checks", "dots", "logo", "gradient", "block", "open", "leaves", "bricks"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
CLOTH: tuple[Pattern, ...] = PATTERNS[: PATTERNS.index("open")]
"""Patterns that clothes are printed with."""


@dataclass(frozen=True)
class Material:
    """What a surface looks like.

    Attributes:
        first, second: colours, sRGB.
        pattern: how they share the surface; `second` shows only where there is a pattern.
        scale: of the pattern, relative to a medium one.
        folds: how much light and dark creases show, 0 to 1.
        face: whether eyes and a mouth are painted on; for heads.

    Raises:
        ConfigError: the pattern is not known, or the scale is not positive.
    """

    first: Colour
    second: Colour = (0, 0, 0)
    pattern: Pattern = "plain"
    scale: float = 1.0
    folds: float = 0.5
    face: bool = False

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise ConfigError(
                "material.pattern", f"'{self.pattern}' is no pattern", f"choose one of {', '.join(PATTERNS)}"
            )
        if not self.scale > 0:
            raise ConfigError("material.scale", f"{self.scale} is not positive", "give 1 for a medium pattern")


def colours(materials: Sequence[Material], rows: npt.NDArray[np.integer], places: Array) -> Array:
    """Colours of points in linear light, without shading.

    Args:
        materials: all of a picture.
        rows: the material of each point `[n]`.
        places: where each point is on its texture: across, along and out, in metres `[n, 3]`.

    Returns:
        float32 `[n, 3]` in [0, 1].
    """
    found = np.empty((len(rows), 3), np.float32)
    order = np.argsort(rows, kind="stable")
    bounds = np.flatnonzero(np.diff(rows[order])) + 1
    for part in np.split(order, bounds):
        if len(part):
            found[part] = _painted(materials[int(rows[part[0]])], places[part])
    return found


def linear(colour: Sequence[float]) -> Array:
    """sRGB in 0 to 255 as linear light in [0, 1] (gamma 2.2)."""
    return ((np.asarray(colour, np.float64) / 255) ** 2.2).astype(np.float32)


def _painted(material: Material, q: Array) -> Array:
    first, second = linear(material.first), linear(material.second)
    across, along, out = q.T
    share = _share(material, across, along, out)
    colour = np.tile(first, (len(q), 1)) if share is None else first + share[:, None] * (second - first)
    if material.face:
        # Eyes, brows and a mouth: a head is a few pixels across, and a face without any looks like a back.
        eye = (np.abs(np.abs(across) - 0.032) < 0.014) & (np.abs(along - 0.012) < 0.010) & (out > 0)
        mouth = (np.abs(across) < 0.024) & (np.abs(along + 0.062) < 0.006) & (out > 0)
        colour = np.where(eye[:, None], linear((46, 34, 30)), colour)
        colour = np.where(mouth[:, None], colour * np.array([0.75, 0.4, 0.4], np.float32), colour)
    if material.folds > 0:
        crease = np.sin(29 * along + 3 * np.sin(21 * across + 5 * out)) * np.sin(17 * across - 13 * along + 11 * out)
        colour = colour * (1 + np.float32(0.22 * material.folds) * crease)[:, None]
    return colour.astype(np.float32, copy=False)


def _share(material: Material, across: Array, along: Array, out: Array) -> Array | None:
    """Share of the second colour at each point; `None` for plain surfaces."""
    size = np.float32(material.scale)
    pattern = material.pattern
    if pattern == "plain":
        return None
    if pattern == "stripes":
        on = np.mod(along / (0.09 * size), 1) < 0.5
    elif pattern == "bars":
        on = np.mod(across / (0.08 * size), 1) < 0.5
    elif pattern == "checks":
        on = (np.mod(across / (0.12 * size), 1) < 0.5) ^ (np.mod(along / (0.12 * size), 1) < 0.5)
    elif pattern == "dots":
        cell = 0.1 * size
        row = np.floor(along / cell)
        x = np.mod(across / cell + 0.5 * np.mod(row, 2), 1) - 0.5
        y = np.mod(along / cell, 1) - 0.5
        on = x * x + y * y < 0.09
    elif pattern == "logo":
        # On the chest, and on the back as well.
        half = 0.075 * size
        on = (np.abs(across) < half) & (np.abs(along - 0.17) < 0.8 * half) & (np.abs(out) > 0.02)
    elif pattern == "gradient":
        down: Array = np.clip(0.5 - along / (0.5 * size), 0, 1).astype(np.float32)
        return down
    elif pattern == "block":
        on = along < 0.1 * size
    elif pattern == "open":
        on = (np.abs(across) < 0.045 * size + 0.03 * np.maximum(0, along)) & (out > 0)
    elif pattern == "leaves":
        n = np.sin(61 * across + 7 * np.sin(53 * along)) * np.sin(67 * along + 5 * np.sin(47 * out)) * np.sin(59 * out)
        mottled: Array = np.clip(0.5 + 1.5 * n / size, 0, 1).astype(np.float32)
        return mottled
    else:  # bricks
        row = np.floor(along / (0.12 * size))
        x = np.mod(across / (0.3 * size) + 0.5 * np.mod(row, 2), 1)
        on = (np.mod(along / (0.12 * size), 1) < 0.14) | (x < 0.06)
    drawn: Array = on.astype(np.float32)
    return drawn
