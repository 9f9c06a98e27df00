"""How much faster CMC, mAP and mINP come from counting than from sorting every row, and what a million crops take.

    python benchmarks/ranking.py [--reid FOLDER] [--large QUERIES] [--json FILE] [--quick]

First a distance matrix is given, and the metrics are computed from it: by `evaluate_rows`, by an argsort of every row
written here, and, with --reid, by that of Roboflow's `reid` 0.1.0rc1, whose wheel is installed into that folder once
(without what it depends on: its metrics need numpy only). The matrices are that of made-up people who are found about
as well as those of Market-1501 by a trained network, in as many crops; one of the same size at random, which finds
nobody; and some queries of a million crops.

Then QUERIES are evaluated against a million crops by `evaluate`, vectors of 256 to metrics, in memory that does not
grow with the queries; time and the peak of the whole process are told.

Each has a process of its own. Seconds are the median of three runs after a first one, but of the last part, which runs
once. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from apart import Cost, apart, machine, measure
from numpy.typing import NDArray

from glimpse.data.protocol import Relevance
from glimpse.embedding import Embedding
from glimpse.evaluation import evaluate, evaluate_rows
from glimpse.evaluation.evaluate import Result
from glimpse.matching import GlobalDistance

REID = "reid==0.1.0rc1"
METRICS = ("rank_1", "rank_5", "rank_10", "map", "minp")


@dataclass(frozen=True)
class Case:
    """Made-up crops.

    Attributes:
        queries, gallery: how many crops.
        people: how many people the queries and some of the gallery show.
        strangers: how many gallery crops show somebody else, each another one.
        width: of their vectors.
        spread: of a person's crops, where people are apart by 1; `None` for distances at random.
        cameras: how many there are.
    """

    queries: int
    gallery: int
    people: int
    strangers: int
    width: int
    spread: float | None
    cameras: int = 6


MARKET = Case(queries=3368, gallery=15913, people=750, strangers=2798, width=64, spread=0.9)
MILLION = Case(queries=50, gallery=1_000_000, people=1500, strangers=970_000, width=64, spread=0.8)
LARGE = replace(MILLION, queries=1000, width=256, spread=1.5)
CASES = {
    "Market-1501 size": MARKET,
    "Market-1501 size, at random": replace(MARKET, spread=None),
    "a million crops": MILLION,
}
QUICK = Case(queries=60, gallery=900, people=20, strangers=300, width=16, spread=0.9)
QUICK_CASES = {"quick": QUICK, "quick, at random": replace(QUICK, spread=None)}


@dataclass(frozen=True)
class Crops:
    """Vectors `[n, d]`, who they show and by which camera, `[n]`."""

    vectors: NDArray[np.float32]
    pids: NDArray[np.int64]
    camids: NDArray[np.int64]


def crops(case: Case) -> tuple[Crops, Crops]:
    """Queries and gallery."""
    random = np.random.default_rng(0)
    people = random.standard_normal((case.people + 1, case.width), dtype=np.float32)

    def some(count: int, strangers: int) -> Crops:
        pids = random.integers(1, case.people + 1, count)
        pids[:strangers] = 0
        vectors = random.standard_normal((count, case.width), dtype=np.float32)
        # Some crops are much harder than others.
        vectors *= (case.spread or 1) * np.exp(0.3 * random.standard_normal((count, 1), dtype=np.float32))
        vectors[strangers:] += people[pids[strangers:]]
        return Crops(vectors, pids, random.integers(1, case.cameras + 1, count))

    return some(case.queries, 0), some(case.gallery, case.strangers)


def matrix(case: Case, query: Crops, gallery: Crops) -> NDArray[np.float32]:
    """Distances of all pairs."""
    if case.spread is None:
        return np.random.default_rng(1).random((case.queries, case.gallery), dtype=np.float32)
    q, g = (Embedding({"globals": torch.from_numpy(side.vectors)}) for side in (query, gallery))
    return GlobalDistance().matrix(q, g).numpy()


# ---------------------------------------------------------------- ways from a matrix to metrics


Way = Callable[[NDArray[np.float32], Crops, Crops], list[float]]


def counting(distances: NDArray[np.float32], query: Crops, gallery: Crops) -> list[float]:
    """Ours."""
    relevance = Relevance(query.pids, gallery.pids, query.camids, gallery.camids)
    return means(evaluate_rows([(slice(0, len(distances)), torch.from_numpy(distances))], relevance))


def means(result: Result) -> list[float]:
    """Of the metrics over queries; the intervals of a summary are no part of the comparison."""
    cmc = result.cmc(10)
    return [*(float(cmc[k - 1]) for k in (1, 5, 10)), float(result.ap.mean()), float(result.inp.mean())]


def row_wise(distances: NDArray[np.float32], query: Crops, gallery: Crops) -> list[float]:
    """An argsort of every row."""
    first, ap, inp = [], [], []
    for row, pid, camid in zip(distances, query.pids, query.camids):
        order = row.argsort()
        pids = gallery.pids[order]
        kept = pids[(pids != pid) | (gallery.camids[order] != camid)]
        ranks = np.flatnonzero(kept == pid) + 1
        if len(ranks):
            first.append(ranks[0])
            ap.append((np.arange(1, len(ranks) + 1) / ranks).mean())
            inp.append(len(ranks) / ranks[-1])
    return [*(float(np.mean(np.array(first) <= k)) for k in (1, 5, 10)), float(np.mean(ap)), float(np.mean(inp))]


def reid(folder: Path) -> Way:
    """That of the wheel."""
    spec = importlib.util.spec_from_file_location("reid_metrics", folder / "reid" / "eval" / "metrics.py")
    if spec is None or spec.loader is None:
        sys.exit(f"{folder}: does not hold {REID}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)

    def way(distances: NDArray[np.float32], query: Crops, gallery: Crops) -> list[float]:
        found = module._compute_reid_metrics(distances, query.pids, gallery.pids, query.camids, gallery.camids)
        percent = (found.rank1, found.rank5, found.rank10, found.mean_average_precision, found.minp)
        return [value / 100 for value in percent]

    return way


def install(folder: Path) -> None:
    """The wheel into a folder of its own, if it is not there."""
    if not (folder / "reid" / "eval" / "metrics.py").exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), REID]
        subprocess.run(pip, check=True)


def given(name: str, case: Case, folder: Path | None) -> tuple[list[float], Cost]:
    """Metrics from a matrix by one of the ways, and what they took."""
    query, gallery = crops(case)
    distances = matrix(case, query, gallery)
    way = {"counting": counting, "row-wise argsort": row_wise}.get(name) or reid(folder or Path())
    return measure(lambda: way(distances, query, gallery))


def streamed(case: Case) -> tuple[list[float], Cost]:
    """Metrics from vectors, and what they took."""
    query, gallery = crops(case)
    q, g = (Embedding({"globals": torch.from_numpy(side.vectors)}) for side in (query, gallery))
    relevance = Relevance(query.pids, gallery.pids, query.camids, gallery.camids)
    return measure(lambda: means(evaluate(GlobalDistance(), q, g, relevance, max_bytes=1 << 30)), runs=1)


def main() -> None:
    """The command line of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reid", type=Path, metavar="FOLDER", help="where the wheel is, or is installed")
    parser.add_argument("--large", type=int, metavar="QUERIES", default=1000, help="0 leaves the last part out")
    parser.add_argument("--only-large", action="store_true", help="the last part only")
    parser.add_argument("--quick", action="store_true", help="a small size, which says nothing about speed")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    asked = parser.parse_args()
    about = machine()
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    numbers: dict[str, Any] = {"machine": about, "given": {}}
    ways = ["counting", "row-wise argsort"]
    if asked.reid:
        install(asked.reid)
        ways.append(f"row-wise argsort of {REID}")
    for name, case in {} if asked.only_large else (QUICK_CASES if asked.quick else CASES).items():
        print(f"\n{name}: {case.queries} x {case.gallery}\n")
        print("| way | s | ms a query | times slower | mAP | rank-1 | largest difference |\n" + "|---" * 7 + "|")
        rows: dict[str, Any] = {}
        for way in ways:
            found, cost = apart(given, way, case, asked.reid)
            ours = rows.get("counting", {"seconds": cost.seconds, "metrics": dict(zip(METRICS, found))})
            off = max(abs(a - b) for a, b in zip(found, ours["metrics"].values()))
            rows[way] = {"seconds": cost.seconds, "metrics": dict(zip(METRICS, found)), "largest_difference": off}
            print(
                f"| {way} | {cost.seconds:.3f} | {1000 * cost.seconds / case.queries:.3f} | "
                f"{cost.seconds / ours['seconds']:.1f} | {found[3]:.4f} | {found[0]:.4f} | {off:.1e} |",
                flush=True,
            )
        numbers["given"][name] = {"case": asdict(case), "ways": rows}
    if asked.large:
        print("\n| queries | gallery | width | s | s for 10,000 queries | peak GB | mAP |\n" + "|---" * 7 + "|")
        case = QUICK if asked.quick else replace(LARGE, queries=asked.large)
        found, cost = apart(streamed, case)
        peak = "-" if cost.peak_mb is None else f"{cost.peak_mb / 1000:.2f}"
        print(
            f"| {case.queries} | {case.gallery} | {case.width} | {cost.seconds:.1f} | "
            f"{10_000 * cost.seconds / case.queries:.0f} | {peak} | {found[3]:.4f} |"
        )
        row = {"case": asdict(case), "seconds": cost.seconds, "peak_mb": cost.peak_mb}
        numbers["streamed"] = {**row, "metrics": dict(zip(METRICS, found))}
    if asked.json:
        asked.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
