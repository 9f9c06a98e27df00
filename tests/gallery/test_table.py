from __future__ import annotations

import errno
import shutil
import sys
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from numbered import add, create, id_of, numbers

from glimpse.errors import GalleryError
from glimpse.gallery import table as module
from glimpse.gallery.filters import Filter
from glimpse.gallery.store import Gallery
from glimpse.gallery.table import NAME, Table, is_local, local_path, written

ROWS = 40


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops 0 to 39 in two parts, of which 3 and 30 are deleted, and 5 was changed and so moved to the end."""
    folder = tmp_path_factory.mktemp("table") / "gallery"
    gallery = create(folder, audit=False)
    add(gallery, range(20))
    add(gallery, range(20, ROWS))
    gallery.delete(Filter(ids=(id_of(3), id_of(30))))
    gallery.update(Filter(ids=(id_of(5),)), {"camera": "other"})
    return folder


@pytest.fixture
def table(made: Path) -> Table:
    return Table.open(str(made))


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    shutil.copytree(made, tmp_path / "own")
    return tmp_path / "own"


ORDER = [n for n in range(ROWS) if n not in (3, 5, 30)] + [5]


def frames(rows: pa.Table | pa.RecordBatch) -> list[int]:
    return [int(source.split("-")[1]) for source in rows.column("source").to_pylist()]


# ---------------------------------------------------------------- opening


def test_no_gallery(tmp_path: Path) -> None:
    said = r"there is no gallery\. Remedy: make one with `glimpse gallery create`, or correct the path\."
    with pytest.raises(GalleryError, match=said):
        Table.open(str(tmp_path / "nowhere"))
    (tmp_path / NAME).write_text("a file")
    with pytest.raises(GalleryError, match=said):
        Table.open(str(tmp_path))


def test_an_empty_table_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(GalleryError, match=r"Remedy: (make one with|check it with `glimpse gallery verify`)"):
        Table.open(str(tmp_path))


def test_a_damaged_table(own: Path) -> None:
    for path in (own / NAME / "_versions").glob("*.manifest"):
        path.write_bytes(b"nonsense")
    said = r"cannot be opened \(.+\)\. Remedy: check it with `glimpse gallery verify`, and restore it from a copy"
    with pytest.raises(GalleryError, match=said):
        Table.open(str(own))


def test_a_table_is_made_once(own: Path) -> None:
    with pytest.raises(GalleryError, match=r"there is a gallery already\. Remedy: open it, or choose another place\."):
        Table.create(str(own), pa.schema([pa.field("id", pa.string())]))


def test_without_its_library(monkeypatch: pytest.MonkeyPatch, made: Path) -> None:
    monkeypatch.setitem(sys.modules, "lance", None)
    said = r"galleries need what is not installed \(lance\)\. Remedy: install the extra: pip install 'glimpse-reid\[gal"
    with pytest.raises(GalleryError, match=said):
        Table.open(str(made))


@pytest.mark.parametrize(("uri", "local"), [("a/b", True), ("file:///a", True), ("s3://a/b", False), ("gs://a", False)])
def test_where_a_table_is(uri: str, local: bool) -> None:
    assert is_local(uri) is local
    assert local_path("file:///a/b") == local_path("/a/c/../b") == "/a/b"


# ---------------------------------------------------------------- reading


def test_rows_have_numbers_that_stay(table: Table) -> None:
    found = table.rows(["source"])
    assert frames(found) == ORDER
    assert found["_rowid"].to_pylist() == ORDER  # the first crop has number 0
    assert table.row_ids().tolist() == ORDER
    assert table.living()[0] == table.version
    assert table.living()[1].tolist() == ORDER
    assert table.count() == len(ORDER)
    camera = Filter(cameras=("c1",)).sql()
    assert frames(table.rows(["source"], camera, limit=2)) == [1, 7]
    assert table.count(camera) == len(table.row_ids(camera)) == len(frames(table.rows(["source"], camera)))


def test_rows_are_taken_in_the_order_that_is_asked(table: Table) -> None:
    assert frames(table.take(np.array([20, 5, 0, 20]), ["source"])) == [20, 5, 0, 20]
    nothing = table.take(np.zeros(0, np.int64), ["source", "frame"])
    assert (len(nothing), nothing.column_names) == (0, ["source", "frame"])


@pytest.mark.parametrize("number", [3, 10**6, -1, -(2**40)])
def test_rows_that_are_not_there(table: Table, number: int) -> None:
    with pytest.raises(GalleryError, match=r"rows are not there, or not any more\. Remedy: search again\."):
        table.take(np.array([0, number]), ["source"])


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_blocks_are_the_rows_in_parts(table: Table, rows: int) -> None:
    blocks = list(table.blocks(["source"], rows=rows))
    assert max(block.num_rows for block in blocks) <= rows
    assert [n for block in blocks for n in frames(block)] == ORDER
    assert [n for block in blocks for n in block.column("_rowid").to_pylist()] == ORDER
    camera = Filter(cameras=("c1",)).sql()
    some = [n for block in table.blocks(["source"], camera, rows=rows) for n in frames(block)]
    assert some == frames(table.rows(["source"], camera))


def test_blocks_of_some_fragments(table: Table) -> None:
    fragments = [each.fragment_id for each in table.dataset.get_fragments()]
    parts = [[n for b in table.blocks(["source"], fragments=[each]) for n in frames(b)] for each in fragments]
    assert parts == [[n for n in ORDER[:-1] if n < 20], [n for n in ORDER if n >= 20], [5]]
    assert list(table.blocks(["source"], fragments=[])) == []


def test_the_newest_version_is_gone_to(own: Path) -> None:
    first, other = Table.open(str(own)), Gallery.open(own)
    assert not first.refresh()
    add(other, [100])
    assert first.count() == len(ORDER)
    assert first.refresh()
    assert first.count() == len(ORDER) + 1


# ---------------------------------------------------------------- while another process compacts


def compacted(own: Path) -> None:
    """Remove all files that were there, as another process does."""
    other = Gallery.open(own)
    add(other, [200])
    other.compact()


def test_what_was_cleaned_away_is_read_from_the_newest_version(own: Path) -> None:
    moved = 0
    for read in (
        lambda table: table.count(Filter(cameras=("c1",)).sql()),
        lambda table: frames(table.rows(["source"]))[:3],
        lambda table: frames(table.take(np.array([7, 2]), ["source"])),
        lambda table: table.row_ids(Filter(tags=("even",)).sql()).tolist()[:3],
    ):
        table = Table.open(str(own))
        expected = read(Table.open(str(own)))
        before = table.version
        compacted(own)
        assert read(table) == expected
        moved += table.version > before
    assert moved  # some is in memory and can still be read


def test_a_scan_whose_files_go_says_so_and_is_started_again(own: Path) -> None:
    table = Table.open(str(own))
    compacted(own)
    with pytest.raises(GalleryError, match=r"cannot be read \(.+\)\. Remedy: check it with `glimpse gallery verify`"):
        list(table.blocks(["source"]))
    done: list[int] = []

    def scan() -> list[int]:
        done.append(table.version)
        return [n for block in table.blocks(["source"]) for n in frames(block)]

    assert sorted(table.steady(scan)) == sorted([*ORDER, 200])
    assert len(done) == 2


def test_what_fails_on_a_table_that_stands_still_fails_at_once(table: Table) -> None:
    done: list[int] = []

    def work(_: Any = None) -> None:
        done.append(1)
        raise OSError("an odd thing\nsecond line")

    with pytest.raises(GalleryError, match=r"cannot be read \(an odd thing\)\. Remedy: check it with `glimpse gal"):
        table.read(work)
    assert len(done) == 1

    def refused() -> None:
        done.append(1)
        raise GalleryError("a", "b", "c")

    with pytest.raises(GalleryError, match="a: b"):
        table.steady(refused)
    assert len(done) == 2


class Going:
    """A dataset whose newest version is cleaned away as soon as it is heard of, some times."""

    def __init__(self, times: int) -> None:
        self.version = 1
        self.times = times

    @property
    def latest_version(self) -> int:
        return 7

    def checkout_version(self, version: int) -> Going:
        self.times -= 1
        if self.times >= 0:
            raise OSError(f"version {version} not found")
        self.version = version
        return self


def test_a_newest_version_that_goes_meanwhile() -> None:
    table = Table("somewhere", Going(3))
    assert table.refresh()
    assert table.version == 7
    with pytest.raises(GalleryError, match=r"somewhere: cannot be read \(version 7 not found\)"):
        Table("somewhere", Going(1000)).refresh()


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "the disk is full. Remedy: make room on the disk, and do it",
        ),
        (OSError("LanceError(IO): ... (os error 28), writer.rs"), "the disk is full"),
        (OSError(errno.EFBIG, "File too large"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (OSError("1000 requested and 10 written"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be written to. Remedy: get the right to write"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot be written to"),
        (RuntimeError("LanceError(IO): ... (os error 13)"), "cannot be written to"),
        (
            ValueError("an odd thing\nmore"),
            "cannot be written (an odd thing). Remedy: see what the disk or store says.",
        ),
        (OSError(), "cannot be written (OSError)"),
    ],
)
def test_why_something_cannot_be_written(error: Exception, said: str) -> None:
    with pytest.raises(GalleryError) as found, written("here"):
        raise error
    assert str(found.value).startswith(f"here: {said}")
    assert found.value.__cause__ is error


def test_compaction_leaves_one_version_and_the_files_of_its_rows(own: Path) -> None:
    table = Table.open(str(own))
    stray = own / NAME / "data" / "left-by-a-killed-process.lance"
    shutil.copy(own / next(iter(table.files())), stray)
    before = table.row_ids().tolist()
    table.rewrite()
    table.clean()
    assert table.row_ids().tolist() == Table.open(str(own)).row_ids().tolist() == before
    assert [each["version"] for each in lance.dataset(str(own / NAME)).versions()] == [table.version]
    there = {str(path.relative_to(own)) for path in (own / NAME).rglob("*.*") if path.parent.name == "data"}
    assert there == table.files()
    assert not list((own / NAME).glob("_deletions/*"))
    assert len(list((own / NAME).glob("_transactions/*"))) == 1


def test_files_that_others_write_to_an_object_store_are_left(monkeypatch: pytest.MonkeyPatch, own: Path) -> None:
    asked: list[bool] = []

    class Store:
        def cleanup_old_versions(self, *, older_than: Any, delete_unverified: bool) -> None:
            asked.append(delete_unverified)

    for uri in ("s3://bucket/people", str(own)):
        Table(uri, Store()).clean()
    assert asked == [False, True]


def test_numbers_stay_through_compaction(own: Path) -> None:
    gallery = Gallery.open(own)
    gallery.compact()
    assert sorted(numbers(gallery)) == sorted(ORDER)
    assert [module.NAME in path for path in gallery.table.files()] == [True]
    taken = gallery.table.take(np.array([39, 5, 0]), ["source"])
    assert frames(taken) == [39, 5, 0]
