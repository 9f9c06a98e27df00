"""Where the real datasets and weights lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Tables are as wide as where the output is no terminal; pytest-xdist says 80 columns.
os.environ.pop("COLUMNS", None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the real datasets (`data/`) and weights (`models/`)."""
    default = Path(__file__).resolve().parents[2] / "shared"
    return Path(os.environ.get("GLIMPSE_TEST_DATA", default))


@pytest.fixture(scope="session")
def models(shared: Path) -> Path:
    """Folder of the real weights."""
    folder = shared / "models"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    return folder
