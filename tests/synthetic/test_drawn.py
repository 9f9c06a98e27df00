import csv
import hashlib
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from glimpse.errors import ConfigError
from glimpse.synthetic import drawn
from glimpse.synthetic.drawn import (
    KEYPOINTS,
    OCCLUDERS,
    STRIPS,
    Drawing,
    draw_dataset,
    draw_look,
    draw_person,
)

NAME = re.compile(r"(\d{4})_c(\d)s1_(\d{6})_(\d{2})\.(png|jpg)")


def pixels(drawing: Drawing) -> np.ndarray:
    return np.asarray(drawing.image).astype(int)


def files(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_same_seeds_same_pixels_and_each_seed_matters():
    first = draw_person(1, 2, camera_seed=3, occluder="bush")
    second = draw_person(1, 2, camera_seed=3, occluder="bush")
    assert (pixels(first) == pixels(second)).all()
    assert (first.visible == second.visible).all()
    assert (first.keypoints == second.keypoints).all()
    for other in (draw_person(2, 2, camera_seed=3), draw_person(1, 3, camera_seed=3), draw_person(1, 2, camera_seed=4)):
        assert (pixels(draw_person(1, 2, camera_seed=3)) != pixels(other)).any()


@pytest.mark.parametrize("size", [(128, 64), (256, 128), (96, 48)])
def test_a_person_fills_the_crop_and_its_truth_has_the_size_of_the_crop(size):
    for seed in range(12):
        drawing = draw_person(seed, seed, camera_seed=seed, size=size)
        assert drawing.image.size == (size[1], size[0])
        assert drawing.image.mode == "RGB"
        assert drawing.person.shape == drawing.visible.shape == size
        rows = drawing.person.any(1).nonzero()[0]
        assert (rows[-1] - rows[0]) / size[0] > 0.7
        assert 0.08 < drawing.person.mean() < 0.6
        assert drawing.visible.all()


def test_key_points_lie_on_the_body_in_order():
    for seed in range(20):
        drawing = draw_person(seed, seed, camera_seed=seed % 4)
        assert drawing.keypoints.shape == (len(KEYPOINTS), 2)
        height, width = drawing.person.shape
        grown = np.zeros_like(drawing.person)
        for dy in range(-3, 4):
            for dx in range(-3, 4):
                grown |= np.roll(drawing.person, (dy, dx), (0, 1))
        for name, (x, y) in zip(KEYPOINTS, drawing.keypoints):
            if 0 <= x < width and 0 <= y < height:
                assert grown[int(y), int(x)], name
        y = dict(zip(KEYPOINTS, drawing.keypoints[:, 1]))
        for side in ("left", "right"):
            assert y["nose"] < y[f"{side}_shoulder"] < y[f"{side}_hip"] < y[f"{side}_knee"] < y[f"{side}_ankle"]


@pytest.mark.parametrize(("view", "sign"), [("front", 1), ("back", -1)])
def test_the_persons_left_is_right_in_a_front_view(view, sign):
    for seed in range(8):
        x = dict(zip(KEYPOINTS, draw_person(seed, seed, view=view).keypoints[:, 0]))
        assert sign * (x["left_shoulder"] - x["right_shoulder"]) > 8


def test_side_views_look_apart():
    for seed in range(8):
        left = dict(zip(KEYPOINTS, draw_person(seed, seed, view="left").keypoints[:, 0]))
        right = dict(zip(KEYPOINTS, draw_person(seed, seed, view="right").keypoints[:, 0]))
        assert left["nose"] < left["left_hip"]
        assert right["nose"] > right["left_hip"]


@pytest.mark.parametrize("occluder", OCCLUDERS)
def test_an_occluder_changes_what_is_hidden_and_nothing_else(occluder):
    hidden = []
    for seed in range(15):
        free = draw_person(seed, seed, camera_seed=seed)
        covered = draw_person(seed, seed, camera_seed=seed, occluder=occluder)
        # Noise and blur come after the occluder: compare away from its edge, up to both.
        away = covered.visible.copy()
        for dy in range(-4, 5):
            for dx in range(-4, 5):
                away &= np.roll(covered.visible, (dy, dx), (0, 1))
        difference = np.abs(pixels(free) - pixels(covered)).mean(2)
        assert difference[away].mean() < 12
        assert (covered.person == free.person).all()
        hidden.append((~covered.visible).mean())
        if (~covered.visible).any():
            assert difference[~covered.visible].mean() > 10
    assert 0.08 < np.mean(hidden) < 0.75


def test_visible_share_is_counted_strip_by_strip():
    drawing = draw_person(4, 5, occluder="person")
    shares = drawing.visible_share(4)
    for k in range(4):
        whole = seen = 0
        for y in range(32 * k, 32 * k + 32):
            for x in range(64):
                whole += drawing.person[y, x]
                seen += drawing.person[y, x] and drawing.visible[y, x]
        assert shares[k] == pytest.approx(seen / whole if whole else 0.0)


def test_a_strip_without_a_person_shows_nothing():
    empty = np.zeros((12, 4), dtype=bool)
    empty[:6] = True
    drawing = Drawing(PIL.Image.new("RGB", (4, 12)), empty, np.ones((12, 4), dtype=bool), np.zeros((17, 2)))
    assert drawing.visible_share(2).tolist() == [1.0, 0.0]


def test_people_are_told_apart_by_their_clothes():
    # Mean colours of chest and legs are closer within a person, across two cameras, than to most others.
    people = range(24)

    def clothes(person: int, shot: int, camera: int) -> np.ndarray:
        drawing = draw_person(person, shot, camera_seed=camera)
        image = pixels(drawing)
        chest = image[30:60][drawing.person[30:60]].mean(0)
        legs = image[72:100][drawing.person[72:100]].mean(0)
        return np.concatenate([chest, legs])

    one = np.array([clothes(p, 100 + p, 0) for p in people])
    other = np.array([clothes(p, 200 + p, 0) for p in people])
    distance = np.abs(one[:, None] - other[None]).sum(2)
    rank = (distance < np.diagonal(distance)[:, None]).sum(1)
    assert np.median(rank) <= 1
    assert len({draw_look(p) for p in people}) == len(people)


def test_data_set_has_markets_names_and_disjoint_people(tmp_path):
    out = tmp_path / "sets" / "drawn"
    summary = draw_dataset(out, identities=6, crops_per_camera=3, cameras=2, occluded_queries=1.0, seed=4)
    assert (summary.train, summary.query, summary.gallery) == (18, 6, 12)
    assert summary.occluded == 6
    assert set(summary.train_pids) & set(summary.test_pids) == set()
    seen = {}
    for part in ("bounding_box_train", "query", "bounding_box_test"):
        names = [p.name for p in (out / part).iterdir()]
        matches = [NAME.fullmatch(n) for n in names]
        assert all(matches)
        seen[part] = {int(m[1]) for m in matches}
        assert {int(m[2]) for m in matches} == {1, 2}
        with PIL.Image.open(out / part / names[0]) as image:
            assert image.size == (64, 128)
            assert image.format == "PNG"
    assert seen["bounding_box_train"] == set(summary.train_pids)
    assert seen["query"] == seen["bounding_box_test"] == set(summary.test_pids)
    assert [p.name for p in out.parent.iterdir()] == ["drawn"]


def test_truth_names_every_crop_and_hides_only_occluded_queries(tmp_path):
    summary = draw_dataset(tmp_path / "d", identities=8, crops_per_camera=2, cameras=3, occluded_queries=0.5)
    with summary.truth.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {r["file"] for r in rows} == set(files(tmp_path / "d")) - {"truth.csv"}
    occluded = [r for r in rows if r["occluder"] != "none"]
    assert len(occluded) == summary.occluded
    assert 0 < summary.occluded < summary.query
    assert all(r["file"].startswith("query/") for r in occluded)
    for row in rows:
        shares = [float(row[f"visible_{k}"]) for k in range(1, STRIPS + 1)]
        assert all(0 <= s <= 1 for s in shares)
        if row["occluder"] == "none":
            # The first and last strip may hold nobody.
            assert shares[1:-1] == [1.0] * (STRIPS - 2)


def test_same_seed_same_files_and_more_people_do_not_change_a_person(tmp_path):
    kwargs = {"crops_per_camera": 2, "cameras": 2, "occluded_queries": 0.5}
    draw_dataset(tmp_path / "a", identities=4, seed=1, **kwargs)
    draw_dataset(tmp_path / "b", identities=4, seed=1, **kwargs)
    draw_dataset(tmp_path / "c", identities=4, seed=2, **kwargs)
    draw_dataset(tmp_path / "d", identities=6, seed=1, **kwargs)
    a, b, c, d = (files(tmp_path / name) for name in "abcd")
    assert a == b
    assert a != c
    train = [name for name in a if name.startswith("bounding_box_train")]
    assert train
    assert all(a[name] == d[name] for name in train)


def test_jpg_on_request(tmp_path):
    draw_dataset(tmp_path / "j", identities=2, crops_per_camera=2, cameras=2, image_format="jpg", size=(64, 32))
    (first, *_) = (tmp_path / "j" / "query").iterdir()
    with PIL.Image.open(first) as image:
        assert (image.format, image.size) == ("JPEG", (32, 64))


def test_an_empty_folder_is_filled_and_a_full_one_is_left_alone(tmp_path):
    (tmp_path / "empty").mkdir()
    draw_dataset(tmp_path / "empty", identities=2, crops_per_camera=2, cameras=2)
    before = files(tmp_path / "empty")
    with pytest.raises(ConfigError, match="already holds something"):
        draw_dataset(tmp_path / "empty", identities=2, crops_per_camera=2, cameras=2)
    assert files(tmp_path / "empty") == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="already holds something"):
        draw_dataset(tmp_path / "file")


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    calls = []

    def full_disk(image, path):
        calls.append(path)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        image.save(path)

    monkeypatch.setattr(drawn, "_save", full_disk)
    with pytest.raises(ConfigError, match="No space left on device"):
        draw_dataset(tmp_path / "d", identities=4, crops_per_camera=2, cameras=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"identities": 1}, "identities: 1 is out of range"),
        ({"identities": 10_000}, "identities"),
        ({"crops_per_camera": 1}, "crops_per_camera"),
        ({"cameras": 1}, "from 2 to 9"),
        ({"occluded_queries": 1.1}, "occluded_queries"),
        ({"occluded_queries": float("nan")}, "occluded_queries"),
        ({"size": (8, 4)}, "too small"),
        ({"seed": -1}, "seed"),
        ({"image_format": "tif"}, "'tif' is not a format"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, wrong, message):
    with pytest.raises(ConfigError, match=message):
        draw_dataset(tmp_path / "d", **wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"identity_seed": -1}, "negative"),
        ({"view": "above"}, "'above' is not a view"),
        ({"occluder": "tree"}, "'tree' is not an occluder"),
        ({"size": (128, 4)}, "too small"),
    ],
)
def test_wrong_people_are_named(wrong, message):
    with pytest.raises(ConfigError, match=message):
        draw_person(**{"identity_seed": 0, "pose_seed": 0, **wrong})
