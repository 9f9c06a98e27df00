"""All combinations of one crop per person on both sides, against as many evaluations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from glimpse.data.protocol import Relevance, single_shot
from glimpse.errors import DataError, EmbeddingError
from glimpse.evaluation import Trials, evaluate_rows
from glimpse.evaluation.evaluate import METRICS


def rows_of(matrix: torch.Tensor, size: int):
    for start in range(0, len(matrix), size):
        yield slice(start, min(start + size, len(matrix))), matrix[start : start + size]


@pytest.mark.parametrize("block", [1, 4, 100])
def test_equals_one_evaluation_per_combination(partial, block: int) -> None:
    query, gallery = partial.query, partial.gallery
    rng = np.random.default_rng(0)
    matrix = torch.from_numpy(rng.integers(0, 8, (len(query), len(gallery))).astype(np.float32))
    trials = list(single_shot(query, gallery, per_identity=3))
    assert len(trials) == 9
    watch = Trials(trials)
    assert sum(len(d) for _, d in watch.watch(rows_of(matrix, block))) == len(query)
    found = watch.result()

    runs = []
    for probes, targets in trials:
        pids = np.array([query[row].pid for row in probes])
        part = matrix[torch.from_numpy(probes)][:, torch.from_numpy(targets)]
        runs.append(evaluate_rows(rows_of(part, 5), Relevance(pids, pids)).values)
    np.testing.assert_allclose(found.values, np.mean(runs, axis=0), atol=1e-12)
    record = found.record()
    assert (record.people, record.query_crops, record.gallery_crops) == (12, 3, 3)
    for i, name in enumerate(METRICS):
        assert getattr(record.metrics, name).value == pytest.approx(np.mean(runs, axis=0)[:, i].mean())


def test_partial_reid_has_25_trials_of_60_people() -> None:
    probes = np.arange(300).reshape(60, 5)
    trials = Trials((probes[:, a], probes[:, b]) for a in range(5) for b in range(5))
    pids = torch.arange(300) // 5
    matrix = (pids[:, None] != pids[None, :]).float()
    list(trials.watch(rows_of(matrix, 64)))
    found = trials.result()
    assert found.ranks.shape == (60, 5, 5)
    assert (found.ranks == 1).all()


def test_missing_rows_are_an_error() -> None:
    trials = Trials([(np.array([0, 1]), np.array([0, 1]))])
    list(trials.watch([(slice(0, 1), torch.zeros(1, 2))]))
    with pytest.raises(EmbeddingError, match="rows of distances are missing"):
        trials.result()


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [(np.array([0, 1]), np.array([0]))],
        [(np.array([0]), np.array([0])), (np.array([1]), np.array([1]))],
    ],
)
def test_trials_must_be_all_combinations(trials: list) -> None:
    with pytest.raises(DataError, match="not all combinations"):
        Trials(trials)
