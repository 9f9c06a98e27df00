"""Own crops listed in a CSV."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from glimpse.data.dataset import SPLITS, Dataset
from glimpse.data.folders import first_of_each, shared_people_note
from glimpse.data.protocol import Protocol
from glimpse.data.samples import DISTRACTOR, JUNK, Sample
from glimpse.data.stores import FolderStore
from glimpse.data.words import count
from glimpse.errors import DataError

REQUIRED = ("path", "pid")
COLUMNS = (*REQUIRED, "camid", "time", "split")


class Row(BaseModel):
    """One line of the CSV. Empty cells of optional columns are as good as no column."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    path: str = Field(min_length=1)
    pid: str = Field(min_length=1)
    camid: str | None = None
    time: float | None = Field(default=None, allow_inf_nan=False)
    split: Literal["train", "query", "gallery"] | None = None

    @field_validator("camid", "time", "split", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if isinstance(value, str) and not value.strip() else value


def open_table(path: str | Path, *, skip_bad: bool = False) -> Dataset:
    """Read a CSV with the columns path and pid, and optionally camid, time and split (train, query or gallery).

    Paths are relative to the CSV. Person and camera ids may be any text: whole numbers are kept, else all are numbered
    from 1 in alphabetical order. pid -1 is junk (dropped) and pid 0 a distractor (gallery only). With camera ids on
    every row, the same-camera rule applies; without, it does not. Without a split column, see `open_folder`.

    Args:
        path: the CSV, UTF-8, separated by commas, with a header.
        skip_bad: leave rows out whose file is missing, and note them, instead of raising.

    Raises:
        DataError: naming file, line and column: unknown or missing columns, a bad cell, a missing file, a crop listed
            twice in a split, ids on some rows only.
    """
    rows = _read(path)
    notes: list[str] = []
    folder = os.path.dirname(path) or "."
    missing = [(line, row) for line, row in rows if not os.path.isfile(os.path.join(folder, row.path))]
    if missing and not skip_bad:
        line, row = missing[0]
        more = f" (nor those of {count(len(missing) - 1, 'other row')})" if len(missing) > 1 else ""
        remedy = "paths are relative to the CSV: correct it, or skip such rows (skip_bad=True, --skip-bad)"
        raise DataError(f"{path}:{line}, column path", f"there is no file {row.path}{more}", remedy)
    if missing:
        lost = {line for line, _ in missing}
        rows = [(line, row) for line, row in rows if line not in lost]
        notes.append(f"{count(len(missing), 'row')} skipped: missing files (first: {missing[0][1].path}).")
        if not rows:
            raise DataError(path, "every row names a missing file", "paths are relative to the CSV: correct them")
    _same_everywhere(path, rows)

    pids, said = _numbered("pid", [row.pid for _, row in rows], kept=(JUNK, DISTRACTOR))
    notes.extend(said)
    cameras: dict[str, int] = {}
    if rows[0][1].camid is not None:
        cameras, said = _numbered("camid", [row.camid for _, row in rows if row.camid is not None], kept=(0,))
        notes.extend(said)
    store = FolderStore(folder)
    splits: dict[str | None, list[Sample]] = {}
    lines: dict[tuple[str | None, str], int] = {}
    junk = 0
    for line, row in rows:
        pid = pids[row.pid]
        name = os.path.normpath(row.path).replace(os.sep, "/")
        if (row.split, name) in lines:
            cause = f"{row.path} was listed before, in line {lines[row.split, name]}"
            raise DataError(f"{path}:{line}, column path", cause, "list each crop once per split")
        lines[row.split, name] = line
        if pid == JUNK:
            junk += 1
            continue
        if pid == DISTRACTOR and row.split in ("train", "query"):
            remedy = "number people from 1; 0 is kept for distractors in the gallery"
            raise DataError(f"{path}:{line}, column pid", f"0 means nobody in particular, in {row.split}", remedy)
        camid = None if row.camid is None else cameras[row.camid]
        splits.setdefault(row.split, []).append(Sample(store, name, pid, camid, row.time))
    if junk:
        notes.append(f"{count(junk, 'junk crop')} (pid -1) dropped.")
    nobody = sum(sample.pid == DISTRACTOR for side in splits.values() for sample in side)
    if nobody:
        notes.append(f"{count(nobody, 'distractor')} (pid 0): in the gallery, never a right answer.")
    protocol = Protocol("csv", same_camera_rule=bool(cameras))
    if None in splits:
        everything = splits[None]
        query, gallery, said = first_of_each(everything)
        train = tuple(sample for sample in everything if sample.pid != DISTRACTOR)
        return Dataset("csv", protocol, train, query, gallery, (*notes, *said))
    train, query, gallery = (tuple(splits.get(split, ())) for split in SPLITS)
    _nobody_finds_itself(path, query, gallery, lines, bool(cameras))
    return Dataset("csv", protocol, train, query, gallery, (*notes, *shared_people_note(train, query)))


def _read(path: str | Path) -> list[tuple[int, Row]]:
    """(line number, row) of each row that fits the model."""
    rows: list[tuple[int, Row]] = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                where = f"{path}:{reader.line_num}"
                if len(cells) != len(header):
                    cause = f"has {len(cells)} cells, the header has {len(header)}"
                    raise DataError(where, cause, "put text that holds a comma in double quotes")
                try:
                    rows.append((reader.line_num, Row.model_validate(dict(zip(header, cells)))))
                except ValidationError as error:
                    first = error.errors()[0]
                    column = first["loc"][0]
                    cause = f"{first['msg'][:1].lower()}{first['msg'][1:]}, found {first['input']!r}"
                    raise DataError(f"{where}, column {column}", cause, "correct the cell") from error
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", "give the path of a CSV file") from error
    except UnicodeDecodeError as error:
        raise DataError(path, "is not text in UTF-8", "save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}", f"is not valid CSV ({error})", "save it as CSV again") from error
    if not rows:
        raise DataError(path, "has no rows", f"give rows with {' and '.join(REQUIRED)}")
    return rows


def _check_header(path: str | Path, header: Sequence[str]) -> None:
    where = f"{path}:1"
    lacking = [name for name in REQUIRED if name not in header]
    if lacking:
        found = ", ".join(header) or "nothing"
        remedy = f"the first line names the columns, separated by commas: {','.join(COLUMNS)} (the last three optional)"
        raise DataError(where, f"there is no column {' and '.join(lacking)}; found {found}", remedy)
    unknown = [name for name in header if name not in COLUMNS]
    if unknown:
        cause = f"unknown column {', '.join(map(repr, unknown))}"
        raise DataError(where, cause, f"keep to {', '.join(COLUMNS)}")
    if len(set(header)) < len(header):
        raise DataError(where, "a column is named twice", "name each column once")


def _same_everywhere(path: str | Path, rows: Sequence[tuple[int, Row]]) -> None:
    """Camera ids and splits are on every row or on none."""
    for column in ("camid", "split"):
        empty = [line for line, row in rows if getattr(row, column) is None]
        if empty and len(empty) < len(rows):
            cause = f"is empty here and in {len(empty):,} of {len(rows):,} rows"
            raise DataError(f"{path}:{empty[0]}, column {column}", cause, f"fill {column} on every row, or on none")


def _numbered(column: str, texts: Sequence[str], kept: tuple[int, ...]) -> tuple[dict[str, int], list[str]]:
    """A number for each text: its own if all are whole numbers, else by alphabetical order from 1.

    Numbers in `kept` always stand for themselves.
    """
    special = {text: int(text) for text in set(texts) if _whole(text) and int(text) in kept}
    names = sorted(set(texts) - special.keys())
    numbers = [int(text) for text in names if _whole(text) and int(text) > 0]
    if len(set(numbers)) == len(names):  # 7 and 007 are two names, not one number
        return special | dict(zip(names, numbers)), []
    said = f"{column}: {count(len(names), 'name')} numbered from 1 in alphabetical order (1 is {names[0]})."
    return special | {name: row + 1 for row, name in enumerate(names)}, [said]


def _whole(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 19  # fits 64 bits


def _nobody_finds_itself(
    path: str | Path,
    query: Sequence[Sample],
    gallery: Sequence[Sample],
    lines: dict[tuple[str | None, str], int],
    with_cameras: bool,
) -> None:
    """Without camera ids, a crop that is query and gallery would always find itself first."""
    if with_cameras:
        return
    both = {sample.name for sample in query} & {sample.name for sample in gallery}
    if both:
        name = min(both, key=lambda name: lines["gallery", name])
        cause = f"{count(len(both), 'crop')} both in query and gallery, where a crop finds itself (first: {name})"
        remedy = "list each as one of the two, or give camera ids, so that the same-camera rule leaves them out"
        raise DataError(f"{path}:{lines['gallery', name]}, column split", cause, remedy)
