"""Bodies: proportions, the pose of a step, and where that puts every joint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from glimpse.cues.skeleton import COCO_17
from glimpse.errors import ConfigError
from glimpse.synthetic.shapes import Frame, Vector

Arms = Literal["swing", "phone", "pockets", "folded", "carry"]
ARMS: tuple[Arms, ...] = get_args(Arms)
LEFT, RIGHT = 1, -1
SIDES = (LEFT, RIGHT)


@dataclass(frozen=True)
class Build:
    """Proportions of somebody.

    Attributes:
        height: in metres, 0.9 to 2.1.
        girth: thickness of body and limbs relative to the average for that height.
        shoulders, hips: breadth relative to the average.
        belly: how far the belly comes forward, in metres.
        head: size relative to an adult's of that height; children's are larger.

    Raises:
        ConfigError: a value is out of range.
    """

    height: float = 1.72
    girth: float = 1.0
    shoulders: float = 1.0
    hips: float = 1.0
    belly: float = 0.0
    head: float = 1.0

    def __post_init__(self) -> None:
        ranges = (("height", 0.9, 2.1), ("girth", 0.7, 1.6), ("shoulders", 0.7, 1.4), ("hips", 0.7, 1.5))
        for name, low, high in (*ranges, ("belly", 0.0, 0.3), ("head", 0.8, 1.5)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"build.{name}", f"{value} is not believable", f"give {low} to {high}")


@dataclass(frozen=True)
class Pose:
    """A moment of a walk, or of standing.

    Attributes:
        phase: of the step, in radians; the left leg is in front at pi / 2.
        stride: how far the thighs swing, in radians; 0 stands still.
        left_arm, right_arm: what the arms do.
        apart: how much farther arms that hang are from the body than usual, in radians.
        lean: of the trunk to the front, in radians.
        turn: of the head to the left, in radians.
        nod: of the head to the front, in radians.
    """

    phase: float = 0.0
    stride: float = 0.0
    left_arm: Arms = "swing"
    right_arm: Arms = "swing"
    apart: float = 0.0
    lean: float = 0.03
    turn: float = 0.0
    nod: float = 0.0

    def __post_init__(self) -> None:
        for name in (self.left_arm, self.right_arm):
            if name not in ARMS:
                raise ConfigError("pose.arms", f"'{name}' is nothing that arms do", f"choose one of {', '.join(ARMS)}")


@dataclass(frozen=True, eq=False)
class Body:
    """A posed body in the world.

    Attributes:
        build, pose: of whom and how.
        joints: place `[3]` of each joint by name: COCO's 17, and neck, chest, waist, pelvis, crown, head, and for both
            sides hand, toe and heel.
        trunk, pelvis, head: frames of the chest, the hips and the head.
        limbs: frames of upper arms, forearms, thighs and shins, by name such as `left_thigh`; `along` runs up the limb.
    """

    build: Build
    pose: Pose
    joints: dict[str, Vector]
    trunk: Frame
    pelvis: Frame
    head: Frame
    limbs: dict[str, Frame]

    def keypoints(self) -> Vector:
        """COCO's 17 points, float64 `[17, 3]`, in the world."""
        return np.stack([self.joints[name] for name in COCO_17.points])


def pose_body(build: Build, pose: Pose, place: tuple[float, float], heading: float) -> Body:
    """Put somebody into the world, standing on the ground.

    Args:
        build: proportions.
        pose: a moment of a walk.
        place: x and z of the spot below the pelvis.
        heading: where the person goes: 0 is to the camera, pi / 2 to the camera's right.

    Returns:
        The body; its lowest point is on the ground.

    >>> body = pose_body(Build(height=1.8), Pose(), (0.0, 5.0), 0.0)
    >>> float(body.joints["crown"][1]).__round__(1), bool(body.joints["left_hip"][0] > body.joints["right_hip"][0])
    (1.8, True)
    """
    tall = build.height
    forward = np.array([np.sin(heading), 0.0, -np.cos(heading)])
    left = np.array([np.cos(heading), 0.0, np.sin(heading)])
    up = np.array([0.0, 1.0, 0.0])
    swing = float(np.sin(pose.phase))
    sway = 0.16 * pose.stride * swing

    # The hips turn with the leg that is in front, the shoulders against it.
    pelvis_left, pelvis_forward = _turned(left, forward, -sway)
    trunk_left, trunk_forward = _turned(left, forward, 0.8 * sway)
    tilt = pose.lean
    trunk_up = up * np.cos(tilt) + trunk_forward * np.sin(tilt)
    trunk_forward = trunk_forward * np.cos(tilt) - up * np.sin(tilt)

    joints: dict[str, Vector] = {}
    limbs: dict[str, Frame] = {}
    pelvis = np.array([place[0], 0.53 * tall, place[1]])
    joints["pelvis"] = pelvis
    joints["waist"] = pelvis + 0.085 * tall * up
    joints["chest"] = joints["waist"] + 0.135 * tall * trunk_up
    joints["neck"] = joints["waist"] + 0.225 * tall * trunk_up
    breadth = 0.108 * tall * build.shoulders * (0.9 + 0.1 * build.girth)
    for side, name in ((LEFT, "left"), (RIGHT, "right")):
        _leg(joints, limbs, build, pose, side, name, pelvis, pelvis_left, pelvis_forward, up)
        joints[f"{name}_shoulder"] = joints["waist"] + 0.19 * tall * trunk_up + side * breadth * trunk_left
        _arm(joints, limbs, build, pose, side, name, trunk_left, trunk_forward, trunk_up)
    head_left, head_forward = _turned(trunk_left, trunk_forward, pose.turn)
    head_up = trunk_up * np.cos(pose.nod) + head_forward * np.sin(pose.nod)
    head_forward = head_forward * np.cos(pose.nod) - trunk_up * np.sin(pose.nod)
    size = 0.062 * tall * build.head
    joints["head"] = joints["neck"] + 0.032 * tall * trunk_up + size * 1.12 * head_up
    joints["crown"] = joints["head"] + size * 1.12 * head_up
    joints["nose"] = joints["head"] + size * (0.95 * head_forward - 0.12 * head_up)
    for side, name in ((LEFT, "left"), (RIGHT, "right")):
        joints[f"{name}_eye"] = joints["head"] + size * (0.78 * head_forward + 0.16 * head_up + side * 0.36 * head_left)
        joints[f"{name}_ear"] = joints["head"] + size * (side * 0.8 * head_left + 0.02 * head_up)

    # The lower foot stands on the ground.
    soles = [joints[f"{name}_{end}"][1] for name in ("left", "right") for end in ("heel", "toe")]
    drop = -float(min(soles)) + 0.022 * tall
    shift = np.array([0.0, drop, 0.0])
    joints = {name: joint + shift for name, joint in joints.items()}
    limbs = {name: Frame(frame.origin + shift, frame.axes) for name, frame in limbs.items()}
    return Body(
        build,
        pose,
        joints,
        Frame(joints["waist"], np.stack([trunk_left, trunk_up, trunk_forward])),
        Frame(joints["pelvis"], np.stack([pelvis_left, up, pelvis_forward])),
        Frame(joints["head"], np.stack([head_left, head_up, head_forward])),
        limbs,
    )


def head_size(build: Build) -> float:
    """Half the breadth of a head in metres, without hair."""
    return 0.062 * build.height * build.head


def _leg(
    joints: dict[str, Vector],
    limbs: dict[str, Frame],
    build: Build,
    pose: Pose,
    side: int,
    name: str,
    pelvis: Vector,
    left: Vector,
    forward: Vector,
    up: Vector,
) -> None:
    tall = build.height
    phase = pose.phase if side == LEFT else pose.phase + np.pi
    thigh = pose.stride * np.sin(phase) + 0.1 * pose.stride
    # The knee bends while the leg comes forward, and a little at all times.
    knee = 0.04 + pose.stride * (0.2 + 1.3 * max(0.0, np.cos(phase)))
    spread = 0.02 + 0.03 * (build.girth - 1)
    hip = pelvis + side * 0.052 * tall * build.hips * left
    down = -up * np.cos(thigh) + forward * np.sin(thigh) + side * spread * left
    down /= np.sqrt(down @ down)
    at_knee = hip + 0.245 * tall * down
    shin = -up * np.cos(thigh - knee) + forward * np.sin(thigh - knee) - side * 0.01 * left
    shin /= np.sqrt(shin @ shin)
    ankle = at_knee + 0.243 * tall * shin
    # The foot keeps its sole level in front, and rolls over the toes behind.
    roll = 0.7 * min(0.0, thigh - knee + 0.1)
    ahead = forward * np.cos(roll) + up * np.sin(roll) + 0.12 * side * left
    ahead /= np.sqrt(ahead @ ahead)
    joints[f"{name}_hip"], joints[f"{name}_knee"], joints[f"{name}_ankle"] = hip, at_knee, ankle
    sole = _cross(ahead, left)
    sole = sole if sole[1] < 0 else -sole
    joints[f"{name}_heel"] = ankle - 0.022 * tall * ahead + 0.022 * tall * sole
    joints[f"{name}_toe"] = ankle + 0.1 * tall * ahead + 0.026 * tall * sole
    limbs[f"{name}_thigh"] = Frame(at_knee, _limb_axes(-down, forward))
    limbs[f"{name}_shin"] = Frame(ankle, _limb_axes(-shin, forward))


def _arm(
    joints: dict[str, Vector],
    limbs: dict[str, Frame],
    build: Build,
    pose: Pose,
    side: int,
    name: str,
    left: Vector,
    forward: Vector,
    up: Vector,
) -> None:
    tall = build.height
    phase = pose.phase if side == LEFT else pose.phase + np.pi
    does = pose.left_arm if side == LEFT else pose.right_arm
    out = 0.10 + 0.08 * (build.girth - 1) + pose.apart
    inward = 0.0
    if does == "swing":  # against the leg of the same side
        upper = -0.75 * pose.stride * np.sin(phase)
        bend = 0.15 + 0.5 * pose.stride + 0.25 * max(0.0, upper)
    elif does == "phone":
        upper, bend, inward = 0.35, 2.25, 0.25
    elif does == "pockets":
        upper, bend, out, inward = -0.25, 0.75, 0.28, 0.3
    elif does == "folded":
        upper, bend, inward = 0.35, 1.35, 0.95
    else:
        upper, bend, out = -0.25 * pose.stride * np.sin(phase), 0.06, 0.16 + pose.apart
    direction = -up * np.cos(upper) + forward * np.sin(upper) + side * out * left
    direction /= np.sqrt(direction @ direction)
    elbow = joints[f"{name}_shoulder"] + 0.172 * tall * direction
    fore = -up * np.cos(upper + bend) + forward * np.sin(upper + bend) + side * (0.4 * out - inward) * left
    fore /= np.sqrt(fore @ fore)
    wrist = elbow + 0.148 * tall * fore
    joints[f"{name}_elbow"], joints[f"{name}_wrist"] = elbow, wrist
    joints[f"{name}_hand"] = wrist + 0.05 * tall * fore
    limbs[f"{name}_upper_arm"] = Frame(elbow, _limb_axes(-direction, forward))
    limbs[f"{name}_forearm"] = Frame(wrist, _limb_axes(-fore, forward + 0.2 * up))


def _turned(left: Vector, forward: Vector, angle: float) -> tuple[Vector, Vector]:
    """Both turned to the left by an angle."""
    c, s = np.cos(angle), np.sin(angle)
    return left * c - forward * s, forward * c + left * s


def _cross(a: Vector, b: Vector) -> Vector:
    """Many times as fast as NumPy's for a single pair."""
    (ax, ay, az), (bx, by, bz) = a.tolist(), b.tolist()
    return np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])


def _limb_axes(along: Vector, forward: Vector) -> Vector:
    out = forward - along * float(forward @ along)
    length = float(np.sqrt(out @ out))
    if length < 1e-6:
        out = np.array([along[1], -along[0], 0.0]) + 1e-9
        length = float(np.sqrt(out @ out))
    out = out / length
    return np.stack([_cross(out, along), along, out])
