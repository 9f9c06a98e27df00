"""What is odd about a dataset, found before hours of training or a wrong number."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from glimpse.data.dataset import SPLITS, Dataset, Split
from glimpse.data.images import decode
from glimpse.data.samples import Sample
from glimpse.errors import DataError


@dataclass(frozen=True, slots=True)
class SplitCount:
    """How much a split holds; `people` leaves junk and distractors out, `single` counts people with one crop."""

    split: Split
    crops: int
    people: int
    cameras: int
    junk_and_distractors: int
    single: int


@dataclass(frozen=True, slots=True)
class DatasetCheck:
    """What `check_dataset` found.

    Attributes:
        counts: sizes of the splits that are not empty.
        protocol: what the evaluation rules leave out, in sentences; empty if there is nothing to evaluate.
        remarks: what is worth knowing and may be meant.
        problems: what makes training fail or numbers wrong.
    """

    counts: tuple[SplitCount, ...]
    protocol: tuple[str, ...]
    remarks: tuple[str, ...]
    problems: tuple[str, ...]


def check_dataset(
    dataset: Dataset, *, read: bool = False, progress: Callable[[int], None] | None = None
) -> DatasetCheck:
    """Count a dataset and look for what is wrong with it.

    Problems are files that cannot be read, the same picture in query and gallery, people in both training and queries,
    and queries that nothing can match.

    Args:
        dataset: what `open_dataset` gives.
        read: also decode every picture, instead of only reading its bytes.
        progress: called with the number of crops read since the last call.
    """
    remarks, problems = list(dataset.notes), []
    counts = tuple(_count(split, getattr(dataset, split)) for split in SPLITS if getattr(dataset, split))
    for count in counts:
        if count.split == "train" and count.single:
            remarks.append(f"{count.single:,} people have one training crop only: no pair of them can be formed.")
    shared = {s.pid for s in dataset.train if s.pid > 0} & {s.pid for s in dataset.query}
    if shared:
        problems.append(f"{len(shared):,} people are both in train and query.")
    protocol: tuple[str, ...] = ()
    if dataset.query and dataset.gallery:
        try:
            report = dataset.protocol.relevance(dataset.query, dataset.gallery).report
        except DataError as error:
            problems.append(str(error))
        else:
            protocol = report.lines
            if report.unmatched:
                problems.append(f"{len(report.unmatched):,} queries have no match (first: {report.unmatched[0]}).")
    digests: dict[Split, dict[str, Sample]] = {}
    unread: list[str] = []
    for split in SPLITS:
        found = digests[split] = {}
        for sample in getattr(dataset, split):
            try:
                data = sample.store.read(sample.name)
                found.setdefault(hashlib.sha256(data).hexdigest(), sample)
                if read:
                    decode(data, sample.path)
            except DataError as error:
                unread.append(f"{error.where}: {error.cause}")
            if progress is not None:
                progress(1)
    twice = [(found, digests["gallery"][key]) for key, found in digests["query"].items() if key in digests["gallery"]]
    if twice:
        first = f"{twice[0][0].name} is {twice[0][1].name}"
        problems.append(f"{len(twice):,} pictures are in query and in gallery, byte by byte (first: {first}).")
    problems += _first_few(unread, "files cannot be read")
    return DatasetCheck(counts, protocol, tuple(dict.fromkeys(remarks)), tuple(problems))


def _count(split: Split, samples: Sequence[Sample]) -> SplitCount:
    per_person = Counter(s.pid for s in samples if s.pid > 0)
    return SplitCount(
        split=split,
        crops=len(samples),
        people=len(per_person),
        cameras=len({s.camid for s in samples if s.camid is not None}),
        junk_and_distractors=sum(s.pid <= 0 for s in samples),
        single=sum(n == 1 for n in per_person.values()),
    )


def _first_few(found: Sequence[str], what: str, shown: int = 5) -> list[str]:
    if not found:
        return []
    more = f"; and {len(found) - shown:,} more" if len(found) > shown else ""
    return [f"{len(found):,} {what}: {'; '.join(found[:shown])}{more}."]
