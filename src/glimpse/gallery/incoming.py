"""Crops on their way into a gallery: where they are found, and what is known of them.

Crops are read lazily and in order. What is wrong with one is handed on in its place, as a `DataError`, and the others
still come. `content` names a crop without decoding it, so that those a gallery has already cost a hash and no more.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar, cast

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from glimpse.data.dataset import SPLITS, Split
from glimpse.data.folders import DISTRACTORS, open_crops, open_folder
from glimpse.data.images import decode
from glimpse.data.layouts import KINDS, open_dataset
from glimpse.data.market1501 import parse
from glimpse.data.samples import Sample
from glimpse.data.stores import AnyStore, FolderStore, ZipStore
from glimpse.data.words import count
from glimpse.errors import ConfigError, DataError, plain_words
from glimpse.gallery.cutting import Box, cut

COLUMNS = ("path", "pid", "camid", "camera", "time", "track", "tags", "x0", "y0", "x1", "y1")
"""Columns that a list of crops may have; only the first is needed, and `camid` is another name of `camera`."""

NOBODY = frozenset({"0", "-1"})
"""Person ids that name nobody: distractors and detections that fit no one."""

THREADS = min(4, os.cpu_count() or 1)
"""Threads that decode. Files are read one after another: a crop's few kilobytes are read and hashed three times as fast
as threads can take turns at it."""

_CHUNK = 16  # crops a thread takes at a time
_SMALL = 8_192  # bytes of a file that is decoded before a thread could be asked to

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Incoming:
    """One crop on its way in.

    Attributes:
        content: 32 hex digits that name what the crop shows: `file_content` of a crop that is a file of its own,
            `pixel_content` of one that was cut. Equal files and equal cuts have equal contents, wherever they lie.
        source: path of the file (in a zip: ROOT/NAME), or of the frame or video that it is cut from.
        data: the bytes of the file; `None` for a crop cut from a frame.
        image: the picture (RGB), where it is decoded already; `read` gives it in any case.
        frame: number of the frame, from 1.
        box: where it was cut, in whole pixels of the frame.
        pid: who it is.
        camera: what saw it.
        track: which track it belongs to.
        time: when, in seconds.
        tags: anything else.
    """

    content: str
    source: str
    data: bytes | None = field(default=None, repr=False, compare=False)
    image: Image.Image | None = field(default=None, repr=False, compare=False)
    frame: int | None = None
    box: Box | None = None
    pid: str | None = None
    camera: str | None = None
    track: str | None = None
    time: float | None = None
    tags: tuple[str, ...] = ()

    def read(self) -> Image.Image:
        """The picture (RGB), decoded if it is not yet.

        Raises:
            DataError: the file is no picture, or damaged.
        """
        if self.image is not None:
            return self.image
        return decode(self.data or b"", self.source)


@dataclass(frozen=True)
class IncomingCrops:
    """Crops that can be gone through any number of times; nothing is read before.

    Gives an `Incoming` for each, or a `DataError` in the place of what cannot be had. The pictures of files are not
    decoded: see `decoded`.

    Attributes:
        source: where they come from.
        notes: what was left out or decided, one sentence each.
        count: how many there are, those that cannot be had included; where a whole frame is missing, its boxes are
            reported as one.
        read: begins to go through them.
    """

    source: str
    notes: tuple[str, ...]
    count: int
    read: Callable[[], Iterator[Incoming | DataError]] = field(repr=False)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Incoming | DataError]:
        return self.read()


def file_content(data: bytes) -> str:
    """`Incoming.content` of a crop that is a file: half of the SHA-256 of its bytes.

    >>> file_content(b"not even a picture")
    '3d9c3e4cf8553e7660d1abadd2ea2287'
    """
    digest = hashlib.sha256(b"glimpse crop: file\0")
    digest.update(data)
    return digest.hexdigest()[:32]


def pixel_content(image: Image.Image) -> str:
    """`Incoming.content` of a crop that was cut from a frame: half of the SHA-256 of its size and RGB pixels."""
    digest = hashlib.sha256(f"glimpse crop: {image.width} x {image.height} pixels\0".encode())
    digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()[:32]


def ahead(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    chunk: int = 1,
    threads: int = THREADS,
    quick: Callable[[Item], bool] | None = None,
) -> Iterator[Result]:
    """The results of `work` for each item, in their order, made by a few threads a little ahead of who asks.

    Items are taken in the thread that asks, and never more than `chunk * (threads + 2)` wait.

    Args:
        work: what threads do.
        items: what they do it to.
        chunk: items that a thread takes at a time.
        threads: how many.
        quick: tells items that are not worth a thread; a chunk of nothing else is done in the thread that asks.
    """
    each = iter(items)
    waiting: deque[Future[list[Result]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            while part := list(islice(each, chunk)):
                if quick is not None and all(map(quick, part)):
                    done: Future[list[Result]] = Future()
                    done.set_result([work(item) for item in part])
                    waiting.append(done)
                else:
                    waiting.append(pool.submit(lambda part: [work(item) for item in part], part))
                if len(waiting) >= threads + 2:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:  # whoever asks may stop before the end
            for future in waiting:
                future.cancel()


def decoded(
    crops: Iterable[Incoming | DataError], known: Container[str] = frozenset()
) -> Iterator[Incoming | DataError]:
    """The crops with their `image`, in order, those that cannot be decoded as their error.

    Args:
        crops: crops and errors; errors are handed on.
        known: contents that need no picture: such crops are handed on as they are. It is asked a little ahead, in the
            thread that takes the crops.
    """
    marked = ((crop, isinstance(crop, DataError) or crop.content in known) for crop in crops)
    return ahead(_decoded, marked, chunk=_CHUNK, quick=_is_quick)


def _is_quick(marked: tuple[Incoming | DataError, bool]) -> bool:
    crop, enough = marked
    return enough or (isinstance(crop, Incoming) and len(crop.data or b"") < _SMALL)


def _decoded(marked: tuple[Incoming | DataError, bool]) -> Incoming | DataError:
    crop, enough = marked
    if enough or isinstance(crop, DataError):
        return crop
    try:
        return replace(crop, image=crop.read())
    except DataError as error:
        return error


def open_incoming(spec: str | Path, *, split: Split | None = None, people: bool = False) -> IncomingCrops:
    """Crops by what they are given as: a list (`.csv`), a dataset (`KIND:PATH`), a folder, a zip, or one picture.

    Args:
        spec: see `open_list`, `open_split` and `open_files`.
        split: of a dataset.
        people: whether folders are people, for a folder or zip.

    Raises:
        DataError: see the three.
        ConfigError: an option does not go with what `spec` is.
    """
    spec = str(spec)
    kind, colon, _ = spec.partition(":")
    path = os.path.expanduser(spec)
    # What is no path and has a colon is a dataset of a kind that is not known, which is said where datasets are opened.
    if colon and (kind in KINDS or not os.path.exists(path)):
        if people:
            raise ConfigError("people", f"{spec} is a dataset, which says itself who is who", "leave the option out")
        return open_split(spec, split)
    if split is not None:
        cause = f"{spec} is no dataset and has no split {split!r}"
        raise ConfigError("split", cause, f"leave the option out, or write KIND:{spec} with KIND one of {_kinds()}")
    if Path(path).suffix.lower() == ".csv":
        if people:
            raise ConfigError("people", f"{spec} is a list of crops", "leave the option out and fill its column pid")
        return open_list(path)
    return open_files(path, people=people)


def _kinds() -> str:
    return ", ".join(KINDS)


@dataclass(frozen=True, slots=True)
class _File:
    """A crop that is a file of its own, and what is known of it."""

    sample: Sample
    pid: str | None = None
    camera: str | None = None
    frame: int | None = None
    time: float | None = None


def open_files(path: str | Path, *, people: bool = False) -> IncomingCrops:
    """The crops of a folder or zip, at any depth, or one picture.

    Names like those of Market-1501 (0002_c1s1_000451_03.jpg) tell person, camera and frame; frames of later sequences
    lie a million apart each. Other names tell nothing.

    Args:
        path: where they are.
        people: whether the folder that a crop lies in names its person, laid out as `open_folder` has it.

    Raises:
        DataError: the path does not exist or holds no pictures; with `people`, pictures lie outside of folders.
    """
    notes: list[str] = []
    samples = open_crops(path, report=notes.append)
    files = [_named(sample) for sample in samples]
    named = [file for file in files if file.camera is not None]
    if people:
        open_folder(path)  # its errors say how people are laid out
        persons = _persons(samples)
        files = [replace(file, pid=persons[file.sample.name]) for file in files]
    if named:
        what = "Camera and frame" if people else "Person, camera and frame"
        names = count(len(named), "file name")
        notes.append(f"{what} are read from {names}, such as {named[0].sample.name}.")
    nobody = sum(file.pid is None for file in (files if people else named))
    if nobody:
        notes.append(_nobody(nobody, f"in {DISTRACTORS}" if people else "pid 0 or -1"))
    return IncomingCrops(str(path), tuple(notes), len(files), partial(map, _read_file, files))


def open_split(spec: str, split: Split | None = None) -> IncomingCrops:
    """The crops of a dataset, with what it says of them.

    People are called by their numbers (of a folder per person, by the names of the folders), distractors by nothing.

    Args:
        spec: see `open_dataset`; what does not fit is left out, and the notes say so.
        split: which of its splits; all if not given, each crop once.

    Raises:
        DataError: there is no such dataset, or no such split in it.
    """
    dataset = open_dataset(spec, skip_bad=True)
    everything = {s.path: s for each in SPLITS for s in getattr(dataset, each)}
    samples = dataset.split(split) if split else tuple(everything.values())
    files = [_File(s, _somebody(str(s.pid)), _text(s.camid), time=s.time) for s in samples]
    kind = dataset.spec.partition(":")[0]
    if kind == "market1501":  # whose times are numbers of frames
        files = [_named(sample) for sample in samples]
    if kind == "folder":
        persons = _persons(list(everything.values()))
        files = [replace(file, pid=persons[file.sample.name]) for file in files]
    return IncomingCrops(spec, dataset.notes, len(files), partial(map, _read_file, files))


def _named(sample: Sample) -> _File:
    """What a name as in Market-1501 tells; nothing for another."""
    try:
        told = parse(cast("AnyStore", sample.store), sample.name)
    except DataError:
        return _File(sample)
    frame = None if told.time is None else int(told.time)
    return _File(sample, _somebody(str(told.pid)), _text(told.camid), frame)


def _persons(samples: Sequence[Sample]) -> dict[str, str | None]:
    """The person by the name of each crop of a folder per person, as `open_folder` takes them."""
    folders = {sample.name: sample.name.split("/")[:-1] for sample in samples}
    tops = {each[0] for each in folders.values()}
    if isinstance(samples[0].store, ZipStore) and len(tops) == 1 and all(len(each) > 1 for each in folders.values()):
        folders = {name: each[1:] for name, each in folders.items()}
        tops = {each[0] for each in folders.values()}
    person = 1 if tops <= set(SPLITS) else 0
    return {name: None if each[person] == DISTRACTORS else each[person] for name, each in folders.items()}


def _somebody(pid: str | None) -> str | None:
    return None if pid in NOBODY else pid


def _nobody(crops: int, sign: str) -> str:
    return f"{count(crops, 'crop')} of nobody in particular ({sign}): no person is noted."


def _text(camid: int | None) -> str | None:
    return None if camid is None else str(camid)


def _read_file(file: _File) -> Incoming | DataError:
    sample = file.sample
    try:
        data = sample.store.read(sample.name)
    except DataError as error:
        return error
    known = Incoming(file_content(data), sample.path, data)
    return replace(known, frame=file.frame, pid=file.pid, camera=file.camera, time=file.time)


class Row(BaseModel):
    """One line of a list of crops. Empty cells are as good as no column."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    path: str = Field(min_length=1)
    pid: str | None = None
    camera: str | None = None
    time: float | None = Field(default=None, allow_inf_nan=False)
    track: str | None = None
    tags: tuple[str, ...] = ()
    x0: float | None = Field(default=None, allow_inf_nan=False)
    y0: float | None = Field(default=None, allow_inf_nan=False)
    x1: float | None = Field(default=None, allow_inf_nan=False)
    y1: float | None = Field(default=None, allow_inf_nan=False)

    @field_validator("pid", "camera", "time", "track", "x0", "y0", "x1", "y1", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if isinstance(value, str) and not value.strip() else value

    @field_validator("tags", mode="before")
    @classmethod
    def _separated(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(dict.fromkeys(tag.strip() for tag in value.split(";") if tag.strip()))

    @model_validator(mode="after")
    def _box_is_whole(self) -> Row:
        edges = (self.x0, self.y0, self.x1, self.y1)
        if edges.count(None) in (1, 2, 3):
            raise ValueError("only some of x0, y0, x1 and y1 are filled")
        box = self.box
        if box is not None and (box[0] >= box[2] or box[1] >= box[3]):
            raise ValueError("the box is empty: x0 has to be below x1, and y0 below y1")
        return self

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """The box in the picture, if one is given."""
        if self.x0 is None or self.y0 is None or self.x1 is None or self.y1 is None:
            return None
        return self.x0, self.y0, self.x1, self.y1


@dataclass(frozen=True, slots=True)
class _Listed:
    """A row and where it stands."""

    where: str
    row: Row


def open_list(path: str | Path) -> IncomingCrops:
    """The crops that a CSV lists, with the column path and any of pid, camera (or camid), time, track, tags, x0 to y1.

    Paths are relative to the CSV. `tags` are separated by semicolons. With x0, y0, x1 and y1 the crop is cut from the
    picture at that box, in pixels; a part of it that leaves the picture is not shown. All rows of a picture come
    together, where its first stands, and it is read once. pid 0 and -1 are nobody in particular.

    Args:
        path: the CSV, UTF-8, separated by commas, with a header.

    Raises:
        DataError: naming file and line: it cannot be read, its columns are not those, or no row is right.
    """
    rows, bad = _rows(path)
    if not rows:
        if not bad:
            raise DataError(path, "has no rows", "give rows with a path each")
        more = f" (and no other of {count(len(bad), 'row')} is right)" if len(bad) > 1 else ""
        raise DataError(bad[0].where, bad[0].cause + more, bad[0].remedy)
    nobody = sum(listed.row.pid in NOBODY for listed in rows)
    notes = (_nobody(nobody, "pid 0 or -1"),) if nobody else ()
    store = FolderStore(os.path.dirname(path) or ".")
    boxed = any(listed.row.box for listed in rows)
    pictures: dict[str, list[_Listed]] = {}
    for listed in rows:
        pictures.setdefault(os.path.normpath(listed.row.path), []).append(listed)

    def read() -> Iterator[Incoming | DataError]:
        yield from bad
        work = partial(_read_rows, store)
        for crops in ahead(work, pictures.items()) if boxed else map(work, pictures.items()):
            yield from crops

    return IncomingCrops(str(path), notes, len(rows) + len(bad), read)


def _read_rows(store: FolderStore, picture: tuple[str, list[_Listed]]) -> list[Incoming | DataError]:
    """The crops of one picture."""
    name, rows = picture
    source = os.path.normpath(os.path.join(store.root, name))
    if not os.path.isfile(source):
        remedy = "paths are relative to the CSV: correct it"
        return [
            DataError(f"{listed.where}, column path", f"there is no file {listed.row.path}", remedy) for listed in rows
        ]
    image = None
    try:
        data = store.read(name)
        if any(listed.row.box for listed in rows):
            image = decode(data, source)
    except DataError as error:
        cause = f"{name}: {error.cause}"
        return [DataError(f"{listed.where}, column path", cause, error.remedy) for listed in rows]
    whole = Incoming(file_content(data), source, data)
    crops: list[Incoming | DataError] = []
    for listed in rows:
        crop, row = whole, listed.row
        try:
            if row.box is not None and image is not None:
                shown, box = cut(image, row.box, f"{listed.where}, columns x0 to y1")
                crop = Incoming(pixel_content(shown), source, image=shown, box=box)
        except DataError as error:
            crops.append(error)
            continue
        pid = _somebody(row.pid)
        crops.append(replace(crop, pid=pid, camera=row.camera, track=row.track, time=row.time, tags=row.tags))
    return crops


def _rows(path: str | Path) -> tuple[list[_Listed], list[DataError]]:
    """The rows that fit the model, and what is wrong with each other."""
    rows: list[_Listed] = []
    bad: list[DataError] = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = _header(path, [name.strip() for name in next(reader, [])])
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                where = f"{path}:{reader.line_num}"
                if len(cells) != len(header):
                    cause = f"has {len(cells)} cells, the header has {len(header)}"
                    bad.append(DataError(where, cause, "put text that holds a comma in double quotes"))
                    continue
                try:
                    rows.append(_Listed(where, Row.model_validate(dict(zip(header, cells)))))
                except ValidationError as error:
                    bad.append(_misfit(where, error))
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", "give the path of a CSV file") from error
    except UnicodeDecodeError as error:
        raise DataError(path, "is not text in UTF-8", "save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}", f"is not valid CSV ({error})", "save it as CSV again") from error
    return rows, bad


def _misfit(where: str, error: ValidationError) -> DataError:
    """What is wrong with a row: a cell, or cells that do not go together."""
    problem = error.errors()[0]
    cause = plain_words(problem["msg"])
    if not problem["loc"]:
        return DataError(where, cause, "correct the row")
    return DataError(f"{where}, column {problem['loc'][0]}", f"{cause}, found {problem['input']!r}", "correct the cell")


def _header(path: str | Path, names: list[str]) -> list[str]:
    """The names of the columns, `camid` as `camera`.

    Raises:
        DataError: they are not those of a list of crops.
    """
    where, columns = f"{path}:1", ", ".join(COLUMNS)
    if "path" not in names:
        found = ", ".join(names) or "nothing"
        remedy = f"the first line names the columns, separated by commas: {columns} (all but path optional)"
        raise DataError(where, f"there is no column path; found {found}", remedy)
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        dataset = f"; a list with splits is a dataset: csv:{path}" if "split" in unknown else ""
        raise DataError(where, f"unknown column {', '.join(map(repr, unknown))}", f"keep to {columns}{dataset}")
    header = ["camera" if name == "camid" else name for name in names]
    if len(set(header)) < len(header):
        raise DataError(where, "a column is named twice", "name each column once; camid and camera are the same")
    edges = [name for name in ("x0", "y0", "x1", "y1") if name not in header]
    if edges and len(edges) < 4:
        raise DataError(where, f"there is no column {' and '.join(edges)}", "a box has x0, y0, x1 and y1")
    return header
