"""A dataset as every layout gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glimpse.data.protocol import Protocol
from glimpse.data.samples import Sample
from glimpse.data.words import count, people
from glimpse.errors import DataError

Split = Literal["train", "query", "gallery"]
SPLITS: tuple[Split, ...] = ("train", "query", "gallery")


@dataclass(frozen=True)
class Dataset:
    """Crops of a dataset, by split, with the rules to evaluate on it.

    Attributes:
        name: what tables call it.
        protocol: which gallery crops count for a query.
        train, query, gallery: the splits; any may be empty.
        notes: what was dropped or decided while reading, one sentence each, to be shown to the user.
        spec: what `open_dataset` was given.
    """

    name: str
    protocol: Protocol
    train: tuple[Sample, ...] = ()
    query: tuple[Sample, ...] = ()
    gallery: tuple[Sample, ...] = ()
    notes: tuple[str, ...] = ()
    spec: str = ""

    def split(self, name: Split) -> tuple[Sample, ...]:
        """The crops of a split.

        Raises:
            DataError: the split is empty, or there is none of that name.
        """
        if name not in SPLITS:
            raise DataError(self.spec or self.name, f"there is no split {name!r}", f"choose one of {', '.join(SPLITS)}")
        samples: tuple[Sample, ...] = getattr(self, name)
        if not samples:
            raise DataError(self.spec or self.name, f"has no {name} crops; it has {self._sizes()}", _REMEDIES[name])
        return samples

    def __str__(self) -> str:
        return "\n".join([f"{self.name}: {self._sizes()}", *self.notes])

    def _sizes(self) -> str:
        said = []
        for split in SPLITS:
            samples: tuple[Sample, ...] = getattr(self, split)
            if samples:
                pids = {sample.pid for sample in samples if sample.pid > 0}
                said.append(f"{count(len(samples), split + ' crop')} of {people(len(pids))}")
        return ", ".join(said) or "no crops at all"


_REMEDIES = {
    "train": "train on another dataset, and evaluate on this one",
    "query": "add query crops, or evaluate on another dataset",
    "gallery": "add gallery crops, or evaluate on another dataset",
}


def misfit(sample_path: str, expected: str) -> DataError:
    """The error for a file whose name does not say whose crop it is."""
    return DataError(
        sample_path,
        f"the file name is not of the form {expected}",
        "rename or remove the file, or skip such files (skip_bad=True, --skip-bad)",
    )
