"""What is known of a crop beside its embedding, and the columns that hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import pyarrow as pa
from pydantic import AfterValidator, FiniteFloat

from glimpse.gallery.fields import Field
from glimpse.records import Record


def in_utf8(text: str) -> str:
    """The text, if it can be written in UTF-8; names of files need not be text at all.

    Raises:
        ValueError: it cannot.
    """
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{text!r} cannot be written in UTF-8") from error
    return text


Text = Annotated[str, AfterValidator(in_utf8)]


class Crop(Record):
    """What is known of a crop. Only its id is certain to be there.

    Attributes:
        id: 32 hexadecimal digits of its content: of the file, or of the pixels that were cut from a frame.
        pid, camera, track: who it shows, what saw it, and what tracker's path it is of.
        time: in seconds, on any clock that the crops of a gallery share.
        source: the file it is, or was cut from.
        frame: number of the frame in its source, counted as the source does.
        box: x0, y0, x1, y1 in pixels of the frame.
        tags: free words.
        added: when it came into the gallery, in seconds since 1970 (UTC).
    """

    id: str
    pid: Text | None = None
    camera: Text | None = None
    track: Text | None = None
    time: FiniteFloat | None = None
    source: Text | None = None
    frame: int | None = None
    box: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat] | None = None
    tags: tuple[Text, ...] = ()
    added: float | None = None

    @property
    def name(self) -> str:
        """What to call it in lists: its source and frame, or its id."""
        if self.source is None:
            return self.id
        return self.source if self.frame is None else f"{self.source}#{self.frame}"


class _Column(NamedTuple):
    name: str
    type: pa.DataType


COLUMNS = (
    _Column("id", pa.string()),
    _Column("pid", pa.string()),
    _Column("camera", pa.string()),
    _Column("track", pa.string()),
    _Column("time", pa.float64()),
    _Column("source", pa.string()),
    _Column("frame", pa.int64()),
    _Column("box", pa.list_(pa.float64())),
    _Column("tags", pa.list_(pa.string())),
    _Column("added", pa.float64()),
)
"""One for each field of `Crop`."""

THUMBNAIL = "thumbnail"
"""Column of small JPEG pictures."""

NAMES = tuple(column.name for column in COLUMNS)


def schema_of(fields: Sequence[Field], metadata: Mapping[str, str]) -> pa.Schema:
    """The columns of a table of crops."""
    return pa.schema(
        [
            *(pa.field(column.name, column.type) for column in COLUMNS),
            pa.field(THUMBNAIL, pa.binary()),
            *(pa.field(field.column, field.type) for field in fields),
        ],
        metadata=dict(metadata),
    )


def to_columns(crops: Sequence[Crop], thumbnails: Sequence[bytes | None], added: float) -> list[pa.Array]:
    """The columns before those of the embedding, of crops that came at the time `added`."""
    said = {name: [getattr(crop, name) for crop in crops] for name in NAMES} | {"added": [added] * len(crops)}
    return [*(pa.array(said[name], kind) for name, kind in COLUMNS), pa.array(thumbnails, pa.binary())]


def to_crops(table: pa.Table) -> list[Crop]:
    """Rows of a table that has all of `COLUMNS`."""
    return [Crop.model_validate(row) for row in table.select(list(NAMES)).to_pylist()]
