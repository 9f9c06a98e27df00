"""Occluders with an outline: rendered things and cut-out people, to be put in front of real crops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from glimpse.errors import ConfigError
from glimpse.synthetic.materials import Material
from glimpse.synthetic.obstacles import SIDES, STANDS, Side, place
from glimpse.synthetic.places import make_camera
from glimpse.synthetic.render import render_things, shaped

_CAMERAS = 32  # that look at rendered things
_FILLED = 128  # a pixel that is filled by half is covered


@dataclass(frozen=True, eq=False)
class Cutout:
    """Something with an outline.

    Attributes:
        pixels: uint8 `[3, h, w]`; they mean something where `filled` is above 0.
        filled: how much of each pixel it fills, uint8 `[h, w]`.
    """

    pixels: Tensor
    filled: Tensor

    def resized(self, height: int, width: int) -> Cutout:
        """At another size."""
        if self.filled.shape == (height, width):
            return self
        both = torch.cat([self.pixels, self.filled[None]])
        both = F.resize_image(both, [height, width], interpolation=InterpolationMode.BILINEAR, antialias=True)
        return Cutout(both[:3], both[3])

    def over(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Put it in front of an image of its size.

        Args:
            image: uint8 `[3, h, w]`; it is not changed.

        Returns:
            What is seen then, uint8 `[3, h, w]`, and what is left of the image as it was, bool `[h, w]`.
        """
        left = self.filled < _FILLED
        share = (self.filled.float() / 255).masked_fill(left, 0.0)
        seen = image + (self.pixels.float() - image) * share
        return seen.round_().to(torch.uint8), left


def thing(side: Side, fraction: float, size: tuple[int, int], rng: np.random.Generator) -> Cutout:
    """Render something that stands in front of a crop.

    Args:
        side: of the crop that it hides.
        fraction: of the crop's height (top, bottom) or width that it hides, about; in (0, 1).
        size: rows and columns of the crop.
        rng: where random choices come from.

    Raises:
        ConfigError: there is no such side, or the fraction is out of range.

    >>> found = thing("bottom", 0.4, (64, 32), np.random.default_rng(0))
    >>> found.filled.shape, bool((found.filled[:13] == 0).all()), bool((found.filled[45:] > 127).any())
    (torch.Size([64, 32]), True, True)
    """
    if side not in SIDES:
        raise ConfigError("side", f"'{side}' is not a side", f"choose one of {', '.join(SIDES)}")
    if not 0 < fraction < 1:
        raise ConfigError("fraction", f"{fraction} is not between 0 and 1", "give a share of the crop")
    camera = make_camera(int(rng.integers(_CAMERAS)), number=int(rng.integers(3)))
    kinds = STANDS[side]
    kind = kinds[int(rng.integers(len(kinds)))]
    z = float(rng.uniform(camera.near, camera.far))
    # The window of somebody of 1.75 m who stands there.
    head, feet = camera.view((-1.0, -1.0, 1.0, 1.0), (2, 2)).project(np.array([[0, 1.8, z], [0, -0.05, z]]))[:, 1] - 1
    window = shaped((-0.01, float(head), 0.01, float(feet)), size)
    materials: list[Material] = []
    view = camera.view(window, size)
    solids = place(kind, side, fraction, view, np.array([0.0, 0.0, z]), rng, materials)
    image, filled = render_things(camera, window, solids, materials, size, rng)
    return Cutout(torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous(), torch.from_numpy(filled))


def person(
    other: Tensor, mask: Tensor, side: Side, fraction: float, size: tuple[int, int], grow: float = 1.0
) -> Cutout | None:
    """Cut somebody out of their crop and put them before another.

    From the left, the right and the centre they are as tall as the crop; from the bottom their head and shoulders show,
    from the top their legs.

    Args:
        other: their crop, uint8 `[3, h, w]`.
        mask: where they are, bool `[h, w]`.
        side: of the other crop that they hide.
        fraction: of its height (top, bottom) or width up to where they reach, in (0, 1); from the centre how broad they
            are.
        size: rows and columns of the other crop.
        grow: how much larger than that they are.

    Returns:
        `None` where the mask is of less than 16 pixels.
    """
    if mask.sum() < 16:
        return None
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    height, width = size
    own_height, own_width = bottom - top, right - left
    if side in ("left", "right"):
        scale = height / own_height
    elif side == "centre":
        scale = max(fraction * width / own_width, 0.6 * height / own_height)
    else:
        scale = max(width / own_width, fraction * height / own_height)
    scale *= grow
    tall, wide = max(1, round(own_height * scale)), max(1, round(own_width * scale))
    both = torch.cat([other, mask[None].to(torch.uint8) * 255])[:, top:bottom, left:right]
    both = F.resize_image(both, [tall, wide], interpolation=InterpolationMode.BILINEAR, antialias=True)
    y = {"top": round(fraction * height) - tall, "bottom": height - round(fraction * height)}.get(side, height - tall)
    x = {"left": round(fraction * width) - wide, "right": width - round(fraction * width)}.get(
        side, (width - wide) // 2
    )
    canvas = torch.zeros(4, height, width, dtype=torch.uint8)
    here = slice(max(y, 0), min(y + tall, height)), slice(max(x, 0), min(x + wide, width))
    there = slice(here[0].start - y, here[0].stop - y), slice(here[1].start - x, here[1].stop - x)
    canvas[:, here[0], here[1]] = both[:, there[0], there[1]]
    return Cutout(canvas[:3], canvas[3])


def largest_box(visible: npt.NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Give the largest rectangle in which all is visible: x0, y0, x1, y1 in pixels; `None` if nothing is.

    >>> largest_box(np.array([[1, 1, 0], [1, 1, 0], [0, 1, 1]], bool))
    (0, 0, 2, 2)
    """
    height, width = visible.shape
    best: tuple[int, tuple[int, int, int, int]] | None = None
    run = np.zeros(width, np.int64)
    for y in range(height):
        # How far up from this row each column is visible; then the largest rectangle under that outline.
        run = np.where(visible[y], run + 1, 0)
        stack: list[tuple[int, int]] = []
        for x, tall in enumerate([*run.tolist(), 0]):
            start = x
            while stack and stack[-1][1] >= tall:
                start, high = stack.pop()
                area = high * (x - start)
                if area and (best is None or area > best[0]):
                    best = (area, (start, y + 1 - high, x, y + 1))
            stack.append((start, tall))
    return None if best is None else best[1]
