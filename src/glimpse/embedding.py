"""What a network says of n crops: named tensors, one row per crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from glimpse.errors import EmbeddingError
from glimpse.files import atomic

_FORMAT = "glimpse-embedding-1"


class Embedding:
    """Named tensors that share their first dimension n, the crops, and the name of what made them.

    The names belong to the method (`parts`, `weights`, `globals`, ...); its distance reads them.
    An `Embedding` is never changed in place: indexing, joining and moving return new ones.

    Args:
        tensors: name -> tensor `[n, ...]`.
        made_by: name and hash of the weights, such as `"qpm@3f9c21ab"`; empty if unknown.

    Raises:
        EmbeddingError: there is no tensor, or their first dimensions differ.

    >>> e = Embedding({"parts": torch.zeros(5, 6, 8), "weights": torch.ones(5, 6)}, made_by="qpm@0")
    >>> len(e), len(e[1:3]), len(e[torch.tensor([0, 4])]), len(e[-1]), e.names
    (5, 2, 2, 1, ('parts', 'weights'))
    >>> e["parts"].shape
    torch.Size([5, 6, 8])
    """

    def __init__(self, tensors: Mapping[str, Tensor], made_by: str = "") -> None:
        self._tensors = dict(tensors)
        self.made_by = made_by
        rows = {name: t.shape[0] if t.ndim else None for name, t in self._tensors.items()}
        if None in rows.values() or len(set(rows.values())) != 1:
            raise EmbeddingError(
                "embedding", f"tensors do not share a first dimension: {rows}", "give one row per crop"
            )

    def __len__(self) -> int:
        return int(next(iter(self._tensors.values())).shape[0])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors, in the order they were given."""
        return tuple(self._tensors)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Name -> tensor `[n, ...]`; not to be changed."""
        return self._tensors

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return next(iter(self._tensors.values())).device

    @property
    def bytes_per_row(self) -> int:
        """Bytes that one crop takes."""
        return sum(t.element_size() * t[0].numel() for t in self._tensors.values()) if len(self) else 0

    @overload
    def __getitem__(self, key: str) -> Tensor: ...
    @overload
    def __getitem__(self, key: int | slice | Tensor) -> Embedding: ...
    def __getitem__(self, key: str | int | slice | Tensor) -> Tensor | Embedding:
        """A tensor by name, or an `Embedding` of some rows (an `int` keeps the row axis)."""
        if isinstance(key, str):
            if key not in self._tensors:
                made_by = f" (made by {self.made_by})" if self.made_by else ""
                raise EmbeddingError(
                    f"embedding{made_by}",
                    f"there is no tensor '{key}', only {', '.join(self.names)}",
                    "match with the distance of the method that made it",
                )
            return self._tensors[key]
        if isinstance(key, int):
            key = slice(key, key + 1 or None)
        return Embedding({name: t[key] for name, t in self._tensors.items()}, self.made_by)

    def with_tensors(self, **tensors: Tensor) -> Embedding:
        """The same rows with tensors added or replaced."""
        return Embedding({**self._tensors, **tensors}, self.made_by)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Embedding:
        """The same rows elsewhere, or with floating-point tensors stored as `dtype` (others keep theirs)."""
        return Embedding(
            {
                name: t.to(device=device, dtype=dtype if t.is_floating_point() else None)
                for name, t in self._tensors.items()
            },
            self.made_by,
        )

    @staticmethod
    def cat(embeddings: Sequence[Embedding]) -> Embedding:
        """Join rows of embeddings that were made by the same weights.

        Raises:
            EmbeddingError: there are none, or names, shapes or makers differ.

        >>> one = Embedding({"globals": torch.zeros(2, 4)})
        >>> len(Embedding.cat([one, one]))
        4
        """
        if not embeddings:
            raise EmbeddingError("embedding", "nothing to join", "give at least one")
        first = embeddings[0]
        for other in embeddings[1:]:
            if other.made_by != first.made_by:
                raise EmbeddingError(
                    "embedding",
                    f"made by different weights ('{first.made_by}' and '{other.made_by}')",
                    "embed all crops with the same weights",
                )
            if {n: t.shape[1:] for n, t in other._tensors.items()} != {
                n: t.shape[1:] for n, t in first._tensors.items()
            }:
                raise EmbeddingError("embedding", "names or shapes differ", "embed all crops with the same weights")
        return Embedding({n: torch.cat([e._tensors[n] for e in embeddings]) for n in first.names}, first.made_by)

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file, whole or not at all."""
        with atomic(path) as draft:
            metadata = {"format": _FORMAT, "made_by": self.made_by, "names": ",".join(self.names)}
            save_file({n: t.contiguous().cpu() for n, t in self._tensors.items()}, draft, metadata)

    @staticmethod
    def load(path: str | Path) -> Embedding:
        """Read what `save` wrote.

        Raises:
            EmbeddingError: the file is missing, is not a safetensors file or was not written by `save`.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise EmbeddingError(path, "is not an embedding file of glimpse", "write it with `glimpse embed`")
                return Embedding({n: file.get_tensor(n) for n in metadata["names"].split(",")}, metadata["made_by"])
        except (OSError, SafetensorError) as error:
            raise EmbeddingError(path, f"cannot be read ({error})", "write it with `glimpse embed`") from error
