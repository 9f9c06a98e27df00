"""Reconstruction distance against its equation: a double loop with one explicit solve per pair."""

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, EmbeddingError
from glimpse.matching import Cascade, Distance, GlobalDistance, MixedDistance, reconstruction
from glimpse.matching.kernels import Bounded
from glimpse.matching.reconstruction import ReconstructionDistance, reconstruction_distance

EXACT = ReconstructionDistance()
KINDS = {
    "plain": EXACT,
    "dsr": ReconstructionDistance(weights=None),
    "shares": ReconstructionDistance(shares="shares"),
    "as printed": ReconstructionDistance(normalise=False),
    "other beta": ReconstructionDistance(beta=0.4),
    "strong rows": ReconstructionDistance(rows=2, shares="shares"),
}
each = pytest.mark.parametrize("distance", KINDS.values(), ids=KINDS)
quick = settings(max_examples=25, deadline=None, database=None)
close = {"rtol": 0, "atol": 1e-5}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crops(n: int, count: int = 4, width: int = 9, seed: int = 0, made_by: str = "") -> Embedding:
    """Vectors with much in common, as those of one map have; some repeat, some are zero, some weigh or show nothing."""
    random = seeded(seed)
    vectors = torch.randn(n, count, width, generator=random) + 0.7
    if count > 1:
        vectors[:, 1] = torch.where(torch.rand(n, 1, generator=random) < 0.3, vectors[:, 0], vectors[:, 1])
    vectors[torch.rand(n, count, generator=random) < 0.1] = 0.0
    weights, shares = torch.rand(2, n, count, generator=random)
    weights[torch.rand(n, count, generator=random) < 0.2] = 0.0
    shares[torch.rand(n, count, generator=random) < 0.2] = 0.0
    if n > 2:
        weights[n - 1] = 0.0
        shares[n - 2] = 0.0
    parts = torch.rand(n, count, 3, generator=random)
    return Embedding(
        {"vectors": vectors, "weights": weights, "shares": shares, "parts": parts / parts.sum(2, keepdim=True)}, made_by
    )


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Embedding, Embedding]:
    count, width, seed = draw(st.integers(1, 6)), draw(st.integers(1, 9)), draw(st.integers(0, 2**31))
    q = crops(draw(st.integers(1, 4)), count, width, seed)
    g = crops(draw(st.integers(1, 4)), count, width, seed + 1)
    if draw(st.booleans()):  # a near copy: little is left to reconstruct
        g = Embedding({name: torch.cat([g[name], q[name][:1]]) for name in g.names})
    return q, g


def residual(x: Tensor, y: Tensor, beta: float, rows: int | None = None) -> float:
    """|x - Y (Y'Y + beta I)^-1 Y' x| for x `[d]` and the columns of Y `[d, m]`, in float64."""
    if rows is not None:  # Y by its strongest directions only
        left, values, right = torch.linalg.svd(y, full_matrices=False)
        y = (left * torch.where(torch.arange(len(values)) < rows, values, 0.0)) @ right
    w = torch.linalg.solve(y.T @ y + beta * torch.eye(y.shape[1], dtype=y.dtype), y.T @ x)
    return float((x - y @ w).norm())


def unit(v: Tensor) -> Tensor:
    return v.double() / v.double().norm().clamp_min(1e-12)


def naive(distance: ReconstructionDistance, q: Embedding, g: Embedding) -> Tensor:
    out = torch.zeros(len(q), len(g))
    count = q["vectors"].shape[1]
    for i in range(len(q)):
        for j in range(len(g)):
            columns = []
            for m in range(count):
                share = 1.0 if distance.shares is None else float(g["shares"][j, m])
                columns.append(share * unit(g["vectors"][j, m]))
            y = torch.stack(columns, 1)
            top = bottom = 0.0
            for n in range(count):
                h = 1.0 if distance.weights is None else float(q["weights"][i, n])
                there = q["vectors"][i, n].any() and (distance.shares is None or q["shares"][i, n] > 0)
                if there:
                    top += h * residual(unit(q["vectors"][i, n]), y, distance.beta, distance.rows)
                    bottom += h
            if bottom == 0 or not y.any():
                out[i, j] = 1.0 if distance.normalise else count
            else:
                out[i, j] = top / bottom if distance.normalise else top
    return out


# ---------------------------------------------------------------- values


@each
@given(both=pairs())
@quick
def test_matrix_is_the_double_loop_of_its_equation(distance, both):
    q, g = both
    actual = distance.matrix(q, g)
    assert actual.dtype == torch.float32
    assert_close(actual, naive(distance, q, g), **close)


@each
@given(both=pairs(), data=st.data())
@quick
def test_candidates_are_the_matrix_at_their_index(distance, both, data):
    q, g = both
    n = data.draw(st.integers(0, 6))
    index = torch.tensor(data.draw(st.lists(st.integers(0, len(g) - 1), min_size=len(q) * n, max_size=len(q) * n)))
    index = index.long().view(len(q), n)
    assert_close(distance.candidates(q, g, index), distance.matrix(q, g).gather(1, index), **close)


@each
@given(both=pairs(), data=st.data())
@quick
def test_order_of_gallery_and_of_vectors_does_not_matter(distance, both, data):
    q, g = both
    rows = torch.tensor(data.draw(st.permutations(range(len(g)))))
    matrix = distance.matrix(q, g)
    assert_close(distance.matrix(q, g[rows]), matrix[:, rows], **close)
    for side in (0, 1):  # of one crop alone: nothing has to know its counterpart
        order = torch.tensor(data.draw(st.permutations(range(q["vectors"].shape[1]))))
        moved = Embedding({name: both[side][name][:, order] for name in q.names})
        assert_close(distance.matrix(*((moved, g) if side == 0 else (q, moved))), matrix, **close)


@given(both=pairs(), scale=st.floats(0.05, 1.0), longer=st.floats(1e-3, 1e3))
@quick
def test_scale_of_weights_and_of_vectors_does_not_matter(both, scale, longer):
    q, g = both
    clear = (q["weights"].sum(1) == 0) | (q["weights"].sum(1) > 1e-3)
    fainter = q.with_tensors(weights=q["weights"] * scale, vectors=q["vectors"] * longer)
    other = g.with_tensors(weights=g["weights"].flip(1), vectors=g["vectors"] / longer)  # a gallery's have no say
    assert_close(EXACT.matrix(fainter, other)[clear], EXACT.matrix(q, g)[clear], **close)
    printed = KINDS["as printed"]
    there = (q["weights"] * q["vectors"].any(2)).sum(1) * scale > 1e-3
    shown = g["vectors"].flatten(1).any(1)
    both_ways = printed.matrix(fainter, g)[there][:, shown], printed.matrix(q, g)[there][:, shown] * scale
    assert_close(*both_ways, rtol=0, atol=5e-5)


@given(seed=st.integers(0, 2**31), m=st.integers(1, 5))
@quick
def test_what_the_gallery_crop_spans_is_near_zero_as_beta_goes(seed, m):
    y = torch.linalg.qr(torch.randn(12, m, generator=seeded(seed)))[0].T  # orthonormal, so well posed
    x = unit_rows(torch.randn(3, m, generator=seeded(seed + 1))) @ y
    count = max(3, m)
    q = Embedding({"vectors": pad(x, count), "weights": torch.ones(1, count)})
    g = Embedding({"vectors": pad(y, count), "weights": torch.ones(1, count)})
    found = [float(ReconstructionDistance(beta=beta).matrix(q, g)) for beta in (0.1, 1e-2, 1e-4, 1e-6)]
    for beta, value in zip((0.1, 1e-2, 1e-4, 1e-6), found, strict=True):
        assert value == pytest.approx(beta / (1 + beta), abs=2e-6)
    beyond = torch.linalg.qr(torch.cat([y, torch.randn(12 - m, 12, generator=seeded(seed + 2))]).T)[0].T[m:]
    nothing = Embedding({"vectors": pad(beyond[:1], count), "weights": torch.ones(1, count)})
    assert float(EXACT.matrix(nothing, g)) == pytest.approx(1.0, abs=1e-5)


def unit_rows(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def pad(vectors: Tensor, count: int) -> Tensor:
    """`[n, d]` -> `[1, count, d]`, with zero vectors, which take no part."""
    return torch.cat([vectors, vectors.new_zeros(count - len(vectors), vectors.shape[1])])[None]


@pytest.mark.parametrize("beta", [0.01, 0.5])
def test_one_vector_by_hand(beta):
    # w = c / (1 + beta), so e^2 = 1 - 2 c w + w^2.
    c = 0.6
    q = Embedding({"vectors": torch.tensor([[[3.0, 0.0]]]), "weights": torch.tensor([[0.2]])})
    g = Embedding({"vectors": torch.tensor([[[c, 0.8]]]), "weights": torch.tensor([[0.0]])})
    w = c / (1 + beta)
    error = math.sqrt(1 - 2 * c * w + w * w)
    assert ReconstructionDistance(beta=beta).matrix(q, g).item() == pytest.approx(error)
    assert ReconstructionDistance(beta=beta, normalise=False).matrix(q, g).item() == pytest.approx(0.2 * error)
    half = g.with_tensors(shares=torch.tensor([[0.5]]))
    assert ReconstructionDistance(beta=beta, shares="shares").matrix(
        q.with_tensors(shares=torch.ones(1, 1)), half
    ).item() == pytest.approx(ReconstructionDistance(beta=4 * beta).matrix(q, g).item())


def test_dsr_is_all_weights_equal():
    q, g = crops(3, seed=1)[:2], crops(5, seed=2)
    same = q.with_tensors(weights=torch.full_like(q["weights"], 0.3))
    assert_close(KINDS["dsr"].matrix(q, g), EXACT.matrix(same, g), **close)


def test_a_vector_of_share_zero_is_as_if_it_were_not_there():
    q, g = crops(3, 5, seed=1), crops(4, 5, seed=2)
    for e in (q, g):
        e["shares"].fill_(1.0)
        e["shares"][:, 2] = 0.0
    without = [Embedding({name: e[name][:, [0, 1, 3, 4]] for name in e.names}) for e in (q, g)]
    other = g.with_tensors(vectors=g["vectors"].clone())
    other["vectors"][:, 2] = 9.0
    for distance in (KINDS["shares"], dataclasses.replace(KINDS["shares"], weights=None)):
        assert_close(distance.matrix(q, g), distance.matrix(*without), **close)
        assert_close(distance.matrix(q, other), distance.matrix(q, g), rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [5, 40])
def test_little_left_keeps_its_digits(count):
    # Copies, near copies and a crop of one colour: 1 - |Bx|^2 alone would be off by 1e-4 and more.
    v = torch.randn(4, count, 32, generator=seeded(1)).relu() + 0.01
    v[1] = v[0] + 0.01 * torch.randn(count, 32, generator=seeded(2))
    v[2] = v[2, :1]
    v[3] = 1.0
    one = torch.zeros(4, count)
    one[:, 0] = 1.0
    for weights in (torch.ones(4, count), one):
        e = Embedding({"vectors": v, "weights": weights})
        expected = naive(EXACT, e, e)
        assert expected.min() < 2e-3
        assert_close(EXACT.matrix(e, e), expected, rtol=0, atol=2e-6)
        assert_close(EXACT.candidates(e, e, torch.arange(4).expand(4, -1)), expected, rtol=0, atol=2e-6)


def test_more_vectors_than_dimensions():
    q, g = crops(3, 12, 4, seed=1), crops(3, 12, 4, seed=2)
    assert EXACT.prepare(g)["vectors.basis.0.01"].shape == (3, 4, 4)  # B has no more rows than Y has dimensions
    assert_close(EXACT.matrix(q, g), naive(EXACT, q, g), **close)


# ---------------------------------------------------------------- pairs that cannot be compared


@pytest.mark.parametrize("normalise", [True, False])
def test_nothing_to_compare_is_farthest(normalise):
    q, g = crops(2, seed=1), crops(3, seed=2)
    distance = ReconstructionDistance(normalise=normalise, shares="shares")
    far = 1.0 if normalise else 4.0
    for e in (q, g):
        e["weights"].fill_(1.0)
        e["shares"].fill_(1.0)
    q["weights"][0] = 0.0
    g["shares"][1] = 0.0
    matrix = distance.matrix(q, g)
    assert matrix[0].tolist() == [far] * 3
    assert matrix[1, 1].item() == far
    assert (matrix[1, [0, 2]] < far).all()
    assert distance.candidates(q, g, torch.tensor([[1, 2], [1, 1]])).flatten()[[0, 1, 2]].tolist() == [far] * 3
    hidden = distance.explain(q[1], g[1])
    assert hidden.distance == far
    assert [(part.distance, part.share) for part in hidden.parts] == [(None, 0.0)] * 4


@given(both=pairs())
@quick
def test_distances_lie_between_zero_and_farthest(both):
    for distance in (EXACT, KINDS["strong rows"]):
        matrix = distance.matrix(*both)
        assert matrix.min() >= 0
        assert matrix.max() <= distance.farthest == 1.0


def test_without_normalising_farthest_is_not_known():
    with pytest.raises(ConfigError, match=r"normalise: without it the largest distance is not known. Remedy: normalis"):
        _ = KINDS["as printed"].farthest


# ---------------------------------------------------------------- the strongest rows


@given(both=pairs())
@quick
def test_fewer_rows_are_never_nearer_and_all_rows_are_the_whole(both):
    q, g = both
    count = q["vectors"].shape[1]
    found = [ReconstructionDistance(rows=rows).matrix(q, g) for rows in range(1, count + 1)]
    for fewer, more in itertools.pairwise(found):
        assert (fewer >= more - 1e-5).all()
    assert_close(found[-1], EXACT.matrix(q, g), **close)
    assert_close(ReconstructionDistance(rows=99).matrix(q, g), EXACT.matrix(q, g), **close)


def test_a_cascade_of_few_rows_and_all():
    q, g = crops(3, 12, 24, seed=1)[:2], crops(9, 12, 24, seed=2)
    coarse = ReconstructionDistance(rows=3)
    matrix = Cascade(coarse, EXACT, 4).matrix(q, g)
    for i in range(2):
        nearest = coarse.matrix(q, g)[i].argsort()[:4]
        assert_close(matrix[i, nearest], EXACT.matrix(q, g)[i, nearest], **close)
        assert set(matrix[i].argsort()[:4].tolist()) == set(nearest.tolist())


# ---------------------------------------------------------------- preparing, storing, computing in low precision


@each
def test_prepare_is_idempotent_and_changes_nothing(distance):
    distance = dataclasses.replace(distance, parts="parts")
    q, g = crops(5, seed=1, made_by="m@1"), crops(7, seed=2, made_by="m@1")
    before = {name: t.clone() for name, t in g.tensors.items()}
    prepared = distance.prepare(g)
    again = distance.prepare(prepared)
    assert all(again[name] is prepared[name] for name in again.names)
    assert again.names == prepared.names
    assert prepared.made_by == "m@1"
    assert "vectors" not in prepared.names
    expected = distance.matrix(q, g)
    for query, gallery in ((q, prepared), (distance.prepare(q), g), (distance.prepare(q), prepared)):
        assert_close(distance.matrix(query, gallery), expected, rtol=0, atol=0)
        assert distance.explain(query[0], gallery[0]) == distance.explain(q[0], g[0])
    assert_close(distance.shortlist_vectors(prepared), distance.shortlist_vectors(g), **close)
    assert all(torch.equal(g[name], t) for name, t in before.items())


def test_a_prepared_crop_is_hardly_larger_than_its_vectors():
    g = Embedding({"vectors": torch.randn(2, 10, 200, generator=seeded(1)), "weights": torch.ones(2, 10)})
    assert EXACT.prepare(g).bytes_per_row == 4 * (10 * 200 + 10 * 10 + 2 * 10)


def test_what_was_prepared_for_another_beta_is_not_taken():
    prepared = EXACT.prepare(crops(2))
    with pytest.raises(EmbeddingError, match=r"there is no tensor 'vectors', only vectors.basis.0.01, "):
        KINDS["other beta"].matrix(prepared, prepared)


def test_few_rows_are_of_what_was_prepared_for_all():
    q, g = crops(3, seed=1), crops(4, seed=2)
    few = ReconstructionDistance(rows=2)
    prepared = EXACT.prepare(g)
    assert few.prepare(prepared).names == prepared.names
    assert_close(few.matrix(EXACT.prepare(q), prepared), few.matrix(q, g))
    both = Cascade(few, EXACT, 2).prepare(g)
    assert both.bytes_per_row == prepared.bytes_per_row


def like_maps(n: int, seed: int, count: int = 30, width: int = 128) -> Embedding:
    """Vectors as pools of one map: not negative, much in common; some crops of hardly more than one colour."""
    random = seeded(seed)
    vectors = torch.randn(n, count, width, generator=random) + torch.randn(n, 1, width, generator=random)
    vectors[::5] += 30 * torch.rand(1, 1, width, generator=random)
    weights = torch.rand(n, count, generator=random)
    weights[::3] = (weights[::3] == weights[::3].amax(1, keepdim=True)).float()  # one vector has all of it
    return Embedding({"vectors": vectors.relu(), "weights": weights})


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 0.002), (torch.bfloat16, 0.01)])
@pytest.mark.parametrize("rows", [None, 8])
def test_error_of_stored_embeddings_is_bounded(dtype, bound, rows):
    q = like_maps(20, 1)
    g = Embedding.cat([like_maps(25, 2), q])
    distance = ReconstructionDistance(rows=rows)
    exact = distance.matrix(q, g)
    stored = [distance.prepare(e).to(dtype=dtype) for e in (q, g)]
    found = distance.matrix(*stored)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().max() <= bound
    assert (distance.candidates(*stored, torch.arange(45).expand(20, -1)) - exact).abs().max() <= bound


def test_error_of_bfloat16_products_is_bounded():
    q = like_maps(20, 1)
    g = Embedding.cat([like_maps(25, 2), q])
    exact = EXACT.matrix(q, g)
    distance = ReconstructionDistance(compute=torch.bfloat16)
    assert distance.prepare(g)["vectors.basis.0.01"].dtype == torch.bfloat16
    fast = distance.matrix(q, g)
    assert fast.dtype == torch.float32
    off = (fast - exact).abs()
    assert (exact < 0.1).any()
    assert 0 < off.max() <= 0.06
    assert off[exact >= 0.1].max() <= 0.02
    assert (distance.candidates(q, g, torch.arange(45).expand(20, -1)) - exact).abs().max() <= 0.01


def test_autocast_does_not_touch_distances():
    q, g = crops(4, seed=1), crops(5, seed=2)
    index = torch.arange(5).expand(4, -1)
    plain = reconstruction_distance(q["vectors"], q["weights"], g["vectors"])
    for distance in KINDS.values():
        exact, explained = distance.matrix(q, g), distance.explain(q[0], g[0])
        vectors = distance.shortlist_vectors(g)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_close(distance.matrix(q, g), exact, **close)
            assert_close(distance.candidates(q, g, index), exact, **close)
            assert_close(distance.shortlist_vectors(g), vectors, **close)
            assert distance.explain(q[0], g[0]).distance == pytest.approx(explained.distance, abs=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(reconstruction_distance(q["vectors"], q["weights"], g["vectors"]), plain, **close)


@pytest.mark.parametrize("workspace", [1, 2_000, 30_000])
@each
def test_block_size_does_not_matter(distance, workspace, monkeypatch):
    q, g = crops(9, seed=1), crops(13, seed=2)
    g = Embedding.cat([g, q])
    index = torch.randint(22, (9, 5), generator=seeded(0))
    matrix, picked, vectors = distance.matrix(q, g), distance.candidates(q, g, index), distance.shortlist_vectors(g)
    monkeypatch.setattr(reconstruction, "WORKSPACE_BYTES", workspace)
    assert_close(distance.matrix(q, g), matrix, **close)
    assert_close(distance.candidates(q, g, index), picked, **close)
    assert_close(distance.shortlist_vectors(g), vectors, **close)


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that is made."""

    found = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in given:  # no view
                self.found = max(self.found, tensor.nbytes)
        return result


def test_temporaries_fit_the_workspace(monkeypatch):
    monkeypatch.setattr(reconstruction, "WORKSPACE_BYTES", 100_000)
    q = like_maps(40, 1, 12, 64)
    q = Embedding.cat([q, q[:1], q[:1]])  # pairs that are reconstructed as well
    prepared = EXACT.prepare(q).to(dtype=torch.float16)
    assert prepared["vectors.basis.0.01"].numel() * 4 > 100_000
    everything = torch.arange(42).expand(42, -1)
    for function in (
        lambda: EXACT.matrix(prepared, prepared),
        lambda: EXACT.candidates(prepared, prepared, everything),
        lambda: EXACT.shortlist_vectors(prepared),
    ):
        with Largest() as largest:
            function()
        assert 0 < largest.found <= 50_000


@each
def test_no_rows_give_no_distances(distance):
    q, g = crops(3), crops(4)
    assert distance.matrix(q, g[:0]).shape == (3, 0)
    assert distance.matrix(q[:0], g).shape == (0, 4)
    assert distance.candidates(q, g, torch.empty(3, 0, dtype=torch.int64)).shape == (3, 0)
    assert distance.candidates(q[:0], g, torch.empty(0, 2, dtype=torch.int64)).shape == (0, 2)


# ---------------------------------------------------------------- explanations, shortlists, company


@each
def test_explained_parts_add_up_to_the_distance(distance):
    distance = dataclasses.replace(distance, parts="parts", names=("head", "torso", "legs"))
    q, g = crops(6, seed=5), crops(6, seed=6)
    for i in range(5):
        explanation = distance.explain(q[i], g[i])
        value = float(distance.matrix(q, g)[i, i])
        assert explanation.distance == pytest.approx(value, abs=1e-6)
        assert [part.name for part in explanation.parts] == ["head", "torso", "legs"]
        compared = [part for part in explanation.parts if part.compared]
        if compared:
            h = torch.ones(4) if distance.weights is None else q["weights"][i]
            there = q["vectors"][i].any(1) & ((q["shares"][i] > 0) if distance.shares else True)
            total = 1.0 if distance.normalise else float((h * there).sum())
            assert sum(part.share for part in explanation.parts) == pytest.approx(1.0)
            assert sum(p.share * p.distance for p in compared) * total == pytest.approx(value, abs=1e-5)


def test_explained_weights_are_means_over_a_parts_vectors():
    parts = torch.tensor([[[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]])
    vectors = torch.eye(3)[None]
    q = Embedding({"vectors": vectors, "weights": torch.tensor([[1.0, 0.5, 0.0]]), "bands": parts})
    g = Embedding({"vectors": vectors[:, [0, 0, 0]], "weights": torch.tensor([[0.0, 0.0, 0.6]]), "bands": parts})
    explanation = ReconstructionDistance(parts="bands", names=("upper", "lower"), beta=1e-6).explain(q, g)
    upper, lower = explanation.parts
    # The first vector is in the gallery crop, the second is not; 1.25 of the weight is in the upper part.
    assert upper.distance == pytest.approx(0.25 / 1.25, abs=1e-5)
    assert lower.distance == pytest.approx(1.0, abs=1e-5)
    assert (upper.query_weight, lower.query_weight) == (pytest.approx(1.25 / 1.5), pytest.approx(0.25 / 1.5))
    assert (upper.gallery_weight, lower.gallery_weight) == (0.0, pytest.approx(0.6 / 1.5))
    assert (upper.share, lower.share) == (pytest.approx(1.25 / 1.5), pytest.approx(0.25 / 1.5))
    assert explanation.distance == pytest.approx(0.5 / 1.5, abs=1e-5)


def test_a_part_without_weight_is_not_compared():
    q = Embedding({"vectors": torch.eye(2)[None], "weights": torch.tensor([[1.0, 0.0]])})
    seen, unseen = EXACT.explain(q, q).parts
    assert (seen.compared, unseen.compared, unseen.share) == (True, False, 0.0)
    assert [seen.name, unseen.name] == ["part 1", "part 2"]


def test_shortlist_vectors_are_weighted_means():
    e = crops(4, seed=3)[:2]
    for distance, weights in ((EXACT, e["weights"]), (KINDS["dsr"], torch.ones(2, 4))):
        vectors = distance.shortlist_vectors(e)
        for i in range(2):
            mean = sum(weights[i, n] * unit(e["vectors"][i, n]) for n in range(4))
            assert_close(vectors[i].double(), unit(mean), **close)


def test_it_is_a_bounded_distance_and_mixes_with_others():
    assert isinstance(EXACT, Distance)
    assert isinstance(EXACT, Bounded)
    q, g = (e.with_tensors(globals=e["vectors"].sum(1) + 0.1) for e in (crops(3, seed=1), crops(4, seed=2)))
    mixed = MixedDistance(((0.7, EXACT), (0.3, GlobalDistance("globals"))))
    expected = 0.7 * EXACT.matrix(q, g) + 0.3 * GlobalDistance("globals").matrix(q, g)
    assert_close(mixed.matrix(q, g), expected, **close)
    assert mixed.farthest == pytest.approx(1.3)


# ---------------------------------------------------------------- the function of the training losses


@given(both=pairs(), normalise=st.booleans(), shares=st.booleans(), beta=st.sampled_from([1e-3, 0.01, 0.4]))
@quick
def test_function_is_the_kernel(both, normalise, shares, beta):
    q, g = both
    kernel = ReconstructionDistance(beta=beta, normalise=normalise)
    if shares:
        q = q.with_tensors(shares=torch.ones_like(q["shares"]))
        kernel = dataclasses.replace(kernel, shares="shares")
    found = reconstruction_distance(
        q["vectors"].double(),
        q["weights"],
        g["vectors"].double(),
        g["shares"].double() if shares else None,
        beta=beta,
        normalise=normalise,
    )
    assert found.dtype == torch.float64
    assert_close(found.float(), kernel.matrix(q, g), **close)


def test_function_in_single_precision_and_with_other_counts():
    q, g = crops(3, 5, 16, seed=1), crops(4, 2, 16, seed=2)
    found = reconstruction_distance(q["vectors"], q["weights"], g["vectors"])
    assert found.dtype == torch.float32
    for j in range(4):
        y = torch.stack([unit(v) for v in g["vectors"][j]], 1)
        for i in range(2):
            errors = torch.tensor([residual(unit(x), y, 0.01) for x in q["vectors"][i]])
            h = q["weights"][i] * q["vectors"][i].any(1)
            assert float(found[i, j]) == pytest.approx(float(h @ errors / h.sum()), abs=2e-5)


@pytest.mark.parametrize("normalise", [True, False])
def test_gradients_are_those_of_finite_differences(normalise):
    random = seeded(0)
    x, y = (torch.randn(n, 3, 5, generator=random, dtype=torch.float64) for n in (2, 3))
    h, shares = torch.rand(2, 3, generator=random).double() + 0.1, torch.rand(3, 3, generator=random).double() + 0.1
    inputs = [t.requires_grad_() for t in (x, h, y, shares)]
    assert torch.autograd.gradcheck(
        lambda *given: reconstruction_distance(*given, beta=0.05, normalise=normalise), inputs, atol=1e-6
    )


def test_gradients_stay_finite_where_there_is_nothing_to_learn():
    vectors = torch.ones(2, 3, 4)
    vectors[1, 2] = 0.0
    vectors.requires_grad_()
    weights = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]).requires_grad_()
    distance = reconstruction_distance(vectors, weights, vectors, torch.zeros(2, 3), beta=1e-4)
    assert distance.tolist() == [[1.0, 1.0]] * 2
    together = reconstruction_distance(vectors, weights, vectors, beta=1e-4)  # every error is at its floor
    (distance.sum() + together.sum()).backward()
    assert vectors.grad.isfinite().all()
    assert weights.grad.isfinite().all()


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"beta": 0.0}, r"beta: 0.0 is not above 0. Remedy: give a small positive number, such as 0.01"),
        ({"beta": math.nan}, "beta: nan is not above 0"),
        ({"rows": 0}, r"rows: 0 rows reconstruct nothing. Remedy: keep at least one, or None for all"),
        ({"compute": torch.float16}, r"compute: torch.float16 is not possible. Remedy: use torch.float32 or"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        ReconstructionDistance(**options)


@pytest.mark.parametrize(
    ("wrong", "distance", "said"),
    [
        ({"vectors": torch.ones(2, 3)}, EXACT, r"'vectors' is \[2, 3\] instead of \[n, N, d\]"),
        ({"vectors": torch.full((2, 4, 3), math.nan)}, EXACT, r"'vectors' is not finite in row 0 \(2 of 2 rows\)"),
        ({"weights": torch.ones(2, 3)}, EXACT, "'weights' has 3 columns, but 'vectors' has 4 parts"),
        ({"weights": torch.full((2, 4), 1.5)}, EXACT, r"'weights' has values outside \[0, 1\]"),
        ({"shares": torch.full((2, 4), -1.0)}, KINDS["shares"], r"'shares' has values outside \[0, 1\]"),
        (
            {"parts": torch.ones(2, 3, 2)},
            ReconstructionDistance(parts="parts"),
            "'parts' has 3 rows for 4 vectors. Remedy: give one row per vector",
        ),
        ({}, ReconstructionDistance(parts="parts", names=("a",)), "there are 3 parts, and the distance names 1"),
        ({}, ReconstructionDistance(names=("a",)), "there are 4 parts, and the distance names 1. Remedy: match with"),
        ({}, ReconstructionDistance(weights="h"), "there is no tensor 'h', only vectors, weights, shares, parts"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(wrong, distance, said):
    e = crops(2).with_tensors(**wrong)
    with pytest.raises(EmbeddingError, match=said):
        distance.matrix(e, e)


def test_pairs_that_do_not_fit_are_refused():
    q = crops(2)
    with pytest.raises(EmbeddingError, match="made by different weights"):
        EXACT.matrix(crops(2, made_by="a"), crops(2, made_by="b"))
    with pytest.raises(EmbeddingError, match=r"has rows of \[4, 8\], those of the query have \[4, 9\]"):
        EXACT.matrix(q, crops(2, 4, 8))
    with pytest.raises(EmbeddingError, match="has rows 0 to 9, but the gallery has 3"):
        EXACT.candidates(q[:1], crops(3), torch.tensor([[0, 9]]))
    with pytest.raises(EmbeddingError, match="2 queries and 2 gallery crops"):
        EXACT.explain(q, q)
