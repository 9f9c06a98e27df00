"""Galleries as one Parquet file, to keep, to move, or to read with other programs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from glimpse.errors import ConfigError, GalleryError, first_problem
from glimpse.files import atomic, check_target
from glimpse.gallery.filters import Filter
from glimpse.gallery.rows import NAMES, schema_of
from glimpse.gallery.store import KEY, Added, Gallery, Info
from glimpse.gallery.table import NAME, first_line, is_local, local_path, written

_ROWS = 8192


def export(
    gallery: Gallery, path: str | Path, where: Filter | None = None, *, progress: Callable[[int], None] | None = None
) -> int:
    """Write crops, embeddings and thumbnails to a Parquet file, whole or not at all.

    Args:
        gallery: what to write.
        path: of the file.
        where: which crops; all if not given.
        progress: called with the number of crops done since the last call.

    Returns:
        How many crops.

    Raises:
        ConfigError, GalleryError: the file cannot be written, or the gallery cannot be read.
    """
    check_target(path)
    check_outside(gallery.where, path)
    gallery.table.refresh()
    schema = gallery.table.dataset.schema
    done = 0
    with (
        written(str(path)),
        atomic(path) as draft,
        # Pages carry a checksum: zstd alone does not notice every flipped byte.
        pq.ParquetWriter(
            draft, schema, compression="zstd", use_dictionary=list(NAMES), write_page_checksum=True
        ) as writer,
    ):
        for block in gallery.table.blocks(schema.names, (where or Filter()).sql(), rows=_ROWS):
            writer.write_batch(block.select(schema.names).cast(schema))
            done += block.num_rows
            if progress is not None:
                progress(block.num_rows)
    gallery.log("export", {"to": str(path), "crops": done, "where": (where or Filter()).said()})
    return done


def check_outside(where: str, *paths: str | Path | None) -> None:
    """Refuse to write a result among the files of a gallery, where it could replace one.

    Raises:
        ConfigError: a path lies in the folder of the gallery.
    """
    folder = os.path.realpath(local_path(where)) if is_local(where) else None
    for path in paths:
        if path is not None and folder is not None and os.path.realpath(path).startswith(folder + os.sep):
            raise ConfigError(path, "lies in the folder of the gallery", "write it elsewhere")


def info_of(path: str | Path) -> Info:
    """What gallery a Parquet file was exported from.

    Raises:
        GalleryError: it is missing, no Parquet file, or none of a gallery.
    """
    return _info_in(_schema(path), path)


def import_into(
    where: str | Path,
    path: str | Path,
    *,
    options: Mapping[str, str] | None = None,
    who: str | None = None,
    audit: bool = True,
    progress: Callable[[int], None] | None = None,
) -> tuple[Gallery, Added]:
    """Add what a Parquet file holds to a gallery, which is made if it is not there.

    Crops that are there already stay as they are. It can be stopped and done again.

    Args:
        where: the gallery.
        path: what `export` wrote.
        options, who, audit: see `Gallery`.
        progress: called with the number of crops done since the last call.

    Raises:
        GalleryError: the file cannot be read, is of other weights than the gallery, or the gallery cannot be written.
    """
    given = _schema(path)
    info = _info_in(given, path)
    wanted = schema_of(info.fields, {})
    odd = [
        name for name in wanted.names if name not in given.names or given.field(name).type != wanted.field(name).type
    ]
    if odd:
        cause = f"has no column '{odd[0]}' as galleries have it: another program wrote it anew"
        raise GalleryError(path, cause, "give a file that `glimpse gallery export` wrote")
    gallery = _opened_or_made(where, info, options, who, audit)
    gallery.check_weights(info.made_by)
    if info.fields != gallery.info.fields:
        cause = "its embeddings have other tensors than the gallery's"
        raise GalleryError(path, cause, "export it again from a gallery of these weights")
    added = known = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(_ROWS):
                rows = pa.Table.from_batches([batch]).select(wanted.names).cast(gallery.table.dataset.schema)
                if any(rows[name].null_count for name in ("id", *(field.column for field in info.fields))):
                    raise ValueError("a crop without id or embedding")
                found = gallery.add_rows(rows)
                added, known = added + found.added, known + found.known
                if progress is not None:
                    progress(batch.num_rows)
    except (OSError, ValueError, pa.ArrowException) as error:
        cause = f"is damaged ({first_line(error)}); {added:,} crops were added before"
        raise GalleryError(path, cause, "export the gallery again, and import it again") from error
    return gallery, Added(added, known)


def _schema(path: str | Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except FileNotFoundError as error:
        raise GalleryError(path, "does not exist", "check the path and its spelling") from error
    except (OSError, pa.ArrowException) as error:
        remedy = "give a file that `glimpse gallery export` wrote, or export the gallery again"
        raise GalleryError(path, f"cannot be read ({first_line(error)})", remedy) from error


def _info_in(schema: pa.Schema, path: str | Path) -> Info:
    said = (schema.metadata or {}).get(KEY.encode())
    if said is None:
        cause = "is a Parquet file, and no exported gallery"
        raise GalleryError(path, cause, "give a file that `glimpse gallery export` wrote")
    try:
        return Info.model_validate_json(said)
    except ValidationError as error:
        name, cause = first_problem(error)
        remedy = "export it again with this version of glimpse"
        raise GalleryError(path, f"has a format that is not read here ({name}: {cause})", remedy) from error


def _opened_or_made(
    where: str | Path, info: Info, options: Mapping[str, str] | None, who: str | None, audit: bool
) -> Gallery:
    if is_local(str(where)):
        if Path(local_path(str(where)), NAME).is_dir():
            return Gallery.open(where, options=options, who=who, audit=audit)
        return Gallery.made_as(where, info, options=options, who=who, audit=audit)
    try:  # an object store says only in this way what is there
        return Gallery.open(where, options=options, who=who, audit=audit)
    except GalleryError as absent:
        try:
            return Gallery.made_as(where, info, options=options, who=who, audit=audit)
        except GalleryError:
            raise absent from None
