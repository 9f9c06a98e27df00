"""One pass of queries over a gallery, block by block, to a result that keeps the values of each query."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from glimpse.data.protocol import Relevance
from glimpse.embedding import Embedding
from glimpse.errors import DataError, EmbeddingError
from glimpse.evaluation.intervals import bootstrap
from glimpse.evaluation.metrics import CMC_AT, Indices, Values, closest, rank_positives, score
from glimpse.evaluation.records import Estimate, Metrics, PerQuery, ResultRecord, Summary
from glimpse.matching.distance import Distance
from glimpse.matching.ranking import distance_rows
from glimpse.matching.reranking import KReciprocal, k_reciprocal

DEFAULT_MAX_BYTES = 256 << 20
"""Scratch memory that matching may take."""

METRICS = (*(f"rank_{k}" for k in CMC_AT), "map", "map_trapezoid", "minp")
"""Names of the columns of `Result.values`."""


@dataclass(frozen=True)
class Result:
    """What evaluation found, query by query. Ranked once; everything later reads this.

    Attributes:
        rows: positions `[n]` of the scored queries in the list of queries.
        skipped: positions of the queries without a valid match; they count in no mean.
        first: rank `[n]` of each query's closest match, from 1.
        matches: number `[n]` of each query's valid matches.
        ignored: number `[n]` of gallery crops that the protocol ignored.
        ap: average precision `[n]`, plain.
        ap_trapezoid: average precision `[n]`, trapezoid.
        inp: inverse negative penalty `[n]`.
        gallery: number of gallery crops.
        top: gallery rows `[q, k]` closest to each query, skipped ones too, -1 where none is left; k may be 0.
        top_distance: their distances `[q, k]`.
        seed: of the bootstrap.
    """

    rows: Indices
    skipped: Indices
    first: Indices
    matches: Indices
    ignored: Indices
    ap: Values
    ap_trapezoid: Values
    inp: Values
    gallery: int
    top: Indices
    top_distance: Values
    seed: int = 0

    @cached_property
    def values(self) -> Values:
        """Values of all metrics for each scored query, `[n, 7]`, columns as in `METRICS`."""
        cmc = [self.first <= k for k in CMC_AT]
        return np.stack([*cmc, self.ap, self.ap_trapezoid, self.inp], axis=1).astype(np.float64)

    @cached_property
    def summary(self) -> Summary:
        """Means over queries with their intervals."""
        return Summary(
            metrics=estimates(self.values, self.seed),
            queries=len(self.rows),
            skipped=len(self.skipped),
            gallery=self.gallery,
            ignored_per_query=float(self.ignored.mean()),
        )

    def cmc(self, ranks: int) -> Values:
        """The CMC curve `[ranks]`: share of queries with a match at rank 1, 1-2, ..., 1-`ranks`."""
        curve: Values = (self.first[:, None] <= np.arange(1, ranks + 1)).mean(axis=0)
        return curve

    def record(self) -> ResultRecord:
        """What goes into JSON."""
        return ResultRecord(
            summary=self.summary,
            per_query=PerQuery(
                row=self.rows.tolist(),
                first_rank=self.first.tolist(),
                matches=self.matches.tolist(),
                ap=self.ap.tolist(),
                ap_trapezoid=self.ap_trapezoid.tolist(),
                inp=self.inp.tolist(),
            ),
            skipped_rows=self.skipped.tolist(),
        )

    def to_json(self) -> str:
        """JSON text; see `ResultRecord` for its fields."""
        return self.record().model_dump_json(indent=1)


def estimates(values: Values, seed: int) -> Metrics:
    """Means of the columns of `values` `[n, 7]` with 95 % bootstrap intervals over rows."""
    low, high = bootstrap(values, seed=seed)
    mean = values.mean(axis=0)
    # Rounding may put a mean a hair outside [0, 1] or its own interval.
    low, high = np.minimum(low, mean).clip(0, 1), np.maximum(high, mean).clip(0, 1)
    mean = mean.clip(0, 1)
    found = {
        name: Estimate(value=float(mean[i]), low=float(low[i]), high=float(high[i])) for i, name in enumerate(METRICS)
    }
    return Metrics(**found)


def evaluate_rows(
    rows: Iterable[tuple[slice, Tensor]],
    relevance: Relevance,
    *,
    top: int = 0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Score whole rows of distances as they come.

    Args:
        rows: blocks of queries and their distances `[rows, g]` to the whole gallery, in order, covering all queries.
        relevance: which gallery rows match each query, and which are ignored.
        top: how many of the closest gallery rows to keep for each query.
        seed: of the bootstrap intervals.
        progress: called with the number of queries done since the last call.

    Raises:
        DataError: no query has a valid match.
        EmbeddingError: a distance is NaN, or the blocks do not cover all queries.
    """
    q, g = len(relevance.query_pids), len(relevance.gallery_pids)
    kept: list[int] = []
    skipped: list[int] = []
    counts: list[tuple[int, int, int]] = []
    scores: list[tuple[float, float, float]] = []
    top_index, top_distance = np.full((q, top), -1, np.int64), np.full((q, top), np.inf, np.float64)
    done = 0
    for block, distances in rows:
        queries = range(*block.indices(q))
        if bool(torch.isnan(distances.min())):  # `min` passes a NaN on, without a mask as large as the block
            raise EmbeddingError("distance", "a distance is not a number", "check the embeddings for NaN or infinity")
        pairs = [(relevance.matches(i), relevance.ignored(i)) for i in queries]
        if top:
            top_index[block], top_distance[block] = closest(distances, top, [ignored for _, ignored in pairs])
        host = distances.float().cpu().numpy()
        for i, row, (positives, ignored) in zip(queries, host, pairs, strict=True):
            if not len(positives):
                skipped.append(i)
                continue
            ranks = rank_positives(row, positives, ignored)
            s = score(ranks)
            kept.append(i)
            counts.append((s.first, len(ranks), len(ignored)))
            scores.append((s.ap, s.ap_trapezoid, s.inp))
        done += len(queries)
        if progress is not None:
            progress(len(queries))
    if done != q:
        raise EmbeddingError("distance", f"{done} of {q} rows of distances came", "give one row per query")
    if not kept:
        raise DataError(
            "queries",
            f"none of the {q} queries has a valid match in the gallery of {g} crops",
            "check person ids and camera ids, or turn the same-camera rule off",
        )
    first, matches, ignored_counts = np.array(counts, np.int64).T
    ap, ap_trapezoid, inp = np.array(scores, np.float64).T
    return Result(
        rows=np.array(kept, np.int64),
        skipped=np.array(skipped, np.int64),
        first=first,
        matches=matches,
        ignored=ignored_counts,
        ap=ap,
        ap_trapezoid=ap_trapezoid,
        inp=inp,
        gallery=g,
        top=top_index,
        top_distance=top_distance,
        seed=seed,
    )


def evaluate(
    distance: Distance,
    query: Embedding,
    gallery: Embedding,
    relevance: Relevance,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
    gallery_block: int = 8192,
    rerank: KReciprocal | None = None,
    top: int = 0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Score every query against the whole gallery.

    Memory beyond the two embeddings: `max_bytes` for blocks of distances, one float32 row per query of a block and
    about 100 bytes per query for the result. Neither a sorted gallery nor a q x g matrix is ever held. Re-ranking
    takes what `k_reciprocal` says.

    Args:
        distance: compares the embeddings, cascades included.
        query: `q` rows.
        gallery: `g` rows.
        relevance: which gallery rows match each query, and which are ignored.
        max_bytes: scratch memory of matching.
        gallery_block: gallery rows compared at a time; no result depends on it.
        rerank: how to re-rank by k-reciprocal neighbours before anything is scored; `None` to leave the ranking as it
            is. Rows that the rules ignore are neighbours like all others.
        top: how many of the closest gallery rows to keep for each query.
        seed: of the bootstrap intervals.
        progress: called with the number of queries done since the last call.

    Raises:
        DataError: numbers of crops and of person ids differ, or no query has a valid match.
        EmbeddingError: the embeddings do not fit the distance, or a distance is NaN.
    """
    for side, embedding, pids in (
        ("query", query, relevance.query_pids),
        ("gallery", gallery, relevance.gallery_pids),
    ):
        if len(embedding) != len(pids):
            raise DataError(side, f"{len(embedding)} embedded crops and {len(pids)} person ids", "give one id per crop")
    rows = ranked_rows(distance, query, gallery, rerank, max_bytes=max_bytes, gallery_block=gallery_block)
    return evaluate_rows(rows, relevance, top=top, seed=seed, progress=progress)


def ranked_rows(
    distance: Distance,
    query: Embedding,
    gallery: Embedding,
    rerank: KReciprocal | None,
    *,
    max_bytes: int,
    gallery_block: int,
) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of distances for `evaluate_rows`: those of `distance_rows`, or of `k_reciprocal` if re-ranked."""
    if rerank is None:
        return distance_rows(distance, query, gallery, max_bytes=max_bytes, gallery_block=gallery_block)
    return k_reciprocal(distance, query, gallery, rerank, max_bytes=max_bytes, gallery_block=gallery_block)
