from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glimpse.data.protocol import Protocol, single_shot
from glimpse.data.samples import Sample, Store
from glimpse.errors import DataError


class Nowhere:
    root = "set"

    def read(self, name: str) -> bytes:
        raise AssertionError(name)


STORE: Store = Nowhere()
CAMERAS = Protocol("with cameras", same_camera_rule=True)
PLAIN = Protocol("without cameras", same_camera_rule=False)


def crops(*ids: tuple[int, int | None]) -> list[Sample]:
    return [Sample(STORE, f"{row:03}.jpg", pid, camid) for row, (pid, camid) in enumerate(ids)]


def test_by_hand() -> None:
    query = crops((1, 1), (2, 1), (3, 1))
    gallery = crops((1, 1), (1, 2), (0, 1), (2, 1), (-1, 1), (1, 1), (1, 3))
    relevance = CAMERAS.relevance(query, gallery)
    assert [relevance.ignored(row).tolist() for row in range(3)] == [[0, 4, 5], [3, 4], [4]]
    assert [relevance.matches(row).tolist() for row in range(3)] == [[1, 6], [], []]
    assert relevance.valid.tolist() == [True, False, False]
    assert str(relevance.report).splitlines() == [
        "3 queries, 7 gallery crops, 0.7 right answers per query.",
        "Per query, gallery crops with the same person and the same camera are ignored: 3 in all, mean 1.0 per query.",
        "1 junk gallery crop (pid -1) ignored for every query.",
        "1 distractor (pid 0) kept in the gallery.",
        "2 queries without any valid match skipped: set/001.jpg, set/002.jpg.",
    ]


def test_without_cameras_nothing_is_ignored() -> None:
    relevance = PLAIN.relevance(crops((1, 1)), crops((1, 1), (1, None), (2, None)))
    assert relevance.ignored(0).tolist() == []
    assert relevance.matches(0).tolist() == [0, 1]
    assert "No camera rule" in str(relevance.report)


def test_nobody_matches_distractors_or_junk() -> None:
    relevance = PLAIN.relevance(crops((0, None), (-1, None), (1, None)), crops((0, None), (-1, None), (1, None)))
    assert relevance.match_counts.tolist() == [0, 0, 1]


def test_junk_can_be_kept() -> None:
    keeps = Protocol("keeps", same_camera_rule=False, drops_junk=False)
    assert keeps.relevance(crops((1, None)), crops((-1, None), (1, None))).ignored(0).tolist() == []


ids = st.lists(st.tuples(st.integers(-1, 4), st.integers(1, 3)), min_size=1, max_size=12)


@settings(deadline=None)
@given(query=ids, gallery=ids)
def test_against_a_double_loop(query: list[tuple[int, int]], gallery: list[tuple[int, int]]) -> None:
    query = [*query, (9, 1)]
    gallery = [*gallery, (9, 2)]  # at least one query has a match
    relevance = CAMERAS.relevance(crops(*query), crops(*gallery))
    for q, (pid, camera) in enumerate(query):
        matches, ignored = [], []
        for g, (other, where) in enumerate(gallery):
            if other == -1 or (other == pid and pid > 0 and where == camera):
                ignored.append(g)
            elif other == pid and pid > 0:
                matches.append(g)
        assert relevance.matches(q).tolist() == matches
        assert relevance.ignored(q).tolist() == ignored
        assert relevance.valid[q] == bool(matches)
        assert relevance.match_counts[q] == len(matches)


def test_camera_ids_on_some_crops_only() -> None:
    with pytest.raises(DataError, match=r"1 of 3 crops without camera id \(set/001\.jpg\)"):
        CAMERAS.relevance(crops((1, 1)), crops((1, 2), (1, None)))
    with pytest.raises(DataError, match="2 of 2 crops without camera id"):
        CAMERAS.relevance(crops((1, None)), crops((1, None)))


def test_queries_without_a_match_can_be_an_error() -> None:
    query, gallery = crops((1, 1), (2, 1), (3, 1), (4, 1), (5, 1)), crops((1, 2))
    with pytest.raises(DataError, match=r"4 queries without a valid match \(set/001.jpg, .*003.jpg and 1 more\)"):
        CAMERAS.relevance(query, gallery, without_match="error")


def test_no_match_at_all_explains_the_camera_rule() -> None:
    with pytest.raises(DataError, match=r"same camera are ignored.*leave camera ids out"):
        CAMERAS.relevance(crops((1, 1)), crops((1, 1)))
    with pytest.raises(DataError, match="share person ids"):
        PLAIN.relevance(crops((1, None)), crops((2, None)))


@pytest.mark.parametrize("side", ["query", "gallery"])
def test_an_empty_side(side: str) -> None:
    lists = {"query": crops((1, 1)), "gallery": crops((1, 2))} | {side: []}
    with pytest.raises(DataError, match=f"there are no {side} crops"):
        CAMERAS.relevance(lists["query"], lists["gallery"])


def test_single_shot_covers_every_pair_of_indices_once() -> None:
    query = [Sample(STORE, f"{pid}_{index}.jpg", pid) for index in (2, 0, 1) for pid in (7, 4)]
    gallery = [Sample(STORE, f"{pid}_{index}.jpg", pid) for pid in (4, 7) for index in (1, 2, 0)]
    trials = list(single_shot(query, gallery, per_identity=3))
    assert len(trials) == 9
    seen = set()
    for probes, targets in trials:
        assert [query[row].pid for row in probes] == [gallery[row].pid for row in targets] == [4, 7]
        indices = {(query[q].name[2], gallery[g].name[2]) for q, g in zip(probes, targets)}
        assert len(indices) == 1
        seen |= indices
    assert len(seen) == 9
    assert np.unique(np.concatenate([probes for probes, _ in trials])).tolist() == list(range(6))


def test_single_shot_needs_equal_numbers() -> None:
    one, two = crops((1, None), (2, None)), crops((1, None), (1, None), (2, None))
    with pytest.raises(DataError, match="person 1 has 2 gallery crops"):
        list(single_shot(one, two, per_identity=1))
    with pytest.raises(DataError, match=r"2 people on one side only \(first: 2\)"):
        list(single_shot(one, crops((1, None), (3, None)), per_identity=1))
