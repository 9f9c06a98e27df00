"""Where the published weights lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def models() -> Path:
    """Folder of the real weights."""
    default = Path(__file__).resolve().parents[3] / "shared"
    folder = Path(os.environ.get("GLIMPSE_TEST_DATA", default)) / "models"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    return folder
