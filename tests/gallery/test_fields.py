from __future__ import annotations

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numbered import CASCADE, PART, embedded

from glimpse.embedding import Embedding
from glimpse.errors import EmbeddingError
from glimpse.gallery.fields import Field, Packed, fields_of, read_by, stored_form, to_arrays, to_embedding
from glimpse.matching import Cascade, GlobalDistance, MixedDistance, PartDistance, ReconstructionDistance

SHAPES = st.lists(st.lists(st.integers(1, 4), max_size=2).map(tuple), min_size=1, max_size=3)


def some(shapes: list[tuple[int, ...]], rows: int) -> Embedding:
    random = torch.Generator().manual_seed(0)
    return Embedding({f"t.{i}": torch.randn(rows, *shape, generator=random) for i, shape in enumerate(shapes)}, "w@1")


@given(shapes=SHAPES, rows=st.integers(0, 5), start=st.integers(0, 5), stop=st.integers(0, 5))
def test_what_is_stored_is_the_embedding_in_half_precision(
    shapes: list[tuple[int, ...]], rows: int, start: int, stop: int
) -> None:
    embedding = some(shapes, rows)
    fields = fields_of(embedding)
    assert [(f.column, f.shape) for f in fields] == [(f"e_t_{i}", shape) for i, shape in enumerate(shapes)]
    columns = to_arrays(embedding, fields)
    assert [column.type for column in columns] == [field.type for field in fields]
    batch = pa.RecordBatch.from_arrays(columns, [field.column for field in fields])
    half = embedding.to(dtype=torch.float16)
    stop = max(start, stop)
    part = to_embedding(batch.slice(start, stop - start), fields, "w@1")
    twice = to_embedding(pa.Table.from_batches([batch, batch]), fields, "w@1")
    assert part.made_by == "w@1"
    for name in embedding.names:
        assert torch.equal(part[name], half[start:stop][name])
        assert torch.equal(twice[name], torch.cat([half[name], half[name]]))


def test_what_cannot_be_stored() -> None:
    whole = Embedding({"rows": torch.zeros(1, 2, dtype=torch.int64)})
    with pytest.raises(EmbeddingError, match=r"'rows' holds torch.int64\. Remedy: store floating-point numbers\."):
        fields_of(whole)
    alike = Embedding({"a.b": torch.zeros(1, 2), "a-b": torch.zeros(1, 2)})
    with pytest.raises(EmbeddingError, match=r"two tensors differ in punctuation only\. Remedy: give them other names"):
        fields_of(alike)
    embedding = some([(3,)], 4)
    fields = fields_of(embedding)
    with pytest.raises(EmbeddingError, match=r"'t\.0' has rows of \[2\] instead of \[3\]\. Remedy: embed with the w"):
        to_arrays(some([(2,)], 4), fields)
    with pytest.raises(EmbeddingError, match=r"there is no tensor 't\.0'"):
        to_arrays(Embedding({"other": torch.zeros(1, 3)}), fields)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 65520.0, -70000.0])
def test_numbers_that_half_precision_does_not_have(value: float) -> None:
    embedding = some([(3,)], 4)
    fields = fields_of(embedding)
    embedding["t.0"][2, 1] = value
    said = r"'t\.0' of crop 2 is not finite in half precision\. Remedy: check the weights and the crop\."
    with pytest.raises(EmbeddingError, match=said):
        to_arrays(embedding, fields)
    embedding["t.0"][2, 1] = 65504.0
    assert to_arrays(embedding, fields)[0].flatten().to_pylist()[7] == 65504.0


def vectors(rows: int, seed: int) -> Embedding:
    random = torch.Generator().manual_seed(seed)
    return Embedding(
        {
            "vectors": torch.randn(rows, 6, 8, generator=random),
            "weights": torch.rand(rows, 6, generator=random),
            "globals": torch.randn(rows, 8, generator=random),
        },
        "w@1",
    )


RECONSTRUCTION = ReconstructionDistance(weights="weights")


@pytest.mark.parametrize(
    "distance",
    [
        RECONSTRUCTION,
        Cascade(GlobalDistance(), RECONSTRUCTION, 3),
        Cascade(ReconstructionDistance(weights="weights", rows=2), RECONSTRUCTION, 3),
        MixedDistance(((0.5, RECONSTRUCTION), (0.5, GlobalDistance()))),
    ],
)
def test_of_a_reconstruction_the_prepared_form_is_kept(
    distance: ReconstructionDistance | Cascade | MixedDistance,
) -> None:
    query, gallery = vectors(2, 1), vectors(9, 2)
    stored = stored_form(distance, gallery)
    assert "vectors" not in stored.names
    assert "globals" in stored.names
    assert stored.made_by == "w@1"
    assert torch.allclose(distance.matrix(query, stored), distance.matrix(query, gallery), atol=1e-6)
    assert torch.allclose(distance.matrix(stored, stored), distance.matrix(gallery, gallery), atol=1e-6)
    assert stored_form(distance, stored).names == stored.names


def test_of_other_distances_the_embedding_is_kept() -> None:
    embedding = embedded(range(3))
    assert stored_form(CASCADE, embedding) is embedding


def test_what_a_distance_reads() -> None:
    fields = fields_of(Embedding({**embedded([0]).tensors, "other": torch.zeros(1, 2)}))
    assert [field.name for field in read_by(PART, fields)] == ["parts", "weights"]
    assert [field.name for field in read_by(CASCADE, fields)] == ["parts", "globals", "weights"]
    assert [field.name for field in read_by(PartDistance(weights=None), fields)] == ["parts"]
    stored = fields_of(stored_form(RECONSTRUCTION, vectors(1, 0)))
    assert {field.name for field in read_by(RECONSTRUCTION, stored)} == {f.name for f in stored} - {
        "globals",
        "weights",
    }
    with pytest.raises(EmbeddingError, match=r"there is no tensor 'vectors', only parts"):
        read_by(RECONSTRUCTION, fields)


@given(shapes=SHAPES, rows=st.integers(0, 5))
def test_fields_side_by_side(shapes: list[tuple[int, ...]], rows: int) -> None:
    embedding = some(shapes, rows)
    packed = Packed(fields_of(embedding))
    array = packed.pack(embedding)
    assert array.shape == (rows, packed.width)
    half = embedding.to(dtype=torch.float16)
    found = packed.unpack(array, "w@1")
    assert (found.names, found.made_by) == (embedding.names, "w@1")
    assert all(torch.equal(found[name], half[name]) for name in embedding.names)
    last = embedding.names[-1]
    assert packed.unpack(array, names=[last]).names == (last,)
    assert torch.equal(packed.unpack(array, names=[last])[last], half[last])


def test_a_field_may_be_one_number() -> None:
    assert Field(name="score", column="e_score", shape=()).width == 1
