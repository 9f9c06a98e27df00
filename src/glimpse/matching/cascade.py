"""Rank all by a coarse distance, re-rank the best by a fine one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glimpse.embedding import Embedding
from glimpse.errors import ConfigError
from glimpse.matching.distance import Distance, Explanation
from glimpse.matching.kernels import WORKSPACE_BYTES, Bounded, farthest, prepare_for
from glimpse.matching.operands import check_index, slices


@dataclass(frozen=True)
class Cascade:
    """The n gallery crops that are best by a coarse distance, ordered by a fine one; then all others by the coarse.

    Two blocks, never mixed (QPM section III-D with n = 30, Pirt with n = 100). One number says both: `fine` for the n
    best, `fine.farthest + coarse` for the others, so that ascending order is the order of the cascade. Distances from
    `fine.farthest` up therefore tell the order only, and in that block coarse distances closer than 5e-7 tie.

    A row depends on the whole gallery: `matrix` and `candidates` want all of it at once (`distance_rows` and `top_k`
    stream it all the same). Ties go to the crop that comes first in the gallery, at the edge of the shortlist as well.
    A pair whose coarse distance is within rounding (1e-6) of that edge may fall on either side of it when the rows are
    computed in other blocks.

    Args:
        coarse: ranks everything; its distances are not negative.
        fine: re-ranks the best.
        n: how many it re-ranks, at least 1; with n >= gallery size the order is that of `fine` alone.

    Raises:
        ConfigError: n is below 1.
    """

    coarse: Distance
    fine: Bounded
    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError("n", f"{self.n} crops cannot be re-ranked", "re-rank at least one")

    @property
    def whole_gallery(self) -> bool:
        """Rows cannot be computed for a part of the gallery."""
        return True

    @property
    def farthest(self) -> float:
        """No distance is larger: the sum of both distances' bounds.

        Raises:
            ConfigError: the coarse distance does not know its bound.
        """
        return self.fine.farthest + farthest(self.coarse)

    def prepare(self, embedding: Embedding) -> Embedding:
        """What both distances prepare, side by side."""
        return prepare_for((self.coarse, self.fine), embedding)

    def matrix(self, query: Embedding, gallery: Embedding) -> Tensor:
        """The order of the whole gallery for each query, as numbers `[q, g]`; errors are those of the two distances."""
        query, gallery = self.prepare(query), self.prepare(gallery)
        return self.refine(self.coarse.matrix(query, gallery), query, gallery)

    def refine(self, coarse: Tensor, query: Embedding, gallery: Embedding) -> Tensor:
        """Rows of `matrix` from the coarse distances `[q, g]` to the whole gallery, which are overwritten."""
        _, index = smallest(coarse, self.n)
        fine = self.fine.candidates(query, gallery, index).clamp(max=self.fine.farthest)
        return coarse.add_(self.fine.farthest).scatter_(1, index, fine)

    def candidates(self, query: Embedding, gallery: Embedding, index: Tensor) -> Tensor:
        """The values of `matrix` at gallery rows `index[i]` (`[q, n]` int64) of query i, `[q, n]`.

        `gallery` is the whole gallery, and the coarse distance to all of it is computed, some queries at a time.
        """
        index = check_index(query, gallery, index)
        query, gallery = self.prepare(query), self.prepare(gallery)
        step = max(1, WORKSPACE_BYTES // (4 * 4 * max(1, len(gallery))))
        rows = [self.matrix(query[part], gallery).gather(1, index[part]) for part in slices(len(query), step)]
        return torch.cat(rows) if rows else torch.empty(index.shape, device=index.device)

    def explain(self, query: Embedding, gallery: Embedding) -> Explanation:
        """The fine distance of two crops, part by part: one pair has no place in the ranking yet."""
        return self.fine.explain(query, gallery)

    def shortlist_vectors(self, embedding: Embedding) -> Tensor:
        """Those of the coarse distance, `[n, d]`."""
        return self.coarse.shortlist_vectors(embedding)


def smallest(distance: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row of `[q, g]`, ascending, ties by column: values and columns, each `[q, min(k, g)]`.

    >>> smallest(torch.tensor([[2.0, 1.0, 1.0, 0.5]]), 2)
    (tensor([[0.5000, 1.0000]]), tensor([[3, 1]]))
    """
    k = min(k, distance.shape[1])
    if k == 0 or not len(distance):
        return distance[:, :k], torch.empty(len(distance), k, dtype=torch.int64, device=distance.device)
    values, index = distance.topk(k, dim=1, largest=False)
    # topk picks any of those that tie at the edge. Where there are more of them than places, take the first columns.
    edge = values[:, -1:]
    tied = ((distance <= edge).sum(1) > k).nonzero()[:, 0]
    if len(tied):
        rows, edge = distance[tied], edge[tied]
        below, at = rows < edge, rows == edge
        places = k - below.sum(1, keepdim=True)
        chosen = below | (at & (at.cumsum(1) <= places))
        index[tied] = chosen.nonzero()[:, 1].view(len(tied), k)
    index = index.sort(dim=1).values
    values, order = distance.gather(1, index).sort(dim=1, stable=True)
    return values, index.gather(1, order)
