"""Partial-REID: Zheng et al., "Partial Person Re-identification", ICCV 2015.

60 people, 5 whole-body crops each (gallery) and 5 occluded ones (probes), which exist as taken and cut to what shows.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from glimpse.data.dataset import Dataset, misfit
from glimpse.data.protocol import Protocol
from glimpse.data.samples import Sample
from glimpse.data.split_folders import find_layout, read_folder
from glimpse.data.stores import AnyStore
from glimpse.errors import DataError

PROBES = {"occluded": "occluded_body_images", "cropped": "partial_body_images"}
GALLERY = "whole_body_images"
NAMES = {"occluded": "Partial-REID", "cropped": "Partial-REID (cropped)"}
EXPECTED = "PID_INDEX.jpg, such as 001_002.jpg"

# The second number is no camera: read as one, it would silently cost each query the right answer of the same index.
_NAME = re.compile(r"(?P<pid>\d+)_(?P<index>\d+)\.\w+")


def parse(store: AnyStore, name: str) -> Sample:
    """The sample that a file name says.

    Raises:
        DataError: the name does not fit.
    """
    match = _NAME.fullmatch(name.rpartition("/")[2])
    if match is None or int(match["pid"]) == 0:
        raise misfit(f"{store.root}/{name}", EXPECTED)
    return Sample(store, name, int(match["pid"]))


def open_partial_reid(
    path: str | Path, *, probes: Literal["occluded", "cropped"] = "occluded", skip_bad: bool = False
) -> Dataset:
    """Read the set from a folder, a zip, or a zip that holds the zip.

    There is nothing to train on and there are no cameras.

    Args:
        path: the zip as downloaded, the unpacked folder, or one above it.
        probes: "occluded" are the pictures as taken, "cropped" those cut by hand to what shows of the person.
        skip_bad: leave files out whose names do not fit, and note them, instead of raising.

    Raises:
        DataError: the folders are not there, or twice, or a file name does not fit.
    """
    wanted = (PROBES[probes], GALLERY)
    cause = f"does not hold the folders {wanted[0]} and {wanted[1]}"
    missing = DataError(path, cause, "give the Partial-REID zip or folder itself")
    store, files = find_layout(path, wanted, missing=missing, together=True)
    notes: list[str] = []
    query, gallery = (
        tuple(read_folder(store, folder, files[folder], parse, skip_bad=skip_bad, notes=notes)) for folder in wanted
    )
    protocol = Protocol(NAMES[probes], same_camera_rule=False, per_identity=_per_identity(query, gallery))
    return Dataset(NAMES[probes], protocol, query=query, gallery=gallery, notes=tuple(notes))


def _per_identity(*sides: tuple[Sample, ...]) -> int | None:
    """How many crops everybody has on every side, if it is one number."""
    tables: list[dict[int, int]] = []
    for samples in sides:
        counts: dict[int, int] = {}
        for sample in samples:
            counts[sample.pid] = counts.get(sample.pid, 0) + 1
        tables.append(counts)
    numbers = {count for counts in tables for count in counts.values()}
    same_people = all(counts.keys() == tables[0].keys() for counts in tables)
    return numbers.pop() if same_people and len(numbers) == 1 else None
