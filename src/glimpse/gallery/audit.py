"""Who added, deleted and searched what, and when: a file of lines that is only ever added to."""

from __future__ import annotations

import errno
import fcntl
import getpass
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from glimpse.errors import GalleryError
from glimpse.records import Record

_START = "0" * 32
_END = b', "digest": "%s"}\n'


class Entry(Record):
    """A line of the log.

    Attributes:
        when: UTC, ISO 8601.
        who: as the caller said, or user and machine.
        what: `create`, `add`, `search`, `delete`, `update`, `compact`, ...
        details: of what.
        previous: `digest` of the line before, so that one that is taken out shows.
        digest: 32 digits of the SHA-256 of the line up to here, so that one that is changed shows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    when: str
    who: str
    what: str
    details: dict[str, Any] = Field(default_factory=dict)
    previous: str
    digest: str


def whoever() -> str:
    """Who is at work, where nobody says: user and machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


class Audit:
    """The log of a gallery.

    Args:
        path: of the file; it is made with the first line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def write(self, what: str, details: Mapping[str, Any], who: str) -> None:
        """Add a line. Several processes may do so at once.

        Raises:
            GalleryError: it cannot be written.
        """
        try:
            # Not "a" alone: the last line is read first.
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            last = _last_line(handle)
            entry = {
                "when": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "who": who,
                "what": what,
                "details": dict(details),
                "previous": _digest(last) if last else _START,
            }
            # What a power cut left unfinished is ended before the next line begins.
            broken = b"\n" if last and not last.endswith(b"\n") else b""
            body = json.dumps(entry, ensure_ascii=False, default=str).encode(errors="replace").removesuffix(b"}")
            line = broken + body + _END % _digest_of(body)
            end = os.fstat(handle).st_size
            if os.write(handle, line) != len(line):
                os.ftruncate(handle, end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            os.close(handle)

    def _unwritable(self, error: OSError) -> GalleryError:
        cause = f"the audit log cannot be written ({error.strerror})"
        return GalleryError(self.path, cause, "make room or get the right to write, or open the gallery without a log")

    def __iter__(self) -> Iterator[Entry]:
        """All lines, the oldest first.

        Raises:
            GalleryError: a line is damaged, or is not the one that its successor followed.
        """
        if not self.path.exists():
            return
        previous = _START
        with open(self.path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # no line that is being written
            for number, line in enumerate(file, 1):
                try:
                    entry = Entry.model_validate_json(line)
                except ValidationError:
                    entry = None
                if entry is None or not line.endswith(_END % _digest(line).encode()):
                    cause = "is not the line that was written: it was damaged or changed"
                    raise GalleryError(f"{self.path}:{number}", cause, "restore the file from a copy")
                if entry.previous != previous:
                    cause = "does not follow the line before it: some were taken out or put in"
                    raise GalleryError(f"{self.path}:{number}", cause, "restore the file from a copy")
                previous = entry.digest
                yield entry


def _digest(line: bytes) -> str:
    """Of a whole line."""
    return _digest_of(line[: -len(_END % _START.encode())]).decode()


def _digest_of(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:32].encode()


def _last_line(handle: int) -> bytes:
    """The last line of a file, with its line end if it has one."""
    size = os.fstat(handle).st_size
    length = 4096
    while True:
        tail = os.pread(handle, length, max(0, size - length))
        if b"\n" in tail[:-1] or length >= size:
            return tail[:-1].rpartition(b"\n")[2] + tail[-1:]
        length *= 4
