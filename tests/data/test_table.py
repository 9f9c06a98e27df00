from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from glimpse.data.table import open_table
from glimpse.errors import DataError

Writer = Callable[[str], Path]


@pytest.fixture
def table(folder) -> Writer:
    """Writes a CSV beside the crops a/1.jpg to a/6.jpg."""

    def write(text: str) -> Path:
        path = folder([f"a/{row}.jpg" for row in range(1, 7)]) / "list.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def crops(samples) -> list[tuple[str, int, int | None]]:
    return [(sample.name, sample.pid, sample.camid) for sample in samples]


def test_every_column(table: Writer) -> None:
    path = table(
        "split,path,pid,camid,time\n"
        "train,a/1.jpg,7,1,0.5\n"
        "query,a/2.jpg,9,2,1.5\n"
        'gallery,"a/3.jpg",9,3,\n'
        "\n"
        "gallery,./a/4.jpg,0,1,\n"
        "gallery,a/5.jpg,-1,1,\n"
    )
    dataset = open_table(path)
    assert crops(dataset.train) == [("a/1.jpg", 7, 1)]
    assert crops(dataset.query) == [("a/2.jpg", 9, 2)]
    assert crops(dataset.gallery) == [("a/3.jpg", 9, 3), ("a/4.jpg", 0, 1)]
    assert [dataset.train[0].time, dataset.gallery[0].time] == [0.5, None]
    assert dataset.protocol.same_camera_rule
    assert dataset.notes == (
        "1 junk crop (pid -1) dropped.",
        "1 distractor (pid 0): in the gallery, never a right answer.",
    )
    assert dataset.train[0].store.read(dataset.train[0].name) == (path.parent / "a/1.jpg").read_bytes()


def test_names_are_numbered_in_order(table: Writer) -> None:
    text = "path,pid,camid,split\na/1.jpg,zoe,gate,train\na/2.jpg,ann,yard,train\na/3.jpg,0,gate,gallery\n"
    dataset = open_table(table(text))
    assert crops(dataset.train) == [("a/1.jpg", 2, 1), ("a/2.jpg", 1, 2)]
    assert crops(dataset.gallery) == [("a/3.jpg", 0, 1)]
    assert dataset.notes[:2] == (
        "pid: 2 names numbered from 1 in alphabetical order (1 is ann).",
        "camid: 2 names numbered from 1 in alphabetical order (1 is gate).",
    )


def test_two_spellings_of_a_number_are_two_names(table: Writer) -> None:
    dataset = open_table(table("path,pid,split\na/1.jpg,7,train\na/2.jpg,007,train\na/3.jpg,8,train\n"))
    assert [sample.pid for sample in dataset.train] == [2, 1, 3]


def test_without_splits_first_crops_ask(table: Writer) -> None:
    dataset = open_table(table("path,pid\n" + "".join(f"a/{row}.jpg,{row % 2 + 1}\n" for row in range(1, 7))))
    assert len(dataset.train) == 6
    assert crops(dataset.query) == [("a/1.jpg", 2, None), ("a/2.jpg", 1, None)]
    assert len(dataset.gallery) == 4
    assert not dataset.protocol.same_camera_rule


def test_without_splits_but_with_cameras_every_query_has_a_match(table: Writer) -> None:
    rows = "a/1.jpg,1,1\na/2.jpg,1,1\na/3.jpg,1,2\na/4.jpg,2,1\na/5.jpg,2,1\na/6.jpg,3,1\n"
    dataset = open_table(table("path,pid,camid\n" + rows))
    assert crops(dataset.query) == [("a/3.jpg", 1, 2)]
    relevance = dataset.protocol.relevance(dataset.query, dataset.gallery, without_match="error")
    assert relevance.match_counts.tolist() == [2]


def test_a_bom_spaces_and_windows_line_ends(table: Writer) -> None:
    dataset = open_table(table("\ufeffpath, pid ,split\r\n a/1.jpg , ann ,train\r\n"))
    assert crops(dataset.train) == [("a/1.jpg", 1, None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"list\.csv:1: there is no column path and pid; found nothing"),
        ("path;pid\na/1.jpg;1\n", r"list\.csv:1: there is no column path and pid; found path;pid.*by commas"),
        ("path,person\na/1.jpg,1\n", r"list\.csv:1: there is no column pid; found path, person"),
        ("path,pid,colour\na/1.jpg,1,red\n", r"list\.csv:1: unknown column 'colour'"),
        ("path,pid,pid\na/1.jpg,1,1\n", r"list\.csv:1: a column is named twice"),
        ("path,pid\n", r"list\.csv: has no rows"),
        ("path,pid\na/1.jpg,1\na/2.jpg\n", r"list\.csv:3: has 1 cells, the header has 2"),
        ("path,pid\na/1.jpg,1\na,2.jpg,1\n", r"list\.csv:3: has 3 cells.*double quotes"),
        ("path,pid\na/1.jpg,\n", r"list\.csv:2, column pid: .*at least 1 character"),
        ("path,pid,time\na/1.jpg,1,noon\n", r"list\.csv:2, column time: .*valid number.*'noon'"),
        ("path,pid,time\na/1.jpg,1,nan\n", r"list\.csv:2, column time: .*finite"),
        ("path,pid,split\na/1.jpg,1,test\n", r"list\.csv:2, column split: .*'train', 'query' or 'gallery'.*'test'"),
        (
            "path,pid\na/1.jpg,1\na/9.jpg,1\nb.jpg,1\n",
            r"csv:3, column path: there is no file a/9.jpg \(nor those of 1 other",
        ),
        ("path,pid,camid\na/1.jpg,1,1\na/2.jpg,1,\n", r"csv:3, column camid: is empty here and in 1 of 2 rows"),
        ("path,pid,split\na/1.jpg,1,\na/2.jpg,1,train\n", r"csv:2, column split: is empty here and in 1 of 2 rows"),
        ("path,pid\na/1.jpg,1\n./a/1.jpg,2\n", r"csv:3, column path: ./a/1.jpg was listed before, in line 2"),
        ("path,pid,split\na/1.jpg,0,query\n", r"csv:2, column pid: 0 means nobody in particular, in query"),
        (
            "path,pid,split\na/1.jpg,1,query\na/2.jpg,1,gallery\na/1.jpg,1,gallery\n",
            r"csv:4, column split: 1 crop both in query and gallery, where a crop finds itself \(first: a/1.jpg\)",
        ),
        ('path,pid\n"a/1.jpg,1\n', r"list\.csv:2: is not valid CSV"),
    ],
)
def test_every_mistake_is_named_with_its_line(table: Writer, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        open_table(table(text))
    assert caught.value.remedy


def test_with_cameras_a_query_may_be_in_the_gallery(table: Writer) -> None:
    dataset = open_table(table("path,pid,camid,split\na/1.jpg,1,1,query\na/1.jpg,1,1,gallery\na/2.jpg,1,2,gallery\n"))
    relevance = dataset.protocol.relevance(dataset.query, dataset.gallery)
    assert relevance.ignored(0).tolist() == [0]
    assert relevance.matches(0).tolist() == [1]


def test_missing_files_can_be_skipped(table: Writer) -> None:
    path = table("path,pid\na/9.jpg,1\na/1.jpg,1\na/2.jpg,1\n")
    dataset = open_table(path, skip_bad=True)
    assert dataset.notes[0] == "1 row skipped: missing files (first: a/9.jpg)."
    assert len(dataset.train) == 2
    with pytest.raises(DataError, match="every row names a missing file"):
        open_table(table("path,pid\na/9.jpg,1\n"), skip_bad=True)


def test_files_that_are_no_csv(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        open_table(tmp_path / "none.csv")
    (tmp_path / "a.csv").write_bytes(b"path,pid\n\xff\xfe\xfa,1\n")
    with pytest.raises(DataError, match="is not text in UTF-8"):
        open_table(tmp_path / "a.csv")


def test_absolute_paths(table: Writer) -> None:
    path = table("")
    path.write_text(f"path,pid,split\n{path.parent / 'a/1.jpg'},1,train\n")
    (crop,) = open_table(path).train
    assert crop.store.read(crop.name) == (path.parent / "a/1.jpg").read_bytes()
