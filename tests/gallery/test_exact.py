"""Exact search, against the same distances on all rows at once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numbered import CASCADE, MADE_BY, PART, add, create, embedded, id_of, probes

from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, EmbeddingError
from glimpse.gallery import exact
from glimpse.gallery.exact import SPARE, Near, Probes, Ranked, scan, search_exactly
from glimpse.gallery.fields import fields_of, stored_form
from glimpse.gallery.filters import Filter
from glimpse.gallery.rows import Crop
from glimpse.gallery.store import Gallery
from glimpse.matching import (
    Cascade,
    Distance,
    GlobalDistance,
    MixedDistance,
    PairGlobalDistance,
    PartDistance,
    ReconstructionDistance,
    top_k,
)

ROWS = 300
QUERIES = (1000, 1001, 1002, 7)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "BLOCK", 64)


def stored(distance: Distance, rows: int = ROWS, seed: int = 0, made_by: str = MADE_BY) -> Embedding:
    """Anything that a distance may read, in the form that a gallery keeps, and in half precision."""
    random = torch.Generator().manual_seed(seed)
    embedding = Embedding(
        {
            "parts": torch.randn(rows, 3, 8, generator=random),
            "globals": torch.randn(rows, 3, 8, generator=random),
            "vector": torch.randn(rows, 8, generator=random),
            "weights": torch.rand(rows, 3, generator=random).round(decimals=1),
            "vectors": torch.randn(rows, 5, 8, generator=random),
            "shares": torch.rand(rows, 5, generator=random),
        },
        made_by,
    )
    return stored_form(distance, embedding).to(dtype=torch.float16)


def gallery_of(folder: Path, embedding: Embedding) -> Gallery:
    """In four parts."""
    gallery = Gallery.of(folder, embedding[:1], embedding.made_by, audit=False)
    for rows in torch.arange(len(embedding)).chunk(4):
        crops = [Crop(id=id_of(int(n)), camera=f"c{int(n) % 3}") for n in rows]
        gallery.add_embedded(embedding[rows], crops)
    return gallery


def found(gallery: Gallery, distance: Distance, queries: Probes, depth: int, where: str = "") -> list[Ranked]:
    return search_exactly(gallery.table, gallery.info.fields, gallery.info.made_by, distance, queries, depth, where)


RECONSTRUCTION = ReconstructionDistance(weights="shares")
DISTANCES: dict[str, Distance] = {
    "part": PART,
    "unweighted": PartDistance(weights=None),
    "not normalised": PartDistance(normalise=False, names=("a", "b", "c")),
    "root": PartDistance(combine="sqrt_product"),
    "global": GlobalDistance("vector"),
    "pair global": PairGlobalDistance(),
    "mixed": MixedDistance(((0.4, PART), (0.6, PairGlobalDistance()))),
    "cascade": CASCADE,
    "wide cascade": Cascade(PART, MixedDistance(((1.0, PairGlobalDistance()),)), 200),
    "reconstruction": RECONSTRUCTION,
    "cascade of reconstructions": Cascade(ReconstructionDistance(weights="shares", rows=2), RECONSTRUCTION, 12),
}


@pytest.mark.parametrize("name", list(DISTANCES))
def test_exact_search_is_the_ranking_of_all_rows(name: str, tmp_path: Path) -> None:
    distance = DISTANCES[name]
    rows = stored(distance)
    gallery = gallery_of(tmp_path / "gallery", rows)
    queries = stored(distance, 4, seed=1).to(dtype=torch.float32)
    for depth, where in ((1, None), (20, None), (20, 1), (ROWS + 5, None)):
        which = torch.arange(ROWS) if where is None else torch.arange(where, ROWS, 3)
        expected = top_k(distance, queries, rows[which], min(depth, len(which)))
        condition = "" if where is None else Filter(cameras=(f"c{where}",)).sql()
        answers = found(gallery, distance, Probes.single(queries), depth, condition)
        assert len(answers) == len(queries)
        for i, answer in enumerate(answers):
            assert answer.row_ids.tolist() == which[expected.index[i]].tolist()
            values = expected.distance[i].numpy().copy()
            if isinstance(distance, Cascade):
                assert answer.reranked == min(depth, distance.n, len(which))
                # Where `Cascade` adds its largest fine distance, to say two blocks in one number.
                values[answer.reranked :] -= distance.fine.farthest
            else:
                assert answer.reranked == 0
            assert np.allclose(answer.distance, values, atol=2e-6)
            assert answer.distance.dtype == np.float32


def test_a_query_may_be_prepared(tmp_path: Path) -> None:
    gallery = gallery_of(tmp_path / "gallery", stored(CASCADE))
    queries = stored(CASCADE, 3, seed=1)
    once = found(gallery, CASCADE, Probes.single(queries), 9)
    again = found(gallery, CASCADE, Probes.single(CASCADE.prepare(queries)), 9)
    assert [a.row_ids.tolist() for a in once] == [a.row_ids.tolist() for a in again]


# ---------------------------------------------------------------- several crops of one person


@pytest.mark.parametrize("combine", ["min", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("cascade", [False, True])
def test_several_crops_of_one_person(combine: Any, weighted: bool, cascade: bool, tmp_path: Path) -> None:
    add(gallery := create(tmp_path / "gallery", audit=False), range(100))
    rows, asked = embedded(range(100)), embedded(range(1000, 1006))
    sizes = (2, 1, 3)
    weights = torch.tensor([1.0, 3.0, 0.5, 0.0, 2.0, 2.0]) if weighted else None
    queries = Probes(asked, sizes, combine, weights)
    distance: Distance = CASCADE if cascade else PART

    def combined(values: torch.Tensor, which: Sequence[int]) -> torch.Tensor:
        if combine == "min":
            return values.min(0).values
        shares = torch.tensor([1.0 if weights is None else float(weights[i]) for i in which])
        return (values * shares[:, None]).sum(0) / shares.sum()

    start = 0
    for answer, size in zip(found(gallery, distance, queries, 12), sizes, strict=True):
        which = range(start, start + size)
        start += size
        coarse = combined(PART.matrix(asked[torch.tensor(which)], rows), which)
        order = coarse.sort(stable=True).indices
        if cascade:
            near = order[:5].sort().values
            fine = combined(CASCADE.fine.matrix(asked[torch.tensor(which)], rows[near]), which)
            order = torch.cat([near[fine.sort(stable=True).indices], order[5:]])
            values = torch.cat([fine.sort().values, coarse[order[5:]]])
        else:
            values = coarse[order]
        assert answer.row_ids.tolist() == order[:12].tolist()
        assert np.allclose(answer.distance, values[:12], atol=1e-5)


def test_one_query_of_several(tmp_path: Path) -> None:
    weights = torch.tensor([1.0, 2.0, 3.0])
    queries = Probes(embedded([1, 2, 3]), (1, 2), "mean", weights)
    assert len(queries) == 2
    second = queries[1]
    assert (second.sizes, second.combine) == ((2,), "mean")
    assert second.weights is not None
    assert second.weights.tolist() == [2.0, 3.0]
    assert torch.equal(second.embedding["parts"], embedded([2, 3])["parts"])


@pytest.mark.parametrize(
    ("sizes", "combine", "weights", "said"),
    [
        ((2,), "max", None, r"combine: 'max' is not known\. Remedy: choose min or mean\."),
        ((1,), "min", None, r"query: has 2 rows for \(1,\)\. Remedy: give one row per crop\."),
        ((2, 0), "min", None, r"query: has 2 rows for \(2, 0\)"),
        (
            (2,),
            "mean",
            [1.0],
            r"query: has weights that are no shares of its crops\. Remedy: give one per crop, none n",
        ),
        ((2,), "mean", [0.0, 0.0], r"weights that are no shares"),
        ((1, 1), "mean", [1.0, 0.0], r"weights that are no shares"),
        ((2,), "mean", [2.0, -1.0], r"weights that are no shares"),
        ((2,), "mean", [float("nan"), 1.0], r"weights that are no shares"),
    ],
)
def test_what_is_no_query(sizes: tuple[int, ...], combine: Any, weights: list[float] | None, said: str) -> None:
    with pytest.raises((ConfigError, EmbeddingError), match=said):
        Probes(embedded([1, 2]), sizes, combine, None if weights is None else torch.tensor(weights))


# ---------------------------------------------------------------- ties


def test_equal_distances_come_in_the_order_the_crops_came(tmp_path: Path) -> None:
    count, depth = 200, 10  # many more than are kept while scanning
    assert count > 4 * (depth + SPARE)
    # Numbers that no order of additions rounds.
    axes = torch.eye(8)[:3].expand(count, 3, 8)
    alike = Embedding({"parts": axes, "globals": axes, "weights": torch.ones(count, 3)}, MADE_BY)
    gallery = gallery_of(tmp_path / "gallery", alike)
    query = Probes.single(alike[:1])
    for distance in (PART, CASCADE):
        assert found(gallery, distance, query, depth)[0].row_ids.tolist() == list(range(depth))
    # A change moves a row behind the others, within a part and from part to part; compaction does not move it back.
    gallery.update(Filter(ids=(id_of(2), id_of(60))), {"pid": "moved"})
    gallery.update(Filter(ids=(id_of(1),)), {"pid": "moved"})
    gallery.delete(Filter(ids=(id_of(4),)))
    expected = [n for n in range(depth + 1) if n != 4]
    for _ in range(2):
        gallery.table.refresh()
        for distance in (PART, CASCADE):
            assert found(gallery, distance, query, depth)[0].row_ids.tolist() == expected
        gallery.compact()


def test_crops_that_share_nothing_with_the_query(tmp_path: Path) -> None:
    rows = embedded(range(150))
    hidden = Embedding({**rows.tensors, "weights": torch.zeros(150, 3)}, MADE_BY)
    gallery = gallery_of(tmp_path / "gallery", hidden)
    answer = found(gallery, PART, probes(5), 30)[0]
    assert answer.row_ids.tolist() == list(range(30))
    assert answer.distance.tolist() == [2.0] * 30


def test_parts_of_a_table_joined_are_the_whole(tmp_path: Path) -> None:
    rows = stored(PART)
    gallery = gallery_of(tmp_path / "gallery", rows)
    gallery.update(Filter(cameras=("c1",)), {"pid": "moved"})
    gallery.table.refresh()
    queries = Probes.single(embedded(QUERIES))

    def part(fragments: list[int] | None) -> Near:
        return scan(gallery.table, gallery.info.fields, MADE_BY, PART, queries, 25, fragments=fragments)

    whole = part(None)
    fragments = [each.fragment_id for each in gallery.table.dataset.get_fragments()]
    for order in (fragments, fragments[::-1]):
        joined = Near.nothing(len(queries))
        for each in order:
            joined = joined.joined(part([each]), 25)
        assert torch.equal(joined.rows, whole.rows)
        assert torch.allclose(joined.values, whole.values, atol=1e-6)


# ---------------------------------------------------------------- little and much


def test_an_empty_gallery(tmp_path: Path) -> None:
    gallery = create(tmp_path / "gallery", audit=False)
    for distance in (PART, CASCADE):
        assert [len(answer) for answer in found(gallery, distance, probes(1, 2), 5)] == [0, 0]
    add(gallery, [3])
    assert found(gallery, CASCADE, probes(1), 5)[0].row_ids.tolist() == [0]
    assert [len(each) for each in found(gallery, PART, probes(1), 5, Filter(pids=("nobody",)).sql())] == [0]


SEEN: list[int] = []


@dataclass(frozen=True)
class Counting(PartDistance):
    """Says how many rows it was given at a time."""

    def matrix(self, query: Embedding, gallery: Embedding) -> torch.Tensor:
        SEEN.append(len(gallery))
        return super().matrix(query, gallery)


def test_one_block_is_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = gallery_of(tmp_path / "gallery", stored(PART))
    alive: list[int] = []
    blocks: list[weakref.ref[pa.RecordBatch]] = []
    read = gallery.table.blocks

    def watched(*args: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        for block in read(*args, **options):
            blocks.append(weakref.ref(block))
            yield block
            del block
            gc.collect()
            alive.append(sum(each() is not None for each in blocks))

    monkeypatch.setattr(gallery.table, "blocks", watched)
    SEEN.clear()
    found(gallery, Counting(), probes(*QUERIES), 5)
    assert sum(SEEN) == ROWS
    assert max(SEEN) <= 64
    assert len(alive) == len(SEEN) >= 5
    assert max(alive) <= 2  # the one at work, and the one that was before it


def test_rows_that_go_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = stored(CASCADE)
    gallery = gallery_of(tmp_path / "gallery", rows)
    queries = embedded([1000])
    nearest = top_k(PART, queries, rows, 3).index[0].tolist()
    read = gallery.table.blocks
    times: list[int] = []

    def meanwhile(*args: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        times.append(1)
        blocks = list(read(*args, **options))
        if len(times) == 1:  # after the scan, and before the best are fetched
            other = Gallery.open(gallery.where)
            other.delete(Filter(ids=tuple(id_of(n) for n in nearest)))
            other.compact()
        yield from blocks

    monkeypatch.setattr(gallery.table, "blocks", meanwhile)
    left = torch.tensor([n for n in range(ROWS) if n not in nearest])
    expected = left[top_k(CASCADE, queries, rows[left], 10).index[0]].tolist()
    assert found(gallery, CASCADE, Probes.single(queries), 10)[0].row_ids.tolist() == expected
    assert len(times) == 2


def test_only_the_columns_that_count_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = gallery_of(tmp_path / "gallery", stored(CASCADE))
    asked: list[list[str]] = []
    read = gallery.table.blocks

    def watched(columns: Sequence[str], *args: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        asked.append(list(columns))
        return read(columns, *args, **options)

    monkeypatch.setattr(gallery.table, "blocks", watched)
    found(gallery, CASCADE, probes(1000), 5)
    assert asked == [["e_parts", "e_weights"]]
    assert len(fields_of(stored(CASCADE))) == 6
