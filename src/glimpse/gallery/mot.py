"""Boxes in the form of the MOTChallenge (motchallenge.net), and the crops that they cut from frames or a video."""

from __future__ import annotations

import configparser
import math
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from PIL import Image

from glimpse.data.images import read_image
from glimpse.data.samples import DISTRACTOR, Sample
from glimpse.data.stores import AnyStore, FolderStore, ZipStore, images_only, is_image
from glimpse.data.words import count
from glimpse.errors import ConfigError, DataError
from glimpse.gallery.cutting import Frame, cut
from glimpse.gallery.incoming import Incoming, IncomingCrops, ahead, pixel_content
from glimpse.gallery.video import Video

FORM = "frame,id,left,top,width,height,confidence,..."
"""A line of a file of boxes."""

PEDESTRIAN = 1
"""Class of people on their feet in ground truth."""

_INFO = "seqinfo.ini"
_FRAMES = "img1"
_NUMBER = re.compile(r"(\d+)\D*$")


@dataclass(frozen=True)
class MotOptions:
    """Which boxes are cut, and how.

    Attributes:
        min_confidence: boxes of less confidence are left out; not for ground truth, which has none.
        min_height: lower boxes are left out, in pixels; before padding and clipping.
        every: only each n-th frame is looked at, from the first.
        padding: share of a box's width and height that is added on each of its sides, as far as the picture goes.
        camera: what saw the crops.
        start: time of the first frame, in seconds.
        rate: frames per second; if not given, what seqinfo.ini says, or else the video.
        name: of the sequence, before the numbers of its tracks; if not given, what seqinfo.ini says, or else the name
            of the folder that holds det or gt, or of the file.
        truth: whether the file is ground truth, with a flag in place of a confidence, and perhaps a class; told from
            its lines if not given.

    Raises:
        ConfigError: a number is out of range.
    """

    min_confidence: float | None = None
    min_height: float = 0.0
    every: int = 1
    padding: float = 0.0
    camera: str | None = None
    start: float = 0.0
    rate: float | None = None
    name: str | None = None
    truth: bool | None = None

    def __post_init__(self) -> None:
        for option, value, least in (
            ("min_confidence", self.min_confidence, -math.inf),
            ("min_height", self.min_height, 0),
            ("every", self.every, 1),
            ("padding", self.padding, 0),
            ("start", self.start, -math.inf),
        ):
            if value is not None and not (least <= value and math.isfinite(value)):
                said = "a finite number" if least == -math.inf else f"a finite number from {least}"
                raise ConfigError(option, f"{value} is out of range", f"give {said}")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise ConfigError("rate", f"{self.rate} is out of range", "give frames per second, above 0")


class _Frames(Protocol):
    """A video or a folder of pictures."""

    path: str
    rate: float | None

    def frames(self, wanted: Sequence[int]) -> Iterator[Frame]:
        """The frames of the numbers `wanted`, in order; fewer if there is nothing after one of them."""
        ...


@dataclass(frozen=True, slots=True)
class _Line:
    """A box, as the file has it.

    Attributes:
        line: its number in the file.
        frame: from 1.
        track: `None` for a detection.
        box: left, top, width and height.
        rest: confidence or flag, if there is one; of nine columns also class and visibility.
    """

    line: int
    frame: int
    track: int | None
    box: tuple[float, float, float, float]
    rest: tuple[float, ...]


def open_mot(boxes: str | Path, frames: str | Path | None = None, options: MotOptions | None = None) -> IncomingCrops:
    """The crops that boxes in the form of the MOTChallenge cut from the frames of a sequence.

    A line is `frame,id,left,top,width,height,confidence,...`. Frames are counted from 1; ids below 0 are of no track;
    left and top are the distance from the picture's left and upper edge, in pixels, as trackers write them (the
    benchmark's own files count from 1, and so lie a pixel off). Tracks are called NAME:ID, and the time of a crop is
    `start + (frame - 1) / rate`. Of ground truth only boxes to be considered are taken (flag 1), and where it has
    classes only pedestrians (class 1).

    Each frame is decoded once, in order, and its crops come together. Lines, boxes and frames that are wrong come as
    errors.

    Args:
        boxes: det.txt, gt.txt or the results of a tracker; separated by commas or spaces.
        frames: a folder or zip of pictures whose names end in their numbers (or a folder inside a zip), or a video; if
            not given, the folder img1 beside det and gt, or what seqinfo.ini calls it.
        options: which boxes, and how.

    Raises:
        DataError: the boxes, seqinfo.ini or the frames are not there or cannot be read, no line is right, or no frame
            of a box is there.
        ConfigError: `min_confidence` is given, and there is none; or the extra `video` is needed and not installed.
    """
    asked = options or MotOptions()
    path = Path(boxes)
    lines, bad = _lines(path)
    kept, notes = _chosen(path, lines, asked)
    home = path.parent.parent if path.parent.name in ("det", "gt") else path.parent
    info = _sequence([home, path.parent] if frames is None else [home, path.parent, Path(frames), Path(frames).parent])
    given = _open_frames(home / info.folder if frames is None else Path(frames), beside=frames is None)
    by_frame: dict[int, list[_Line]] = {}
    for line in sorted(kept, key=lambda line: line.frame):
        by_frame.setdefault(line.frame, []).append(line)
    if isinstance(given, _Pictures):
        notes += given.fitting(path, by_frame)
    rate = asked.rate or info.rate or given.rate
    if rate is None:
        notes.append("The frame rate is not known: no times are noted.")
    name = asked.name or info.name or (home.resolve().name if home != path.parent else path.stem)
    cutter = _Cutter(str(path), asked, name, rate)

    def read() -> Iterator[Incoming | DataError]:
        yield from bad
        left = dict(by_frame)
        found = ((frame, left.pop(frame.number)) for frame in given.frames(list(by_frame)))
        for crops in ahead(cutter.crops, found):
            yield from crops
        if left:
            yield cutter.nothing_after(given.path, left)

    return IncomingCrops(str(path), tuple(notes), len(kept) + len(bad), read)


@dataclass(frozen=True)
class _Cutter:
    """Makes crops of a frame and its boxes."""

    path: str
    options: MotOptions
    name: str
    rate: float | None

    def crops(self, found: tuple[Frame, list[_Line]]) -> list[Incoming | DataError]:
        """A crop or an error for each box; one error if there is no frame."""
        frame, lines = found
        try:
            image = frame.read()
        except DataError as error:
            cause = f"there is no frame {frame.number} to cut {_boxes(len(lines))} from ({error.where}: {error.cause})"
            return [DataError(f"{self.path}:{lines[0].line}", cause, error.remedy)]
        return [self._crop(frame, image, line) for line in lines]

    def _crop(self, frame: Frame, image: Image.Image, line: _Line) -> Incoming | DataError:
        left, top, width, height = line.box
        where = f"{self.path}:{line.line}"
        try:
            shown, box = cut(image, (left, top, left + width, top + height), where, padding=self.options.padding)
        except DataError as error:
            return error
        return Incoming(
            pixel_content(shown),
            frame.source,
            image=shown,
            frame=frame.number,
            box=box,
            camera=self.options.camera,
            track=None if line.track is None else f"{self.name}:{line.track}",
            time=None if self.rate is None else self.options.start + (frame.number - 1) / self.rate,
        )

    def nothing_after(self, frames: str, left: dict[int, list[_Line]]) -> DataError:
        """The error for frames after the last that could be had."""
        first, lines = next(iter(left.items()))
        boxes = sum(map(len, left.values()))
        cause = f"{frames} ends before frame {first} or cannot be read on: {_boxes(boxes)} left out from there"
        return DataError(f"{self.path}:{lines[0].line}", cause, "check that the boxes belong to this video")


def _boxes(number: int) -> str:
    return count(number, "box", "boxes")


def _lines(path: Path) -> tuple[list[_Line], list[DataError]]:
    """The lines of a file of boxes that are right, and what is wrong with each other.

    Raises:
        DataError: it cannot be read, or no line is right.
    """
    form = f"a line is {FORM}"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except IsADirectoryError as error:
        raise DataError(
            path, "is a folder", "give the file of boxes in it, such as det/det.txt or gt/gt.txt"
        ) from error
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", "give the path of a file of boxes") from error
    except UnicodeDecodeError as error:
        raise DataError(path, "is not text", f"give a file of boxes; {form}") from error
    lines: list[_Line] = []
    bad: list[DataError] = []
    for row, said in enumerate(text.splitlines(), start=1):
        if said.strip():
            try:
                lines.append(_line(row, said.split(",") if "," in said else said.split()))
            except ValueError as error:
                bad.append(DataError(f"{path}:{row}", str(error), f"correct the line; {form}"))
    if not lines:
        if not bad:
            raise DataError(path, "has no lines", f"give a file of boxes; {form}")
        more = f" (and no other of {count(len(bad), 'line')} is right)" if len(bad) > 1 else ""
        raise DataError(bad[0].where, bad[0].cause + more, f"give a file of boxes; {form}")
    return lines, bad


def _line(row: int, cells: list[str]) -> _Line:
    """The box that a line says.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if len(cells) < 6:
        raise ValueError(f"has {count(len(cells), 'value')}, and a box needs 6")
    numbers: list[float] = []
    for cell in cells[: 9 if len(cells) == 9 else 7]:  # with ten, places in the world stand behind the confidence
        try:
            numbers.append(float(cell))
        except ValueError:
            raise ValueError(f"{cell.strip()!r} is not a number") from None
        if not math.isfinite(numbers[-1]):
            raise ValueError(f"{cell.strip()!r} is not a finite number")
    frame, track = numbers[:2]
    left, top, width, height = numbers[2:6]
    if frame < 1 or frame % 1:
        raise ValueError(f"there is no frame {cells[0].strip()}: frames are counted from 1")
    if track % 1:
        raise ValueError(f"{cells[1].strip()} is not the number of a track")
    if width <= 0 or height <= 0:
        raise ValueError(f"the box has no area: it is {width:g} x {height:g}")
    return _Line(row, int(frame), int(track) if track >= 0 else None, (left, top, width, height), tuple(numbers[6:]))


def _chosen(path: Path, lines: list[_Line], asked: MotOptions) -> tuple[list[_Line], list[str]]:
    """The boxes that are asked for, and a note for each reason to leave others out."""
    truth = asked.truth
    if truth is None:
        truth = path.stem == "gt" or all(_looks_true(line.rest) for line in lines)
    notes: list[str] = []

    def keep(lines: list[_Line], wanted: list[bool], why: str) -> list[_Line]:
        out = wanted.count(False)
        if out:
            notes.append(f"{_boxes(out)} left out: {why}.")
        return [line for line, want in zip(lines, wanted, strict=True) if want]

    if asked.every > 1:
        wanted = [(line.frame - 1) % asked.every == 0 for line in lines]
        lines = keep(lines, wanted, f"in frames that are passed over (every {asked.every})")
    if truth:
        if asked.min_confidence is not None:
            raise ConfigError("min_confidence", f"{path} is ground truth and has no confidence", "leave the option out")
        lines = keep(lines, [not line.rest or line.rest[0] != 0 for line in lines], "flagged as not to be considered")
        others = [len(line.rest) < 3 or line.rest[1] == PEDESTRIAN for line in lines]
        lines = keep(lines, others, f"of other classes than {PEDESTRIAN} (pedestrians)")
    if asked.min_confidence is not None:
        bare = next((line for line in lines if not line.rest), None)
        if bare is not None:
            raise ConfigError("min_confidence", f"the box in {path}:{bare.line} has no confidence", "leave it out")
        wanted = [line.rest[0] >= asked.min_confidence for line in lines]
        lines = keep(lines, wanted, f"confidence below {asked.min_confidence:g}")
    if asked.min_height > 0:
        wanted = [line.box[3] >= asked.min_height for line in lines]
        lines = keep(lines, wanted, f"lower than {asked.min_height:g} pixels")
    return lines, notes


def _looks_true(rest: tuple[float, ...]) -> bool:
    """Whether the numbers behind a box are flag, class and visibility, and not confidence and fill."""
    return len(rest) == 3 and rest[0] in (0, 1) and rest[1] >= 1 and rest[1] % 1 == 0 and 0 <= rest[2] <= 1


@dataclass(frozen=True)
class _Sequence:
    """What seqinfo.ini says."""

    name: str | None = None
    rate: float | None = None
    folder: str = _FRAMES


def _sequence(folders: Sequence[Path]) -> _Sequence:
    """What the first seqinfo.ini in `folders` says, nothing if there is none.

    Raises:
        DataError: it cannot be read, or its rate is none.
    """
    path = next((folder / _INFO for folder in folders if (folder / _INFO).is_file()), None)
    if path is None:
        return _Sequence()
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with open(path, encoding="utf-8-sig") as file:
            parser.read_file(file)
        said = parser["Sequence"]
    except (OSError, UnicodeDecodeError, configparser.Error, KeyError) as error:
        cause = f"cannot be read ({str(error).splitlines()[0]})"
        raise DataError(path, cause, "correct it or remove it: it has a section [Sequence]") from error
    rate = said.get("frameRate")
    try:
        number = None if rate is None else float(rate)
        if number is not None and not 0 < number < math.inf:
            raise ValueError
    except ValueError:
        raise DataError(f"{path}, frameRate", f"{rate!r} is no number of frames per second", "correct it") from None
    return _Sequence(said.get("name") or None, number, said.get("imDir") or _FRAMES)


def _open_frames(path: Path, *, beside: bool) -> _Frames:
    """The pictures or the video at `path`; `beside` if nobody named it."""
    if path.is_dir():
        return _Pictures(FolderStore(path), str(path))
    if path.is_file():
        if zipfile.is_zipfile(path):
            return _Pictures(ZipStore(path), str(path))
        if is_image(path.name):
            raise DataError(path, "is one picture, and not the frames of a sequence", "give the folder that it lies in")
        return Video(path)
    for above in path.parents:
        if above.is_file():
            return _Pictures(ZipStore(above), str(path), f"{path.relative_to(above).as_posix()}/")
    if beside:
        raise DataError(path, "there are no frames: no such folder", "name a folder or zip of pictures, or a video")
    raise DataError(path, "does not exist", "check the path and its spelling")


class _Pictures:
    """Frames as pictures in a folder or zip, by the number that their names end in.

    Raises:
        DataError: there are none, they lie in several folders, or two have one number.
    """

    rate: float | None = None

    def __init__(self, store: AnyStore, path: str, prefix: str = "") -> None:
        self.path = path
        self._store = store
        self._names: dict[int, str] = {}
        names = [name for name in images_only(store.names())[0] if name.startswith(prefix)]
        folders = sorted({os.path.dirname(name) for name in names})
        if len(folders) > 1:
            cause = f"holds pictures in several folders ({folders[0] or '.'}, {folders[1]})"
            raise DataError(path, cause, f"give the folder of one sequence's frames, such as {path}/{folders[1]}")
        for name in names:
            match = _NUMBER.search(os.path.splitext(os.path.basename(name))[0])
            if match is None:
                continue
            other = self._names.setdefault(int(match[1]), name)
            if other != name:
                cause = f"two pictures are frame {int(match[1])}: {other} and {name}"
                raise DataError(path, cause, "let names end in the number of the frame, such as 000001.jpg")
        if not self._names:
            remedy = "give pictures whose names end in the number of the frame, such as 000001.jpg"
            raise DataError(path, "holds no frames", remedy)

    def fitting(self, boxes: Path, wanted: dict[int, list[_Line]]) -> list[str]:
        """Notes on whether these are the frames of the boxes.

        Raises:
            DataError: they are not: none that has a box is there.
        """
        if wanted and not wanted.keys() & self._names.keys():
            numbers = f"{min(self._names)} to {max(self._names)}"
            cause = f"no frame of any box in {boxes} is there: boxes begin with frame {min(wanted)}"
            raise DataError(self.path, f"{cause}, pictures are numbered {numbers}", "give the frames of these boxes")
        if 0 in self._names:
            return ["Pictures are numbered from 0 and boxes from 1: box and picture of one number go together."]
        return []

    def frames(self, wanted: Sequence[int]) -> Iterator[Frame]:
        """A frame for each number, in order; those that are not there say so when they are read."""
        for number in sorted(wanted):
            name = self._names.get(number)
            if name is None:
                missing = DataError(self.path, "there is no picture of that number", "add it, or remove its boxes")
                yield Frame(number, self.path, missing)
            else:
                sample = Sample(self._store, name, DISTRACTOR)
                yield Frame(number, sample.path, partial(read_image, sample))
