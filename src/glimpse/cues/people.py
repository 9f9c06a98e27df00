"""People in crops, gathered from the rows of a file of key points."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from glimpse.cues.points import KeyPoints
from glimpse.cues.readers import CueFile, Reading
from glimpse.cues.skeleton import COCO_17, OPENPOSE_18, Skeleton
from glimpse.errors import DataError

BODY_25 = Skeleton(
    name="body-25",
    points=(
        *OPENPOSE_18.points[:8],
        "mid_hip",
        *OPENPOSE_18.points[8:],
        "left_big_toe",
        "left_small_toe",
        "left_heel",
        "right_big_toe",
        "right_small_toe",
        "right_heel",
    ),
)
"""OpenPose's 25 points, which are read as its 18."""

_BY_NUMBER = {17: COCO_17, 18: OPENPOSE_18, 25: BODY_25}
_MORE_THAN_COCO = (26, 133, 136)
"""Numbers of points of Halpe's bodies, of COCO's whole bodies and of Halpe's: their first 17 are COCO's."""
_SKELETON_REMEDY = "give points by COCO's 17 or OpenPose's 18, or in Python skeleton=, their names in the file's order"


@dataclass
class People:
    """The people of a file while it is read: many rows may be of one crop.

    Attributes:
        reading: takes what is wrong.
        wanted: the skeleton that the caller gave.
        skeleton: of all rows: `wanted`, else that of the first.
        fallback: the skeleton of a file in which nobody was found.
        seen: crops that are named by a row, right or wrong.
    """

    reading: Reading[KeyPoints]
    wanted: Skeleton | None
    skeleton: Skeleton | None = None
    fallback: Skeleton = COCO_17
    seen: set[str] = field(default_factory=set)
    _values: dict[str, list[npt.NDArray[np.float32]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.skeleton = self.wanted

    def add(self, name: str, where: str, numbers: list[float], declared: Skeleton | None = None) -> None:
        """Keep a person of the crop `name`.

        Raises:
            DataError: these are no key points, or by another skeleton than the rows before.
        """
        if not numbers or len(numbers) % 3:
            cause = f"has {len(numbers)} numbers, which are not x, y and score of so many points"
            raise DataError(where, cause, "write three numbers per key point")
        values = np.asarray(numbers, np.float64).reshape(1, -1, 3)
        self.add_all(name, where, values, declared)

    def add_all(self, name: str, where: str, values: npt.NDArray[Any], declared: Skeleton | None = None) -> None:
        """Keep people `[n, k, 3]` of the crop `name`."""
        if declared is None and self.wanted is None and values.shape[1] in _MORE_THAN_COCO:
            values = values[:, : len(COCO_17)]
        skeleton = declared or self._by_number(where, values.shape[1])
        with np.errstate(over="ignore"):
            points = KeyPoints(values, skeleton)
        if skeleton == BODY_25:
            points = points.to(OPENPOSE_18)
        if self.skeleton is None:
            self.skeleton = points.skeleton
        if points.skeleton.points != self.skeleton.points:
            cause = f"is by '{points.skeleton.name}' ({len(points.skeleton)} points), and "
            cause += "skeleton= is" if self.wanted else "the rows before are by"
            cause += f" '{self.skeleton.name}'"
            raise DataError(where, cause, "give one skeleton per file, and the one that it has")
        self._values.setdefault(name, []).extend(points.values)
        self.reading.where.setdefault(name, where)

    def nobody(self, name: str, where: str) -> None:
        """The crop `name` was looked at, and nobody was found so far."""
        self._values.setdefault(name, [])
        self.reading.where.setdefault(name, where)

    def _by_number(self, where: str, number: int) -> Skeleton:
        if self.wanted is not None and len(self.wanted) == number:
            return self.wanted
        if number not in _BY_NUMBER:
            raise DataError(where, f"has {number} key points, and nothing says which", _SKELETON_REMEDY)
        return _BY_NUMBER[number]

    def done(self) -> CueFile[KeyPoints]:
        """What was read.

        Raises:
            DataError: nothing that can be used, or no pixels.
        """
        skeleton = self.skeleton or self.fallback
        for name, people in self._values.items():
            values = np.stack(people) if people else np.zeros((0, len(skeleton), 3), np.float32)
            self.reading.found[name] = KeyPoints(values, skeleton)
        file = self.reading.done()
        found = [points.values[points.values[..., 2] > 0] for points in file.found.values()]
        if sum(map(len, found)) > 2 and all((np.abs(one[:, :2]) <= 1).all() for one in found):
            cause = "has all key points between -1 and 1, which are shares of a picture and not pixels"
            raise DataError(file.path, cause, "write x and y in pixels (OpenPose: --keypoint_scale 0)")
        return file
