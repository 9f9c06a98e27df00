"""Evaluation of whole sets against a naive one, its protocol, its errors and its memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glimpse.data.protocol import Relevance
from glimpse.embedding import Embedding
from glimpse.errors import DataError, EmbeddingError
from glimpse.evaluation import Result, evaluate, evaluate_rows
from glimpse.matching import GlobalDistance


def relevance_of(q_pids, g_pids, q_cams=None, g_cams=None) -> Relevance:
    arrays = [None if a is None else np.asarray(a, np.int64) for a in (q_pids, g_pids, q_cams, g_cams)]
    return Relevance(*arrays)


def blocks(matrix: torch.Tensor, size: int = 2):
    for start in range(0, len(matrix), size):
        rows = slice(start, min(start + size, len(matrix)))
        yield rows, matrix[rows].clone()


def naive(matrix: np.ndarray, q_pids, g_pids, q_cams, g_cams) -> dict[int, tuple[int, float, float]]:
    """first rank, AP and INP of each query that has a match, from a stable sort of the whole row."""
    out = {}
    for i, row in enumerate(matrix):
        order = np.argsort(row, kind="stable")
        order = [j for j in order if g_pids[j] != -1 and not (g_pids[j] == q_pids[i] > 0 and g_cams[j] == q_cams[i])]
        hits = [g_pids[j] == q_pids[i] and q_pids[i] > 0 for j in order]
        if not any(hits):
            continue
        ranks = [k + 1 for k, hit in enumerate(hits) if hit]
        out[i] = (ranks[0], sum((n + 1) / r for n, r in enumerate(ranks)) / len(ranks), len(ranks) / ranks[-1])
    return out


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10_000), q=st.integers(1, 9), g=st.integers(1, 30), block=st.integers(1, 10))
def test_equals_a_naive_evaluation(seed: int, q: int, g: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 6, (q, g)).astype(np.float32)  # many ties
    q_pids, g_pids = rng.integers(0, 4, q), rng.integers(-1, 4, g)  # junk, distractors, queries of nobody
    q_cams, g_cams = rng.integers(0, 3, q), rng.integers(0, 3, g)
    expected = naive(matrix, q_pids, g_pids, q_cams, g_cams)
    rows = blocks(torch.from_numpy(matrix), block)
    relevance = relevance_of(q_pids, g_pids, q_cams, g_cams)
    if not expected:
        with pytest.raises(DataError, match=r"none of the .* queries has a valid match"):
            evaluate_rows(rows, relevance)
        return
    result = evaluate_rows(rows, relevance)
    assert result.rows.tolist() == list(expected)
    assert sorted([*result.rows, *result.skipped]) == list(range(q))
    np.testing.assert_allclose(result.first, [e[0] for e in expected.values()])
    np.testing.assert_allclose(result.ap, [e[1] for e in expected.values()], atol=1e-9)
    np.testing.assert_allclose(result.inp, [e[2] for e in expected.values()], atol=1e-9)
    metrics = result.summary.metrics
    assert metrics.rank_5.value == pytest.approx(np.mean([e[0] <= 5 for e in expected.values()]))
    assert metrics.map.low <= metrics.map.value <= metrics.map.high
    assert result.cmc(10)[[0, 2, 4, 9]].tolist() == pytest.approx(
        [metrics.rank_1.value, metrics.rank_3.value, metrics.rank_5.value, metrics.rank_10.value]
    )


def hand() -> Result:
    """Query 0 (person 1, camera 1): its own camera's copy at the top is ignored; matches end up at ranks 1 and 3.
    Query 1 (person 2): nobody. Query 2 (person 3): one match, at rank 2."""
    matrix = torch.tensor(
        [
            [0.0, 0.1, 0.2, 0.3, 0.05],
            [0.1, 0.2, 0.3, 0.4, 0.5],
            [0.9, 0.8, 0.1, 0.2, 0.05],
        ]
    )
    relevance = relevance_of([1, 2, 3], [1, 1, 0, 3, -1], [1, 1, 1], [1, 2, 1, 2, 1])
    return evaluate_rows(blocks(matrix), relevance, top=3)


def test_hand_worked_set() -> None:
    result = hand()
    assert result.rows.tolist() == [0, 2]
    assert result.skipped.tolist() == [1]
    assert result.first.tolist() == [1, 2]
    assert result.matches.tolist() == [1, 1]
    assert result.ignored.tolist() == [2, 1]
    assert result.summary.metrics.map.value == pytest.approx(0.75)
    assert result.summary.metrics.map_trapezoid.value == pytest.approx(0.625)
    assert result.summary.queries == 2
    assert result.summary.skipped == 1


def test_ranked_lists_leave_ignored_crops_out_and_pad() -> None:
    result = hand()
    assert result.top.tolist() == [[1, 2, 3], [0, 1, 2], [2, 3, 1]]
    assert result.top_distance[0].tolist() == pytest.approx([0.1, 0.2, 0.3])
    short = evaluate_rows(blocks(torch.tensor([[0.5]])), relevance_of([1], [1]), top=3)
    assert short.top.tolist() == [[0, -1, -1]]
    assert np.isinf(short.top_distance[0, 1:]).all()


def test_a_query_without_a_match_never_counts_as_found() -> None:
    matrix = torch.tensor([[0.1, 0.2], [0.1, 0.2]])
    alone = evaluate_rows(blocks(matrix[:1]), relevance_of([2], [1, 2]))
    both = evaluate_rows(blocks(matrix), relevance_of([2, 9], [1, 2]))
    assert both.summary.metrics == alone.summary.metrics
    assert both.summary.skipped == 1


def test_json_holds_the_summary_and_every_query() -> None:
    found = json.loads(hand().to_json())
    assert found["summary"]["queries"] == 2
    assert found["per_query"] == {
        "row": [0, 2],
        "first_rank": [1, 2],
        "matches": [1, 1],
        "ap": [1.0, 0.5],
        "ap_trapezoid": [1.0, 0.25],
        "inp": [1.0, 0.5],
    }
    assert found["skipped_rows"] == [1]


def test_the_seed_fixes_the_intervals() -> None:
    rng = np.random.default_rng(0)
    matrix = torch.from_numpy(rng.random((40, 60), np.float32))
    relevance = relevance_of(rng.integers(1, 5, 40), rng.integers(1, 5, 60))
    one, same, other = (evaluate_rows(blocks(matrix), relevance, seed=s).summary.metrics.map for s in (1, 1, 2))
    assert one == same
    assert (one.low, one.high) != (other.low, other.high)
    assert one.value == other.value


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_no_result_depends_on_blocks(block: int) -> None:
    generator = torch.Generator().manual_seed(0)
    crops = Embedding({"globals": torch.randn(60, 8, generator=generator)})
    pids = np.arange(60) % 6
    relevance = relevance_of(pids[:20] + 1, pids + 1)
    whole = evaluate(GlobalDistance(), crops[:20], crops, relevance, top=5)
    cut = evaluate(GlobalDistance(), crops[:20], crops, relevance, top=5, gallery_block=block, max_bytes=1)
    np.testing.assert_array_equal(whole.first, cut.first)
    np.testing.assert_allclose(whole.ap, cut.ap, atol=1e-6)
    np.testing.assert_array_equal(whole.top, cut.top)


def test_numbers_of_crops_and_ids_must_agree() -> None:
    crops = Embedding({"globals": torch.eye(3)})
    with pytest.raises(DataError, match="3 embedded crops and 2 person ids"):
        evaluate(GlobalDistance(), crops, crops, relevance_of([1, 2], [1, 2, 3]))


def test_nan_is_an_error_and_not_a_rank() -> None:
    with pytest.raises(EmbeddingError, match="not a number"):
        evaluate_rows(blocks(torch.tensor([[0.1, float("nan")]])), relevance_of([1], [1, 2]))


def test_missing_rows_are_an_error() -> None:
    with pytest.raises(EmbeddingError, match="1 of 2 rows"):
        evaluate_rows(blocks(torch.tensor([[0.1, 0.2]])), relevance_of([1, 1], [1, 2]))


def test_progress_counts_queries() -> None:
    seen: list[int] = []
    evaluate_rows(blocks(torch.rand(5, 3)), relevance_of([1] * 5, [1, 2, 3]), progress=seen.append)
    assert sum(seen) == 5


def memory(field: str) -> float:
    """MiB of resident memory: now (VmRSS) or at its peak (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) / 1024


def test_a_large_gallery_is_never_sorted_or_held_against_all_queries() -> None:
    # 80 x 200,000 float32 distances alone would be 61 MiB, and as many int64 ranks 122 MiB.
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is used now
    except OSError as error:
        pytest.skip(f"peak memory cannot be read here ({error})")
    generator = torch.Generator().manual_seed(0)
    crops = Embedding({"globals": torch.randn(200_000, 64, generator=generator)})
    gallery = GlobalDistance().prepare(crops)
    relevance = relevance_of(np.arange(80) + 1, np.arange(200_000) % 20_000 + 1)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    result = evaluate(GlobalDistance(), gallery[:80], gallery, relevance, max_bytes=4 << 20, top=10)
    assert memory("VmHWM") - before < 30
    assert (result.first == 1).all()
    assert (result.top[:, 0] == np.arange(80)).all()
