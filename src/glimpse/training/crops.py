"""Training crops: decoded once, augmented by seed, batched by identity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler
from torchvision import tv_tensors

from glimpse.cues.needs import Cues, heat_on_input
from glimpse.data import PKSampler, Sample, read_all
from glimpse.data.transforms import TrainTransform, shown
from glimpse.errors import DataError
from glimpse.synthetic.occlusion import to_tensor

UNKNOWN = 255
"""In place of a part map that is not there."""

_NONE = torch.zeros(0)
_NO_HEAT = torch.zeros(0, 1, 1, dtype=torch.uint8)


class Batch(NamedTuple):
    """What a training step sees.

    Attributes:
        pixels: normalised images `[n, 3, H, W]`, or maps `[n, c, h, w]` of a frozen backbone.
        visible: what of each crop is the person, `[n, H, W]` (or `[n, h, w]` with maps).
        pids: class indices `[n]`.
        rows: of the training crops `[n]`.
        corners: where the crop's own corners went, in pixels: `[n, 2, 2]` (first and last corner; x, y).
        points, parts, scale, heat: of `Cues`; empty where the method needs none.
    """

    pixels: Tensor
    visible: Tensor
    pids: Tensor
    rows: Tensor
    corners: Tensor
    points: Tensor = _NONE
    parts: Tensor = _NONE
    scale: Tensor = _NONE
    heat: Tensor = _NONE

    @property
    def cues(self) -> Cues | None:
        """Cues of the batch, if the method needs any."""
        if not self.scale.numel():
            return None
        cues = Cues(self.points, self.parts, self.scale)
        return cues._replace(heat=self.heat) if self.heat.ndim == 4 else cues


class CropCues(NamedTuple):
    """Cues of one crop as it lies on disk.

    Attributes:
        points: of the target person, `[points, 3]`, all of score 0 if there is none; no rows if none are needed.
        parts: a mask per group, uint8 `[groups, h, w]` of 0 and 1; `UNKNOWN` throughout if there is no part map.
        heat: `KeyPoints.heat` of the target, uint8 `[points, h', w']` over the whole crop; no rows if none is needed.
    """

    points: Tensor
    parts: Tensor
    heat: Tensor = _NO_HEAT


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

    def __init__(
        self,
        crops: Sequence[Tensor],
        labels: Sequence[int],
        transform: TrainTransform,
        cues: Sequence[CropCues] | None = None,
    ) -> None:
        self.crops = crops
        self.labels = labels
        self.transform = transform
        self.cues = cues

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        row, seed = key
        crop = self.crops[row]
        height, width = crop.shape[1:]
        corners = torch.tensor([[0.0, 0.0], [width, height]])
        targets: dict[str, Tensor] = {"corners": tv_tensors.KeyPoints(corners, canvas_size=(height, width))}
        cues = None if self.cues is None else self.cues[row]
        if cues is not None:
            targets["points"] = tv_tensors.KeyPoints(cues.points[:, :2], canvas_size=(height, width))
            targets["scores"] = cues.points[:, 2]
            targets["parts"] = tv_tensors.Mask(cues.parts)
            if len(cues.heat):
                # Drawn on the crop's own pixels, with which they move.
                heat = F.interpolate(cues.heat[None], size=(height, width), mode="nearest")[0]
                targets["heat"] = tv_tensors.Mask(heat)
        generator = torch.Generator().manual_seed(seed)
        image, visible, moved = self.transform.with_targets(crop, targets, generator)
        corners = moved["corners"].as_subclass(Tensor).float()
        batch = Batch(image, visible, torch.tensor(self.labels[row]), torch.tensor(row), corners)
        if cues is None:
            return batch
        xy, parts = moved["points"].as_subclass(Tensor).float(), moved["parts"].as_subclass(Tensor)
        # Nobody would find a point, or see a part, that something covers.
        scores = moved["scores"] * shown(xy, visible)
        known = bool((cues.parts != UNKNOWN).all())
        parts = parts * visible if known else torch.full(parts.shape, -1.0)
        scale = (corners[1] - corners[0]).abs() / torch.tensor([width, height])
        batch = batch._replace(points=torch.cat([xy, scores[:, None]], 1), parts=parts, scale=scale)
        if "heat" not in moved:
            return batch
        heights = (moved["heat"].as_subclass(Tensor).float() / 255).square()
        return batch._replace(heat=heat_on_input(heights, visible))


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
