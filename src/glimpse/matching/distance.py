"""The contract of a distance, and what it says of one pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from glimpse.embedding import Embedding


@dataclass(frozen=True, slots=True)
class PartMatch:
    """How one part took part in the distance of one pair.

    Attributes:
        name: name of the part, such as `strip 1` or `global`.
        distance: distance of the part alone; `None` where it could not be compared.
        query_weight: weight of the part in the query, in [0, 1].
        gallery_weight: weight of the part in the gallery crop, in [0, 1].
        share: how much of the distance hangs on this part; shares of a pair sum to 1 (all 0 if nothing is shared).
    """

    name: str
    distance: float | None
    query_weight: float
    gallery_weight: float
    share: float

    @property
    def compared(self) -> bool:
        """Whether both crops show the part."""
        return self.distance is not None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The distance of one pair and the parts it is made of."""

    distance: float
    parts: tuple[PartMatch, ...]


@runtime_checkable
class Distance(Protocol):
    """Compares crops by their embeddings. Smaller is closer; results are float32.

    `matrix` and `candidates` agree to 1e-5, and no result depends on how a gallery is cut into blocks.
    """

    def prepare(self, embedding: Embedding) -> Embedding:
        """Do once per row what needs no partner. `prepare(prepare(e))` equals `prepare(e)`; all other
        methods take prepared and unprepared embeddings alike."""
        ...

    def matrix(self, query: Embedding, gallery: Embedding) -> Tensor:
        """Distances of all pairs, `[q, g]`."""
        ...

    def candidates(self, query: Embedding, gallery: Embedding, index: Tensor) -> Tensor:
        """Distances of query i and gallery rows `index[i]` (`[q, n]` int64), `[q, n]`."""
        ...

    def explain(self, query: Embedding, gallery: Embedding) -> Explanation:
        """The distance of two crops (one row each), part by part."""
        ...

    def shortlist_vectors(self, embedding: Embedding) -> Tensor:
        """Vectors `[n, d]` whose inner product shortlists for this distance, so that any vector index can serve it."""
        ...
