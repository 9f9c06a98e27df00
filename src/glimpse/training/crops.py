"""Training crops: decoded once, augmented by seed, batched by identity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision import tv_tensors

from glimpse.data import PKSampler, Sample, read_all
from glimpse.data.transforms import TrainTransform
from glimpse.errors import DataError
from glimpse.synthetic.occlusion import to_tensor


class Batch(NamedTuple):
    """What a training step sees.

    Attributes:
        pixels: normalised images `[n, 3, H, W]`, or maps `[n, c, h, w]` of a frozen backbone.
        visible: what of each crop is the person, `[n, H, W]` (or `[n, h, w]` with maps).
        pids: class indices `[n]`.
        rows: of the training crops `[n]`.
        corners: where the crop's own corners went, in pixels: `[n, 2, 2]` (first and last corner; x, y).
    """

    pixels: Tensor
    visible: Tensor
    pids: Tensor
    rows: Tensor
    corners: Tensor


def read_crops(samples: Sequence[Sample], *, skip_bad: bool = False) -> tuple[list[Tensor], list[int], list[DataError]]:
    """Decode all crops into memory, uint8 `[3, h, w]` each (25 kB for a crop of Market-1501).

    Returns:
        (crops, row of each in `samples`, errors of those that were skipped).

    Raises:
        DataError: a crop cannot be read and `skip_bad` is off.
    """
    read = read_all(samples, skip_bad=skip_bad)
    return [to_tensor(image) for image in read.images], read.kept, read.bad


class CropDataset(Dataset[Batch]):
    """Augmented crops; item `(row, seed)` is always the same."""

    def __init__(self, crops: Sequence[Tensor], labels: Sequence[int], transform: TrainTransform) -> None:
        self.crops = crops
        self.labels = labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        row, seed = key
        crop = self.crops[row]
        height, width = crop.shape[1:]
        corners = tv_tensors.KeyPoints(torch.tensor([[0.0, 0.0], [width, height]]), canvas_size=(height, width))
        generator = torch.Generator().manual_seed(seed)
        image, visible, moved = self.transform.with_targets(crop, {"corners": corners}, generator)
        points = moved["corners"].as_subclass(Tensor).float()
        if points[0, 0] > points[1, 0]:
            points[:, 0] += 1  # mirrored as the centres of pixels are, to width - 1 - x; corners go to width - x
        return Batch(image, visible, torch.tensor(self.labels[row]), torch.tensor(row), points)


class Seeded(Sampler[list[tuple[int, int]]]):
    """Adds to each row of a PK sampler (or of a random order) the seed that its augmentation takes.

    The seed follows from the training's seed, the epoch and the place in it, so that a resumed training sees what an
    unbroken one would.

    Args:
        rows: number of crops.
        pk: sampler of batches by identity, or `None` for batches of `batch` in random order.
        batch: crops per batch without `pk`.
        seed: of the training.
        rank, world_size: which of how many processes this is.
    """

    def __init__(
        self, rows: int, pk: PKSampler | None, batch: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.rows, self.pk, self.batch, self.seed = rows, pk, batch, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    @property
    def sampler(self) -> Seeded:
        """Itself: Lightning calls `batch_sampler.sampler.set_epoch` at the start of each epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        self.epoch = epoch
        if self.pk is not None:
            self.pk.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.pk) if self.pk is not None else max(1, self.rows // (self.batch * self.world_size))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        seeds = np.random.default_rng([self.seed, self.epoch, self.rank, 1])
        for batch in self._batches():
            yield [(row, int(s)) for row, s in zip(batch, seeds.integers(2**62, size=len(batch)), strict=True)]

    def _batches(self) -> Iterator[list[int]]:
        if self.pk is not None:
            yield from self.pk
            return
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.rows)[self.rank :: self.world_size]
        for i in range(len(self)):
            yield order[i * self.batch : (i + 1) * self.batch].tolist()


def give_prompts(
    images: Tensor, visible: Tensor, share: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Tell the network, for a share of the crops, what is visible, as a caller's prompt does.

    Args:
        images: `[n, 3, H, W]`.
        visible: truth of what is visible `[n, H, W]`.
        share: of the crops that get a prompt.

    Returns:
        (images with the hidden pixels of prompted crops in the mean colour of their visible ones,
        prompts `[n, H, W]`: the truth for prompted crops, ones for the others).
    """
    told = torch.rand(len(images), generator=generator) < share
    told = told.to(images.device) & (visible.mean((1, 2)) > 0.05)
    prompts = torch.where(told[:, None, None], visible, 1.0)
    seen = prompts[:, None]
    colour = (images * seen).sum((2, 3), keepdim=True) / seen.sum((2, 3), keepdim=True)
    return images * seen + colour * (1 - seen), prompts
