from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glimpse.errors import DataError
from glimpse.gallery.cutting import Frame, cut

WIDTH, HEIGHT = 40, 30
EDGES = st.floats(-100, 100, allow_nan=False)


def gradient() -> Image.Image:
    """Red is the column, green the row."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
    return Image.fromarray(np.stack([columns, rows, rows * 0], axis=-1))


@given(st.integers(0, 30), st.integers(0, 20), st.integers(1, 10), st.integers(1, 10))
def test_a_crop_is_the_pixels_of_its_box(x0: int, y0: int, width: int, height: int) -> None:
    crop, box = cut(gradient(), (x0, y0, x0 + width, y0 + height), "here")
    assert box == (x0, y0, x0 + width, y0 + height)
    np.testing.assert_array_equal(np.asarray(crop), np.asarray(gradient())[y0 : y0 + height, x0 : x0 + width])


@given(EDGES, EDGES, st.floats(1, 100), st.floats(1, 100), st.floats(0, 2))
def test_what_is_cut_lies_in_the_picture_and_padding_only_adds(
    x0: float, y0: float, width: float, height: float, padding: float
) -> None:
    try:
        _, tight = cut(gradient(), (x0, y0, x0 + width, y0 + height), "here")
    except DataError:
        with pytest.raises(DataError):  # padding does not turn a box beside the picture into one that shows some of it
            cut(gradient(), (x0, y0, x0 + width, y0 + height), "here", padding=padding)
        return
    crop, box = cut(gradient(), (x0, y0, x0 + width, y0 + height), "here", padding=padding)
    assert 0 <= box[0] <= tight[0] < tight[2] <= box[2] <= WIDTH
    assert 0 <= box[1] <= tight[1] < tight[3] <= box[3] <= HEIGHT
    assert crop.size == (box[2] - box[0], box[3] - box[1])


@pytest.mark.parametrize(
    ("box", "padding", "edges"),
    [
        ((10, 5, 20, 25), 0.1, (9, 3, 21, 27)),
        ((10, 5, 20, 25), 0.5, (5, 0, 25, 30)),  # clipped, not filled
        ((-5, -5, 5, 5), 0.0, (0, 0, 5, 5)),
        ((10.5, 10.4, 20.5, 20.4), 0.0, (11, 10, 21, 20)),
        ((-1e300, -1e300, 1e300, 1e300), 0.0, (0, 0, WIDTH, HEIGHT)),
    ],
)
def test_edges_are_padded_then_clipped_then_rounded(
    box: tuple[float, float, float, float], padding: float, edges: tuple[int, int, int, int]
) -> None:
    assert cut(gradient(), box, "here", padding=padding)[1] == edges


@pytest.mark.parametrize("box", [(40, 0, 50, 10), (-10, 0, 0, 10), (0, 30, 10, 40), (5, 5, 5, 10), (5.1, 5, 5.3, 10)])
def test_a_box_without_a_pixel_is_named(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(DataError) as error:
        cut(gradient(), box, "det.txt:7", padding=1.0)
    shown = ", ".join(f"{edge:g}" for edge in box)
    assert error.value.where == "det.txt:7"
    assert error.value.cause == f"the box {shown} holds nothing of the picture, which is 40 x 30 pixels"


def test_a_frame_is_decoded_when_it_is_read_or_says_why_not() -> None:
    assert Frame(3, "a.jpg", gradient).read().size == (WIDTH, HEIGHT)
    with pytest.raises(DataError, match=r"a\.jpg: is gone"):
        Frame(3, "a.jpg", DataError("a.jpg", "is gone", "bring it back")).read()
