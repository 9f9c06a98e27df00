"""The benchmarks against peers run, and all ways that they compare give the same values; no time is looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def quick(name: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """What a benchmark prints and writes."""
    command = [sys.executable, str(BENCHMARKS / name), "--quick", "--json", "numbers.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "numbers.json").read_text())


def test_the_part_distance_equals_the_dense_ones(tmp_path: Path) -> None:
    said, numbers = quick("matching.py", tmp_path)
    assert len(numbers["ways"]) == 5
    for name, row in numbers["ways"].items():
        assert f"| {name} |" in said
        assert row["largest_difference"] < 1e-5
    assert numbers["size"]["queries"] == 60


def test_counting_equals_sorting_every_row(tmp_path: Path) -> None:
    said, numbers = quick("ranking.py", tmp_path)
    assert set(numbers["given"]) == {"quick", "quick, at random"}
    for entry in numbers["given"].values():
        assert set(entry["ways"]) == {"counting", "row-wise argsort"}
        for name, row in entry["ways"].items():
            assert f"| {name} |" in said
            assert row["largest_difference"] < 1e-6
    # The same people once more, from vectors.
    streamed = numbers["streamed"]
    assert streamed["metrics"] == pytest.approx(numbers["given"]["quick"]["ways"]["counting"]["metrics"], abs=1e-6)
    assert 0.3 < streamed["metrics"]["map"] < 1
