"""Charts: where lines and names stand, and that both formats hold them."""

from __future__ import annotations

import io
import sys
from itertools import pairwise
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glimpse.errors import ConfigError
from glimpse.templates.chart import Panel, Series, draw_panels, spread

SVG = "{http://www.w3.org/2000/svg}"


def line(name: str, start: float, end: float, *, thin: bool = False) -> Series:
    points = [(x, y, max(0.0, y - 5), min(100.0, y + 5)) for x, y in ((0.0, start), (70.0, end))]
    return Series(name, tuple(points), thin)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=10))
def test_names_keep_their_order_and_their_distance(wanted: list[float]) -> None:
    places = spread(wanted, 10, 0, 100)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    assert all(places[b] - places[a] >= 10 - 1e-9 for a, b in pairwise(order))
    assert min(places) >= -1e-9
    assert max(places) <= 100 + 1e-9


def test_names_with_room_stand_where_they_want() -> None:
    assert spread([80, 10, 45], 10, 0, 100) == [80, 10, 45]


def test_points_stand_where_the_axes_say() -> None:
    chart = draw_panels([[Panel("p", (line("a", 100, 0), line("b", 40, 30, thin=True)))]], title="t", x_title="x")
    (axes,) = chart.figure.axes
    drawn = {tuple(map(tuple, each.get_xydata())): each for each in axes.lines}
    mean, side = drawn[(0, 100), (70, 0)], drawn[(0, 40), (70, 30)]
    assert mean.get_linewidth() > side.get_linewidth()
    assert mean.get_zorder() > side.get_zorder()
    assert mean.get_marker() != side.get_marker()
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 70), (0, 100))
    (band,) = axes.collections  # of the thick line only
    corners = {tuple(point) for point in band.get_paths()[0].vertices}
    assert {(0, 95), (0, 100), (70, 0), (70, 5)} <= corners


def test_names_are_beside_the_lines_and_inside_the_picture() -> None:
    series = tuple(line(f"a rather long name of weights {i}", 90, 10, thin=i > 0) for i in range(14))
    chart = draw_panels([[Panel("p", series), Panel("q", series)]], title="t", x_title="x", notes=["n" * 90])
    image = np.asarray(Image.open(io.BytesIO(chart.write("png"))).convert("L"))
    # The edges of the picture are paper: nothing is cut off.
    assert min(image[:5].min(), image[-5:].min(), image[:, :5].min(), image[:, -5:].min()) == 255
    for axes in chart.figure.axes:
        names = [text for text in axes.texts if text.get_text().startswith("a rather")]
        assert len(names) == 14
        assert min(name.get_position()[0] for name in names) > 70
        assert min(np.diff(sorted(name.get_position()[1] for name in names))) >= 5.4


def test_lines_have_marks_of_their_own() -> None:
    series = tuple(line(f"{i}", 90, 10, thin=True) for i in range(12))
    (axes,) = draw_panels([[Panel("p", series)]], title="t", x_title="x").figure.axes
    assert len({each.get_marker() for each in axes.lines if each.get_marker() != "None"}) == 12


def test_the_diagonal_is_drawn_where_it_is_wanted() -> None:
    panels = [Panel("p", (line("a", 0, 70),), diagonal=wanted) for wanted in (True, False)]
    first, second = draw_panels([panels], title="t", x_title="x").figure.axes
    assert len(first.lines) == len(second.lines) + 1


def test_svg_is_whole_escaped_and_the_same_each_time() -> None:
    def svg() -> bytes:
        series = (line("<b> & c", 50, 40), line("d", 30, 20, thin=True))
        return draw_panels([[Panel("p", series)]], title="t", x_title="x").write("svg", "read & heard")

    root = ET.fromstring(svg())
    assert "read & heard" in [element.text for element in root.iter() if element.tag.endswith("title")]
    assert {"t", "x", "p", "<b> & c", "d", "0", "70", "100"} <= {element.text for element in root.iter(f"{SVG}text")}
    assert svg() == svg()


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"matplotlib is not installed\. Remedy: install the extra: .*plots"):
        draw_panels([[Panel("p", (line("a", 1, 2),))]], title="t", x_title="x")
