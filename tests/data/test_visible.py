from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glimpse.data.visible import read_visible
from glimpse.errors import ConfigError

SIZE = (64, 128)


@given(st.integers(0, 63), st.integers(0, 127), st.integers(1, 64), st.integers(1, 128))
def test_text_and_numbers_mean_the_same_box(x0: int, y0: int, width: int, height: int) -> None:
    box = (x0, y0, min(64, x0 + width), min(128, y0 + height))
    assert read_visible(",".join(map(str, box)), SIZE) == read_visible(box, SIZE) == tuple(map(float, box))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("0,0,64", "a box has four finite numbers, and '0,0,64' has not"),
        ("0,0,64,nan", "a box has four finite numbers, and '0,0,64,nan' has not"),
        ("10,0,10,80", "the box 10,0,10,80 is empty"),
        ("0,80,64,20", "the box 0,80,64,20 is empty"),
        ("0,0,64,129", "the box 0,0,64,129 leaves the crop, which is 64 x 128 pixels"),
        ("-1,0,64,80", "the box -1,0,64,80 leaves the crop"),
        ("missing.png", "'missing.png' is neither four numbers nor a file"),
    ],
)
def test_bad_text_is_named(text: str, cause: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_visible(text, SIZE, "--visible")
    assert error.value.where == "--visible"
    assert cause in error.value.cause
    assert error.value.remedy


def test_white_of_a_mask_file_is_the_person(tmp_path: Path) -> None:
    pixels = np.zeros((128, 64), np.uint8)
    pixels[:80] = 255
    for mode in ("L", "1", "RGB", "RGBA", "P"):
        path = tmp_path / f"{mode}.png"
        Image.fromarray(pixels).convert(mode).save(path)
        mask = read_visible(path, SIZE)
        assert isinstance(mask, np.ndarray)
        np.testing.assert_array_equal(mask, (pixels / 255).astype(np.float32))


def test_bad_mask_files_are_named(tmp_path: Path) -> None:
    def cause(name: str) -> str:
        with pytest.raises(ConfigError) as error:
            read_visible(str(tmp_path / name), SIZE, "--visible")
        assert name in f"{error.value.where} {error.value.cause}"
        return error.value.cause

    Image.new("L", (32, 128), 255).save(tmp_path / "narrow.png")
    assert cause("narrow.png") == "the mask is 32 x 128 pixels and the crop 64 x 128 (width x height)"
    Image.new("L", SIZE, 0).save(tmp_path / "black.png")
    assert "the mask is empty" in cause("black.png")
    Image.new("L", SIZE, 1).save(tmp_path / "labels.png")
    assert cause("labels.png") == "the brightest pixel of the mask is 1 of 255"
    Image.new("RGBA", SIZE, (255, 255, 255, 128)).save(tmp_path / "glass.png")
    assert cause("glass.png") == "the mask is partly transparent"
    (tmp_path / "text.png").write_text("no picture")
    assert cause("text.png") == "is not an image"


@pytest.mark.parametrize(
    ("mask", "cause"),
    [
        (np.ones((64, 128), bool), "the mask is 128 x 64 pixels and the crop 64 x 128"),
        (np.ones((128, 64, 3), bool), "the mask is 3 x 64 x 128 pixels"),
        (np.zeros((128, 64), bool), "the mask is empty"),
        (np.full((128, 64), 255, np.uint8), "values outside [0, 1]"),
        (np.full((128, 64), np.nan), "values outside [0, 1]"),
        (np.full((128, 64), "x"), "the mask holds <U1"),
    ],
)
def test_bad_arrays_are_named(mask: np.ndarray, cause: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_visible(mask, SIZE)
    assert cause in error.value.cause


def test_soft_and_hard_arrays_keep_their_values() -> None:
    hard = np.zeros((128, 64), bool)
    hard[:10] = True
    assert read_visible(hard, SIZE).dtype == np.bool_  # type: ignore[union-attr]
    soft = hard * 0.25
    np.testing.assert_array_equal(read_visible(soft, SIZE), soft.astype(np.float32))  # type: ignore[arg-type]
