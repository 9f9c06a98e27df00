"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glimpse.errors import ConfigError


def check_target(path: str | Path) -> None:
    """Refuse to replace what is no ordinary file.

    Raises:
        ConfigError: `path` is a folder, a pipe, a socket or a device, or cannot be looked at.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):  # said where the folder is made
        return
    except OSError as error:
        raise ConfigError(path, f"cannot be written ({error.strerror})", "give the name of a file") from error
    if stat.S_ISDIR(mode):
        raise ConfigError(path, "is a folder, and a file is to be written there", "give the name of a file")
    if not stat.S_ISREG(mode):
        raise ConfigError(path, "is a pipe, a socket or a device, which is not replaced", "give the name of a file")


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends without an error.

    On an error the temporary file is removed and `path` is left as it was. Where `path` is a link, the file it leads to
    is written and the link stays.

    Raises:
        ConfigError: `path` is there and is no ordinary file, or its folder cannot be made or written to.

    >>> import tempfile; folder = Path(tempfile.mkdtemp())
    >>> with atomic(folder / "a.txt") as draft:
    ...     _ = draft.write_text("whole")
    >>> [p.name for p in folder.iterdir()]
    ['a.txt']
    """
    check_target(path)
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=Path(path).suffix)
    except OSError as error:
        cause = f"cannot be written ({error.strerror})"
        raise ConfigError(path, cause, "choose a folder you can write to") from error
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        umask = os.umask(0)
        os.umask(umask)
        draft.chmod(0o666 & ~umask)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with atomic(path) as draft:
        draft.write_text(text, encoding="utf-8")


def check_free(folder: Path) -> None:
    """Refuse to write into what is there, unless it is an empty folder.

    Raises:
        ConfigError: it is.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(folder, "is not an empty folder", "choose a new one")


@contextmanager
def folder_draft(target: Path, file: bool = False) -> Iterator[Path]:
    """Give a folder beside `target`, which is gone when the block ends; `publish` moves what was made in it.

    Args:
        target: where things are to appear: a folder that does not exist yet or is empty, or a new file.
        file: whether it is a file.

    Raises:
        ConfigError: `target` is there, or cannot be written.
    """
    if file and target.exists():
        raise ConfigError(target, "is there already", "choose a new file, or remove this one")
    if not file:
        check_free(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        cause = f"cannot be written ({error.strerror})"
        raise ConfigError(target, cause, "choose a folder you can write to") from error
    try:
        yield draft
    except OSError as error:
        cause = f"cannot be written ({error.strerror})"
        raise ConfigError(target, cause, "choose a place on a disk with room") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def publish(made: Path, target: Path) -> None:
    """Move a file or folder that was made in a draft to its place, with the rights that new ones have."""
    umask = os.umask(0)
    os.umask(umask)
    if target.is_dir():
        target.rmdir()
    made.rename(target)
    target.chmod((0o777 if target.is_dir() else 0o666) & ~umask)
