"""How much faster the reconstruction distance is than the published way of computing it, and how close to it.

    python benchmarks/reconstruction.py
    python benchmarks/reconstruction.py --embeddings crops.safetensors

The published way takes one pair at a time: the coefficients of the query's vectors by the gallery crop's inverse, the
reconstruction, the residual, its norms. It is timed on some queries against the whole gallery (the second of two
passes), and extrapolated to all pairs: with inverses that are kept, to which the ratios are, and with one for each
pair. Ours is timed on all pairs, after a part of them to warm up. Making inverses and preparing embeddings are told
apart, and the last ratio counts them. Differences and rankings are those of the queries that both have.

Without a file, both sides are made up: vectors of some people, as maxima over windows are (not negative, with much in
common within a crop and between all crops), in float32. A file is what `glimpse.Embedding.save` wrote, with the
vectors and weights of FPR; its first rows are the queries. Nothing else should run on the machine. Where the processor
has no instructions for bfloat16 it is left out: it would be emulated.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import time

import torch
from torch import Tensor

from glimpse.backbones.fast import has_fast_bfloat16
from glimpse.embedding import Embedding
from glimpse.matching.kernels import unit_vectors
from glimpse.matching.reconstruction import ReconstructionDistance


def stand_in(crops: int, vectors: int, width: int, seed: int) -> Embedding:
    """Crops of ten to a person: what all have in common, what a person has, what a crop has, and what a place has."""
    random = torch.Generator().manual_seed(0)  # the same people on both sides
    people = max(1, crops // 10)
    common = torch.rand(1, 1, width, generator=random)
    person = torch.randn(people, 1, width, generator=random)
    random.manual_seed(seed)
    crop = torch.randn(crops, 1, width, generator=random)
    place = torch.randn(crops, vectors, width, generator=random)
    made = (common + person[torch.arange(crops) % people] + 0.5 * crop + place).relu()
    return Embedding({"vectors": made, "foreground": torch.rand(crops, vectors, generator=random)})


def published(query: Embedding, gallery: Embedding, beta: float) -> tuple[Tensor, float, float]:
    """Distances `[q, g]` one pair at a time, the seconds that a pair took, and those that an inverse took."""
    q, g = (unit_vectors(e["vectors"]).mT for e in (query, gallery))
    q, eye = q.contiguous(), beta * torch.eye(g.shape[2])
    out = torch.empty(len(q), len(g))
    seconds = inverting = 0.0
    for j in range(len(g)):  # one dictionary at a time, so that not all inverses lie in memory
        y = g[j].contiguous()  # vectors are columns, as in the paper and its author's code
        started = time.perf_counter()
        inverse = torch.linalg.inv(y.T @ y + eye) @ y.T
        inverting += time.perf_counter() - started
        started = time.perf_counter()
        for i, x in enumerate(q):
            # As fast as torch sums over columns: `.norm(dim=0)` is several times slower than this.
            errors = (x - y @ (inverse @ x)).square_().sum(0).sqrt_()
            out[i, j] = (errors * query["foreground"][i]).sum() / query["foreground"][i].sum()
        seconds += time.perf_counter() - started
    return out, seconds / out.numel(), inverting / len(g)


def main() -> None:
    """The command line of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", help="a file of embeddings; half of its rows are queries")
    parser.add_argument("--crops", type=int, default=300, help="on each side")
    parser.add_argument("--vectors", type=int, default=110)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--beta", type=float, default=0.01)
    parser.add_argument("--rows", type=int, default=32, help="strongest rows of the shortlist")
    parser.add_argument("--queries", type=int, default=3, help="for the published way")
    asked = parser.parse_args()
    if asked.embeddings:
        both = Embedding.load(asked.embeddings).to(dtype=torch.float32)
        half = min(asked.crops, len(both) // 2)
        query, gallery = both[:half], both[half : 2 * half]
    else:
        query, gallery = (stand_in(asked.crops, asked.vectors, asked.width, seed) for seed in (1, 2))
    some = min(asked.queries, len(query))
    count, width = query["vectors"].shape[1:]
    print(
        f"{len(query)} queries, {len(gallery)} gallery crops, {count} vectors of {width}, beta {asked.beta}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    published(query[:some], gallery[: len(gallery) // 10], asked.beta)
    expected, pair, inverse = published(query[:some], gallery, asked.beta)
    pairs = len(query) * len(gallery)
    seconds, slow = pairs * pair, pairs * (pair + inverse)
    print(
        f"published way, timed on {some * len(gallery)} of {pairs} pairs and extrapolated: "
        f"{1000 * pair:.3f} ms a pair, {1000 * inverse:.3f} ms an inverse\n"
    )
    columns = ["form", "prepare, s", "all pairs, s", "ratio", "with preparation", "largest difference", "same first"]
    print("| " + " | ".join([*columns, "same order", "MB prepared"]) + " |\n" + "|---" * (len(columns) + 2) + "|")
    inverses = 4 * len(gallery) * 2 * count * width / 1e6
    inverting = inverse * len(gallery)
    print(f"| published, an inverse for each pair | | {slow:.1f} | {seconds / slow:.1f} | | 0 | 100% | 100% | |")
    print(f"| published, inverses kept | {inverting:.1f} | {seconds:.1f} | 1 | 1 | 0 | 100% | 100% | {inverses:.0f} |")
    order = expected.argsort(dim=1, stable=True)
    exact = ReconstructionDistance(weights="foreground", beta=asked.beta)
    for name, distance in (
        ("float32", exact),
        ("bfloat16", dataclasses.replace(exact, compute=torch.bfloat16)),
        (f"float32, {asked.rows} rows", dataclasses.replace(exact, rows=asked.rows)),
        (f"bfloat16, {asked.rows} rows", dataclasses.replace(exact, rows=asked.rows, compute=torch.bfloat16)),
    ):
        if distance.compute is torch.bfloat16 and not has_fast_bfloat16():
            continue
        started = time.perf_counter()
        ready = distance.prepare(query), distance.prepare(gallery)
        preparing = time.perf_counter() - started
        distance.matrix(ready[0][: len(query) // 10], ready[1])
        started = time.perf_counter()
        found = distance.matrix(*ready)
        ours = time.perf_counter() - started
        ranked = found[:some].argsort(dim=1, stable=True)
        first = (ranked[:, 0] == order[:, 0]).float().mean()
        same = (ranked == order).all(1).float().mean()
        off = (found[:some] - expected).abs().max()
        size = ready[1].bytes_per_row * len(gallery) / 1e6
        print(
            f"| {name} | {preparing:.1f} | {ours:.2f} | {seconds / ours:.1f} | "
            f"{(seconds + inverting) / (ours + preparing):.1f} | {off:.1e} | {first:.0%} | {same:.0%} | {size:.0f} |",
            flush=True,
        )
    # ru_maxrss is in kB on Linux.
    print(f"\nlargest resident size of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


if __name__ == "__main__":
    main()
