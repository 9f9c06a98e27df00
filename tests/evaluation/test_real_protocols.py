"""Evaluation at the size of the real sets, on random vectors, against a naive sort of some queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from glimpse.data import Dataset, open_market1501, open_partial_reid, single_shot
from glimpse.embedding import Embedding
from glimpse.evaluation import Trials, evaluate, evaluate_rows
from glimpse.matching import GlobalDistance, distance_rows


def found(shared: Path, name: str) -> Path:
    path = shared / "data" / name
    if not path.exists():
        pytest.skip(f"{name} is not at hand (set GLIMPSE_TEST_DATA)")
    return path


def vectors(samples, seed: int) -> Embedding:
    """Random vectors that lean towards the person's own."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(max(s.pid for s in samples) + 1, 16, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(len(samples), 16, generator=generator)
    return Embedding({"globals": own[[max(s.pid, 0) for s in samples]] + 1.5 * noise})


def naive_ap(row: np.ndarray, query, gallery) -> tuple[int, float] | None:
    hits = []
    for j in np.argsort(row, kind="stable"):
        same = gallery[j].pid == query.pid
        if gallery[j].pid == -1 or (same and query.camid is not None and gallery[j].camid == query.camid):
            continue
        hits.append(same)
    ranks = np.flatnonzero(hits) + 1
    return (int(ranks[0]), float((np.arange(1, len(ranks) + 1) / ranks).mean())) if len(ranks) else None


def check(dataset: Dataset, every: int) -> None:
    query, gallery = vectors(dataset.query, 1), vectors(dataset.gallery, 2)
    relevance = dataset.protocol.relevance(dataset.query, dataset.gallery)
    result = evaluate(GlobalDistance(), query, gallery, relevance, max_bytes=32 << 20)
    assert len(result.skipped) == 0
    for i in range(0, len(query), every):
        row = GlobalDistance().matrix(query[i], gallery)[0].numpy()
        expected = naive_ap(row, dataset.query[i], dataset.gallery)
        assert expected is not None
        assert result.ap[i] == pytest.approx(expected[1], abs=1e-3)  # products of other shapes round otherwise


@pytest.mark.real_data
def test_market1501(shared: Path) -> None:
    dataset = open_market1501(found(shared, "Market-1501-v15.09.15.zip"))
    assert (len(dataset.query), len(dataset.gallery)) == (3368, 15913)
    check(dataset, every=200)


@pytest.mark.real_data
def test_partial_reid_is_300_by_300_and_25_trials(shared: Path) -> None:
    dataset = open_partial_reid(found(shared, "Partial-REID_Dataset.zip"))
    check(dataset, every=10)
    relevance = dataset.protocol.relevance(dataset.query, dataset.gallery)
    assert (relevance.match_counts == 5).all()
    trials = Trials(single_shot(dataset.query, dataset.gallery, per_identity=5))
    rows = distance_rows(GlobalDistance(), vectors(dataset.query, 1), vectors(dataset.gallery, 2))
    evaluate_rows(trials.watch(rows), relevance)
    assert trials.result().ranks.shape == (60, 5, 5)
