"""A search as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image

from glimpse import __version__
from glimpse.data.images import read_image
from glimpse.data.words import count
from glimpse.errors import DataError
from glimpse.files import write_text
from glimpse.search.hits import Hit, SearchResult
from glimpse.templates.page import RankedList, Region, draw_hit, draw_query, render


def write_report(
    path: str | Path, results: Sequence[SearchResult], regions: Sequence[tuple[str, Region]], *, command: str = ""
) -> None:
    """Write ranked lists with their part weights to one HTML file that loads nothing, whole or not at all.

    Args:
        path: the file.
        results: the searches, made with the same weights.
        regions: where each part lies in a crop, as `Model.regions`.
        command: the command line that made it, to be shown.
    """
    first = results[0]
    write_lists(
        path,
        [ranked_list(result, regions) for result in results],
        name=Path(first.query).name if len(results) == 1 else f"{len(results)} queries",
        facts=[
            ("weights", first.made_by),
            ("gallery", f"{first.gallery} ({count(first.gallery_size, 'crop')})"),
            *([("command", command)] if command else []),
        ],
        notes=list(dict.fromkeys(note for result in results for note in result.notes)),
        # Nothing is prompted in a gallery: what is not 1 there is learned.
        learned=any(part.gallery_weight < 0.999 for result in results for hit in result for part in hit.parts),
    )


def write_lists(
    path: str | Path,
    lists: Sequence[RankedList],
    *,
    name: str,
    facts: Sequence[tuple[str, str]],
    notes: Sequence[str],
    learned: bool,
) -> None:
    """Write ranked lists to one HTML file that loads nothing, whole or not at all.

    Args:
        path: the file.
        lists: what `ranked_list` makes of searches.
        name: of what was searched for.
        facts: what is said of the search, by name.
        notes: what the reader should know.
        learned: whether weights of gallery crops say something.
    """
    html = render(
        "search.html",
        {
            "title": f"Search for {name}",
            "lead": "Smaller distances are closer. Only parts that both crops show are compared.",
            "version": __version__,
            "made_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "facts": facts,
            "notes": notes,
            "lists": lists,
            "learned": learned,
            "opened": len(lists) == 1,
        },
    )
    write_text(path, html)


def ranked_list(result: SearchResult, regions: Sequence[tuple[str, Region]], title: str = "") -> RankedList:
    """What a page draws of a search."""
    hits = tuple(
        draw_hit(hit.rank, hit.path, _image(hit), hit.distance, hit.parts, regions, reranked=hit.reranked)
        for hit in result
    )
    box = result.visible if isinstance(result.visible, tuple) else None
    query = draw_query(result.query, result.image, hits, regions, box=box)
    return RankedList(title or Path(result.query).name, query, hits)


def _image(hit: Hit) -> Image.Image | None:
    """The crop, or `None` where it can no longer be read (a stored gallery may outlive its crops)."""
    try:
        return read_image(hit.sample)
    except DataError:
        return None
