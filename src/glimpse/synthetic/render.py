"""Rendering: one crop of somebody, and the truth about every pixel of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import ceil

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageFilter

from glimpse.cues.parts import LIP_20, PartMap
from glimpse.errors import ConfigError
from glimpse.synthetic.body import Body
from glimpse.synthetic.looks import Look, dress
from glimpse.synthetic.materials import Material, colours
from glimpse.synthetic.obstacles import scatter
from glimpse.synthetic.places import Camera, Light, backdrop
from glimpse.synthetic.shapes import Array, Hits, Rows, Solid, Solids, View, cast, extents

Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_FINE = 2  # samples per pixel, in each direction
_WHOLE = 6  # how much larger than the crop a person may be in each direction to be counted at every pixel
# How far below the surface COCO's points lie at most, relative to the height.
_DEPTHS = (0.05, 0.06, 0.06, 0.09, 0.09, 0.1, 0.1, 0.06, 0.06, 0.05, 0.05, 0.135, 0.135, 0.08, 0.08, 0.06, 0.06)

OUTSIDE, HIDDEN, BEHIND, SEEN = 0, 1, 2, 3
"""What became of a key point."""


@dataclass(frozen=True, eq=False)
class Figure:
    """Somebody in a scene.

    Attributes:
        look: who.
        body: where, and how they stand.
        pid: person id; above 0.
    """

    look: Look
    body: Body
    pid: int


@dataclass(frozen=True, eq=False)
class Scene:
    """What is in front of a camera.

    Attributes:
        camera: that sees it.
        target: whom the crop is of.
        others: further people.
        things: solids that are nobody.
        materials: of `things`.
        window: of the crop on the picture plane: left, top, right, bottom.
    """

    camera: Camera
    target: Figure
    window: tuple[float, float, float, float]
    others: tuple[Figure, ...] = ()
    things: tuple[Solid, ...] = ()
    materials: tuple[Material, ...] = ()


@dataclass(frozen=True, eq=False)
class Crop:
    """A rendered crop and the truth about it.

    Attributes:
        image: RGB.
        visible: LIP's labels of what can be seen of the person, uint8 `[h, w]`; what they carry is background.
        amodal: the same as if nothing stood in front of them; `visible` is this where `shown`, else background.
        figure: bool `[h, w]`, the person with what they carry, whatever is in front.
        shown: bool `[h, w]`, false where something in front of the person hides the crop.
        keypoints: float32 `[17, 2]`, COCO's points: x and y in pixels; they may be hidden, or outside of the crop.
        states: uint8 `[17]`, of each point: one of `OUTSIDE`, `HIDDEN` (by something), `BEHIND` (the person's own body
            or what they carry) and `SEEN`.
        body: pixels of the person's body, in the crop or outside, hidden or not, by LIP's label, int64 `[20]`.
        in_front: person id of who hides most of the person; 0 if nobody does.
    """

    image: PIL.Image.Image
    visible: PartMap = field(repr=False)
    amodal: PartMap = field(repr=False)
    figure: Mask = field(repr=False)
    shown: Mask = field(repr=False)
    keypoints: npt.NDArray[np.float32] = field(repr=False)
    states: npt.NDArray[np.uint8] = field(repr=False)
    body: npt.NDArray[np.int64] = field(repr=False)
    in_front: int = 0

    def visible_share(self, part: str = "body") -> float:
        """Share of a part of the body that can be seen, of all that could be seen from there with nothing in front and
        no border; NaN where nothing of the part could.

        Args:
            part: a label or group of LIP-20, or `body`.

        Raises:
            ConfigError: there is no such part.
        """
        rows = list(LIP_20.rows(part))
        all_of_it = int(self.body[rows].sum())
        return float(np.isin(self.visible.labels, rows).sum() / all_of_it) if all_of_it else float("nan")

    def visible_strips(self, strips: int = 6) -> npt.NDArray[np.float64]:
        """Visible share of the body in each of `strips` equal horizontal strips of the crop, float64 `[strips]`.

        NaN where a strip would show nothing of the body.
        """
        if not 1 <= strips <= self.visible.size[0]:
            raise ConfigError("strips", f"{strips} is not between 1 and {self.visible.size[0]}", "give fewer")
        edges = np.linspace(0, self.visible.size[0], strips + 1).round().astype(int)
        seen = np.add.reduceat((self.visible.labels > 0).sum(1), edges[:-1])
        there = np.add.reduceat((self.amodal.labels > 0).sum(1), edges[:-1])
        return np.where(there > 0, seen / np.maximum(there, 1), np.nan)


def render(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> Crop:
    """Render a crop.

    Args:
        scene: what there is.
        size: rows and columns of the crop.
        rng: of the noise of the sensor.

    Raises:
        ConfigError: a size is not positive.
    """
    height, width = size
    if height < 8 or width < 4:
        raise ConfigError("size", f"{height} x {width} is too small", "give at least 8 x 4")
    camera, target = scene.camera, scene.target
    behind, behind_materials = _background(camera)
    materials = [*behind_materials, *scene.materials]
    shift = len(behind_materials)
    own = Solids(dress(target.look, target.body, target.pid, materials))
    around = [*behind, *(replace(solid, material=solid.material + shift) for solid in scene.things)]
    for other in scene.others:
        around += dress(other.look, other.body, other.pid, materials)
    rest = Solids(around)

    view = camera.view(scene.window, (height * _FINE, width * _FINE))
    rays = view.rays()
    person, things = cast(view, rays, own), cast(view, rays, rest)
    nearer = things.distance < person.distance
    light = _light(scene, view, rays, (own, person), (rest, things), nearer, materials)

    fine_amodal = np.where(person.row >= 0, own.label[person.row], 0).astype(np.uint8)
    fine_figure = person.row >= 0
    fine_hidden = nearer & (fine_figure | _in_front(scene, things.distance))
    amodal, hidden = _coarse(fine_amodal), _share(fine_hidden) >= 0.5
    figure = _share(fine_figure) >= 0.5
    owners = rest.owner[things.row[fine_hidden & fine_figure]]
    people = np.bincount(owners[owners > 0])
    points, states = _keypoints(target, view, person, fine_hidden)
    return Crop(
        image=develop(light, camera, scene.window[3] - scene.window[1], rng),
        visible=PartMap(np.where(hidden, 0, amodal).astype(np.uint8), LIP_20),
        amodal=PartMap(amodal, LIP_20),
        figure=figure,
        shown=~hidden,
        keypoints=points,
        states=states,
        body=_whole(scene, own, fine_figure, amodal, size),
        in_front=int(people.argmax()) if len(people) else 0,
    )


def render_things(
    camera: Camera,
    window: tuple[float, float, float, float],
    things: Sequence[Solid],
    materials: Sequence[Material],
    size: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[PIL.Image.Image, npt.NDArray[np.uint8]]:
    """Render things alone, to be put in front of another picture.

    Args:
        camera: that sees them.
        window: on the picture plane: left, top, right, bottom.
        things: solids.
        materials: of the solids.
        size: rows and columns.
        rng: of the noise of the sensor.

    Returns:
        RGB, which means something where there are things, and how much of each pixel they fill, uint8 `[h, w]`.
    """
    height, width = size
    view = camera.view(window, (height * _FINE, width * _FINE))
    rays, solids = view.rays(), Solids(things)
    hits = cast(view, rays, solids)
    at = np.flatnonzero(hits.row >= 0)
    points = view.eye.astype(np.float32) + hits.distance.ravel()[at, None] * rays.reshape(-1, 3)[at]
    light = np.zeros(rays.shape, np.float32)
    light.reshape(-1, 3)[at] = shaded(camera.light, solids, hits.row.ravel()[at], points, materials)
    filled = _share(hits.row >= 0)
    # The mean over those samples of a pixel that meet something.
    mean = (_mean(light) / np.maximum(filled, 1e-6)[..., None]).astype(np.float32, copy=False)
    return develop(mean, camera, window[3] - window[1], rng), (filled * 255 + 0.5).astype(np.uint8)


def develop(light: Array, camera: Camera, tall: float, rng: np.random.Generator) -> PIL.Image.Image:
    """Turn light into what a camera's file would show: exposure, white balance, resolution, blur, noise.

    Args:
        light: linear `[h, w, 3]`.
        camera: whose sensor it is.
        tall: height of the window on the picture plane; from it follows how many of the camera's own pixels it has.
        rng: of exposure and noise.
    """
    height, width = light.shape[:2]
    gain = camera.exposure * float(np.exp(rng.normal(0, 0.08)))
    bright = light * (gain * np.asarray(camera.balance, np.float32))
    # A shoulder in place of clipping: white clothes keep their folds.
    bright = bright * (1 + bright / 2.5) / (1 + bright)
    coded = np.clip(bright, 0, 1) ** np.float32(1 / 2.2)
    picture = PIL.Image.fromarray((coded * 255 + 0.5).astype(np.uint8))
    # The camera's own pixels: fewer than the crop's where people are small.
    middle = 0.5 * (camera.near + camera.far)
    scale = tall * camera.pixels * middle / 1.75 / height
    sigma = camera.blur
    if scale < 1:
        small = (max(4, round(width * scale)), max(8, round(height * scale)))
        picture = picture.resize(small, PIL.Image.Resampling.BOX)
        picture = _noisy(picture.filter(PIL.ImageFilter.GaussianBlur(sigma)), camera.noise, rng)
        return picture.resize((width, height), PIL.Image.Resampling.BICUBIC)
    return _noisy(picture.filter(PIL.ImageFilter.GaussianBlur(sigma / scale)), camera.noise / scale, rng)


def window_of(figure: Figure, camera: Camera, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The box around somebody on the picture plane, with the shape of the crop: left, top, right, bottom.

    Like a detector's box it follows what can be seen of a body, not its joints: head and feet are inside.
    """
    view = camera.view((-1.0, -1.0, 1.0, 1.0), (2, 2))
    body = figure.body
    tall = body.build.height
    names = ("crown", "left_toe", "right_toe", "left_heel", "right_heel", "left_hand", "right_hand")
    points = np.stack([body.joints[name] for name in (*names, "left_elbow", "right_elbow", "left_knee", "right_knee")])
    points = np.concatenate([points, points[1:5] - np.array([0, 0.02 * tall, 0])])
    trunk = np.stack([body.joints[f"{side}_shoulder"] for side in ("left", "right")])
    placed = view.project(np.concatenate([points, trunk])) - 1.0
    margin = 0.04 * tall / float(placed[:, 2].mean())
    left, top = placed[:, 0].min() - margin, placed[:, 1].min() - 0.6 * margin
    right, bottom = placed[:, 0].max() + margin, placed[:, 1].max() + 0.6 * margin
    return shaped((float(left), float(top), float(right), float(bottom)), size)


def shaped(window: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Widen a box, or make it taller, to the shape of the crop around the same centre."""
    left, top, right, bottom = window
    wide, tall = right - left, bottom - top
    ratio = size[1] / size[0]
    wide, tall = max(wide, tall * ratio), max(tall, wide / ratio)
    x, y = 0.5 * (left + right), 0.5 * (top + bottom)
    return x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2


# --- light ---------------------------------------------------------------------------------------------------------


def _light(
    scene: Scene,
    view: View,
    rays: Array,
    person: tuple[Solids, Hits],
    things: tuple[Solids, Hits],
    nearer: Mask,
    materials: list[Material],
) -> Array:
    """Linear light `[h, w, 3]` of each pixel: the mean of what its rays meet first.

    Of the rays of a pixel that meet the same solid, the first is shaded for all.
    """
    camera = scene.camera
    coarse = _mean(rays)
    picture, ground = backdrop(camera, view.eye, coarse)
    picture = picture * _shadows(scene, view, coarse, ground)[..., None]
    layers = (person, things)
    distance = np.where(nearer, things[1].distance, person[1].distance)
    row = np.where(nearer, things[1].row + len(person[0]), person[1].row)
    # A wall of the place hides what lies behind it.
    row[~np.isfinite(distance) | (distance * rays[..., 2] >= camera.wall)] = -1
    samples = _samples(np.arange(row.size, dtype=np.int32).reshape(row.shape))
    met = row.ravel()[samples]
    same = np.arange(len(samples), dtype=np.int8)[:, None, None].repeat(met.shape[1], 1).repeat(met.shape[2], 2)
    for number in range(1, len(samples)):
        for earlier in reversed(range(number)):
            same[number][met[number] == met[earlier]] = earlier
    light = np.tile(picture, (len(samples), 1, 1, 1))
    shades = (met >= 0) & (same == np.arange(len(samples))[:, None, None])
    for (solids, _), start in zip(layers, (0, len(person[0])), strict=True):
        at = np.flatnonzero(shades & (met >= start) & (met < start + len(solids)))
        if len(at):
            ray = samples.ravel()[at]
            points = view.eye.astype(np.float32) + distance.ravel()[ray, None] * rays.reshape(-1, 3)[ray]
            light.reshape(-1, 3)[at] = shaded(camera.light, solids, met.ravel()[at] - start, points, materials)
    total = np.zeros_like(picture)
    for number in range(len(samples)):
        stands_for = (same == number).sum(0, dtype=np.int8).astype(np.float32)
        total += light[number] * stands_for[..., None]
    return total / np.float32(len(samples))


def shaded(light: Light, solids: Solids, rows: Rows, points: Array, materials: Sequence[Material]) -> Array:
    """Linear light that comes from points on solids, without shadows.

    Args:
        light: on the scene.
        solids: of the scene.
        rows: which solid each point is on `[n]`.
        points: `[n, 3]`.
        materials: of the scene.

    Returns:
        float32 `[n, 3]`.
    """
    facing = solids.normals(rows, points)
    albedo = colours(materials, solids.material[rows], solids.on_texture(rows, points))
    lit = np.maximum(facing @ light.unit.astype(np.float32), 0)
    # Less light of the sky reaches what faces down or is close to the ground.
    sky = (0.62 + 0.38 * facing[:, 1]) * (0.8 + 0.2 * np.clip(points[:, 1] / 0.5, 0, 1))
    reached = lit[:, None] * np.asarray(light.colour, np.float32) + sky[:, None] * np.asarray(light.sky, np.float32)
    found: Array = albedo * reached
    return found


def _shadows(scene: Scene, view: View, coarse: Array, ground: Array) -> Array:
    """How much light reaches the ground, `[h, w]`: people and things throw shadows on it."""
    light = scene.camera.light
    there = np.isfinite(ground)
    if not there.any():
        return np.ones(ground.shape, np.float32)
    rays = coarse[there]
    x = (view.eye[0] + ground[there] * rays[:, 0]).astype(np.float32)
    z = (view.eye[2] + ground[there] * rays[:, 2]).astype(np.float32)
    dark = np.zeros(len(x), np.float32)
    unit = light.unit
    bones = []
    for figure in (scene.target, *scene.others):
        joint, tall = figure.body.joints, figure.body.build.height
        for side in ("left", "right"):
            bones.append((joint[f"{side}_ankle"], joint[f"{side}_knee"], 0.035 * tall))
            bones.append((joint[f"{side}_knee"], joint[f"{side}_hip"], 0.05 * tall))
        bones.append((joint["pelvis"], joint["neck"], 0.1 * tall))
        bones.append((joint["neck"], joint["crown"], 0.06 * tall))
    for a, b, radius in bones:
        ax, az = a[0] - unit[0] * a[1] / unit[1], a[2] - unit[2] * a[1] / unit[1]
        bx, bz = b[0] - unit[0] * b[1] / unit[1], b[2] - unit[2] * b[1] / unit[1]
        soft = radius * (0.3 + 1.2 * light.softness)
        dx, dz = bx - ax, bz - az
        length = max(dx * dx + dz * dz, 1e-9)
        s = np.clip(((x - ax) * dx + (z - az) * dz) / length, 0, 1)
        away = np.sqrt((x - ax - s * dx) ** 2 + (z - az - s * dz) ** 2)
        np.maximum(dark, np.clip((radius + soft - away) / (2 * soft), 0, 1), out=dark)
    direct = np.asarray(light.colour) * unit[1]
    share = float(direct.mean() / (direct + np.asarray(light.sky)).mean()) * (1 - 0.35 * light.softness)
    reached = np.ones(ground.shape, np.float32)
    reached[there] = 1 - np.float32(share) * dark
    return reached


@lru_cache(maxsize=64)
def _background(camera: Camera) -> tuple[tuple[Solid, ...], tuple[Material, ...]]:
    """Things that always stand about behind people, and their materials."""
    materials: list[Material] = []
    rng = np.random.default_rng((camera.seed, 1))
    solids = scatter(rng, camera.far + 0.8, camera.wall, materials) if camera.wall - camera.far > 2 else []
    return tuple(solids), tuple(materials)


def _mean(fine: Array) -> Array:
    """Mean of the samples of each pixel, `[h, w, 3]`."""
    # Much faster than the mean over axes of a few elements.
    rows = np.add.reduce([fine[start::_FINE] for start in range(_FINE)])
    columns = np.add.reduce([rows[:, start::_FINE] for start in range(_FINE)])
    found: Array = columns / np.float32(_FINE * _FINE)
    return found


def _noisy(picture: PIL.Image.Image, noise: float, rng: np.random.Generator) -> PIL.Image.Image:
    pixels = np.asarray(picture, np.float32)
    # Shot noise grows with the root of the light, on top of what the sensor has in the dark.
    grain = rng.standard_normal(pixels.shape, np.float32) * np.float32(255 * noise)
    grain *= 0.5 + np.sqrt(pixels / 510)
    return PIL.Image.fromarray(np.clip(pixels + grain + 0.5, 0, 255).astype(np.uint8))


# --- truth ---------------------------------------------------------------------------------------------------------


def _in_front(scene: Scene, distance: Array) -> Mask:
    """Whether what a ray meets is nearer than the person, beside the person as well as on them."""
    eye = np.array([0.0, scene.camera.height, 0.0])
    spot = scene.target.body.joints["waist"]
    away: Mask = distance < float(np.sqrt(((spot - eye) ** 2).sum())) + 0.3
    return away


def _coarse(fine: Labels) -> Labels:
    """The label that most samples of a pixel have; the first of those if several have as many."""
    samples = _samples(fine)
    votes = np.stack([(samples == samples[n]).sum(0) for n in range(len(samples))])
    chosen: Labels = np.take_along_axis(samples, votes.argmax(0)[None], 0)[0]
    return chosen


def _share(fine: Mask) -> Array:
    share: Array = _samples(fine).mean(0, dtype=np.float32)
    return share


def _samples(fine: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return np.stack([fine[y::_FINE, x::_FINE] for y in range(_FINE) for x in range(_FINE)])


def _keypoints(
    target: Figure, view: View, person: Hits, hidden: Mask
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """COCO's points in pixels of the crop `[17, 2]`, and what became of each `[17]`."""
    joints = target.body.keypoints()
    placed = view.project(joints)
    rows, columns = view.size
    states = np.zeros(len(joints), np.uint8)
    away = np.sqrt(((joints - view.eye) ** 2).sum(1))
    for number, (x, y, _) in enumerate(placed):
        if not (0 <= x < columns and 0 <= y < rows):
            continue
        row, column = int(y), int(x)
        surface = float(person.distance[row, column])
        # A joint lies under the skin; what is much nearer than that is another limb, or what is carried.
        own = np.isfinite(surface) and away[number] - surface > _DEPTHS[number] * target.body.build.height
        states[number] = HIDDEN if hidden[row, column] else BEHIND if own else SEEN
    return (placed[:, :2] / _FINE).astype(np.float32), states


def _whole(scene: Scene, own: Solids, fine: Mask, amodal: Labels, size: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Pixels of each label of the whole person, at the scale of the crop, outside of it as well."""
    height, width = size
    left, top, right, bottom = scene.window
    inside = np.bincount(amodal.ravel(), minlength=len(LIP_20.labels))
    if fine.any() and not (fine[0].any() or fine[-1].any() or fine[:, 0].any() or fine[:, -1].any()):
        return inside  # who is in one piece and does not touch the border ends inside
    reach = extents(scene.camera.view(scene.window, size), own)
    reach = reach[np.isfinite(reach).all(1)]
    y0, x0 = np.floor(reach[:, ::2].min(0, initial=0)).astype(int).tolist()
    y1, x1 = np.ceil(np.maximum(reach[:, 1::2].max(0, initial=0), size)).astype(int).tolist()
    if (y0, x0, y1, x1) == (0, 0, height, width):
        return inside
    # A sample stands for several of the pixels outside of a large crop, and of one that shows very little.
    least = ceil(height / 128)
    down, across = max(least, ceil((y1 - y0) / (_WHOLE * height))), max(least, ceil((x1 - x0) / (_WHOLE * width)))
    rows, columns = ceil((y1 - y0) / down), ceil((x1 - x0) / across)
    tall, wide = (bottom - top) / height, (right - left) / width
    window = (left + x0 * wide, top + y0 * tall, left + (x0 + columns * across) * wide, top + (y0 + rows * down) * tall)
    whole = scene.camera.view(window, (rows, columns))
    hits = cast(whole, whole.rays(), own)
    y, x = y0 + (np.arange(rows) + 0.5) * down, x0 + (np.arange(columns) + 0.5) * across
    outside = ~np.logical_and.outer((y > 0) & (y < height), (x > 0) & (x < width)) & (hits.row >= 0)
    found = np.bincount(own.label[hits.row[outside]], minlength=len(LIP_20.labels)) * (down * across)
    found[0] = 0
    whole_body: npt.NDArray[np.int64] = inside + found
    return whole_body
