"""Robustness: rank-1 and mAP against how much of the query is hidden, and the area under that curve as one number."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import Field, ValidationError, model_validator
from rich.table import Table

from glimpse.errors import ConfigError, DataError, first_problem
from glimpse.evaluation.evaluate import METRICS as COLUMNS
from glimpse.evaluation.evaluate import estimates
from glimpse.evaluation.intervals import bootstrap
from glimpse.evaluation.metrics import Values
from glimpse.evaluation.occluded import OcclusionSuite, digest_of
from glimpse.evaluation.records import DatasetRecord, Estimate, Metrics, ModelRecord
from glimpse.evaluation.runner import Report
from glimpse.files import atomic, write_text
from glimpse.records import Record
from glimpse.synthetic.occlusion import Kind, Side
from glimpse.templates.chart import Drawing, Panel, Series, draw_panels

Metric = Literal["rank_1", "map"]
METRICS: tuple[Metric, ...] = get_args(Metric)
_SHOWN = {"rank_1": "rank-1", "map": "mAP"}

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
"""Shares of a crop that are covered, unless told otherwise."""
FILES = ("curves.csv", "curves.json", "curves.svg", "curves.png")
"""What `Robustness.write` writes."""

_MEAN: Literal["mean"] = "mean"
_AGAIN = "name a curves.json, or evaluate again with --robustness"


class PointRecord(Record):
    """One point of a curve."""

    fraction: float = Field(ge=0, lt=1, description="share of each query that was to be covered; 0 is not covered")
    hidden: float = Field(ge=0, le=1, description="share of the pixels that was hidden, a mean over queries")
    rank_1: Estimate
    map: Estimate


class LineRecord(Record):
    """A curve from one side, or the mean over sides."""

    side: Side | Literal["mean"]
    points: list[PointRecord] = Field(min_length=2)


class Ratio(Record):
    """A ratio of two means over queries and its 95 % bootstrap interval; it can exceed 1."""

    value: float = Field(ge=0, allow_inf_nan=False)
    low: float = Field(ge=0, allow_inf_nan=False)
    high: float = Field(ge=0, allow_inf_nan=False)


class AreaRecord(Record):
    """Area under the mean curve, divided by its largest fraction: the mean of a metric over hidden fractions."""

    absolute: Estimate = Field(description="the area; intervals are over queries")
    relative: Ratio | None = Field(description="the area divided by the value of the clear queries; none where it is 0")
    per_query: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        description="areas of the queries; the area is their mean"
    )


class AreasRecord(Record):
    """The areas of one kind of cover."""

    rank_1: AreaRecord
    map: AreaRecord


class CurvesRecord(Record):
    """The curves of one kind of cover, with or without a prompt: the mean over sides first, then each side."""

    kind: Kind = Field(description="what covers")
    prompted: bool = Field(description="whether the model was told which pixels are visible")
    queries: int = Field(ge=1, description="queries that were covered")
    queries_sha256: str = Field(description="digest of their file names, people and cameras")
    sources_sha256: str = Field(description="the same of the crops that occluders are cut from, empty if none are")
    lines: list[LineRecord] = Field(min_length=2)
    areas: AreasRecord

    @property
    def cover(self) -> str:
        """What covers, in words."""
        return self.kind + (", prompted" if self.prompted else "")

    @property
    def fractions(self) -> tuple[float, ...]:
        """From 0, ascending."""
        return tuple(point.fraction for point in self.lines[0].points)

    @property
    def sides(self) -> tuple[str, ...]:
        """Sides of the grid."""
        return tuple(line.side for line in self.lines[1:])

    @model_validator(mode="after")
    def _whole(self) -> CurvesRecord:
        if self.lines[0].side != _MEAN or _MEAN in self.sides or len(set(self.sides)) < len(self.sides):
            raise ValueError("the first line has to be the mean, and each side may be there once")
        if self.fractions[0] != 0 or any(b <= a for a, b in zip(self.fractions, self.fractions[1:])):
            raise ValueError("fractions have to begin with 0 and to ascend")
        if any(tuple(point.fraction for point in line.points) != self.fractions for line in self.lines):
            raise ValueError("all lines need the same fractions")
        if any(len(getattr(self.areas, metric).per_query) != self.queries for metric in METRICS):
            raise ValueError("there has to be one area per query")
        return self


class About(Record):
    """What was evaluated, on what, and how."""

    version: str = Field(description="of glimpse")
    commit: str | None = Field(description="of glimpse, where it runs from a checkout")
    command: str = Field(description="the command line, empty where there was none")
    seed: int
    dataset: DatasetRecord
    protocol: str
    same_camera_rule: bool
    gallery: int = Field(ge=1, description="gallery crops")
    gallery_sha256: str = Field(description="digest of their file names, people and cameras")
    model: ModelRecord

    @property
    def name(self) -> str:
        """Name and hash of the weights, with the options of the distance if some were given."""
        options = ", ".join(f"{key}={value}" for key, value in self.model.distance.items())
        return self.model.made_by + (f" ({options})" if options else "")


class RobustnessRecord(Record):
    """The file `curves.json`. All metrics are shares, not percent."""

    format: Literal["glimpse-robustness-1"] = "glimpse-robustness-1"
    about: About
    curves: list[CurvesRecord] = Field(min_length=1)

    @model_validator(mode="after")
    def _once(self) -> RobustnessRecord:
        covers = [curves.cover for curves in self.curves]
        if len(set(covers)) < len(covers):
            raise ValueError("each kind of cover may be there once, and once prompted")
        return self


@dataclass(frozen=True)
class Robustness:
    """How well one model finds people again, the more of the query is hidden.

    Attributes:
        about: what was evaluated, on what, and how.
        suites: covered queries, one suite per kind of cover with or without a prompt.
        clear: for each suite the values `[n, 7]` of the same queries when they are not covered, see `Result.values`.

    Raises:
        ConfigError: there is no suite or one twice, a suite lacks a side at some fraction, or the clear values are not
            those of its queries.
    """

    about: About
    suites: tuple[OcclusionSuite, ...]
    clear: tuple[Values, ...]

    def __post_init__(self) -> None:
        if not self.suites:
            raise ConfigError("robustness", "no query was covered", "give the evaluation an occlusion plan")
        covers = [(suite.kind, suite.prompted) for suite in self.suites]
        if len(set(covers)) < len(covers):
            raise ConfigError("robustness", "a kind of cover is there twice", "give each once")
        for suite, clear in zip(self.suites, self.clear, strict=True):
            if not suite.results or len(suite.results) != len(suite.sides) * len(suite.fractions):
                cause = f"not every side is covered by {suite.kind} at every fraction"
                raise ConfigError("robustness", cause, "cover all sides by the same fractions")
            numbers = {len(found.result.rows) for found in suite}
            if numbers != {len(clear)}:
                cause = f"{len(clear)} clear queries and {max(numbers)} covered by {suite.kind}"
                raise ConfigError("robustness", cause, "give the values of the same queries")

    @classmethod
    def of(cls, report: Report) -> Robustness:
        """Take what an evaluation with covered queries found.

        Raises:
            ConfigError: nothing was covered, or the clear queries came with prompts of their own, which covered ones
                do not have.
        """
        if report.prompts:
            cause = f"{len(report.prompts):,} clear queries came with a prompt that covered ones do not have"
            raise ConfigError("robustness", cause, "evaluate without prompts")
        record = report.record()
        about = About(
            version=report.version,
            commit=report.commit,
            command=report.command,
            seed=report.seed,
            dataset=record.dataset,
            protocol=record.protocol.name,
            same_camera_rule=record.protocol.same_camera_rule,
            gallery=record.protocol.gallery,
            gallery_sha256=digest_of(report.dataset.gallery),
            model=record.model,
        )
        return cls(about, report.suites, tuple(report.clear_values(suite) for suite in report.suites))

    def curve(
        self,
        metric: Metric = "rank_1",
        side: Side | Literal["mean"] = _MEAN,
        *,
        kind: Kind | None = None,
        prompted: bool = False,
    ) -> tuple[tuple[float, Estimate], ...]:
        """Pairs of a hidden fraction, from 0, and the metric there with its interval over queries.

        Args:
            metric: which.
            side: where the occluder stood; `"mean"` takes the mean over sides of each query first.
            kind: what covered; the first suite's if `None`.
            prompted: whether the model was told which pixels are visible.

        Raises:
            ConfigError: nothing was covered so.
        """
        suite, clear = self._suite(kind, prompted)
        return tuple((p.fraction, getattr(p, metric)) for p in _line(suite, estimates(clear, suite.seed), side).points)

    def area(self, metric: Metric = "rank_1", *, kind: Kind | None = None, prompted: bool = False) -> AreaRecord:
        """The area under the mean curve: the mean of the metric over hidden fractions from 0 to the largest.

        By trapezoids between the fractions, divided by the largest. Each query has an area of its own, and the
        interval is over queries. That of the relative area R = A / C, with C the mean of the clear queries, is the
        interval of R + mean((a - R c) / C), which is A / C to the first order in the deviations from A and C.

        Args:
            metric: which.
            kind: what covered; the first suite's if `None`.
            prompted: whether the model was told which pixels are visible.

        Raises:
            ConfigError: nothing was covered so.
        """
        suite, clear = self._suite(kind, prompted)
        column = COLUMNS.index(metric)
        fractions = sorted(suite.fractions)
        means = [
            np.mean([o.result.values[:, column] for o in suite if o.fraction == fraction], axis=0)
            for fraction in fractions
        ]
        area = np.trapezoid([clear[:, column], *means], [0.0, *fractions], axis=0) / fractions[-1]
        area = area.clip(0, 1)  # rounding may put it a hair outside
        at_0 = clear[:, column].mean()
        relative = (area - area.mean() / at_0 * clear[:, column]) / at_0 if at_0 > 0 else np.zeros_like(area)
        low, high = bootstrap(np.stack([area, relative], axis=1), seed=suite.seed)
        value = float(area.mean())
        return AreaRecord(
            absolute=Estimate(value=value, low=min(low[0], value), high=max(high[0], value)),
            relative=Ratio(value=value / at_0, low=max(value / at_0 + low[1], 0), high=value / at_0 + high[1])
            if at_0 > 0
            else None,
            per_query=area.tolist(),
        )

    def record(self) -> RobustnessRecord:
        """What goes into JSON."""
        curves = []
        for suite, clear in zip(self.suites, self.clear, strict=True):
            start = estimates(clear, suite.seed)
            rank_1, mean_ap = (self.area(m, kind=suite.kind, prompted=suite.prompted) for m in METRICS)
            curves.append(
                CurvesRecord(
                    kind=suite.kind,
                    prompted=suite.prompted,
                    queries=len(clear),
                    queries_sha256=digest_of(suite.queries),
                    sources_sha256=suite.sources,
                    lines=[_line(suite, start, side) for side in (_MEAN, *suite.sides)],
                    areas=AreasRecord(rank_1=rank_1, map=mean_ap),
                )
            )
        return RobustnessRecord(about=self.about, curves=curves)

    def write(self, folder: str | Path) -> RobustnessRecord:
        """Write `FILES` to a folder, each whole or not at all, and give what they hold.

        Raises:
            ConfigError: the folder cannot be written to.
        """
        record = self.record()
        comparison = Comparison((record,), (record.about.name,))
        texts, folder = (csv_text(record), record.model_dump_json(indent=1) + "\n"), Path(folder)
        for name, text in zip(FILES[:2], texts, strict=True):
            write_text(folder / name, text)
        for name in FILES[2:]:
            comparison.draw(folder / name)
        return record

    def _suite(self, kind: Kind | None, prompted: bool) -> tuple[OcclusionSuite, Values]:
        kind = self.suites[0].kind if kind is None else kind
        for suite, clear in zip(self.suites, self.clear, strict=True):
            if (suite.kind, suite.prompted) == (kind, prompted):
                return suite, clear
        cause = f"no query was covered by '{kind}' {'with' if prompted else 'without'} a prompt"
        known = ", ".join(suite.kind + (" with a prompt" if suite.prompted else "") for suite in self.suites)
        raise ConfigError("robustness", cause, f"there is {known}")


def _line(suite: OcclusionSuite, clear: Metrics, side: Side | Literal["mean"]) -> LineRecord:
    """The curve of a side or of the mean over sides, from the clear queries on."""
    if side not in (_MEAN, *suite.sides):
        raise ConfigError("side", f"nothing was covered from '{side}'", f"choose among mean, {', '.join(suite.sides)}")
    points = [PointRecord(fraction=0, hidden=0, rank_1=clear.rank_1, map=clear.map)]
    for fraction in sorted(suite.fractions):
        found = [o for o in suite if o.fraction == fraction and side in (_MEAN, o.side)]
        metrics = suite.mean(fraction) if side == _MEAN else found[0].result.summary.metrics
        hidden = float(np.mean([o.hidden for o in found]))
        points.append(PointRecord(fraction=fraction, hidden=hidden, rank_1=metrics.rank_1, map=metrics.map))
    return LineRecord(side=side, points=points)


def csv_text(record: RobustnessRecord) -> str:
    """The curves as CSV in long form: one row per kind of cover, side, fraction and metric."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(
        ["model", "kind", "prompted", "side", "fraction", "metric", "value", "low", "high", "queries", "hidden"]
    )
    for curves in record.curves:
        start = [record.about.name, curves.kind, str(curves.prompted).lower()]
        for line in curves.lines:
            for point in line.points:
                for metric in METRICS:
                    found: Estimate = getattr(point, metric)
                    numbers = [found.value, found.low, found.high, curves.queries, point.hidden]
                    rows.writerow([*start, line.side, point.fraction, metric, *numbers])
    return text.getvalue()


def read_robustness(path: str | Path) -> RobustnessRecord:
    """Read what `Robustness.write` wrote as `curves.json`.

    Raises:
        DataError: it cannot be read, or is damaged or something else.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        cause = f"cannot be read ({error.strerror})"
        raise DataError(path, cause, _AGAIN) from error
    try:
        return RobustnessRecord.model_validate_json(text)
    except ValidationError as error:
        field, problem = first_problem(error)
        where = f"{path}, field '{field}'" if field else path
        raise DataError(where, f"does not hold robustness curves: {problem}", _AGAIN) from error


@dataclass(frozen=True)
class Comparison:
    """Curves of several models on the same queries, made by `compare`.

    Attributes:
        records: one per model.
        names: what tables and plots call them.
    """

    records: tuple[RobustnessRecord, ...]
    names: tuple[str, ...]

    def table(self) -> Table:
        """One row per kind of cover, metric and model: the clear value, the area with its interval, the area relative
        to the clear value, and how far the area lies from the first model's, with the interval of the difference.

        In percent. Differences are taken query by query, so their intervals are narrower than those of the areas tell.
        """
        about, first = self.records[0].about, self.records[0].curves
        many = len(self.records) > 1
        shown = Table(
            *("covered by", "metric", "model", "clear", "area", "of clear", *(["against the first"] * many)),
            title=f"robustness on {about.dataset.name}, {first[0].queries:,} queries",
            caption=f"area: mean over hidden fractions 0 to {100 * first[0].fractions[-1]:g} % and over "
            f"{', '.join(first[0].sides)}; in percent, with 95 % intervals over queries",
            title_justify="left",
            caption_justify="left",
        )
        for i, column in enumerate(shown.columns):
            column.justify, column.overflow = "right" if i >= 3 else "left", "fold"
        for c, curves in enumerate(first):
            for metric in METRICS:
                for name, record in zip(self.names, self.records, strict=True):
                    own = record.curves[c]
                    area: AreaRecord = getattr(own.areas, metric)
                    clear: Estimate = getattr(own.lines[0].points[0], metric)
                    ratio = "–" if area.relative is None else _percent(area.relative)
                    cells = [f"{100 * clear.value:.1f}", str(area.absolute), ratio]
                    if many and record is self.records[0]:
                        cells.append("–")
                    elif many:
                        cells.append(_difference(getattr(curves.areas, metric), area, about.seed))
                    shown.add_row(curves.cover, _SHOWN[metric], name, *cells)
        return shown

    def drawing(self) -> Drawing:
        """One row of panels per kind of cover, one panel per metric; the sides too if there is one model."""
        about, first = self.records[0].about, self.records[0].curves
        one = len(self.records) == 1
        rows = [
            [
                Panel(f"{_SHOWN[metric]} in %, covered by {curves.cover}", tuple(self._series(c, metric)))
                for metric in METRICS
            ]
            for c, curves in enumerate(first)
        ]
        notes = [
            f"Number beside a {'mean' if one else 'name'}: area under the curve, the mean over hidden fractions 0 to "
            f"{100 * first[0].fractions[-1]:g} %.",
            f"Thick: mean over {', '.join(first[0].sides)}, with its 95 % interval over queries. Thin: one side alone."
            if one
            else f"Lines: means over {', '.join(first[0].sides)}, with 95 % intervals over queries.",
        ]
        on = f"{about.dataset.name}, {first[0].queries:,} queries"
        title = f"{self.names[0]} on {on}" if one else on
        return draw_panels(rows, title=title, x_title="hidden fraction of the query in %", notes=notes)

    def draw(self, path: str | Path) -> None:
        """Write the plot to a file that ends in .svg or .png.

        Raises:
            ConfigError: it ends in something else or cannot be written, or matplotlib is not installed.
        """
        check_picture(path)
        drawing = self.drawing()
        with atomic(path) as draft:
            title = f"rank-1 and mAP against the hidden fraction of the query: {', '.join(self.names)}"
            draft.write_bytes(drawing.write("svg" if draft.suffix == ".svg" else "png", title))

    def _series(self, cover: int, metric: Metric) -> Iterator[Series]:
        for name, record in zip(self.names, self.records, strict=True):
            curves = record.curves[cover]
            area: AreaRecord = getattr(curves.areas, metric)
            for line in curves.lines if len(self.records) == 1 else curves.lines[:1]:
                mean = line.side == _MEAN
                called = f"{_MEAN if len(self.records) == 1 else name} {100 * area.absolute.value:.1f}"
                points = []
                for point in line.points:
                    found: Estimate = getattr(point, metric)
                    points.append((100 * point.fraction, 100 * found.value, 100 * found.low, 100 * found.high))
                yield Series(called if mean else line.side, tuple(points), thin=not mean)


def check_picture(path: str | Path) -> None:
    """Refuse a name that says no format.

    Raises:
        ConfigError: `path` ends neither in .svg nor in .png.
    """
    if Path(path).suffix not in (".svg", ".png"):
        raise ConfigError(path, "ends neither in .svg nor in .png", "call it plot.svg")


def compare(found: Sequence[str | Path | RobustnessRecord], names: Sequence[str] = ()) -> Comparison:
    """Put the curves of several models on the same queries side by side.

    Args:
        found: `curves.json` files, or what they hold; the first is what the others are compared with.
        names: what to call them; name and hash of the weights if none are given.

    Raises:
        ConfigError: there is none, or names are missing or the same.
        DataError: a file cannot be read, or was made with other queries or settings than the first.
    """
    if not found:
        raise ConfigError("robustness", "there are no curves", "give at least one curves.json")
    records = [each if isinstance(each, RobustnessRecord) else read_robustness(each) for each in found]
    called = tuple(record.about.name for record in records)
    where = [each.about.name if isinstance(each, RobustnessRecord) else str(each) for each in found]
    for record, place in zip(records[1:], where[1:], strict=True):
        for (what, wanted), (_, given) in zip(_settings(records[0]), _settings(record), strict=False):
            if wanted != given:
                cause = f"{what} {_short(given)}, and {where[0]} has {_short(wanted)}"
                raise DataError(place, cause, "evaluate both on the same queries with the same settings")
    if names and len(names) != len(records):
        raise ConfigError("names", f"{len(names)} names for {len(records)} curves", "give one for each, or none")
    names = tuple(names) or called
    for i, name in enumerate(names):
        if name in names[:i]:
            raise ConfigError("names", f"two curves are called '{name}'", "give each a name of its own")
    return Comparison(tuple(records), tuple(names))


def _settings(record: RobustnessRecord) -> Iterator[tuple[str, str]]:
    """What has to be the same for curves to be compared, in words; of each cover only if the covers are the same."""
    about = record.about
    yield "is on the dataset", f"{about.dataset.name}, {about.dataset.split}"
    yield "has the protocol", about.protocol + (", same-camera rule" if about.same_camera_rule else "")
    yield "has the seed", str(about.seed)
    yield "has the number of gallery crops", f"{about.gallery:,}"
    yield "has the gallery", about.gallery_sha256
    yield "has covers", "; ".join(curves.cover for curves in record.curves)
    for curves in record.curves:
        yield f"has for {curves.cover} the sides", ", ".join(curves.sides)
        yield f"has for {curves.cover} the fractions", ", ".join(f"{f:g}" for f in curves.fractions)
        yield f"has for {curves.cover} the number of queries", f"{curves.queries:,}"
        yield f"has for {curves.cover} the queries", curves.queries_sha256
        yield f"has for {curves.cover} the sources of occluders", curves.sources_sha256


def _short(value: str) -> str:
    """Enough of a digest to tell it from another."""
    return f"{value[:10]}..." if len(value) == 64 else value or "none"


def _percent(ratio: Ratio) -> str:
    return f"{100 * ratio.value:.1f} ({100 * ratio.low:.1f}-{100 * ratio.high:.1f})"


def _difference(first: AreaRecord, other: AreaRecord, seed: int) -> str:
    """How much larger an area is, with the interval of the mean difference over queries."""
    low, high = bootstrap((np.array(other.per_query) - np.array(first.per_query))[:, None], seed=seed).ravel()
    value = other.absolute.value - first.absolute.value
    return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
