"""A validation split cut from training crops, by identity, so that nothing is tuned on a test set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from glimpse.data.dataset import Dataset
from glimpse.data.protocol import Protocol
from glimpse.data.samples import DISTRACTOR, JUNK, Sample
from glimpse.data.words import count, people
from glimpse.errors import ConfigError, DataError


def holdout(
    samples: Sequence[Sample], *, identities: int | float, seed: int = 0, name: str = "holdout"
) -> tuple[tuple[Sample, ...], Dataset]:
    """Set some people aside for validation; no person is on both sides.

    One crop per person and camera (per person, where there are no cameras) becomes a query, the rest the gallery.
    A crop that would be left without a valid match stays in the gallery, so every query has one.

    Args:
        samples: training crops; all or none with camera ids.
        identities: how many people to set aside (an int), or which share of them (a float in (0, 1)).
        seed: the same seed gives the same split, whatever the order of `samples`.
        name: what reports call the split.

    Returns:
        (crops left to train on, in their order; a dataset with query and gallery).

    Raises:
        ConfigError: `identities` leaves nobody on one side.
        DataError: only some crops have camera ids, or no query can be made.
    """
    known = sorted({sample.pid for sample in samples if sample.pid not in (JUNK, DISTRACTOR)})
    aside = round(identities * len(known)) if isinstance(identities, float) else identities
    if not 0 < aside < len(known):
        cause = f"{identities} of {len(known)} people leaves nobody on one side"
        raise ConfigError("identities", cause, "set aside at least one person and fewer than all")
    with_camera = sum(sample.camid is not None for sample in samples)
    if with_camera not in (0, len(samples)):
        first = next(sample for sample in samples if sample.camid is None)
        cause = f"has no camera id, but {with_camera:,} of {len(samples):,} crops have one"
        raise DataError(first.path, cause, "give every crop a camera id, or none at all")

    rng = np.random.default_rng(seed)
    chosen = {known[row] for row in rng.permutation(len(known))[:aside]}
    groups: dict[int, dict[int | None, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in sorted(samples, key=lambda sample: (sample.path, sample.pid)):
        if sample.pid in chosen:
            groups[sample.pid][sample.camid].append(sample)

    query: list[Sample] = []
    gallery = [sample for sample in samples if sample.pid == DISTRACTOR]
    alone = 0
    for pid in sorted(groups):
        asked, kept = _cut(groups[pid], rng)
        query.extend(asked)
        gallery.extend(kept)
        alone += not asked
    if not query:
        cause = "no person set aside has two crops that could match (by two cameras, where cameras are known)"
        raise DataError(name, cause, "set more people aside")
    train = tuple(s for s in samples if s.pid not in chosen and s.pid not in (JUNK, DISTRACTOR))
    notes = [f"{aside:,} of {len(known):,} people set aside with seed {seed}: no person is in train and validation."]
    if alone:
        notes.append(f"{people(alone)} of them without two crops that could match: in the gallery only.")
    junk = sum(sample.pid == JUNK for sample in samples)
    if junk:
        notes.append(f"{count(junk, 'junk crop')} (pid -1) dropped.")
    protocol = Protocol(name, same_camera_rule=with_camera > 0)
    return train, Dataset(name, protocol, query=tuple(query), gallery=tuple(gallery), notes=tuple(notes))


def _cut(by_camera: dict[int | None, list[Sample]], rng: np.random.Generator) -> tuple[list[Sample], list[Sample]]:
    """Queries and gallery crops of one person, each query with a match."""
    asked: list[Sample] = []
    kept: list[Sample] = []
    for camera in sorted(by_camera, key=lambda camera: -1 if camera is None else camera):
        own = by_camera[camera]
        pick = int(rng.integers(len(own)))
        asked.append(own[pick])
        kept.extend(own[:pick] + own[pick + 1 :])
    queries: list[Sample] = []
    for sample in asked:
        # A crop handed back to the gallery can only help the ones after it; those before it are safe already.
        if any(sample.camid is None or other.camid != sample.camid for other in kept):
            queries.append(sample)
        else:
            kept.append(sample)
    return queries, kept
