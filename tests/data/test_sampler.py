from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from glimpse.data.sampler import PKSampler
from glimpse.errors import ConfigError, DataError

PIDS = [pid for pid in range(1, 11) for _ in range(pid)]  # person n has n crops


@settings(max_examples=60, deadline=None)
@given(
    pids=st.lists(st.integers(1, 12), min_size=30, max_size=80),
    p=st.integers(1, 3),
    k=st.integers(1, 5),
    world=st.integers(1, 2),
    seed=st.integers(0, 5),
)
def test_every_batch_is_p_people_with_k_crops_each(pids: list[int], p: int, k: int, world: int, seed: int) -> None:
    counts = Counter(pids)
    usable = [pid for pid, count in counts.items() if count > 1 or k == 1]
    if len(usable) < p * world:
        return
    samplers = [PKSampler(pids, p, k, seed=seed, rank=rank, world_size=world) for rank in range(world)]
    assert len({len(sampler) for sampler in samplers}) == 1
    for batches in zip(*samplers, strict=True):
        together: list[int] = []
        for batch in batches:
            assert len(batch) == p * k
            people = [pids[row] for row in batch]
            assert Counter(people) == dict.fromkeys(people, k)
            for pid in set(people):
                rows = Counter(row for row in batch if pids[row] == pid)
                assert max(rows.values()) == -(-k // counts[pid])  # repeated only as often as needed
            together += set(people)
        assert len(together) == len(set(together)) == p * world  # processes take different people


def test_a_draw_across_rounds_repeats_nobody_more_than_it_must() -> None:
    # Three crops, five of them a batch: two rounds and a part of a third may meet in one draw.
    for batch in PKSampler([1] * 30 + [2] * 3, p=1, k=5):
        assert max(Counter(batch).values()) <= 2


def test_length_is_what_the_crops_are_enough_for() -> None:
    assert len(PKSampler(PIDS, p=3, k=2)) == 54 // 6  # person 1 is left out
    assert len(PKSampler(PIDS, p=2, k=2, world_size=2)) == 54 // 8
    assert len(PKSampler([1, 1, 2, 2], p=2, k=16)) == 1


def test_people_come_in_turn() -> None:
    batches = list(PKSampler([pid for pid in range(8) for _ in range(20)], p=4, k=4))
    assert len(batches) == 10
    for first, second in zip(batches[::2], batches[1::2]):
        assert {row // 20 for row in first} | {row // 20 for row in second} == set(range(8))


def test_crops_of_a_person_come_in_turn() -> None:
    rows = Counter(row for batch in PKSampler([1] * 16 + [2] * 16, p=2, k=4) for row in batch)
    assert rows == dict.fromkeys(range(32), 1)


def test_seed_and_epoch_decide_everything() -> None:
    def epoch(number: int, seed: int = 0) -> list[list[int]]:
        sampler = PKSampler(PIDS, p=3, k=2, seed=seed)
        sampler.set_epoch(number)
        return list(sampler)

    assert epoch(0) == epoch(0)
    assert epoch(3) == epoch(3)
    assert epoch(0) != epoch(1)
    assert epoch(0) != epoch(0, seed=1)


def test_an_epoch_can_be_taken_up_again() -> None:
    sampler = PKSampler(PIDS, p=3, k=2)
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.set_epoch(2, skip=4)
    assert len(sampler) == len(whole) - 4
    assert list(sampler) == whole[4:]
    with pytest.raises(ConfigError, match="epoch 0, batch 10 is not one of 9 batches"):
        sampler.set_epoch(0, skip=10)


def test_what_is_left_out_is_said() -> None:
    sampler = PKSampler(PIDS, p=3, k=4)
    assert sampler.report == (
        "1 person with a single crop left out. 2 people with fewer than 4 crops, which are repeated in a batch."
    )
    assert all(PIDS[row] != 1 for batch in sampler for row in batch)
    kept = PKSampler(PIDS, p=10, k=4, keep_single=True)
    assert "single" not in kept.report
    assert all([PIDS[row] for row in batch].count(1) == 4 for batch in kept)
    assert PKSampler([1, 2, 3], p=2, k=1).report == ""


def test_too_few_people() -> None:
    with pytest.raises(DataError, match=r"9 people can be used, but batches need 10 .*single crop.*give p <= 9"):
        PKSampler(PIDS, p=10, k=2)
    with pytest.raises(DataError, match=r"different people each and process, 4 processes.*give p <= 2"):
        PKSampler(PIDS, p=3, k=2, world_size=4)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"p": 0, "k": 2}, "p: is 0"),
        ({"p": 2, "k": -1}, "k: is -1"),
        ({"p": 2, "k": 2, "rank": 2, "world_size": 2}, "rank: is 2 of 2"),
        ({"p": 2, "k": 2, "world_size": 0}, "world_size: is 0"),
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, int], cause: str) -> None:
    with pytest.raises(ConfigError, match=cause):
        PKSampler(PIDS, **options)


def test_a_loader_takes_it() -> None:
    data = TensorDataset(torch.tensor(PIDS))
    sampler = PKSampler(PIDS, p=3, k=2)
    loader = DataLoader(data, batch_sampler=sampler)
    assert [batch.tolist() for (batch,) in loader] == [[PIDS[row] for row in batch] for batch in sampler]


def test_lightning_finds_set_epoch() -> None:
    from lightning.fabric.utilities.data import _set_sampler_epoch

    sampler = PKSampler(PIDS, p=3, k=2)
    _set_sampler_epoch(DataLoader(TensorDataset(torch.tensor(PIDS)), batch_sampler=sampler), 5)
    assert sampler.epoch == 5
