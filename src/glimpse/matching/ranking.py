"""Distances and rankings of galleries that are too large to hold all pairs at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from glimpse.embedding import Embedding
from glimpse.errors import ConfigError
from glimpse.matching.cascade import Cascade, smallest
from glimpse.matching.distance import Distance
from glimpse.matching.operands import slices

# Tensors of the size of a block of distances that a kernel holds at a time.
_TEMPORARIES = 6


@dataclass(frozen=True, slots=True)
class Ranking:
    """The k nearest gallery crops of each query, nearest first.

    Attributes:
        distance: `[q, k]` float32, ascending.
        index: `[q, k]` int64, rows of the gallery.
    """

    distance: Tensor
    index: Tensor


def distance_rows(
    distance: Distance,
    query: Embedding,
    gallery: Embedding,
    *,
    max_bytes: int = 256 << 20,
    gallery_block: int = 16384,
) -> Iterator[tuple[slice, Tensor]]:
    """Distances of some queries at a time to the whole gallery, in bounded memory.

    At most `max_bytes` are held beside the embeddings (the rows just handed out included), plus what a kernel takes for
    itself (`WORKSPACE_BYTES`), but never less than one row needs. Embeddings that are not prepared are prepared
    first, all of them; give prepared ones to save that memory. Rows do not depend on `max_bytes` and
    `gallery_block` by more than 1e-5 (for a `Cascade`, see there; with bfloat16 products, by more than their rounding).

    Args:
        distance: any distance; a `Cascade` gets its shortlist from the whole gallery.
        query: q crops.
        gallery: g crops.
        max_bytes: bound of the memory.
        gallery_block: gallery rows that are compared at a time.

    Yields:
        `(rows, distances [len(rows), g])` in the order of the queries; the caller may change the distances.

    Raises:
        ConfigError: a bound is not positive.
        EmbeddingError: embeddings do not fit each other or the distance.

    >>> from glimpse.matching import GlobalDistance
    >>> crops = Embedding({"globals": torch.eye(3)})
    >>> for rows, distances in distance_rows(GlobalDistance(), crops, crops, max_bytes=1):
    ...     print(rows, distances.tolist())
    slice(0, 1, None) [[0.0, 1.0, 1.0]]
    slice(1, 2, None) [[1.0, 0.0, 1.0]]
    slice(2, 3, None) [[1.0, 1.0, 0.0]]
    """
    _check(max_bytes, gallery_block)
    query, gallery = distance.prepare(query), distance.prepare(gallery)
    # Twice the row: the caller still holds the last one while the next is made.
    per_query = 4 * (2 * len(gallery) + _TEMPORARIES * min(gallery_block, len(gallery)))
    if isinstance(distance, Cascade):
        per_query += 32 * len(gallery)  # masks and columns of the shortlist
    for rows in slices(len(query), max(1, max_bytes // max(1, per_query))):
        yield rows, _rows(distance, query[rows], gallery, gallery_block)


def _rows(distance: Distance, query: Embedding, gallery: Embedding, gallery_block: int) -> Tensor:
    if isinstance(distance, Cascade):
        return distance.refine(_rows(distance.coarse, query, gallery, gallery_block), query, gallery)
    if len(gallery) <= gallery_block:
        return distance.matrix(query, gallery)
    out = torch.empty(len(query), len(gallery), device=query.device)
    for columns in slices(len(gallery), gallery_block):
        out[:, columns] = distance.matrix(query, gallery[columns])
    return out


def top_k(
    distance: Distance,
    query: Embedding,
    gallery: Embedding,
    k: int,
    *,
    max_bytes: int = 256 << 20,
    gallery_block: int = 16384,
) -> Ranking:
    """The k nearest gallery crops of each query; ties go to the crop that comes first in the gallery.

    Ties are equal numbers. Copies of a crop can be apart by the rounding of a matrix product (1e-6), which depends on
    where in a block they stand; crops that share no part with a query tie exactly.

    Memory as in `distance_rows`, but without whole rows: `max_bytes` hold blocks of distances and the k best so far.

    Args:
        distance: any distance; a `Cascade` gets its shortlist from the whole gallery.
        query: q crops.
        gallery: g crops.
        k: how many, at least 1; no more than g are given.
        max_bytes: bound of the memory.
        gallery_block: gallery rows that are compared at a time.

    Raises:
        ConfigError: k or a bound is not positive.
        EmbeddingError: embeddings do not fit each other or the distance.

    >>> from glimpse.matching import GlobalDistance
    >>> crops = Embedding({"globals": torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]])})
    >>> top_k(GlobalDistance(), crops[0], crops, 2).index
    tensor([[0, 2]])
    """
    _check(max_bytes, gallery_block)
    if k < 1:
        raise ConfigError("k", f"{k} neighbours are none", "ask for at least one")
    query, gallery = distance.prepare(query), distance.prepare(gallery)
    per_query = 4 * _TEMPORARIES * min(gallery_block, max(1, len(gallery))) + 48 * min(k, max(1, len(gallery)))
    found = [
        _top_k(distance, query[rows], gallery, k, gallery_block)
        for rows in slices(len(query), max(1, max_bytes // per_query))
    ]
    if not found:
        return Ranking(*smallest(torch.empty(0, len(gallery), device=gallery.device), k))
    return Ranking(torch.cat([r.distance for r in found]), torch.cat([r.index for r in found]))


def _top_k(distance: Distance, query: Embedding, gallery: Embedding, k: int, gallery_block: int) -> Ranking:
    if isinstance(distance, Cascade):
        coarse = _top_k(distance.coarse, query, gallery, max(k, distance.n), gallery_block)
        n, farthest = distance.n, distance.fine.farthest
        # In gallery order, so that the sort by the fine distance leaves ties in it.
        index = coarse.index[:, :n].sort(dim=1).values
        fine = distance.fine.candidates(query, gallery, index).clamp(max=farthest)
        values = torch.cat([fine, coarse.distance[:, n:] + farthest], 1)
        index = torch.cat([index, coarse.index[:, n:]], 1)
        values, order = values.sort(dim=1, stable=True)
        return Ranking(values[:, :k], index.gather(1, order)[:, :k])
    best = Ranking(*smallest(torch.empty(len(query), 0, device=query.device), k))
    for columns in slices(len(gallery), gallery_block):
        values, index = smallest(distance.matrix(query, gallery[columns]), k)
        if not best.index.shape[1]:
            best = Ranking(values, index)
            continue
        # What was found before comes first in the gallery, so columns break ties the right way.
        merged, order = smallest(torch.cat([best.distance, values], 1), k)
        best = Ranking(merged, torch.cat([best.index, index + columns.start], 1).gather(1, order))
    return best


def _check(max_bytes: int, gallery_block: int) -> None:
    for name, value in (("max_bytes", max_bytes), ("gallery_block", gallery_block)):
        if value < 1:
            raise ConfigError(name, f"{value} leaves no room", "give a positive number")
