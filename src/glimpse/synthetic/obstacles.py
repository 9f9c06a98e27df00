"""Things that stand in a scene, and where they must stand to hide a chosen part of somebody."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from glimpse.errors import ConfigError
from glimpse.synthetic.looks import CLOTHES
from glimpse.synthetic.materials import Colour, Material, Pattern
from glimpse.synthetic.shapes import Frame, Solid, Vector, View, box, cone

Thing = Literal["car", "pole", "wall", "boxes", "bush", "umbrella", "trolley"]
THINGS: tuple[Thing, ...] = get_args(Thing)
Side = Literal["top", "bottom", "left", "right", "centre"]
SIDES: tuple[Side, ...] = get_args(Side)

STANDS: dict[Side, tuple[Thing, ...]] = {
    "top": ("umbrella", "wall"),
    "bottom": ("car", "wall", "boxes", "bush", "trolley"),
    "left": ("wall", "bush", "pole", "boxes"),
    "right": ("wall", "bush", "pole", "boxes"),
    "centre": ("pole",),
}
"""What can hide somebody from each side."""

_UP = np.array([0.0, 1.0, 0.0])


def place(
    thing: Thing,
    side: Side,
    fraction: float,
    view: View,
    spot: Vector,
    rng: np.random.Generator,
    materials: list[Material],
) -> list[Solid]:
    """Put a thing between the camera and somebody, so that it hides a part of the window.

    Args:
        thing: what it is; one of `STANDS[side]`.
        side: of the window that it hides.
        fraction: of the window's height (top, bottom) or width that it is to hide; what it hides of the person is
            measured in the picture.
        view: the window.
        spot: where the person stands `[3]`.
        rng: where random choices come from.
        materials: of the picture; new ones are added at its end.

    Raises:
        ConfigError: the thing cannot stand there, or the fraction is not in (0, 1).

    >>> from glimpse.synthetic.places import make_camera
    >>> view = make_camera(1).view((-0.1, -0.2, 0.1, 0.2), (128, 64))
    >>> len(place("boxes", "bottom", 0.4, view, np.array([0, 0, 8.0]), np.random.default_rng(0), []))
    4
    """
    if side not in STANDS or thing not in STANDS[side]:
        where = ", ".join(STANDS.get(side, ())) or f"a side among {', '.join(SIDES)}"
        raise ConfigError("occluder", f"'{thing}' does not hide anybody from the {side}", f"choose {where}")
    if not 0 < fraction < 1:
        raise ConfigError("occluder.fraction", f"{fraction} is not between 0 and 1", "give a share of the window")
    ahead = float(spot[2] - view.eye[2])
    # Far enough away for a step towards it.
    depth = ahead - float(rng.uniform(0.5, 1.0)) * min(1.6, 0.3 * ahead)
    if thing == "umbrella":
        depth = ahead - 0.45
    left, top, right, bottom = view.window
    if side in ("top", "bottom"):
        row = top + (fraction if side == "top" else 1 - fraction) * (bottom - top)
        edge = _through(view, 0.5 * (left + right), row, depth)
    else:
        share = {"left": fraction, "right": 1 - fraction, "centre": 0.5 + float(rng.uniform(-0.15, 0.15))}[side]
        edge = _through(view, left + share * (right - left), 0.5 * (top + bottom), depth)
    width = (right - left) * depth / view.focal
    return _BUILD[thing](_Make(side, edge, width, fraction, rng, materials))


def scatter(kind_rng: np.random.Generator, near: float, far: float, materials: list[Material]) -> list[Solid]:
    """Give a few things that stand about behind people, from `near` to `far` metres away."""
    solids: list[Solid] = []
    things: tuple[Thing, ...] = ("car", "boxes", "bush", "trolley")
    for _ in range(4):
        thing = things[int(kind_rng.integers(len(things)))]
        tall = {"car": 1.45, "boxes": 0.8, "bush": 1.1, "trolley": 1.0}[thing]
        z = float(kind_rng.uniform(near, far))
        x = float(kind_rng.uniform(-0.5, 0.5)) * z
        at = np.array([x, tall, z])
        solids += _BUILD[thing](_Make("bottom", at, 1.0, 0.4, kind_rng, materials))
    return solids


# --- each thing ----------------------------------------------------------------------------------------------------


class _Make:
    """Where a thing is to stand: `edge` is the point whose picture lies on the edge of what is to be hidden."""

    def __init__(
        self,
        side: Side,
        edge: Vector,
        width: float,
        fraction: float,
        rng: np.random.Generator,
        materials: list[Material],
    ) -> None:
        self.side, self.edge, self.width, self.fraction = side, edge, width, fraction
        self.rng, self.materials = rng, materials

    @property
    def top(self) -> float:
        """How high something is that hides the bottom, in metres."""
        return max(0.15, float(self.edge[1])) if self.side == "bottom" else 2.6

    @property
    def outward(self) -> float:
        """-1 if the thing goes on to the left of its edge, 1 to the right."""
        return -1.0 if self.side == "left" else 1.0

    def material(self, colour: Colour, second: Colour = (0, 0, 0), pattern: Pattern = "plain", **more: float) -> int:
        self.materials.append(
            Material(colour, second, pattern, folds=more.get("folds", 0.0), scale=more.get("scale", 1))
        )
        return len(self.materials) - 1

    def colour(self) -> Colour:
        return CLOTHES[int(self.rng.integers(len(CLOTHES)))]

    def frame(self, origin: Vector, yaw: float = 0.0) -> Frame:
        c, s = np.cos(yaw), np.sin(yaw)
        return Frame(origin, np.array([[c, 0, s], [0, 1, 0], [s, 0, -c]]))


def _car(make: _Make) -> list[Solid]:
    rng, tall = make.rng, float(np.clip(make.top, 0.5, 2.1))
    unit = tall / 1.45
    paint = make.material(make.colour())
    glass, rubber, trim = make.material((52, 62, 72)), make.material((24, 24, 26)), make.material((206, 208, 210))
    yaw = float(rng.uniform(-0.15, 0.15)) + (np.pi if rng.random() < 0.5 else 0)
    # The edge of the roof that is away from the camera is what hides somebody behind the car.
    centre = np.array([make.edge[0] + rng.uniform(-0.9, 0.9) * unit, 0.0, make.edge[2] - 0.58 * unit])
    axes = make.frame(centre, yaw).axes
    along, out = axes[0], axes[2]

    def at(x: float, y: float, z: float) -> Vector:
        return np.asarray(centre + unit * (x * along + z * out) + np.array([0, unit * y, 0]))

    half = unit * np.array([2.1, 0.24, 0.83])
    solids = [box(Frame(at(0, 0.58, 0), axes), half, paint)]
    frame = make.frame(at(0, 0.6, 0), yaw)
    for x, radius in ((-1.75, 0.3), (1.75, 0.3)):  # rounded ends
        solids.append(
            cone(at(x, 0.6, -0.6), at(x, 0.6, 0.6), radius * unit, radius * unit, frame=frame, material=paint)
        )
    # A cabin of glass under a roof, with pillars between the windows.
    cabin = unit * np.array([1.15, 0.29, 0.56])
    solids.append(box(Frame(at(-0.15, 1.09, 0), axes), cabin, glass))
    solids.append(box(Frame(at(-0.15, 1.41, 0), axes), unit * np.array([1.1, 0.04, 0.58]), paint))
    for x, lean in ((-1.35, 0.2), (-0.2, 0.0), (1.1, -0.25)):
        for side in (-0.68, 0.68):
            a, b = at(x, 0.8, side), at(x + lean, 1.42, 0.83 * side)
            solids.append(cone(a, b, 0.05 * unit, 0.05 * unit, frame=frame, material=paint))
    lamp = make.material((214, 60, 46) if rng.random() < 0.5 else (236, 232, 206))
    for side in (-0.6, 0.6):
        solids.append(
            cone(at(2.02, 0.66, side), at(2.02, 0.66, side), 0.1 * unit, 0.1 * unit, frame=frame, material=lamp)
        )
    solids.append(box(Frame(at(0, 0.38, 0), axes), unit * np.array([2.11, 0.05, 0.84]), trim))
    for x in (-1.3, 1.3):
        for side in (-1.0, 1.0):
            a, b = at(x, 0.32, side * 0.86), at(x, 0.32, side * 0.66)
            solids.append(cone(a, b, 0.32 * unit, 0.32 * unit, frame=frame, material=rubber, flat=True))
            hub = at(x, 0.32, side * 0.88)
            solids.append(cone(hub, b, 0.17 * unit, 0.17 * unit, frame=frame, material=trim, flat=True))
    return solids


def _pole(make: _Make) -> list[Solid]:
    wide = make.fraction * make.width
    radius = float(np.clip(0.5 * wide, 0.04, 0.4))
    x = float(make.edge[0]) + (0.0 if make.side == "centre" else make.outward * radius)
    foot = np.array([x, 0.0, make.edge[2]])
    second: Colour = (228, 226, 222)
    striped: Pattern = "stripes" if make.rng.random() < 0.3 else "plain"
    paint = make.material(make.colour(), second, striped, scale=5.0)
    return [cone(foot, foot + 4.0 * _UP, radius, radius, frame=make.frame(foot), material=paint, flat=True)]


def _wall(make: _Make) -> list[Solid]:
    red: Colour = (150, 96, 76) if make.rng.random() < 0.5 else (178, 174, 166)
    brick = make.material(red, (196, 190, 180), "bricks" if make.rng.random() < 0.7 else "plain")
    thick = 0.12
    if make.side == "top":
        centre = np.array([make.edge[0], make.edge[1] + 1.0, make.edge[2]])
        return [box(make.frame(centre), (3.0, 1.0, thick), brick)]
    if make.side == "bottom":
        centre = np.array([make.edge[0], 0.5 * make.top, make.edge[2]])
        return [box(make.frame(centre), (3.0, 0.5 * make.top, thick), brick)]
    centre = np.array([make.edge[0] + make.outward * 1.5, 1.5, make.edge[2]])
    return [box(make.frame(centre), (1.5, 1.5, thick), brick)]


def _boxes(make: _Make) -> list[Solid]:
    rng = make.rng
    brown: tuple[Colour, ...] = ((176, 136, 92), (192, 156, 112), (150, 112, 74))
    printed = rng.random() < 0.4
    tape = make.material((206, 190, 150))
    levels, wide, aside = [0.0, 0.8, 1.5, 2.2], 0.55, make.outward * 0.55
    if make.side == "bottom":
        levels, wide, aside = [0.0, 0.55 * make.top, make.top], max(0.45, 0.6 * make.width), 0.0
    # They stand in line with the camera, and what hides somebody is the edge that is away from it.
    yaw = -float(np.arctan2(make.edge[0], make.edge[2]))
    across, _, near = make.frame(make.edge, yaw).axes
    x, _, z = make.edge + aside * across + 0.3 * near
    solids: list[Solid] = []
    for low, high in pairwise(levels):
        card = make.material(make.colour() if printed else brown[int(rng.integers(len(brown)))], folds=0.15)
        turn = float(rng.uniform(-0.12, 0.12)) if make.side == "bottom" else 0.0
        frame = make.frame(np.array([x, 0.5 * (low + high), z]), yaw + turn)
        solids.append(box(frame, (wide, 0.5 * (high - low), 0.3), card))
        solids.append(box(frame, (0.04, 0.5 * (high - low) + 0.002, 0.31), tape))
    return solids


def _bush(make: _Make) -> list[Solid]:
    rng, tall = make.rng, make.top if make.side == "bottom" else 2.1
    green: Colour = ((46, 84, 40), (66, 104, 48), (38, 70, 50))[int(rng.integers(3))]
    dark: Colour = (max(0, green[0] - 26), max(0, green[1] - 36), max(0, green[2] - 22))
    leaves = make.material(green, dark, "leaves")
    solids: list[Solid] = []
    reach = max(0.5, 0.6 * make.width) if make.side == "bottom" else 0.5
    middle = float(make.edge[0]) + (0.0 if make.side == "bottom" else make.outward * 0.5)
    z = float(make.edge[2])
    rows = max(2, round(tall / 0.35))
    for row in range(rows):
        radius = 0.5 * tall / rows + 0.12
        y = (row + 0.5) / rows * (tall - radius)
        count = 5 if make.side == "bottom" else 3
        for column in range(count):
            x = middle + (2 * (column + 0.5) / count - 1) * (reach - 0.5 * radius) + float(rng.uniform(-0.06, 0.06))
            at = np.array([x, y + float(rng.uniform(-0.05, 0.05)), z + float(rng.uniform(-0.1, 0.1))])
            size = radius * float(rng.uniform(0.9, 1.15))
            solids.append(cone(at, at, size, size, frame=make.frame(at), material=leaves))
    return solids


def _umbrella(make: _Make) -> list[Solid]:
    colour = make.colour()
    cloth = make.material(colour, make.colour(), "bars" if make.rng.random() < 0.3 else "plain", scale=3.0)
    steel = make.material((150, 150, 154))
    # Held against the camera, as against rain: from there its canopy is a disc that ends at the edge.
    wide = max(0.55, 0.68 * make.width)
    tip = np.array([0.0, 0.5, -0.87])
    rim = np.asarray(make.edge + np.array([float(make.rng.uniform(-0.1, 0.1)), 0.92 * wide, 0.0]))
    frame = Frame(rim, np.array([[1.0, 0, 0], [0, 0.87, 0.5], [0, 0.5, -0.87]]))
    return [
        cone(rim, rim + 0.26 * tip, wide, 0.12, frame=frame, material=cloth, flat=True),
        cone(rim + 0.2 * tip, rim + 0.34 * tip, 0.02, 0.012, frame=frame, material=steel),
        cone(rim + 0.2 * tip, rim - 0.7 * tip, 0.012, 0.012, frame=frame, material=steel),
    ]


def _trolley(make: _Make) -> list[Solid]:
    rng, tall = make.rng, float(np.clip(make.top, 0.5, 1.6))
    steel, grip = make.material((168, 172, 176)), make.material(make.colour())
    goods = [make.material(make.colour(), folds=0.2) for _ in range(3)]
    middle, z = float(make.edge[0]), float(make.edge[2])
    half = max(0.42, 0.55 * make.width)
    low = 0.42 * tall
    solids: list[Solid] = []
    frame = make.frame(np.array([middle, low, z]))
    for row in range(5):
        y = low + (tall - low) * row / 4
        a, b = np.array([middle - half, y, z - 0.25]), np.array([middle + half, y, z - 0.25])
        solids.append(cone(a, b, 0.012, 0.012, frame=frame, material=steel))
    for column in range(9):
        x = middle + half * (column / 4 - 1)
        a, b = np.array([x, low, z - 0.25]), np.array([x, tall, z - 0.25])
        solids.append(cone(a, b, 0.009, 0.009, frame=frame, material=steel))
    for number, material in enumerate(goods):
        x = middle + (number - 1) * 0.6 * half
        size = (0.28 * half, 0.5 * (tall - low) * float(rng.uniform(0.75, 1.0)), 0.18)
        centre = np.array([x, low + size[1], z])
        solids.append(box(make.frame(centre), size, material))
    solids.append(box(make.frame(np.array([middle, low, z])), (half, 0.02, 0.25), steel))
    for side in (-1.0, 1.0):
        leg = np.array([middle + side * 0.8 * half, 0.06, z])
        solids.append(cone(leg, leg + (low - 0.06) * _UP, 0.02, 0.02, frame=frame, material=steel))
        solids.append(cone(leg, leg, 0.06, 0.06, frame=frame, material=steel))
    a, b = np.array([middle - half, tall, z + 0.25]), np.array([middle + half, tall, z + 0.25])
    solids.append(cone(a, b, 0.022, 0.022, frame=frame, material=grip))
    return solids


_BUILD: dict[Thing, Callable[[_Make], list[Solid]]] = {
    "car": _car,
    "pole": _pole,
    "wall": _wall,
    "boxes": _boxes,
    "bush": _bush,
    "umbrella": _umbrella,
    "trolley": _trolley,
}


def _through(view: View, x: float, y: float, depth: float) -> Vector:
    """The point `depth` metres ahead (along the ground) that is seen at (x, y) of the picture plane."""
    direction = np.array([x, -y, view.focal]) @ view.axes
    return np.asarray(view.eye + direction * (depth / direction[2]))
