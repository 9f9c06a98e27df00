"""The laboratory from the command line: render, look, cover, ask what weights know; and what is said of mistakes."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from glimpse import cli
from glimpse.data import open_dataset
from glimpse.evaluation.records import VisibilityRecord
from glimpse.model import Card, build, save

Run = Callable[..., tuple[int, str, str]]
CROWD = ("--people", "8", "--cameras", "2", "--crops", "2", "--size", "64x32", "--jobs", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("laboratory")
    torch.manual_seed(0)
    for method, options in (("qpm", {"strips": 4, "dim": 16}), ("baseline", {})):
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        card = Card(method=method, options=options, backbone="osnet_x0_25", size=(64, 32), mean=mean, std=std, ids=3)
        save(build(card), card, folder / f"{method}.safetensors")
    return folder


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in the folder of the weights."""
    monkeypatch.chdir(place)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["glimpse", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def people(run: Run) -> str:
    """Rendered people."""
    if not Path("people").exists():
        assert run("data", "render", "people", *CROWD)[0] == 0
    return "market1501:people"


def test_render_says_what_opens_it(run: Run) -> None:
    code, out, _ = run("data", "render", "crowd.zip", *CROWD, "--train", "2", "--kind", "person=2", "--kind", "car")
    assert code == 0
    assert "8 training crops, 12 queries, 12 gallery crops" in out
    assert "market1501:crowd.zip --cues crowd-cues" in out
    assert len(open_dataset("market1501:crowd.zip").query) == 12
    assert run("data", "render", "crowd.zip", *CROWD)[0] == 2


def test_a_contact_sheet_can_be_looked_at(run: Run, people: str) -> None:
    code, out, err = run("data", "show", people, "--out", "sheet.png", "--people", "3", "--crops", "2")
    assert (code, out.strip()) == (0, "sheet.png")
    assert "from the top" in err
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 2 * 96


def test_covered_crops_are_evaluated_with_their_prompts(run: Run, people: str) -> None:
    code, out, _ = run(
        *(
            "data",
            "occlude",
            people,
            "--out",
            "covered",
            "--kind",
            "thing",
            "--kind",
            "person",
            "--sides",
            "left,bottom",
        ),
        *("--fraction", "0.3-0.5", "--sources", people, "--cues", "people/cues", "--masks", "truth"),
    )
    assert code == 0
    assert "8 crops covered" in out
    assert "24 copied: market1501:covered, truth in covered-truth" in out
    weights = ("--weights", "qpm.safetensors", "--prompts", "covered-truth/prompts.csv")
    code, out, _ = run("evaluate", "--data", "market1501:covered", *weights)
    assert code == 0
    assert "prompt" in out
    shutil.rmtree("covered")
    shutil.rmtree("covered-truth")


def test_weights_are_put_beside_the_truth(run: Run, people: str) -> None:
    arguments = ("visibility", "--data", people, "--truth", "people/cues", "--json", "seen.json")
    code, out, _ = run(*arguments, "--weights", "qpm.safetensors")
    assert code == 0
    assert "strip 4" in out
    record = VisibilityRecord.model_validate(json.loads(Path("seen.json").read_text()))
    assert (record.method, record.crops, len(record.parts)) == ("qpm", 8, 4)
    assert record.auc is not None
    code, _, err = run(*arguments, "--weights", "baseline.safetensors")
    assert (code, "has no part weights" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("data", "render", "new", "--people", "1"), "people: 1 is out of range. remedy: give 2 to 9998"),
        (("data", "render", "new", "--size", "128"), "--size: '128' is not HxW"),
        (("data", "render", "new", "--kind", "tree"), "--kind: 'tree' is none of them"),
        (("data", "render", "new", "--kind", "car=much"), "--kind: 'much' is not a number"),
        (("data", "render", "new", "--query", "2"), "rates.query: 2.0 is not a share"),
        (("data", "render", "people"), "people: is not an empty folder"),
        (("data", "show", "market1501:people", "--out", "a.txt"), "a.txt: has no ending that a picture has"),
        (
            ("data", "occlude", "market1501:people", "--out", "new", "--fraction", "0.9"),
            "fraction: 0.9 to 0.9 is out of",
        ),
        (
            ("data", "occlude", "market1501:people", "--out", "new", "--fraction", "half"),
            "--fraction: 'half' is not a num",
        ),
        (
            ("data", "occlude", "market1501:people", "--out", "new", "--sides", "above"),
            "--sides: 'above' is none of them",
        ),
        (
            ("data", "occlude", "market1501:people", "--out", "new", "--masks", "a"),
            "--masks: is of --cues, which is not",
        ),
        (("data", "occlude", "market1501:people", "--out", "new"), "identities: 50 of 4 people leaves nobody"),
        (("visibility", "--data", "market1501:people", "--truth", "people"), "people: has neither masks"),
        (
            ("visibility", "--data", "market1501:people", "--truth", "people/cues", "--split", "test"),
            "--split: 'test' is none of them",
        ),
    ],
)
def test_what_is_wrong_is_named(run: Run, people: str, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert message in " ".join(err.split())
    assert not Path("new").exists()
