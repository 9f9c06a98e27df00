from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numbered import known
from pydantic import ValidationError

from glimpse.gallery.rows import COLUMNS, NAMES, Crop, schema_of, to_columns, to_crops

TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
TEXTS = st.none() | TEXT
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
CROPS = st.builds(
    Crop,
    id=st.just("0" * 32),
    pid=TEXTS,
    camera=TEXTS,
    track=TEXTS,
    time=st.none() | NUMBERS,
    source=TEXTS,
    frame=st.none() | st.integers(-(2**63), 2**63 - 1),
    box=st.none() | st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    tags=st.lists(TEXT, max_size=3).map(tuple),
)


@given(crops=st.lists(CROPS, max_size=4), small=st.none() | st.binary(max_size=3))
def test_what_is_known_comes_back(crops: list[Crop], small: bytes | None) -> None:
    columns = to_columns(crops, [small] * len(crops), 7.5)
    table = pa.Table.from_arrays(columns, schema=schema_of((), {"a": "b"}))
    assert to_crops(table) == [crop.model_copy(update={"added": 7.5}) for crop in crops]
    assert table["thumbnail"].to_pylist() == [small] * len(crops)
    assert table.schema.metadata == {b"a": b"b"}


def test_every_fact_has_a_column() -> None:
    assert tuple(Crop.model_fields) == NAMES == tuple(column.name for column in COLUMNS)


def test_a_crop_is_called_by_its_source_and_frame() -> None:
    assert known(3).name == "crop-3-.jpg#3"
    assert known(4).name == "crop-4-.jpg"
    assert Crop(id="0" * 32).name == "0" * 32


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("source", "caf\udce9.jpg", r"'caf\\udce9.jpg' cannot be written in UTF-8"),
        ("tags", ("fine", "\ud800"), r"'\\ud800' cannot be written in UTF-8"),
        ("time", float("nan"), "finite number"),
        ("box", (0, 0, float("inf"), 1), "finite number"),
        ("pid", 5, "valid string"),
    ],
)
def test_what_cannot_be_kept(name: str, value: object, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Crop.model_validate({"id": "0" * 32, name: value})
