"""Distances as double loops over float64 lists, written from the equations, and embeddings to try them on."""

import math

import torch
from hypothesis import strategies as st
from torch import Tensor

from glimpse.embedding import Embedding
from glimpse.matching import EPS


def cosine(a: Tensor, b: Tensor) -> float:
    inner = sum(x * y for x, y in zip(a.tolist(), b.tolist()))
    lengths = math.sqrt(sum(x * x for x in a.tolist())) * math.sqrt(sum(y * y for y in b.tolist()))
    return inner / lengths if lengths > 0 else 0.0


def part(q: Embedding, g: Embedding, *, normalise=True, combine="product", weighted=True) -> Tensor:
    """QPM eq. 2 (normalised), SGSFA eq. 7 with the weights of both crops (not normalised), Pirt (square root)."""
    k = q["parts"].shape[1]
    out = torch.zeros(len(q), len(g))
    for i in range(len(q)):
        for j in range(len(g)):
            top = bottom = 0.0
            for part in range(k):
                a = float(q["weights"][i, part]) * float(g["weights"][j, part]) if weighted else 1.0
                a = math.sqrt(a) if combine == "sqrt_product" else a
                top += a * (1.0 - cosine(q["parts"][i, part], g["parts"][j, part]))
                bottom += a
            far = 2.0 if normalise else 2.0 * k
            out[i, j] = far if bottom <= EPS else top / bottom if normalise else top
    return out


def single(q: Embedding, g: Embedding) -> Tensor:
    return torch.tensor([[1.0 - cosine(a, b) for b in g["vector"]] for a in q["vector"]]).view(len(q), len(g))


def pair_global(q: Embedding, g: Embedding) -> Tensor:
    """QPM eq. 9 (pair weights), 10 and 11 (vectors of the pair), then 1 - cosine."""
    out = torch.zeros(len(q), len(g))
    for i in range(len(q)):
        for j in range(len(g)):
            a = (q["weights"][i] * g["weights"][j]).double()
            if float(a.sum()) <= EPS:
                out[i, j] = 2.0
                continue
            a = a / a.sum()
            h_q = sum(a[k] * q["globals"][i, k].double() for k in range(len(a)))
            h_g = sum(a[k] * g["globals"][j, k].double() for k in range(len(a)))
            out[i, j] = 1.0 - cosine(h_q, h_g)
    return out


def stable_order(row: list[float]) -> list[int]:
    return sorted(range(len(row)), key=lambda j: (row[j], j))


def cascade_order(coarse: Tensor, fine: Tensor, n: int) -> list[list[int]]:
    """The n best by coarse in the order of fine, then the others in the order of coarse; ties by gallery order."""
    orders = []
    for c, f in zip(coarse.tolist(), fine.tolist()):
        order = stable_order(c)
        best = sorted(order[:n])
        orders.append(sorted(best, key=lambda j: (f[j], j)) + order[n:])
    return orders


def crops(n: int, k: int = 4, d: int = 6, seed: int = 0, made_by: str = "") -> Embedding:
    """Random crops that look like people: parts share a common direction, some parts hidden, some vectors zero."""
    random = torch.Generator().manual_seed(seed)
    parts = torch.randn(n, k, d, generator=random) + 0.7
    glob = torch.randn(n, k, d, generator=random) + 0.7
    parts[torch.rand(n, k, generator=random) < 0.05] = 0.0
    weights = torch.rand(n, k, generator=random) * 0.99 + 0.01
    weights[torch.rand(n, k, generator=random) < 0.25] = 0.0
    if n > 2:
        weights[n - 1] = 0.0
    vector = torch.randn(n, d, generator=random)
    return Embedding({"parts": parts, "weights": weights, "globals": glob, "vector": vector}, made_by)


@st.composite
def pairs(draw, max_rows: int = 5) -> tuple[Embedding, Embedding]:
    """A query and a gallery of the same kind; weights may be binary, all zero or of any size."""
    k, d = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    seed = draw(st.integers(0, 2**31))
    q = crops(draw(st.integers(1, max_rows)), k, d, seed)
    g = crops(draw(st.integers(1, max_rows)), k, d, seed + 1)
    kind = draw(st.sampled_from(["any", "binary", "ones", "zero query"]))
    if kind == "binary":
        q, g = (e.with_tensors(weights=(e["weights"] > 0.5).float()) for e in (q, g))
    elif kind == "ones":
        q, g = (e.with_tensors(weights=torch.ones_like(e["weights"])) for e in (q, g))
    elif kind == "zero query":
        q = q.with_tensors(weights=torch.zeros_like(q["weights"]))
    return q, g
