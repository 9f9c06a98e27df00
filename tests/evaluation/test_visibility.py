"""Part weights beside the truth: a hand-worked example, and the truth of rendered and of covered crops."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from glimpse import cli
from glimpse.annotate.occlude import Occlude, write_occluded
from glimpse.data import open_dataset
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, DataError, EmbeddingError
from glimpse.evaluation.records import VisibilityRecord
from glimpse.evaluation.visibility import (
    BodyTruth,
    CropTruth,
    Visibility,
    calibration_drawing,
    call_models,
    draw_calibration,
    open_truth,
    visibility,
)
from glimpse.synthetic.dataset import render_dataset
from glimpse.synthetic.people import Population

NAN = float("nan")
HALVES = (("upper half", (0.0, 0.0, 1.0, 0.5)), ("lower half", (0.0, 0.5, 1.0, 1.0)))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("visibility") / "people"
    render_dataset(folder, Population(people=10, train=4, cameras=3), crops=2, size=(64, 32))
    return folder


def test_a_hand_worked_example() -> None:
    # Clear: 0.9 and 0.5. Covered: 0.4 and 0.6. Of four pairs the clear part weighs more in three.
    weights = np.array([[0.9, 0.4], [0.5, 0.6], [0.7, 0.2]])
    shares = np.array([[1.0, 0.0], [0.8, 0.2], [0.5, NAN]])
    found = Visibility(("a", "b"), weights, shares, "qpm", "w@1")
    assert found.auc() == 0.75
    assert np.isnan(found.auc(0))
    # Ranks of the five that are known: weights 4, 0, 1, 2, 3 by shares 4, 0, 3, 1, 2.
    assert found.correlation() == pytest.approx(np.corrcoef([4, 0, 1, 2, 3], [4, 0, 3, 1, 2])[0, 1])
    record = found.record()
    assert VisibilityRecord.model_validate_json(record.model_dump_json()) == record
    assert (record.parts[0].clear, record.parts[0].covered, record.parts[0].auc) == (0.7, None, None)
    assert (record.parts[1].covered_parts, record.parts[1].clear_parts) == (2, 0)
    assert [(step.weight, step.share, step.parts) for step in found.calibration(2)] == [
        (pytest.approx(0.4), 0.0, 1),
        (pytest.approx(0.675), pytest.approx(0.625), 4),
    ]


def test_constant_weights_have_no_correlation() -> None:
    found = Visibility(("a",), np.ones((3, 1)), np.array([[0.0], [0.5], [1.0]]))
    assert found.auc() == 0.5
    assert np.isnan(found.correlation())
    assert found.record().correlation is None


def test_the_truth_of_rendered_people_is_what_was_written_of_them(people: Path) -> None:
    truth = open_truth(people / "cues")
    assert isinstance(truth, BodyTruth)
    dataset = open_dataset(f"market1501:{people}")
    thirds = tuple((f"third {k}", (0.0, k / 3, 1.0, (k + 1) / 3)) for k in range(3))
    with (people / "truth.csv").open(encoding="utf-8") as file:
        written = {row["file"]: row for row in csv.DictReader(file)}
    hidden = 0
    for sample in dataset.query:
        row = written[sample.name]
        parts = truth.shares(sample, [(name, (0, 0, 1, 1)) for name in ("head", "lower body", "shoes")])
        expected = [float(row[f"visible_{name}"] or NAN) for name in ("head", "lower", "shoes")]
        assert np.allclose(parts, expected, equal_nan=True)
        shares = truth.shares(sample, thirds)
        assert ((shares >= 0) & (shares <= 1) | np.isnan(shares)).all()
        hidden += int((shares < 0.5).any())
    assert hidden > 5
    clear = next(sample for sample in dataset.train if written[sample.name]["in_front"] == "none")
    assert np.nanmin(truth.shares(clear, thirds)) == 1.0


def test_the_truth_of_covered_crops_is_their_mask(people: Path, tmp_path: Path) -> None:
    made = write_occluded(f"market1501:{people}", tmp_path / "new", Occlude(("grey",), ("bottom",), (0.5, 0.5)))
    truth = open_truth(made.truth)
    assert isinstance(truth, CropTruth)
    for sample in open_dataset(made.spec).query:
        assert truth.shares(sample, HALVES).tolist() == [1.0, 0.0]
    with pytest.raises(DataError, match=r"bounding_box_test/.*: has no mask that can be read"):
        truth.shares(open_dataset(made.spec).gallery[0], HALVES)


def test_a_model_that_knows_and_one_that_has_no_weights(people: Path, tmp_path: Path, model, make_model) -> None:
    made = write_occluded(f"market1501:{people}", tmp_path / "new", Occlude(("grey",), ("top",), (0.5, 0.5)))
    samples = open_dataset(made.spec).query
    done: list[int] = []
    found = visibility(model, samples, open_truth(made.truth), progress=done.append)
    assert (found.auc(), found.correlation()) == (1.0, pytest.approx(1.0))
    assert sum(done) == len(samples)
    assert all(prompt is None for prompt in model.prompts)
    with pytest.raises(EmbeddingError, match="has no part weights"):
        visibility(make_model(weights=False), samples, open_truth(made.truth))
    with pytest.raises(DataError, match="there are no crops"):
        visibility(model, (), open_truth(made.truth))


def test_weights_need_a_region_each(people: Path, model) -> None:
    samples = open_dataset(f"market1501:{people}").query
    embed = model.embed_samples

    def fewer(given, **options):
        found = embed(given, **options)
        found.embedding = Embedding({"weights": found.embedding["weights"][:, :2]})
        return found

    model.embed_samples = fewer
    with pytest.raises(EmbeddingError, match="name one region per part weight"):
        visibility(model, samples, open_truth(people / "cues"))


def test_unreadable_crops_are_left_out(people: Path, tmp_path: Path, model) -> None:
    made = write_occluded(f"market1501:{people}", tmp_path / "new", Occlude(("grey",), fraction=(0.5, 0.5)))
    samples = open_dataset(made.spec).query
    Path(samples[0].path).write_bytes(b"no picture")
    found = visibility(model, samples, open_truth(made.truth), skip_bad=True)
    assert len(found.weights) == len(found.shares) == len(samples) - 1


def test_a_folder_without_truth_is_said(people: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has neither masks .* nor cues"):
        open_truth(tmp_path)
    sample = open_dataset(f"market1501:{people}").query[0]
    other = type(sample)(_Changed(sample.store), sample.name, sample.pid, sample.camid)
    with pytest.raises(DataError, match="has no exact part maps"):
        open_truth(people / "cues").shares(other, HALVES)


# ---------------------------------------------------------------- the plot


def judged(made_by: str = "qpm@1", crops: int = 2) -> VisibilityRecord:
    """Four parts a crop: two that weigh 0.2, of which half shows, and two that weigh 0.9 and 1, of which all shows."""
    weights = np.tile([0.2, 0.2, 0.9, 1 + 1e-7], (crops, 1))
    shares = np.tile([0.0, 1.0, 1.0, 1.0], (crops, 1))
    return Visibility(("a", "b", "c", "d"), weights, shares, "qpm", made_by).record()


def test_the_plot_has_shares_by_weights_the_diagonal_and_how_many_parts_there_are() -> None:
    left, right = calibration_drawing([judged(crops=300)]).figure.axes
    lines = {tuple(map(tuple, np.round(line.get_xydata(), 3))) for line in left.lines}
    assert {((20, 50), (95, 100)), ((0, 0), (100, 100))} <= lines
    assert ((20, 50), (95, 50)) in {tuple(map(tuple, np.round(line.get_xydata(), 3))) for line in right.lines}
    assert (left.get_xlim(), right.get_xlim()) == ((0, 100), (0, 100))
    assert [text.get_text() for text in right.texts] == ["600", "600", "1,200 parts"]
    assert left.texts[-1].get_text() == "AUC 0.833"
    assert left.figure.get_suptitle() == "qpm@1 on 300 crops"


def test_weights_that_are_all_the_same_are_one_point() -> None:
    left, right = calibration_drawing([Visibility(("a",), np.ones((5, 1)), np.ones((5, 1))).record()]).figure.axes
    assert ((100, 100),) in {tuple(map(tuple, line.get_xydata())) for line in left.lines}
    assert [text.get_text() for text in left.texts if text.get_text()] == ["no AUC"]
    number = right.texts[0]
    assert (number.get_text(), number.get_va()) == ("5", "top")  # and not in the heading


def test_several_models_are_told_apart_by_name() -> None:
    drawing = calibration_drawing([judged("a@1"), judged("b@2")], names=["A", "B & C"])
    left, right = drawing.figure.axes
    assert [text.get_text() for text in left.texts if text.get_text()] == ["A, AUC 0.833", "B & C, AUC 0.833"]
    assert [text.get_text() for text in right.texts if text.get_text()] == ["A, 8 parts", "B & C, 8 parts"]
    assert drawing.figure.get_suptitle() == "2 crops"


def test_both_formats_are_written(tmp_path: Path) -> None:
    for name in ("plot.svg", "plot.png"):
        draw_calibration([judged()], tmp_path / name)
    assert "visible share of parts against their weight: qpm@1" in (tmp_path / "plot.svg").read_text()
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width > picture.height
    with pytest.raises(ConfigError, match=r"plot.pdf: ends neither in .svg nor in .png"):
        draw_calibration([judged()], tmp_path / "plot.pdf")


def test_what_cannot_be_drawn_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    unseen = Visibility(("a",), np.ones((2, 1)), np.full((2, 1), NAN), "pcb", "pcb@1").record()
    assert unseen.calibration == []
    with pytest.raises(ConfigError, match="there is nothing to draw"):
        calibration_drawing([])
    with pytest.raises(DataError, match="pcb@1: has weighed no part of which anything could be seen"):
        calibration_drawing([unseen])
    with pytest.raises(DataError, match="b@2: is of 3 crops, and qpm@1 of 2"):
        calibration_drawing([judged(), judged("b@2", crops=3)])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"matplotlib is not installed\. Remedy: install the extra: .*plots"):
        calibration_drawing([judged()])


def test_models_are_called_by_their_weights_unless_they_have_names() -> None:
    assert call_models(["a@1", "b@2"]) == ("a@1", "b@2")
    assert call_models(["a@1", "a@1"], ["A", "B"]) == ("A", "B")
    with pytest.raises(ConfigError, match="two models are called 'a@1'"):
        call_models(["a@1", "a@1"])
    with pytest.raises(ConfigError, match="1 names for 2 models"):
        call_models(["a@1", "b@2"], ["A"])


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    people: Path, make_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run `glimpse visibility` on the rendered people in an empty folder, with a model of stripes."""
    monkeypatch.chdir(tmp_path)
    Path("people").symlink_to(people)

    def loaded(weights: str, **_: object) -> object:
        model = make_model()
        model.made_by = f"{weights}@1"
        model.card = SimpleNamespace(method="stripes")
        return model

    monkeypatch.setattr("glimpse.model.load", loaded)

    def call(*arguments: str) -> tuple[int, str, str]:
        command = ["glimpse", "visibility", "--data", "market1501:people", "--truth", "people/cues", *arguments]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return call


def test_the_command_line_draws_one_model_and_several(run: Run) -> None:
    code, out, err = run("--plot", "one.svg", "--json", "one.json")
    assert (code, err) == (0, "json: one.json\nplot: one.svg\n")
    record = VisibilityRecord.model_validate_json(Path("one.json").read_text())
    assert f"default@1, {record.crops} crops" in out
    assert f">default@1 on {record.crops} crops<" in Path("one.svg").read_text()

    code, out, err = run("--weights", "a", "--weights", "b", "--name", "[A]", "--name", "B", "--plot", "new/both.png")
    assert (code, err) == (0, "plot: new/both.png\n")
    assert f"[A], {record.crops} crops" in out
    assert f"B, {record.crops} crops" in out
    assert Path("new/both.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--plot", "plot.pdf"), "plot.pdf: ends neither in .svg nor in .png. remedy: call it plot.svg"),
        (("--plot", "folder.svg"), "folder.svg: is a folder, and a file is to be written there"),
        (("--plot", "file/plot.svg"), "file: is a file, and a folder is needed there"),
        (("--plot", "x.svg", "--weights", "x.svg"), "x.svg: is an input of this command and would be overwritten"),
        (("--plot", "x.svg", "--json", "x.svg"), "x.svg: is to hold two results"),
        (
            ("--json", "x.json", "--weights", "a", "--weights", "b"),
            "--json: holds what was found of one model. remedy: ask for one model at a time, or leave it out",
        ),
        (("--weights", "a", "--weights", "a", "--plot", "x.svg"), "names: two models are called 'a@1'"),
        (("--weights", "a", "--name", "A", "--name", "B"), "names: 2 names for 1 models"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_done(run: Run, arguments: tuple[str, ...], message: str) -> None:
    Path("folder.svg").mkdir()
    Path("file").write_text("")
    before = sorted(Path().iterdir())
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize("folder", ["query", "cues"])
def test_pictures_of_the_data_and_of_the_truth_are_not_written_over(run: Run, people: Path, folder: str) -> None:
    picture = people / folder / "x.png"
    picture.write_bytes(b"a picture")
    code, _, err = run("--plot", f"people/{folder}/x.png")
    left = picture.read_bytes()
    picture.unlink()
    assert (code, left) == (2, b"a picture")
    assert f"people/{folder}/x.png: is one of the crops and would be overwritten" in " ".join(err.split())


class _Changed:
    """A store whose files are others than were rendered."""

    def __init__(self, store: object) -> None:
        self.root = store.root

    def read(self, name: str) -> bytes:
        return b"another file"
