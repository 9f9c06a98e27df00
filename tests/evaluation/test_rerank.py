"""Evaluations that are re-ranked: the rules still hold, and the result says so."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from glimpse.cli import app
from glimpse.errors import ConfigError
from glimpse.evaluation import EvaluationRecord, OcclusionPlan, evaluate, evaluate_dataset, table
from glimpse.matching import KReciprocal, k_reciprocal
from glimpse.synthetic.dataset import render_dataset
from glimpse.synthetic.people import Population

SETTINGS = KReciprocal(4, 2, 0.25)


def test_the_ranking_is_the_re_ranked_one(model, cameras) -> None:
    report = evaluate_dataset(model, cameras, rerank=SETTINGS, max_bytes=1, gallery_block=5)
    rows = torch.cat([d for _, d in k_reciprocal(report.distance, report.query, report.gallery, SETTINGS)]).numpy()
    for query, row in enumerate(rows):
        ignored = report.relevance.ignored(query).tolist()
        order = [crop for crop in np.argsort(row, kind="stable").tolist() if crop not in ignored]
        assert [crop for crop, _, _ in report.ranked(query)] == order[:10]
        np.testing.assert_allclose([d for _, d, _ in report.ranked(query)], row[order[:10]], atol=1e-5)


def test_rules_are_those_without_re_ranking(model, cameras) -> None:
    plain, reranked = evaluate_dataset(model, cameras), evaluate_dataset(model, cameras, rerank=SETTINGS)
    assert reranked.result.skipped.tolist() == [6]
    assert (reranked.result.ignored == plain.result.ignored).all()
    assert (reranked.result.matches == plain.result.matches).all()
    assert reranked.protocol == plain.protocol
    assert (reranked.result.top_distance[:, :5] != plain.result.top_distance[:, :5]).all()
    same = evaluate_dataset(model, cameras, rerank=KReciprocal(4, 2, 1.0))
    assert same.result.summary == plain.result.summary


def test_evaluate_re_ranks_embeddings(model, cameras) -> None:
    report = evaluate_dataset(model, cameras, rerank=SETTINGS)
    found = evaluate(report.distance, report.query, report.gallery, report.relevance, rerank=SETTINGS, top=10)
    assert found.summary == report.result.summary
    assert (found.top == report.result.top).all()


def test_the_result_says_that_it_was_re_ranked(model, partial) -> None:
    report = evaluate_dataset(model, partial, rerank=SETTINGS)
    assert report.single_shot is None
    assert any("(k1 4, k2 2, lambda 0.25): all queries and all gallery crops" in note for note in report.notes)
    assert any("too few to re-rank" in note for note in report.notes)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table(report))
    assert "as it is, re-ranked" in console.export_text()
    written = json.loads(report.to_json())
    assert written["rerank"] == {"k1": 4, "k2": 2, "lam": 0.25}
    assert EvaluationRecord.model_validate_json(report.to_json()) == report.record()
    # What was written before there was re-ranking can still be read.
    del written["rerank"]
    assert EvaluationRecord.model_validate(written).rerank is None


def test_without_it_nothing_is_said(model, cameras) -> None:
    report = evaluate_dataset(model, cameras)
    assert report.record().rerank is None
    assert not any("e-ranked" in note for note in report.notes)
    assert report.told == ""


def test_covered_queries_are_refused_before_any_work(model, partial) -> None:
    with pytest.raises(ConfigError, match="rerank: covered queries are not re-ranked"):
        evaluate_dataset(model, partial, rerank=SETTINGS, occlusion=OcclusionPlan(kinds=("grey",)))
    assert not model.calls


def test_datasets_without_single_shot_trials_do_not_miss_them(model, partial) -> None:
    single = replace(partial, protocol=replace(partial.protocol, per_identity=None))
    assert not any("Single-shot" in note for note in evaluate_dataset(model, single, rerank=SETTINGS).notes)


def run(*arguments: str) -> None:
    app(["evaluate", *arguments], standalone_mode=False)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    render_dataset("people", Population(people=4, train=2, cameras=2), crops=2, size=(64, 32), cues=False)
    run("--data", "market1501:people", "--rerank", "4,2,0.25", "--json", "r.json")
    assert json.loads(Path("r.json").read_text())["rerank"] == {"k1": 4, "k2": 2, "lam": 0.25}
    assert "as it is, re-ranked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("20,6", "--rerank: '20,6' is not K1,K2,LAMBDA. Remedy: write two whole numbers and a share, such as 20,6,0.3"),
        ("20,6,0.3,1", "--rerank: '20,6,0.3,1' is not K1,K2,LAMBDA"),
        ("20.5,6,0.3", "--rerank: '20.5,6,0.3' is not K1,K2,LAMBDA"),
        ("", "--rerank: '' is not K1,K2,LAMBDA"),
        ("20,6,2", "lambda: 2.0 is not a share"),
        ("0,6,0.3", "k1: 0 neighbours are none"),
        ("6,20,0.3", "k2: 20 is out of range"),
    ],
)
def test_settings_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        run("--data", "market1501:nowhere", "--rerank", text)
    assert str(error.value).startswith(message)
