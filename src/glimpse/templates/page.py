"""What a page draws: crops with their part weights, ranked lists, and the page around them.

A page is one file: styles and pictures are inside it, and it needs no script and no network.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image

from glimpse.matching.distance import PartMatch

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the crop."""
Region = tuple[float, float, float, float]
"""x0, y0, x1, y1 relative to the crop, in [0, 1]."""

_THUMBNAIL = 256  # Largest side of an embedded picture in pixels; crops are small, so most are embedded as they are.


class Verdict(Enum):
    """What the labels say of a hit; each has a sign and a word, so that nothing hangs on colour."""

    RIGHT = "right"
    WRONG = "wrong"
    IGNORED = "ignored"
    UNKNOWN = "unknown"

    @property
    def sign(self) -> str:
        """A tick, a cross, a circle, or nothing."""
        return {"right": "✓", "wrong": "✗", "ignored": "○", "unknown": ""}[self.value]

    @property
    def words(self) -> str:
        """The verdict in words."""
        return {
            "right": "same person",
            "wrong": "another person",
            "ignored": "not counted",
            "unknown": "not labelled",
        }[self.value]


@dataclass(frozen=True, slots=True)
class Bar:
    """The weight of one part, drawn where the part lies.

    Attributes:
        name: name of the part.
        left: left edge in percent of the crop; `top`, `width` and `height` likewise.
        top: upper edge.
        width: width.
        height: height.
        weight: in [0, 1].
        compared: whether the pair shares the part.
        beside: whether the number stands beside the crop at the part's height, or in a line below it.
    """

    name: str
    left: float
    top: float
    width: float
    height: float
    weight: float
    compared: bool
    beside: bool

    @property
    def veil(self) -> float:
        """How much the part is veiled: not at all from weight 0.3 up, strongly with weight 0."""
        hidden = 1 - min(max(self.weight, 0.0), 0.3) / 0.3  # learned weights of clear crops lie well below 1
        return round(0.6 * hidden**1.5, 3) if self.beside else 0.0


@dataclass(frozen=True, slots=True)
class Crop:
    """A picture with part weights.

    Attributes:
        path: what to call it.
        picture: a `data:` address, or `None` where the crop cannot be shown.
        bars: its parts.
        label: a few words below it, such as person and camera.
        box: the prompt, relative to the crop.
    """

    path: str
    picture: str | None = field(repr=False)
    bars: tuple[Bar, ...] = field(default=(), repr=False)
    label: str = ""
    box: Region | None = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class RankedHit:
    """A crop in a ranked list; one that the protocol does not count has no rank."""

    rank: int | None
    crop: Crop
    distance: float
    parts: tuple[PartMatch, ...] = field(repr=False)
    verdict: Verdict = Verdict.UNKNOWN
    reranked: bool = False


@dataclass(frozen=True, slots=True)
class RankedList:
    """A query and its hits, nearest first.

    Attributes:
        title: heading of the list.
        query: the query crop.
        hits: nearest first.
        summary: a line below the heading, such as the average precision.
    """

    title: str
    query: Crop
    hits: tuple[RankedHit, ...] = field(repr=False)
    summary: str = ""

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the parts, as the columns of its table."""
        return tuple(part.name for part in self.hits[0].parts) if self.hits else ()

    @property
    def two_scales(self) -> bool:
        """Whether a cascade re-ranked some hits and not others."""
        return len({hit.reranked for hit in self.hits}) == 2


def draw_query(
    path: str,
    image: Image.Image | None,
    hits: Sequence[RankedHit],
    regions: Sequence[tuple[str, Region]],
    *,
    label: str = "",
    box: Box | None = None,
) -> Crop:
    """The query of a ranked list, with its part weights as its nearest hit met them.

    Args:
        path: what to call it.
        image: the crop, or `None` where it cannot be shown.
        hits: its hits.
        regions: where each part lies in a crop.
        label: a few words below it.
        box: the prompt in pixels of the crop.
    """
    weights = {part.name: part.query_weight for part in hits[0].parts} if hits else {}
    relative = None
    if box is not None and image is not None:
        relative = box[0] / image.width, box[1] / image.height, box[2] / image.width, box[3] / image.height
    return Crop(path, None if image is None else picture(image), bars(regions, weights), label, relative)


def draw_hit(
    rank: int | None,
    path: str,
    image: Image.Image | None,
    distance: float,
    parts: Sequence[PartMatch],
    regions: Sequence[tuple[str, Region]],
    *,
    verdict: Verdict = Verdict.UNKNOWN,
    label: str = "",
    reranked: bool = False,
) -> RankedHit:
    """A hit of a ranked list, with its part weights."""
    weights = {part.name: part.gallery_weight for part in parts}
    compared = {part.name: part.compared for part in parts}
    crop = Crop(path, None if image is None else picture(image), bars(regions, weights, compared), label)
    return RankedHit(rank, crop, distance, tuple(parts), verdict, reranked)


def bars(
    regions: Sequence[tuple[str, Region]], weights: Mapping[str, float], compared: Mapping[str, bool] | None = None
) -> tuple[Bar, ...]:
    """Bars for the parts of a crop; a part without a region or without a weight has none.

    A part whose height overlaps that of an earlier one (such as a global part) has its number below the crop.

    >>> strips = [("upper", (0, 0, 1, 0.5)), ("lower", (0, 0.5, 1, 1)), ("global", (0, 0, 1, 1))]
    >>> [(b.name, b.top, b.height, b.beside) for b in bars(strips, {"upper": 1, "lower": 0, "global": 1})]
    [('upper', 0, 50.0, True), ('lower', 50.0, 50.0, True), ('global', 0, 100, False)]
    """
    drawn: list[Bar] = []
    for name, (x0, y0, x1, y1) in regions:
        if name not in weights:
            continue
        top, height = 100 * y0, 100 * (y1 - y0)
        clash = any(bar.beside and top < bar.top + bar.height - 1e-6 and bar.top < top + height - 1e-6 for bar in drawn)
        whole = y1 - y0 > 0.99 and len(regions) > 1
        shared = True if compared is None else compared.get(name, True)
        drawn.append(
            Bar(name, 100 * x0, top, 100 * (x1 - x0), height, float(weights[name]), shared, not (clash or whole))
        )
    return tuple(drawn)


def picture(image: Image.Image) -> str:
    """A crop as a `data:` address (JPEG, at most 256 pixels on its longer side)."""
    small = image.convert("RGB")
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def render(template: str, context: Mapping[str, Any]) -> str:
    """A page from a template of this folder; every value is escaped, and a missing one is an error."""
    environment = Environment(
        loader=PackageLoader("glimpse", "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["distance"] = _distance
    return environment.get_template(template).render(context)


def _distance(value: float | None) -> str:
    """A distance with three decimals; infinity and none in signs."""
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) != float("inf") else "∞"
