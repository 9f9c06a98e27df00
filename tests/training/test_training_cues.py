"""Cues go where the crops go, reach the heads, and are asked for before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from torch import Tensor
from torch.nn import functional as F

from glimpse.backbones import build_backbone
from glimpse.cues.cache import CueCache, Row, digest_of
from glimpse.cues.needs import Cues, Needs
from glimpse.cues.parts import LIP_20, PERSON, PartMap
from glimpse.cues.points import KeyPoints
from glimpse.cues.skeleton import COCO_17, OPENPOSE_18
from glimpse.data import Dataset, read_image
from glimpse.data.transforms import Occlusion, TrainTransform, TransformSettings, Zoom
from glimpse.errors import ConfigError, DataError
from glimpse.methods import METHODS, Baseline, Outputs
from glimpse.model import load, read_card
from glimpse.training import train
from glimpse.training.crops import UNKNOWN, CropCues, CropDataset, read_crops
from glimpse.training.cues import CueSource, HeldOutPoints, open_cues, read_cues, swaps
from glimpse.training.maps import MapDataset, MapPass

NEEDS = Needs(points=COCO_17, parts=("body", "left_leg", "right_leg"))
LEFT, RIGHT = COCO_17.row("left_ankle"), COCO_17.row("right_ankle")
given: list[Cues | None] = []


class Guided(Baseline):
    """A baseline that notes the cues it is given."""

    name = "guided"

    @classmethod
    def needs(cls, options: BaseModel, when: str) -> Needs:
        return NEEDS if when == "train" else Needs()

    def heads(self, features: Tensor, visible: Tensor | None = None, cues: Cues | None = None) -> Outputs:
        given.append(cues)
        return super().heads(features, visible)


@pytest.fixture(autouse=True)
def _guided(monkeypatch: pytest.MonkeyPatch) -> None:
    given.clear()
    monkeypatch.setitem(METHODS, "guided", Guided)  # type: ignore[arg-type]


def walker(x: int, y: int) -> tuple[Tensor, CropCues]:
    """A crop with a red left ankle at `(x, y)` and a blue right one 20 pixels to the right, and its cues."""
    crop = torch.zeros(3, 128, 64, dtype=torch.uint8)
    crop[0, y - 1 : y + 1, x - 1 : x + 1] = 255
    crop[2, y - 1 : y + 1, x + 19 : x + 21] = 255
    points = torch.zeros(17, 3)
    points[LEFT] = torch.tensor([x, y, 0.9])
    points[RIGHT] = torch.tensor([x + 20, y, 0.8])
    red, blue = (crop[channel] > 0 for channel in (0, 2))
    return crop, CropCues(points, torch.stack([red | blue, red, blue]).byte())


def dataset(settings: TransformSettings, crop: Tensor, cues: CropCues) -> CropDataset:
    settings = settings.model_copy(update={"swap": swaps(NEEDS), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
    return CropDataset([crop], [0], TrainTransform(settings, [crop]), [cues])


def middle(picture: Tensor) -> Tensor:
    """x, y of the centre of what is bright."""
    return (picture * (picture > 0.3)).nonzero().float().mean(0).flip(0) + 0.5


@pytest.mark.parametrize("seed", range(30))
def test_points_and_parts_go_where_the_crop_goes(seed: int) -> None:
    data = dataset(
        TransformSettings(size=(256, 128), zoom=Zoom(p=0.5), erasing=None), *walker(12 + seed, 30 + 2 * seed)
    )
    item = data[(0, seed)]
    mirrored = bool(item.corners[0, 0] > item.corners[1, 0])
    # A mirrored crop shows the red ankle on the right of a body: what is called left is blue.
    for row, part, channel in ((LEFT, 1, 2 if mirrored else 0), (RIGHT, 2, 0 if mirrored else 2)):
        x, y, score = item.points[row].tolist()
        picture = item.pixels[channel]
        assert score == pytest.approx(0.9 if channel == 0 else 0.8) or score == 0
        if score and 3 < x < 125 and 3 < y < 253:
            assert (middle(picture) - item.points[row, :2]).abs().max() < 1.0
            assert (middle(item.parts[part]) - item.points[row, :2]).abs().max() < 1.3
        assert bool((item.parts[0] >= item.parts[part]).all())
    assert item.scale.tolist() == pytest.approx(
        ((item.corners[1] - item.corners[0]).abs() / torch.tensor([64, 128])).tolist()
    )


def test_what_is_covered_is_found_by_nobody() -> None:
    half = Occlusion(p=1.0, fraction=(0.5, 0.5), kinds={"grey": 1.0}, sides={"bottom": 1.0})
    data = dataset(TransformSettings(size=(128, 64), flip=0, pad=0, occlusion=half, erasing=None), *walker(20, 100))
    item = data[(0, 0)]
    assert item.points[LEFT].tolist() == [20.0, 100.0, 0.0]
    assert not item.parts.any()


def spot(points: Tensor) -> Tensor:
    """Heat maps of a crop of 128 x 64 in cells of 4 pixels: 255 in that of each point that was found."""
    heat = torch.zeros(17, 32, 16, dtype=torch.uint8)
    for row in (points[:, 2] > 0).nonzero()[:, 0]:
        x, y = (points[row, :2] / 4).long()
        heat[row, y, x] = 255
    return heat


@pytest.mark.parametrize("seed", range(20))
def test_heat_maps_go_where_the_points_go(seed: int) -> None:
    crop, cues = walker(13 + 2 * (seed % 8), 30 + 4 * seed)
    cues = cues._replace(heat=spot(cues.points))
    half = Occlusion(p=0.5, fraction=(0.3, 0.6), kinds={"grey": 1.0})
    data = dataset(TransformSettings(size=(256, 128), zoom=Zoom(p=0.5), occlusion=half, erasing=None), crop, cues)
    item = data[(0, seed)]
    assert item.heat.shape == (17, 64, 32)
    for row in (LEFT, RIGHT):
        x, y, score = item.points[row].tolist()
        if score and 8 < x < 120 and 8 < y < 248:
            rows, columns = (item.heat[row] > 0.99).nonzero().unbind(1)
            away = torch.stack([columns, rows], 1).float().mean(0) * 4 + 2 - item.points[row, :2]
            assert away.abs().max() < 8  # a cell of the map is 8 pixels of the input
        assert not (item.heat[row] > 0).any() or score or cues.points[row, 2]
    hidden = F.adaptive_max_pool2d(item.visible[None], (64, 32))[0] == 0
    assert not item.heat[:, hidden].any()
    assert not item.heat[[k for k in range(17) if k not in (LEFT, RIGHT)]].any()


def test_cached_passes_keep_the_heat_maps(tmp_path: Path) -> None:
    crop, cues = walker(20, 60)
    data = dataset(TransformSettings(size=(128, 64)), crop, cues._replace(heat=spot(cues.points)))
    cached = MapPass(tmp_path, {}, 1, {"cues": "a"})
    cached.make(build_backbone("osnet_x0_25").eval(), data, seed=3, prompt=0.0)
    found, item = MapDataset([cached.open()], [0])[(0, 0)], data[(0, 3)]
    torch.testing.assert_close(found.heat, F.adaptive_max_pool2d(item.heat, (8, 4)), atol=1e-3, rtol=0)
    assert found.heat.any()


def test_a_crop_without_a_part_map_says_so_wherever_it_goes() -> None:
    crop, cues = walker(20, 100)
    unknown = CropCues(cues.points, torch.full_like(cues.parts, UNKNOWN))
    data = dataset(TransformSettings(size=(128, 64), pad=10), crop, unknown)
    assert {float(value) for seed in range(5) for value in data[(0, seed)].parts.unique()} == {-1.0}


@pytest.mark.parametrize("needs", [NEEDS, Needs(parts=("body",)), Needs(points=OPENPOSE_18)])
def test_cached_passes_keep_the_cues(needs: Needs, tmp_path: Path) -> None:
    crop, cues = walker(20, 60)
    cues = CropCues(cues.points if needs.points else torch.zeros(0, 3), cues.parts[: len(needs.parts)])
    data = dataset(TransformSettings(size=(128, 64)), crop, cues)
    data.transform.settings = data.transform.settings.model_copy(update={"swap": {}})
    cached = MapPass(tmp_path, {}, 1, {"cues": "a"})
    assert not cached.ready
    cached.make(build_backbone("osnet_x0_25").eval(), data, seed=3, prompt=0.0)
    assert cached.ready
    found, item = MapDataset([cached.open()], [0])[(0, 0)], data[(0, 3)]
    torch.testing.assert_close(found.points, item.points)
    torch.testing.assert_close(found.scale, item.scale)
    assert found.parts.shape == (len(needs.parts), 8, 4)
    pooled = item.parts.reshape(-1, 8, 16, 4, 16).mean((2, 4))
    torch.testing.assert_close(found.parts, pooled, atol=1e-3, rtol=0)


def test_methods_with_different_cues_share_the_maps(tmp_path: Path) -> None:
    settings = TransformSettings(size=(128, 64), occlusion=Occlusion(p=0.5, kinds={"grey": 1.0}))
    crop, cues = walker(20, 60)
    data, without = dataset(settings, crop, cues), dataset(settings, crop, cues)
    without.cues = None
    for seed in range(8):
        torch.testing.assert_close(data[(0, seed)].pixels, without[(0, seed)].pixels)
        torch.testing.assert_close(data[(0, seed)].visible, without[(0, seed)].visible)
    backbone = build_backbone("osnet_x0_25").eval()
    plain, with_cues = MapPass(tmp_path, {}, 1), MapPass(tmp_path, {}, 1, {"cues": "a"})
    plain.make(backbone, without, seed=3, prompt=0.5)
    maps = np.array(plain.open()["maps"])
    torch.nn.init.zeros_(backbone.final.conv.weight)  # whoever computes maps again gets others
    with_cues.make(backbone, data, seed=3, prompt=0.5)
    assert with_cues.ready
    assert with_cues.open().keys() == {"maps", "visible", "points", "parts", "scale"}
    assert (with_cues.open()["maps"] == maps).all()
    assert not MapPass(tmp_path, {}, 1, {"cues": "b"}).ready


def fill(folder: Path, people: Dataset, count: int | None = None, size: tuple[int, int] = (64, 32)) -> CueSource:
    cache = CueCache(folder)
    with cache.writer("rendered@1", COCO_17) as points, cache.writer("rendered@1", LIP_20) as parts:
        for row, sample in enumerate(people.train[:count]):
            digest = digest_of(sample.store.read(sample.name))
            person = np.full((row % 2, 17, 3), 0.5, np.float32)  # nobody in every second crop
            points.add(Row(digest, sample.name, size, KeyPoints(person, COCO_17)))
            labels = np.zeros(size, np.uint8)
            labels[10:, 5:20] = 16 if row != 4 else 0
            parts.add(Row(digest, sample.name, size, PartMap(labels, LIP_20)))
    return CueSource(folder)


def guided(small: Any, **changes: Any) -> Any:
    return small("guided", [{"epochs": 1, "optimiser": {"lr": 1e-4}}], **changes)


@pytest.mark.parametrize("cached", [0, 1])
def test_a_training_reads_its_cues_hands_them_on_and_notes_their_source(
    cached: int, small: Any, people: Dataset, tmp_path: Path
) -> None:
    source = fill(tmp_path / "cues", people, count=20)
    stages = [{"epochs": 1, "cached": cached, "optimiser": {"lr": 1e-4}}]
    trained = train(small("guided", stages), people, tmp_path / "run", cues=source, progress=False)
    (cues, *_) = [one for one in given if one is not None]
    assert cues.points.shape == (8, 17, 3)
    assert cues.parts.shape == ((8, 3, 4, 2) if cached else (8, 3, 64, 32))
    assert float(cues.scale.min()) == pytest.approx(1.0)
    body, left, right = cues.parts.unbind(1)
    assert bool(((body >= left) & (body >= right)).all())
    assert bool((body == -1).any())  # four crops have no cues, and one a map without anybody
    card = read_card(trained.best.with_suffix(".json"))
    assert card.cues == {"points": "rendered@1", "parts": "rendered@1"}
    assert "4 training crops of 24 without key points." in trained.notes
    assert "4 training crops of 24 without part maps." in trained.notes
    assert "10 training crops of 24 in which no person was found." in trained.notes
    assert "1 training crop of 24 with a part map that shows nobody." in trained.notes


def test_a_part_map_that_shows_nobody_is_as_good_as_none(people: Dataset, tmp_path: Path) -> None:
    tables = open_cues("guided", NEEDS, fill(tmp_path / "cues", people, count=6))
    assert tables is not None
    samples = people.train[:6]
    found, _ = read_cues(tables, samples, read_crops(samples)[0])
    assert [bool((cues.parts == UNKNOWN).all()) for cues in found] == [row == 4 for row in range(6)]


def test_a_stage_with_a_method_of_its_own_gets_its_own_groups(
    small: Any, people: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Legs(Guided):
        name = "legs"

        @classmethod
        def needs(cls, options: BaseModel, when: str) -> Needs:
            return Needs(parts=("left_leg",)) if when == "train" else Needs()

    monkeypatch.setitem(METHODS, "legs", Legs)  # type: ignore[arg-type]
    source = fill(tmp_path / "cues", people)
    rate = {"optimiser": {"lr": 1e-4}}
    stages = [{"epochs": 1, "name": "legs", "method": "legs", **rate}, {"epochs": 1, "name": "all", **rate}]
    train(small("guided", stages), people, tmp_path / "run", cues=source, progress=False)
    first, *_, last = [one for one in given if one is not None]
    assert first.parts.shape[1] == 1
    assert bool(first.parts.any())
    assert last.parts.shape[1] == 3
    body, left, right = last.parts.unbind(1)
    # Everybody has a left leg only, which mirrored crops show as the right one.
    assert torch.equal(body, left + right)
    assert bool(left.any())
    assert bool(right.any())


def test_pgfa_is_trained_and_validated_with_key_points(small: Any, people: Dataset, tmp_path: Path) -> None:
    source = fill(tmp_path / "cues", people)
    stages = [
        {"epochs": 1, "name": name, "cached": cached, "optimiser": {"lr": 1e-4}}
        for name, cached in (("a", 1), ("b", 0))
    ]
    recipe = small("pgfa", stages, options={"strips": 2, "dim": 8}, validation={"identities": 2})
    trained = train(recipe, people, tmp_path / "run", cues=source, progress=False)
    assert 0 <= trained.metrics["score"] <= 1
    card = read_card(trained.best.with_suffix(".json"))
    assert card.cues == {"points": "rendered@1"}
    model = load(trained.best, precision="float32", keypoints=f"cache:{source.folder}")
    found = model.embed_samples(people.train[:2]).embedding
    # Nobody was found in the first crop, and all of the second one's points lie in its upper left corner.
    assert found["weights"].tolist() == [[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("method", "options", "kinds"),
    [
        ("sgsfa", {"dim": 8}, {"parts"}),
        ("pirt", {"dim": 16, "layers": 1}, {"points"}),
        ("fpr", {"dim": 8, "pools": [2, 4], "identity": 1.0}, {"parts"}),
    ],
)
def test_methods_with_cues_learn_on_cached_maps_and_end_to_end_and_come_back(
    method: str, options: dict[str, Any], kinds: set[str], small: Any, people: Dataset, tmp_path: Path
) -> None:
    source = fill(tmp_path / "cues", people, count=20)  # four crops have none
    stages = [
        {"epochs": 1, "name": name, "cached": cached, "optimiser": {"lr": 1e-4}}
        for name, cached in (("a", 1), ("b", 0))
    ]
    recipe = small(method, stages, options=options, validation={"identities": 2})
    trained = train(recipe, people, tmp_path / "run", cues=source, progress=False)
    assert 0 <= trained.metrics["score"] <= 1
    assert set(read_card(trained.best.with_suffix(".json")).cues) == kinds
    log = (tmp_path / "run" / "logs" / "b" / "metrics.csv").read_text()
    assert ("loss/body" in log) == (method == "sgsfa")
    keypoints = f"cache:{source.folder}" if kinds == {"points"} else None
    model = load(trained.best, precision="float32", keypoints=keypoints)
    found = model.embed_samples(people.train[:3]).embedding
    distances = model.distance().matrix(found, found)
    assert distances.shape == (3, 3)
    assert bool(distances.isfinite().all())


def test_key_points_of_covered_held_out_crops_are_those_that_still_show(people: Dataset, tmp_path: Path) -> None:
    first, second = people.train[:2]
    with CueCache(tmp_path / "cues").writer("a@1", COCO_17) as writer:
        values = np.ones((1, 17, 3), np.float32)
        values[0, :, 1] = np.arange(17) * 4
        writer.add(Row(digest_of(first.store.read(first.name)), first.name, (64, 32), KeyPoints(values, COCO_17)))
    points = HeldOutPoints(CueCache(tmp_path / "cues").points())
    covered, unknown = read_image(first), read_image(second)
    visible = np.zeros((64, 32), bool)
    visible[:20] = True
    points.cover(covered, first, visible)
    points.cover(unknown, second, visible)
    assert points(unknown, None) is None
    found = points(covered, None)
    assert found is not None
    assert found.values[0, :, 2].tolist() == [1.0] * 5 + [0.0] * 12
    clear = points(covered, lambda: first.store.read(first.name))
    assert clear is not None
    assert clear.values[0, :, 2].all()


def test_missing_cues_are_said_before_the_data_is_opened(small: Any, tmp_path: Path) -> None:
    message = (
        r"method 'guided': learns from key points and part maps, and none are given\. Remedy: make them \(glimpse cues "
        r"make DATA --out FOLDER --keypoints ESTIMATOR --masks ESTIMATOR\) and name the folder: --cues FOLDER"
    )
    with pytest.raises(ConfigError, match=message):
        train(guided(small), "market1501:nowhere", tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match=r"cues: has no key points\. Remedy: make them: glimpse cues make"):
        train(guided(small), "market1501:nowhere", tmp_path / "run", cues=CueSource(tmp_path / "cues"), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_stage_with_a_method_of_its_own_has_its_own_needs(small: Any, people: Dataset, tmp_path: Path) -> None:
    recipe = small("baseline", [{"epochs": 1, "method": "guided"}, {"epochs": 1, "name": "after"}])
    with pytest.raises(ConfigError, match="learns from key points and part maps"):
        train(recipe, people, tmp_path / "run", progress=False)


def test_cues_that_tell_too_little_are_refused(small: Any, people: Dataset, tmp_path: Path) -> None:
    source = fill(tmp_path / "cues", people)
    with CueCache(tmp_path / "cues").writer("mask@1", PERSON) as writer:
        writer.add(Row(bytes(32), "a.jpg", (2, 2), PartMap(np.ones((2, 2), np.uint8), PERSON)))
    with pytest.raises(ConfigError, match=r"has part maps by mask@1, rendered@1, and none is named"):
        train(guided(small), people, tmp_path / "run", cues=source, progress=False)
    with pytest.raises(ConfigError, match=r"part maps 'person': have no part 'left_leg'"):
        train(guided(small), people, tmp_path / "run", cues=CueSource(source.folder, parts="mask@1"), progress=False)


def test_cues_of_other_crops_and_other_sizes_are_refused(small: Any, people: Dataset, tmp_path: Path) -> None:
    elsewhere = CueCache(tmp_path / "cues")
    for value in (KeyPoints(np.zeros((0, 17, 3)), COCO_17), PartMap(np.zeros((2, 2), np.uint8), LIP_20)):
        says = value.skeleton if isinstance(value, KeyPoints) else value.scheme
        with elsewhere.writer("other@1", says) as writer:
            writer.add(Row(bytes(32), "a.jpg", (2, 2), value))
    with pytest.raises(DataError, match="none of the 24 training crops has key points in the cache"):
        train(guided(small), people, tmp_path / "run", cues=CueSource(tmp_path / "cues"), progress=False)
    source = fill(tmp_path / "small", people, size=(32, 16))
    with pytest.raises(DataError, match=r"part map by rendered@1 is 32 x 16, the crop 64 x 32 pixels high and wide"):
        train(guided(small), people, tmp_path / "again", cues=source, progress=False)
