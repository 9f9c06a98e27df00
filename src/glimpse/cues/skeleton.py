"""Skeletons: what the key points of a body are called and how they hang together."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, model_validator

from glimpse.errors import ConfigError


def mirror_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Rows of `left_X` and `right_X`, which trade places when a crop is mirrored.

    >>> mirror_pairs(("nose", "right_eye", "left_eye", "left_horn"))
    ((2, 1),)
    """
    return tuple(
        (row, names.index(other))
        for row, name in enumerate(names)
        if name.startswith("left_") and (other := "right_" + name.removeprefix("left_")) in names
    )


class Skeleton(BaseModel):
    """Names of key points, in the order in which a file or an estimator gives them.

    Attributes:
        name: what messages and files call it.
        points: one name per key point; `left_X` and `right_X` trade places when a crop is mirrored.
        bones: pairs of points to draw a line between.

    >>> COCO_17.swap[0], COCO_17.row("left_hip")
    ((1, 2), 11)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    points: tuple[str, ...] = Field(min_length=1)
    bones: tuple[tuple[str, str], ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Skeleton:
        if len(set(self.points)) != len(self.points):
            raise ValueError("a point is named twice")
        strange = [name for bone in self.bones for name in bone if name not in self.points]
        if strange:
            raise ValueError(f"a bone ends at '{strange[0]}', which is no point")
        return self

    def __len__(self) -> int:
        return len(self.points)

    def row(self, point: str) -> int:
        """Where the key point of that name stands.

        Raises:
            ConfigError: the skeleton has no such point.
        """
        if point not in self.points:
            raise ConfigError(
                f"skeleton '{self.name}'", f"has no point '{point}'", f"its points are {', '.join(self.points)}"
            )
        return self.points.index(point)

    @property
    def swap(self) -> tuple[tuple[int, int], ...]:
        """Rows that trade places when a crop is mirrored."""
        return mirror_pairs(self.points)


_LIMBS = (
    ("left_shoulder", "right_shoulder"),
    ("left_shoulder", "left_elbow"),
    ("left_elbow", "left_wrist"),
    ("right_shoulder", "right_elbow"),
    ("right_elbow", "right_wrist"),
    ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"),
    ("left_hip", "right_hip"),
    ("left_hip", "left_knee"),
    ("left_knee", "left_ankle"),
    ("right_hip", "right_knee"),
    ("right_knee", "right_ankle"),
    ("nose", "left_eye"),
    ("nose", "right_eye"),
    ("left_eye", "left_ear"),
    ("right_eye", "right_ear"),
)

COCO_17 = Skeleton(
    name="coco-17",
    points=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
    bones=_LIMBS,
)
"""The 17 key points of COCO (Lin et al., ECCV 2014)."""

OPENPOSE_18 = Skeleton(
    name="openpose-18",
    points=(
        "nose",
        "neck",
        "right_shoulder",
        "right_elbow",
        "right_wrist",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
        "right_hip",
        "right_knee",
        "right_ankle",
        "left_hip",
        "left_knee",
        "left_ankle",
        "right_eye",
        "left_eye",
        "right_ear",
        "left_ear",
    ),
    bones=(("nose", "neck"), *_LIMBS),
)
"""COCO's key points and the neck, in OpenPose's order (Cao et al., TPAMI 2019): what PGFA uses."""

SKELETONS = {skeleton.name: skeleton for skeleton in (COCO_17, OPENPOSE_18)}
"""By name."""
