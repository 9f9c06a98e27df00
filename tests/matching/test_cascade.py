import naive_distances as naive
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_distances import crops
from torch.testing import assert_close

from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, EmbeddingError
from glimpse.matching import (
    Cascade,
    Distance,
    GlobalDistance,
    MixedDistance,
    PairGlobalDistance,
    PartDistance,
    cascade,
    smallest,
)

COARSE, FINE = PartDistance(), MixedDistance(((0.6, PartDistance()), (0.4, PairGlobalDistance())))
quick = settings(max_examples=30, deadline=None, database=None)


def order(matrix: torch.Tensor) -> list[list[int]]:
    return [naive.stable_order(row) for row in matrix.tolist()]


@given(seed=st.integers(0, 2**31), g=st.integers(1, 15), n=st.integers(1, 20))
@quick
def test_order_is_the_n_best_by_fine_and_then_the_rest_by_coarse(seed, g, n):
    query, gallery = crops(3, seed=seed), crops(g, seed=seed + 1)
    distance = Cascade(COARSE, FINE, n)
    coarse, fine = COARSE.matrix(query, gallery), FINE.matrix(query, gallery)
    assert order(distance.matrix(query, gallery)) == naive.cascade_order(coarse, fine, n)


def test_values_are_fine_for_the_best_and_beyond_farthest_for_the_rest():
    query, gallery = crops(4, seed=1), crops(20, seed=2)
    matrix = Cascade(COARSE, FINE, 5).matrix(query, gallery)
    coarse, fine = COARSE.matrix(query, gallery), FINE.matrix(query, gallery)
    for i in range(4):
        best = naive.stable_order(coarse[i].tolist())[:5]
        rest = [j for j in range(20) if j not in best]
        assert_close(matrix[i, best], fine[i, best], rtol=0, atol=1e-5)
        assert_close(matrix[i, rest], FINE.farthest + coarse[i, rest], rtol=0, atol=1e-5)


def test_fine_distance_cannot_lift_a_crop_over_the_edge():
    # By the coarse vector the order is 0, 1, 2; by the fine one 2, 1, 0.
    coarse = torch.tensor([[1.0, 0.0], [1.0, 0.2], [1.0, 0.5]])
    gallery = Embedding({"coarse": coarse, "fine": coarse.flip(0)})
    distance = Cascade(GlobalDistance("coarse"), GlobalDistance("fine"), 2)
    query = Embedding({"coarse": coarse[:1], "fine": coarse[:1]})
    assert order(distance.matrix(query, gallery)) == [[1, 0, 2]]


def test_n_of_the_gallery_and_more_is_the_fine_distance():
    query, gallery = crops(4, seed=1), crops(9, seed=2)
    for n in (9, 10, 1000):
        assert_close(Cascade(COARSE, FINE, n).matrix(query, gallery), FINE.matrix(query, gallery), rtol=0, atol=1e-5)


def test_ties_at_the_edge_go_to_the_first_of_the_gallery():
    same = crops(1, seed=1)
    gallery = Embedding.cat([same] * 7)
    matrix = Cascade(COARSE, FINE, 3).matrix(same, gallery)
    assert (matrix[0, :3] < FINE.farthest - 1).all()
    assert (matrix[0, 3:] >= FINE.farthest).all()
    hidden = gallery.with_tensors(weights=torch.zeros(7, 4))
    assert order(Cascade(COARSE, FINE, 3).matrix(same, hidden)) == [[0, 1, 2, 3, 4, 5, 6]]


@given(seed=st.integers(0, 2**31), n=st.integers(1, 12), workspace=st.sampled_from([1, 500, 1 << 26]))
@quick
def test_candidates_are_the_matrix_at_their_index(seed, n, workspace):
    query, gallery = crops(5, seed=seed), crops(10, seed=seed + 1)
    index = torch.randint(10, (5, 4), generator=torch.Generator().manual_seed(seed))
    distance = Cascade(COARSE, FINE, n)
    expected = distance.matrix(query, gallery).gather(1, index)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cascade, "WORKSPACE_BYTES", workspace)
        assert_close(distance.candidates(query, gallery, index), expected, rtol=0, atol=1e-5)


def test_cascade_of_cascades():
    query, gallery = crops(3, seed=1), crops(12, seed=2)
    vector = GlobalDistance("vector")
    inner = Cascade(vector, COARSE, 8)
    coarse = naive.cascade_order(vector.matrix(query, gallery), COARSE.matrix(query, gallery), 8)
    ranks = torch.tensor([[row.index(j) for j in range(12)] for row in coarse])
    expected = naive.cascade_order(ranks, FINE.matrix(query, gallery), 3)
    outer = Cascade(inner, FINE, 3)
    assert order(outer.matrix(query, gallery)) == expected
    assert outer.matrix(query, gallery).max() <= outer.farthest == 6.0


def test_prepared_embeddings_give_the_same():
    query, gallery = crops(3, seed=1), crops(12, seed=2)
    distance = Cascade(COARSE, FINE, 4)
    prepared = distance.prepare(gallery)
    assert distance.prepare(prepared) is prepared
    assert torch.equal(distance.matrix(distance.prepare(query), prepared), distance.matrix(query, gallery))
    assert distance.matrix(query, gallery[:0]).shape == (3, 0)
    assert distance.matrix(query[:0], gallery).shape == (0, 12)


def test_explanation_is_that_of_the_fine_distance_and_the_shortlist_that_of_the_coarse_one():
    query, gallery = crops(1, seed=1), crops(1, seed=2)
    distance = Cascade(COARSE, FINE, 4)
    assert distance.explain(query, gallery) == FINE.explain(query, gallery)
    assert torch.equal(distance.shortlist_vectors(gallery), COARSE.shortlist_vectors(gallery))
    assert isinstance(distance, Distance)


def test_errors():
    with pytest.raises(ConfigError, match="0 crops cannot be re-ranked"):
        Cascade(COARSE, FINE, 0)
    with pytest.raises(ConfigError, match="mix inside the cascade"):
        MixedDistance(((1.0, Cascade(COARSE, FINE, 3)),))
    with pytest.raises(EmbeddingError, match="different weights"):
        Cascade(COARSE, FINE, 3).matrix(crops(2, made_by="a"), crops(2, made_by="b"))
    with pytest.raises(EmbeddingError, match="has rows 0 to 9, but the gallery has 3"):
        Cascade(COARSE, FINE, 3).candidates(crops(1), crops(3), torch.tensor([[0, 9]]))


@given(
    rows=st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=8, max_size=8), min_size=1, max_size=4),
    k=st.integers(0, 10),
)
@quick
def test_smallest_is_a_stable_sort(rows, k):
    values, index = smallest(torch.tensor(rows), k)
    expected = [naive.stable_order(row)[:k] for row in rows]
    assert index.tolist() == expected
    assert values.tolist() == [[row[j] for j in order] for row, order in zip(rows, expected)]
