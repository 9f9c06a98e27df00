"""Robustness curves: the same queries, covered more and more from each side, through the same gallery."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from torch import Tensor

from glimpse.data.dataset import Dataset
from glimpse.data.images import read_all
from glimpse.data.samples import Sample
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, DataError
from glimpse.evaluation.evaluate import DEFAULT_MAX_BYTES, Result, estimates, evaluate
from glimpse.evaluation.records import Metrics, OccludedRecord, OcclusionMeanRecord, OcclusionRecord
from glimpse.matching.distance import Distance
from glimpse.synthetic.occlusion import EDGES, FROM_CROPS, SIDES, Kind, Occluder, Side, to_tensor

if TYPE_CHECKING:
    from glimpse.model import Model

FRACTIONS = (0.2, 0.4, 0.6)
"""Shares of a crop that are covered, unless told otherwise."""
MAX_SOURCES = 256
"""How many crops occluders are cut from; a seeded choice if more are given, so that memory stays small."""


@dataclass(frozen=True)
class Occluded:
    """The result at one side and one covered share.

    Attributes:
        side: where the occluder stood.
        fraction: share of the crop that was to be covered.
        result: what was found.
        hidden: share of the pixels that was hidden, a mean over queries; near `fraction` for what has an outline.
    """

    side: Side
    fraction: float
    result: Result
    hidden: float


@dataclass(frozen=True)
class OcclusionSuite:
    """Results over a grid of sides and covered shares, all with the same queries and the same gallery.

    Attributes:
        kind: what covers.
        prompted: whether the model was told what is visible.
        queries: crops that were covered; `result.rows` count in this list.
        results: one per side and share.
        seed: of the occluders and of the bootstrap.
        sources: digest of the crops that occluders could be cut from, see `digest_of`; empty where none are needed.
    """

    kind: Kind
    prompted: bool
    queries: tuple[Sample, ...]
    results: tuple[Occluded, ...]
    seed: int = 0
    sources: str = ""

    def __iter__(self) -> Iterator[Occluded]:
        return iter(self.results)

    @property
    def sides(self) -> tuple[Side, ...]:
        """Sides of the grid, as they were asked for."""
        return tuple(dict.fromkeys(o.side for o in self.results))

    @property
    def fractions(self) -> tuple[float, ...]:
        """Covered shares of the grid, as they were asked for."""
        return tuple(dict.fromkeys(o.fraction for o in self.results))

    def mean(self, fraction: float) -> Metrics:
        """Mean over sides at one covered share.

        Each query's values are averaged over the sides first and intervals are over queries, so a query's sides stay
        together.
        """
        values = [o.result.values for o in self.results if o.fraction == fraction]
        return estimates(np.mean(values, axis=0), self.seed)

    def record(self, clear: Metrics) -> OcclusionRecord:
        """What goes into JSON, with the metrics of the same queries when they are not covered."""
        return OcclusionRecord(
            kind=self.kind,
            prompted=self.prompted,
            queries=len(self.queries),
            seed=self.seed,
            clear=clear,
            means=[OcclusionMeanRecord(fraction=f, metrics=self.mean(f)) for f in self.fractions],
            results=[OccludedRecord(side=o.side, fraction=o.fraction, summary=o.result.summary) for o in self.results],
        )


def occlusion_suite(
    model: Model,
    dataset: Dataset,
    gallery: Embedding,
    *,
    kind: Kind = "object",
    sides: Sequence[Side] = EDGES,
    fractions: Sequence[float] = FRACTIONS,
    prompted: bool = False,
    queries: int | None = None,
    sources: Sequence[Sample] = (),
    distance: Distance | None = None,
    seed: int = 0,
    max_bytes: int = DEFAULT_MAX_BYTES,
    skip_bad: bool = False,
    progress: Callable[[int], None] | None = None,
) -> OcclusionSuite:
    """Cover the queries from each side by each share and search the clear gallery with them.

    A query meets the same occluder at every side and share, and in every run with the same seed. A prompted run and
    one without a prompt see the same pixels.

    Args:
        model: embeds the covered queries.
        dataset: its queries are covered; its gallery and protocol say what matches.
        gallery: the embedded `dataset.gallery`, one row per crop, not covered.
        kind: what covers: background texture, another person, or grey.
        sides: where the occluder stands.
        fractions: shares of the crop that are covered, each in (0, 1).
        prompted: whether the model is told which pixels are visible.
        queries: how many queries to draw (seeded, among those with a match); `None` takes all.
        sources: crops of people who are not looked for, such as `dataset.train`; only needed for objects and people.
        distance: compares embeddings; the model's own if `None`.
        seed: of the choice of queries and sources, the occluders and the bootstrap.
        max_bytes: scratch memory of matching.
        skip_bad: leave out crops that cannot be read instead of stopping at them.
        progress: called with the number of queries embedded since the last call.

    Raises:
        ConfigError: an option is out of range, or there are no sources for the kind.
        DataError: a crop cannot be read, no query has a match, or `gallery` does not fit `dataset.gallery`.
    """
    check_grid(sides, fractions, queries)
    if len(gallery) != len(dataset.gallery):
        raise DataError(
            "gallery", f"{len(gallery)} embedded crops and {len(dataset.gallery)} listed", "embed the dataset's gallery"
        )
    if kind in FROM_CROPS and not sources:
        raise ConfigError(
            "sources", f"there are no crops to take a '{kind}' from", "give crops of people who are not looked for"
        )
    distance = model.distance() if distance is None else distance
    gallery = distance.prepare(gallery)
    samples = draw_queries(dataset, queries, seed)
    patches = read_sources(sources, seed, skip_bad=skip_bad) if kind in FROM_CROPS else ()

    results: list[Occluded] = []
    kept: list[int] | None = None
    for fraction in fractions:
        for side in sides:
            hidden: list[float] = []
            edit = _edit(Occluder(kind, side, fraction, patches, seed), prompted, hidden)
            embedded = model.embed_samples(samples, edit=edit, skip_bad=skip_bad, progress=progress)
            if kept is None:
                kept = list(embedded.kept)
                relevance = dataset.protocol.relevance([samples[row] for row in kept], dataset.gallery)
            elif kept != list(embedded.kept):
                raise DataError(dataset.name, "crops changed while they were read", "let nothing write to the dataset")
            result = evaluate(distance, embedded.embedding, gallery, relevance, max_bytes=max_bytes, seed=seed)
            results.append(Occluded(side, fraction, result, float(np.mean(hidden))))
    covered = tuple(samples[row] for row in kept or ())
    return OcclusionSuite(kind, prompted, covered, tuple(results), seed, digest_of(sources) if patches else "")


def digest_of(samples: Sequence[Sample]) -> str:
    """SHA-256 of a list of crops by file name, person and camera: the same wherever the dataset lies."""
    listed = [(sample.name.rsplit("/", 1)[-1], sample.pid, sample.camid) for sample in samples]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def check_grid(sides: Sequence[Side], fractions: Sequence[float], queries: int | None) -> None:
    """Refuse a grid that makes no sense.

    Raises:
        ConfigError: a side, a covered share or the number of queries is out of range, missing or given twice.
    """
    if not sides or not fractions:
        raise ConfigError("occlusion", "no side or no covered share is given", "give at least one of each")
    for name, given in (("sides", sides), ("fractions", fractions)):
        if len(set(given)) != len(given):
            raise ConfigError(name, f"{list(given)} has one twice", "give each once")
    for side in sides:
        if side not in SIDES:
            raise ConfigError("sides", f"'{side}' is not a side", f"choose among {', '.join(SIDES)}")
    for fraction in fractions:
        if not 0 < fraction < 1:
            raise ConfigError("fractions", f"{fraction} is not between 0 and 1", "give shares of the crop, such as 0.4")
    if queries is not None and queries < 1:
        raise ConfigError("queries", f"{queries} queries are none", "draw at least one")


def draw_queries(dataset: Dataset, count: int | None, seed: int) -> list[Sample]:
    """Some of the queries that have a match, in their order; all of those if there are no more than `count`."""
    valid = np.flatnonzero(dataset.protocol.relevance(dataset.query, dataset.gallery).valid)
    if count is not None and count < len(valid):
        valid = np.sort(np.random.default_rng(seed).permutation(valid)[:count])
    return [dataset.query[row] for row in valid]


def read_sources(sources: Sequence[Sample], seed: int, *, skip_bad: bool = False) -> list[Tensor]:
    """Pixels of at most `MAX_SOURCES` crops, uint8 `[3, h, w]` each; a seeded choice if there are more."""
    if len(sources) > MAX_SOURCES:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(sources))[:MAX_SOURCES])
        sources = [sources[row] for row in chosen]
    return [to_tensor(image) for image in read_all(sources, skip_bad=skip_bad).images]


def _edit(
    occluder: Occluder, prompted: bool, hidden: list[float]
) -> Callable[[int, PIL.Image.Image], tuple[PIL.Image.Image, NDArray[np.bool_] | None]]:
    def edit(index: int, image: PIL.Image.Image) -> tuple[PIL.Image.Image, NDArray[np.bool_] | None]:
        covered, visible = occluder.edit(index, image)
        # What is cut off is in no mask: the whole crop is what counts.
        hidden.append(1 - float(visible.sum()) / (image.width * image.height))
        return covered, visible if prompted else None

    return edit
