"""How fast a gallery of many crops is added to, opened, indexed and searched.

    python benchmarks/gallery.py prepare WORK --method qpm     # render people, train on some, embed the others
    python benchmarks/gallery.py fill WORK --crops 1000000     # enlarge what was embedded, and add it to a gallery
    python benchmarks/gallery.py index WORK                    # build the index; refresh it after more crops came
    python benchmarks/gallery.py query WORK                    # one query at a time, fast; 64 at a time, exactly
    python benchmarks/gallery.py growth WORK --out growth.svg  # search time from 10,000 crops to all of them

Embeddings are of rendered people, by a network that was trained on other rendered people (K = 6 parts, d = 256). They
are enlarged to the number asked for by recombination: a new person has each part from one of two people, the same for
all crops of the new person, with noise of a third of what crops of one person differ by; weights stay the crop's.
Results are added to WORK/METHOD.json. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glimpse.embedding import Embedding
from glimpse.evaluation.report import machine
from glimpse.provenance import commit

BATCH = 16384
PEOPLE, TRAINED = 1600, 400


def main() -> None:
    """The command line of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=tuple(STEPS))
    parser.add_argument("work", type=Path)
    parser.add_argument("--method", choices=("qpm", "pgfa"), default="qpm")
    parser.add_argument("--crops", type=int, default=1_000_000)
    parser.add_argument("--people", type=int, default=PEOPLE)
    parser.add_argument("--trained", type=int, default=TRAINED)
    parser.add_argument("--epochs", type=int, nargs=2, default=(10, 8))
    parser.add_argument("--recall", type=float, default=0.99)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found = STEPS[asked.step](asked)
    found |= {"machine": machine(), "commit": commit(), "peak memory MiB": _peak()}
    path = asked.work / f"{asked.method}.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    record[asked.step] = found
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(found, indent=1))


# ---------------------------------------------------------------- embeddings


def prepare(asked: argparse.Namespace) -> dict[str, Any]:
    """Render people, train on some of them, and embed the others."""
    from glimpse.data import open_dataset
    from glimpse.demo import Size, recipe
    from glimpse.model import load
    from glimpse.synthetic.dataset import Rates, render_dataset
    from glimpse.synthetic.people import Population
    from glimpse.training import parse_recipe, train
    from glimpse.training.cues import CueSource

    people, run = asked.work / "people", asked.work / f"run-{asked.method}"
    if not people.exists():
        crowd = Population(people=asked.people, train=asked.trained)
        render_dataset(people, crowd, crops=2, rates=Rates(train=0.3, gallery=0.4), jobs=2)
    dataset = open_dataset(f"market1501:{people}")
    settings = recipe("qpm", 0, Size(people=asked.trained, warmup=asked.epochs[0], epochs=asked.epochs[1]))
    settings |= {"method": asked.method, "options": {"strips": 6, "dim": 256}}
    cues = None
    if asked.method == "qpm":
        settings["options"]["isa_scale"] = "sqrt"
    else:
        settings["options"]["dropout"] = 0.1
        settings["transforms"]["occlusion"] = None
        for stage in settings["stages"]:
            stage["prompt"] = 0.0
        cues = CueSource(people / "cues", "truth", None)
    started = time.perf_counter()
    trained = train(parse_recipe(settings), dataset, run, cues=cues, progress=False)
    minutes = (time.perf_counter() - started) / 60
    keypoints = None if asked.method == "qpm" else f"cache:{people / 'cues'}"
    model = load(trained.best, keypoints=keypoints)
    samples = [*dataset.query, *dataset.gallery]
    embedded = model.embed_samples(samples).embedding
    pids = torch.tensor([sample.pid for sample in samples]).float()
    embedded.with_tensors(pids=pids).save(asked.work / f"{asked.method}.safetensors")
    return {"crops": len(samples), "people": len(pids.unique()), "training minutes": round(minutes, 1)}


class Crowd:
    """As many crops as are asked for, made of those that were embedded.

    Args:
        embedded: rendered crops, with a tensor of their `pids`.
    """

    def __init__(self, embedded: Embedding) -> None:
        self.base = embedded
        pids = embedded["pids"].long().numpy()
        self.people = [np.flatnonzero(pids == pid) for pid in np.unique(pids)]
        self.each = min(map(len, self.people))
        self.parts = [name for name, tensor in embedded.tensors.items() if tensor.ndim == 3]
        self.noise = {name: self._spread(embedded[name]) / 3 for name in self.parts}

    def _spread(self, parts: Tensor) -> Tensor:
        """How much the crops of one person differ, `[k, d]`."""
        within = torch.stack([parts[rows].float().var(0) for rows in self.people if len(rows) > 1])
        return within.mean(0).sqrt()

    def new(self, people: int, seed: int) -> Embedding:
        """All crops of so many new people, those of one side by side; the same for the same seed."""
        generator = np.random.default_rng(seed)
        count, parts = people * self.each, self.base[self.parts[0]].shape[1]
        both = np.stack([generator.permuted(np.arange(len(self.people)))[:2] for _ in range(people)])  # [p, 2]
        table = np.stack([rows[: self.each] for rows in self.people])  # [people, each]
        rows = table[both]  # [p, 2, each]
        donor = generator.integers(0, 2, (people, parts))  # of each part
        taken = np.take_along_axis(rows, donor[:, :, None], 1)  # [p, parts, each]
        index = torch.from_numpy(taken.transpose(0, 2, 1).reshape(count, parts).copy())
        own = torch.from_numpy(rows[:, 0].reshape(-1).copy())
        noise = torch.Generator().manual_seed(seed)
        tensors: dict[str, Tensor] = {}
        for name, tensor in self.base.tensors.items():
            if name in self.parts:
                chosen = tensor[index, torch.arange(parts)].float()
                tensors[name] = chosen + self.noise[name] * torch.randn(chosen.shape, generator=noise)
            elif name != "pids":
                tensors[name] = tensor[own]
        return Embedding(tensors, self.base.made_by)

    def seen_again(self, count: int) -> Embedding:
        """Another crop of each of so many people of the first batch."""
        crops = self.new(-(-BATCH // self.each), seed=0)[:: self.each][:count]
        noise = torch.Generator().manual_seed(1)
        changed = {
            name: crops[name] + self.noise[name] * torch.randn(crops[name].shape, generator=noise)
            for name in self.parts
        }
        return crops.with_tensors(**changed)

    def batches(self, crops: int, size: int = BATCH) -> Iterator[Embedding]:
        """Embeddings of new people, `crops` in all."""
        made = 0
        while made < crops:
            batch = self.new(-(-min(size, crops - made) // self.each), seed=made)[: crops - made]
            yield batch
            made += len(batch)


def fill(asked: argparse.Namespace) -> dict[str, Any]:
    """Add enlarged embeddings to a new gallery; what is measured is the adding."""
    from glimpse.gallery import Crop, Gallery

    crowd = Crowd(Embedding.load(asked.work / f"{asked.method}.safetensors"))
    where = asked.work / f"{asked.method}.gallery"
    shutil.rmtree(where, ignore_errors=True)
    gallery = Gallery.of(where, crowd.new(1, 0), crowd.base.made_by, method=asked.method)
    seconds, added = 0.0, 0
    first: float | None = None
    for batch in crowd.batches(asked.crops):
        crops = [
            Crop(id=f"{row:032x}", pid=str(row // crowd.each), camera=f"c{row % 6}", time=float(row))
            for row in range(added, added + len(batch))
        ]
        started = time.perf_counter()
        gallery.add_embedded(batch, crops)
        seconds += time.perf_counter() - started
        added += len(batch)
        if first is None and added >= 100_000:
            first = added / seconds
    found: dict[str, Any] = {"crops": added, "rows/s": round(added / seconds), "rows/s, first 100,000": _round(first)}
    found["bytes per crop on disk"] = round(sum(p.stat().st_size for p in where.rglob("*") if p.is_file()) / added)
    started = time.perf_counter()
    opened = Gallery.open(where)
    assert len(opened) == added
    found["seconds to open"] = round(time.perf_counter() - started, 3)
    return found


# ---------------------------------------------------------------- searching


def _model_distance(asked: argparse.Namespace) -> Any:
    from glimpse.model import load

    return load(asked.work / f"run-{asked.method}" / "best.safetensors").distance()


def index(asked: argparse.Namespace) -> dict[str, Any]:
    """Build the index; then add ten thousand crops, and bring it up to date without building it again."""
    from glimpse.gallery import Crop, Gallery

    gallery = Gallery.open(asked.work / f"{asked.method}.gallery")
    distance = _model_distance(asked)
    started = time.perf_counter()
    made = gallery.index(distance, recall=asked.recall, rebuild=True)
    found: dict[str, Any] = {"crops": len(gallery), "seconds with tuning": round(time.perf_counter() - started, 1)}
    found |= made.said()
    found["bytes of the index"] = sum(p.stat().st_size for p in (gallery.folder or Path()).glob("index/*"))
    crowd = Crowd(Embedding.load(asked.work / f"{asked.method}.safetensors"))
    more = crowd.new(10_000 // crowd.each, seed=10_000_000)
    gallery.add_embedded(more, [Crop(id=f"{(1 << 100) + i:032x}", tags=("late",)) for i in range(len(more))])
    started = time.perf_counter()
    gallery.index(distance, recall=asked.recall)
    found["seconds to take in 10,000 more"] = round(time.perf_counter() - started, 2)
    return found


def query(asked: argparse.Namespace) -> dict[str, Any]:
    """One query at a time with the index, and batches of queries against every crop."""
    from glimpse.gallery import Gallery, Probes

    gallery = Gallery.open(asked.work / f"{asked.method}.gallery", audit=False)
    distance = _model_distance(asked)
    crowd = Crowd(Embedding.load(asked.work / f"{asked.method}.safetensors"))
    probes = Probes.single(crowd.seen_again(asked.queries))
    started = time.perf_counter()
    gallery.shortlist(distance)
    seconds = round(time.perf_counter() - started, 2)
    found: dict[str, Any] = {"crops": len(gallery), "seconds to load the index": seconds}
    _warm(gallery)
    for i in range(min(20, asked.queries)):
        gallery.nearest(distance, probes[i], asked.top, mode="fast")
    times, rows = [], []
    for i in range(asked.queries):
        started = time.perf_counter()
        rows.append(gallery.nearest(distance, probes[i], asked.top, mode="fast")[0].row_ids)
        times.append(1e3 * (time.perf_counter() - started))
    found |= {"fast p50 ms": _percentile(times, 50), "fast p99 ms": _percentile(times, 99)}
    found["memory after fast searches MiB"] = _peak()
    times, shares = [], []
    for start in range(0, min(asked.queries, 4 * asked.batch), asked.batch):
        part = slice(start, min(start + asked.batch, asked.queries))
        some = Probes.single(probes.embedding[part])
        started = time.perf_counter()
        exact = gallery.nearest(distance, some, asked.top, mode="exact")
        times.append(1e3 * (time.perf_counter() - started) / len(some))
        shares += [np.isin(true.row_ids, fast).mean() for true, fast in zip(exact, rows[part], strict=True)]
    found |= {
        f"exact ms a query, {asked.batch} at a time": round(statistics.median(times), 1),
        f"recall@{asked.top} of fast": round(float(np.mean(shares)), 4),
        "queries compared": len(shares),
    }
    return found


def growth(asked: argparse.Namespace) -> dict[str, Any]:
    """Search time in galleries of growing size, each with an index of its own; where it would cross a second."""
    from glimpse.gallery import Crop, Gallery, Probes

    crowd = Crowd(Embedding.load(asked.work / f"{asked.method}.safetensors"))
    distance = _model_distance(asked)
    probes = Probes.single(crowd.seen_again(100))
    rows = []
    size = 10_000
    while size <= asked.crops:
        where = asked.work / f"{asked.method}-{size}.gallery"
        if size == asked.crops and (asked.work / f"{asked.method}.gallery").exists():
            where = asked.work / f"{asked.method}.gallery"
        if not where.exists():
            gallery = Gallery.of(where, crowd.new(1, 0), crowd.base.made_by, audit=False)
            number = 0
            for batch in crowd.batches(size):
                gallery.add_embedded(batch, [Crop(id=f"{number + i:032x}") for i in range(len(batch))])
                number += len(batch)
        gallery = Gallery.open(where, audit=False)
        if gallery.shortlist(distance) is None:
            gallery.index(distance, recall=asked.recall)
        _warm(gallery)
        fast = _each(lambda i, g=gallery: g.nearest(distance, probes[i], 10, mode="fast"), 100)
        exact = _each(lambda i, g=gallery: g.nearest(distance, probes[i], 10, mode="exact"), 4)
        rows.append({"crops": size, "fast ms": _percentile(fast, 50), "exact ms": _percentile(exact, 50)})
        print(rows[-1], flush=True)
        if where.name != f"{asked.method}.gallery":
            shutil.rmtree(where)
        size *= 10 if size * 10 <= asked.crops else 10**9
    found: dict[str, Any] = {"rows": rows}
    for kind in ("fast", "exact"):
        sizes, times = ([np.log10(row[name]) for row in rows] for name in ("crops", f"{kind} ms"))
        slope = np.polyfit(sizes, times, 1)[0]
        last = rows[-1]
        # From the largest, by the growth of the last decade.
        before = rows[-2]
        growth_ = np.log10(last[f"{kind} ms"] / before[f"{kind} ms"]) / np.log10(last["crops"] / before["crops"])
        cross = last["crops"] * (1000 / last[f"{kind} ms"]) ** (1 / max(growth_, 1e-9))
        found[f"{kind}: exponent, all and last decade"] = [round(float(slope), 2), round(float(growth_), 2)]
        found[f"{kind}: a second at about"] = f"{cross:.2g} crops"
    if asked.out is not None:
        _draw(asked.out, asked.method, rows)
    return found


def _draw(path: Path, method: str, rows: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    crops = [row["crops"] for row in rows]
    for kind, mark in (("exact", "s"), ("fast", "o")):
        times = [row[f"{kind} ms"] for row in rows]
        axes.plot(crops, times, marker=mark, label=kind)
        axes.annotate(
            f"{times[-1]:.1f} ms" if times[-1] < 1000 else f"{times[-1] / 1000:.1f} s",
            (crops[-1], times[-1]),
            textcoords="offset points",
            xytext=(-6, 7),
            ha="right",
        )
    axes.set(xscale="log", yscale="log", xlabel="crops in the gallery", ylabel="milliseconds for one query")
    axes.set_ylim(top=2.5 * axes.get_ylim()[1])
    axes.set_title(f"{method}, K = 6, d = 256, ten hits", loc="left")
    axes.axhline(1000, color="#888888", linewidth=0.8, linestyle=":")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _warm(gallery: Any) -> None:
    """Read the files of the index once, as a process that has answered for some time has."""
    for path in (gallery.folder / "index").iterdir():
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def _each(work: Callable[[int], object], count: int) -> list[float]:
    times = []
    for i in range(-2, count):
        started = time.perf_counter()
        work(max(i, 0))
        if i >= 0:
            times.append(1e3 * (time.perf_counter() - started))
    return times


def _percentile(times: list[float], q: float) -> float:
    return round(float(np.percentile(times, q)), 2)


def _round(value: float | None) -> int | None:
    return None if value is None else round(value)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


STEPS = {"prepare": prepare, "fill": fill, "index": index, "query": query, "growth": growth}

if __name__ == "__main__":
    main()
