"""The truth about a rendered crop: what is hidden, what is seen, and how much of it there is."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from glimpse.cues.parts import LIP_20
from glimpse.cues.skeleton import COCO_17
from glimpse.errors import ConfigError
from glimpse.synthetic.obstacles import STANDS
from glimpse.synthetic.people import InFront, Population, render_person, scene_of
from glimpse.synthetic.render import BEHIND, HIDDEN, OUTSIDE, SEEN, Crop, Scene, render, shaped
from glimpse.synthetic.shapes import Frame, box, cone

SIZE = (64, 32)
CROWD = Population(people=60, train=30, cameras=6)
COVERED = [
    InFront(kind, side, 0.45) for side, kinds in STANDS.items() for kind in kinds if (kind, side) != ("wall", "top")
] + [InFront("person", side, 0.45) for side in ("left", "right", "centre")]


def scene(seed: int, in_front: InFront | None = None, heading: float | None = None) -> Scene:
    """Somebody before a camera, both by the seed."""
    return scene_of(CROWD, 1 + seed, 1 + seed % 6, np.random.default_rng(seed), SIZE, heading, in_front)


@cache
def rendered(seed: int, in_front: InFront | None = None, heading: float | None = None) -> Crop:
    return render(scene(seed, in_front, heading), SIZE, np.random.default_rng(seed))


def states(crop: Crop) -> dict[str, int]:
    return dict(zip(COCO_17.points, crop.states.tolist(), strict=True))


@pytest.mark.parametrize("in_front", [None, *COVERED], ids=lambda f: f"{f.kind}-{f.side}" if f else "none")
def test_what_can_be_seen_is_the_person_less_what_is_hidden(in_front: InFront | None) -> None:
    for seed in range(4):
        crop = rendered(seed, in_front)
        visible, amodal = crop.visible.labels, crop.amodal.labels
        assert crop.image.size == (SIZE[1], SIZE[0])
        assert crop.image.mode == "RGB"
        assert visible.shape == amodal.shape == crop.figure.shape == crop.shown.shape == SIZE
        for label in range(len(LIP_20.labels)):
            expected = (amodal == label) & crop.shown
            assert ((visible == label) == (expected if label else expected | ~crop.shown)).all()
        assert crop.figure[amodal > 0].all()
        assert crop.body.shape == (20,)
        assert (crop.body[1:] >= np.bincount(amodal.ravel(), minlength=20)[1:]).all()
        for part in ("body", *LIP_20.groups):
            share = crop.visible_share(part)
            assert 0 <= share <= 1
        if in_front is None:
            assert crop.shown.all()
            assert crop.in_front == 0


def test_shares_are_counted_by_label() -> None:
    crop = rendered(1, InFront("wall", "bottom", 0.45))
    for part in ("body", "head", "upper", "lower", "shoes", "face", "dress", "scarf"):
        rows = LIP_20.rows(part)
        seen = sum(int((crop.visible.labels == row).sum()) for row in rows)
        there = sum(int(crop.body[row]) for row in rows)
        share = crop.visible_share(part)
        assert share == pytest.approx(seen / there) if there else np.isnan(share)
    assert crop.visible_share("shoes") == 0
    assert crop.visible_share("head") == 1
    with pytest.raises(ConfigError, match="have no part 'tail'"):
        crop.visible_share("tail")


@pytest.mark.parametrize("strips", [1, 4, 6, 7, SIZE[0]])
def test_strips_are_counted_row_by_row(strips: int) -> None:
    for seed, in_front in ((0, None), (1, InFront("wall", "bottom", 0.45)), (2, InFront("border", "left", 0.4))):
        crop = rendered(seed, in_front)
        shares = crop.visible_strips(strips)
        assert shares.shape == (strips,)
        for strip in range(strips):
            seen = there = 0
            for y in range(round(strip * SIZE[0] / strips), round((strip + 1) * SIZE[0] / strips)):
                for x in range(SIZE[1]):
                    seen += crop.visible.labels[y, x] > 0
                    there += crop.amodal.labels[y, x] > 0
            assert shares[strip] == pytest.approx(seen / there) if there else np.isnan(shares[strip])


@pytest.mark.parametrize("strips", [0, -1, SIZE[0] + 1])
def test_strips_have_rows(strips: int) -> None:
    with pytest.raises(ConfigError, match=rf"strips: {strips} is not between 1 and {SIZE[0]}\. Remedy: give fewer"):
        rendered(0).visible_strips(strips)


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
def test_what_lies_beyond_the_border_counts(side: str) -> None:
    """The same pixels, and more around them: a larger window shows all that there is."""
    for seed in range(3):
        cut = scene(seed, InFront("border", side, 0.5))
        crop = render(cut, SIZE, np.random.default_rng(0))
        left, top, right, bottom = cut.window
        wide, tall = (right - left) / SIZE[1], (bottom - top) / SIZE[0]
        more = 80
        larger = (left - more * wide, top - more * tall, right + more * wide, bottom + more * tall)
        grown = (SIZE[0] + 2 * more, SIZE[1] + 2 * more)
        whole = render(replace(cut, window=larger), grown, np.random.default_rng(0))
        assert whole.visible_share() == 1
        inner = whole.amodal.labels[more:-more, more:-more]
        assert (inner != crop.amodal.labels).mean() < 0.01
        counts = np.bincount(whole.amodal.labels.ravel(), minlength=20)[1:]
        np.testing.assert_allclose(crop.body[1:], counts, rtol=0.05, atol=0.02 * counts.sum())
        assert crop.body[1:].sum() == pytest.approx(counts.sum(), rel=0.02)
        assert crop.visible_share() == pytest.approx((inner > 0).sum() / counts.sum(), rel=0.03)
        assert crop.visible_share() < 0.9


def test_a_border_beside_the_person_leaves_nothing_of_them() -> None:
    whole = scene(0)
    left, top, right, bottom = whole.window
    wide = right - left
    beside = render(
        replace(whole, window=(right + wide, top, right + 2 * wide, bottom)), SIZE, np.random.default_rng(0)
    )
    assert not beside.figure.any()
    assert beside.visible_share() == 0
    assert beside.body.sum() > 200
    assert (beside.states == OUTSIDE).all()
    assert np.isnan(beside.visible_strips(3)).all()
    # And hardly anything is left to be scaled up to the size of a crop.
    sliver = render(replace(whole, window=(left, top, left + 1e-4 * wide, bottom)), SIZE, np.random.default_rng(0))
    assert sliver.visible_share() < 1e-3
    assert sliver.body[1:].sum() == pytest.approx(1e4 * rendered(0).body[1:].sum(), rel=0.1)


def test_labels_of_one_person_do_not_depend_on_what_is_in_front() -> None:
    for seed in range(3):
        plain = scene(seed)
        thing = box(Frame(np.array([0.0, 0.4, 1.5]), np.eye(3)), (0.3, 0.3, 0.3), 0)
        hidden = replace(plain, things=(thing,), materials=(scene(seed, InFront("car", "bottom", 0.4)).materials[0],))
        a, b = (render(each, SIZE, np.random.default_rng(0)) for each in (plain, hidden))
        assert (a.amodal.labels == b.amodal.labels).all()
        assert (a.keypoints == b.keypoints).all()
        assert (a.body == b.body).all()


@pytest.mark.parametrize("seed", range(3))
def test_key_points_are_drawn_where_joints_are(seed: int) -> None:
    """A small ball half-way between the camera and a joint hides the place where the joint is drawn."""
    plain = scene(seed)
    joints = plain.target.body.keypoints()
    eye = np.array([0.0, plain.camera.height, 0.0])
    points = render(plain, SIZE, np.random.default_rng(0)).keypoints
    per_pixel = (plain.window[3] - plain.window[1]) / SIZE[0]
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    for number in range(0, 17, 2):
        at = eye + 0.5 * (joints[number] - eye)
        ball = cone(at, at, *[3 * per_pixel * np.linalg.norm(at - eye)] * 2, frame=Frame(at, np.eye(3)), material=0)
        materials = scene(seed, InFront("car", "bottom", 0.4)).materials
        crop = render(replace(plain, things=(ball,), materials=materials), SIZE, np.random.default_rng(0))
        found = columns[~crop.shown].mean(), rows[~crop.shown].mean()
        assert found == pytest.approx(points[number].tolist(), abs=0.4)


def test_a_point_that_is_seen_is_on_the_person() -> None:
    seen = on = 0
    for seed in range(25):
        crop = rendered(seed, None if seed % 2 else InFront("person", "left", 0.6))
        for (x, y), state in zip(crop.keypoints, crop.states, strict=True):
            inside = 0 <= x < SIZE[1] and 0 <= y < SIZE[0]
            assert (state == OUTSIDE) == (not inside)
            if state in (SEEN, BEHIND):
                assert crop.shown[max(0, int(y) - 1) : int(y) + 2, max(0, int(x) - 1) : int(x) + 2].any()
                on += bool(crop.figure[int(y), int(x)])
                seen += 1
            if state == HIDDEN:
                assert not crop.shown[max(0, int(y) - 1) : int(y) + 2, max(0, int(x) - 1) : int(x) + 2].all()
    assert on / seen > 0.97  # noses and elbows are at the edge


def test_points_behind_a_wall_are_hidden() -> None:
    crop = rendered(3, InFront("wall", "bottom", 0.45), heading=0.0)
    edge = np.flatnonzero((~crop.shown).all(1)).min()
    for name, state, (_, y) in zip(COCO_17.points, crop.states, crop.keypoints, strict=True):
        if y > edge + 1:
            assert state == HIDDEN, name
        if y < edge - 3:
            assert state in (SEEN, BEHIND), name
    assert states(crop)["left_ankle"] == HIDDEN
    assert states(crop)["nose"] == SEEN


def test_points_behind_the_own_body() -> None:
    seen = []
    for seed in range(8):
        front, back, side = (states(rendered(seed, heading=heading)) for heading in (0.0, np.pi, np.pi / 2))
        seen += [front[name] for name in ("nose", "left_shoulder", "right_shoulder", "left_hip", "right_hip")]
        assert (back["nose"], back["left_eye"], back["right_eye"]) == (BEHIND, BEHIND, BEHIND)
        # To the right of the camera: the person's left is away from it.
        assert side["right_shoulder"] == SEEN
        assert [side[f"left_{name}"] for name in ("shoulder", "hip", "ear")] == [BEHIND] * 3
    assert np.mean(np.array(seen) == SEEN) > 0.9  # a hand may be before one


def test_points_beyond_the_border_are_outside_and_still_have_a_place() -> None:
    crop = rendered(2, InFront("border", "bottom", 0.5), heading=0.0)
    for name in ("left_knee", "right_knee", "left_ankle", "right_ankle"):
        assert states(crop)[name] == OUTSIDE
        assert crop.keypoints[COCO_17.row(name), 1] > SIZE[0]
    assert states(crop)["nose"] == SEEN


def test_who_covers_somebody_is_named() -> None:
    for seed in range(6):
        covered = scene(seed, InFront("person", "centre", 0.5))
        (other,) = covered.others
        crop = render(covered, SIZE, np.random.default_rng(0))
        assert crop.in_front == other.pid != covered.target.pid
        assert not crop.shown.all()
    assert rendered(0, InFront("wall", "bottom", 0.5)).in_front == 0


def test_who_stands_beside_somebody_covers_nobody() -> None:
    beside = 0
    for seed in range(20):
        crop = rendered(seed, InFront("person", "right", 0.01))
        if not (crop.figure & ~crop.shown).any():
            beside += not crop.shown.all()
            assert crop.in_front == 0
    assert beside
    # Of two it is the one who hides more.
    first, aside = (scene(0, InFront("person", side, 0.5)) for side in ("centre", "right"))
    other = replace(aside.others[0], pid=77)
    both = render(replace(first, others=(other, *first.others)), SIZE, np.random.default_rng(0))
    assert both.in_front == first.others[0].pid


def test_the_same_seeds_are_the_same_bytes() -> None:
    for in_front in (None, InFront("person", "left", 0.5), InFront("bush", "bottom", 0.4)):
        one, same, other = (render_person(5, shot, camera=2, size=SIZE, in_front=in_front) for shot in (1, 1, 2))
        assert one.image.tobytes() == same.image.tobytes()
        assert (one.visible.labels == same.visible.labels).all()
        assert (one.keypoints == same.keypoints).all()
        assert one.image.tobytes() != other.image.tobytes()


def test_a_larger_crop_shows_the_same() -> None:
    for seed in range(3):
        where = scene(seed)
        small, large = (render(where, size, np.random.default_rng(0)) for size in (SIZE, (2 * SIZE[0], 2 * SIZE[1])))
        np.testing.assert_allclose(large.keypoints, 2 * small.keypoints, atol=1e-3)
        assert ((large.amodal.labels[::2, ::2] > 0) != (small.amodal.labels > 0)).mean() < 0.04
        blurred = np.asarray(large.image.reduce(2), np.float32)
        assert np.abs(blurred - np.asarray(small.image, np.float32)).mean() < 12


def exposed(plain: Scene, **changes: object) -> np.ndarray:
    camera = replace(plain.camera, **changes)
    return np.asarray(render(replace(plain, camera=camera), SIZE, np.random.default_rng(0)).image, np.float32)


def test_what_the_sensor_does() -> None:
    plain = scene(1)
    sharp = {"noise": 0.0, "blur": 0.3, "pixels": 80.0}
    usual = exposed(plain, **sharp)
    assert exposed(plain, **{**sharp, "exposure": 2.0}).mean() > usual.mean() + 20

    def detail(picture: np.ndarray) -> float:
        return float(np.abs(np.diff(picture, axis=1)).mean())

    assert detail(exposed(plain, **{**sharp, "blur": 3.0})) < 0.7 * detail(usual)
    assert detail(exposed(plain, **{**sharp, "pixels": 20.0})) < 0.7 * detail(usual)
    assert detail(exposed(plain, **{**sharp, "noise": 0.05})) > 1.1 * detail(usual)
    red, green, blue = (exposed(plain, **{**sharp, "balance": (1.3, 1.0, 0.7)}) - usual).mean((0, 1))
    assert red > 5 > green > -5 > blue


def test_people_throw_shadows_away_from_the_light() -> None:
    plain = scene(1)
    x, high, z = plain.target.body.joints["pelvis"]
    wide = plain.window[2] - plain.window[0]
    window = (plain.window[0] - wide, plain.window[1], plain.window[2] + wide, plain.window[3])
    shadows = plain.camera.view(window, (64, 96)).project(np.array([[x - high, 0, z], [x + high, 0, z]]))
    seen = []
    for side in (1.0, -1.0):
        sun = replace(plain.camera.light, direction=(side, 1.0, 0.0), softness=0.0, colour=(1.0, 1.0, 1.0))
        lit = replace(plain, camera=replace(plain.camera, light=sun, noise=0.0), window=window)
        picture = np.asarray(render(lit, (64, 96), np.random.default_rng(0)).image, np.float32).mean(2)
        seen.append([picture[int(row), int(column)] for column, row, _ in shadows])
    (left, right), (other_left, other_right) = seen  # light from the right, and from the left
    assert left < other_left - 15
    assert other_right < right - 15


def test_a_box_gets_the_shape_of_the_crop_around_its_middle() -> None:
    assert shaped((0, 0, 1, 4), (128, 64)) == (-0.5, 0, 1.5, 4)
    assert shaped((0, 0, 4, 4), (128, 64)) == (0, -2, 4, 6)
    assert shaped((0, 0, 1, 2), (128, 64)) == (0, 0, 1, 2)


def test_a_window_holds_head_and_feet() -> None:
    for pid in range(1, 30):
        crop = render_person(pid, 0, size=SIZE, population=Population(people=30, train=0))
        assert crop.visible_share() > 0.93
        assert 0.08 < (crop.amodal.labels > 0).mean() < 0.6
        rows = np.flatnonzero(crop.figure.any(1))
        assert (rows[-1] - rows[0]) / SIZE[0] > 0.6


@pytest.mark.parametrize("size", [(7, 32), (64, 3), (0, 0), (-1, 32)])
def test_crops_have_a_size(size: tuple[int, int]) -> None:
    said = f"size: {size[0]} x {size[1]} is too small. Remedy: give at least 8 x 4."
    with pytest.raises(ConfigError, match=re.escape(said)):
        render(scene(0), size, np.random.default_rng(0))
