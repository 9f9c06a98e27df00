"""The kernels that every method's distance is made of, and their weighted sum.

All of them compare crops only where both can be seen. `cos` of a zero vector with anything is 0, so its distance is 1.
The classes work on `Embedding`s and are for matching; the functions work on tensors, can be differentiated and are for
training losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, EmbeddingError
from glimpse.matching.distance import Distance, Explanation, PartMatch
from glimpse.matching.operands import (
    REMEDY,
    called,
    check_index,
    fitting,
    in_float32,
    one_row,
    only,
    slices,
    tensor_of,
    weights_of,
)

EPS = 1e-6
"""A pair whose pair weights sum to no more than this shares no part."""

WORKSPACE_BYTES = 64 << 20
"""What a kernel may take for its own temporaries, besides those of the size of its result."""

_TINY = 1e-30

# What a part distance holds of a block of pairs: little enough for a processor's caches, large enough for a product.
_BLOCK_BYTES = 16 << 20

Combine = Literal["product", "sqrt_product"]


# ---------------------------------------------------------------- plain functions: differentiable, float32


def unit_vectors(x: Tensor) -> Tensor:
    """Vectors `[..., d]` scaled to length 1, float32; zero vectors stay zero and get zero gradient."""
    x = x.float()
    square = x.square().sum(-1, keepdim=True)
    there = square > _TINY
    return x * torch.where(there, torch.where(there, square, 1.0).rsqrt(), 0.0)


def cosine_distance(query: Tensor, gallery: Tensor) -> Tensor:
    """1 - cosine of all pairs of `[q, d]` and `[g, d]`, as `[q, g]` float32 in [0, 2]; differentiable.

    >>> cosine_distance(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]))
    tensor([[0., 1., 2.]])
    """
    with in_float32(query):
        return (1.0 - unit_vectors(query) @ unit_vectors(gallery).T).clamp(0.0, 2.0)


def part_distance(
    q_parts: Tensor,
    q_weights: Tensor,
    g_parts: Tensor,
    g_weights: Tensor,
    *,
    normalise: bool = True,
    combine: Combine = "product",
) -> Tensor:
    """Weighted part distance of all pairs, `[q, g]` float32; differentiable in parts and weights (QPM eq. 2).

    `sum_k a_k d_k / sum_k a_k` with `d_k = 1 - cos` of part k and `a_k = w_k^q w_k^g`, or its square root for
    `combine="sqrt_product"`. No `[q, g, k]` tensor is made.

    Args:
        q_parts: `[q, k, d]`.
        q_weights: `[q, k]` in [0, 1].
        g_parts: `[g, k, d]`.
        g_weights: `[g, k]` in [0, 1].
        normalise: whether to divide by the sum of the pair weights (in [0, 2]) or not (in [0, 2 k]).
        combine: how the weights of two crops make the weight of the pair.

    A pair without a shared part is as far as can be: 2, or 2 k if not normalised; it has zero gradient.

    >>> parts = torch.eye(2)[None]                                  # one crop, two parts
    >>> other = torch.tensor([[[1.0, 0.0], [0.0, -1.0]]])           # same first part, opposite second part
    >>> one = torch.ones(1, 2)
    >>> part_distance(parts, one, other, one), part_distance(parts, torch.tensor([[1.0, 0.0]]), other, one)
    (tensor([[1.]]), tensor([[0.]]))
    """
    with in_float32(q_parts):
        q_pair, g_pair = _pair_weights(q_weights, combine), _pair_weights(g_weights, combine)
        q_scaled = (q_pair[..., None] * unit_vectors(q_parts)).flatten(1)
        g_scaled = (g_pair[..., None] * unit_vectors(g_parts)).flatten(1)
        return _part_distance(q_scaled @ g_scaled.T, q_pair @ g_pair.T, q_parts.shape[1], normalise)


def pair_global_vectors(
    q_globals: Tensor, q_weights: Tensor, g_globals: Tensor, g_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Global vectors of both crops of all pairs, from the parts they share (QPM eq. 9-11); differentiable.

    `h^q = sum_k a_k g_k^q` and `h^g = sum_k a_k g_k^g`, with `a_k = w_k^q w_k^g / sum_k w_k^q w_k^g`.

    Args:
        q_globals: `[q, k, d]`.
        q_weights: `[q, k]` in [0, 1].
        g_globals: `[g, k, d]`.
        g_weights: `[g, k]` in [0, 1].

    Returns:
        `(h^q, h^g)`, each `[q, g, d]` float32; the vectors of a pair that shares no part are shorter than the
        normaliser would make them, down to zero.

    >>> q = torch.eye(2)[None]
    >>> h_q, h_g = pair_global_vectors(q, torch.tensor([[1.0, 0.0]]), 2 * q, torch.ones(1, 2))
    >>> h_q, h_g
    (tensor([[[1., 0.]]]), tensor([[[2., 0.]]]))
    """
    with in_float32(q_globals):
        pair = q_weights.float()[:, None] * g_weights.float()[None]  # [q, g, k]
        pair = pair / pair.sum(-1, keepdim=True).clamp(min=EPS)
        h_q = pair @ q_globals.float()  # [q, g, k] @ [q, k, d]
        h_g = (pair.transpose(0, 1) @ g_globals.float()).transpose(0, 1)
        return h_q, h_g


def pair_global_distance(q_globals: Tensor, q_weights: Tensor, g_globals: Tensor, g_weights: Tensor) -> Tensor:
    """1 - cosine of the vectors of `pair_global_vectors`, `[q, g]` float32 in [0, 2]; differentiable (QPM AGFE).

    It holds `[q, g, d]`: for pairs of a batch, not for a gallery. A pair that shares no part is at 2.
    """
    with in_float32(q_globals):
        h_q, h_g = pair_global_vectors(q_globals, q_weights, g_globals, g_weights)
        shared = q_weights.float() @ g_weights.float().T > EPS
        cosine = (unit_vectors(h_q) * unit_vectors(h_g)).sum(-1)
        return torch.where(shared, 1.0 - cosine, 2.0).clamp(0.0, 2.0)


# ---------------------------------------------------------------- kernels


@runtime_checkable
class Bounded(Distance, Protocol):
    """A distance that knows its largest value."""

    @property
    def farthest(self) -> float:
        """No distance is larger."""
        ...


def farthest(distance: Distance) -> float:
    """The largest value of a distance.

    Raises:
        ConfigError: it does not know.
    """
    if not isinstance(distance, Bounded):
        raise ConfigError(type(distance).__name__, "does not know its largest value", "give it a `farthest`")
    return distance.farthest


@dataclass(frozen=True)
class PartDistance:
    """Distance of parts, weighted by how well both crops show them (PGFA eq. 8, SGSFA eq. 7, QPM eq. 2, Pirt).

    `sum_k a_k d_k / sum_k a_k` with `d_k = 1 - cos` of part k in [0, 2], and `a_k = w_k^q w_k^g` (or its square root).
    Two matrix products: one of width k d on weight-scaled unit parts, one of width k on the weights. A vector that is
    always compared (the pose-guided global vector of PGFA) is one more part of weight 1.

    A pair that shares no part (`sum a <= EPS`) is at `farthest`.

    With `compute=torch.bfloat16`, `matrix` multiplies in bfloat16 (about four times faster where the processor can) and
    its results, normalised, are within 0.006 of those in float32; they are coarse enough to make ties, so use it to
    shortlist. `candidates` adds up in float32. A prepared embedding stored as float16 (on both sides) changes results
    by no more than 0.002 for weights above 2^-9, as bfloat16 by no more than 0.016. Not normalised, the bounds are
    times k.

    Args:
        parts: name of the tensor `[n, k, d]`.
        weights: name of the tensor `[n, k]` in [0, 1]; `None` compares all parts with weight 1.
        normalise: whether to divide by the sum of the pair weights.
        combine: `product`, or `sqrt_product` for its square root (Pirt).
        names: names of the parts; `part 1`, `part 2`, ... if not given.
        compute: what `matrix` multiplies in.

    Raises:
        ConfigError: `combine` or `compute` is none of these.

    >>> from glimpse.embedding import Embedding
    >>> crop = Embedding({"parts": torch.eye(2)[None], "weights": torch.tensor([[1.0, 0.5]])})
    >>> other = Embedding({"parts": torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), "weights": torch.ones(1, 2)})
    >>> distance = PartDistance(names=("upper", "lower"))
    >>> round(distance.matrix(crop, other).item(), 4)
    0.3333
    >>> [(part.name, part.distance, round(part.share, 2)) for part in distance.explain(crop, other).parts]
    [('upper', 0.0, 0.67), ('lower', 1.0, 0.33)]
    """

    parts: str = "parts"
    weights: str | None = "weights"
    normalise: bool = True
    combine: Combine = "product"
    names: tuple[str, ...] | None = None
    compute: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.combine not in ("product", "sqrt_product"):
            raise ConfigError("combine", f"'{self.combine}' is unknown", "use 'product' or 'sqrt_product'")
        if self.compute not in (torch.float32, torch.bfloat16):
            raise ConfigError("compute", f"{self.compute} is not possible", "use torch.float32 or torch.bfloat16")

    @property
    def farthest(self) -> float:
        """No distance is larger: 2 if normalised, else 2 k.

        Raises:
            ConfigError: it is not normalised and `names` are not given, so that k is not known.
        """
        if self.normalise:
            return 2.0
        if self.names is None:
            raise ConfigError("names", "the number of parts is not known", "give the part distance the parts' names")
        return 2.0 * len(self.names)

    @property
    def _unit(self) -> str:
        if self.weights is None:
            return f"{self.parts}.unit"
        return f"{self.parts}.unit.{_pair_name(self.weights, self.combine)}"

    @property
    def _pair(self) -> str | None:
        return None if self.weights is None else f"{_pair_name(self.weights, self.combine)}.pair"

    def prepare(self, embedding: Embedding) -> Embedding:
        """Unit parts, already scaled by their weights, and the weights: what this distance reads and nothing else.

        Raises:
            EmbeddingError: a tensor is missing, of the wrong shape or not finite, or a weight is outside [0, 1].
        """
        keep = (self._unit, self._pair) if self._pair else (self._unit,)
        ready = self._unit in embedding.names
        parts = embedding[self._unit] if ready else tensor_of(embedding, self.parts, 3, "[n, k, d]")
        if self.names is not None and len(self.names) != parts.shape[1]:
            raise EmbeddingError(
                called(embedding), f"'{self.parts}' has {parts.shape[1]} parts, the distance {len(self.names)}", REMEDY
            )
        if ready:
            return only(embedding, keep)
        scaled = unit_vectors(parts)
        tensors = {}
        if self.weights is not None and self._pair is not None:
            pair = _pair_weights(weights_of(embedding, self.weights, self.parts), self.combine)
            scaled *= pair[..., None]
            tensors[self._pair] = pair
        return Embedding({self._unit: scaled.to(self.compute), **tensors}, embedding.made_by)

    def matrix(self, query: Embedding, gallery: Embedding) -> Tensor:
        """Distances of all pairs, `[q, g]`.

        Raises:
            EmbeddingError: an embedding has not what the distance reads, or the two do not fit each other.
        """
        query, gallery = fitting(self, query, gallery)
        q_scaled, g_scaled = query[self._unit], gallery[self._unit]  # [q, k, d], [g, k, d]
        k = q_scaled.shape[1]
        q_flat = q_scaled.flatten(1).to(self.compute)
        distances = q_flat.new_empty(len(query), len(gallery), dtype=torch.float32)
        # Products, sums and what is made of them, for some gallery crops at a time.
        step = max(1, _BLOCK_BYTES // (3 * 4 * max(1, len(query))))
        for rows in slices(len(gallery), step):
            products = _product(q_flat, g_scaled[rows].flatten(1), self.compute)
            if self._pair is None:
                sums = products.new_full((), k)
            else:
                sums = _product(query[self._pair], gallery[self._pair][rows], torch.float32)
            distances[:, rows] = _part_distance(products, sums, k, self.normalise)
        return distances

    def candidates(self, query: Embedding, gallery: Embedding, index: Tensor) -> Tensor:
        """Distances of query i and gallery rows `index[i]` (`[q, n]` int64), `[q, n]`.

        Raises:
            EmbeddingError: as `matrix`; or `index` is not `[q, n]` or points outside the gallery.
        """
        query, gallery = fitting(self, query, gallery)
        index = check_index(query, gallery, index)
        q_scaled, g_scaled = query[self._unit], gallery[self._unit].flatten(1)
        k = q_scaled.shape[1]

        def block(rows: slice) -> Tensor:
            picked = index[rows]
            products = _dot(g_scaled[picked], q_scaled[rows].flatten(1))
            if self._pair is None:
                sums = products.new_full((), k)
            else:
                sums = _dot(gallery[self._pair][picked], query[self._pair][rows])
            return _part_distance(products, sums, k, self.normalise)

        return _by_rows(block, index, g_scaled.shape[1])

    def explain(self, query: Embedding, gallery: Embedding) -> Explanation:
        """The distance of two crops, part by part; the share of part k is `a_k / sum a`.

        Raises:
            EmbeddingError: as `matrix`; or one of them has not exactly one row.
        """
        one_row(query, gallery)
        query, gallery = fitting(self, query, gallery)
        q_scaled, g_scaled = query[self._unit][0].float(), gallery[self._unit][0].float()  # [k, d]
        ones = q_scaled.new_ones(len(q_scaled))
        q_pair, g_pair = (ones, ones) if self._pair is None else (query[self._pair][0], gallery[self._pair][0])
        pair = q_pair.float() * g_pair.float()
        total = float(pair.sum())
        matches = []
        for k, (a, product) in enumerate(zip(pair.tolist(), (q_scaled * g_scaled).sum(-1).tolist())):
            compared = a > EPS and total > EPS
            weights = float(q_pair[k]), float(g_pair[k])
            if self.combine == "sqrt_product":
                weights = weights[0] ** 2, weights[1] ** 2
            matches.append(
                PartMatch(
                    name=self.names[k] if self.names else f"part {k + 1}",
                    distance=min(max(1.0 - product / a, 0.0), 2.0) if compared else None,
                    query_weight=weights[0],
                    gallery_weight=weights[1],
                    share=a / total if compared else 0.0,
                )
            )
        return Explanation(float(self.matrix(query, gallery)), tuple(_shares_to_one(matches)))

    def ratio_vectors(self, embedding: Embedding) -> tuple[Tensor, Tensor]:
        """`(a, b)`, `[n, k d]` and `[n, k]` float32: unit parts times their weights, and the weights.

        The distance of a pair is `1 - <a_q, a_g> / <b_q, b_g>`, or `<b_q, b_g> - <a_q, a_g>` if not normalised. A pair
        is nearer than `1 - t` where `<a_q, a_g> - t <b_q, b_g>`, one inner product, is positive: so a vector index can
        serve a distance whose denominator depends on the pair.
        """
        prepared = self.prepare(embedding)
        scaled = prepared[self._unit].float()
        pair = scaled.new_ones(scaled.shape[:2]) if self._pair is None else prepared[self._pair].float()
        return scaled.flatten(1), pair

    def shortlist_vectors(self, embedding: Embedding) -> Tensor:
        """Unit vectors `[n, k d]` float32: unit parts times the square root of their weights, one after the other.

        Their inner product is `sum_k sqrt(w_k^q w_k^g) cos_k / sqrt(sum w^q sum w^g)`. For crops of equal visibility
        that is the order of the normalised distance. Otherwise it is not: the vector of a gallery crop cannot know
        which of its parts a query shows, so crops that show *other* parts besides the shared ones come out farther than
        by the distance. Shortlist more than is needed, and re-rank by the distance.
        """
        prepared = self.prepare(embedding)
        scaled = prepared[self._unit].float()
        if self._pair is not None:
            pair = prepared[self._pair].float()
            there = pair > EPS
            scale = torch.where(there, pair.clamp(min=EPS).rsqrt(), 0.0)  # w / sqrt(w), or sqrt(w) as it is
            if self.combine == "product":
                scaled = scaled * scale[..., None]
        return unit_vectors(scaled.flatten(1))


@dataclass(frozen=True)
class GlobalDistance:
    """1 - cosine of one vector per crop, in [0, 2].

    A prepared embedding stored as float16 (on both sides) changes results by no more than 0.001, as bfloat16 by no
    more than 0.008.

    Args:
        vectors: name of the tensor `[n, d]`.
        name: what explanations call it.
    """

    vectors: str = "globals"
    name: str = "global"

    @property
    def farthest(self) -> float:
        """No distance is larger: 2."""
        return 2.0

    @property
    def _unit(self) -> str:
        return f"{self.vectors}.unit"

    def prepare(self, embedding: Embedding) -> Embedding:
        """The vectors at length 1, and nothing else.

        Raises:
            EmbeddingError: the tensor is missing, of the wrong shape or not finite.
        """
        if self._unit in embedding.names:
            return only(embedding, (self._unit,))
        return Embedding({self._unit: unit_vectors(tensor_of(embedding, self.vectors, 2, "[n, d]"))}, embedding.made_by)

    def matrix(self, query: Embedding, gallery: Embedding) -> Tensor:
        """Distances of all pairs, `[q, g]`.

        Raises:
            EmbeddingError: an embedding has not what the distance reads, or the two do not fit each other.
        """
        query, gallery = fitting(self, query, gallery)
        return (1.0 - _product(query[self._unit], gallery[self._unit], torch.float32)).clamp_(0.0, 2.0)

    def candidates(self, query: Embedding, gallery: Embedding, index: Tensor) -> Tensor:
        """Distances of query i and gallery rows `index[i]` (`[q, n]` int64), `[q, n]`.

        Raises:
            EmbeddingError: as `matrix`; or `index` is not `[q, n]` or points outside the gallery.
        """
        query, gallery = fitting(self, query, gallery)
        index = check_index(query, gallery, index)
        q_unit, g_unit = query[self._unit], gallery[self._unit]
        block = lambda rows: (1.0 - _dot(g_unit[index[rows]], q_unit[rows])).clamp_(0.0, 2.0)  # noqa: E731
        return _by_rows(block, index, g_unit.shape[1])

    def explain(self, query: Embedding, gallery: Embedding) -> Explanation:
        """The distance of two crops as one part of share 1.

        Raises:
            EmbeddingError: as `matrix`; or one of them has not exactly one row.
        """
        one_row(query, gallery)
        distance = float(self.matrix(query, gallery))
        return Explanation(distance, (PartMatch(self.name, distance, 1.0, 1.0, 1.0),))

    def shortlist_vectors(self, embedding: Embedding) -> Tensor:
        """Unit vectors `[n, d]` float32; their inner product gives exactly the order of the distance."""
        return self.prepare(embedding)[self._unit].float()


@dataclass(frozen=True)
class PairGlobalDistance:
    """1 - cosine of global vectors that hold only what both crops of a pair show, in [0, 2] (QPM's AGFE, eq. 9-11).

    `h^q = sum_k a_k g_k^q`, `h^g = sum_k a_k g_k^g`, `a_k = w_k^q w_k^g` (its normaliser cancels in the cosine). A pair
    that shares no part (`sum a <= EPS`) is at 2.

    The vectors differ from pair to pair. `matrix` does not make them: with `W_kl = w_k w_l`,
    `<h^q, h^g> = sum_kl (W_kl^q g_k^q) . (W_kl^g g_l^g)` is one matrix product of width k^2 d, and both norms are
    matrix products of width k^2 on Gram matrices, done in blocks within `WORKSPACE_BYTES`. It costs k times a part
    distance; `candidates` makes the vectors and costs 5 k d operations a pair, which is what a cascade uses.

    Where the parts of a crop cancel out in `h`, digits are lost with them: results are good to 1e-5 as long as
    `|h| >= 0.1 sum_k a_k |g_k|`.

    Args:
        parts: name of the tensor `[n, k, d]`.
        weights: name of the tensor `[n, k]` in [0, 1].
        name: what explanations call it.
    """

    parts: str = "globals"
    weights: str = "weights"
    name: str = "global"

    @property
    def farthest(self) -> float:
        """No distance is larger: 2."""
        return 2.0

    @property
    def _scaled(self) -> str:
        return f"{self.parts}.scaled"

    @property
    def _pair(self) -> str:
        return f"{_pair_name(self.weights, 'product')}.pair"

    def prepare(self, embedding: Embedding) -> Embedding:
        """The vectors, scaled per crop to a mean length of 1 (which cancels in the cosine), and the weights.

        Raises:
            EmbeddingError: a tensor is missing, of the wrong shape or not finite, or a weight is outside [0, 1].
        """
        keep = (self._scaled, self._pair)
        if self._scaled in embedding.names:
            return only(embedding, keep)
        parts = tensor_of(embedding, self.parts, 3, "[n, k, d]")
        weights = weights_of(embedding, self.weights, self.parts)
        scaled = unit_vectors(parts.flatten(1)).view(parts.shape) * math.sqrt(max(parts.shape[1], 1))
        return Embedding({self._scaled: scaled, self._pair: _pair_weights(weights, "product")}, embedding.made_by)

    def matrix(self, query: Embedding, gallery: Embedding) -> Tensor:
        """Distances of all pairs, `[q, g]`.

        Raises:
            EmbeddingError: an embedding has not what the distance reads, or the two do not fit each other.
        """
        query, gallery = fitting(self, query, gallery)
        k, d = query[self._scaled].shape[1:]
        out = torch.empty(len(query), len(gallery), device=query.device)
        step = max(1, WORKSPACE_BYTES // (3 * 4 * k * k * d))
        with in_float32(out):
            for g_rows in slices(len(gallery), step):
                g_side = self._expand(gallery[g_rows], swap=True)
                for q_rows in slices(len(query), step):
                    q_side = self._expand(query[q_rows], swap=False)
                    out[q_rows, g_rows] = self._from_products(*(a @ b.T for a, b in zip(q_side, g_side, strict=True)))
        return out

    def _expand(self, embedding: Embedding, *, swap: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows whose products with the other side's are `<h^q, h^g>`, `|h^q|^2`, `|h^g|^2` and `sum_k a_k`."""
        g, w = embedding[self._scaled].float(), embedding[self._pair].float()  # [n, k, d], [n, k]
        pairs = w[:, :, None] * w[:, None, :]  # [n, k, l]
        wide = pairs[..., None] * (g[:, None, :] if swap else g[:, :, None])  # [n, k, l, d]
        gram = pairs * (g @ g.transpose(1, 2))
        mine, other = gram.flatten(1), pairs.flatten(1)
        norms = (other, mine) if swap else (mine, other)
        return wide.flatten(1), *norms, w

    @staticmethod
    def _from_products(inner: Tensor, q_square: Tensor, g_square: Tensor, sums: Tensor) -> Tensor:
        # Divide one after the other: the product of both squares can leave float32's range.
        there = (q_square > _TINY) & (g_square > _TINY)
        cosine = inner * q_square.clamp(min=_TINY).rsqrt() * g_square.clamp(min=_TINY).rsqrt()
        distance = torch.where(there, 1.0 - cosine, 1.0).clamp_(0.0, 2.0)
        return distance.masked_fill_(sums <= EPS, 2.0)

    def candidates(self, query: Embedding, gallery: Embedding, index: Tensor) -> Tensor:
        """Distances of query i and gallery rows `index[i]` (`[q, n]` int64), `[q, n]`.

        Raises:
            EmbeddingError: as `matrix`; or `index` is not `[q, n]` or points outside the gallery.
        """
        query, gallery = fitting(self, query, gallery)
        index = check_index(query, gallery, index)
        k, d = query[self._scaled].shape[1:]

        def block(rows: slice) -> Tensor:
            picked = index[rows]
            q, g = query[self._scaled][rows].float(), gallery[self._scaled][picked].float()  # [b, k, d], [b, n, k, d]
            pair = query[self._pair][rows].float()[:, None] * gallery[self._pair][picked].float()  # [b, n, k]
            h_q = pair @ q  # [b, n, d]
            h_g = (pair[:, :, None] @ g)[:, :, 0]
            return self._from_products((h_q * h_g).sum(-1), h_q.square().sum(-1), h_g.square().sum(-1), pair.sum(-1))

        with in_float32(index):
            return _by_rows(block, index, (k + 2) * d)

    def explain(self, query: Embedding, gallery: Embedding) -> Explanation:
        """The distance of two crops as one part; its weight in a crop is the mean weight of the crop's parts.

        Raises:
            EmbeddingError: as `matrix`; or one of them has not exactly one row.
        """
        one_row(query, gallery)
        query, gallery = fitting(self, query, gallery)
        distance = float(self.matrix(query, gallery))
        q_pair, g_pair = query[self._pair].float(), gallery[self._pair].float()
        shared = float((q_pair * g_pair).sum()) > EPS
        match = PartMatch(
            self.name, distance if shared else None, float(q_pair.mean()), float(g_pair.mean()), 1.0 if shared else 0.0
        )
        return Explanation(distance, (match,))

    def shortlist_vectors(self, embedding: Embedding) -> Tensor:
        """Unit vectors `[n, d]` float32 of `sum_k w_k g_k`: each crop weighted by its own weights (QPM eq. 4-5).

        It gives the order of the distance where the other crop shows all parts equally well.
        """
        prepared = self.prepare(embedding)
        return unit_vectors((prepared[self._pair].float()[:, None] @ prepared[self._scaled].float())[:, 0])


@dataclass(frozen=True)
class MixedDistance:
    """Weighted sum of distances (QPM eq. 15: 0.6 of the part distance and 0.4 of the global one).

    Args:
        terms: pairs of weight (positive) and distance.

    Raises:
        ConfigError: there is no term, or a weight is not positive.

    >>> qpm = MixedDistance(((0.6, PartDistance()), (0.4, PairGlobalDistance())))
    >>> qpm.farthest
    2.0
    """

    terms: tuple[tuple[float, Distance], ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ConfigError("terms", "there is no distance to mix", "give at least one")
        for weight, distance in self.terms:
            if not (math.isfinite(weight) and weight > 0):
                raise ConfigError("terms", f"the weight {weight} is not positive", "leave out terms of no weight")
            if getattr(distance, "whole_gallery", False):
                raise ConfigError(
                    "terms", "a cascade cannot be mixed, as its two blocks differ in scale", "mix inside the cascade"
                )

    @property
    def farthest(self) -> float:
        """No distance is larger: the weighted sum of the terms' own bounds.

        Raises:
            ConfigError: a term does not know its bound.
        """
        return sum(weight * farthest(distance) for weight, distance in self.terms)

    def prepare(self, embedding: Embedding) -> Embedding:
        """What the terms prepare, side by side."""
        return prepare_for([distance for _, distance in self.terms], embedding)

    def matrix(self, query: Embedding, gallery: Embedding) -> Tensor:
        """Distances of all pairs, `[q, g]`; errors are those of the terms."""
        return self._sum(lambda distance: distance.matrix(query, gallery))

    def candidates(self, query: Embedding, gallery: Embedding, index: Tensor) -> Tensor:
        """Distances of query i and gallery rows `index[i]` (`[q, n]` int64), `[q, n]`; errors as the terms'."""
        return self._sum(lambda distance: distance.candidates(query, gallery, index))

    def _sum(self, of: Callable[[Distance], Tensor]) -> Tensor:
        (weight, first), *others = self.terms
        total = of(first) * weight
        for weight, distance in others:
            total += of(distance) * weight
        return total

    def explain(self, query: Embedding, gallery: Embedding) -> Explanation:
        """The parts of all terms; a part's share is its share in its term times the weight of the term."""
        matches = []
        total = 0.0
        for weight, distance in self.terms:
            explanation = distance.explain(query, gallery)
            total += weight * explanation.distance
            matches += [_with_share(match, weight * match.share) for match in explanation.parts]
        return Explanation(total, tuple(_shares_to_one(matches)))

    def shortlist_vectors(self, embedding: Embedding) -> Tensor:
        """The terms' vectors `[n, d]` side by side, so that inner products add up with the weights of the terms."""
        return torch.cat(
            [math.sqrt(weight) * distance.shortlist_vectors(embedding) for weight, distance in self.terms], dim=1
        )


# ---------------------------------------------------------------- shared by the kernels


def prepare_for(distances: Sequence[Distance], embedding: Embedding) -> Embedding:
    """One embedding with the tensors that each of the distances prepares."""
    tensors: dict[str, Tensor] = {}
    for distance in distances:
        tensors |= distance.prepare(embedding).tensors
    return embedding if embedding.names == tuple(tensors) else Embedding(tensors, embedding.made_by)


def _part_distance(products: Tensor, sums: Tensor, k: int, normalise: bool) -> Tensor:
    """From `sum_k a_k cos_k` and `sum_k a_k`, either `[q, g]`, to the distance. It writes over both."""
    apart = sums <= EPS
    if normalise:
        return products.div_(sums.masked_fill_(apart, 1.0)).neg_().add_(1.0).masked_fill_(apart, 2.0).clamp_(0.0, 2.0)
    return products.neg_().add_(sums).masked_fill_(apart, 2.0 * k).clamp_(0.0, 2.0 * k)


def _pair_name(weights: str, combine: Combine) -> str:
    return weights if combine == "product" else f"sqrt_{weights}"


def _pair_weights(weights: Tensor, combine: Combine) -> Tensor:
    """Weights `[n, k]` whose product over two crops is the weight of the pair."""
    weights = weights.float()
    if combine == "product":
        return weights
    there = weights > _TINY  # the gradient of a square root has no bound at 0
    return torch.where(there, torch.where(there, weights, 1.0).sqrt(), 0.0)


def _product(a: Tensor, b: Tensor, compute: torch.dtype) -> Tensor:
    """`a b'` as `[q, g]` float32, from any floating type; `b` is converted block by block."""
    with in_float32(a):
        a = a.to(compute)
        step = len(b) if b.dtype == compute else WORKSPACE_BYTES // (4 * max(1, b.shape[1]))
        products = [(a @ b[rows].to(compute).T).float() for rows in slices(len(b), max(1, step))]
        return products[0] if len(products) == 1 else torch.cat([a.new_empty(len(a), 0).float(), *products], 1)


def _dot(picked: Tensor, query: Tensor) -> Tensor:
    """Inner products of `[b, n, d]` and `[b, d]`, `[b, n]` float32."""
    with in_float32(query):
        return (picked.float() @ query.float()[..., None])[..., 0]


def _by_rows(block: Callable[[slice], Tensor], index: Tensor, width: int) -> Tensor:
    """`block(rows)` for as many queries at once as the workspace holds (`width` numbers per candidate)."""
    step = max(1, WORKSPACE_BYTES // (2 * 4 * max(1, index.shape[1] * width)))
    blocks = [block(rows) for rows in slices(len(index), step)]
    return torch.cat(blocks) if blocks else torch.empty(index.shape, device=index.device)


def _with_share(match: PartMatch, share: float) -> PartMatch:
    return PartMatch(match.name, match.distance, match.query_weight, match.gallery_weight, share)


def _shares_to_one(matches: Sequence[PartMatch]) -> list[PartMatch]:
    total = sum(match.share for match in matches)
    return [_with_share(match, match.share / total) for match in matches] if total > 0 else list(matches)


# ---------------------------------------------------------------- what embeddings have to be
