"""Rankings made better by what the gallery says of itself: k-reciprocal re-ranking and query expansion.

Both work with any distance, those of pairs included, which have no vector per crop to average. Both see neighbours
only, never a person's or a camera's number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, EmbeddingError
from glimpse.matching.cascade import Cascade, smallest
from glimpse.matching.distance import Distance
from glimpse.matching.kernels import WORKSPACE_BYTES, farthest
from glimpse.matching.operands import check_index, fitting, slices
from glimpse.matching.ranking import Ranking, distance_rows

Rows = NDArray[np.int32]
"""Numbers of crops; those of the queries come first, those of the gallery follow."""


@dataclass(frozen=True)
class KReciprocal:
    """How to re-rank by k-reciprocal neighbours; the defaults are the paper's.

    Args:
        k1: neighbours of a crop that are asked whether it is one of theirs, at least 1.
        k2: nearest crops, itself included, over which the neighbourhood of a crop is averaged, 1 (none but its own) to
            k1.
        lam: share of the distance itself in the result, in [0, 1]; the rest is the distance of neighbourhoods. At 1
            the order is that of the distance.

    Raises:
        ConfigError: one of them is out of range.
    """

    k1: int = 20
    k2: int = 6
    lam: float = 0.3

    def __post_init__(self) -> None:
        if self.k1 < 1:
            raise ConfigError("k1", f"{self.k1} neighbours are none", "ask for at least one, such as 20")
        if not 1 <= self.k2 <= self.k1:
            raise ConfigError("k2", f"{self.k2} is out of range", f"give 1 to {self.k1}, which is k1")
        if not 0 <= self.lam <= 1:
            raise ConfigError("lambda", f"{self.lam} is not a share", "give a number from 0 to 1, such as 0.3")


def k_reciprocal(
    distance: Distance,
    query: Embedding,
    gallery: Embedding,
    settings: KReciprocal = KReciprocal(),
    *,
    max_bytes: int = 256 << 20,
    gallery_block: int = 16384,
) -> Iterator[tuple[slice, Tensor]]:
    """Distances re-ranked by k-reciprocal neighbours (Zhong, Zheng, Cao and Li, CVPR 2017), in memory linear in n.

    Of all n = q + g crops, queries and gallery together: crops that are in each other's k1 nearest are mutual
    neighbours; mutual neighbours of these (by half of k1) join, where more than 2/3 of them are mutual neighbours
    already. A crop's neighbourhood is a sparse vector V with `exp(-d)` for each of them, scaled to sum 1, averaged over
    its k2 nearest crops. With the weighted Jaccard distance `J = 1 - sum min(V_q, V_g) / sum max(V_q, V_g)` the result
    is `(1 - lam) J + lam d`, in [0, 1]. Crops without a common neighbour have J = 1 and keep the order of d, but for
    differences below 3e-7 of the largest, which become ties.

    What the paper and the code that is used for it leave open or say differently:

    - d is the given distance, where the published form has squared Euclidean distances. Of unit vectors these are twice
      the cosine distance, and the factor cancels in the next step.
    - d of a crop to all n is divided by the largest of them, so that `exp(-d)` and `lam` do not depend on its scale.
    - A crop is its own first neighbour, at d = 0, whatever the distance says of a crop and itself. It is not one of the
      k1, but one of the k2. Other ties go to the crop that comes first, queries before gallery.
    - Half of k1 is rounded, 10.5 to 10 and 11.5 to 12. "More than 2/3" leaves out 2/3, as the code does.
    - Where d(a, b) is not d(b, a), the crop whose neighbours are looked for is the one that asks. So mutual neighbours
      are near each other both ways.
    - Of a `Cascade`, neighbours are the first of its order, with a shortlist drawn from all n crops; `exp(-d)` takes
      its fine distance; and the last d is its own number, from its ranking of the gallery. So crops without a common
      neighbour come in its order, the shortlist first.

    All pairs of the n crops are compared once, in blocks, and forgotten. Kept are the k1 nearest of each crop and V
    with its inverted lists: some 40 to 100 numbers a row, so 1 to 2 KB per crop, and never more than
    `k2 (k1 + 1) (k1 / 2 + 2)` numbers. Beside that it takes a joint copy of the prepared embeddings, `max_bytes`, and
    twice `WORKSPACE_BYTES`. All but distances is computed on the CPU. Results do not depend on `max_bytes` and
    `gallery_block`, except where distances at the end of a list of neighbours are within rounding (1e-6).

    Args:
        distance: any distance, none of them negative.
        query: q crops. They are neighbours of each other, so the result depends on all of them.
        gallery: g crops.
        settings: k1, k2 and lambda.
        max_bytes: bound of the memory for distances.
        gallery_block: crops that are compared at a time.

    Yields:
        `(rows, distances [len(rows), g])` as `distance_rows` does, float32 in [0, 1].

    Raises:
        ConfigError: a bound is not positive.
        EmbeddingError: embeddings do not fit each other or the distance.

    >>> from glimpse.matching import GlobalDistance
    >>> crops = Embedding({"globals": torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5], [-1.0, 0.0]])})
    >>> [(rows, distances)] = k_reciprocal(GlobalDistance(), crops[:1], crops[1:], KReciprocal(k1=1, k2=1))
    >>> [round(d, 3) for d in distances[0].tolist()]          # d = 1/4 and 1, J = 0.253 and 1
    [0.252, 1.0]
    """
    query, gallery = fitting(distance, query, gallery)
    if not len(query):
        return
    made_by = query.made_by or gallery.made_by
    crops = Embedding.cat([Embedding(side.tensors, made_by) for side in (query, gallery)])
    nearest, largest = _nearest(distance, crops, settings.k1 + 1, max_bytes, gallery_block)
    seen = _mean(_neighbourhoods(distance, crops, nearest, largest, settings.k1), nearest[:, : settings.k2])
    inverted = seen.transposed(len(query))
    for rows, distances in distance_rows(distance, query, gallery, max_bytes=max_bytes, gallery_block=gallery_block):
        distances *= (settings.lam / torch.from_numpy(largest[rows]))[:, None].to(distances.device)
        for row, i in zip(distances, range(*rows.indices(len(query)))):
            jaccard = _jaccard(seen, inverted, i, len(gallery))
            row += torch.from_numpy((1 - settings.lam) * jaccard).to(row)
        yield rows, distances


def rerank_candidates(
    distance: Distance, query: Embedding, gallery: Embedding, index: Tensor, settings: KReciprocal = KReciprocal()
) -> Ranking:
    """The candidates of each query, re-ranked among themselves: the query and its n candidates are all crops there are.

    That is `k_reciprocal` for galleries whose pairs are too many, at `(n + 1)^2` distances a query; queries know
    nothing of each other. Neighbours are found as far as they are candidates themselves, so give some more than k1. A
    `Cascade` draws its shortlist from the candidates.

    Args:
        distance: any distance, none of them negative.
        query: q crops.
        gallery: g crops.
        index: rows of the gallery `[q, n]`, such as `top_k(...).index`, in any order.
        settings: k1, k2 and lambda.

    Returns:
        All n of each query, nearest first, with their new distances in [0, 1]; ties go to the crop that comes first in
        the gallery.

    Raises:
        EmbeddingError: embeddings do not fit, or `index` is not `[q, n]`, points outside the gallery or repeats a row.

    >>> from glimpse.matching import GlobalDistance
    >>> crops = Embedding({"globals": torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.9, 0.1]])})
    >>> rerank_candidates(GlobalDistance(), crops[0], crops[1:], torch.tensor([[1, 0]])).index
    tensor([[1, 0]])
    """
    query, gallery = fitting(distance, query, gallery)
    index = check_index(query, gallery, index).sort(dim=1).values
    repeated = (index[:, 1:] == index[:, :-1]).nonzero()
    if len(repeated):
        i, place = repeated[0].tolist()
        cause = f"has row {int(index[i, place])} twice for query {i}"
        raise EmbeddingError("index", cause, "give each candidate once")
    values = torch.empty(index.shape, device=query.device)
    for i in range(len(query)):
        for _, distances in k_reciprocal(distance, query[i], gallery[index[i]], settings):
            values[i] = distances[0]
    values, order = values.sort(dim=1, stable=True)
    return Ranking(values, index.gather(1, order))


def expand(
    distance: Distance,
    query: Embedding,
    gallery: Embedding,
    index: Tensor,
    *,
    alpha: float = 3.0,
    max_bytes: int = 256 << 20,
    gallery_block: int = 16384,
) -> Iterator[tuple[slice, Tensor]]:
    """Distances to the gallery of each query and its nearest crops together: query expansion without a mean vector.

    `d'(q, g) = sum_i a_i d(x_i, g) / sum_i a_i`, over the query `x_0` with `a_0 = 1` and its neighbours `x_1 ... x_n`
    with `a_i = s_i^alpha`. The similarity `s_i = max(0, 1 - 2 d(q, x_i) / farthest)` is 1 at no distance, and 0 from
    half of the farthest on. The neighbours ask in the query's place.

    For the cosine distance s is the cosine, and the order is that of alpha query expansion (Radenovic, Tolias and Chum,
    TPAMI 2019) with its vector `v = sum_i a_i x_i`: `d' = 1 - (v . g) / sum_i a_i`, and only the length of v, the same
    for all of the gallery, is another. Of distances of pairs it is a mean over crops, each compared by what it shares
    with the gallery crop. Of a `Cascade` it is the mean of the numbers that say its order, and `farthest` is that of
    its fine distance, so that only crops of the query's shortlist count.

    It costs n + 1 times `distance_rows`, in the same memory.

    Args:
        distance: any distance that knows its `farthest`.
        query: q crops.
        gallery: g crops.
        index: gallery rows `[q, n]` of the n nearest crops, such as `top_k(...).index`; n may be 0.
        alpha: at least 0; the larger, the less far crops count. At 0 all count alike.
        max_bytes: bound of the memory.
        gallery_block: gallery rows that are compared at a time.

    Yields:
        `(rows, distances [len(rows), g])` as `distance_rows` does.

    Raises:
        ConfigError: alpha is negative, a bound is not positive, or the distance does not know its `farthest`.
        EmbeddingError: embeddings do not fit, or `index` is not `[q, n]` or points outside the gallery.

    >>> from glimpse.matching import GlobalDistance
    >>> crops = Embedding({"globals": torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])})
    >>> [(rows, distances)] = expand(GlobalDistance(), crops[0], crops[1:], torch.tensor([[0]]))
    >>> distances.tolist()
    [[0.0, 1.0]]
    """
    if not (math.isfinite(alpha) and alpha >= 0):
        raise ConfigError("alpha", f"{alpha} is out of range", "give 0 or more, such as 3")
    far = farthest(distance.fine if isinstance(distance, Cascade) else distance)
    query, gallery = fitting(distance, query, gallery)
    index = check_index(query, gallery, index)
    # Two blocks are held at a time: the sum, and what is added to it.
    compare = partial(distance_rows, distance, max_bytes=_share(max_bytes, 2), gallery_block=gallery_block)
    for rows, distances in compare(query, gallery):
        weights = (1 - 2 * distances.gather(1, index[rows]) / far).clamp_(min=0) ** alpha  # [b, n]
        for neighbours, weight in zip(index[rows].T, weights.T):
            for part, more in compare(gallery[neighbours], gallery):
                distances[part].addcmul_(more, weight[part, None])
        distances /= 1 + weights.sum(1, keepdim=True)
        yield rows, distances


# ---------------------------------------------------------------- neighbourhoods


@dataclass(frozen=True)
class _Sparse:
    """A matrix of which row i holds `value[start[i] : start[i + 1]]` in the columns `column[...]` of the same range."""

    start: NDArray[np.int64]
    column: Rows
    value: NDArray[np.float32]

    def entries(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All entries of some rows: which of `rows` each is of, and where it lies in `column` and `value`."""
        first = self.start[rows]
        length = self.start[rows + 1] - first
        of = np.repeat(np.arange(len(rows)), length)
        before = length.cumsum() - length
        return of, np.arange(len(of)) + (first - before)[of]

    def transposed(self, skip: int) -> _Sparse:
        """Columns as rows, without the first `skip` rows, which are not counted: the first that is kept is 0."""
        n, first = len(self.start) - 1, self.start[skip]
        column, value = self.column[first:], self.value[first:]
        row = np.repeat(np.arange(n - skip, dtype=np.int32), np.diff(self.start[skip:]))
        order = column.argsort(kind="stable")
        return _Sparse(_starts(np.bincount(column, minlength=n)), row[order], value[order])


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], lengths.cumsum()])


def _share(max_bytes: int, parts: int) -> int:
    """A part of a bound; one that leaves no room stays so, and is refused where it is used."""
    return min(max_bytes, max(1, max_bytes // parts))


def _nearest(
    distance: Distance, crops: Embedding, k: int, max_bytes: int, gallery_block: int
) -> tuple[Rows, NDArray[np.float32]]:
    """The k nearest crops of each, itself first, `[n, min(k, n)]`, and the largest distance from each, `[n]`, not 0."""
    n = len(crops)
    nearest, largest = np.empty((n, min(k, n)), np.int32), np.empty(n, np.float32)
    # What finds the smallest holds twice as much as the distances, where all of a row tie.
    bound = _share(max_bytes, 3)
    for rows, distances in distance_rows(distance, crops, crops, max_bytes=bound, gallery_block=gallery_block):
        distances.diagonal(rows.start).fill_(-torch.inf)
        largest[rows] = distances.amax(1).cpu().numpy()
        nearest[rows] = smallest(distances, k)[1].cpu().numpy()
    return nearest, np.where(largest <= 0, np.float32(1), largest)


def _mutual(nearest: Rows, rows: slice) -> NDArray[np.bool_]:
    """Which of the nearest crops `[b, k]` of some crops have them among their own nearest."""
    own = np.arange(rows.start, rows.stop)[:, None, None]
    found: NDArray[np.bool_] = (nearest[nearest[rows]] == own).any(2)
    return found


def _neighbourhoods(
    distance: Distance, crops: Embedding, nearest: Rows, largest: NDArray[np.float32], k1: int
) -> _Sparse:
    """Mutual neighbours of each crop with those that join them, weighted by `exp(-d)` and scaled to sum 1."""
    n, k = nearest.shape
    half = nearest[:, : round(k1 / 2) + 1]
    step = max(1, WORKSPACE_BYTES // (2 * k * k * half.shape[1]))
    half_mutual = np.concatenate([_mutual(half, rows) for rows in slices(n, step)])
    # All members are near, and a cascade says how near by its fine distance.
    pairs = distance.fine if isinstance(distance, Cascade) else distance
    lengths, columns, values = [], [], []
    for rows in slices(n, step):
        near = np.where(_mutual(nearest, rows), nearest[rows], -1)  # [b, k], -1 for nobody
        theirs = np.where(half_mutual[near] & (near >= 0)[..., None], half[near], -2)  # [b, k, half]
        common = (theirs[..., None] == near[:, None, None, :]).any(3)
        joins = 3 * common.sum(2) > 2 * (theirs >= 0).sum(2)
        members = np.concatenate([near, np.where(joins[..., None], theirs, -1).reshape(len(near), -1)], 1)
        members.sort(axis=1)
        new = members >= 0
        new[:, 1:] &= members[:, 1:] != members[:, :-1]
        length = new.sum(1)
        # The members of each crop side by side, and the crop itself where there are no more.
        own = np.arange(rows.start, rows.stop, dtype=np.int32)[:, None]
        there = np.arange(length.max()) < length[:, None]
        index = np.broadcast_to(own, there.shape).copy()
        index[there] = members[new]
        d = pairs.candidates(crops[rows], crops, torch.from_numpy(index).to(crops.device)).cpu().numpy()
        weight = np.exp(np.where(index == own, 0, -d / largest[rows, None])) * there
        weight /= weight.sum(1, keepdims=True)
        lengths.append(length)
        columns.append(index[there])
        values.append(weight[there].astype(np.float32))
    return _Sparse(_starts(np.concatenate(lengths)), np.concatenate(columns), np.concatenate(values))


def _mean(seen: _Sparse, nearest: Rows) -> _Sparse:
    """Of each crop the mean of the rows of its nearest crops `[n, k2]`."""
    n, k2 = nearest.shape
    if k2 == 1:
        return seen
    lengths, columns, values = [], [], []
    per_row = 40 * k2 * max(1, len(seen.value) // n)
    for rows in slices(n, max(1, WORKSPACE_BYTES // per_row)):
        of, entry = seen.entries(nearest[rows].ravel())
        place = of // k2 * n + seen.column[entry]
        order = place.argsort(kind="stable")
        place = place[order]
        first = np.flatnonzero(np.diff(place, prepend=-1))
        sums = np.add.reduceat(seen.value[entry[order]], first)
        row, column = np.divmod(place[first], n)
        lengths.append(np.bincount(row, minlength=rows.stop - rows.start))
        columns.append(column.astype(np.int32))
        values.append(sums / np.float32(k2))
    return _Sparse(_starts(np.concatenate(lengths)), np.concatenate(columns), np.concatenate(values))


def _jaccard(seen: _Sparse, inverted: _Sparse, query: int, gallery: int) -> NDArray[np.float64]:
    """Jaccard distances `[g]` of the neighbourhood of a query and those of the gallery, each of which sums to 1."""
    mine = slice(*seen.start[query : query + 2])
    of, entry = inverted.entries(seen.column[mine])
    # A gallery crop that shares no neighbour with the query is in no list, and none of it is looked at.
    least = np.minimum(seen.value[mine][of], inverted.value[entry])
    shared = np.bincount(inverted.column[entry], weights=least, minlength=gallery).clip(max=1)
    distances: NDArray[np.float64] = 1 - shared / (2 - shared)
    return distances
