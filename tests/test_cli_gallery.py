"""`glimpse gallery` as a user meets it: what it prints, what it writes, and what it says when something is wrong."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from glimpse import cli
from glimpse.gallery import Ask, Filter, Gallery, open_incoming
from glimpse.gallery.answers import AnswerRecord
from glimpse.model import Card, build, load, save
from glimpse.synthetic.dataset import Rates, render_dataset
from glimpse.synthetic.people import Population

Run = Callable[..., tuple[int, str, str]]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
W = ("--weights", "qpm.safetensors")
G = "people.gallery"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered people, random weights of a small QPM and a small baseline, frames with boxes, and a gallery."""
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("glimpse.model.has_openvino", lambda: False)  # compiling takes seconds
        render_dataset(
            Path("people"), Population(people=6, train=3, cameras=2), crops=2, rates=Rates(0, 0.5, 0), cues=False
        )
        torch.manual_seed(0)
        for method, options in (("qpm", {"strips": 4, "dim": 16}), ("baseline", {})):
            card = Card(method=method, options=options, backbone="osnet_x0_25", size=(64, 32), mean=MEAN, std=STD)
            save(build(card), card, f"{method}.safetensors")
        Path("frames").mkdir()
        for number, query in enumerate(sorted(Path("people/query").iterdir())[:3], start=1):
            Image.open(query).resize((96, 192)).save(f"frames/{number:06}.png")
        boxes = (f"{n},5,10,20,60,120,0.9,-1,-1,-1\n{n},6,0,0,40,90,0.4,-1,-1,-1\n" for n in (1, 2, 3))
        Path("boxes.txt").write_text("".join(boxes))
        Path("list.csv").write_text(
            "path,pid,tags\npeople/query/nobody.jpg,anna,\n"
            + "".join(f"{path},p{i},red;tall\n" for i, path in enumerate(sorted(Path("people/query").iterdir())))
        )
        Path("empty").mkdir()
        model = load("qpm.safetensors")
        gallery = Gallery.create(G, model, thumbnails=32, who="maker")
        gallery.add(model, open_incoming("people/bounding_box_test"))
        gallery.add(model, open_incoming("people/bounding_box_train"))
        Gallery.create("empty.gallery", model)
    return folder


@pytest.fixture
def run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `glimpse gallery` in a folder that holds links to everything in `place`, and copies of the galleries."""
    work = tmp_path / "work"
    work.mkdir()
    for each in place.iterdir():
        if each.suffix == ".gallery":
            shutil.copytree(each, work / each.name)
        else:
            (work / each.name).symlink_to(each)
    monkeypatch.chdir(work)
    monkeypatch.delenv("GLIMPSE_WHO", raising=False)
    monkeypatch.setattr("glimpse.model.has_openvino", lambda: False)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["glimpse", "gallery", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return call


def query() -> str:
    return str(sorted(Path("people/query").iterdir())[0])


def opened(path: str = G) -> Gallery:
    return Gallery.open(path, audit=False)


# ---------------------------------------------------------------- making and adding


def test_made_added_to_and_searched(run: Run) -> None:
    code, out, err = run("create", "new.gallery", *W, "--thumbnails", "32")
    assert (code, err) == (0, "")
    assert re.fullmatch(r".*/new\.gallery: for crops embedded with qpm@\w+\n", out)
    code, out, err = run("add", "new.gallery", "people/bounding_box_test", *W)
    assert code == 0
    assert re.fullmatch(r".*/new\.gallery: 6 crops added\n", out)
    assert "Person, camera and frame are read from 6 file names, such as " in err
    code, out, _ = run("add", "new.gallery", "people/bounding_box_test", *W)
    assert re.fullmatch(r".*/new\.gallery: 0 crops added, 6 there already\n", out)
    code, out, err = run(
        *("search", "new.gallery", "--query", query(), *W, "--top", "3", "--visible", "0,0,64,48"),
        *("--json", "hits.json", "--report", "hits.html"),
    )
    assert (code, err.strip()) == (0, "json: hits.json\nreport: hits.html")
    expected = opened("new.gallery").search(load("qpm.safetensors"), query(), Ask(top=3), visible=(0, 0, 64, 48))
    for hit in expected:
        row = (
            rf"│ {hit.rank} +│ {hit.distance:.4f} +│ {re.escape(hit.crop.name)} +│ {hit.crop.pid} +│ {hit.crop.camera} "
        )
        assert re.search(row, out)
        assert hit.crop.id in out
    assert "strip 3, strip 4" in out
    assert re.search(r"^6 crops compared \(exact\) in \d+ ms$", out, re.MULTILINE)
    record = AnswerRecord.model_validate_json(Path("hits.json").read_text())
    assert [hit.crop.id for hit in record.hits] == [hit.crop.id for hit in expected]
    page = Path("hits.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4
    assert "glimpse gallery search new.gallery --query" in page


def test_boxes_are_cut_as_told(run: Run) -> None:
    told = ("--camera", "gate", "--start", "2026-11-21T18:00", "--rate", "10", "--every", "2", "--padding", "0.1")
    least = ("--min-confidence", "0.5", "--min-height", "100")
    code, out, err = run("add", G, "boxes.txt", "--mot", "--frames", "frames", *W, *told, *least)
    assert code == 0
    assert "2 crops added" in out
    assert "left out" in err
    crops = opened().crops(Filter(cameras=("gate",)))
    start = datetime(2026, 11, 21, 18).timestamp()
    assert [(crop.frame, crop.track, crop.time) for crop in crops] == [
        (1, "boxes:5", start),
        (3, "boxes:5", start + 0.2),
    ]
    assert crops[0].box == (4, 8, 76, 152)
    code, out, _ = run("search", G, "--like", crops[0].id, *W, "--after", "2026-11-21T18:00:00", "--track", "boxes:5")
    assert code == 0
    assert "frames/000003.png#3" in out
    assert "2026-11-21T18:00:00.200000" in out
    assert "1 crop compared" in out


def test_lists_datasets_and_folders_of_people(run: Run) -> None:
    code, out, err = run("add", G, "list.csv", *W)
    assert code == 0
    assert re.search(r": \d crops added, 1 could not be read\n", out)
    assert "left out list.csv:2, column path: there is no file people/query/nobody.jpg" in err
    assert opened().crops(Filter(pids=("p1",)))[0].tags == ("red", "tall")
    assert " 0 crops added" in run("add", G, "people/query", *W)[1]  # the facts that are there stay
    assert len(opened().crops(Filter(pids=("p1",)))) == 1
    assert run("create", "b.gallery", *W)[0] == 0
    code, out, _ = run("add", "b.gallery", "market1501:people", "--split", "query", *W)
    assert (code, len(opened("b.gallery"))) == (0, len(list(Path("people/query").iterdir())))
    for person in ("anna", "bob"):
        Path("mine", person).mkdir(parents=True)
        Image.new("RGB", (32, 64), (len(person) * 40, 0, 0)).save(f"mine/{person}/1.png")
    Path("mine/bob/2.png").write_bytes(b"no picture")
    code, out, err = run("add", "b.gallery", "mine", "--people", *W)
    assert code == 0
    assert "2 crops added, 1 could not be read" in out
    assert "left out mine/bob/2.png: is not a picture" in err
    assert {crop.pid for crop in opened("b.gallery").crops()} >= {"anna", "bob"}


# ---------------------------------------------------------------- searching


def test_options_of_a_search_reach_it(run: Run) -> None:
    model = load("qpm.safetensors")
    second = sorted(Path("people/query").iterdir())[1]
    code, out, _ = run(
        *("search", G, "--query", query(), "--query", str(second), *W, "--combine", "mean", "--group", "pid"),
        *("--top", "2", "--skip", "1", "--expand", "2", "--mode", "exact", "--not-camera", "1", "--json", "a.json"),
        *("--option", "neighbours=3", "--option", "gamma=0.5"),
    )
    assert code == 0
    ask = Ask(top=2, skip=1, mode="exact", group="pid", combine="mean", expand=2, where=Filter(not_cameras=("1",)))
    expected = opened().search(model, [query(), str(second)], ask, options={"neighbours": 3, "gamma": 0.5})
    written = AnswerRecord.model_validate_json(Path("a.json").read_text())
    assert [(hit.rank, hit.crop.id) for hit in written.hits] == [(hit.rank, hit.crop.id) for hit in expected]
    assert written.where == {"not_cameras": ["1"]}
    for hit in expected:
        more = rf" \(\+{hit.crops_in_group - 1}\)" if hit.crops_in_group > 1 else ""
        assert re.search(rf"│ {hit.rank} +│ .*│ {hit.crop.pid}{more} +│", out)
    code, _, _ = run("search", G, "--query", query(), *W, "--rerank", "4,2,0.5", "--pool", "6", "--json", "b.json")
    written = AnswerRecord.model_validate_json(Path("b.json").read_text())
    assert [hit.reranked for hit in written.hits] == [True] * 6 + [False] * (len(opened()) - 6)


def test_a_crop_is_searched_for_by_its_id(run: Run) -> None:
    first = opened().crops()[0]
    code, out, _ = run("search", G, "--like", first.id, *W, "--report", "hits.html", "--json", "a.json", "--top", "2")
    assert code == 0
    assert "1 crop of the gallery left out: the query itself." in out
    written = json.loads(Path("a.json").read_text())
    assert written["query"] == [first.name]
    assert first.id not in [hit["crop"]["id"] for hit in written["hits"]]
    assert Path("hits.html").read_text().count("data:image/jpeg;base64,") == 3


def test_filters_that_leave_nothing_are_no_mistake(run: Run) -> None:
    code, out, err = run("search", G, "--query", query(), *W, "--pid", "nobody", "--tag", "x", "--report", "a.html")
    assert (code, err.strip()) == (0, "report: a.html")
    assert out.startswith("Nothing was compared: no crop fits.\n0 crops compared (exact)")
    code, out, _ = run("search", "empty.gallery", "--query", query(), *W)
    assert code == 0
    assert "Nothing was compared: the gallery is empty." in out


def test_an_index_is_built_measured_and_used(run: Run) -> None:
    code, out, _ = run("index", G, *W, "--recall", "0.9", "--option", "neighbours=5")
    assert code == 0
    assert re.search(r"crops +│ 18 ", out)
    assert re.search(r"recall@10 +│ 1\.0 ", out)
    assert re.search(r"measured on +│ 18 of 18 crops ", out)
    assert "(fast)" in run("search", G, "--query", query(), *W, "--mode", "fast")[1]
    assert "(fast)" in run("search", G, "--query", query(), *W)[1]
    assert "(exact)" in run("search", G, "--query", query(), *W, "--mode", "exact")[1]
    code, out, _ = run("stats", G, "--json", "stats.json")
    assert re.search(r"index: recall@10 +│ 1\.0 ", out)
    assert json.loads(Path("stats.json").read_text())["index"]["crops"] == 18
    assert run("add", G, "people/query", *W)[0] == 0
    code, out, _ = run("index", G, *W, "--rebuild", "--seed", "3")
    assert code == 0
    assert re.search(rf"crops +│ {len(opened())} ", out)


# ---------------------------------------------------------------- changing


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ("pid=it's anna", "pid", "it's anna"),
        ("pid=", "pid", None),
        ("camera=door=2", "camera", "door=2"),
        ("track=t:1", "track", "t:1"),
        ("time=12.5", "time", 12.5),
        ("time=2026-11-21T18:00", "time", datetime(2026, 11, 21, 18).timestamp()),
        ("time=", "time", None),
        ("tags=red;hat", "tags", ("red", "hat")),
        ("tags=", "tags", ()),
    ],
)
def test_what_is_known_can_be_changed(run: Run, change: str, field: str, value: object) -> None:
    first, *others = opened().crops()
    assert run("update", G, "--id", first.id, "--set", "tags=old", "--set", "time=1", "--set", "track=x")[0] == 0
    code, out, err = run("update", G, "--id", first.id, "--set", change)
    assert (code, out, err) == (0, "1 crop changed\n", "")
    after = {crop.id: crop for crop in opened().crops()}
    assert getattr(after[first.id], field) == value
    assert [after[crop.id] for crop in others] == others
    assert run("update", G, "--pid", "nobody", "--set", change)[1] == "0 crops changed\n"


def test_crops_are_deleted_and_their_bytes_with_compact(run: Run) -> None:
    pid = str(opened().crops()[0].pid)
    own = len(opened().crops(Filter(pids=(pid,))))
    total = len(opened())
    assert run("delete", G, "--pid", pid, "--dry-run") == (0, f"{own} of {total} crops would be deleted\n", "")
    assert len(opened()) == total
    code, out, err = run("delete", G, "--pid", pid, "--who", "anna")
    assert (code, out) == (0, f"{own} crops deleted, {total - own} left\n")
    assert err == f"their bytes are on the disk until `glimpse gallery compact {G}`\n"
    assert run("delete", G, "--pid", pid) == (0, f"0 crops deleted, {total - own} left\n", "")
    assert re.search(rf"deleted and not compacted +│ {own} ", run("stats", G)[1])
    code, out, _ = run("compact", G)
    assert (code, out) == (0, f"{total - own} crops in 1 file of data\n")
    assert re.search(r"deleted and not compacted +│ 0 ", run("stats", G)[1])


# ---------------------------------------------------------------- looking after


def test_stats_and_log_say_what_there_is_and_was(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("update", G, "--pid", str(opened().crops()[0].pid), "--set", "time=2026-11-21T18:00", "--who", "anna")
    code, out, err = run("stats", G, "--json", "stats.json")
    assert (code, err) == (0, "json: stats.json\n")
    found = json.loads(Path("stats.json").read_text())
    assert found["crops"] == 18
    for name, shown in (
        ("crops", "18"),
        ("people", "6"),
        ("cameras", "2"),
        ("method", "qpm"),
        ("to", "2026-11-21T18:00:00"),
    ):
        assert re.search(rf"│ {name} +│ {shown} ", out)
    monkeypatch.setenv("GLIMPSE_WHO", "bob")
    run("search", G, "--query", query(), *W, "--camera", "2", "--top", "1")
    run("search", G, "--query", query(), *W, "--no-audit")
    code, out, _ = run("log", G)
    assert code == 0
    lines = [line for line in out.splitlines() if line.startswith("│")]
    assert [re.split(r" *│ *", line)[2:4] for line in lines] == [
        ["maker", "create"],
        ["maker", "add"],
        ["maker", "add"],
        ["anna", "update"],
        ["bob", "search"],
    ]
    assert "of ['time'], crops 2, ids ['" in lines[3]
    assert "where {'cameras': ['2']}" in lines[4]
    code, out, _ = run("log", G, "--last", "1")
    assert (out.count("search"), out.count("update")) == (1, 0)


def test_a_flipped_byte_is_a_problem_and_exit_code_1(run: Run) -> None:
    code, out, err = run("verify", G)
    assert (code, err) == (0, "")
    assert re.fullmatch(r"18 crops in \d+ files: no problems\n", out)
    data = max(Path(G, "crops.lance", "data").iterdir(), key=lambda path: path.stat().st_size)
    flip(data, data.stat().st_size // 2)
    code, out, err = run("verify", G)
    assert (code, err) == (1, "")
    assert f"problem crops.lance/data/{data.name} was changed: its SHA-256 is not the recorded one" in out
    assert "no problems" not in out


def flip(path: Path, place: int) -> None:
    whole = bytearray(path.read_bytes())
    whole[place] ^= 255
    path.write_bytes(bytes(whole))


def test_verify_says_what_is_damaged_where_the_gallery_cannot_be_opened(run: Run) -> None:
    (newest, *_) = sorted(
        Path(G, "crops.lance", "_versions").glob("*.manifest"), key=lambda path: path.stat().st_mtime
    )[::-1]
    newest.write_bytes(newest.read_bytes()[:20])
    code, out, err = run("search", G, "--query", query(), *W)
    assert (code, out) == (2, "")
    assert "`glimpse gallery verify`" in err
    code, out, err = run("verify", G)
    assert code == 1
    assert f"problem crops.lance/_versions/{newest.name} has 20 bytes instead of " in out
    assert "Traceback" not in err


def test_a_changed_log_is_a_problem(run: Run) -> None:
    log = Path(G, "audit.jsonl")
    log.write_text(log.read_text().replace("maker", "someone", 1))
    code, out, _ = run("verify", G)
    assert code == 1
    assert re.search(r"problem .*audit\.jsonl:1 is not the line that was written", out)
    code, out, err = run("log", G)
    assert (code, out) == (2, "")
    assert "audit.jsonl:1: is not the line that was written" in err


# ---------------------------------------------------------------- moving


def test_exported_imported_and_embedded_anew(run: Run) -> None:
    code, out, _ = run("export", G, "part.parquet", "--camera", "1")
    part = len(opened().crops(Filter(cameras=("1",))))
    assert (code, out) == (0, f"{part} crops: part.parquet\n")
    assert len(pq.read_table("part.parquet")) == part
    code, out, _ = run("import", "b.gallery", "part.parquet", "--who", "anna")
    assert code == 0
    assert out.endswith(f"/b.gallery: {part} crops added\n")
    assert run("export", G, "all.parquet")[0] == 0
    assert run("import", "b.gallery", "all.parquet")[1].endswith(f": {18 - part} crops added, {part} there already\n")
    hidden = sorted(Path("people/bounding_box_test").iterdir())[0]
    Path("b.parquet").write_bytes(Path("all.parquet").read_bytes())
    assert run("re-embed", G, "--out", "c.gallery", "--weights", "baseline.safetensors")[1].endswith(
        ": 18 crops added\n"
    )
    assert opened("c.gallery").info.made_by.startswith("baseline@")
    data = hidden.read_bytes()
    hidden.unlink()
    try:
        code, out, err = run("re-embed", G, "--out", "d.gallery", "--weights", "baseline.safetensors")
    finally:
        hidden.write_bytes(data)
    assert code == 0
    assert out.endswith("/d.gallery: 17 crops added, 1 could not be read\n")
    assert f"left out {hidden}: there is no such file in " in err


# ---------------------------------------------------------------- mistakes

SEARCH = ("search", G, "--query", "QUERY", *W)
ADD = ("add", G, "people/query", *W)
MOT = ("add", G, "boxes.txt", "--mot", *W)
UPDATE = ("update", G, "--pid", "1", "--set")


@pytest.mark.parametrize(
    ("arguments", "message", "remedy"),
    [
        (("create", G, *W), f"{G}: there is a gallery already", "choose a new folder, or add to the gallery"),
        (("create", "people", *W), "people: is not an empty folder", "choose a new folder"),
        (("create", "boxes.txt", *W), "boxes.txt: is not an empty folder", "choose a new folder"),
        (("create", "boxes.txt/new", *W), "boxes.txt/new: cannot be written", "see what the disk or store says"),
        (("create", "new", "--weights", "nothing"), "nothing: is neither a file nor installed", "give the path of a"),
        (("create", "new", *W, "--store", "region"), "--store: 'region' is not KEY=VALUE", "write such as region=eu"),
        (("add", "nowhere", "people", *W), "nowhere: there is no gallery", "make one with `glimpse gallery create`"),
        (("add", "people", "people", *W), "people: there is no gallery", "make one with `glimpse gallery create`"),
        (("add", G, "nowhere", *W), "nowhere: does not exist", "check the path and its spelling"),
        (("add", G, "empty", *W), "empty: holds no files", "give a folder, a zip or a picture"),
        (("add", G, "boxes.txt", *W), "boxes.txt: is not a zip", "download or copy it again"),
        (
            ("add", G, "people/query", "--weights", "baseline.safetensors"),
            "and these are of baseline@",
            "use those weights, or embed its crops anew with `glimpse gallery re-embed`",
        ),
        ((*ADD, "--frames", "frames"), "--frames: is for boxes", "add --mot, or leave it out"),
        ((*ADD, "--camera", "a"), "--camera: is for boxes", "add --mot, or leave it out"),
        ((*ADD, "--start", "9"), "--start: is for boxes", "add --mot, or leave it out"),
        ((*ADD, "--rate", "9"), "--rate: is for boxes", "add --mot, or leave it out"),
        ((*ADD, "--every", "2"), "--every: is for boxes", "add --mot, or leave it out"),
        ((*ADD, "--padding", "0.1"), "--padding: is for boxes", "add --mot, or leave it out"),
        ((*ADD, "--min-confidence", "0"), "--min-confidence: is for boxes", "add --mot, or leave it out"),
        ((*ADD, "--min-height", "9"), "--min-height: is for boxes", "add --mot, or leave it out"),
        ((*ADD, "--split", "query"), "people/query is no dataset and has no split 'query'", "leave the option out"),
        (("add", G, "list.csv", "--people", *W), "people: list.csv is a list of crops", "leave the option out"),
        (
            ("add", G, "market1501:people", "--split", "test", *W),
            "--split: 'test' is none of them",
            "choose among train",
        ),
        (("add", G, "market15:people", *W), "there is no kind of dataset 'market15'", ""),
        ((*MOT, "--people"), "--people: is not for boxes", "leave it or --mot out"),
        ((*MOT, "--split", "query"), "--split: is not for boxes", "leave it or --mot out"),
        (MOT, "img1: there are no frames: no such folder", "name a folder or zip of pictures, or a video"),
        ((*MOT, "--frames", "nowhere"), "nowhere: does not exist", "check the path and its spelling"),
        (
            (*MOT, "--frames", "frames", "--start", "today"),
            "--start: 'today' is no time",
            "give seconds, or a date and",
        ),
        (
            (*MOT, "--frames", "frames", "--start", "nan"),
            "--start: 'nan' is no time",
            "give seconds, or a date and time",
        ),
        ((*MOT, "--frames", "frames", "--rate", "0"), "rate", ""),
        (("search", G, *W), "--query: nobody is looked for", "give --query PICTURE or --like ID"),
        (("search", "nowhere", "--query", "QUERY", *W), "nowhere: there is no gallery", "make one with"),
        (
            (*SEARCH, "--query", "QUERY", "--visible", "0,0,9,9"),
            "--visible: there are several queries",
            "give one query, or leave it out",
        ),
        ((*SEARCH, "--visible", "0,0,64,999"), "visible: the box 0,0,64,999 leaves the crop", "give x0,y0,x1,y1"),
        ((*SEARCH, "--visible", "mask.png"), "'mask.png' is neither four numbers nor a file", "give x0,y0,x1,y1"),
        ((*SEARCH, "--query", "nobody.png"), "nobody.png: there is no such file", "check the path and its spelling"),
        ((*SEARCH, "--query", "boxes.txt"), "boxes.txt: is not a picture", "give another picture as the query"),
        ((*SEARCH, "--after", "soon"), "--after: 'soon' is no time", "give seconds, or a date and time such as"),
        ((*SEARCH, "--before", "2026-13-01"), "--before: '2026-13-01' is no time", "give seconds, or a date and time"),
        ((*SEARCH, "--before", "inf"), "--before: 'inf' is no time", "give seconds, or a date and time"),
        ((*SEARCH, "--after", "5", "--before", "4"), "after: 5 is not before 4", "give after < before"),
        ((*SEARCH, "--mode", "quick"), "mode: 'quick' is not known", "choose one of auto, exact, fast"),
        ((*SEARCH, "--mode", "fast"), "has no index for this distance", "build it with `glimpse gallery index`"),
        ((*SEARCH, "--group", "camera"), "group: 'camera' is not known", "choose one of pid, track"),
        ((*SEARCH, "--combine", "max"), "combine: 'max' is not known", "choose one of min, mean"),
        ((*SEARCH, "--rerank", "20"), "--rerank: '20' is not K1,K2,LAMBDA", "write two whole numbers and a share"),
        ((*SEARCH, "--rerank", "2,3,0.5"), "k2: 3 is out of range", "give 1 to 2, which is k1"),
        ((*SEARCH, "--rerank", "4,2,0.5", "--expand", "2"), "rerank: re-ranking looks at the", "search with one crop"),
        (
            (*SEARCH, "--rerank", "4,2,0.5", "--query", "QUERY"),
            "rerank: re-ranking looks at the neighbours of one crop",
            "search with one crop and without query expansion",
        ),
        ((*SEARCH, "--option", "gamma"), "--option: 'gamma' is not KEY=VALUE", "write it as --option gamma=0.6"),
        ((*SEARCH, "--option", "colour=1"), "has no option 'colour'", "its options are gamma, neighbours"),
        ((*SEARCH, "--like", "12"), "holds no crop 12", "take the id of one that is there"),
        (
            ("search", G, "--like", "ID", *W, "--visible", "0,0,9,9"),
            "a prompt comes too late",
            "search with the picture",
        ),
        ((*SEARCH, "--weights", "baseline.safetensors"), "and these are of baseline@", "use those weights, or embed"),
        ((*SEARCH, "--json", "empty"), "empty: is a folder, and a file is to be written there", "give the name of a"),
        ((*SEARCH, "--json", f"{G}/audit.jsonl"), "lies in the folder of the gallery", "write it elsewhere"),
        ((*SEARCH, "--report", f"{G}/hits.html"), "lies in the folder of the gallery", "write it elsewhere"),
        (
            (*SEARCH, "--report", "QUERY"),
            "is an input of this command and would be overwritten",
            "write to another file",
        ),
        ((*SEARCH, "--json", "new", "--report", "new"), "new: is to hold two results", "give each its own file"),
        (
            (*SEARCH, "--visible", "boxes.txt", "--json", "boxes.txt"),
            "boxes.txt: is an input of this command",
            "write to",
        ),
        (("index", G, *W, "--recall", "2"), "recall: 2.0 is no share", "give a number above 0, at most 1"),
        (("index", "empty.gallery", *W), "is empty, and there is nothing to index", "add crops first"),
        (("index", G, *W, "--option", "gamma"), "--option: 'gamma' is not KEY=VALUE", "write it as --option gamma=0.6"),
        (
            ("index", G, "--weights", "baseline.safetensors"),
            "and these are of baseline@",
            "use those weights, or embed",
        ),
        (("delete", G), "no condition is given, and all crops would be deleted", "name ids, people, cameras, tracks"),
        (("delete", G, "--dry-run"), "no condition is given, and all crops would be deleted", "name ids, people"),
        (("delete", G, "--after", "soon"), "--after: 'soon' is no time", "give seconds, or a date and time"),
        (("delete", "nowhere", "--pid", "1"), "nowhere: there is no gallery", "make one with"),
        (
            ("update", G, "--set", "pid=anna"),
            "no condition is given, and all crops would be changed",
            "name ids, people",
        ),
        ((*UPDATE, "pid"), "--set: 'pid' is not KEY=VALUE", "write such as pid=anna"),
        ((*UPDATE, "id=7"), "id: cannot be changed", "what can be: pid, camera, track, time, tags"),
        ((*UPDATE, "pid=1", "--set", "pid=2"), "--set: 'pid' is given twice", "give it once"),
        ((*UPDATE, "time=noon"), "--set time: 'noon' is no time", "give seconds, or a date and time"),
        ((*UPDATE, "time=nan"), "--set time: 'nan' is no time", "give seconds, or a date and time"),
        (("stats", "nowhere"), "nowhere: there is no gallery", "make one with `glimpse gallery create`"),
        (("stats", G, "--json", f"{G}/checksums.txt"), "lies in the folder of the gallery", "write it elsewhere"),
        (("verify", "nowhere"), "nowhere: there is no gallery", "make one with `glimpse gallery create`"),
        (("compact", "nowhere"), "nowhere: there is no gallery", "make one with `glimpse gallery create`"),
        (("log", "nowhere"), "nowhere: there is no gallery", "make one with `glimpse gallery create`"),
        (("export", "nowhere", "new.parquet"), "nowhere: there is no gallery", "make one with"),
        (("export", G, "empty"), "empty: is a folder, and a file is to be written there", "give the name of a file"),
        (("export", G, f"{G}/audit.jsonl"), "lies in the folder of the gallery", "write it elsewhere"),
        (
            ("export", G, "boxes.txt/a.parquet"),
            "boxes.txt/a.parquet: cannot be written",
            "choose a folder you can write",
        ),
        (("import", G, "nowhere.parquet"), "nowhere.parquet: does not exist", "check the path and its spelling"),
        (
            ("import", "new", "boxes.txt"),
            "boxes.txt: cannot be read",
            "give a file that `glimpse gallery export` wrote",
        ),
        (("re-embed", "nowhere", "--out", "new", *W), "nowhere: there is no gallery", "make one with"),
        (("re-embed", G, "--out", "people", *W), "people: is not an empty folder", "choose a new folder"),
        (
            ("re-embed", G, "--out", "empty.gallery", "--weights", "baseline.safetensors"),
            "and these are of baseline@",
            "use those weights, or embed",
        ),
    ],
)
def test_mistakes_are_one_message_and_code_2(run: Run, arguments: tuple[str, ...], message: str, remedy: str) -> None:
    stands_for = {"QUERY": query(), "ID": opened().crops()[0].id}

    def there() -> dict[Path, bytes | None]:
        found = [path for path in Path().rglob("*") if path.suffix != ".lock" and not path.name.endswith(".lock")]
        return {path: path.read_bytes() if path.is_file() else None for path in found}

    before = there()
    code, out, err = run(*(stands_for.get(each, each) for each in arguments))
    assert code == 2
    assert out == ""
    *_, error, said, end = err.split("\n")
    assert error.startswith("error ")
    assert message in error
    assert said.startswith(f"remedy: {remedy}")
    assert end == ""
    assert "Traceback" not in err
    assert there() == before


def test_without_the_extra_every_command_names_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for arguments in (
        ("create", "new", *W),
        ADD,
        SEARCH,
        ("index", G, *W),
        ("delete", G, "--pid", "1"),
        (*UPDATE, "pid=2"),
        ("stats", G),
        ("verify", G),
        ("compact", G),
        ("export", G, "new.parquet"),
        ("import", G, "new.parquet"),
        ("re-embed", G, "--out", "new", *W),
        ("log", G),
    ):
        code, _, err = run(*arguments)
        assert code == 2
        assert "galleries need what is not installed (pyarrow)" in err
        assert "remedy: install the extra: pip install 'glimpse-reid[gallery]'" in err


def test_every_command_says_what_it_is_for(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    commands = ("create", "add", "search", "index", "delete", "update", "stats", "verify", "compact")
    for command in (*commands, "export", "import", "re-embed", "log"):
        assert re.search(rf"│ {command} ", out)
        assert run(command, "--help")[0] == 0
