"""Maps of a frozen backbone, kept on disk so that heads train in seconds an epoch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from glimpse.backbones import Backbone, to_cells
from glimpse.backbones.fast import folded, has_fast_bfloat16
from glimpse.files import atomic, write_text
from glimpse.training.crops import Batch, CropDataset, give_prompts

_BATCH = 32

Maps = tuple[np.memmap[Any, Any], np.memmap[Any, Any]]
"""`(maps [n, c, h, w], visible [n, h, w])`, float16."""


class MapPass:
    """Maps of all training crops, augmented once: `maps` `[n, c, h, w]` and `visible` `[n, h, w]` in half precision,
    memory-mapped.

    Args:
        folder: of the cache.
        key: everything that the maps depend on.
        rows: number of crops.
    """

    def __init__(self, folder: Path, key: dict[str, object], rows: int) -> None:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        self.path = folder / f"maps-{digest}"
        self.key, self.rows = key, rows

    @property
    def ready(self) -> bool:
        """Whether the cache holds it."""
        return self.path.with_suffix(".json").exists()

    def make(
        self,
        backbone: Backbone,
        crops: CropDataset,
        seed: int,
        prompt: float,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Compute what the cache does not hold; it appears whole or not at all.

        Args:
            backbone: frozen; its batch norms are folded on a copy.
            crops: to augment.
            seed: of the augmentation of this pass.
            prompt: share of the crops that get a prompt.
        """
        network = folded(backbone).to(memory_format=torch.channels_last)
        generator = torch.Generator().manual_seed(seed)
        maps_path, seen_path = self.path.with_suffix(".maps"), self.path.with_suffix(".visible")
        with atomic(maps_path) as maps_file, atomic(seen_path) as seen_file:
            shapes: dict[str, list[int]] = {}
            with open(maps_file, "wb") as maps_out, open(seen_file, "wb") as seen_out:
                for start in range(0, self.rows, _BATCH):
                    rows = range(start, min(start + _BATCH, self.rows))
                    items = [crops[(row, seed * self.rows + row)] for row in rows]
                    images = torch.stack([item.pixels for item in items])
                    visible = torch.stack([item.visible for item in items])
                    shown: Tensor | None = None
                    if prompt:
                        images, shown = give_prompts(images, visible, prompt, generator)
                    images = images.contiguous(memory_format=torch.channels_last)
                    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16()):
                        maps, seen, _ = network.look(images, shown)
                    seen = torch.ones_like(visible) if seen is None else seen
                    seen = to_cells(seen, maps)
                    shapes = {"maps": list(maps.shape[1:]), "visible": list(seen.shape[1:])}
                    maps_out.write(maps.half().contiguous().numpy().tobytes())
                    seen_out.write(seen.half().contiguous().numpy().tobytes())
                    if progress is not None:
                        progress(len(rows))
        write_text(self.path.with_suffix(".json"), json.dumps({"rows": self.rows, **shapes, "key": self.key}))

    def open(self) -> Maps:
        """`(maps [n, c, h, w], visible [n, h, w])`, float16."""
        about = json.loads(self.path.with_suffix(".json").read_text())
        return (
            np.memmap(self.path.with_suffix(".maps"), np.float16, "r", shape=(self.rows, *about["maps"])),
            np.memmap(self.path.with_suffix(".visible"), np.float16, "r", shape=(self.rows, *about["visible"])),
        )


class MapDataset(Dataset[Batch]):
    """Items `(row, seed)` of cached passes: the seed picks the pass."""

    def __init__(self, passes: Sequence[Maps], labels: Sequence[int]) -> None:
        self.passes = passes
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        row, seed = key
        maps, visible = self.passes[seed % len(self.passes)]
        return Batch(
            torch.from_numpy(np.array(maps[row])),
            torch.from_numpy(np.array(visible[row])).float(),
            torch.tensor(self.labels[row]),
            torch.tensor(row),
            torch.zeros(2, 2),
        )
