"""Part weights beside the truth: a hand-worked example, and the truth of rendered and of covered crops."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from glimpse.annotate.occlude import Occlude, write_occluded
from glimpse.data import open_dataset
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, DataError, EmbeddingError
from glimpse.evaluation.records import VisibilityRecord
from glimpse.evaluation.visibility import BodyTruth, CropTruth, Visibility, open_truth, visibility
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


class _Changed:
    """A store whose files are others than were rendered."""

    def __init__(self, store: object) -> None:
        self.root = store.root

    def read(self, name: str) -> bytes:
        return b"another file"
