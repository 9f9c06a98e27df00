"""Making cues of many crops: resumable, in several processes, into a cache."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from glimpse.cues.cache import CueCache, Kind, Row, digest_of
from glimpse.cues.estimators import PartEstimator, PointEstimator
from glimpse.cues.limbs import limb_partition
from glimpse.cues.parts import BODY, LIMBS, PartMap
from glimpse.cues.points import KeyPoints
from glimpse.cues.readers import CueFile, Value, fitted, matched
from glimpse.cues.skeleton import Skeleton
from glimpse.data import Sample, decode
from glimpse.data.words import count
from glimpse.errors import DataError
from glimpse.processes import mapped

Estimator: TypeAlias = PointEstimator | PartEstimator
Progress = Callable[[int], None]
Crop = tuple[bytes, Sample]
"""A crop and the digest of its file."""
_Found = tuple[tuple[int, int], KeyPoints | PartMap] | DataError
_CHUNK = 16  # crops handed to a process at a time


@dataclass
class Made:
    """What became of the crops of a dataset.

    Attributes:
        source: what made the cues.
        made: crops whose cues were made now.
        known: crops whose cues were there already (copies of a crop count here).
        missing: names of the crops for which the source has nothing.
        bad: one error for each crop or row that could not be used.
        seconds: that the making took.
    """

    source: str
    made: int = 0
    known: int = 0
    missing: list[str] = field(default_factory=list)
    bad: list[DataError] = field(default_factory=list)
    seconds: float = 0.0

    def timed(self, started: float) -> Made:
        """Itself, with the time since `started`."""
        self.seconds = time.perf_counter() - started
        return self


def make_cues(
    samples: Sequence[Sample],
    cache: CueCache,
    estimator: Estimator,
    *,
    jobs: int = 1,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Made:
    """Let an estimator look at all crops whose cues by it are not in the cache.

    Stopped and started again, it goes on where it was: every 1,024 crops reach the disk.

    Args:
        samples: the crops.
        cache: where cues are kept.
        estimator: of key points or of part maps.
        jobs: processes.
        skip_bad: leave out crops that cannot be read, and report them, instead of stopping at the first.
        progress: called with the number of crops done since the last call.

    Raises:
        DataError: a crop cannot be read (without `skip_bad`), or the cache is damaged.
        ConfigError: the estimator cannot be opened, or a process was killed.
    """
    started = time.perf_counter()
    says = estimator.skeleton if isinstance(estimator, PointEstimator) else estimator.scheme
    made = Made(estimator.name)
    todo, _ = _unknown(samples, cache, "points" if isinstance(estimator, PointEstimator) else "parts", made, skip_bad)
    _advance(progress, len(samples) - len(todo))
    crops = [crop for _, crop in todo]
    with (
        cache.writer(estimator.name, says) as writer,
        mapped(_look, crops, jobs, chunk=_CHUNK, start=_start, given=(estimator,)) as found,
    ):
        for (digest, sample), result in zip(todo, found, strict=True):
            if isinstance(result, DataError):
                if not skip_bad:
                    raise result
                made.bad.append(result)
            else:
                writer.add(Row(digest, sample.name, *result))
                made.made += 1
            _advance(progress, 1)
    return made.timed(started)


def make_limbs(
    samples: Sequence[Sample],
    cache: CueCache,
    *,
    points: str | None = None,
    masks: str | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Made:
    """Derive maps of head, upper, lower body and shoes from key points and person masks in the cache.

    Args:
        samples: the crops.
        cache: where cues are, and where the maps go.
        points, masks: which of the cache's sources to use; may be left out where there is only one.
        skip_bad: see `make_cues`.
        progress: see `make_cues`.

    Raises:
        ConfigError: the cache has no key points or no masks, or several and none is named.
        DataError: a crop cannot be read (without `skip_bad`), or the cache is damaged.
    """
    started = time.perf_counter()
    joints = cache.points(points)
    if masks is None:  # its own maps are none to make it from
        others = [source for source in cache.sources("parts") if not source.startswith("limbs@")]
        masks = others[0] if len(others) == 1 else None
    persons = cache.parts(masks)
    made = Made(f"limbs@{hashlib.sha256(f'{joints.source} {persons.source}'.encode()).hexdigest()[:8]}")
    todo, _ = _unknown(samples, cache, "parts", made, skip_bad)
    _advance(progress, len(samples) - len(todo))
    with cache.writer(made.source, LIMBS) as writer:
        for digest, sample in todo:
            found, person = joints.get(digest), persons.get(digest)
            if found is None or person is None:
                made.missing.append(sample.name)
            else:
                writer.add(Row(digest, sample.name, person.size, limb_partition(found, person.mask(BODY))))
                made.made += 1
            _advance(progress, 1)
    return made.timed(started)


def _unknown(
    samples: Sequence[Sample], cache: CueCache, kind: Kind, made: Made, skip_bad: bool
) -> tuple[list[Crop], dict[str, bytes]]:
    """Crops of which the cache has nothing by the source, each content once; and the digests of all by name."""
    seen = cache.digests(kind, made.source)
    todo: list[Crop] = []
    digests: dict[str, bytes] = {}
    for sample in samples:
        try:
            digest = digest_of(sample.store.read(sample.name))
        except DataError as error:
            if not skip_bad:
                raise
            made.bad.append(error)
            continue
        digests[sample.name] = digest
        if digest in seen:
            made.known += 1
        else:
            seen.add(digest)
            todo.append((digest, sample))
    return todo, digests


_estimator: Estimator  # of this process


def _start(estimator: Estimator) -> None:
    global _estimator
    _estimator = estimator


def _look(sample: Sample) -> _Found:
    try:
        image = decode(sample.store.read(sample.name), sample.path)
    except DataError as error:
        return error
    size = (image.height, image.width)
    return size, _estimator.points(image) if isinstance(_estimator, PointEstimator) else _estimator.parts(image)


def _advance(progress: Progress | None, crops: int) -> None:
    if progress is not None and crops:
        progress(crops)


def add_file(
    samples: Sequence[Sample],
    cache: CueCache,
    file: CueFile[Value],
    *,
    name: str | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Made:
    """Take cues over that a file has.

    Args:
        samples: the crops.
        cache: where the cues go.
        file: what `read_points` or `read_parts` gave.
        name: of the source in the cache; files that were made in the same way, one for each split perhaps, may share
            one. The file's own name and a digest of what it says if not given.
        skip_bad: see `make_cues`.
        progress: see `make_cues`.

    Returns:
        What became of it. `bad` holds, with file and row, what was wrong in the file, rows of no crop of `samples`, and
        points and maps that do not fit theirs; `missing` the crops of which the file has nothing.

    Raises:
        ConfigError: `name` cannot be one of a folder.
        DataError: a crop cannot be read (without `skip_bad`), the cache is damaged, or the file is of other crops.
    """
    started = time.perf_counter()
    made = Made(name or _source(file))
    first = next(iter(file.found.values()))
    says = first.skeleton if isinstance(first, KeyPoints) else first.scheme
    crops: dict[str, tuple[bytes, tuple[int, int]]] = {}
    todo, digests = _unknown(samples, cache, "points" if isinstance(says, Skeleton) else "parts", made, skip_bad)
    for digest, sample in todo:
        try:
            image = decode(sample.store.read(sample.name), sample.path)
            crops[sample.name] = digest, (image.height, image.width)
        except DataError as error:
            if not skip_bad:
                raise
            made.bad.append(error)
        _advance(progress, 1)
    known = matched(file, digests)
    if not known.found:
        cause = f"none of its {count(len(file.found), 'row')} is of any of the {count(len(samples), 'crop')}"
        raise DataError(file.path, f"{cause} (first: '{next(iter(file.found))}')", known.problems[-1].remedy)
    new = {name: value for name, value in known.found.items() if name in crops}
    fit = fitted(replace(known, found=new), lambda name: crops[name][1])
    made.bad += fit.problems
    made.missing += [name for name in crops if name not in known.found]
    with cache.writer(made.source, says) as writer:
        for name, value in fit.found.items():
            digest, size = crops[name]
            writer.add(Row(digest, name, size, value))
            made.made += 1
    return made.timed(started)


def _source(file: CueFile[Value]) -> str:
    """Name of the file and a digest of what it says."""
    digest = hashlib.sha256()
    for name, value in sorted(file.found.items()):
        array = value.values if isinstance(value, KeyPoints) else value.labels
        digest.update(f"{name} {array.shape}".encode())
        digest.update(array.tobytes())
    stem = re.sub(r"[^\w.+=-]", "_", Path(file.path).stem) or "file"
    return f"{stem}@{digest.hexdigest()[:8]}"
