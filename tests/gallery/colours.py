"""A model small enough to work out by hand: each strip of a crop is described by its mean colour."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from glimpse.data import Sample, read_image
from glimpse.embedding import Embedding
from glimpse.errors import DataError
from glimpse.gallery.incoming import Incoming, file_content
from glimpse.matching.cascade import Cascade
from glimpse.matching.distance import Distance
from glimpse.matching.kernels import GlobalDistance, PartDistance

STRIPS = 4
NAMES = tuple(f"strip {k + 1}" for k in range(STRIPS))

Colour = tuple[int, int, int]
R, G, B, W = (250, 10, 10), (10, 250, 10), (10, 10, 250), (240, 240, 240)


@dataclass
class Embedded:
    embedding: Embedding
    kept: list[int]
    bad: list[DataError]


class Colours:
    """Parts are the mean colours of four strips, weights the visible share of each strip; `globals` their mean."""

    size = (64, 32)
    card = SimpleNamespace(method="colours")
    regions = tuple((name, (0.0, k / STRIPS, 1.0, (k + 1) / STRIPS)) for k, name in enumerate(NAMES))

    def __init__(self, made_by: str = "colours@1") -> None:
        self.made_by = made_by
        self.embedded = 0
        self.least = 0.0  # smaller shares count as nothing

    def embed(self, images: Iterable[Image.Image], visible: Iterable[object] | None = None) -> Embedding:
        images = list(images)
        self.embedded += len(images)
        parts, weights = [], []
        for image, prompt in zip(images, [None] * len(images) if visible is None else visible, strict=True):
            pixels = torch.tensor(np.asarray(image.convert("RGB")), dtype=torch.float32) / 255
            shown = torch.ones(pixels.shape[:2])
            if isinstance(prompt, tuple):
                x0, y0, x1, y1 = (round(v) for v in prompt)
                shown = torch.zeros(pixels.shape[:2])
                shown[y0:y1, x0:x1] = 1
            elif prompt is not None:
                shown = torch.tensor(prompt, dtype=torch.float32)
            parts.append(torch.stack([strip.mean((0, 1)) for strip in pixels.chunk(STRIPS)]))
            shares = torch.stack([strip.mean() for strip in shown.chunk(STRIPS)])
            weights.append(shares.masked_fill(shares < self.least, 0.0))
        stacked = torch.stack(parts)
        return Embedding({"parts": stacked, "weights": torch.stack(weights), "globals": stacked.mean(1)}, self.made_by)

    def blank(self) -> Embedding:
        return self.embed([Image.new("RGB", self.size[::-1])])

    def embed_stream(self, crops: Iterable[tuple[Image.Image, object, str]]) -> Iterator[Embedding]:
        for image, _, _ in crops:
            yield self.embed([image])

    def embed_samples(
        self,
        samples: Sequence[Sample],
        *,
        edit: Callable[[int, Image.Image], tuple[Image.Image, object]] | None = None,
        skip_bad: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Embedded:
        images = [read_image(sample) for sample in samples]
        edited = [(image, None) if edit is None else edit(row, image) for row, image in enumerate(images)]
        return Embedded(self.embed(*zip(*edited, strict=True)), list(range(len(samples))), [])

    def distance(self, *, n: int = 0, strict: bool = False) -> Distance:
        fine = PartDistance(names=NAMES, combine="sqrt_product" if strict else "product")
        return Cascade(GlobalDistance(), fine, n) if n else fine


def crop(*colours: Colour, noise: int | None = None) -> Image.Image:
    """A 32 x 64 crop with a strip of each colour, and some noise so that no two are alike."""
    pixels = np.repeat(np.array(colours, np.int64), 64 // len(colours), axis=0)[:, None].repeat(32, 1)
    if noise is not None:
        random = np.random.default_rng(noise)
        pixels = pixels + random.integers(-40, 41, (4, 1, 3)).repeat(16, axis=0)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def crowd(n: int, seed: int = 0) -> list[Image.Image]:
    """Crops in four random colours each."""
    random = np.random.default_rng(seed)
    return [crop(*(tuple(c) for c in random.integers(0, 256, (4, 3)).tolist())) for _ in range(n)]


def coming(path: Path, image: Image.Image, **known: object) -> Incoming:
    """A crop on its way into a gallery, written to `path`, with what is known of it."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return Incoming(file_content(buffer.getvalue()), str(path), buffer.getvalue(), **known)  # type: ignore[arg-type]
