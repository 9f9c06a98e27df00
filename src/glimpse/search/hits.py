"""What a search answers: hits, nearest first, each with the parts it hangs on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import overload

from PIL import Image

from glimpse.data.samples import Sample
from glimpse.data.visible import Box, Mask
from glimpse.errors import DataError
from glimpse.matching.distance import PartMatch
from glimpse.search.records import HitRecord, SearchRecord


@dataclass(frozen=True, slots=True)
class Hit:
    """One gallery crop in a ranked list.

    Attributes:
        rank: 1 is the nearest.
        sample: the gallery crop.
        distance: distance to the query, smaller is closer.
        parts: what each part said of the pair; a part that one of the two does not show was not compared.
        reranked: whether the fine distance of a cascade placed the hit. The distances of its other hits are those of
            the coarse one, on another scale, while their parts are still those of the fine one.
    """

    rank: int
    sample: Sample = field(repr=False)
    distance: float
    parts: tuple[PartMatch, ...] = field(repr=False)
    reranked: bool = False

    @property
    def path(self) -> str:
        """Path of the gallery crop."""
        return self.sample.path

    @property
    def not_compared(self) -> tuple[str, ...]:
        """Names of the parts that query and crop do not both show."""
        return tuple(part.name for part in self.parts if not part.compared)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The hits of one query, nearest first; iterable, with a length, indexable.

    Attributes:
        query: path of the query, or `query` for an image that has none.
        hits: nearest first.
        made_by: name and hash of the weights.
        gallery: what was searched, in words.
        gallery_size: crops that were compared.
        notes: what the reader of the result should know, such as crops that were left out.
        skipped: gallery crops that could not be read (with `skip_bad`).
        image: the query crop.
        visible: the prompt, as `read_visible` gives it.
    """

    query: str
    hits: tuple[Hit, ...] = field(repr=False)
    made_by: str
    gallery: str
    gallery_size: int
    notes: tuple[str, ...] = ()
    skipped: tuple[DataError, ...] = ()
    image: Image.Image | None = field(default=None, repr=False, compare=False)
    visible: Box | Mask | None = field(default=None, repr=False, compare=False)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]

    def record(self) -> SearchRecord:
        """What goes into JSON."""
        return SearchRecord(
            query=self.query,
            visible=self.visible if isinstance(self.visible, tuple) or self.visible is None else "mask",
            weights=self.made_by,
            gallery=self.gallery,
            gallery_size=self.gallery_size,
            notes=list(self.notes),
            skipped=[error.where for error in self.skipped],
            hits=[HitRecord.model_validate(hit) for hit in self.hits],
        )

    def to_json(self) -> str:
        """JSON text that fits `docs/search.schema.json`."""
        return self.record().model_dump_json(indent=1) + "\n"
