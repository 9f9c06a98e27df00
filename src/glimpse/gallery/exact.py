"""Exact search: every crop that fits is compared, in blocks as they come from the disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, EmbeddingError
from glimpse.gallery.fields import Field, read_by, to_embedding
from glimpse.gallery.table import Table
from glimpse.matching.cascade import Cascade, smallest
from glimpse.matching.distance import Distance

BLOCK = 8192
"""Rows that are compared at a time."""

Combine = Literal["min", "mean"]
"""How the distances of several crops of one person become one."""


@dataclass(frozen=True)
class Probes:
    """Queries: each is one crop, or several of one person.

    Attributes:
        embedding: `[m]` rows, those of a query side by side.
        sizes: how many rows each query has.
        combine: `min`, the nearest of them counts; or `mean`, by `weights`.
        weights: `[m]`, for `mean`; alike if not given.

    Raises:
        ConfigError: `combine` is neither.
        EmbeddingError: the sizes do not fit the embedding, or the weights do not fit them.
    """

    embedding: Embedding
    sizes: tuple[int, ...]
    combine: Combine = "min"
    weights: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.combine not in ("min", "mean"):
            raise ConfigError("combine", f"'{self.combine}' is not known", "choose min or mean")
        if sum(self.sizes) != len(self.embedding) or not all(size > 0 for size in self.sizes):
            raise EmbeddingError("query", f"has {len(self.embedding)} rows for {self.sizes}", "give one row per crop")
        if self.weights is not None:
            fit = len(self.weights) == len(self.embedding) and bool(
                ((self.weights >= 0) & self.weights.isfinite()).all()
            )
            if not fit or not all(float(each.sum()) > 0 for each in torch.split(self.weights, list(self.sizes))):
                cause = "has weights that are no shares of its crops"
                raise EmbeddingError("query", cause, "give one per crop, none negative and not all 0")

    @staticmethod
    def single(embedding: Embedding) -> Probes:
        """Each row is a query of its own."""
        return Probes(embedding, (1,) * len(embedding))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, which: int) -> Probes:
        start = sum(self.sizes[:which])
        rows = slice(start, start + self.sizes[which])
        weights = None if self.weights is None else self.weights[rows]
        return Probes(self.embedding[rows], (self.sizes[which],), self.combine, weights)

    def prepared(self, distance: Distance) -> Probes:
        """The same with what `distance` makes of a crop once."""
        return Probes(distance.prepare(self.embedding), self.sizes, self.combine, self.weights)

    def readied(self, distance: Distance) -> Probes:
        """The same with that beside what there is already, so that another distance can be made ready too."""
        return Probes(_with(distance, self.embedding), self.sizes, self.combine, self.weights)

    def reduce(self, distances: Tensor) -> Tensor:
        """From the distances of all rows `[m, g]` to those of the queries `[q, g]`."""
        if len(self.sizes) == len(distances):
            return distances
        parts = torch.split(distances, list(self.sizes))
        if self.combine == "min":
            return torch.stack([part.amin(0) for part in parts])
        weights = torch.ones(len(distances)) if self.weights is None else self.weights
        shares = torch.split(weights, list(self.sizes))
        return torch.stack([(w[:, None] * part).sum(0) / w.sum() for w, part in zip(shares, parts, strict=True)])

    def candidates(self, distance: Distance, gallery: Embedding) -> Tensor:
        """Distances of one query to all rows of `gallery` `[n]`, as `Distance.candidates` gives them."""
        index = torch.arange(len(gallery)).expand(len(self.embedding), -1)
        return self.reduce(distance.candidates(self.embedding, gallery, index))[0]


def _with(distance: Distance, embedding: Embedding) -> Embedding:
    """An embedding with what a distance makes of a crop once; distances go on from what they find made."""
    return Embedding({**embedding.tensors, **distance.prepare(embedding).tensors}, embedding.made_by)


@dataclass(frozen=True, slots=True)
class Ranked:
    """The nearest rows of one query, nearest first; equal ones in the order of the gallery.

    Attributes:
        distance: `[k]` float32.
        row_ids: `[k]`.
        reranked: how many of the first were placed by the fine distance of a cascade; the distances of the others are
            the coarse one's.
    """

    distance: npt.NDArray[np.float32]
    row_ids: npt.NDArray[np.int64]
    reranked: int = 0

    def __len__(self) -> int:
        return len(self.row_ids)


Fetch = Callable[[npt.NDArray[np.int64], Sequence[Field]], Embedding]
"""Gives the fields of rows."""


class Near(NamedTuple):
    """The rows nearest to each query among those that were looked at.

    Attributes:
        values: their distances `[q, n]`, ascending; equal ones in the order of their rows.
        rows: their numbers `[q, n]`.
    """

    values: Tensor
    rows: Tensor

    @staticmethod
    def nothing(queries: int) -> Near:
        """Before anything was looked at."""
        return Near(torch.empty(queries, 0), torch.empty(queries, 0, dtype=torch.int64))

    def joined(self, others: Near, keep: int) -> Near:
        """The nearest `keep` of these and of others."""
        values, rows = torch.cat([self.values, others.values], 1), torch.cat([self.rows, others.rows], 1)
        # Rows that were changed lie behind newer ones in the table, and yet come before them where they tie.
        if self.rows.numel() and others.rows.numel() and int(others.rows.min()) < int(self.rows.max()):
            rows, order = rows.sort(1)
            values = values.gather(1, order)
        values, order = smallest(values, keep)
        return Near(values, rows.gather(1, order))


def search_exactly(
    table: Table,
    fields: Sequence[Field],
    made_by: str,
    distance: Distance,
    probes: Probes,
    depth: int,
    where: str = "",
) -> list[Ranked]:
    """The nearest `depth` rows of each query among all that fit.

    It holds one block of `BLOCK` rows with its distances, some blocks that are read ahead, and the best so far:
    memory does not grow with the gallery.

    Args:
        table: the crops.
        fields, made_by: what their embedding is.
        distance: any.
        probes: the queries.
        depth: how many.
        where: condition on the crops.
    """

    def search() -> list[Ranked]:
        near = scan(table, fields, made_by, coarse_of(distance), probes, kept(distance, depth), where)
        return ranked(table, fields, made_by, distance, probes, near, depth)

    return table.steady(search)


def coarse_of(distance: Distance) -> Distance:
    """The distance that ranks everything: that of a cascade is its coarse one."""
    return distance.coarse if isinstance(distance, Cascade) else distance


def kept(distance: Distance, depth: int) -> int:
    """How many rows a scan has to keep, so that the nearest `depth` by `distance` are among them."""
    return (max(depth, distance.n) if isinstance(distance, Cascade) else depth) + SPARE


def scan(
    table: Table,
    fields: Sequence[Field],
    made_by: str,
    coarse: Distance,
    probes: Probes,
    keep: int,
    where: str = "",
    fragments: Sequence[int] | None = None,
) -> Near:
    """The nearest `keep` rows of each query by `coarse`, of the whole table or of some of its fragments.

    What it finds in parts of a table, joined, is what it finds in the whole.
    """
    read = read_by(coarse, tuple(fields))
    probes = probes.prepared(coarse)
    found = Near.nothing(len(probes))
    for block in table.blocks([each.column for each in read], where, rows=BLOCK, fragments=fragments):
        gallery = coarse.prepare(to_embedding(block, read, made_by))
        distances = probes.reduce(coarse.matrix(probes.embedding, gallery))
        numbers = torch.from_numpy(block.column("_rowid").to_numpy().astype(np.int64))
        if not bool((numbers[1:] > numbers[:-1]).all()):
            numbers, order = numbers.sort()
            distances = distances[:, order]
        values, index = smallest(distances, keep)
        found = found.joined(Near(values, numbers[index]), keep)
    return found


SPARE = 16
"""More rows than are wanted are kept while scanning, as products of other blocks round otherwise."""


def ranked(
    table: Table,
    fields: Sequence[Field],
    made_by: str,
    distance: Distance,
    probes: Probes,
    near: Near,
    depth: int,
) -> list[Ranked]:
    """The nearest `depth` rows of each query by the whole distance, among those that a scan kept."""

    def fetch(rows: npt.NDArray[np.int64], some: Sequence[Field]) -> Embedding:
        return to_embedding(table.take(rows, [each.column for each in some]), some, made_by)

    return [finish(fetch, fields, distance, probes[i], rows.numpy(), depth) for i, rows in enumerate(near.rows)]


def finish(
    fetch: Fetch,
    fields: Sequence[Field],
    distance: Distance,
    probe: Probes,
    rows: npt.NDArray[np.int64],
    depth: int,
) -> Ranked:
    """The order of some rows by the whole distance, from their stored embeddings: the same however they were found.

    Args:
        fetch: gives the fields of rows.
        fields: of the embedding.
        distance: any.
        probe: one query.
        rows: that may be the nearest.
        depth: how many to give.
    """
    rows = np.unique(rows)
    coarse = coarse_of(distance)
    if not len(rows):
        return Ranked(np.zeros(0, np.float32), rows)
    read = read_by(coarse, tuple(fields))
    held = _with(coarse, fetch(rows, read))
    probe = probe.readied(coarse)
    values = probe.candidates(coarse, held)
    order = values.sort(stable=True).indices
    values, rows = values[order], rows[order.numpy()]
    if not isinstance(distance, Cascade):
        return Ranked(values[:depth].numpy(), rows[:depth])
    places = order[: distance.n].sort().values
    held, near = held[places], np.sort(rows[: distance.n])
    fine = distance.fine
    more = [each for each in read_by(fine, tuple(fields)) if each not in read]
    if more:
        held = Embedding({**held.tensors, **fetch(near, more).tensors}, held.made_by)
    exact = probe.readied(fine).candidates(fine, held)
    order = exact.clamp(max=fine.farthest).sort(stable=True).indices
    head, tail = slice(0, min(depth, len(near))), slice(len(near), max(depth, len(near)))
    return Ranked(
        torch.cat([exact[order][head], values[tail]]).numpy(),
        np.concatenate([near[order.numpy()][head], rows[tail]]),
        reranked=min(depth, len(near)),
    )
