"""Boxes from a CSV file, and the crops they belong to."""

from __future__ import annotations

import pytest

from glimpse.data import Sample
from glimpse.errors import ConfigError, DataError
from glimpse.evaluation import match_prompts, read_prompts

BOX = (0.0, 0.0, 4.0, 8.0)


def test_reads_boxes(tmp_path) -> None:
    file = tmp_path / "boxes.csv"
    file.write_text('\ufeffpath,x0,y0,x1,y1\n"a, b.jpg",0,0,4,8\n\nq\\c.jpg,1.5,0,4,8\n', encoding="utf-8")
    assert read_prompts(file) == {"a, b.jpg": BOX, "q/c.jpg": (1.5, 0.0, 4.0, 8.0)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the header is ''"),
        ("name,x,y,w,h\n", "the header is 'name,x,y,w,h'"),
        ("path,x0,y0,x1,y1\n", "has no boxes"),
        ("path,x0,y0,x1,y1\na.jpg,0,0,4\n", "line 2: has 4 fields"),
        ("path,x0,y0,x1,y1\na.jpg,0,0,4,8\na.jpg,0,0,4,8\n", "line 3: 'a.jpg' has a box already"),
        ("path,x0,y0,x1,y1\na.jpg,0,0,4,eight\n", "line 2: a number cannot be read .*eight"),
        ("path,x0,y0,x1,y1\na.jpg,4,0,4,8\n", "4,0,4,8 is no box"),
        ("path,x0,y0,x1,y1\na.jpg,-1,0,4,8\n", "-1,0,4,8 is no box"),
        ("path,x0,y0,x1,y1\na.jpg,0,0,nan,8\n", "is no box"),
        ("path,x0,y0,x1,y1\n,0,0,4,8\n", "the path is empty"),
    ],
)
def test_says_what_is_wrong_and_where(tmp_path, text: str, message: str) -> None:
    file = tmp_path / "boxes.csv"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_prompts(file)
    assert "boxes.csv" in error.value.where


def test_missing_or_binary_files_are_said_so(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_prompts(tmp_path / "none.csv")
    (tmp_path / "picture.csv").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_prompts(tmp_path / "picture.csv")


def samples(store, *names: str) -> list[Sample]:
    return [Sample(store, name, 1) for name in names]


def test_a_prompt_finds_its_crop_by_the_end_of_the_path(store) -> None:
    crops = samples(store, "query/1.png", "gallery/1.png", "gallery/2.png")
    assert match_prompts({"2.png": BOX, "query/1.png": BOX, "memory/gallery/1.png": BOX}, crops) == dict.fromkeys(
        range(3), BOX
    )


def test_a_name_that_only_ends_alike_is_another_crop(store) -> None:
    with pytest.raises(DataError, match="there is no such crop"):
        match_prompts({"1.png": BOX}, samples(store, "query/11.png"))


def test_an_ambiguous_prompt_is_an_error(store) -> None:
    with pytest.raises(DataError, match=r"fits more than one crop .*query/1\.png.*gallery/1\.png"):
        match_prompts({"1.png": BOX}, samples(store, "query/1.png", "gallery/1.png"))


def test_one_file_on_both_sides_is_one_crop(store) -> None:
    assert match_prompts({"1.png": BOX}, samples(store, "all/1.png", "all/2.png", "all/1.png")) == {0: BOX, 2: BOX}


def test_two_prompts_for_one_crop_are_an_error(store) -> None:
    with pytest.raises(DataError, match="has two prompts"):
        match_prompts({"1.png": BOX, "query/1.png": BOX}, samples(store, "query/1.png"))
