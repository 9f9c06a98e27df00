"""How an embedding lies in a table: one column of half-precision numbers for each of its tensors."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from glimpse.embedding import Embedding
from glimpse.errors import EmbeddingError
from glimpse.matching.cascade import Cascade
from glimpse.matching.distance import Distance
from glimpse.matching.kernels import MixedDistance
from glimpse.matching.reconstruction import ReconstructionDistance

PREFIX = "e_"
"""Columns of embeddings begin with it."""


class Field(BaseModel):
    """A tensor of the embedding.

    Attributes:
        name: what the distance calls it.
        column: of the table.
        shape: of one crop's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    column: str
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        """Numbers of one crop."""
        return math.prod(self.shape)

    @property
    def type(self) -> pa.DataType:
        """Of the column."""
        return pa.list_(pa.float16(), self.width)


def fields_of(embedding: Embedding) -> tuple[Field, ...]:
    """The columns that an embedding takes.

    Raises:
        EmbeddingError: a tensor holds no floating-point numbers, or two would have the same column.

    >>> [(f.column, f.shape) for f in fields_of(Embedding({"parts.unit": torch.zeros(1, 6, 4)}))]
    [('e_parts_unit', (6, 4))]
    """
    found = []
    for name, tensor in embedding.tensors.items():
        if not tensor.is_floating_point():
            raise EmbeddingError("embedding", f"'{name}' holds {tensor.dtype}", "store floating-point numbers")
        shape = tuple(tensor.shape[1:])
        found.append(Field(name=name, column=PREFIX + re.sub(r"\W", "_", name), shape=shape))
    if len({field.column for field in found}) != len(found):
        raise EmbeddingError("embedding", "two tensors differ in punctuation only", "give them other names")
    return tuple(found)


def to_arrays(embedding: Embedding, fields: Sequence[Field]) -> list[pa.Array]:
    """Columns of half-precision numbers.

    Raises:
        EmbeddingError: a tensor is missing, of another shape, or holds what half precision cannot: NaN, or more than
            65,504.
    """
    columns = []
    for field in fields:
        tensor = embedding[field.name]
        if tuple(tensor.shape[1:]) != field.shape:
            cause = f"'{field.name}' has rows of {list(tensor.shape[1:])} instead of {list(field.shape)}"
            raise EmbeddingError("embedding", cause, "embed with the weights of the gallery")
        half = tensor.to(torch.float16).reshape(len(tensor), field.width).contiguous()
        # Without its sign, what is not finite is no less than this as a whole number: much quicker to ask.
        if half.numel() and int((half.view(torch.int16) & 0x7FFF).max()) >= 0x7C00:
            bad = (~half.isfinite()).any(1).nonzero()
            cause = f"'{field.name}' of crop {int(bad[0])} is not finite in half precision"
            raise EmbeddingError("embedding", cause, "check the weights and the crop")
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(half.numpy().reshape(-1)), field.width))
    return columns


def to_embedding(batch: pa.RecordBatch | pa.Table, fields: Sequence[Field], made_by: str) -> Embedding:
    """The tensors of some rows, in half precision; of a record batch without a copy."""
    tensors = {}
    for field in fields:
        column = batch.column(field.column)
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=True)
        tensors[field.name] = borrowed(values).view(len(column), *field.shape)
    return Embedding(tensors, made_by)


def borrowed(values: npt.NDArray[np.float16]) -> Tensor:
    """The tensor that shares an array's memory, be that writable or not: nothing here writes to embeddings."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(values)


def stored_form(distance: Distance, embedding: Embedding) -> Embedding:
    """What a gallery keeps of crops: their embedding, and of what is dear to prepare the prepared form instead.

    Only the bases of a reconstruction distance are: an eigenvalue problem for each crop.
    """
    made = list(_reconstructions(distance))
    if not made:
        return embedding
    prepared: dict[str, Tensor] = {}
    replaced = set()
    for each in made:
        if each.vectors in embedding.names:
            prepared |= each.prepare(embedding).tensors
            replaced |= {each.vectors, *([each.shares] if each.shares else [])}
    kept = {name: tensor for name, tensor in embedding.tensors.items() if name not in replaced}
    return Embedding({**kept, **prepared}, embedding.made_by)


def _reconstructions(distance: Distance) -> Iterator[ReconstructionDistance]:
    if isinstance(distance, ReconstructionDistance):
        yield distance
    elif isinstance(distance, Cascade):
        yield from _reconstructions(distance.coarse)
        yield from _reconstructions(distance.fine)
    elif isinstance(distance, MixedDistance):
        for _, term in distance.terms:
            yield from _reconstructions(term)


def read_by(distance: Distance, fields: tuple[Field, ...]) -> tuple[Field, ...]:
    """Those of the fields that a distance reads.

    Raises:
        EmbeddingError: there is none of what it reads.
    """
    try:
        return _read_by(cast("Hashable", distance), fields)
    except TypeError:  # a distance of somebody's own that cannot be told from others
        return _read_by.__wrapped__(cast("Hashable", distance), fields)


@lru_cache(maxsize=64)
def _read_by(distance: Hashable, fields: tuple[Field, ...]) -> tuple[Field, ...]:
    # Told by letting it prepare one crop of zeros: no distance can forget to say.
    crop = _Watched({field.name: torch.zeros(1, *field.shape) for field in fields})
    prepared = cast("Distance", distance).prepare(crop)
    read = crop.read | set(prepared.names)
    return tuple(field for field in fields if field.name in read)


class _Watched(Embedding):
    """An embedding that knows which of its tensors were asked for."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self.read: set[str] = set()

    @overload
    def __getitem__(self, key: str) -> Tensor: ...
    @overload
    def __getitem__(self, key: int | slice | Tensor) -> Embedding: ...
    def __getitem__(self, key: str | int | slice | Tensor) -> Tensor | Embedding:
        if isinstance(key, str):
            self.read.add(key)
        return super().__getitem__(key)


@dataclass(frozen=True, slots=True)
class Packed:
    """Some fields of many crops side by side in one array of rows, such as a mapped file.

    Attributes:
        fields: in the order of their columns.
    """

    fields: tuple[Field, ...]

    @property
    def width(self) -> int:
        """Numbers of one crop."""
        return sum(field.width for field in self.fields)

    def pack(self, embedding: Embedding) -> npt.NDArray[np.float16]:
        """Rows `[n, width]` of float16."""
        columns = [
            embedding[field.name].to(torch.float16).reshape(len(embedding), field.width) for field in self.fields
        ]
        if not columns:
            return np.zeros((len(embedding), 0), np.float16)
        return torch.cat(columns, 1).numpy()

    def unpack(
        self, rows: npt.NDArray[np.float16], made_by: str = "", names: Collection[str] | None = None
    ) -> Embedding:
        """The embedding of rows `[n, width]`, or those of its tensors that are named; views, no copies."""
        whole, tensors, start = borrowed(rows), {}, 0
        for field in self.fields:
            if names is None or field.name in names:
                tensors[field.name] = whole[:, start : start + field.width].reshape(len(whole), *field.shape)
            start += field.width
        return Embedding(tensors, made_by)
