"""Where key points come from when crops are embedded: from an estimator that looks at them, or from a cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from PIL import Image

from glimpse.cues.cache import CueCache, CueTable, digest_of
from glimpse.cues.estimators import KINDS, PointEstimator, open_estimator
from glimpse.cues.points import KeyPoints
from glimpse.cues.skeleton import Skeleton
from glimpse.errors import ConfigError, DataError

Read = Callable[[], bytes]
"""Gives the bytes of a crop's file."""


class PointSource(Protocol):
    """Key points of the crops that are embedded."""

    def __call__(self, image: Image.Image, read: Read | None) -> KeyPoints | None:
        """The people in a crop, `None` if nothing is known of it.

        Args:
            image: the crop as it is embedded.
            read: gives its file; `None` where there is none, or where the crop is not what lies in it.
        """
        ...


class EstimatedPoints:
    """An estimator looks at every crop.

    Args:
        estimator: of key points.
    """

    def __init__(self, estimator: PointEstimator) -> None:
        self.estimator = estimator

    def __call__(self, image: Image.Image, read: Read | None) -> KeyPoints:
        """What the estimator finds."""
        return self.estimator.points(image)


class CachedPoints:
    """Key points of a cache, for crops that are embedded as they lie on disk.

    Args:
        table: see `CueCache.points`.
    """

    def __init__(self, table: CueTable[KeyPoints, Skeleton]) -> None:
        self.table = table

    def __call__(self, image: Image.Image, read: Read | None) -> KeyPoints | None:
        """What the cache has.

        Raises:
            ConfigError: the crop has no file, or was changed.
            DataError: it is not in the cache, or its row is damaged.
        """
        if read is None:
            cause = "a cache knows crops by their files, and this crop has none, or was changed after it was read"
            raise ConfigError("key points", cause, f"name an estimator: {', '.join(KINDS[:3])}")
        found = self.table.get(digest_of(read()))
        if found is None:
            # That nobody is in it would be a finding. That nobody looked would give wrong distances in silence.
            cause = f"'{self.table.source}' has no row of this crop"
            raise DataError("key points", cause, "make them of all crops: glimpse cues make DATA --out FOLDER")
        return found


def open_points(spec: str) -> PointSource:
    """The key points that a text names: `cache:FOLDER`, `cache:FOLDER,SOURCE` or an estimator (see `open_estimator`).

    Raises:
        ConfigError: there are none in the folder or several and none is named, or there is no such estimator, or it
            finds no key points.
    """
    if spec.startswith("cache:"):
        folder, _, source = spec.removeprefix("cache:").partition(",")
        if not Path(folder).is_dir():
            raise ConfigError(spec, f"there is no folder '{folder}'", "name the folder that `glimpse cues make` filled")
        return CachedPoints(CueCache(folder).points(source or None))
    estimator = open_estimator(spec)
    if not isinstance(estimator, PointEstimator):
        raise ConfigError(spec, "does not find key points", f"choose from cache:FOLDER, {', '.join(KINDS[:3])}")
    return EstimatedPoints(estimator)
