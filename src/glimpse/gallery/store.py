"""A gallery: crops and their embeddings in a table that lasts, with a lock, a log and checksums beside it."""

from __future__ import annotations

import fcntl
import io
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image
from pydantic import ConfigDict, ValidationError

from glimpse import __version__
from glimpse.data.words import count
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, DataError, GalleryError, first_problem
from glimpse.gallery.audit import Audit, Entry, whoever
from glimpse.gallery.checksums import MUTABLE, Checksums
from glimpse.gallery.exact import Probes, Ranked, search_exactly
from glimpse.gallery.fields import Field, fields_of, stored_form, to_arrays, to_embedding
from glimpse.gallery.filters import Filter, quoted
from glimpse.gallery.ids import Ids
from glimpse.gallery.incoming import Incoming, decoded
from glimpse.gallery.rows import NAMES, THUMBNAIL, Crop, schema_of, to_columns, to_crops
from glimpse.gallery.table import INDEX, NAME, Table, first_line, is_local, local_path, written
from glimpse.matching.distance import Distance
from glimpse.records import Record

if TYPE_CHECKING:
    from glimpse.data.visible import Prompt
    from glimpse.gallery.answers import Answer
    from glimpse.gallery.search import Ask
    from glimpse.gallery.shortlist import Manifest, Shortlist
    from glimpse.model import Model
    from glimpse.search.run import Option, Query

Mode = Literal["auto", "exact", "fast"]
"""How crops are searched."""

FORMAT = "glimpse-gallery-1"
KEY = "glimpse"
"""Of what a gallery is, in the metadata of its table."""
_INDEXING = ".index.lock"
_COMMIT_ROWS = 2048
_COMMIT_SECONDS = 10.0
_LOGGED = 1000  # ids of a deletion or change that the log names
_CHANGEABLE = ("pid", "camera", "track", "time", "tags")


class Info(Record):
    """What a gallery is; it lies in the table's schema.

    Attributes:
        format: of the table.
        made_by: name and hash of the weights.
        method: that they are of.
        fields: tensors of the embedding and their columns.
        thumbnails: height of the small pictures in pixels; 0 for none.
        created: seconds since 1970 (UTC).
        glimpse: version that made it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["glimpse-gallery-1"] = "glimpse-gallery-1"
    made_by: str
    method: str
    fields: tuple[Field, ...]
    thumbnails: int = 0
    created: float
    glimpse: str = __version__


@dataclass(frozen=True)
class Added:
    """What became of crops that were to be added.

    Attributes:
        added: are new.
        known: were there already, or came twice.
        bad: could not be read, and why.
    """

    added: int = 0
    known: int = 0
    bad: tuple[DataError, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        parts = [f"{count(self.added, 'crop')} added"]
        if self.known:
            parts.append(f"{self.known:,} there already")
        if self.bad:
            parts.append(f"{len(self.bad):,} could not be read")
        return ", ".join(parts)


@dataclass(frozen=True)
class Verified:
    """What `Gallery.verify` found.

    Attributes:
        problems: what is wrong, one sentence each.
        notes: what is odd and does no harm.
        crops, files: how many were read.
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    crops: int
    files: int


class Gallery:
    """Crops and their embeddings, in a folder or an object store: added to, searched, changed and deleted from.

    Use `Gallery.create` and `Gallery.open`. Several processes may read and write at once; in a folder, writers wait
    for each other. What a method acknowledges by returning is on disk, and what a killed process was doing is not
    there at all.

    Args:
        table: the crops.
        info: what they are.
        who: who is at work, for the log; user and machine if not given.
        audit: whether additions, changes, deletions and searches are logged.
    """

    def __init__(self, table: Table, info: Info, *, who: str | None = None, audit: bool = True) -> None:
        self.table = table
        self.info = info
        self.who = who or whoever()
        self.folder = Path(local_path(table.uri)) if is_local(table.uri) else None
        self._ids = Ids()
        self._shortlists: dict[str, Shortlist] = {}
        self._log = Audit(self.folder / "audit.jsonl") if audit and self.folder is not None else None
        self._sums = Checksums(self.folder / "checksums.txt", (NAME, INDEX)) if self.folder is not None else None

    # ------------------------------------------------------------ making and opening

    @classmethod
    def create(
        cls,
        where: str | Path,
        model: Model,
        *,
        thumbnails: int = 0,
        options: Mapping[str, str] | None = None,
        who: str | None = None,
        audit: bool = True,
    ) -> Gallery:
        """An empty gallery for embeddings of some weights.

        Args:
            where: a folder that does not exist yet or is empty, or the address of an object store (`s3://...`).
            model: the weights.
            thumbnails: height of small JPEG pictures to keep with the crops, in pixels; 0 keeps none.
            options: of the object store, such as its region and keys.
            who, audit: see the class.

        Raises:
            GalleryError: there is something already, or it cannot be written.
            ConfigError: `thumbnails` is negative.
        """
        embedding = stored_form(model.distance(), model.blank())
        return cls.of(
            where,
            embedding,
            model.made_by,
            method=model.card.method,
            thumbnails=thumbnails,
            options=options,
            who=who,
            audit=audit,
        )

    @classmethod
    def of(
        cls,
        where: str | Path,
        embedding: Embedding,
        made_by: str,
        *,
        method: str = "",
        thumbnails: int = 0,
        options: Mapping[str, str] | None = None,
        who: str | None = None,
        audit: bool = True,
    ) -> Gallery:
        """An empty gallery for embeddings like `embedding`; see `create`."""
        if thumbnails < 0:
            raise ConfigError("thumbnails", f"{thumbnails} pixels are no height", "give 0 for none, or such as 128")
        info = Info(
            made_by=made_by, method=method, fields=fields_of(embedding), thumbnails=thumbnails, created=time.time()
        )
        return cls.made_as(where, info, options=options, who=who, audit=audit)

    @classmethod
    def made_as(
        cls,
        where: str | Path,
        info: Info,
        *,
        options: Mapping[str, str] | None = None,
        who: str | None = None,
        audit: bool = True,
    ) -> Gallery:
        """An empty gallery like another; see `create`."""
        uri = str(where)
        if is_local(uri):
            folder = Path(local_path(uri))
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                there = (folder / NAME).is_dir()
                cause = "there is a gallery already" if there else "is not an empty folder"
                raise GalleryError(where, cause, "choose a new folder" + (", or add to the gallery" if there else ""))
            with written(uri):
                folder.mkdir(parents=True, exist_ok=True)
            uri = str(folder)
        schema = schema_of(info.fields, {KEY: info.model_dump_json()})
        gallery = cls(Table.create(uri, schema, options), info, who=who, audit=audit)
        with gallery._writing("create", {"weights": info.made_by}):
            pass
        return gallery

    @classmethod
    def open(
        cls,
        where: str | Path,
        *,
        options: Mapping[str, str] | None = None,
        who: str | None = None,
        audit: bool = True,
    ) -> Gallery:
        """A gallery that is there.

        Args:
            where: its folder, or its address in an object store.
            options: of the object store.
            who, audit: see the class.

        Raises:
            GalleryError: there is none, or it is damaged or of a format that this version does not read.
        """
        uri = local_path(str(where)) if is_local(str(where)) else str(where)
        table = Table.open(uri, options)
        said = (table.dataset.schema.metadata or {}).get(KEY.encode())
        if said is None:
            cause = "is a table, and no gallery of glimpse"
            raise GalleryError(where, cause, "make one with `glimpse gallery create`")
        try:
            info = Info.model_validate_json(said)
        except ValidationError as error:
            name, cause = first_problem(error)
            remedy = "open it with the version of glimpse that made it, and export it there"
            raise GalleryError(where, f"has a format that is not read here ({name}: {cause})", remedy) from error
        return cls(table, info, who=who, audit=audit)

    @property
    def where(self) -> str:
        """Its folder or address."""
        return self.table.uri

    def __len__(self) -> int:
        return self.table.count()

    def __repr__(self) -> str:
        return f"Gallery({self.where!r}, {self.info.made_by})"

    @contextmanager
    def _writing(self, what: str, details: dict[str, Any], folders: Sequence[str] = (NAME,)) -> Iterator[None]:
        """Alone with the newest version; what came to some folders meanwhile is recorded and logged at the end."""
        with self._locked():
            self.table.refresh()
            if self._sums is not None:
                self._sums.read()  # if they are damaged, that is said before anything is changed
            yield
            if self._sums is not None:
                with written(self.where):
                    self._sums.record(folders)
            self.log(what, details)

    @contextmanager
    def _locked(self, name: str = ".lock", *, reading: bool = False) -> Iterator[None]:
        """Alone among the writers of a folder; an object store settles that itself, by versions."""
        if self.folder is None:
            yield
            return
        handle = -1
        try:
            with written(self.where):
                handle = os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o644)
        except GalleryError:
            if not reading:  # nobody writes where nobody can
                raise
        try:
            if handle >= 0:
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            if handle >= 0:
                os.close(handle)

    def _strike(self, gone: Callable[[str], bool]) -> None:
        """Strike files that are about to go or to be replaced."""
        if self._sums is not None:
            with written(self.where):
                self._sums.strike(gone)

    def _strike_index(self, kept: Collection[str]) -> None:
        """Strike all files of the index but those that are `kept`."""
        self._strike(lambda name: name.startswith(f"{INDEX}/") and name.removeprefix(f"{INDEX}/") not in kept)

    def log(self, what: str, details: Mapping[str, Any]) -> None:
        """Add a line to the log of the gallery, if it keeps one."""
        if self._log is not None:
            self._log.write(what, details, self.who)

    def check_weights(self, made_by: str) -> None:
        """Refuse embeddings of other weights.

        Raises:
            GalleryError: they are.
        """
        if made_by != self.info.made_by:
            raise GalleryError(
                self.where,
                f"holds embeddings of the weights {self.info.made_by}, and these are of {made_by or 'unknown weights'}",
                "use those weights, or embed its crops anew with `glimpse gallery re-embed`",
            )

    # ------------------------------------------------------------ adding

    def add(
        self,
        model: Model,
        crops: Iterable[Incoming | DataError],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> Added:
        """Embed crops and add those that are not there yet.

        Some thousands are committed at a time. Whatever stops it, what was committed stays, and the same call goes on
        where it stopped: crops that are there cost a hash and no more.

        Args:
            model: the weights of the gallery.
            crops: see `open_incoming` and `open_mot`; errors among them are handed on.
            progress: called with the number of crops done since the last call.

        Raises:
            GalleryError: the gallery is of other weights, or cannot be written.
            ConfigError: the method needs key points, and the model has no source of them.
        """
        self.check_weights(model.made_by)
        ids = self.ids()
        distance = model.distance()
        step = progress or (lambda _: None)
        bad: list[DataError] = []
        done = Added()
        known = 0
        waiting: deque[tuple[Crop, Image.Image]] = deque()
        came: set[str] = set()

        def fresh() -> Iterator[tuple[Image.Image, Callable[[], bytes] | None, str]]:
            nonlocal known
            for crop in decoded(crops, ids):
                if isinstance(crop, DataError):
                    bad.append(crop)
                elif crop.content in came or crop.content in ids:
                    known += 1
                elif crop.image is not None:
                    try:
                        waiting.append((crop_of(crop), crop.image))
                    except DataError as error:
                        bad.append(error)
                    else:
                        came.add(crop.content)
                        yield crop.image, None if crop.data is None else partial(bytes, crop.data), crop.source
                        continue
                step(1)

        rows: list[tuple[list[tuple[Crop, Image.Image]], Embedding]] = []
        last = time.monotonic()

        def commit() -> None:
            nonlocal done, last
            parts = rows.copy()
            rows.clear()  # what cannot be written now is not tried again
            if parts:
                found = [crop for part, _ in parts for crop in part]
                written_now = self.add_embedded(
                    stored_form(distance, Embedding.cat([part for _, part in parts])),
                    [crop for crop, _ in found],
                    [thumbnail(image, self.info.thumbnails) for _, image in found],
                )
                done = Added(done.added + written_now.added, done.known + written_now.known)
            last = time.monotonic()

        try:
            for part in model.embed_stream(fresh()):
                rows.append(([waiting.popleft() for _ in range(len(part))], part))
                step(len(part))
                if sum(len(each) for _, each in rows) >= _COMMIT_ROWS or time.monotonic() - last > _COMMIT_SECONDS:
                    commit()
        finally:
            commit()
        return Added(done.added, done.known + known, tuple(bad))

    def ids(self) -> Ids:
        """Which crops it has now; what is added later is among them when it is asked again."""
        self.table.refresh()
        self.table.read(self._ids.refresh)
        return self._ids

    def add_embedded(
        self,
        embedding: Embedding,
        crops: Sequence[Crop],
        thumbnails: Sequence[bytes | None] | None = None,
    ) -> Added:
        """Add crops that are embedded, those that are not there yet, in one commit.

        Args:
            embedding: one row per crop, in the form that the gallery stores.
            crops: what is known of them; `added` is set here.
            thumbnails: JPEG pictures.

        Raises:
            GalleryError: the gallery is of other weights, or cannot be written.
            EmbeddingError: a row does not fit the gallery or half precision.
        """
        self.check_weights(embedding.made_by)
        if len(embedding) != len(crops):
            raise GalleryError(self.where, f"{len(embedding)} embeddings for {len(crops)} crops", "give one for each")
        arrays = to_arrays(embedding, self.info.fields)
        columns = [*to_columns(crops, thumbnails or [None] * len(crops), time.time()), *arrays]
        rows = pa.Table.from_arrays(columns, schema=schema_of(self.info.fields, {KEY: self.info.model_dump_json()}))
        return self.add_rows(rows)

    def add_rows(self, rows: pa.Table) -> Added:
        """Add rows of a table like the gallery's, those that are not there yet, in one commit."""
        details: dict[str, Any] = {}
        with self._writing("add", details):
            self.table.read(self._ids.refresh)
            ids = rows.column("id").combine_chunks()
            new = ~self._ids.has(ids)
            _, first = np.unique(ids.to_numpy(zero_copy_only=False), return_index=True)
            once = np.zeros(len(new), np.bool_)
            once[first] = True
            new &= once
            fresh = rows if new.all() else rows.filter(pa.array(new))
            if len(fresh):
                self.table.append(fresh)
            details |= {"crops": len(fresh)}
        return Added(len(fresh), len(rows) - len(fresh))

    def re_embed(
        self, where: str | Path, model: Model, *, progress: Callable[[int], None] | None = None
    ) -> tuple[Gallery, Added]:
        """The crops of this gallery, read again from their sources, in a new gallery of other weights.

        It can be stopped and done again, and goes on where it stopped. Crops whose source is gone or was changed are
        reported; all that is known of the others comes along.

        Args:
            where: the new gallery.
            model: the other weights.
            progress: called with the number of crops done since the last call.

        Raises:
            GalleryError: there is a gallery of still other weights at `where`, or it cannot be written.
        """
        from glimpse.gallery.sources import again

        there = is_local(str(where)) and Path(local_path(str(where)), NAME).is_dir()
        if there:
            new = Gallery.open(where, options=self.table.options, who=self.who, audit=self._log is not None)
        else:
            new = Gallery.create(
                where,
                model,
                thumbnails=self.info.thumbnails,
                options=self.table.options,
                who=self.who,
                audit=self._log is not None,
            )
        return new, new.add(model, again(self.crops()), progress=progress)

    # ------------------------------------------------------------ changing

    def delete(self, chosen: Filter) -> int:
        """Delete crops: searches do not find them any more. Their bytes go with `compact`.

        Args:
            chosen: which; at least one condition.

        Returns:
            How many.

        Raises:
            ConfigError: `chosen` names nothing.
            GalleryError: the gallery cannot be written.
        """
        where = self._chosen(chosen, "deleted")
        details: dict[str, Any] = {}
        with self._writing("delete", details):
            details |= self._named(where)
            if details["crops"]:
                self.table.delete(where)
        return int(details["crops"])

    def update(self, chosen: Filter, values: Mapping[str, Any]) -> int:
        """Change what is known of crops.

        Args:
            chosen: which; at least one condition.
            values: of `pid`, `camera`, `track`, `time` and `tags`; `None` for not known.

        Returns:
            How many were changed.

        Raises:
            ConfigError: `chosen` names nothing, or a value is none that can be changed.
            GalleryError: the gallery cannot be written.
        """
        where = self._chosen(chosen, "changed")
        if not values:
            raise ConfigError("values", "nothing is to be changed", f"give some of {', '.join(_CHANGEABLE)}")
        unknown = [name for name in values if name not in _CHANGEABLE]
        if unknown:
            raise ConfigError(unknown[0], "cannot be changed", f"what can be: {', '.join(_CHANGEABLE)}")
        try:
            checked = Crop.model_validate({"id": "0" * 32, **{n: () if v is None and n == "tags" else v
                                                             for n, v in values.items()}})  # fmt: skip
        except ValidationError as error:
            name, cause = first_problem(error)
            raise ConfigError(name, cause, "give a value that fits") from error
        details: dict[str, Any] = {"of": list(values)}
        with self._writing("update", details):
            details |= self._named(where)
            if details["crops"]:
                self.table.update({name: _sql(name, getattr(checked, name)) for name in values}, where)
        return int(details["crops"])

    def _named(self, where: str) -> dict[str, Any]:
        """The crops that fit as the log has them: by their ids, and by nothing that has to go with them."""
        ids = self.table.rows(["id"], where)["id"]
        return {"crops": len(ids), "ids": ids[:_LOGGED].to_pylist()}

    def _chosen(self, chosen: Filter, verb: str) -> str:
        where = chosen.sql()
        if not where:
            cause = f"no condition is given, and all crops would be {verb}"
            raise ConfigError("filter", cause, "name ids, people, cameras, tracks, sources, times or tags")
        return where

    def compact(self) -> None:
        """Write the files anew without what was deleted, remove all older versions, and bring the index after it.

        After it no byte of a deleted crop is in the gallery's folder but its id in the log of who deleted it.

        Raises:
            GalleryError: the gallery cannot be written.
        """
        from glimpse.gallery.shortlist import scrub

        details: dict[str, Any] = {}
        with self._locked(_INDEXING), self._writing("compact", details, (NAME, INDEX)):
            self.table.rewrite()
            files = self.table.files()
            self._strike(lambda name: name.startswith(f"{NAME}/") and name not in files)
            self.table.clean()
            if self.folder is not None:
                scrub(self.folder / INDEX, self.table, self._strike_index)
            details["crops"] = len(self)

    # ------------------------------------------------------------ searching

    def index(
        self,
        distance: Distance,
        *,
        recall: float = 0.99,
        rebuild: bool = False,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> Manifest:
        """Make searches by a distance fast: build the shortlist index, or bring the one that is there up to date.

        An index that is there takes in what came and leaves out what went, and is tuned again if it is to find more.
        It is built anew if the gallery is half as large again as when it was tuned.

        Args:
            distance: of the gallery's weights, as `Model.distance` gives it.
            recall: share of the ten nearest that fast search is to find, on average.
            rebuild: build it anew in any case.
            seed: of the crops that recall is measured with.
            progress: called with the number of crops done since the last call.

        Returns:
            What it is, with the recall and the times that were measured on this gallery.

        Raises:
            ConfigError: `recall` is no share.
            GalleryError: the gallery is empty or in an object store, or cannot be written.
        """
        from glimpse.gallery.shortlist import build, open_shortlist, tune

        with self._locked(_INDEXING):
            self.table.refresh()
            found = None if rebuild else open_shortlist(self, distance)
            measured = None if found is None else found.manifest.measured
            if found is None or measured is None or len(found) > 1.5 * measured.crops:
                found = build(self, distance, recall=recall, seed=seed, progress=progress)
            elif recall > measured.target:
                tune(found, self, recall, seed=seed)
            with self._writing("index", {"crops": len(found), "recall": recall}, (NAME, INDEX)):
                found.save(self._strike_index)
            self._shortlists.clear()
            return found.manifest

    def search(
        self,
        model: Model,
        query: Query | Crop | Sequence[Query | Crop],
        ask: Ask | None = None,
        *,
        visible: Prompt | Sequence[Prompt | None] | None = None,
        options: Mapping[str, Option] | None = None,
    ) -> Answer:
        """Rank the crops by their distance to a person, and say what each hit hangs on: see `search_gallery`."""
        from glimpse.gallery.search import search_gallery

        return search_gallery(self, model, query, ask, visible=visible, options=options)

    def nearest(
        self,
        distance: Distance,
        probes: Probes,
        depth: int,
        *,
        where: Filter | None = None,
        mode: Mode = "auto",
    ) -> list[Ranked]:
        """Row numbers and distances of the nearest crops of some queries: what `search` is made of.

        Args:
            distance: of the gallery's weights.
            probes: the queries.
            depth: how many for each.
            where: which crops are compared; all if not given.
            mode: `exact` compares all of them; `fast` takes the index; `auto` does if there is one for this distance.

        Raises:
            ConfigError: there is no such mode, or `depth` is below 1.
            GalleryError: the gallery is of other weights, there is no index for `fast`, or a file cannot be read.
        """
        if mode not in get_args(Mode):
            raise ConfigError("mode", f"'{mode}' is not known", f"choose one of {', '.join(get_args(Mode))}")
        if depth < 1:
            raise ConfigError("depth", f"{depth} crops are none", "ask for at least one")
        self.check_weights(probes.embedding.made_by)
        condition = (where or Filter()).sql()

        def search() -> list[Ranked]:
            self.table.refresh()
            shortlist = None if mode == "exact" else self.shortlist(distance)
            if shortlist is not None:
                return [shortlist.search(self, probes[i], depth, condition) for i in range(len(probes))]
            if mode != "fast":
                return search_exactly(
                    self.table, self.info.fields, self.info.made_by, distance, probes, depth, condition
                )
            cause = "has no index for this distance"
            raise GalleryError(self.where, cause, "build it with `glimpse gallery index`, or search with mode exact")

        return self.table.steady(search)

    def shortlist(self, distance: Distance) -> Shortlist | None:
        """The index for a distance, in step with the table; `None` if there is none."""
        from glimpse.gallery.shortlist import open_shortlist

        if self.folder is None:
            return None
        key = repr(distance)
        found = self._shortlists.get(key)
        if found is None:
            found = open_shortlist(self, distance)
            if found is None:
                return None
            self._shortlists = {key: found}  # one at a time: it takes memory
        found.sync(self)
        return found

    # ------------------------------------------------------------ reading

    def crops(self, chosen: Filter | None = None) -> list[Crop]:
        """What is known of the crops that fit, in the order they came."""
        self.table.refresh()
        return to_crops(self.table.rows(NAMES, (chosen or Filter()).sql()).sort_by("_rowid"))

    def thumbnail(self, row_id: int) -> bytes | None:
        """The small picture of a row, if it has one."""
        found = self.table.take(np.array([row_id]), [THUMBNAIL]).column(0)[0].as_py()
        return found if found is None else bytes(found)

    def embedding(self, row_ids: npt.NDArray[np.int64], fields: Sequence[Field] | None = None) -> Embedding:
        """Embeddings of some rows, in half precision."""
        fields = self.info.fields if fields is None else fields
        rows = self.table.take(row_ids, [field.column for field in fields])
        return to_embedding(rows, fields, self.info.made_by)

    def verify(self, *, progress: Callable[[int], None] | None = None) -> Verified:
        """Read everything: files against their checksums, rows against each other, the log line by line.

        Rows are not read if a file is not as it was.

        Args:
            progress: called with the number of files done since the last call.
        """
        problems: list[str] = []
        notes: list[str] = []
        files = rows = 0
        with self._locked(reading=True):
            self.table.refresh()
            if self._sums is not None:
                try:
                    files = len(self._sums.read())
                    wrong, unknown = self._sums.check(progress)
                except GalleryError as error:
                    wrong, unknown = [f"{os.path.basename(error.where)} {error.cause}"], []
                problems += wrong
                if unknown:
                    notes.append(
                        f"{count(len(unknown), 'file')} not recorded (first: {unknown[0]}): written when a process was "
                        "killed, or by another program."
                    )
                notes += self._hint()
            try:
                # What is known to be damaged is not read: it can make its reader ask for all the memory there is.
                for number, each in self._checked() if not problems else ():
                    rows += number
                    problems += each
            # It can make it say anything, too.
            except Exception as error:
                problems.append(f"the table cannot be read ({first_line(error)})")
            if self.folder is not None:
                try:
                    deque(Audit(self.folder / "audit.jsonl"), maxlen=0)
                except (GalleryError, OSError) as error:
                    problems.append(str(error) if isinstance(error, OSError) else f"{error.where} {error.cause}")
        return Verified(tuple(problems), tuple(notes), rows, files)

    def _hint(self) -> list[str]:
        """What is odd about the one file that is written over, which is not recorded."""
        (name,) = MUTABLE
        path = Path(local_path(self.where), NAME, "_versions", name)
        if not path.exists() or path.read_bytes() == b'{"version":%d}' % self.table.version:
            return []
        return [f"{name} does not name the newest version; nothing hangs on it."]

    def _checked(self) -> Iterator[tuple[int, list[str]]]:
        """How many rows were read, and what is wrong with them."""
        ids = Ids()
        ids.refresh(self.table.dataset)
        if repeated := ids.repeated():
            yield 0, [f"{count(repeated, 'id')} more than once"]
        done = 0
        for block in self.table.blocks([*NAMES, THUMBNAIL, *(each.column for each in self.info.fields)]):
            embedding = to_embedding(block, self.info.fields, self.info.made_by)
            there = f"in some of the rows {done} to {done + block.num_rows}"
            done += block.num_rows
            bad = [name for name, tensor in embedding.tensors.items() if not bool(tensor.isfinite().all())]
            yield block.num_rows, [f"'{name}' is not finite {there}" for name in bad]

    def entries(self) -> Iterator[Entry]:
        """The log: who did what and when, the oldest first.

        Raises:
            GalleryError: a line is damaged or was changed.
        """
        yield from self._log or ()

    def stats(self) -> dict[str, Any]:
        """What the gallery holds, in numbers."""
        from glimpse.gallery.shortlist import read_manifest

        self.table.refresh()
        rows = self.table.rows(["pid", "camera", "track", "time", "tags", "source"])
        times = [t for t in rows["time"].to_pylist() if t is not None]
        dataset = self.table.dataset
        deleted = sum(f.metadata.num_deletions or 0 for f in dataset.get_fragments())
        manifest = read_manifest(self.folder / INDEX) if self.folder is not None else None
        return {
            "crops": len(rows),
            "deleted and not compacted": deleted,
            "people": len(rows["pid"].unique().drop_null()),
            "cameras": len(rows["camera"].unique().drop_null()),
            "tracks": len(rows["track"].unique().drop_null()),
            "sources": len(rows["source"].unique().drop_null()),
            "from": min(times) if times else None,
            "to": max(times) if times else None,
            "weights": self.info.made_by,
            "method": self.info.method,
            "bytes per crop": 2 * sum(field.width for field in self.info.fields),
            "bytes on disk": _bytes_of(self.folder) if self.folder is not None else None,
            "fragments": len(dataset.get_fragments()),
            "version": self.table.version,
            "index": manifest.said() if manifest is not None else None,
        }


def thumbnail(image: Image.Image | None, height: int) -> bytes | None:
    """A JPEG no higher than `height` pixels; `None` if that is 0 or there is no picture."""
    if not height or image is None:
        return None
    small = image
    if image.height > height:
        small = image.resize((max(1, round(image.width * height / image.height)), height), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.convert("RGB").save(out, "JPEG", quality=85)
    return out.getvalue()


def crop_of(crop: Incoming) -> Crop:
    """What is known of a crop on its way in.

    Raises:
        DataError: it cannot be stored: a name is no text, or a number not finite.
    """
    try:
        return Crop(
            id=crop.content,
            pid=crop.pid,
            camera=crop.camera,
            track=crop.track,
            time=crop.time,
            source=crop.source,
            frame=crop.frame,
            box=crop.box,
            tags=crop.tags,
        )
    except ValidationError as error:
        name, cause = first_problem(error)
        where = crop.source.encode(errors="backslashreplace").decode()
        raise DataError(where, f"has a {name} that cannot be kept ({cause})", "give it another") from error


def _sql(name: str, value: Any) -> str:
    if value is None:
        return "NULL"
    if name == "tags":
        return f"[{', '.join(map(quoted, value))}]" if value else "arrow_cast([], 'List(Utf8)')"
    return repr(float(value)) if name == "time" else quoted(value)


def _bytes_of(folder: Path) -> int:
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)
