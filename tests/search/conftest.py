"""A model small enough to work out by hand: each strip of a crop is described by its mean colour."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glimpse.data import Sample, read_image
from glimpse.embedding import Embedding
from glimpse.errors import DataError
from glimpse.matching.cascade import Cascade
from glimpse.matching.distance import Distance
from glimpse.matching.kernels import GlobalDistance, PartDistance

STRIPS = 4
NAMES = tuple(f"strip {k + 1}" for k in range(STRIPS))


@dataclass
class Embedded:
    embedding: Embedding
    kept: list[int]
    bad: list[DataError]


class ColourModel:
    """Parts are mean colours of four strips, weights the visible share of each strip."""

    made_by = "colour@1"
    size = (128, 64)

    def __init__(self) -> None:
        self.part_names = list(NAMES)
        self.regions = [(name, (0.0, k / STRIPS, 1.0, (k + 1) / STRIPS)) for k, name in enumerate(NAMES)]
        self.embedded = 0

    def embed(self, images: Iterable[Image.Image], visible: Iterable[object] | None = None) -> Embedding:
        images = list(images)
        prompts = [None] * len(images) if visible is None else list(visible)
        self.embedded += len(images)
        parts, weights = [], []
        for image, prompt in zip(images, prompts, strict=True):
            pixels = torch.tensor(np.asarray(image.convert("RGB")), dtype=torch.float32) / 255
            shown = torch.ones(pixels.shape[:2])
            if isinstance(prompt, tuple):
                x0, y0, x1, y1 = (round(v) for v in prompt)
                shown = torch.zeros(pixels.shape[:2])
                shown[y0:y1, x0:x1] = 1
            elif prompt is not None:
                shown = torch.tensor(prompt, dtype=torch.float32)
            parts.append(torch.stack([strip.mean((0, 1)) for strip in pixels.chunk(STRIPS)]))
            weights.append(torch.stack([strip.mean() for strip in shown.chunk(STRIPS)]))
        stacked = torch.stack(parts)
        return Embedding({"parts": stacked, "weights": torch.stack(weights), "globals": stacked.mean(1)}, self.made_by)

    def embed_samples(
        self,
        samples: Sequence[Sample],
        *,
        edit: None = None,
        skip_bad: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Embedded:
        kept, bad, images = [], [], []
        for row, sample in enumerate(samples):
            try:
                images.append(read_image(sample))
                kept.append(row)
            except DataError as error:
                if not skip_bad:
                    raise
                bad.append(error)
        if not kept:
            raise DataError(samples[0].path, "no crop can be read", "check that the path holds images")
        if progress is not None:
            progress(len(kept))
        return Embedded(self.embed(images), kept, bad)

    def distance(self, *, n: int = 0) -> Distance:
        fine = PartDistance(names=NAMES)
        return Cascade(GlobalDistance(), fine, n) if n else fine


def crop(*colours: tuple[int, int, int]) -> Image.Image:
    """A 64 x 128 crop with a strip of each colour."""
    pixels = np.repeat(np.array(colours, np.uint8), 128 // len(colours), axis=0)[:, None].repeat(64, 1)
    return Image.fromarray(pixels)


R, G, B = (250, 10, 10), (10, 250, 10), (10, 10, 250)


@pytest.fixture
def model() -> ColourModel:
    return ColourModel()


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Three crops: red over blue, green over blue, all green."""
    folder = tmp_path / "crops"
    folder.mkdir()
    crop(R, R, B, B).save(folder / "a.png")
    crop(G, G, B, B).save(folder / "b.png")
    crop(G, G, G, G).save(folder / "c.png")
    return folder


@pytest.fixture
def query(tmp_path: Path) -> Path:
    """A red head; something green stands in front of the rest."""
    crop(R, G, G, G).save(tmp_path / "query.png")
    return tmp_path / "query.png"
