"""The demo, as small as it gets: every step is carried out, and the page shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from glimpse.demo import Size, run
from glimpse.errors import ConfigError


def test_the_demo_makes_one_page(tmp_path: Path) -> None:
    said: list[str] = []
    small = Size(people=6, cameras=2, crops=2, warmup=1, epochs=1, queries=2, lists=2)
    page = run(tmp_path / "demo", seed=1, size=small, say=said.append)
    assert page == tmp_path / "demo" / "index.html"
    html = page.read_text()
    for text in (
        "qpm@",
        "baseline@",
        "thing over 60 %, prompted",
        "area under the curve",
        "told which part is the person",
        "prompt: the box",
    ):
        assert text in html
    assert any("training qpm" in line for line in said)
    assert {path.name for path in page.parent.iterdir()} >= {"query.png", "curves-qpm.csv", "curves-baseline.csv"}
    with pytest.raises(ConfigError, match="is not an empty folder"):
        run(tmp_path / "demo")
