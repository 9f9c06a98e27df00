"""Cues are made once per content, in any number of processes, and what was done is kept."""

from pathlib import Path

import numpy as np
import pytest
from fake_estimators import Bright, Centre

from glimpse.annotate.make import add_file, make_cues, make_limbs
from glimpse.cues.cache import CueCache, digest_of
from glimpse.cues.parts import LIMBS, LIP_20, PERSON, PartMap
from glimpse.cues.points import KeyPoints
from glimpse.cues.readers import CueFile
from glimpse.cues.skeleton import COCO_17
from glimpse.data import Sample
from glimpse.errors import ConfigError, DataError


def score(cache: CueCache, sample: Sample) -> float:
    found = cache.points().get(digest_of(sample.store.read(sample.name)))
    assert found is not None
    assert found.values[0, 0, :2].tolist() == [4.0, 8.0]
    return float(found.values[0, 0, 2])


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_content_is_looked_at_once(jobs: int, crops: list[Sample], tmp_path: Path) -> None:
    cache, steps = CueCache(tmp_path / "cues"), []
    made = make_cues(crops, cache, Centre(), jobs=jobs, progress=steps.append)
    assert (made.source, made.made, made.known, made.bad, made.missing) == ("centre@1", 39, 1, [], [])
    assert made.seconds > 0
    assert sum(steps) == 40
    for number, sample in enumerate(crops):
        assert score(cache, sample) == pytest.approx((5 * (number % 39) + 10) / 255, abs=1e-6)
    again = make_cues(crops, cache, Centre(stops_at=1), progress=steps.append)  # would stop, had it anything to do
    assert (again.made, again.known, sum(steps)) == (0, 40, 80)


def test_another_estimator_is_another_source(crops: list[Sample], tmp_path: Path) -> None:
    cache = CueCache(tmp_path / "cues")
    make_cues(crops[:2], cache, Centre())
    make_cues(crops[:2], cache, Centre(name="centre@2"))
    make_cues(crops, cache, Bright())
    assert cache.sources("points") == ("centre@1", "centre@2")
    body = [cache.parts().get(digest_of(s.store.read(s.name))).mask().mean() for s in (crops[10], crops[30])]
    assert body == [0.0, 1.0]


def test_stopped_it_keeps_what_was_done_and_goes_on(crops: list[Sample], tmp_path: Path) -> None:
    cache = CueCache(tmp_path / "cues")
    with pytest.raises(KeyboardInterrupt):
        make_cues(crops, cache, Centre(stops_at=20))
    assert len(cache.points()) == 19
    made = make_cues(crops, cache, Centre())
    assert (made.made, made.known) == (20, 20)


def test_unreadable_crops_stop_it_or_are_left_out(crops: list[Sample], folder: Path, tmp_path: Path) -> None:
    (folder / "05.png").write_bytes(b"no picture")
    (folder / "06.png").unlink()
    with pytest.raises(DataError, match=r"06\.png"):  # all files are read before any is looked at
        make_cues(crops, CueCache(tmp_path / "a"), Centre())
    with pytest.raises(DataError, match=r"05\.png.*is not a picture"):
        make_cues([*crops[:6], *crops[7:]], CueCache(tmp_path / "b"), Centre())
    assert len(CueCache(tmp_path / "b").points()) == 5
    for jobs in (1, 2):
        made = make_cues(crops, CueCache(tmp_path / f"c{jobs}"), Centre(), jobs=jobs, skip_bad=True)
        assert made.made == 37
        assert [Path(error.where).name for error in made.bad] == ["06.png", "05.png"]
        assert "is not a picture" in made.bad[1].cause


def test_limbs_come_from_the_points_and_masks_at_hand(crops: list[Sample], tmp_path: Path) -> None:
    cache = CueCache(tmp_path / "cues")
    with pytest.raises(ConfigError, match="has no key points"):
        make_limbs(crops, cache)
    make_cues(crops, cache, Centre())
    with pytest.raises(ConfigError, match="has no part maps"):
        make_limbs(crops, cache)
    make_cues(crops[10:], cache, Bright())
    made = make_limbs(crops, cache)
    # Number 39 is number 0, whose mask was made by that name.
    assert (made.made, made.known, len(made.missing)) == (30, 1, 9)
    assert made.missing[0] == "01.png"
    found = cache.parts(made.source).get(digest_of(crops[35].store.read(crops[35].name)))
    assert found.scheme == LIMBS
    assert found.mask().all()
    # Limbs are no mask to make limbs from.
    assert make_limbs(crops, cache).source == made.source
    make_cues(crops, cache, Bright(name="bright@2"))
    with pytest.raises(ConfigError, match=r"has part maps by bright@1, bright@2, limbs@\w+, and none is named"):
        make_limbs(crops, cache)
    assert make_limbs(crops, cache, masks="bright@2").made == 39


def rows(values: dict[str, KeyPoints] | dict[str, PartMap]) -> CueFile:
    return CueFile("my poses.json", values, {name: f"row {number}" for number, name in enumerate(values)})


def test_a_file_is_taken_over_and_what_does_not_fit_is_reported(crops: list[Sample], tmp_path: Path) -> None:
    inside, outside = np.full((1, 17, 3), 4.0), np.full((1, 17, 3), 400.0)
    file = rows(
        {"00.png": KeyPoints(inside, COCO_17), "03": KeyPoints(outside, COCO_17), "x": KeyPoints(inside, COCO_17)}
    )
    cache = CueCache(tmp_path / "cues")
    made = add_file(crops, cache, file)
    assert made.source.startswith("my_poses@")
    assert (made.made, made.known, len(made.missing)) == (1, 1, 37)
    assert [(error.where, error.cause.split(" (")[0]) for error in made.bad] == [
        ("row 2", "is of 'x', and no crop is called so"),
        ("row 1", "17 of 17 key points lie outside the crop of 8 x 16 pixels"),
    ]
    assert cache.points().get(digest_of(crops[39].store.read("39.png"))).values[0, 0].tolist() == [4.0, 4.0, 4.0]
    again = add_file(crops, cache, file)
    assert (again.made, again.known) == (0, 2)
    assert add_file(crops, cache, rows({"00.png": KeyPoints(inside + 1, COCO_17)})).source != made.source


def test_files_of_one_name_are_one_source(crops: list[Sample], tmp_path: Path) -> None:
    cache, inside = CueCache(tmp_path / "cues"), np.full((1, 17, 3), 4.0)
    for number in (1, 2):
        made = add_file(crops, cache, rows({f"0{number}.png": KeyPoints(inside + number, COCO_17)}), name="alphapose")
        assert (made.source, made.made) == ("alphapose", 1)
    assert cache.sources("points") == ("alphapose",)
    for number in (1, 2):
        found = cache.points().get(digest_of(crops[number].store.read(crops[number].name)))
        assert found is not None
        assert found.values[0, 0, 0] == 4 + number
    with pytest.raises(ConfigError, match=r"source of cues: 'a/b' cannot name a folder"):
        add_file(crops, cache, rows({"01.png": KeyPoints(inside, COCO_17)}), name="a/b")


def test_maps_of_another_size_are_refused_and_a_file_of_other_crops_altogether(
    crops: list[Sample], tmp_path: Path
) -> None:
    cache = CueCache(tmp_path / "cues")
    maps = {"00": PartMap(np.zeros((16, 8), np.uint8), LIP_20), "01": PartMap(np.zeros((4, 4), np.uint8), LIP_20)}
    made = add_file(crops, cache, rows(maps))
    assert made.made == 1
    assert "the part map is of 4 x 4 pixels, and 01.png of 8 x 16" in made.bad[0].cause
    other = rows({"a/b": PartMap(np.zeros((4, 4), np.uint8), PERSON)})
    with pytest.raises(DataError, match=r"none of its 1 row is of any of the 40 crops \(first: 'a/b'\)"):
        add_file(crops, cache, other)


def test_crops_that_cannot_be_decoded_are_left_out_of_a_file(crops: list[Sample], folder: Path, tmp_path: Path) -> None:
    (folder / "05.png").write_bytes(b"no picture")
    file = rows({"05": KeyPoints(np.ones((1, 17, 3)), COCO_17), "06": KeyPoints(np.ones((1, 17, 3)), COCO_17)})
    with pytest.raises(DataError, match="is not a picture"):
        add_file(crops, CueCache(tmp_path / "cues"), file)
    made = add_file(crops, CueCache(tmp_path / "cues"), file, skip_bad=True)
    assert (made.made, len(made.bad)) == (1, 1)
