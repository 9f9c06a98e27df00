"""What skeletons are called and how they are mirrored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from glimpse.cues.skeleton import COCO_17, OPENPOSE_18, SKELETONS, Skeleton, mirror_pairs
from glimpse.errors import ConfigError


def test_the_known_skeletons_have_the_points_of_their_sources():
    assert (len(COCO_17), len(OPENPOSE_18)) == (17, 18)
    assert set(OPENPOSE_18.points) == {*COCO_17.points, "neck"}
    assert SKELETONS == {"coco-17": COCO_17, "openpose-18": OPENPOSE_18}
    # Rows by which the papers and AlphaPose's documentation go.
    assert [COCO_17.row(name) for name in ("left_shoulder", "right_hip", "right_ankle")] == [5, 12, 16]
    assert [OPENPOSE_18.row(name) for name in ("neck", "left_shoulder", "right_hip", "left_ear")] == [1, 5, 8, 17]


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_every_point_but_those_in_the_middle_has_a_mirror_image(skeleton):
    moved = {row for pair in skeleton.swap for row in pair}
    assert {skeleton.points[row] for row in range(len(skeleton)) if row not in moved} <= {"nose", "neck"}
    for left, right in skeleton.swap:
        assert skeleton.points[left].replace("left", "right") == skeleton.points[right]
    mirrored = {"left": "right", "right": "left"}
    ends = {frozenset(bone) for bone in skeleton.bones}
    for bone in skeleton.bones:
        other = [f"{mirrored[side]}_{rest}" if rest else side for side, _, rest in (end.partition("_") for end in bone)]
        assert frozenset(other) in ends


@given(st.lists(st.sampled_from(["a", "left_a", "right_a", "left_b", "right_b", "leftish"]), unique=True))
def test_a_point_trades_places_only_if_both_sides_are_there(names):
    pairs = mirror_pairs(names)
    expected = {(f"left_{x}", f"right_{x}") for x in "ab" if {f"left_{x}", f"right_{x}"} <= set(names)}
    assert {(names[a], names[b]) for a, b in pairs} == expected


@pytest.mark.parametrize(
    ("points", "bones", "said"),
    [
        (("nose", "nose"), (), "a point is named twice"),
        (("nose",), (("nose", "tail"),), "a bone ends at 'tail', which is no point"),
        ((), (), "at least 1 item"),
    ],
)
def test_what_is_no_skeleton_is_refused(points, bones, said):
    with pytest.raises(ValidationError, match=said):
        Skeleton(name="odd", points=points, bones=bones)


def test_an_unknown_point_is_named_with_those_there_are():
    with pytest.raises(ConfigError) as error:
        Skeleton(name="two", points=("nose", "neck")).row("tail")
    assert str(error.value) == "skeleton 'two': has no point 'tail'. Remedy: its points are nose, neck."
