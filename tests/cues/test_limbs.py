"""Four parts from key points and a person mask."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from glimpse.cues.limbs import LEVELS, SHARES, limb_partition
from glimpse.cues.parts import LIMBS
from glimpse.cues.points import KeyPoints
from glimpse.cues.skeleton import COCO_17, OPENPOSE_18, Skeleton
from glimpse.errors import DataError

SIZE = (128, 64)
HEAD, UPPER, LOWER, SHOES = range(1, 5)
STANDING = {
    "nose": (32, 12),
    "left_eye": (34, 10),
    "right_eye": (30, 10),
    "left_ear": (36, 11),
    "right_ear": (28, 11),
    "left_shoulder": (42, 24),
    "right_shoulder": (22, 24),
    "left_elbow": (46, 44),
    "right_elbow": (18, 44),
    "left_wrist": (48, 60),
    "right_wrist": (16, 60),
    "left_hip": (38, 64),
    "right_hip": (26, 64),
    "left_knee": (38, 92),
    "right_knee": (26, 92),
    "left_ankle": (38, 120),
    "right_ankle": (26, 120),
}


def keypoints(places=STANDING, *, without=(), score=0.9) -> KeyPoints:
    values = [(*places[name], 0.0 if name in without else score) for name in COCO_17.points]
    return KeyPoints(np.array([values]), COCO_17)


def both(*names: str) -> list[str]:
    return [f"{side}_{name}" for name in names for side in ("left", "right")]


FACE = ["nose", *both("eye", "ear")]
EVERYWHERE = np.ones(SIZE, bool)


def by_hand(points: KeyPoints, pixel, threshold=0.2) -> int:
    """The part of one pixel, from the bones of a body of which all was found, one after the other."""
    at = {name: row[:2].astype(float) for name, row in zip(COCO_17.points, points.values[0], strict=True)}
    face = sum(at[name] for name in FACE) / 5
    neck, pelvis, knees, ankles = (
        (at[f"left_{x}"] + at[f"right_{x}"]) / 2 for x in ("shoulder", "hip", "knee", "ankle")
    )
    chain = [face, neck, pelvis, knees, ankles]
    height = sum(np.hypot(*(b - a)) for a, b in itertools.pairwise(chain)) / (0.94 - 0.08)
    bones = [
        (HEAD, face, (face + neck) / 2, 0),
        (UPPER, at["left_shoulder"], at["right_shoulder"], 0),
        (UPPER, neck, neck + 0.8 * (pelvis - neck), 0),
        (LOWER, at["left_hip"], at["right_hip"], 0),
    ]
    for side in ("left", "right"):
        shoulder, elbow, wrist, hip, knee, ankle = (
            at[f"{side}_{x}"] for x in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        )
        bones += [
            (UPPER, shoulder, shoulder + 0.8 * (hip - shoulder), 0),
            (UPPER, shoulder, elbow, 0.03 * height),
            (UPPER, elbow, wrist + 0.4 * (wrist - elbow), 0.03 * height),
            (LOWER, hip, knee, 0),
            (LOWER, knee, knee + 0.8 * (ankle - knee), 0),
            (SHOES, ankle, ankle, 0),
        ]
    best, nearest = 0, np.inf
    for part, start, end, thin in bones:
        # Far finer than a pixel: the nearest of many places along the bone.
        places = start + np.linspace(0, 1, 401)[:, None] * (end - start)
        distance = np.hypot(*(places - pixel).T).min() + thin
        if distance < nearest:
            best, nearest = part, distance
    return best


@given(st.integers(0, 127), st.integers(0, 63))
def test_a_pixel_goes_to_the_nearest_limb(row, column):
    points = keypoints()
    # Off the borders between parts: there the nearest of 401 places does not decide.
    around = {by_hand(points, (column + 0.5 + dx, row + 0.5 + dy)) for dx in (-0.3, 0, 0.3) for dy in (-0.3, 0, 0.3)}
    assume(len(around) == 1)
    assert limb_partition(points, EVERYWHERE).labels[row, column] in around


def test_a_standing_body_is_cut_at_neck_hips_and_ankles():
    labels = limb_partition(keypoints(), EVERYWHERE).labels
    middle, leg = labels[:, 32], labels[:, 38]
    # Face at 10.8 and shoulders at 24: three quarters of the way is 20.7. Hips at 64: nine tenths of the way is 60.
    assert np.flatnonzero(np.diff(middle.astype(int)))[:2].tolist() == [20, 59]
    assert [*dict.fromkeys(middle[:100].tolist())] == [HEAD, UPPER, LOWER]
    # Knees at 92 and ankles at 120: nine tenths is 117.2.
    assert labels[116, 38] == LOWER
    assert (leg[117:] == SHOES).all()
    assert (labels[58:66, 48] == UPPER).all()  # a hand that hangs beside a thigh


def test_only_pixels_of_the_person_have_a_part():
    person = np.random.default_rng(0).random(SIZE) > 0.5
    found = limb_partition(keypoints(), person)
    assert found.scheme == LIMBS
    np.testing.assert_array_equal(found.labels > 0, person)
    whole = limb_partition(keypoints(), EVERYWHERE)
    np.testing.assert_array_equal(found.labels, np.where(person, whole.labels, 0))
    assert not limb_partition(keypoints(), np.zeros(SIZE, bool)).labels.any()


SIXTEENTHS = st.integers(0, 1024).map(lambda n: n / 16)


@given(
    arrays(np.float32, (17, 2), elements=SIXTEENTHS),
    arrays(np.bool_, 17),
    arrays(np.bool_, (24, 16)),
)
def test_the_mirrored_crop_has_the_mirrored_map(places, found, small):
    points = KeyPoints(np.dstack([places[None], found[None, :, None].astype(np.float32)]), COCO_17)
    person = np.kron(small, np.ones((2, 4), bool))
    labels = limb_partition(points, person).labels
    mirrored = limb_partition(points.mirrored(64), person[:, ::-1]).labels
    np.testing.assert_array_equal(mirrored, labels[:, ::-1])


def test_openpose_tells_the_same_as_coco():
    points = keypoints()
    expected = limb_partition(points, EVERYWHERE).labels
    np.testing.assert_array_equal(limb_partition(points.to(OPENPOSE_18), EVERYWHERE).labels, expected)


def test_the_target_is_taken_and_others_are_not():
    other = keypoints({name: (x, y / 2) for name, (x, y) in STANDING.items()}, without=["nose"])
    crowd = KeyPoints(np.concatenate([other.values, keypoints().values]), COCO_17)
    expected = limb_partition(keypoints(), EVERYWHERE).labels
    np.testing.assert_array_equal(limb_partition(crowd, EVERYWHERE).labels, expected)


@pytest.mark.parametrize(
    "points",
    [
        KeyPoints(np.zeros((0, 17, 3)), COCO_17),
        keypoints(without=[*COCO_17.points[2:]]),
        keypoints(score=0.2),
        keypoints(without=COCO_17.points[5:]),  # all found points lie on one level
        keypoints({name: (x, 128 - y) for name, (x, y) in STANDING.items()}, without=both("ankle")),  # upside down
    ],
    ids=["nobody", "two points", "low scores", "only a face", "no standing body"],
)
def test_with_too_few_points_the_height_of_the_mask_is_shared_out(points):
    person = np.zeros(SIZE, bool)
    person[20:120, 10:20] = True
    labels = limb_partition(points, person).labels
    assert np.bincount(labels[20:120, 15]).tolist() == [0, 15, 23, 57, 5]
    np.testing.assert_allclose(np.diff([0, *SHARES, 1]), [0.15, 0.23, 0.57, 0.05])


def test_an_upside_down_body_of_which_all_is_found_is_followed():
    turned = keypoints({name: (x, 128 - y) for name, (x, y) in STANDING.items()})
    expected = limb_partition(keypoints(), EVERYWHERE).labels
    np.testing.assert_array_equal(limb_partition(turned, EVERYWHERE).labels, expected[::-1])


@pytest.mark.parametrize(
    "without",
    [
        ["left_hip"],
        ["right_knee", "right_ankle"],
        both("hip"),
        both("knee", "ankle"),
        FACE,
        [*FACE, *both("knee", "ankle")],
        both("elbow", "wrist"),
    ],
    ids=lambda names: f"{len(names)} without {names[0]}",
)
def test_what_is_missing_is_told_from_the_rest(without):
    """Of a figure that stands as `LEVELS` say, little changes when points are missing."""
    places = {
        name: (x, 128 * LEVELS.get(name.split("_")[-1], y / 128) if name not in FACE else 128 * LEVELS["head"])
        for name, (x, y) in STANDING.items()
    }
    person = np.zeros(SIZE, bool)
    person[:, 20:44] = True
    whole = limb_partition(keypoints(places), person).labels
    some = limb_partition(keypoints(places, without=without), person).labels
    assert (some == whole)[person].mean() > 0.93
    assert {*np.unique(some)} == {*np.unique(whole)}


def test_legs_that_are_hidden_leave_the_mask_to_the_trunk():
    person = np.zeros(SIZE, bool)
    person[:60, 20:44] = True  # a car hides all below
    hidden = keypoints(without=both("hip", "knee", "ankle"))
    labels = limb_partition(hidden, person).labels
    assert {*np.unique(labels)} <= {0, HEAD, UPPER, LOWER}
    assert (labels == limb_partition(keypoints(), person).labels)[person].mean() > 0.9


@pytest.mark.parametrize(
    ("person", "cause"),
    [
        (np.ones((4, 4), np.uint8), "is an array [4, 4] of uint8"),
        (np.ones((4, 4, 1), bool), "is an array [4, 4, 1] of bool"),
        (np.ones((0, 4), bool), "is an array [0, 4] of bool"),
    ],
)
def test_what_is_no_mask_is_named(person, cause):
    with pytest.raises(DataError) as error:
        limb_partition(keypoints(), person)
    assert str(error.value) == f"person mask: {cause}. Remedy: give one truth value per pixel, bool [h, w]."


def test_a_skeleton_that_does_not_tell_the_limbs_is_named():
    tail = KeyPoints(np.ones((1, 1, 3)), Skeleton(name="tail", points=("tail",)))
    with pytest.raises(DataError, match="of 'tail' do not tell 'nose' of 'coco-17'"):
        limb_partition(tail, EVERYWHERE)
