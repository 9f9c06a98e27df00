"""Folders and zips read the same way: names in, bytes out, nothing unpacked."""

from __future__ import annotations

import io
import os
import threading
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from glimpse.errors import DataError
from glimpse.pictures import IMAGE_SUFFIXES

_CLUTTER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


def is_image(name: str) -> bool:
    """Whether the ending of `name` is that of a picture; the file is not looked at.

    >>> is_image("a/0001.JPG"), is_image("a/readme.txt")
    (True, False)
    """
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _is_clutter(name: str) -> bool:
    """Whether `name` is what a desktop leaves behind: hidden files, `__MACOSX`, thumbnails."""
    return any(part.startswith(".") or part in _CLUTTER for part in name.split("/"))


@contextmanager
def _taking_out(where: str) -> Iterator[None]:
    """Say what keeps the file `where` from being read out of a zip."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(where, f"is damaged inside the zip ({error})", "download or copy the zip again") from error
    except RuntimeError as error:  # what zipfile raises for a password, and a kind of it for compression it cannot undo
        cause = f"cannot be taken out of the zip ({error})"
        raise DataError(where, cause, "make the zip again with no password and plain compression") from error


class FolderStore:
    """A folder of files.

    Args:
        root: the folder.

    Raises:
        DataError: `root` is not a folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root).rstrip("/\\") or str(root)
        if not os.path.isdir(root):
            raise DataError(root, "is not a folder", "give the path of an existing folder")

    def names(self) -> tuple[str, ...]:
        """Every file below the folder, sorted, parts joined by `/`; links are followed, hidden files left out."""
        found: list[str] = []
        seen: set[str] = set()
        for folder, below, files in os.walk(self.root, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:  # a link that leads back up
                below.clear()
                continue
            seen.add(real)
            below[:] = sorted(name for name in below if not _is_clutter(name))
            inside = os.path.relpath(folder, self.root).replace(os.sep, "/")
            prefix = "" if inside == "." else inside + "/"
            found.extend(prefix + name for name in files if not _is_clutter(name))
        return tuple(sorted(found))

    def read(self, name: str) -> bytes:
        """Bytes of the file `name`.

        Raises:
            DataError: there is no such file, or it cannot be read.
        """
        try:
            with open(os.path.join(self.root, name), "rb") as file:
                return file.read()
        except FileNotFoundError as error:
            raise DataError(
                f"{self.root}/{name}", "there is no such file", "check the path and its spelling"
            ) from error
        except OSError as error:
            cause = f"cannot be read ({error.strerror})"
            raise DataError(f"{self.root}/{name}", cause, "check that it is a file and that you may read it") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FolderStore) and other.root == self.root

    def __hash__(self) -> int:
        return hash(("folder", self.root))

    def __repr__(self) -> str:
        return f"FolderStore({self.root!r})"


class _Archive:
    """An open zip: its index by tidy name and a lock, since reference counts in `zipfile` are not guarded."""

    def __init__(self, file: zipfile.ZipFile, root: str) -> None:
        self.process = os.getpid()
        self.file = file
        self.lock = threading.Lock()
        self.index: dict[str, zipfile.ZipInfo] = {}
        for info in file.infolist():
            name = info.filename.replace("\\", "/")  # as written by some tools on Windows
            if info.is_dir() or name.endswith("/") or _is_clutter(name):
                continue
            if name in self.index:
                raise DataError(f"{root}/{name}", "the zip holds two files of this name", "make the zip again")
            self.index[name] = info


class ZipStore:
    """A zip read at random, never unpacked.

    Safe to share between threads, to pickle and to fork: every process opens the file for itself.

    Args:
        path: the zip.
        inner: name of a zip inside it that is meant instead; it is held in memory while open.

    Raises:
        DataError: there is no such file, it is no zip, or it holds one name twice.
    """

    def __init__(self, path: str | Path, inner: str | None = None) -> None:
        self.zip_path = str(path)
        self.inner = inner
        self.root = self.zip_path if inner is None else f"{self.zip_path}/{inner}"
        self._archive: _Archive | None = None
        self._open()

    def names(self) -> tuple[str, ...]:
        """Every file in the zip, sorted; hidden files and what macOS adds are left out."""
        return tuple(sorted(self._open().index))

    def read(self, name: str) -> bytes:
        """Bytes of the file `name`, checked against the zip's checksum.

        Raises:
            DataError: there is no such file, or it is damaged or encrypted.
        """
        archive = self._open()
        info = archive.index.get(name)
        where = f"{self.root}/{name}"
        if info is None:
            raise DataError(where, "there is no such file in the zip", "check the name and its spelling")
        with _taking_out(where), archive.lock:
            return archive.file.read(info)

    def _open(self) -> _Archive:
        archive = self._archive
        if archive is None or archive.process != os.getpid():  # a forked process must not share the file position
            archive = self._archive = _Archive(self._file(), self.root)
        return archive

    def _file(self) -> zipfile.ZipFile:
        try:
            if self.inner is None:
                return zipfile.ZipFile(self.zip_path)
            with zipfile.ZipFile(self.zip_path) as outer:
                info = outer.getinfo(self.inner)
                with _taking_out(self.root):
                    inner = outer.read(info)
            return zipfile.ZipFile(io.BytesIO(inner))
        except FileNotFoundError as error:
            raise DataError(self.root, "there is no such file", "check the path and its spelling") from error
        except KeyError as error:
            raise DataError(self.root, "there is no such zip inside the zip", "check the name") from error
        except zipfile.BadZipFile as error:
            raise DataError(self.root, "is not a zip, or is damaged", "download or copy it again") from error
        except OSError as error:
            raise DataError(self.root, f"cannot be read ({error.strerror})", "check that you may read it") from error

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_archive": None}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZipStore) and other.root == self.root

    def __hash__(self) -> int:
        return hash(("zip", self.root))

    def __repr__(self) -> str:
        return f"ZipStore({self.root!r})"


AnyStore = FolderStore | ZipStore
"""A store that can list what it holds."""


def open_store(path: str | Path) -> AnyStore:
    """The folder or zip at `path`, or the zip inside a zip (`outer.zip/inner.zip`): `open_store(store.root) == store`.

    Raises:
        DataError: it does not exist or is neither.
    """
    if os.path.isdir(path):
        return FolderStore(path)
    if not os.path.exists(path):
        for above in Path(path).parents:
            if above.is_file():
                return ZipStore(above, Path(path).relative_to(above).as_posix())
        raise DataError(path, "does not exist", "check the path and its spelling")
    return ZipStore(path)


def find_folders(path: str | Path, wanted: Sequence[str]) -> list[tuple[AnyStore, str, dict[str, list[str]]]]:
    """Where below `path` any of the folders `wanted` lie side by side with files in them.

    Looks at any depth, and in zips inside a zip only when the zip itself holds none of them.

    Returns:
        (store, prefix, files of each wanted folder) for each place found; a prefix is empty or ends in `/`.
    """
    outer = open_store(path)
    found = _places(outer, wanted)
    if not found and isinstance(outer, ZipStore):
        for name in outer.names():
            if name.lower().endswith(".zip"):
                found.extend(_places(ZipStore(outer.zip_path, name), wanted))
    return found


def _places(store: AnyStore, wanted: Sequence[str]) -> list[tuple[AnyStore, str, dict[str, list[str]]]]:
    places: dict[str, dict[str, list[str]]] = {}
    for name in store.names():
        above, _, _ = name.rpartition("/")
        before, slash, folder = above.rpartition("/")
        if folder in wanted:
            files = places.setdefault(before + slash, {each: [] for each in wanted})
            files[folder].append(name)
    return [(store, prefix, files) for prefix, files in places.items()]


def images_only(names: Sequence[str]) -> tuple[list[str], int]:
    """The names that end like pictures, and how many do not."""
    images = [name for name in names if is_image(name)]
    return images, len(names) - len(images)
