"""Body-part maps: which pixel of a crop shows which part of a body."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from glimpse.cues.skeleton import mirror_pairs
from glimpse.errors import ConfigError, DataError

Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

LEAST_BODY = 0.03
"""Share of a crop; a part map of one with less body shows nobody."""

BODY = "body"
"""The group that every scheme has: all that is not background."""


class PartScheme(BaseModel):
    """What the numbers of a part map mean.

    Attributes:
        name: what messages and files call it.
        labels: name of each number, from 0, which is the background.
        groups: labels that make up a larger part, by its name; groups need not be disjoint nor cover everything.

    >>> LIP_20.rows("shoes"), LIP_20.rows("body")[:3]
    ((18, 19), (1, 2, 3))
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    labels: tuple[str, ...] = Field(min_length=2, max_length=255)
    groups: dict[str, tuple[str, ...]] = {}

    @model_validator(mode="after")
    def _check(self) -> PartScheme:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("a label is named twice")
        for group, members in self.groups.items():
            strange = [name for name in members if name not in self.labels[1:]]
            if strange or not members or group == BODY:
                raise ValueError(f"the group '{group}' is empty, is '{BODY}', or holds what is no label of a body")
        return self

    def rows(self, group: str) -> tuple[int, ...]:
        """Numbers of the labels of `group`, which may also be a single label, or `body` for all but the background.

        Raises:
            ConfigError: the scheme has no such group.
        """
        if group == BODY:
            return tuple(range(1, len(self.labels)))
        if group not in self.groups and group not in self.labels[1:]:
            known = ", ".join((BODY, *self.groups, *self.labels[1:]))
            raise ConfigError(f"part maps '{self.name}'", f"have no part '{group}'", f"choose from {known}")
        members = self.groups.get(group, (group,))
        return tuple(self.labels.index(name) for name in members)

    @property
    def swap(self) -> tuple[tuple[int, int], ...]:
        """Numbers that trade places when a crop is mirrored."""
        return mirror_pairs(self.labels)

    def has(self, groups: tuple[str, ...]) -> bool:
        """Whether all `groups` can be told."""
        return all(group == BODY or group in self.groups or group in self.labels[1:] for group in groups)


@dataclass(frozen=True, eq=False)
class PartMap:
    """Which part of a body each pixel of a crop shows.

    Attributes:
        labels: uint8 `[h, w]`, of the crop as it lies on disk.
        scheme: what the numbers mean.

    Raises:
        DataError: it is no map of whole numbers, or has a number that the scheme has not.

    >>> PartMap(np.array([[0, 1]]), PERSON).mask("body").tolist()
    [[False, True]]
    """

    labels: Labels
    scheme: PartScheme

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if labels.ndim != 2 or not labels.size or labels.dtype.kind not in "ui":
            cause = f"is an array {list(labels.shape)} of {labels.dtype}"
            raise DataError("part map", cause, "give one whole number per pixel, [h, w]")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.scheme.labels):
            cause = f"has the label {low if low < 0 else high}, and '{self.scheme.name}' ends at "
            cause += str(len(self.scheme.labels) - 1)
            raise DataError("part map", cause, "name the scheme that the labels are of")
        object.__setattr__(self, "labels", labels.astype(np.uint8))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.labels.shape
        return height, width

    def mask(self, group: str = BODY) -> Mask:
        """The pixels of a group, bool `[h, w]`.

        Raises:
            ConfigError: the scheme has no such group.
        """
        table = np.zeros(256, dtype=np.bool_)
        table[list(self.scheme.rows(group))] = True
        found: Mask = table[self.labels]
        return found

    @property
    def body(self) -> float:
        """Share of the crop that is a person."""
        return float(np.mean(self.labels > 0))


LIP_20 = PartScheme(
    name="lip-20",
    labels=(
        "background",
        "hat",
        "hair",
        "glove",
        "sunglasses",
        "upper_clothes",
        "dress",
        "coat",
        "socks",
        "pants",
        "jumpsuits",
        "scarf",
        "skirt",
        "face",
        "left_arm",
        "right_arm",
        "left_leg",
        "right_leg",
        "left_shoe",
        "right_shoe",
    ),
    groups={
        "head": ("hat", "hair", "sunglasses", "face"),
        "upper": ("upper_clothes", "coat", "dress", "jumpsuits", "scarf", "glove", "left_arm", "right_arm"),
        "lower": ("pants", "skirt", "left_leg", "right_leg", "socks"),
        "shoes": ("left_shoe", "right_shoe"),
    },
)
"""The labels of LIP (Gong et al., CVPR 2017). The papers do not say where a dress belongs; here it is upper."""

ATR_18 = PartScheme(
    name="atr-18",
    labels=(
        "background",
        "hat",
        "hair",
        "sunglasses",
        "upper_clothes",
        "skirt",
        "pants",
        "dress",
        "belt",
        "left_shoe",
        "right_shoe",
        "face",
        "left_leg",
        "right_leg",
        "left_arm",
        "right_arm",
        "bag",
        "scarf",
    ),
    groups={
        "head": ("hat", "hair", "sunglasses", "face"),
        "upper": ("upper_clothes", "dress", "left_arm", "right_arm", "scarf"),
        "lower": ("skirt", "pants", "belt", "left_leg", "right_leg"),
        "shoes": ("left_shoe", "right_shoe"),
    },
)
"""The labels of ATR (Liang et al., TPAMI 2015). A bag is on the body and in no group."""

LIMBS = PartScheme(name="limbs", labels=("background", "head", "upper", "lower", "shoes"))
"""Four parts told from key points and a person mask, where no parsing model is at hand."""

PERSON = PartScheme(name="person", labels=("background", "person"))
"""Person or not."""

SCHEMES = {scheme.name: scheme for scheme in (LIP_20, ATR_18, LIMBS, PERSON)}
"""By name."""
