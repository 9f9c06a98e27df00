"""Which cues a method needs, and how they reach it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from glimpse.cues.skeleton import Skeleton


@dataclass(frozen=True)
class Needs:
    """Cues that a method cannot do without.

    Attributes:
        points: the skeleton by which it takes key points, or `None`.
        parts: the groups of part maps that it takes, such as `head` or `body`.
        heat: whether it takes the heat maps of an estimator that gives some, in place of points.

    >>> bool(Needs()), bool(Needs(parts=("body",)))
    (False, True)
    """

    points: Skeleton | None = None
    parts: tuple[str, ...] = ()
    heat: bool = False

    def __bool__(self) -> bool:
        return self.points is not None or bool(self.parts)

    def __or__(self, other: Needs) -> Needs:
        parts = tuple(dict.fromkeys((*self.parts, *other.parts)))
        return Needs(self.points or other.points, parts, self.heat or other.heat)


_NO_HEAT = torch.zeros(0, 0, 1, 1)
_HEAT_STRIDE = 4  # pixels of the network's input per cell of the heat maps that a method is given


class Cues(NamedTuple):
    """Cues of a batch of crops, moved as the crops were; those that no method needs have no columns.

    Attributes:
        points: of the target person, `[n, points, 3]`: x and y in pixels of the network's input, and the score, 0 for
            points that were not found, are covered, or lie outside.
        parts: share of each cell (or pixel) that shows a group, `[n, groups, h, w]` in [0, 1], in any resolution; -1
            throughout for a crop without a part map.
        scale: pixels of the network's input per pixel of the crop, `[n, 2]`, across and down.
        heat: an estimator's own heat maps over the input, one for each of the points, `[n, points, h, w]` in [0, 1], in
            any resolution, 0 where they are covered; no columns where nobody gives them.
    """

    points: Tensor
    parts: Tensor
    scale: Tensor
    heat: Tensor = _NO_HEAT


def heat_on_input(heights: Tensor, visible: Tensor) -> Tensor:
    """Heat maps as `Cues` has them: 0 where they are covered, the highest value of each cell, `[k, H / 4, W / 4]`.

    Args:
        heights: over the whole input, `[k, h, w]`, in any resolution.
        visible: of the input, `[H, W]`.
    """
    height, width = visible.shape
    shown = F.interpolate(heights[None], (height, width), mode="nearest")[0] * visible
    return F.adaptive_max_pool2d(shown, (height // _HEAT_STRIDE, width // _HEAT_STRIDE))
