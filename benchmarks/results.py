"""The numbers of docs/results.md: evaluate weights on every test set, keep them in docs/results.json, write the tables.

    python benchmarks/results.py evaluate NAME WEIGHTS --market market1501:PATH --partial PATH [--keypoints ESTIMATOR]
    python benchmarks/results.py tables

`evaluate` adds or replaces one entry; `tables` rewrites the tables between the markers of docs/results.md.
Occluders come from the held-out validation identities, which no network here was trained on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glimpse.data import holdout, open_dataset, read_image
from glimpse.evaluation import (
    EvaluationRecord,
    OcclusionSuite,
    Report,
    evaluate_dataset,
    occlusion_suite,
    quality_auc,
)
from glimpse.evaluation.occluded import read_sources
from glimpse.evaluation.quality import auc
from glimpse.files import write_text
from glimpse.model import Model, load
from glimpse.synthetic.occlusion import SIDES, Kind, Occluder

ROOT = Path(__file__).parent.parent
JSON, PAGE = ROOT / "docs" / "results.json", ROOT / "docs" / "results.md"
SUITES: tuple[tuple[Kind, bool], ...] = (("object", False), ("person", False), ("person", True))
QUERIES, SEED, HELD_OUT = 400, 0, 50


def evaluate(
    name: str, weights: str, market_spec: str, partial: str, keypoints: str | None, command: str
) -> dict[str, Any]:
    """One entry of docs/results.json; `keypoints` are for methods that need them of every crop."""
    model = load(weights, keypoints=keypoints)
    market = open_dataset(market_spec)
    _, held = holdout(market.train, identities=HELD_OUT, seed=SEED)
    sources = [*held.query, *held.gallery]
    report = evaluate_dataset(model, market, seed=SEED, sources=sources)
    entry: dict[str, Any] = {
        "weights": model.made_by,
        "card": model.card.model_dump(mode="json"),
        "command": command,
        "seed": SEED,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "when": time.strftime("%Y-%m-%d"),
        "commit": report.commit,
        "parameters": sum(p.numel() for n, p in model.method.named_parameters() if "classifier" not in n),
        "market1501": summary(report),
        "occluded_market1501": {},
    }
    for kind, prompted in SUITES:
        suite = occlusion_suite(
            model, market, report.gallery, kind=kind, prompted=prompted, queries=QUERIES, sources=sources, seed=SEED
        )
        label = kind + (", prompted" if prompted else "")
        entry["occluded_market1501"][label] = suite_record(suite, report)
        print(name, label, {f: str(suite.mean(f).rank_1) for f in suite.fractions}, flush=True)
    for probe in ("partialreid", "partialreid-cropped"):
        small = evaluate_dataset(model, open_dataset(f"{probe}:{partial}"), seed=SEED)
        entry[probe] = summary(small)
    entry["quality"] = quality(model, sources)
    entry["visibility"] = visibility(model, sources)
    return entry


def summary(report: Report) -> dict[str, Any]:
    """What the tables need of a report."""
    record: EvaluationRecord = report.record()
    single = record.single_shot
    return {
        "summary": record.result.summary.model_dump(),
        "single_shot": None if single is None else single.model_dump(),
        "timing": record.timing.model_dump(),
    }


def suite_record(suite: OcclusionSuite, report: Report) -> dict[str, Any]:
    """Means over sides, and rank-1 and mAP for each side."""
    return {
        "queries": len(suite.queries),
        "clear": report.clear(suite).model_dump(),
        "means": {str(f): suite.mean(f).model_dump() for f in suite.fractions},
        "sides": {
            f"{o.side} {o.fraction}": {
                "rank_1": o.result.summary.metrics.rank_1.value,
                "map": o.result.summary.metrics.map.value,
            }
            for o in suite
        },
    }


def quality(model: Model, samples: list[Any]) -> dict[str, float] | None:
    """Whether weights of parts know what is covered, on identities that were held out."""
    if model.card.method not in ("qpm", "pcb"):
        return None
    patches = read_sources(samples[::2], SEED)
    found = quality_auc(model, samples[1::2], sources=patches, seed=SEED)
    return {"auc": found.auc, "covered": found.covered, "clear": found.clear, "crops": len(samples[1::2])}


def visibility(model: Model, samples: list[Any]) -> dict[str, float] | None:
    """How many cells the visibility head gets right on held-out identities, under an object over 40 or 60 %; and how
    many clear crops it finds more than a twentieth hidden in."""
    if model.method.backbone.visibility is None:
        return None
    patches, crops = read_sources(samples[::2], SEED), [read_image(sample) for sample in samples[1::2]]
    covered: list[Any] = []
    truths: list[Tensor] = []
    for row, crop in enumerate(crops):
        image, mask = Occluder("object", SIDES[row % 4], (0.4, 0.6)[row // 4 % 2], patches, SEED).edit(row, crop)
        covered.append(image)
        truths.append(torch.from_numpy(np.asarray(mask)).float())
    found, clear = model.visibility(covered), model.visibility(crops)
    size = (found.shape[1], found.shape[2])
    truth = torch.cat([F.adaptive_avg_pool2d(mask[None, None], size)[0] for mask in truths])
    sure = (truth < 0.02) | (truth > 0.98)
    right = ((found > 0.5) == (truth > 0.5))[sure].float().mean()
    alarms = ((clear < 0.5).float().mean((1, 2)) > 0.05).float().mean()
    return {
        "auc": auc(found[sure].double().numpy(), (truth > 0.5)[sure].numpy()),
        "cells_right": float(right),
        "clear_crops_found_covered": float(alarms),
        "crops": len(crops),
    }


# ---------------------------------------------------------------- tables


def percent(metrics: dict[str, Any], key: str, interval: bool = False) -> str:
    """A metric in percent, with its interval if asked."""
    found = metrics[key]
    said = f"{100 * found['value']:.1f}"
    return f"{said} ({100 * found['low']:.1f}-{100 * found['high']:.1f})" if interval else said


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Markdown tables by marker."""
    clear = [
        "| model | Market-1501 R-1 | mAP | mINP | Partial-REID R-1 | mAP | cropped R-1 | mAP |",
        "|---" * 8 + "|",
    ]
    single = ["| model | Partial-REID R-1 | R-3 | cropped R-1 | R-3 |", "|---" * 5 + "|"]
    covered = [
        "| model | occluder | clear | 20 % | 40 % | 60 % | 40 % top / bottom / left / right | 60 % by side |",
        "|---" * 8 + "|",
    ]
    cost = ["| model | parameters | bytes per item | crops/s | matching, s | training, min |", "|---" * 6 + "|"]
    for name, entry in found.items():
        market = entry["market1501"]["summary"]["metrics"]
        row = [percent(market, "rank_1", True), percent(market, "map", True), percent(market, "minp")]
        for probe in ("partialreid", "partialreid-cropped"):
            metrics = entry[probe]["summary"]["metrics"]
            row += [percent(metrics, "rank_1", True), percent(metrics, "map", True)]
        clear.append(f"| {name} | " + " | ".join(row) + " |")
        row = []
        for probe in ("partialreid", "partialreid-cropped"):
            metrics = entry[probe]["single_shot"]["metrics"]
            row += [percent(metrics, "rank_1", True), percent(metrics, "rank_3")]
        single.append(f"| {name} | " + " | ".join(row) + " |")
        for label, suite in entry["occluded_market1501"].items():
            row = [percent(suite["clear"], "rank_1")]
            row += [percent(suite["means"][f], "rank_1", True) for f in ("0.2", "0.4", "0.6")]
            for f in ("0.4", "0.6"):
                sides = [suite["sides"][f"{side} {f}"]["rank_1"] for side in ("top", "bottom", "left", "right")]
                row.append(" / ".join(f"{100 * value:.1f}" for value in sides))
            covered.append(f"| {name} | {label} | " + " | ".join(row) + " |")
        timing, minutes = entry["market1501"]["timing"], entry["card"]["minutes"] or "-"
        cost.append(
            f"| {name} | {entry['parameters'] / 1e6:.2f} M | {timing['bytes_per_gallery_item']:,} | "
            f"{timing['crops_per_second']:.0f} | {timing['match_seconds']:.1f} | {minutes} |"
        )
    return {
        name: "\n".join(rows)
        for name, rows in (("clear", clear), ("single", single), ("covered", covered), ("cost", cost))
    }


def main() -> None:
    """The command line of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("evaluate")
    one.add_argument("name")
    one.add_argument("weights")
    one.add_argument("--market", required=True)
    one.add_argument("--partial", required=True)
    one.add_argument("--keypoints")
    commands.add_parser("tables")
    asked = parser.parse_args()
    if asked.command == "evaluate":
        kind, _, market = asked.market.rpartition(":")
        said = ["benchmarks/results.py", "evaluate", asked.name, Path(asked.weights).name]
        said += ["--market", f"{kind}:{Path(market).name}", "--partial", Path(asked.partial).name]
        if asked.keypoints:
            estimator, _, path = asked.keypoints.rpartition(":")
            said += ["--keypoints", f"{estimator}:{Path(path).name}"]
        entry = evaluate(asked.name, asked.weights, asked.market, asked.partial, asked.keypoints, shlex.join(said))
        kept = json.loads(JSON.read_text()) if JSON.exists() else {}
        write_text(JSON, json.dumps({**kept, asked.name: entry}, indent=1) + "\n")
        return
    page = PAGE.read_text()
    for marker, table in tables(json.loads(JSON.read_text())).items():
        start, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
        if start not in page or end not in page:
            sys.exit(f"{PAGE}: has no markers {start} and {end}")
        page = page[: page.index(start) + len(start)] + "\n" + table + "\n" + page[page.index(end) :]
    write_text(PAGE, page)


if __name__ == "__main__":
    main()
