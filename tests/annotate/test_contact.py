"""A row of a contact sheet is one person, and queries come first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glimpse.annotate.contact import HEIGHT, write_contact_sheet
from glimpse.data import Sample
from glimpse.data.stores import FolderStore
from glimpse.errors import ConfigError, DataError

FRAME = (214, 96, 28)
LINE, GAP = 16, 4

Splits = dict[str, list[Sample]]


@pytest.fixture
def splits(tmp_path: Path) -> Splits:
    """Four people in crops of 20 x 10 pixels: red is ten times the person, green twenty times the camera."""
    store, found = FolderStore(tmp_path), {"query": [], "gallery": []}

    def add(split: str, pid: int, camid: int, number: int = 0) -> None:
        name = f"{split}-{pid}-{camid}-{number}.png"
        Image.new("RGB", (10, 20), (10 * max(pid, 0), 20 * camid, 200)).save(tmp_path / name)
        found[split].append(Sample(store, name, pid, camid))

    for pid in (3, 7, 11, 20):
        for camid in (3, 1, 2):
            add("gallery", pid, camid)
        add("query", pid, 2)
    add("gallery", 0, 1)  # a distractor
    return found


def shown(path: Path) -> Iterator[list[tuple[tuple[int, ...], bool]]]:
    """For each row of a sheet the colours of its crops, and whether they have a frame."""
    sheet = np.asarray(Image.open(path).convert("RGB"))
    wide = HEIGHT // 2
    for top in range(GAP + LINE, len(sheet) - HEIGHT + 1, HEIGHT + LINE + GAP):
        row = []
        for left in range(GAP, sheet.shape[1] - wide + 1, wide + GAP):
            crop = sheet[top : top + HEIGHT, left : left + wide]
            colour = tuple(int(value) for value in np.median(crop, (0, 1)))
            if colour != (255, 255, 255):
                row.append((colour, tuple(crop[1, 1].tolist()) == FRAME))
        yield row


def test_each_person_has_a_row_with_queries_first_and_cameras_in_order(splits: Splits, tmp_path: Path) -> None:
    assert write_contact_sheet(splits, tmp_path / "sheet.png") == [3, 7, 11, 20]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * (HEIGHT // 2 + GAP) + GAP, 4 * (HEIGHT + LINE + GAP) + GAP)
    for pid, row in zip((3, 7, 11, 20), shown(tmp_path / "sheet.png"), strict=True):
        expected = [(2, True), (1, False), (2, False), (3, False)]
        assert row == [((10 * pid, 20 * camid, 200), query) for camid, query in expected]


def test_people_and_crops_are_chosen_by_the_seed(splits: Splits, tmp_path: Path) -> None:
    def sheet(seed: int) -> tuple[list[int], bytes]:
        pids = write_contact_sheet(splits, tmp_path / "sheet.png", people=2, crops=2, seed=seed)
        return pids, (tmp_path / "sheet.png").read_bytes()

    assert sheet(1) == sheet(1)
    chosen = {tuple(sheet(seed)[0]) for seed in range(20)}
    assert len(chosen) > 3
    for pids in chosen:
        assert len(pids) == 2
        assert list(pids) == sorted(pids)
    for row in shown(tmp_path / "sheet.png"):
        assert len(row) == 2


def test_crops_of_any_shape_are_as_high_as_the_others(splits: Splits, tmp_path: Path) -> None:
    Image.new("RGB", (60, 30), (30, 60, 200)).save(tmp_path / "gallery-3-1-0.png")
    assert write_contact_sheet({"gallery": splits["gallery"][:3]}, tmp_path / "sheet.jpg") == [3]
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.format == "JPEG"
        assert sheet.size == (2 * HEIGHT + 2 * (HEIGHT // 2) + 4 * GAP, HEIGHT + LINE + 2 * GAP)


def test_what_cannot_be_shown_is_said(splits: Splits, tmp_path: Path) -> None:
    out = tmp_path / "out" / "sheet.png"
    for numbers, said in (
        ({"people": 0}, "contact sheet: 0 people with 10 crops are none. Remedy: give at least 1 of each."),
        ({"crops": -1}, "contact sheet: 8 people with -1 crops are none"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            write_contact_sheet(splits, out, **numbers)
    nobody = [Sample(crop.store, crop.name, pid) for crop, pid in zip(splits["gallery"], (0, -1))]
    for samples in ([], nobody):
        with pytest.raises(DataError, match=r"no crop is of a known person\. Remedy: choose a split that has people\."):
            write_contact_sheet({"crops": samples}, out)
    with pytest.raises(ConfigError, match=r"sheet\.txt: has no ending that a picture has"):
        write_contact_sheet(splits, out.with_suffix(".txt"))
    with pytest.raises(ConfigError, match=r"gallery-3-1-0\.png/sheet\.png: cannot be written"):
        write_contact_sheet(splits, tmp_path / "gallery-3-1-0.png" / "sheet.png")
    (tmp_path / "gallery-3-1-0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"gallery-3-1-0\.png: is not a picture"):
        write_contact_sheet(splits, out)
    assert not list(tmp_path.rglob("*sheet*"))
