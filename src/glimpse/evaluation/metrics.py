"""CMC, AP and INP from ranks of positives, found by counting: no gallery is ever ranked, no q x g is ever held.

All three metrics need one thing only: for each positive of a query, how many gallery crops come before it. That is
one comparison of every gallery distance with the few distances of the positives. Where most of them are close, it is
less work to compare with the farthest alone, and to sort the crops up to there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.int64]
Values = NDArray[np.float64]

CMC_AT = (1, 3, 5, 10)
"""Ranks at which CMC is reported."""

_TILE = 1 << 20
"""Distances looked at together by `closest`, which bounds its scratch to a few MB."""
# What things cost, in units of comparing a crop with one positive: a comparison beside its crops, and, of another way,
# to gather from a crop of the gallery and to sort one of those up to the farthest positive. Measured from 16,000 crops
# (a sort costs 20 comparisons) to a million (40).
_CALL, _GATHER, _SORT = 20_000, 7, 40


def rank_positives(row: NDArray[np.float32], positives: Indices, ignored: Indices) -> Indices:
    """Ranks of a query's positives among the gallery crops that are not ignored, by counting.

    Ties are broken by gallery order, as a stable sort would.

    Args:
        row: distances `[g]` of one query; smaller is closer; none is NaN.
        positives: gallery rows `[p]` that show the same person, without repeats.
        ignored: gallery rows `[i]` that are left out, without repeats; none is a positive.

    Returns:
        Ranks `[p]`, ascending; the closest crop has rank 1.

    >>> rank_positives(np.float32([0.3, 0.1, 0.3, 0.2, 0.3]), np.array([2, 3]), np.array([1])).tolist()
    [1, 3]
    """
    positives = positives[np.lexsort((positives, row[positives]))]
    before = _count(row, positives)
    if len(ignored):
        far, left_out = row[positives][:, None], row[ignored][None, :]
        earlier = ignored[None, :] < positives[:, None]
        before -= ((left_out < far) | ((left_out == far) & earlier)).sum(axis=1)
    return before + 1


def _count(row: NDArray[np.float32], positives: Indices) -> Indices:
    """How many crops of the whole gallery come before each positive `[p]`; positives by distance, then gallery row."""
    one_by_one = len(positives) * (len(row) + _CALL)
    if one_by_one > _GATHER * len(row):
        near = row <= row[positives[-1]]
        if one_by_one > _GATHER * len(row) + _SORT * np.count_nonzero(near):
            return _count_sorted(row, positives, np.sort(row.compress(near)))
    # A tied crop comes before the positive if it is earlier in the gallery: `<=` on that side, `<` on the other.
    return np.array(
        [np.count_nonzero(row[:j] <= row[j]) + np.count_nonzero(row[j + 1 :] < row[j]) for j in positives.tolist()],
        dtype=np.int64,
    )


def _count_sorted(row: NDArray[np.float32], positives: Indices, near: NDArray[np.float32]) -> Indices:
    """The same from the sorted distances of all crops up to the farthest positive."""
    far = row[positives]
    before = near.searchsorted(far)
    tied = near.searchsorted(far, side="right") - before > 1
    if tied.any():
        # All crops as far as one of these positives, in the order of distance and gallery row, which theirs is too.
        crops = np.flatnonzero(np.isin(row, far[tied]))
        crops = crops[row[crops].argsort(kind="stable")]
        before[tied] += np.flatnonzero(np.isin(crops, positives[tied])) - row[crops].searchsorted(far[tied])
    return before


def _pairs(lists: Sequence[Indices]) -> Tensor:
    """(row, entry) of every entry of every list, `[2, m]`."""
    rows = np.repeat(np.arange(len(lists)), [len(entries) for entries in lists])
    columns = np.concatenate([*lists, np.empty(0, np.int64)]).astype(np.int64)
    return torch.from_numpy(np.stack([rows, columns]))


def closest(rows: Tensor, k: int, ignored: Sequence[Indices]) -> tuple[Indices, NDArray[np.float32]]:
    """The k closest gallery rows of each query that are not ignored, ties in gallery order.

    Args:
        rows: distances `[q, g]`.
        k: how many to keep.
        ignored: for each query, gallery rows that are left out, without repeats.

    Returns:
        Gallery rows `[q, k]` and their distances `[q, k]`; -1 and infinity where fewer than k crops are left.

    >>> index, distance = closest(torch.tensor([[0.2, 0.1, 0.2]]), 2, [np.array([1])])
    >>> index.tolist()
    [[0, 2]]
    """
    q, g = rows.shape
    index = np.full((q, k), -1, np.int64)
    distance = np.full((q, k), np.inf, np.float32)
    step = max(1, _TILE // max(1, g))
    for start in range(0, q if min(g, k) else 0, step):
        left_out = _pairs(ignored[start : start + step]).to(rows.device)
        tile = rows[start : start + step].clone()
        tile[left_out[0], left_out[1]] = torch.inf
        limit = tile.topk(min(k, g), dim=1, largest=False).values[:, -1:]
        # All crops up to the k-th distance, so that ties at the edge are settled by gallery order, not by `topk`.
        kept = tile <= limit
        kept[left_out[0], left_out[1]] = False
        row, column = kept.nonzero(as_tuple=True)
        values = tile[row, column]
        order = values.argsort(stable=True)
        order = order[row[order].argsort(stable=True)]
        r, c, v = (x[order].cpu().numpy() for x in (row, column, values))
        place = np.arange(len(r)) - np.searchsorted(r, r)
        best = place < k
        index[start + r[best], place[best]] = c[best]
        distance[start + r[best], place[best]] = v[best]
    return index, distance


@dataclass(frozen=True, slots=True)
class Scores:
    """What the ranks of one query's positives amount to.

    Attributes:
        first: rank of the closest positive; CMC at k is 1 where it is at most k.
        ap: average precision, plain: mean over hits of the precision at the hit (torchreid's, fast-reid's).
        ap_trapezoid: average precision, trapezoid: mean over hits of the average of the precision at the hit and just
            before it, the latter being 1 at rank 1 (the Market-1501 evaluation code's; lower than plain).
        inp: inverse negative penalty: positives divided by the rank of the farthest (Ye et al. 2021, eq. 9).
    """

    first: int
    ap: float
    ap_trapezoid: float
    inp: float


def score(ranks: Indices) -> Scores:
    """Scores of one query from the ranks `[p]` of its positives, ascending, p >= 1.

    Positives at ranks 1 and 3: precisions at the hits are 1 and 2/3, just before them 1 and 1/2.

    >>> s = score(np.array([1, 3]))
    >>> s.first, round(s.ap, 4), round(s.ap_trapezoid, 4), round(s.inp, 4)
    (1, 0.8333, 0.7917, 0.6667)
    """
    count = len(ranks)
    hits = np.arange(1, count + 1)
    at = float((hits / ranks).sum())
    just_before = float(((hits - 1) / np.maximum(ranks - 1, 1)).sum()) + float(ranks[0] == 1)
    return Scores(
        first=int(ranks[0]),
        ap=at / count,
        ap_trapezoid=(at + just_before) / (2 * count),
        inp=float(count / ranks[-1]),
    )
