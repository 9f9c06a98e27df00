"""Crops of a few pixels, each of its own brightness."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glimpse.data import Sample, open_crops


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 crops `[16, 8]`, of which numbers 0 and 39 are the same file."""
    root = tmp_path / "crops"
    root.mkdir()
    for number in range(40):
        shade = np.full((16, 8, 3), 5 * (number % 39) + 10, np.uint8)
        Image.fromarray(shade).save(root / f"{number:02}.png")
    return root


@pytest.fixture
def crops(folder: Path) -> list[Sample]:
    return open_crops(folder)
