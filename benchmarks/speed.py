"""How many crops a second weights embed, reading and decoding included, by engine and batch.

    python benchmarks/speed.py WEIGHTS --data market1501:PATH

One row per engine and batch: the median of some runs over the same gallery crops, after one run to warm up (in which
OpenVINO compiles). Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time

from glimpse.backbones.openvino import has_openvino
from glimpse.data import open_dataset
from glimpse.model import Engine, load


def main() -> None:
    """The command line of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights")
    parser.add_argument("--data", required=True)
    parser.add_argument("--crops", type=int, default=1536)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    samples = open_dataset(asked.data).gallery[: asked.crops]
    print("| engine | batch | crops/s |\n|---|---|---|")
    engines: tuple[Engine, ...] = ("torch", "openvino")
    for engine in engines:
        if engine == "openvino" and not has_openvino():
            continue
        for batch in asked.batches:
            model = load(asked.weights, engine=engine, batch=batch)
            model.embed_samples(samples[: 4 * batch])
            seconds = []
            for _ in range(asked.runs):
                started = time.perf_counter()
                model.embed_samples(samples)
                seconds.append(time.perf_counter() - started)
            print(f"| {engine} | {batch} | {len(samples) / statistics.median(seconds):.0f} |", flush=True)


if __name__ == "__main__":
    main()
