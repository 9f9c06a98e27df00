"""Solids against their definitions: points are marched along rays, and "inside" is written down a second time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from glimpse.errors import ConfigError
from glimpse.synthetic import shapes
from glimpse.synthetic.shapes import BOX, CONE, FRUSTUM, Frame, Hits, Solid, Solids, Vector, View, box, cast, cone

STEP = 0.008
EXACT = 2e-3  # metres: what sampling an axis and marching in steps leaves open
AT_ORIGIN = Frame(np.zeros(3), np.eye(3))


def unit(vector: Vector) -> Vector:
    return vector / np.linalg.norm(vector)


def turned(seed: int) -> Vector:
    """Some axes, as rows."""
    across, out = unit(np.random.default_rng(seed).normal(size=(2, 3)).T).T
    across = unit(across)
    out = unit(out - across * (out @ across))
    return np.stack([across, np.cross(out, across), out])


def vector(largest: float) -> st.SearchStrategy[Vector]:
    return st.tuples(*[st.floats(-largest, largest)] * 3).map(np.array)


radii = st.floats(0.03, 0.5)
pressings = st.one_of(st.just(1.0), st.floats(0.25, 1.4))


@st.composite
def cones(draw: st.DrawFn, flat: bool = False) -> Solid:
    a, b = draw(vector(0.3)), draw(vector(0.5))
    if flat:
        assume(np.linalg.norm(b - a) > 0.05)
    press = unit(draw(vector(1)) + np.array([1.01, 0, 0]))
    axis = b - a
    across = press - axis * (press @ axis / max(axis @ axis, 1e-12))
    assume(np.linalg.norm(across) > 0.05)
    return cone(
        a, b, draw(radii), draw(radii), frame=AT_ORIGIN, material=0, press=press, depth=draw(pressings), flat=flat
    )


boxes = st.builds(
    lambda seed, centre, half: box(Frame(centre, turned(seed)), half, 0),
    st.integers(0, 99),
    vector(0.3),
    st.tuples(*[st.floats(0.03, 0.5)] * 3),
)
solids = st.one_of(cones(), cones(flat=True), boxes)


def deep(solid: Solid, points: Vector, samples: int = 65) -> Vector:
    """How far inside points are, about, in metres of stretched space: above 0 inside, below 0 outside.

    A cone is the union of balls along its axis; a frustum is what is nearer to the axis than the radius there and
    between its ends; what is pressed is that in a space that is stretched back; a box is within its half sizes.
    """
    if solid.kind == BOX:
        return (solid.half - np.abs((points - solid.a) @ solid.frame.axes.T)).min(-1)
    w = points - solid.a
    w = w + solid.press * ((1 / solid.depth - 1) * (w @ solid.press))[..., None]
    d = solid.b - solid.a
    if solid.kind == FRUSTUM:
        length = np.linalg.norm(d)
        y = w @ d / length
        away = np.linalg.norm(w - y[..., None] * d / length, axis=-1)
        return np.minimum(np.minimum(y, length - y), solid.ra + (solid.rb - solid.ra) * y / length - away)
    s = np.linspace(0, 1, samples)
    squares = (w * w).sum(-1)[..., None] - 2 * np.multiply.outer(w @ d, s) + s * s * (d @ d)
    return (solid.ra + s * (solid.rb - solid.ra) - np.sqrt(np.maximum(squares, 0))).max(-1)


def looking_at(target: Vector, eye: Vector, wide: float, size: tuple[int, int] = (9, 8)) -> View:
    """A camera at `eye` with `target` in the middle of a picture that is `wide` metres broad there."""
    forward = unit(target - eye)
    right = unit(np.cross(np.array([0.3, 1.0, 0.1]), forward))
    half = 0.5 * wide / np.linalg.norm(target - eye)
    # Not quite in the middle: no ray is special.
    window = (-half * 0.97, -half * 1.02, half * 1.03, half * 0.98)
    return View(eye, np.stack([right, np.cross(forward, right), forward]), 1.0, window, size)


def first_met(view: View, solid: Solid) -> Hits:
    return cast(view, view.rays(), Solids([solid]))


def check_against_marching(solid: Solid, view: View) -> None:
    """What is met is on the surface, nothing before it is inside, and what is missed has nothing inside."""
    found = first_met(view, solid)
    rays = view.rays().astype(np.float64)
    away = np.linalg.norm(0.5 * (solid.a + solid.b) - view.eye)
    along = np.arange(max(STEP, away - 2), away + 2, STEP)
    depths = deep(solid, view.eye + rays[:, :, None] * along[:, None])
    met = np.isfinite(found.distance)
    assert (found.row == np.where(met, 0, -1)).all()
    assert depths[~met].max(initial=-1) < EXACT
    at = deep(solid, view.eye + rays[met] * found.distance[met][:, None].astype(np.float64))
    assert np.abs(at).max(initial=0) < EXACT
    before = along < found.distance[met][:, None] - STEP
    assert np.where(before, depths[met], -1).max(initial=-1) < EXACT


directions = vector(1).filter(lambda v: np.linalg.norm(v) > 0.1)


@given(solids, directions, st.floats(0.05, 8))
@settings(max_examples=120, deadline=None)
@example(cone(np.zeros(3), np.array([0, 0, 0.6]), 0.1, 0.1, frame=AT_ORIGIN, material=0), np.array([0, 0, 1.0]), 3.0)
@example(cone(np.zeros(3), np.array([0, 0, 0.6]), 0.05, 0.5, frame=AT_ORIGIN, material=0), np.array([0, 0, 1.0]), 3.0)
@example(cone(np.zeros(3), np.array([0, 0, 0.6]), 0.05, 0.5, frame=AT_ORIGIN, material=0), np.array([0, 0, -1.0]), 3.0)
@example(cone(np.zeros(3), np.array([0, 0, 0.2]), 0.05, 0.4, frame=AT_ORIGIN, material=0), np.array([1, 0, 0.2]), 2.0)
def test_a_solid_is_met_where_it_begins(solid: Solid, direction: Vector, away: float) -> None:
    middle = 0.5 * (solid.a + solid.b)
    eye = middle + unit(direction) * away
    assume(deep(solid, eye[None])[0] < -0.02)
    check_against_marching(solid, looking_at(middle + 0.01, eye, 2.2 if away > 1 else 3 * away))


@given(solids, directions)
@settings(max_examples=60, deadline=None)
def test_normals_are_the_slope_of_the_surface(solid: Solid, direction: Vector) -> None:
    middle = 0.5 * (solid.a + solid.b)
    view = looking_at(middle + 0.01, middle + unit(direction) * 3, 1.5)
    found = first_met(view, solid)
    met = found.row >= 0
    points = view.eye + view.rays()[met].astype(np.float64) * found.distance[met][:, None]
    normals = Solids([solid]).normals(np.zeros(len(points), np.int32), points.astype(np.float32))
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    assert ((normals * view.rays()[met]).sum(1) < 0.03).all()  # towards the camera

    def slope(h: float) -> Vector:
        steps = h * np.eye(3)
        difference = [deep(solid, points + step, 4001) - deep(solid, points - step, 4001) for step in steps]
        return -np.stack(difference, 1) / (2 * h)

    near, far = slope(1e-4), slope(1e-3)
    # Edges have no slope.
    smooth = np.linalg.norm(near - far, axis=1) < 0.02
    if solid.kind != CONE:
        smooth &= np.abs(deep(solid, points + 4e-3 * normals) + 4e-3 * np.linalg.norm(near, axis=1)) < 1e-3
    expected = near / np.linalg.norm(near, axis=1)[:, None]
    assert (np.abs(normals - expected)[smooth] < 0.05).all()


def test_a_ball_inside_the_other_changes_nothing() -> None:
    large = cone(np.zeros(3), np.zeros(3), 0.4, 0.4, frame=AT_ORIGIN, material=0)
    view = looking_at(np.zeros(3), np.array([1.0, 2.0, -3.0]), 1.0, (20, 20))
    alone = first_met(view, large)
    points = view.eye + view.rays()[alone.row >= 0] * alone.distance[alone.row >= 0][:, None]
    rows = np.zeros(len(points), np.int32)
    for small, at in ((0.1, 0.2), (0.1, 0.3), (0.39, 0.0)):
        for first in (True, False):
            ends = ((np.zeros(3), 0.4), (np.array([0, 0, at]), small))
            (a, ra), (b, rb) = ends if first else ends[::-1]
            both = cone(a, b, ra, rb, frame=AT_ORIGIN, material=0)
            np.testing.assert_allclose(first_met(view, both).distance, alone.distance, atol=1e-4)
            np.testing.assert_allclose(Solids([both]).normals(rows, points), points / 0.4, atol=2e-3)


def test_a_pressed_ball_is_an_ellipsoid_and_an_axis_keeps_its_length() -> None:
    ball = cone(np.zeros(3), np.zeros(3), 0.4, 0.4, frame=AT_ORIGIN, material=0, press=np.array([0, 0, 2.0]), depth=0.5)
    view = View(np.array([0, 0, -3.0]), np.eye(3), 1.0, (-0.01, -0.01, 0.01, 0.01), (1, 1))
    assert first_met(view, ball).distance[0, 0] == pytest.approx(3 - 0.2, abs=1e-5)
    # The part of the pressing that lies along the axis is left out.
    leaning = cone(
        np.zeros(3),
        np.array([0, 1.0, 0]),
        0.2,
        0.2,
        frame=AT_ORIGIN,
        material=0,
        press=np.array([0, 3.0, 4]),
        depth=0.5,
    )
    np.testing.assert_allclose(leaning.press, [0, 0, 1], atol=1e-12)
    top = View(
        np.array([0, 5.0, 0]), np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), 1.0, (-0.01,) * 2 + (0.01,) * 2, (1, 1)
    )
    assert first_met(top, leaning).distance[0, 0] == pytest.approx(5 - 1.2, abs=1e-4)


def test_a_box_beside_a_ray_along_its_face_is_not_met() -> None:
    view = View(np.zeros(3), np.eye(3), 1.0, (-0.3, -0.3, 0.3, 0.3), (5, 5))
    beside = box(Frame(np.array([0.4, 0, 3.0]), np.eye(3)), (0.2, 0.5, 0.5), 0)
    assert view.rays()[2, 2, 0] == 0
    assert not np.isfinite(first_met(view, beside).distance[:, :3]).any()
    ahead = box(Frame(np.array([0, 0, 3.0]), np.eye(3)), (0.2, 0.5, 0.5), 0)
    assert first_met(view, ahead).distance[2, 2] == pytest.approx(2.5)


def test_what_the_camera_is_in_or_what_lies_behind_it_is_not_met() -> None:
    view = View(np.zeros(3), np.eye(3), 1.0, (-1, -1, 1, 1), (6, 6))
    for solid in (
        cone(np.zeros(3), np.zeros(3), 0.5, 0.5, frame=AT_ORIGIN, material=0),
        cone(np.array([0, 0, -2.0]), np.array([0, 0.3, -3.0]), 0.5, 0.2, frame=AT_ORIGIN, material=0),
        cone(np.array([0, 0, -2.0]), np.array([0, 0.3, -3.0]), 0.5, 0.2, frame=AT_ORIGIN, material=0, flat=True),
        box(AT_ORIGIN, (0.5, 0.5, 0.5), 0),
        box(Frame(np.array([0, 0, -2.0]), np.eye(3)), (0.5, 0.5, 0.5), 0),
    ):
        assert (first_met(view, solid).row == -1).all()


@st.composite
def scenes(draw: st.DrawFn) -> tuple[View, list[Solid]]:
    """Solids here and there, some beside or behind the camera, and a window anywhere in its picture."""
    many = draw(st.lists(st.tuples(solids, vector(2)), min_size=1, max_size=6))
    moved = [_moved(solid, by + np.array([0, 0, 2.0])) for solid, by in many]
    left, top = draw(st.floats(-1.2, 0.5)), draw(st.floats(-1.2, 0.5))
    window = (left, top, left + draw(st.floats(0.3, 1.5)), top + draw(st.floats(0.3, 1.5)))
    return View(
        np.zeros(3), turned(draw(st.integers(0, 3))), draw(st.sampled_from((1.0, 1.7))), window, (24, 20)
    ), moved


def _moved(solid: Solid, by: Vector) -> Solid:
    frame = Frame(solid.frame.origin + by, solid.frame.axes)
    if solid.kind == BOX:
        return box(frame, solid.half, 0)
    more = {"press": solid.press, "depth": solid.depth, "flat": solid.kind == FRUSTUM}
    return cone(solid.a + by, solid.b + by, solid.ra, solid.rb, frame=frame, material=0, **more)


@given(scenes())
@settings(max_examples=80, deadline=None)
def test_the_nearest_is_seen(scene: tuple[View, list[Solid]]) -> None:
    view, many = scene
    found = cast(view, view.rays(), Solids(many))
    alone = np.stack([first_met(view, solid).distance for solid in many])
    np.testing.assert_allclose(found.distance, alone.min(0), rtol=1e-5)
    met = found.row >= 0
    assert (met == np.isfinite(alone.min(0))).all()
    seen = np.take_along_axis(alone, np.maximum(found.row, 0)[None], 0)[0]
    np.testing.assert_allclose(seen[met], alone.min(0)[met], rtol=1e-5)


@given(scenes())
@settings(max_examples=80, deadline=None)
def test_no_solid_is_cut_off_by_the_pixels_that_are_looked_at(scene: tuple[View, list[Solid]]) -> None:
    view, many = scene
    found = cast(view, view.rays(), Solids(many))

    def all_pixels(view: View, solids: Solids) -> tuple[Vector, Vector]:
        return np.tile(np.array([0, view.size[0], 0, view.size[1]]), (len(solids), 1)), np.ones(len(solids), bool)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "_windows", all_pixels)
        everywhere = cast(view, view.rays(), Solids(many))
    assert ((found.row >= 0) == (everywhere.row >= 0)).all()
    np.testing.assert_allclose(found.distance, everywhere.distance, rtol=1e-5)


@given(directions, st.integers(1, 30), st.integers(1, 30), st.floats(0.5, 2))
@settings(max_examples=40, deadline=None)
def test_rays_go_through_the_points_that_are_drawn_there(eye: Vector, rows: int, columns: int, focal: float) -> None:
    view = View(eye, turned(rows), focal, (-0.4, -0.7, 0.9, 0.2), (rows, columns))
    rays = view.rays()
    assert rays.shape == (rows, columns, 3)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=2), 1, atol=1e-6)
    for t in (0.5, 7.0):
        x, y, ahead = view.project((eye + t * rays.astype(np.float64)).reshape(-1, 3)).T
        grid_y, grid_x = np.mgrid[:rows, :columns]
        np.testing.assert_allclose(x.reshape(rows, columns), grid_x + 0.5, atol=1e-3)
        np.testing.assert_allclose(y.reshape(rows, columns), grid_y + 0.5, atol=1e-3)
        np.testing.assert_allclose(ahead, t * (rays.reshape(-1, 3) @ view.axes[2]), rtol=1e-5)


def test_a_texture_moves_with_its_frame() -> None:
    axes, origin = turned(3), np.array([1.0, 2.0, 3.0])
    shape = Solids([box(Frame(origin, axes), (1, 1, 1), 0)])
    point = (origin + 0.1 * axes[0] - 0.2 * axes[1] + 0.3 * axes[2])[None].astype(np.float32)
    np.testing.assert_allclose(shape.on_texture(np.array([0]), point), [[0.1, -0.2, 0.3]], atol=1e-5)


def test_there_is_an_end_to_how_many_there_can_be() -> None:
    one = box(AT_ORIGIN, (1, 1, 1), 0)
    with pytest.raises(ConfigError, match=r"solids: are 32768\. Remedy: draw at most 32,767 in one picture"):
        Solids([one] * 32768)


def test_labels_and_owners_are_kept() -> None:
    both = Solids(
        [
            cone(np.zeros(3), np.ones(3), 0.1, 0.1, frame=AT_ORIGIN, material=4, label=5, owner=6),
            box(AT_ORIGIN, (1, 1, 1), 1, label=2, owner=3),
        ]
    )
    assert (both.material.tolist(), both.label.tolist(), both.owner.tolist()) == ([4, 1], [5, 2], [6, 3])
