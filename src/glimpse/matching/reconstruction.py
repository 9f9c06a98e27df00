"""Distance by reconstruction: how much of a crop's vectors cannot be made of another crop's (DSR, FPR)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, EmbeddingError
from glimpse.matching.distance import Explanation, PartMatch
from glimpse.matching.kernels import EPS, WORKSPACE_BYTES, unit_vectors
from glimpse.matching.operands import (
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

_ROUNDING = 5e-7
"""What float32 adds to 1 - |B x|^2; an error e, its root, is in doubt by this divided by e."""

_DOUBT = 5e-6
"""Distances in more doubt than this are computed again, from the reconstruction itself."""


# ---------------------------------------------------------------- for training: differentiable


def reconstruction_distance(
    q_vectors: Tensor,
    q_weights: Tensor,
    g_vectors: Tensor,
    g_shares: Tensor | None = None,
    *,
    beta: float = 0.01,
    normalise: bool = True,
) -> Tensor:
    """Reconstruction distance of all pairs, `[q, g]`; differentiable in all tensors (FPR eq. 2-5).

    `sum_n h_n |x_n - Y (Y'Y + beta I)^-1 Y' x_n| / sum_n h_n`, with the query's vectors x_n and weights h_n and, as
    columns of Y, the gallery crop's vectors, all at length 1. Float32 (float64 if given), whatever autocast says.

    It holds some four `[g m, q N]` with their gradients (1 GB for 64 crops of 110 vectors each): for pairs of a batch,
    not for a gallery. Errors below 1.4e-3 (in float32) count as that and have no gradient: less is rounding.

    Args:
        q_vectors: `[q, N, d]`; a vector of length 0 takes no part.
        q_weights: `[q, N]`, not negative.
        g_vectors: `[g, m, d]`.
        g_shares: `[g, m]` in [0, 1], factors on the columns of Y; `None` for ones.
        beta: weight of the squared coefficients, at least 1e-4 in float32.
        normalise: whether to divide by the sum of the weights (in [0, 1]) or not (in [0, N]).

    A pair without a query weight or a gallery vector is as far as can be: 1, or N if not normalised.

    >>> x, y = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[2.0, 0.0]]])
    >>> reconstruction_distance(x, torch.tensor([[0.25, 0.75]]), y, beta=1e-4)          # 1/4 of 1.4e-3 and 3/4 of 1
    tensor([[0.7503]])
    """
    with in_float32(q_vectors):
        x, x_there = _unit(q_vectors)
        y, y_there = _unit(g_vectors)
        if g_shares is not None:
            y = y * g_shares[..., None]
            y_there = y_there & (g_shares > EPS)
        (q, count, _), (g, m, _) = x.shape, y.shape
        # With R = Y'Y + beta I, k = Y'x and w = R^-1 k (eq. 2), |x - Yw|^2 = |x|^2 - 2 k'w + w'Y'Y w (eq. 3) is
        # |x|^2 - k' (R^-1 + beta R^-2) k: no vector of length d, no solve per query. R^-1 has numbers up to 1 / beta.
        y64, eye = y.double(), torch.eye(m, dtype=torch.float64, device=y.device)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(y64 @ y64.mT + beta * eye))
        p = (inverse + beta * inverse @ inverse).to(y.dtype)
        k = (y.flatten(0, 1) @ x.flatten(0, 1).T).view(g, m, q * count)
        square = x.square().sum(-1).flatten() - (k * (p @ k)).sum(1)  # [g, q N]
        errors = square.clamp_min(16 * torch.finfo(square.dtype).eps).sqrt()
        errors = errors.T.reshape(q, count, g)
        return _weigh(errors, torch.where(x_there, q_weights, 0.0).to(errors.dtype), y_there.any(1), normalise)


def _unit(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors at length 1, at least float32, and which have a length; the others are zero."""
    x = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    square = x.square().sum(-1, keepdim=True)
    there = square > EPS**2
    return torch.where(there, x * torch.where(there, square, 1.0).rsqrt(), 0.0), there[..., 0]


def _weigh(errors: Tensor, weights: Tensor, there: Tensor, normalise: bool) -> Tensor:
    """From errors `[q, N, g]`, weights `[q, N]` and which gallery crops show anything `[g]` to distances (eq. 5)."""
    sums = torch.einsum("qn,qng->qg", weights, errors)
    total = weights.sum(1, keepdim=True)
    shared = (total > EPS) & there
    if normalise:
        return torch.where(shared, sums / torch.where(total > EPS, total, 1.0), 1.0).clamp(0.0, 1.0)
    return torch.where(shared, sums, float(errors.shape[1]))


# ---------------------------------------------------------------- the kernel


@dataclass(frozen=True)
class ReconstructionDistance:
    """How much of the query's vectors cannot be made of the gallery crop's, in [0, 1] (FPR eq. 2-5; DSR: no weights).

    `sum_n h_n |x_n - Y (Y'Y + beta I)^-1 Y' x_n| / sum_n h_n`: no vector has to know its counterpart, so crops need not
    be aligned. The gallery crop is the dictionary; the distance is not symmetric, and a crop is not at 0 from itself
    (it nears 0 with beta). All vectors are scaled to length 1, for beta has a meaning only with a fixed scale; a vector
    of length 0 takes no part. A pair is as far as can be if the query has no weight or the gallery crop no vector.

    With `Y'Y = U L U'` and `B = sqrt(L + 2 beta) / (L + beta) U'Y'` the squared error is `|x_n|^2 - |B x_n|^2`.
    `prepare` makes B (in float64, so that vectors may repeat), and a pair costs one matrix product and no solve. Where
    so little is left that this difference has lost its digits, the pair is reconstructed instead, from the same B; so
    results are good to 1e-5. A prepared crop takes N (d + N) numbers, about what its vectors take: they follow from B,
    and are not kept. Beside results, all functions hold `WORKSPACE_BYTES`, or what one pair needs if that is more.

    With `compute=torch.bfloat16`, `matrix` multiplies in bfloat16 and is within 0.02 of float32 (0.06 where nearly
    nothing is left to reconstruct); use it to shortlist. `candidates` adds up in float32. A prepared embedding stored
    as float16 (on both sides) changes results by no more than 0.002, as bfloat16 by no more than 0.01.

    Args:
        vectors: name of the tensor `[n, N, d]`.
        weights: name of the tensor `[n, N]` in [0, 1] with the query's h; `None` weighs all vectors alike (DSR).
        shares: name of a tensor `[n, N]` in [0, 1], factors on the columns of Y: what of the place of a vector is
            visible. A vector of share 0 is not there, in a query neither. `None` for all alike.
        beta: weight of the squared coefficients, above 0.
        normalise: whether to divide by the sum of the weights; as printed (false) a distance is in [0, N] and no query
            can be compared with another.
        rows: make the query's vectors of the strongest `rows` directions of Y only (rows of B), `None` for all. That is
            N / rows times quicker, and never nearer: a shortlist for the whole, from the same prepared embedding.
        parts: name of a tensor `[n, N, K]` that says how much of each vector lies in each of the K parts that
            explanations show, summing to 1 over them; `None` for each vector a part.
        names: names of the parts; `part 1`, `part 2`, ... if not given.
        compute: what `matrix` multiplies in.

    Raises:
        ConfigError: `beta`, `rows` or `compute` is none of these.

    >>> crop = Embedding({"vectors": torch.eye(3)[None, :2], "weights": torch.tensor([[1.0, 0.5]])})
    >>> other = Embedding({"vectors": torch.eye(3)[None, [0, 2]], "weights": torch.ones(1, 2)})
    >>> distance = ReconstructionDistance(beta=1e-6)
    >>> round(distance.matrix(crop, other).item(), 4)          # the first vector is there, the second is not
    0.3333
    >>> [(part.name, round(part.distance, 4), round(part.share, 2)) for part in distance.explain(crop, other).parts]
    [('part 1', 0.0, 0.67), ('part 2', 1.0, 0.33)]
    """

    vectors: str = "vectors"
    weights: str | None = "weights"
    shares: str | None = None
    beta: float = 0.01
    normalise: bool = True
    rows: int | None = None
    parts: str | None = None
    names: tuple[str, ...] | None = None
    compute: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise ConfigError("beta", f"{self.beta} is not above 0", "give a small positive number, such as 0.01")
        if self.rows is not None and self.rows < 1:
            raise ConfigError("rows", f"{self.rows} rows reconstruct nothing", "keep at least one, or None for all")
        if self.compute not in (torch.float32, torch.bfloat16):
            raise ConfigError("compute", f"{self.compute} is not possible", "use torch.float32 or torch.bfloat16")

    @property
    def farthest(self) -> float:
        """No distance is larger: 1.

        Raises:
            ConfigError: it is not normalised, so that this depends on the number of vectors.
        """
        if not self.normalise:
            raise ConfigError("normalise", "without it the largest distance is not known", "normalise the weights")
        return 1.0

    @property
    def _basis(self) -> str:
        """Name of B; all that B depends on is in it."""
        by = "" if self.shares is None else f".{self.shares}"
        return f"{self.vectors}.basis{by}.{self.beta:g}"

    @property
    def _spectrum(self) -> str:
        return f"{self._basis}.spectrum"

    @property
    def _mix(self) -> str:
        """Name of what makes the vectors of B."""
        return f"{self._basis}.mix"

    @property
    def _weights(self) -> str | None:
        return None if self.weights is None else f"{self.weights}.pair"

    def prepare(self, embedding: Embedding) -> Embedding:
        """B, its spectrum L and what makes the vectors of it; the weights and the parts.

        Raises:
            EmbeddingError: a tensor is missing, of the wrong shape or not finite, or a weight or share is outside
                [0, 1].
        """
        optional = tuple(name for name in (self._weights, self.parts) if name)
        keep = (self._basis, self._spectrum, self._mix, *optional)
        if self._basis in embedding.names:
            self._check_parts(embedding, embedding[self._mix].shape[1])
            return only(embedding, keep)
        vectors = tensor_of(embedding, self.vectors, 3, "[n, N, d]")
        n, count, width = vectors.shape
        self._check_parts(embedding, count)
        shares = None if self.shares is None else weights_of(embedding, self.shares, self.vectors).float()
        kept = min(count, width)
        basis = vectors.new_empty(n, kept, width, dtype=self.compute)
        spectrum = vectors.new_empty(n, kept, dtype=torch.float32)
        mix = vectors.new_empty(n, count, kept, dtype=self.compute)
        for rows in slices(n, max(1, WORKSPACE_BYTES // (5 * 8 * count * width))):
            x = unit_vectors(vectors[rows])
            y = (x if shares is None else x * shares[rows, :, None]).double()
            values, directions = torch.linalg.eigh(y @ y.mT)  # ascending
            values = values.flip(-1)[:, :kept].clamp_min(0.0)
            directions = directions.flip(-1)[..., :kept]
            scale = (values + 2 * self.beta).sqrt() / (values + self.beta)
            basis[rows] = (scale[..., None] * (directions.mT @ y)).to(self.compute)
            spectrum[rows] = values.float()
            mix[rows] = (directions / scale[:, None]).to(self.compute)
        tensors = {self._basis: basis, self._spectrum: spectrum, self._mix: mix}
        if self.weights is not None and self._weights is not None:
            tensors[self._weights] = weights_of(embedding, self.weights, self.vectors).float()
        if self.parts is not None:
            tensors[self.parts] = embedding[self.parts]
        return Embedding(tensors, embedding.made_by)

    def _check_parts(self, embedding: Embedding, count: int) -> None:
        remedy = "match with the distance of the method that made it"
        parts = count
        if self.parts is not None:
            said = tensor_of(embedding, self.parts, 3, "[n, N, K]").shape
            if said[1] != count:
                cause = f"'{self.parts}' has {said[1]} rows for {count} vectors"
                raise EmbeddingError(called(embedding), cause, "give one row per vector")
            parts = said[2]
        if self.names is not None and len(self.names) != parts:
            cause = f"there are {parts} parts, and the distance names {len(self.names)}"
            raise EmbeddingError(called(embedding), cause, remedy)

    def matrix(self, query: Embedding, gallery: Embedding) -> Tensor:
        """Distances of all pairs, `[q, g]`.

        Raises:
            EmbeddingError: an embedding has not what the distance reads, or the two do not fit each other.
        """
        query, gallery = fitting(self, query, gallery)
        basis, spectrum = self._dictionary(gallery)
        count, (kept, width) = query[self._mix].shape[1], basis.shape[1:]
        # Half of the workspace for the vectors of both sides, half for their products.
        step = int(min(WORKSPACE_BYTES / (2 * 18 * count * width), (WORKSPACE_BYTES / (2 * 8 * count * kept)) ** 0.5))
        out = torch.empty(len(query), len(gallery), device=query.device)
        with in_float32(out):
            for q_rows in slices(len(query), max(1, step)):
                x, weights = self._probe(query[q_rows])
                for g_rows in slices(len(gallery), max(1, step)):
                    errors = self._errors(x, weights, basis[g_rows], spectrum[g_rows], self.compute)
                    out[q_rows, g_rows] = self._distance(errors, weights, spectrum[g_rows])
        return out

    def candidates(self, query: Embedding, gallery: Embedding, index: Tensor) -> Tensor:
        """Distances of query i and gallery rows `index[i]` (`[q, n]` int64), `[q, n]`.

        Raises:
            EmbeddingError: as `matrix`; or `index` is not `[q, n]` or points outside the gallery.
        """
        query, gallery = fitting(self, query, gallery)
        index = check_index(query, gallery, index)
        basis, spectrum = self._dictionary(gallery)
        count, (kept, width) = query[self._mix].shape[1], basis.shape[1:]
        step = max(1, WORKSPACE_BYTES // (2 * 4 * kept * (2 * width + count)))
        out = torch.empty(index.shape, device=query.device)
        with in_float32(out):
            for row, picked in enumerate(index):
                x, weights = self._probe(query[row])
                for columns in slices(len(picked), step):
                    chosen = picked[columns]
                    errors = self._errors(x, weights, basis[chosen], spectrum[chosen], torch.float32)
                    out[row, columns] = self._distance(errors, weights, spectrum[chosen])[0]
        return out

    def _dictionary(self, gallery: Embedding) -> tuple[Tensor, Tensor]:
        """The rows of B that are used, the strongest first, `[g, r, d]`, and their spectrum `[g, r]`."""
        return gallery[self._basis][:, : self.rows], gallery[self._spectrum][:, : self.rows]

    def _probe(self, query: Embedding) -> tuple[Tensor, Tensor]:
        """The query's vectors at length 1 `[q, N, d]` float32 and their weights `[q, N]`."""
        x = query[self._mix].float() @ query[self._basis].float()
        length = torch.linalg.vector_norm(x, dim=-1)
        there = length > EPS
        x = x * torch.where(there, 1.0 / length.clamp_min(EPS), 0.0)[..., None]
        return x, there * (1.0 if self._weights is None else query[self._weights].float())

    def _errors(self, x: Tensor, weights: Tensor, basis: Tensor, spectrum: Tensor, compute: torch.dtype) -> Tensor:
        """`|x_n - Y (...)^-1 Y' x_n|` as `[q, N, g]`, from `[q, N, d]`, `[q, N]`, `[g, r, d]` and `[g, r]`."""
        probe = x.to(compute)
        product = (probe.flatten(0, 1) @ basis.to(compute).flatten(0, 1).T).float()  # [q N, g r]
        explained = product.square_().view(*x.shape[:2], *basis.shape[:2]).sum(-1)
        length = torch.linalg.vector_norm(probe, dim=-1, dtype=torch.float32).square_()  # not 1 in bfloat16
        errors: Tensor = (length[..., None] - explained).clamp_min_(0.0).sqrt_()
        if compute is torch.float32:
            self._reconstruct_near(errors, x, weights, basis, spectrum)
        return errors

    def _reconstruct_near(self, errors: Tensor, x: Tensor, weights: Tensor, basis: Tensor, spectrum: Tensor) -> None:
        """Errors of pairs in doubt from what is left of x: `x - B'T B x` with `T = (L + beta) / (L + 2 beta)`."""
        shares = weights / weights.sum(1, keepdim=True).clamp_min(EPS)
        doubt = torch.einsum("qn,qng->qg", shares, _ROUNDING / errors.clamp_min(_ROUNDING**0.5))
        near = (doubt > _DOUBT).nonzero()
        (count, width), kept = x.shape[1:], basis.shape[1]
        for part in slices(len(near), max(1, WORKSPACE_BYTES // (4 * width * (4 * count + 2 * kept)))):
            q, g = near[part].T
            rows, values = basis[g].float(), spectrum[g].float()
            gain = (values + self.beta) / (values + 2 * self.beta)
            rebuilt = ((x[q] @ rows.mT) * gain[:, None]) @ rows
            errors[q, :, g] = torch.linalg.vector_norm(x[q] - rebuilt, dim=-1)

    def _distance(self, errors: Tensor, weights: Tensor, spectrum: Tensor) -> Tensor:
        return _weigh(errors, weights, spectrum[:, 0] > EPS**2, self.normalise)

    def explain(self, query: Embedding, gallery: Embedding) -> Explanation:
        """The distance of two crops, part by part.

        A part's distance is the mean error of the query's vectors there, by their weights; its share is its share of
        these weights. The gallery's weights are shown and have no say: its vectors are compared wherever they lie.

        Raises:
            EmbeddingError: as `matrix`; or one of them has not exactly one row.
        """
        one_row(query, gallery)
        query, gallery = fitting(self, query, gallery)
        with in_float32(query[self._basis]):
            x, weights = self._probe(query)
            _, g_weights = self._probe(gallery)
            basis, spectrum = self._dictionary(gallery)
            errors = self._errors(x, weights, basis, spectrum, torch.float32)
            distance = float(self._distance(errors, weights, spectrum))
        q_members, q_mass = self._members(query, weights)
        g_members, g_mass = self._members(gallery, g_weights)
        total, left = float(weights.sum()), errors[0, :, 0]
        shown = total > EPS and float(spectrum[0, 0]) > EPS**2
        matches = []
        for k in range(q_members.shape[1]):
            mass = float(q_mass[:, k].sum())
            compared = shown and mass > EPS
            matches.append(
                PartMatch(
                    name=self.names[k] if self.names else f"part {k + 1}",
                    distance=float((q_mass[:, k] * left).sum()) / mass if compared else None,
                    query_weight=min(mass / max(float(q_members[:, k].sum()), EPS), 1.0),
                    gallery_weight=min(float(g_mass[:, k].sum()) / max(float(g_members[:, k].sum()), EPS), 1.0),
                    share=mass / total if compared else 0.0,
                )
            )
        return Explanation(distance, tuple(matches))

    def _members(self, embedding: Embedding, weights: Tensor) -> tuple[Tensor, Tensor]:
        """How much of each vector lies in each part, `[N, K]`, and the same times its weight."""
        count = weights.shape[1]
        members = torch.eye(count, device=weights.device) if self.parts is None else embedding[self.parts][0].float()
        return members, members * weights[0, :, None]

    def shortlist_vectors(self, embedding: Embedding) -> Tensor:
        """Unit vectors `[n, d]` float32: the mean of the vectors by their weights.

        It says what a crop shows and not where; a weak stand-in for the distance. Shortlist more than is needed.
        """
        prepared = self.prepare(embedding)
        count, width = prepared[self._mix].shape[1], prepared[self._basis].shape[2]
        out = torch.empty(len(prepared), width, device=prepared.device)
        with in_float32(out):
            for rows in slices(len(prepared), max(1, WORKSPACE_BYTES // (4 * 4 * count * width))):
                x, weights = self._probe(prepared[rows])
                out[rows] = (weights[:, None] @ x)[:, 0]
        return unit_vectors(out)
