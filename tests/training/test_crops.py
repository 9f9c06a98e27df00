"""Training crops: the same for the same seed, prompts, and where corners go."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from glimpse.data import Dataset, PKSampler, open_dataset
from glimpse.data.transforms import Occlusion, TrainTransform, TransformSettings
from glimpse.errors import DataError
from glimpse.training.crops import CropDataset, Seeded, give_prompts, read_crops
from glimpse.training.module import mixed_seed

LABELS = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def _crops(settings: TransformSettings) -> CropDataset:
    generator = torch.Generator().manual_seed(0)
    crops = [torch.randint(256, (3, 32, 16), generator=generator, dtype=torch.uint8) for _ in range(4)]
    return CropDataset(crops, [0, 0, 1, 1], TrainTransform(settings, crops))


def test_an_item_depends_on_its_key_only() -> None:
    crops = _crops(TransformSettings(size=(32, 16), pad=3, occlusion=Occlusion(p=1.0)))
    first = crops[(2, 99)]
    torch.rand(7)
    for a, b in zip(first, crops[(2, 99)], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.pixels, crops[(2, 100)].pixels)
    assert (first.pids, first.rows) == (1, 2)


@pytest.mark.parametrize("pk", [True, False])
def test_batches_are_the_same_for_the_same_epoch(pk: bool) -> None:
    def epoch(number: int) -> list[list[tuple[int, int]]]:
        sampler = Seeded(12, PKSampler(LABELS, 2, 2, seed=5) if pk else None, 4, seed=5)
        sampler.set_epoch(number)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        return batches

    assert epoch(3) == epoch(3)
    assert epoch(3) != epoch(4)
    rows = Counter(row for batch in epoch(3) for row, _ in batch)
    assert sum(rows.values()) == 12
    seeds = [seed for number in range(4) for batch in epoch(number) for _, seed in batch]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("pk", [True, False])
def test_processes_share_an_epoch(pk: bool) -> None:
    batches = []
    for rank in (0, 1):
        own = PKSampler(LABELS, 2, 2, seed=1, rank=rank, world_size=2) if pk else None
        sampler = Seeded(12, own, 4, 1, rank, 2)
        batches.append(list(sampler))
    assert len(batches[0]) == len(batches[1])
    for one, other in zip(*batches, strict=True):
        assert not {row for row, _ in one} & {row for row, _ in other}
        assert not {seed for _, seed in one} & {seed for _, seed in other}


def test_fewer_crops_than_a_batch_are_one_batch() -> None:
    sampler = Seeded(3, None, 64, seed=0)
    assert [len(batch) for batch in sampler] == [3]


def test_prompts_hide_what_is_hidden_in_the_mean_colour_of_the_rest() -> None:
    images = torch.arange(2 * 3 * 4 * 2, dtype=torch.float32).reshape(2, 3, 4, 2)
    visible = torch.ones(2, 4, 2)
    visible[:, 2:] = 0
    given, prompts = give_prompts(images, visible, 1.0)
    assert torch.equal(prompts, visible)
    assert torch.equal(given[:, :, :2], images[:, :, :2])
    expected = images[:, :, :2].mean((2, 3))
    assert torch.allclose(given[:, :, 2:], expected[:, :, None, None].expand(-1, -1, 2, 2))


def test_no_prompt_leaves_crops_alone() -> None:
    images, visible = torch.rand(3, 3, 4, 2), torch.zeros(3, 4, 2)
    visible[0] = 1
    # The other two show nothing of the person: a prompt would leave nothing to look at.
    for share in (0.0, 1.0):
        given, prompts = give_prompts(images, visible, share)
        assert torch.allclose(given, images)
        assert bool((prompts == 1).all())


def test_prompts_are_given_to_their_share() -> None:
    images, visible = torch.rand(400, 3, 2, 2), torch.ones(400, 2, 2)
    visible[:, 0] = 0
    _, prompts = give_prompts(images, visible, 0.25, torch.Generator().manual_seed(0))
    assert 0.15 < float((prompts[:, 0, 0] == 0).float().mean()) < 0.35


def test_corners_of_a_mirrored_crop_trade_places() -> None:
    still = TransformSettings(size=(64, 32), flip=0.0, pad=0, erasing=None)
    assert _crops(still)[(0, 1)].corners.tolist() == [[0, 0], [32, 64]]
    mirrored = still.model_copy(update={"flip": 1.0})
    assert _crops(mirrored)[(0, 1)].corners.tolist() == [[32, 0], [0, 64]]


def test_seeds_of_several_numbers_do_not_collide() -> None:
    seeds = {mixed_seed(a, b, c) for a in range(8) for b in range(8) for c in range(8)}
    assert len(seeds) == 512
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_corrupt_crop_stops_or_is_reported(rendered: Path, tmp_path: Path, people: Dataset) -> None:
    import shutil

    shutil.copytree(rendered, tmp_path / "people")
    broken = sorted((tmp_path / "people" / "bounding_box_train").glob("*.jpg"))[3]
    broken.write_bytes(broken.read_bytes()[:60])
    samples = open_dataset(f"market1501:{tmp_path / 'people'}").split("train")
    with pytest.raises(DataError, match=broken.name):
        read_crops(samples)
    crops, rows, bad = read_crops(samples, skip_bad=True)
    assert len(crops) == len(rows) == len(samples) - 1
    assert [broken.name in str(error) for error in bad] == [True]
    assert broken.name not in {Path(samples[row].name).name for row in rows}
