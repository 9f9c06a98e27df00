"""The command line as a user meets it: what it prints, what it writes, and what it says when something is wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from glimpse import cli
from glimpse.data import open_dataset
from glimpse.errors import DataError
from glimpse.model import Card, Model, build, load, save
from glimpse.search import search
from glimpse.synthetic.dataset import Rates, render_dataset
from glimpse.synthetic.people import Population

Run = Callable[..., tuple[int, str, str]]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered people, and random weights of a small QPM and a small baseline."""
    folder = tmp_path_factory.mktemp("cli")
    crowd = Population(people=6, train=3, cameras=2)
    render_dataset(folder / "people", crowd, crops=2, rates=Rates(0, 0.5, 0), cues=False)
    torch.manual_seed(0)
    for method, options in (("qpm", {"strips": 4, "dim": 16}), ("baseline", {})):
        card = Card(method=method, options=options, backbone="osnet_x0_25", size=(64, 32), mean=MEAN, std=STD, ids=3)
        save(build(card), card, folder / f"{method}.safetensors")
    (folder / "empty").mkdir()
    (folder / "broken.safetensors").write_bytes(b"no weights")
    return folder


@pytest.fixture
def run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in a folder that holds links to everything in `place`."""
    work = tmp_path / "work"
    work.mkdir()
    for each in place.iterdir():
        (work / each.name).symlink_to(each)
    monkeypatch.chdir(work)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["glimpse", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return call


def first_query() -> str:
    return str(sorted(Path("people/query").iterdir())[0])


def test_search_prints_and_writes_what_the_function_finds(run: Run) -> None:
    query = first_query()
    code, out, err = run(
        *("search", "--query", query, "--gallery", "people/bounding_box_test", "--weights", "qpm.safetensors"),
        *("--top", "3", "--visible", "0,0,64,48", "--json", "hits.json", "--report", "hits.html"),
    )
    assert (code, err.strip()) == (0, "json: hits.json\nreport: hits.html")
    result = search(load("qpm.safetensors"), query, "people/bounding_box_test", top=3, visible=(0, 0, 64, 48))
    for hit in result:
        assert re.search(rf"│ {hit.rank} +│ {re.escape(hit.path)} +│ {hit.distance:.3f}", out)
        assert set(hit.not_compared) >= {"strip 3", "strip 4"}
    assert "strip 3, strip 4" in out
    written = json.loads(Path("hits.json").read_text())
    assert [hit["path"] for hit in written["hits"]] == [hit.path for hit in result]
    page = Path("hits.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4
    assert "not compared" in page
    assert "glimpse search --query" in page


def test_embed_once_search_often(run: Run) -> None:
    code, out, _ = run("embed", "people/bounding_box_test", "--out", "g.safetensors", "--weights", "qpm.safetensors")
    assert code == 0
    assert out.startswith("6 crops, ")
    base = ("search", "--query", first_query(), "--top", "2", "--weights")
    fresh = run(*base, "qpm.safetensors", "--gallery", "people/bounding_box_test", "--json", "a.json")
    stored = run(*base, "qpm.safetensors", "--gallery", "g.safetensors", "--json", "b.json")
    assert (fresh[0], stored[0]) == (0, 0)
    a, b = (json.loads(Path(name).read_text())["hits"] for name in ("a.json", "b.json"))
    assert [Path(h["path"]).name for h in a] == [Path(h["path"]).name for h in b]
    assert [h["distance"] for h in a] == pytest.approx([h["distance"] for h in b], abs=1e-5)
    code, _, err = run(*base, "baseline.safetensors", "--gallery", "g.safetensors")
    assert code == 2
    assert "g.safetensors: was embedded with the weights qpm@" in err


def test_evaluate_prints_and_writes(run: Run) -> None:
    code, out, err = run(
        *("evaluate", "--data", "market1501:people", "--weights", "qpm.safetensors", "--option", "neighbours=2"),
        *("--occlude", "object", "--sides", "top", "--fractions", "0.3", "--prompted", "--quality", "--queries", "3"),
        *("--json", "r.json", "--report", "page", "--lists", "4"),
    )
    assert (code, err.strip()) == (0, "json: r.json\nreport: page/index.html")
    assert "object over 30 %, prompted" in out
    written = json.loads(Path("r.json").read_text())
    assert written["command"].startswith("glimpse evaluate --data market1501:people")
    assert f"AUC of {written['quality']['auc']:.3f}" in out
    assert written["model"]["distance"] == {"neighbours": 2}
    assert [s["prompted"] for s in written["occlusion"]] == [False, True]
    assert sorted(p.name for p in Path("page").iterdir()) == ["index.html", "result.json"]
    assert json.loads(Path("page/result.json").read_text())["result"] == written["result"]


RENDER = ("data", "render", "made", "--people", "4", "--cameras", "2", "--crops", "2", "--size", "32x16")


def test_data_is_rendered_checked_and_shown(run: Run) -> None:
    clear = ("--training", "0", "--query", "0", "--gallery", "0")
    code, out, _ = run(*RENDER, *clear, "--seed", "3")
    assert code == 0
    said = r"8 training crops, 4 queries, 4 gallery crops, 0 with something in front, \d+ crops/s: "
    assert re.fullmatch(rf"{said}market1501:made --cues made/cues\n", out)
    code, out, _ = run("data", "check", "market1501:made", "--read")
    assert code == 0
    assert "no problems" in out
    assert re.search(r"train +│ 8 +│ 2 +│ 2 ", out)
    assert run("cues", "check", "market1501:made", "--cues", "made/cues")[0] == 0
    code, out, err = run("data", "show", "market1501:made", "--out", "sheet.png", "--people", "3", "--crops", "2")
    assert (code, out) == (0, "sheet.png\n")
    assert re.search(r"people \d, \d, \d, from the top", err)
    assert Path("sheet.png").read_bytes().startswith(b"\x89PNG")
    _, _, err = run("data", "show", "market1501:made", "--out", "sheet.png", "--split", "train")
    assert "people 1, 2, from the top" in err


def test_data_is_rendered_as_told(run: Run) -> None:
    told = (
        "--train",
        "1",
        "--kind",
        "wall",
        "--kind",
        "pole=3",
        "--training",
        "1",
        "--png",
        "--no-cues",
        "--twins",
        "1",
    )
    code, out, _ = run("data", "render", "made.zip", *RENDER[3:], *told)
    assert code == 0
    assert re.search(r"4 training crops, 6 queries, 6 gallery crops, 1\d with something in front", out)
    assert "--cues" not in out
    assert not Path("made-cues").exists()
    with zipfile.ZipFile("made.zip") as archive:
        truth = list(csv.DictReader(io.TextIOWrapper(archive.open("truth.csv"), "utf-8")))
        people = archive.read("people.csv").decode()
    assert {row["in_front"] for row in truth if not row["file"].startswith("bounding_box_test")} == {"wall", "pole"}
    assert all(row["file"].endswith(".png") for row in truth)
    assert people.count(",train,") == 1
    assert sum(line.split(",")[2] != "" for line in people.splitlines()[1:]) == 2  # all but the first of each part
    assert run("data", "check", "market1501:made.zip", "--read")[0] == 0


def test_data_check_finds_problems(run: Run) -> None:
    assert run(*RENDER, "--no-cues")[0] == 0
    queries, gallery = (sorted(Path("made", side).iterdir()) for side in ("query", "bounding_box_test"))
    shutil.copy(queries[0], gallery[-1])
    gallery[0].write_bytes(gallery[0].read_bytes()[:200])
    code, out, err = run("data", "check", "market1501:made", "--read")
    assert code == 1
    assert "Traceback" not in err
    assert f"1 pictures are in query and in gallery, byte by byte (first: query/{queries[0].name} is " in out
    assert "1 files cannot be read" in out
    assert gallery[0].name in out
    code, out, _ = run("data", "check", "market1501:made")
    assert "cannot be read" not in out


SEARCH = (
    "search",
    "--query",
    "QUERY",
    "--gallery",
    "people/query",
    "--weights",
    "qpm.safetensors",
    "--json",
    "new.json",
)
NEW = ("data", "render", "new")
EVALUATE = ("evaluate", "--data", "market1501:people", "--weights", "qpm.safetensors", "--report", "new")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*SEARCH, "--visible", "0,0,64,999"), "visible: the box 0,0,64,999 leaves the crop, which is 64 x 128"),
        ((*SEARCH, "--visible", "mask.png"), "visible: 'mask.png' is neither four numbers nor a file"),
        ((*SEARCH, "--query", "nobody.png"), "nobody.png: there is no such file"),
        ((*SEARCH, "--query", "broken.safetensors"), "broken.safetensors: is not a picture"),
        ((*SEARCH, "--gallery", "nowhere"), "nowhere: does not exist"),
        ((*SEARCH, "--gallery", "empty"), "empty: holds no files"),
        ((*SEARCH, "--gallery", "broken.safetensors"), "broken.safetensors: cannot be read"),
        ((*SEARCH, "--weights", "none.safetensors"), "none.safetensors"),
        ((*SEARCH, "--weights", "broken.safetensors"), "broken.safetensors"),
        ((*SEARCH, "--weights", "nothing"), "nothing: is neither a file nor installed weights"),
        ((*SEARCH, "--option", "gamma"), "--option: 'gamma' is not KEY=VALUE"),
        ((*SEARCH, "--option", "colour=1"), "has no option 'colour'.\nremedy: its options are gamma, neighbours"),
        ((*SEARCH, "--option", "gamma=abc"), "option 'gamma' cannot be 'abc' (input should be a valid number"),
        ((*SEARCH, "--option", "gamma=2"), "gamma: 2.0 is not a share"),
        ((*SEARCH, "--option", "neighbours=2.5"), "option 'neighbours' cannot be 2.5"),
        ((*SEARCH, "--weights", "baseline.safetensors", "--option", "gamma=1"), "it has no options: leave them out"),
        ((*SEARCH, "--option", "gamma=1", "--option", "gamma=1"), "--option: 'gamma' is given twice"),
        ((*SEARCH, "--json", "empty"), "empty: is a folder, and a file is to be written there"),
        ((*SEARCH, "--report", "broken.safetensors/x.html"), "broken.safetensors: is a file, and a folder is needed"),
        (("embed", "people/query", "--out", "new.bin"), "--out: 'new.bin' does not end in .safetensors"),
        ((*EVALUATE, "--data", "market15:rendered"), "market15:rendered: there is no kind of dataset 'market15'"),
        ((*EVALUATE, "--prompted"), "--occlude: is not given, and --prompted"),
        ((*EVALUATE, "--sides", "top"), "--occlude: is not given, and --sides needs it"),
        ((*EVALUATE, "--fractions", "0.5", "--queries", "3"), "is not given, and --fractions and --queries need it"),
        ((*EVALUATE, "--occlude", "fog"), "--occlude: 'fog' is none of them"),
        ((*EVALUATE, "--occlude", "grey", "--sides", "front"), "--sides: 'front' is none of them"),
        ((*EVALUATE, "--occlude", "grey", "--fractions", "half"), "--fractions: 'half' is not a number"),
        ((*EVALUATE, "--occlude", "grey", "--fractions", ""), "--fractions: '' is not a number"),
        ((*EVALUATE, "--fractions", ""), "--occlude: is not given, and --fractions needs it"),
        ((*EVALUATE, "--prompts", "boxes.csv"), "boxes.csv: cannot be read"),
        ((*EVALUATE, "--report", "broken.safetensors"), "broken.safetensors: is a file, and a folder is needed there"),
        (("train", "walk", "--data", "market1501:people", "--out", "new"), "walk-imagenet: is neither a file nor an"),
        (
            ("train", "pcb", "--recipe", "qpm-imagenet", "--data", "market1501:people", "--out", "new"),
            "METHOD: the recipe 'qpm-imagenet' trains 'qpm', and not 'pcb'",
        ),
        (
            ("train", "pcb", "--data", "market1501:people", "--out", "new", "--set", "colour=1"),
            "there is no field 'colour'",
        ),
        (("data", "check", "folder:nowhere"), "nowhere: does not exist"),
        (("data", "render", "people"), "people: is not an empty folder.\nremedy: choose a new one"),
        (("data", "render", "broken.safetensors"), "broken.safetensors: is not an empty folder"),
        (("data", "render", "broken.safetensors/new"), "broken.safetensors/new: cannot be written"),
        ((*NEW, "--size", "128"), "--size: '128' is not HxW.\nremedy: write rows and columns, such as 128x64"),
        ((*NEW, "--size", "axb"), "--size: 'axb' is not HxW"),
        ((*NEW, "--size", "8x4"), "size: 8 x 4 is too small"),
        ((*NEW, "--people", "1"), "people: 1 is out of range"),
        ((*NEW, "--train", "99"), "train: 99 is out of range.\nremedy: give 0 to 40"),
        ((*NEW, "--cameras", "1"), "cameras: a search needs two"),
        ((*NEW, "--crops", "1"), "crops: 1 is out of range.\nremedy: give 2 to 999"),
        ((*NEW, "--twins", "2"), "twins: 2.0 is out of range"),
        ((*NEW, "--query", "1.5"), "rates.query: 1.5 is not a share"),
        ((*NEW, "--kind", "tree"), "--kind: 'tree' is none of them"),
        ((*NEW, "--kind", "car=much"), "--kind: 'much' is not a number"),
        ((*NEW, "--kind", "car=0"), "kinds: nothing is left that could be in front"),
        ((*NEW, "--kind", "car=-1"), "kinds.car: -1.0 is no weight"),
        (("data", "show", "market1501:people", "--out", "new.txt"), "new.txt: has no ending that a picture has"),
        (("data", "show", "market1501:people", "--out", "empty"), "empty: is a folder, and a file is to be written"),
        (("data", "show", "market1501:people", "--out", "new.png", "--split", "test"), "has no split 'test'"),
        (("data", "show", "crops:people/query", "--out", "new.png"), "contact sheet: no crop is of a known person"),
        (("data", "show", "crops:empty", "--out", "new.png"), "empty: holds no files"),
    ],
)
def test_mistakes_are_one_message_and_code_2(run: Run, arguments: tuple[str, ...], message: str) -> None:
    before = sorted(Path().rglob("*"))
    code, out, err = run(*(first_query() if a == "QUERY" else a for a in arguments))
    assert code == 2
    assert out == ""
    assert err.startswith("error ")
    assert message in err
    assert "\nremedy: " in err
    assert "Traceback" not in err
    assert sorted(Path().rglob("*")) == before


def poses(folder: str = "people") -> None:
    """A file of key points for the training crops, and part maps for one of them."""
    crops = [crop.name for crop in open_dataset(f"market1501:{folder}").train]
    points = np.ones((len(crops), 17, 3), np.float32) * 20
    np.savez("poses.npz", names=[*crops, "stranger.jpg"], points=np.concatenate([points, points[:1]]))
    np.savez("maps.npz", **{crops[0]: np.ones((128, 64), np.uint8)})


def test_cues_are_taken_over_checked_and_shown(run: Run) -> None:
    poses()
    data = ("market1501:people", "--split", "train")
    code, out, err = run("cues", "make", *data, "--out", "cues", "--keypoints", "file:poses.npz")
    assert (code, out) == (0, "cues\n")
    assert "left out poses.npz, row 12 ('stranger.jpg'): is of 'stranger.jpg', and no crop is called so" in err
    assert re.search(r"poses@\w+: 12 made, 0 known before", err)
    code, out, _ = run("cues", "check", *data, "--cues", "cues")
    assert code == 0
    assert re.search(r"poses@\w+ .* train .* 12 .* 12 .* 0 .* 17\.0 points .* 20\.00", out)
    code, out, err = run(
        "cues",
        "make",
        *data,
        "--out",
        "cues",
        "--masks",
        "file:maps.npz",
        "--scheme",
        "person",
        "--keypoints",
        "file:poses.npz",
    )
    assert code == 0
    assert re.search(r"poses@\w+: 0 made, 12 known before", err)
    assert "11 crops have none (first: " in err
    code, out, _ = run("cues", "check", *data, "--cues", "cues")
    assert code == 1
    assert re.search(r"problem 11 crops of train have no parts by maps@\w+ \(first: ", out)
    code, out, err = run("cues", "show", *data, "--cues", "cues", "--out", "cues.png", "--count", "3")
    assert (code, out) == (0, "cues.png\n")
    assert Path("cues.png").read_bytes().startswith(b"\x89PNG")
    assert err.count("bounding_box_train/") == 3


def test_limbs_are_made_of_the_sources_that_are_named(run: Run) -> None:
    poses()
    data = ("market1501:people", "--split", "train", "--out", "cues")
    for name in ("one", "two"):
        files = ("--keypoints", "file:poses.npz", "--masks", "file:maps.npz", "--scheme", "person")
        assert run("cues", "make", *data, *files, "--name", name)[0] == 0
    code, _, err = run("cues", "make", *data, "--masks", "limbs")
    assert code == 2
    assert "cues: has key points by one, two, and none is named" in err
    code, _, err = run("cues", "make", *data, "--masks", "limbs", "--source", "two", "--source", "one")
    assert code == 0
    assert re.search(r"limbs@\w+: 1 made, 0 known before", err)  # of the one crop that has both


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("make", "market1501:people"), "cues make: nothing is to be made"),
        (("make", "market1501:people", "--keypoints", "limbs"), "--keypoints limbs: does not make key points"),
        (("make", "market1501:people", "--keypoints", "pose:a"), "estimator 'pose:a': 'pose' is no kind of estimator"),
        (("make", "market1501:people", "--masks", "deeplab:a.tflite"), "a.tflite: there is no such file"),
        (("make", "market1501:people", "--masks", "limbs", "--keypoints", "movenet:"), "'movenet:': names no file"),
        (("make", "market1501:people", "--masks", "file:a", "--scheme", "lip"), "--scheme: 'lip' is none of them"),
        (
            ("make", "market1501:people", "--masks", "file:nowhere", "--scheme", "lip-20"),
            "nowhere: is neither a folder nor an npz file",
        ),
        (
            ("make", "market1501:people", "--masks", "file:maps"),
            "--masks file:maps: are numbers, and nothing says of what",
        ),
        (
            ("make", "market1501:people", "--split", "test", "--masks", "limbs"),
            "market1501:people: has no split 'test'",
        ),
        (("make", "crops:empty", "--masks", "limbs"), "empty: holds no files"),
        (("make", "market1501:people", "--masks", "limbs"), "new: has no key points"),
        (
            ("make", "market1501:people", "--masks", "limbs", "--source", "pose@1"),
            "--source pose@1: is not in new",
        ),
        (("make", "market1501:people", "--keypoints", "file:a", "--source", "b"), "--source: is of --masks limbs only"),
        (("check", "market1501:people"), "new: has no cues"),
        (("show", "market1501:people"), "new: has no cues"),
    ],
)
def test_mistakes_with_cues_leave_nothing_behind(run: Run, arguments: tuple[str, ...], message: str) -> None:
    before = sorted(Path().rglob("*"))
    more = {"make": ("--out", "new"), "check": ("--cues", "new"), "show": ("--cues", "new", "--out", "new.png")}
    code, out, err = run("cues", *arguments, *more[arguments[0]])
    assert (code, out) == (2, "")
    assert err.startswith("error ")
    assert message in err
    assert "Traceback" not in err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--json", "q.png"), "q.png: is an input of this command"),
        (("--report", "link.png"), "link.png: is an input of this command"),
        (("--json", "qpm.json"), "qpm.json: is an input of this command"),
        (("--json", "mask.png", "--visible", "mask.png"), "mask.png: is an input of this command"),
        (("--json", "crops/a.png"), "crops/a.png: is one of the crops"),
        (("--json", "pipe"), "pipe: is a pipe, a socket or a device"),
        (("--json", "/dev/null"), "/dev/null: is a pipe, a socket or a device"),
        (("--json", "new", "--report", "new"), "new: is to hold two results"),
        (("--json", "/proc/new"), "cannot be written to"),
        (("--json", "a" * 300), "File name too long"),
    ],
)
def test_a_result_never_takes_the_place_of_an_input(run: Run, arguments: tuple[str, ...], message: str) -> None:
    Path("crops").mkdir()
    for name in ("q.png", "crops/a.png", "mask.png"):
        shutil.copy(first_query(), name)
    Path("link.png").symlink_to("q.png")
    os.mkfifo("pipe")
    before = {path: path.lstat() for path in Path().rglob("*")}
    command = ("search", "--query", "q.png", "--gallery", "crops", "--weights", "qpm.safetensors")
    code, _, err = run(*command, *arguments)
    assert code == 2
    assert message in err
    after = {path: path.lstat() for path in Path().rglob("*")}
    assert after.keys() == before.keys()
    assert all(after[path].st_ino == before[path].st_ino for path in before)


def test_embed_writes_over_galleries_only(run: Run) -> None:
    arguments = ("embed", "people/query", "--weights", "qpm.safetensors", "--out")
    weights = Path("baseline.safetensors").read_bytes()
    code, _, err = run(*arguments, "baseline.safetensors")
    assert code == 2
    assert "baseline.safetensors: is there already and is not an embedding of glimpse" in err
    assert Path("baseline.safetensors").read_bytes() == weights
    Path("notes.json").write_text("{}")
    code, _, err = run(*arguments, "notes.safetensors")
    assert code == 2
    assert "notes.json: is there already and is not a list of embedded crops" in err
    assert run(*arguments, "g.safetensors")[0] == 0
    assert run(*arguments, "g.safetensors")[0] == 0


def test_usage_errors_are_code_2(run: Run) -> None:
    code, _, err = run("search", "--query", "a.png")
    assert code == 2
    assert "--gallery" in err
    assert run("search", "--query", "a.png", "--gallery", "b", "--top", "0")[0] == 2


def test_debug_keeps_the_traceback_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (("--debug", "data", "check", "nowhere"), ("data", "check", "nowhere", "--debug")):
        monkeypatch.setattr(sys, "argv", ["glimpse", *arguments])
        with pytest.raises(DataError):
            cli.main()


def test_interruption_is_code_130_and_writes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Model, "embed_samples", stop)
    before = sorted(Path().rglob("*"))
    arguments = [first_query() if a == "QUERY" else a for a in SEARCH]
    assert run(*arguments)[0] == 130
    assert sorted(Path().rglob("*")) == before


def test_bad_crops_stop_or_are_left_out_and_named(run: Run) -> None:
    shutil.copytree("people/query", "crops")
    bad = sorted(Path("crops").iterdir())[2]
    bad.write_bytes(b"")
    arguments = [a if a != "people/query" else "crops" for a in SEARCH]
    arguments = [first_query() if a == "QUERY" else a for a in arguments]
    code, _, err = run(*arguments)
    assert code == 2
    assert f"{bad}: the file is empty" in err
    code, out, err = run(*arguments, "--skip-bad")
    assert code == 0
    assert f"left out {bad}: the file is empty" in err
    assert str(bad) not in out


def test_version_and_models(run: Run) -> None:
    assert run("--version")[:2] == (0, "glimpse 0.1.0\n")
    code, out, _ = run("models")
    assert code == 0
    assert "glimpse" in out or "name" in out
