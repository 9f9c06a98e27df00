"""Market-1501, Partial-REID and the way in, on drawn copies of the layouts."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest

from glimpse.data.dataset import Dataset
from glimpse.data.layouts import KINDS, open_dataset
from glimpse.data.protocol import Protocol
from glimpse.errors import DataError

MARKET = [
    "bounding_box_train/0002_c1s1_000451_03.jpg",
    "bounding_box_train/0002_c2s2_000010_01.jpg",
    "bounding_box_train/Thumbs.db",
    "query/0001_c1s1_001051_00.jpg",
    "query/0003_c6s4_000001_00.jpg.jpg",
    "bounding_box_test/0001_c2s1_001051_01.jpg",
    "bounding_box_test/0000_c2s1_001051_01.jpg",
    "bounding_box_test/-1_c2s1_001051_01.jpg",
    "bounding_box_test/-1_c2s1_001051_02.jpg",
    "gt_bbox/0001_c1s1_001051_00.jpg",
    "readme.txt",
]
PARTIAL = [f"{side}/{pid:03}_{index:03}.jpg" for side in ("occluded_body_images", "partial_body_images",
           "whole_body_images") for pid in (1, 2, 3) for index in (1, 2)]  # fmt: skip
PARTIAL += [".DS_Store", "whole_body_images/.DS_Store", "Readme.txt"]


def below(top: str, names: list[str]) -> list[str]:
    return [top + name for name in names]


def said(dataset: Dataset) -> list[tuple[str, list[tuple[int, int | None]]]]:
    return [(name, [(s.pid, s.camid) for s in getattr(dataset, name)]) for name in ("train", "query", "gallery")]


@pytest.mark.parametrize("top", ["", "Market-1501-v15.09.15/", "a/b/"])
@pytest.mark.parametrize("kind", ["folder", "zipped"])
@pytest.mark.parametrize("spec", ["market1501:{}", "{}"])
def test_market(request: pytest.FixtureRequest, top: str, kind: str, spec: str) -> None:
    path = request.getfixturevalue(kind)(below(top, MARKET))
    dataset = open_dataset(spec.format(path))
    assert said(dataset) == [
        ("train", [(2, 1), (2, 2)]),
        ("query", [(1, 1), (3, 6)]),
        ("gallery", [(0, 2), (1, 2)]),
    ]
    assert [sample.time for sample in dataset.train] == [451.0, 1_000_010.0]
    assert dataset.notes == (
        "2 junk crops (pid -1) dropped from gallery.",
        "1 distractor (pid 0) kept in the gallery.",
    )
    assert dataset.protocol.same_camera_rule
    assert dataset.spec == f"market1501:{path}"
    assert dataset.query[0].path == f"{path}/{top}query/0001_c1s1_001051_00.jpg"


def test_a_name_that_does_not_fit(folder) -> None:
    path = folder([*MARKET, "query/person7.jpg"])
    with pytest.raises(DataError, match=r"query/person7\.jpg: the file name is not of the form PID_cCAMERA") as caught:
        open_dataset(f"market1501:{path}")
    assert "skip_bad" in caught.value.remedy
    dataset = open_dataset(f"market1501:{path}", skip_bad=True)
    assert "1 file in query skipped: names that do not fit (first: query/person7.jpg)." in dataset.notes
    assert len(dataset.query) == 2


def test_a_distractor_cannot_be_trained_on_or_asked_for(folder) -> None:
    with pytest.raises(DataError, match=r"query/0000_c1s1_000001_00\.jpg: a query crop has pid 0"):
        open_dataset(f"market1501:{folder([*MARKET, 'query/0000_c1s1_000001_00.jpg'])}")


def test_the_layout_twice(folder) -> None:
    path = folder([*below("a/", MARKET), *below("b/", MARKET)])
    with pytest.raises(DataError, match=r"holds the layout more than once \(.*/set/a/ and .*/set/b/\)"):
        open_dataset(f"market1501:{path}")
    path = folder([*below("a/", PARTIAL), *below("b/", PARTIAL)])
    with pytest.raises(DataError, match="holds the layout more than once"):
        open_dataset(f"partialreid:{path}")


def test_a_set_with_queries_only_says_what_it_has(folder) -> None:
    dataset = open_dataset(f"market1501:{folder(['query/0001_c1s1_000001_00.jpg'])}")
    with pytest.raises(DataError, match=r"has no train crops; it has 1 query crop of 1 person.*train on another"):
        dataset.split("train")
    assert dataset.split("query") == dataset.query
    with pytest.raises(DataError, match=r"there is no split 'test'.*train, query, gallery"):
        dataset.split("test")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no crops at all"):
        Dataset("empty", Protocol("none", same_camera_rule=False)).split("gallery")


@pytest.mark.parametrize("top", ["", "Partial-REID_Dataset/"])
@pytest.mark.parametrize("kind", ["folder", "zipped"])
def test_partial_reid(request: pytest.FixtureRequest, top: str, kind: str) -> None:
    path = request.getfixturevalue(kind)(below(top, PARTIAL))
    for spec, probes in (("partialreid", "occluded_body_images"), ("partialreid-cropped", "partial_body_images")):
        dataset = open_dataset(f"{spec}:{path}")
        pids = [(pid, None) for pid in (1, 1, 2, 2, 3, 3)]  # the second number is no camera
        assert said(dataset) == [("train", []), ("query", pids), ("gallery", pids)]
        assert {sample.name.split("/")[-2] for sample in dataset.query} == {probes}
        assert not dataset.protocol.same_camera_rule
        assert dataset.protocol.per_identity == 2
        assert dataset.protocol.relevance(dataset.query, dataset.gallery).match_counts.tolist() == [2] * 6


def test_partial_reid_in_a_zip_in_a_zip(zipped, tmp_path) -> None:
    inner = zipped(below("Partial-REID_Dataset/", PARTIAL))
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as file:
        file.write(inner, "x/Partial-REID_Dataset.zip")
        file.writestr("x/Other.zip", b"")
        file.writestr("__MACOSX/x/._Partial-REID_Dataset.zip", b"junk")
    with pytest.raises(DataError, match=r"Other\.zip: is not a zip, or is damaged"):
        open_dataset(f"partialreid:{tmp_path / 'outer.zip'}")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as file:
        file.write(inner, "x/Partial-REID_Dataset.zip")
    dataset = open_dataset(f"partialreid:{tmp_path / 'outer.zip'}")
    assert len(dataset.query) == 6
    sample = pickle.loads(pickle.dumps(dataset.query[0]))
    assert sample == dataset.query[0]
    assert sample.store.read(sample.name)[:2] == b"\xff\xd8"


def test_partial_reid_that_is_not_complete(folder) -> None:
    path = folder([*PARTIAL, "whole_body_images/003_003.jpg"])
    assert open_dataset(f"partialreid:{path}").protocol.per_identity is None
    folder(["whole_body_images/last.jpg", "whole_body_images/notes.txt"])
    with pytest.raises(DataError, match=r"whole_body_images/last\.jpg: the file name is not of the form PID_INDEX"):
        open_dataset(f"partialreid:{path}")
    assert open_dataset(f"partialreid:{path}", skip_bad=True).notes == (
        "1 file in whole_body_images ignored: not pictures.",
        "1 file in whole_body_images skipped: names that do not fit (first: whole_body_images/last.jpg).",
    )


def test_folders_that_are_not_there(folder) -> None:
    path = folder(["a/1.jpg", "whole_body_images/001_001.jpg"])
    with pytest.raises(DataError, match="none of the folders bounding_box_train, query, bounding_box_test"):
        open_dataset(f"market1501:{path}")
    with pytest.raises(DataError, match="does not hold the folders occluded_body_images and whole_body_images"):
        open_dataset(f"partialreid:{path}")


def test_two_sets_of_probes_are_not_chosen_between(folder) -> None:
    with pytest.raises(DataError, match=r"two sets of probes.*write partialreid:.* or partialreid-cropped:"):
        open_dataset(str(folder(PARTIAL)))


def test_a_folder_per_person_and_a_csv_are_recognised(folder) -> None:
    path = folder(["ann/1.jpg", "ann/2.jpg", "ben/1.jpg"])
    assert open_dataset(str(path)).spec == f"folder:{path}"
    (path / "list.csv").write_text("path,pid\nann/1.jpg,ann\nann/2.jpg,ann\n")
    assert open_dataset(str(path / "list.csv")).spec == f"csv:{path}/list.csv"


def test_specs_that_cannot_be_understood(folder, tmp_path) -> None:
    path = folder(["1.jpg"])
    with pytest.raises(DataError, match="the layout cannot be told") as caught:
        open_dataset(str(path))
    assert all(kind in caught.value.remedy for kind in KINDS)
    with pytest.raises(DataError, match=r"no kind of dataset 'market'; did you mean market1501\?"):
        open_dataset(f"market:{path}")
    with pytest.raises(DataError, match=r"no kind of dataset 'xyz'\. Remedy"):
        open_dataset(f"xyz:{path}")
    with pytest.raises(DataError, match="names no path"):
        open_dataset("market1501:")
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(str(tmp_path / "nothing"))
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(f"market1501:{tmp_path / 'nothing'}")


def test_a_set_of_nothing(folder) -> None:
    path = folder(["query/readme.txt"])
    with pytest.raises(DataError, match="holds no crops"):
        open_dataset(f"market1501:{path}")


def test_a_home_folder_is_expanded(folder, monkeypatch) -> None:
    path = folder(["ann/1.jpg", "ann/2.jpg"])
    monkeypatch.setenv("HOME", str(path.parent))
    assert len(open_dataset(f"folder:~/{Path(path).name}").train) == 2
