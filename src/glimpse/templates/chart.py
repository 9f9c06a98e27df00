"""Charts of lines with intervals, by matplotlib. Nothing hangs on colour: lines differ in their marks as well."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from glimpse.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _SOFT, _RULE = "#1c1f23", "#5c6470", "#dcdfe3"
_HUES = ("#2f6fb0", "#c2571a", "#2a8a57", "#8a4fb0", "#a0802a", "#6b7480")
_MARKS = "os^DpvXP<>hd"
_LINE = 5.5  # percent of an axis that a name takes, with room above it


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a chart.

    Attributes:
        name: what stands at its end.
        points: x, y and the interval of y, in percent; x ascends.
        thin: whether it only accompanies the others: drawn thin and without its interval.
        labels: what stands at each point; nothing if there are none.
    """

    name: str
    points: tuple[tuple[float, float, float, float], ...]
    thin: bool = False
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart of its own, with its heading. The first line is drawn over the others.

    Attributes:
        title: above it.
        series: its lines.
        diagonal: whether to draw where y is x.
    """

    title: str
    series: tuple[Series, ...]
    diagonal: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Drawing:
    """Panels that are drawn; made by `draw_panels`."""

    figure: Figure

    def write(self, kind: Literal["svg", "png"], title: str = "") -> bytes:
        """As a file, always the same bytes; of an SVG, `title` is what is read to those who cannot see it."""
        import matplotlib as mpl

        buffer = io.BytesIO()
        metadata = {"Title": title, "Date": None} if kind == "svg" else {"Software": None}
        # Text stays text, so that it can be searched and read aloud.
        with mpl.rc_context({"svg.hashsalt": "glimpse", "svg.fonttype": "none"}):
            self.figure.savefig(buffer, format=kind, dpi=160, metadata=metadata, bbox_inches="tight", pad_inches=0.15)
        return buffer.getvalue()


def draw_panels(
    rows: Sequence[Sequence[Panel]],
    *,
    title: str,
    x_title: str,
    notes: Sequence[str] = (),
    x_max: float | None = None,
) -> Drawing:
    """Panels in rows and columns; y runs from 0 to 100 % in all of them, x from 0 to `x_max`.

    Names stand to the right of a panel at the ends of their lines, moved apart where they would cover one another.

    Args:
        rows: the panels; all rows have the same number.
        title: above all of them.
        x_title: below each panel.
        notes: lines of small print below all of them.
        x_max: the largest x of all panels if not given.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        remedy = "install the extra: pip install 'glimpse-reid[plots]'"
        raise ConfigError("plot", "matplotlib is not installed", remedy) from error
    panels = [panel for row in rows for panel in row]
    if x_max is None:
        x_max = max(series.points[-1][0] for panel in panels for series in panel.series)
    across, down = max(map(len, rows)), len(rows)
    high = max(3.0, 0.165 * max(len(panel.series) for panel in panels))
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12)
    figure = Figure(figsize=(5.9 * across, (high + 1.1) * down), layout=layout)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=_INK)
    axes = figure.subplots(down, across, squeeze=False)
    for r, row in enumerate(rows):
        for c, panel in enumerate(row):
            _panel(axes[r, c], panel, x_max, x_title)
    if notes:
        figure.supxlabel("\n".join(notes), x=0.01, ha="left", fontsize=8.5, color=_SOFT)
    return Drawing(figure)


def _panel(axes: Axes, panel: Panel, x_max: float, x_title: str) -> None:
    axes.set_title(panel.title, loc="left", fontsize=10, color=_INK)
    axes.set_xlim(0, x_max)
    axes.set_ylim(0, 100)
    axes.set_xlabel(x_title, fontsize=9, color=_SOFT)
    axes.tick_params(labelsize=9, colors=_SOFT, length=3)
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if panel.diagonal:
        axes.plot((0, x_max), (0, x_max), color=_SOFT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    places = spread([series.points[-1][1] for series in panel.series], _LINE, 0, 100)
    for number, (series, place) in enumerate(zip(panel.series, places, strict=True)):
        x, y, low, up = zip(*series.points, strict=True)
        hue, mark = _HUES[number % len(_HUES)], _MARKS[number % len(_MARKS)]
        order = 3 + len(panel.series) - number
        width, size = (1.0, 3.5) if series.thin else (2.0, 5.0)
        if not series.thin:
            axes.fill_between(x, low, up, color=hue, alpha=0.18, linewidth=0, zorder=2)
        axes.plot(x, y, color=hue, linewidth=width, marker=mark, markersize=size, clip_on=False, zorder=order)
        for across, up_to, label in zip(x, y, series.labels or [""] * len(x), strict=True):
            above = up_to < 90  # the heading is not written over
            axes.annotate(
                label,
                (across, up_to),
                (0, 6 if above else -6),
                textcoords="offset points",
                ha="center",
                va="bottom" if above else "top",
                fontsize=8,
                color=_SOFT,
            )
        # The name beside the axis, with its mark and a thin line from where the curve ends.
        end = x_max * 1.05
        axes.plot(
            (x[-1] + 0.012 * x_max, end - 0.015 * x_max), (y[-1], place), color=_RULE, linewidth=0.8, clip_on=False
        )
        axes.plot((end,), (place,), color=hue, marker=mark, markersize=size, clip_on=False)
        colour = _SOFT if series.thin else _INK
        axes.text(end + 0.022 * x_max, place, series.name, fontsize=9, color=colour, va="center")


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near those wanted, in their order, at least `gap` apart and within [low, high] as far as there is room.

    >>> spread([50.0, 52.0, 10.0], 10.0, 0.0, 60.0)
    [50.0, 60.0, 10.0]
    >>> spread([58.0, 57.0], 10.0, 0.0, 60.0)
    [60.0, 50.0]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [0.0] * len(wanted)
    last = low - gap
    for i in order:
        last = places[i] = max(wanted[i], last + gap)
    last = high + gap
    for i in reversed(order):
        last = places[i] = min(places[i], last - gap)
    return places
