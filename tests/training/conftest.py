"""Rendered people to train on, and recipes small enough for a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glimpse.data import Dataset, open_dataset
from glimpse.synthetic.dataset import Rates, render_dataset
from glimpse.synthetic.people import Population
from glimpse.training import Recipe, parse_recipe

Maker = Callable[..., Recipe]


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people to train on, four crops each from two cameras."""
    root = tmp_path_factory.mktemp("rendered") / "people"
    crowd = Population(people=12, train=6, cameras=2, twins=0, seed=1)
    render_dataset(root, crowd, crops=2, size=(64, 32), rates=Rates(0, 0, 0), cues=False)
    return root


@pytest.fixture(scope="session")
def people(rendered: Path) -> Dataset:
    return open_dataset(f"market1501:{rendered}")


@pytest.fixture(scope="session")
def small() -> Maker:
    """Makes a recipe of OSNet x0.25 on 64 x 32 crops, four people and two crops a batch."""

    def make(method: str = "baseline", stages: list[dict[str, Any]] | None = None, **changes: Any) -> Recipe:
        settings: dict[str, Any] = {
            "method": method,
            "backbone": "osnet_x0_25",
            "transforms": {"size": [64, 32], "pad": 2, "erasing": None},
            "sampling": {"people": 4, "crops": 2},
            "stages": stages or [{"epochs": 1}],
            "validation": {"identities": 0},
            "precision": "float32",
            "workers": 0,
        }
        return parse_recipe({**settings, **changes})

    return make
