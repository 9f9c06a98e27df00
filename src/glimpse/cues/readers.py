"""What came out of a file of cues, whose crop each of its rows is of, and whether it fits that crop."""

from __future__ import annotations

import os
import posixpath
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from glimpse.cues.parts import PartMap
from glimpse.cues.points import KeyPoints
from glimpse.errors import DataError, first_problem
from glimpse.pictures import IMAGE_SUFFIXES

Value = TypeVar("Value", KeyPoints, PartMap)

TOLERANCE = 0.5
"""So far outside a crop, in pixels, a key point still counts as inside. Files that measure from the centre of the upper
left pixel, instead of from its corner, are off by as much."""


@dataclass(frozen=True)
class CueFile(Generic[Value]):
    """The cues of a file or folder.

    Attributes:
        path: of the file or folder.
        found: the cues of each crop, by the name that the file gives it, parts joined by `/`; after `matched`, by its
            name in the dataset.
        where: where they stand in the file, by the same names, for messages.
        problems: one error for each row that was wrong and is left out.
    """

    path: str
    found: dict[str, Value]
    where: dict[str, str]
    problems: tuple[DataError, ...] = ()


@dataclass
class Reading(Generic[Value]):
    """A file while it is read: rows that are wrong are collected instead of raised."""

    path: str
    found: dict[str, Value] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    problems: list[DataError] = field(default_factory=list)

    @contextmanager
    def row(self, where: str) -> Iterator[None]:
        """What is wrong inside is a problem of the row `where`, and the next one is read."""
        try:
            yield
        except ValidationError as error:
            at, said = first_problem(error)
            cause = f"field '{at}': {said}" if at else "is no object with fields"
            self.problems.append(DataError(where, cause, "correct the row, or write the file again"))
        except DataError as error:
            cause = error.cause if error.where == where else f"{error.where} {error.cause}"
            self.problems.append(DataError(where, cause, error.remedy))

    def add(self, name: str, where: str, value: Value) -> None:
        """Keep the cues of a crop.

        Raises:
            DataError: the crop has some already, or no name.
        """
        if not name:
            raise DataError(where, "does not name its crop", "write the name of the crop's file")
        if name in self.found:
            cause = f"is of '{name}', as is {self.where[name]}"
            raise DataError(where, cause, "keep one of the two")
        self.found[name] = value
        self.where[name] = where

    def done(self) -> CueFile[Value]:
        """What was read.

        Raises:
            DataError: there was nothing, or nothing that can be used.
        """
        if not self.found and self.problems:
            first = self.problems[0]
            more = f" (and {len(self.problems) - 1:,} more)" if len(self.problems) > 1 else ""
            raise DataError(first.where, f"{first.cause}{more}; nothing else can be used", first.remedy)
        if not self.found:
            raise DataError(self.path, "has no rows", "write the file again, or give another one")
        return CueFile(self.path, self.found, self.where, tuple(self.problems))


def slashed(name: str) -> str:
    """A path with its parts joined by `/`, also if it was written on Windows."""
    return name.replace("\\", "/").removeprefix("./")


def files_below(folder: str | Path, ending: str) -> list[str]:
    """Files of that ending in a folder and the folders inside it, sorted, parts joined by `/`.

    Links are followed; hidden files and what macOS adds are left out.
    """
    found: list[str] = []
    seen: set[str] = set()
    for here, below, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link that leads back up
            below.clear()
            continue
        seen.add(real)
        below[:] = [name for name in below if not name.startswith(".") and name != "__MACOSX"]
        inside = Path(here).relative_to(folder)
        names = [name for name in files if name.lower().endswith(ending) and not name.startswith(".")]
        found.extend((inside / name).as_posix() for name in names)
    return sorted(found)


def read_bytes(path: str | Path, wanted: str) -> bytes:
    """The bytes of a file.

    Raises:
        DataError: there is no such file, or it cannot be read; `wanted` says what to give instead.
    """
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        said = getattr(error, "strerror", None) or error
        raise DataError(path, f"cannot be read ({said})", f"give the path of {wanted}") from error


def load_arrays(path: str | Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an npz file. Nothing is ever unpickled.

    Raises:
        DataError: it cannot be read, is no npz file, is damaged, or holds Python objects.
    """
    remedy = "write it with numpy.savez_compressed, from arrays of numbers and text"
    try:
        with open(path, "rb") as data:
            if not zipfile.is_zipfile(data):  # numpy would advise to unpickle it
                raise DataError(path, "is no npz file", remedy)
            data.seek(0)
            with np.load(data, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
    except OSError as error:
        said = error.strerror or error
        raise DataError(path, f"cannot be read ({said})", "give the path of an npz file") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError) as error:
        raise DataError(path, f"cannot be read as npz ({str(error).splitlines()[0]})", remedy) from error


def matched(file: CueFile[Value], names: Mapping[str, Hashable]) -> CueFile[Value]:
    """The same cues by the names of the crops of a dataset.

    A row is of the crop of the same path; else of that of the same path but for the ending; else of that of the same
    file name but for the ending, wherever the two lie, if no other row and no other crop is called so. So the masks
    `query/a.png` find `query/a.jpg`, and AlphaPose's `a.jpg` does, if there is no other `gallery/a.jpg`.

    Args:
        file: cues, as they were read.
        names: paths of the crops inside their store, and what tells their contents apart: of crops of one name and one
            content the first is taken.

    Returns:
        Cues by names of crops. Its problems are those of `file`, and one for each row that is of no crop or may be
        of several. `len(names) - len(matched(...).found)` crops have no row.

    >>> from glimpse.cues.skeleton import COCO_17
    >>> nobody = KeyPoints(np.zeros((0, 17, 3)), COCO_17)
    >>> file = CueFile("poses.json", {"a.jpg": nobody, "b.jpg": nobody}, {"a.jpg": "row 0", "b.jpg": "row 1"})
    >>> found = matched(file, {"query/a.jpg": 1, "query/c.jpg": 2})
    >>> list(found.found), found.problems[0].where, found.problems[0].cause
    (['query/a.jpg'], 'row 1', "is of 'b.jpg', and no crop is called so")
    """
    crops = sorted(set(names))
    chosen = {row: row for row in set(file.found) & set(crops)}  # row -> crop
    problems: list[DataError] = []
    for key_of_row, key_of_crop in ((_bare, _without_ending), (_base, _base_of_crop)):
        rows = [row for row in file.found if row not in chosen]
        same = Counter(key_of_row(row) for row in rows)
        called: dict[str, list[str]] = defaultdict(list)
        for crop in crops:
            if names[crop] not in [names[other] for other in called[key_of_crop(crop)]]:
                called[key_of_crop(crop)].append(crop)
        taken = set(chosen.values())
        for row in rows:
            key = key_of_row(row)
            if same[key] == 1 and len(called[key]) == 1 and called[key][0] not in taken:
                chosen[row] = called[key][0]
    # `rows`, `same` and `called` are now those of the file names, the last resort.
    owner = {crop: row for row, crop in chosen.items()}
    for row in rows:
        if row in chosen:
            continue
        key = _base(row)
        there = called[key]
        remedy = "give the path of the crop inside its dataset, or take the row out"
        if not there:
            cause = "no crop is called so"
        elif len(there) > 1:
            cause = f"{len(there):,} crops are called so ({there[0]}, {there[1]}{', ...' if len(there) > 2 else ''})"
        elif there[0] in owner:
            cause = f"the crop {there[0]} has a row of its own ({file.where[owner[there[0]]]})"
        else:
            cause = f"{same[key]:,} rows may be of the crop {there[0]}"
        problems.append(DataError(file.where[row], f"is of '{row}', and {cause}", remedy))
    found = {chosen[row]: value for row, value in file.found.items() if row in chosen}
    where = {chosen[row]: file.where[row] for row in file.found if row in chosen}
    return CueFile(file.path, found, where, (*file.problems, *problems))


def _without_ending(crop: str) -> str:
    return posixpath.splitext(crop)[0]


def _base_of_crop(crop: str) -> str:
    return _without_ending(posixpath.basename(crop))


def _bare(row: str) -> str:
    """Rows of a folder come without an ending, and what follows their last dot is none."""
    bare, ending = posixpath.splitext(row)
    return bare if ending.lower() in IMAGE_SUFFIXES else row


def _base(row: str) -> str:
    return _bare(posixpath.basename(row))


def fitted(
    file: CueFile[Value], size: Callable[[str], tuple[int, int]], *, tolerance: float = TOLERANCE
) -> CueFile[Value]:
    """The same cues, checked against the sizes of the crops.

    Estimators place points slightly outside of a crop, where it cuts a body off. Such a point gets score 0, the others
    are kept, and the row is reported. Where more than half of what was found lies outside, the coordinates are not
    those of the crop, and the row is left out; so is a part map of another size than its crop.

    Args:
        file: cues by names of crops.
        size: `(height, width)` of the crop of a name, in pixels; asked once per crop. With its `DataError` the row is
            left out.
        tolerance: how far outside, in pixels, a point still counts as inside.

    Returns:
        Cues that fit. Its problems are those of `file` and the new ones.
    """
    reading: Reading[Any] = Reading(file.path, problems=list(file.problems))
    for name, value in file.found.items():
        with reading.row(file.where[name]):
            height, width = size(name)
            fit: KeyPoints | PartMap = value
            if isinstance(value, KeyPoints):
                fit, problems = _inside(value, file.where[name], (height, width), tolerance)
                reading.problems.extend(problems)
            elif value.size != (height, width):
                cause = f"is of {value.size[1]} x {value.size[0]} pixels, and {name} of {width} x {height}"
                raise DataError(file.where[name], f"the part map {cause}", "make it of the crop as it lies on disk")
            reading.add(name, file.where[name], fit)
    return replace(file, found=reading.found, where=reading.where, problems=tuple(reading.problems))


def _inside(
    points: KeyPoints, where: str, size: tuple[int, int], tolerance: float
) -> tuple[KeyPoints, Sequence[DataError]]:
    """The key points without those outside, and at most one problem.

    Raises:
        DataError: most are outside.
    """
    height, width = size
    x, y, score = np.moveaxis(points.values, -1, 0)
    found = score > 0
    inside = (x >= -tolerance) & (x <= width + tolerance) & (y >= -tolerance) & (y <= height + tolerance)
    lost = found & ~inside
    # What is inside by the tolerance only is put on the edge: all else that reads it goes by the crop itself.
    edge = np.stack([np.clip(x, 0.0, width), np.clip(y, 0.0, height), score], -1)
    moved = np.where((found & inside)[..., None], edge, points.values)
    if (moved != points.values).any():
        points = KeyPoints(moved, points.skeleton)
    number = int(lost.sum())
    if not number:
        return points, ()
    if 2 * number > int(found.sum()):
        cause = f"{number} of {int(found.sum())} key points lie outside the crop of {width} x {height} pixels"
        raise DataError(where, cause, "give x and y in pixels of the crop as it lies on disk")
    names = [f"{points.skeleton.points[k]} ({x[person, k]:.1f}, {y[person, k]:.1f})" for person, k in np.argwhere(lost)]
    shown = ", ".join(names[:3]) + (f" and {number - 3} more" if number > 3 else "")
    lie, count = ("lies", "counts") if number == 1 else ("lie", "count")
    cause = f"{shown} {lie} outside the crop of {width} x {height} pixels and {count} as not found"
    values = points.values.copy()
    values[..., 2][lost] = 0
    remedy = "correct x and y, or write score 0"
    return KeyPoints(values, points.skeleton), (DataError(where, cause, remedy),)
