"""Own crops: a folder per person, or just crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from glimpse.data.dataset import SPLITS, Dataset
from glimpse.data.protocol import Protocol
from glimpse.data.samples import DISTRACTOR, Sample
from glimpse.data.stores import AnyStore, FolderStore, ZipStore, images_only, is_image, open_store
from glimpse.data.words import count, people
from glimpse.errors import DataError

PROTOCOL = Protocol("folder per person", same_camera_rule=False)
DISTRACTORS = "_distractors"
"""Name of the folder for crops of nobody in particular: they join the gallery with pid 0."""

_LAYOUT = (
    "arrange crops as ROOT/PERSON/*.jpg or ROOT/{train,query,gallery}/PERSON/*.jpg; "
    "for crops without identities, search takes the folder as it is"
)


def open_folder(path: str | Path) -> Dataset:
    """Read a folder (or zip) with a folder per person, at the top or inside `train`, `query` and `gallery`.

    Folder names are the people, numbered from 1 in alphabetical order over all splits; crops may lie at any depth
    below. `_distractors` in the gallery (or at the top) holds crops of nobody in particular. There are no cameras.

    Without split folders every crop is in `train`, and for evaluation the first crop by name of each person with two or
    more is also in `query` and all other crops in `gallery`.

    Raises:
        DataError: there are no crops, or some lie outside a person's folder.
    """
    store = open_store(path)
    images, others = images_only(store.names())
    notes = [f"{count(others, 'file')} ignored: not pictures."] if others else []
    if not images:
        raise DataError(path, "holds no pictures", _LAYOUT)
    skipped = _wrapping(images) if isinstance(store, ZipStore) else 0
    parts = {name: name.split("/")[skipped:] for name in images}
    tops = {each[0] for each in parts.values() if len(each) > 1}
    in_splits = bool(tops) and tops <= set(SPLITS)
    if not in_splits and tops & set(SPLITS):
        odd = sorted(tops - set(SPLITS))[0]
        cause = f"holds both split folders ({', '.join(sorted(tops & set(SPLITS)))}) and others (such as {odd})"
        raise DataError(path, cause, _LAYOUT)
    depth = 2 if in_splits else 1
    loose = [name for name in images if len(parts[name]) <= depth]
    if loose:
        cause = f"{count(len(loose), 'picture')} outside a person's folder (first: {loose[0]})"
        raise DataError(path, cause, _LAYOUT)
    persons = sorted({each[depth - 1] for each in parts.values()} - {DISTRACTORS})
    pids = {person: row + 1 for row, person in enumerate(persons)} | {DISTRACTORS: DISTRACTOR}
    samples = {name: Sample(store, name, pids[parts[name][depth - 1]]) for name in images}
    nobody = sum(sample.pid == DISTRACTOR for sample in samples.values())
    if nobody:
        notes.append(f"{count(nobody, 'crop')} in {DISTRACTORS}, taken as distractors (pid 0).")
    if in_splits:
        return _from_splits(samples, {name: each[0] for name, each in parts.items()}, notes)
    return _one_for_all(tuple(samples.values()), notes)


def _wrapping(names: Sequence[str]) -> int:
    """How many folders a zip puts around everything: one if all crops share the first folder and it is no person's."""
    split = [name.split("/") for name in names]
    return int(len({each[0] for each in split}) == 1 and all(len(each) > 2 for each in split))


def _from_splits(samples: dict[str, Sample], split_of: dict[str, str], notes: list[str]) -> Dataset:
    sides = {split: tuple(s for name, s in samples.items() if split_of[name] == split) for split in SPLITS}
    for split in ("train", "query"):
        odd = next((sample for sample in sides[split] if sample.pid == DISTRACTOR), None)
        if odd is not None:
            raise DataError(odd.path, f"a {split} crop cannot be a distractor", f"move {DISTRACTORS} to gallery")
    shared = shared_people_note(sides["train"], sides["query"])
    return Dataset("folder", PROTOCOL, sides["train"], sides["query"], sides["gallery"], (*notes, *shared))


def _one_for_all(samples: tuple[Sample, ...], notes: list[str]) -> Dataset:
    train = tuple(sample for sample in samples if sample.pid != DISTRACTOR)
    query, gallery, said = first_of_each(samples)
    return Dataset("folder", PROTOCOL, train, query, gallery, (*notes, *said))


def first_of_each(samples: Sequence[Sample]) -> tuple[tuple[Sample, ...], tuple[Sample, ...], list[str]]:
    """Query, gallery and notes for crops that come without splits.

    The first crop by name of each person (of each person and camera, where there are cameras and another camera has a
    crop left) asks; the rest answers.
    """
    by_name = sorted(samples, key=lambda sample: sample.name)
    own: dict[int, list[Sample]] = {}
    for sample in by_name:
        if sample.pid != DISTRACTOR:
            own.setdefault(sample.pid, []).append(sample)
    asked: set[str] = set()
    for crops in own.values():
        first: dict[int | None, Sample] = {}
        for sample in crops:
            first.setdefault(sample.camid, sample)
        kept = [sample for sample in crops if first[sample.camid] is not sample]
        for sample in first.values():
            if any(sample.camid is None or other.camid != sample.camid for other in kept):
                asked.add(sample.name)
            else:
                kept.append(sample)
    query = tuple(sample for sample in by_name if sample.name in asked)
    gallery = tuple(sample for sample in by_name if sample.name not in asked)
    if not query:
        return (), (), ["No person has two crops that could match: there is nothing to evaluate on."]
    alone = len(own) - len({sample.pid for sample in query})
    notes = [
        f"No split given: the first crop of each person is a query ({len(query):,}), the rest the gallery "
        f"({len(gallery):,}).",
        "The same crops make up train: do not evaluate a model here that was trained on them.",
    ]
    if alone:
        notes.append(f"{people(alone)} without two crops that could match: in the gallery only.")
    return query, gallery, notes


def shared_people_note(train: Sequence[Sample], query: Sequence[Sample]) -> tuple[str, ...]:
    """A note if people are both in train and query, else none."""
    shared = {sample.pid for sample in train} & {sample.pid for sample in query}
    if not shared:
        return ()
    return (f"{people(len(shared))} both in train and query: results on them say little about new people.",)


def open_crops(path: str | Path, *, report: Callable[[str], None] | None = None) -> list[Sample]:
    """Crops without identities, for a gallery to search: a folder (at any depth), a zip, or one picture.

    Args:
        path: where they are.
        report: called with a sentence if files were left out because they do not end like pictures.

    Returns:
        Samples with pid 0 and no camera, sorted by name.

    Raises:
        DataError: the path does not exist or holds no pictures.
    """
    where = Path(path)
    store: AnyStore
    if where.is_file() and is_image(where.name):
        store, images, others = FolderStore(where.parent), [where.name], 0
    else:
        store = open_store(path)
        images, others = images_only(store.names())
    if not images:
        cause = f"holds no pictures ({count(others, 'other file')})" if others else "holds no files"
        raise DataError(path, cause, "give a folder, a zip or a picture (.jpg, .png, ...)")
    if others and report is not None:
        report(f"{count(others, 'file')} in {path} ignored: not pictures.")
    return [Sample(store, name, DISTRACTOR) for name in images]
