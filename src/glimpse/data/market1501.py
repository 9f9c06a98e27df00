"""Market-1501: Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015. Also own data laid out so."""

from __future__ import annotations

import re
from pathlib import Path

from glimpse.data.dataset import Dataset, misfit
from glimpse.data.protocol import Protocol
from glimpse.data.samples import DISTRACTOR, JUNK, Sample
from glimpse.data.split_folders import find_layout, read_folder
from glimpse.data.stores import AnyStore
from glimpse.data.words import count
from glimpse.errors import DataError

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
PROTOCOL = Protocol("Market-1501", same_camera_rule=True)
EXPECTED = "PID_cCAMERAsSEQUENCE_FRAME_BOX.jpg, such as 0002_c1s1_000451_03.jpg"

SEQUENCE_FRAMES = 1_000_000
"""Frames are numbered anew in each sequence; sequences are put this far apart."""

# The set as published holds names that end in .jpg.jpg.
_NAME = re.compile(r"(?P<pid>-1|\d+)_c(?P<camera>\d+)s(?P<sequence>\d+)_(?P<frame>\d+)_\d+(\.\w+)+")


def parse(store: AnyStore, name: str) -> Sample:
    """The sample that a file name says.

    `time` counts frames, sequence after sequence: it orders crops, and is a true distance inside one sequence only.

    Raises:
        DataError: the name does not fit.
    """
    match = _NAME.fullmatch(name.rpartition("/")[2])
    if match is None:
        raise misfit(f"{store.root}/{name}", EXPECTED)
    time = (int(match["sequence"]) - 1) * SEQUENCE_FRAMES + int(match["frame"])
    return Sample(store, name, int(match["pid"]), int(match["camera"]), float(time))


def open_market1501(path: str | Path, *, skip_bad: bool = False) -> Dataset:
    """Read the layout from a folder or a zip, at any depth.

    Junk (pid -1) is dropped, distractors (pid 0) stay in the gallery.

    Args:
        path: the zip as downloaded, or the unpacked folder, or one above it.
        skip_bad: leave files out whose names do not fit, and note them, instead of raising.

    Raises:
        DataError: the folders are not there, or twice, or a file name does not fit.
    """
    expected = ", ".join(FOLDERS.values())
    missing = DataError(path, f"holds none of the folders {expected}", "give the Market-1501 zip or folder itself")
    store, files = find_layout(path, tuple(FOLDERS.values()), missing=missing)
    notes: list[str] = []
    splits: dict[str, tuple[Sample, ...]] = {}
    for split, folder in FOLDERS.items():
        samples = read_folder(store, folder, files[folder], parse, skip_bad=skip_bad, notes=notes)
        kept = tuple(sample for sample in samples if sample.pid != JUNK)
        if len(kept) < len(samples):
            notes.append(f"{count(len(samples) - len(kept), 'junk crop')} (pid -1) dropped from {split}.")
        nobody = sum(sample.pid == DISTRACTOR for sample in kept)
        if nobody and split == "gallery":
            notes.append(f"{count(nobody, 'distractor')} (pid 0) kept in the gallery.")
        elif nobody:
            first = next(sample for sample in kept if sample.pid == DISTRACTOR)
            remedy = "number people from 1; 0 is kept for distractors in the gallery"
            raise DataError(first.path, f"a {split} crop has pid 0, which means nobody in particular", remedy)
        splits[split] = kept
    return Dataset("Market-1501", PROTOCOL, splits["train"], splits["query"], splits["gallery"], tuple(notes))
