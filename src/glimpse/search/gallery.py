"""A gallery that was embedded once: its embedding, its crops, and the two files that hold them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open

from glimpse.data import open_crops
from glimpse.data.samples import Sample, Store
from glimpse.data.stores import open_store
from glimpse.data.words import count
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, DataError, EmbeddingError, first_problem
from glimpse.files import check_target, write_text

if TYPE_CHECKING:
    from glimpse.model import Model

_REMEDY = "write both files again with `glimpse embed`"


@dataclass(frozen=True, slots=True)
class Gallery:
    """Embedded crops, in one order.

    Attributes:
        embedding: one row per crop.
        samples: the crops.
        source: where they come from, in words.
        skipped: crops that could not be read.
        notes: what was left out while looking for crops, one sentence each.

    Raises:
        EmbeddingError: the numbers of rows and crops differ.
    """

    embedding: Embedding
    samples: Sequence[Sample] = field(repr=False)
    source: str = "gallery"
    skipped: tuple[DataError, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.embedding) != len(self.samples):
            cause = f"has {len(self.embedding)} rows and {len(self.samples)} crops"
            raise EmbeddingError(self.source, cause, "give one crop for each row of the embedding, in the same order")

    def save(self, path: str | Path) -> Path:
        """Write the embedding to `path` (safetensors) and the list of crops beside it (JSON).

        Returns:
            The path of the list: that of the embedding, ending in `.json`.

        Raises:
            ConfigError: one of the two is there already and is not an embedded gallery, or cannot be written.
        """
        check_overwrite(path)
        self.embedding.save(path)
        listing = listing_path(path)
        roots = list(dict.fromkeys(os.path.abspath(s.store.root) for s in self.samples))
        crops = [
            _Crop(root=roots.index(os.path.abspath(s.store.root)), name=s.name, pid=s.pid, camid=s.camid, time=s.time)
            for s in self.samples
        ]
        record = _Listing(
            format="glimpse-gallery-1",
            made_by=self.embedding.made_by,
            sha256=_sha256(Path(path)),
            roots=roots,
            crops=crops,
        )
        write_text(listing, record.model_dump_json(indent=1) + "\n")
        return listing


def embed_gallery(
    model: Model,
    crops: str | Path | Sequence[Sample],
    *,
    skip_bad: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Gallery:
    """Embed the crops of a folder or zip, or a list of samples.

    Args:
        model: what embeds.
        crops: a folder, a zip or samples.
        skip_bad: leave unreadable crops out and list them, instead of raising on the first.
        progress: handed to `Model.embed_samples`.

    Raises:
        DataError: there is no crop, or one cannot be read and `skip_bad` is off.
    """
    source = str(crops) if isinstance(crops, (str, Path)) else count(len(crops), "crop")
    notes: list[str] = []
    samples = open_crops(crops, report=notes.append) if isinstance(crops, (str, Path)) else list(crops)
    if not samples:
        raise DataError("gallery", "there is no crop in it", "give at least one")
    embedded = model.embed_samples(samples, skip_bad=skip_bad, progress=progress)
    return Gallery(
        embedded.embedding, [samples[row] for row in embedded.kept], source, tuple(embedded.bad), tuple(notes)
    )


def load_gallery(path: str | Path) -> Gallery:
    """Read what `Gallery.save` wrote.

    The crops themselves need not be there any more; only showing them does.

    Raises:
        EmbeddingError: one of the two files is missing, damaged, or belongs to another embedding.
    """
    embedding = Embedding.load(path)
    listing = listing_path(path)
    try:
        record = _Listing.model_validate_json(listing.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EmbeddingError(listing, f"there is no list of crops beside {path}", _REMEDY) from None
    except (OSError, UnicodeDecodeError) as error:
        raise EmbeddingError(listing, f"cannot be read ({error})", _REMEDY) from error
    except ValidationError as error:
        field, said = first_problem(error)
        raise EmbeddingError(f"{listing}: {field}" if field else listing, said, _REMEDY) from error
    if record.sha256 != _sha256(Path(path)):
        raise EmbeddingError(listing, f"was not written together with {path}", _REMEDY)
    stores = [_StoredCrops(root) for root in record.roots]
    try:
        samples = [Sample(stores[c.root], c.name, c.pid, c.camid, c.time) for c in record.crops]
    except IndexError:
        raise EmbeddingError(f"{listing}: crops", "a crop names a root that is not listed", _REMEDY) from None
    return Gallery(embedding, samples, str(path))


def listing_path(path: str | Path) -> Path:
    """Where the list of crops of an embedding file lies."""
    return Path(path).with_suffix(".json")


def check_overwrite(path: str | Path) -> None:
    """Refuse to write a gallery over anything but a gallery, such as weights and their card.

    Raises:
        ConfigError: there is another file at `path` or where its list of crops would lie.
    """
    remedy = "choose another name, or remove the file first"
    check_target(path)
    if os.path.exists(path):
        try:
            with safe_open(path, framework="pt") as file:
                kind = (file.metadata() or {}).get("format", "")
        except (OSError, SafetensorError):
            kind = ""
        if not kind.startswith("glimpse-embedding"):
            raise ConfigError(path, "is there already and is not an embedding of glimpse", remedy)
    listing = listing_path(path)
    check_target(listing)
    if listing.exists():
        try:
            record = json.loads(listing.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            record = None
        if not isinstance(record, dict) or not str(record.get("format", "")).startswith("glimpse-gallery"):
            raise ConfigError(listing, "is there already and is not a list of embedded crops", remedy)


class _StoredCrops:
    """Crops of a stored gallery: their folder or zip is opened when one is looked at, for it may be gone."""

    def __init__(self, root: str) -> None:
        self.root = root

    def read(self, name: str) -> bytes:
        return self._store.read(name)

    @cached_property
    def _store(self) -> Store:
        return open_store(self.root)


class _Crop(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    root: int
    name: str
    pid: int
    camid: int | None = None
    time: float | None = None


class _Listing(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["glimpse-gallery-1"]
    made_by: str
    sha256: str
    roots: list[str]
    crops: list[_Crop]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
