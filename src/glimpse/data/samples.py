"""Crops and where their bytes come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

JUNK = -1
"""Person id of detections that fit nobody: dropped when a dataset is read."""
DISTRACTOR = 0
"""Person id of crops that show none of the queried people: they stay in the gallery."""


class Store(Protocol):
    """Where bytes come from: a folder or a zip. Picklable, so that loader processes can open it again."""

    root: str

    def read(self, name: str) -> bytes:
        """Bytes of the file `name`."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One crop.

    Attributes:
        name: path inside the store; `store.root + "/" + name` is what messages show.
        pid: person id; -1 junk, 0 distractor.
        camid: camera id, or `None` where the dataset has none.
        time: seconds or frame number, if known.
    """

    store: Store = field(repr=False)
    name: str
    pid: int
    camid: int | None = None
    time: float | None = None

    @property
    def path(self) -> str:
        """What to call the crop in messages and reports."""
        return f"{self.store.root}/{self.name}"
