"""Data sets of rendered people: the layout, the truth about it, and that it appears whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from glimpse.cues.cache import CueCache, digest_of
from glimpse.cues.parts import LIP_20
from glimpse.cues.skeleton import COCO_17
from glimpse.data import Dataset, open_dataset
from glimpse.data.check import check_dataset
from glimpse.errors import ConfigError
from glimpse.synthetic import dataset as module
from glimpse.synthetic.dataset import CUES, PARTS, SCORES, STRIPS, WHOLE, Rates, Rendered, render_dataset
from glimpse.synthetic.people import KINDS, InFront, Population, render_person
from glimpse.synthetic.render import SEEN

SIZE = (32, 16)
CROWD = Population(people=7, train=3, cameras=2, twins=0.5, seed=4)
FEW = Population(people=4, train=2, cameras=2)
Truth = list[dict[str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """3 people to train on and 4 to test with, 3 crops each by 2 cameras, many of them hidden."""
    out = tmp_path_factory.mktemp("rendered") / "sets" / "people"
    return render_dataset(out, CROWD, crops=3, size=SIZE, rates=Rates(0.5, 1.0, 0.5))


@pytest.fixture(scope="module")
def people(made: Rendered) -> Dataset:
    return open_dataset(f"market1501:{made.path}")


@pytest.fixture(scope="module")
def truth(made: Rendered) -> Truth:
    with made.truth.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_it_is_a_market1501_of_which_nothing_is_odd(made: Rendered, people: Dataset) -> None:
    assert (made.train, made.query, made.gallery, made.crops) == (18, 8, 16, 42)
    assert [len(people.train), len(people.query), len(people.gallery)] == [18, 8, 16]
    assert made.seconds > 0
    assert made.path.name == "people"
    assert [path.name for path in made.path.parent.iterdir()] == ["people"]
    found = check_dataset(people, read=True)
    assert [str(problem) for problem in found.problems] == []
    assert {sample.pid for sample in people.train} == {1, 2, 3}
    assert {sample.pid for sample in people.query} == {sample.pid for sample in people.gallery} == {4, 5, 6, 7}
    for split, each in (("train", 3), ("query", 1), ("gallery", 2)):
        crops = Counter((sample.pid, sample.camid) for sample in getattr(people, split))
        assert set(crops.values()) == {each}
        assert {camid for _, camid in crops} == {1, 2}
    rules = people.protocol.relevance(people.query, people.gallery)
    assert all(len(rules.matches(row)) == 2 for row in range(8))  # by the other camera
    with PIL.Image.open(made.path / people.query[0].name) as image:
        assert (image.format, image.size) == ("JPEG", (16, 32))


def test_truth_names_every_crop_and_what_is_in_front(made: Rendered, truth: Truth, people: Dataset) -> None:
    crops = [*people.train, *people.query, *people.gallery]
    assert sorted(row["file"] for row in truth) == sorted(crop.name.split("people/")[-1] for crop in crops)
    hidden = Counter(row["file"].split("/")[0] for row in truth if row["in_front"] != "none")
    assert hidden == made.occluded
    assert hidden["query"] == 8
    assert 0 < hidden["bounding_box_train"] < 18
    assert 0 < hidden["bounding_box_test"] < 16
    for row in truth:
        assert row["file"].split("/")[1].startswith(f"{int(row['pid']):04d}_c{row['camera']}s1_")
        shares = [row["visible"], *(row[f"visible_{part}"] for part in PARTS)]
        shares += [row[f"visible_strip_{strip}"] for strip in range(1, STRIPS + 1)]
        assert all(share == "" or 0 <= float(share) <= 1 for share in shares)
        if row["in_front"] == "none":
            assert (row["side"], row["in_front_pid"]) == ("", "")
            assert float(row["visible"]) > 0.9
        else:
            InFront(row["in_front"], row["side"], 0.5)
            assert (row["in_front_pid"] != "") <= (row["in_front"] == "person")
    shares = [float(row["visible"]) for row in truth if row["in_front"] != "none"]
    assert np.mean([0.15 <= share <= 0.9 for share in shares]) > 0.9


def test_the_part_people_are_of_is_kept_apart(made: Rendered, truth: Truth) -> None:
    with (made.path / "people.csv").open(newline="", encoding="utf-8") as file:
        rows = {int(row["pid"]): row for row in csv.DictReader(file)}
    assert [rows[pid]["part"] for pid in range(1, 8)] == ["train"] * 3 + ["test"] * 4
    twins = {pid: int(row["twin_of"]) for pid, row in rows.items() if row["twin_of"]}
    assert twins == {pid: other for pid in range(1, 8) if (other := CROWD.twin(pid)[1])}
    assert twins
    assert all((pid <= 3) == (other <= 3) for pid, other in twins.items())
    assert all((row["differs_in"] != "") == (row["twin_of"] != "") for row in rows.values())
    covering = [(int(row["pid"]), int(row["in_front_pid"])) for row in truth if row["in_front_pid"]]
    assert covering
    assert all(pid != other and (pid <= 3) == (other <= 3) for pid, other in covering)


def test_cues_are_keyed_to_the_files_and_truth_is_counted_from_them(
    made: Rendered, truth: Truth, people: Dataset
) -> None:
    assert made.cues == made.path / "cues"
    cache = CueCache(made.cues)
    assert cache.sources("points") == (CUES,)
    assert cache.sources("parts") == (CUES, WHOLE)
    points, visible, whole = cache.points(), cache.parts(CUES), cache.parts(WHOLE)
    assert len(points) == len(visible) == len(whole) == 42
    by_name = {row["file"]: row for row in truth}
    for sample in (*people.train, *people.query, *people.gallery):
        digest = digest_of(sample.store.read(sample.name))
        row = by_name[sample.name.split("people/")[-1]]
        seen, amodal = visible.get(digest), whole.get(digest)
        assert seen.scheme == amodal.scheme == LIP_20
        assert seen.size == amodal.size == SIZE
        assert (amodal.labels[seen.labels > 0] == seen.labels[seen.labels > 0]).all()
        found = points.get(digest)
        assert found.skeleton == COCO_17
        assert found.people == 1
        assert set(found.values[0, :, 2].tolist()) <= {np.float32(score) for score in SCORES}
        for strip in range(STRIPS):
            here = slice(round(strip * 32 / STRIPS), round((strip + 1) * 32 / STRIPS))
            there = (amodal.labels[here] > 0).sum()
            share = f"{(seen.labels[here] > 0).sum() / there:.4f}" if there else ""
            assert row[f"visible_strip_{strip + 1}"] == share
        # Of parts all that there is counts, beyond the border as well.
        for part in ("body", *PARTS):
            said = row["visible" if part == "body" else f"visible_{part}"]
            if amodal.mask(part).any():
                assert float(said) <= seen.mask(part).sum() / amodal.mask(part).sum() + 1e-4
                if row["in_front"] != "border" and not _at_the_border(amodal.mask()):
                    assert said == f"{seen.mask(part).sum() / amodal.mask(part).sum():.4f}"


def _at_the_border(mask: np.ndarray) -> bool:
    # What is carried may end outside, too.
    return bool(mask[:2].any() or mask[-2:].any() or mask[:, :3].any() or mask[:, -3:].any())


def test_a_crop_is_what_render_person_gives(tmp_path: Path) -> None:
    made = render_dataset(tmp_path / "d", FEW, crops=2, size=SIZE, rates=Rates(0, 0, 0), image_format="png")
    points = CueCache(made.cues).points()
    for sample in open_dataset(f"market1501:{made.path}").query:
        crop = render_person(sample.pid, 0, camera=sample.camid, size=SIZE, population=FEW)
        data = sample.store.read(sample.name)
        assert PIL.Image.open(io.BytesIO(data)).tobytes() == crop.image.tobytes()
        found = points.get(digest_of(data))
        assert (found.values[0, :, :2] == crop.keypoints).all()
        assert ((found.values[0, :, 2] == 1) == (crop.states == SEEN)).all()
    assert sum(made.occluded.values()) == 0


def test_any_number_of_processes_makes_the_same_bytes(made: Rendered, tmp_path: Path) -> None:
    steps: list[int] = []
    again = render_dataset(
        tmp_path / "people", CROWD, crops=3, size=SIZE, rates=Rates(0.5, 1.0, 0.5), jobs=2, progress=steps.append
    )
    assert sum(steps) == 42
    assert files(again.path) == files(made.path)
    assert again.occluded == made.occluded


def test_a_zip_holds_what_a_folder_does(made: Rendered, tmp_path: Path) -> None:
    packed = render_dataset(tmp_path / "people.zip", CROWD, crops=3, size=SIZE, rates=Rates(0.5, 1.0, 0.5))
    assert packed.truth == packed.path == tmp_path / "people.zip"
    assert packed.cues == tmp_path / "people-cues"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["people-cues", "people.zip"]
    assert files(packed.cues) == files(made.cues)
    with zipfile.ZipFile(packed.path) as archive:
        inside = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert inside == {name: digest for name, digest in files(made.path).items() if not name.startswith("cues/")}
    assert len(open_dataset(f"market1501:{packed.path}").gallery) == 16


def test_without_cues_there_are_none(tmp_path: Path) -> None:
    for name in ("d", "d.zip"):
        made = render_dataset(tmp_path / name, FEW, crops=2, size=SIZE, cues=False)
        assert made.cues is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "d.zip"]
    assert not (tmp_path / "d" / "cues").exists()


def test_the_card_says_how_it_was_made(made: Rendered) -> None:
    card = (made.path / "README.md").read_text(encoding="utf-8")
    twins = sum(1 for pid in range(1, 8) if CROWD.twin(pid)[1])
    for line in (
        "| people | 7: 3 for training, the others for testing |",
        f"| near twins | {twins} people differ from another in one item only (`people.csv`) |",
        "| cameras | 2 |",
        "| crops | 3 of each person by each camera, 32 x 16 |",
        "| with something in front | of training 0.5, of queries 1, of gallery 0.5 |",
        "person (2)",
        "| seed | 4 |",
        f"| bounding_box_train | 18 | {made.occluded['bounding_box_train']} |",
        "| query | 8 | 8 |",
        "in each of 6\n  equal strips",
    ):
        assert line in card, line
    assert "{" not in card


def test_rates_are_kept_about(tmp_path: Path) -> None:
    crowd = Population(people=30, train=15, cameras=2, seed=1)
    made = render_dataset(
        tmp_path / "d", crowd, crops=4, size=(16, 8), rates=Rates(0.3, 0.6, 0.0), kinds={"border": 1}, cues=False
    )
    assert made.occluded["bounding_box_train"] / made.train == pytest.approx(0.3, abs=0.12)
    assert made.occluded["query"] / made.query == pytest.approx(0.6, abs=0.2)
    assert made.occluded["bounding_box_test"] == 0
    rows = list(csv.DictReader(made.truth.open(newline="", encoding="utf-8")))
    assert {row["in_front"] for row in rows} == {"border", "none"}
    assert {row["side"] for row in rows} == {"", "top", "bottom", "left", "right"}


def test_only_kinds_with_a_weight_are_in_front(tmp_path: Path) -> None:
    made = render_dataset(
        tmp_path / "d",
        FEW,
        crops=2,
        size=SIZE,
        rates=Rates(1, 1, 1),
        kinds={"wall": 2, "car": 0, "pole": 1},
        cues=False,
    )
    rows = list(csv.DictReader(made.truth.open(newline="", encoding="utf-8")))
    assert {row["in_front"] for row in rows} == {"wall", "pole"}
    assert "pole (1), wall (2)" in (made.path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("train", [0, 4])
def test_all_people_may_be_of_one_part(train: int, tmp_path: Path) -> None:
    crowd = Population(people=4, train=train, cameras=2)
    made = render_dataset(tmp_path / "d", crowd, crops=2, size=SIZE, cues=False)
    assert (made.train, made.query + made.gallery) == (4 * train, 16 - 4 * train)
    opened = open_dataset(f"market1501:{made.path}")
    assert [len(opened.train), len(opened.query), len(opened.gallery)] == [made.train, made.query, made.gallery]


def test_many_cameras_have_names_of_their_own(tmp_path: Path) -> None:
    made = render_dataset(tmp_path / "d", Population(2, 1, 12), crops=2, size=(16, 8), rates=Rates(0, 0, 0), cues=False)
    assert {sample.camid for sample in open_dataset(f"market1501:{made.path}").query} == set(range(1, 13))


def test_an_empty_folder_is_filled_and_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    render_dataset(tmp_path / "empty", FEW, crops=2, size=SIZE, cues=False)
    before = files(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "there.zip").write_text("mine")
    (tmp_path / "new-cues").mkdir()
    (tmp_path / "new-cues" / "mine").write_text("mine")
    for name, said in (
        ("empty", "empty: is not an empty folder. Remedy: choose a new one."),
        ("file", "file: is not an empty folder"),
        ("there.zip", "there.zip: is there already. Remedy: choose a new file, or remove this one."),
        ("new.zip", "new-cues: is not an empty folder"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            render_dataset(tmp_path / name, FEW, crops=2, size=SIZE)
    assert files(tmp_path).items() >= before.items()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "new-cues", "there.zip"]


@pytest.mark.parametrize("name", ["d", "d.zip"])
def test_a_failure_half_way_leaves_nothing_behind(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    def full_disk(self: Any, name: str, data: bytes) -> None:
        done.append(1)
        if len(done) == 9:
            raise OSError(28, "No space left on device")
        add(self, name, data)

    add = module._Package.add
    monkeypatch.setattr(module._Package, "add", full_disk)
    said = f"{name}: cannot be written (No space left on device). Remedy: choose a place on a disk with room."
    with pytest.raises(ConfigError, match=re.escape(said)):
        render_dataset(tmp_path / name, FEW, crops=2, size=SIZE)
    assert list(tmp_path.iterdir()) == []

    def stopped(crops: int) -> None:
        raise KeyboardInterrupt

    done.clear()
    with pytest.raises(KeyboardInterrupt):
        render_dataset(tmp_path / name, FEW, crops=2, size=SIZE, progress=stopped)
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file" / "d", tmp_path / "file" / "d.zip", Path("/proc/d")):
        with pytest.raises(ConfigError, match=rf"{re.escape(str(out))}: cannot be written .*Remedy: choose a folder"):
            render_dataset(out, FEW, crops=2, size=SIZE)


def test_cues_need_pyarrow_before_anything_is_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setattr(module, "_shoot", lambda plan: pytest.fail("rendered"))
    with pytest.raises(ConfigError, match=r"pyarrow is not installed.*glimpse-reid\[cues\]"):
        render_dataset(tmp_path / "d", FEW, crops=2, size=SIZE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"crops": 1}, "crops: 1 is out of range. Remedy: give 2 to 999."),
        ({"crops": 1000}, "crops: 1000 is out of range"),
        ({"size": (8, 8)}, "size: 8 x 8 is too small. Remedy: give at least 16 x 8."),
        ({"image_format": "tif"}, "image_format: 'tif' is not a format. Remedy: choose jpg or png."),
        ({"kinds": {"tree": 1}}, f"kinds: 'tree' is not known. Remedy: choose among {', '.join(KINDS)}."),
        ({"kinds": {"car": -1}}, "kinds.car: -1 is no weight. Remedy: give 0 or more."),
        ({"kinds": {"car": float("nan")}}, "kinds.car: nan is no weight"),
        ({"kinds": {"car": 0}}, "kinds: nothing is left that could be in front. Remedy: give one of them a weight abo"),
        ({"population": Population(4, 2, 1)}, "cameras: a search needs two. Remedy: give at least 2, or let all peop"),
        ({"jobs": 0}, "jobs: 0 processes are too few. Remedy: give at least 1."),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        render_dataset(tmp_path / "d", **{"population": FEW, "crops": 2, "size": SIZE, **wrong})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["train", "query", "gallery"])
def test_rates_are_shares(part: str) -> None:
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match=rf"rates.{part}: {rate} is not a share\. Remedy: give 0 to 1"):
            Rates(**{part: rate})
