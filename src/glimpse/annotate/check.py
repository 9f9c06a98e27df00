"""What a cache of cues has of a dataset, and how good it looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from glimpse.cues.cache import KINDS, CueCache, CueTable, Kind, digest_of
from glimpse.cues.parts import LEAST_BODY, PartMap, PartScheme
from glimpse.cues.points import KeyPoints
from glimpse.cues.skeleton import Skeleton
from glimpse.data import Sample
from glimpse.errors import DataError

THRESHOLD = 0.2
"""Score above which a key point counts as found, as in PGFA."""
LEAST_POINTS = 3
"""A crop of fewer found points counts as one of nobody."""


@dataclass(frozen=True)
class CueCount:
    """What one source has of one split.

    Attributes:
        kind, source: whose cues.
        split: name of the crops.
        crops: that could be read.
        covered: how many of them have cues.
        nobody: of the covered, those with fewer than 3 points found, or 3 % of the crop shown as a person.
        several: of the covered, those with more than one person (key points only).
        mean: over the covered: points found of the target person, or percent of the crop that shows a person.
        groups: mean percent of the crop that shows each group of parts; groups that are never seen speak of a wrong
            scheme. None for key points.
        score: mean score of the target person's points; `None` for part maps.
        missing: names of the first crops without cues.
    """

    kind: Kind
    source: str
    split: str
    crops: int
    covered: int
    nobody: int
    several: int
    mean: float
    groups: dict[str, float]
    score: float | None
    missing: tuple[str, ...]


@dataclass(frozen=True)
class CueCheck:
    """What `check_cues` found: counts by source and split, and crops that cannot be read."""

    counts: tuple[CueCount, ...]
    bad: tuple[DataError, ...]


def check_cues(
    splits: Mapping[str, Sequence[Sample]], cache: CueCache, *, progress: Callable[[int], None] | None = None
) -> CueCheck:
    """Count what a cache has of some crops.

    Args:
        splits: crops by the name of their split; they are read once, for their digests.
        cache: every source in it is looked at.
        progress: called with the number of crops read since the last call.

    Raises:
        DataError: the cache is damaged.
    """
    bad: list[DataError] = []
    digests = {split: list(_digests(samples, bad, progress)) for split, samples in splits.items()}
    counts = [
        _count(kind, table, split, crops)
        for kind in KINDS
        for source in cache.sources(kind)
        for table in (cache.points(source) if kind == "points" else cache.parts(source),)
        for split, crops in digests.items()
        if crops
    ]
    return CueCheck(tuple(counts), tuple(bad))


def _digests(
    samples: Sequence[Sample], bad: list[DataError], progress: Callable[[int], None] | None
) -> Iterator[tuple[str, bytes]]:
    for sample in samples:
        try:
            yield sample.name, digest_of(sample.store.read(sample.name))
        except DataError as error:
            bad.append(error)
        if progress is not None:
            progress(1)


def _count(
    kind: Kind,
    table: CueTable[KeyPoints, Skeleton] | CueTable[PartMap, PartScheme],
    split: str,
    crops: list[tuple[str, bytes]],
) -> CueCount:
    found = [(name, table.get(digest)) for name, digest in crops]
    values = [value for _, value in found if value is not None]
    means, scores, several, nobody = [], [], 0, 0
    groups = dict.fromkeys(table.says.groups, 0.0) if isinstance(table.says, PartScheme) else {}
    for value in values:
        if isinstance(value, PartMap):
            means.append(100 * value.body)
            nobody += value.body < LEAST_BODY
            for group in groups:
                groups[group] += 100 * float(value.mask(group).mean()) / len(values)
            continue
        target = value.target(THRESHOLD)
        several += value.people > 1
        means.append(0.0 if target is None else float((target[:, 2] > THRESHOLD).sum()))
        nobody += means[-1] < LEAST_POINTS
        scores.append(0.0 if target is None else float(target[:, 2].mean()))
    return CueCount(
        kind=kind,
        source=table.source,
        split=split,
        crops=len(crops),
        covered=len(values),
        nobody=nobody,
        several=several,
        mean=float(np.mean(means)) if means else 0.0,
        groups=groups,
        score=float(np.mean(scores)) if scores else None,
        missing=tuple(name for name, value in found if value is None)[:5],
    )
