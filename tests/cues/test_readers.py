"""Whose crop each row is of, and whether it fits the crop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimpse.cues.parts import PERSON, PartMap
from glimpse.cues.points import KeyPoints
from glimpse.cues.readers import CueFile, Reading, files_below, fitted, load_arrays, matched
from glimpse.cues.skeleton import COCO_17
from glimpse.errors import DataError


def nobody() -> KeyPoints:
    return KeyPoints(np.zeros((0, 17, 3)), COCO_17)


def file_of(*rows: str, problems=()) -> CueFile[KeyPoints]:
    return CueFile(
        "f.json", {row: nobody() for row in rows}, {row: f"f.json, [{n}]" for n, row in enumerate(rows)}, problems
    )


def apart(names):
    """Crops of these names, each of its own content."""
    return {name: name for name in names}


@pytest.mark.parametrize(
    ("row", "crop"),
    [
        ("query/a.jpg", "query/a.jpg"),
        ("query/a.png", "query/a.jpg"),
        ("query/a", "query/a.jpg"),
        ("a.jpg", "query/a.jpg"),
        ("a", "query/a.jpg"),
        ("elsewhere/a.jpg", "query/a.jpg"),
        ("b.v2", "gallery/b.v2.jpg"),  # what follows the last dot is no ending of a picture
        ("b.v2.jpg", "gallery/b.v2.jpg"),
    ],
)
def test_a_row_finds_its_crop_by_path_or_else_by_name(row, crop):
    file = file_of(row)
    found = matched(file, apart(["query/a.jpg", "gallery/b.v2.jpg", "gallery/c.jpg"]))
    assert list(found.found) == [crop]
    assert found.found[crop] is file.found[row]
    assert found.where == {crop: "f.json, [0]"}
    assert found.problems == ()


@pytest.mark.parametrize(
    ("rows", "crops", "at", "cause"),
    [
        (["b.jpg"], ["a.jpg"], [0], "is of 'b.jpg', and no crop is called so"),
        (["b.v2"], ["b.jpg"], [0], "is of 'b.v2', and no crop is called so"),
        (["a"], ["p/a.jpg", "q/a.jpg"], [0], "is of 'a', and 2 crops are called so (p/a.jpg, q/a.jpg)"),
        (["a"], ["p/a.jpg", "q/a.jpg", "r/a.jpg"], [0], "is of 'a', and 3 crops are called so (p/a.jpg, q/a.jpg, ...)"),
        (["a"], ["a.jpg", "a.png"], [0], "is of 'a', and 2 crops are called so (a.jpg, a.png)"),
        (["p/a", "q/a"], ["a.jpg"], [0, 1], "is of 'p/a', and 2 rows may be of the crop a.jpg"),
        (
            ["a.jpg", "q/a.jpg"],
            ["a.jpg"],
            [1],
            "is of 'q/a.jpg', and the crop a.jpg has a row of its own (f.json, [0])",
        ),
    ],
)
def test_a_row_of_no_crop_or_of_several_is_reported(rows, crops, at, cause):
    found = matched(file_of(*rows), apart(crops))
    assert [problem.where for problem in found.problems] == [f"f.json, [{n}]" for n in at]
    assert found.problems[0].cause == cause
    assert found.problems[0].remedy == "give the path of the crop inside its dataset, or take the row out"
    assert len(found.found) == len(rows) - len(at)


NAMES = st.lists(
    st.tuples(st.sampled_from(["", "p/", "q/"]), st.sampled_from("abc"), st.sampled_from([".jpg", ".png", ""])).map(
        "".join
    ),
    unique=True,
    max_size=12,
)


@given(NAMES, NAMES.map(lambda names: [name for name in names if "." in name]))
def test_no_row_is_lost_and_no_crop_has_two(rows, crops):
    before = DataError("f.json, [99]", "was wrong", "correct it")
    file = file_of(*rows, problems=(before,))
    found = matched(file, apart(crops))
    assert found.problems[0] is before
    assert len(found.found) + len(found.problems) - 1 == len(rows)
    assert set(found.found) <= set(crops)
    assert set(rows) & set(crops) <= set(found.found)  # the same path always wins
    for crop, value in found.found.items():
        row = next(row for row in rows if file.found[row] is value)
        assert found.where[crop] == file.where[row]
        assert row.split("/")[-1][0] == crop.split("/")[-1][0]
    assert matched(file, apart(crops[::-1])).found == found.found


def test_copies_of_a_crop_are_one():
    names = {"query/a.jpg": b"1", "gallery/a.jpg": b"1", "query/b.jpg": b"2", "gallery/b.jpg": b"3"}
    found = matched(file_of("a", "b"), names)
    assert list(found.found) == ["gallery/a.jpg"]
    assert [problem.cause for problem in found.problems] == [
        "is of 'b', and 2 crops are called so (gallery/b.jpg, query/b.jpg)"
    ]
    both = matched(file_of("query/a", "gallery/a"), names)
    assert set(both.found) == {"query/a.jpg", "gallery/a.jpg"}


def pose(*points: tuple[float, float, float]) -> KeyPoints:
    values = np.zeros((1, 17, 3))
    values[0, : len(points)] = np.reshape(points, (-1, 3))
    return KeyPoints(values, COCO_17)


def fit(value, size=(128, 64), **options):
    return fitted(CueFile("f.json", {"a.jpg": value}, {"a.jpg": "f.json, [0]"}), lambda name: size, **options)


def test_points_inside_are_left_alone_and_those_on_the_border_are_moved_inside():
    value = pose((0, 0, 1), (64, 128, 1), (-900, 900, 0))
    found = fit(value)
    assert found.problems == ()
    assert found.found["a.jpg"] is value
    found = fit(pose((5, 5, 1), (-0.5, 128.5, 0.7), (-900, 900, 0)))
    assert found.problems == ()
    expected = np.array([[5, 5, 1], [0, 128, 0.7], [-900, 900, 0]], np.float32)
    np.testing.assert_array_equal(found.found["a.jpg"].values[0, :3], expected)


def test_points_outside_lose_their_score_and_are_reported():
    found = fit(pose((5, 5, 1), (6, 5, 1), (7, 5, 1), (-1, 5, 0.4)))
    assert found.found["a.jpg"].values[0, :4, 2].tolist() == [1, 1, 1, 0]
    assert str(found.problems[0]) == (
        "f.json, [0]: left_ear (-1.0, 5.0) lies outside the crop of 64 x 128 pixels and counts as not found. "
        "Remedy: correct x and y, or write score 0."
    )
    assert fit(pose((5, 5, 1), (-1, 5, 0.4)), tolerance=1).problems == ()
    many = fit(pose(*[(5, 5, 1)] * 4, *[(70, 5, 1)] * 4))
    assert many.problems[0].cause == (
        "right_ear (70.0, 5.0), left_shoulder (70.0, 5.0), right_shoulder (70.0, 5.0) and 1 more lie outside the crop "
        "of 64 x 128 pixels and count as not found"
    )


def test_a_row_of_which_most_lies_outside_is_of_another_picture():
    found = fit(pose((5, 5, 1), (700, 5, 1), (700, 9, 1)))
    assert found.found == {}
    assert str(found.problems[0]) == (
        "f.json, [0]: 2 of 3 key points lie outside the crop of 64 x 128 pixels. "
        "Remedy: give x and y in pixels of the crop as it lies on disk."
    )


@given(st.lists(st.tuples(st.integers(-9, 70), st.integers(-9, 135), st.sampled_from([0.0, 0.5])), max_size=17))
def test_after_the_check_nothing_that_counts_lies_outside(points):
    found = fit(pose(*points))
    outside = sum(score > 0 and not (0 <= x <= 64 and 0 <= y <= 128) for x, y, score in points)
    there = sum(score > 0 for *_, score in points)
    if 2 * outside > there:
        assert found.found == {}
    else:
        values = found.found["a.jpg"].values
        kept = values[values[..., 2] > 0]
        assert len(kept) == there - outside
        assert ((kept[:, :2] >= 0) & (kept[:, :2] <= (64, 128))).all()
    assert len(found.problems) == (outside > 0)


def test_a_map_of_another_size_is_left_out():
    value = PartMap(np.zeros((64, 32), np.uint8), PERSON)
    assert fit(value, (64, 32)).found == {"a.jpg": value}
    found = fit(value)
    assert found.found == found.where == {}
    assert str(found.problems[0]) == (
        "f.json, [0]: the part map is of 32 x 64 pixels, and a.jpg of 64 x 128. "
        "Remedy: make it of the crop as it lies on disk."
    )


def test_each_crop_is_looked_at_once_and_one_that_cannot_be_read_is_reported():
    asked = []

    def size(name):
        asked.append(name)
        if name == "b.jpg":
            raise DataError("crops/b.jpg", "is truncated", "copy it again")
        return 128, 64

    before = DataError("f.json, [99]", "was wrong", "correct it")
    found = fitted(file_of("a.jpg", "b.jpg", "c.jpg", problems=(before,)), size)
    assert asked == ["a.jpg", "b.jpg", "c.jpg"]
    assert list(found.found) == list(found.where) == ["a.jpg", "c.jpg"]
    assert found.problems[0] is before
    assert str(found.problems[1]) == "f.json, [1]: crops/b.jpg is truncated. Remedy: copy it again."


def test_a_reading_without_anything_usable_says_the_first_problem():
    reading = Reading("f.json")
    with pytest.raises(DataError) as error:
        reading.done()
    assert str(error.value) == "f.json: has no rows. Remedy: write the file again, or give another one."
    for row in range(3):
        with reading.row(f"f.json, [{row}]"):
            raise DataError("key points", "have no end", "stop")
    with pytest.raises(DataError) as error:
        reading.done()
    assert str(error.value) == (
        "f.json, [0]: key points have no end (and 2 more); nothing else can be used. Remedy: stop."
    )
    reading.add("a.jpg", "f.json, [3]", nobody())
    with reading.row("f.json, [4]"):
        reading.add("a.jpg", "f.json, [4]", nobody())
    with reading.row("f.json, [5]"):
        reading.add("", "f.json, [5]", nobody())
    file = reading.done()
    assert list(file.found) == ["a.jpg"]
    assert [(one.where, one.cause) for one in file.problems[3:]] == [
        ("f.json, [4]", "is of 'a.jpg', as is f.json, [3]"),
        ("f.json, [5]", "does not name its crop"),
    ]


def test_folders_are_read_through_links_and_without_clutter(tmp_path):
    for name in ("b/x.PNG", "a.png", "a.txt", ".hidden.png", "__MACOSX/a.png", ".git/a.png", "far/y.png"):
        file = tmp_path / "masks" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "masks" / "far").rename(tmp_path / "far")
    (tmp_path / "masks" / "near").symlink_to(tmp_path / "far")
    (tmp_path / "masks" / "loop").symlink_to(tmp_path / "masks")
    assert files_below(tmp_path / "masks", ".png") == ["a.png", "b/x.PNG", "near/y.png"]


def test_what_is_no_npz_file_is_named(tmp_path):
    def said(name):
        with pytest.raises(DataError) as error:
            load_arrays(tmp_path / name)
        assert error.value.where == str(tmp_path / name)
        assert error.value.remedy
        return error.value.cause

    (tmp_path / "text.npz").write_text("no arrays")
    (tmp_path / "empty.npz").touch()
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", names=np.array([{"a": 1}], object))
    np.savez(tmp_path / "damaged.npz", names=np.arange(9999))
    data = bytearray((tmp_path / "damaged.npz").read_bytes())
    data[5000] ^= 255
    (tmp_path / "damaged.npz").write_bytes(data)
    assert said("none.npz") == "cannot be read (No such file or directory)"
    assert said("text.npz") == said("empty.npz") == said("one.npy") == "is no npz file"
    assert "Object arrays cannot be loaded" in said("objects.npz")
    assert said("damaged.npz").startswith("cannot be read as npz (Bad CRC-32")
