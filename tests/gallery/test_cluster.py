"""A cluster of two machines, which are processes of this one, finds and stores what one machine does."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("lance")
ray = pytest.importorskip("ray")
grpc = pytest.importorskip("grpc")
pytestmark = pytest.mark.filterwarnings("ignore:lance is not fork-safe")  # Ray's own processes do not use it

from glimpse.embedding import Embedding  # noqa: E402
from glimpse.errors import ConfigError, DataError, GalleryError, WeightsError  # noqa: E402
from glimpse.gallery import Crop, Filter, Gallery, Incoming, Probes, Ranked, cluster, open_incoming  # noqa: E402
from glimpse.gallery.cluster import embed_on_cluster, search_on_cluster  # noqa: E402
from glimpse.gallery.rows import NAMES, THUMBNAIL  # noqa: E402
from glimpse.matching import Cascade, Distance, MixedDistance, PairGlobalDistance, PartDistance  # noqa: E402
from glimpse.model import Card, Model, build, load  # noqa: E402

K, D = 3, 8
MADE_BY = "toy@1"


@dataclass(frozen=True)
class Held(PartDistance):
    """Tells in a folder which process compares, and waits there for a file `go`."""

    folder: str = ""

    def matrix(self, query: Embedding, gallery: Embedding) -> Tensor:
        Path(self.folder, f"{os.getpid()}.pid").touch()
        end = time.monotonic() + 60
        while not Path(self.folder, "go").exists() and time.monotonic() < end:
            time.sleep(0.01)
        return super().matrix(query, gallery)


class Deadly(PartDistance):
    """Ends the process that compares."""

    def matrix(self, query: Embedding, gallery: Embedding) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().matrix(query, gallery)


class Broken(PartDistance):
    """Fails as a bug would."""

    def matrix(self, query: Embedding, gallery: Embedding) -> Tensor:
        raise KeyError("three")


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[str]:
    """Address of a cluster of two nodes with one processor each."""
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests
    # Not pytest's own folder: paths of sockets must be short.
    folder = tempfile.mkdtemp(prefix="ray-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        settings = {"num_cpus": 1, "object_store_memory": 80 << 20}
        nodes = Cluster(initialize_head=True, head_node_args={**settings, "include_dashboard": False})
        nodes.add_node(**settings)
        yield nodes.address
        ray.shutdown()
        nodes.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def joined(two_nodes: str) -> str:
    """This process is connected to the cluster, and stays so."""
    ray.init(address=two_nodes, log_to_driver=False, logging_level="ERROR")
    return two_nodes


def toy(n: int, seed: int) -> Embedding:
    """Parts around a few centres, so that some are near; weights of 0 are common."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(20, K, D, generator=torch.Generator().manual_seed(0))
    parts = centres[torch.randint(0, 20, (n,), generator=random)] + 0.5 * torch.randn(n, K, D, generator=random)
    weights = torch.rand(n, K, generator=random).sub(0.3).clamp(min=0)
    return Embedding({"parts": parts, "globals": parts.flip(1), "weights": weights}, MADE_BY)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 crops in six fragments: equal ones in several of them, some that share no part with any, some deleted, some
    changed and so moved to the end of the table."""
    folder = tmp_path_factory.mktemp("gallery") / "people"
    crops = toy(500, seed=1)
    tensors = {name: tensor.clone() for name, tensor in crops.tensors.items()}
    for tensor in tensors.values():
        tensor[100:106] = tensor[[1, 2, 3, 1, 2, 3]]
        tensor[300:303] = tensor[1:4]
    tensors["weights"][200:260] = 0
    crops = Embedding(tensors, MADE_BY)
    gallery = Gallery.of(folder, crops[:1], MADE_BY)
    for start in range(0, 500, 100):
        rows = range(start, start + 100)
        known = [Crop(id=number(i), pid=str(i % 20), camera=f"c{i % 3}", time=float(i)) for i in rows]
        gallery.add_embedded(crops[start : start + 100], known)
    gallery.delete(Filter(after=150.0, before=170.0))
    gallery.update(Filter(ids=tuple(number(i) for i in range(2, 300, 40))), {"camera": "c9"})
    return folder


def number(i: int) -> str:
    return hashlib.sha256(str(i).encode()).hexdigest()[:32]


def equal(one: list[Ranked], two: list[Ranked]) -> None:
    assert len(one) == len(two) > 0
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.distance, b.distance)
        np.testing.assert_array_equal(a.row_ids, b.row_ids)
        assert a.reranked == b.reranked


# ---------------------------------------------------------------- connecting


def test_a_killed_worker_changes_nothing_and_the_cluster_is_left(
    two_nodes: str, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ROWS", 1)
    assert not ray.is_initialized()
    handler = signal.getsignal(signal.SIGTERM)
    killed: list[int] = []

    def kill() -> None:
        end = time.monotonic() + 60
        while not (at_work := list(tmp_path.glob("*.pid"))) and time.monotonic() < end:
            time.sleep(0.01)
        killed.extend(int(path.stem) for path in at_work[:1])
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        (tmp_path / "go").touch()

    gallery, probes = Gallery.open(stored), Probes.single(toy(6, seed=2))
    killer = threading.Thread(target=kill)
    killer.start()
    found = search_on_cluster(gallery, Held(folder=str(tmp_path)), probes, 40, address=two_nodes)
    killer.join()
    assert len(killed) == 1
    assert len(list(tmp_path.glob("*.pid"))) > 1
    equal(found, gallery.nearest(PartDistance(), probes, 40, mode="exact"))
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("address", ["", "cluster", "http://here:1", "here:99999", "ray://", "here:", "a b:1"])
def test_what_is_no_address_is_refused(address: str, stored: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"is no address of a cluster.*give auto, local, HOST:PORT or ray://HOST:PORT"
    ):
        search_on_cluster(Gallery.open(stored), PartDistance(), Probes.single(toy(1, 2)), 5, address=address)


@pytest.mark.parametrize("kind", ["", "ray://"])
def test_nobody_there(kind: str, stored: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"{kind}127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ConfigError, match=r"nobody answers \(Connection refused\).*ray start --head") as raised:
            search_on_cluster(Gallery.open(stored), PartDistance(), Probes.single(toy(1, 2)), 5, address=address)
        assert raised.value.where == address
    assert not ray.is_initialized()


def test_something_else_is_there(stored: Path) -> None:
    gallery, probes = Gallery.open(stored), Probes.single(toy(1, 2))
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)  # as Ray's client port is one
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        with pytest.raises(ConfigError, match=r"what answers is no head of a cluster.*6379.*ray://HOST:PORT.*10001"):
            search_on_cluster(gallery, PartDistance(), probes, 5, address=address)
        server.stop(None).wait()
    assert not ray.is_initialized()


def test_auto_takes_the_variable_and_says_where_nobody_is(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, probes = Gallery.open(stored), Probes.single(toy(1, 2))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(ConfigError, match=r"^auto: nobody answers at 127\.0\.0\.1:\d+ "):
            search_on_cluster(gallery, PartDistance(), probes, 5)
    monkeypatch.setenv("RAY_ADDRESS", "the big one")
    with pytest.raises(ConfigError, match="RAY_ADDRESS is the big one, no address of a cluster"):
        search_on_cluster(gallery, PartDistance(), probes, 5)

    def nowhere(*_: object) -> str:
        raise ConnectionError("could not find any")

    monkeypatch.setattr("ray._private.services.get_ray_address_from_environment", nowhere)
    with pytest.raises(ConfigError, match=r"no cluster runs on this machine.*start one with `ray start --head`"):
        search_on_cluster(gallery, PartDistance(), probes, 5)


def test_what_ray_cannot_connect_to_is_said(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("Version mismatch: 2.1\nand more")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(cluster, "_is_head", lambda _: True)
    gallery, probes = Gallery.open(stored), Probes.single(toy(1, 2))
    said = r"cannot be connected to \(Version mismatch: 2\.1\)\. Remedy: .* same versions"
    with socket.create_server(("127.0.0.1", 0)) as there:
        address = f"127.0.0.1:{there.getsockname()[1]}"
        with pytest.raises(ConfigError, match=said):
            search_on_cluster(gallery, PartDistance(), probes, 5, address=address)


def test_without_ray_the_extra_is_named(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"^cluster: .*not installed \(ray\).*pip install 'glimpse-reid\[cluster\]'"):
        search_on_cluster(Gallery.open(stored), PartDistance(), Probes.single(toy(1, 2)), 5)


def test_a_process_stays_with_its_cluster(joined: str, stored: Path) -> None:
    with pytest.raises(ConfigError, match=r"connected to a cluster already.*give auto.*ray\.shutdown"):
        search_on_cluster(Gallery.open(stored), PartDistance(), Probes.single(toy(1, 2)), 5, address="local")
    assert ray.is_initialized()


# ---------------------------------------------------------------- searching


MIXED = MixedDistance(((0.4, PartDistance()), (0.6, PairGlobalDistance())))


@pytest.mark.parametrize(
    "distance",
    [PartDistance(), PartDistance(weights=None), Cascade(PartDistance(), MIXED, 10), MIXED],
    ids=["part", "unweighted", "cascade", "mixed"],
)
@pytest.mark.parametrize("where", [Filter(), Filter(cameras=("c1", "c9")), Filter(cameras=("nowhere",))])
@pytest.mark.parametrize("rows", [1, 250])
def test_search_is_that_of_one_machine(
    distance: Distance, where: Filter, rows: int, joined: str, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ROWS", rows)
    gallery, probes = Gallery.open(stored), Probes.single(toy(6, seed=2))
    assert len(cluster._pieces(gallery.table)) == (6 if rows == 1 else 2)
    found = search_on_cluster(gallery, distance, probes, 40, where)
    equal(found, gallery.nearest(distance, probes, 40, where=where, mode="exact"))
    assert all(len(each) == (0 if where.cameras == ("nowhere",) else 40) for each in found)


def test_equal_crops_come_in_the_order_of_the_gallery(
    joined: str, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ROWS", 1)
    gallery = Gallery.open(stored)
    # Crops 1, 100, 103 and 300 are the same; all that share no part with them are equally far, 60 and some more.
    query = Probes.single(toy(500, seed=1)[1])
    near = search_on_cluster(gallery, PartDistance(), query, 4)[0]
    assert near.row_ids.tolist() == [1, 100, 103, 300]
    assert np.ptp(near.distance) == 0
    every = search_on_cluster(gallery, PartDistance(), query, 480)[0]
    far = every.row_ids[every.distance == 2.0]
    assert set(range(200, 260)) < set(far.tolist())
    assert far.tolist() == sorted(far)
    # Also where the last place is among them.
    depth = 480 - len(far) // 2
    equal(
        search_on_cluster(gallery, PartDistance(), query, depth),
        gallery.nearest(PartDistance(), query, depth, mode="exact"),
    )


def test_several_crops_of_one_person(joined: str, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ROWS", 1)
    gallery, crops = Gallery.open(stored), toy(5, seed=2)
    for probes in (Probes(crops, (2, 3)), Probes(crops, (2, 3), "mean", torch.tensor([1.0, 3.0, 1.0, 1.0, 2.0]))):
        equal(
            search_on_cluster(gallery, PartDistance(), probes, 20),
            gallery.nearest(PartDistance(), probes, 20, mode="exact"),
        )


def test_an_empty_gallery(joined: str, tmp_path: Path) -> None:
    gallery = Gallery.of(tmp_path / "none", toy(1, 0), MADE_BY)
    found = search_on_cluster(gallery, PartDistance(), Probes.single(toy(2, 1)), 5)
    assert [len(each) for each in found] == [0, 0]


def test_a_gallery_that_is_compacted_meanwhile(
    joined: str, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(stored, tmp_path / "people")
    pieces, done = cluster._pieces, []

    def then_compact(table: Any) -> list[list[cluster.Piece]]:
        found = pieces(table)
        if not done:
            other = Gallery.open(folder)
            done.append(other.delete(Filter(pids=("3",))))
            other.compact()
        return found

    monkeypatch.setattr(cluster, "_pieces", then_compact)
    gallery, probes = Gallery.open(folder), Probes.single(toy(6, seed=2))
    found = search_on_cluster(gallery, PartDistance(), probes, 20)
    assert done[0] > 0
    equal(found, Gallery.open(folder).nearest(PartDistance(), probes, 20, mode="exact"))


def test_a_machine_that_does_not_see_the_gallery_is_named(joined: str, stored: Path, tmp_path: Path) -> None:
    gallery, probes = Gallery.open(stored), Probes.single(toy(1, 2))
    gallery.table.uri = str(tmp_path / "elsewhere")  # as if it lay there on this machine only
    with pytest.raises(
        GalleryError, match=f"there is no gallery, says the machine {socket.gethostname()}.*shared folder"
    ):
        search_on_cluster(gallery, PartDistance(), probes, 5)
    other = Gallery.of(tmp_path / "other", toy(1, 0), MADE_BY)
    while other.table.version < gallery.table.version:
        other.add_embedded(toy(1, 0), [Crop(id=number(other.table.version))])
    gallery.table.uri = other.where
    with pytest.raises(GalleryError, match="another gallery lies there, says the machine"):
        search_on_cluster(gallery, PartDistance(), probes, 5)


def test_work_that_always_fails_is_given_up(joined: str, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, probes = Gallery.open(stored), Probes.single(toy(1, 2))
    with pytest.raises(GalleryError, match=r"a worker failed \(KeyError: 'three'\).*install the same glimpse"):
        search_on_cluster(gallery, Broken(), probes, 5)
    monkeypatch.setattr(cluster, "RETRIES", 0)
    with pytest.raises(GalleryError, match=r"gave up work after 1 attempts \(.*\)\. Remedy: see whether.*memory"):
        search_on_cluster(gallery, Deadly(), probes, 5)


def test_arguments_are_checked_before_anything_is_started(stored: Path) -> None:
    gallery = Gallery.open(stored)
    with pytest.raises(ConfigError, match="depth: 0 crops are none"):
        search_on_cluster(gallery, PartDistance(), Probes.single(toy(1, 2)), 0, address="nowhere")
    foreign = Probes.single(Embedding(toy(1, 2).tensors, "other@2"))
    with pytest.raises(GalleryError, match="holds embeddings of the weights toy@1, and these are of other@2"):
        search_on_cluster(gallery, PartDistance(), foreign, 5, address="nowhere")


# ---------------------------------------------------------------- embedding


SETTINGS: dict[str, Any] = {"batch": 4, "precision": "float32", "engine": "torch"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with random weights."""
    torch.manual_seed(0)
    card = Card(
        method="qpm",
        options={"strips": 2, "dim": 16},
        backbone="osnet_x0_25",
        size=(64, 32),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    Model(build(card), card, "small").save(path)
    return path


@pytest.fixture
def pictures(folder: Any) -> Path:
    """45 crops."""
    made: Path = folder(f"{i:04}_c{i % 3 + 1}s1_{i:06}_01.jpg" for i in range(1, 46))
    return made


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches each, and commits in the middle."""
    monkeypatch.setattr(cluster, "CHUNK", 8)
    monkeypatch.setattr(cluster, "COMMIT_ROWS", 20)


def content(gallery: Gallery) -> dict[str, list[Any]]:
    """All that it holds, but for when it came."""
    names = [*(name for name in NAMES if name != "added"), THUMBNAIL, *(f.column for f in gallery.info.fields)]
    gallery.table.refresh()
    held: dict[str, list[Any]] = gallery.table.rows(names).select(names).to_pydict()
    return held


@pytest.fixture
def threads() -> Iterator[None]:
    """One thread, as workers have: more may add up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("small_chunks")
def test_what_is_there_is_not_decoded_and_what_is_bad_is_left_out(
    joined: str, weights: Path, pictures: Path, tmp_path: Path
) -> None:
    model = load(weights, **SETTINGS)
    gallery = Gallery.create(tmp_path / "there", model)
    incoming = [crop for crop in open_incoming(pictures) if isinstance(crop, Incoming)]
    gallery.add(model, incoming[:10])
    no_picture = Incoming("0" * 32, "no.jpg", b"no picture")
    known = Incoming(incoming[0].content, "known.jpg", b"no picture either")
    again = [Incoming(no_picture.content, "no-2.jpg", b"no picture"), Incoming(incoming[20].content, "20.jpg", b"")]
    lost = DataError("lost.jpg", "is not there", "look for it")
    steps: list[int] = []
    mixed = [known, *incoming[8:20], no_picture, lost, *incoming[20:], *again]
    found = embed_on_cluster(gallery, weights, iter(mixed), progress=steps.append, **SETTINGS)
    assert (found.added, found.known) == (35, 4)  # known, two that were added before, and crop 20 again
    assert sorted(error.where for error in found.bad) == ["lost.jpg", "no-2.jpg", "no.jpg"]
    assert sum(steps) == len(mixed)
    assert len(gallery) == 45


@pytest.mark.usefixtures("small_chunks", "threads")
def test_a_cluster_adds_what_one_machine_does_though_a_worker_is_killed(
    joined: str, weights: Path, pictures: Path, tmp_path: Path
) -> None:
    model = load(weights, **SETTINGS)
    here, there = (Gallery.create(tmp_path / name, model, thumbnails=8) for name in ("here", "there"))
    said = here.add(model, open_incoming(pictures))
    killed: list[int] = []
    steps: list[int] = []

    def crops() -> Iterator[Incoming | DataError]:
        for i, crop in enumerate(open_incoming(pictures)):
            if i == 20:
                killed.append(embedder())
                os.kill(killed[0], signal.SIGKILL)
            yield crop

    found = embed_on_cluster(there, weights, crops(), progress=steps.append, **SETTINGS)
    assert len(killed) == 1
    assert str(found) == str(said) == "45 crops added"
    assert content(there) == content(here)
    assert sum(steps) == 45
    assert len(there.table.dataset.get_fragments()) > 1
    assert there.verify().problems == ()


def embedder() -> int:
    """Process of a worker of this test's cluster, as soon as there is one."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for path in Path("/proc").glob("[0-9]*"):
            try:
                title = (path / "cmdline").read_bytes()
                if title.startswith(b"ray::_Embedder") and os.getpid() in ancestors(int(path.name)):
                    return int(path.name)
            except OSError:
                continue
        time.sleep(0.05)
    raise AssertionError("no worker was started")


def ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        found.append(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def test_weights_that_a_machine_does_not_see_are_named() -> None:
    setting = cluster._Setting("/of/others.safetensors", None, 1, "cpu", 4, "float32", "torch", 0)
    with pytest.raises(WeightsError, match=f"says the machine {socket.gethostname()}.*all machines of the cluster"):
        cluster._Embedder(setting).embed([])


def test_a_cluster_without_room_is_refused(joined: str, weights: Path, tmp_path: Path) -> None:
    gallery = Gallery.create(tmp_path / "there", load(weights))
    with pytest.raises(ConfigError, match=r"no machine of the cluster has 64 processors.*ask for less"):
        embed_on_cluster(gallery, weights, [], cpus=64)
    with pytest.raises(ConfigError, match=r"no machine of the cluster has 1 processors and 0\.5 GPUs"):
        embed_on_cluster(gallery, weights, [], gpus=0.5)


def test_embedding_arguments_are_checked_before_anything_is_started(weights: Path, tmp_path: Path) -> None:
    gallery = Gallery.of(tmp_path / "other", toy(1, 0), MADE_BY)
    with pytest.raises(GalleryError, match="holds embeddings of the weights toy@1, and these are of qpm@"):
        embed_on_cluster(gallery, weights, [], address="nowhere")
    with pytest.raises(WeightsError, match="is neither a file nor installed weights"):
        embed_on_cluster(gallery, "nothing", [], address="nowhere")
    for name in ("workers", "cpus", "batch"):
        with pytest.raises(ConfigError, match=f"^{name}: is 0. Remedy: give at least 1"):
            embed_on_cluster(gallery, weights, [], address="nowhere", **{name: 0})


@pytest.mark.usefixtures("small_chunks")
def test_this_machine_alone_and_what_was_committed_stays(
    two_nodes: str, weights: Path, pictures: Path, tmp_path: Path
) -> None:
    ray.shutdown()
    model = load(weights, **SETTINGS)
    gallery = Gallery.create(tmp_path / "there", model)

    def breaking() -> Iterator[Incoming | DataError]:
        for i, crop in enumerate(open_incoming(pictures)):
            if i == 40:
                raise RuntimeError("the network is gone")
            yield crop

    with pytest.raises(RuntimeError, match="the network is gone"):
        embed_on_cluster(gallery, weights, breaking(), address="local", workers=1, **SETTINGS)
    assert not ray.is_initialized()
    kept = len(gallery)
    assert kept in range(8, 41, 8)
    found = gallery.add(model, open_incoming(pictures))
    assert (found.added, found.known) == (45 - kept, kept)
