"""Cut-outs lie where they are put, and the largest visible box is the largest of all."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from glimpse.errors import ConfigError
from glimpse.synthetic.cutouts import Cutout, largest_box, person, thing
from glimpse.synthetic.obstacles import SIDES


@given(arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_the_largest_box_is_the_largest_of_all(visible: np.ndarray) -> None:
    height, width = visible.shape
    areas = [
        (x1 - x0) * (y1 - y0)
        for y0, y1 in combinations(range(height + 1), 2)
        for x0, x1 in combinations(range(width + 1), 2)
        if visible[y0:y1, x0:x1].all()
    ]
    found = largest_box(visible)
    if found is None:
        assert not areas
    else:
        x0, y0, x1, y1 = found
        assert visible[y0:y1, x0:x1].all()
        assert (x1 - x0) * (y1 - y0) == max(areas)


def test_a_cutout_changes_what_it_fills_and_nothing_else() -> None:
    pixels = torch.full((3, 1, 4), 200, dtype=torch.uint8)
    seen, left = Cutout(pixels, torch.tensor([[0, 100, 128, 255]], dtype=torch.uint8)).over(torch.zeros_like(pixels))
    assert left.tolist() == [[True, True, False, False]]
    assert seen[0, 0].tolist() == [0, 0, 100, 200]


def test_a_thing_is_the_same_with_the_same_seed() -> None:
    for side in SIDES:
        one, same, other = (thing(side, 0.5, (64, 32), np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert torch.equal(one.pixels, same.pixels)
        assert torch.equal(one.filled, same.filled)
        assert not torch.equal(one.pixels, other.pixels)


@pytest.mark.parametrize("side", SIDES)
def test_somebody_stands_on_the_side_that_was_asked_for(side: str) -> None:
    other = torch.zeros(3, 40, 20, dtype=torch.uint8)
    mask = torch.zeros(40, 20, dtype=torch.bool)
    mask[5:35, 6:14] = True
    found = person(other, mask, side, 0.4, (80, 40))
    assert found is not None
    rows, columns = (found.filled > 127).any(1).nonzero()[:, 0], (found.filled > 127).any(0).nonzero()[:, 0]
    ends = {
        "top": (0, 31, 0, 39),
        "bottom": (48, 79, 0, 39),
        "left": (0, 79, 0, 15),
        "right": (0, 79, 24, 39),
        "centre": (20, 79, 12, 27),
    }[side]
    found_ends = (rows.min(), rows.max(), columns.min(), columns.max())
    assert all(abs(int(a) - b) <= 2 for a, b in zip(found_ends, ends, strict=True)), found_ends


def test_a_mask_of_a_few_pixels_is_nobody() -> None:
    mask = torch.zeros(40, 20, dtype=torch.bool)
    mask[0, :15] = True
    assert person(torch.zeros(3, 40, 20, dtype=torch.uint8), mask, "left", 0.5, (80, 40)) is None


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="'above' is not a side"):
        thing("above", 0.5, (64, 32), np.random.default_rng(0))
    with pytest.raises(ConfigError, match="1 is not between 0 and 1"):
        thing("top", 1, (64, 32), np.random.default_rng(0))
