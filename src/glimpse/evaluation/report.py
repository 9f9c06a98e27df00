"""An evaluation as one HTML page: numbers, protocol, how it was made, and ranked lists with part weights."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from glimpse.data.images import read_image
from glimpse.data.samples import Sample
from glimpse.data.words import count
from glimpse.errors import ConfigError, DataError
from glimpse.evaluation.records import Estimate, Metrics
from glimpse.evaluation.robustness import METRICS, Robustness
from glimpse.evaluation.runner import Report
from glimpse.files import write_text
from glimpse.matching.cascade import Cascade
from glimpse.matching.ranking import top_k
from glimpse.templates.page import RankedHit, RankedList, Verdict, draw_hit, draw_query, render

QUERIES = 24
"""How many ranked lists a page shows unless told otherwise."""
HITS = 10
"""How many counted hits a ranked list shows unless told otherwise."""


def write_report(
    folder: str | Path,
    reports: Sequence[Report],
    *,
    queries: int = QUERIES,
    hits: int = HITS,
    searches: Sequence[RankedList] = (),
    title: str = "",
) -> Path:
    """Write `index.html` and the results as JSON to a folder, each file whole or not at all.

    The page loads nothing: styles and pictures are inside it. It compares several reports in one table; the ranked
    lists are those of the first one. Pages hold pictures of the dataset: its terms hold for them too.

    Args:
        folder: where to write; made if it is not there.
        reports: one evaluation or several on the same dataset.
        queries: how many ranked lists to show: half of them drawn at random, half those with the lowest AP.
        hits: how many counted hits of each list to show; crops that the protocol ignores come on top of that.
        searches: further ranked lists, shown first.
        title: heading of the page.

    Returns:
        The path of `index.html`.

    Raises:
        ConfigError: there is no report, or the folder cannot be written to.
    """
    if not reports:
        raise ConfigError("reports", "there is none", "give at least one")
    folder = Path(folder)
    names = ["result.json"] if len(reports) == 1 else [f"result-{i + 1}-{r.method}.json" for i, r in enumerate(reports)]
    html = render_report(reports, queries=queries, hits=hits, searches=searches, title=title)
    for name, report in zip(names, reports, strict=True):
        write_text(folder / name, report.to_json())
    write_text(folder / "index.html", html)
    return folder / "index.html"


def render_report(
    reports: Sequence[Report],
    *,
    queries: int = QUERIES,
    hits: int = HITS,
    searches: Sequence[RankedList] = (),
    title: str = "",
) -> str:
    """The page of `write_report` as text."""
    # Once for all lists; explaining and ranking take prepared embeddings as well.
    first = replace(reports[0], gallery=reports[0].distance.prepare(reports[0].gallery))
    random, hardest = _chosen(first, queries)
    shown = [(r.made_by if len(reports) > 1 else "", r) for r in reports]
    return render(
        "evaluation.html",
        {
            "title": title or f"{first.made_by} on {first.dataset.name}",
            "lead": f"{count(first.protocol.queries, 'query', 'queries')}, "
            f"{count(first.protocol.gallery, 'gallery crop')}. "
            "Intervals are 95 %, bootstrapped over queries.",
            "version": first.version,
            "made_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "tiles": _tiles(first),
            "rows": [row for name, report in shown for row in _rows(name, report)],
            "several": len(reports) > 1,
            "sides": [grid for name, report in shown for grid in _grids(name, report)],
            "chart": _chart(shown),
            "areas": [row for name, report in shown for row in _areas(name, report)],
            "protocol": first.dataset.protocol.name,
            "notes": first.notes,
            "quality": [(r.made_by, r.quality) for r in reports if r.quality is not None],
            "facts": [_facts(report) for report in reports],
            "names": [report.made_by for report in reports],
            "searches": list(searches),
            "random": [ranked_list(first, row, hits) for row in random],
            "hardest": [ranked_list(first, row, hits) for row in hardest],
            "seed": first.seed,
            "opened": False,
            "learned": any(_learned(report) for report in reports),
        },
    )


def ranked_list(report: Report, query: int, hits: int = HITS) -> RankedList:
    """The ranked list of one query for a page, with the crops that the protocol ignores in their places, greyed.

    Args:
        report: the evaluation.
        query: row of `report.dataset.query`.
        hits: how many counted hits to show.
    """
    sample = report.dataset.query[query]
    ignored = set(report.relevance.ignored(query).tolist())
    right = set(report.relevance.matches(query).tolist())
    one = report.query[query]
    k = min(hits + len(ignored), len(report.dataset.gallery))
    ranking = top_k(report.distance, one, report.gallery, k)
    # A cascade puts its coarse block behind the largest fine distance, and ranks by place.
    cascade = report.distance if isinstance(report.distance, Cascade) else None
    drawn: list[RankedHit] = []
    counted = greyed = 0
    for place, (row, distance) in enumerate(zip(ranking.index[0].tolist(), ranking.distance[0].tolist(), strict=True)):
        left_out = row in ignored
        if counted == hits:
            break
        if left_out and greyed == hits:  # enough to show the rule; a query may have hundreds
            continue
        counted, greyed = counted + (not left_out), greyed + left_out
        reranked = cascade is not None and place < cascade.n
        if cascade is not None and not reranked:
            distance -= cascade.fine.farthest
        verdict = Verdict.IGNORED if left_out else Verdict.RIGHT if row in right else Verdict.WRONG
        crop = report.dataset.gallery[row]
        drawn.append(
            draw_hit(
                None if left_out else counted,
                crop.path,
                _image(crop),
                distance,
                report.distance.explain(one, report.gallery[row]).parts,
                report.regions,
                verdict=verdict,
                label=_label(crop),
                reranked=reranked,
            )
        )
    drawn_query = draw_query(
        sample.path, _image(sample), drawn, report.regions, label=_label(sample), box=report.prompts.get(query)
    )
    return RankedList(sample.name, drawn_query, tuple(drawn), _summary(report, query))


def _summary(report: Report, query: int) -> str:
    """Rank of the first match and AP of a query."""
    found = np.flatnonzero(report.result.rows == query)
    if not len(found):
        return "not scored: nobody in the gallery counts as a match"
    row = found[0]
    matches = int(report.result.matches[row])
    some = f"{matches} right answers" if matches > 1 else "1 right answer"
    return f"first match at rank {report.result.first[row]}, AP {100 * report.result.ap[row]:.1f} %, {some}"


def _learned(report: Report) -> bool:
    """Whether parts have weights that no prompt gave them."""
    if "weights" not in report.gallery.names:
        return False
    lowest = report.gallery["weights"].flatten(1).amin(1)
    return any(weight < 0.999 for row, weight in enumerate(lowest.tolist()) if row not in report.gallery_prompts)


def _label(sample: Sample) -> str:
    person = {-1: "junk", 0: "distractor"}.get(sample.pid, f"person {sample.pid}")
    return person if sample.camid is None else f"{person} · cam {sample.camid}"


def _image(sample: Sample) -> Image.Image | None:
    """The crop, or `None` where it can no longer be read."""
    try:
        return read_image(sample)
    except DataError:
        return None


def _chosen(report: Report, queries: int) -> tuple[list[int], list[int]]:
    """Rows of scored queries: some at random, and of the others those with the lowest AP."""
    rows, ap = report.result.rows, report.result.ap
    half = min(len(rows), (queries + 1) // 2)
    picked = np.sort(np.random.default_rng(report.seed).permutation(len(rows))[:half])
    others = np.setdiff1d(np.arange(len(rows)), picked)
    worst = others[np.argsort(ap[others], kind="stable")][: queries - half]
    return rows[picked].tolist(), rows[worst].tolist()


def _percent(estimate: Estimate, interval: bool = True) -> tuple[str, str]:
    between = f"{100 * estimate.low:.1f} – {100 * estimate.high:.1f}" if interval else ""
    return f"{100 * estimate.value:.1f}", between


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    """Name, value and interval of the numbers that come first."""
    metrics = report.result.summary.metrics
    wanted = (("rank-1", metrics.rank_1), ("mAP", metrics.map), ("mINP", metrics.minp))
    return [(name, *_percent(estimate)) for name, estimate in wanted]


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the table of numbers; each cell is a value and its interval."""

    model: str
    setting: str
    queries: int
    cells: tuple[tuple[str, str], ...]


def _row(model: str, setting: str, queries: int, metrics: Metrics) -> _Row:
    m = metrics
    values = ((m.rank_1, 1), (m.rank_5, 0), (m.rank_10, 0), (m.map, 1), (m.map_trapezoid, 0), (m.minp, 1))
    return _Row(model, setting, queries, tuple(_percent(estimate, bool(wide)) for estimate, wide in values))


def _rows(name: str, report: Report) -> Iterator[_Row]:
    summary = report.result.summary
    yield _row(name, f"as they are{report.told}", summary.queries, summary.metrics)
    if report.single_shot is not None:
        record = report.single_shot.record()
        trials = record.query_crops * record.gallery_crops
        yield _row(name, f"single-shot, mean of {trials} trials", record.people, record.metrics)
    for suite in report.suites:
        prompt = ", prompted" if suite.prompted else ""
        for fraction in suite.fractions:
            setting = f"{suite.kind} over {100 * fraction:.0f} %{prompt}"
            yield _row(name, setting, len(suite.queries), suite.mean(fraction))


@dataclass(frozen=True, slots=True)
class _Grid:
    """Rank-1 and mAP of covered queries for each side and share."""

    title: str
    fractions: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


def _grids(name: str, report: Report) -> Iterator[_Grid]:
    for suite in report.suites:
        found = {(o.side, o.fraction): o.result.summary.metrics for o in suite}
        rows = tuple(
            (
                side,
                tuple(
                    (_percent(found[side, f].rank_1)[0], _percent(found[side, f].map)[0])
                    for f in suite.fractions
                    if (side, f) in found
                ),
            )
            for side in suite.sides
        )
        title = ", ".join(filter(None, [name, f"covered by {suite.kind}", "prompted" if suite.prompted else ""]))
        yield _Grid(title, tuple(f"{100 * f:.0f} %" for f in suite.fractions), rows)


def _areas(name: str, report: Report) -> Iterator[tuple[str, tuple[str, str], tuple[str, str]]]:
    """Of each kind of cover the area under the curves of rank-1 and mAP, see `Robustness.area`."""
    if report.prompts or not report.suites:
        return
    found = Robustness.of(report)
    for suite in report.suites:
        title = ", ".join(filter(None, [name, suite.kind, "prompted" if suite.prompted else ""]))
        rank_1, mean_ap = (
            _percent(found.area(metric, kind=suite.kind, prompted=suite.prompted).absolute) for metric in METRICS
        )
        yield title, rank_1, mean_ap


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the chart: points in pixels, with their intervals, and where its name stands."""

    name: str
    style: int
    points: tuple[tuple[float, float, float, float], ...]
    label_y: float
    end: str


@dataclass(frozen=True, slots=True)
class _Chart:
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    lines: tuple[_Line, ...]


def _chart(shown: Sequence[tuple[str, Report]]) -> _Chart | None:
    """Rank-1 against the covered share, one line per report and kind of cover; `None` if nothing was covered."""
    curves: list[tuple[str, list[tuple[float, Estimate]]]] = []
    for name, report in shown:
        for suite in report.suites:
            points = [(f, suite.mean(f).rank_1) for f in sorted(suite.fractions)]
            parts = [name, suite.kind, "prompted" if suite.prompted else ""]
            curves.append((", ".join(filter(None, parts)), points))
    if not curves:
        return None
    left, right, top, bottom = 46, 560, 14, 260
    shares = sorted({f for _, points in curves for f, _ in points})
    low, span = (shares[0], shares[-1] - shares[0]) if len(shares) > 1 else (shares[0] - 0.5, 1.0)

    def x(share: float) -> float:
        return round(left + 16 + (right - left - 32) * (share - low) / span, 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - top) * value, 1)

    ends = [y(points[-1][1].value) for _, points in curves]
    labels = list(ends)
    for before, after in zip(order := np.argsort(ends, kind="stable").tolist(), order[1:]):
        labels[after] = max(labels[after], labels[before] + 17)
    lines = tuple(
        _Line(
            name,
            i % 6,
            tuple((x(f), y(e.value), y(e.low), y(e.high)) for f, e in points),
            labels[i],
            f"{100 * points[-1][1].value:.0f}",
        )
        for i, (name, points) in enumerate(curves)
    )
    return _Chart(
        width=880,
        height=int(max(304, max(labels) + 24)),
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=tuple((x(f), f"{100 * f:.0f} %") for f in shares),
        y_ticks=tuple((y(v / 100), f"{v}") for v in range(0, 101, 20)),
        lines=lines,
    )


def _facts(report: Report) -> list[tuple[str, str]]:
    """How the numbers were made, as name and value."""
    timing = report.timing
    options = ", ".join(f"{key}={value}" for key, value in report.distance_options.items())
    facts = [
        ("weights", report.made_by),
        ("method", report.method),
        ("dataset", f"{report.dataset.name} ({report.dataset.spec})" if report.dataset.spec else report.dataset.name),
        ("distance", f"{type(report.distance).__name__}" + (f", {options}" if options else "")),
        ("command", report.command),
        ("seed", str(report.seed)),
        ("glimpse", f"{report.version}, commit {report.commit}" if report.commit else report.version),
        ("machine", machine()),
        (
            "time",
            f"{timing.embed_seconds:.1f} s to read and embed {timing.crops:,} crops ({timing.crops_per_second:.0f} per "
            f"second), {timing.match_seconds:.2f} s to match and score",
        ),
        ("one gallery crop", f"{timing.bytes_per_gallery_item:,} bytes"),
    ]
    return [(name, value) for name, value in facts if value]


def machine() -> str:
    """Processor, cores, accelerator and versions; nothing that names the machine or its user."""
    cores = f"{os.cpu_count()} cores" if os.cpu_count() else "cores unknown"
    parts = [f"{_processor()}, {cores}"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    parts += [platform.system(), f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    return "; ".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
