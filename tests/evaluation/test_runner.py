"""A whole evaluation: what the report holds, its table, its JSON and its schema."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from glimpse.data import Protocol
from glimpse.errors import ConfigError, DataError
from glimpse.evaluation import EvaluationRecord, OcclusionPlan, evaluate_dataset, schema, table

ROOT = Path(__file__).resolve().parents[2]


def printed(report) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table(report))
    return console.export_text()


def test_partial_set(model, partial) -> None:
    seen: list[int] = []
    report = evaluate_dataset(model, partial, seed=3, command="glimpse evaluate", progress=seen.append)
    assert sum(seen) == report.timing.crops == len(partial.query) + len(partial.gallery)
    assert report.result.summary.metrics.rank_1.value == 1.0
    assert (report.result.matches == 3).all()
    assert report.single_shot is not None
    assert report.single_shot.ranks.shape == (12, 3, 3)
    assert report.result.top.shape == (36, 10)
    assert report.timing.bytes_per_gallery_item == 4 * (12 + 4)
    assert "Drawn." in report.notes
    text = printed(report)
    assert "single-shot, 9 trials" in text
    assert "100.0 (100.0-100.0)" in text


def test_camera_rule_and_queries_without_a_match(model, cameras) -> None:
    report = evaluate_dataset(model, cameras)
    assert report.result.skipped.tolist() == [6]
    assert report.single_shot is None
    assert (report.result.ignored == 2).all()  # the own camera's crop, and junk
    assert report.protocol.unmatched == ("memory/q/lonely.png",)
    # The same-camera copy and junk would be the closest of all; they are in no ranked list.
    for query in range(6):
        found = report.ranked(query)
        assert found[0][2]
        assert {cameras.gallery[row].pid for row, _, _ in found} >= {0}
        assert -1 not in {cameras.gallery[row].pid for row, _, _ in found}
        assert len(found) == 10
    assert not any(right for _, _, right in report.ranked(6))


def test_ranked_lists_are_those_of_a_full_sort(model, partial) -> None:
    report = evaluate_dataset(model, partial, max_bytes=1, gallery_block=5)
    matrix = report.distance.matrix(report.query, report.gallery).numpy()
    assert (report.result.top == np.argsort(matrix, axis=1, kind="stable")[:, :10]).all()
    np.testing.assert_allclose(report.result.top_distance, np.sort(matrix, axis=1)[:, :10], atol=1e-6)


def test_covered_queries_and_quality(model, partial) -> None:
    plan = OcclusionPlan(kinds=("grey", "person"), sides=("top", "bottom"), fractions=(0.25, 0.5),
                         prompted=(False, True), queries=10, quality=True)  # fmt: skip
    report = evaluate_dataset(model, partial, occlusion=plan)
    assert [(s.kind, s.prompted, len(s.queries)) for s in report.suites] == [
        ("grey", False, 10),
        ("grey", True, 10),
        ("person", False, 10),
        ("person", True, 10),
    ]
    drawn = [i for i, sample in enumerate(partial.query) if sample in report.suites[0].queries]
    assert report.clear(report.suites[0]).map.value == pytest.approx(report.result.ap[drawn].mean())
    assert "drawn queries" in printed(report)
    assert report.quality is not None
    assert report.quality.auc > 0.95
    text = printed(report)
    assert "grey over 25 %" in text
    assert "person over 50 %, prompted" in text


def test_prompts_reach_their_crops_only(model, partial) -> None:
    prompts = {"query/001_1.png": (0.0, 16.0, 16.0, 32.0), "gallery/002_0.png": (0.0, 0.0, 16.0, 8.0)}
    report = evaluate_dataset(model, partial, prompts=prompts)
    assert report.prompts == {1: (0.0, 16.0, 16.0, 32.0)}
    assert report.gallery_prompts == {3: (0.0, 0.0, 16.0, 8.0)}
    assert report.query["weights"][1].tolist() == [0, 0, 1, 1]
    assert report.gallery["weights"][3].tolist() == [1, 0, 0, 0]
    assert (report.query["weights"][2:] == 1).all()
    assert "1 of 36 queries and 1 of 36 gallery crops came with a prompt." in report.notes
    assert "as it is, 1 of 36 prompted" in printed(report)


def test_a_prompt_without_a_crop_stops_before_any_work(model, partial) -> None:
    with pytest.raises(DataError, match="there is no such crop"):
        evaluate_dataset(model, partial, prompts={"nobody.png": (0, 0, 1, 1)})
    assert not model.calls


def test_a_box_outside_its_crop_stops_before_any_work(model, partial) -> None:
    with pytest.raises(ConfigError, match=r"query/001_1.png: the box 0,0,16,99 leaves the crop, which is 16 x 32"):
        evaluate_dataset(model, partial, prompts={"query/001_1.png": (0, 0, 16, 99)})
    assert not model.calls


def test_unreadable_crops(model, partial, store) -> None:
    store.files[partial.query[0].name] = b"broken"
    store.files[partial.gallery[5].name] = b""
    with pytest.raises(DataError, match=partial.query[0].path):
        evaluate_dataset(model, partial)
    prompts = {partial.query[2].name: (0.0, 0.0, 16.0, 8.0)}
    report = evaluate_dataset(model, partial, skip_bad=True, prompts=prompts)
    assert [error.where for error in report.bad] == [partial.query[0].path, partial.gallery[5].path]
    assert len(report.dataset.query) == len(report.query) == 35
    assert len(report.dataset.gallery) == len(report.gallery) == 35
    assert list(report.prompts) == [1]  # rows count what was read
    assert report.single_shot is None
    assert report.result.summary.metrics.rank_1.value == 1.0
    assert any("2 crops could not be read" in note for note in report.notes)
    assert any("Single-shot" in note for note in report.notes)


def test_covering_needs_somebody_to_cover_with(model, partial) -> None:
    with pytest.raises(ConfigError, match="no training crops to take a 'person' from"):
        evaluate_dataset(model, replace(partial, train=()), occlusion=OcclusionPlan(kinds=("grey", "person")))
    assert not model.calls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ("fog",)}, "'fog' is no kind of occluder"),
        ({"kinds": ()}, "no kind of occluder is given"),
        ({"prompted": ()}, "neither prompted nor not"),
        ({"sides": ("middle",)}, "'middle' is not a side"),
        ({"fractions": (40,)}, "40 is not between 0 and 1"),
        ({"queries": 0}, "0 queries are none"),
    ],
)
def test_a_plan_refuses_what_cannot_be_done(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OcclusionPlan(**options)


def test_no_match_at_all_is_said_before_any_work(model, partial) -> None:
    with pytest.raises(DataError, match="no query has a match"):
        evaluate_dataset(model, replace(partial, gallery=partial.train, train=(), protocol=Protocol("x", False)))
    assert not model.calls


def test_options_reach_the_distance(model, partial) -> None:
    report = evaluate_dataset(model, partial, options={"normalise": False})
    assert report.distance.normalise is False
    assert report.record().model.distance == {"normalise": False}


def test_json_reads_back(model, cameras) -> None:
    report = evaluate_dataset(model, cameras, occlusion=OcclusionPlan(kinds=("grey",), fractions=(0.5,)), seed=7)
    found = EvaluationRecord.model_validate_json(report.to_json(ranked=True))
    assert found == report.record(ranked=True)
    assert found.seed == 7
    assert found.protocol.unmatched == ["memory/q/lonely.png"]
    assert found.model.card == {"method": "stripes"}
    assert found.ranked[0].right[0]
    assert len(found.occlusion[0].results) == 4
    assert report.record().ranked == []
    assert "Infinity" not in report.to_json(ranked=True)


def test_the_same_seed_gives_the_same_numbers(model, partial) -> None:
    plan = OcclusionPlan(kinds=("object",), fractions=(0.4,), queries=8)
    one, two = (evaluate_dataset(model, partial, occlusion=plan, seed=1).record() for _ in range(2))
    assert one.model_copy(update={"timing": two.timing}) == two


def test_the_committed_schema_is_current() -> None:
    file = ROOT / "docs" / "evaluation.schema.json"
    assert file.read_text(encoding="utf-8") == schema(), "write it with glimpse.evaluation.schema()"


def test_the_schema_describes_every_record() -> None:
    found = json.loads(schema())
    assert found["additionalProperties"] is False
    assert set(found["required"]) >= {"dataset", "model", "result", "timing", "protocol"}
    assert all(record.get("description") for record in found["$defs"].values() if record.get("type") == "object")
