"""How much faster and smaller the part distance of all pairs is than a dense one, and how close to it.

    python benchmarks/matching.py [--json FILE] [--quick]

The dense way is that of BPBReID and KPR, written here from its description: a distance of every part of every pair
`[parts, q, g]`, times the product of the visibilities, summed over parts and divided by the sum of the products. The
distance is 1 - cosine, or what it is for unit vectors, half the squared Euclidean one by way of the norms. Ours is
`PartDistance`, over crops that were prepared before (as large as those given), with preparation, and by
`distance_rows` in little memory. All are in float32 and keep the q x g result.

Each way has a process of its own, in which the crops are made first. Extra memory is what the process holds at most in
the first run (the peak that Linux counts, reset before it), less what it held before and less the result. Seconds are
the median of three further runs. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from apart import Cost, apart, machine, measure
from torch import Tensor

from glimpse.embedding import Embedding
from glimpse.matching import EPS, PartDistance, distance_rows, unit_vectors

DISTANCE = PartDistance()


@dataclass(frozen=True)
class Size:
    """How many crops, and what each has."""

    queries: int = 2210
    gallery: int = 17661
    parts: int = 9
    width: int = 512


QUICK = Size(queries=60, gallery=900, parts=4, width=32)


def crops(count: int, size: Size, seed: int) -> Embedding:
    """Crops with unit parts; three parts in ten are hidden, the others have a weight up to 1."""
    random = torch.Generator().manual_seed(seed)
    parts = unit_vectors(torch.randn(count, size.parts, size.width, generator=random))
    weights = torch.rand(count, size.parts, generator=random)
    hidden = torch.rand(count, size.parts, generator=random) < 0.3
    return Embedding({"parts": parts, "weights": weights.masked_fill_(hidden, 0.0)})


# ---------------------------------------------------------------- the dense way


def dense(query: Embedding, gallery: Embedding, part_distances: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Mean over parts of their distances, by the products of visibilities; 2 where no part is shared."""
    distances = part_distances(query["parts"].transpose(0, 1), gallery["parts"].transpose(0, 1))  # [parts, q, g]
    visible = query["weights"].T[:, :, None] * gallery["weights"].T[:, None]  # [parts, q, g]
    total = visible.sum(0)
    return torch.where(total > EPS, (distances * visible).sum(0) / total, 2.0)


def cosine(q: Tensor, g: Tensor) -> Tensor:
    """Of `[parts, q, d]` and `[parts, g, d]`, `[parts, q, g]`."""
    return 1 - q @ g.mT


def euclidean(q: Tensor, g: Tensor) -> Tensor:
    """The same from norms and products."""
    squares = q.square().sum(-1)[:, :, None] + g.square().sum(-1)[:, None] - 2 * (q @ g.mT)
    return squares.clamp(min=0) / 2


# ---------------------------------------------------------------- ours


def in_rows(query: Embedding, gallery: Embedding) -> Tensor:
    """The result, filled some queries at a time."""
    found = torch.empty(len(query), len(gallery))
    for rows, distances in distance_rows(DISTANCE, query, gallery, max_bytes=64 << 20, gallery_block=4096):
        found[rows] = distances
    return found


WAYS: dict[str, tuple[bool, Callable[[Embedding, Embedding], Tensor]]] = {
    # name: (whether crops are prepared before, what is measured)
    "dense, cosine": (False, lambda query, gallery: dense(query, gallery, cosine)),
    "dense, Euclidean": (False, lambda query, gallery: dense(query, gallery, euclidean)),
    "matrix": (True, DISTANCE.matrix),
    "matrix, with preparation": (False, DISTANCE.matrix),
    "distance_rows in 64 MiB": (True, in_rows),
}


def run(name: str, size: Size, file: Path) -> Cost:
    """Measure a way, and leave its result in a file."""
    prepared, way = WAYS[name]
    query, gallery = crops(size.queries, size, 1), crops(size.gallery, size, 2)
    if prepared:
        query, gallery = DISTANCE.prepare(query), DISTANCE.prepare(gallery)
    way(query[:10], gallery[:10])  # threads and code are there before memory is counted
    found, cost = measure(lambda: way(query, gallery))
    np.save(file, found.numpy())
    return cost


def main() -> None:
    """The command line of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, help=f"{Size.queries} if not given")
    parser.add_argument("--quick", action="store_true", help="a small size, which says nothing about speed")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    asked = parser.parse_args()
    size = QUICK if asked.quick else Size()
    if asked.queries:
        size = Size(asked.queries, size.gallery, size.parts, size.width)
    result_mb = 4 * size.queries * size.gallery / 1e6
    about = machine()
    print(
        f"{size.queries} x {size.gallery} crops, {size.parts} parts of {size.width}, result {result_mb:.0f} MB; "
        + ", ".join(f"{name} {value}" for name, value in about.items())
        + "\n\n| way | s | times faster | extra MB | times less | largest difference |\n"
        + "|---" * 6
        + "|"
    )
    rows: dict[str, dict[str, float | None]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(WAYS):
            file = Path(folder) / f"{number}.npy"
            cost = apart(run, name, size, file)
            found = np.load(file, mmap_mode="r")
            first = np.load(Path(folder) / "0.npy", mmap_mode="r")
            off = max(float(np.abs(a - b).max()) for a, b in zip(found, first))
            extra = None if cost.extra_mb is None else cost.extra_mb - result_mb
            rows[name] = {"seconds": cost.seconds, "extra_mb": extra, "largest_difference": off}
            start = rows["dense, cosine"]
            faster = (start["seconds"] or 0) / cost.seconds
            less = None if extra is None or start["extra_mb"] is None else start["extra_mb"] / max(extra, 1e-3)
            memory = "- | -" if extra is None or less is None else f"{extra:.0f} | {less:.1f}"
            print(f"| {name} | {cost.seconds:.2f} | {faster:.1f} | {memory} | {off:.1e} |", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps({"machine": about, "size": asdict(size), "ways": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
