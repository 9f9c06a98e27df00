"""Fast search, against exact search; and what is left in the files of a gallery of crops that were deleted."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from numbered import CASCADE, MADE_BY, PART, add, create, embedded, id_of, known, numbers, picture, probes, whole

from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, GalleryError
from glimpse.gallery import shortlist
from glimpse.gallery.exact import Probes
from glimpse.gallery.fields import stored_form
from glimpse.gallery.filters import Filter
from glimpse.gallery.rows import Crop
from glimpse.gallery.shortlist import Shortlist, open_shortlist, read_manifest
from glimpse.gallery.store import Gallery
from glimpse.matching import (
    Cascade,
    Distance,
    GlobalDistance,
    MixedDistance,
    PairGlobalDistance,
    PartDistance,
    ReconstructionDistance,
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortlist, "SMALL", 100)
    monkeypatch.setattr(shortlist, "QUERIES", 20)
    monkeypatch.setattr(shortlist, "_BLOCK", 1000)


PEOPLE = torch.randn(60, 4, 16, generator=torch.Generator().manual_seed(9))


def crowd(rows: int, seed: int, *, binary: bool = False, wide: int = 1) -> Embedding:
    """Crops of sixty people, with weights between 0 and 1; or 0 and 1, and the last always 1, as those of PGFA are."""
    random = torch.Generator().manual_seed(seed)
    who = torch.randint(0, len(PEOPLE), (rows,), generator=random)
    parts = PEOPLE[who].repeat(1, 1, wide)
    parts = parts + 0.8 * torch.randn(parts.shape, generator=random)
    weights = torch.rand(rows, 4, generator=random)
    if binary:
        weights = (weights > 0.4).float()
        weights[:, -1] = 1
    tensors = {"parts": parts, "globals": parts.flip(1) * 2, "weights": weights}
    # As they are stored, so that what is found can be compared to the last bit.
    return Embedding({name: tensor.half().float() for name, tensor in tensors.items()}, MADE_BY)


def fill(gallery: Gallery, embedding: Embedding, first: int = 0) -> None:
    crops = [Crop(id=id_of(first + n), pid=f"p{n % 50}", camera=f"c{n % 3}") for n in range(len(embedding))]
    gallery.add_embedded(embedding, crops)


def gallery_of(folder: Path, embedding: Embedding) -> Gallery:
    gallery = Gallery.of(folder, embedding[:1], MADE_BY, audit=False)
    fill(gallery, embedding)
    return gallery


def own(folder: Path, tmp_path: Path) -> Gallery:
    """A copy to change."""
    shutil.copytree(folder, tmp_path / "own")
    return Gallery.open(tmp_path / "own", audit=False)


def compared(gallery: Gallery, distance: Distance, queries: Probes, depth: int, where: Filter | None = None) -> float:
    """The share of the nearest that fast search finds; what it finds has the distance that it says."""
    exact = gallery.nearest(distance, queries, depth, where=where, mode="exact")
    fast = gallery.nearest(distance, queries, depth, where=where, mode="fast")
    shares = []
    for one, other in zip(exact, fast, strict=True):
        assert len(one) == len(other)
        assert other.reranked == one.reranked
        assert len(set(other.row_ids.tolist())) == len(other)
        values = dict(zip(one.row_ids.tolist(), one.distance.tolist(), strict=True))
        for row, value in zip(other.row_ids.tolist(), other.distance.tolist(), strict=True):
            if row in values and not isinstance(distance, Cascade):
                assert value == pytest.approx(values[row], abs=1e-5)
        shares += [np.isin(one.row_ids, other.row_ids).mean()] if len(one) else []
    return float(np.mean(shares)) if shares else 1.0


ROWS = 5000


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5,000 crops and an index of the part distance, whose codes are of 4 bits."""
    folder = tmp_path_factory.mktemp("shortlist") / "people"
    gallery = gallery_of(folder, crowd(ROWS, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shortlist, "QUERIES", 40)
        gallery.index(PART, recall=0.95)
    return folder


QUESTIONS = Probes.single(crowd(30, 2))


# ---------------------------------------------------------------- recall


def test_what_was_asked_for_is_found(people: Path) -> None:
    gallery = Gallery.open(people, audit=False)
    manifest = read_manifest(people / "index")
    assert manifest is not None
    measured = manifest.measured
    assert measured is not None
    assert measured.recall >= 0.95
    assert (measured.k, measured.queries, measured.target, measured.crops) == (10, 40, 0.95, ROWS)
    assert manifest.length < ROWS / 4
    assert compared(gallery, PART, QUESTIONS, 10) >= 0.9
    said = manifest.said()
    assert (said["crops"], said["recall@10"], said["measured on"]) == (
        ROWS,
        round(measured.recall, 4),
        "40 of 5,000 crops",
    )
    assert gallery.stats()["index"] == said


def test_auto_takes_the_index_where_there_is_one(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = Gallery.open(people, audit=False)
    monkeypatch.setattr("glimpse.gallery.store.search_exactly", lambda *given: [])
    assert len(gallery.nearest(PART, QUESTIONS, 3)) == 30
    assert gallery.nearest(PART, QUESTIONS, 3, mode="exact") == []
    assert gallery.nearest(GlobalDistance("globals"), QUESTIONS, 3) == []


def test_where_a_filter_leaves_few_all_are_compared(people: Path) -> None:
    gallery = Gallery.open(people, audit=False)
    few = Filter(pids=("p7",))
    assert len(gallery.crops(few)) == 100
    assert compared(gallery, PART, QUESTIONS, 10, few) == 1.0
    assert compared(gallery, PART, QUESTIONS, 200, few) == 1.0
    assert compared(gallery, PART, QUESTIONS, 5, Filter(pids=("nobody",))) != 0.0  # nothing, in both


def test_filters_are_applied_before_ranking(people: Path) -> None:
    gallery = Gallery.open(people, audit=False)
    half = Filter(cameras=("c1",))
    fitting = set(gallery.table.row_ids(half.sql()).tolist())
    for found in gallery.nearest(PART, QUESTIONS, 50, where=half, mode="fast"):
        assert len(found) == 50
        assert set(found.row_ids.tolist()) <= fitting
    assert compared(gallery, PART, QUESTIONS, 10, half) >= 0.9


def test_a_long_page_is_full(people: Path) -> None:
    gallery = Gallery.open(people, audit=False)
    for found in gallery.nearest(PART, QUESTIONS, ROWS // 5, mode="fast"):
        assert len(found) == ROWS // 5


def test_several_crops_of_one_person(people: Path) -> None:
    gallery = Gallery.open(people, audit=False)
    one = crowd(10, 2)
    random = torch.Generator().manual_seed(0)
    noise = 0.3 * torch.randn(30, 4, 16, generator=random)
    same = torch.arange(10).repeat_interleave(3)
    three = Embedding({**one[same].tensors, "parts": one[same]["parts"] + noise}, MADE_BY)
    for combine in ("min", "mean"):
        assert compared(gallery, PART, Probes(three, (3,) * 10, combine), 10) >= 0.9  # type: ignore[arg-type]


DISTANCES: dict[str, Distance] = {
    "cascade": CASCADE,
    "mixed": MixedDistance(((0.4, PART), (0.6, PairGlobalDistance()))),
    "root": PartDistance(combine="sqrt_product"),
    "unweighted": PartDistance(weights=None),
}


@pytest.mark.parametrize("name", list(DISTANCES))
def test_other_distances(name: str, people: Path, tmp_path: Path) -> None:
    gallery = own(people, tmp_path)
    distance = DISTANCES[name]
    gallery.index(distance, recall=0.95)
    assert compared(gallery, distance, QUESTIONS, 10) >= 0.88
    assert gallery.verify().problems == ()


def test_long_vectors_are_projected(tmp_path: Path) -> None:
    gallery = gallery_of(tmp_path / "gallery", crowd(1500, 1, wide=5))
    manifest = gallery.index(PART, recall=0.95)
    assert (manifest.products, manifest.sums) == (shortlist.DIMS, 4)
    assert manifest.products < 4 * 16 * 5
    assert (tmp_path / "gallery" / "index" / manifest.directions).exists()
    fill(gallery, crowd(300, 3, wide=5), 10_000)
    queries = Probes.single(crowd(20, 2, wide=5))
    assert compared(gallery, PART, queries, 10) >= 0.9
    assert compared(Gallery.open(gallery.where), PART, queries, 10) >= 0.9
    gallery.delete(Filter(cameras=("c1",)))
    gallery.compact()
    assert compared(Gallery.open(gallery.where), PART, queries, 10) >= 0.9
    assert gallery.verify().problems == ()


def test_reconstructions(tmp_path: Path) -> None:
    distance = ReconstructionDistance(weights="weights")
    random = torch.Generator().manual_seed(0)
    who = torch.randn(20, 6, 16, generator=random)

    def rows(count: int) -> Embedding:
        vectors = who[torch.randint(0, 20, (count,), generator=random)]
        noise = 0.5 * torch.randn(count, 6, 16, generator=random)
        raw = Embedding({"vectors": vectors + noise, "weights": torch.rand(count, 6, generator=random)}, MADE_BY)
        return stored_form(distance, raw)

    gallery = gallery_of(tmp_path / "gallery", rows(600))
    gallery.index(distance, recall=0.9)
    assert compared(gallery, distance, Probes.single(rows(10)), 10) >= 0.8


# ---------------------------------------------------------------- weights of 0 and 1


def everywhere(gallery: Gallery, distance: Distance) -> Shortlist:
    """The index of a gallery, looking into all its lists for more than there are."""
    found = gallery.shortlist(distance)
    assert found is not None
    found.manifest = found.manifest.model_copy(update={"probes": int(found.index.nlist), "length": 1000})
    return found


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shortlist") / "binary"
    gallery = gallery_of(folder, crowd(1500, 1, binary=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shortlist, "QUERIES", 10)
        gallery.index(PART, recall=1.0)
    return folder


@pytest.mark.parametrize("normalise", [True, False])
def test_crops_go_by_what_they_show(binary: Path, tmp_path: Path, normalise: bool) -> None:
    gallery = own(binary, tmp_path)
    distance = PartDistance(normalise=normalise, names=("a", "b", "c", "d"))
    gallery.index(distance, recall=1.0)
    everywhere(gallery, distance)
    queries = Probes.single(crowd(40, 2, binary=True))
    for where in (None, Filter(cameras=("c1", "c2"))):
        assert compared(gallery, distance, queries, 30, where) == 1.0
        exact = gallery.nearest(distance, queries, 30, where=where, mode="exact")
        fast = gallery.nearest(distance, queries, 30, where=where, mode="fast")
        for one, other in zip(exact, fast, strict=True):
            assert np.allclose(one.distance, other.distance, atol=1e-6)


def test_the_level_of_a_query_is_found_whatever_was_guessed(people: Path) -> None:
    gallery = Gallery.open(people, audit=False)
    index = gallery.shortlist(PART)
    assert index is not None
    true = [each.row_ids for each in gallery.nearest(PART, QUESTIONS, 10, mode="exact")]

    def share(level: float) -> float:
        index.manifest = index.manifest.model_copy(update={"level": level, "length": 50, "probes": index.index.nlist})
        found = [index.ordered(QUESTIONS[i].embedding, 50, index.index.nlist) for i in range(len(QUESTIONS))]
        return float(np.mean([np.isin(one, other).mean() for one, other in zip(true, found, strict=True)]))

    assert 0.2 < index.manifest.level < 0.9
    assert share(index.manifest.level) >= 0.99
    assert min(share(-1.0), share(0.99)) >= 0.98


def test_the_level_matters(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = Gallery.open(people, audit=False)
    index = gallery.shortlist(PART)
    assert index is not None
    monkeypatch.setattr(shortlist, "_WIDE", 1)
    crop = QUESTIONS[0].embedding
    lists = index.index.quantizer.search(index._vectors(crop), index.index.nlist)[1]
    exact = gallery.nearest(PART, QUESTIONS[0], 100, mode="exact")[0]
    level = 1.0 - float(exact.distance[-1])
    held = [
        np.isin(exact.row_ids, index._pool(index._asked(crop), each, 150, lists, None)).mean()
        for each in (level, -1.0, 1.0)
    ]
    assert held[0] > 0.8
    assert max(held[1:]) < held[0] - 0.1


def test_a_query_with_other_weights_finds_its_nearest_too(binary: Path) -> None:
    gallery = Gallery.open(binary, audit=False)
    everywhere(gallery, PART)
    queries = crowd(30, 2)  # of weights between 0 and 1
    assert compared(gallery, PART, Probes.single(queries), 10) == 1.0
    queries["weights"][:, 1] = 0
    assert compared(gallery, PART, Probes.single(queries), 10) == 1.0


def test_crops_that_share_nothing_come_last_in_their_order(tmp_path: Path) -> None:
    rows = crowd(600, 1, binary=True)
    rows["weights"][:] = torch.tensor([0.0, 1.0, 1.0, 1.0])
    rows["weights"][::20] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    gallery = gallery_of(tmp_path / "gallery", rows)
    gallery.index(PART)
    everywhere(gallery, PART)
    query = crowd(3, 2, binary=True)
    query["weights"][:] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    exact = gallery.nearest(PART, Probes.single(query), 80, mode="exact")
    fast = gallery.nearest(PART, Probes.single(query), 80, mode="fast")
    for one, other in zip(exact, fast, strict=True):
        assert other.row_ids.tolist() == one.row_ids.tolist()
        assert other.distance[30:].tolist() == [2.0] * 50
    query["weights"][:] = 0
    nothing = gallery.nearest(PART, Probes.single(query), 80, mode="fast")[0]
    assert nothing.row_ids.tolist() == list(range(80))


def test_crops_of_other_weights_are_taken_in(binary: Path, tmp_path: Path) -> None:
    gallery = own(binary, tmp_path)
    fill(gallery, crowd(500, 3), 10_000)
    everywhere(gallery, PART)
    assert compared(gallery, PART, QUESTIONS, 10) == 1.0
    gallery.index(PART)
    assert compared(gallery, PART, QUESTIONS, 10) >= 0.95
    assert gallery.verify().problems == ()


# ---------------------------------------------------------------- in step with the gallery


def test_what_comes_and_goes_is_seen_without_building_anew(people: Path, tmp_path: Path) -> None:
    gallery = own(people, tmp_path)
    index = gallery.shortlist(PART)
    assert index is not None
    assert len(index) == ROWS
    before = read_manifest(Path(gallery.where) / "index")
    other = Gallery.open(gallery.where, audit=False)
    fill(other, crowd(300, 3), 10_000)
    new = crowd(300, 3)
    found = gallery.nearest(PART, Probes.single(new), 1, mode="fast")
    assert [int(each.row_ids[0]) for each in found] == list(range(ROWS, ROWS + 300))
    assert (gallery.shortlist(PART), len(index)) == (index, ROWS + 300)
    gone = tuple(id_of(10_000 + n) for n in range(0, 300, 2))
    other.delete(Filter(ids=gone))
    other.update(Filter(ids=(id_of(10_001),)), {"camera": "changed"})
    found = gallery.nearest(PART, Probes.single(new), 1, mode="fast")
    assert [int(each.row_ids[0]) == ROWS + n for n, each in enumerate(found)] == [n % 2 == 1 for n in range(300)]
    assert len(index) == ROWS + 150
    found = gallery.nearest(PART, Probes.single(new[1]), 5, where=Filter(cameras=("changed",)), mode="fast")
    assert found[0].row_ids.tolist() == [ROWS + 1]
    other.compact()
    assert compared(gallery, PART, QUESTIONS, 10) >= 0.9
    assert before is not None
    now = read_manifest(Path(gallery.where) / "index")
    assert now is not None
    assert now.seconds == before.seconds


def test_an_index_is_brought_up_to_date_on_disk(people: Path, tmp_path: Path) -> None:
    gallery = own(people, tmp_path)
    folder = Path(gallery.where) / "index"
    first = read_manifest(folder)
    assert first is not None
    fill(gallery, crowd(300, 3), 10_000)
    gallery.delete(Filter(pids=("p3",)))
    second = gallery.index(PART, recall=0.95)
    assert (second.seconds, second.measured) == (first.seconds, first.measured)
    assert second.said()["crops"] == ROWS + 300 - 106
    names = {path.name for path in folder.iterdir()}
    assert names == {"manifest.json", *(n for n in shortlist._files_of(second) if n)}
    # Small parts are joined, so that many additions do not make many files.
    for step in range(4):
        fill(gallery, crowd(20, 10 + step), 20_000 + 100 * step)
        third = gallery.index(PART, recall=0.95)
    assert len(third.segments) <= len(second.segments) + 1
    again = Gallery.open(gallery.where, audit=False)
    assert len(again.shortlist(PART) or ()) == len(again) == third.said()["crops"]
    for one, other in zip(
        gallery.nearest(PART, QUESTIONS, 10, mode="fast"), again.nearest(PART, QUESTIONS, 10, mode="fast"), strict=True
    ):
        assert one.row_ids.tolist() == other.row_ids.tolist()
        assert np.array_equal(one.distance, other.distance)
    assert compared(again, PART, QUESTIONS, 10) >= 0.9
    assert gallery.verify().problems == ()


def test_when_an_index_is_tuned_again_or_built_anew(people: Path, tmp_path: Path) -> None:
    gallery = own(people, tmp_path)
    first = read_manifest(Path(gallery.where) / "index")
    assert first is not None
    more = gallery.index(PART, recall=0.99)
    assert more.seconds == first.seconds
    assert more.measured is not None
    assert (more.measured.target, more.measured.queries) == (0.99, 20)
    less = gallery.index(PART, recall=0.9)
    assert less.measured == more.measured
    assert gallery.index(PART, rebuild=True, recall=0.9).seconds != first.seconds
    fill(gallery, crowd(ROWS // 2 + 10, 3), 10_000)
    grown = gallery.index(PART, recall=0.9)
    assert grown.measured is not None
    assert grown.measured.crops == len(gallery)


def test_an_index_serves_all_distances_of_its_coarse_one(people: Path, tmp_path: Path) -> None:
    gallery = own(people, tmp_path)
    gallery.index(CASCADE, recall=0.95)
    fine = MixedDistance(((0.9, PART), (0.1, PairGlobalDistance())))
    for distance in (CASCADE, Cascade(PART, fine, 20), Cascade(PART, CASCADE.fine, 200), PART):
        assert open_shortlist(gallery, distance) is not None
        assert compared(gallery, distance, QUESTIONS, 10) >= 0.88
    for other in (PartDistance(normalise=False, names=("a", "b", "c", "d")), PairGlobalDistance(), fine):
        assert open_shortlist(gallery, other) is None
        assert len(gallery.nearest(other, QUESTIONS, 3)[0]) == 3
        with pytest.raises(GalleryError, match=r"has no index for this distance"):
            gallery.nearest(other, QUESTIONS, 3, mode="fast")


def test_an_index_without_what_the_fine_distance_reads_is_not_taken(people: Path) -> None:
    gallery = Gallery.open(people, audit=False)
    assert open_shortlist(gallery, PART) is not None
    assert open_shortlist(gallery, CASCADE) is None


def test_threads_search_while_crops_come(people: Path, tmp_path: Path) -> None:
    gallery = own(people, tmp_path)
    other = Gallery.open(gallery.where, audit=False)
    stop = threading.Event()
    failed: list[BaseException] = []
    found: list[int] = []

    def search(seed: int) -> None:
        queries = Probes.single(crowd(1, seed))
        try:
            while not stop.is_set():
                for where in (None, Filter(cameras=("c1",))):
                    found.append(len(gallery.nearest(PART, queries, 10, where=where)[0]))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=search, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for step in range(6):
        fill(other, crowd(50, 50 + step), 10_000 + 100 * step)
        other.delete(Filter(ids=tuple(id_of(10_000 + 100 * step + n) for n in range(20))))
        if step % 3 == 2:
            other.compact()
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed, failed
    assert set(found) == {10}
    assert len(gallery.shortlist(PART) or ()) == ROWS + 6 * 30


# ---------------------------------------------------------------- few crops, and none


@pytest.mark.parametrize("rows", [1, 2, 5, 40])
def test_few_crops(rows: int, tmp_path: Path) -> None:
    gallery = create(tmp_path / "gallery")
    add(gallery, range(rows))
    manifest = gallery.index(CASCADE)
    assert (manifest.measured is None) == (rows == 1)
    assert compared(gallery, CASCADE, probes(0, 99), 10) == 1.0
    assert gallery.index(CASCADE).said()["crops"] == rows
    gallery.delete(Filter(ids=(id_of(0),)))
    assert compared(gallery, CASCADE, probes(1, 99), 10) == 1.0 or rows == 1
    gallery.compact()
    assert (Path(gallery.where) / "index").exists() == (rows > 1)
    assert gallery.verify().problems == ()


def test_what_cannot_be_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = create(tmp_path / "gallery")
    with pytest.raises(GalleryError, match=r"is empty, and there is nothing to index\. Remedy: add crops first\."):
        gallery.index(PART)
    add(gallery, range(5))
    for recall in (0.0, 1.1, float("nan")):
        with pytest.raises(ConfigError, match=r"recall: .+ is no share\. Remedy: give a number above 0, at most 1\."):
            gallery.index(PART, recall=recall)
    assert not (tmp_path / "gallery" / "index").exists()
    monkeypatch.setattr(gallery, "folder", None)
    said = r"is in an object store, and an index lies in a folder\. Remedy: search exactly, on many machines \(--ray\)"
    with pytest.raises(GalleryError, match=said):
        gallery.index(PART)


# ---------------------------------------------------------------- damaged


def test_a_missing_or_damaged_file_is_said(people: Path, tmp_path: Path) -> None:
    shutil.copytree(people, tmp_path / "own")
    folder = tmp_path / "own" / "index"
    remedy = r"Remedy: build it again with `glimpse gallery index --rebuild`\."
    damages: dict[str, Callable[[bytes], bytes | None]] = {
        "missing": lambda data: None,
        "empty": lambda data: b"",
        "cut off": lambda data: data[: len(data) // 2],
        "nonsense": lambda data: b"nonsense",
    }
    for path in sorted(folder.iterdir()):
        good = path.read_bytes()
        for how, damage in damages.items():
            bad = damage(good)
            if bad == good or (path.name == "manifest.json" and bad is None):
                continue  # without a manifest there is no index
            path.unlink()
            if bad is not None:
                path.write_bytes(bad)
            gallery = Gallery.open(tmp_path / "own", audit=False)
            with pytest.raises(GalleryError, match=remedy) as error:
                gallery.nearest(PART, QUESTIONS, 3)
            assert str(folder) in str(error.value), (path.name, how)
            assert len(gallery.nearest(PART, QUESTIONS, 3, mode="exact")) == 30
            with pytest.raises(GalleryError, match=remedy):
                gallery.index(PART)
            path.write_bytes(good)
    (folder / "manifest.json").unlink()
    gallery = Gallery.open(tmp_path / "own", audit=False)
    assert gallery.shortlist(PART) is None
    (folder / "manifest.json").write_text("{}")
    gallery.index(PART, rebuild=True, recall=0.9)
    assert compared(gallery, PART, QUESTIONS, 10) >= 0.85
    assert gallery.verify().problems == ()


def test_vectors_of_another_index(people: Path, tmp_path: Path) -> None:
    gallery = own(people, tmp_path)
    folder = Path(gallery.where) / "index"
    old = (folder / (read_manifest(folder) or pytest.fail("no manifest")).vectors).read_bytes()
    fill(gallery, crowd(30, 3), 10_000)
    new = folder / gallery.index(PART, recall=0.95).vectors
    new.write_bytes(old)
    with pytest.raises(GalleryError, match=r"vectors-\w+.faiss is of another index"):
        Gallery.open(gallery.where, audit=False).nearest(PART, QUESTIONS, 3)


def test_an_index_that_is_written_while_it_is_opened(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = own(people, tmp_path)
    other = Gallery.open(gallery.where, audit=False)
    read = shortlist.read_manifest
    times: list[int] = []

    def meanwhile(folder: Path) -> Any:
        found = read(folder)
        times.append(1)
        if len(times) == 1:
            monkeypatch.setattr(shortlist, "read_manifest", read)
            fill(other, crowd(10, 3), 10_000)
            other.index(PART, recall=0.9)
        return found

    monkeypatch.setattr(shortlist, "read_manifest", meanwhile)
    assert len(gallery.nearest(PART, QUESTIONS, 3, mode="fast")) == 30
    assert times == [1]
    assert compared(gallery, PART, QUESTIONS, 10) >= 0.85
    assert len(gallery.shortlist(PART) or ()) == ROWS + 10


def test_an_index_that_cannot_be_read_is_removed_by_compaction(people: Path, tmp_path: Path) -> None:
    gallery = own(people, tmp_path)
    folder = Path(gallery.where) / "index"
    next(folder.glob("*.npz")).write_bytes(b"nonsense")
    assert len(gallery.verify().problems) == 1
    gallery.compact()
    assert not folder.exists()
    assert gallery.verify().problems == ()
    assert len(gallery.nearest(PART, QUESTIONS, 3)) == 30


# ---------------------------------------------------------------- nothing is left of what was deleted


def traces(number: int, index: Shortlist | None = None) -> dict[str, bytes]:
    """Bytes that only the crop of a number has."""
    row = embedded([number])
    found = {f"embedding: {name}": row[name].half().numpy().tobytes() for name in row.names}
    crop = known(number)
    found |= {"source": (crop.source or "").encode(), "picture": picture(number), "id": crop.id.encode()}
    if index is not None:
        found["vector"] = index._gather(np.array([number]), "near").tobytes()
    return found


def there(folder: Path, wanted: dict[str, bytes], *, log: bool = True) -> dict[str, set[str]]:
    """In which files of a gallery each of some bytes are."""
    files = [p for p in folder.rglob("*") if p.is_file() and (log or p.name != "audit.jsonl")]
    data = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {what: {name for name, held in data.items() if each in held} for what, each in wanted.items()}


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three parts and an index, of which no test changes anything."""
    folder = tmp_path_factory.mktemp("private") / "gallery"
    gallery = create(folder)
    for start in (0, 50, 100):
        add(gallery, range(start, start + 50))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shortlist, "QUERIES", 5)
        gallery.index(CASCADE)
    return folder


GONE = (7, 60, 61, 149)


def test_nothing_is_left_of_deleted_crops(private: Path, tmp_path: Path) -> None:
    gallery = own(private, tmp_path)
    folder = Path(gallery.where)
    index = gallery.shortlist(CASCADE)
    for number in GONE:
        before = there(folder, traces(number, index))
        assert not [what for what, files in before.items() if not files]
        assert any(name.startswith("index/") for name in before["vector"])
        assert any(name.endswith(".quick") for name in before["embedding: parts"])
        assert any(name.endswith(".rest") for name in before["embedding: globals"])
    gallery.delete(Filter(ids=tuple(id_of(n) for n in GONE[:3])))
    gallery.delete(Filter(sources=(known(GONE[3]).source or "",)))
    gallery.compact()
    for number in GONE:
        assert not [what for what, files in there(folder, traces(number, index), log=False).items() if files]
    left = [n for n in range(150) if n not in GONE]
    for number in left:
        assert all(there(folder, traces(number, index)).values())
    again = Gallery.open(folder)
    assert sorted(whole(again)) == left
    assert compared(again, CASCADE, probes(*left[:5]), 10) == 1.0
    assert len(again.shortlist(CASCADE) or ()) == len(left)
    assert again.verify() == again.verify().__class__((), (), len(left), again.verify().files)


def test_the_log_keeps_the_ids_and_no_more(private: Path, tmp_path: Path) -> None:
    shutil.copytree(private, tmp_path / "own")
    gallery = Gallery.open(tmp_path / "own")
    gallery.delete(Filter(sources=("crop-7-.jpg",)))
    gallery.delete(Filter(pids=("person-3-",), tags=("even",)))
    gallery.update(Filter(tracks=("path-1-",)), {"pid": "somebody", "camera": "hidden"})
    gallery.delete(Filter(pids=("somebody",)))
    gallery.compact()
    files = there(tmp_path / "own", traces(7))
    assert {what: names for what, names in files.items() if names} == {"id": {"audit.jsonl"}}
    names = {name: name.encode() for name in ("somebody", "hidden", "path-1-")}
    assert not any(there(tmp_path / "own", names).values())


@pytest.mark.parametrize("chosen", [(50, 100), (0, 150)])
def test_nothing_is_left_of_a_whole_part(private: Path, tmp_path: Path, chosen: tuple[int, int]) -> None:
    gallery = own(private, tmp_path)
    folder = Path(gallery.where)
    gallery.compact()
    add(gallery, range(200, 210))
    gallery.update(Filter(ids=tuple(id_of(n) for n in range(*chosen))), {"pid": "somebody", "tags": ("secret",)})
    gallery.delete(Filter(pids=("somebody",)))
    gallery.compact()
    for number in (50, 99):
        assert not any(there(folder, traces(number)).values())
    names = {name: name.encode() for name in ("somebody", "secret")}
    assert not any(there(folder, names).values())
    assert (folder / "index").exists() == (chosen[0] > 0)
    assert gallery.verify().problems == ()


def test_a_part_that_is_all_deleted_leaves_no_name_behind(tmp_path: Path) -> None:
    # Nothing is left to rewrite, and the newest version is the one that deleted.
    gallery = create(tmp_path / "gallery", audit=False)
    add(gallery, range(10))
    gallery.compact()
    gallery.add_embedded(embedded([20]), [known(20).model_copy(update={"pid": "somebody"})])
    gallery.delete(Filter(pids=("somebody",)))
    assert there(Path(gallery.where), {"name": b"somebody"})["name"]
    gallery.compact()
    assert not there(Path(gallery.where), {"name": b"somebody", "source": b"crop-20-"})["name"]
    assert numbers(gallery) == list(range(10))


def test_an_old_name_goes(private: Path, tmp_path: Path) -> None:
    shutil.copytree(private, tmp_path / "own")
    gallery = Gallery.open(tmp_path / "own")
    old = {"name": b"person-3-", "place": b"path-2-"}
    assert all(there(tmp_path / "own", old).values())
    gallery.update(Filter(pids=("person-3-",)), {"pid": "other"})
    gallery.update(Filter(tracks=("path-2-",)), {"track": None})
    gallery.compact()
    assert not any(there(tmp_path / "own", old).values())
    assert sorted(whole(gallery)) == list(range(150))


def test_what_a_killed_process_left_goes(private: Path, tmp_path: Path) -> None:
    gallery = own(private, tmp_path)
    folder = Path(gallery.where)
    for name in ("crops.lance/data/left.lance", "index/rows-left.quick", "crops.lance/_deletions/0-1-left.arrow"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"left-behind")
    assert gallery.verify().problems == ()
    assert gallery.verify().notes[0].startswith("3 files not recorded")
    add(gallery, [200])
    gallery.compact()
    assert not any(there(folder, {"left": b"left-behind"}).values())
    assert gallery.verify() == gallery.verify().__class__((), (), 151, gallery.verify().files)


def test_the_vector_index_holds_no_vector_of_what_was_deleted(people: Path, tmp_path: Path) -> None:
    gallery = own(people, tmp_path)
    gallery.delete(Filter(cameras=("c1",)))
    gallery.compact()
    folder = Path(gallery.where) / "index"
    manifest = read_manifest(folder)
    assert manifest is not None
    written = faiss.read_index(str(folder / manifest.vectors))
    alive = gallery.table.row_ids()
    assert written.ntotal == len(alive) == ROWS - len([n for n in range(ROWS) if n % 3 == 1])
    # It is what an index is that never held anything else.
    found = gallery.shortlist(PART)
    assert found is not None
    fresh = faiss.clone_index(written)
    fresh.reset()
    for block in found.blocks:
        fresh.add_with_ids(block.near.astype(np.float32), block.ids)
    lists = written.invlists, fresh.invlists
    assert [lists[0].list_size(n) for n in range(written.nlist)] == [
        lists[1].list_size(n) for n in range(written.nlist)
    ]
    assert np.array_equal(faiss.serialize_index(written), faiss.serialize_index(fresh))
    assert compared(Gallery.open(gallery.where, audit=False), PART, QUESTIONS, 10) >= 0.85
