"""Ranks by counting against a naive sort, and metrics against hand-worked examples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glimpse.evaluation import metrics
from glimpse.evaluation.metrics import closest, rank_positives, score


def naive_order(row: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    kept = np.array([j for j in range(len(row)) if j not in set(ignored.tolist())], int)
    return kept[np.argsort(row[kept], kind="stable")]


def naive_scores(hits: list[bool]) -> tuple[float, float, float]:
    """AP plain, AP trapezoid and INP by walking down the ranked list."""
    found, plain, trapezoid, last = 0, 0.0, 0.0, 0
    precision_before = 1.0
    for rank, hit in enumerate(hits, start=1):
        found += hit
        precision = found / rank
        if hit:
            plain += precision
            trapezoid += (precision + precision_before) / 2
            last = rank
        precision_before = precision
    return plain / found, trapezoid / found, found / last


@st.composite
def queries(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A row of distances with many ties, and which crops match (1), are ignored (2) or are in the way (0)."""
    size = draw(st.integers(1, 40))
    values = st.sampled_from([0.0, -0.0, 0.25, 0.5, 0.5 + 1e-7, 1.0, 2.0, float("inf")])
    row = np.array(draw(st.lists(values, min_size=size, max_size=size)), np.float32)
    labels = np.array(draw(st.lists(st.integers(0, 2), min_size=size, max_size=size)))
    labels[draw(st.integers(0, size - 1))] = 1
    return row, np.flatnonzero(labels == 1), np.flatnonzero(labels == 2)


@contextmanager
def counting_in_one_way(by_sorting: bool) -> Iterator[None]:
    """As if comparisons cost too much, or nothing."""
    before, metrics._CALL = metrics._CALL, 10**9 if by_sorting else -(10**9)
    try:
        yield
    finally:
        metrics._CALL = before


@pytest.mark.parametrize("by_sorting", [False, True])
@settings(max_examples=200, deadline=None)
@given(case=queries())
def test_ranks_and_scores_equal_a_stable_sort(
    by_sorting: bool, case: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    row, positives, ignored = case
    hits = np.isin(naive_order(row, ignored), positives)
    with counting_in_one_way(by_sorting):
        ranks = rank_positives(row, positives, ignored)
    assert ranks.tolist() == (np.flatnonzero(hits) + 1).tolist()
    found = score(ranks)
    assert found.first == ranks.min()
    assert (found.ap, found.ap_trapezoid, found.inp) == pytest.approx(naive_scores(hits.tolist()), abs=1e-9)
    assert found.ap_trapezoid <= found.ap + 1e-12


@settings(max_examples=100, deadline=None)
@given(case=queries(), k=st.integers(1, 45))
def test_the_closest_are_those_of_a_stable_sort(case: tuple[np.ndarray, np.ndarray, np.ndarray], k: int) -> None:
    row, _, ignored = case
    expected = naive_order(row, ignored)[:k]
    index, distance = closest(torch.from_numpy(np.stack([row, row])), k, [ignored, np.empty(0, np.int64)])
    assert index[0, : len(expected)].tolist() == expected.tolist()
    assert distance[0, : len(expected)].tolist() == row[expected].tolist()
    assert (index[0, len(expected) :] == -1).all()
    assert index[1, :k][: len(row)].tolist() == np.argsort(row, kind="stable")[:k].tolist()


@pytest.mark.parametrize("by_sorting", [False, True])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [1, 20, 600])
def test_both_ways_of_counting_give_the_ranks_of_a_stable_sort(count: int, ties: bool, by_sorting: bool) -> None:
    rng = np.random.default_rng(count)
    row = (rng.integers(0, 50, 3000) if ties else rng.random(3000)).astype(np.float32)
    positives = rng.choice(3000, count, replace=False)
    expected = np.flatnonzero(np.isin(np.argsort(row, kind="stable"), positives)) + 1
    with counting_in_one_way(by_sorting):
        assert rank_positives(row, positives, np.empty(0, np.int64)).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("ranks", "ap", "trapezoid", "inp"),
    [
        ([1], 1.0, 1.0, 1.0),
        ([2], 0.5, 0.25, 0.5),  # one positive below rank 1: trapezoid is half of plain
        ([1, 2, 3], 1.0, 1.0, 1.0),
        ([1, 3], (1 + 2 / 3) / 2, (1 + (2 / 3 + 1 / 2) / 2) / 2, 2 / 3),
        ([2, 3, 10], (1 / 2 + 2 / 3 + 3 / 10) / 3, (1 / 4 + (2 / 3 + 1 / 2) / 2 + (3 / 10 + 2 / 9) / 2) / 3, 3 / 10),
    ],
)
def test_hand_worked_scores(ranks: list[int], ap: float, trapezoid: float, inp: float) -> None:
    found = score(np.array(ranks))
    assert (found.first, found.ap, found.ap_trapezoid, found.inp) == (
        ranks[0],
        pytest.approx(ap),
        pytest.approx(trapezoid),
        pytest.approx(inp),
    )


def test_ignored_crops_neither_help_nor_hurt() -> None:
    row = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    assert rank_positives(row, np.array([2]), np.array([0, 3])).tolist() == [2]


def test_a_tie_goes_to_the_earlier_gallery_crop() -> None:
    row = np.array([0.5, 0.5, 0.5], np.float32)
    assert rank_positives(row, np.array([1]), np.empty(0, np.int64)).tolist() == [2]
    assert rank_positives(row, np.array([1]), np.array([0])).tolist() == [1]
