"""People made of coloured stripes, stored in memory, and a model that sees their mean colours."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import BaseModel

from glimpse.data import Dataset, Protocol, Sample
from glimpse.data.images import read_image
from glimpse.embedding import Embedding
from glimpse.errors import DataError
from glimpse.matching import GlobalDistance, PartDistance

STRIPS = 4
HEIGHT, WIDTH = 32, 16


@dataclass
class MemoryStore:
    """Files in a dict."""

    root: str = "memory"
    files: dict[str, bytes] = field(default_factory=dict)

    def read(self, name: str) -> bytes:
        return self.files[name]

    def add(self, name: str, pixels: np.ndarray, pid: int, camid: int | None = None) -> Sample:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        self.files[name] = buffer.getvalue()
        return Sample(self, name, pid, camid)


def person(pid: int, shot: int, noise: float = 12) -> np.ndarray:
    """A crop whose strips have the colours of the person."""
    colours = np.random.default_rng([pid, 1]).integers(30, 226, (STRIPS, 1, 3))
    strips = np.repeat(colours, HEIGHT // STRIPS, axis=0) * np.ones((1, WIDTH, 1))
    strips = strips + np.random.default_rng([pid, shot, 2]).normal(0, noise, strips.shape)
    return strips.clip(0, 255).astype(np.uint8)


class FakeCard(BaseModel):
    method: str = "stripes"


@dataclass
class FakeEmbedded:
    embedding: Embedding
    kept: list[int]
    bad: list[DataError]


class StripesModel:
    """Mean colours of four strips; the weight of a strip is what is visible of it (by the prompt, else by flatness)."""

    made_by = "stripes@00000000"
    method = SimpleNamespace(name="stripes")
    card = FakeCard()

    def __init__(self, weights: bool = True) -> None:
        self.weights = weights
        self.calls: list[int] = []
        self.prompts: list[Any] = []

    @property
    def part_names(self) -> list[str]:
        return [f"strip {i + 1}" for i in range(STRIPS)]

    @property
    def regions(self) -> list[tuple[str, tuple[float, float, float, float]]]:
        return [(name, (0.0, i / STRIPS, 1.0, (i + 1) / STRIPS)) for i, name in enumerate(self.part_names)]

    def distance(self, **options: Any) -> PartDistance | GlobalDistance:
        return PartDistance(**options) if self.weights else GlobalDistance("parts")

    def embed_samples(
        self,
        samples: Sequence[Sample],
        *,
        edit: Callable[[int, Image.Image], tuple[Image.Image, Any]] | None = None,
        skip_bad: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> FakeEmbedded:
        self.calls.append(len(samples))
        parts, weights, kept, bad = [], [], [], []
        for row, sample in enumerate(samples):
            try:
                image, visible = read_image(sample), None
            except DataError as error:
                if not skip_bad:
                    raise
                bad.append(error)
                continue
            if edit is not None:
                image, visible = edit(row, image)
            self.prompts.append(visible)
            pixels = np.asarray(image, np.float32) / 255 - 0.5
            strips = pixels.reshape(STRIPS, -1, *pixels.shape[1:])
            mask = np.ones(pixels.shape[:2], np.float32)
            if isinstance(visible, tuple):
                x0, y0, x1, y1 = map(int, visible)
                mask[:] = 0
                mask[y0:y1, x0:x1] = 1
            elif visible is not None:
                mask = visible.astype(np.float32)
            flat = np.abs(strips.std(axis=(1, 2)).mean(axis=1)) < 0.01  # grey occluders have no noise
            share = mask.reshape(STRIPS, -1).mean(axis=1)
            kept.append(row)
            parts.append(strips.mean(axis=(1, 2)))
            weights.append(np.where(flat & (visible is None), 0.1, share))
            if progress is not None:
                progress(1)
        vectors = torch.from_numpy(np.stack(parts)).float()
        if not self.weights:
            return FakeEmbedded(Embedding({"parts": vectors.flatten(1)}, self.made_by), kept, bad)
        tensors = {"parts": vectors, "weights": torch.from_numpy(np.stack(weights)).float()}
        return FakeEmbedded(Embedding(tensors, self.made_by), kept, bad)


@pytest.fixture
def make_store() -> Callable[..., MemoryStore]:
    return MemoryStore


@pytest.fixture
def make_model() -> Callable[..., StripesModel]:
    return StripesModel


@pytest.fixture
def model() -> StripesModel:
    return StripesModel()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def partial(store: MemoryStore) -> Dataset:
    """Twelve people, three crops on both sides, no cameras, and a few others to train on."""
    query = [store.add(f"query/{p:03}_{i}.png", person(p, i), p) for p in range(1, 13) for i in range(3)]
    gallery = [store.add(f"gallery/{p:03}_{i}.png", person(p, 10 + i), p) for p in range(1, 13) for i in range(3)]
    train = [store.add(f"train/{p:03}.png", person(p, 0), p) for p in range(100, 110)]
    protocol = Protocol("stripes", same_camera_rule=False, per_identity=3)
    return Dataset("stripes", protocol, tuple(train), tuple(query), tuple(gallery), ("Drawn.",), "stripes:memory")


@pytest.fixture
def cameras(store: MemoryStore) -> Dataset:
    """Six people by two cameras, two distractors, one junk crop, and one query nobody matches."""
    query = [store.add(f"q/{p}.png", person(p, 0), p, 1) for p in range(1, 7)]
    query.append(store.add("q/lonely.png", person(50, 0), 50, 1))
    gallery = [store.add(f"g/{p}_{c}.png", person(p, c), p, c) for p in range(1, 7) for c in (1, 2)]
    gallery += [store.add(f"g/d{i}.png", person(60 + i, 0), 0, 1) for i in range(2)]
    gallery.append(store.add("g/junk.png", person(1, 0), -1, 2))
    return Dataset("cameras", Protocol("cameras", same_camera_rule=True), (), tuple(query), tuple(gallery))
