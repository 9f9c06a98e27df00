"""Key points of the people in one crop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glimpse.cues.skeleton import COCO_17, Skeleton
from glimpse.errors import DataError

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class KeyPoints:
    """Key points of the people whom an estimator found in one crop; there may be none.

    Attributes:
        values: float32 `[people, points, 3]`: x and y in pixels of the crop as it lies on disk, measured from the upper
            left corner of the upper left pixel (so in [0, width] and [0, height] inside it), and a score in [0, 1]
            or above, 0 where a point was not found.
        skeleton: which points these are.
        heat: the estimator's own heat maps over the whole crop, where it was asked for them: uint8 `[points, h, w]` of
            one person, in the estimator's resolution. A byte b stands for (b / 255)^2, so that what is near 0 is not
            lost; see `heights`.

    Raises:
        DataError: the shape does not fit the skeleton, a value is not finite or a score below 0, or there are heat maps
            and not one person.

    >>> KeyPoints(np.ones((2, 17, 3)), COCO_17).people
    2
    """

    values: Floats
    skeleton: Skeleton
    heat: Bytes | None = None

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=np.float32)
        wanted = (len(self.skeleton), 3)
        if values.ndim != 3 or values.shape[1:] != wanted:
            cause = f"have the shape {list(values.shape)}, and '{self.skeleton.name}' has {wanted[0]} points"
            raise DataError("key points", cause, f"give [people, {wanted[0]}, 3]: x, y and score")
        if not np.isfinite(values).all() or (values[..., 2] < 0).any():
            cause = "have a value that is not finite, or a score below 0"
            raise DataError("key points", cause, "give score 0 to points that were not found")
        object.__setattr__(self, "values", values)
        if self.heat is not None:
            heat = self.heat
            if heat.dtype != np.uint8 or heat.ndim != 3 or len(heat) != wanted[0] or not heat.size or len(values) != 1:
                cause = f"have heat maps {list(heat.shape)} of {heat.dtype} for {len(values)} people"
                raise DataError("key points", cause, f"give uint8 [{wanted[0]}, h, w] for one person")

    @property
    def heights(self) -> Floats | None:
        """The heat maps in [0, 1], float32 `[points, h, w]`."""
        return None if self.heat is None else np.square(self.heat.astype(np.float32) / 255)

    @property
    def people(self) -> int:
        """How many people were found."""
        return len(self.values)

    def target(self, threshold: float = 0.2) -> Floats | None:
        """The person whom the crop is of: the one with most points of a score above `threshold`.

        Of several with as many the first is taken.

        Returns:
            float32 `[points, 3]`, or `None` where nobody was found.
        """
        if not self.people:
            return None
        found = (self.values[..., 2] > threshold).sum(1)
        person: Floats = self.values[int(found.argmax())]
        return person

    def mirrored(self, width: float) -> KeyPoints:
        """The key points of the crop's mirror image; what was left is right."""
        values = self.values.copy()
        values[..., 0] = np.where(values[..., 2] > 0, width - values[..., 0], values[..., 0])
        order = list(range(len(self.skeleton)))
        for a, b in self.skeleton.swap:
            order[a], order[b] = b, a
        heat = None if self.heat is None else self.heat[order, :, ::-1]
        return KeyPoints(values[:, order], self.skeleton, heat)

    def to(self, skeleton: Skeleton) -> KeyPoints:
        """The same people by another skeleton.

        Points go by their names. A neck that is not given is midway between the shoulders, with the mean of their
        scores (score 0 if one of them was not found), as in OpenPose's 18 points. Heat maps go along where no point is
        made up.

        Raises:
            DataError: `skeleton` has a point that cannot be told from these.
        """
        if skeleton == self.skeleton:
            return self
        names = self.skeleton.points
        columns, maps = [], []
        for point in skeleton.points:
            if point in names:
                columns.append(self.values[:, names.index(point)])
                maps += [] if self.heat is None else [self.heat[names.index(point)]]
            elif point == "neck" and {"left_shoulder", "right_shoulder"} <= set(names):
                left, right = (self.values[:, names.index(f"{side}_shoulder")] for side in ("left", "right"))
                both = (left[:, 2:] > 0) & (right[:, 2:] > 0)
                columns.append(np.where(both, (left + right) / 2, np.float32(0)))
            else:
                cause = f"of '{self.skeleton.name}' do not tell '{point}' of '{skeleton.name}'"
                remedy = " or ".join(f"'{name}'" for name in dict.fromkeys((skeleton.name, COCO_17.name)))
                raise DataError("key points", cause, f"give key points by {remedy}")
        # A neck has no map of its own.
        heat = np.stack(maps) if len(maps) == len(columns) else None
        return KeyPoints(np.stack(columns, axis=1), skeleton, heat)
