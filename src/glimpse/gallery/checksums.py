"""SHA-256 of every file of a gallery, so that a flipped byte is found wherever it is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glimpse.errors import GalleryError

MUTABLE = ("latest_version_hint.json",)
"""Files that are written over, and say nothing that others do not."""


@dataclass(frozen=True, slots=True)
class Sum:
    """What a file was when it was recorded: its SHA-256 and its bytes."""

    digest: str
    size: int


class Checksums:
    """The recorded files of a folder: a text file with a line for each, and a last one for itself.

    Files of a gallery are written once and never changed, so each is read once after it came, and again by `check`.
    What is to be removed or replaced is struck before. So, wherever a process is killed, what is recorded is there as
    recorded; at worst something is there that is not recorded, and the next `record` does that.

    Args:
        path: of the text file.
        folders: what lies in these folders beside it is recorded.
    """

    def __init__(self, path: Path, folders: Sequence[str]) -> None:
        self.path = path
        self.folders = folders

    def read(self) -> dict[str, Sum]:
        """Recorded files by their path in the gallery.

        Raises:
            GalleryError: the text file is damaged.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._damaged(f"cannot be read ({error.strerror})") from error
        body, end, _ = data.rpartition(b"  ")
        body = body[: body.rfind(b"\n") + 1]
        if not end or data != body + self._own(body):
            raise self._damaged("was changed: its SHA-256 is not the one in its last line")
        found: dict[str, Sum] = {}
        for line in body.decode().split("\n")[:-1]:
            digest, size, name = line.split("  ", 2)
            found[name] = Sum(digest, int(size))
        return found

    def _own(self, body: bytes) -> bytes:
        return f"{hashlib.sha256(body).hexdigest()}  {len(body)}  {self.path.name}\n".encode()

    def _write(self, sums: Mapping[str, Sum]) -> None:
        body = "".join(f"{each.digest}  {each.size}  {name}\n" for name, each in sums.items()).encode()
        draft = self.path.with_name(f".{self.path.name}")  # one is enough: the caller holds the lock
        with open(draft, "wb") as file:
            file.write(body + self._own(body))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, self.path)

    def _damaged(self, cause: str) -> GalleryError:
        return GalleryError(self.path, cause, "restore the gallery from a copy, or remove this file to record it anew")

    def here(self, folders: Sequence[str]) -> Iterator[str]:
        """Paths of the files that are there."""
        root = self.path.parent
        for folder in folders:
            for at, _, names in os.walk(root / folder):
                for name in sorted(names):
                    path = os.path.relpath(os.path.join(at, name), root)
                    if name not in MUTABLE and not name.startswith(".") and path.isprintable():
                        yield path

    def record(self, folders: Sequence[str]) -> None:
        """Record files that came to some folders, and see them on the disk; the caller holds the gallery's lock."""
        known = self.read()
        fresh = {name: self.of(name, sync=True) for name in self.here(folders) if name not in known}
        if fresh:
            self._write(known | {name: found for name, found in fresh.items() if found is not None})

    def strike(self, gone: Callable[[str], bool]) -> None:
        """Strike the files that are about to go or to be replaced; the caller holds the gallery's lock."""
        known = self.read()
        kept = {name: each for name, each in known.items() if not gone(name)}
        if len(kept) < len(known):
            self._write(kept)

    def of(self, name: str, *, sync: bool = False) -> Sum | None:
        """A file as it is now, which is brought to the disk with `sync`; `None` if it is gone."""
        try:
            with open(self.path.parent / name, "rb") as file:
                if sync:
                    os.fsync(file.fileno())
                return Sum(hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size)
        except FileNotFoundError:
            return None

    def check(self, progress: Callable[[int], None] | None = None) -> tuple[list[str], list[str]]:
        """Compare every file with what was recorded.

        Returns:
            What is wrong, one sentence each; and files that are not recorded.

        Raises:
            GalleryError: the text file is damaged.
        """
        known = self.read()
        wrong = []
        for name, expected in known.items():
            try:
                found = self.of(name)
            except OSError as error:
                wrong.append(f"{name} cannot be read ({error.strerror})")
                continue
            if found is None:
                wrong.append(f"{name} is missing")
            elif found.size != expected.size:
                wrong.append(f"{name} has {found.size:,} bytes instead of {expected.size:,}")
            elif found.digest != expected.digest:
                wrong.append(f"{name} was changed: its SHA-256 is not the recorded one")
            if progress is not None:
                progress(1)
        return wrong, [name for name in self.here(self.folders) if name not in known]
