"""Cues of the training crops: looked for before any work, read into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from glimpse.cues.cache import CueCache, CueTable, digest_of
from glimpse.cues.needs import Needs
from glimpse.cues.parts import LEAST_BODY, Mask, PartMap, PartScheme
from glimpse.cues.points import KeyPoints
from glimpse.cues.skeleton import Skeleton, mirror_pairs
from glimpse.cues.sources import Read
from glimpse.data import Sample
from glimpse.data.transforms import shown
from glimpse.data.words import count
from glimpse.errors import ConfigError, DataError
from glimpse.training.crops import UNKNOWN, CropCues


@dataclass(frozen=True)
class CueSource:
    """Where a training takes its cues from.

    Attributes:
        folder: of the cache that `glimpse cues make` fills.
        points, parts: which of its sources; may be left out where there is only one.
    """

    folder: Path
    points: str | None = None
    parts: str | None = None


@dataclass(frozen=True)
class CueTables:
    """The cues that a method needs, opened; those that it does not are `None`."""

    needs: Needs
    points: CueTable[KeyPoints, Skeleton] | None
    parts: CueTable[PartMap, PartScheme] | None

    @property
    def sources(self) -> dict[str, str]:
        """What made the cues, by their kind."""
        tables = {"points": self.points, "parts": self.parts}
        return {kind: table.source for kind, table in tables.items() if table is not None}


def open_cues(method: str, needs: Needs, source: CueSource | None) -> CueTables | None:
    """Open what a method needs.

    Args:
        method: its name, for messages.
        needs: of it.
        source: where its cues are.

    Returns:
        `None` if it needs nothing.

    Raises:
        ConfigError: cues are needed and not given, or are not in the cache.
        DataError: the cues that are there do not tell what the method needs.
    """
    if not needs:
        return None
    if source is None:
        wanted = [
            ("key points", "--keypoints ESTIMATOR", needs.points),
            ("part maps", "--masks ESTIMATOR", needs.parts),
        ]
        said = " and ".join(name for name, _, need in wanted if need)
        options = " ".join(option for _, option, need in wanted if need)
        remedy = f"make them (glimpse cues make DATA --out FOLDER {options}) and name the folder: --cues FOLDER"
        raise ConfigError(f"method '{method}'", f"learns from {said}, and none are given", remedy)
    cache = CueCache(source.folder)
    points = cache.points(source.points) if needs.points is not None else None
    parts = cache.parts(source.parts) if needs.parts else None
    if points is not None and needs.points is not None:
        KeyPoints(np.zeros((0, len(points.says), 3), np.float32), points.says).to(needs.points)
    if parts is not None:
        for group in needs.parts:
            parts.says.rows(group)
    return CueTables(needs, points, parts)


def read_cues(
    tables: CueTables, samples: Sequence[Sample], crops: Sequence[Tensor]
) -> tuple[list[CropCues], list[str]]:
    """Cues of all crops, and what is to be said of those that have none.

    Args:
        tables: what `open_cues` gave.
        samples: the crops.
        crops: the same, decoded: uint8 `[3, h, w]` each.

    Raises:
        DataError: no crop has cues, a part map is of another size than its crop, or a row of the cache is damaged.
    """
    needs, found = tables.needs, []
    absent = {"key points": 0, "part maps": 0}
    nobody = empty = 0
    rows = 0 if needs.points is None else len(needs.points)
    with_heat = needs.heat and tables.points is not None and tables.points.has_heat
    for sample, crop in zip(samples, crops, strict=True):
        digest = digest_of(sample.store.read(sample.name))
        points, size = torch.zeros(rows, 3), (crop.shape[1], crop.shape[2])
        heat = torch.zeros(rows if with_heat else 0, 1, 1, dtype=torch.uint8)
        parts = torch.zeros(len(needs.parts), *size, dtype=torch.uint8)
        if tables.points is not None and needs.points is not None:
            people = tables.points.get(digest)
            people = None if people is None else people.to(needs.points)
            target = None if people is None else people.target()
            if with_heat and people is not None and people.heat is not None:
                heat = torch.from_numpy(people.heat.copy())
            absent["key points"] += people is None
            nobody += people is not None and target is None
            if target is not None:
                points = torch.from_numpy(target.copy())
        if tables.parts is not None:
            labels = tables.parts.get(digest)
            absent["part maps"] += labels is None
            if labels is not None and labels.size != size:
                cause = f"the part map by {tables.parts.source} is {labels.size[0]} x {labels.size[1]}, the crop "
                cause += f"{size[0]} x {size[1]} pixels high and wide"
                raise DataError(sample.path, cause, "make the maps from these crops")
            lost = labels is not None and labels.body < LEAST_BODY
            empty += lost
            # Every training crop is of a person: where a map shows none, nobody was found, and nothing is known.
            if labels is None or lost:
                parts.fill_(UNKNOWN)
            else:
                for row, group in enumerate(needs.parts):
                    parts[row] = torch.from_numpy(labels.mask(group))
        found.append(CropCues(points, parts, heat))
    notes = []
    for kind, missing in absent.items():
        if missing == len(samples):
            cause = f"none of the {count(missing, 'training crop')} has {kind} in the cache"
            raise DataError("cues", cause, "make them from the same files: crops are known by their content")
        if missing:
            notes.append(f"{count(missing, 'training crop')} of {len(samples):,} without {kind}.")
    if nobody:
        notes.append(f"{count(nobody, 'training crop')} of {len(samples):,} in which no person was found.")
    if empty:
        notes.append(f"{count(empty, 'training crop')} of {len(samples):,} with a part map that shows nobody.")
    return found, notes


def swaps(needs: Needs) -> dict[str, tuple[tuple[int, int], ...]]:
    """Rows of points, scores and parts that trade places when a crop is mirrored, for `TransformSettings.swap`."""
    points = () if needs.points is None else needs.points.swap
    return {"points": points, "scores": points, "heat": points, "parts": mirror_pairs(needs.parts)}


class HeldOutPoints:
    """Key points for validation: those of the cache; where a crop is covered, those of them that still show, as an
    estimator that is never deceived would find them.

    Args:
        table: key points of the clear crops.
    """

    def __init__(self, table: CueTable[KeyPoints, Skeleton]) -> None:
        self.table = table
        self._covered: dict[int, tuple[Sample, Mask]] = {}  # by the identity of the picture, until it is asked for

    def cover(self, image: Image.Image, sample: Sample, visible: Mask) -> None:
        """Note that `image` is the crop `sample`, of which only `visible` `[h, w]` shows."""
        self._covered[id(image)] = sample, visible

    def __call__(self, image: Image.Image, read: Read | None) -> KeyPoints | None:
        """See `PointSource`."""
        if read is not None:
            return self.table.get(digest_of(read()))
        sample, visible = self._covered.pop(id(image))
        people = self.table.get(digest_of(sample.store.read(sample.name)))
        if people is None:
            return None
        values = people.values.copy()
        for person in values:
            person[:, 2] *= shown(torch.from_numpy(person[:, :2]), torch.from_numpy(visible).float()).numpy()
        heat = people.heat
        if heat is not None:
            shows = torch.from_numpy(visible)[None, None].float()
            heat = heat * (F.interpolate(shows, heat.shape[1:], mode="nearest")[0].numpy() > 0)
        return KeyPoints(values, people.skeleton, heat)
