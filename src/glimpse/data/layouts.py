"""One way in to every dataset: `open_dataset("KIND:PATH")`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from glimpse.data.dataset import Dataset
from glimpse.data.folders import open_folder
from glimpse.data.market1501 import FOLDERS, open_market1501
from glimpse.data.partial_reid import GALLERY, open_partial_reid
from glimpse.data.stores import find_folders
from glimpse.data.table import open_table
from glimpse.errors import DataError


def _folder(path: str, *, skip_bad: bool = False) -> Dataset:
    del skip_bad  # any file name will do in this layout
    return open_folder(path)


KINDS: dict[str, Callable[..., Dataset]] = {
    "market1501": open_market1501,
    "partialreid": partial(open_partial_reid, probes="occluded"),
    "partialreid-cropped": partial(open_partial_reid, probes="cropped"),
    "folder": _folder,
    "csv": open_table,
}
"""What can stand before the colon."""


def open_dataset(spec: str, *, skip_bad: bool = False) -> Dataset:
    """Open a dataset in place, folder or zip.

    Args:
        spec: `KIND:PATH`, KIND one of market1501, partialreid (occluded probes), partialreid-cropped, folder (a folder
            per person) and csv; or a PATH whose layout can be told.
        skip_bad: leave out files whose names do not fit and rows whose files are missing, and say so in the notes.

    Raises:
        DataError: the kind is not known or cannot be told, or the layout is not there.
    """
    kind, path = _told(spec)
    dataset = KINDS[kind](path, skip_bad=skip_bad)
    if not (dataset.train or dataset.query or dataset.gallery):
        raise DataError(spec, "holds no crops", "check that the folders are not empty")
    return replace(dataset, spec=f"{kind}:{path}")


def _told(spec: str) -> tuple[str, str]:
    """Kind and path of a spec."""
    kind, colon, path = spec.partition(":")
    if colon and kind in KINDS:
        if not path:
            raise DataError(spec, "names no path", f"write {kind}:PATH")
        return kind, os.path.expanduser(path)
    path = os.path.expanduser(spec)
    if not os.path.exists(path):
        if colon and len(kind) > 1 and os.sep not in kind:
            close = difflib.get_close_matches(kind.lower(), KINDS, n=1, cutoff=0.5)
            meant = f"; did you mean {close[0]}?" if close else ""
            raise DataError(spec, f"there is no kind of dataset {kind!r}{meant}", f"write KIND:PATH with {_kinds()}")
        raise DataError(spec, "does not exist", "check the path and its spelling")
    return _recognised(path), path


def _recognised(path: str) -> str:
    if Path(path).suffix.lower() in (".csv", ".tsv"):
        return "csv"
    if any(sum(map(bool, files.values())) > 1 for _, _, files in find_folders(path, tuple(FOLDERS.values()))):
        return "market1501"
    if find_folders(path, (GALLERY,)):
        cause = "is Partial-REID, which has two sets of probes"
        raise DataError(path, cause, f"write partialreid:{path} (occluded) or partialreid-cropped:{path}")
    try:
        open_folder(path)
    except DataError as error:
        cause = f"the layout cannot be told from the files (as a folder per person: {error.cause})"
        raise DataError(path, cause, f"write KIND:{path} with {_kinds()}") from error
    return "folder"


def _kinds() -> str:
    return f"KIND one of {', '.join(KINDS)}"
