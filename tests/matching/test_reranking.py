"""Re-ranking in lists of neighbours against the dense form, and query expansion against a sum."""

import naive_reranking as naive
import pytest
import torch
from naive_distances import crops as parts_of
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, EmbeddingError
from glimpse.matching import (
    Cascade,
    GlobalDistance,
    KReciprocal,
    MixedDistance,
    PairGlobalDistance,
    PartDistance,
    ReconstructionDistance,
    distance_rows,
    expand,
    k_reciprocal,
    rerank_candidates,
    reranking,
    top_k,
)

QPM = MixedDistance(((0.6, PartDistance()), (0.4, PairGlobalDistance())))
DISTANCES = {
    "part": PartDistance(),
    "global": GlobalDistance("vector"),
    "cascade": Cascade(PartDistance(), QPM, 8),
    "reconstruction": ReconstructionDistance("parts", beta=0.05),
}
each_distance = pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
SETTINGS = [KReciprocal(5, 3, 0.3), KReciprocal(7, 1, 0.0), KReciprocal(11, 4, 0.6), KReciprocal(50, 6, 0.3)]
each_setting = pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s.k1},{s.k2},{s.lam}")
close = {"rtol": 0, "atol": 1e-5}


def crops(n: int, seed: int = 0, people: int = 6, noise: float = 0.8) -> Embedding:
    """Crops of a few people, some parts of them hidden; the first half of the parts is the clearer one."""
    faces, these = parts_of(people, d=12, seed=99), parts_of(n, d=12, seed=seed)
    who = torch.randint(people, (n,), generator=torch.Generator().manual_seed(seed))
    return these.with_tensors(
        **{name: faces[name][who] + noise * these[name] for name in ("parts", "globals", "vector")},
    )


def everyone(query: Embedding, gallery: Embedding) -> Embedding:
    return Embedding.cat([query, gallery])


def rows_of(blocks) -> torch.Tensor:
    return torch.cat([distances for _, distances in blocks])


def dense(distance, query, gallery, settings) -> torch.Tensor:
    together = everyone(query, gallery)
    original = distance.matrix(query, gallery)
    near = distance.fine.matrix(together, together) if isinstance(distance, Cascade) else None
    how = settings.k1, settings.k2, settings.lam
    return naive.dense(distance.matrix(together, together), original, *how, near).float()


# ---------------------------------------------------------------- k-reciprocal


@each_distance
@each_setting
@pytest.mark.parametrize("seed", range(3))
def test_is_the_dense_form(distance, settings, seed):
    query, gallery = crops(7, seed=2 * seed), crops(30, seed=2 * seed + 1)
    found = list(k_reciprocal(distance, query, gallery, settings))
    assert [rows for rows, _ in found] == [slice(0, 7)]
    assert_close(found[0][1], dense(distance, query, gallery, settings), **close)


def test_of_unit_vectors_is_the_published_form_with_squared_euclidean_distances():
    query, gallery, settings = crops(7, seed=1), crops(30, seed=2), KReciprocal(8, 3)
    unit = torch.nn.functional.normalize(everyone(query, gallery)["vector"].double(), dim=1)
    squared = (unit[:, None] - unit[None]).square().sum(2)
    expected = naive.dense(squared, squared[:7, 7:], settings.k1, settings.k2, settings.lam).float()
    assert_close(rows_of(k_reciprocal(GlobalDistance("vector"), query, gallery, settings)), expected, **close)


@each_distance
@pytest.mark.parametrize("block", [1, 7, 100])
@pytest.mark.parametrize("max_bytes", [1, 5_000, 1 << 28])
def test_does_not_depend_on_block_sizes(distance, block, max_bytes, monkeypatch):
    query, gallery, settings = crops(9, seed=3), crops(25, seed=4), KReciprocal(6, 3)
    expected = rows_of(k_reciprocal(distance, query, gallery, settings))
    monkeypatch.setattr(reranking, "WORKSPACE_BYTES", block * 1000)
    found = list(k_reciprocal(distance, query, gallery, settings, max_bytes=max_bytes, gallery_block=block))
    assert [i for rows, _ in found for i in range(rows.start, rows.stop)] == list(range(9))
    assert_close(rows_of(found), expected, **close)


def test_by_hand():
    """Angles of 0, 60 and 180 degrees; with one neighbour, only the first two choose each other."""
    angles = torch.deg2rad(torch.tensor([0.0, 60.0, 180.0]))
    three = Embedding({"vector": torch.stack([angles.cos(), angles.sin()], 1)})
    [(_, found)] = k_reciprocal(GlobalDistance("vector"), three[:1], three[1:], KReciprocal(1, 1, 0.3))
    # d is 1/2, 2 and 3/2; by the largest of each crop: d(0, 1) = 1/4 and d(1, 0) = 1/3.
    v_0, v_1 = torch.tensor([0.0, -1 / 4]).softmax(0), torch.tensor([-1 / 3, 0.0]).softmax(0)
    shared = torch.minimum(v_0, v_1).sum()
    expected = torch.stack([0.7 * (1 - shared / (2 - shared)) + 0.3 / 4, torch.tensor(1.0)])
    assert_close(found[0], expected, **close)


def test_common_neighbours_bring_a_crop_forward():
    """A crop beyond a stranger, but with the query's own people around it, comes before the stranger."""
    angles = torch.deg2rad(torch.tensor([0.0, -34.0, 10.0, 20.0, 36.0, -60.0, -61.0, -62.0]))
    line = Embedding({"vector": torch.stack([angles.cos(), angles.sin()], 1)})
    query, gallery, distance = line[:1], line[1:], GlobalDistance("vector")
    before = top_k(distance, query, gallery, 4).index.tolist()
    assert before == [[1, 2, 0, 3]]
    after = rows_of(k_reciprocal(distance, query, gallery, KReciprocal(3, 2)))
    assert after.argsort(1)[:, :4].tolist() == [[1, 2, 3, 0]]


@each_distance
def test_lambda_of_1_is_the_order_of_the_distance(distance):
    query, gallery = crops(5, seed=1), crops(30, seed=2)
    found = rows_of(k_reciprocal(distance, query, gallery, KReciprocal(5, 2, 1.0)))
    expected = rows_of(distance_rows(distance, query, gallery))
    assert found.argsort(dim=1, stable=True).tolist() == expected.argsort(dim=1, stable=True).tolist()


@each_distance
def test_order_of_the_gallery_does_not_matter(distance):
    query, gallery = crops(6, seed=1)[:5], crops(20, seed=2)[:19]  # the last crop hides everything, and ties
    order = torch.randperm(19, generator=torch.Generator().manual_seed(0))
    found = rows_of(k_reciprocal(distance, query, gallery[order], KReciprocal(5, 2)))
    assert_close(found, rows_of(k_reciprocal(distance, query, gallery, KReciprocal(5, 2)))[:, order], **close)


def test_the_asymmetric_distance_asks_in_both_directions():
    """Columns know their neighbours from their own side: the transposed distance gives something else."""

    class Transposed(ReconstructionDistance):
        def matrix(self, query, gallery):
            return super().matrix(gallery, query).T.contiguous()

        def candidates(self, query, gallery, index):
            return self.matrix(query, gallery).gather(1, index)

    query, gallery, settings = crops(6, seed=1), crops(20, seed=2), KReciprocal(5, 3, 0.0)
    ours, other = ReconstructionDistance("parts"), Transposed("parts")
    found, turned = (rows_of(k_reciprocal(d, query, gallery, settings)) for d in (ours, other))
    assert_close(turned, dense(other, query, gallery, settings), **close)
    assert (found - turned).abs().max() > 0.01


@pytest.mark.parametrize("gallery_block", [2, 100])
def test_ties_go_to_the_first(gallery_block):
    """Copies of three people in one-hot vectors, whose products are not rounded: more copies than neighbours."""
    hot = Embedding({"vector": torch.eye(3)[torch.arange(30) % 3]})
    settings = KReciprocal(4, 2, 0.3)
    query, gallery = hot[:3], hot[3:]
    found = rows_of(
        k_reciprocal(GlobalDistance("vector"), query, gallery, settings, max_bytes=1, gallery_block=gallery_block)
    )
    assert_close(found, dense(GlobalDistance("vector"), query, gallery, settings), **close)
    # The first copies are everybody's neighbours, the last ones nobody's.
    assert found[0, 0] < found[0, -3]


@each_distance
def test_crops_that_show_nothing(distance):
    """Everything is as far as can be from them, themselves too: they have no neighbour but themselves, and no NaN."""
    gallery = crops(30, seed=2)
    hidden = gallery[:2].with_tensors(weights=torch.zeros(2, 4), parts=torch.zeros(2, 4, 12), vector=torch.zeros(2, 12))
    found = rows_of(k_reciprocal(distance, hidden, gallery[:28], KReciprocal(5, 2)))
    assert_close(found, dense(distance, hidden, gallery[:28], KReciprocal(5, 2)), **close)
    assert found.isfinite().all()


def test_sets_smaller_than_the_lists():
    distance = GlobalDistance("vector")
    same = Embedding({"vector": torch.ones(3, 1)})
    assert rows_of(k_reciprocal(distance, same[:1], same[1:])).tolist() == [[0.0, 0.0]]  # all at no distance
    assert list(k_reciprocal(distance, same[:0], same)) == []
    [(rows, distances)] = k_reciprocal(distance, same[:1], same[:0])
    assert (rows, distances.shape) == (slice(0, 1), (1, 0))
    for q, g in ((1, 1), (2, 3)):
        query, gallery = crops(q, seed=1), crops(g, seed=2)
        found = rows_of(k_reciprocal(PartDistance(), query, gallery))
        assert_close(found, dense(PartDistance(), query, gallery, KReciprocal()), **close)


def test_memory_stays_within_its_bound():
    """No tensor made on the way is larger than the bound."""
    query, gallery = crops(40, seed=1), crops(600, seed=2)
    bound = 200_000
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel() * out.element_size())
            return out

    distance = GlobalDistance("vector")
    prepared = distance.prepare(query), distance.prepare(gallery)
    with Watch(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("glimpse.matching.kernels.WORKSPACE_BYTES", bound)
        patch.setattr(reranking, "WORKSPACE_BYTES", bound)
        sizes = [d.numel() * 4 for _, d in k_reciprocal(distance, *prepared, max_bytes=bound, gallery_block=100)]
    assert len(sizes) > 1
    assert largest <= bound


# ---------------------------------------------------------------- of the candidates of a query


@each_distance
def test_candidates_are_a_gallery_of_their_own(distance):
    query, gallery, settings = crops(3, seed=1), crops(40, seed=2), KReciprocal(5, 2)
    index = top_k(distance, query, gallery, 15).index
    found = rerank_candidates(distance, query, gallery, index, settings)
    for i in range(3):
        chosen = sorted(index[i].tolist())
        expected = dense(distance, query[i], gallery[torch.tensor(chosen)], settings)[0]
        order = sorted(range(15), key=lambda j: (float(expected[j]), j))
        assert found.index[i].tolist() == [chosen[j] for j in order]
        assert_close(found.distance[i], expected[torch.tensor(order)], **close)
    shuffled = rerank_candidates(distance, query, gallery, index.flip(1), settings)
    assert torch.equal(found.index, shuffled.index)
    assert found.distance.dtype == torch.float32


def test_no_candidates():
    none = torch.empty(2, 0, dtype=torch.int64)
    assert rerank_candidates(PartDistance(), crops(2), crops(5), none).index.shape == (2, 0)
    assert rerank_candidates(PartDistance(), crops(2)[:0], crops(5), none[:0]).distance.shape == (0, 0)


# ---------------------------------------------------------------- query expansion


@each_distance
@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("bounds", [(1 << 28, 16384), (1, 3), (3000, 16)])
def test_expansion_is_the_weighted_mean(distance, alpha, bounds):
    query, gallery = crops(5, seed=1), crops(30, seed=2)
    index = top_k(distance, query, gallery, 4).index
    found = list(expand(distance, query, gallery, index, alpha=alpha, max_bytes=bounds[0], gallery_block=bounds[1]))
    assert [i for rows, _ in found for i in range(rows.start, rows.stop)] == list(range(5))
    far = (distance.fine if isinstance(distance, Cascade) else distance).farthest
    matrices = distance.matrix(query, gallery), distance.matrix(gallery, gallery)
    assert_close(rows_of(found), naive.expanded(*matrices, index, alpha, far).float(), **close)


def test_expansion_of_the_cosine_distance_is_that_of_the_vector():
    """alpha-QE: rank by the cosine with the sum of the unit vectors, each times its cosine to the power of alpha."""
    query, gallery, distance = crops(6, seed=1), crops(40, seed=2), GlobalDistance("vector")
    index = top_k(distance, query, gallery, 5).index
    q, g = (torch.nn.functional.normalize(side["vector"], dim=1) for side in (query, gallery))
    cosine = (q[:, None] * g[index]).sum(2, keepdim=True).clamp(min=0)
    vector = q + (cosine**3 * g[index]).sum(1)
    expected = distance.matrix(Embedding({"vector": vector}), gallery)
    found = rows_of(expand(distance, query, gallery, index))
    assert found.argsort(dim=1, stable=True).tolist() == expected.argsort(dim=1, stable=True).tolist()
    length = vector.norm(dim=1, keepdim=True) / (1 + (cosine**3).sum(1))
    assert_close(found, 1 - length * (1 - expected), **close)


def test_without_neighbours_nothing_changes():
    query, gallery = crops(4, seed=1), crops(10, seed=2)
    for index in (torch.empty(4, 0, dtype=torch.int64), PartDistance().matrix(query, gallery).argmax(1)[:, None]):
        found = rows_of(expand(PartDistance(), query, gallery, index))
        assert_close(found, PartDistance().matrix(query, gallery), **close)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k1": 0}, "k1: 0 neighbours are none. Remedy: ask for at least one, such as 20."),
        ({"k2": 0}, "k2: 0 is out of range. Remedy: give 1 to 20, which is k1."),
        ({"k1": 3, "k2": 4}, "k2: 4 is out of range. Remedy: give 1 to 3, which is k1."),
        ({"lam": 1.5}, "lambda: 1.5 is not a share. Remedy: give a number from 0 to 1, such as 0.3."),
        ({"lam": float("nan")}, "lambda: nan is not a share. Remedy: give a number from 0 to 1, such as 0.3."),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigError) as error:
        KReciprocal(**settings)
    assert str(error.value) == message


def test_errors():
    query, gallery, distance = crops(2, seed=1), crops(5, seed=2), PartDistance()
    with pytest.raises(ConfigError, match="max_bytes: 0 leaves no room"):
        next(k_reciprocal(distance, query, gallery, max_bytes=0))
    with pytest.raises(ConfigError, match="gallery_block: -1"):
        next(k_reciprocal(distance, query, gallery, gallery_block=-1))
    with pytest.raises(EmbeddingError, match="different weights"):
        next(k_reciprocal(distance, parts_of(2, made_by="a"), parts_of(2, made_by="b")))
    with pytest.raises(EmbeddingError, match="index: has row 3 twice for query 1"):
        rerank_candidates(distance, query, gallery, torch.tensor([[0, 1, 2], [3, 1, 3]]))
    with pytest.raises(EmbeddingError, match="has rows 0 to 9, but the gallery has 5"):
        rerank_candidates(distance, query, gallery, torch.tensor([[0], [9]]))
    with pytest.raises(EmbeddingError, match="has rows 0 to 9, but the gallery has 5"):
        next(expand(distance, query, gallery, torch.tensor([[0], [9]])))
    with pytest.raises(ConfigError, match="alpha: -1 is out of range"):
        next(expand(distance, query, gallery, torch.tensor([[0], [1]]), alpha=-1))
    with pytest.raises(ConfigError, match="max_bytes: 0 leaves no room"):
        next(expand(distance, query, gallery, torch.tensor([[0], [1]]), max_bytes=0))
    with pytest.raises(ConfigError, match="the largest distance is not known"):
        next(expand(ReconstructionDistance("parts", normalise=False), query, gallery, torch.tensor([[0], [1]])))


def test_an_embedding_whose_maker_is_known_on_one_side_only():
    query, gallery = parts_of(3, seed=1), parts_of(8, seed=2, made_by="qpm@0")
    found = rows_of(k_reciprocal(PartDistance(), query, gallery))
    assert_close(found, rows_of(k_reciprocal(PartDistance(), query, parts_of(8, seed=2))), **close)
