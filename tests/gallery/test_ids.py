from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numbered import add, create, id_of

from glimpse.errors import GalleryError
from glimpse.gallery import ids as module
from glimpse.gallery.filters import Filter
from glimpse.gallery.ids import Ids, halves

IDS = st.integers(0, 2**128 - 1).map(lambda number: f"{number:032x}")
# Few first and second halves, so that ids share them.
CLOSE = st.tuples(st.integers(0, 3), st.integers(0, 3)).map(lambda pair: f"{pair[0]:016x}{pair[1]:016x}")


@given(st.lists(IDS, max_size=5))
def test_an_id_is_two_numbers(ids: list[str]) -> None:
    expected = [[int(each[:16], 16), int(each[16:], 16)] for each in ids]
    assert halves(ids).tolist() == expected
    assert halves(pa.array(ids, pa.string())).tolist() == expected


@pytest.mark.parametrize("bad", ["", "0" * 31, "0" * 33, "0" * 31 + "G", "0" * 31 + "F", "0" * 31 + "é", "x"])
def test_what_is_no_id(bad: str) -> None:
    said = rf"id: '{bad}' is no id of a crop\. Remedy: ids are 32 hexadecimal digits, in lower case\."
    with pytest.raises(GalleryError, match=said):
        halves(["0" * 32, bad])
    # Together they are as long as two.
    with pytest.raises(GalleryError, match=r"is no id of a crop"):
        halves(["0" * 31, "0" * 33])


@dataclass
class Fragment:
    fragment_id: int
    ids: list[str]
    metadata: Fragment = field(init=False)
    deletion_file: str = ""

    def __post_init__(self) -> None:
        self.metadata = self


@dataclass
class Dataset:
    """What `Ids` asks of a Lance dataset."""

    version: int
    fragments: list[Fragment]
    read: list[int] = field(default_factory=list)

    def get_fragments(self) -> list[Fragment]:
        return self.fragments

    def scanner(self, columns: list[str], fragments: list[Fragment]) -> Dataset:
        assert columns == ["id"]
        self.read += [each.fragment_id for each in fragments]
        self.found = pa.table({"id": pa.array([one for each in fragments for one in each.ids], pa.string())})
        return self

    def to_table(self) -> pa.Table:
        return self.found


@given(st.lists(st.lists(CLOSE, max_size=6), max_size=3), st.lists(CLOSE, max_size=6))
def test_which_ids_are_there(parts: list[list[str]], asked: list[str]) -> None:
    ids = Ids()
    held: list[str] = []
    for number, part in enumerate(parts):
        held += part
        ids.refresh(Dataset(number + 1, [Fragment(n, each) for n, each in enumerate(parts[: number + 1])]))
    assert len(ids) == len(held)
    assert ids.has(asked).tolist() == [one in held for one in asked]
    assert [one in ids for one in asked] == [one in held for one in asked]
    assert ids.repeated() == len(held) - len(set(held))
    assert None not in ids


def test_ids_of_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_keys_of", lambda ids: np.zeros(len(ids), np.uint64))
    held = [id_of(n) for n in range(5)]
    ids = Ids()
    ids.refresh(Dataset(1, [Fragment(0, held)]))
    assert ids.has([*held, id_of(7)]).tolist() == [True] * 5 + [False]


def test_only_what_changed_is_read() -> None:
    ids = Ids()
    first, second, third = Fragment(0, ["0" * 32]), Fragment(1, ["1" * 32, "2" * 32]), Fragment(2, ["3" * 32])
    ids.refresh(Dataset(1, [first]))
    after = Dataset(2, [first, second])
    ids.refresh(after)
    ids.refresh(after)
    assert (after.read, len(ids), ids.version) == ([1], 3, 2)
    second = Fragment(1, ["2" * 32], deletion_file="deleted")
    third_read = Dataset(3, [first, second, third])
    ids.refresh(third_read)
    assert third_read.read == [1, 2]
    assert ids.has(["0" * 32, "1" * 32, "2" * 32, "3" * 32]).tolist() == [True, False, True, True]


def test_of_a_real_table(tmp_path: Path) -> None:
    gallery = create(tmp_path / "gallery", audit=False)
    other = Ids()
    add(gallery, range(10))
    gallery.table.read(other.refresh)
    gallery.delete(Filter(ids=(id_of(3), id_of(4))))
    gallery.update(Filter(ids=(id_of(5),)), {"pid": "other"})
    gallery.table.refresh()
    gallery.table.read(other.refresh)
    expected = [n not in (3, 4) for n in range(10)]
    assert other.has([id_of(n) for n in range(10)]).tolist() == expected
    gallery.compact()
    gallery.table.read(other.refresh)
    assert other.has([id_of(n) for n in range(10)]).tolist() == expected
    assert (len(other), other.repeated()) == (8, 0)
