"""Things hide the side that they are asked to hide."""

from __future__ import annotations

import re

import numpy as np
import pytest

from glimpse.errors import ConfigError
from glimpse.synthetic.materials import Material
from glimpse.synthetic.obstacles import SIDES, STANDS, THINGS, Side, Thing, place, scatter
from glimpse.synthetic.places import make_camera
from glimpse.synthetic.shapes import Solid, Solids, Vector, View, cast

PAIRS = [(thing, side) for side in SIDES for thing in STANDS[side]]
SIZE = (64, 32)


def put(thing: Thing, side: Side, fraction: float, seed: int) -> tuple[View, Vector, list[Solid], list[Material]]:
    """A thing before somebody of 1.75 m, and the window around them."""
    camera = make_camera(seed, number=seed)
    rng = np.random.default_rng(seed)
    z = float(rng.uniform(camera.near, camera.far))
    spot = np.array([float(rng.uniform(-0.3, 0.3)) * z, 0, z])
    whole = camera.view((-1, -1, 1, 1), (2, 2))
    (x, top, _), (_, bottom, _) = whole.project(spot + np.array([[0, 1.8, 0], [0, -0.05, 0]])) - 1
    half = 0.25 * (bottom - top)
    view = camera.view((x - half, top, x + half, bottom), SIZE)
    materials = [Material((0, 0, 0))]
    return view, spot, place(thing, side, fraction, view, spot, rng, materials), materials


def hidden(thing: Thing, side: Side, fraction: float, seed: int) -> np.ndarray:
    view, _, solids, _ = put(thing, side, fraction, seed)
    return cast(view, view.rays(), Solids(solids)).row >= 0


@pytest.mark.parametrize(("thing", "side"), PAIRS)
def test_a_thing_hides_its_side_of_the_window_about_as_far_as_told(thing: Thing, side: Side) -> None:
    rows, columns = np.mgrid[:64, :32] + 0.5
    away = {"top": rows / 64, "bottom": 1 - rows / 64, "left": columns / 32, "right": 1 - columns / 32}
    reached = []
    for seed in range(12):
        covers = hidden(thing, side, 0.4, seed)
        assert covers.any()
        if side == "centre":
            middle = columns[covers].mean() / 32
            assert 0.25 < middle < 0.75
            reached.append(covers.any(0).mean())
            continue
        assert covers[away[side] < 0.3].mean() > 0.45
        assert covers[away[side] > 0.75].mean() < 0.15
        # Before the body, which is in the middle.
        middle = np.abs(columns - 16) < 6 if side in ("top", "bottom") else np.abs(rows - 36) < 12
        reached.append(away[side][covers & middle].max())
    assert 0.3 < np.median(reached) < 0.55


@pytest.mark.parametrize(("thing", "side"), PAIRS)
def test_a_larger_fraction_hides_more(thing: Thing, side: Side) -> None:
    for seed in range(8):
        less, more = (hidden(thing, side, fraction, seed).mean() for fraction in (0.25, 0.6))
        assert more > less + 0.05


@pytest.mark.parametrize(("thing", "side"), PAIRS)
def test_a_thing_stands_in_front_of_somebody_and_not_in_them(thing: Thing, side: Side) -> None:
    """The trunk of whom it hides is behind it, also where it is seen."""
    for seed in range(12):
        view, spot, solids, _ = put(thing, side, 0.4, seed)
        hits = cast(view, view.rays(), Solids(solids))
        points = view.eye + view.rays()[hits.row >= 0] * hits.distance[hits.row >= 0][:, None]
        beside = np.abs(points[:, 0] - spot[0]) < 0.25
        handle = thing == "umbrella"  # which they may hold
        assert (points[beside][:, 2] < spot[2] - (0.0 if handle else 0.2)).all()


@pytest.mark.parametrize("thing", THINGS)
def test_things_stand_on_the_ground_or_hang(thing: Thing) -> None:
    side = next(side for side in ("bottom", "left", "top") if thing in STANDS[side])
    for seed in range(6):
        _, _, solids, _ = put(thing, side, 0.4, seed)
        lowest = min(min(s.a[1] - max(s.ra, s.half[1]), s.b[1] - max(s.rb, s.half[1])) for s in solids)
        assert lowest > -0.4
        if thing != "umbrella":
            assert lowest < 0.15


def test_materials_are_added_and_named_by_their_row() -> None:
    for thing, side in PAIRS:
        _, _, solids, materials = put(thing, side, 0.4, 3)
        assert materials[0] == Material((0, 0, 0))
        assert {solid.material for solid in solids} <= set(range(1, len(materials)))
        assert {(solid.owner, solid.label) for solid in solids} == {(0, 0)}


def test_the_same_seed_is_the_same_thing() -> None:
    for thing, side in PAIRS:
        once, again = (put(thing, side, 0.4, 5) for _ in range(2))
        assert once[3] == again[3]
        assert [solid.a.tolist() for solid in once[2]] == [solid.a.tolist() for solid in again[2]]


def test_things_that_stand_about_are_far_away() -> None:
    materials: list[Material] = []
    solids = scatter(np.random.default_rng(0), 10.0, 14.0, materials)
    assert len({solid.material for solid in solids}) > 4
    assert all(7 < solid.a[2] < 17 for solid in solids)
    assert {solid.owner for solid in solids} == {0}


@pytest.mark.parametrize(
    ("thing", "side", "said"),
    [
        ("car", "top", "occluder: 'car' does not hide anybody from the top. Remedy: choose umbrella, wall."),
        ("umbrella", "left", "from the left. Remedy: choose wall, bush, pole, boxes."),
        (
            "tree",
            "bottom",
            "'tree' does not hide anybody from the bottom. Remedy: choose car, wall, boxes, bush, troll",
        ),
        ("car", "front", "from the front. Remedy: choose a side among top, bottom, left, right, centre."),
    ],
)
def test_what_does_not_go_together_is_refused(thing: Thing, side: Side, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        put(thing, side, 0.4, 0)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_fractions_are_shares(fraction: float) -> None:
    said = f"occluder.fraction: {fraction} is not between 0 and 1. Remedy: give a share of the window."
    with pytest.raises(ConfigError, match=re.escape(said)):
        put("car", "bottom", fraction, 0)
