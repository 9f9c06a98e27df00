"""A gallery and many machines: exact search and embedding as tasks of a Ray cluster.

What a cluster finds is what one machine finds: tasks read parts of the table, or embed some of the crops, and this
process joins what they give in the order of the table, or of the crops, and alone writes to the gallery. Work whose
process or machine dies is done again elsewhere.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from glimpse.backbones.fast import Precision
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, DataError, GalleryError, GlimpseError, WeightsError
from glimpse.gallery.exact import Near, Probes, Ranked, coarse_of, kept, ranked, scan
from glimpse.gallery.fields import Field, stored_form
from glimpse.gallery.filters import ALL, Filter
from glimpse.gallery.incoming import Incoming, decoded
from glimpse.gallery.rows import Crop
from glimpse.gallery.store import Added, Gallery, crop_of, thumbnail
from glimpse.gallery.table import Table, first_line
from glimpse.matching.distance import Distance
from glimpse.model import Engine, Model, load, packaged

ROWS = 1 << 17
"""Rows that a task of a search reads, at least: fewer are read in less time than a task takes to begin."""

CHUNK = 256
"""Crops that a worker is given at a time, about."""

RETRIES = 3
"""How often work is begun again whose process or machine died."""

COMMIT_ROWS = 32768
COMMIT_SECONDS = 10.0
"""Embedded crops are committed when there are so many, or so long after the last time."""

KNOCK_SECONDS = 5.0
"""How long a cluster may take to answer at all; Ray itself would wait for minutes."""

_SEEN = "keep it where all machines of the cluster find it under this name: a shared folder or, for a gallery, a store"
_ADDRESS = re.compile(r"(?:ray://)?(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]+):(?P<port>\d{1,5})")


# ---------------------------------------------------------------- searching


def search_on_cluster(
    gallery: Gallery,
    distance: Distance,
    probes: Probes,
    depth: int,
    where: Filter = ALL,
    *,
    address: str = "auto",
) -> list[Ranked]:
    """Exact search by the processors of a cluster: what `Gallery.nearest` gives in mode `exact`, to the last digit.

    Each task reads some fragments of the table, at least one, so that no more processors than fragments can help.
    All machines open the gallery by its own address.

    Args:
        gallery: in a shared folder or an object store.
        distance: of its weights.
        probes: the queries; each task compares all of them.
        depth: how many rows for each.
        where: which crops are compared.
        address: see `connected`.

    Raises:
        ConfigError: `depth` is below 1, Ray is not installed, or the cluster cannot be reached.
        GalleryError: the gallery is of other weights, a machine cannot read it, or work failed too often.
    """
    if depth < 1:
        raise ConfigError("depth", f"{depth} crops are none", "ask for at least one")
    gallery.check_weights(probes.embedding.made_by)
    gallery.table.refresh()
    keep = kept(distance, depth)
    with connected(address) as ray:
        search = partial(_scanned, ray, address, gallery, coarse_of(distance), probes, keep, where.sql())
        try:
            near = search()
        except GalleryError:
            # If the gallery was compacted meanwhile, the files that the tasks were to read are gone.
            if not gallery.table.refresh():
                raise
            near = search()
    return ranked(gallery.table, gallery.info.fields, gallery.info.made_by, distance, probes, near, depth)


@dataclass(frozen=True)
class _Scan:
    """What the tasks of a search share."""

    uri: str
    options: Mapping[str, str] | None
    version: int
    fields: tuple[Field, ...]
    made_by: str
    coarse: Distance
    probes: Probes
    keep: int
    where: str


Piece = tuple[int, str]
"""A fragment: its number, and the name of its file, which no other has."""


def _scanned(ray: Any, address: str, gallery: Gallery, coarse: Distance, probes: Probes, keep: int, where: str) -> Near:
    table = gallery.table
    job = ray.put(
        _Scan(
            uri=table.uri,
            options=table.options,
            version=table.version,
            fields=gallery.info.fields,
            made_by=gallery.info.made_by,
            coarse=coarse,
            probes=probes.prepared(coarse),
            keep=keep,
            where=where,
        )
    )
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_scan_pieces)
    waiting = deque(task.remote(job, pieces) for pieces in _pieces(table))
    near = Near.nothing(len(probes))
    try:
        while waiting:
            near = near.joined(_got(ray, waiting[0], address), keep)
            waiting.popleft()
    finally:
        for left in waiting:
            ray.cancel(left)
    return near


def _pieces(table: Table) -> list[list[Piece]]:
    """The fragments of a table in their order, those of a task side by side."""
    parts: list[list[Piece]] = []
    rows = ROWS
    for fragment in table.dataset.get_fragments():
        if rows >= ROWS:
            parts.append([])
            rows = 0
        parts[-1].append(_piece(fragment))
        rows += fragment.metadata.num_rows
    return parts


def _piece(fragment: Any) -> Piece:
    return fragment.fragment_id, str(fragment.metadata.files[0].path)


def _scan_pieces(job: _Scan, pieces: Sequence[Piece]) -> Near:
    """What a task of a search does, on any machine."""
    torch.set_num_threads(1)
    with _on_this_machine():
        table = Table.open(job.uri, job.options)
        table.dataset = table.read(lambda dataset: dataset.checkout_version(job.version))
        there = {_piece(fragment) for fragment in table.dataset.get_fragments()}
        if not there.issuperset(pieces):
            raise GalleryError(job.uri, "another gallery lies there", "give all machines the same one")
        fragments = [number for number, _ in pieces]
        return scan(table, job.fields, job.made_by, job.coarse, job.probes, job.keep, job.where, fragments)


# ---------------------------------------------------------------- embedding


def embed_on_cluster(
    gallery: Gallery,
    weights: str | Path,
    crops: Iterable[Incoming | DataError],
    *,
    address: str = "auto",
    keypoints: str | None = None,
    workers: int | None = None,
    cpus: int = 1,
    gpus: float = 0.0,
    batch: int = 32,
    precision: Precision = "auto",
    engine: Engine = "auto",
    progress: Callable[[int], None] | None = None,
) -> Added:
    """Embed crops by the processors of a cluster and add those that are not there yet: `Gallery.add` on many machines.

    This process reads the crops and commits what comes back, in their order; workers decode and embed. Whatever stops
    it, what was committed stays, and the same call goes on where it stopped: crops that are there cost a hash and no
    more. The batches are those of one machine, unless a picture among them cannot be read; what another machine
    computes of the same batch may differ in the last digits.

    Args:
        gallery: only this process opens it.
        weights: a name or path, as `glimpse.load` takes it; all machines open it.
        crops: see `open_incoming` and `open_mot`; errors among them are handed on.
        address: see `connected`.
        keypoints: what names a source of key points; all machines open it.
        workers: how many hold the weights; as many as the cluster has room for if not given.
        cpus: processors of a worker.
        gpus: GPUs of a worker, or a share of one; 0 to embed on processors.
        batch, precision, engine: see `Model`.
        progress: called with the number of crops done since the last call.

    Raises:
        ConfigError: a number is below what it can be, the method needs key points, Ray is not installed, or the cluster
            cannot be reached or has no room for a worker.
        WeightsError: the weights cannot be loaded, here or on a machine.
        GalleryError: the gallery is of other weights or cannot be written, or work failed too often.
    """
    for name, value, least in (("workers", workers, 1), ("cpus", cpus, 1), ("gpus", gpus, 0), ("batch", batch, 1)):
        if value is not None and value < least:
            raise ConfigError(name, f"is {value}", f"give at least {least}")
    gallery.check_weights(load(weights).made_by)
    setting = _Setting(
        weights=str(weights) if str(weights) in packaged() else os.path.abspath(weights),
        keypoints=keypoints,
        threads=cpus,
        device="cuda" if gpus else "cpu",
        batch=batch,
        precision=precision,
        engine=engine,
        thumbnails=gallery.info.thumbnails,
    )
    ids = gallery.ids()
    with connected(address) as ray:
        number = workers or _room(ray, address, cpus, gpus)
        kind = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=RETRIES)(_Embedder)
        embedders = [kind.remote(setting) for _ in range(number)]
        arriving = _Arriving(gallery, progress or (lambda _: None))
        chunks = arriving.new(crops, ids, max(1, CHUNK // batch) * batch)
        try:
            for done in _in_order(ray, embedders, chunks, address):
                arriving.take(done)
        finally:
            try:
                arriving.commit()
            finally:
                for embedder in embedders:
                    ray.kill(embedder)
    return arriving.added()


def _room(ray: Any, address: str, cpus: int, gpus: float) -> int:
    """How many workers the machines of a cluster can have at once."""
    number = 0
    for node in ray.nodes():
        has = node["Resources"] if node["Alive"] else {}
        fitting = has.get("CPU", 0.0) // cpus
        number += int(min(fitting, has.get("GPU", 0.0) // gpus) if gpus else fitting)
    if not number:
        wanted = f"{cpus} processors" + (f" and {gpus:g} GPUs" if gpus else "")
        raise ConfigError(address, f"no machine of the cluster has {wanted}", "ask for less, or add machines")
    return number


@dataclass(frozen=True)
class _Setting:
    """What a worker needs to know."""

    weights: str
    keypoints: str | None
    threads: int
    device: str
    batch: int
    precision: Precision
    engine: Engine
    thumbnails: int


@dataclass(frozen=True)
class _Done:
    """What became of a chunk.

    Attributes:
        embedding: of the crops that could be read, as the gallery stores it; `None` if there are none.
        crops, thumbnails: of these.
        bad: content and error of each other.
    """

    embedding: Embedding | None
    crops: list[Crop]
    thumbnails: list[bytes | None]
    bad: list[tuple[str, DataError]]


class _Embedder:
    """A worker. It loads the weights when it is given its first crops: Ray hands on only what goes wrong then."""

    def __init__(self, setting: _Setting) -> None:
        self.setting = setting
        torch.set_num_threads(setting.threads)

    @cached_property
    def model(self) -> Model:
        s = self.setting
        with _on_this_machine():
            return load(
                s.weights,
                device=s.device,
                precision=s.precision,
                batch=s.batch,
                engine=s.engine,
                keypoints=s.keypoints,
            )

    def embed(self, crops: Sequence[Incoming]) -> _Done:
        found: list[Crop] = []
        thumbnails: list[bytes | None] = []
        bad: list[tuple[str, DataError]] = []

        def pictures() -> Iterator[tuple[Any, Callable[[], bytes] | None, str]]:
            for crop, shown in zip(crops, decoded(crops), strict=True):
                if isinstance(shown, DataError):
                    bad.append((crop.content, shown))
                elif shown.image is not None:
                    found.append(crop_of(shown))
                    thumbnails.append(thumbnail(shown.image, self.setting.thumbnails))
                    yield shown.image, None if shown.data is None else partial(bytes, shown.data), shown.source

        parts = list(self.model.embed_stream(pictures()))
        if not parts:
            return _Done(None, [], [], bad)
        embedding = stored_form(self.model.distance(), Embedding.cat(parts))
        return _Done(embedding.to(dtype=torch.float16), found, thumbnails, bad)


def _in_order(ray: Any, workers: Sequence[Any], chunks: Iterator[list[Incoming]], address: str) -> Iterator[_Done]:
    """What the workers make of the chunks, in the order of the chunks.

    Each worker has one at work and one that waits for it. When the first of all takes long, no more than eight for
    each worker are done ahead of it.
    """
    free = deque([*workers, *workers])
    busy: dict[Any, Any] = {}
    waiting: deque[Any] = deque()
    chunk = next(chunks, None)
    while chunk is not None or waiting:
        if chunk is not None and free and len(waiting) < 8 * len(workers):
            worker = free.popleft()
            waiting.append(worker.embed.remote(chunk))
            busy[waiting[-1]] = worker
            chunk = next(chunks, None)
        else:
            for done in ray.wait(list(busy))[0]:
                free.append(busy.pop(done))
        while waiting and waiting[0] not in busy:
            yield _got(ray, waiting.popleft(), address)


class _Arriving:
    """Crops on their way through the cluster into a gallery."""

    def __init__(self, gallery: Gallery, step: Callable[[int], None]) -> None:
        self.gallery = gallery
        self.step = step
        self.done = Added()
        self.known = 0
        self.bad: list[DataError] = []
        self._under_way: set[str] = set()
        self._committed: set[str] = set()
        self._again: list[tuple[str, str]] = []
        self._failed: dict[str, DataError] = {}
        self._rows: list[_Done] = []
        self._last = time.monotonic()

    def new(self, crops: Iterable[Incoming | DataError], ids: Any, size: int) -> Iterator[list[Incoming]]:
        """Those that the gallery has not, `size` at a time."""
        chunk: list[Incoming] = []
        for crop in crops:
            if isinstance(crop, DataError):
                self.bad.append(crop)
            elif crop.content in self._under_way:
                self._again.append((crop.content, crop.source))
            elif crop.content in ids:
                self.known += 1
            else:
                self._under_way.add(crop.content)
                chunk.append(crop)
                if len(chunk) == size:
                    yield chunk
                    chunk = []
                continue
            self.step(1)
        if chunk:
            yield chunk

    def take(self, done: _Done) -> None:
        """Keep what a worker gave, and commit if it is time."""
        self._failed |= dict(done.bad)
        self.bad += [error for _, error in done.bad]
        if done.embedding is not None:
            self.gallery.check_weights(done.embedding.made_by)
            self._rows.append(done)
        self.step(len(done.crops) + len(done.bad))
        late = time.monotonic() - self._last > COMMIT_SECONDS
        if late or sum(len(each.crops) for each in self._rows) >= COMMIT_ROWS:
            self.commit()

    def commit(self) -> None:
        """Write what was kept; on disk when this returns."""
        rows = [each for each in self._rows if each.embedding is not None]
        if rows:
            crops = [crop for each in rows for crop in each.crops]
            now = self.gallery.add_embedded(
                Embedding.cat([each.embedding for each in rows if each.embedding is not None]),
                crops,
                [picture for each in rows for picture in each.thumbnails],
            )
            self.done = Added(self.done.added + now.added, self.done.known + now.known)
            self._rows.clear()
            # The gallery learns at each commit what it has of those before: no need to remember them here as well.
            self._under_way -= self._committed
            self._committed = {crop.id for crop in crops}
        self._last = time.monotonic()

    def added(self) -> Added:
        """What became of all."""
        known, bad = self.known, list(self.bad)
        for content, source in self._again:
            failed = self._failed.get(content)
            if failed is None:
                known += 1
            else:
                bad.append(DataError(source, failed.cause, failed.remedy))
        return Added(self.done.added, self.done.known + known, tuple(bad))


# ---------------------------------------------------------------- the cluster


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster; left as it was found.

    Args:
        address: `HOST:PORT`, a cluster that this machine is part of; `ray://HOST:PORT`, the client port of another;
            `auto`, what this process is connected to, else what the variable RAY_ADDRESS names, else the cluster on
            this machine; or `local`, the processors of this machine, for as long as it takes.

    Raises:
        ConfigError: Ray is not installed, the address is none, or nobody answers there.
    """
    ray = library()
    if ray.is_initialized():
        if address != "auto":
            cause = "this process is connected to a cluster already"
            raise ConfigError(address, cause, "give auto to use that one, or leave it with `ray.shutdown()` first")
        yield ray
        return
    _knock(address)
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            include_dashboard=False if address == "local" else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    # Ray says in many ways that it cannot.
    except Exception as error:
        ray.shutdown()
        remedy = "see that Ray and Python are of the same versions there; from a machine outside, give ray://HOST:10001"
        raise ConfigError(address, f"the cluster cannot be connected to ({first_line(error)})", remedy) from error
    try:
        yield ray
    finally:
        ray.shutdown()
        if main:
            signal.signal(signal.SIGTERM, handler)  # Ray has put its own there


def _knock(address: str) -> None:
    """Whether a cluster answers at an address."""
    if address == "local":
        return
    target = address
    if address == "auto":
        services: Any = importlib.import_module("ray._private.services")
        try:
            target = services.get_ray_address_from_environment("auto", None)
        except ConnectionError as error:
            cause = "no cluster runs on this machine, and RAY_ADDRESS names none"
            raise ConfigError(
                address, cause, "start one with `ray start --head`, or give an address or local"
            ) from error
    found = _ADDRESS.fullmatch(target)
    if found is None or int(found["port"]) > 65535:
        cause = (
            "is no address of a cluster" if target == address else f"RAY_ADDRESS is {target}, no address of a cluster"
        )
        raise ConfigError(address, cause, "give auto, local, HOST:PORT or ray://HOST:PORT")
    where = "" if target == address else f" at {target}"
    try:
        socket.create_connection((found["host"].strip("[]"), int(found["port"])), KNOCK_SECONDS).close()
    except OSError as error:
        cause = f"nobody answers{where} ({error.strerror or error})"
        raise ConfigError(
            address, cause, "start the cluster with `ray start --head`, or correct the address"
        ) from error
    if not target.startswith("ray://") and not _is_head(target):
        cause = f"what answers{where} is no head of a cluster"
        remedy = (
            "give the port that `ray start --head` was given (6379), or ray://HOST:PORT for the client port (10001)"
        )
        raise ConfigError(address, cause, remedy)


def _is_head(target: str) -> bool:
    """Whether the head of a cluster answers there, as far as can be told without Ray's own quarter of an hour."""
    try:
        grpc: Any = importlib.import_module("grpc")
    except ImportError:
        return True
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return True
    with grpc.insecure_channel(target) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=KNOCK_SECONDS)
        except grpc.RpcError as error:
            no = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            return error.code() not in no
    return True


def _got(ray: Any, reference: Any, address: str) -> Any:
    """The result of a task, or what was wrong in it.

    Raises:
        GlimpseError: what the task raised; or a `GalleryError` that says what else befell it.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, GlimpseError):
            raise error.cause from None
        cause = f"a worker failed ({type(error.cause).__name__}: {first_line(error.cause)})"
        remedy = "install the same glimpse, with the extras gallery and cluster, on all machines"
        raise GalleryError(address, cause, remedy) from error
    except (ray.exceptions.RayError, ConnectionError) as error:
        cause = f"the cluster gave up work after {RETRIES + 1} attempts ({first_line(error)})"
        remedy = "see whether its machines have memory enough, and do it again: what was committed stays"
        raise GalleryError(address, cause, remedy) from error


@contextmanager
def _on_this_machine() -> Iterator[None]:
    """What a machine of the cluster does not find is said to be missing there."""
    try:
        yield
    except (GalleryError, WeightsError) as error:
        cause = f"{error.cause}, says the machine {socket.gethostname()}"
        raise type(error)(error.where, cause, f"{error.remedy}; {_SEEN}") from error


def library() -> Any:
    """Ray.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        cause = f"clusters need what is not installed ({error.name})"
        raise ConfigError("cluster", cause, "install the extra: pip install 'glimpse-reid[cluster]'") from error
