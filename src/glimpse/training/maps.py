"""Maps of a frozen backbone, kept on disk so that heads train in seconds an epoch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from glimpse.backbones import Backbone, to_cells
from glimpse.backbones.fast import folded, has_fast_bfloat16
from glimpse.files import atomic, write_text
from glimpse.training.crops import Batch, CropDataset, give_prompts

_BATCH = 32

Maps = dict[str, np.memmap[Any, Any]]
"""What a pass keeps: `maps` `[n, c, h, w]` and `visible` `[n, h, w]`, and of `Cues`, where there are any, `points`,
`scale`, and `parts` and `heat` `[n, groups or points, h, w]` by cells; memory-mapped."""
_DTYPES = {"points": "float32", "scale": "float32"}  # half precision is a quarter of a pixel off


def key_digest(key: dict[str, object]) -> str:
    """16 digits that stand for everything that something in the cache depends on."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


class _Arrays:
    """Arrays of one row a crop, each in a file, beside a JSON that says what they are.

    Args:
        folder: of the cache.
        kind: how the files' names begin.
        key: everything that the arrays depend on.
        rows: number of crops.
    """

    def __init__(self, folder: Path, kind: str, key: dict[str, object], rows: int) -> None:
        self.path = folder / f"{kind}-{key_digest(key)}"
        self.key, self.rows = key, rows

    @property
    def ready(self) -> bool:
        """Whether the cache holds them."""
        return self._about.exists()

    def write(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Keep what `batches` give of successive rows; it appears whole or not at all."""
        arrays: dict[str, dict[str, object]] = {}
        with ExitStack() as stack:
            files: dict[str, BinaryIO] = {}
            for found in batches:
                for name, tensor in found.items():
                    dtype = _DTYPES.get(name, "float16")
                    arrays[name] = {"shape": list(tensor.shape[1:]), "dtype": dtype}
                    if name not in files:
                        files[name] = stack.enter_context(open(stack.enter_context(atomic(self._file(name))), "wb"))
                    files[name].write(tensor.float().numpy().astype(dtype).tobytes())
        write_text(self._about, json.dumps({"rows": self.rows, "arrays": arrays, "key": self.key}))

    def open(self) -> Maps:
        """What they hold."""
        return {
            name: np.memmap(self._file(name), array["dtype"], "r", shape=(self.rows, *array["shape"]))
            for name, array in json.loads(self._about.read_text())["arrays"].items()
            if 0 not in array["shape"]  # cues that no method needs
        }

    @property
    def _about(self) -> Path:
        return self.path.with_suffix(".json")

    def _file(self, name: str) -> Path:
        return self.path.with_suffix(f".{name}")


class MapPass:
    """Maps of all training crops, augmented once, and their cues, moved as they were.

    Cues have files of their own, so that methods that need different ones share the maps.

    Args:
        folder: of the cache.
        key: everything that the maps depend on.
        rows: number of crops.
        cues: what the cues depend on besides; `None` if there are none.
    """

    def __init__(self, folder: Path, key: dict[str, object], rows: int, cues: dict[str, object] | None = None) -> None:
        self._maps = _Arrays(folder, "maps", key, rows)
        self._cues = None if cues is None else _Arrays(folder, "cues", {**key, **cues}, rows)

    @property
    def ready(self) -> bool:
        """Whether the cache holds it."""
        return self._maps.ready and (self._cues is None or self._cues.ready)

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
        if not self._maps.ready:
            network = folded(backbone).to(memory_format=torch.channels_last)
            generator = torch.Generator().manual_seed(seed)
            self._maps.write(_mapped(network, items, prompt, generator) for items in _augmented(crops, seed, progress))
        if self._cues is not None and not self._cues.ready:
            size = self._maps.open()["maps"].shape[2:]
            self._cues.write(_moved(items, (size[0], size[1])) for items in _augmented(crops, seed, None))

    def open(self) -> Maps:
        """What the pass keeps."""
        return self._maps.open() | (self._cues.open() if self._cues is not None else {})


def _augmented(crops: CropDataset, seed: int, progress: Callable[[int], None] | None) -> Iterator[list[Batch]]:
    """All crops in batches, each augmented by `seed` and its row."""
    for start in range(0, len(crops), _BATCH):
        items = [crops[(row, seed * len(crops) + row)] for row in range(start, min(start + _BATCH, len(crops)))]
        yield items
        if progress is not None:
            progress(len(items))


def _mapped(network: Backbone, items: list[Batch], prompt: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Maps of augmented crops, and what of each cell is visible."""
    images = torch.stack([item.pixels for item in items])
    visible = torch.stack([item.visible for item in items])
    shown: Tensor | None = None
    if prompt:
        images, shown = give_prompts(images, visible, prompt, generator)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16()):
        look = network.look(images, shown)
    maps, seen = look.features, torch.ones_like(visible) if look.seen is None else look.seen
    return {"maps": maps, "visible": to_cells(seen, maps)}


def _moved(items: list[Batch], size: tuple[int, int]) -> dict[str, Tensor]:
    """Cues of augmented crops, part maps by the `size` cells of a map."""
    found = {
        "parts": F.adaptive_avg_pool2d(torch.stack([item.parts for item in items]), size),
        "points": torch.stack([item.points for item in items]),
        "scale": torch.stack([item.scale for item in items]),
    }
    if items[0].heat.ndim == 3:
        found["heat"] = F.adaptive_max_pool2d(torch.stack([item.heat for item in items]), size)
    return found


class MapDataset(Dataset[Batch]):
    """Items `(row, seed)` of cached passes: the seed picks the pass."""

    def __init__(self, passes: Sequence[Maps], labels: Sequence[int]) -> None:
        self.passes = passes
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        row, seed = key
        kept = {
            name: torch.from_numpy(np.array(array[row])) for name, array in self.passes[seed % len(self.passes)].items()
        }
        batch = Batch(
            kept.pop("maps"),
            kept.pop("visible").float(),
            torch.tensor(self.labels[row]),
            torch.tensor(row),
            torch.zeros(2, 2),
        )
        if not kept:
            return batch
        empty = {"points": torch.zeros(0, 3), "parts": torch.zeros(0, *batch.visible.shape)}
        return batch._replace(**{name: tensor.float() for name, tensor in (empty | kept).items()})
