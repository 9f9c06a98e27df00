"""Which cues a method needs, and how they reach it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from glimpse.cues.skeleton import Skeleton


@dataclass(frozen=True)
class Needs:
    """Cues that a method cannot do without.

    Attributes:
        points: the skeleton by which it takes key points, or `None`.
        parts: the groups of part maps that it takes, such as `head` or `body`.

    >>> bool(Needs()), bool(Needs(parts=("body",)))
    (False, True)
    """

    points: Skeleton | None = None
    parts: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.points is not None or bool(self.parts)

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.points or other.points, tuple(dict.fromkeys((*self.parts, *other.parts))))


class Cues(NamedTuple):
    """Cues of a batch of crops, moved as the crops were; those that no method needs have no columns.

    Attributes:
        points: of the target person, `[n, points, 3]`: x and y in pixels of the network's input, and the score, 0 for
            points that were not found, are covered, or lie outside.
        parts: share of each cell (or pixel) that shows a group, `[n, groups, h, w]` in [0, 1], in any resolution; -1
            throughout for a crop without a part map.
        scale: pixels of the network's input per pixel of the crop, `[n, 2]`, across and down.
    """

    points: Tensor
    parts: Tensor
    scale: Tensor
