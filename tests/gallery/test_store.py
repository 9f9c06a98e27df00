from __future__ import annotations

import io
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
import torch
from numbered import (
    CASCADE,
    MADE_BY,
    PART,
    add,
    create,
    embedded,
    id_of,
    known,
    number_of,
    numbers,
    picture,
    probes,
    whole,
)
from PIL import Image
from tiny import Tiny

from glimpse.backbones import BACKBONES
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, DataError, EmbeddingError, GalleryError
from glimpse.gallery import store as module
from glimpse.gallery.checksums import Checksums
from glimpse.gallery.fields import stored_form
from glimpse.gallery.filters import Filter
from glimpse.gallery.incoming import Incoming, file_content
from glimpse.gallery.rows import Crop
from glimpse.gallery.store import KEY, Added, Gallery, Verified
from glimpse.gallery.table import INDEX, NAME
from glimpse.matching import GlobalDistance
from glimpse.model import Card, Model, build

ROWS = 40


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops 0 to 39, of which no test changes anything."""
    folder = tmp_path_factory.mktemp("store") / "gallery"
    add(create(folder), range(ROWS))
    return folder


@pytest.fixture
def gallery(made: Path, tmp_path: Path) -> Gallery:
    """A copy to change."""
    shutil.copytree(made, tmp_path / "gallery")
    return Gallery.open(tmp_path / "gallery", who="tester")


def one(gallery: Gallery, number: int) -> Crop:
    (found,) = gallery.crops(Filter(ids=(id_of(number),)))
    return found


# ---------------------------------------------------------------- making and opening


def test_a_gallery_says_what_it_is(made: Path, tmp_path: Path) -> None:
    first = create(tmp_path / "new", thumbnails=12)
    assert len(first) == 0
    again = Gallery.open(tmp_path / "new")
    assert again.info == first.info
    assert (again.info.made_by, again.info.method, again.info.thumbnails) == (MADE_BY, "numbered", 12)
    assert {field.name: field.shape for field in again.info.fields} == {
        "parts": (3, 8),
        "globals": (3, 8),
        "weights": (3,),
    }
    assert (again.where, repr(again)) == (str(tmp_path / "new"), f"Gallery('{tmp_path / 'new'}', {MADE_BY})")
    assert len(Gallery.open(f"file://{made}")) == ROWS


def test_a_relative_path_stays_where_it_was(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.parent)
    gallery = Gallery.open(made.name)
    monkeypatch.chdir(tmp_path)
    assert len(gallery.crops()) == ROWS
    assert gallery.where == str(made)


def test_what_is_there_is_not_written_over(made: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    said = r"there is a gallery already\. Remedy: choose a new folder, or add to the gallery\."
    with pytest.raises(GalleryError, match=said):
        create(made)
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("dear")
    for name in ("full", "file"):
        with pytest.raises(GalleryError, match=rf"{name}: is not an empty folder\. Remedy: choose a new folder\."):
            create(tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert len(create(tmp_path / "empty")) == 0
    assert len(create(tmp_path / "deep" / "er")) == 0


def test_what_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"thumbnails: -1 pixels are no height\. Remedy: give 0 for none, or such as"):
        create(tmp_path / "new", thumbnails=-1)
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(GalleryError, match=r"cannot be written \(.*Not a directory"):
        create(tmp_path / "file" / "new")


def test_what_is_no_gallery(tmp_path: Path) -> None:
    with pytest.raises(
        GalleryError, match=r"there is no gallery\. Remedy: make one with `glimpse gallery create`, or co"
    ):
        Gallery.open(tmp_path / "nowhere")
    lance.write_dataset(pa.table({"a": [1]}), str(tmp_path / "table" / NAME))
    said = r"table: is a table, and no gallery of glimpse\. Remedy: make one with `glimpse gallery create`\."
    with pytest.raises(GalleryError, match=said):
        Gallery.open(tmp_path / "table")


def test_a_gallery_of_a_format_to_come(tmp_path: Path) -> None:
    info = create(tmp_path / "now").info.model_dump_json().replace("glimpse-gallery-1", "glimpse-gallery-9")
    table = pa.table({"id": pa.array([], pa.string())}).replace_schema_metadata({KEY: info})
    lance.write_dataset(table, str(tmp_path / "later" / NAME))
    said = (
        r"later: has a format that is not read here \(format: input should be 'glimpse-gallery-1'\)\. "
        r"Remedy: open it with the version of glimpse that made it, and export it there\."
    )
    with pytest.raises(GalleryError, match=said):
        Gallery.open(tmp_path / "later")


def test_lancedb_opens_it(made: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    table = lancedb.connect(str(made)).open_table("crops")
    assert table.count_rows() == ROWS
    found = table.search().where("camera = 'c1' AND array_contains(tags, 'even')").select(["source"]).to_arrow()
    expected = [n for n in range(ROWS) if n % 5 != 4 and n % 3 == 1 and n % 2 == 0]
    assert sorted(int(source.split("-")[1]) for source in found["source"].to_pylist()) == expected


# ---------------------------------------------------------------- adding what is embedded


def test_crops_are_added_once(gallery: Gallery) -> None:
    assert str(add(gallery, range(30, 50))) == "10 crops added, 10 there already"
    assert add(gallery, range(30, 50)) == Added(0, 20)
    assert add(gallery, [60, 61, 60, 61, 62, 60]) == Added(3, 3)
    assert add(gallery, []) == Added(0, 0)
    assert numbers(gallery) == [*range(50), 60, 61, 62]
    assert whole(gallery) == numbers(gallery)


def test_crops_are_added_once_over_several_handles(gallery: Gallery) -> None:
    handles = [gallery, Gallery.open(gallery.where), Gallery.open(gallery.where)]
    for step in range(12):
        before = len(handles[step % 3])
        start = 100 + 3 * step
        assert add(handles[step % 3], range(start, start + 7)) == (Added(7, 0) if step == 0 else Added(3, 4))
        assert len(handles[step % 3]) > before
    assert numbers(handles[1]) == [*range(ROWS), *range(100, 140)]
    whole(handles[2])


def test_of_crops_that_come_twice_the_first_stays(gallery: Gallery) -> None:
    crops = [known(70), known(70).model_copy(update={"camera": "second"})]
    gallery.add_embedded(embedded([70, 71]), crops)
    gallery.add_embedded(embedded([72]), [known(70).model_copy(update={"camera": "third"})])
    assert one(gallery, 70).camera == "c1"
    row = gallery.table.row_ids(Filter(ids=(id_of(70),)).sql())
    assert torch.equal(gallery.embedding(row)["parts"].float(), embedded([70])["parts"])


def test_what_is_known_is_kept(gallery: Gallery) -> None:
    for number in (0, 4, 7, 39):
        assert one(gallery, number).model_copy(update={"added": None}) == known(number)
        assert abs((one(gallery, number).added or 0) - gallery.info.created) < 600
    assert gallery.crops(Filter(pids=("nobody",))) == []


def test_numbers_are_kept_in_half_precision(tmp_path: Path) -> None:
    embedding = Embedding({"vector": torch.tensor([[1 / 3, 1e-9, 65504.0, -0.1]])}, MADE_BY)
    gallery = Gallery.of(tmp_path / "gallery", embedding, MADE_BY)
    gallery.add_embedded(embedding, [known(1)])
    found = gallery.embedding(np.array([0]))
    assert found.made_by == MADE_BY
    assert found["vector"].dtype == torch.float16
    assert torch.equal(found["vector"], embedding["vector"].half())


def test_other_weights_are_refused(gallery: Gallery) -> None:
    other = Embedding(embedded([50]).tensors, "numbered@2")
    said = (
        r"gallery: holds embeddings of the weights numbered@1, and these are of numbered@2\. "
        r"Remedy: use those weights, or embed its crops anew with `glimpse gallery re-embed`\."
    )
    with pytest.raises(GalleryError, match=said):
        gallery.add_embedded(other, [known(50)])
    with pytest.raises(GalleryError, match=r"these are of unknown weights"):
        gallery.add_embedded(Embedding(other.tensors), [known(50)])
    with pytest.raises(GalleryError, match=r"these are of numbered@2"):
        gallery.nearest(PART, module.Probes.single(other), 3)
    assert numbers(gallery) == list(range(ROWS))


def test_what_does_not_fit_is_refused_and_nothing_added(gallery: Gallery) -> None:
    with pytest.raises(GalleryError, match=r"2 embeddings for 1 crops\. Remedy: give one for each\."):
        gallery.add_embedded(embedded([50, 51]), [known(50)])
    broken = embedded([50, 51])
    broken["parts"][1, 2, 3] = float("nan")
    with pytest.raises(EmbeddingError, match=r"'parts' of crop 1 is not finite in half precision"):
        gallery.add_embedded(broken, [known(50), known(51)])
    with pytest.raises(GalleryError, match=r"'short' is no id of a crop"):
        gallery.add_embedded(embedded([50, 51]), [known(50), Crop(id="short")])
    assert numbers(gallery) == list(range(ROWS))
    assert gallery.verify().problems == ()


# ---------------------------------------------------------------- changing and deleting


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"pid": "it's"}, {"pid": "it's"}),
        ({"pid": None, "camera": None, "track": None, "time": None}, dict.fromkeys(("pid", "camera", "track", "time"))),
        ({"time": -2.5e-7, "camera": ""}, {"time": -2.5e-7, "camera": ""}),
        ({"time": np.float64(1e22)}, {"time": 1e22}),
        ({"tags": ["a", "it's", ""]}, {"tags": ("a", "it's", "")}),
        ({"tags": ()}, {"tags": ()}),
        ({"tags": None, "track": "x"}, {"tags": (), "track": "x"}),
    ],
)
def test_what_is_known_can_be_changed(gallery: Gallery, values: dict[str, Any], expected: dict[str, Any]) -> None:
    before = {number_of(crop): crop for crop in gallery.crops()}
    rows = dict(zip(numbers(gallery), range(ROWS), strict=True))
    assert gallery.update(Filter(cameras=("c1",)), values) == sum(crop.camera == "c1" for crop in before.values())
    after = {number_of(crop): crop for crop in gallery.crops()}
    for number, crop in before.items():
        if crop.camera == "c1":
            assert after[number] == crop.model_copy(update=expected)
        else:
            assert after[number] == crop
    # Embeddings and row numbers are as they were, and so is the order.
    assert sorted(whole(gallery)) == list(range(ROWS))
    assert list(after) == list(before)
    for number in (1, 7, 2):
        assert gallery.table.row_ids(Filter(ids=(id_of(number),)).sql()).tolist() == [rows[number]]
    assert Gallery.open(gallery.where).crops() == gallery.crops()


def test_nothing_is_changed_where_nothing_fits(gallery: Gallery) -> None:
    version = gallery.table.version
    assert gallery.update(Filter(pids=("nobody",)), {"pid": "x"}) == 0
    assert gallery.delete(Filter(pids=("nobody",))) == 0
    assert gallery.table.version == version


@pytest.mark.parametrize(
    ("chosen", "values", "said"),
    [
        (
            Filter(),
            {"pid": "x"},
            r"filter: no condition is given, and all crops would be changed\. Remedy: name ids, p",
        ),
        (
            Filter(pids=("a",)),
            {},
            r"values: nothing is to be changed\. Remedy: give some of pid, camera, track, time, tags",
        ),
        (Filter(pids=("a",)), {"source": "x"}, r"source: cannot be changed\. Remedy: what can be: pid, camera"),
        (
            Filter(pids=("a",)),
            {"time": "soon"},
            r"time: input should be a valid number.+\. Remedy: give a value that fits",
        ),
        (Filter(pids=("a",)), {"time": float("nan")}, r"time: input should be a finite number"),
        (Filter(pids=("a",)), {"pid": 5}, r"pid: input should be a valid string"),
        (Filter(pids=("a",)), {"tags": "ab"}, r"tags: input should be a valid tuple"),
        (Filter(pids=("a",)), {"camera": "\udcff"}, r"camera: '\\udcff' cannot be written in UTF-8"),
    ],
)
def test_what_cannot_be_changed(gallery: Gallery, chosen: Filter, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        gallery.update(chosen, values)


def test_deleted_crops_are_gone_and_can_come_again(gallery: Gallery) -> None:
    chosen = Filter(pids=("person-1-",))
    gone = [n for n in range(ROWS) if n % 7 == 1 and n % 5 != 4]
    other = Gallery.open(gallery.where)
    assert gallery.delete(chosen) == len(gone)
    assert numbers(other) == [n for n in range(ROWS) if n not in gone]
    assert gallery.delete(chosen) == 0
    with pytest.raises(GalleryError, match=r"rows are not there, or not any more"):
        other.embedding(np.array([gone[0]]))
    assert add(other, gone[:1]) == Added(1, 0)
    assert gallery.table.refresh()
    assert gallery.table.row_ids(chosen.sql()).tolist() == [ROWS]
    with pytest.raises(ConfigError, match=r"no condition is given, and all crops would be deleted"):
        gallery.delete(Filter())
    assert gallery.delete(Filter(before=1e9)) + gallery.delete(Filter(not_ids=("0" * 32,))) == ROWS - len(gone) + 1
    assert (len(gallery), gallery.crops()) == (0, [])
    gallery.compact()
    assert add(gallery, range(5)) == Added(5, 0)
    assert gallery.verify() == Verified((), (), 5, gallery.verify().files)


def test_compaction_changes_nothing_that_is_seen(gallery: Gallery) -> None:
    for start in range(ROWS, ROWS + 50, 5):
        add(gallery, range(start, start + 5))
    gallery.delete(Filter(ids=(id_of(42), id_of(3))))
    gallery.update(Filter(cameras=("c2",)), {"camera": "c1"})
    other = Gallery.open(gallery.where)
    before, rows = gallery.crops(), sorted(gallery.table.row_ids().tolist())
    assert gallery.stats()["fragments"] > 5
    gallery.compact()
    assert gallery.stats()["fragments"] == 1
    assert gallery.crops() == other.crops() == before
    assert sorted(gallery.table.row_ids().tolist()) == rows
    whole(gallery)
    gallery.compact()
    assert gallery.crops() == before


# ---------------------------------------------------------------- small pictures, numbers, the log


def test_small_pictures(gallery: Gallery, tmp_path: Path) -> None:
    assert gallery.thumbnail(7) == picture(7)
    gallery.add_embedded(embedded([50]), [known(50)])
    assert gallery.thumbnail(ROWS) is None
    with pytest.raises(GalleryError, match=r"rows are not there, or not any more"):
        gallery.thumbnail(ROWS + 1)


@pytest.mark.parametrize(
    ("size", "height", "expected"),
    [((20, 60), 12, (4, 12)), ((20, 60), 60, (20, 60)), ((20, 60), 100, (20, 60)), ((1, 900), 3, (1, 3))],
)
def test_a_small_picture_is_no_higher_than_was_said(
    size: tuple[int, int], height: int, expected: tuple[int, int]
) -> None:
    data = module.thumbnail(Image.new("RGBA", size, (200, 10, 10)), height)
    assert data is not None
    small = Image.open(io.BytesIO(data))
    assert (small.format, small.mode, small.size) == ("JPEG", "RGB", expected)
    assert small.getpixel((0, 0))[0] > 180  # type: ignore[index]


def test_no_small_pictures() -> None:
    assert module.thumbnail(Image.new("RGB", (4, 4)), 0) is None
    assert module.thumbnail(None, 10) is None


def test_numbers_of_a_gallery(gallery: Gallery) -> None:
    gallery.delete(Filter(ids=(id_of(0), id_of(2))))
    found = gallery.stats()
    assert {name: found[name] for name in ("crops", "deleted and not compacted", "people", "cameras", "tracks")} == {
        "crops": 38,
        "deleted and not compacted": 2,
        "people": 7,
        "cameras": 3,
        "tracks": 4,
    }
    assert (found["from"], found["to"], found["sources"]) == (10.0, 380.0, 38)
    assert (found["weights"], found["method"], found["bytes per crop"]) == (MADE_BY, "numbered", 2 * (24 + 24 + 3))
    assert (found["fragments"], found["index"], found["version"]) == (1, None, gallery.table.version)
    assert found["bytes on disk"] == sum(p.stat().st_size for p in Path(gallery.where).rglob("*") if p.is_file())


def test_nothing_has_no_first_time(tmp_path: Path) -> None:
    found = create(tmp_path / "gallery").stats()
    assert (found["crops"], found["from"], found["to"], found["people"]) == (0, None, None, 0)


def test_the_log_says_who_did_what(made: Path, gallery: Gallery) -> None:
    add(gallery, [50])
    gallery.update(Filter(pids=("person-3-",)), {"pid": "secret", "tags": ("private",)})
    gallery.delete(Filter(sources=("crop-7-.jpg",)))
    gallery.compact()
    gallery.log("search", {"hits": [1]})
    lines = list(gallery.entries())
    assert [(line.what, line.who) for line in lines[2:]] == [
        (what, "tester") for what in ("add", "update", "delete", "compact", "search")
    ]
    assert [line.what for line in lines[:2]] == ["create", "add"]
    assert lines[0].details == {"weights": MADE_BY}
    changed = [n for n in range(ROWS) if n % 7 == 3 and n % 5 != 4]
    expected = {"of": ["pid", "tags"], "crops": len(changed), "ids": [id_of(n) for n in changed]}
    assert [line.details for line in lines[2:]] == [
        {"crops": 1},
        expected,
        {"crops": 1, "ids": [id_of(7)]},
        {"crops": 40},
        {"hits": [1]},
    ]
    # Names are not in it: they could not be taken out again.
    said = (Path(gallery.where) / "audit.jsonl").read_text()
    assert not [name for name in ("person-3-", "secret", "private", "crop-7-") if name in said]


def test_a_long_deletion_is_logged_by_its_first_crops(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOGGED", 3)
    assert gallery.delete(Filter(not_ids=(id_of(0),))) == 39
    *_, line = gallery.entries()
    assert line.details == {"crops": 39, "ids": [id_of(1), id_of(2), id_of(3)]}


def test_a_gallery_without_a_log(tmp_path: Path) -> None:
    gallery = create(tmp_path / "gallery", audit=False)
    add(gallery, [1])
    gallery.log("search", {})
    assert list(gallery.entries()) == []
    assert not (tmp_path / "gallery" / "audit.jsonl").exists()


# ---------------------------------------------------------------- searching


def test_how_a_gallery_is_searched(made: Path) -> None:
    gallery = Gallery.open(made)
    with pytest.raises(ConfigError, match=r"mode: 'quick' is not known\. Remedy: choose one of auto, exact, fast\."):
        gallery.nearest(PART, probes(1), 3, mode="quick")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"depth: 0 crops are none\. Remedy: ask for at least one\."):
        gallery.nearest(PART, probes(1), 0)
    said = r"has no index for this distance\. Remedy: build it with `glimpse gallery index`, or search with mode exact"
    with pytest.raises(GalleryError, match=said):
        gallery.nearest(PART, probes(1), 3, mode="fast")
    for mode in ("auto", "exact"):
        first, second = gallery.nearest(CASCADE, probes(1, 2), 50, where=Filter(cameras=("c1",)), mode=mode)  # type: ignore[arg-type]
        assert first.row_ids[0] == 1
        assert set(second.row_ids.tolist()) == {n for n in range(ROWS) if n % 3 == 1 and n % 5 != 4}
    before = gallery.nearest(PART, probes(1), 1)[0].row_ids.tolist()
    assert before == [1]


def test_a_search_sees_what_others_did(gallery: Gallery) -> None:
    other = Gallery.open(gallery.where)
    assert gallery.nearest(PART, probes(77), 1)[0].row_ids.tolist() != [ROWS]
    add(other, [77])
    assert gallery.nearest(PART, probes(77), 1)[0].row_ids.tolist() == [ROWS]
    other.delete(Filter(ids=(id_of(77),)))
    other.compact()
    assert ROWS not in gallery.nearest(PART, probes(77), 50)[0].row_ids.tolist()


# ---------------------------------------------------------------- adding with a model


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    """Random weights on a backbone of one convolution."""
    monkeypatch.setitem(BACKBONES, "osnet_x0_25", Tiny)
    torch.manual_seed(0)
    half = (0.5, 0.5, 0.5)
    options = {"strips": 2, "dim": 4}
    card = Card(method="qpm", options=options, backbone="osnet_x0_25", size=(64, 32), mean=half, std=half)
    return Model(build(card), card, "tiny@1", precision="float32", batch=4)


def painted(number: int) -> bytes:
    file = io.BytesIO()
    colour = np.random.default_rng(number).integers(0, 255, (8, 4, 3), np.uint8)
    Image.fromarray(colour).resize((16, 32)).save(file, "PNG")
    return file.getvalue()


def coming(numbers: Any, **facts: Any) -> Iterator[Incoming | DataError]:
    for number in numbers:
        data = painted(number)
        yield Incoming(file_content(data), f"crop-{number}-.png", data=data, pid=f"p{number}", **facts)


BAD = Incoming(file_content(b"no picture"), "bad.png", data=b"no picture")
GONE = DataError("gone.png", "does not exist", "correct the path")


def mixed_in(crops: Iterator[Incoming | DataError]) -> Iterator[Incoming | DataError]:
    """Something bad after every third."""
    for number, crop in enumerate(crops):
        yield crop
        if number % 3 == 2:
            yield BAD if number % 2 else GONE


def test_crops_are_embedded_and_added(tmp_path: Path, model: Model) -> None:
    gallery = Gallery.create(tmp_path / "gallery", model, thumbnails=16)
    assert gallery.info.method == "qpm"
    done: list[int] = []
    added = gallery.add(model, mixed_in(coming(range(20))), progress=done.append)
    assert (added.added, added.known, sum(done)) == (20, 0, 26)
    assert {error.where for error in added.bad} == {"bad.png", "gone.png"}
    assert len(added.bad) == 6
    assert str(added) == "20 crops added, 6 could not be read"
    assert numbers(gallery) == list(range(20))
    images = [Image.open(io.BytesIO(painted(number))).convert("RGB") for number in range(20)]
    expected = stored_form(model.distance(), model.embed(images))
    found = gallery.embedding(np.arange(20))
    assert set(found.names) == set(expected.names)
    for name in expected.names:
        assert torch.allclose(found[name].float(), expected[name], atol=2e-3)
    small = Image.open(io.BytesIO(gallery.thumbnail(3) or b""))
    assert small.size == (8, 16)
    crop = gallery.crops(Filter(pids=("p3",)))[0]
    assert (crop.id, crop.source) == (file_content(painted(3)), "crop-3-.png")


def test_known_crops_cost_a_hash(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = Gallery.create(tmp_path / "gallery", model)
    gallery.add(model, coming(range(5)))

    def refuse(crop: Incoming) -> Image.Image:
        raise AssertionError("it is known")

    monkeypatch.setattr(Incoming, "read", refuse)
    done: list[int] = []
    assert gallery.add(model, coming([*range(5), 3]), progress=done.append) == Added(0, 6)
    assert sum(done) == 6


def test_the_same_crop_twice_in_one_call(tmp_path: Path, model: Model) -> None:
    gallery = Gallery.create(tmp_path / "gallery", model)
    added = gallery.add(model, coming([1, 2, 1, 1, 3, 2] * 5))
    assert (added.added, added.known) == (3, 27)
    assert numbers(gallery) == [1, 2, 3]


@pytest.mark.parametrize("stop", [0, 1, 9, 17])
def test_what_was_done_before_it_was_stopped_stays(tmp_path: Path, model: Model, stop: int) -> None:
    gallery = Gallery.create(tmp_path / "gallery", model)

    def broken() -> Iterator[Incoming | DataError]:
        yield from coming(range(stop))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gallery.add(model, broken())
    there = numbers(gallery)
    assert there == list(range(len(there)))
    assert len(there) >= stop - 24  # what was being read and embedded is not done
    done: list[int] = []
    added = gallery.add(model, coming(range(20)), progress=done.append)
    assert (added.added, added.known, sum(done)) == (20 - len(there), len(there), 20)
    assert numbers(gallery) == list(range(20))


def test_crops_are_committed_some_at_a_time(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMMIT_ROWS", 6)
    gallery = Gallery.create(tmp_path / "gallery", model)
    sizes: list[int] = []
    add_embedded = gallery.add_embedded

    def watched(embedding: Embedding, *given: Any) -> Added:
        sizes.append(len(embedding))
        if len(sizes) == 3:
            raise GalleryError("here", "the disk is full", "make room")
        return add_embedded(embedding, *given)

    monkeypatch.setattr(gallery, "add_embedded", watched)
    with pytest.raises(GalleryError, match="the disk is full"):
        gallery.add(model, coming(range(40)))
    assert sizes == [8, 8, 8]  # what failed is not tried again on the way out
    assert numbers(gallery) == list(range(16))
    assert gallery.add(model, coming(range(40))).added == 24
    assert numbers(gallery) == list(range(40))


def test_another_process_adds_meanwhile(tmp_path: Path, model: Model) -> None:
    gallery = Gallery.create(tmp_path / "gallery", model)

    def interrupted() -> Iterator[Incoming | DataError]:
        yield from coming(range(3))
        Gallery.open(gallery.where).add(model, coming(range(2, 6)))
        yield from coming(range(3, 8))

    added = gallery.add(model, interrupted())
    assert (added.added, added.known) == (4, 4)
    assert sorted(numbers(gallery)) == list(range(8))
    assert gallery.verify().problems == ()


def test_names_that_are_no_text_are_reported(tmp_path: Path, model: Model) -> None:
    gallery = Gallery.create(tmp_path / "gallery", model)
    data = painted(90)
    odd = Incoming(file_content(data), "caf\udce9.png", data=data)
    added = gallery.add(model, [*coming(range(3)), odd, *coming(range(3, 5))])
    assert added.added == 5
    (error,) = added.bad
    assert str(error) == (
        r"caf\udce9.png: has a source that cannot be kept ('caf\udce9.png' cannot be written in UTF-8). "
        "Remedy: give it another."
    )
    with pytest.raises(DataError, match=r"has a time that cannot be kept \(input should be a finite number\)"):
        module.crop_of(Incoming("0" * 32, "a.png", time=float("nan")))


def test_a_model_of_other_weights(tmp_path: Path, model: Model) -> None:
    gallery = Gallery.create(tmp_path / "gallery", model)
    other = Model(model.method, model.card, "tiny@2", precision="float32")
    with pytest.raises(GalleryError, match=r"holds embeddings of the weights tiny@1, and these are of tiny@2\. Remedy"):
        gallery.add(other, coming(range(3)))


# ---------------------------------------------------------------- checking


def problems(folder: Path) -> tuple[str, ...]:
    """What checking a gallery says, also if it cannot be opened."""
    try:
        found = Gallery.open(folder).verify()
    except GalleryError:
        return tuple(Checksums(folder / "checksums.txt", (NAME, INDEX)).check()[0])
    return found.problems + found.notes


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With everything that a gallery can have in its folder."""
    folder = tmp_path_factory.mktemp("worked") / "gallery"
    gallery = create(folder)
    add(gallery, range(60))
    gallery.index(PART)
    gallery.compact()
    add(gallery, range(60, 90))
    gallery.delete(Filter(ids=(id_of(5), id_of(70))))
    gallery.update(Filter(cameras=("c2",)), {"pid": "changed"})
    return folder


def test_a_flipped_bit_is_found_wherever_it_is(worked: Path, tmp_path: Path) -> None:
    assert problems(worked) == ()
    places = random.Random(0)
    files = [path for path in worked.rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 12
    own = tmp_path / "own"
    shutil.copytree(worked, own)
    for path in files:
        target = own / path.relative_to(worked)
        good = target.read_bytes()
        for place in [0, len(good) - 1, *(places.randrange(len(good)) for _ in range(8))]:
            flipped = bytearray(good)
            flipped[place] ^= 1 << places.randrange(8)
            target.write_bytes(flipped)
            found = problems(own)
            assert any(path.name in said for said in found), (path, place, found)
        target.write_bytes(good)
    assert problems(own) == ()


def test_what_is_missing_or_cut_off_is_found(worked: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(worked, own)
    for path in [path for folder in (NAME, INDEX) for path in (worked / folder).rglob("*") if path.is_file()]:
        if path.name == "latest_version_hint.json":
            continue
        target, name = own / path.relative_to(worked), path.relative_to(worked).as_posix()
        good = target.read_bytes()
        target.unlink()
        assert f"{name} is missing" in problems(own)
        target.write_bytes(good[:-1] or b"more")
        assert f"{name} has {len(good[:-1] or b'more'):,} bytes instead of {len(good):,}" in problems(own)
        target.write_bytes(good)
    assert problems(own) == ()


STEPS: dict[str, Callable[[Gallery], Any]] = {
    "add": lambda gallery: add(gallery, range(100, 110)),
    "add more": lambda gallery: add(gallery, range(110, 150)),
    "add the same": lambda gallery: add(gallery, range(100, 110)),
    "delete": lambda gallery: gallery.delete(Filter(ids=(id_of(1), id_of(104)))),
    "delete all of a part": lambda gallery: gallery.delete(Filter(ids=tuple(id_of(n) for n in range(100, 110)))),
    "update": lambda gallery: gallery.update(Filter(cameras=("c1",)), {"pid": None}),
    "compact": lambda gallery: gallery.compact(),
    "index": lambda gallery: gallery.index(PART),
    "index again": lambda gallery: gallery.index(PART, rebuild=True),
    "index for another": lambda gallery: gallery.index(CASCADE),
}


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_wrong_with_a_healthy_gallery(gallery: Gallery, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glimpse.gallery.shortlist.QUERIES", 3)
    order = random.Random(seed).choices(list(STEPS), k=10) if seed else list(STEPS)
    for name in order:
        STEPS[name](gallery)
        found = gallery.verify()
        assert (found.problems, found.notes, found.crops) == ((), (), len(gallery)), (name, order)
    assert sorted(whole(gallery)) == sorted(whole(Gallery.open(gallery.where)))


def test_how_much_was_checked(gallery: Gallery) -> None:
    done: list[int] = []
    found = gallery.verify(progress=done.append)
    assert (found.crops, found.files) == (ROWS, len(done))
    files = [path for path in (Path(gallery.where) / NAME).rglob("*") if path.is_file()]
    assert found.files == len(files) - 1  # all but the hint, which is written over


def test_what_other_programs_wrote_is_noted_and_checked(gallery: Gallery) -> None:
    row = gallery.table.rows([*(f.name for f in gallery.table.dataset.schema)]).drop_columns(["_rowid"]).slice(0, 1)
    lance.write_dataset(row, str(Path(gallery.where) / NAME), mode="append")
    found = gallery.verify()
    assert found.problems == ("1 id more than once",)
    assert found.notes[0].startswith("3 files not recorded (first: crops.lance/")
    nan = row.set_column(
        row.column_names.index("e_weights"),
        "e_weights",
        pa.array([[float("nan")] * 3], pa.list_(pa.float16(), 3)),
    )
    lance.write_dataset(nan, str(Path(gallery.where) / NAME), mode="append")
    said = {"2 ids more than once", f"'weights' is not finite in some of the rows {ROWS + 1} to {ROWS + 2}"}
    assert set(gallery.verify().problems) == said


def test_a_damaged_record_is_said_before_anything_is_changed(gallery: Gallery) -> None:
    (Path(gallery.where) / "checksums.txt").write_text("nonsense\n")
    version = gallery.table.version
    for work in (lambda: add(gallery, [50]), gallery.compact, lambda: gallery.delete(Filter(ids=(id_of(1),)))):
        with pytest.raises(
            GalleryError, match=r"checksums.txt: was changed: .+ or remove this file to record it anew\."
        ):
            work()
    assert Gallery.open(gallery.where).table.version == version
    (Path(gallery.where) / "checksums.txt").unlink()
    add(gallery, [50])
    assert gallery.verify().problems == ()


# ---------------------------------------------------------------- where nothing can be written


@pytest.fixture
def read_only(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> Gallery:
    """A gallery in a folder that is not to be written to. Who is root may all the same, so it is played."""
    open_ = os.open

    def forbidden(path: Any, flags: int, *mode: Any, **options: Any) -> int:
        if str(path).startswith(gallery.where) and flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            raise PermissionError(13, "Permission denied", str(path))
        return open_(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", forbidden)
    return gallery


def test_a_folder_that_is_not_to_be_written_to(read_only: Gallery) -> None:
    for work in (
        lambda: add(read_only, [50]),
        lambda: read_only.delete(Filter(ids=(id_of(1),))),
        lambda: read_only.update(Filter(ids=(id_of(1),)), {"pid": "x"}),
        lambda: read_only.index(PART),
        read_only.compact,
    ):
        with pytest.raises(
            GalleryError, match=r"cannot be written to\. Remedy: get the right to write there, or use a c"
        ):
            work()
    said = (
        r"audit.jsonl: the audit log cannot be written \(Permission denied\)\. Remedy: .+ or open the gallery without a"
    )
    with pytest.raises(GalleryError, match=said):
        read_only.log("search", {})
    # Everything that only reads works.
    copy = Gallery.open(read_only.where, audit=False)
    assert numbers(copy) == list(range(ROWS))
    assert copy.nearest(PART, probes(3), 1)[0].row_ids.tolist() == [3]
    assert copy.verify().problems == ()
    assert copy.stats()["crops"] == ROWS


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_the_right_to_write(gallery: Gallery) -> None:
    folders = [path for path in (Path(gallery.where), *Path(gallery.where).rglob("*")) if path.is_dir()]
    try:
        for path in folders:
            path.chmod(0o555)
        (Path(gallery.where) / ".lock").chmod(0o444)
        with pytest.raises(GalleryError, match=r"cannot be written to"):
            add(gallery, [50])
        assert numbers(gallery) == list(range(ROWS))
    finally:
        for path in folders:
            path.chmod(0o755)


def test_without_the_library_of_the_index(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    said = r"gallery index: needs what is not installed \(faiss\)\. Remedy: install the extra: .+, or search exactly\."
    with pytest.raises(GalleryError, match=said):
        gallery.index(PART)
    assert gallery.nearest(PART, probes(3), 1)[0].row_ids.tolist() == [3]


def test_a_distance_that_reads_what_is_not_stored(made: Path) -> None:
    with pytest.raises(EmbeddingError, match=r"there is no tensor 'vector', only"):
        Gallery.open(made).nearest(GlobalDistance("vector"), probes(1), 3)
