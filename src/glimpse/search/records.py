"""What a search writes as JSON: pydantic models, unknown keys forbidden."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from glimpse.records import Record


class PartRecord(Record):
    """What one part said of a pair."""

    name: str
    compared: bool = Field(description="whether both crops show the part")
    distance: float | None = Field(description="distance of the part alone; null where it was not compared")
    query_weight: float = Field(ge=0, description="weight of the part in the query, up to 1")
    gallery_weight: float = Field(ge=0, description="weight of the part in the gallery crop, up to 1")
    share: float = Field(ge=0, description="how much of the distance hangs on this part; shares sum to 1, or to 0")


class HitRecord(Record):
    """One gallery crop in a ranked list."""

    rank: int = Field(ge=1, description="1 is the nearest")
    path: str
    distance: float = Field(description="distance to the query; smaller is closer")
    reranked: bool = Field(
        description="whether the fine distance of a cascade placed the hit; the others' are the coarse one's, on "
        "another scale"
    )
    parts: list[PartRecord]


class SearchRecord(Record):
    """The hits of one query, nearest first."""

    format: Literal["glimpse-search-1"] = "glimpse-search-1"
    query: str = Field(description="path of the query, or `query` for an image that has none")
    visible: tuple[float, float, float, float] | Literal["mask"] | None = Field(
        description="the prompt: x0, y0, x1, y1 in pixels of the query, `mask`, or null where none was given"
    )
    weights: str = Field(description="name and hash of the weights")
    gallery: str = Field(description="what was searched")
    gallery_size: int = Field(ge=1, description="crops that were compared")
    notes: list[str] = Field(description="what the reader should know")
    skipped: list[str] = Field(description="gallery crops that could not be read")
    hits: list[HitRecord]


def schema() -> str:
    """JSON schema of `SearchRecord`, as `docs/search.schema.json` holds it."""
    return SearchRecord.schema_text()
