"""People who do not exist, in front of cameras that do not exist: who they are, and one crop of somebody."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from glimpse.errors import ConfigError
from glimpse.synthetic.body import Arms, Pose, pose_body
from glimpse.synthetic.looks import Look, make_look, near_twin
from glimpse.synthetic.materials import Material
from glimpse.synthetic.obstacles import SIDES, STANDS, Side, place
from glimpse.synthetic.places import Camera, make_camera
from glimpse.synthetic.render import Crop, Figure, Scene, render, window_of

Kind = Literal["car", "pole", "wall", "boxes", "bush", "umbrella", "trolley", "person", "border"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class InFront:
    """Something between the camera and the person.

    Attributes:
        kind: a thing, `person`, or `border`: the crop ends too early.
        side: of the crop that is hidden.
        fraction: of the crop's height (top, bottom) or width that is to be hidden, in (0, 1).

    Raises:
        ConfigError: there is no such kind or side, they do not go together, or the fraction is out of range.
    """

    kind: Kind
    side: Side
    fraction: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError("occluder", f"'{self.kind}' is not known", f"choose one of {', '.join(KINDS)}")
        sides = sides_of(self.kind)
        if self.side not in sides:
            cause = f"'{self.kind}' does not hide anybody from the '{self.side}'"
            raise ConfigError("occluder", cause, f"choose {', '.join(sides)}")
        if not 0 < self.fraction < 1:
            raise ConfigError(
                "occluder.fraction", f"{self.fraction} is not between 0 and 1", "give a share of the crop"
            )


def sides_of(kind: Kind) -> tuple[Side, ...]:
    """Sides from which something can hide a person.

    >>> sides_of("car"), sides_of("border")
    (('bottom',), ('top', 'bottom', 'left', 'right'))
    """
    if kind == "border":
        return ("top", "bottom", "left", "right")
    if kind == "person":
        return ("left", "right", "centre")
    return tuple(side for side in SIDES if kind in STANDS[side])


@dataclass(frozen=True)
class Population:
    """Who walks past the cameras.

    Attributes:
        people: how many there are; ids begin with 1.
        train: how many of them, the first, are for training.
        cameras: how many look on.
        twins: share of the people who differ from the one before in one item only.
        seed: of everything.

    Raises:
        ConfigError: a number is out of range.
    """

    people: int = 40
    train: int = 20
    cameras: int = 3
    twins: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        ranges = (("people", self.people, 2, 9998), ("cameras", self.cameras, 1, 99), ("twins", self.twins, 0, 1))
        for name, value, low, high in (*ranges, ("seed", self.seed, 0, 2**63), ("train", self.train, 0, self.people)):
            if not low <= value <= high:
                raise ConfigError(name, f"{value} is out of range", f"give {low} to {high}")

    def camera(self, camera: int) -> Camera:
        """The camera with that number, from 1."""
        return _camera(self.seed, camera)

    def look(self, pid: int) -> Look:
        """What the person with that id looks like."""
        return self.twin(pid)[0]

    def twin(self, pid: int) -> tuple[Look, int, str]:
        """Looks, and whose near twin it is and in which item they differ; 0 and nothing if nobody's."""
        return _twin(self, pid)


def render_person(
    pid: int = 1,
    shot: int = 0,
    *,
    camera: int = 1,
    size: tuple[int, int] = (128, 64),
    heading: float | None = None,
    in_front: InFront | None = None,
    population: Population | None = None,
) -> Crop:
    """Render somebody once.

    Args:
        pid: who, from 1.
        shot: which time: pose, place and noise.
        camera: which camera, from 1; the first three look at a street, a lobby and a shop.
        size: rows and columns.
        heading: where the person goes: 0 is to the camera, pi away from it, pi / 2 to the right; drawn if `None`.
        in_front: what hides the person.
        population: of whom.

    Raises:
        ConfigError: a number is out of range.

    >>> crop = render_person(7, in_front=InFront("car", "bottom", 0.5))
    >>> crop.image.size, 0.1 < crop.visible_share() < 0.9, crop.visible_share("shoes")
    ((64, 128), True, 0.0)
    """
    crowd = population or Population(people=9998, train=0)
    for name, value, high in (("pid", pid, crowd.people), ("camera", camera, 99)):
        if not 1 <= value <= high:
            raise ConfigError(name, f"{value} is out of range", f"give 1 to {high}")
    if shot < 0:
        raise ConfigError("shot", f"{shot} is negative", "give 0 or more")
    rng = np.random.default_rng((crowd.seed, 1, pid, camera, shot))
    return render(scene_of(crowd, pid, camera, rng, size, heading, in_front), size, rng)


# --- scenes --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _twin(crowd: Population, pid: int) -> tuple[Look, int, str]:
    first = 1 if pid <= crowd.train else crowd.train + 1
    alone = pid == first or pid > crowd.people or np.random.default_rng((crowd.seed, 4, pid)).random() >= crowd.twins
    if alone:
        return make_look(crowd.seed, 0, pid), 0, ""
    # Of somebody who is nobody's twin, so that items do not add up along a chain.
    other = pid - 1
    while other > first and np.random.default_rng((crowd.seed, 4, other)).random() < crowd.twins:
        other -= 1
    look, item = near_twin(make_look(crowd.seed, 0, other), crowd.seed, 5, pid)
    return look, other, item


@lru_cache(maxsize=256)
def _camera(seed: int, camera: int) -> Camera:
    return make_camera(seed, 2, camera, number=camera - 1)


def scene_of(
    population: Population,
    pid: int,
    number: int,
    rng: np.random.Generator,
    size: tuple[int, int],
    heading: float | None = None,
    in_front: InFront | None = None,
) -> Scene:
    """What stands before a camera when somebody walks past: `render_person` without the rendering."""
    camera = population.camera(number)
    z = float(rng.uniform(camera.near, camera.far))
    x = float(rng.uniform(-0.3, 0.3)) * z
    turn = camera.heading + camera.spread * float(rng.standard_normal()) if heading is None else heading
    figure = _figure(population, pid, rng, (x, z), turn)
    window = _jittered(window_of(figure, camera, size), rng)
    scene = Scene(camera, figure, window)
    if in_front is None:
        return scene
    if in_front.kind == "border":
        return replace(scene, window=_cut(window, in_front))
    if in_front.kind == "person":
        return replace(scene, others=(_passer_by(population, scene, in_front, rng),))
    materials: list[Material] = []
    view = camera.view(window, size)
    spot = np.array([x, 0.0, z])
    solids = place(in_front.kind, in_front.side, in_front.fraction, view, spot, rng, materials)
    return replace(scene, things=tuple(solids), materials=tuple(materials))


def _figure(
    population: Population, pid: int, rng: np.random.Generator, place: tuple[float, float], heading: float
) -> Figure:
    look = population.look(pid)
    walks = rng.random() < 0.75
    stride = float(rng.uniform(0.25, 0.5)) if walks else float(rng.uniform(0.0, 0.06))
    if look.lower == "skirt" or look.top == "dress":
        stride *= 0.75
    arms: tuple[Arms, ...] = ("swing", "phone", "pockets", "folded")
    chances = (0.86, 0.06, 0.06, 0.02) if walks else (0.66, 0.14, 0.14, 0.06)
    left, right = (arms[int(rng.choice(4, p=chances))] for _ in range(2))
    if look.bag == "handbag":
        left = right = "carry"
    skirt = look.lower == "skirt" or look.top == "dress"
    if skirt:  # without pockets
        left, right = ("swing" if arm == "pockets" else arm for arm in (left, right))
    pose = Pose(
        phase=float(rng.uniform(0, 2 * np.pi)),
        stride=stride,
        left_arm=left,
        right_arm="folded" if left == "folded" else "swing" if right == "folded" else right,
        apart=0.12 if skirt or look.top == "coat" else 0.0,
        lean=float(rng.normal(0.04, 0.03)),
        turn=float(rng.normal(0, 0.3)),
        nod=float(rng.normal(0.05, 0.1)),
    )
    return Figure(look, pose_body(look.build, pose, place, heading), pid)


def _passer_by(population: Population, scene: Scene, in_front: InFront, rng: np.random.Generator) -> Figure:
    """Another person of the same part of the population, nearer to the camera; a stranger if there is no other."""
    train = scene.target.pid <= population.train
    low, high = (1, population.train) if train else (population.train + 1, population.people)
    others = [pid for pid in range(low, high + 1) if pid != scene.target.pid] or [population.people + 1]
    pid = others[int(rng.integers(len(others)))]
    spot = scene.target.body.joints["pelvis"]
    depth = float(spot[2]) - float(rng.uniform(0.6, 1.2))
    nearer = depth / float(spot[2])
    reach = 0.15 * (scene.target.look.build.height + population.look(pid).build.height)
    # From the centre a little to one side as well, or all of the person would be hidden.
    aside = {"left": -1.0, "right": 1.0, "centre": float(rng.choice((-0.5, 0.5)))}[in_front.side]
    away = aside * reach * (1 - in_front.fraction)
    heading = float(rng.uniform(-np.pi, np.pi))
    return _figure(population, pid, rng, (nearer * float(spot[0]) + away, depth), heading)


def _jittered(window: tuple[float, float, float, float], rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A detector's box: a little too large or too small, and not quite in the middle."""
    left, top, right, bottom = window
    wide, tall = right - left, bottom - top
    grow = 1 + float(np.clip(rng.normal(0.02, 0.05), -0.08, 0.15))
    x = 0.5 * (left + right) + wide * float(np.clip(rng.normal(0, 0.035), -0.1, 0.1))
    y = 0.5 * (top + bottom) + tall * float(np.clip(rng.normal(0, 0.02), -0.06, 0.06))
    return x - wide * grow / 2, y - tall * grow / 2, x + wide * grow / 2, y + tall * grow / 2


def _cut(window: tuple[float, float, float, float], in_front: InFront) -> tuple[float, float, float, float]:
    """What is left of a box when the frame of the picture ends inside it."""
    left, top, right, bottom = window
    wide, tall = right - left, bottom - top
    if in_front.side == "top":
        top += in_front.fraction * tall
    elif in_front.side == "bottom":
        bottom -= in_front.fraction * tall
    elif in_front.side == "left":
        left += in_front.fraction * wide
    else:
        right -= in_front.fraction * wide
    return left, top, right, bottom
