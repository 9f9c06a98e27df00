"""Fast search: an index of vectors in memory finds a few rows, and their stored embeddings decide among them.

No vector index can hold a distance whose denominator depends on the pair. But a pair is nearer than a given level
exactly where a difference is positive, and that is an inner product: `s / w > t` where `s - t w > 0`. So a query is
searched twice: with the level of its neighbours guessed, which finds their level, and with that. How far the search
looks, and how long the shortlist must be, is measured on the gallery itself. (The level is the parameter of
Dinkelbach's method for ratios, Management Science 13(7), 1967.)
"""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from torch import Tensor

from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, GalleryError, first_problem
from glimpse.files import write_text
from glimpse.gallery.exact import Probes, Ranked, coarse_of, finish, search_exactly
from glimpse.gallery.fields import Field, Packed, borrowed, read_by, to_embedding
from glimpse.gallery.table import INDEX, MANIFEST, first_line, written
from glimpse.matching.cascade import Cascade
from glimpse.matching.distance import Distance
from glimpse.matching.kernels import EPS, PartDistance
from glimpse.processes import one_thread
from glimpse.records import Record

if TYPE_CHECKING:
    from glimpse.gallery.store import Gallery
    from glimpse.gallery.table import Table

DIMS = 256
"""Numbers of a vector in the index, at most: longer ones are projected on their strongest directions."""
K = 10
"""Hits that recall is measured on."""
QUERIES = 200
"""Crops of the gallery that it is measured with."""
SMALL = 4096
"""Where a filter leaves no more rows than this, they are all compared."""

_PROBES = (1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 384, 512, 768, 1024)
_LENGTHS = (30, 50, 75, 100, 150, 200, 250, 300, 400, 600, 800, 1200, 1600, 2400, 3200, 6400)
_BLOCK = 16384
_SAMPLE = 64
"""Vectors per list that the lists are learnt from."""
_WIDE = 32
"""So many times the shortlist is taken by codes of 4 bits, before the vectors themselves choose."""
_LOOK = 32
"""Lists that are looked into for the level of a query's neighbours, at most."""
_MASKS = 64
_TINY = 1e-6
_LONG = 800
"""Length of the list in which the places of the true neighbours are looked up."""

_KINDS: tuple[Literal["near", "quick", "rest"], ...] = ("near", "quick", "rest")
"""Files of numbers of a segment: vectors, what shortlisted rows are compared by, and what the best of them are."""

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Segment(Record):
    """Rows that were indexed together: three files of that name.

    Attributes:
        name: of the files.
        rows: how many.
    """

    name: str
    rows: int


class Measured(Record):
    """What was measured when the index was tuned.

    Attributes:
        recall: share of the `k` nearest by exact search that fast search finds, over `queries` crops of the gallery.
        k, queries: of it.
        milliseconds: median and 99th percentile of one query.
        target: that was asked for.
        crops: in the gallery then.
    """

    recall: float
    k: int
    queries: int
    milliseconds: tuple[float, float]
    target: float
    crops: int


class Manifest(Record):
    """What an index is; the one file of its folder that is replaced.

    Attributes:
        made_by: weights of the gallery.
        coarse: the distance that it shortlists for, as text.
        quick, rest: fields that shortlisted rows are compared by, and those that the best of them are.
        vectors: file of the vector index.
        directions: file of what vectors are projected on, if they are, of what they are on average, and of the lists'
            means.
        dims: numbers of a vector, all told.
        products: how many of them make the numerator of the distance.
        sums: how many make its denominator, behind those; none if it has none.
        level: similarity that the neighbours of a query usually have.
        segments: files of embeddings.
        probes: lists of the vector index that are looked into.
        length: of the shortlist.
        measured: what these two give.
        seconds: that building took.
    """

    format: Literal["glimpse-index-2"] = "glimpse-index-2"
    made_by: str
    coarse: str
    quick: tuple[Field, ...]
    rest: tuple[Field, ...]
    vectors: str
    directions: str
    dims: int
    products: int
    sums: int
    level: float
    segments: tuple[Segment, ...]
    probes: int
    length: int
    measured: Measured | None = None
    seconds: float = 0.0

    @property
    def fields(self) -> tuple[Field, ...]:
        """All that are stored."""
        return (*self.quick, *self.rest)

    def said(self) -> dict[str, Any]:
        """In numbers, for people."""
        found: dict[str, Any] = {
            "crops": sum(segment.rows for segment in self.segments),
            "probes": self.probes,
            "length of the shortlist": self.length,
            "seconds to build": round(self.seconds, 1),
        }
        if self.measured is not None:
            m = self.measured
            found |= {
                f"recall@{m.k}": round(m.recall, 4),
                "recall asked for": m.target,
                "milliseconds (median, 99th percentile)": [round(each, 2) for each in m.milliseconds],
                "measured on": f"{m.queries} of {m.crops:,} crops",
            }
        return found


def read_manifest(folder: Path) -> Manifest | None:
    """What the index in `folder` is; `None` if there is none.

    Raises:
        GalleryError: it is damaged.
    """
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        said = ": ".join(first_problem(error)) if isinstance(error, ValidationError) else str(error)
        remedy = "build it again with `glimpse gallery index --rebuild`"
        raise GalleryError(folder / MANIFEST, f"is damaged ({said})", remedy) from error


@dataclass
class _Block:
    """Rows of embeddings, in a mapped file or in memory."""

    ids: Rows
    near: npt.NDArray[np.float16]
    quick: npt.NDArray[np.float16]
    rest: npt.NDArray[np.float16]
    name: str = ""


class _Asked(NamedTuple):
    """What a crop asks of the index.

    Attributes:
        own: `[1, dims]`, as the index would hold the crop itself.
        products, mean, sums: see `Shortlist._asked`.
    """

    own: npt.NDArray[np.float32]
    products: Tensor
    mean: Tensor
    sums: Tensor

    def at(self, level: float, dims: int) -> npt.NDArray[np.float32]:
        """The vector whose product with that of a crop is positive where the crop is nearer than `level`."""
        whole = torch.cat([self.products, self.mean - level * self.sums])
        return np.pad(whole.numpy(), (0, dims - len(whole)))


@dataclass
class Shortlist:
    """An index of a gallery, in step with it.

    Made by `build` and `open_shortlist`. `sync` takes in what was added to the gallery since, and leaves out what was
    deleted, in memory; `save` writes that.
    """

    folder: Path
    manifest: Manifest
    distance: Distance | None
    index: Any
    projection: Tensor | None
    centre: Tensor
    means: Tensor
    blocks: list[_Block]
    version: int = 0
    _alive: Mask = field(default_factory=lambda: np.zeros(0, np.bool_))
    _allowed: OrderedDict[tuple[int, str], Mask] = field(default_factory=OrderedDict)
    _living: bytes | None = None
    _count: int = 0
    # Several threads may search; the vector index does not take additions meanwhile.
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def coarse(self) -> Distance:
        """What the index shortlists for."""
        assert self.distance is not None
        return coarse_of(self.distance)

    # ------------------------------------------------------------ in step with the table

    def sync(self, gallery: Gallery) -> None:
        """Take in rows that came to the table, and leave out rows that went."""
        if gallery.table.version == self.version:
            return
        with self._lock:
            version, now = gallery.table.living()
            known = self._known()
            fresh = np.setdiff1d(now, known)
            if len(fresh):
                for part in np.array_split(fresh, -(-len(fresh) // _BLOCK)):
                    self._take_in(gallery.embedding(part, self.manifest.fields), part)
            self._settle(now, version)

    def _known(self) -> Rows:
        """All rows that it holds, also those that are gone from the table."""
        return np.concatenate([np.zeros(0, np.int64), *(block.ids for block in self.blocks)])

    def _settle(self, now: Rows, version: int) -> None:
        """Only the rows `now` live."""
        size = int(max(now.max(initial=-1), self._known().max(initial=-1))) + 1
        self._alive = np.zeros(size, np.bool_)
        self._alive[now] = True
        self._count = len(now)
        self._allowed.clear()
        self._living = None
        self.version = version

    def _take_in(self, embedding: Embedding, ids: Rows) -> None:
        near = self._vectors(embedding)
        self.index.add_with_ids(near, ids)
        quick, rest = Packed(self.manifest.quick).pack(embedding), Packed(self.manifest.rest).pack(embedding)
        self.blocks.append(_Block(ids, near.astype(np.float16), quick, rest))

    def _vectors(self, embedding: Embedding) -> npt.NDArray[np.float32]:
        """What the index holds of crops, `[n, dims]`: what makes the numerator, projected, less what it is on average
        with such a denominator; the denominator; zeros."""
        return self._joined(*self._halves(embedding))

    def _joined(self, products: Tensor, sums: Tensor) -> npt.NDArray[np.float32]:
        out = np.zeros((len(products), self.manifest.dims), np.float32)
        whole = torch.cat([products - sums @ self.centre, sums], 1)
        out[:, : whole.shape[1]] = whole.numpy()
        return out

    def _halves(self, embedding: Embedding) -> tuple[Tensor, Tensor]:
        products, sums = vectors_of(self.coarse, embedding)
        return products if self.projection is None else products @ self.projection, sums

    def __len__(self) -> int:
        return self._count

    # ------------------------------------------------------------ searching

    def search(self, gallery: Gallery, probe: Probes, depth: int, where: str = "") -> Ranked:
        """The nearest `depth` rows of one query: as exact search gives them, but for what the shortlist misses."""
        # Threads do not pay for so little, and those of two libraries wait for each other.
        with self._lock, one_thread(), torch.inference_mode():
            library().omp_set_num_threads(1)
            probe = probe.readied(self.coarse)
            allowed = self._fitting(gallery, where)
            fitting = len(self) if allowed is self._alive else int(np.count_nonzero(allowed))
            rows = np.flatnonzero(allowed) if fitting <= max(SMALL, 4 * depth) else None
            length = max(self.manifest.length, 2 * depth, self.distance.n if isinstance(self.distance, Cascade) else 0)
            if len(probe.embedding) > 1 and probe.combine == "mean":  # near the mean need not be nearest to any of them
                length *= 4
            # The fewer crops a filter leaves, the farther apart they lie.
            lists = self.index.nlist
            probes = min(lists, -(-self.manifest.probes * len(self) // max(1, fitting)))
            while rows is None:
                rows = self._shortlisted(probe, length, probes, allowed)
                if len(rows) < depth and probes < lists:
                    rows, probes = None, min(lists, 4 * probes)
            assert self.distance is not None
            return finish(self._fetch, self.manifest.fields, self.distance, probe, rows, depth)

    def _fitting(self, gallery: Gallery, where: str) -> Mask:
        if not where:
            return self._alive
        key = (self.version, where)
        if key not in self._allowed:
            mask = np.zeros_like(self._alive)
            fitting = gallery.table.row_ids(where)
            mask[fitting[fitting < len(mask)]] = True  # the table may be newer
            self._allowed[key] = mask & self._alive
            if len(self._allowed) > _MASKS:
                self._allowed.popitem(last=False)
        self._allowed.move_to_end(key)
        return self._allowed[key]

    def _shortlisted(self, probe: Probes, length: int, probes: int, allowed: Mask) -> Rows:
        found = [self.ordered(probe.embedding[i], length, probes, allowed) for i in range(len(probe.embedding))]
        return found[0] if len(found) == 1 else np.unique(np.concatenate(found))

    def ordered(self, crop: Embedding, length: int, probes: int, allowed: Mask | None = None) -> Rows:
        """The shortlist of one crop, the best first.

        Args:
            crop: one row.
            length: of the list.
            probes: lists of the vector index that are looked into.
            allowed: which rows may be in it; all that live if not given.
        """
        bits = self._bits_of(self._alive if allowed is None else allowed)
        asked = self._asked(crop)
        alike = self.index.quantizer.search(asked.own, min(probes, _LOOK) if self.manifest.sums else probes)[1]
        level = 1.0  # a difference of sums is one already
        if self.manifest.sums and self._normalised:
            pool = self._pool(asked, self.manifest.level, 4 * length, alike, bits)
            near = np.sort(self._similarities(asked, pool))[::-1]
            level = max(-1.0, float(near[min(2 * length, len(near)) - 1])) if len(near) else self.manifest.level
        lists = self._lists(asked, level, alike, probes) if self.manifest.sums else alike
        rows = self._pool(asked, level, _WIDE * length, lists, bits)
        similarities = self._similarities(asked, rows)
        if len(rows) > length:
            best = np.argpartition(-similarities, length - 1)[:length]
            rows, similarities = rows[best], similarities[best]
        order = np.argsort(-similarities, kind="stable")
        rows, apart = rows[order], np.isneginf(similarities[order])
        if self.manifest.sums and (apart.any() or len(rows) < length):
            # All that share nothing with the query are equally far, and come in the order of the gallery.
            others = np.flatnonzero(self._alive if allowed is None else allowed)[: 2 * length]
            rows = np.concatenate([rows[~apart], np.setdiff1d(others, rows[~apart])])[:length]
        return rows

    def _bits_of(self, allowed: Mask) -> bytes | None:
        """One bit for each row; `None` where every bit would be set."""
        if allowed is not self._alive:
            return _bits(allowed)
        if self._living is None:
            self._living = b"" if allowed.all() else _bits(allowed)
        return self._living or None

    @property
    def _normalised(self) -> bool:
        coarse = self.coarse
        return isinstance(coarse, PartDistance) and coarse.normalise

    def _asked(self, crop: Embedding) -> _Asked:
        """What inner products with the vectors of the index ask of a crop, one row."""
        products, sums = self._halves(crop)
        # Vectors stand for what differs from the mean, `p - s C`; so `<q, p>` is `<q, p - s C> + <C q, s>`.
        return _Asked(
            own=self._joined(products, sums), products=products[0], mean=self.centre @ products[0], sums=sums[0]
        )

    def _lists(self, asked: _Asked, level: float, alike: npt.NDArray[np.int64], probes: int) -> npt.NDArray[np.int64]:
        """The lists whose crops are nearer than `level` on average, and that in which the crop itself would be."""
        nearer = self.means @ torch.from_numpy(asked.at(level, self.means.shape[1]))
        nearer[alike[0, 0]] = torch.inf
        chosen: npt.NDArray[np.int64] = nearer.topk(probes).indices.numpy()
        return chosen[None]

    def _pool(self, asked: _Asked, level: float, size: int, lists: npt.NDArray[np.int64], bits: bytes | None) -> Rows:
        """Rows of some lists that are likeliest to be nearer than `level`, of those whose bit is set."""
        faiss = library()
        vector = asked.at(level, self.manifest.dims)[None]
        params = faiss.SearchParametersIVF(nprobe=lists.shape[1])
        if bits is not None:
            params.sel = selector = faiss.IDSelectorBitmap(np.frombuffer(bits, np.uint8))  # noqa: F841 - not copied
        lists = np.ascontiguousarray(lists)
        unused, found = np.zeros((1, max(size, lists.shape[1])), np.float32), np.empty((1, size), np.int64)
        to, out = faiss.swig_ptr(lists), faiss.swig_ptr(found)
        at = faiss.swig_ptr(unused)
        self.index.search_preassigned_c(1, faiss.swig_ptr(vector), size, to, at, at, out, False, params)
        rows: Rows = found[0][found[0] >= 0]
        return rows

    def _similarities(self, asked: _Asked, rows: Rows) -> npt.NDArray[np.float32]:
        """What the stored vectors of rows say: the larger, the nearer."""
        near = borrowed(self._gather(rows, "near")).float()
        zeros = near.new_zeros(near.shape[1] - self.manifest.products)
        zeros[: self.manifest.sums] = asked.mean
        like = near @ torch.cat([asked.products, zeros])
        if self.manifest.sums:
            ones = near.new_zeros(near.shape[1])
            ones[self.manifest.products : self.manifest.products + self.manifest.sums] = asked.sums
            sums = near @ ones  # two products with vectors: one with a matrix of two columns takes five times as long
            like = like / sums.clamp(min=EPS) if self._normalised else like - sums
            like = like.masked_fill_(sums <= EPS, -torch.inf)
        found: npt.NDArray[np.float32] = like.numpy()
        return found

    def _fetch(self, rows: Rows, fields: Sequence[Field]) -> Embedding:
        """Stored embeddings of some rows, in the order of `rows`."""
        wanted = {each.name for each in fields}
        tensors: dict[str, Tensor] = {}
        for packed, which in ((Packed(self.manifest.quick), "quick"), (Packed(self.manifest.rest), "rest")):
            names = wanted & {each.name for each in packed.fields}
            if names:
                tensors |= packed.unpack(self._gather(rows, which), names=names).tensors
        return Embedding(tensors, self.manifest.made_by)

    def _gather(self, rows: Rows, which: str) -> npt.NDArray[np.float16]:
        blocks = [(block.ids, getattr(block, which)) for block in self.blocks]
        out = np.empty((len(rows), blocks[0][1].shape[1]), np.float16)
        for ids, values in blocks:
            # Rows that were never deleted are numbered without a gap, and need not be sought.
            whole = len(ids) and ids[-1] - ids[0] + 1 == len(ids)
            place = rows - ids[0] if whole else np.searchsorted(ids, rows)
            place[(place < 0) | (place >= len(ids))] = 0
            here = ids[place] == rows
            if here.all():
                return np.take(values, place, axis=0)
            out[here] = values[place[here]]
        return out

    # ------------------------------------------------------------ on disk

    def save(self, strike: Callable[[Collection[str]], None] = lambda kept: None) -> None:
        """Write what came since the index was opened, without what was deleted.

        Args:
            strike: called with the names of the files that stay as they are, before the others are removed or replaced.

        Raises:
            GalleryError: it cannot be written.
        """
        with written(str(self.folder)):
            kept: list[_Block] = []
            for block in self.blocks:
                alive = self._alive[block.ids]
                if block.name and alive.all():
                    kept.append(block)
                elif alive.any():
                    kept.append(self._write(_only(block, alive)))
            if not self._alive[self._known()].all():
                # Removing alone would leave codes behind in the padding of lists.
                self.index.reset()
                for block in kept:
                    for part in np.array_split(np.arange(len(block.ids)), -(-len(block.ids) // _BLOCK)):
                        self.index.add_with_ids(block.near[part].astype(np.float32), block.ids[part])
            self.blocks = _joined(kept, self._write)
            name = f"vectors-{uuid.uuid4().hex[:12]}.faiss"
            with open(self.folder / name, "wb") as file:  # not by its name: FAISS only prints that it cannot close it
                library().write_index(self.index, library().PyCallbackIOWriter(file.write, 1 << 20))
            segments = tuple(Segment(name=block.name, rows=len(block.ids)) for block in self.blocks)
            self.manifest = self.manifest.model_copy(update={"vectors": name, "segments": segments})
            strike(_files_of(self.manifest))
            write_text(self.folder / MANIFEST, self.manifest.model_dump_json(indent=1) + "\n")
            _clean(self.folder, self.manifest)

    def _write(self, block: _Block) -> _Block:
        """A block in files of its own, which are mapped."""
        name = f"rows-{uuid.uuid4().hex[:12]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        for which in _KINDS:
            with open(self.folder / f"{name}.{which}", "wb") as file:
                file.write(_bytes(getattr(block, which)))
        np.savez(self.folder / f"{name}.npz", ids=block.ids)
        return _mapped(self.folder, Segment(name=name, rows=len(block.ids)), self.manifest)


def open_shortlist(gallery: Gallery, distance: Distance) -> Shortlist | None:
    """The gallery's index for a distance, in step with the table; `None` if there is none for it.

    Raises:
        GalleryError: it is damaged.
    """
    folder = _folder(gallery)
    manifest = read_manifest(folder)
    if manifest is None or manifest.made_by != gallery.info.made_by or manifest.coarse != repr(coarse_of(distance)):
        return None
    needed = {each.name for each in read_by(distance, gallery.info.fields)}
    if not needed <= {each.name for each in (*manifest.quick, *manifest.rest)}:
        return None
    faiss = library()
    try:
        index = faiss.read_index(str(folder / manifest.vectors))
        with np.load(folder / manifest.directions) as held:
            projection, centre, means = (torch.from_numpy(held[each]) for each in ("projection", "centre", "means"))
        blocks = [_mapped(folder, segment, manifest) for segment in manifest.segments]
        if index.ntotal != sum(segment.rows for segment in manifest.segments):
            raise ValueError(f"{manifest.vectors} is of another index")
    # A damaged file can make its reader say anything.
    except Exception as error:
        # Another process may have written a newer one between the two readings.
        if read_manifest(folder) != manifest:
            return open_shortlist(gallery, distance)
        cause = f"a file of the index cannot be read ({first_line(error)})"
        raise GalleryError(folder, cause, "build it again with `glimpse gallery index --rebuild`") from error
    found = Shortlist(folder, manifest, distance, index, projection if len(projection) else None, centre, means, blocks)
    found.sync(gallery)
    return found


def build(
    gallery: Gallery,
    distance: Distance,
    *,
    recall: float = 0.99,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Shortlist:
    """Index a gallery for fast search, and choose how far it looks by measuring on the gallery itself.

    The caller keeps others from building at the same time, and saves what it gets.

    Args:
        gallery: in a folder, not empty.
        distance: that will be searched by.
        recall: share of the ten nearest that is to be found, on average.
        seed: of the crops that it is measured with.
        progress: called with the number of crops done since the last call.

    Raises:
        ConfigError: `recall` is no share.
        GalleryError: the gallery is empty or in an object store, or the index cannot be written.
    """
    if not 0.0 < recall <= 1.0:
        raise ConfigError("recall", f"{recall} is no share", "give a number above 0, at most 1")
    start = time.monotonic()
    folder = _folder(gallery)
    gallery.table.refresh()
    ids = gallery.table.row_ids()
    if not len(ids):
        raise GalleryError(gallery.where, "is empty, and there is nothing to index", "add crops first")
    coarse = coarse_of(distance)
    fields = read_by(distance, gallery.info.fields)
    quick = read_by(coarse, fields)
    rest = tuple(each for each in fields if each not in quick)
    generator = np.random.default_rng(seed)
    lists = int(np.clip(2 * len(ids) ** 0.5, 1, max(1, len(ids) // 39)))
    sample = np.sort(generator.choice(ids, min(len(ids), max(_SAMPLE * lists, 4096)), replace=False))
    products, sums = _sampled(gallery, coarse, quick, sample)
    projection = _directions(products)
    level = _level(products, sums)
    products = products if projection is None else products @ projection
    centre = torch.linalg.lstsq(sums, products, driver="gelsd").solution
    learnt = torch.cat([products - sums @ centre, sums], 1)
    learnt = torch.cat([learnt, learnt.new_zeros(len(learnt), learnt.shape[1] % 2)], 1)
    index = _trained(learnt.numpy(), products.shape[1], lists, seed)
    means = _means(index, learnt)
    directions = f"directions-{uuid.uuid4().hex[:12]}.npz"
    with written(gallery.where):
        folder.mkdir(parents=True, exist_ok=True)
        empty = np.zeros((0, 0), np.float32)
        np.savez(
            folder / directions,
            projection=empty if projection is None else projection.numpy(),
            centre=centre.numpy(),
            means=means.numpy(),
        )
    manifest = Manifest(
        made_by=gallery.info.made_by,
        coarse=repr(coarse),
        quick=quick,
        rest=rest,
        vectors="",
        directions=directions,
        dims=learnt.shape[1],
        products=products.shape[1],
        sums=sums.shape[1],
        level=level,
        segments=(),
        probes=8,
        length=200,
    )
    made = Shortlist(folder, manifest, distance, index, projection, centre, means, [])
    with written(gallery.where):
        made.blocks = [_indexed(made, gallery, progress)]
    made._settle(made.blocks[0].ids, gallery.table.version)
    made.manifest = made.manifest.model_copy(update={"seconds": time.monotonic() - start})
    tune(made, gallery, recall, seed=seed)
    return made


def _trained(vectors: npt.NDArray[np.float32], products: int, lists: int, seed: int) -> Any:
    """An empty vector index that has learnt its lists and codes.

    Lists are of crops that are alike, whatever they show of themselves: directions of the first `products` numbers.
    """
    faiss = library()
    faiss.omp_set_num_threads(torch.get_num_threads())
    directions = vectors.copy()
    directions[:, products:] = 0.0
    faiss.normalize_L2(directions)
    means = faiss.Kmeans(vectors.shape[1], lists, niter=10, spherical=True, seed=1 + seed)
    means.train(directions)
    quantizer = faiss.IndexFlatIP(vectors.shape[1])
    quantizer.add(means.centroids)
    made: Any
    if len(vectors) >= 4096:
        sizes = vectors.shape[1], lists, vectors.shape[1] // 2, 4
        made = faiss.IndexIVFPQFastScan(quantizer, *sizes, faiss.METRIC_INNER_PRODUCT)
    else:
        made = faiss.IndexIVFFlat(quantizer, vectors.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    made.train(vectors)
    return made


def _means(index: Any, vectors: Tensor) -> Tensor:
    """Directions of the means of the lists, `[lists, dims]`; of one that got no vector, its own."""
    lists = torch.from_numpy(index.quantizer.search(vectors.numpy(), 1)[1][:, 0])
    total = torch.from_numpy(index.quantizer.reconstruct_n(0, index.nlist)) * _TINY
    return torch.nn.functional.normalize(total.index_add(0, lists, vectors), dim=1)


def _indexed(made: Shortlist, gallery: Gallery, progress: Callable[[int], None] | None) -> _Block:
    """All rows of the table in one segment, and in the vector index."""
    name = f"rows-{uuid.uuid4().hex[:12]}"
    quick, rest = Packed(made.manifest.quick), Packed(made.manifest.rest)
    fields = made.manifest.fields
    ids: list[Rows] = []
    with ExitStack() as stack:
        near, first, second = (stack.enter_context(open(made.folder / f"{name}.{kind}", "wb")) for kind in _KINDS)
        for block in gallery.table.blocks([each.column for each in fields], rows=_BLOCK):
            embedding = to_embedding(block, fields, made.manifest.made_by)
            rows = block.column("_rowid").to_numpy().astype(np.int64)
            vectors = made._vectors(embedding)
            made.index.add_with_ids(vectors, rows)
            near.write(_bytes(vectors.astype(np.float16)))
            first.write(_bytes(quick.pack(embedding)))
            second.write(_bytes(rest.pack(embedding)))
            ids.append(rows)
            if progress is not None:
                progress(len(rows))
    every = np.concatenate(ids)
    np.savez(made.folder / f"{name}.npz", ids=every)
    block_ = _mapped(made.folder, Segment(name=name, rows=len(every)), made.manifest)
    return block_ if (every[1:] > every[:-1]).all() else made._write(_only(block_, np.argsort(every)))


def tune(made: Shortlist, gallery: Gallery, recall: float, *, seed: int = 0) -> None:
    """Choose how many lists are looked into and how long the shortlist is: the quickest that reach `recall`.

    Crops of the gallery are the queries; each is left out of its own hits. What exact search finds is the truth.
    """
    generator = np.random.default_rng((seed, 1))
    ids = np.flatnonzero(made._alive)
    chosen = np.sort(generator.choice(ids, min(QUERIES, len(ids)), replace=False))
    k = min(K, len(ids) - 1)
    fields = made.manifest.fields
    queries = Probes.single(made._fetch(chosen, fields))
    if k < 1:
        return
    assert made.distance is not None
    exact = search_exactly(gallery.table, fields, made.manifest.made_by, made.distance, queries, k + 1)
    truth = [_others(found.row_ids, own)[:k] for found, own in zip(exact, chosen, strict=True)]
    lists = int(made.index.nlist)
    best: tuple[bool, float, Manifest] | None = None  # whether it finds enough, how good it is, what it is

    def tried(probes: int, length: int) -> Measured:
        """What a setting gives; the best is kept: of those that find enough the quickest, else what finds most."""
        nonlocal best
        made.manifest = made.manifest.model_copy(update={"probes": probes, "length": length})
        found = _measure(made, gallery, queries, chosen, truth, k, recall)
        enough = found.recall >= recall
        merit = -found.milliseconds[0] if enough else found.recall
        if best is None or (enough, merit) > best[:2]:
            best = (enough, merit, made.manifest.model_copy(update={"measured": found}))
        return found

    for probes in sorted({min(each, lists) for each in _PROBES}):
        places = [_places(made.ordered(queries[i].embedding, _LONG, probes), true) for i, true in enumerate(truth)]
        # A list so long flatters the codes, so that what it promises is tried, and longer ones after it.
        for length in (each for each in _LENGTHS if np.mean([np.mean(place < each) for place in places]) >= recall):
            found = tried(probes, length)
            if found.recall >= recall or (best is not None and best[0] and -best[1] < found.milliseconds[0]):
                break
    if best is None or not best[0]:
        for length in _LENGTHS[-3:]:
            if tried(min(lists, _PROBES[-1]), length).recall >= recall:
                break
    assert best is not None
    made.manifest = best[2]


def _measure(
    made: Shortlist, gallery: Gallery, queries: Probes, chosen: Rows, truth: Sequence[Rows], k: int, target: float
) -> Measured:
    times, shares = [], []
    for i, true in enumerate(truth):
        start = time.perf_counter()
        found = made.search(gallery, queries[i], k + 1)
        times.append(1e3 * (time.perf_counter() - start))
        shares.append(np.isin(true, _others(found.row_ids, chosen[i])[:k]).mean())
    return Measured(
        recall=float(np.mean(shares)),
        k=k,
        queries=len(truth),
        milliseconds=(float(np.percentile(times, 50)), float(np.percentile(times, 99))),
        target=target,
        crops=len(made),
    )


def _others(rows: Rows, own: np.int64) -> Rows:
    others: Rows = rows[rows != own]
    return others


def _places(ordered: Rows, true: Rows) -> npt.NDArray[np.int64]:
    """Where in a shortlist the true ones stand; behind its end if they do not."""
    place = {int(row): i for i, row in enumerate(ordered)}
    return np.array([place.get(int(row), 1 << 30) for row in true])


def vectors_of(coarse: Distance, embedding: Embedding) -> tuple[Tensor, Tensor]:
    """What inner products make the numerator and the denominator of a similarity, `[n, d]` and `[n, k]` float32.

    The second is empty where a distance has no denominator of its own; the first is then its `shortlist_vectors`.
    """
    if isinstance(coarse, PartDistance) and coarse.weights is not None:
        return coarse.ratio_vectors(embedding)
    vectors = coarse.shortlist_vectors(embedding)
    return vectors, vectors.new_zeros(len(vectors), 0)


def _sampled(gallery: Gallery, coarse: Distance, quick: Sequence[Field], sample: Rows) -> tuple[Tensor, Tensor]:
    """`vectors_of` some rows."""
    blocks = np.array_split(sample, -(-len(sample) // _BLOCK))
    parts = [vectors_of(coarse, gallery.embedding(rows, quick)) for rows in blocks]
    return torch.cat([products for products, _ in parts]), torch.cat([sums for _, sums in parts])


def _level(products: Tensor, sums: Tensor) -> float:
    """Similarity of a crop and the tenth of its neighbours, in the middle of some crops."""
    if not sums.shape[1] or len(products) < 2:
        return 1.0
    few = slice(None, None, -(-len(products) // QUERIES))
    like = (products[few] @ products.T) / (sums[few] @ sums.T).clamp(min=EPS)
    return float(like.topk(min(K + 1, len(products)), dim=1).values[:, -1].median())


def _directions(vectors: Tensor) -> Tensor | None:
    """The strongest directions of some vectors, `[d, DIMS]`; `None` if they have no more numbers than that.

    Not centred: inner products are to be kept, not variances.
    """
    if vectors.shape[1] <= DIMS:
        return None
    some = vectors[torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))[:20_000]]
    _, found = torch.linalg.eigh((some.T @ some).double())
    strongest: Tensor = found[:, -DIMS:]
    return strongest.float().contiguous()


def _mapped(folder: Path, segment: Segment, manifest: Manifest) -> _Block:
    """The files of a segment."""
    with np.load(folder / f"{segment.name}.npz") as held:
        ids = held["ids"]

    def rows(which: Literal["near", "quick", "rest"]) -> npt.NDArray[np.float16]:
        width = manifest.dims if which == "near" else Packed(getattr(manifest, which)).width
        path = folder / f"{segment.name}.{which}"
        if os.path.getsize(path) != 2 * width * segment.rows:
            raise ValueError(f"{path} has not {segment.rows} rows")
        if not width:
            return np.zeros((segment.rows, 0), np.float16)
        return np.memmap(path, np.float16, "r", shape=(segment.rows, width))

    if len(ids) != segment.rows:
        raise ValueError(f"{segment.name}.npz has not {segment.rows} rows")
    return _Block(ids, rows("near"), rows("quick"), rows("rest"), segment.name)


def _bytes(rows: npt.NDArray[Any]) -> memoryview:
    """What a file is given: written by Python, as `ndarray.tofile` is silent if the last bytes find no room."""
    return np.ascontiguousarray(rows).data


def _only(block: _Block, rows: npt.NDArray[Any]) -> _Block:
    return _Block(block.ids[rows], block.near[rows], block.quick[rows], block.rest[rows])


def _joined(blocks: list[_Block], write: Callable[[_Block], _Block]) -> list[_Block]:
    """Small blocks in a row as one, so that there are few files."""
    out: list[_Block] = []
    for block in blocks:
        if out and len(out[-1].ids) < 4 * _BLOCK and len(block.ids) < 4 * _BLOCK:
            last = out.pop()
            block = write(
                _Block(
                    np.concatenate([last.ids, block.ids]),
                    np.concatenate([last.near, block.near]),
                    np.concatenate([last.quick, block.quick]),
                    np.concatenate([last.rest, block.rest]),
                )
            )
        out.append(block)
    return out


def _files_of(manifest: Manifest) -> set[str]:
    """Names of the files that belong to an index, beside its manifest."""
    ends = (*_KINDS, "npz")
    of_rows = {f"{segment.name}.{end}" for segment in manifest.segments for end in ends}
    return {manifest.vectors, manifest.directions} | of_rows


def _clean(folder: Path, manifest: Manifest) -> None:
    """Remove files that the manifest does not name; processes that have them open keep what they see."""
    kept = {MANIFEST} | _files_of(manifest)
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink(missing_ok=True)


def scrub(folder: Path, table: Table, strike: Callable[[Collection[str]], None] = lambda kept: None) -> None:
    """Take out of an index the rows that the table has no more; all of it if it cannot be read, or is left empty.

    The index need not be opened for a distance: embeddings and vectors go by their row numbers.

    Args:
        folder: of the index.
        table: in step with it.
        strike: see `Shortlist.save`.
    """
    if not folder.exists():
        return
    try:
        manifest = read_manifest(folder)
        assert manifest is not None
        blocks = [_mapped(folder, segment, manifest) for segment in manifest.segments]
        index = library().read_index(str(folder / manifest.vectors))
        made = Shortlist(folder, manifest, None, index, None, torch.empty(0), torch.empty(0), blocks)
    # Missing, damaged, or without the library to read it.
    except Exception:
        _remove(folder, strike)
        return
    known = made._known()
    made._settle(table.row_ids(), table.version)
    if made._alive[known].all():
        strike({*_files_of(manifest), MANIFEST})
        _clean(folder, manifest)
    elif made._alive[known].any():
        made.save(strike)
    else:
        _remove(folder, strike)


def _remove(folder: Path, strike: Callable[[Collection[str]], None]) -> None:
    """All of an index, its manifest first, so that it is never there by halves."""
    strike(())
    with written(str(folder)):
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder)


def _folder(gallery: Gallery) -> Path:
    if gallery.folder is None:
        cause = "is in an object store, and an index lies in a folder"
        raise GalleryError(gallery.where, cause, "search exactly, on many machines (--ray), or copy it to a folder")
    return gallery.folder / INDEX


def _bits(mask: Mask) -> bytes:
    return np.packbits(mask, bitorder="little").tobytes()


def library() -> Any:
    """FAISS.

    Raises:
        GalleryError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        remedy = "install the extra: pip install 'glimpse-reid[gallery]', or search exactly"
        raise GalleryError("gallery index", f"needs what is not installed ({error.name})", remedy) from error
    return faiss
