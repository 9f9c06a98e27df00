"""Which crops cues are made of."""

from __future__ import annotations

from collections.abc import Sequence

from glimpse.data import SPLITS, Sample, open_crops, open_dataset
from glimpse.errors import DataError

LOOSE = "crops"
"""What stands before the colon for crops that are no dataset, and the name of their only split."""


def open_splits(spec: str, splits: Sequence[str] | None = None, *, skip_bad: bool = False) -> dict[str, list[Sample]]:
    """Crops by split.

    Args:
        spec: a dataset (see `open_dataset`), or `crops:PATH` for a folder or zip of crops.
        splits: only these; all that are not empty if not given.
        skip_bad: see `open_dataset`.

    Raises:
        DataError: there is no such dataset, or it has none of these splits.
    """
    if spec.startswith(f"{LOOSE}:"):
        found = {LOOSE: open_crops(spec.removeprefix(f"{LOOSE}:"))}
    else:
        dataset = open_dataset(spec, skip_bad=skip_bad)
        found = {split: list(getattr(dataset, split)) for split in SPLITS if getattr(dataset, split)}
    for split in splits or ():
        if split not in found:
            raise DataError(spec, f"has no split '{split}'", f"choose from {', '.join(found)}")
    return {split: crops for split, crops in found.items() if not splits or split in splits}
