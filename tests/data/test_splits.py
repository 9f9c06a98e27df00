from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glimpse.data.samples import Sample, Store
from glimpse.data.splits import holdout
from glimpse.errors import ConfigError, DataError


class Nowhere:
    root = "set"

    def read(self, name: str) -> bytes:
        raise AssertionError(name)


STORE: Store = Nowhere()


def crops(ids: list[tuple[int, int | None]]) -> list[Sample]:
    return [Sample(STORE, f"{row:03}.jpg", pid, camid) for row, (pid, camid) in enumerate(ids)]


WITH_CAMERAS = crops([(pid, camera) for pid in range(1, 21) for camera in (1, 2, 3) for _ in range(3)])


@settings(deadline=None)
@given(
    ids=st.lists(st.tuples(st.integers(-1, 8), st.integers(1, 3)), max_size=60),
    count=st.integers(1, 4),
    seed=st.integers(0, 3),
    cameras=st.booleans(),
)
def test_properties(ids: list[tuple[int, int]], count: int, seed: int, cameras: bool) -> None:
    base = [(pid, camera) for pid in range(10, 16) for camera in (1, 2, 2)]
    samples = crops([(pid, camera if cameras else None) for pid, camera in base + ids])
    train, cut = holdout(samples, identities=count, seed=seed) if _possible(samples, count, seed) else ((), None)
    if cut is None:
        return
    aside = {sample.pid for sample in cut.query}
    held = aside | {sample.pid for sample in cut.gallery if sample.pid > 0}
    assert len(held) == count
    assert held.isdisjoint(sample.pid for sample in train)
    assert all(sample.pid > 0 for sample in train + cut.query)
    everything = [*train, *cut.query, *cut.gallery]
    assert len({sample.name for sample in everything}) == len(everything)
    assert sorted(sample.name for sample in everything) == sorted(s.name for s in samples if s.pid != -1)
    relevance = cut.protocol.relevance(cut.query, cut.gallery, without_match="error")
    assert relevance.valid.all()
    asked = [(sample.pid, sample.camid) for sample in cut.query]
    assert len(set(asked)) == len(asked)


def _possible(samples: list[Sample], count: int, seed: int) -> bool:
    try:
        holdout(samples, identities=count, seed=seed)
    except DataError:
        return False
    return True


def test_one_query_per_person_and_camera() -> None:
    train, cut = holdout(WITH_CAMERAS, identities=5, seed=1)
    assert len(train) == 15 * 9
    assert len(cut.query) == 5 * 3
    assert len(cut.gallery) == 5 * 6
    assert cut.protocol.same_camera_rule
    assert cut.notes == ("5 of 20 people set aside with seed 1: no person is in train and validation.",)


def test_a_share_of_the_people() -> None:
    _, cut = holdout(WITH_CAMERAS, identities=0.25)
    assert len({sample.pid for sample in cut.query}) == 5


def test_seed_decides_and_order_does_not() -> None:
    shuffled = list(WITH_CAMERAS)
    random.Random(0).shuffle(shuffled)
    _, one = holdout(WITH_CAMERAS, identities=5, seed=3)
    _, same = holdout(shuffled, identities=5, seed=3)
    _, other = holdout(WITH_CAMERAS, identities=5, seed=4)
    assert one.query == same.query
    assert set(one.gallery) == set(same.gallery)
    assert one.query != other.query


def test_two_crops_by_two_cameras_give_one_query() -> None:
    _, cut = holdout(crops([(1, 1), (1, 2), (2, 1), (2, 2)]), identities=1)
    assert len(cut.query) == len(cut.gallery) == 1
    assert cut.query[0].camid != cut.gallery[0].camid


def test_people_seen_by_one_camera_stay_in_the_gallery() -> None:
    samples = crops([(1, 1), (1, 1), (2, 1), (2, 2), (3, 1), (3, 1), (4, 1), (4, 2)])
    _, cut = holdout(samples, identities=3, seed=0)
    assert {sample.pid for sample in cut.query} <= {2, 4}
    assert any("in the gallery only" in note for note in cut.notes)


def test_distractors_join_the_gallery_and_junk_goes() -> None:
    train, cut = holdout([*WITH_CAMERAS, *crops([(0, 1), (-1, 1)])], identities=5)
    assert sum(sample.pid == 0 for sample in cut.gallery) == 1
    assert all(sample.pid > 0 for sample in train)
    assert "1 junk crop (pid -1) dropped." in cut.notes


def test_errors() -> None:
    for identities in (0, 20, 1.0, 0.001):
        with pytest.raises(ConfigError, match="leaves nobody on one side"):
            holdout(WITH_CAMERAS, identities=identities)
    with pytest.raises(DataError, match=r"set/001\.jpg: has no camera id, but 2 of 3 crops have one"):
        holdout(crops([(1, 1), (1, None), (2, 1)]), identities=1)
    with pytest.raises(DataError, match="no person set aside has two crops that could match"):
        holdout(crops([(1, 1), (1, 1), (2, 1), (2, 1)]), identities=1)
