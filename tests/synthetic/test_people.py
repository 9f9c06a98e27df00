"""Who walks past, and what stands in front of them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from glimpse.errors import ConfigError
from glimpse.synthetic.body import Pose, pose_body
from glimpse.synthetic.looks import TWIN_ITEMS, near_twin
from glimpse.synthetic.obstacles import STANDS
from glimpse.synthetic.people import KINDS, InFront, Kind, Population, render_person, scene_of, sides_of
from glimpse.synthetic.render import Crop, Figure, Scene, render, window_of

SIZE = (48, 24)
EVERYWHERE = [(kind, side) for kind in KINDS for side in sides_of(kind)]


def crop(seed: int, in_front: InFront | None = None) -> Crop:
    return render_person(1 + seed, seed, camera=1 + seed % 6, size=SIZE, in_front=in_front)


@pytest.mark.parametrize(("kind", "side"), EVERYWHERE)
def test_what_is_in_front_hides_its_side_and_more_if_it_is_larger(kind: Kind, side: str) -> None:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    away = {"top": rows, "bottom": SIZE[0] - rows, "left": columns, "right": SIZE[1] - columns}
    shares: list[list[float]] = []
    for seed in range(8):
        less, more = (crop(seed, InFront(kind, side, fraction)) for fraction in (0.3, 0.6))
        shares.append([less.visible_share(), more.visible_share()])
        if kind == "border":
            assert more.shown.all()
            continue
        hidden = ~more.shown
        assert hidden.any()
        if side == "centre":
            assert abs(columns[hidden].mean() - SIZE[1] / 2) < 0.3 * SIZE[1]
        else:
            opposite = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}[side]
            near, far = away[side] < 0.3 * away[side].max(), away[opposite] < 0.3 * away[opposite].max()
            assert hidden[near].mean() > hidden[far].mean()
    less_visible, more_visible = np.mean(shares, 0)
    assert more_visible < less_visible - 0.04
    assert all(more <= less + 0.05 for less, more in shares)


def test_sides_of_each_kind() -> None:
    assert sides_of("border") == ("top", "bottom", "left", "right")
    assert sides_of("person") == ("left", "right", "centre")
    for kind in KINDS:
        if kind not in ("border", "person"):
            assert set(sides_of(kind)) == {side for side, things in STANDS.items() if kind in things}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("tree", "left", 0.4),
            "occluder: 'tree' is not known. Remedy: choose one of car, pole, wall, boxes, bush, umb",
        ),
        (("car", "top", 0.4), "occluder: 'car' does not hide anybody from the 'top'. Remedy: choose bottom."),
        (("border", "centre", 0.4), "'border' does not hide anybody from the 'centre'. Remedy: choose top, bottom, le"),
        (("person", "front", 0.4), "'person' does not hide anybody from the 'front'. Remedy: choose left, right, cent"),
        (("car", "bottom", 0), "occluder.fraction: 0 is not between 0 and 1. Remedy: give a share of the crop."),
        (("car", "bottom", 1.0), "occluder.fraction: 1.0 is not between 0 and 1"),
        (("car", "bottom", float("nan")), "occluder.fraction: nan is not between 0 and 1"),
    ],
)
def test_what_cannot_be_in_front_is_refused(arguments: tuple[str, str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        InFront(*arguments)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"people": 1, "train": 0}, "people: 1 is out of range. Remedy: give 2 to 9998."),
        ({"people": 9999}, "people: 9999 is out of range. Remedy: give 2 to 9998."),
        ({"cameras": 0}, "cameras: 0 is out of range. Remedy: give 1 to 99."),
        ({"twins": 1.5}, "twins: 1.5 is out of range. Remedy: give 0 to 1."),
        ({"twins": float("nan")}, "twins: nan is out of range. Remedy: give 0 to 1."),
        ({"seed": -1}, "seed: -1 is out of range. Remedy: give 0 to"),
        ({"people": 10, "train": 11}, "train: 11 is out of range. Remedy: give 0 to 10."),
    ],
)
def test_populations_out_of_range_are_refused(changes: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        Population(**changes)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"pid": 0}, "pid: 0 is out of range. Remedy: give 1 to 9998."),
        ({"pid": 5, "population": Population(people=4, train=2)}, "pid: 5 is out of range. Remedy: give 1 to 4."),
        ({"camera": 100}, "camera: 100 is out of range. Remedy: give 1 to 99."),
        ({"shot": -1}, "shot: -1 is negative. Remedy: give 0 or more."),
        ({"size": (4, 4)}, "size: 4 x 4 is too small. Remedy: give at least 8 x 4."),
    ],
)
def test_people_out_of_range_are_refused(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        render_person(**arguments)


def test_everybody_is_the_same_from_every_camera_and_nobody_depends_on_how_many_there_are() -> None:
    crowd = Population(people=40, train=20, seed=3)
    assert [crowd.look(pid) for pid in range(1, 41)] == [crowd.look(pid) for pid in range(1, 41)]
    more = replace(crowd, people=60)
    assert [crowd.look(pid) for pid in range(1, 41)] == [more.look(pid) for pid in range(1, 41)]
    assert crowd.look(7) != replace(crowd, seed=4).look(7)
    assert crowd.camera(1) != crowd.camera(2)
    assert [crowd.camera(number).kind for number in (1, 2, 3, 4)] == ["street", "lobby", "shop", "street"]


def test_twins_are_of_the_same_part_and_of_somebody_who_is_no_twin() -> None:
    crowd = Population(people=300, train=150, twins=0.3)
    twins = [pid for pid in range(1, 301) if crowd.twin(pid)[1]]
    assert 0.2 < len(twins) / 300 < 0.4
    for pid in twins:
        look, other, item = crowd.twin(pid)
        assert crowd.twin(other)[1] == 0
        assert (pid <= 150) == (other <= 150)
        assert other < pid
        assert (look, item) == near_twin(crowd.look(other), crowd.seed, 5, pid)
    assert len({crowd.look(pid) for pid in range(1, 301)}) == 300
    alone = Population(people=50, train=25, twins=0)
    assert {alone.twin(pid)[1:] for pid in range(1, 51)} == {(0, "")}
    all_but_two = Population(people=50, train=25, twins=1)
    assert [pid for pid in range(1, 51) if not all_but_two.twin(pid)[1]] == [1, 26]


@pytest.mark.parametrize("item", TWIN_ITEMS)
def test_a_twin_can_be_told_by_the_item_in_a_picture(item: str) -> None:
    crowd, found = Population(people=9998, train=0), 0
    camera = replace(crowd.camera(1), noise=0.0, blur=0.3)
    for seed in range(200):
        look = crowd.look(1 + seed)
        twin, differs = near_twin(look, seed)
        if differs != item:
            continue
        found += 1
        changed = []
        for heading in (0.0, np.pi / 2, np.pi):
            pictures = []
            for each in (look, twin):
                body = pose_body(look.build, Pose(), (0, 6.0), heading)
                figure = Figure(each, body, 1)
                # Of the same size, whatever is carried.
                scene = Scene(camera, figure, window_of(figure, camera, (64, 32)))
                pictures.append(np.asarray(render(scene, (64, 32), np.random.default_rng(0)).image, np.float32))
            changed.append((np.abs(pictures[0] - pictures[1]).max(2) > 8).sum())
        assert max(changed) > 12
        if found == 4:
            break
    assert found == 4


def test_who_stands_in_front_is_of_the_same_part() -> None:
    crowd = Population(people=12, train=6, cameras=3)
    for pid in range(1, 13):
        for seed in range(6):
            found = scene_of(crowd, pid, 1, np.random.default_rng(seed), SIZE, None, InFront("person", "left", 0.5))
            (other,) = found.others
            assert other.pid != pid
            assert (other.pid <= 6) == (pid <= 6)
            assert other.look == crowd.look(other.pid)
            # Nearer to the camera, and not inside the other.
            assert found.target.body.joints["pelvis"][2] - other.body.joints["pelvis"][2] > 0.5


def test_a_stranger_stands_in_front_of_who_is_alone_in_a_part() -> None:
    crowd = Population(people=2, train=1, twins=1)
    for pid in (1, 2):
        found = scene_of(crowd, pid, 1, np.random.default_rng(0), SIZE, None, InFront("person", "left", 0.5))
        assert found.others[0].pid == 3
        assert crowd.twin(3)[1] == 0


def test_headings() -> None:
    for pid in range(1, 6):
        front, back = (render_person(pid, size=SIZE, heading=heading) for heading in (0.0, np.pi))
        assert front.keypoints[5, 0] > front.keypoints[6, 0] + 2  # left shoulder on the right
        assert back.keypoints[5, 0] < back.keypoints[6, 0] - 2
    nose, ears = 0, (3, 4)
    right = render_person(2, size=SIZE, heading=np.pi / 2).keypoints
    assert right[nose, 0] > right[list(ears), 0].mean() + 1


def test_a_border_cuts_the_window_that_there_would_be() -> None:
    whole = scene_of(Population(), 3, 2, np.random.default_rng(1), SIZE)
    left, top, right, bottom = whole.window
    cut = {
        side: scene_of(Population(), 3, 2, np.random.default_rng(1), SIZE, None, InFront("border", side, 0.25)).window
        for side in sides_of("border")
    }
    assert cut["top"] == pytest.approx((left, top + 0.25 * (bottom - top), right, bottom))
    assert cut["bottom"] == pytest.approx((left, top, right, bottom - 0.25 * (bottom - top)))
    assert cut["left"] == pytest.approx((left + 0.25 * (right - left), top, right, bottom))
    assert cut["right"] == pytest.approx((left, top, right - 0.25 * (right - left), bottom))
