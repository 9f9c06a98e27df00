from __future__ import annotations

import pytest

from glimpse.data.folders import open_crops, open_folder
from glimpse.errors import DataError

OWN = ["ben/2.jpg", "ben/1.jpg", "ann/a/1.jpg", "ann/b.jpg", "ann/c.jpg", "cat/only.jpg", "cat/notes.txt"]


def names(samples) -> list[tuple[str, int]]:
    return [(sample.name, sample.pid) for sample in samples]


@pytest.mark.parametrize("kind", ["folder", "zipped"])
def test_a_folder_per_person(request: pytest.FixtureRequest, kind: str) -> None:
    dataset = open_folder(request.getfixturevalue(kind)(OWN))
    assert names(dataset.train) == [
        ("ann/a/1.jpg", 1), ("ann/b.jpg", 1), ("ann/c.jpg", 1), ("ben/1.jpg", 2), ("ben/2.jpg", 2), ("cat/only.jpg", 3),
    ]  # fmt: skip
    assert names(dataset.query) == [("ann/a/1.jpg", 1), ("ben/1.jpg", 2)]
    assert names(dataset.gallery) == [("ann/b.jpg", 1), ("ann/c.jpg", 1), ("ben/2.jpg", 2), ("cat/only.jpg", 3)]
    assert not dataset.protocol.same_camera_rule
    assert dataset.notes == (
        "1 file ignored: not pictures.",
        "No split given: the first crop of each person is a query (2), the rest the gallery (4).",
        "The same crops make up train: do not evaluate a model here that was trained on them.",
        "1 person without two crops that could match: in the gallery only.",
    )


def test_split_folders_share_their_people(folder) -> None:
    path = folder(["train/ann/1.jpg", "query/ben/1.jpg", "gallery/ben/1.jpg", "gallery/_distractors/1.jpg"])
    dataset = open_folder(path)
    assert names(dataset.train) == [("train/ann/1.jpg", 1)]
    assert names(dataset.query) == [("query/ben/1.jpg", 2)]
    assert names(dataset.gallery) == [("gallery/_distractors/1.jpg", 0), ("gallery/ben/1.jpg", 2)]
    assert dataset.notes == ("1 crop in _distractors, taken as distractors (pid 0).",)


def test_people_in_train_and_query_are_noted(folder) -> None:
    dataset = open_folder(folder(["train/ann/1.jpg", "query/ann/2.jpg", "gallery/ann/3.jpg"]))
    assert dataset.notes == ("1 person both in train and query: results on them say little about new people.",)


def test_distractors_at_the_top_are_in_the_gallery_only(folder) -> None:
    dataset = open_folder(folder(["ann/1.jpg", "ann/2.jpg", "_distractors/1.jpg"]))
    assert names(dataset.train) == [("ann/1.jpg", 1), ("ann/2.jpg", 1)]
    assert names(dataset.gallery) == [("_distractors/1.jpg", 0), ("ann/2.jpg", 1)]


def test_distractors_cannot_be_trained_on(folder) -> None:
    with pytest.raises(DataError, match="a train crop cannot be a distractor"):
        open_folder(folder(["train/_distractors/1.jpg", "train/ann/1.jpg"]))


def test_the_folder_that_a_zip_wraps_around_everything(zipped) -> None:
    assert names(open_folder(zipped(["crops/ann/1.jpg", "crops/ben/1.jpg"])).train) == [
        ("crops/ann/1.jpg", 1), ("crops/ben/1.jpg", 2),
    ]  # fmt: skip


def test_one_crop_each_can_be_trained_on_but_not_evaluated(folder) -> None:
    dataset = open_folder(folder(["ann/1.jpg", "ben/1.jpg"]))
    assert len(dataset.train) == 2
    assert dataset.query == dataset.gallery == ()
    assert dataset.notes == ("No person has two crops that could match: there is nothing to evaluate on.",)


@pytest.mark.parametrize(
    ("files", "cause"),
    [
        (["a/readme.txt"], "holds no pictures"),
        (["ann/1.jpg", "loose.jpg"], r"1 picture outside a person's folder \(first: loose.jpg\)"),
        (["train/ann/1.jpg", "query/1.jpg"], r"1 picture outside a person's folder \(first: query/1.jpg\)"),
        (["train/ann/1.jpg", "ben/1.jpg"], r"both split folders \(train\) and others \(such as ben\)"),
    ],
)
def test_what_cannot_be_read_so(folder, files: list[str], cause: str) -> None:
    with pytest.raises(DataError, match=f"{cause}.*Remedy: arrange crops as"):
        open_folder(folder(files))


def test_crops_without_identities(folder, zipped) -> None:
    files = ["b/2.jpg", "1.jpg", "b/deep/3.jpg", "b/notes.txt", ".DS_Store"]
    for path in (folder(files), zipped(files)):
        heard: list[str] = []
        crops = open_crops(path, report=heard.append)
        assert names(crops) == [("1.jpg", 0), ("b/2.jpg", 0), ("b/deep/3.jpg", 0)]
        assert {sample.camid for sample in crops} == {None}
        assert heard == [f"1 file in {path} ignored: not pictures."]


def test_one_picture_is_a_gallery_too(folder) -> None:
    path = folder(["a/1.jpg", "a/2.jpg"]) / "a" / "2.jpg"
    (crop,) = open_crops(path)
    assert crop.path == str(path)
    assert crop.store.read(crop.name) == path.read_bytes()


def test_no_crops(folder, tmp_path) -> None:
    with pytest.raises(DataError, match=r"holds no pictures \(1 other file\)"):
        open_crops(folder(["a/notes.txt"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no files"):
        open_crops(tmp_path / "empty")
    with pytest.raises(DataError, match="does not exist"):
        open_crops(tmp_path / "missing.jpg")
