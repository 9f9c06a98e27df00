"""A Lance table of crops in a folder or an object store: the one place where the table's own library is spoken to."""

from __future__ import annotations

import errno
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glimpse.errors import GalleryError

NAME = "crops.lance"
"""Of the table in its folder; LanceDB opens it as the table `crops`."""

INDEX, MANIFEST = "index", "manifest.json"
"""Folder of the shortlist index beside it, and the one file in that which is replaced."""

STORAGE = "2.0"
"""Version of Lance's file format: twice as quick to write and to scan as 2.1 for rows of plain numbers."""

ROWS = 1 << 20
"""Rows of a fragment after compaction, at most."""

TRIES = 20
"""How often reading starts again because another process has compacted the table meanwhile."""

_VERSIONS, _HINT = "_versions", "latest_version_hint.json"
"""Folder of what names the files of each version, and a file there that says which is the newest."""

Result = TypeVar("Result")

_RAISED = (OSError, ValueError, RuntimeError)  # by the table's library
# No space left, a file too large, a quota: as the system says it, as Rust does, and as NumPy does where it writes.
_FULL = ("No space left", "os error 28", "too large", "os error 27", "quota", "os error 122", " requested and ")
_FORBIDDEN = ("ermission denied", "os error 13", "ead-only", "os error 30")
ROOM = "make room on the disk, and do it again: nothing that was acknowledged is lost"


class Table:
    """A table at one version, which `refresh` moves to the newest.

    Args:
        uri: of the folder: a path, or `s3://...` and the like.
        dataset: what Lance opened.
        options: of the object store.
    """

    def __init__(self, uri: str, dataset: Any, options: Mapping[str, str] | None = None) -> None:
        self.uri = uri
        self.dataset = dataset
        self.options = dict(options or {}) or None
        self._lock = threading.Lock()

    @classmethod
    def create(cls, uri: str, schema: pa.Schema, options: Mapping[str, str] | None = None) -> Table:
        """An empty table.

        Raises:
            GalleryError: there is one, or it cannot be written.
        """
        lance = library()
        target = f"{uri}/{NAME}"
        with written(uri):
            try:
                dataset = lance.write_dataset(
                    schema.empty_table(),
                    target,
                    mode="create",
                    data_storage_version=STORAGE,
                    enable_stable_row_ids=True,
                    storage_options=dict(options or {}) or None,
                )
            except OSError as error:
                if "already exists" not in str(error):
                    raise
                raise GalleryError(uri, "there is a gallery already", "open it, or choose another place") from error
        return cls(uri, dataset, options)

    @classmethod
    def open(cls, uri: str, options: Mapping[str, str] | None = None) -> Table:
        """The table at `uri`.

        Raises:
            GalleryError: there is none, or it is damaged.
        """
        lance = library()
        target = f"{uri}/{NAME}"
        if is_local(uri) and not Path(local_path(uri), NAME).is_dir():
            raise GalleryError(
                uri, "there is no gallery", "make one with `glimpse gallery create`, or correct the path"
            )
        try:
            return cls(uri, lance.dataset(target, storage_options=dict(options or {}) or None), options)
        except _RAISED as error:
            if "not found" in str(error).lower() and "manifest" not in str(error).lower():
                remedy = "make one with `glimpse gallery create`, or correct the address"
                raise GalleryError(uri, f"there is no gallery ({first_line(error)})", remedy) from error
            remedy = "check it with `glimpse gallery verify`, and restore it from a copy"
            raise GalleryError(uri, f"cannot be opened ({first_line(error)})", remedy) from error

    @property
    def version(self) -> int:
        """Number of the version that is open."""
        return int(self.dataset.version)

    def refresh(self) -> bool:
        """Go to the newest version; whether that is another.

        Raises:
            GalleryError: it cannot be read.
        """
        failed: Exception | None = None
        with self._lock:
            for _ in range(TRIES):
                try:
                    newest = self.dataset.latest_version
                    if newest == self.dataset.version:
                        return False
                    self.dataset = self.dataset.checkout_version(newest)
                    return True
                except _RAISED as error:  # it may have been cleaned away between the two
                    failed = error
        assert failed is not None
        raise self._damaged(failed) from failed

    def steady(self, work: Callable[[], Result]) -> Result:
        """What `work` gives, which reads; it starts again if it failed while the table went on.

        Compaction removes the files of older versions, also from under those who read them.

        Raises:
            GalleryError: `work` raises it, and the table has not moved.
        """
        for _ in range(TRIES):
            version = self.version
            try:
                return work()
            except GalleryError:
                self.refresh()
                if self.version == version:
                    raise
        return work()

    def read(self, work: Callable[[Any], Result]) -> Result:
        """What `work` gives for the dataset, or for the newest if its files were cleaned away meanwhile.

        Raises:
            GalleryError: it cannot be read.
        """

        def once() -> Result:
            try:
                return work(self.dataset)
            except _RAISED as error:
                raise self._damaged(error) from error

        return self.steady(once)

    def _damaged(self, error: Exception) -> GalleryError:
        remedy = "check it with `glimpse gallery verify`, and restore it from a copy"
        return GalleryError(self.uri, f"cannot be read ({first_line(error)})", remedy)

    def append(self, rows: pa.Table) -> None:
        """Add rows; on disk when it returns, all or none of them.

        Raises:
            GalleryError: they cannot be written.
        """
        lance = library()
        with self._whole():
            self.dataset = lance.write_dataset(
                rows, self.dataset, mode="append", data_storage_version=STORAGE, storage_options=self.options
            )

    def count(self, where: str = "") -> int:
        """Rows that fit."""
        return int(self.read(lambda dataset: dataset.count_rows(filter=where or None)))

    def rows(self, columns: Sequence[str], where: str = "", *, limit: int | None = None) -> pa.Table:
        """Columns of the rows that fit, with `_rowid`, in the order of the table."""
        return self.read(
            lambda dataset: dataset.scanner(
                columns=list(columns), filter=where or None, limit=limit, with_row_id=True, scan_in_order=True
            ).to_table()
        )

    def row_ids(self, where: str = "") -> npt.NDArray[np.int64]:
        """Numbers of the rows that fit."""
        found: npt.NDArray[np.int64] = self.rows([], where)["_rowid"].to_numpy().astype(np.int64)
        return found

    def living(self) -> tuple[int, npt.NDArray[np.int64]]:
        """A version and the numbers of all its rows."""

        def both(dataset: Any) -> tuple[int, npt.NDArray[np.int64]]:
            found = dataset.scanner(columns=[], with_row_id=True).to_table()["_rowid"]
            return int(dataset.version), found.to_numpy().astype(np.int64)

        return self.read(both)

    def files(self) -> set[str]:
        """Paths of the files that hold the rows, from the folder that the table lies in."""
        return {f"{NAME}/data/{file.path}" for each in self.dataset.get_fragments() for file in each.data_files()}

    def take(self, row_ids: npt.NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Columns of some rows, in the order of the numbers.

        Raises:
            GalleryError: a row is gone.
        """
        numbers = [int(number) for number in row_ids]
        if not numbers:
            return self.dataset.schema.empty_table().select(list(columns))
        there = [number for number in numbers if number >= 0]
        found = self.read(lambda dataset: dataset._take_rows(there, columns=list(columns)))
        if len(found) != len(numbers):
            raise GalleryError(self.uri, "rows are not there, or not any more", "search again")
        return found

    def blocks(
        self, columns: Sequence[str], where: str = "", *, rows: int = 8192, fragments: Sequence[int] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Columns of the rows that fit, with `_rowid`, in the order of the table, some at a time.

        Args:
            columns: which.
            where: condition.
            rows: of a block, at most.
            fragments: numbers of the only fragments to read.
        """
        chosen = None
        if fragments is not None:
            wanted = set(fragments)
            chosen = [each for each in self.dataset.get_fragments() if each.fragment_id in wanted]
        scanner = self.dataset.scanner(
            columns=list(columns),
            filter=where or None,
            with_row_id=True,
            batch_size=rows,
            scan_in_order=True,
            fragments=chosen,
            batch_readahead=4,
        )
        try:
            for batch in scanner.to_batches():
                for start in range(0, batch.num_rows, rows):
                    yield batch.slice(start, rows)
        except _RAISED as error:
            raise self._damaged(error) from error

    def delete(self, where: str) -> None:
        """Mark the rows that fit as gone; their bytes stay until `compact`."""
        with self._whole():
            self.dataset.delete(where)

    def update(self, values: Mapping[str, str], where: str) -> None:
        """Set columns, by SQL expressions, of the rows that fit."""
        with self._whole():
            self.dataset.update(dict(values), where=where)

    def rewrite(self) -> None:
        """Write small fragments together, and without the deleted rows."""
        with self._whole():
            self.dataset.optimize.compact_files(
                target_rows_per_fragment=ROWS, materialize_deletions=True, materialize_deletions_threshold=0.0
            )
            self.dataset = library().dataset(f"{self.uri}/{NAME}", storage_options=self.options)
            # A version keeps the condition it was made by, which may name who was deleted: let the newest have none.
            self.dataset.update_config({"compacted": f"{time.time():.0f}"})

    def clean(self) -> None:
        """Remove all older versions, and the files that only they have."""
        with written(self.uri):
            # Files that no version names are left over from a process that was killed, or another is writing them now:
            # not in a folder, where writers wait for each other.
            self.dataset.cleanup_old_versions(older_than=timedelta(0), delete_unverified=is_local(self.uri))

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Write, and take it back if a file of it is shorter than Lance meant it to be.

        Lance may take a small file for written of which a full disk took the first bytes only. In a folder writers
        wait for each other, so that the newest version is the one that was just made.

        Raises:
            GalleryError: it could not be written; the table is as it was.
        """
        if not is_local(self.uri):
            with written(self.uri):
                yield
            return
        folder = Path(local_path(self.uri), NAME)
        before = set(os.listdir(folder / _VERSIONS))
        there = {each.fragment_id: _files(each) for each in self.dataset.get_fragments()}
        try:
            with written(self.uri):
                yield
                for each in self.dataset.get_fragments():
                    if there.get(each.fragment_id) != _files(each):
                        _read_ends(folder, each)
        except GalleryError:
            # Removing needs no room. Without the hint Lance looks the newest version up.
            for name in (*set(os.listdir(folder / _VERSIONS)) - before, _HINT):
                (folder / _VERSIONS / name).unlink(missing_ok=True)
            self.dataset = library().dataset(f"{self.uri}/{NAME}", storage_options=self.options)
            raise


def _files(fragment: Any) -> tuple[str, ...]:
    """What a fragment is made of."""
    deleted = fragment.metadata.deletion_file
    named = (deleted.path(fragment.fragment_id),) if deleted else ()
    return (*(file.path for file in fragment.data_files()), *named)


def _read_ends(folder: Path, fragment: Any) -> None:
    """See that the files of a fragment are whole.

    Raises:
        OSError: one is not.
    """
    for file in fragment.data_files():
        size = (folder / "data" / file.path).stat().st_size
        if size != file.file_size_bytes:
            raise OSError(errno.ENOSPC, f"No space left: {file.path} has {size} of {file.file_size_bytes} bytes")
    if fragment.metadata.deletion_file:
        fragment.scanner(columns=[], with_row_id=True).to_table()


@contextmanager
def written(where: str) -> Iterator[None]:
    """Say plainly why something cannot be written.

    Raises:
        GalleryError: the disk is full, the place is not to be written to, or the table's library says otherwise.
    """
    try:
        yield
    except _RAISED as error:
        said = str(error)
        if any(words in said for words in _FULL):
            raise GalleryError(where, "the disk is full", ROOM) from error
        if any(words in said for words in _FORBIDDEN):
            raise GalleryError(where, "cannot be written to", "get the right to write there, or use a copy") from error
        raise GalleryError(
            where, f"cannot be written ({first_line(error)})", "see what the disk or store says"
        ) from error


def library() -> Any:
    """Lance.

    Raises:
        GalleryError: it is not installed.
    """
    # Processes are spawned here, never forked; what other libraries fork does not touch a table.
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    try:
        import lance
    except ImportError as error:
        cause = f"galleries need what is not installed ({error.name})"
        raise GalleryError("gallery", cause, "install the extra: pip install 'glimpse-reid[gallery]'") from error
    return lance


def first_line(error: Exception) -> str:
    """What an error says, without the rest."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def is_local(uri: str) -> bool:
    """Whether it is a folder of this machine.

    >>> is_local("people.gallery"), is_local("file:///people"), is_local("s3://bucket/people")
    (True, True, False)
    """
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> str:
    """The folder of a local address."""
    return os.path.abspath(uri.removeprefix("file://"))
