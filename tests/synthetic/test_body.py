"""Bodies stand on the ground, the right way round, and walk."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glimpse.cues.skeleton import COCO_17
from glimpse.errors import ConfigError
from glimpse.synthetic.body import ARMS, Body, Build, Pose, head_size, pose_body
from glimpse.synthetic.looks import dress, make_look
from glimpse.synthetic.shapes import BOX

builds = st.builds(Build, height=st.floats(1.0, 2.1), girth=st.floats(0.7, 1.6), hips=st.floats(0.7, 1.5))
poses = st.builds(
    Pose,
    phase=st.floats(0, 2 * np.pi),
    stride=st.floats(0, 0.5),
    left_arm=st.sampled_from(ARMS),
    right_arm=st.sampled_from(ARMS),
    lean=st.floats(-0.05, 0.15),
)


def standing(heading: float = 0.0, **pose: float) -> Body:
    return pose_body(Build(), Pose(**pose), (0.5, 6.0), heading)


def ahead(body: Body, joint: str, heading: float = 0.0) -> float:
    """How far in front of the pelvis a joint is."""
    way = np.array([np.sin(heading), 0, -np.cos(heading)])
    return float((body.joints[joint] - body.joints["pelvis"]) @ way)


@given(builds, poses, st.floats(-np.pi, np.pi))
@settings(max_examples=60, deadline=None)
def test_the_lower_foot_is_on_the_ground_and_the_body_over_its_place(build: Build, pose: Pose, heading: float) -> None:
    body = pose_body(build, pose, (0.5, 6.0), heading)
    feet = [body.joints[f"{side}_{end}"][1] for side in ("left", "right") for end in ("heel", "toe")]
    assert min(feet) == pytest.approx(0.022 * build.height)  # half of a shoe's height
    assert min(joint[1] for joint in body.joints.values()) == pytest.approx(min(feet))
    np.testing.assert_allclose(body.joints["pelvis"][[0, 2]], [0.5, 6.0])
    for frame in (body.trunk, body.pelvis, body.head, *body.limbs.values()):
        np.testing.assert_allclose(frame.axes @ frame.axes.T, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("stride", [0.0, 0.4])
def test_soles_touch_the_ground_and_do_not_sink_in(stride: float) -> None:
    for seed in range(20):
        look = make_look(seed)
        body = pose_body(look.build, Pose(phase=seed, stride=stride), (0, 6.0), 0.3 * seed)
        solids = [solid for solid in dress(look, body, 1, []) if solid.kind != BOX]
        lowest = min(min(solid.a[1] - solid.ra, solid.b[1] - solid.rb) for solid in solids)
        assert -0.015 < lowest < 0.01


@pytest.mark.parametrize(("heading", "sign"), [(0.0, 1), (np.pi, -1)])
def test_left_is_on_the_right_from_the_front_and_on_the_left_from_behind(heading: float, sign: int) -> None:
    joints = standing(heading).joints
    for name in ("shoulder", "elbow", "hip", "knee", "ankle", "eye", "ear"):
        assert sign * (joints[f"left_{name}"][0] - joints[f"right_{name}"][0]) > 0.02
    # The nose points to the camera, which is where z is smaller.
    assert sign * (joints["head"][2] - joints["nose"][2]) > 0.05


def test_who_goes_to_the_right_has_the_left_side_away_from_the_camera() -> None:
    joints = standing(np.pi / 2).joints
    assert joints["nose"][0] > joints["head"][0] + 0.05
    assert joints["left_shoulder"][2] > joints["right_shoulder"][2] + 0.2


@pytest.mark.parametrize("height", [0.9, 1.3, 1.72, 2.1])
def test_heights(height: float) -> None:
    body = pose_body(Build(height=height), Pose(lean=0.0), (0, 6), 0)
    y = {name: joint[1] for name, joint in body.joints.items()}
    assert y["crown"] == pytest.approx(height, rel=0.02)
    order = ("crown", "nose", "neck", "left_shoulder", "left_elbow", "left_hip", "left_knee", "left_ankle", "left_toe")
    assert [y[name] for name in order] == sorted((y[name] for name in order), reverse=True)
    assert head_size(body.build) == pytest.approx(0.062 * height)


@given(st.floats(-np.pi, np.pi), st.sampled_from(ARMS))
@settings(max_examples=30, deadline=None)
def test_who_stands_still_is_symmetric(phase: float, arms: str) -> None:
    body = standing(phase=phase, left_arm=arms, right_arm=arms)
    for name in ("shoulder", "elbow", "wrist", "hand", "hip", "knee", "ankle", "heel", "toe", "eye", "ear"):
        left, right = body.joints[f"left_{name}"], body.joints[f"right_{name}"]
        np.testing.assert_allclose(left - [0.5, 0, 0], (right - [0.5, 0, 0]) * [-1, 1, 1], atol=1e-9)
    assert body.joints["nose"][0] == pytest.approx(0.5)


def test_arms_swing_against_legs() -> None:
    body = standing(phase=np.pi / 2, stride=0.4)
    assert ahead(body, "left_ankle") > 0.2 > -0.1 > ahead(body, "right_ankle")
    assert ahead(body, "left_wrist") < 0 < ahead(body, "right_wrist")
    # The hips turn with the leg in front, the shoulders with the arm in front.
    assert ahead(body, "left_hip") > ahead(body, "right_hip")
    assert ahead(body, "left_shoulder") < ahead(body, "right_shoulder")


def test_what_a_pose_changes() -> None:
    plain = standing()
    assert ahead(standing(lean=0.2), "neck") > ahead(plain, "neck") + 0.05
    assert standing(turn=0.5).joints["nose"][0] > plain.joints["nose"][0] + 0.02  # to the left, which is x
    assert standing(nod=0.3).joints["nose"][1] < plain.joints["nose"][1] - 0.01
    assert standing(apart=0.2).joints["left_wrist"][0] > plain.joints["left_wrist"][0] + 0.05
    phone, folded = standing(left_arm="phone"), standing(left_arm="folded")
    assert phone.joints["left_wrist"][1] > phone.joints["left_elbow"][1]
    assert folded.joints["left_wrist"][0] < folded.joints["left_elbow"][0] - 0.1  # across the chest
    assert ahead(folded, "left_wrist") > 0.1


def test_key_points_are_cocos_in_order() -> None:
    body = standing(stride=0.3, phase=1.0)
    points = body.keypoints()
    assert points.shape == (17, 3)
    for name, point in zip(COCO_17.points, points, strict=True):
        assert (point == body.joints[name]).all()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("height", 0.5, "build.height: 0.5 is not believable. Remedy: give 0.9 to 2.1."),
        ("girth", 2, "build.girth: 2 is not believable. Remedy: give 0.7 to 1.6."),
        ("shoulders", 0.1, "build.shoulders: 0.1 is not believable. Remedy: give 0.7 to 1.4."),
        ("hips", 1.6, "build.hips: 1.6 is not believable. Remedy: give 0.7 to 1.5."),
        ("belly", -0.1, "build.belly: -0.1 is not believable. Remedy: give 0.0 to 0.3."),
        ("head", float("nan"), "build.head: nan is not believable. Remedy: give 0.8 to 1.5."),
    ],
)
def test_a_build_that_nobody_has_is_refused(name: str, value: float, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        Build(**{name: value})


def test_what_arms_do_not_do_is_refused() -> None:
    said = "pose.arms: 'wave' is nothing that arms do. Remedy: choose one of swing, phone, pockets, folded, carry."
    for side in ("left_arm", "right_arm"):
        with pytest.raises(ConfigError, match=re.escape(said)):
            Pose(**{side: "wave"})
