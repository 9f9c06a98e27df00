"""Key points: what is refused, whose crop it is, mirrored and by another skeleton."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from glimpse.cues.points import KeyPoints
from glimpse.cues.skeleton import COCO_17, OPENPOSE_18, Skeleton
from glimpse.errors import DataError

SIXTEENTHS = st.integers(0, 1024).map(lambda n: n / 16)


def drawn(people: int, k: int):
    return arrays(np.float32, (people, k, 3), elements=SIXTEENTHS)


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        (np.zeros((1, 16, 3)), "have the shape [1, 16, 3], and 'coco-17' has 17 points"),
        (np.zeros((17, 3)), "have the shape [17, 3], and 'coco-17' has 17 points"),
        (np.full((1, 17, 3), np.nan), "have a value that is not finite, or a score below 0"),
        (np.full((1, 17, 3), -1.0), "have a value that is not finite, or a score below 0"),
    ],
)
def test_what_are_no_key_points_is_named(values, cause):
    with pytest.raises(DataError) as error:
        KeyPoints(values, COCO_17)
    assert (error.value.where, error.value.cause) == ("key points", cause)
    assert error.value.remedy


def test_values_become_float32_and_negative_places_are_allowed():
    points = KeyPoints(np.tile([-3, 7, 1], (1, 17, 1)), COCO_17)
    assert points.values.dtype == np.float32
    assert points.values[0, 0].tolist() == [-3, 7, 1]


@given(arrays(np.float32, (3, 17, 3), elements=st.sampled_from([0.0, 0.2, 0.5])), st.sampled_from([0.0, 0.2, 0.4]))
def test_the_target_is_the_first_with_most_points_above_the_threshold(values, threshold):
    best, most = None, -1
    for person in values:
        number = sum(bool(score > threshold) for score in person[:, 2])
        if number > most:
            best, most = person, number
    np.testing.assert_array_equal(KeyPoints(values, COCO_17).target(threshold), best)


def test_heat_maps_are_of_one_person_and_go_with_their_points():
    heat = np.arange(17 * 2 * 3, dtype=np.uint8).reshape(17, 2, 3)
    points = KeyPoints(np.ones((1, 17, 3)), COCO_17, heat)
    assert points.heights[16, 1, 2] == pytest.approx((101 / 255) ** 2)
    left, right = COCO_17.row("left_ankle"), COCO_17.row("right_ankle")
    np.testing.assert_array_equal(points.mirrored(64).heat[left], heat[right, :, ::-1])
    two = Skeleton(name="two", points=("right_ankle", "nose"))
    np.testing.assert_array_equal(points.to(two).heat, heat[[right, 0]])
    assert points.to(OPENPOSE_18).heat is None  # nobody has a map of a neck
    for wrong in (heat[:16], heat.astype(np.float32), heat[0], heat[:, :0]):
        with pytest.raises(DataError, match=r"key points: have heat maps .*Remedy: give uint8 \[17, h, w\] for one"):
            KeyPoints(np.ones((1, 17, 3)), COCO_17, wrong)
    with pytest.raises(DataError, match="for 2 people"):
        KeyPoints(np.ones((2, 17, 3)), COCO_17, heat)


def test_nobody_has_no_target():
    assert KeyPoints(np.zeros((0, 17, 3)), COCO_17).target() is None


@pytest.mark.parametrize("skeleton", [COCO_17, OPENPOSE_18])
def test_the_mirror_image_has_each_point_on_the_other_side(skeleton):
    @given(drawn(2, len(skeleton)))
    def check(values):
        points = KeyPoints(values, skeleton)
        mirrored = points.mirrored(64)
        for name in skeleton.points:
            other = name.replace("left", "x").replace("right", "left").replace("x", "right")
            a, b = values[:, skeleton.row(name)], mirrored.values[:, skeleton.row(other)]
            np.testing.assert_array_equal(b[:, 1:], a[:, 1:])
            there = a[:, 2] > 0
            np.testing.assert_array_equal(b[there, 0], 64 - a[there, 0])
            np.testing.assert_array_equal(b[~there, 0], a[~there, 0])
        np.testing.assert_array_equal(mirrored.mirrored(64).values, values)

    check()


@given(drawn(2, 17))
def test_openpose_and_back_is_the_same_and_the_neck_is_between_the_shoulders(values):
    points = KeyPoints(values, COCO_17)
    by_openpose = points.to(OPENPOSE_18)
    np.testing.assert_array_equal(by_openpose.to(COCO_17).values, values)
    for person, neck in zip(values, by_openpose.values[:, 1], strict=True):
        left, right = person[5], person[6]
        expected = (left + right) / 2 if left[2] > 0 and right[2] > 0 else np.zeros(3)
        np.testing.assert_array_equal(neck, expected)


def test_a_point_that_cannot_be_told_is_named():
    points = KeyPoints(np.zeros((1, 2, 3)), Skeleton(name="two", points=("nose", "tail")))
    assert points.to(points.skeleton) is points
    with pytest.raises(DataError) as error:
        points.to(COCO_17)
    assert str(error.value) == (
        "key points: of 'two' do not tell 'left_eye' of 'coco-17'. Remedy: give key points by 'coco-17'."
    )
    with pytest.raises(DataError, match="do not tell 'neck' of 'neck'"):
        points.to(Skeleton(name="neck", points=("neck",)))
