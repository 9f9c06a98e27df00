"""The single-shot protocol of the partial sets: one crop per person on both sides, every combination, averaged.

AMC+SWM, DSR, SFR and VPM report Partial-REID this way: the 5 occluded and 5 whole crops of each of 60 people give
5 x 5 trials of 60 queries through 60 crops, and the 25 results are averaged. It is not comparable with the 300 x 300
protocol of PGFA, FPR and QPM, where each query has 5 matches. All trials are read from one pass of distances.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from glimpse.errors import DataError, EmbeddingError
from glimpse.evaluation.evaluate import estimates
from glimpse.evaluation.metrics import CMC_AT, Indices, Values
from glimpse.evaluation.records import SingleShotRecord


@dataclass(frozen=True)
class SingleShot:
    """Ranks of the one match in every trial.

    Attributes:
        ranks: rank `[n, a, b]` of person i's crop when everybody is queried by their crop a among everybody's crop b.
        seed: of the bootstrap.
    """

    ranks: Indices
    seed: int = 0

    @cached_property
    def values(self) -> Values:
        """Mean over trials of each metric for each person, `[n, 7]`, columns as in `evaluate.METRICS`."""
        r = self.ranks.astype(np.float64)
        # With one match at rank r: AP = INP = 1 / r; just before the hit precision is 0 (1 at rank 1).
        columns = [*(self.ranks <= k for k in CMC_AT), 1 / r, np.where(r == 1, 1.0, 0.5 / r), 1 / r]
        return np.stack([np.asarray(c, np.float64).mean(axis=(1, 2)) for c in columns], axis=1)

    def record(self) -> SingleShotRecord:
        """What goes into JSON; intervals are over people, whose trials stay together."""
        people, query_crops, gallery_crops = self.ranks.shape
        return SingleShotRecord(
            metrics=estimates(self.values, self.seed),
            people=people,
            query_crops=query_crops,
            gallery_crops=gallery_crops,
        )


class Trials:
    """Reads all single-shot trials from blocks of distances that pass by.

    Args:
        trials: (query rows `[n]`, gallery rows `[n]`) of every trial, the same people in the same order, such as
            `glimpse.data.protocol.single_shot` gives. Ties inside a trial are broken by that order.

    Raises:
        DataError: there are no trials, or they are not all combinations of query rows and gallery rows.

    >>> import torch
    >>> trials = Trials([(np.array([0, 1]), np.array([0, 2])), (np.array([0, 1]), np.array([1, 3]))])
    >>> d = torch.tensor([[0.1, 0.5, 0.2, 0.6], [0.3, 0.3, 0.4, 0.1]])
    >>> _ = list(trials.watch([(slice(0, 2), d)]))
    >>> trials.result().ranks[:, 0].tolist()
    [[1, 1], [2, 1]]
    """

    def __init__(self, trials: Iterable[tuple[Indices, Indices]]) -> None:
        probes: dict[bytes, Indices] = {}
        targets: dict[bytes, Indices] = {}
        seen: set[tuple[bytes, bytes]] = set()
        for probe, target in trials:
            probes[probe.tobytes()], targets[target.tobytes()] = probe, target
            seen.add((probe.tobytes(), target.tobytes()))
        if (
            not seen
            or len(seen) != len(probes) * len(targets)
            or len({len(x) for x in (*probes.values(), *targets.values())}) != 1
        ):
            raise DataError(
                "single-shot trials",
                "are not all combinations of probe and gallery crops",
                "give one per person and side",
            )
        self._targets = np.stack(list(targets.values()), axis=1)  # [people, b]
        self._place: dict[int, list[tuple[int, int]]] = {}
        for shot, probe in enumerate(probes.values()):
            for person, row in enumerate(probe.tolist()):
                self._place.setdefault(row, []).append((person, shot))
        self._ranks = np.zeros((len(self._targets), len(probes), len(targets)), np.int64)

    def watch(self, rows: Iterable[tuple[slice, Tensor]]) -> Iterator[tuple[slice, Tensor]]:
        """Pass blocks of distances `[rows, g]` on unchanged, and note what the trials need of them."""
        for block, distances in rows:
            host = distances.float().cpu().numpy()
            for query, row in enumerate(host, start=block.start):
                for person, shot in self._place.get(query, ()):
                    crops = row[self._targets]
                    own = crops[person]
                    ahead = (crops < own).sum(axis=0) + (crops[:person] == own).sum(axis=0)
                    self._ranks[person, shot] = 1 + ahead
            yield block, distances

    def result(self, seed: int = 0) -> SingleShot:
        """The ranks of all trials, once all distances have passed.

        Raises:
            EmbeddingError: distances of some queries did not pass.
        """
        if not self._ranks.all():
            raise EmbeddingError("distance", "rows of distances are missing", "give one row per query")
        return SingleShot(self._ranks.copy(), seed)
