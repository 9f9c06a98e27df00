"""Counts of cues, by hand."""

from pathlib import Path

import numpy as np
import pytest

from glimpse.annotate.check import check_cues
from glimpse.annotate.crops import open_splits
from glimpse.cues.cache import CueCache, Row, digest_of
from glimpse.cues.parts import LIP_20, PERSON, PartMap
from glimpse.cues.points import KeyPoints
from glimpse.cues.skeleton import COCO_17
from glimpse.data import Sample
from glimpse.errors import DataError
from glimpse.synthetic.dataset import render_dataset
from glimpse.synthetic.people import Population


def put(cache: CueCache, source: str, sample: Sample, value: KeyPoints | PartMap) -> None:
    says = value.skeleton if isinstance(value, KeyPoints) else value.scheme
    with cache.writer(source, says) as writer:
        writer.add(Row(digest_of(sample.store.read(sample.name)), sample.name, (16, 8), value))


def person(found: int, score: float) -> np.ndarray:
    values = np.zeros((1, 17, 3), np.float32)
    values[0, :found] = 1, 1, score
    return values


def test_counts_of_key_points(crops: list[Sample], tmp_path: Path) -> None:
    cache = CueCache(tmp_path / "cues")
    put(cache, "a@1", crops[0], KeyPoints(np.concatenate([person(17, 0.5), person(4, 0.9)]), COCO_17))
    put(cache, "a@1", crops[1], KeyPoints(person(2, 0.9), COCO_17))
    put(cache, "a@1", crops[2], KeyPoints(np.zeros((0, 17, 3)), COCO_17))
    steps: list[int] = []
    found = check_cues({"query": crops[:3], "gallery": crops[2:6]}, cache, progress=steps.append)
    query, gallery = found.counts
    assert (query.kind, query.source, query.split) == ("points", "a@1", "query")
    assert (query.crops, query.covered, query.nobody, query.several, query.missing) == (3, 3, 2, 1, ())
    assert query.mean == pytest.approx((17 + 2 + 0) / 3)
    assert query.score == pytest.approx((0.5 + 2 * 0.9 / 17 + 0) / 3)
    assert (gallery.crops, gallery.covered, gallery.missing) == (4, 1, ("03.png", "04.png", "05.png"))
    assert sum(steps) == 7


def test_counts_of_part_maps_and_crops_that_cannot_be_read(crops: list[Sample], folder: Path, tmp_path: Path) -> None:
    cache = CueCache(tmp_path / "cues")
    half, dot = np.zeros((16, 8), np.uint8), np.zeros((16, 8), np.uint8)
    half[:8], dot[0, 0] = 1, 1
    put(cache, "m@1", crops[0], PartMap(half, PERSON))
    put(cache, "m@1", crops[1], PartMap(dot, PERSON))
    (folder / "02.png").unlink()
    found = check_cues({"crops": crops[:3]}, cache)
    (count,) = found.counts
    assert (count.kind, count.crops, count.covered, count.nobody, count.score) == ("parts", 2, 2, 1, None)
    assert count.mean == pytest.approx((50 + 100 / 128) / 2)
    assert count.groups == {}
    assert "02.png" in found.bad[0].where


def test_groups_that_are_never_seen_speak_of_another_scheme(crops: list[Sample], tmp_path: Path) -> None:
    cache = CueCache(tmp_path / "cues")
    shoes = np.full((16, 8), LIP_20.labels.index("left_shoe"), np.uint8)
    hair = np.full((16, 8), LIP_20.labels.index("hair"), np.uint8)
    hair[8:] = 0
    put(cache, "m@1", crops[0], PartMap(shoes, LIP_20))
    put(cache, "m@1", crops[1], PartMap(hair, LIP_20))
    (count,) = check_cues({"crops": crops[:2]}, cache).counts
    assert count.groups == {"head": 25.0, "upper": 0.0, "lower": 0.0, "shoes": 50.0}


def test_which_crops(folder: Path, tmp_path: Path) -> None:
    assert {name: len(found) for name, found in open_splits(f"crops:{folder}").items()} == {"crops": 40}
    render_dataset(tmp_path / "people", Population(people=4, train=2, cameras=2), crops=2, size=(32, 16), cues=False)
    splits = open_splits(f"market1501:{tmp_path / 'people'}")
    assert list(splits) == ["train", "query", "gallery"]
    assert list(open_splits(f"market1501:{tmp_path / 'people'}", ["gallery"])) == ["gallery"]
    with pytest.raises(DataError, match=r"has no split 'test'\. Remedy: choose from train, query, gallery"):
        open_splits(f"market1501:{tmp_path / 'people'}", ["test"])
