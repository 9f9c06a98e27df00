"""Galleries written to Parquet and read again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from colours import Colours, coming, crowd

from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, GalleryError
from glimpse.gallery import Ask, Crop, Filter, Gallery, export, import_into, port
from glimpse.gallery.port import info_of
from glimpse.gallery.rows import NAMES

N = 40
MODEL: Any = Colours()
FIELDS = ("e_parts", "e_weights", "e_globals")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery with something in every column, of two fragments, with changed and deleted rows, and its export."""
    folder = tmp_path_factory.mktemp("port")
    gallery = Gallery.create(folder / "g", MODEL, thumbnails=16, audit=False)
    crops = [
        coming(
            folder / f"{i:02}.png",
            image,
            **({} if i % 9 == 8 else {"pid": f"p{i % 4}", "camera": f"c{i % 3}", "track": f"t:{i}", "time": i / 3}),
            **({"frame": i, "box": (1, 2, 30 + i, 60)} if i % 2 else {"tags": ("a", f"b{i}")}),
        )
        for i, image in enumerate(crowd(N + 2))
    ]
    gallery.add(MODEL, crops[:20])
    gallery.add(MODEL, crops[20:])
    gallery.delete(Filter(ids=(crops[3].content, crops[33].content)))
    gallery.update(Filter(ids=(crops[5].content,)), {"pid": "it's", "tags": ("late",)})
    assert export(gallery, folder / "people.parquet") == N
    return folder


@pytest.fixture
def gallery(made: Path) -> Gallery:
    return Gallery.open(made / "g", audit=False)


@pytest.fixture
def parquet(made: Path) -> Path:
    return made / "people.parquet"


def content(gallery: Gallery) -> list[dict[str, Any]]:
    """Every cell of every row by its id, numbers of embeddings as their bits."""
    gallery.table.refresh()
    table = gallery.table.rows([*NAMES, "thumbnail", *FIELDS]).drop_columns(["_rowid"])
    found = table.drop_columns(list(FIELDS)).to_pylist()
    for name in FIELDS:
        bits = table[name].combine_chunks().flatten().to_numpy().view(np.uint16).reshape(len(table), -1)
        for row, each in zip(found, bits, strict=True):
            row[name] = each.tolist()
    return sorted(found, key=lambda row: str(row["id"]))


def test_everything_comes_back(gallery: Gallery, parquet: Path, tmp_path: Path) -> None:
    new, added = import_into(tmp_path / "new", parquet)
    assert (added.added, added.known) == (N, 0)
    assert content(new) == content(gallery)
    assert content(new)[0]["thumbnail"].startswith(b"\xff\xd8")
    assert (new.info.fields, new.info.made_by, new.info.thumbnails) == (gallery.info.fields, "colours@1", 16)
    query = crowd(1, seed=9)[0]
    before, after = (each.search(MODEL, query, Ask(top=N)) for each in (gallery, new))
    assert [(hit.crop, hit.distance) for hit in after] == [(hit.crop, hit.distance) for hit in before]
    assert new.verify().problems == ()


def test_other_programs_read_the_columns(parquet: Path, gallery: Gallery) -> None:
    table = pq.read_table(parquet)
    assert table.column_names == [*NAMES, "thumbnail", *FIELDS]
    known = dict(zip(table["id"].to_pylist(), table["pid"].to_pylist(), strict=True))
    assert known == {crop.id: crop.pid for crop in gallery.crops()}
    assert len(table["e_parts"][0].as_py()) == 12
    assert info_of(parquet) == gallery.info


def test_it_goes_in_blocks(gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port, "_ROWS", 16)
    out: list[int] = []
    into: list[int] = []
    assert export(gallery, tmp_path / "p.parquet", progress=out.append) == N
    new, _ = import_into(tmp_path / "new", tmp_path / "p.parquet", progress=into.append)
    assert (sum(out), into) == (N, [16, 16, 8])
    assert max(out) <= 16
    assert content(new) == content(gallery)


def test_some_crops_only(gallery: Gallery, tmp_path: Path) -> None:
    where = Filter(pids=("it's", "p1"), not_cameras=("c0",))
    expected = {crop.id for crop in gallery.crops(where)}
    assert export(gallery, tmp_path / "p.parquet", where) == len(expected) > 3
    new, _ = import_into(tmp_path / "new", tmp_path / "p.parquet")
    assert {crop.id for crop in new.crops()} == expected
    assert export(gallery, tmp_path / "none.parquet", Filter(pids=("nobody",))) == 0
    assert import_into(tmp_path / "none", tmp_path / "none.parquet")[1].added == 0


def test_what_is_there_stays_as_it_is(gallery: Gallery, parquet: Path, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "g", tmp_path / "g")
    there = Gallery.open(tmp_path / "g", audit=False)
    ids = tuple(crop.id for crop in there.crops()[:10])
    there.delete(Filter(ids=ids))
    there.update(Filter(pids=("p2",)), {"pid": "anna"})
    same, added = import_into(tmp_path / "g", parquet)
    assert (added.added, added.known) == (10, N - 10)
    assert {crop.id for crop in same.crops()} == {crop.id for crop in gallery.crops()}
    assert {crop.pid for crop in same.crops() if crop.id not in ids} >= {"anna"}
    assert import_into(tmp_path / "g", parquet)[1].added == 0
    assert len(same) == N


def test_it_can_be_stopped_and_done_again(
    gallery: Gallery, parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port, "_ROWS", 16)
    seen: list[int] = []

    def stop(n: int) -> None:
        seen.append(n)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_into(tmp_path / "new", parquet, progress=stop)
    assert len(Gallery.open(tmp_path / "new")) == 32
    new, added = import_into(tmp_path / "new", parquet)
    assert (added.added, added.known) == (8, 32)
    assert content(new) == content(gallery)


def test_an_empty_folder_is_a_place_for_a_gallery(parquet: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert len(import_into(tmp_path / "new", parquet)[0]) == N


def test_an_address_is_made_and_added_to(gallery: Gallery, parquet: Path, tmp_path: Path) -> None:
    address = f"file-object-store://{tmp_path}/store"
    new, added = import_into(address, parquet)
    assert (added.added, new.folder) == (N, None)
    assert import_into(address, parquet)[1].known == N
    assert content(Gallery.open(address)) == content(gallery)


def test_both_are_logged(made: Path, parquet: Path, tmp_path: Path) -> None:
    new, _ = import_into(tmp_path / "new", parquet, who="anna")
    where = Filter(cameras=("c1",))
    found = export(new, tmp_path / "p.parquet", where)
    lines = list(new.entries())
    assert [(line.who, line.what) for line in lines] == [("anna", "create"), ("anna", "add"), ("anna", "export")]
    assert lines[1].details == {"crops": N}
    assert lines[2].details == {"to": f"{tmp_path}/p.parquet", "crops": found, "where": {"cameras": ["c1"]}}


# ---------------------------------------------------------------- what is refused


def refused(where: Path, path: Path) -> GalleryError:
    with pytest.raises(GalleryError) as error:
        import_into(where, path)
    return error.value


def test_other_weights_are_refused(parquet: Path, tmp_path: Path) -> None:
    other: Any = Colours("colours@2")
    Gallery.create(tmp_path / "g", other)
    error = refused(tmp_path / "g", parquet)
    assert error.where == str(tmp_path / "g")
    assert error.cause == "holds embeddings of the weights colours@2, and these are of colours@1"
    assert "`glimpse gallery re-embed`" in error.remedy
    assert len(Gallery.open(tmp_path / "g")) == 0


def test_other_tensors_are_refused(parquet: Path, tmp_path: Path) -> None:
    Gallery.of(tmp_path / "g", Embedding({"parts": torch.zeros(1, 4, 2)}, "colours@1"), "colours@1")
    error = refused(tmp_path / "g", parquet)
    assert (error.where, error.cause) == (str(parquet), "its embeddings have other tensors than the gallery's")
    assert error.remedy == "export it again from a gallery of these weights"


def rewritten(parquet: Path, to: Path, change: Any) -> Path:
    """The export as another program would write it after `change`."""
    pq.write_table(change(pq.read_table(parquet)), to)
    return to


def strange_files(parquet: Path, folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Files that are no export, and what is said of them: cause, remedy."""
    ours = "give a file that `glimpse gallery export` wrote"
    yield folder / "nowhere.parquet", "does not exist", "check the path and its spelling"
    (folder / "text.parquet").write_text("id,pid\n1,2\n")
    yield folder / "text.parquet", "cannot be read (", f"{ours}, or export the gallery again"
    (folder / "empty.parquet").write_bytes(b"")
    yield folder / "empty.parquet", "cannot be read (", f"{ours}, or export the gallery again"
    (folder / "cut.parquet").write_bytes(parquet.read_bytes()[:-100])
    yield folder / "cut.parquet", "cannot be read (", f"{ours}, or export the gallery again"
    (folder / "folder.parquet").mkdir()
    yield folder / "folder.parquet", "cannot be read (", f"{ours}, or export the gallery again"
    pq.write_table(pa.table({"id": ["a"]}), folder / "other.parquet")
    yield folder / "other.parquet", "is a Parquet file, and no exported gallery", ours

    def of_tomorrow(table: pa.Table) -> pa.Table:
        said = table.schema.metadata[b"glimpse"].replace(b"glimpse-gallery-1", b"glimpse-gallery-9")
        return table.replace_schema_metadata({b"glimpse": said})

    cause = "has a format that is not read here (format: input should be 'glimpse-gallery-1')"
    yield rewritten(parquet, folder / "new.parquet", of_tomorrow), cause, "export it again with this version of glimpse"
    lacking = rewritten(parquet, folder / "lacking.parquet", lambda table: table.drop_columns(["e_weights"]))
    yield lacking, "has no column 'e_weights' as galleries have it: another program wrote it anew", ours

    def as_text(table: pa.Table) -> pa.Table:
        place = table.column_names.index("time")
        return table.set_column(place, "time", table["time"].cast(pa.string()))

    texts = rewritten(parquet, folder / "texts.parquet", as_text)
    yield texts, "has no column 'time' as galleries have it: another program wrote it anew", ours


def test_what_is_no_export_is_said_so_and_makes_no_gallery(parquet: Path, tmp_path: Path) -> None:
    for path, cause, remedy in strange_files(parquet, tmp_path):
        error = refused(tmp_path / "new", path)
        assert error.where == str(path)
        assert error.cause.startswith(cause)
        assert error.remedy == remedy
        assert not (tmp_path / "new").exists()


def test_columns_may_stand_in_another_order(parquet: Path, gallery: Gallery, tmp_path: Path) -> None:
    turned = rewritten(parquet, tmp_path / "p.parquet", lambda table: table.select(table.column_names[::-1]))
    assert content(import_into(tmp_path / "new", turned)[0]) == content(gallery)


@pytest.mark.parametrize("name", ["id", "e_parts"])
def test_a_row_without_id_or_embedding_is_refused(parquet: Path, tmp_path: Path, name: str) -> None:
    def emptied(table: pa.Table) -> pa.Table:
        place = table.column_names.index(name)
        return table.set_column(place, table.schema.field(name), pa.nulls(len(table), table.schema.field(name).type))

    error = refused(tmp_path / "new", rewritten(parquet, tmp_path / "p.parquet", emptied))
    assert error.cause == "is damaged (a crop without id or embedding); 0 crops were added before"


def imported(where: Path, path: Path) -> Gallery | GalleryError:
    try:
        return import_into(where, path, audit=False)[0]
    except GalleryError as error:
        return error


def test_a_damaged_export_is_never_taken_for_a_whole_one(parquet: Path, gallery: Gallery, tmp_path: Path) -> None:
    """A byte is changed anywhere in the pages; what comes in is what was written, or it is refused."""
    whole = parquet.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    expected = {row["id"]: row for row in content(gallery)}
    random = np.random.default_rng(0)
    said = 0
    for place in random.integers(4, len(whole) - footer, 40).tolist():
        data = bytearray(whole)
        data[place] ^= 1 << int(random.integers(8))
        (tmp_path / "p.parquet").write_bytes(bytes(data))
        outcome = imported(tmp_path / "new", tmp_path / "p.parquet")
        if isinstance(outcome, Gallery):
            assert {row["id"]: row for row in content(outcome)} == expected
        else:
            said += 1
            assert outcome.where == str(tmp_path / "p.parquet")
            assert outcome.cause.endswith("; 0 crops were added before")
            assert outcome.remedy == "export the gallery again, and import it again"
        shutil.rmtree(tmp_path / "new")
    assert said > 20


def test_an_export_takes_the_place_of_files_only(gallery: Gallery, made: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="folder: is a folder, and a file is to be written there"):
        export(gallery, tmp_path / "folder")
    before = sorted((made / "g").rglob("*"))
    for name in ("checksums.txt", "new.parquet", "index/new.parquet"):
        with pytest.raises(ConfigError, match=r"lies in the folder of the gallery\. Remedy: write it"):
            export(gallery, made / "g" / name)
    assert sorted((made / "g").rglob("*")) == before
    (tmp_path / "p.parquet").write_text("an older one")
    assert export(gallery, tmp_path / "p.parquet") == N
    assert info_of(tmp_path / "p.parquet").made_by == "colours@1"


def test_a_failed_export_leaves_what_was_there(
    gallery: Gallery, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "p.parquet"
    target.write_text("an older one")

    def full(self: Any, batch: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_batch", full)
        with pytest.raises(GalleryError, match="the disk is full"):
            export(gallery, target)
    shutil.copytree(made / "g", tmp_path / "g")
    for data in (tmp_path / "g" / "crops.lance" / "data").iterdir():
        data.unlink()
    with pytest.raises(GalleryError) as error:
        export(Gallery.open(tmp_path / "g", audit=False), target)
    assert "`glimpse gallery verify`" in error.value.remedy
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["p.parquet"]
    assert target.read_text() == "an older one"


def test_a_bad_id_is_said_so(parquet: Path, tmp_path: Path) -> None:
    def renamed(table: pa.Table) -> pa.Table:
        return table.set_column(0, "id", pa.array([f"crop {i}" for i in range(len(table))]))

    error = refused(tmp_path / "new", rewritten(parquet, tmp_path / "p.parquet", renamed))
    assert error.cause == "'crop 0' is no id of a crop"
    assert Crop(id="crop 0").name == "crop 0"
