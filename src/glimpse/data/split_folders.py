"""What the layouts with one folder per split have in common: find the folders, read a person from each file name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from glimpse.data.samples import Sample
from glimpse.data.stores import AnyStore, find_folders, images_only
from glimpse.data.words import count
from glimpse.errors import DataError


def find_layout(
    path: str | Path, folders: Sequence[str], *, missing: DataError, together: bool = False
) -> tuple[AnyStore, dict[str, list[str]]]:
    """The one place at or below `path` where `folders` lie.

    Args:
        path: a folder, a zip, or a zip in a zip.
        folders: their names.
        missing: raised if there is no such place.
        together: whether all of the folders must be there, and not just any.

    Returns:
        (store, files of each folder).

    Raises:
        DataError: there is no such place, or more than one.
    """
    places = [place for place in find_folders(path, folders) if not together or all(place[2].values())]
    if not places:
        raise missing
    if len(places) > 1:
        found = " and ".join(f"{store.root}/{prefix}" for store, prefix, _ in places[:2])
        raise DataError(path, f"holds the layout more than once ({found})", "give one of them")
    store, _, files = places[0]
    return store, files


def read_folder(
    store: AnyStore,
    folder: str,
    names: Sequence[str],
    parse: Callable[[AnyStore, str], Sample],
    *,
    skip_bad: bool,
    notes: list[str],
) -> list[Sample]:
    """The samples that the file names of one folder say.

    Args:
        store, folder, names: where, and the files there.
        parse: makes a sample of a name, or raises a `DataError`.
        skip_bad: leave out names that do not fit.
        notes: gets a sentence on what was left out.

    Raises:
        DataError: a name does not fit and `skip_bad` is off.
    """
    images, others = images_only(names)
    if others:
        notes.append(f"{count(others, 'file')} in {folder} ignored: not pictures.")
    samples: list[Sample] = []
    bad: list[str] = []
    for name in images:
        try:
            samples.append(parse(store, name))
        except DataError:
            if not skip_bad:
                raise
            bad.append(name)
    if bad:
        notes.append(f"{count(len(bad), 'file')} in {folder} skipped: names that do not fit (first: {bad[0]}).")
    return samples
