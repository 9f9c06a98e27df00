"""What goes into the cache comes out; what is damaged is said."""

import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from glimpse.cues.cache import CueCache, Row, digest_of
from glimpse.cues.parts import LIP_20, PERSON, PartMap
from glimpse.cues.points import KeyPoints
from glimpse.cues.skeleton import COCO_17, OPENPOSE_18
from glimpse.errors import ConfigError, DataError

SIZE = (16, 8)


def people(number: int, seed: int = 0) -> KeyPoints:
    return KeyPoints(np.random.default_rng(seed).uniform(0, 8, (number, 17, 3)), COCO_17)


def write(cache: CueCache, values, source="made@1", says=COCO_17) -> list[bytes]:
    digests = [digest_of(f"{source} {row}".encode()) for row in range(len(values))]
    with cache.writer(source, says) as writer:
        for row, (digest, value) in enumerate(zip(digests, values, strict=True)):
            writer.add(Row(digest, f"{row}.jpg", SIZE, value))
    return digests


def test_key_points_come_back_whatever_the_number_of_people(tmp_path):
    values = [people(2), people(0), people(1, seed=1)]
    digests = write(CueCache(tmp_path), values)
    table = CueCache(tmp_path).points()
    assert (table.source, table.says, len(table)) == ("made@1", COCO_17, 3)
    for digest, value in zip(digests, values, strict=True):
        np.testing.assert_array_equal(table.get(digest).values, value.values)
    assert table.get(digest_of(b"another")) is None
    assert digests[0] in table
    assert digest_of(b"another") not in table


def test_heat_maps_come_back_with_their_points(tmp_path):
    heat = np.random.default_rng(0).integers(0, 256, (17, 5, 3), dtype=np.uint8)
    one, cache = people(1), CueCache(tmp_path)
    digests = write(cache, [people(0), people(1), KeyPoints(one.values, COCO_17, heat)])
    table = CueCache(tmp_path).points()
    assert table.has_heat
    assert table.get(digests[0]).heat is None
    assert table.get(digests[1]).heat is None
    np.testing.assert_array_equal(table.get(digests[2]).heat, heat)
    (tmp_path / "other").mkdir()
    write(CueCache(tmp_path / "other"), [one])
    assert not CueCache(tmp_path / "other").points().has_heat


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=arrays(np.uint8, SIZE, elements=st.integers(0, 19)))
def test_part_maps_come_back_to_the_last_pixel(labels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cues")
    digests = write(CueCache(folder), [PartMap(labels, LIP_20)], says=LIP_20)
    found = CueCache(folder).parts().get(digests[0])
    np.testing.assert_array_equal(found.labels, labels)
    assert found.scheme == LIP_20


def test_rows_are_added_in_files_and_those_done_before_an_error_are_kept(tmp_path):
    cache = CueCache(tmp_path)
    first = write(cache, [people(1)])

    def fill():
        with cache.writer("made@1", COCO_17) as writer:
            for row in range(1030):
                writer.add(Row(digest_of(bytes([row % 256, row // 256])), f"{row}.jpg", SIZE, people(1)))
                # A file holds 1,024 rows.
                assert len(list(tmp_path.rglob("*.parquet"))) == (1 if row < 1023 else 2)
            raise RuntimeError("no power")

    with pytest.raises(RuntimeError, match="power"):
        fill()
    assert len(list(tmp_path.rglob("*.parquet"))) == 3
    assert len(CueCache(tmp_path).points()) == 1031
    assert len(cache.digests("points", "made@1")) == 1031
    assert first[0] in cache.digests("points", "made@1")


def test_sources_and_kinds_are_kept_apart(tmp_path):
    cache = CueCache(tmp_path / "new")
    assert cache.sources("points") == ()
    assert cache.digests("points", "a@1") == set()
    write(cache, [people(1)], "b@1")
    write(cache, [people(2)], "a@1")
    write(cache, [PartMap(np.ones(SIZE, np.uint8), PERSON)], "mask@1", PERSON)
    assert (cache.sources("points"), cache.sources("parts")) == (("a@1", "b@1"), ("mask@1",))
    assert cache.points("a@1").get(digest_of(b"a@1 0")).people == 2
    assert cache.parts().source == "mask@1"
    with pytest.raises(ConfigError, match=r"has key points by a@1, b@1, and none is named\. Remedy: name one of them"):
        cache.points()
    with pytest.raises(ConfigError, match=r"has no key points by 'c@1'\. Remedy: choose from a@1, b@1"):
        cache.points("c@1")


def test_an_empty_cache_names_the_command_that_fills_it(tmp_path):
    with pytest.raises(
        ConfigError, match=r"has no key points\. Remedy: make them: glimpse cues make DATA --out .*--key"
    ):
        CueCache(tmp_path).points()
    with pytest.raises(
        ConfigError, match=r"has no part maps\. Remedy: make them: glimpse cues make DATA --out .*--masks"
    ):
        CueCache(tmp_path).parts()


def test_a_file_in_place_of_a_folder_and_names_that_are_none(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file, and cues lie in a folder"):
        CueCache(tmp_path / "file")
    with (
        pytest.raises(ConfigError, match=r"'\.\./up' cannot name a folder"),
        CueCache(tmp_path).writer("../up", COCO_17),
    ):
        pass


def test_one_source_has_one_skeleton(tmp_path):
    cache = CueCache(tmp_path)
    write(cache, [people(1)])
    with (
        pytest.raises(DataError, match="has cues by 'coco-17', not 'openpose-18'"),
        cache.writer("made@1", OPENPOSE_18),
    ):
        pass
    other = KeyPoints(np.ones((1, 18, 3)), OPENPOSE_18)
    write(CueCache(tmp_path / "other"), [other], says=OPENPOSE_18)
    stray = next((tmp_path / "other").rglob("*.parquet"))
    stray.rename(tmp_path / "points" / "made@1" / "zz.parquet")
    with pytest.raises(DataError, match=r"zz.parquet: has 'openpose-18', and .* beside it 'coco-17'"):
        cache.points()


def test_damaged_files_are_named(tmp_path):
    cache = CueCache(tmp_path)
    write(cache, [people(1)])
    path = next(tmp_path.rglob("*.parquet"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        DataError, match=rf"{path.name}: cannot be read .*Remedy: delete the file and make the cues again"
    ):
        cache.points()
    table = pyarrow.table({"a": [1]})
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(DataError, match=r"is no file of a cue cache \(field 'source': field required\)"):
        cache.points()
    with pytest.raises(DataError, match="is no file of a cue cache"):
        cache.digests("points", "made@1")


def test_columns_that_are_not_the_caches_are_refused(tmp_path):
    cache = CueCache(tmp_path)
    write(cache, [people(1)])
    path = next(tmp_path.rglob("*.parquet"))
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.drop_columns(["people"]), path)
    with pytest.raises(DataError, match="has the columns digest, name, height, width, points"):
        cache.points()


@pytest.mark.parametrize(
    ("says", "value", "column", "damaged"),
    [
        (COCO_17, people(1), "points", pyarrow.array([[1.0, 2.0]], pyarrow.list_(pyarrow.float32()))),
        (PERSON, PartMap(np.ones(SIZE, np.uint8), PERSON), "labels", pyarrow.array([b"no picture"])),
        (PERSON, PartMap(np.ones(SIZE, np.uint8), PERSON), "height", pyarrow.array([5], pyarrow.int32())),
    ],
)
def test_a_damaged_row_names_the_crop_and_the_source(says, value, column, damaged, tmp_path):
    cache = CueCache(tmp_path)
    digests = write(cache, [value], says=says)
    path = next(tmp_path.rglob("*.parquet"))
    table = pyarrow.parquet.read_table(path)
    table = table.set_column(table.column_names.index(column), column, damaged)
    pyarrow.parquet.write_table(table, path)
    found = cache.points() if says is COCO_17 else cache.parts()
    with pytest.raises(DataError, match=r"cues of 0.jpg by made@1: are damaged \(.*Remedy: delete them from the cache"):
        found.get(digests[0])


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        ConfigError, match=r"pyarrow is not installed\. Remedy: install the extra: pip install 'glimpse-"
    ):
        CueCache(tmp_path)
