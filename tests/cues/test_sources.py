"""Where key points come from when crops are embedded."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glimpse.cues.cache import CueCache, Row, digest_of
from glimpse.cues.points import KeyPoints
from glimpse.cues.skeleton import COCO_17
from glimpse.cues.sources import CachedPoints, EstimatedPoints, open_points
from glimpse.errors import ConfigError, DataError

CROP = Image.new("RGB", (8, 16))
ONE = KeyPoints(np.ones((1, 17, 3)), COCO_17)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with CueCache(tmp_path / "cues").writer("a@1", COCO_17) as writer:
        writer.add(Row(digest_of(b"file"), "a.jpg", (16, 8), ONE))
    return tmp_path / "cues"


def test_a_cache_knows_crops_by_their_files(folder: Path) -> None:
    points = open_points(f"cache:{folder}")
    assert isinstance(points, CachedPoints)
    found = points(CROP, lambda: b"file")
    assert found is not None
    np.testing.assert_array_equal(found.values, ONE.values)
    with pytest.raises(DataError, match=r"'a@1' has no row of this crop. Remedy: make them of all crops"):
        points(CROP, lambda: b"another file")
    with pytest.raises(
        ConfigError, match=r"this crop has none, or was changed .*Remedy: name an estimator: movenet:PATH"
    ):
        points(CROP, None)


def test_one_of_several_sources_is_named_after_a_comma(folder: Path) -> None:
    with CueCache(folder).writer("b@1", COCO_17) as writer:
        writer.add(Row(digest_of(b"file"), "a.jpg", (16, 8), KeyPoints(np.zeros((0, 17, 3)), COCO_17)))
    with pytest.raises(ConfigError, match="key points by a@1, b@1, and none is named"):
        open_points(f"cache:{folder}")
    found = open_points(f"cache:{folder},b@1")(CROP, lambda: b"file")
    assert found is not None
    assert found.people == 0


def test_an_estimator_looks_at_the_picture_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide:
        name, skeleton = "wide@1", COCO_17

        def points(self, image: Image.Image) -> KeyPoints:
            return KeyPoints(np.full((1, 17, 3), image.width), COCO_17)

    monkeypatch.setattr("glimpse.cues.sources.open_estimator", lambda spec: Wide())
    points = open_points("movenet:a.tflite")
    assert isinstance(points, EstimatedPoints)
    found = points(CROP, None)
    assert found is not None
    assert found.values[0, 0].tolist() == [8.0, 8.0, 8.0]


def test_what_gives_no_key_points_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mask:
        name, scheme = "mask@1", None

        def parts(self, image: Image.Image) -> None: ...

    with pytest.raises(
        ConfigError, match=r"there is no folder '.*nowhere'\. Remedy: name the folder that `glimpse cues"
    ):
        open_points(f"cache:{tmp_path / 'nowhere'}")
    monkeypatch.setattr("glimpse.cues.sources.open_estimator", lambda spec: Mask())
    with pytest.raises(
        ConfigError, match=r"deeplab:a: does not find key points\. Remedy: choose from cache:FOLDER, move"
    ):
        open_points("deeplab:a")
