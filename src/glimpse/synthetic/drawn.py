"""Drawn people: a small multi-camera data set that needs no photograph, and whose visibility is known exactly.

A person is a jointed figure in three dimensions (so that any view and any step of a walk follows from a few angles),
drawn with flat, shaded shapes at three times the size and reduced. Who somebody is shows in clothes, hair, build and
what they carry; where they are seen shows in background, light, white balance, blur and noise.

Everything follows from seeds: the same arguments give the same pixels, in whatever order crops are drawn.
"""

from __future__ import annotations

import csv
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter

from glimpse.cues.skeleton import COCO_17
from glimpse.errors import ConfigError

Colour = tuple[int, int, int]
Pattern = Literal["plain", "stripes", "bars", "checks", "dots", "block"]
Bottom = Literal["trousers", "shorts", "skirt"]
Hair = Literal["short", "long", "bun", "bald"]
Bag = Literal["none", "backpack", "shoulder", "handbag"]
Hat = Literal["none", "cap", "beanie"]
View = Literal["front", "back", "left", "right"]
DrawnOccluder = Literal["box", "pole", "bush", "car", "person"]
ImageFormat = Literal["png", "jpg"]

OCCLUDERS: tuple[DrawnOccluder, ...] = get_args(DrawnOccluder)
KEYPOINTS = COCO_17.points
"""Names of the key points of a `Drawing`, in COCO's order; left is the person's left."""
STRIPS = 6
"""Horizontal strips whose visible share `draw_dataset` writes down."""

_SUPER = 3  # drawn this many times larger, then reduced
_VIEWS: dict[View, float] = {"front": 0.0, "back": math.pi, "left": -math.pi / 2, "right": math.pi / 2}
_SKIN: tuple[Colour, ...] = ((245, 214, 190), (229, 184, 143), (198, 144, 102), (150, 100, 68), (98, 64, 44))
_HAIR: tuple[Colour, ...] = ((25, 22, 22), (52, 36, 28), (94, 62, 38), (168, 128, 72), (128, 126, 124), (120, 52, 30))
_CLOTHES: tuple[Colour, ...] = (
    (28, 28, 32),
    (235, 235, 232),
    (128, 130, 134),
    (190, 34, 40),
    (224, 120, 40),
    (236, 204, 70),
    (60, 138, 72),
    (36, 82, 58),
    (78, 160, 200),
    (38, 66, 140),
    (30, 36, 74),
    (122, 66, 146),
    (226, 138, 168),
    (122, 84, 54),
    (204, 184, 146),
    (44, 152, 148),
)
_BOTTOMS = (0, 2, 9, 10, 13, 14, 1, 7, 3)  # colours that trousers and skirts mostly have
_LEFT, _RIGHT = 1.0, -1.0


@dataclass(frozen=True)
class Look:
    """What makes somebody that person: the same from every camera.

    Attributes:
        height, build: relative to the average person.
        skin, hair_colour, top, top_second, bottom, bottom_second, shoes, bag_colour, hat_colour: RGB.
        pattern, bottom_pattern: what is on the clothes, in the second colour.
        scale: size of the pattern, relative to a medium one.
        hair, bag, hat, lower: kinds.
        long_sleeves, coat: whether sleeves reach the wrist and the top the thigh.
    """

    height: float
    build: float
    skin: Colour
    hair: Hair
    hair_colour: Colour
    top: Colour
    top_second: Colour
    pattern: Pattern
    scale: float
    long_sleeves: bool
    coat: bool
    lower: Bottom
    bottom: Colour
    bottom_second: Colour
    bottom_pattern: Pattern
    shoes: Colour
    bag: Bag
    bag_colour: Colour
    hat: Hat
    hat_colour: Colour


@dataclass(frozen=True)
class Camera:
    """What one camera does to all it sees: what is behind, light, white balance, blur, noise, usual direction."""

    background: int
    backdrop: int
    gain: float
    balance: tuple[float, float, float]
    blur: float
    noise: float
    heading: float
    pitch: float


@dataclass(frozen=True, eq=False)
class Drawing:
    """A drawn crop and the truth about it.

    Attributes:
        image: RGB.
        person: bool `[h, w]`, the whole silhouette, hidden parts included.
        visible: bool `[h, w]`, false where an occluder covers the crop.
        keypoints: float32 `[17, 2]`, x and y in pixels, in the order of `KEYPOINTS`; they may lie under an occluder.
    """

    image: PIL.Image.Image
    person: np.ndarray = field(repr=False)
    visible: np.ndarray = field(repr=False)
    keypoints: np.ndarray = field(repr=False)

    def visible_share(self, strips: int = STRIPS) -> np.ndarray:
        """Share of the person that can be seen in each horizontal strip, float64 `[strips]`; 0 where nobody is.

        >>> draw_person(1, 2).visible_share(3).tolist()
        [1.0, 1.0, 1.0]
        """
        edges = np.linspace(0, self.person.shape[0], strips + 1).round().astype(int)
        whole = np.array([self.person[a:b].sum() for a, b in pairwise(edges)])
        seen = np.array([(self.person & self.visible)[a:b].sum() for a, b in pairwise(edges)])
        return np.where(whole > 0, seen / np.maximum(whole, 1), 0.0)


@dataclass(frozen=True)
class DrawnSummary:
    """What `draw_dataset` wrote.

    Attributes:
        root: the folder.
        train, query, gallery: crops in each part.
        train_pids, test_pids: person ids; the two are disjoint.
        occluded: queries with an occluder.
        truth: CSV with the visible share of every strip of every crop.
    """

    root: Path
    train: int
    query: int
    gallery: int
    train_pids: tuple[int, ...]
    test_pids: tuple[int, ...]
    occluded: int
    truth: Path


def draw_look(identity_seed: int) -> Look:
    """Give the looks of one person.

    >>> draw_look(3) == draw_look(3), draw_look(3) == draw_look(4)
    (True, False)
    """
    return _look((identity_seed,))


def draw_person(
    identity_seed: int,
    pose_seed: int,
    *,
    camera_seed: int = 0,
    size: tuple[int, int] = (128, 64),
    view: View | None = None,
    occluder: DrawnOccluder | None = None,
) -> Drawing:
    """Draw one person once.

    Args:
        identity_seed: who.
        pose_seed: pose, position in the crop, and where an occluder stands.
        camera_seed: which camera sees it.
        size: height and width of the crop in pixels.
        view: from where; drawn at random, by the camera's usual direction, if `None`.
        occluder: what stands in front.

    Returns:
        The crop and the truth about it.

    Raises:
        ConfigError: a seed is negative, the size is too small, or view or occluder is not known.

    >>> drawing = draw_person(7, 0, occluder="box")
    >>> drawing.image.size, drawing.visible.all().item()
    ((64, 128), False)
    """
    if min(identity_seed, pose_seed, camera_seed) < 0:
        raise ConfigError("seed", "is negative", "give 0 or more")
    if view is not None and view not in _VIEWS:
        raise ConfigError("view", f"'{view}' is not a view", f"choose one of {', '.join(_VIEWS)}")
    _check_size(size)
    _check_occluder(occluder)
    return _draw((identity_seed,), (pose_seed,), (camera_seed,), size, view, occluder)


def draw_dataset(
    out: str | Path,
    *,
    identities: int = 40,
    crops_per_camera: int = 4,
    cameras: int = 3,
    occluded_queries: float = 0.0,
    size: tuple[int, int] = (128, 64),
    seed: int = 0,
    image_format: ImageFormat = "png",
) -> DrawnSummary:
    """Draw a data set in the folder layout and with the file names of Market-1501.

    The first half of the people is for training, the other half for testing. Each person is seen `crops_per_camera`
    times by each camera; of a test person, the first of these is a query and the others are gallery. `truth.csv` says
    for every crop what stands in front and which share of the person each of six horizontal strips shows.

    The folder appears whole or not at all.

    Args:
        out: a folder that does not exist yet or is empty.
        identities: people, 2 to 9,998.
        crops_per_camera: 2 to 999.
        cameras: 2 to 9.
        occluded_queries: share of the queries with something in front, in [0, 1].
        size: height and width of crops in pixels.
        seed: of everything; not negative.
        image_format: `"png"` or `"jpg"`.

    Raises:
        ConfigError: an argument is out of range, or `out` holds something or cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     s = draw_dataset(Path(folder) / "drawn", identities=4, crops_per_camera=2, cameras=2)
    ...     s.train, s.query, s.gallery, s.train_pids, s.test_pids
    (8, 4, 4, (1, 2), (3, 4))
    """
    _check_range("identities", identities, 2, 9998)
    _check_range("crops_per_camera", crops_per_camera, 2, 999)
    _check_range("cameras", cameras, 2, 9)
    _check_range("occluded_queries", occluded_queries, 0, 1)
    _check_range("seed", seed, 0, 2**63)
    _check_size(size)
    if image_format not in get_args(ImageFormat):
        raise ConfigError("image_format", f"'{image_format}' is not a format", "choose png or jpg")
    target = Path(out)
    _check_empty(target)
    train_pids = tuple(range(1, identities // 2 + 1))
    test_pids = tuple(range(identities // 2 + 1, identities + 1))
    counts = {"bounding_box_train": 0, "query": 0, "bounding_box_test": 0}
    occluded = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise ConfigError(
            target, f"cannot be written ({error.strerror})", "choose a folder you can write to"
        ) from error
    try:
        for part in counts:
            (draft / part).mkdir()
        with (draft / "truth.csv").open("w", newline="", encoding="utf-8") as file:
            truth = csv.writer(file, lineterminator="\n")
            truth.writerow(["file", "occluder", *(f"visible_{k}" for k in range(1, STRIPS + 1))])
            for pid in train_pids + test_pids:
                for camera in range(1, cameras + 1):
                    for shot in range(crops_per_camera):
                        part = "bounding_box_train"
                        if pid > identities // 2:
                            part = "query" if shot == 0 else "bounding_box_test"
                        occluder = _query_occluder(seed, pid, camera, occluded_queries) if part == "query" else None
                        drawing = _draw(
                            (seed, 0, pid), (seed, 1, pid, camera, shot), (seed, 2, camera), size, None, occluder
                        )
                        frame = 1 + 25 * (shot + crops_per_camera * pid)
                        name = f"{part}/{pid:04d}_c{camera}s1_{frame % 10**6:06d}_{shot % 100:02d}.{image_format}"
                        _save(drawing.image, draft / name)
                        truth.writerow([name, occluder or "none", *(f"{s:.4f}" for s in drawing.visible_share())])
                        counts[part] += 1
                        occluded += occluder is not None
        umask = os.umask(0)
        os.umask(umask)
        draft.chmod(0o777 & ~umask)  # temporary folders are private; this one is not
        if target.exists():
            target.rmdir()
        draft.rename(target)
    except OSError as error:
        raise ConfigError(
            target, f"cannot be written ({error.strerror})", "choose an empty folder on a disk with room"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return DrawnSummary(
        target,
        counts["bounding_box_train"],
        counts["query"],
        counts["bounding_box_test"],
        train_pids,
        test_pids,
        occluded,
        target / "truth.csv",
    )


# --- drawing -------------------------------------------------------------------------------------------------------

Point = tuple[float, float]


@dataclass(frozen=True)
class _Texture:
    """A pattern in light and in shade, larger than a person."""

    light: PIL.Image.Image
    shade: PIL.Image.Image


Paint = Colour | _Texture


class _Canvas:
    """Shapes on an RGB image and, in step, on the silhouette of what is being drawn."""

    def __init__(self, image: PIL.Image.Image) -> None:
        self.image = image
        self.silhouette = PIL.Image.new("L", image.size)
        self._on_image = PIL.ImageDraw.Draw(image)
        self._on_silhouette = PIL.ImageDraw.Draw(self.silhouette)
        self.anchor = (0, 0)

    def polygon(self, points: Sequence[Point], paint: Paint, shade: bool = False) -> None:
        self._on_silhouette.polygon(points, fill=255)
        if not isinstance(paint, _Texture):
            self._on_image.polygon(points, fill=_colour(paint, shade))
            return
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        self._paste((min(xs), min(ys), max(xs), max(ys)), points, paint, shade)

    def ellipse(self, centre: Point, rx: float, ry: float, paint: Paint, shade: bool = False) -> None:
        box = (centre[0] - rx, centre[1] - ry, centre[0] + rx, centre[1] + ry)
        self._on_silhouette.ellipse(box, fill=255)
        if not isinstance(paint, _Texture):
            self._on_image.ellipse(box, fill=_colour(paint, shade))
        else:
            self._paste(box, None, paint, shade)

    def limb(self, a: Point, b: Point, ra: float, rb: float, paint: Paint, shade: bool = False) -> None:
        """A tapered limb from `a` to `b`, round at both ends, darker along its edges."""
        self._capsule(a, b, ra, rb, paint, True)
        if not shade:
            # Light comes from the upper left.
            dx = -0.15 * ra
            self._capsule((a[0] + dx, a[1]), (b[0] + dx, b[1]), 0.72 * ra, 0.72 * rb, paint, False)

    def _capsule(self, a: Point, b: Point, ra: float, rb: float, paint: Paint, shade: bool) -> None:
        length = math.hypot(b[0] - a[0], b[1] - a[1]) or 1.0
        nx, ny = -(b[1] - a[1]) / length, (b[0] - a[0]) / length
        self.polygon(
            [
                (a[0] + nx * ra, a[1] + ny * ra),
                (b[0] + nx * rb, b[1] + ny * rb),
                (b[0] - nx * rb, b[1] - ny * rb),
                (a[0] - nx * ra, a[1] - ny * ra),
            ],
            paint,
            shade,
        )
        self.ellipse(a, ra, ra, paint, shade)
        self.ellipse(b, rb, rb, paint, shade)

    def _paste(
        self, box: tuple[float, float, float, float], points: Sequence[Point] | None, paint: _Texture, shade: bool
    ) -> None:
        texture = paint.shade if shade else paint.light
        x0, y0 = math.floor(box[0]), math.floor(box[1])
        width, height = math.ceil(box[2]) - x0 + 1, math.ceil(box[3]) - y0 + 1
        mask = PIL.Image.new("L", (width, height))
        draw = PIL.ImageDraw.Draw(mask)
        if points is None:
            draw.ellipse((box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0), fill=255)
        else:
            draw.polygon([(x - x0, y - y0) for x, y in points], fill=255)
        # The texture hangs on the person, not on the picture.
        u = texture.width // 2 + x0 - self.anchor[0]
        v = texture.height // 3 + y0 - self.anchor[1]
        self.image.paste(texture.crop((u, v, u + width, v + height)), (x0, y0), mask)


def _draw(
    identity: tuple[int, ...],
    pose: tuple[int, ...],
    camera: tuple[int, ...],
    size: tuple[int, int],
    view: View | None,
    occluder: DrawnOccluder | None,
) -> Drawing:
    height, width = size
    seen_by = _camera(camera)
    random = np.random.default_rng([3, *pose])
    u = iter(random.random(64).tolist())
    scene = _scene(seen_by.background, seen_by.backdrop, height, width)
    left, top = int(next(u) * (scene.width - width * _SUPER)), int(next(u) * (scene.height - height * _SUPER))
    canvas = _Canvas(scene.crop((left, top, left + width * _SUPER, top + height * _SUPER)))
    if view is None:
        # Mostly as people walk past this camera, one way or the other, now and then any way.
        yaw = seen_by.heading + (math.pi if next(u) < 0.4 else 0.0) + 0.5 * (next(u) - 0.5)
        other = next(u)
        yaw = 2 * math.pi * next(u) if other < 0.25 else yaw
    else:
        yaw = _VIEWS[view] + 0.3 * (next(u) - 0.5)
    look = _look(identity)
    tall = height * _SUPER * (0.86 + 0.08 * next(u)) * look.height
    foot = (width * _SUPER * (0.5 + 0.1 * (next(u) - 0.5)), height * _SUPER * (0.965 + 0.03 * (next(u) - 0.5)))
    keypoints = _figure(canvas, look, yaw, foot, tall, seen_by.pitch, u)
    silhouette = canvas.silhouette
    hidden = PIL.Image.new("L", canvas.image.size)
    if occluder is not None:
        hidden = _put_in_front(canvas.image, occluder, seen_by, pose, random)
    image = canvas.image.reduce(_SUPER)
    if seen_by.blur > 0.15:
        image = image.filter(PIL.ImageFilter.GaussianBlur(seen_by.blur * height / 128))
    pixels = np.asarray(image, dtype=np.float32)
    light = np.float32(seen_by.gain * (1 + 0.16 * (next(u) - 0.5))) * np.array(seen_by.balance, dtype=np.float32)
    pixels = pixels * light + np.float32(seen_by.noise) * random.standard_normal(pixels.shape, dtype=np.float32)
    return Drawing(
        PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8)),
        np.asarray(silhouette.reduce(_SUPER)) >= 128,
        np.asarray(hidden.reduce(_SUPER)) < 128,
        (keypoints / _SUPER).astype(np.float32),
    )


def _figure(
    canvas: _Canvas, look: Look, yaw: float, foot: Point, tall: float, pitch: float, u: Iterator[float]
) -> np.ndarray:
    """Draw one person; give the key points `[17, 2]` on the canvas.

    Body coordinates: x to the person's left, y down from the crown (0) to the soles (1), z forward.
    """
    cos, sin = math.cos(yaw), math.sin(yaw)
    lean = 0.06 * (next(u) - 0.3)

    def at(x: float, y: float, z: float) -> Point:
        z += lean * (0.5 - y)
        depth = z * cos - x * sin
        return foot[0] + tall * (x * cos + z * sin), foot[1] + tall * (y - 1.0 + pitch * depth)

    def nearness(x: float, z: float) -> float:
        return z * cos - x * sin

    build = look.build
    phase, stride, swing = 2 * math.pi * next(u), 0.16 + 0.32 * next(u), 0.25 + 0.5 * next(u)
    wide = tall * build
    half_shoulder, half_hip = 0.098 * build, 0.052 * build
    top = _paint(look.top, look.top_second, look.pattern, look.scale, round(tall))
    bottom = _paint(look.bottom, look.bottom_second, look.bottom_pattern, look.scale, round(tall))
    canvas.anchor = (round(at(0, 0.18, 0)[0]), round(at(0, 0.18, 0)[1]))

    # Joints of legs and arms, by side.
    legs, arms = {}, {}
    for side in (_LEFT, _RIGHT):
        step = phase if side == _LEFT else phase + math.pi
        thigh = stride * math.sin(step)
        shin = thigh - (0.06 + 1.5 * stride * max(0.0, math.cos(step)))
        hip = (side * half_hip, 0.50, 0.0)
        knee = (side * half_hip * 1.05, hip[1] + 0.235 * math.cos(thigh), 0.235 * math.sin(thigh))
        ankle = (side * half_hip, knee[1] + 0.225 * math.cos(shin), knee[2] + 0.225 * math.sin(shin))
        legs[side] = (hip, knee, ankle)
        upper = -swing * stride / 0.3 * math.sin(step)
        fore = upper + 0.15 + 0.5 * next(u)
        shoulder = (side * half_shoulder, 0.195, 0.0)
        elbow = (side * (half_shoulder + 0.03), 0.195 + 0.155 * math.cos(upper), 0.155 * math.sin(upper))
        wrist = (side * (half_shoulder + 0.022), elbow[1] + 0.145 * math.cos(fore), elbow[2] + 0.145 * math.sin(fore))
        arms[side] = (shoulder, elbow, wrist)

    _shadow(canvas.image, foot, tall)
    near_side = max((_LEFT, _RIGHT), key=lambda s: nearness(s * half_shoulder, 0.0))
    turned = abs(sin) > 0.35  # one arm is clearly behind the body
    front = cos > 0

    def leg(side: float) -> None:
        hip, knee, ankle = (at(*joint) for joint in legs[side])
        far = side != near_side
        bare = look.lower != "trousers"
        canvas.limb(knee, ankle, 0.034 * wide, 0.023 * wide, look.skin if bare else bottom, far)
        toe = at(legs[side][2][0], legs[side][2][1] + 0.022, legs[side][2][2] + 0.055)
        heel = at(legs[side][2][0], legs[side][2][1] + 0.018, legs[side][2][2] - 0.012)
        if not bare:
            canvas.limb(knee, ankle, 0.036 * wide, 0.029 * wide, bottom, far)
        canvas.limb(heel, toe, 0.025 * tall, 0.019 * tall, look.shoes, far)
        if look.lower == "skirt":
            canvas.limb(hip, knee, 0.046 * wide, 0.034 * wide, look.skin, far)
        else:
            canvas.limb(hip, knee, 0.054 * wide, (0.042 if bare else 0.038) * wide, bottom, far)

    def arm(side: float) -> None:
        shoulder, elbow, wrist = (at(*joint) for joint in arms[side])
        far = side != near_side and turned
        canvas.ellipse(wrist, 0.023 * tall, 0.026 * tall, look.skin, far)
        canvas.limb(elbow, wrist, 0.026 * wide, 0.021 * wide, top if look.long_sleeves else look.skin, far)
        canvas.limb(shoulder, elbow, 0.036 * wide, 0.03 * wide, top, far)
        if look.bag == "handbag" and side == _LEFT:
            x, y = wrist
            canvas.polygon(
                [
                    (x - 0.05 * tall, y + 0.03 * tall),
                    (x + 0.05 * tall, y + 0.03 * tall),
                    (x + 0.06 * tall, y + 0.12 * tall),
                    (x - 0.06 * tall, y + 0.12 * tall),
                ],
                look.bag_colour,
                far,
            )

    def backpack() -> None:
        low, high = at(0, 0.44, -0.085), at(0, 0.21, -0.085)
        across = tall * (0.085 * abs(cos) + 0.05 * abs(sin))
        canvas.limb(high, low, across, across * 1.05, look.bag_colour)

    def torso() -> None:
        def half(x: float, z: float) -> float:
            return tall * math.hypot(x * build * cos, z * build * sin)

        hem = 0.62 if look.coat else 0.515
        rows = (
            (0.155, 0.035, 0.03),
            (0.175, 0.085, 0.05),
            (0.2, 0.108, 0.066),
            (0.3, 0.102, 0.072),
            (0.42, 0.088, 0.066),
            (0.5, 0.098, 0.07),
            (hem, 0.104 if look.coat else 0.096, 0.074),
        )
        left_edge, right_edge = [], []
        for y, x, z in rows:
            centre = at(0, y, 0)
            left_edge.append((centre[0] - half(x, z), centre[1]))
            right_edge.append((centre[0] + half(x, z), centre[1]))
        canvas.limb(at(0, 0.13, 0.0), at(0, 0.17, 0.0), 0.032 * tall, 0.036 * tall, look.skin, True)
        if look.lower == "skirt":
            waist, end = at(0, 0.47, 0), at(0, 0.69, 0)
            canvas.polygon(
                [
                    (waist[0] - half(0.088, 0.066), waist[1]),
                    (waist[0] + half(0.088, 0.066), waist[1]),
                    (end[0] + half(0.125, 0.11), end[1]),
                    (end[0] - half(0.125, 0.11), end[1]),
                ],
                bottom,
            )
        outline = left_edge + right_edge[::-1]
        canvas.polygon(outline, top, True)
        narrow = [(x * 0.8 + 0.2 * (foot[0] - 0.02 * tall), y) for x, y in outline]
        canvas.polygon(narrow, top)
        if look.pattern == "block":
            middle = [(a, b) for a, b in outline if b >= at(0, 0.29, 0)[1]]
            canvas.polygon(middle, look.top_second, True)
            canvas.polygon([(x * 0.8 + 0.2 * (foot[0] - 0.02 * tall), y) for x, y in middle], look.top_second)

    def strap() -> None:
        a, b = at(-half_shoulder * 0.8, 0.17, 0.03), at(half_hip * 1.8, 0.47, 0.03)
        canvas.limb(a, b, 0.011 * tall, 0.011 * tall, look.bag_colour, True)
        bag = at(half_hip * 2.0, 0.5, 0.0)
        canvas.limb(
            (bag[0] - 0.03 * tall, bag[1]), (bag[0] + 0.03 * tall, bag[1]), 0.045 * tall, 0.045 * tall, look.bag_colour
        )

    def straps() -> None:
        for side in (_LEFT, _RIGHT):
            a, b = at(side * half_shoulder * 0.62, 0.165, 0.05), at(side * half_shoulder * 0.7, 0.34, 0.06)
            canvas.limb(a, b, 0.013 * tall, 0.013 * tall, look.bag_colour, True)

    def long_hair() -> None:
        if look.hair == "long":
            high, low = at(0, 0.07, -0.012), at(0, 0.185, -0.03)
            canvas.limb(high, low, 0.055 * tall, 0.05 * tall, look.hair_colour)

    def head() -> None:
        centre = at(0, 0.075, 0.008)
        rx, ry = tall * (0.05 + 0.006 * abs(sin)), 0.068 * tall
        if look.hair == "bald":
            canvas.ellipse(centre, rx, ry, look.skin, cos < -0.3)
        else:
            if look.hair == "bun":
                bun = at(0, 0.02, -0.045)
                canvas.ellipse(bun, 0.026 * tall, 0.026 * tall, look.hair_colour, True)
            canvas.ellipse((centre[0], centre[1] - 0.006 * tall), rx * 1.1, ry * 1.02, look.hair_colour)
        if cos > -0.45:
            face = at(0, 0.088, 0.022)
            fx = rx * (0.84 if cos > 0.5 else 0.66)
            canvas.ellipse(face, fx, ry * 0.78, look.skin)
            if cos > 0.1:
                for side in (_LEFT, _RIGHT):
                    eye = at(side * 0.019, 0.078, 0.045)
                    canvas.ellipse(eye, 0.006 * tall, 0.006 * tall, (40, 32, 30))
        elif look.hair != "bald":
            canvas.ellipse((centre[0] - 0.01 * tall, centre[1] - 0.012 * tall), rx * 0.8, ry * 0.75, look.hair_colour)
        if look.hat != "none":
            brow = centre[1] - 0.02 * tall
            canvas.limb(
                (centre[0] - rx * 0.55, brow - 0.018 * tall),
                (centre[0] + rx * 0.55, brow - 0.018 * tall),
                0.034 * tall,
                0.034 * tall,
                look.hat_colour,
            )
            if look.hat == "cap" and cos > -0.6:
                peak = at(0, 0.055, 0.085)
                canvas.limb(
                    (centre[0], brow + 0.008 * tall),
                    (peak[0], brow + 0.008 * tall),
                    0.017 * tall,
                    0.011 * tall,
                    look.hat_colour,
                    True,
                )

    far_side = -near_side
    if look.bag == "backpack" and front:
        backpack()
    if turned:
        arm(far_side)
    for side in sorted((_LEFT, _RIGHT), key=lambda s: nearness(legs[s][2][0], legs[s][2][2])):
        leg(side)
    if front:
        long_hair()
    torso()
    if not front:
        long_hair()
    head()
    if look.bag == "shoulder":
        strap()
    if look.bag == "backpack":
        if front:
            straps()
        else:
            backpack()
    if not turned:
        arm(far_side)
    arm(near_side)

    face = [(0.0, 0.09, 0.06), (0.02, 0.078, 0.05), (-0.02, 0.078, 0.05), (0.048, 0.08, 0.0), (-0.048, 0.08, 0.0)]
    body = [(arms[side][k]) for k in range(3) for side in (_LEFT, _RIGHT)]
    lower = [(legs[side][k]) for k in range(3) for side in (_LEFT, _RIGHT)]
    return np.array([at(*joint) for joint in face + body + lower])


@lru_cache(maxsize=32)
def _paint(first: Colour, second: Colour, pattern: Pattern, scale: float, tall: int) -> Paint:
    """A colour, or a texture (in light and in shade) that is large enough for one person `tall` pixels high."""
    if pattern in ("plain", "block"):
        return first
    # Patterns belong to clothes: their size follows the person, to a step that keeps the cache small.
    step = max(3, round(scale * tall / 22))
    width, height = tall, 4 * tall // 3
    texture = PIL.Image.new("RGB", (width, height), first)
    draw = PIL.ImageDraw.Draw(texture)
    if pattern in ("stripes", "checks"):
        for y in range(0, height, 2 * step):
            draw.rectangle((0, y, width, y + step - 1), fill=second)
    if pattern in ("bars", "checks"):
        mixed = _colour(second, True) if pattern == "checks" else second
        for x in range(0, width, 2 * step):
            draw.rectangle((x, 0, x + max(1, round(0.7 * step)) - 1, height), fill=mixed)
    if pattern == "dots":
        for row, y in enumerate(range(0, height, 2 * step)):
            for x in range(step * (row % 2), width, 2 * step):
                draw.ellipse((x, y, x + 1.2 * step, y + 1.2 * step), fill=second)
    return _Texture(texture, texture.point([round(0.78 * v) for v in range(256)] * 3))


def _colour(colour: Colour, shade: bool) -> Colour:
    r, g, b = colour
    return (int(0.78 * r), int(0.78 * g), int(0.78 * b)) if shade else colour


@lru_cache(maxsize=4096)
def _look(identity: tuple[int, ...]) -> Look:
    random = np.random.default_rng([1, *identity])

    def near(colour: Colour) -> Colour:
        r, g, b = np.clip(np.array(colour) + random.integers(-12, 13, 3), 8, 247).tolist()
        return r, g, b

    def one(kinds: Sequence[str], chances: Sequence[float]) -> str:
        return kinds[int(random.choice(len(kinds), p=np.array(chances) / sum(chances)))]

    top = int(random.integers(len(_CLOTHES)))
    second = (top + int(random.integers(1, len(_CLOTHES)))) % len(_CLOTHES)
    if random.random() < 0.5:
        second = 1 if top != 1 else 0  # white is what most patterns are printed in
    bottom = _BOTTOMS[int(random.integers(len(_BOTTOMS)))]
    lower = one(get_args(Bottom), (6, 2, 2))
    patterned = random.random() < (0.5 if lower == "skirt" else 0.12)
    return Look(
        height=float(random.uniform(0.94, 1.03)),
        build=float(random.uniform(0.88, 1.2)),
        skin=near(_SKIN[int(random.integers(len(_SKIN)))]),
        hair=one(get_args(Hair), (5, 4 if lower != "shorts" else 1, 1, 0.7)),  # type: ignore[arg-type]
        hair_colour=near(_HAIR[int(random.integers(len(_HAIR)))]),
        top=near(_CLOTHES[top]),
        top_second=near(_CLOTHES[second]),
        pattern=one(get_args(Pattern), (5, 2, 1, 1.5, 1.2, 1.2)),  # type: ignore[arg-type]
        scale=float(random.choice([0.8, 1.1, 1.5])),
        long_sleeves=bool(random.random() < 0.45),
        coat=bool(random.random() < 0.2),
        lower=lower,  # type: ignore[arg-type]
        bottom=near(_CLOTHES[bottom]),
        bottom_second=near(_CLOTHES[int(random.integers(len(_CLOTHES)))]),
        bottom_pattern=one(("stripes", "checks", "dots"), (1, 1, 1)) if patterned else "plain",  # type: ignore[arg-type]
        shoes=near(_CLOTHES[int(random.choice([0, 1, 2, 3, 9, 13]))]),
        bag=one(get_args(Bag), (5, 2.5, 2, 1.5)),  # type: ignore[arg-type]
        bag_colour=near(_CLOTHES[int(random.integers(len(_CLOTHES)))]),
        hat=one(get_args(Hat), (7, 2, 1)),  # type: ignore[arg-type]
        hat_colour=near(_CLOTHES[int(random.integers(len(_CLOTHES)))]),
    )


@lru_cache(maxsize=64)
def _camera(camera: tuple[int, ...]) -> Camera:
    random = np.random.default_rng([2, *camera])
    warm = random.uniform(-0.09, 0.09)
    return Camera(
        background=int(random.integers(2**31)),
        backdrop=camera[-1] % 3,  # neighbouring cameras look at different places
        gain=float(random.uniform(0.75, 1.15)),
        balance=(float(1 + warm), float(1 + random.uniform(-0.03, 0.03)), float(1 - warm)),
        blur=float(random.uniform(0.0, 0.75)),
        noise=float(random.uniform(1.5, 6.0)),
        heading=float(random.uniform(0, 2 * math.pi)),
        pitch=float(random.uniform(0.08, 0.3)),
    )


@lru_cache(maxsize=9)
def _scene(background: int, backdrop: int, height: int, width: int) -> PIL.Image.Image:
    """What one camera sees when nobody is there, four crops wide; crops are windows of it."""
    random = np.random.default_rng([4, background])
    w, h = 4 * width * _SUPER, round(1.25 * height * _SUPER)

    def tone(low: int, high: int, spread: int = 14) -> Colour:
        grey = int(random.integers(low, high))
        r, g, b = np.clip(grey + random.integers(-spread, spread + 1, 3), 0, 255).tolist()
        return r, g, b

    wall, ground = tone(90, 200, 26), tone(95, 185)
    image = PIL.Image.new("RGB", (w, h), wall)
    draw = PIL.ImageDraw.Draw(image)
    horizon = round(h * random.uniform(0.3, 0.6))
    unit = height * _SUPER / 12
    if backdrop == 0:  # bricks or slabs
        for row in range(int(horizon / (0.5 * unit)) + 1):
            y = row * 0.5 * unit
            draw.line((0, y, w, y), fill=_colour(wall, True), width=2)
            for x in np.arange((row % 2) * 0.6 * unit, w, 1.2 * unit):
                draw.line((x, y, x, y + 0.5 * unit), fill=_colour(wall, True), width=2)
    elif backdrop == 1:  # shop windows
        for x in np.arange(0, w, random.uniform(4, 7) * unit):
            pane = tone(40, 210, 40)
            draw.rectangle(
                (x, horizon * 0.1, x + 3.2 * unit, horizon * 0.92), fill=pane, outline=_colour(wall, True), width=4
            )
            draw.line(
                (x, horizon * 0.9, x + 3 * unit, horizon * 0.2), fill=tuple(min(255, v + 25) for v in pane), width=6
            )
    else:  # a hedge
        for _ in range(260):
            x, y, r = random.uniform(0, w), random.uniform(0, horizon), random.uniform(0.3, 1.1) * unit
            g = int(random.integers(60, 150))
            draw.ellipse((x - r, y - r, x + r, y + r), fill=(int(0.55 * g), g, int(0.45 * g)))
    draw.rectangle((0, horizon, w, h), fill=ground)
    if random.random() < 0.7:  # paving that grows towards the camera
        joint = tuple(int(0.88 * v) for v in ground)
        y, gap = float(horizon), 0.25 * unit
        while y < h:
            draw.line((0, y, w, y), fill=joint, width=2)
            y, gap = y + gap, gap * 1.25
        for k in range(-16, 17):
            draw.line((w / 2 + k * unit * 2, horizon, w / 2 + k * unit * 5, h), fill=joint, width=2)
    draw.rectangle((0, horizon - 0.18 * unit, w, horizon + 0.12 * unit), fill=tone(120, 200))
    for _ in range(5):  # posts and boxes along the wall
        x, size = random.uniform(0, w), random.uniform(0.3, 2.2) * unit
        draw.rectangle(
            (x, horizon - random.uniform(0.5, 4) * unit, x + size, horizon + 0.6 * unit), fill=tone(40, 200, 45)
        )
    image = image.filter(PIL.ImageFilter.GaussianBlur(2.0))
    grain = random.normal(0, 5, (h // 4, w // 4, 1)).repeat(4, 0).repeat(4, 1)
    pixels = np.zeros((h, w, 1))
    pixels[: grain.shape[0], : grain.shape[1]] = grain
    return PIL.Image.fromarray((np.asarray(image) + pixels).clip(0, 255).astype(np.uint8))


def _shadow(image: PIL.Image.Image, foot: Point, tall: float) -> None:
    rx, ry = 0.17 * tall, 0.022 * tall
    mask = PIL.Image.new("L", (round(2 * rx), round(2 * ry)))
    PIL.ImageDraw.Draw(mask).ellipse((0, 0, mask.width - 1, mask.height - 1), fill=95)
    image.paste((18, 18, 22), (round(foot[0] - rx), round(foot[1] - ry)), mask)


def _put_in_front(
    image: PIL.Image.Image, kind: DrawnOccluder, camera: Camera, pose: tuple[int, ...], random: np.random.Generator
) -> PIL.Image.Image:
    """Draw an occluder onto `image`; give its silhouette, 255 where it hides what is behind."""
    w, h = image.size
    canvas = _Canvas(image)
    left = random.random() < 0.5
    colour: Colour = _CLOTHES[int(random.integers(len(_CLOTHES)))]
    if kind == "box":
        top = h * random.uniform(0.42, 0.75)
        x0, x1 = (-0.1 * w, w * random.uniform(0.7, 1.1)) if left else (w * random.uniform(-0.1, 0.3), 1.1 * w)
        card: Colour = (176, 138, 96)
        canvas.polygon([(x0, top), (x1, top), (x1, h), (x0, h)], card)
        canvas.polygon(
            [(x0, top), (x1, top), (x1 - 0.08 * w, top - 0.05 * h), (x0 + 0.08 * w, top - 0.05 * h)], card, True
        )
        tape = (x0 + x1) / 2
        canvas.polygon([(tape - 9, top), (tape + 9, top), (tape + 9, h), (tape - 9, h)], (206, 180, 136))
    elif kind == "pole":
        x, r = w * random.uniform(0.22, 0.78), w * random.uniform(0.08, 0.17)
        canvas.polygon([(x - r, 0), (x + r, 0), (x + r, h), (x - r, h)], (112, 116, 120), True)
        canvas.polygon([(x - 0.6 * r, 0), (x + 0.2 * r, 0), (x + 0.2 * r, h), (x - 0.6 * r, h)], (112, 116, 120))
    elif kind == "bush":
        top = h * random.uniform(0.45, 0.72)
        for _ in range(110):
            r = h * random.uniform(0.025, 0.06)
            x, y = random.uniform(0, w), random.uniform(top + r, h + r)
            g = int(random.integers(60, 140))
            canvas.ellipse((x, y), r, r, (int(0.5 * g), g, int(0.4 * g)))
        # No peeping through: leaves above are the edge, below it is dense.
        hole = h * 0.09 + top
        PIL.ImageDraw.Draw(canvas.silhouette).rectangle((0, hole, w, h), fill=255)
        below = PIL.Image.new("RGB", image.size, (38, 72, 32))
        seen_through = PIL.Image.new("L", image.size)
        seen_through.paste(255, (0, round(hole), w, h))
        for _ in range(130):
            r = h * random.uniform(0.02, 0.045)
            x, y = random.uniform(0, w), random.uniform(hole, h)
            g = int(random.integers(55, 130))
            PIL.ImageDraw.Draw(below).ellipse((x - r, y - r, x + r, y + r), fill=(int(0.5 * g), g, int(0.4 * g)))
        image.paste(below, (0, 0), seen_through)
    elif kind == "car":
        top = h * random.uniform(0.5, 0.7)
        roof = top - 0.14 * h
        start = -0.5 * w if left else 0.15 * w
        canvas.polygon(
            [(start, roof), (start + 0.95 * w, roof), (start + 1.25 * w, top + 2), (start - 0.3 * w, top + 2)],
            (52, 60, 70),
        )
        canvas.polygon(
            [(start - w, top), (start + 2 * w, top), (start + 2 * w, 0.94 * h), (start - w, 0.94 * h)], colour
        )
        canvas.polygon(
            [(start - w, 0.86 * h), (start + 2 * w, 0.86 * h), (start + 2 * w, h), (start - w, h)], colour, True
        )
        for x in (start + 0.1 * w, start + 1.05 * w):
            canvas.ellipse((x, 0.95 * h), 0.26 * w, 0.115 * h, (24, 24, 26))
            canvas.ellipse((x, 0.95 * h), 0.13 * w, 0.058 * h, (150, 152, 156))
    else:
        u = iter(random.random(16).tolist())
        look = _look((5, *pose))
        side = -1 if left else 1
        lower = random.random() < 0.4
        foot = (w * (0.5 + side * random.uniform(0.22, 0.38)), h * (random.uniform(1.3, 1.5) if lower else 1.0))
        _figure(canvas, look, camera.heading + random.uniform(-0.6, 0.6), foot, h * 0.98, camera.pitch, u)
    return canvas.silhouette


def _query_occluder(seed: int, pid: int, camera: int, share: float) -> DrawnOccluder | None:
    random = np.random.default_rng([6, seed, pid, camera])
    if random.random() >= share:
        return None
    return OCCLUDERS[int(random.integers(len(OCCLUDERS)))]


def _save(image: PIL.Image.Image, path: Path) -> None:
    if path.suffix == ".png":
        image.save(path, compress_level=1)
    else:
        image.save(path, quality=92, subsampling=0)


def _check_size(size: tuple[int, int]) -> None:
    if min(size) < 16:
        raise ConfigError(
            "size", f"{size[0]} x {size[1]} is too small to draw a person", "give at least 16 x 16 pixels"
        )


def _check_occluder(occluder: str | None) -> None:
    if occluder is not None and occluder not in OCCLUDERS:
        raise ConfigError("occluder", f"'{occluder}' is not an occluder", f"choose one of {', '.join(OCCLUDERS)}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(name, f"{value} is out of range", f"give a number from {low} to {high}")


def _check_empty(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(target, "already holds something", "choose a folder that does not exist yet or is empty")
