"""The papers' ablations at the size of two CPU cores: docs/ablations.json, and docs/ablations.md, which is made of it.

    python benchmarks/ablations.py run --market market1501:PATH --partial PATH --start osnet_lct_reid.safetensors \\
        --cues cues --masks limbs@... --keypoints movenet:PATH --out runs/ablations [--only pgfa/whole ...]
    python benchmarks/ablations.py tables

Every row trains the heads of its method by the recipe `METHOD-reid`, without its visibility head, its teacher and its
joint stage: those stand in for what is to be measured here. All rows see the same cached maps. Each is evaluated on
Partial-REID, which nothing is trained on; a difference to the whole method is paired over probes. Rows that are there
are not made again, so it can be stopped at any time.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glimpse.data import open_dataset
from glimpse.evaluation import evaluate_dataset
from glimpse.evaluation.intervals import bootstrap
from glimpse.files import write_text
from glimpse.methods import METHODS
from glimpse.model import load
from glimpse.provenance import commit
from glimpse.training import CueSource, Recipe, load_recipe, train

INTRO = """\
# Ablations

What each part of a method brings, by the papers' own ablation tables, at a size that two CPU cores can train. Made by
`benchmarks/ablations.py`; every row with its probes, settings, commit and minutes stands in
[ablations.json](ablations.json).

All rows start from the re-identification OSNet (`osnet_lct_reid.safetensors`), whose maps of Market-1501's training
crops (240 x 112, three augmented passes, 60 % of the crops covered, 50 identities held out) are computed once and
shared by all rows. Heads train on them by the recipe `METHOD-reid`, without its visibility head, its teacher and its
joint stage, which would stand in for what is to be measured. Seed 0, one run a row. So the trunk is fixed and good,
and a row says what its heads make of it: less than the papers' trainings, in which the trunk learns along.

Partial-REID: 300 occluded probes (in the last columns 300 cropped ones) against 300 crops, nothing trained on it. Key
points of probes and gallery are MoveNet's. A difference is to the first row of its table, with its 95 % bootstrap
interval over probes: one that contains 0 shows nothing. *Held out* are 210 queries of Market-1501 identities that
were held out, clear and with an object or a grey box over 40 or 60 % of them.
"""

ROOT = Path(__file__).parent.parent
JSON, PAGE = ROOT / "docs" / "ablations.json", ROOT / "docs" / "ablations.md"
PROBES = ("partialreid", "partialreid-cropped")
SEED = 0


@dataclass(frozen=True)
class Row:
    """A training, or another way of matching one.

    Attributes:
        key: METHOD/NAME; METHOD/whole is what the others are compared with.
        said: what is changed.
        changes: settings of the recipe.
        matching: options of the distance.
        embedding: options of the method that are changed after training.
        of: key of the row whose training this is, if it has none of its own.
    """

    key: str
    said: str
    changes: tuple[str, ...] = ()
    matching: dict[str, Any] = field(default_factory=dict)
    embedding: dict[str, Any] = field(default_factory=dict)
    of: str = ""

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.key.partition("/")[0]


def _rows(method: str, whole: str, *names: tuple[str, str]) -> list[Row]:
    return [Row(f"{method}/whole", whole)] + [
        Row(f"{method}/{name}", said, (f"options.row={name}",)) for name, said in names
    ]


ROWS: dict[str, list[Row]] = {
    "PGFA, Table 2": [
        *_rows(
            "pgfa", "both branches", ("no_partial", "pose-guided branch only"), ("no_global", "partial branch only")
        ),
        Row("pgfa/strips=3", "p = 3 in place of 5", ("options.strips=3",)),
        *(
            Row(f"pgfa/match={r}", f"both, matched as {r}", (), {"row": r}, of="pgfa/whole")
            for r in ("no_partial", "no_global")
        ),
        *(
            Row(f"pgfa/gamma={g}", f"gamma = {g} after training", embedding={"gamma": g}, of="pgfa/whole")
            for g in (0.1, 0.3, 0.4)
        ),
    ],
    "SGSFA, Figure 6": [
        *_rows("sgsfa", "SGA and SFA (no whole-body attention: a frozen trunk cannot learn it)"),
        Row("sgsfa/spatial", "SFA only", ("options.row=spatial",)),
        Row("sgsfa/baseline", "neither", ("options.row=baseline",)),
        *(Row(f"sgsfa/lam={v}", f"lambda = {v} in place of 0.8", (f"options.lam={v}",)) for v in (0.2, 0.5, 1.0)),
        *(
            Row(f"sgsfa/branch={b}", f"lambda = {b} in matching", (), {"branch": b}, of="sgsfa/whole")
            for b in (0.0, 0.8, 1.0)
        ),
    ],
    "Pirt, Tables 3 to 5": [
        *_rows("pirt", "P, Intra and Inter, N = 3", ("intra", "P, Intra"), ("pose", "P"), ("baseline", "none")),
        *(Row(f"pirt/layers={n}", f"N = {n}", (f"options.layers={n}",)) for n in (1, 2, 4)),
        *(
            Row(f"pirt/sides={s}", f"confidences in matching: {s}", (), {"sides": s}, of="pirt/whole")
            for s in ("query", "gallery", "none")
        ),
    ],
    "QPM, Tables V, VI, IX and XI": [
        *_rows(
            "qpm",
            "QPM",
            ("baseline", "Baseline: q = 1, no triplet on parts"),
            ("baseline+triplet", "Baseline (+ triplet): q = 1"),
            ("part", "part branch"),
            ("gap", "GAP global"),
            ("gap+isa", "GAP global (+ ISA)"),
            ("si", "SI global"),
            ("agfe", "AGFE global"),
            ("agfe+isa", "AGFE global (+ ISA)"),
        ),
        Row("qpm/strips=3", "K = 3 in place of 5", ("options.strips=3",)),
        *(Row(f"qpm/gamma={g}", f"gamma = {g} in matching", (), {"gamma": g}, of="qpm/whole") for g in (0.0, 0.6, 1.0)),
    ],
    "FPR, Table 3 and Figure 7": [
        *_rows("fpr", "FPR", ("dsr", "DSR: no foreground weights"), ("baseline", "Baseline: no reconstruction")),
        *(
            Row(f"fpr/alpha={a}", f"alpha = {a} in place of 0.02", (f"options.alpha={a}",))
            for a in (0, 0.01, 0.03, 0.04)
        ),
        *(Row(f"fpr/tau={t}", f"tau = {t} in place of 0.35", (f"options.tau={t}",)) for t in (0.1, 0.2, 0.5, 0.7)),
        *(Row(f"fpr/beta={b}", f"beta = {b} in training and matching", (f"options.beta={b}",)) for b in (0.001, 0.1)),
    ],
}
ROWS["SGSFA, Figure 6"][0] = Row("sgsfa/whole", ROWS["SGSFA, Figure 6"][0].said, ("options.row=no_whole",))


def recipe_of(row: Row, start: str, epochs: int) -> Recipe:
    """The recipe of a row: heads on three cached passes of the start's own maps."""
    recipe = load_recipe(f"{row.method}-reid", [*row.changes, f"start={start}"])
    (heads,) = (stage for stage in recipe.stages if stage.cached)
    options = dict(recipe.options)
    if "mode" in options:
        options["mode"] = "full"  # 300 x 300 pairs need no cascade
    settings = recipe.model_dump(mode="json") | {
        "options": options,
        "visibility": False,
        "teacher": "",
        "stages": [
            heads.model_dump(mode="json") | {"epochs": epochs, "teacher": 0.0, "teacher_vector": 0.0, "prompt": 0.0}
        ],
    }
    return Recipe.model_validate(settings)


def make(row: Row, asked: argparse.Namespace) -> dict[str, Any]:
    """One entry of docs/ablations.json."""
    folder = Path(asked.out) / (row.of or row.key).replace("/", "-")
    if not row.of:
        recipe = recipe_of(row, asked.start, asked.epochs)
        kind = METHODS[row.method]
        options = kind.Options(**recipe.options)
        needs = kind.needs(options, "train") | kind.needs(options, "search")  # the latter for held-out people
        cues = CueSource(Path(asked.cues), parts=asked.masks) if needs else None
        train(recipe, asked.market, folder, cache=Path(asked.out) / "cache", cues=cues)
    model = load(folder / "best.safetensors", keypoints=asked.keypoints)
    method = model.method
    method.options = method.options.model_copy(update=row.embedding)
    entry: dict[str, Any] = {
        "said": row.said,
        "changes": row.changes,
        "matching": row.matching,
        "embedding": row.embedding,
        "held_out": model.card.metrics,
        "minutes": model.card.minutes,
        "seed": SEED,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "when": time.strftime("%Y-%m-%d"),
        "commit": commit(),
    }
    for probe in PROBES:
        report = evaluate_dataset(model, open_dataset(f"{probe}:{asked.partial}"), options=row.matching, seed=SEED)
        record = report.record().result
        entry[probe] = {
            "summary": record.summary.model_dump(),
            "first_rank": list(record.per_query.first_rank),
            "ap": list(record.per_query.ap),
        }
    return entry


# ---------------------------------------------------------------- tables


def values(entry: dict[str, Any], probe: str) -> Any:
    """Rank-1 and AP of each probe, `[n, 2]` in percent."""
    found = entry[probe]
    return 100 * np.stack([np.asarray(found["first_rank"]) == 1, np.asarray(found["ap"])], axis=1)


def difference(entry: dict[str, Any], whole: dict[str, Any], probe: str) -> str:
    """Mean difference of rank-1 and AP to the whole method, each with its 95 % interval over probes."""
    away = (values(entry, probe) - values(whole, probe)).astype(float)
    low, high = bootstrap(away, seed=SEED)
    return " | ".join(f"{m:+.1f} ({a:+.1f} to {b:+.1f})" for m, a, b in zip(away.mean(0), low, high, strict=True))


def table(rows: list[Row], found: dict[str, Any]) -> str:
    """A Markdown table of the rows that there are; empty without the row that others are compared with."""
    there = [row for row in rows if row.key in found]
    if not there or there[0] is not rows[0]:
        return ""
    out = [
        "| | occluded R-1 | mAP | difference of R-1 | of mAP | cropped R-1 | mAP | held out, clear mAP | covered mAP |",
        "|---" * 9 + "|",
    ]
    whole = found[there[0].key]
    for row in there:
        entry = found[row.key]
        occluded, cropped = (values(entry, probe).mean(0) for probe in PROBES)
        away = "- | -" if entry is whole else difference(entry, whole, PROBES[0])
        held = entry["held_out"] if not row.of else {}
        seen = [f"{100 * held[name]:.1f}" if name in held else "" for name in ("clear/mAP", "occluded/mAP")]
        out.append(
            f"| {row.said} | {occluded[0]:.1f} | {occluded[1]:.1f} | {away} | {cropped[0]:.1f} | {cropped[1]:.1f} | "
            + " | ".join(seen)
            + " |"
        )
    return "\n".join(out)


def main() -> None:
    """The command line of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    for name in ("market", "partial", "start", "cues", "masks", "keypoints", "out"):
        run.add_argument(f"--{name}", required=True)
    run.add_argument("--epochs", type=int, default=8)
    run.add_argument("--only", nargs="*", default=[], help="keys of rows, or beginnings of keys")
    commands.add_parser("tables")
    asked = parser.parse_args()
    found: dict[str, Any] = json.loads(JSON.read_text()) if JSON.exists() else {}
    if asked.command == "run":
        for row in (row for rows in ROWS.values() for row in rows):
            if row.key in found or (asked.only and not row.key.startswith(tuple(asked.only))):
                continue
            found[row.key] = make(row, asked)
            write_text(JSON, json.dumps(found, indent=1) + "\n")
            print(row.key, *(values(found[row.key], probe).mean(0).round(1) for probe in PROBES), flush=True)
        return
    tables = {name: table(rows, found) for name, rows in ROWS.items()}
    write_text(PAGE, INTRO + "".join(f"\n## {name}\n\n{text}\n" for name, text in tables.items() if text))


if __name__ == "__main__":
    main()
