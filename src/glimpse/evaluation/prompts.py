"""Prompts for whole datasets: a CSV file that says where in a crop the person is."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from glimpse.data.images import read_image
from glimpse.data.samples import Sample
from glimpse.data.visible import Box, read_visible
from glimpse.errors import ConfigError, DataError

COLUMNS = ("path", "x0", "y0", "x1", "y1")


def read_prompts(path: str | Path) -> dict[str, Box]:
    """Read boxes from a CSV file with the header `path,x0,y0,x1,y1`.

    Raises:
        ConfigError: the file cannot be read, has other columns, a row without a proper box, or a path twice.

    >>> import tempfile; file = Path(tempfile.mkdtemp()) / "boxes.csv"
    >>> _ = file.write_text("path,x0,y0,x1,y1\\nquery/001_001.jpg,0,0,64,80\\n")
    >>> read_prompts(file)
    {'query/001_001.jpg': (0.0, 0.0, 64.0, 80.0)}
    """
    boxes: dict[str, Box] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            if tuple(cell.strip() for cell in header) != COLUMNS:
                raise ConfigError(path, f"the header is '{','.join(header)}'", f"write {','.join(COLUMNS)}")
            for row in rows:
                if not any(cell.strip() for cell in row):
                    continue
                where = f"{path}, line {rows.line_num}"
                if len(row) != len(COLUMNS):
                    raise ConfigError(where, f"has {len(row)} fields", f"write {','.join(COLUMNS)}")
                name = row[0].strip().replace("\\", "/")
                if not name:
                    raise ConfigError(where, "the path is empty", "name the crop")
                if name in boxes:
                    raise ConfigError(where, f"'{name}' has a box already", "keep one box per crop")
                boxes[name] = _box(row[1:], where)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(path, f"cannot be read ({error})", "give a CSV file in UTF-8") from error
    if not boxes:
        raise ConfigError(path, "has no boxes", "write one line per crop, or leave the prompts out")
    return boxes


def _box(cells: Sequence[str], where: str) -> Box:
    try:
        x0, y0, x1, y1 = (float(cell) for cell in cells)
    except ValueError as error:
        raise ConfigError(
            where, f"a number cannot be read ({error})", "give x0,y0,x1,y1 in pixels of the crop"
        ) from None
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or x0 < 0 or y0 < 0 or x0 >= x1 or y0 >= y1:
        raise ConfigError(
            where, f"{x0:g},{y0:g},{x1:g},{y1:g} is no box", "give 0 <= x0 < x1 and 0 <= y0 < y1 in pixels"
        )
    return x0, y0, x1, y1


def check_boxes(boxes: Mapping[int, Box], samples: Sequence[Sample]) -> None:
    """Check that every box lies in its crop; crops that cannot be read are left to those who read them.

    Args:
        boxes: row in `samples` -> box.
        samples: the crops.

    Raises:
        ConfigError: a box leaves its crop.
    """
    for row, box in boxes.items():
        try:
            size = read_image(samples[row]).size
        except DataError:
            continue
        read_visible(box, size, f"prompt of {samples[row].path}")


def match_prompts(prompts: Mapping[str, Box], samples: Sequence[Sample]) -> dict[int, Box]:
    """Give each prompt to the crop whose path is, or ends with, the prompt's.

    Args:
        prompts: path -> box.
        samples: the crops, of all sides together.

    Returns:
        Row in `samples` -> box.

    Raises:
        DataError: a prompt fits no crop or more than one, or a crop has two.
    """
    # Only endings with as many components as some prompt has: few for any number of crops.
    depths = {name.count("/") + 1 for name in prompts}
    found: dict[str, list[int]] = {name: [] for name in prompts}
    for row, sample in enumerate(samples):
        parts = sample.path.replace("\\", "/").split("/")
        for depth in depths:
            ending = "/".join(parts[-depth:])
            if depth <= len(parts) and ending in found:
                found[ending].append(row)
    boxes: dict[int, Box] = {}
    for name, rows in found.items():
        if not rows:
            raise DataError(
                name, "has a prompt, and there is no such crop", "give paths as the dataset names its crops"
            )
        first, other = (
            samples[rows[0]].path,
            next((samples[r].path for r in rows if samples[r].path != samples[rows[0]].path), None),
        )
        if other is not None:
            raise DataError(name, f"fits more than one crop ({first}, {other})", "give more of the path in the prompts")
        if rows[0] in boxes:
            raise DataError(first, "has two prompts, under two names", "keep one box per crop")
        # One file may be on both sides, as query and as gallery crop.
        boxes.update(dict.fromkeys(rows, prompts[name]))
    return boxes
