"""From a query and a gallery to hits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from glimpse.data.images import as_picture, read_image
from glimpse.data.samples import Sample
from glimpse.data.stores import FolderStore
from glimpse.data.transforms import Visible
from glimpse.data.visible import Prompt, read_visible
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, DataError, EmbeddingError
from glimpse.matching.cascade import Cascade
from glimpse.matching.distance import Distance
from glimpse.matching.ranking import top_k
from glimpse.search.gallery import Gallery, embed_gallery, load_gallery
from glimpse.search.hits import Hit, SearchResult

if TYPE_CHECKING:
    from glimpse.model import Model

Query = str | Path | Sample | Image.Image | npt.NDArray[np.uint8]
"""One crop: its path, a sample, a picture, or an array `[h, w, 3]` of uint8 (RGB)."""
Option = float | int | bool | str
"""The value of an option of a distance."""

_STORED = "crops.lance"
"""Folder of a stored gallery (`glimpse.gallery`) that holds its table."""


@overload  # A path is a sequence of texts as well; it is told apart first.
def search(  # type: ignore[overload-overlap]
    model: Model,
    query: Query,
    gallery: str | Path | Sequence[Sample] | Gallery,
    *,
    top: int = 20,
    visible: Prompt | None = None,
    skip_bad: bool = False,
    options: Mapping[str, Option] | None = None,
    progress: Callable[[int], None] | None = None,
) -> SearchResult: ...
@overload
def search(
    model: Model,
    query: Sequence[Query],
    gallery: str | Path | Sequence[Sample] | Gallery,
    *,
    top: int = 20,
    visible: Sequence[Prompt | None] | None = None,
    skip_bad: bool = False,
    options: Mapping[str, Option] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[SearchResult]: ...
def search(
    model: Model,
    query: Query | Sequence[Query],
    gallery: str | Path | Sequence[Sample] | Gallery,
    *,
    top: int = 20,
    visible: Prompt | Sequence[Prompt | None] | None = None,
    skip_bad: bool = False,
    options: Mapping[str, Option] | None = None,
    progress: Callable[[int], None] | None = None,
) -> SearchResult | list[SearchResult]:
    """Rank the crops of a gallery by their distance to a query, and say what each hit hangs on.

    A crop of the gallery that is the query's own file is left out, and the result says so.

    Args:
        model: what `glimpse.load` gives.
        query: a path, a sample or a picture; or a list of them.
        gallery: a folder or zip of crops, a `.safetensors` file written by `glimpse embed`, samples, or a `Gallery`.
        top: how many hits at most.
        visible: which part of the query is the person: a box `x0, y0, x1, y1` in pixels of the crop, a mask `[h, w]`,
            or the text or path of one; for a list of queries a list, with `None` for those that have no prompt.
        skip_bad: leave unreadable gallery crops out and list them in the result, instead of raising on the first.
        options: options of the method's distance.
        progress: handed to `Model.embed_samples` while the gallery is embedded.

    Returns:
        A `SearchResult`; for a list of queries a list of them.

    Raises:
        DataError: a crop cannot be read or is no picture, or there is none but the query itself.
        ConfigError: `top`, `visible` or `options` is not valid.
        EmbeddingError: the gallery was embedded with other weights.
    """
    one = isinstance(query, (str, Path, Sample, Image.Image, np.ndarray)) or not isinstance(query, Iterable)
    if one:
        queries, prompts = [cast("Query", query)], [cast("Prompt | None", visible)]
    else:
        queries = list(cast("Sequence[Query]", query))
        prompts = [None] * len(queries) if visible is None else list(cast("Sequence[Prompt | None]", visible))
        if len(prompts) != len(queries):
            cause = f"{len(prompts)} prompts for {len(queries)} queries"
            raise ConfigError("visible", cause, "give one for each query, None where there is none")
    if top < 1:
        raise ConfigError("top", f"is {top}", "ask for at least one hit")
    distance = model.distance(**(options or {}))
    # Everything small is checked before the gallery is embedded, which may take minutes.
    images = [read_query(each) for each in queries]
    shown = [
        None if prompt is None else read_visible(prompt, image.size)
        for prompt, image in zip(prompts, images, strict=True)
    ]
    stored = _open(model, gallery, skip_bad, progress)
    stored = replace(stored, embedding=distance.prepare(stored.embedding))
    embedded = [
        distance.prepare(embed_query(model, each, image, prompt))
        for each, image, prompt in zip(queries, images, shown, strict=True)
    ]
    results = [
        replace(_result(distance, each, row, stored, top), image=image, visible=prompt)
        for each, image, prompt, row in zip(queries, images, shown, embedded, strict=True)
    ]
    return results[0] if one else results


def _open(
    model: Model,
    gallery: str | Path | Sequence[Sample] | Gallery,
    skip_bad: bool,
    progress: Callable[[int], None] | None,
) -> Gallery:
    if isinstance(gallery, (str, Path)) and str(gallery).endswith(".safetensors"):
        gallery = load_gallery(gallery)
    if isinstance(gallery, (str, Path)) and (Path(gallery) / _STORED).is_dir():
        remedy = f"use `glimpse gallery search {gallery} --query ...`, or glimpse.gallery.search_gallery"
        raise DataError(gallery, "is a stored gallery, not a folder of crops", remedy)
    if not isinstance(gallery, Gallery):
        return embed_gallery(model, gallery, skip_bad=skip_bad, progress=progress)
    if gallery.embedding.made_by != model.made_by:
        raise EmbeddingError(
            gallery.source,
            f"was embedded with the weights {gallery.embedding.made_by or 'of an unknown model'}, "
            f"and the query is with {model.made_by}",
            "search with the weights that made it, or embed the gallery again",
        )
    return gallery


def read_query(query: Query) -> Image.Image:
    """The picture of a query, RGB.

    Raises:
        DataError: it cannot be read, or is none.
    """
    if isinstance(query, (Image.Image, np.ndarray)):
        return as_picture(query, "query").convert("RGB")
    if not isinstance(query, (str, Path, Sample)):
        kind = "None" if query is None else f"of type {type(query).__name__}"
        raise DataError(
            "query", f"is {kind}", "give a path, a sample, a PIL image or an array [h, w, 3] of uint8 (RGB)"
        )
    try:
        return read_image(query if isinstance(query, Sample) else _sample(query))
    except DataError as error:
        # Crops of a gallery can be skipped, the query cannot.
        remedy = "give another picture as the query" if "skip" in error.remedy else error.remedy
        raise DataError(error.where, error.cause, remedy) from error


def embed_query(model: Model, query: Query, image: Image.Image, visible: Visible | None) -> Embedding:
    """The query's embedding; as a sample where it has a file, by which its cues may be known."""
    if isinstance(query, (Image.Image, np.ndarray)):
        return model.embed([image], [visible])
    sample = query if isinstance(query, Sample) else _sample(query)
    return model.embed_samples([sample], edit=lambda _, read: (read, visible)).embedding


def _sample(path: str | Path) -> Sample:
    folder, name = os.path.split(path)
    return Sample(FolderStore(folder or "."), name, pid=0)


def _result(distance: Distance, query: Query, embedded: Embedding, gallery: Gallery, top: int) -> SearchResult:
    """The hits of one query; `gallery` holds the prepared embedding."""
    name = query.path if isinstance(query, Sample) else str(query) if isinstance(query, (str, Path)) else "query"
    itself = _itself(query, gallery)
    if len(itself) == len(gallery.samples):
        raise DataError(gallery.source, "holds nothing but the query itself", "add the crops to search among")
    ranking = top_k(distance, embedded, gallery.embedding, min(top + len(itself), len(gallery.samples)))
    hits: list[Hit] = []
    for place, (row, value) in enumerate(zip(ranking.index[0].tolist(), ranking.distance[0].tolist(), strict=True)):
        if row in itself or len(hits) == top:
            continue
        reranked = isinstance(distance, Cascade) and place < distance.n
        if isinstance(distance, Cascade) and not reranked:
            value -= distance.fine.farthest  # a cascade puts the coarse block behind the largest fine distance
        parts = distance.explain(embedded, gallery.embedding[row]).parts
        hits.append(Hit(len(hits) + 1, gallery.samples[row], value, parts, reranked))
    blank = not any(part.compared for hit in hits for part in hit.parts)
    return SearchResult(
        query=name,
        hits=tuple(hits),
        made_by=embedded.made_by,
        gallery=gallery.source,
        gallery_size=len(gallery.samples) - len(itself),
        notes=(
            *gallery.notes,
            *(f"{gallery.samples[row].path} is the query itself and was left out." for row in sorted(itself)),
            *(["No part of the query could be compared with any hit: too little of it shows."] if blank else []),
        ),
        skipped=gallery.skipped,
    )


def _itself(query: Query, gallery: Gallery) -> set[int]:
    """Gallery rows that are the query's own file."""
    if isinstance(query, (Image.Image, np.ndarray)):
        return set()
    path = os.path.realpath(query.path if isinstance(query, Sample) else query)
    name = os.path.basename(path)
    return {
        row
        for row, sample in enumerate(gallery.samples)
        if sample.name.endswith(name) and os.path.realpath(sample.path) == path
    }
