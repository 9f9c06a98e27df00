"""Four parts of a body told from key points and a person mask, where no parsing model is at hand."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glimpse.cues.parts import LIMBS, Labels, Mask, PartMap
from glimpse.cues.points import KeyPoints
from glimpse.cues.skeleton import COCO_17
from glimpse.errors import DataError

SHARES = (0.15, 0.38, 0.95)
"""Where head, upper and lower end, as shares of the height of a body that stands. 15 %, 23 % and 62 % are SGSFA's for
head, upper and lower body with the feet, to which we give the last 5 %."""

LEVELS = {"head": 0.08, "shoulder": 0.18, "hip": 0.48, "knee": 0.72, "ankle": 0.94}
"""How far below the crown each level of a standing body lies, as a share of its height."""

# How far each part reaches towards the next along the bone between them; the border is midway on what is left. The head
# ends at three quarters of the way to the shoulders, the upper body shortly above the hips, the shin shortly above the
# ankle.
_HEAD_REACH, _TRUNK_REACH, _SHIN_REACH = 0.5, 0.8, 0.8
_HAND = 0.4  # length of a hand as a share of the forearm that it prolongs
_THIN = 0.03  # by how much an arm is thinner than a head or a thigh, as a share of the height of the body

_FACE = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
_HEAD, _UPPER, _LOWER, _SHOES = range(1, 5)

Rows = npt.NDArray[np.signedinteger[Any]]
Point = npt.NDArray[np.floating[Any]]
Pair = tuple[Point, Point]


class _Bone(NamedTuple):
    """A bone `[2]` to `[2]` of a part, and by how many pixels it is thinner than others."""

    part: int
    start: Point
    end: Point
    thin: float = 0.0


def limb_partition(points: KeyPoints, person: Mask, *, threshold: float = 0.2) -> PartMap:
    """Head, upper body, lower body and shoes of the person whom a crop is of.

    Each pixel of the person goes to the nearest limb: a head between the face and the neck, a trunk between shoulders
    and hips with the arms and hands, legs from the hips to above the ankles, and feet at the ankles. An arm has to be
    nearer than the others by 3 % of the body's height, because it is thinner.

    Missing points: a shoulder, hip, knee or ankle is where the other one is; an arm without one of its points is left
    out up to there. Where both are missing, or the whole face, the level is estimated from those that were found, by
    the shares of a body that stands (`LEVELS`). With nobody, fewer than three points, or levels that tell no upright
    body where one is missing, the rows between the top and the bottom of the mask are cut by the shares `SHARES`, as if
    the whole body were in view.

    Args:
        points: of the crop, by `COCO_17` or `OPENPOSE_18`; the person is their `target`.
        person: bool `[h, w]`, the pixels of that person.
        threshold: a point is found if its score is above.

    Returns:
        A map by `LIMBS`, 0 outside `person`. That of the mirrored crop is the mirrored map.

    Raises:
        DataError: `person` is no mask, or key points are by a skeleton that does not tell those of `COCO_17`.

    >>> nobody = KeyPoints(np.zeros((0, 17, 3)), COCO_17)
    >>> limb_partition(nobody, np.ones((10, 1), bool)).labels[:, 0].tolist()
    [1, 2, 2, 2, 3, 3, 3, 3, 3, 4]
    """
    person = np.asarray(person)
    if person.ndim != 2 or person.dtype != np.bool_ or not person.size:
        cause = f"is an array {list(person.shape)} of {person.dtype}"
        raise DataError("person mask", cause, "give one truth value per pixel, bool [h, w]")
    labels: Labels = np.zeros(person.shape, np.uint8)
    rows, columns = np.nonzero(person)
    if len(rows):
        target = points.to(COCO_17).target(threshold)
        bones = None if target is None else _bones(target, threshold)
        pixels = np.stack((columns, rows)) + 0.5
        labels[rows, columns] = _by_shares(rows) if bones is None else _nearest(pixels, bones)
    return PartMap(labels, LIMBS)


def _by_shares(rows: Rows) -> Rows:
    """The part of each row of pixels, by the shares of a standing body."""
    top, bottom = rows.min(), rows.max() + 1
    parts: Rows = _HEAD + np.searchsorted(SHARES, (rows + 0.5 - top) / (bottom - top), side="right")
    return parts


def _nearest(pixels: Point, bones: list[_Bone]) -> Rows:
    """The part of the bone that each of the pixels `[2, p]` is nearest to."""
    best = np.full((_SHOES, pixels.shape[1]), np.inf)
    for bone in bones:
        along, way = (bone.end - bone.start)[:, None], pixels - bone.start[:, None]
        share = ((along * way).sum(0) / max(float((along**2).sum()), 1e-9)).clip(0, 1)
        way -= share * along
        distance = np.sqrt((way**2).sum(0)) + bone.thin
        np.minimum(best[bone.part - 1], distance, out=best[bone.part - 1])
    # Rounded, so that the last bit does not decide where two parts are as near: the upper one takes the pixel.
    parts: Rows = _HEAD + best.round(6).argmin(0)
    return parts


def _bones(target: Point, threshold: float) -> list[_Bone] | None:
    """The bones of a person `[17, 3]`; `None` if too little of them was found."""
    found: dict[str, Point] = {
        name: row[:2].astype(np.float64) for name, row in zip(COCO_17.points, target, strict=True) if row[2] > threshold
    }
    levels = _levels(found) if len(found) >= 3 else None
    if levels is None:
        return None
    face, shoulders, hips, knees, ankles = (levels[name] for name in LEVELS)
    neck, pelvis = _middle(shoulders), _middle(hips)
    # Along the body, which may bend: from top to bottom it would be too small.
    thin = _THIN * _height(face[0], neck, pelvis, _middle(knees), _middle(ankles))
    bones = [
        _Bone(_HEAD, face[0], _towards(face[0], neck, _HEAD_REACH)),
        _Bone(_UPPER, *shoulders),
        _Bone(_UPPER, neck, _towards(neck, pelvis, _TRUNK_REACH)),
        _Bone(_LOWER, *hips),
    ]
    for side, name in enumerate(("left", "right")):
        shoulder, hip, knee, ankle = (pair[side] for pair in (shoulders, hips, knees, ankles))
        bones += [
            _Bone(_UPPER, shoulder, _towards(shoulder, hip, _TRUNK_REACH)),
            _Bone(_LOWER, hip, knee),
            _Bone(_LOWER, knee, _towards(knee, ankle, _SHIN_REACH)),
            _Bone(_SHOES, ankle, ankle),
        ]
        elbow, wrist = found.get(f"{name}_elbow"), found.get(f"{name}_wrist")
        if elbow is not None and f"{name}_shoulder" in found:
            bones.append(_Bone(_UPPER, shoulder, elbow, thin))
        if elbow is not None and wrist is not None:
            bones.append(_Bone(_UPPER, elbow, wrist + _HAND * (wrist - elbow), thin))
    return bones


def _levels(found: dict[str, Point]) -> dict[str, Pair] | None:
    """Left and right of each of `LEVELS`; `None` if one is missing that cannot be told from the others."""
    levels: dict[str, Pair] = {}
    face = [found[name] for name in _FACE if name in found]
    if face:
        levels["head"] = (np.mean(face, 0),) * 2
    for name in LEVELS:
        sides = [found.get(f"left_{name}"), found.get(f"right_{name}")]
        left, right = (one if one is not None else other for one, other in (sides, sides[::-1]))
        if left is not None and right is not None:
            levels[name] = (left, right)
    if len(levels) == len(LEVELS):
        return levels
    if len(levels) < 2:
        return None
    middles = np.stack([_middle(levels[name]) for name in LEVELS if name in levels])
    below = np.array([LEVELS[name] for name in LEVELS if name in levels])
    height, crown = np.polyfit(below, middles[:, 1], 1)
    if height <= 0:
        return None
    order = middles[:, 1].argsort(kind="stable")
    for name, share in LEVELS.items():
        if name not in levels:
            y = crown + share * height
            x = np.interp(y, middles[order, 1], middles[order, 0])
            levels[name] = (np.array((x, y)),) * 2
    return levels


def _height(*chain: Point) -> float:
    """Height of the body that goes through the middles of all levels."""
    lengths = [float(np.linalg.norm(b - a)) for a, b in itertools.pairwise(chain)]
    return sum(lengths) / (LEVELS["ankle"] - LEVELS["head"])


def _middle(pair: Pair) -> Point:
    return (pair[0] + pair[1]) / 2


def _towards(start: Point, end: Point, share: float) -> Point:
    return start + share * (end - start)
