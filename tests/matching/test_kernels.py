import dataclasses

import naive_distances as naive
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_distances import crops, pairs
from torch.testing import assert_close

from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, EmbeddingError
from glimpse.matching import (
    Distance,
    GlobalDistance,
    MixedDistance,
    PairGlobalDistance,
    PartDistance,
    cosine_distance,
    kernels,
    pair_global_distance,
    pair_global_vectors,
    part_distance,
    unit_vectors,
)

VECTOR = GlobalDistance(vectors="vector")
QPM = MixedDistance(((0.6, PartDistance()), (0.4, PairGlobalDistance())))
NAIVE = {
    "part": (PartDistance(), naive.part),
    "part, no weights": (PartDistance(weights=None), lambda q, g: naive.part(q, g, weighted=False)),
    "part, sum": (PartDistance(normalise=False), lambda q, g: naive.part(q, g, normalise=False)),
    "part, root": (PartDistance(combine="sqrt_product"), lambda q, g: naive.part(q, g, combine="sqrt_product")),
    "part, root, sum": (
        PartDistance(combine="sqrt_product", normalise=False),
        lambda q, g: naive.part(q, g, combine="sqrt_product", normalise=False),
    ),
    "vector": (VECTOR, naive.single),
    "pair global": (PairGlobalDistance(), naive.pair_global),
    "mixed": (QPM, lambda q, g: 0.6 * naive.part(q, g) + 0.4 * naive.pair_global(q, g)),
}
each_distance = pytest.mark.parametrize("distance", [d for d, _ in NAIVE.values()], ids=NAIVE)
each_with_naive = pytest.mark.parametrize(("distance", "expected"), NAIVE.values(), ids=NAIVE)
quick = settings(max_examples=25, deadline=None, database=None)
close = {"rtol": 0, "atol": 1e-5}


def well_posed(q: Embedding, g: Embedding) -> torch.Tensor:
    """Pairs whose parts do not cancel out in the vectors of the pair."""
    out = torch.ones(len(q), len(g), dtype=torch.bool)
    for mine, other, swap in ((q, g, False), (g, q, True)):
        a = mine["weights"][:, None] * other["weights"][None]  # [m, o, k]
        length = torch.einsum("mok,mkd->mod", a, mine["globals"]).norm(dim=-1)
        terms = torch.einsum("mok,mk->mo", a, mine["globals"].norm(dim=-1))
        good = length >= 0.1 * terms
        out &= good.T if swap else good
    return out


def assert_near(distance: Distance, actual: torch.Tensor, expected: torch.Tensor, q: Embedding, g: Embedding) -> None:
    """Equal to 1e-5 where the distance promises it."""
    if distance is QPM or isinstance(distance, PairGlobalDistance):
        good = well_posed(q, g)
        actual, expected = actual[good], expected[good]
    assert_close(actual, expected, **close)


# ---------------------------------------------------------------- values


@each_with_naive
@given(both=pairs())
@quick
def test_matrix_is_the_double_loop_of_its_equation(distance, expected, both):
    q, g = both
    actual = distance.matrix(q, g)
    assert actual.dtype == torch.float32
    assert_near(distance, actual, expected(q, g), q, g)


@each_distance
@given(both=pairs(), data=st.data())
@quick
def test_candidates_are_the_matrix_at_their_index(distance, both, data):
    q, g = both
    n = data.draw(st.integers(0, 6))
    index = torch.tensor(data.draw(st.lists(st.integers(0, len(g) - 1), min_size=len(q) * n, max_size=len(q) * n)))
    index = index.long().view(len(q), n)
    expected = distance.matrix(q, g).gather(1, index)
    good = well_posed(q, g).gather(1, index) if distance is QPM or isinstance(distance, PairGlobalDistance) else ...
    assert_close(distance.candidates(q, g, index)[good], expected[good], **close)


@each_distance
@given(both=pairs(), data=st.data())
@quick
def test_order_of_gallery_and_of_parts_does_not_matter(distance, both, data):
    q, g = both
    rows = torch.tensor(data.draw(st.permutations(range(len(g)))))
    order = data.draw(st.permutations(range(q["parts"].shape[1])))

    def shuffled(e: Embedding) -> Embedding:
        return e.with_tensors(**{name: e[name][:, order] for name in ("parts", "weights", "globals")})

    matrix = distance.matrix(q, g)
    assert_near(distance, distance.matrix(q, g[rows]), matrix[:, rows], q, g[rows])
    assert_near(distance, distance.matrix(shuffled(q), shuffled(g)), matrix, q, g)


@each_distance
@given(both=pairs(), scale=st.floats(1e-3, 1e3))
@quick
def test_length_of_the_vectors_of_a_crop_does_not_matter(distance, both, scale):
    q, g = both
    scaled = g.with_tensors(**{name: g[name] * scale for name in ("parts", "globals", "vector")})
    assert_near(distance, distance.matrix(q, scaled), distance.matrix(q, g), q, g)


@pytest.mark.parametrize("combine", ["product", "sqrt_product"])
@given(both=pairs(), scale=st.floats(0.05, 1.0))
@quick
def test_normalised_part_distance_does_not_change_if_all_weights_of_a_crop_shrink(combine, both, scale):
    q, g = both
    fainter = g.with_tensors(weights=g["weights"] * scale)
    distance = PartDistance(combine=combine)
    pair = q["weights"] @ g["weights"].T
    clear = (pair == 0) | (pair > 1e-4)
    assert_close(distance.matrix(q, fainter)[clear], distance.matrix(q, g)[clear], **close)


@each_distance
def test_crop_is_at_zero_from_itself_and_ranks_first(distance):
    g = crops(12, seed=3)[:11]
    g = g.with_tensors(weights=g["weights"].clamp(min=0.1), parts=g["parts"] + 0.01)
    matrix = distance.matrix(g[torch.tensor([4, 7])], g)
    assert matrix.argmin(1).tolist() == [4, 7]
    assert_close(matrix[[0, 1], [4, 7]], torch.zeros(2), **close)


@pytest.mark.parametrize("normalise", [True, False])
def test_nothing_shared_is_farthest(normalise):
    parts = torch.eye(3)[None]
    q = Embedding({"parts": parts, "globals": parts, "weights": torch.tensor([[1.0, 0.0, 0.0]])})
    g = Embedding({"parts": parts, "globals": parts, "weights": torch.tensor([[0.0, 1.0, 1.0]])})
    distance = PartDistance(normalise=normalise, names=("head", "torso", "legs"))
    assert distance.matrix(q, g).item() == distance.farthest == (2.0 if normalise else 6.0)
    assert distance.candidates(q, g, torch.zeros(1, 1, dtype=torch.int64)).item() == distance.farthest
    assert PairGlobalDistance().matrix(q, g).item() == 2.0
    explanation = distance.explain(q, g)
    assert [part.distance for part in explanation.parts] == [None] * 3
    assert [part.share for part in explanation.parts] == [0.0] * 3
    assert explanation.distance == distance.farthest


@each_distance
@given(both=pairs())
@quick
def test_distances_lie_between_zero_and_farthest(distance, both):
    q, g = both
    if isinstance(distance, PartDistance):
        distance = dataclasses.replace(distance, names=tuple("abcdefg"[: q["parts"].shape[1]]))
    matrix = distance.matrix(q, g)
    assert matrix.min() >= 0
    assert matrix.max() <= distance.farthest


def test_part_distance_by_hand():
    # Shares 0.5 * 1 and 1 * 0.25 of 0.75; the first part is the same, the second turned by 90 degrees.
    q = Embedding({"parts": torch.tensor([[[2.0, 0.0], [0.0, 1.0]]]), "weights": torch.tensor([[0.5, 1.0]])})
    g = Embedding({"parts": torch.tensor([[[1.0, 0.0], [3.0, 0.0]]]), "weights": torch.tensor([[1.0, 0.25]])})
    assert PartDistance().matrix(q, g).item() == pytest.approx(1 / 3)
    assert PartDistance(normalise=False).matrix(q, g).item() == pytest.approx(0.25)
    assert PartDistance(weights=None).matrix(q, g).item() == pytest.approx(0.5)
    root = 0.5 / (0.5 + 0.5**0.5)
    assert PartDistance(combine="sqrt_product").matrix(q, g).item() == pytest.approx(root)


def test_hidden_part_does_not_count():
    q, g = crops(3, seed=1), crops(4, seed=2)
    for e in (q, g):
        e["weights"].fill_(1.0)
    q["weights"][:, 2] = 0.0
    other = g.with_tensors(parts=g["parts"].clone(), globals=g["globals"].clone())
    other["parts"][:, 2] = -5.0
    other["globals"][:, 2] = 0.0
    assert_close(QPM.matrix(q, other), QPM.matrix(q, g), **close)


# ---------------------------------------------------------------- preparing, storing, computing in low precision


@each_distance
def test_prepare_is_idempotent_and_changes_nothing(distance):
    q, g = crops(5, seed=1, made_by="m@1"), crops(7, seed=2, made_by="m@1")
    prepared = distance.prepare(g)
    again = distance.prepare(prepared)
    assert again.names == prepared.names
    assert all(again[name] is prepared[name] for name in again.names)
    assert prepared.made_by == "m@1"
    assert "parts" not in prepared.names
    expected = distance.matrix(q, g)
    for query, gallery in ((q, prepared), (distance.prepare(q), g), (distance.prepare(q), prepared)):
        assert_close(distance.matrix(query, gallery), expected, rtol=0, atol=0)
        index = torch.zeros(5, 1, dtype=torch.int64)
        assert_close(distance.candidates(query, gallery, index), expected[:, :1], **close)
    assert_close(distance.shortlist_vectors(prepared), distance.shortlist_vectors(g), **close)


def test_prepare_leaves_its_input_alone():
    e = crops(4)
    before = {name: t.clone() for name, t in e.tensors.items()}
    QPM.prepare(e)
    assert all(torch.equal(e[name], t) for name, t in before.items())


def in_many_sizes(n: int, seed: int) -> Embedding:
    e = crops(n, k=6, d=128, seed=seed)
    return e.with_tensors(weights=torch.where(e["weights"] > 0, e["weights"].clamp(min=2**-8), 0.0))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 0.002), (torch.bfloat16, 0.016)])
@pytest.mark.parametrize("distance", [PartDistance(), PartDistance(combine="sqrt_product"), PartDistance(weights=None)])
def test_error_of_stored_parts_is_bounded(distance, dtype, bound):
    q, g = in_many_sizes(40, 1), in_many_sizes(60, 2)
    g = Embedding.cat([g, q])
    exact = distance.matrix(q, g)
    stored = distance.matrix(distance.prepare(q).to(dtype=dtype), distance.prepare(g).to(dtype=dtype))
    assert stored.dtype == torch.float32
    assert (stored - exact).abs().max() <= bound
    assert (stored - exact).abs().max() > 0
    everything = torch.arange(100).expand(40, -1)
    stored = distance.candidates(distance.prepare(q).to(dtype=dtype), distance.prepare(g).to(dtype=dtype), everything)
    assert (stored - exact).abs().max() <= bound


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 0.001), (torch.bfloat16, 0.008)])
def test_error_of_stored_vectors_is_bounded(dtype, bound):
    q, g = in_many_sizes(40, 1), in_many_sizes(60, 2)
    exact = VECTOR.matrix(q, g)
    stored = VECTOR.matrix(VECTOR.prepare(q).to(dtype=dtype), VECTOR.prepare(g).to(dtype=dtype))
    assert (stored - exact).abs().max() <= bound


@pytest.mark.parametrize(("normalise", "bound"), [(True, 0.006), (False, 0.036)])
def test_error_of_bfloat16_products_is_bounded(normalise, bound):
    q, g = in_many_sizes(40, 1), in_many_sizes(60, 2)
    g = Embedding.cat([g, q])
    exact = PartDistance(normalise=normalise).matrix(q, g)
    distance = PartDistance(normalise=normalise, compute=torch.bfloat16)
    fast = distance.matrix(q, g)
    assert fast.dtype == torch.float32
    assert 0 < (fast - exact).abs().max() <= bound
    picked = distance.candidates(q, g, torch.arange(100).expand(40, -1))
    assert (picked - exact).abs().max() <= bound


def test_autocast_does_not_touch_distances():
    q, g = crops(4, seed=1), crops(5, seed=2)
    index = torch.arange(5).expand(4, -1)
    for distance, _ in NAIVE.values():
        exact = distance.matrix(q, g)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_close(distance.matrix(q, g), exact, **close)
            assert_close(distance.candidates(q, g, index), exact, rtol=0, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = part_distance(q["parts"], q["weights"], g["parts"], g["weights"])
    assert_close(trained, PartDistance().matrix(q, g), **close)


@pytest.mark.parametrize("workspace", [1, 5_000, 100_000])
@each_distance
def test_block_size_does_not_matter(distance, workspace, monkeypatch):
    q, g = crops(9, seed=1), crops(13, seed=2)
    index = torch.randint(13, (9, 5), generator=torch.Generator().manual_seed(0))
    matrix, picked = distance.matrix(q, g), distance.candidates(q, g, index)
    stored = distance.prepare(g).to(dtype=torch.float16)
    from_stored = distance.matrix(q, stored)
    monkeypatch.setattr(kernels, "WORKSPACE_BYTES", workspace)
    assert_close(distance.matrix(q, g), matrix, **close)
    assert_close(distance.candidates(q, g, index), picked, **close)
    assert_close(distance.matrix(q, stored), from_stored, **close)


@each_distance
def test_no_rows_give_no_distances(distance):
    q, g = crops(3), crops(4)
    assert distance.matrix(q, g[:0]).shape == (3, 0)
    assert distance.matrix(q[:0], g).shape == (0, 4)
    assert distance.candidates(q, g, torch.empty(3, 0, dtype=torch.int64)).shape == (3, 0)
    assert distance.candidates(q[:0], g, torch.empty(0, 2, dtype=torch.int64)).shape == (0, 2)


# ---------------------------------------------------------------- explanations and shortlists


@pytest.mark.parametrize("combine", ["product", "sqrt_product"])
def test_explained_parts_add_up_to_the_distance(combine):
    distance = PartDistance(combine=combine, names=("head", "torso", "legs", "feet"))
    q, g = crops(6, seed=5), crops(6, seed=6)
    for i in range(5):
        explanation = distance.explain(q[i], g[i])
        compared = [part for part in explanation.parts if part.compared]
        assert explanation.distance == pytest.approx(float(distance.matrix(q, g)[i, i]), abs=1e-6)
        if compared:
            assert sum(part.share for part in explanation.parts) == pytest.approx(1.0)
            assert sum(part.share * part.distance for part in compared) == pytest.approx(explanation.distance, abs=1e-5)
        for k, part in enumerate(explanation.parts):
            assert part.name == ("head", "torso", "legs", "feet")[k]
            assert part.query_weight == pytest.approx(float(q["weights"][i, k]), abs=1e-6)
            assert part.gallery_weight == pytest.approx(float(g["weights"][i, k]), abs=1e-6)
            assert part.compared == (part.query_weight * part.gallery_weight > 1e-6)
            if part.compared:
                expected = 1 - naive.cosine(q["parts"][i, k], g["parts"][i, k])
                assert part.distance == pytest.approx(expected, abs=1e-5)


def test_explained_mixture_scales_shares_by_the_terms():
    q = Embedding({"parts": torch.eye(2)[None], "globals": torch.eye(2)[None], "weights": torch.ones(1, 2)})
    explanation = QPM.explain(q, q)
    assert [part.name for part in explanation.parts] == ["part 1", "part 2", "global"]
    assert [part.share for part in explanation.parts] == pytest.approx([0.3, 0.3, 0.4])
    assert explanation.distance == pytest.approx(0.0, abs=1e-6)
    hidden = q.with_tensors(weights=torch.zeros(1, 2))
    assert [part.share for part in QPM.explain(q, hidden).parts] == [0.0, 0.0, 0.0]
    assert not any(part.compared for part in QPM.explain(q, hidden).parts)


def test_explaining_more_than_a_pair_is_an_error():
    with pytest.raises(EmbeddingError, match=r"2 queries and 1 gallery crops.*one pair at a time"):
        PartDistance().explain(crops(2), crops(1))


def test_shortlist_vectors_order_a_fully_visible_gallery_like_the_distance():
    q, g = crops(5, seed=1), crops(30, seed=2)
    for e in (q, g):
        e["weights"].fill_(1.0)
        e["parts"].add_(0.01)
    for distance in (PartDistance(), PartDistance(weights=None), PartDistance(combine="sqrt_product"), VECTOR):
        vectors = distance.shortlist_vectors(q), distance.shortlist_vectors(g)
        assert_close(vectors[1].norm(dim=1), torch.ones(30), **close)
        assert_close(1 - vectors[0] @ vectors[1].T, distance.matrix(q, g), **close)
    both = QPM.shortlist_vectors(q) @ QPM.shortlist_vectors(g).T
    terms = [weight * d.shortlist_vectors(q) @ d.shortlist_vectors(g).T for weight, d in QPM.terms]
    assert_close(both, sum(terms), **close)


@pytest.mark.parametrize("combine", ["product", "sqrt_product"])
def test_a_pair_is_nearer_than_a_level_where_a_difference_is_positive(combine):
    q, g = crops(5, seed=1), crops(40, seed=2)
    q["weights"][0, 0] = 0
    distance = PartDistance(combine=combine)
    (a, b), (c, d) = distance.ratio_vectors(q), distance.ratio_vectors(g)
    compared = b @ d.T > 1e-6
    assert compared.sum() > 100
    like = 1 - distance.matrix(q, g)
    assert_close((a @ c.T / (b @ d.T).clamp(min=1e-6))[compared], like[compared], rtol=0, atol=1e-5)
    for level in (-0.5, 0.0, 0.1, 0.3):
        positive = torch.cat([a, -level * b], 1) @ torch.cat([c, d], 1).T > 0
        sure = compared & ((like - level).abs() > 1e-5)
        assert torch.equal(positive[sure], (like > level)[sure])
        assert int(positive.sum()) > 0
    plain = PartDistance(combine=combine, normalise=False)
    assert_close((b @ d.T - a @ c.T)[compared], plain.matrix(q, g)[compared], rtol=0, atol=1e-5)


def test_without_weights_all_parts_count_alike():
    products, sums = PartDistance(weights=None).ratio_vectors(crops(3))
    assert_close(products.square().sum(1), sums.sum(1), **close)
    assert torch.equal(sums, torch.ones_like(sums))


@pytest.mark.parametrize("combine", ["product", "sqrt_product"])
def test_shortlist_vectors_weigh_parts_by_the_root_of_both_weights(combine):
    q, g = crops(5, seed=1), crops(6, seed=2)
    distance = PartDistance(combine=combine)
    root = (q["weights"][:, None] * g["weights"][None]).sqrt()
    cosines = torch.einsum("qkd,gkd->qgk", unit_vectors(q["parts"]), unit_vectors(g["parts"]))
    seen = [(e["weights"] * (e["parts"].norm(dim=-1) > 0)).sum(1) for e in (q, g)]
    expected = (root * cosines).sum(-1) / (seen[0][:, None] * seen[1][None]).sqrt().clamp(min=1e-6)
    assert_close(distance.shortlist_vectors(q) @ distance.shortlist_vectors(g).T, expected, rtol=0, atol=1e-4)


# ---------------------------------------------------------------- functions of the training losses


@pytest.mark.parametrize("combine", ["product", "sqrt_product"])
@pytest.mark.parametrize("normalise", [True, False])
def test_functions_are_the_kernels(normalise, combine):
    q, g = crops(4, seed=1), crops(5, seed=2)
    args = q["parts"], q["weights"], g["parts"], g["weights"]
    kernel = PartDistance(normalise=normalise, combine=combine)
    assert_close(part_distance(*args, normalise=normalise, combine=combine), kernel.matrix(q, g), **close)
    assert_close(cosine_distance(q["vector"], g["vector"]), VECTOR.matrix(q, g), **close)
    args = q["globals"], q["weights"], g["globals"], g["weights"]
    assert_close(pair_global_distance(*args), PairGlobalDistance().matrix(q, g), **close)


def test_pair_global_vectors_are_weighted_sums():
    q, g = crops(3, seed=1), crops(4, seed=2)
    h_q, h_g = pair_global_vectors(q["globals"], q["weights"], g["globals"], g["weights"])
    assert h_q.shape == h_g.shape == (3, 4, 6)
    for i in range(3):
        for j in range(4):
            a = q["weights"][i] * g["weights"][j]
            a = a / a.sum() if a.sum() > 1e-6 else 0 * a
            assert_close(h_q[i, j], (a[:, None] * q["globals"][i]).sum(0), **close)
            assert_close(h_g[i, j], (a[:, None] * g["globals"][j]).sum(0), **close)


def in_double(q_parts, q_weights, g_parts, g_weights, kind):
    """The equations on a `[q, g, k]` tensor in float64, for automatic differentiation."""
    pair = q_weights[:, None] * g_weights[None]
    if kind == "pair global":
        h_q = torch.einsum("qgk,qkd->qgd", pair, q_parts)
        h_g = torch.einsum("qgk,gkd->qgd", pair, g_parts)
        return 1 - torch.cosine_similarity(h_q, h_g, dim=-1)
    distance = 1 - torch.cosine_similarity(q_parts[:, None], g_parts[None], dim=-1)
    if kind == "part, root, sum":
        return (pair.sqrt() * distance).sum(-1)
    return (pair * distance).sum(-1) / pair.sum(-1)


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("part", part_distance),
        ("part, root, sum", lambda *a: part_distance(*a, combine="sqrt_product", normalise=False)),
        ("pair global", pair_global_distance),
    ],
)
def test_gradients_are_those_of_the_equation(kind, function):
    q, g = crops(4, k=3, d=5, seed=1), crops(3, k=3, d=5, seed=2)
    inputs = [e[name].clamp(0.05, 1) if name == "weights" else e[name] + 0.1 for e in (q, g) for name in e.names[:2]]
    probe = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    single = [t.clone().requires_grad_() for t in inputs]
    double = [t.double().requires_grad_() for t in inputs]
    actual = torch.autograd.grad((function(*single) * probe).sum(), single)
    expected = torch.autograd.grad((in_double(*double, kind) * probe).sum(), double)
    for one, two in zip(actual, expected, strict=True):
        assert_close(one, two.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        part_distance,
        lambda *a: part_distance(*a, combine="sqrt_product"),
        lambda *a: part_distance(*a, normalise=False),
        pair_global_distance,
        lambda *a: torch.cat(pair_global_vectors(*a)),
    ],
    ids=["part", "part, root", "part, sum", "pair global", "vectors"],
)
def test_gradients_are_finite_and_tame_at_zero_parts_and_zero_weights(function):
    e = crops(6, seed=4)
    e["parts"][0] = 0.0
    e["parts"][1, 2] = 0.0
    e["weights"][2] = 0.0
    e["weights"][3, 1:] = 0.0
    parts, weights = e["parts"].requires_grad_(), e["weights"].requires_grad_()
    function(parts, weights, parts, weights).sum().backward()
    assert parts.grad.abs().max() < 1e3
    assert weights.grad.isfinite().all()
    if function is part_distance:
        assert not parts.grad[2].any()  # nothing is shared with it


# ---------------------------------------------------------------- errors


def test_missing_tensor_is_an_error():
    with pytest.raises(EmbeddingError, match=r"no tensor 'parts', only vector.*Remedy: match with the distance"):
        PartDistance().matrix(crops(2), Embedding({"vector": torch.zeros(2, 3)}))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"parts": torch.zeros(2, 3)}, r"'parts' is \[2, 3\] instead of \[n, k, d\]"),
        ({"weights": torch.zeros(2, 3)}, "'weights' has 3 columns, but 'parts' has 4 parts"),
        ({"weights": torch.full((2, 4), 1.5)}, r"'weights' has values outside \[0, 1\]"),
        ({"weights": torch.full((2, 4), -0.5)}, r"'weights' has values outside \[0, 1\]"),
        ({"parts": torch.full((2, 4, 6), torch.nan)}, r"'parts' is not finite in row 0 \(2 of 2 rows\)"),
        ({"weights": torch.full((2, 4), torch.inf)}, "'weights' is not finite in row 0"),
        ({"parts": torch.zeros(2, 4, 5)}, r"has rows of \[4, 5\], those of the query have \[4, 6\]"),
    ],
)
def test_wrong_tensors_are_errors(tensors, message):
    with pytest.raises(EmbeddingError, match=message):
        PartDistance().matrix(crops(2), crops(2).with_tensors(**tensors))


def test_vector_of_the_wrong_shape_is_an_error():
    with pytest.raises(EmbeddingError, match=r"'globals' is \[2, 4, 6\] instead of \[n, d\]"):
        GlobalDistance().matrix(crops(2), crops(2))


@each_distance
def test_embeddings_of_different_weights_are_not_compared(distance):
    q, g = crops(2, made_by="qpm@1"), crops(2, made_by="qpm@2")
    for call in (
        lambda: distance.matrix(q, g),
        lambda: distance.matrix(distance.prepare(q), distance.prepare(g)),
        lambda: distance.candidates(q, g, torch.zeros(2, 1, dtype=torch.int64)),
        lambda: distance.explain(q[0], g[0]),
    ):
        with pytest.raises(EmbeddingError, match=r"'qpm@1' and 'qpm@2'.*embed both with the same weights"):
            call()
    assert distance.matrix(q, crops(2)).shape == (2, 2)  # an unknown maker is not an error


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (torch.tensor([[0], [3]]), "has rows 0 to 3, but the gallery has 3"),
        (torch.tensor([[-1], [0]]), "has rows -1 to 0, but the gallery has 3"),
        (torch.zeros(1, 2, dtype=torch.int64), r"\[1, 2\] for 2 queries"),
        (torch.zeros(2, 2), "is torch.float32"),
    ],
)
@each_distance
def test_wrong_index_is_an_error(distance, index, message):
    with pytest.raises(EmbeddingError, match=message):
        distance.candidates(crops(2), crops(3), index)


def test_wrong_settings_are_errors():
    with pytest.raises(ConfigError, match="combine: 'sum' is unknown"):
        PartDistance(combine="sum")
    with pytest.raises(ConfigError, match="compute"):
        PartDistance(compute=torch.float16)
    with pytest.raises(ConfigError, match="no distance to mix"):
        MixedDistance(())
    with pytest.raises(ConfigError, match=r"weight 0.0 is not positive"):
        MixedDistance(((0.0, PartDistance()),))
    with pytest.raises(ConfigError, match="number of parts is not known"):
        _ = PartDistance(normalise=False).farthest
    with pytest.raises(EmbeddingError, match="'parts' has 4 parts, the distance 2"):
        PartDistance(names=("upper", "lower")).prepare(crops(2))
    with pytest.raises(EmbeddingError, match="'parts' has 4 parts, the distance 2"):
        PartDistance(names=("upper", "lower")).prepare(PartDistance().prepare(crops(2)))


@each_distance
def test_distances_follow_the_contract(distance):
    assert isinstance(distance, Distance)
    assert hash(distance) == hash(dataclasses.replace(distance))
