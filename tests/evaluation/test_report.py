"""The page of an evaluation says what the evaluation found."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from glimpse.data import Sample, open_dataset
from glimpse.data.stores import FolderStore
from glimpse.errors import ConfigError
from glimpse.evaluation import OcclusionPlan, Report, evaluate_dataset
from glimpse.evaluation.report import machine, ranked_list, render_report, write_report
from glimpse.model import Card, Model, build
from glimpse.synthetic.dataset import render_dataset
from glimpse.synthetic.people import Population
from glimpse.templates.page import Verdict

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Random weights on rendered people."""
    root = tmp_path_factory.mktemp("report") / "people"
    render_dataset(root, Population(people=8, train=4, cameras=2), crops=2, cues=False)
    torch.manual_seed(0)
    card = Card(
        method="qpm",
        options={"strips": 4, "dim": 16, "neighbours": 3},
        backbone="osnet_x0_25",
        size=(64, 32),
        mean=MEAN,
        std=STD,
        ids=3,
    )
    model = Model(build(card), card, "qpm@0", precision="float32")
    dataset = open_dataset(f"market1501:{root}")
    return evaluate_dataset(
        model,
        dataset,
        occlusion=OcclusionPlan(kinds=("grey",), sides=("top",), fractions=(0.25, 0.5), quality=True),
        prompts={dataset.query[0].path: (0, 0, 64, 48)},
        command="glimpse evaluate <& more>",
    )


class Wellformed(HTMLParser):
    """Notes tags that are not closed in order."""

    VOID = frozenset({"meta", "img", "br", "line", "polyline", "circle"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [v or "" for k, v in attrs if k in ("src", "href") and not (v or "").startswith("data:")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID and (not self.open or self.open.pop() != tag):
            self.wrong.append(tag)


def test_the_page_is_whole_loads_nothing_and_escapes(report: Report) -> None:
    page = render_report([report], queries=4)
    parser = Wellformed()
    parser.feed(page)
    assert (parser.open, parser.wrong, parser.loads) == ([], [], [])
    assert "<script" not in page
    assert "glimpse evaluate &lt;&amp; more&gt;" in page


def test_numbers_and_protocol_are_those_of_the_report(report: Report) -> None:
    page = render_report([report], queries=0)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page[page.index("<main>") :]))
    metrics = report.result.summary.metrics
    for estimate in (metrics.rank_1, metrics.map, metrics.minp):
        assert f"{100 * estimate.value:.1f} {100 * estimate.low:.1f} – {100 * estimate.high:.1f}" in text
    for fraction in (0.25, 0.5):
        mean = report.suites[0].mean(fraction)
        assert f"grey over {100 * fraction:.0f} % 8 {100 * mean.rank_1.value:.1f} " in text
    for sentence in report.notes:
        assert sentence in text
    for fact in ("qpm@0", "market1501:", "seed 0", machine()):
        assert fact in text
    assert "<svg" in page
    assert f"AUC {report.quality.auc:.3f}" in text if report.quality else True


def test_a_setting_says_how_many_queries_were_prompted(report: Report) -> None:
    assert report.told == ", 1 of 8 prompted"
    assert "as they are, 1 of 8 prompted" in render_report([report], queries=0)
    without = replace(report, prompts={})
    assert without.told == ""
    assert "prompted" not in render_report([without], queries=0)


def test_a_list_marks_right_wrong_and_ignored_in_the_order_of_the_distance(report: Report) -> None:
    query = 1
    drawn = ranked_list(report, query, hits=5)
    everything = report.distance.matrix(report.query[query], report.gallery)[0].numpy()
    order = np.argsort(everything, kind="stable").tolist()
    ignored, matches = set(report.relevance.ignored(query).tolist()), set(report.relevance.matches(query).tolist())
    expected, counted = [], 0
    for row in order:
        if counted == 5:
            break
        counted += row not in ignored
        verdict = Verdict.IGNORED if row in ignored else Verdict.RIGHT if row in matches else Verdict.WRONG
        rank = None if row in ignored else counted
        expected.append((rank, report.dataset.gallery[row].path, verdict))
    assert [(hit.rank, hit.crop.path, hit.verdict) for hit in drawn.hits] == expected
    assert [hit.reranked for hit in drawn.hits] == [place < 3 for place in range(len(expected))]
    counted_rows = [row for row, _, _ in report.ranked(query)][:5]
    shown = [hit.crop.path for hit in drawn.hits if hit.rank is not None]
    assert shown == [report.dataset.gallery[row].path for row in counted_rows]


def test_weights_and_parts_are_those_of_the_explanation(report: Report) -> None:
    drawn = ranked_list(report, 0, hits=3)
    rows = {sample.path: row for row, sample in enumerate(report.dataset.gallery)}
    for hit in drawn.hits:
        told = report.distance.explain(report.query[0], report.gallery[rows[hit.crop.path]])
        assert hit.parts == told.parts
        weights = {p.name: p.gallery_weight for p in told.parts}
        assert [(bar.name, bar.weight) for bar in hit.crop.bars] == [
            (f"strip {k}", weights[f"strip {k}"]) for k in range(1, 5)
        ]
        assert [bar.compared for bar in hit.crop.bars] == [True, True, False, False]
    assert drawn.query.box == (0, 0, 1, 0.375)
    assert [bar.weight for bar in drawn.query.bars][2:] == [0, 0]


def test_the_folder_holds_page_and_result(report: Report, tmp_path: Path) -> None:
    page = write_report(tmp_path / "out", [report], queries=3, hits=2)
    assert page == tmp_path / "out" / "index.html"
    assert sorted(p.name for p in page.parent.iterdir()) == ["index.html", "result.json"]
    assert (page.parent / "result.json").read_text() == report.to_json()
    assert page.read_text().count("first match at rank") == 3
    with pytest.raises(ConfigError, match="there is none"):
        write_report(tmp_path / "none", [])
    assert not (tmp_path / "none").exists()


def test_several_reports_share_a_table(report: Report, tmp_path: Path) -> None:
    page = write_report(tmp_path, [report, report], queries=0).read_text()
    assert page.count('<th scope="row">qpm@0</th>') >= 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.html", "result-1-qpm.json", "result-2-qpm.json"]
    assert json.loads((tmp_path / "result-2-qpm.json").read_text())["command"] == "glimpse evaluate <& more>"


def test_crops_that_are_gone_are_said_to_be(report: Report, tmp_path: Path) -> None:
    gone = tuple(Sample(FolderStore(tmp_path), s.name, s.pid, s.camid) for s in report.dataset.gallery)
    moved = replace(report, dataset=replace(report.dataset, gallery=gone))
    drawn = ranked_list(moved, 0, hits=2)
    assert all(hit.crop.picture is None for hit in drawn.hits)
    assert "cannot be shown" in render_report([moved], queries=2)
