"""Cameras hang where they say, and their rays meet the ground where the ground is."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from glimpse.errors import ConfigError
from glimpse.synthetic.places import KINDS, Camera, Light, backdrop, make_camera
from glimpse.synthetic.shapes import View

WINDOW = (-0.4, -0.6, 0.4, 0.6)


def through(camera: Camera, size: tuple[int, int] = (40, 30)) -> View:
    return camera.view(WINDOW, size)


def test_the_same_seeds_are_the_same_camera_and_kinds_take_turns() -> None:
    assert make_camera(1, 2, number=1) == make_camera(1, 2, number=1)
    assert make_camera(1, 2) != make_camera(1, 3)
    assert [make_camera(0, number=number).kind for number in range(4)] == [*KINDS, KINDS[0]]
    for seed in range(50):
        camera = make_camera(seed)
        assert camera.wall >= camera.far + 1
        assert 1.8 <= camera.height <= 4.5


@pytest.mark.parametrize("seed", range(6))
def test_a_camera_looks_at_the_middle_of_where_people_walk(seed: int) -> None:
    camera = make_camera(seed, number=seed)
    view = through(camera)
    assert view.eye.tolist() == [0, camera.height, 0]
    np.testing.assert_allclose(view.axes @ view.axes.T, np.eye(3), atol=1e-12)
    waist = np.array([[0, 0.9, 0.5 * (camera.near + camera.far)]])
    x, y, ahead = view.project(waist)[0]
    assert (x, y) == pytest.approx((15, 20))
    assert ahead == pytest.approx(np.linalg.norm(waist - view.eye))
    # Upright things stand upright, and the right of the world is on the right.
    above, right = waist + np.array([0, 0.5, 0]), waist + np.array([0.5, 0, 0])
    assert view.project(above)[0][1] < 20
    assert view.project(above)[0][0] == pytest.approx(15)
    assert view.project(right)[0][0] > 15


@pytest.mark.parametrize("kind", KINDS)
def test_rays_meet_the_ground_at_height_0_and_the_wall_where_it_stands(kind: str) -> None:
    camera = make_camera(5, number=KINDS.index(kind))
    view = through(camera)
    rays = view.rays()
    colour, ground = backdrop(camera, view.eye, rays)
    assert colour.shape == (40, 30, 3)
    assert np.isfinite(colour).all()
    assert (colour >= 0).all()
    met = np.isfinite(ground)
    assert met.any()
    assert not met.all()
    points = view.eye + rays[met] * ground[met][:, None]
    np.testing.assert_allclose(points[:, 1], 0, atol=1e-4)
    assert (points[:, 2] <= camera.wall + 1e-3).all()
    # All other rays would meet the wall first, or never come down.
    down = rays[~met][:, 1] < 0
    z = -view.eye[1] / rays[~met][down][:, 1] * rays[~met][down][:, 2]
    assert (z > camera.wall - 1e-3).all()
    again, _ = backdrop(camera, view.eye, rays)
    assert (again == colour).all()


def test_places_differ_and_have_more_than_one_colour() -> None:
    pictures = []
    for seed in range(6):
        camera = make_camera(seed, number=seed)
        view = through(camera)
        colour, ground = backdrop(camera, view.eye, view.rays())
        for part in (np.isfinite(ground), ~np.isfinite(ground)):
            assert len(np.unique(colour[part].round(3), axis=0)) > 5
        pictures.append(colour)
    apart = [np.abs(a - b).mean() for n, a in enumerate(pictures) for b in pictures[:n]]
    assert min(apart) > 0.01


def test_less_light_is_darker() -> None:
    camera = make_camera(0, number=1)
    dim = replace(camera, light=replace(camera.light, colour=(0, 0, 0), sky=(0.1, 0.1, 0.1)))
    view = through(camera)
    bright, dark = (backdrop(each, view.eye, view.rays())[0] for each in (camera, dim))
    assert dark.mean() < 0.5 * bright.mean()


def test_light_has_a_direction_of_length_1() -> None:
    light = Light((3, 4, 0), (1, 1, 1), (1, 1, 1), 0.5)
    np.testing.assert_allclose(light.unit, [0.6, 0.8, 0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "beach"}, "camera.kind: 'beach' is no place. Remedy: choose one of street, lobby, shop."),
        ({"near": 9.0, "far": 8.0, "wall": 12.0}, "camera: near 9.0, far 8.0 and wall 12.0 are not in that order."),
        ({"near": 0.0}, "are not in that order. Remedy: give distances in metres, nearest first."),
        ({"height": 0.0}, "camera.height: 0.0 is not above the ground. Remedy: give metres."),
    ],
)
def test_cameras_that_cannot_be_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        replace(make_camera(0), **changes)
