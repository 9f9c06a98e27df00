"""The cache of cues: Parquet files in a folder, by the content of the crops and by what made them.

    cues/points/movenet@1a2b3c4d/0f3a....parquet
    cues/parts/deeplab@5e6f7a8b/97bc....parquet

A row is keyed by the SHA-256 of the crop's file, so crops may be moved, renamed and copied. The columns are `digest`,
`name` (of the crop when the row was written), `height`, `width`, and `people` and `points` (x, y, score; one person
after the other), or `labels` (a grey PNG). A source that gives heat maps has `heat` and its `rows` and `columns` as
well. What the points or labels are called stands in each file's metadata.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from glimpse.cues.parts import PartMap, PartScheme
from glimpse.cues.points import KeyPoints
from glimpse.cues.skeleton import Skeleton
from glimpse.errors import ConfigError, DataError, first_problem
from glimpse.files import atomic

if TYPE_CHECKING:
    import pyarrow

Kind = Literal["points", "parts"]
KINDS: tuple[Kind, ...] = ("points", "parts")
_ROWS = 1024  # of a file: what is lost at most when the making of cues is stopped
_HEAT = ["rows", "columns", "heat"]
_REMEDY = "delete the file and make the cues again"
Value = TypeVar("Value", KeyPoints, PartMap)
Says = TypeVar("Says", Skeleton, PartScheme)


class _About(BaseModel):
    """Metadata of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["glimpse-cues-1"] = "glimpse-cues-1"
    source: str
    says: Skeleton | PartScheme


@dataclass(frozen=True)
class Row(Generic[Value]):
    """Cues of one crop.

    Attributes:
        digest: SHA-256 of the crop's file.
        name: of the crop.
        size: its height and width.
        value: what was found.
    """

    digest: bytes
    name: str
    size: tuple[int, int]
    value: Value


def digest_of(data: bytes) -> bytes:
    """What a crop is keyed by: the SHA-256 of its file."""
    return hashlib.sha256(data).digest()


class CueTable(Generic[Value, Says]):
    """Cues of one kind by one source. Crops are looked up by their digest.

    Attributes:
        source: what made them.
        says: the skeleton or the scheme of all rows.
    """

    def __init__(self, source: str, says: Says, table: pyarrow.Table) -> None:
        self.source = source
        self.says: Says = says
        self._columns = table.combine_chunks()
        self._rows = {digest: row for row, digest in enumerate(self._columns["digest"].to_pylist())}

    @property
    def has_heat(self) -> bool:
        """Whether there are heat maps with key points."""
        return "heat" in self._columns.column_names

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._rows

    def get(self, digest: bytes) -> Value | None:
        """Cues of the crop with that digest; `None` if there are none.

        Raises:
            DataError: they are damaged.
        """
        row = self._rows.get(digest)
        if row is None:
            return None
        cell = {name: self._columns[name][row].as_py() for name in self._columns.column_names}
        where = f"cues of {cell['name']} by {self.source}"
        found: KeyPoints | PartMap
        try:
            if isinstance(self.says, Skeleton):
                values = np.asarray(cell["points"], np.float32).reshape(cell["people"], len(self.says), 3)
                heat = None
                if cell.get("heat") is not None:
                    size = (len(self.says), cell["rows"], cell["columns"])
                    heat = np.frombuffer(cell["heat"], np.uint8).reshape(size)
                found = KeyPoints(values, self.says, heat)
            else:
                with Image.open(io.BytesIO(cell["labels"]), formats=("PNG",)) as picture:
                    found = PartMap(np.asarray(picture), self.says)
                if found.size != (cell["height"], cell["width"]):
                    raise ValueError(f"the map is {found.size}")
        except (DataError, OSError, SyntaxError, TypeError, ValueError) as error:
            raise DataError(
                where, f"are damaged ({error})", "delete them from the cache and make them again"
            ) from error
        return found  # type: ignore[return-value]  # the kind of `says` decides


class CueCache:
    """Cues in a folder.

    Args:
        folder: of the cache; it need not be there yet.

    Raises:
        ConfigError: the folder is a file, or pyarrow is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(folder, "is a file, and cues lie in a folder", "give the folder of the cues")
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "cues", "pyarrow is not installed", "install the extra: pip install 'glimpse-reid[cues]'"
            ) from error

    def sources(self, kind: Kind) -> tuple[str, ...]:
        """What made the cues of `kind` that are here, in alphabetical order."""
        return tuple(sorted(path.name for path in (self.folder / kind).glob("*") if any(path.glob("*.parquet"))))

    def points(self, source: str | None = None) -> CueTable[KeyPoints, Skeleton]:
        """Key points of all crops by `source`; see `parts`."""
        return self._table("points", source)

    def parts(self, source: str | None = None) -> CueTable[PartMap, PartScheme]:
        """Part maps of all crops by `source`, which may be left out where there is only one.

        Raises:
            ConfigError: there are none, none by `source`, or several and no `source` is given.
            DataError: a file is damaged, or files of one source disagree on what their numbers mean.
        """
        return self._table("parts", source)

    def _table(self, kind: Kind, source: str | None) -> CueTable[Any, Any]:
        known = self.sources(kind)
        said = {"points": "key points", "parts": "part maps"}[kind]
        option = {"points": "--keypoints", "parts": "--masks"}[kind]
        if not known:
            remedy = f"make them: glimpse cues make DATA --out {self.folder} {option} ESTIMATOR"
            raise ConfigError(self.folder, f"has no {said}", remedy)
        if source is None and len(known) > 1:
            cause = f"has {said} by {', '.join(known)}, and none is named"
            search = f"; to search, {option} cache:{self.folder},{known[0]}" if kind == "points" else ""
            limbs = f"; to make limbs, --source {known[0]}"
            raise ConfigError(self.folder, cause, f"name one of them ({option} {known[0]}{search}{limbs})")
        source = known[0] if source is None else source
        if source not in known:
            raise ConfigError(self.folder, f"has no {said} by '{source}'", f"choose from {', '.join(known)}")
        import pyarrow

        files = sorted((self.folder / kind / source).glob("*.parquet"))
        read = [_read(path) for path in files]
        says = read[0][0].says
        for path, (about, _) in zip(files, read, strict=True):
            if about.says != says:
                cause = f"has '{about.says.name}', and {files[0].name} beside it '{says.name}'"
                raise DataError(path, cause, _REMEDY)
        tables = [table for _, table in read]
        return CueTable(source, says, pyarrow.concat_tables(tables, promote_options="default"))

    def digests(self, kind: Kind, source: str) -> set[bytes]:
        """Digests of the crops of which `source` has cues here.

        Raises:
            ConfigError: `source` cannot be the name of a folder.
            DataError: a file is damaged.
        """
        files = sorted(self._of(kind, source).glob("*.parquet"))
        return {digest for path in files for digest in _read(path)[1]["digest"].to_pylist()}

    def _of(self, kind: Kind, source: str) -> Path:
        """The folder of a source."""
        if not re.fullmatch(r"[\w@.,=+-]+", source):
            raise ConfigError(
                "source of cues", f"'{source}' cannot name a folder", "use letters, digits and @ . , = + -"
            )
        return self.folder / kind / source

    @contextmanager
    def writer(self, source: str, says: Skeleton | PartScheme) -> Iterator[CueWriter]:
        """What adds rows of `source`, in files of 1,024 that appear whole.

        When the block ends with an error, the rows of all crops that were done by then are kept.

        Raises:
            ConfigError: `source` cannot be the name of a folder, or the folder cannot be written to.
            DataError: rows of `source` are here by another skeleton or scheme.
        """
        folder = self._of("points" if isinstance(says, Skeleton) else "parts", source)
        for path in sorted(folder.glob("*.parquet"))[:1]:
            there = _read(path)[0].says
            if there != says:
                raise DataError(folder, f"has cues by '{there.name}', not '{says.name}'", "choose another --out")
        writer = CueWriter(folder, _About(source=source, says=says))
        try:
            yield writer
        finally:
            writer.flush()


class CueWriter:
    """Adds rows of one source to a cache; see `CueCache.writer`."""

    def __init__(self, folder: Path, about: _About) -> None:
        self._folder = folder
        self._about = about
        self._rows: list[Row[Any]] = []

    def add(self, row: Row[Any]) -> None:
        """Add a crop. It is on disk after `flush`, or when as many have come as a file holds."""
        self._rows.append(row)
        if len(self._rows) == _ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what has been added."""
        if not self._rows:
            return
        import pyarrow
        import pyarrow.parquet

        rows, self._rows = self._rows, []
        columns: dict[str, Any] = {
            "digest": pyarrow.array([row.digest for row in rows], pyarrow.binary(32)),
            "name": [row.name for row in rows],
            "height": pyarrow.array([row.size[0] for row in rows], pyarrow.int32()),
            "width": pyarrow.array([row.size[1] for row in rows], pyarrow.int32()),
        }
        if isinstance(self._about.says, Skeleton):
            columns["people"] = pyarrow.array([row.value.people for row in rows], pyarrow.int32())
            flat = [row.value.values.reshape(-1) for row in rows]
            columns["points"] = pyarrow.array(flat, pyarrow.list_(pyarrow.float32()))
            heat = [row.value.heat for row in rows]
            if any(maps is not None for maps in heat):
                for column, axis in (("rows", 1), ("columns", 2)):
                    sizes = [None if maps is None else maps.shape[axis] for maps in heat]
                    columns[column] = pyarrow.array(sizes, pyarrow.int32())
                data = [None if maps is None else maps.tobytes() for maps in heat]
                columns["heat"] = pyarrow.array(data, pyarrow.binary())
        else:
            columns["labels"] = pyarrow.array([_png(row.value) for row in rows], pyarrow.binary())
        table = pyarrow.table(columns).replace_schema_metadata({"glimpse": self._about.model_dump_json()})
        # Named by their content: two runs at once do not replace each other's files.
        name = hashlib.sha256(b"".join(row.digest for row in rows)).hexdigest()[:16]
        with atomic(self._folder / f"{name}.parquet") as draft:
            pyarrow.parquet.write_table(table, draft, compression="zstd")


def _png(value: PartMap) -> bytes:
    out = io.BytesIO()
    Image.fromarray(value.labels).save(out, "PNG")
    return out.getvalue()


def _read(path: Path) -> tuple[_About, pyarrow.Table]:
    """A file of the cache, checked."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(path, f"cannot be read ({str(error).splitlines()[0]})", _REMEDY) from error
    try:
        about = _About.model_validate_json((table.schema.metadata or {}).get(b"glimpse", b"{}"))
    except ValidationError as error:
        field, said = first_problem(error)
        raise DataError(path, f"is no file of a cue cache (field '{field}': {said})", _REMEDY) from error
    last = ["people", "points"] if isinstance(about.says, Skeleton) else ["labels"]
    wanted = ["digest", "name", "height", "width", *last]
    if table.column_names not in (wanted, [*wanted, *_HEAT]):
        raise DataError(path, f"has the columns {', '.join(table.column_names)}", _REMEDY)
    return about, table
