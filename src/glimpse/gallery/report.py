"""A search of a gallery as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glimpse.data.words import count
from glimpse.gallery.answers import Answer, Found, shown_time
from glimpse.search.report import write_lists
from glimpse.templates.page import RankedList, Region, draw_hit, draw_query


def write_report(
    path: str | Path, answers: Sequence[Answer], regions: Sequence[tuple[str, Region]], *, command: str = ""
) -> None:
    """Write ranked lists with their part weights to one HTML file that loads nothing, whole or not at all.

    Args:
        path: the file.
        answers: searches that were asked for with `pictures`, in one gallery.
        regions: where each part lies in a crop, as `Model.regions`.
        command: the command line that made it, to be shown.
    """
    first = answers[0]
    parts = [part for answer in answers for hit in answer for part in hit.parts]
    of = "; ".join(f"{key.replace('_', ' ')} {_said(key, value)}" for key, value in first.where.items())
    write_lists(
        path,
        [ranked_list(answer, regions) for answer in answers],
        name=Path(first.query[0]).name if len(answers) == 1 else f"{len(answers)} queries",
        facts=[
            ("weights", first.made_by),
            ("gallery", f"{first.gallery} ({count(first.searched, 'crop')} compared, {first.mode})"),
            *([("of", of)] if of else []),
            *([("command", command)] if command else []),
        ],
        notes=list(dict.fromkeys(note for answer in answers for note in answer.notes)),
        learned=any(part.gallery_weight < 0.999 for part in parts),
    )


def ranked_list(answer: Answer, regions: Sequence[tuple[str, Region]], title: str = "") -> RankedList:
    """What a page draws of a search."""
    hits = tuple(
        draw_hit(
            hit.rank, hit.crop.name, hit.picture, hit.distance, hit.parts, regions,
            label=_label(hit), reranked=hit.reranked,
        )
        for hit in answer
    )  # fmt: skip
    box = answer.visible if isinstance(answer.visible, tuple) else None
    query = draw_query(", ".join(answer.query), answer.image, hits, regions, box=box)
    return RankedList(title or Path(answer.query[0]).name, query, hits)


def _label(hit: Found) -> str:
    """Person, camera and time of a hit, and for how many it stands."""
    crop = hit.crop
    known = (
        (crop.pid, f"person {crop.pid}"),
        (crop.camera, f"camera {crop.camera}"),
        (crop.time, "" if crop.time is None else f"time {shown_time(crop.time)}"),
        (hit.group, count(hit.crops_in_group, "crop")),
    )
    return ", ".join(words for value, words in known if value is not None)


def _said(key: str, value: object) -> str:
    if isinstance(value, float):
        return shown_time(value)
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
