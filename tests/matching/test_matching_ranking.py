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
    GlobalDistance,
    MixedDistance,
    PairGlobalDistance,
    PartDistance,
    distance_rows,
    top_k,
)

QPM = MixedDistance(((0.6, PartDistance()), (0.4, PairGlobalDistance())))
DISTANCES = {
    "part": PartDistance(),
    "mixed": QPM,
    "cascade": Cascade(PartDistance(), QPM, 7),
    "cascade of cascades": Cascade(Cascade(GlobalDistance("vector"), PartDistance(), 12), QPM, 5),
}
each_distance = pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
bounds = {"max_bytes": st.sampled_from([1, 2_000, 10_000, 1 << 28]), "gallery_block": st.integers(1, 40)}
quick = settings(max_examples=25, deadline=None, database=None)


@each_distance
@given(seed=st.integers(0, 2**31), max_bytes=bounds["max_bytes"], gallery_block=bounds["gallery_block"])
@quick
def test_rows_do_not_depend_on_block_sizes(distance, seed, max_bytes, gallery_block):
    query, gallery = crops(8, seed=seed), crops(30, seed=seed + 1)
    rows = list(distance_rows(distance, query, gallery, max_bytes=max_bytes, gallery_block=gallery_block))
    assert [i for part, _ in rows for i in range(part.start, part.stop)] == list(range(8))
    assert_close(torch.cat([d for _, d in rows]), distance.matrix(query, gallery), rtol=0, atol=1e-5)


@each_distance
@given(seed=st.integers(0, 2**31), k=st.integers(1, 40), max_bytes=bounds["max_bytes"], block=bounds["gallery_block"])
@quick
def test_top_k_is_the_start_of_the_stable_order(distance, seed, k, max_bytes, block):
    query, gallery = crops(8, seed=seed), crops(30, seed=seed + 1)
    matrix = distance.matrix(query, gallery)
    ranking = top_k(distance, query, gallery, k, max_bytes=max_bytes, gallery_block=block)
    assert ranking.index.shape == ranking.distance.shape == (8, min(k, 30))
    assert_close(ranking.distance, matrix.sort(1).values[:, :k], rtol=0, atol=1e-5)
    assert_close(matrix.gather(1, ranking.index), ranking.distance, rtol=0, atol=1e-5)
    assert all(len(set(row)) == len(row) for row in ranking.index.tolist())


@each_distance
@pytest.mark.parametrize("block", [1, 3, 4, 100])
def test_ties_go_to_the_first_of_the_gallery(distance, block):
    # One-hot vectors and weights of 1, so that no product is rounded.
    hot = torch.eye(4)[None]
    query = Embedding({"parts": hot, "globals": hot, "weights": torch.ones(1, 4), "vector": hot[:, 0]})
    one = query.with_tensors(parts=hot[:, [0, 2, 1, 3]], globals=hot[:, [1, 0, 2, 3]])
    gallery = Embedding.cat([one] * 11)
    assert len(set(distance.matrix(query, gallery)[0, :5].tolist())) == 1
    assert top_k(distance, query, gallery, 9, gallery_block=block).index.tolist() == [list(range(9))]
    hidden = gallery.with_tensors(weights=torch.zeros(11, 4))
    assert top_k(distance, query, hidden, 9, gallery_block=block).index.tolist() == [list(range(9))]


def test_cascade_ranks_as_by_hand():
    query, gallery = crops(6, seed=1), crops(50, seed=2)
    coarse, fine = PartDistance().matrix(query, gallery), QPM.matrix(query, gallery)
    expected = naive.cascade_order(coarse, fine, 7)
    for k in (3, 7, 20, 50):
        found = top_k(DISTANCES["cascade"], query, gallery, k, gallery_block=8).index.tolist()
        assert found == [row[:k] for row in expected]


def test_memory_stays_within_its_bound():
    """No tensor made on the way is larger than the bound, and rows are as many as it allows."""
    query, gallery = crops(64, seed=1), crops(500, seed=2)
    bound = 200_000
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel() * out.element_size())
            return out

    distance = PartDistance()
    prepared = distance.prepare(query), distance.prepare(gallery)
    with Watch():
        sizes = [d.numel() * 4 for _, d in distance_rows(distance, *prepared, max_bytes=bound, gallery_block=100)]
    assert bound / 10 < max(sizes) <= bound / 2
    assert largest <= bound / 2


def test_empty_sides():
    distance = DISTANCES["cascade"]
    assert list(distance_rows(distance, crops(3)[:0], crops(4))) == []
    [(rows, distances)] = distance_rows(distance, crops(3), crops(4)[:0])
    assert (rows, distances.shape) == (slice(0, 3), (3, 0))
    assert top_k(distance, crops(3), crops(4)[:0], 2).index.shape == (3, 0)
    assert top_k(distance, crops(3)[:0], crops(4), 2).index.shape == (0, 2)
    assert top_k(PartDistance(), crops(3), crops(4)[:0], 2).distance.shape == (3, 0)


def test_errors():
    with pytest.raises(ConfigError, match="max_bytes: 0 leaves no room"):
        next(distance_rows(PartDistance(), crops(2), crops(2), max_bytes=0))
    with pytest.raises(ConfigError, match="gallery_block: -1"):
        top_k(PartDistance(), crops(2), crops(2), 1, gallery_block=-1)
    with pytest.raises(ConfigError, match="0 neighbours"):
        top_k(PartDistance(), crops(2), crops(2), 0)
    with pytest.raises(EmbeddingError, match="different weights"):
        top_k(PartDistance(), crops(2, made_by="a"), crops(2, made_by="b"), 1)
