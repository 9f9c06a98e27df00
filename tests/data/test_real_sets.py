"""The published sets, against the numbers of their papers."""

from __future__ import annotations

from pathlib import Path

import pytest

from glimpse.data import (
    PKSampler,
    Sample,
    holdout,
    open_dataset,
    read_all,
    single_shot,
)
from glimpse.errors import DataError

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def market(shared: Path):
    path = shared / "data" / "Market-1501-v15.09.15.zip"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return open_dataset(f"market1501:{path}")


@pytest.fixture(scope="module")
def partial(shared: Path) -> Path:
    path = shared / "data" / "Partial-REID_Dataset.zip"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def people(samples: tuple[Sample, ...]) -> int:
    return len({sample.pid for sample in samples if sample.pid > 0})


def test_market_counts(market) -> None:
    assert (len(market.train), people(market.train)) == (12_936, 751)
    assert (len(market.query), people(market.query)) == (3_368, 750)
    assert (len(market.gallery), people(market.gallery)) == (15_913, 750)
    assert sum(sample.pid == 0 for sample in market.gallery) == 2_798
    assert market.notes == (
        "3,819 junk crops (pid -1) dropped from gallery.",
        "2,798 distractors (pid 0) kept in the gallery.",
    )
    for split in (market.train, market.query, market.gallery):
        assert {sample.camid for sample in split} == {1, 2, 3, 4, 5, 6}
    assert {s.pid for s in market.train}.isdisjoint(s.pid for s in market.query)


def test_market_protocol(market) -> None:
    relevance = market.protocol.relevance(market.query, market.gallery, without_match="error")
    camids = [(sample.pid, sample.camid) for sample in market.gallery]
    for row in range(0, len(market.query), 400):
        asked = (market.query[row].pid, market.query[row].camid)
        assert relevance.ignored(row).tolist() == [g for g, answer in enumerate(camids) if answer == asked]
    assert relevance.valid.all()


def test_market_crops_are_read(market) -> None:
    read = read_all(market.train[::500] + market.query[::500] + market.gallery[::500])
    assert {image.size for image in read.images} == {(64, 128)}


def test_market_holdout_and_batches(market) -> None:
    train, cut = holdout(market.train, identities=100)
    assert people(train) == 651
    assert people(cut.gallery) == 100
    assert cut.protocol.relevance(cut.query, cut.gallery).valid.all()
    sampler = PKSampler([sample.pid for sample in train], p=16, k=4)
    assert len(sampler) == len(train) // 64


@pytest.mark.parametrize("kind", ["partialreid", "partialreid-cropped"])
def test_partial_reid(partial: Path, kind: str) -> None:
    dataset = open_dataset(f"{kind}:{partial}")
    assert (len(dataset.query), people(dataset.query)) == (300, 60)
    assert (len(dataset.gallery), people(dataset.gallery)) == (300, 60)
    assert dataset.train == dataset.notes == ()
    assert {sample.camid for sample in dataset.query + dataset.gallery} == {None}
    relevance = dataset.protocol.relevance(dataset.query, dataset.gallery)
    assert set(relevance.match_counts.tolist()) == {5}
    assert dataset.protocol.per_identity == 5
    trials = list(single_shot(dataset.query, dataset.gallery, per_identity=5))
    assert [len(side) for trial in trials for side in trial] == [60] * 50
    assert len(read_all(dataset.query[::50]).images) == 6
    with pytest.raises(DataError, match="has no train crops; it has 300 query crops of 60 people"):
        dataset.split("train")
