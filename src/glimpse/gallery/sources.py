"""Crops of a gallery read again from where they came: to embed them anew, or to show them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Literal

from PIL import Image

from glimpse.data.images import decode
from glimpse.data.stores import ZipStore, is_image, open_store
from glimpse.errors import ConfigError, DataError
from glimpse.gallery.cutting import cut
from glimpse.gallery.incoming import Incoming, file_content, pixel_content
from glimpse.gallery.rows import Crop
from glimpse.gallery.video import Video

_REMEDY = "bring the file back to where it was, or delete the crop from the gallery"

Kind = Literal["file", "picture", "video"]
"""A crop is a file of its own, or was cut from a picture or a video."""


def again(crops: Sequence[Crop]) -> Iterator[Incoming | DataError]:
    """The crops as they come in, read again and checked to be what they were; what cannot be had is its error.

    Crops of one picture or video come together, where the first of them stands, and it is read once.
    """
    sources: dict[tuple[str | None, Kind], list[Crop]] = {}
    for crop in crops:
        sources.setdefault((crop.source, _kind(crop)), []).append(crop)
    files = _Files()
    for (source, kind), these in sources.items():
        if source is None:
            yield from (DataError(crop.id, "nothing says where the crop came from", _REMEDY) for crop in these)
        elif kind == "file":
            yield from (_whole(crop, source, files) for crop in these)
        elif kind == "picture":
            yield from _cuts(these, source, files)
        else:
            yield from _from_video(these, source)


def pictures_of(crops: Sequence[Crop], thumbnails: Sequence[bytes | None]) -> list[Image.Image | None]:
    """What crops look like: their thumbnails, else what their sources show; `None` where neither can be had.

    Args:
        crops: which.
        thumbnails: one for each, `None` where there is none.
    """
    shown: dict[str, Image.Image] = {}
    for crop, data in zip(crops, thumbnails, strict=True):
        if data is not None:
            with suppress(DataError):
                shown[crop.id] = decode(data, f"thumbnail of {crop.id}")
    for found in again([crop for crop in crops if crop.id not in shown]):
        if isinstance(found, Incoming):
            with suppress(DataError):
                shown[found.content] = found.read()
    return [shown.get(crop.id) for crop in crops]


def picture_of(crop: Crop, thumbnail: bytes | None) -> Image.Image | None:
    """What a crop looks like: see `pictures_of`."""
    return pictures_of([crop], [thumbnail])[0]


def _kind(crop: Crop) -> Kind:
    if crop.box is None:
        return "file"
    return "picture" if crop.frame is None or is_image(crop.source or "") else "video"


def _whole(crop: Crop, source: str, files: _Files) -> Incoming | DataError:
    try:
        data = files.read(source)
    except DataError as error:
        return error
    if file_content(data) != crop.id:
        return DataError(source, "is not the file any more that was added", _REMEDY)
    return _incoming(crop, source, data=data)


def _cuts(crops: Sequence[Crop], source: str, files: _Files) -> Iterator[Incoming | DataError]:
    try:
        picture = decode(files.read(source), source)
    except DataError as error:
        yield from (error for _ in crops)
        return
    yield from (_cut(crop, picture, source) for crop in crops)


def _from_video(crops: Sequence[Crop], source: str) -> Iterator[Incoming | DataError]:
    """Crops of a video by their frames, one of which is held at a time."""
    left: dict[int, list[Crop]] = {}
    for crop in sorted(crops, key=lambda crop: crop.frame or 0):
        left.setdefault(crop.frame or 0, []).append(crop)
    wrong = None
    try:
        for frame in Video(source).frames(list(left)):
            these = left.pop(frame.number)
            try:
                picture = frame.read()
            except DataError as error:
                yield from (error for _ in these)
            else:
                yield from (_cut(crop, picture, source) for crop in these)
    except (ConfigError, DataError) as error:  # without the extra, other crops can be had all the same
        wrong = DataError(source, error.cause, error.remedy)
    for number, these in left.items():
        yield from (wrong or DataError(source, f"there is no frame {number} any more", _REMEDY) for _ in these)


def _cut(crop: Crop, picture: Image.Image, source: str) -> Incoming | DataError:
    assert crop.box is not None
    try:
        image, _ = cut(picture, crop.box, source)
    except DataError:
        image = None
    if image is None or pixel_content(image) != crop.id:
        return DataError(source, "does not show any more what was cut from it", _REMEDY)
    return _incoming(crop, source, image=image)


def _incoming(crop: Crop, source: str, *, data: bytes | None = None, image: Image.Image | None = None) -> Incoming:
    box = None if crop.box is None else (int(crop.box[0]), int(crop.box[1]), int(crop.box[2]), int(crop.box[3]))
    return Incoming(
        content=crop.id,
        source=source,
        data=data,
        image=image,
        frame=crop.frame,
        box=box,
        pid=crop.pid,
        camera=crop.camera,
        track=crop.track,
        time=crop.time,
        tags=crop.tags,
    )


def read_bytes(source: str) -> bytes:
    """A file, or a file in a zip as `ZIP/NAME`, where the zip may lie in a zip itself.

    Raises:
        DataError: it is not there or cannot be read.
    """
    return _Files().read(source)


class _Files:
    """Reads files as `read_bytes` does, and keeps the last zips open: opening one takes longer than a crop."""

    def __init__(self) -> None:
        self._opened = lru_cache(maxsize=4)(_opened)

    def read(self, source: str) -> bytes:
        if os.path.isfile(source):
            return open_store(os.path.dirname(source) or ".").read(os.path.basename(source))
        for above in Path(source).parents:
            if above.is_file():
                return self._from_zip(str(above), Path(source).relative_to(above).as_posix())
        if os.path.isabs(source):
            raise DataError(source, "there is no such file any more", _REMEDY)
        cause = f"there is no such file in {os.getcwd()}, from where it is looked for"
        raise DataError(source, cause, f"go to the folder that it was added from, {_REMEDY}")

    def _from_zip(self, path: str, name: str) -> bytes:
        outer, names = self._opened(path, None)
        if name in names:
            return outer.read(name)
        for inner in map(str, Path(name).parents):
            if inner in names:
                return self._opened(path, inner)[0].read(name.removeprefix(f"{inner}/"))
        raise DataError(f"{path}/{name}", "there is no such file in the zip any more", _REMEDY)


def _opened(path: str, inner: str | None) -> tuple[ZipStore, frozenset[str]]:
    store = ZipStore(path, inner)
    return store, frozenset(store.names())
