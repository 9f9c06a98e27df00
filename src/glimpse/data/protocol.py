"""Which gallery crops count for a query: the rules of each dataset, and what they left out, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from glimpse.data.samples import DISTRACTOR, JUNK, Sample
from glimpse.data.words import count, first_few, people
from glimpse.errors import DataError

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Protocol:
    """The rules of an evaluation.

    Attributes:
        name: what reports call it.
        same_camera_rule: gallery crops of the query's person by the query's camera are ignored (Zheng et al.,
            "Scalable Person Re-identification: A Benchmark", ICCV 2015). Needs camera ids on every crop.
        drops_junk: crops of pid -1 are ignored for every query.
        per_identity: if every identity has exactly this many crops on both sides, single-shot evaluation over all
            pairs of one probe index and one gallery index is defined too; else `None`.
    """

    name: str
    same_camera_rule: bool
    drops_junk: bool = True
    per_identity: int | None = None

    def relevance(
        self, query: Sequence[Sample], gallery: Sequence[Sample], *, without_match: Literal["skip", "error"] = "skip"
    ) -> Relevance:
        """Apply the rules to a query and a gallery list.

        Args:
            query: the queries, any order.
            gallery: the gallery, any order.
            without_match: what to do with queries nobody in the gallery can match: leave them out of `valid`, or raise.

        Raises:
            DataError: a list is empty, camera ids are missing where the rules need them, no query has a match, or some
                query has none and `without_match` is "error".
        """
        for side, samples in (("query", query), ("gallery", gallery)):
            if not samples:
                raise DataError(self.name, f"there are no {side} crops", f"give a dataset with {side} crops")
        cameras = (_cameras(query, gallery, self.name) if self.same_camera_rule else None) or (None, None)
        result = Relevance(
            query_pids=np.array([sample.pid for sample in query], dtype=np.int64),
            gallery_pids=np.array([sample.pid for sample in gallery], dtype=np.int64),
            query_camids=cameras[0],
            gallery_camids=cameras[1],
            drops_junk=self.drops_junk,
        )
        lost = np.flatnonzero(~result.valid)
        if len(lost) == len(query):
            cause = "no query has a match in the gallery"
            remedy = "check that query and gallery share person ids"
            if self.same_camera_rule:
                cause += ", once crops of the same person by the same camera are ignored"
                remedy += ", and leave camera ids out if each person is seen by one camera only"
            raise DataError(self.name, cause, remedy)
        if without_match == "error" and len(lost):
            names = first_few([query[int(row)].path for row in lost])
            remedy = "add crops of these people to the gallery, or skip such queries"
            cause = f"{count(len(lost), 'query', 'queries')} without a valid match ({names})"
            raise DataError(self.name, cause, remedy)
        result.unmatched_names = tuple(query[int(row)].path for row in lost)
        return result


def _cameras(query: Sequence[Sample], gallery: Sequence[Sample], name: str) -> tuple[Rows, Rows]:
    missing = [sample for side in (query, gallery) for sample in side if sample.camid is None]
    if missing:
        total = len(query) + len(gallery)
        cause = f"{len(missing):,} of {count(total, 'crop')} without camera id ({first_few([s.path for s in missing])})"
        raise DataError(name, cause, "give every crop a camera id, or none at all")
    return tuple(  # type: ignore[return-value]
        np.array([sample.camid for sample in side], dtype=np.int64) for side in (query, gallery)
    )


class Relevance:
    """Who matches whom, per query, without ever holding a query x gallery table.

    Attributes:
        query_pids, gallery_pids: `[q]`, `[g]` int64.
        query_camids, gallery_camids: the same for cameras, or `None` where no camera rule applies.
        unmatched_names: paths of the queries with no valid match.
    """

    def __init__(
        self,
        query_pids: Rows,
        gallery_pids: Rows,
        query_camids: Rows | None = None,
        gallery_camids: Rows | None = None,
        drops_junk: bool = True,
    ) -> None:
        self.query_pids = query_pids
        self.gallery_pids = gallery_pids
        self.query_camids = query_camids
        self.gallery_camids = gallery_camids
        self.drops_junk = drops_junk
        self.unmatched_names: tuple[str, ...] = ()
        self._order = np.argsort(gallery_pids, kind="stable")
        ranked = gallery_pids[self._order]
        self._start = np.searchsorted(ranked, query_pids, side="left")
        self._stop = np.searchsorted(ranked, query_pids, side="right")
        self._junk = np.flatnonzero(gallery_pids == JUNK) if drops_junk else np.zeros(0, np.int64)

    def same_person(self, query: int) -> Rows:
        """Gallery rows of the query's person, ascending; none for junk and distractors, which are nobody."""
        if self.query_pids[query] in (JUNK, DISTRACTOR):
            return np.zeros(0, np.int64)
        rows: Rows = self._order[self._start[query] : self._stop[query]]
        return rows

    def ignored(self, query: int) -> Rows:
        """Gallery rows that count neither for nor against the query, ascending."""
        rows = self._same_camera(query)
        # Junk is nobody's crop: the two never overlap.
        return np.sort(np.concatenate([rows, self._junk])) if len(self._junk) else rows

    def matches(self, query: int) -> Rows:
        """Gallery rows that are right answers to the query, ascending."""
        rows = self.same_person(query)
        if self.query_camids is None or self.gallery_camids is None:
            return rows
        others: Rows = rows[self.gallery_camids[rows] != self.query_camids[query]]
        return others

    def _same_camera(self, query: int) -> Rows:
        if self.query_camids is None or self.gallery_camids is None:
            return np.zeros(0, np.int64)
        rows = self.same_person(query)
        own: Rows = rows[self.gallery_camids[rows] == self.query_camids[query]]
        return own

    @cached_property
    def match_counts(self) -> Rows:
        """`[q]`: right answers of each query."""
        return np.array([len(self.matches(row)) for row in range(len(self.query_pids))], dtype=np.int64)

    @cached_property
    def same_camera_counts(self) -> Rows:
        """`[q]`: gallery crops of the same person by the same camera, ignored for each query."""
        return np.array([len(self._same_camera(row)) for row in range(len(self.query_pids))], dtype=np.int64)

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """`[q]`: queries with at least one right answer; only they are scored."""
        valid: NDArray[np.bool_] = self.match_counts > 0
        return valid

    @property
    def report(self) -> ProtocolReport:
        """What the rules did, as counts that print as sentences."""
        return ProtocolReport(
            queries=len(self.query_pids),
            gallery=len(self.gallery_pids),
            matches=int(self.match_counts.sum()),
            camera_rule=self.query_camids is not None,
            same_camera=int(self.same_camera_counts.sum()),
            junk=len(self._junk),
            distractors=int((self.gallery_pids == DISTRACTOR).sum()),
            unmatched=self.unmatched_names or tuple(f"query {row}" for row in np.flatnonzero(~self.valid)),
        )


@dataclass(frozen=True)
class ProtocolReport:
    """What a protocol ignored. `str()` gives one sentence per line.

    Attributes:
        queries, gallery: sizes of the two lists.
        matches: right answers over all queries.
        camera_rule: whether the same-camera rule was applied.
        same_camera: gallery crops ignored by it, over all queries.
        junk: gallery crops of pid -1, ignored for every query.
        distractors: gallery crops of pid 0, which stay in.
        unmatched: names of the queries without any valid match, which are not scored.
    """

    queries: int
    gallery: int
    matches: int
    camera_rule: bool
    same_camera: int
    junk: int
    distractors: int
    unmatched: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """The sentences."""
        mean = self.matches / self.queries
        sizes = f"{count(self.queries, 'query', 'queries')}, {count(self.gallery, 'gallery crop')}"
        said = [f"{sizes}, {mean:.1f} right answers per query."]
        if self.camera_rule:
            said.append(
                "Per query, gallery crops with the same person and the same camera are ignored: "
                f"{self.same_camera:,} in all, mean {self.same_camera / self.queries:.1f} per query."
            )
        else:
            said.append("No camera rule: every gallery crop counts.")
        if self.junk:
            said.append(f"{count(self.junk, 'junk gallery crop')} (pid -1) ignored for every query.")
        if self.distractors:
            said.append(f"{count(self.distractors, 'distractor')} (pid 0) kept in the gallery.")
        if self.unmatched:
            names = first_few(list(self.unmatched))
            said.append(f"{count(len(self.unmatched), 'query', 'queries')} without any valid match skipped: {names}.")
        return tuple(said)

    def __str__(self) -> str:
        return "\n".join(self.lines)


def single_shot(
    query: Sequence[Sample], gallery: Sequence[Sample], *, per_identity: int
) -> Iterator[tuple[Rows, Rows]]:
    """Rows of each single-shot trial: one probe and one gallery crop per identity, all index pairs.

    With n crops per identity on both sides there are n * n trials, whose scores are averaged: what the evaluation of
    partial re-identification does instead of drawing at random (He et al., "Deep Spatial Feature Reconstruction for
    Partial Person Re-identification", CVPR 2018). Crops of an identity are numbered in order of their names.

    Args:
        query: the probes.
        gallery: the gallery.
        per_identity: n.

    Yields:
        (query rows, gallery rows), each `[identities]`, identities in ascending order.

    Raises:
        DataError: some identity does not have n crops on both sides.
    """
    tables = []
    for side, samples in (("query", query), ("gallery", gallery)):
        rows: dict[int, list[int]] = {}
        for row in sorted(range(len(samples)), key=lambda row: samples[row].name):
            rows.setdefault(samples[row].pid, []).append(row)
        for pid, own in rows.items():
            if len(own) != per_identity:
                has = count(len(own), f"{side} crop")
                cause = f"person {pid} has {has}, and single-shot trials need {per_identity} each"
                raise DataError(samples[own[0]].path, cause, "use the whole set at once, or complete it")
        tables.append((sorted(rows), np.array([rows[pid] for pid in sorted(rows)], dtype=np.int64)))
    (probe_pids, probes), (target_pids, targets) = tables
    if probe_pids != target_pids:
        odd = sorted(set(probe_pids) ^ set(target_pids))
        cause = f"{people(len(odd))} on one side only (first: {odd[0]})"
        raise DataError("single-shot trials", cause, "give each person crops on both sides")
    for i in range(per_identity):
        for j in range(per_identity):
            yield probes[:, i], targets[:, j]
