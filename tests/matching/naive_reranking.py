"""k-reciprocal re-ranking in its dense form, with sets and double loops, and query expansion as a sum."""

import math

import torch
from torch import Tensor


def rankings(distance: Tensor) -> list[list[int]]:
    """N(i, n): all crops by their distance from i; itself first, ties in their order."""
    rows = distance.tolist()
    return [sorted(range(len(row)), key=lambda j: (j != i, row[j], j)) for i, row in enumerate(rows)]


def mutual(order: list[list[int]], i: int, k: int) -> set[int]:
    """R(i, k): the k nearest that have i among their k nearest; i is the first of its own."""
    return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}


def joined(order: list[list[int]], i: int, k1: int) -> set[int]:
    """R*(i, k1): and R(j, k1 / 2) of each j of them, if more than 2/3 of it are in R(i, k1)."""
    near = mutual(order, i, k1)
    everyone = set(near)
    for j in near:
        theirs = mutual(order, j, round(k1 / 2))
        if len(theirs & near) * 3 > len(theirs) * 2:
            everyone |= theirs
    return everyone


def dense(distance: Tensor, original: Tensor, k1: int, k2: int, lam: float, near: Tensor | None = None) -> Tensor:
    """The result `[q, g]`, of distances `[n, n]` of queries and gallery together and those to the gallery `[q, g]`.

    `near` `[n, n]` are those that neighbours are weighted by, if these are others.
    """
    n, (q, g) = len(distance), original.shape
    distance, order = distance.double().clone(), rankings(distance)
    distance.fill_diagonal_(0.0)
    largest = distance.max(dim=1, keepdim=True).values
    scaled = (distance if near is None else near.double().clone()) / torch.where(largest > 0, largest, 1.0)
    scaled.fill_diagonal_(0.0)
    v = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in joined(order, i, k1):
            v[i, j] = math.exp(-scaled[i, j])
        v[i] /= v[i].sum()
    v = torch.stack([v[order[i][:k2]].mean(0) for i in range(n)])
    jaccard = torch.zeros(q, g, dtype=torch.float64)
    for i in range(q):
        for j in range(g):
            jaccard[i, j] = 1 - torch.minimum(v[i], v[q + j]).sum() / torch.maximum(v[i], v[q + j]).sum()
    return (1 - lam) * jaccard + lam * original.double() / torch.where(largest[:q] > 0, largest[:q], 1.0)


def expanded(to_gallery: Tensor, among: Tensor, index: Tensor, alpha: float, farthest: float) -> Tensor:
    """Weighted means `[q, g]` of the rows of a query and its neighbours, of distances `[q, g]` and `[g, g]`."""
    out = torch.zeros(to_gallery.shape, dtype=torch.float64)
    for i in range(len(out)):
        total = 1.0
        out[i] = to_gallery[i].double()
        for j in index[i].tolist():
            a = max(0.0, 1 - 2 * float(to_gallery[i, j]) / farthest) ** alpha
            out[i] += a * among[j].double()
            total += a
        out[i] /= total
    return out
