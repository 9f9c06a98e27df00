"""What is drawn is where the cues are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glimpse.annotate.show import HEIGHT, draw_parts, draw_points, write_sheet
from glimpse.cues.cache import CueCache, Row, digest_of
from glimpse.cues.parts import LIP_20, PERSON, PartMap
from glimpse.cues.points import KeyPoints
from glimpse.cues.skeleton import COCO_17
from glimpse.data import Sample
from glimpse.errors import ConfigError, DataError

GREY = Image.new("RGB", (64, 128), (100, 100, 100))


def one(x: float, y: float, point: str, score: float = 1.0) -> np.ndarray:
    values = np.zeros((1, 17, 3), np.float32)
    values[0, COCO_17.row(point)] = x, y, score
    return values


def changed(picture: Image.Image) -> np.ndarray:
    return np.argwhere((np.asarray(picture) != 100).any(2))


@pytest.mark.parametrize(("point", "channel"), [("left_knee", 2), ("right_knee", 0)])
def test_a_point_is_drawn_at_twice_its_place_and_in_the_colour_of_its_side(point: str, channel: int) -> None:
    picture = draw_points(GREY, KeyPoints(one(20, 90, point), COCO_17))
    assert picture.size == (128, HEIGHT)
    y, x = changed(picture).mean(0)
    assert (x, y) == pytest.approx((40, 180), abs=0.6)
    assert int(np.asarray(picture)[180, 40].argmax()) == channel
    assert not len(changed(draw_points(GREY, KeyPoints(one(20, 90, point, score=0.1), COCO_17))))


def test_bones_are_drawn_between_points_that_were_found_and_the_target_is_green() -> None:
    values = one(10, 20, "left_hip") + one(10, 100, "left_knee")
    values[..., 2] = values[..., 2] > 0
    target = np.asarray(draw_points(GREY, KeyPoints(values, COCO_17)))
    assert target[120, 20].tolist() == [60, 220, 90]
    other = values + np.array([40, 0, 0])
    other[0, COCO_17.row("left_knee"), 2] = 0
    both = np.asarray(draw_points(GREY, KeyPoints(np.concatenate([other, values]), COCO_17)))
    assert both[120, 20].tolist() == [60, 220, 90]
    assert both[120, 100].tolist() == [100, 100, 100]  # of the other only the hip was found
    assert not len(changed(draw_points(GREY, KeyPoints(np.zeros((0, 17, 3)), COCO_17))))


def test_groups_of_parts_have_a_colour_each_and_what_is_in_none_is_grey() -> None:
    labels = np.zeros((128, 64), np.uint8)
    labels[:40], labels[40:80] = LIP_20.labels.index("hair"), LIP_20.labels.index("pants")
    picture = np.asarray(draw_parts(GREY, PartMap(labels, LIP_20)))
    head, lower, background = picture[20, 5], picture[100, 5], picture[220, 5]
    assert background.tolist() == [50, 50, 50]
    assert len({tuple(c.tolist()) for c in (head, lower, background)}) == 3
    person = np.asarray(draw_parts(GREY, PartMap((labels > 0).astype(np.uint8), PERSON)))
    assert person[20, 5].tolist() == person[100, 5].tolist() != [50, 50, 50]


def test_a_sheet_has_a_field_for_every_cue_that_is_there(crops: list[Sample], tmp_path: Path) -> None:
    cache = CueCache(tmp_path / "cues")
    with pytest.raises(ConfigError, match=r"has no cues\. Remedy: make some: glimpse cues make"):
        write_sheet(crops, cache, tmp_path / "a.png")
    digests = [digest_of(sample.store.read(sample.name)) for sample in crops]
    with cache.writer("a@1", COCO_17) as writer:
        writer.add(Row(digests[3], "3", (16, 8), KeyPoints(one(4, 8, "nose"), COCO_17)))
    with cache.writer("b@1", PERSON) as writer:
        writer.add(Row(digests[3], "3", (16, 8), PartMap(np.ones((16, 8), np.uint8), PERSON)))
    names = write_sheet(crops[3:5], cache, tmp_path / "a.png", columns=1)
    assert names == ["03.png", "04.png"]
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    assert sheet.shape == (6 * 256 + 6 * 6, 128, 3)  # twice the gap between strips
    shades = [int(np.median(sheet[row * 262 + row // 3 * 6 + 100, :, 2])) for row in range(6)]
    assert shades[:2] == [25, 25]
    assert shades[2] not in (25, 40)
    assert shades[3:] == [30, 40, 40]  # the second crop has no cues
    assert write_sheet(crops, cache, tmp_path / "b.jpg", count=5, seed=1) != write_sheet(
        crops, cache, tmp_path / "b.jpg", count=5, seed=2
    )


def test_what_cannot_be_drawn_is_said(crops: list[Sample], tmp_path: Path) -> None:
    cache = CueCache(tmp_path / "cues")
    with cache.writer("a@1", COCO_17) as writer:
        writer.add(Row(bytes(32), "3", (16, 8), KeyPoints(one(4, 8, "nose"), COCO_17)))
    with pytest.raises(
        ConfigError, match=r"sheet\.txt: has no ending that a picture has\. Remedy: let it end in \.png"
    ):
        write_sheet(crops, cache, tmp_path / "sheet.txt")
    assert not (tmp_path / "sheet.txt").exists()
    with pytest.raises(DataError, match="there is none to draw"):
        write_sheet([], cache, tmp_path / "sheet.png")
    with pytest.raises(ConfigError, match="has no part maps"):
        write_sheet(crops, cache, tmp_path / "sheet.png", parts="b@1")
