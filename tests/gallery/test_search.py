"""Searches of galleries, against what a loop over all crops says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from colours import NAMES, B, Colours, G, R, W, coming, crop, crowd
from PIL import Image
from tiny import Tiny

from glimpse.backbones import BACKBONES
from glimpse.data import open_crops
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, DataError, GalleryError
from glimpse.gallery import Ask, Crop, Filter, Gallery, open_incoming, search, shortlist
from glimpse.gallery.answers import Answer, Found
from glimpse.matching import KReciprocal, rerank_candidates, top_k
from glimpse.matching.cascade import Cascade
from glimpse.matching.kernels import PartDistance
from glimpse.model import Card, Model, build
from glimpse.search import search as search_folder

N = 60
QUERY = crop(R, G, B, W)


def known(i: int) -> dict[str, Any]:
    """What is known of crop i; of every seventh nothing."""
    if i % 7 == 6:
        return {}
    return {
        "pid": f"p{i % 5}",
        "camera": f"c{i % 3}",
        "track": f"t:{i % 11}",
        "time": 10.0 * i,
        "tags": tuple(tag for tag, each in (("even", 2), ("third", 3)) if i % each == 0),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of random crops, which no test writes to."""
    folder = tmp_path_factory.mktemp("search")
    model: Any = Colours()
    gallery = Gallery.create(folder / "crowd.gallery", model, audit=False)
    crops = [coming(folder / f"{i:02}.png", image, **known(i)) for i, image in enumerate(crowd(N))]
    assert gallery.add(model, crops).added == N
    return folder / "crowd.gallery"


@pytest.fixture
def gallery(made: Path) -> Gallery:
    return Gallery.open(made, audit=False)


@pytest.fixture
def model() -> Any:
    return Colours()


def stored(model: Any, images: list[Image.Image] | None = None) -> Embedding:
    """What the gallery keeps of its crops."""
    embedded: Embedding = model.embed(images or crowd(N)).to(dtype=torch.float16)
    return embedded


def rows(answer: Answer) -> list[int]:
    """Numbers of the crops that were found."""
    return [int(Path(hit.crop.source or "").stem) for hit in answer]


def nearest(distances: torch.Tensor, which: list[int] | None = None) -> list[int]:
    """Numbers of crops by their distance."""
    order: list[int] = distances.sort(stable=True).indices.tolist()
    return [i for i in order if which is None or i in which]


def matrix(model: Any, *images: Image.Image) -> torch.Tensor:
    """Distances of queries to all crops."""
    return PartDistance(names=NAMES).matrix(model.embed(images), stored(model))


# ---------------------------------------------------------------- the same search as in a folder


def method(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Model:
    """Random weights on a backbone of one convolution."""
    monkeypatch.setitem(BACKBONES, "osnet_x0_25", Tiny)
    torch.manual_seed(0)
    half = (0.5, 0.5, 0.5)
    card = Card(method=name, options=options, backbone="osnet_x0_25", size=(64, 32), mean=half, std=half)
    return Model(build(card), card, f"{name}@1", precision="float32")


@pytest.mark.parametrize(
    ("name", "options", "asked"),
    [
        ("qpm", {"strips": 4, "dim": 16}, {"neighbours": 5}),
        ("qpm", {"strips": 4, "dim": 16}, {"gamma": 1.0}),
        ("fpr", {"dim": 16, "bands": 2}, {}),
        ("fpr", {"dim": 16, "bands": 2}, {"mode": "cascade", "neighbours": 5}),
        ("baseline", {}, {}),
        ("pcb", {"strips": 4, "dim": 8}, {}),
    ],
)
def test_it_finds_what_a_search_in_the_folder_finds(
    name: str, options: dict[str, Any], asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = method(name, options, monkeypatch)
    for i, image in enumerate(crowd(12)):
        coming(tmp_path / "crops" / f"{i:02}.png", image)
    gallery = Gallery.create(tmp_path / "g", model)
    gallery.add(model, open_incoming(tmp_path / "crops"))
    for query in (tmp_path / "crops" / "03.png", QUERY):
        found = gallery.search(model, query, Ask(top=9), visible=(0, 0, 32, 40), options=asked)
        expected = search_folder(model, query, tmp_path / "crops", top=9, visible=(0, 0, 32, 40), options=asked)
        assert [hit.crop.source for hit in found] == [hit.path for hit in expected]
        assert [hit.rank for hit in found] == list(range(1, 10))
        assert [hit.reranked for hit in found] == [hit.reranked for hit in expected]
        for hit, other in zip(found, expected, strict=True):
            assert hit.distance == pytest.approx(other.distance, abs=2e-3)
            assert hit.not_compared == other.not_compared
            assert [p.name for p in hit.parts] == [p.name for p in other.parts]
            for a, b in zip(hit.parts, other.parts, strict=True):
                assert a.share == pytest.approx(b.share, abs=0.02)
                assert a.distance == pytest.approx(b.distance, abs=0.01)
        assert found.searched == expected.gallery_size
        assert len(found.notes) == len(expected.notes)


def test_distances_are_made_of_their_parts(gallery: Gallery, model: Any) -> None:
    answer = gallery.search(model, QUERY, visible=(0, 0, 32, 24))
    for hit in answer:
        assert hit.not_compared == ("strip 3", "strip 4")
        of_parts = sum(part.share * (part.distance or 0) for part in hit.parts)
        assert of_parts == pytest.approx(hit.distance, abs=1e-5)
    assert (
        rows(answer)
        == nearest(PartDistance(names=NAMES).matrix(model.embed([QUERY], [(0, 0, 32, 24)]), stored(model))[0])[:20]
    )
    assert (answer.query, answer.mode, answer.searched, answer.made_by) == (("query",), "exact", N, "colours@1")
    assert answer.image == QUERY
    assert answer.visible == (0, 0, 32, 24)


def test_a_prompt_that_leaves_nothing_to_compare_is_said(gallery: Gallery, model: Any) -> None:
    said = "No part of the query could be compared with any hit: too little of it shows."
    model.least = 0.5
    assert gallery.search(model, QUERY, visible=(0, 0, 1, 1)).notes == (said,)
    assert gallery.search(model, QUERY, visible=(0, 0, 32, 32)).notes == ()


# ---------------------------------------------------------------- queries


def test_the_query_itself_is_left_out_whatever_it_is_called(
    gallery: Gallery, model: Any, made: Path, tmp_path: Path
) -> None:
    note = ("1 crop of the gallery left out: the query itself.",)
    shutil.copy(made.parent / "07.png", tmp_path / "other.png")
    expected = nearest(matrix(model, crowd(N)[7])[0], [i for i in range(N) if i != 7])
    for query in (made.parent / "07.png", tmp_path / "other.png", str(tmp_path / "other.png")):
        answer = gallery.search(model, query, Ask(top=N))
        assert (answer.query, answer.notes, answer.searched) == ((str(query),), note, N - 1)
        assert rows(answer) == expected
    sample = open_crops(tmp_path)[0]
    assert gallery.search(model, sample, Ask(top=N)).notes == note
    # It is left out of the crops of its camera as well, and counted only among those.
    same = gallery.search(model, made.parent / "07.png", Ask(top=N, where=Filter(cameras=("c1",))))
    assert rows(same) == [i for i in expected if known(i).get("camera") == "c1"]
    assert same.searched == len(same)
    other = gallery.search(model, made.parent / "07.png", Ask(top=N, where=Filter(cameras=("c2",))))
    assert other.searched == len(other) == len([i for i in range(N) if known(i).get("camera") == "c2"])
    # A picture has no file that it could be.
    assert rows(gallery.search(model, crowd(N)[7], Ask(top=1))) == [7]


def test_a_crop_of_the_gallery_is_a_query(gallery: Gallery, model: Any) -> None:
    (crop_,) = gallery.crops(Filter(sources=(gallery.crops()[7].source or "",)))
    expected = nearest(matrix(model, crowd(N)[7])[0])[1:6]
    model.embedded = 0
    for query in (crop_, Crop(id=crop_.id)):
        answer = gallery.search(model, query, Ask(top=5))
        assert rows(answer) == expected
        assert answer.query == (crop_.source,)
        assert answer.notes == ("1 crop of the gallery left out: the query itself.",)
        assert answer.image is None
    assert gallery.search(model, Crop(id=crop_.id), Ask(pictures=True)).image == crowd(N)[7]
    assert model.embedded == 0


def test_several_crops_of_a_person(gallery: Gallery, model: Any) -> None:
    images = [crop(R, R, B, B), crop(R, R, G, G), crop(W, R, G, B)]
    distances = matrix(model, *images)
    for combine, expected in (("min", distances.amin(0)), ("mean", distances.mean(0))):
        answer = gallery.search(model, images, Ask(top=N, combine=combine))
        assert rows(answer) == nearest(expected)
        assert [hit.distance for hit in answer] == pytest.approx([expected[i].item() for i in rows(answer)], abs=1e-5)
        for hit, i in zip(answer, rows(answer), strict=True):
            of_nearest = distances[:, i].amin().item()
            assert sum(part.share * (part.distance or 0) for part in hit.parts) == pytest.approx(of_nearest, abs=1e-5)
        assert answer.query == ("query",) * 3
        assert answer.image == images[0]


def test_queries_of_all_kinds_go_together_and_are_all_left_out(gallery: Gallery, model: Any, made: Path) -> None:
    queries = [made.parent / "03.png", gallery.crops()[4], np.asarray(QUERY)]
    answer = gallery.search(model, queries, Ask(top=N), visible=[(0, 0, 32, 48), None, np.ones((64, 32), np.bool_)])
    assert answer.notes == ("2 crops of the gallery left out: the query itself.",)
    assert sorted(rows(answer)) == [i for i in range(N) if i not in (3, 4)]
    crops = crowd(N)
    prompted = PartDistance(names=NAMES).matrix(model.embed([crops[3]], [(0, 0, 32, 48)]), stored(model))
    least = torch.cat([prompted, matrix(model, crops[4], QUERY)]).amin(0)
    assert [hit.distance for hit in answer] == pytest.approx([least[i].item() for i in rows(answer)], abs=1e-3)
    assert answer.visible == (0, 0, 32, 48)


def test_a_prompt_turns_the_ranking(tmp_path: Path, model: Any) -> None:
    gallery = Gallery.create(tmp_path / "g", model)
    crops = {"0.png": crop(R, R, B, B), "1.png": crop(G, G, B, B), "2.png": crop(G, G, G, G)}
    gallery.add(model, [coming(tmp_path / name, image) for name, image in crops.items()])
    query = crop(R, G, G, G)
    assert rows(gallery.search(model, query))[0] == 2
    assert rows(gallery.search(model, query, visible=(0, 0, 32, 16)))[0] == 0
    mask = np.zeros((64, 32))
    mask[:16] = 1
    answer = gallery.search(model, query, visible=mask)
    assert rows(answer)[0] == 0
    assert answer.record().visible == "mask"
    assert rows(gallery.search(model, [query, query], visible=["0,0,32,16", (0, 0, 32, 16)]))[0] == 0


def test_options_reach_the_distance(gallery: Gallery, model: Any) -> None:
    answer = gallery.search(model, QUERY, Ask(top=6), options={"n": 4})
    ranking = top_k(model.distance(n=4), model.embed([QUERY]), stored(model), 6)
    assert rows(answer) == ranking.index[0].tolist()
    assert [hit.reranked for hit in answer] == [True] * 4 + [False] * 2
    coarse = model.distance(n=4).coarse.matrix(model.embed([QUERY]), stored(model))[0]
    assert [hit.distance for hit in answer[4:]] == pytest.approx([coarse[i].item() for i in rows(answer)[4:]], abs=1e-5)


# ---------------------------------------------------------------- filters


@pytest.mark.parametrize(
    ("where", "fits"),
    [
        (Filter(pids=("p1", "p2")), lambda k: k.get("pid") in ("p1", "p2")),
        (Filter(cameras=("c1",)), lambda k: k.get("camera") == "c1"),
        (Filter(not_cameras=("c1",)), lambda k: k.get("camera") != "c1"),
        (Filter(tracks=("t:3",)), lambda k: k.get("track") == "t:3"),
        (Filter(tags=("even",)), lambda k: "even" in k.get("tags", ())),
        (Filter(tags=("even", "third")), lambda k: {"even", "third"} <= set(k.get("tags", ()))),
        (Filter(after=200.0, before=400.0), lambda k: 200 <= k.get("time", -1) < 400),
        (Filter(after=200.0), lambda k: k.get("time", -1) >= 200),
        (Filter(pids=("p1",), not_cameras=("c1",)), lambda k: k.get("pid") == "p1" and k.get("camera") != "c1"),
    ],
)
def test_filters_come_before_the_ranking(
    gallery: Gallery, model: Any, where: Filter, fits: Callable[[dict[str, Any]], bool]
) -> None:
    which = [i for i in range(N) if fits(known(i))]
    expected = nearest(matrix(model, QUERY)[0], which)
    assert 3 <= len(which) < N
    for top in (2, len(which), N):
        answer = gallery.search(model, QUERY, Ask(top=top, where=where))
        assert rows(answer) == expected[:top]
        assert answer.searched == len(which)
    assert answer.where == where.said()


def test_a_source_can_be_left_out(gallery: Gallery, model: Any) -> None:
    own = gallery.crops()[5].source or ""
    answer = gallery.search(model, crowd(N)[5], Ask(top=3, where=Filter(not_sources=(own,))))
    assert rows(answer) == nearest(matrix(model, crowd(N)[5])[0])[1:4]
    only = gallery.search(model, crowd(N)[5], Ask(where=Filter(sources=(own,))))
    assert rows(only) == [5]
    ids = tuple(crop_.id for crop_ in gallery.crops()[3:6])
    assert sorted(rows(gallery.search(model, QUERY, Ask(where=Filter(ids=ids))))) == [3, 4, 5]


@pytest.mark.parametrize(
    "ask",
    [
        Ask(),
        Ask(group="pid"),
        Ask(expand=3),
        Ask(rerank=KReciprocal(5, 2)),
        Ask(group="track", rerank=KReciprocal(5, 2)),
        Ask(pictures=True, skip=5),
    ],
)
def test_where_nothing_fits_the_answer_is_empty_and_says_so(
    gallery: Gallery, model: Any, ask: Ask, tmp_path: Path
) -> None:
    answer = gallery.search(model, QUERY, replace(ask, where=Filter(pids=("nobody",))))
    assert (answer.hits, answer.searched) == ((), 0)
    assert answer.notes == ("Nothing was compared: no crop fits.",)
    empty = Gallery.create(tmp_path / "empty", model)
    assert empty.search(model, QUERY, ask).notes == ("Nothing was compared: the gallery is empty.",)
    one = empty.add(model, [coming(tmp_path / "0.png", QUERY)])
    assert one.added == 1
    alone = empty.search(model, tmp_path / "0.png", ask)
    assert (alone.hits, alone.searched) == ((), 0)
    assert alone.notes[0] == "1 crop of the gallery left out: the query itself."


def test_a_page_behind_the_last_hit_is_empty(gallery: Gallery, model: Any) -> None:
    for ask in (Ask(skip=N), Ask(skip=N, group="pid"), Ask(skip=N + 5, rerank=KReciprocal(5, 2))):
        answer = gallery.search(model, QUERY, ask)
        assert (answer.hits, answer.searched, answer.skipped) == ((), N, ask.skip)
        assert answer.notes == ()


# ---------------------------------------------------------------- groups and pages


@pytest.mark.parametrize("group", ["pid", "track"])
def test_groups_are_stood_for_by_their_nearest_crop(gallery: Gallery, model: Any, group: Any) -> None:
    first: dict[str, int] = {}
    size: dict[str, int] = {}
    for i in nearest(matrix(model, QUERY)[0]):
        key = known(i).get(group) or f"crop {i}"
        first.setdefault(key, i)
        size[key] = size.get(key, 0) + 1
    answer = gallery.search(model, QUERY, Ask(top=N, group=group))
    assert rows(answer) == list(first.values())
    assert [hit.crops_in_group for hit in answer] == list(size.values())
    assert [hit.group for hit in answer] == [known(i).get(group) for i in rows(answer)]
    assert None in [hit.group for hit in answer]
    assert answer.notes == ()


def test_groups_that_lie_far_off_are_found_as_far_as_is_looked(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty crops of one person are nearer than the first of another."""
    gallery = Gallery.create(tmp_path / "g", model)
    near = [coming(tmp_path / f"{i:02}.png", crop(R, R, R, R, noise=i), pid="near") for i in range(40)]
    far = [coming(tmp_path / "90.png", crop(G, G, G, G), pid="far"), coming(tmp_path / "91.png", crop(B, B, B, B))]
    gallery.add(model, [*far, *near])
    answer = gallery.search(model, crop(R, R, R, R), Ask(top=3, group="pid"))
    assert [(hit.group, hit.crops_in_group) for hit in answer] == [("near", 40), ("far", 1), (None, 1)]
    monkeypatch.setattr(search, "_DEEPEST", 32)
    answer = gallery.search(model, crop(R, R, R, R), Ask(top=3, group="pid"))
    assert [(hit.group, hit.crops_in_group) for hit in answer] == [("near", 32)]
    (note,) = answer.notes
    assert note == (
        "Only 1 of the 3 groups that were asked for are among the 32 nearest crops; farther ones were not looked at."
    )


@pytest.mark.parametrize(
    "ask",
    [
        Ask(),
        Ask(group="pid"),
        Ask(group="track"),
        Ask(rerank=KReciprocal(6, 3), pool=20),
        Ask(rerank=KReciprocal(6, 3), pool=20, group="track"),
        Ask(expand=4),
        Ask(expand=4, group="track"),
        Ask(where=Filter(not_cameras=("c1",))),
    ],
)
@pytest.mark.parametrize("n", [0, 7])
def test_pages_are_cut_from_the_whole_list(gallery: Gallery, model: Any, ask: Ask, n: int) -> None:
    def found(top: int, skip: int) -> tuple[Found, ...]:
        return gallery.search(model, QUERY, replace(ask, top=top, skip=skip), options={"n": n}).hits

    whole = found(N, 0)
    pages = [hit for skip in range(0, len(whole), 4) for hit in found(4, skip)]
    assert [hit.rank for hit in pages] == list(range(1, len(whole) + 1))
    assert [(hit.crop, hit.reranked, hit.group) for hit in pages] == [(h.crop, h.reranked, h.group) for h in whole]
    assert [hit.distance for hit in pages] == pytest.approx([hit.distance for hit in whole], abs=1e-6)


# ---------------------------------------------------------------- expansion and re-ranking


def test_expansion_is_a_mean_over_the_query_and_its_hits(gallery: Gallery, model: Any) -> None:
    crops = crowd(N)
    half = stored(model)
    distance = PartDistance(names=NAMES)
    first = matrix(model, QUERY)[0]
    hits = nearest(first)[:4]
    others = distance.matrix(half[torch.tensor(hits)], half)
    expected = []
    for g in range(N):
        top, bottom = first[g].item(), 1.0
        for row, hit in enumerate(hits):
            weight = max(0.0, 1 - 2 * first[hit].item() / 2.0) ** 3
            top, bottom = top + weight * others[row, g].item(), bottom + weight
        expected.append(top / bottom)
    answer = gallery.search(model, QUERY, Ask(top=N, expand=4))
    assert rows(answer) == nearest(torch.tensor(expected))
    assert [hit.distance for hit in answer] == pytest.approx([expected[i] for i in rows(answer)], abs=1e-5)
    # What is said of the parts is of the query's own crop.
    assert answer[0].parts == gallery.search(model, QUERY, Ask(where=Filter(ids=(answer[0].crop.id,))))[0].parts
    # Of the two crops of a person the nearer counts; both together weigh as much as one.
    pair = [QUERY, crops[0]]
    least = matrix(model, *pair).amin(0)
    (hit,) = [i for i in nearest(least) if i != -1][:1]
    weight = max(0.0, 1 - least[hit].item()) ** 3
    both = distance.matrix(Embedding.cat([model.embed(pair), half[hit].to(dtype=torch.float32)]), half)
    mean = (both[:2].mean(0) + weight * both[2]) / (1 + weight)
    joint = gallery.search(model, pair, Ask(top=N, expand=1))
    assert [h.distance for h in joint] == pytest.approx([mean[i].item() for i in rows(joint)], abs=1e-5)
    assert rows(joint) == nearest(mean)


def test_of_a_cascade_only_what_its_fine_distance_placed_expands(gallery: Gallery, model: Any) -> None:
    plain = gallery.search(model, QUERY, Ask(top=N, expand=3), options={"n": 3})
    more = gallery.search(model, QUERY, Ask(top=N, expand=20), options={"n": 3})
    assert [hit.crop.id for hit in plain] == [hit.crop.id for hit in more]


@pytest.mark.parametrize("n", [0, 10])
def test_reranking_is_that_of_the_candidates(gallery: Gallery, model: Any, n: int) -> None:
    settings = KReciprocal(8, 3, 0.3)
    distance = model.distance(n=n)
    half = stored(model).to(dtype=torch.float32)
    first = top_k(distance, model.embed([QUERY]), half, N).index[0]
    expected = rerank_candidates(distance, model.embed([QUERY]), half, first[None, :25], settings)
    answer = gallery.search(model, QUERY, Ask(top=N, rerank=settings, pool=25), options={"n": n})
    assert rows(answer) == [*expected.index[0].tolist(), *first[25:].tolist()]
    assert [hit.distance for hit in answer[:25]] == pytest.approx(expected.distance[0].tolist(), abs=1e-3)
    assert [hit.reranked for hit in answer] == [True] * 25 + [False] * (N - 25)


def test_reranking_is_for_one_crop(gallery: Gallery, model: Any) -> None:
    said = "rerank: re-ranking looks at the neighbours of one crop, and there are several. Remedy: search with one crop"
    with pytest.raises(ConfigError) as error:
        gallery.search(model, [QUERY, QUERY], Ask(rerank=KReciprocal()))
    assert str(error.value).startswith(said)
    with pytest.raises(ConfigError) as error:
        Ask(rerank=KReciprocal(), expand=2)
    assert str(error.value).startswith(said)
    assert model.embedded == 0


# ---------------------------------------------------------------- fast


@pytest.fixture
def indexed(made: Path, tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> Gallery:
    """A copy with an index, which is used however few crops there are."""
    shutil.copytree(made, tmp_path / "g")
    gallery = Gallery.open(tmp_path / "g")
    gallery.index(model.distance(), recall=1.0)
    monkeypatch.setattr(shortlist, "SMALL", 0)
    return gallery


@pytest.mark.parametrize(
    "ask",
    [
        Ask(top=8),
        Ask(top=4, skip=4),
        Ask(top=5, where=Filter(cameras=("c1",))),
        Ask(top=3, group="pid"),
        Ask(top=5, expand=3),
        Ask(top=5, rerank=KReciprocal(5, 2), pool=15),
    ],
)
def test_fast_finds_what_exact_finds(indexed: Gallery, model: Any, made: Path, ask: Ask) -> None:
    for query in (QUERY, made.parent / "07.png", [QUERY, crop(B, B, R, R)]):
        if isinstance(query, list) and ask.rerank is not None:
            continue
        fast = indexed.search(model, query, replace(ask, mode="fast"))
        exact = indexed.search(model, query, replace(ask, mode="exact"))
        auto = indexed.search(model, query, ask)
        assert (fast.mode, exact.mode, auto.mode) == ("fast", "exact", "fast")
        assert rows(fast) == rows(exact) == rows(auto)
        assert [hit.distance for hit in fast] == pytest.approx([hit.distance for hit in exact], abs=1e-6)
        assert fast.searched == exact.searched


def test_fast_sees_what_others_add_and_delete(indexed: Gallery, model: Any, tmp_path: Path) -> None:
    first = indexed.search(model, QUERY, Ask(top=1))[0].crop
    other = Gallery.open(indexed.where)
    other.delete(Filter(ids=(first.id,)))
    other.add(model, [coming(tmp_path / "99.png", QUERY, pid="self")])
    answer = indexed.search(model, QUERY, Ask(top=N))
    assert answer.mode == "fast"
    assert (answer[0].crop.pid, answer[0].distance) == ("self", pytest.approx(0, abs=1e-3))
    assert first.id not in [hit.crop.id for hit in answer]
    assert [h.row_id for h in answer] == [h.row_id for h in indexed.search(model, QUERY, Ask(top=N, mode="exact"))]


def test_auto_is_exact_where_the_index_is_for_another_distance(indexed: Gallery, model: Any) -> None:
    answer = indexed.search(model, QUERY, options={"strict": True})
    assert answer.mode == "exact"
    with pytest.raises(GalleryError) as error:
        indexed.search(model, QUERY, Ask(mode="fast"), options={"strict": True})
    assert error.value.cause == "has no index for this distance"


def test_fast_needs_an_index(gallery: Gallery, model: Any) -> None:
    assert gallery.search(model, QUERY).mode == "exact"
    model.embedded = 0
    with pytest.raises(GalleryError) as error:
        gallery.search(model, QUERY, Ask(mode="fast"))
    assert (error.value.where, error.value.cause) == (gallery.where, "has no index for this distance")
    assert error.value.remedy == "build it with `glimpse gallery index`, or search with mode exact"
    assert model.embedded == 0


# ---------------------------------------------------------------- what is refused, and what is written down


def test_other_weights_are_refused(gallery: Gallery) -> None:
    other: Any = Colours("colours@2")
    with pytest.raises(GalleryError) as error:
        gallery.search(other, QUERY)
    assert error.value.cause == "holds embeddings of the weights colours@1, and these are of colours@2"
    assert "`glimpse gallery re-embed`" in error.value.remedy
    assert other.embedded == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top": 0}, "top: is 0. Remedy: give at least 1."),
        ({"skip": -1}, "skip: is -1. Remedy: give at least 0."),
        ({"expand": -1}, "expand: is -1. Remedy: give at least 0."),
        ({"pool": 1}, "pool: is 1. Remedy: give at least 2."),
        ({"mode": "quick"}, "mode: 'quick' is not known. Remedy: choose one of auto, exact, fast."),
        ({"combine": "max"}, "combine: 'max' is not known. Remedy: choose one of min, mean."),
        ({"group": "camera"}, "group: 'camera' is not known. Remedy: choose one of pid, track."),
        ({"ray": "local", "mode": "fast"}, "mode: a cluster searches exactly. Remedy: choose exact, or leave the"),
    ],
)
def test_what_cannot_be_asked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Ask(**settings)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("query", "visible", "message"),
    [
        ([], None, "query: there is none. Remedy: give at least one crop of the person"),
        ([QUERY, QUERY], [None], "visible: 1 prompt for 2 queries. Remedy: give one for each query, None where"),
        ([QUERY, QUERY], "0,0,32,32", "visible: 1 prompt for 2 queries."),
        (QUERY, (0, 0, 33, 64), "visible: the box 0,0,33,64 leaves the crop, which is 32 x 64 pixels"),
    ],
)
def test_prompts_have_to_fit(gallery: Gallery, model: Any, query: Any, visible: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        gallery.search(model, query, visible=visible)
    assert str(error.value).startswith(message)
    assert model.embedded == 0


def test_queries_that_cannot_be_had(gallery: Gallery, model: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nobody\.png: there is no such file"):
        gallery.search(model, tmp_path / "nobody.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="give another picture as the query"):
        gallery.search(model, tmp_path / "bad.png")
    with pytest.raises(DataError, match=r"query: is None"):
        gallery.search(model, None)  # type: ignore[arg-type]
    missing = "0123456789abcdef" * 2
    with pytest.raises(GalleryError) as error:
        gallery.search(model, Crop(id=missing))
    assert (error.value.where, error.value.cause) == (gallery.where, f"holds no crop {missing}")
    with pytest.raises(ConfigError) as late:
        gallery.search(model, gallery.crops()[0], visible=(0, 0, 32, 32))
    assert late.value.cause == "a crop of the gallery is embedded already, and a prompt comes too late"
    assert model.embedded == 0


def test_explanations_can_be_left_out(gallery: Gallery, model: Any) -> None:
    plain = gallery.search(model, QUERY, Ask(explain=False))
    assert [hit.parts for hit in plain] == [()] * 20
    assert rows(plain) == rows(gallery.search(model, QUERY))
    assert plain.notes == ()


def test_each_search_is_logged(made: Path, tmp_path: Path, model: Any) -> None:
    shutil.copytree(made, tmp_path / "g")
    gallery = Gallery.open(tmp_path / "g", who="anna")
    answer = gallery.search(model, made.parent / "07.png", Ask(top=3, where=Filter(cameras=("c0", "c2"), after=20.0)))
    with pytest.raises(GalleryError):
        gallery.search(model, QUERY, Ask(mode="fast"))
    (line,) = gallery.entries()
    assert (line.who, line.what) == ("anna", "search")
    assert line.details == {
        "query": [str(made.parent / "07.png")],
        "where": {"cameras": ["c0", "c2"], "after": 20.0},
        "hits": [hit.crop.id for hit in answer],
    }
    before = (tmp_path / "g" / "audit.jsonl").read_bytes()
    Gallery.open(tmp_path / "g", audit=False).search(model, QUERY)
    assert (tmp_path / "g" / "audit.jsonl").read_bytes() == before
    assert len(json.loads(before)["details"]["hits"]) == 3


def test_a_crop_that_is_deleted_while_it_is_found_is_not_found(
    made: Path, tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made, tmp_path / "g")
    gallery, other = Gallery.open(tmp_path / "g"), Gallery.open(tmp_path / "g")
    first, second = gallery.search(model, QUERY, Ask(top=2))
    nearest_of = Gallery.nearest

    def deleting(self: Gallery, *arguments: Any, **named: Any) -> Any:
        found = nearest_of(self, *arguments, **named)
        other.delete(Filter(ids=(first.crop.id,)))
        gallery.table.refresh()
        return found

    monkeypatch.setattr(Gallery, "nearest", deleting)
    answer = gallery.search(model, QUERY, Ask(top=1))
    assert [hit.crop.id for hit in answer] == [second.crop.id]
    assert answer.searched == N - 1


def test_new_deleted_and_changed_crops_are_seen_at_the_next_search(made: Path, tmp_path: Path, model: Any) -> None:
    shutil.copytree(made, tmp_path / "g")
    gallery, other = Gallery.open(tmp_path / "g"), Gallery.open(tmp_path / "g")
    first = gallery.search(model, QUERY, Ask(top=2))
    other.delete(Filter(ids=(first[0].crop.id,)))
    other.update(Filter(ids=(first[1].crop.id,)), {"pid": "anna"})
    other.add(model, [coming(tmp_path / "99.png", QUERY, pid="self")])
    again = gallery.search(model, QUERY, Ask(top=2))
    assert [hit.crop.pid for hit in again] == ["self", "anna"]
    assert again.searched == N
    assert isinstance(model.distance(n=2), Cascade)
