from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

import glimpse.gallery.incoming as incoming
from glimpse.data import FolderStore, open_dataset
from glimpse.errors import ConfigError, DataError
from glimpse.gallery.incoming import (
    Incoming,
    IncomingCrops,
    ahead,
    decoded,
    file_content,
    open_files,
    open_incoming,
    open_list,
    open_split,
    pixel_content,
)

Maker = Callable[[Iterable[str]], Path]
Writer = Callable[[str], IncomingCrops]
Known = tuple[str, str | None, str | None, int | None]


def good(crops: Iterable[Incoming | DataError]) -> list[Incoming]:
    """The crops, where there are no errors."""
    found = list(crops)
    assert [crop for crop in found if isinstance(crop, DataError)] == []
    return [crop for crop in found if isinstance(crop, Incoming)]


def known(crops: Iterable[Incoming | DataError], root: Path) -> list[Known]:
    return [(c.source.removeprefix(f"{root}/"), c.pid, c.camera, c.frame) for c in good(crops)]


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(data: bytes, where: str) -> Image.Image:
        raise AssertionError(f"{where} was decoded")

    monkeypatch.setattr(incoming, "decode", refuse)


# What names say ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", ["folder", "zipped"])
def test_crops_at_any_depth_of_which_nothing_is_known(maker: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(maker)(["b/c/1.jpg", "a.jpg", "b/readme.txt"])
    crops = open_files(path)
    assert known(crops, path) == [("a.jpg", None, None, None), ("b/c/1.jpg", None, None, None)]
    assert len(crops) == 2
    assert crops.notes == (f"1 file in {path} ignored: not pictures.",)
    assert [crop.read().size for crop in good(crops)] == [(8, 16)] * 2


def test_names_as_in_market1501_tell_person_camera_and_frame(zipped: Maker) -> None:
    names = ["x/0002_c1s1_000451_03.jpg", "x/0007_c3s2_000010_01.jpg.jpg", "x/0000_c2s1_000001_00.jpg"]
    path = zipped([*names, "x/-1_c1s1_000401_00.jpg", "x/holiday.jpg"])
    crops = open_files(path)
    assert known(crops, path) == [
        ("x/-1_c1s1_000401_00.jpg", None, "1", 401),
        ("x/0000_c2s1_000001_00.jpg", None, "2", 1),
        ("x/0002_c1s1_000451_03.jpg", "2", "1", 451),
        ("x/0007_c3s2_000010_01.jpg.jpg", "7", "3", 1_000_010),
        ("x/holiday.jpg", None, None, None),
    ]
    assert crops.notes == (
        "Person, camera and frame are read from 4 file names, such as x/-1_c1s1_000401_00.jpg.",
        "2 crops of nobody in particular (pid 0 or -1): no person is noted.",
    )


@pytest.mark.parametrize("around", ["", "gallery/"])
def test_a_folder_per_person_names_people(folder: Maker, around: str) -> None:
    path = folder([f"{around}zoe/1.jpg", f"{around}ann/cam/0002_c5s1_000451_03.jpg", f"{around}_distractors/9.jpg"])
    crops = open_files(path, people=True)
    assert known(crops, path) == [
        (f"{around}_distractors/9.jpg", None, None, None),
        (f"{around}ann/cam/0002_c5s1_000451_03.jpg", "ann", "5", 451),
        (f"{around}zoe/1.jpg", "zoe", None, None),
    ]
    assert crops.notes == (
        f"Camera and frame are read from 1 file name, such as {around}ann/cam/0002_c5s1_000451_03.jpg.",
        "1 crop of nobody in particular (in _distractors): no person is noted.",
    )


def test_the_folder_that_a_zip_puts_around_people_is_none_of_them(zipped: Maker) -> None:
    path = zipped(["set/ann/1.jpg", "set/zoe/1.jpg"])
    assert known(open_files(path, people=True), path) == [
        ("set/ann/1.jpg", "ann", None, None),
        ("set/zoe/1.jpg", "zoe", None, None),
    ]


def test_pictures_outside_of_a_persons_folder_are_refused_where_folders_are_people(folder: Maker) -> None:
    with pytest.raises(DataError, match=r"1 picture outside a person's folder \(first: 1.jpg\)"):
        open_files(folder(["1.jpg", "ann/1.jpg"]), people=True)


def test_a_dataset_says_itself_who_is_who(folder: Maker) -> None:
    path = folder(
        [
            "bounding_box_train/0002_c1s1_000451_03.jpg",
            "query/0003_c1s2_000451_03.jpg",
            "bounding_box_test/0003_c2s1_000451_03.jpg",
            "bounding_box_test/0000_c2s1_000452_03.jpg",
            "bounding_box_test/-1_c2s1_000453_03.jpg",
        ]
    )
    crops = open_split(f"market1501:{path}", "gallery")
    assert known(crops, path) == [
        ("bounding_box_test/0000_c2s1_000452_03.jpg", None, "2", 452),
        ("bounding_box_test/0003_c2s1_000451_03.jpg", "3", "2", 451),
    ]
    assert "1 junk crop (pid -1) dropped from gallery." in crops.notes
    assert len(open_split(f"market1501:{path}")) == 4
    with pytest.raises(DataError, match=r"there is no split 'test'"):
        open_split(f"market1501:{path}", "test")  # type: ignore[arg-type]


def test_a_dataset_of_folders_keeps_the_names_of_people_and_each_crop_once(folder: Maker) -> None:
    path = folder(["ann/1.jpg", "ann/2.jpg", "zoe/1.jpg", "zoe/2.jpg"])
    people = ["ann", "ann", "zoe", "zoe"]
    assert [crop.pid for crop in good(open_split(f"folder:{path}"))] == people  # train is query and gallery once more
    assert [crop.pid for crop in good(open_split(f"folder:{path}", "query"))] == ["ann", "zoe"]


def test_times_of_a_dataset_are_handed_on(folder: Maker) -> None:
    path = folder(["1.jpg", "2.jpg"]) / "list.csv"
    path.write_text("path,pid,camid,time,split\n1.jpg,4,2,12.5,gallery\n2.jpg,0,2,,gallery\n")
    crops = good(open_split(f"csv:{path}", "gallery"))
    assert [(crop.pid, crop.camera, crop.time, crop.frame) for crop in crops] == [
        ("4", "2", 12.5, None),
        (None, "2", None, None),
    ]


def test_what_a_spec_is_can_be_told(folder: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(["ann/1.jpg", "ann/2.jpg", "zoe/1.jpg"])
    (path / "list.csv").write_text("path,pid\nann/1.jpg,x\n")
    monkeypatch.setenv("HOME", str(path))
    assert [crop.pid for crop in good(open_incoming(path))] == [None] * 3
    assert [crop.pid for crop in good(open_incoming(path, people=True))] == ["ann", "ann", "zoe"]
    assert [crop.pid for crop in good(open_incoming("~/list.csv"))] == ["x"]
    assert [crop.pid for crop in good(open_incoming(f"folder:{path}", split="gallery"))] == ["ann", "zoe"]
    assert len(open_incoming(path / "ann" / "1.jpg")) == 1


@pytest.mark.parametrize(
    ("spec", "options", "where", "cause"),
    [
        ("{}", {"split": "gallery"}, "split", "{} is no dataset and has no split 'gallery'"),
        ("{}/list.csv", {"people": True}, "people", "{}/list.csv is a list of crops"),
        ("folder:{}", {"people": True}, "people", "folder:{} is a dataset, which says itself who is who"),
        ("market:{}", {}, "market:{}", "there is no kind of dataset 'market'; did you mean market1501?"),
        ("{}/none", {}, "{}/none", "does not exist"),
        ("{}/empty", {}, "{}/empty", "holds no pictures (1 other file)"),
    ],
)
def test_options_that_do_not_go_with_what_is_given(
    folder: Maker, spec: str, options: dict[str, object], where: str, cause: str
) -> None:
    path = folder(["ann/1.jpg", "list.csv", "empty/a.txt"])
    with pytest.raises((ConfigError, DataError)) as error:
        open_incoming(spec.format(path), **options)  # type: ignore[arg-type]
    assert error.value.where == where.format(path)
    assert error.value.cause == cause.format(path)
    assert error.value.remedy


# Content and decoding ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_decoding")
def test_content_is_known_without_decoding_and_of_the_bytes_alone(folder: Maker) -> None:
    path = folder(["a.jpg", "b.jpg", "c.jpg"])
    (path / "c.jpg").write_bytes((path / "a.jpg").read_bytes())
    crops = good(open_files(path))
    assert crops[0].content == crops[2].content == file_content((path / "a.jpg").read_bytes()) != crops[1].content
    assert crops[0].data == (path / "a.jpg").read_bytes()
    everything = {crop.content for crop in crops}
    assert good(decoded(open_files(path), everything)) == crops
    assert all(len(content) == 32 and set(content) <= set("0123456789abcdef") for content in everything)


def test_content_of_pixels_is_of_size_and_colours_and_no_file() -> None:
    wide, high = Image.new("RGB", (4, 2), "red"), Image.new("RGB", (2, 4), "red")
    contents = {pixel_content(wide), pixel_content(high), pixel_content(Image.new("RGB", (4, 2), "blue"))}
    assert len(contents | {file_content(wide.tobytes()), file_content(b"")}) == 5
    assert pixel_content(wide) == pixel_content(wide.copy())


def test_only_crops_that_are_not_known_are_decoded(folder: Maker) -> None:
    path = folder([f"{row:02}.jpg" for row in range(40)])
    crops = good(open_files(path))
    first = {crop.content for crop in crops[:30]}
    found = good(decoded(open_files(path), first))
    assert [crop.source for crop in found] == [crop.source for crop in crops]
    assert [crop.image is not None for crop in found] == [False] * 30 + [True] * 10
    assert found[35].image == crops[35].read()


def test_a_bad_file_comes_as_its_error_in_its_place(folder: Maker) -> None:
    path = folder([f"{row}.jpg" for row in range(5)])
    crops = open_files(path)
    (path / "1.jpg").unlink()
    (path / "2.jpg").write_bytes(b"no picture")
    (path / "3.jpg").write_bytes(b"")
    found = list(decoded(crops))
    assert [isinstance(crop, Incoming) for crop in found] == [True, False, False, False, True]
    assert [f"{error.where}: {error.cause}" for error in found if isinstance(error, DataError)] == [
        f"{path}/1.jpg: there is no such file",
        f"{path}/2.jpg: is not a picture of a format that is read (JPEG, PNG, BMP, TIFF, WEBP, PPM, GIF)",
        f"{path}/3.jpg: the file is empty",
    ]


def test_crops_can_be_gone_through_again_and_are_read_as_they_are_asked_for(
    folder: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder([f"{row:03}.jpg" for row in range(500)])
    read: list[str] = []
    take = FolderStore.read
    monkeypatch.setattr(FolderStore, "read", lambda store, name: read.append(name) or take(store, name))
    crops = open_files(path)
    assert read == []
    first = good(islice(crops, 3))
    assert len(read) == 3
    assert len(good(islice(decoded(crops), 1))) == 1
    assert len(read) <= 3 + 16 * (incoming.THREADS + 2)
    assert good(crops)[:3] == first
    assert len(good(crops)) == len(crops) == 500


def test_work_ahead_keeps_the_order_is_bounded_and_stops() -> None:
    taken: list[int] = []
    threads: set[int] = set()

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    def work(item: int) -> int:
        threads.add(threading.get_ident())
        time.sleep(0.001 * (item % 3))
        return item * item

    assert list(ahead(work, items(), chunk=3, threads=4)) == [item * item for item in range(100)]
    assert threading.get_ident() not in threads
    taken.clear()
    results = ahead(work, items(), chunk=3, threads=4)
    assert taken == []
    assert next(results) == 0
    assert len(taken) <= 3 * 6
    results.close()  # type: ignore[attr-defined]
    assert len(taken) <= 3 * 6
    threads.clear()
    assert list(ahead(work, range(9), chunk=3, threads=4, quick=lambda item: item < 4)) == [i * i for i in range(9)]
    assert threading.get_ident() in threads
    assert len(threads) > 1
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 // item, [1, 0, 1]))


# A list --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def listed(folder: Maker) -> Writer:
    """Writes a CSV beside the crops a/1.jpg and a/2.jpg (8 x 16), and opens it."""

    def write(text: str) -> IncomingCrops:
        path = folder(["a/1.jpg", "a/2.jpg"]) / "list.csv"
        path.write_text(text, encoding="utf-8")
        return open_list(path)

    return write


def test_every_column_of_a_list(listed: Writer) -> None:
    crops = listed(
        "\ufefftags, path ,pid,camid,time,track\r\n"
        "red; tall ;;red,a/1.jpg,ann,gate,12.5,t:1\r\n"
        ",./a/../a/2.jpg,,,,\r\n"
        ",a/2.jpg,0,gate,,\r\n"
    )
    root = Path(crops.source).parent
    assert len(crops) == 3
    assert good(crops) == [
        Incoming(
            file_content((root / "a/1.jpg").read_bytes()),
            f"{root}/a/1.jpg",
            pid="ann",
            camera="gate",
            track="t:1",
            time=12.5,
            tags=("red", "tall"),
        ),
        Incoming(file_content((root / "a/2.jpg").read_bytes()), f"{root}/a/2.jpg"),
        Incoming(file_content((root / "a/2.jpg").read_bytes()), f"{root}/a/2.jpg", camera="gate"),
    ]
    assert crops.notes == ("1 crop of nobody in particular (pid 0 or -1): no person is noted.",)


def test_boxes_of_a_list_are_cut_and_a_picture_is_read_once(listed: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    take = FolderStore.read
    monkeypatch.setattr(FolderStore, "read", lambda store, name: read.append(name) or take(store, name))
    crops = listed(
        "path,x0,y0,x1,y1,camera\n"
        "a/1.jpg,2,4,6,14,gate\n"
        "a/2.jpg,,,,,gate\n"
        "a/1.jpg,-3,-3,3,3.4,\n"
        "a/1.jpg,,,,,\n"
        "a/1.jpg,20,20,30,30,\n"
    )
    first, second, whole, outside, other = list(crops)
    assert sorted(read) == ["a/1.jpg", "a/2.jpg"]
    assert isinstance(first, Incoming)
    assert isinstance(second, Incoming)
    assert isinstance(whole, Incoming)
    assert isinstance(other, Incoming)
    assert (first.box, first.camera, first.data, first.read().size) == ((2, 4, 6, 14), "gate", None, (4, 10))
    assert first.content == pixel_content(whole.read().crop((2, 4, 6, 14)))
    assert (second.box, second.read().size) == ((0, 0, 3, 3), (3, 3))
    assert (whole.box, whole.content) == (None, file_content(whole.data or b""))
    assert other.source.endswith("a/2.jpg")
    assert isinstance(outside, DataError)
    assert outside.where == f"{crops.source}:6, columns x0 to y1"
    assert outside.cause == "the box 20, 20, 30, 30 holds nothing of the picture, which is 8 x 16 pixels"


@pytest.mark.usefixtures("no_decoding")
def test_rows_without_boxes_are_not_decoded(listed: Writer) -> None:
    crops = good(listed("path,x0,y0,x1,y1\na/1.jpg,,,,\na/2.jpg,,,,\n"))
    assert good(decoded(crops, {crop.content for crop in crops})) == crops


@pytest.mark.parametrize(
    ("row", "column", "cause"),
    [
        ("a/9.jpg,1,,,,,", ", column path", "there is no file a/9.jpg"),
        ("a,1,,,,,", ", column path", "there is no file a"),
        ("list.csv,1,0,0,1,1,", ", column path", "list.csv: is not a picture of a format that is read"),
        (",1,,,,,", ", column path", "string should have at least 1 character, found ''"),
        ("a/1.jpg,1,,,,,noon", ", column time", "input should be a valid number, unable to parse string as a number"),
        ("a/1.jpg,1,,,,,inf", ", column time", "input should be a finite number, found 'inf'"),
        ("a/1.jpg,1,left,0,1,1,", ", column x0", "input should be a valid number"),
        ("a/1.jpg,1,1,2,3,,", "", "only some of x0, y0, x1 and y1 are filled"),
        ("a/1.jpg,1,3,0,3,9,", "", "the box is empty: x0 has to be below x1, and y0 below y1"),
        ("a/1.jpg,1", "", "has 2 cells, the header has 7"),
    ],
)
def test_a_bad_row_comes_as_its_error_and_the_others_still_come(
    listed: Writer, row: str, column: str, cause: str
) -> None:
    crops = listed(f"path,pid,x0,y0,x1,y1,time\na/1.jpg,1,,,,,\n{row}\n\na/2.jpg,2,,,,,\n")
    found = list(crops)
    assert len(crops) == len(found) == 3
    assert [crop.pid for crop in found if isinstance(crop, Incoming)] == ["1", "2"]
    (error,) = [crop for crop in found if isinstance(crop, DataError)]
    assert error.where == f"{crops.source}:3{column}"
    assert error.cause.startswith(cause)
    assert error.remedy


def test_no_right_row_is_an_error(listed: Writer) -> None:
    with pytest.raises(DataError, match=r"list\.csv:2, column time: input.*'x' \(and no other of 2 rows is right\)"):
        listed("path,time\na/1.jpg,x\na/2.jpg,y\n")
    with pytest.raises(DataError, match=r"list\.csv:2, column time: input should be a finite number, found 'nan'\. "):
        listed("path,time\na/1.jpg,nan\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"list\.csv:1: there is no column path; found nothing"),
        ("path;pid\na/1.jpg;1\n", r"list\.csv:1: there is no column path; found path;pid.*separated by commas"),
        ("path,colour\na/1.jpg,red\n", r"list\.csv:1: unknown column 'colour'"),
        ("path,split\na/1.jpg,train\n", r"unknown column 'split'.*a list with splits is a dataset: csv:.*list\.csv"),
        ("path,camid,camera\na/1.jpg,1,1\n", r"list\.csv:1: a column is named twice.*camid and camera are the same"),
        ("path,x0,x1\na/1.jpg,1,2\n", r"list\.csv:1: there is no column y0 and y1"),
        ("path,pid\n", r"list\.csv: has no rows"),
        ('path,pid\n"a/1.jpg,1\n', r"list\.csv:2: is not valid CSV"),
    ],
)
def test_a_file_that_is_no_list_is_refused(listed: Writer, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        listed(text)
    assert error.value.remedy


def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        open_list(tmp_path / "none.csv")
    (tmp_path / "a.csv").write_bytes(b"path\n\xff\xfe\xfa\n")
    with pytest.raises(DataError, match="is not text in UTF-8"):
        open_list(tmp_path / "a.csv")


# Real crops ----------------------------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_the_files_of_market1501_say_what_the_dataset_says(shared: Path) -> None:
    path = shared / "data" / "Market-1501-v15.09.15.zip"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    dataset = open_dataset(f"market1501:{path}")
    said = {sample.path: sample for sample in (*dataset.train, *dataset.query, *dataset.gallery)}
    crops = open_files(path)
    assert len(crops) == 12_936 + 3_368 + 19_732
    junk = 3_819  # whose names come first
    found = good(islice(crops, junk + 2_798 + 400))
    assert all(crop.pid is None for crop in found[: junk + 2_798])
    assert not any(crop.source in said for crop in found[:junk])
    for crop in found[junk:]:
        sample = said[crop.source]
        assert (crop.pid, crop.camera, crop.frame) == (
            str(sample.pid) if sample.pid else None,
            str(sample.camid),
            sample.time,
        )
    assert found[-1].pid is not None
    train = good(islice(decoded(open_incoming(f"market1501:{path}", split="train")), 300))
    assert [(c.source, c.pid, c.camera) for c in train] == [
        (s.path, str(s.pid), str(s.camid)) for s in dataset.train[:300]
    ]
    assert {c.image.size for c in train if c.image} == {(64, 128)}
    assert len({c.content for c in train}) == 300
