"""From one or several crops of a person to the crops of a gallery that show them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from glimpse.data.samples import Sample
from glimpse.data.visible import Box, Mask, Prompt, read_visible
from glimpse.data.words import count
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, GalleryError
from glimpse.gallery.answers import Answer, Found
from glimpse.gallery.exact import Combine, Probes, Ranked
from glimpse.gallery.filters import ALL, Filter
from glimpse.gallery.incoming import file_content
from glimpse.gallery.rows import NAMES, THUMBNAIL, Crop, to_crops
from glimpse.gallery.sources import picture_of, pictures_of
from glimpse.gallery.store import Gallery, Mode
from glimpse.matching.cascade import Cascade
from glimpse.matching.distance import Distance, PartMatch
from glimpse.matching.kernels import farthest
from glimpse.matching.reranking import KReciprocal, rerank_candidates
from glimpse.search.run import Option, Query, embed_query, read_query

if TYPE_CHECKING:
    from glimpse.model import Model

Group = Literal["pid", "track"]
"""What hits can be grouped by."""

_DEEPEST = 16_384
"""Crops that are ranked to find groups, whose embeddings are held; more only where the page itself asks for more."""

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ask:
    """How a gallery is searched.

    Attributes:
        top: hits to give, or groups.
        skip: nearer ones to leave out, for another page.
        where: which crops are compared.
        mode: `exact`, `fast`, or `auto`: fast if there is an index.
        group: give the nearest crop only of each person or track; crops that have none stand for themselves.
        combine: several crops of the person: the nearest counts (`min`), or their mean.
        expand: search once more with the query's so many nearest hits beside it (query expansion).
        rerank: order the best `pool` by whom they have for neighbours (k-reciprocal re-ranking); for one query crop
            without expansion.
        pool: how many are re-ranked.
        explain: say what each part said of each hit.
        pictures: give the hits' pictures.
        ray: search exactly on a Ray cluster at this address (see `search_on_cluster`).

    Raises:
        ConfigError: a number is too small, a word is not known, or two of them do not go together.
    """

    top: int = 20
    skip: int = 0
    where: Filter = ALL
    mode: Mode = "auto"
    group: Group | None = None
    combine: Combine = "min"
    expand: int = 0
    rerank: KReciprocal | None = None
    pool: int = 100
    explain: bool = True
    pictures: bool = False
    ray: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("top", 1), ("skip", 0), ("expand", 0), ("pool", 2)):
            if getattr(self, name) < least:
                raise ConfigError(name, f"is {getattr(self, name)}", f"give at least {least}")
        for name, known in (
            ("mode", get_args(Mode)),
            ("combine", get_args(Combine)),
            ("group", (*get_args(Group), None)),
        ):
            if getattr(self, name) not in known:
                words = ", ".join(map(str, known)).replace(", None", "")
                raise ConfigError(name, f"'{getattr(self, name)}' is not known", f"choose one of {words}")
        if self.rerank is not None and self.expand:
            raise _one_crop_only()
        if self.ray is not None and self.mode == "fast":
            raise ConfigError("mode", "a cluster searches exactly", "choose exact, or leave the cluster out")


def search_gallery(
    gallery: Gallery,
    model: Model,
    query: Query | Crop | Sequence[Query | Crop],
    ask: Ask | None = None,
    *,
    visible: Prompt | Sequence[Prompt | None] | None = None,
    options: Mapping[str, Option] | None = None,
) -> Answer:
    """Rank the crops of a gallery by their distance to a person, and say what each hit hangs on.

    A crop of the gallery that is a query itself is left out, and the answer says so. Where no crop fits, the answer is
    empty and says so too.

    Args:
        gallery: made with the same weights.
        model: what `glimpse.load` gives.
        query: a path, a sample, a picture, a crop of the gallery (as `Gallery.crops` gives it), or a list of them that
            show one person.
        ask: how.
        visible: which part of the query is the person (see `glimpse.search`); for a list of queries a list.
        options: options of the method's distance.

    Raises:
        DataError: a query cannot be read.
        ConfigError: an option is not valid, or several queries are to be re-ranked for.
        GalleryError: the gallery is of other weights, a query crop is not in it, there is no index for mode `fast`, or
            a file cannot be read.
    """
    ask = ask or Ask()
    gallery.check_weights(model.made_by)
    distance = model.distance(**(options or {}))
    queries, prompts = _listed(query, visible)
    if ask.rerank is not None and len(queries) > 1:
        raise _one_crop_only()
    gallery.table.refresh()
    mode = _mode(gallery, distance, ask)
    asked = _embedded(gallery, model, distance, queries, prompts, ask.pictures)
    started = time.perf_counter()

    def search() -> tuple[_How, _Page, tuple[Found, ...]]:
        how = _How.of(gallery, distance, ask, mode, asked.own)
        probe = Probes(asked.crops, (len(asked.crops),), ask.combine)
        page = how.page(how.expanded(probe, ask.expand), ask)
        return how, page, _described(how, asked.crops, page, ask)

    # Others may delete and compact meanwhile.
    how, page, hits = gallery.table.steady(search)
    notes = [*how.notes(), *page.notes]
    if hits and ask.explain and not any(part.compared for hit in hits for part in hit.parts):
        notes.append("No part of the query could be compared with any hit: too little of it shows.")
    answer = Answer(
        query=tuple(asked.names),
        hits=hits,
        made_by=model.made_by,
        gallery=gallery.where,
        searched=how.searched,
        mode=mode,
        where=ask.where.said(),
        skipped=ask.skip,
        seconds=time.perf_counter() - started,
        notes=tuple(notes),
        image=asked.image,
        visible=asked.visible,
    )
    gallery.log("search", {"query": asked.names, "where": answer.where, "hits": [hit.crop.id for hit in hits]})
    return answer


def _one_crop_only() -> ConfigError:
    cause = "re-ranking looks at the neighbours of one crop, and there are several"
    return ConfigError("rerank", cause, "search with one crop and without query expansion, or do not re-rank")


def _mode(gallery: Gallery, distance: Distance, ask: Ask) -> Literal["exact", "fast"]:
    if ask.ray is not None or ask.mode == "exact":
        return "exact"
    if gallery.shortlist(distance) is not None:
        return "fast"
    if ask.mode == "fast":
        remedy = "build it with `glimpse gallery index`, or search with mode exact"
        raise GalleryError(gallery.where, "has no index for this distance", remedy)
    return "exact"


def _listed(
    query: Query | Crop | Sequence[Query | Crop], visible: Prompt | Sequence[Prompt | None] | None
) -> tuple[list[Query | Crop], list[Prompt | None]]:
    """Queries and their prompts, side by side."""
    if not isinstance(query, (list, tuple)):
        return [cast("Query | Crop", query)], [cast("Prompt | None", visible)]
    queries = list(cast("Sequence[Query | Crop]", query))
    prompts: list[Prompt | None] = [None] * len(queries)
    if isinstance(visible, (str, os.PathLike, np.ndarray)):
        prompts = [visible]
    elif visible is not None:
        prompts = list(cast("Sequence[Prompt | None]", visible))
    if not queries:
        raise ConfigError("query", "there is none", "give at least one crop of the person")
    if len(prompts) != len(queries):
        cause = f"{count(len(prompts), 'prompt')} for {count(len(queries), 'query', 'queries')}"
        raise ConfigError("visible", cause, "give one for each query, None where there is none")
    return queries, prompts


@dataclass(frozen=True)
class _Asked:
    """The crops of the person looked for.

    Attributes:
        crops: prepared embeddings.
        names: what they are called.
        own: ids that they have, or would have, in a gallery.
        image: the first of them.
        visible: its prompt.
    """

    crops: Embedding
    names: list[str]
    own: tuple[str, ...]
    image: Image.Image | None
    visible: Box | Mask | None


def _embedded(
    gallery: Gallery,
    model: Model,
    distance: Distance,
    queries: Sequence[Query | Crop],
    prompts: Sequence[Prompt | None],
    pictures: bool,
) -> _Asked:
    rows: list[Embedding] = []
    names: list[str] = []
    own: list[str] = []
    shown: list[tuple[Image.Image | None, Box | Mask | None]] = []
    for query, prompt in zip(queries, prompts, strict=True):
        if isinstance(query, Crop):
            if prompt is not None:
                cause = "a crop of the gallery is embedded already, and a prompt comes too late"
                raise ConfigError("visible", cause, "search with the picture itself")
            known, row, small = gallery.table.steady(partial(_stored, gallery, query.id))
            rows.append(distance.prepare(row))
            names.append(known.name)
            own.append(known.id)
            shown.append((picture_of(known, small) if pictures else None, None))
            continue
        image = read_query(query)
        visible = None if prompt is None else read_visible(prompt, image.size)
        rows.append(distance.prepare(embed_query(model, query, image, visible)))
        if isinstance(query, (str, os.PathLike, Sample)):
            path = query.path if isinstance(query, Sample) else os.fspath(query)
            names.append(path)
            data = query.store.read(query.name) if isinstance(query, Sample) else Path(path).read_bytes()
            own.append(file_content(data))
        else:
            names.append("query")
        shown.append((image, visible))
    return _Asked(Embedding.cat(rows), names, tuple(own), *shown[0])


def _stored(gallery: Gallery, content: str) -> tuple[Crop, Embedding, bytes | None]:
    """What the gallery has of a crop, of which the caller may know the id alone: facts, embedding and thumbnail."""
    at = gallery.table.row_ids(Filter(ids=(content,)).sql())[:1]
    if not len(at):
        raise GalleryError(gallery.where, f"holds no crop {content}", "take the id of one that is there")
    table = gallery.table.take(at, [*NAMES, THUMBNAIL])
    embedding = gallery.embedding(at).to(dtype=torch.float32)
    return to_crops(table)[0], embedding, table.column(THUMBNAIL)[0].as_py()


@dataclass(frozen=True)
class _Page:
    """Some of the rows that a search found, nearest first.

    Attributes:
        hits: the rows.
        groups: of each, the person or track that it stands for, and how many of those ranked are of it.
        notes: what is to be said of them.
    """

    hits: Ranked
    groups: Sequence[tuple[str | None, int]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _How:
    """A search that is under way: where, by what, among what.

    Attributes:
        own: rows that are the queries themselves.
        searched: how many others fit.
    """

    gallery: Gallery
    distance: Distance
    where: Filter
    mode: Literal["exact", "fast"]
    own: Rows
    searched: int
    ray: str | None

    @staticmethod
    def of(
        gallery: Gallery, distance: Distance, ask: Ask, mode: Literal["exact", "fast"], own: tuple[str, ...]
    ) -> _How:
        table, sql, rows = gallery.table, ask.where.sql(), np.zeros(0, np.int64)
        searched = table.count(sql)
        if own:
            itself = Filter(ids=own).sql()
            rows = table.row_ids(itself)
            if len(rows):
                searched -= table.count(f"{sql} AND {itself}" if sql else itself)
        return _How(gallery, distance, ask.where, mode, rows, searched, ask.ray)

    def notes(self) -> list[str]:
        """What is to be said of what was compared."""
        said = []
        if len(self.own):
            said.append(f"{count(len(self.own), 'crop')} of the gallery left out: the query itself.")
        if not self.searched:
            empty = not len(self.gallery)
            said.append(f"Nothing was compared: {'the gallery is empty' if empty else 'no crop fits'}.")
        return said

    def ranked(self, probe: Probes, depth: int) -> Ranked:
        """The nearest rows but the queries themselves."""
        if not self.searched:
            return Ranked(np.zeros(0, np.float32), np.zeros(0, np.int64))
        depth = min(depth, self.searched)
        # Rows are cheaper to drop than to filter out: a filter that names a row is another one for each query.
        deep = depth + len(self.own)
        if self.ray is not None:
            from glimpse.gallery.cluster import search_on_cluster

            found = search_on_cluster(self.gallery, self.distance, probe, deep, self.where, address=self.ray)[0]
        else:
            found = self.gallery.nearest(self.distance, probe, deep, where=self.where, mode=self.mode)[0]
        return _chosen(found, np.flatnonzero(~np.isin(found.row_ids, self.own))[:depth])

    def expanded(self, probe: Probes, n: int) -> Probes:
        """The query and its n nearest hits: the mean of their distances, each hit by its similarity to the power of 3.

        For a cosine distance that is the order of alpha query expansion.
        """
        near = self.ranked(probe, n) if n else None
        if near is None or not len(near):
            return probe
        scale = self.distance
        if isinstance(scale, Cascade):  # only what its fine distance placed is on one scale
            near, scale = _chosen(near, np.arange(near.reranked)), scale.fine
        similarity = (1.0 - 2.0 * torch.from_numpy(near.distance) / farthest(scale)).clamp_min(0.0) ** 3
        hits = self.distance.prepare(self.gallery.embedding(near.row_ids).to(dtype=torch.float32))
        size = len(probe.embedding)
        weights = torch.cat([torch.full((size,), 1.0 / size), similarity])
        joined = Embedding.cat([probe.embedding, hits])
        return Probes(joined, (len(joined),), "mean", weights)

    def page(self, probe: Probes, ask: Ask) -> _Page:
        """The rows of one page."""
        stop = ask.skip + ask.top
        if ask.group is None:
            hits = _chosen(self.reordered(probe, ask, stop), np.arange(stop)[ask.skip :])
            return _Page(hits, [(None, 1)] * len(hits))
        depth, deepest = 4 * stop, max(4 * stop, _DEEPEST)
        while True:
            found = self.reordered(probe, ask, depth)
            places: dict[str | int, int] = {}
            sizes: dict[str | int, int] = {}
            for place, key in enumerate(self._groups(found.row_ids, ask.group)):
                places.setdefault(key, place)
                sizes[key] = sizes.get(key, 0) + 1
            if len(places) >= stop or len(found) < depth or depth in (self.searched, deepest):
                break
            depth = min(4 * depth, deepest)
        chosen = list(places.items())[ask.skip : stop]
        groups = [(None if isinstance(key, int) else key, sizes[key]) for key, _ in chosen]
        notes: tuple[str, ...] = ()
        if len(places) < stop and len(found) < self.searched:
            groups_found = f"{len(places):,} of the {stop:,} groups that were asked for"
            notes = (
                f"Only {groups_found} are among the {len(found):,} nearest crops; farther ones were not looked at.",
            )
        return _Page(_chosen(found, np.array([place for _, place in chosen], np.int64)), groups, notes)

    def _groups(self, rows: Rows, group: Group) -> list[str | int]:
        """The person or track of each row, or its number where it has none."""
        values = self.gallery.table.take(rows, [group]).column(0).to_pylist()
        return [int(row) if value is None else value for value, row in zip(values, rows, strict=True)]

    def reordered(self, probe: Probes, ask: Ask, depth: int) -> Ranked:
        """The nearest rows, the best of them re-ranked if that is asked for."""
        if ask.rerank is None:
            return self.ranked(probe, depth)
        found = self.ranked(probe, max(depth, ask.pool))
        if not len(found):
            return found
        best = found.row_ids[: ask.pool]
        among = self.distance.prepare(self.gallery.embedding(best).to(dtype=torch.float32))
        order = rerank_candidates(self.distance, probe.embedding, among, torch.arange(len(best))[None], ask.rerank)
        rows = np.concatenate([best[order.index[0].numpy()], found.row_ids[ask.pool :]])
        distances = np.concatenate([order.distance[0].numpy(), found.distance[ask.pool :]])
        return _chosen(Ranked(distances, rows, len(best)), np.arange(depth))


def _chosen(found: Ranked, places: Rows) -> Ranked:
    """What stands at some places, those behind the end left out."""
    places = places[places < len(found)]
    return Ranked(found.distance[places], found.row_ids[places], int((places < found.reranked).sum()))


def _described(how: _How, crops: Embedding, page: _Page, ask: Ask) -> tuple[Found, ...]:
    """What is known of the rows of a page."""
    hits, gallery = page.hits, how.gallery
    if not len(hits):
        return ()
    table = gallery.table.take(hits.row_ids, [*NAMES, *([THUMBNAIL] if ask.pictures else [])])
    known = to_crops(table)
    pictures: list[Image.Image | None] = [None] * len(known)
    if ask.pictures:
        pictures = pictures_of(known, table.column(THUMBNAIL).to_pylist())
    parts: list[tuple[PartMatch, ...]] = [()] * len(known)
    if ask.explain:
        rows = how.distance.prepare(gallery.embedding(hits.row_ids))
        parts = [_explained(how.distance, crops, rows[i]) for i in range(len(known))]
    return tuple(
        Found(
            rank=ask.skip + i + 1,
            crop=crop,
            row_id=int(hits.row_ids[i]),
            distance=float(hits.distance[i]),
            parts=parts[i],
            reranked=i < hits.reranked,
            group=page.groups[i][0],
            crops_in_group=page.groups[i][1],
            picture=pictures[i],
        )
        for i, crop in enumerate(known)
    )


def _explained(distance: Distance, crops: Embedding, row: Embedding) -> tuple[PartMatch, ...]:
    """Part by part, against the query crop that is nearest."""
    said = [distance.explain(crops[i], row) for i in range(len(crops))]
    return min(said, key=lambda each: each.distance).parts
