"""Cameras and what they look at: where they hang, the light, the ground and walls, and what the sensor adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from glimpse.errors import ConfigError
from glimpse.synthetic.materials import Colour, linear
from glimpse.synthetic.shapes import Array, Vector, View

Kind = Literal["street", "lobby", "shop"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Light:
    """Light on a scene.

    Attributes:
        direction: from where it comes, x, y (up) and z; z below 0 is from behind the camera.
        colour, sky: linear light of the sun or lamps, and of what comes from all sides.
        softness: 0 casts hard shadows, 1 none.
    """

    direction: tuple[float, float, float]
    colour: tuple[float, float, float]
    sky: tuple[float, float, float]
    softness: float

    @property
    def unit(self) -> Vector:
        """The direction, of length 1."""
        vector = np.asarray(self.direction, np.float64)
        return vector / np.sqrt(vector @ vector)


@dataclass(frozen=True)
class Camera:
    """What is the same in all crops of a camera.

    Attributes:
        kind: what it looks at.
        seed: of the colours and patterns of ground and walls.
        height: above the ground in metres.
        near, far: how far away people walk, in metres.
        wall: where the wall behind them stands, in metres.
        heading: where people mostly go, in radians; 0 is to the camera.
        spread: how much that varies, in radians.
        light: of the scene.
        exposure, balance: gain, of all and of each colour.
        pixels: height of a person of 1.75 m in the camera's own pixels, at the middle distance.
        blur: standard deviation in those pixels.
        noise: standard deviation at mid grey, as a share of white.
        quality: of JPEG.
    """

    kind: Kind
    seed: int
    height: float
    near: float
    far: float
    wall: float
    heading: float
    spread: float
    light: Light
    exposure: float
    balance: tuple[float, float, float]
    pixels: float
    blur: float
    noise: float
    quality: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError("camera.kind", f"'{self.kind}' is no place", f"choose one of {', '.join(KINDS)}")
        if not 0 < self.near < self.far < self.wall:
            cause = f"near {self.near}, far {self.far} and wall {self.wall} are not in that order"
            raise ConfigError("camera", cause, "give distances in metres, nearest first")
        if self.height <= 0:
            raise ConfigError("camera.height", f"{self.height} is not above the ground", "give metres")

    def view(self, window: tuple[float, float, float, float], size: tuple[int, int]) -> View:
        """The part of its picture in `window` (left, top, right, bottom on a picture plane 1 ahead, y down)."""
        middle = 0.5 * (self.near + self.far)
        pitch = np.arctan2(self.height - 0.9, middle)
        c, s = np.cos(pitch), np.sin(pitch)
        axes = np.array([[1.0, 0, 0], [0, c, s], [0, -s, c]])
        return View(np.array([0.0, self.height, 0.0]), axes, 1.0, window, size)


def make_camera(*seeds: int, number: int = 0) -> Camera:
    """Draw a camera; the same seeds give the same one, and `number` goes through the kinds of places.

    >>> make_camera(3, number=1).kind
    'lobby'
    """
    rng = np.random.default_rng(seeds)
    kind = KINDS[number % len(KINDS)]
    outdoors = kind == "street"
    near = float(rng.uniform(4.0, 7.0))
    far = near + float(rng.uniform(3.0, 6.0))
    side = float(rng.uniform(-1.0, 1.0))
    warm = float(rng.uniform(-1, 1))
    if outdoors:
        sun = float(rng.uniform(0.35, 1.0))
        light = Light(
            (side * 1.2, 1.4, float(rng.uniform(-1.0, 0.3))),
            (sun * 1.0, sun * 0.97, sun * (0.92 - 0.08 * warm)),
            (0.42, 0.45, 0.5),
            0.35 if sun > 0.65 else 0.75,
        )
    else:
        light = Light(
            (side * 0.5, 2.0, -0.6),
            (0.5, 0.5 - 0.02 * warm, 0.48 - 0.06 * warm),
            (0.5, 0.49, 0.47 - 0.03 * warm),
            0.7,
        )
    return Camera(
        kind=kind,
        seed=int(rng.integers(2**31)),
        height=float(rng.uniform(1.8, 4.5)),
        near=near,
        far=far,
        wall=far + float(rng.uniform(1.0, 6.0)),
        heading=float(rng.uniform(-np.pi, np.pi)),
        spread=float(rng.uniform(0.5, 1.3)),
        light=light,
        exposure=float(rng.uniform(0.75, 1.25)),
        balance=(1 + 0.07 * warm, 1.0, 1 - 0.09 * warm),
        pixels=float(rng.uniform(75, 220)),
        blur=float(rng.uniform(0.3, 0.9)),
        noise=float(rng.uniform(0.006, 0.03)),
        quality=int(rng.integers(72, 94)),
    )


def backdrop(camera: Camera, eye: Vector, rays: Array) -> tuple[Array, Array]:
    """What rays see of ground, wall and sky.

    Args:
        camera: whose place it is.
        eye: where rays start `[3]`.
        rays: directions `[h, w, 3]`.

    Returns:
        Shaded linear colours `[h, w, 3]`, and distances `[h, w]` to the ground, infinite where rays do not meet it.
    """
    dx, dy, dz = (rays[..., axis].astype(np.float64) for axis in range(3))
    with np.errstate(divide="ignore", invalid="ignore"):
        to_ground = np.where(dy < -1e-6, -eye[1] / dy, np.inf)
        to_wall = np.where(dz > 1e-6, (camera.wall - eye[2]) / dz, np.inf)
    ground = to_ground < to_wall
    rng = np.random.default_rng((camera.seed, 0))
    t = np.where(ground, to_ground, to_wall)
    t = np.where(np.isfinite(t), t, 1e3)
    x, y, z = eye[0] + t * dx, eye[1] + t * dy, eye[2] + t * dz
    lamp, sky, unit = np.asarray(camera.light.colour), np.asarray(camera.light.sky), camera.light.unit
    colour = np.empty(rays.shape, np.float32)
    colour[ground] = _floor(camera.kind, rng, x[ground], z[ground]) * (lamp * unit[1] + sky)
    x, y = x[~ground], y[~ground]
    wall = _wall(camera.kind, rng, x, y, camera.seed % 997) * (lamp * max(0.0, -unit[2]) + 0.85 * sky)
    # A wall is darker where it meets the ground.
    wall = wall * (0.75 + 0.25 * np.clip(y / 0.5, 0, 1))[:, None]
    if camera.kind == "street":
        wall[y > 5.5] = 1.1 * sky * np.array([0.9, 1.0, 1.15])
    colour[~ground] = wall
    return colour, np.where(ground, to_ground, np.inf).astype(np.float32)


# --- surfaces ------------------------------------------------------------------------------------------------------

Grid = npt.NDArray[np.float64]


def _floor(kind: Kind, rng: np.random.Generator, x: Grid, z: Grid) -> Grid:
    tone = float(rng.uniform(0.75, 1.2))
    if kind == "street":
        first, second = linear((104, 104, 106)), linear((140, 136, 130))
        edge = float(rng.uniform(3.0, 9.0))
        pavement = z > edge
        slabs = (np.mod(x, 0.6) < 0.025) | (np.mod(z, 0.6) < 0.03)
        colour = np.where(pavement[..., None], second * (1 - 0.25 * slabs[..., None]), first)
        kerb = np.abs(z - edge) < 0.07
        colour = np.where(kerb[..., None], linear((176, 172, 166)), colour)
        speckle = _hash(np.floor(x * 40), np.floor(z * 40), 1.0) - 0.5
        return np.asarray(colour * tone * (1 + 0.18 * speckle[..., None]))
    if kind == "lobby":
        size = float(rng.uniform(0.4, 0.8))
        base = linear(_near(rng, (186, 178, 166)))
        tile = _hash(np.floor(x / size), np.floor(z / size), 2.0)
        joint = (np.mod(x, size) < 0.015) | (np.mod(z, size) < 0.02)
        shade = (0.92 + 0.16 * tile) * (1 - 0.35 * joint)
        return np.asarray(base * tone * shade[..., None])
    plank = float(rng.uniform(0.12, 0.22))
    base = linear(_near(rng, (158, 122, 88)))
    board = _hash(np.floor(x / plank), np.floor(z / 1.7 + 7.3 * _hash(np.floor(x / plank), 0 * x, 5.0)), 3.0)
    return np.asarray(base * tone * (0.8 + 0.4 * board)[..., None])


def _wall(kind: Kind, rng: np.random.Generator, x: Grid, y: Grid, salt: float) -> Grid:
    if kind == "street":
        base = linear(_near(rng, _pick(rng, ((150, 92, 72), (172, 158, 138), (120, 118, 120), (190, 178, 160)))))
        row = np.floor(y / 0.09)
        joint = (np.mod(y, 0.09) < 0.014) | (np.mod(x + 0.13 * np.mod(row, 2), 0.26) < 0.016)
        brick = _hash(np.floor((x + 0.13 * np.mod(row, 2)) / 0.26), row, salt)
        colour = base * ((0.85 + 0.3 * brick) * np.where(joint, 0.78, 1.0))[..., None]
        wide, sill = float(rng.uniform(1.8, 3.2)), float(rng.uniform(0.5, 1.1))
        u, v = np.mod(x, wide), np.mod(y - sill, 3.0)
        pane = (u > 0.3) & (u < 0.65 * wide) & (v > 0) & (v < 1.6) & (y > sill)
        frame = pane & (
            (u < 0.36) | (u > 0.65 * wide - 0.06) | (v < 0.06) | (v > 1.54) | (np.abs(u - 0.45 * wide) < 0.03)
        )
        glass = linear((64, 78, 92)) * (0.7 + 0.8 * _hash(np.floor(x / wide), np.floor(y / 3), salt + 1))[..., None]
        colour = np.where(pane[..., None], glass, colour)
        return np.asarray(np.where(frame[..., None], linear((214, 210, 202)), colour))
    if kind == "lobby":
        base = linear(_near(rng, _pick(rng, ((206, 202, 194), (186, 194, 198), (204, 190, 168)))))
        wide = float(rng.uniform(1.1, 1.9))
        cell = np.floor(x / wide)
        panel = np.mod(x, wide)
        colour = base * (0.93 + 0.1 * _hash(cell, 0 * x, salt))[..., None]
        colour = colour * np.where((panel < 0.02) | (np.abs(y - 1.05) < 0.02), 0.7, 1.0)[..., None]
        kind_of = _hash(cell, 0 * x, salt + 3)
        door = (kind_of > 0.72) & (panel > 0.2) & (panel < wide - 0.2) & (y < 2.1)
        poster = (kind_of < 0.3) & (panel > 0.25) & (panel < wide - 0.35) & (y > 1.1) & (y < 1.9)
        hue = np.stack([_hash(cell, 0 * x, salt + s) for s in (5, 6, 7)], -1)
        colour = np.where(door[..., None], linear(_near(rng, (122, 92, 66))), colour)
        return np.asarray(np.where(poster[..., None], 0.05 + 0.6 * hue, colour))
    # Shelves with goods: rows of boxes in all colours.
    tall = float(rng.uniform(0.34, 0.46))
    row, v = np.floor(y / tall), np.mod(y, tall)
    width = 0.14 + 0.1 * _hash(row, 0 * x, salt)
    item = np.floor(x / width)
    hue = np.stack([_hash(item, row, salt + s) for s in (11, 12, 13)], -1) ** 1.6
    top = 0.6 + 0.3 * _hash(item, row, salt + 14)
    goods = 0.06 + 0.55 * hue
    goods = goods * (0.85 + 0.3 * (np.mod(x, width) / width))[..., None]
    gap = (v / tall > top) | (np.mod(x, width) < 0.012)
    colour = np.where(gap[..., None], linear((62, 56, 52)), goods)
    shelf = v < 0.035
    colour = np.where(shelf[..., None], linear((196, 192, 186)), colour)
    return np.asarray(np.where((y > 2.3)[..., None], linear((208, 204, 196)), colour))


def _hash(i: Grid, j: Grid, salt: float) -> Grid:
    """Numbers in [0, 1) that look random but follow from whole numbers."""
    mixed = np.sin(i * 127.1 + j * 311.7 + salt * 74.7) * 43758.5453
    return np.asarray(mixed - np.floor(mixed))


def _near(rng: np.random.Generator, colour: Colour) -> Colour:
    r, g, b = np.clip(np.asarray(colour) + rng.integers(-14, 15, 3), 10, 245).tolist()
    return r, g, b


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(rng.integers(len(colours)))]
