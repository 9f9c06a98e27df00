"""Solid shapes, and where rays meet them: what rendered people and their surroundings are made of.

The world has metres for units: x to the right of the camera, y up from the ground, z away from the camera. All rays
start in one point, so what a shape shows is cast only inside the rectangle of pixels that can show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glimpse.errors import ConfigError

Array = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]
Rows = npt.NDArray[np.integer[Any]]

_FAR = np.float32(np.inf)
_NEAR = 1e-3


class View(NamedTuple):
    """A pinhole camera and the part of its picture that is drawn.

    Attributes:
        eye: position `[3]`.
        axes: rows are its right, up and forward `[3, 3]`.
        focal: distance of the picture plane, in units of `window`.
        window: left, top, right, bottom on the picture plane, y down.
        size: rows and columns that the window is drawn with.
    """

    eye: Vector
    axes: Vector
    focal: float
    window: tuple[float, float, float, float]
    size: tuple[int, int]

    def rays(self) -> Array:
        """Directions through the centres of the pixels, of length 1, float32 `[h, w, 3]`."""
        left, top, right, bottom = self.window
        rows, columns = self.size
        x = left + (np.arange(columns) + 0.5) * ((right - left) / columns)
        y = top + (np.arange(rows) + 0.5) * ((bottom - top) / rows)
        length = np.sqrt((x * x + self.focal * self.focal)[None, :] + (y * y)[:, None])
        world = np.empty((rows, columns, 3), np.float32)
        for axis in range(3):
            across = x * self.axes[0, axis] + self.focal * self.axes[2, axis]
            world[..., axis] = (across[None, :] - (y * self.axes[1, axis])[:, None]) / length
        return world

    def project(self, points: Vector) -> Vector:
        """Where world points `[n, 3]` are drawn: x and y in pixels of the window, and the distance ahead, `[n, 3]`."""
        local = (points - self.eye) @ self.axes.T
        ahead = np.maximum(local[:, 2], _NEAR)
        left, top, right, bottom = self.window
        rows, columns = self.size
        x = (self.focal * local[:, 0] / ahead - left) * (columns / (right - left))
        y = (-self.focal * local[:, 1] / ahead - top) * (rows / (bottom - top))
        return np.stack([x, y, local[:, 2]], 1)


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """Where a texture lies: its origin `[3]` and its axes, across, along and out, as rows `[3, 3]`."""

    origin: Vector
    axes: Vector


@dataclass(frozen=True, eq=False, slots=True)
class Solid:
    """A round cone, a frustum or a box.

    A *cone* is the hull of two balls; a *frustum* is cut off flat at its ends; both may be pressed along one axis. A
    *box* has its half sizes along the axes of its frame.

    Attributes:
        kind: 0 a cone, 1 a frustum, 2 a box.
        a, b: ends of the axis `[3]`; of a box its centre, twice.
        ra, rb: radii there, before pressing.
        press: direction along which it is pressed, of length 1 `[3]`, across the axis.
        depth: size along `press` relative to the other directions.
        half: half sizes of a box `[3]`.
        frame: of the texture, and the axes of a box.
        material: row in the list of materials.
        label: number of the part of a body; 0 is none.
        owner: number of the person that it is of; 0 is a thing.
    """

    kind: int
    a: Vector
    b: Vector
    ra: float
    rb: float
    press: Vector
    depth: float
    half: Vector
    frame: Frame
    material: int
    label: int = 0
    owner: int = 0


_UP = np.array([0.0, 1.0, 0.0])
_NO_SIZE = np.zeros(3)
CONE, FRUSTUM, BOX = 0, 1, 2


def cone(
    a: Vector,
    b: Vector,
    ra: float,
    rb: float,
    *,
    frame: Frame,
    material: int,
    label: int = 0,
    owner: int = 0,
    press: Vector = _UP,
    depth: float = 1.0,
    flat: bool = False,
) -> Solid:
    """Give a round cone, or a frustum if `flat`."""
    if depth != 1.0:
        axis = b - a
        length = float(axis @ axis)
        if length > 1e-12:
            # Pressed straight across the axis, so that the axis keeps its length.
            press = press - axis * (float(press @ axis) / length)
        press = press / max(float(np.sqrt(press @ press)), 1e-9)
    kind = FRUSTUM if flat else CONE
    return Solid(kind, a, b, ra, rb, press, depth, _NO_SIZE, frame, material, label, owner)


def box(frame: Frame, half: Sequence[float] | Vector, material: int, *, label: int = 0, owner: int = 0) -> Solid:
    """Give a box around the origin of `frame`, with half sizes along its axes."""
    size = np.asarray(half, np.float64)
    return Solid(BOX, frame.origin, frame.origin, 0.0, 0.0, _UP, 1.0, size, frame, material, label, owner)


class Solids:
    """Solids of a picture, packed for NumPy.

    Args:
        solids: at most 32,767.

    Attributes:
        solids: as given.
        material, label, owner: of each solid, int32 `[n]`.

    Raises:
        ConfigError: there are too many solids.
    """

    def __init__(self, solids: Sequence[Solid]) -> None:
        if len(solids) > np.iinfo(np.int16).max:
            raise ConfigError("solids", f"are {len(solids)}", "draw at most 32,767 in one picture")
        self.solids = tuple(solids)
        self.kind = np.array([solid.kind for solid in solids], np.int8)
        self.a = _stack([solid.a for solid in solids])
        self.d = _stack([solid.b for solid in solids]) - self.a
        self.ra, self.rb, depth = _stack([(solid.ra, solid.rb, solid.depth) for solid in solids]).T
        # Where one ball of a cone holds the other, or all but a hair's breadth of it, it is all there is.
        lengths = _dots(self.d, self.d)
        alone = (self.kind == CONE) & (lengths - (self.rb - self.ra) ** 2 <= 1e-3 * lengths + 1e-12)
        self.a[alone & (self.rb > self.ra)] += self.d[alone & (self.rb > self.ra)]
        self.d[alone] = 0
        self.ra[alone] = self.rb[alone] = np.maximum(self.ra, self.rb)[alone]
        self.stretch = 1.0 / depth
        self.press = _stack([solid.press for solid in solids])
        self.half = _stack([solid.half for solid in solids])
        self.origin = _stack([solid.frame.origin for solid in solids])
        self.axes = np.array([solid.frame.axes for solid in solids], np.float64).reshape(-1, 3, 3)
        self.material, self.label, self.owner = (
            np.array([getattr(solid, name) for solid in solids], np.int32) for name in ("material", "label", "owner")
        )

    def __len__(self) -> int:
        return len(self.solids)

    def normals(self, rows: Rows, points: Array) -> Array:
        """Directions out of the solids at points on them.

        Args:
            rows: which solid each point is on `[n]`.
            points: `[n, 3]`.

        Returns:
            float32 `[n, 3]`, of length 1.
        """
        found = np.zeros((len(rows), 3), np.float32)
        kinds = self.kind[rows]
        for kind, outward in ((CONE, self._cone_normals), (FRUSTUM, self._frustum_normals), (BOX, self._box_normals)):
            which = np.flatnonzero(kinds == kind)
            if len(which):
                found[which] = outward(rows[which], points[which])
        found /= np.maximum(np.sqrt(_dots(found, found)), 1e-9)[:, None]
        return found

    def on_texture(self, rows: Rows, points: Array) -> Array:
        """Points `[n, 3]` in the frames of their solids' textures: across, along and out, in metres, `[n, 3]`."""
        seen = points - self.origin.astype(np.float32)[rows]
        placed: Array = np.einsum("nij,nj->ni", self.axes.astype(np.float32)[rows], seen)
        return placed

    def _seen(self, rows: Rows, points: Array) -> tuple[Array, Array, Array, Array]:
        """For each point: its place seen from `a` in stretched space, the axis, and the stretch."""
        press = self.press.astype(np.float32)[rows]
        more = (self.stretch - 1).astype(np.float32)[rows][:, None]
        w = points - self.a.astype(np.float32)[rows]
        w += press * (more * _dots(press, w)[:, None])
        return w, self.d.astype(np.float32)[rows], press, more

    def _cone_normals(self, rows: Rows, points: Array) -> Array:
        w, d, press, more = self._seen(rows, points)
        ra, e = self.ra.astype(np.float32)[rows], (self.rb - self.ra).astype(np.float32)[rows]
        span = np.maximum(_dots(d, d) - e * e, 1e-9)
        s = np.clip((_dots(d, w) + ra * e) / span, 0, 1)
        out = w - s[:, None] * d
        # A stretch is symmetric: normals go back by the same one.
        found: Array = out + press * (more * _dots(press, out)[:, None])
        return found

    def _frustum_normals(self, rows: Rows, points: Array) -> Array:
        w, d, press, more = self._seen(rows, points)
        ra, rb = self.ra.astype(np.float32)[rows], self.rb.astype(np.float32)[rows]
        length = np.maximum(np.sqrt(_dots(d, d)), 1e-9)
        u = d / length[:, None]
        y = _dots(u, w)
        out = w - y[:, None] * u
        radial = np.sqrt(_dots(out, out))
        k = (rb - ra) / length
        out = out / np.maximum(radial, 1e-9)[:, None] - k[:, None] * u
        # Of the side and the two ends, the one that the point is on.
        face = np.argmin([np.abs(ra + k * y - radial) / np.sqrt(1 + k * k), np.abs(y), np.abs(length - y)], 0)[:, None]
        out = np.where(face == 1, -u, np.where(face == 2, u, out))
        found: Array = out + press * (more * _dots(press, out)[:, None])
        return found

    def _box_normals(self, rows: Rows, points: Array) -> Array:
        q = self.on_texture(rows, points)
        face = np.argmin(np.abs(self.half.astype(np.float32)[rows] - np.abs(q)), 1)
        n = np.arange(len(rows))
        out: Array = np.sign(q[n, face])[:, None] * self.axes.astype(np.float32)[rows, face]
        return out


class Hits(NamedTuple):
    """What rays meet first.

    Attributes:
        distance: float32 `[h, w]`, from the eye; infinite where nothing is met.
        row: int32 `[h, w]`, which solid; -1 where nothing is met.
    """

    distance: Array
    row: npt.NDArray[np.int32]


def cast(view: View, rays: Array, solids: Solids) -> Hits:
    """Find the first solid that each ray meets, and where.

    Args:
        view: where rays start, and which pixel each belongs to.
        rays: directions `[h, w, 3]` from `view.rays()`.
        solids: what they may meet.
    """
    height, width = view.size
    # The nearest has the smallest key: its distance, whose bits sort like the number, and then its row.
    keys = np.full(height * width, np.iinfo(np.int64).max, np.int64)
    windows, shows = _windows(view, solids)
    cones = np.flatnonzero(shows & (solids.kind == CONE))
    for rows, pixels, t in (
        _meet_cones(solids, cones, windows, view, rays),
        *(_meet_other(solids, int(row), windows, view, rays) for row in np.flatnonzero(shows & (solids.kind != CONE))),
    ):
        key = (t.astype(np.float32).view(np.int32).astype(np.int64) << 16) | rows
        np.minimum.at(keys, pixels, key)
    met = keys != np.iinfo(np.int64).max
    row = np.where(met, keys & 0xFFFF, -1).astype(np.int32)
    distance = np.where(met, (keys >> 16).astype(np.int32).view(np.float32), _FAR)
    return Hits(distance.reshape(height, width), row.reshape(height, width))


# --- rays and solids -----------------------------------------------------------------------------------------------

Meeting = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Array]
"""Solids, pixels and distances of meetings, `[n]` each."""


def extents(view: View, solids: Solids) -> Vector:
    """Rectangles that hold what can be seen of each solid, drawn or not: top, bottom, left and right in pixels of the
    window `[n, 4]`; infinite where it reaches beside or behind the camera, empty (NaN) where it is all there.
    """
    ends = np.stack([solids.a, solids.a + solids.d], 1)
    reach = np.stack([solids.ra, solids.rb], 1) * np.maximum(1.0, 1.0 / solids.stretch)[:, None]
    # A box lies in a ball around its centre.
    reach = np.maximum(reach, np.sqrt((solids.half**2).sum(1))[:, None])
    local = (ends - view.eye) @ view.axes.T
    ahead = local[..., 2]
    beside, behind = (ahead - reach).min(1) <= _NEAR, (ahead + reach).max(1) <= _NEAR
    # Lines from the eye that touch a ball: (side ahead +- r sqrt(side^2 + ahead^2 - r^2)) / (ahead^2 - r^2).
    ahead = np.maximum(ahead, reach + _NEAR)
    square = ahead**2 - reach**2
    left, top, right, bottom = view.window
    found = []
    for side, start, scale in (
        (-local[..., 1], top, view.size[0] / (bottom - top)),
        (local[..., 0], left, view.size[1] / (right - left)),
    ):
        middle, away = side * ahead, reach * np.sqrt(side**2 + square)
        found.append((view.focal * ((middle - away) / square).min(1) - start) * scale)
        found.append((view.focal * ((middle + away) / square).max(1) - start) * scale)
    rectangles = np.stack(found, 1)
    rectangles[beside] = (-np.inf, np.inf, -np.inf, np.inf)
    rectangles[behind] = np.nan
    return rectangles


def _windows(view: View, solids: Solids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The pixels that can show each solid: top, bottom, left, right `[n, 4]`; and whether any can `[n]`."""
    height, width = view.size
    found = np.clip(np.nan_to_num(extents(view, solids), nan=0.0), 0, [height, height, width, width])
    found[:, ::2], found[:, 1::2] = np.floor(found[:, ::2]), np.ceil(found[:, 1::2])
    windows = found.astype(np.int64)
    return windows, (windows[:, 0] < windows[:, 1]) & (windows[:, 2] < windows[:, 3])


def _meet_cones(
    solids: Solids, rows: npt.NDArray[np.intp], windows: npt.NDArray[np.int64], view: View, rays: Array
) -> Meeting:
    """Where rays meet round cones.

    A round cone is the union of balls around a + s d with radii ra + s e, s in [0, 1]. The ball that a point w, seen
    from a, is deepest in has s = (d.w + ra e) / D with D = d.d - e e. Put into the ball's equation this gives
    D (w.w - ra ra) = (d.w + ra e)^2, quadratic along a ray. Where s leaves [0, 1] the ball at that end is met.
    Rays that run along the axis, or inside the angle of the cone, may enter by either end or by the side: the nearest.
    Pressing a cone is a stretch of space across its axis by the inverse.
    """
    if not len(rows):
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    a, d, ra, rb = solids.a[rows], solids.d[rows], solids.ra[rows], solids.rb[rows]
    press, stretch = solids.press[rows], solids.stretch[rows]
    e = rb - ra
    span = _dots(d, d) - e * e
    span[span <= 0] = 1  # of a single ball, which has no side
    w = view.eye - a
    w = w + press * ((stretch - 1) * _dots(press, w))[:, None]
    # Rays are stretched as well: v.w = ray.(S w), and the axis lies across `press`, so v.d = ray.d.
    sw = w + press * ((stretch - 1) * _dots(press, w))[:, None]
    factors = np.stack([press, d, sw], 2).astype(np.float32)
    tall, wide = windows[rows, 1] - windows[rows, 0], windows[rows, 3] - windows[rows, 2]
    counts = tall * wide
    starts = np.concatenate([[0], np.cumsum(counts)])
    dots = np.empty((int(starts[-1]), 3), np.float32)
    numbers = np.arange(view.size[0] * view.size[1], dtype=np.int32).reshape(view.size)
    pixels = np.empty(len(dots), np.int32)
    for number, (top, bottom, left, right) in enumerate(windows[rows]):
        part = slice(int(starts[number]), int(starts[number + 1]))
        np.matmul(rays[top:bottom, left:right].reshape(-1, 3), factors[number], out=dots[part])
        pixels[part] = numbers[top:bottom, left:right].ravel()

    g = _dots(d, w) + ra * e
    ww = _dots(w, w)
    which = np.repeat(np.arange(len(rows), dtype=np.int32), counts)
    each = np.stack([stretch**2 - 1, span, g, span * (ww - ra * ra) - g * g], 1).astype(np.float32)
    k, dd, gg, qc = each[which].T
    along, vd, vw = dots.T
    vv = 1 + k * along * along
    qa = dd * vv - vd * vd
    qb = dd * vw - vd * gg
    under = qb * qb - qa * qc
    along_it = qa < np.float32(1e-3) * dd * vv
    where = np.flatnonzero((under > 0) | along_it)
    which, pixels = which[where], pixels[where]
    vd, vw, vv, gg, dd, qa, qb = (each[where] for each in (vd, vw, vv, gg, dd, qa, qb))
    root = np.sqrt(np.maximum(under[where], 0))
    wb = w - d
    first, last = (ww - ra * ra).astype(np.float32), (_dots(wb, wb) - rb * rb).astype(np.float32)

    def ball(at: Rows, b: npt.NDArray[np.bool_] | bool) -> Array:
        """Where the ball at an end, `b` or else `a`, is met."""
        of = which[at]
        bv = np.where(b, vw[at] - vd[at], vw[at])
        inner = bv * bv - vv[at] * np.where(b, last[of], first[of])
        t: Array = np.where(inner > 0, (-bv - np.sqrt(np.maximum(inner, 0))) / vv[at], _FAR)
        return t

    with np.errstate(divide="ignore", invalid="ignore"):
        t = (-qb - root) / qa
    s = (vd * t + gg) / dd
    along_it = along_it[where]
    at = np.flatnonzero(((s < 0) | (s > 1)) & ~along_it)
    t[at] = ball(at, s[at] > 1)
    at = np.flatnonzero(along_it)
    if len(at):
        real = under[where[at]] > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            sides = [(-qb[at] + np.float32(sign) * root[at]) / qa[at] for sign in (-1, 1)]
        on_side = [real & (np.abs(vd[at] * side + gg[at] - 0.5 * dd[at]) <= 0.5 * dd[at]) for side in sides]
        found = [ball(at, False), ball(at, True), *(np.where(on, side, _FAR) for on, side in zip(on_side, sides))]
        t[at] = np.min([np.where(each > _NEAR, each, _FAR) for each in found], 0)
    good = (t > _NEAR) & (t < _FAR)
    return rows[which[good]].astype(np.int64), pixels[good].astype(np.int64), t[good]


def _meet_other(solids: Solids, row: int, windows: npt.NDArray[np.int64], view: View, rays: Array) -> Meeting:
    top, bottom, left, right = windows[row].tolist()
    part = rays[top:bottom, left:right].reshape(-1, 3)
    solid = solids.solids[row]
    where, t = (_meet_frustum if solid.kind == FRUSTUM else _meet_box)(solid, view.eye, part)
    pixels = (top + where // (right - left)) * view.size[1] + left + where % (right - left)
    return np.full(len(where), row, np.int64), pixels, t


def _meet_frustum(solid: Solid, eye: Vector, rays: Array) -> tuple[npt.NDArray[np.intp], Array]:
    """The side is |w - y u| = ra + k y with u along the axis and y = u.w in [0, length]; the ends are discs."""
    stretch = 1.0 / solid.depth
    d = solid.b - solid.a
    length = float(np.sqrt(d @ d))
    u = d / max(length, 1e-9)
    k = (solid.rb - solid.ra) / max(length, 1e-9)
    w = _stretched(eye - solid.a, solid.press, stretch)
    factors = np.stack([solid.press, u, _stretched(w, solid.press, stretch)], 1).astype(np.float32)
    along, vu, vw = (rays @ factors).T
    vv = 1.0 + np.float32(stretch * stretch - 1.0) * along * along
    y0 = float(u @ w)
    r0 = solid.ra + k * y0
    qa = vv - np.float32(1 + k * k) * vu * vu
    qb = vw - np.float32(y0 + k * r0) * vu
    qc = np.float32(float(w @ w) - y0 * y0 - r0 * r0)
    under = qb * qb - qa * qc
    # Without a real root a ray misses the side, and the ends as well unless it runs steeper than the side.
    may = np.flatnonzero((under > 0) | (qa < 0))
    qa, qb, under, vu, vw, vv = qa[may], qb[may], under[may], vu[may], vw[may], vv[may]
    t = np.full(len(may), _FAR, np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(np.maximum(under, 0))
        real = (under > 0) & (np.abs(qa) > 1e-9)
        for sign in (-1.0, 1.0):
            side = (-qb + np.float32(sign) * root) / qa
            y = np.float32(y0) + vu * side
            good = real & (side > _NEAR) & (y >= 0) & (y <= length) & (np.float32(solid.ra) + k * y >= 0)
            np.minimum(t, np.where(good, side, _FAR), out=t)
        for y, radius in ((0.0, solid.ra), (length, solid.rb)):
            cap = np.float32(y - y0) / vu
            away = vv * cap * cap + 2 * vw * cap + np.float32(float(w @ w)) - np.float32(y * y)
            good = (cap > _NEAR) & (away <= np.float32(radius * radius))
            np.minimum(t, np.where(good, cap, _FAR), out=t)
    where = np.flatnonzero(t < _FAR)
    return may[where], t[where]


def _meet_box(solid: Solid, eye: Vector, rays: Array) -> tuple[npt.NDArray[np.intp], Array]:
    """A ray is inside while it is between all three pairs of faces."""
    w = solid.frame.axes @ (eye - solid.a)
    v = rays @ solid.frame.axes.T.astype(np.float32)
    v[v == 0] = 1e-12  # along a face, and never exactly
    enter, leave = np.full(len(v), _NEAR, np.float32), np.full(len(v), _FAR, np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        for axis in range(3):
            inverse = 1 / v[:, axis]
            centre, reach = inverse * np.float32(-w[axis]), np.abs(inverse) * np.float32(solid.half[axis])
            np.fmax(enter, centre - reach, out=enter)
            np.fmin(leave, centre + reach, out=leave)
    where = np.flatnonzero((enter <= leave) & (enter > _NEAR))
    return where, enter[where]


def _stretched(vector: Vector, press: Vector, stretch: float) -> Vector:
    return vector if stretch == 1.0 else vector + press * ((stretch - 1.0) * float(press @ vector))


def _stack(rows: Sequence[Vector] | Sequence[tuple[float, ...]]) -> Vector:
    return np.array(rows, np.float64).reshape(len(rows), 3)


def _dots(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Inner products of rows."""
    found: npt.NDArray[Any] = np.einsum("nc,nc->n", a, b)
    return found
