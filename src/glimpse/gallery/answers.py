"""What a search of a gallery answers: hits, nearest first, with what is known of them and the parts they hang on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, overload

from PIL import Image
from pydantic import Field

from glimpse.data.visible import Box, Mask
from glimpse.gallery.rows import Crop
from glimpse.matching.distance import PartMatch
from glimpse.records import Record
from glimpse.search.records import PartRecord


class FoundRecord(Record):
    """One hit."""

    rank: int = Field(ge=1, description="1 is the nearest")
    distance: float = Field(description="distance to the query; smaller is closer")
    reranked: bool = Field(description="whether a fine distance, on a scale of its own, placed the hit")
    crop: Crop
    group: str | None = Field(description="person or track whose nearest crop this is, where hits are grouped")
    crops_in_group: int = Field(ge=1, description="how many of the crops that were ranked are of the group")
    parts: list[PartRecord]


class AnswerRecord(Record):
    """A search of a gallery."""

    format: Literal["glimpse-gallery-search-1"] = "glimpse-gallery-search-1"
    query: list[str] = Field(description="the crops of the one person looked for")
    visible: tuple[float, float, float, float] | Literal["mask"] | None = Field(
        description="the prompt: x0, y0, x1, y1 in pixels of the first query, `mask`, or null"
    )
    weights: str = Field(description="name and hash of the weights")
    gallery: str
    searched: int = Field(ge=0, description="crops that were compared: those that fit the filter")
    where: dict[str, object] = Field(description="the filter: what was given of it")
    mode: Literal["exact", "fast"]
    skipped: int = Field(ge=0, description="nearer hits that were left out, for another page")
    notes: list[str]
    hits: list[FoundRecord]


@dataclass(frozen=True, slots=True)
class Found:
    """One hit.

    Attributes:
        rank: 1 is the nearest.
        crop: what is known of it.
        row_id: its row of the table.
        distance: to the query, smaller is closer.
        parts: what each part said of the pair; empty where explanations were not asked for.
        reranked: whether the fine distance of a cascade, or re-ranking, placed it; the distances of the others are on
            another scale.
        group: the person or track that it stands for, where hits are grouped and it has one.
        crops_in_group: how many crops of the group were among those ranked.
        picture: its thumbnail, or what its source shows.
    """

    rank: int
    crop: Crop
    row_id: int
    distance: float
    parts: tuple[PartMatch, ...] = field(default=(), repr=False)
    reranked: bool = False
    group: str | None = None
    crops_in_group: int = 1
    picture: Image.Image | None = field(default=None, repr=False, compare=False)

    @property
    def not_compared(self) -> tuple[str, ...]:
        """Names of the parts that query and crop do not both show."""
        return tuple(part.name for part in self.parts if not part.compared)


@dataclass(frozen=True, slots=True)
class Answer:
    """The hits of one search, nearest first; iterable, with a length, indexable.

    Attributes:
        query: what the crops of the person looked for are called.
        hits: nearest first.
        made_by: name and hash of the weights.
        gallery: its folder or address.
        searched: crops that were compared: those that fit the filter.
        mode: `exact` or `fast`.
        where: the filter, what was given of it.
        skipped: nearer hits that were left out, for another page.
        seconds: that the search took, without embedding the query.
        notes: what the reader should know.
        image: the first query crop; of a crop of the gallery only where `pictures` were asked for.
        visible: its prompt.
    """

    query: tuple[str, ...]
    hits: tuple[Found, ...] = field(repr=False)
    made_by: str
    gallery: str
    searched: int
    mode: Literal["exact", "fast"]
    where: dict[str, object]
    skipped: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    image: Image.Image | None = field(default=None, repr=False, compare=False)
    visible: Box | Mask | None = field(default=None, repr=False, compare=False)

    def __iter__(self) -> Iterator[Found]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, index: int) -> Found: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Found, ...]: ...
    def __getitem__(self, index: int | slice) -> Found | tuple[Found, ...]:
        return self.hits[index]

    def record(self) -> AnswerRecord:
        """What goes into JSON."""
        return AnswerRecord(
            query=list(self.query),
            visible=self.visible if isinstance(self.visible, tuple) or self.visible is None else "mask",
            weights=self.made_by,
            gallery=self.gallery,
            searched=self.searched,
            where=self.where,
            mode=self.mode,
            skipped=self.skipped,
            notes=list(self.notes),
            hits=[FoundRecord.model_validate(hit) for hit in self.hits],
        )

    def to_json(self) -> str:
        """JSON text that fits `docs/gallery-search.schema.json`."""
        return self.record().model_dump_json(indent=1) + "\n"


def schema() -> str:
    """JSON schema of `AnswerRecord`, as `docs/gallery-search.schema.json` holds it."""
    return AnswerRecord.schema_text()


_DATES = range(100_000_000, 250_000_000_000)
"""Seconds that are taken for time since 1970: later than a clock that began with a video, and within the calendar."""


def shown_time(seconds: float) -> str:
    """A time for people, in a form that commands take: a date in the time of this machine, or seconds.

    >>> shown_time(12.5), shown_time(86400), shown_time(1795284000.25)[:3]
    ('12.5', '86400', '202')
    """
    if _DATES.start <= seconds < _DATES.stop:
        return datetime.fromtimestamp(round(seconds, 3)).isoformat(timespec="auto")
    return f"{seconds:.3f}".rstrip("0").rstrip(".")
