"""Everything once, on people who do not exist: draw, train, evaluate, search, and one page that shows it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from glimpse.data import Dataset, open_dataset, read_image
from glimpse.errors import ConfigError
from glimpse.evaluation import OcclusionPlan, Report, evaluate_dataset
from glimpse.evaluation.report import write_report
from glimpse.files import atomic
from glimpse.model import Model, load
from glimpse.search import Gallery, SearchResult, search
from glimpse.search.report import ranked_list
from glimpse.synthetic.drawn import draw_dataset
from glimpse.synthetic.occlusion import Occluder, to_tensor
from glimpse.templates.page import RankedList, Verdict
from glimpse.training import parse_recipe, train

FRACTIONS = (0.3, 0.5)
"""Shares of the query that are covered."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large the demo is: a few minutes on two cores unless told otherwise.

    Attributes:
        people: drawn people; half of them are trained on.
        cameras, crops: crops of each person by each camera.
        warmup, epochs: of the two stages of training.
        lists: ranked lists of the evaluation that the page shows.
    """

    people: int = 64
    cameras: int = 3
    crops: int = 4
    warmup: int = 20
    epochs: int = 20
    lists: int = 8


def run(
    out: str | Path, *, seed: int = 0, size: Size | None = None, say: Callable[[str], None] = lambda _: None
) -> Path:
    """Draw a small multi-camera dataset, train QPM and a baseline on it, and compare them on covered queries.

    Nothing is downloaded. It takes a few minutes on two cores.

    Args:
        out: a folder that does not exist yet or is empty.
        seed: of everything.
        size: how large it is.
        say: called with a sentence at each step.

    Returns:
        The page, `index.html` in `out`.

    Raises:
        ConfigError: `out` is not empty or cannot be written to.
    """
    out, size = Path(out), size or Size()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(out, "is not an empty folder", "choose a new one with --out")
    start = time.monotonic()

    def told(message: str) -> None:
        say(f"{time.monotonic() - start:4.0f} s  {message}")

    told(f"drawing {size.people} people, seen by {size.cameras} cameras")
    drawn = draw_dataset(
        out / "people", identities=size.people, cameras=size.cameras, crops_per_camera=size.crops, seed=seed
    )
    dataset = open_dataset(f"market1501:{drawn.root}")
    reports: list[Report] = []
    models: list[Model] = []
    for method in ("qpm", "baseline"):
        told(f"training {method} on {len(dataset.train)} crops")
        trained = train(parse_recipe(recipe(method, seed, size)), dataset, out / method, progress=False)
        models.append(load(trained.best))
        told(f"evaluating {method}, with something in front of the queries as well")
        plan = OcclusionPlan(
            kinds=("object",),
            sides=("top", "bottom"),
            fractions=FRACTIONS,
            prompted=(False, True),
            quality=method == "qpm",
        )
        report = evaluate_dataset(
            models[-1], dataset, occlusion=plan, seed=seed, command=f"glimpse demo --out {out} --seed {seed}"
        )
        reports.append(report)
    told("searching for someone whose legs are hidden")
    searches = _searches(models[0], reports[0], dataset, out, seed)
    title = "Finding people who do not exist: QPM and a baseline, with something in front"
    page = write_report(out, reports, queries=size.lists, searches=searches, title=title)
    told("done")
    return page


def recipe(method: str, seed: int, size: Size) -> dict[str, Any]:
    """The demo's recipe: OSNet x0.25 from scratch, first with the identity loss alone, then with all of `method`'s.

    Hard triplets from the first step on would pull everything to one point, hence the first stage.
    """
    optimiser = {"kind": "adamw", "lr": 2e-3, "weight_decay": 1e-4, "schedule": "cosine", "warmup": 1}
    return {
        "method": method,
        "options": {"strips": 4, "dim": 128, "isa_scale": "sqrt"} if method == "qpm" else {},
        "backbone": "osnet_x0_25",
        "transforms": {
            "size": [128, 64],
            "pad": 4,
            "erasing": None,
            "occlusion": {"p": 0.5, "kinds": {"grey": 1, "noise": 1, "object": 2}},
        },
        "sampling": {"people": min(16, size.people // 2), "crops": min(4, size.cameras * size.crops)},
        "stages": [
            {
                "name": "ide",
                "method": "baseline",
                "options": {"triplet": False},
                "epochs": size.warmup,
                "prompt": 0.5,
                "optimiser": optimiser,
            },
            {"name": "train", "epochs": size.epochs, "prompt": 0.5, "optimiser": {**optimiser, "lr": 1e-3}},
        ],
        "validation": {"identities": 0},
        "seed": seed,
        "precision": "float32",
        "workers": 0,
    }


def _searches(model: Model, report: Report, dataset: Dataset, out: Path, seed: int) -> list[RankedList]:
    """One query with its lower half covered, searched without and with a prompt."""
    sample = dataset.query[0]
    # Crops of the same person by the same camera are left out, as the protocol does: they are too easy to find.
    ignored = set(report.relevance.ignored(0).tolist())
    rows = [row for row in range(len(dataset.gallery)) if row not in ignored]
    gallery = Gallery(report.gallery[torch.tensor(rows)], [dataset.gallery[row] for row in rows], "the drawn gallery")
    sources = [to_tensor(read_image(each)) for each in dataset.train[:50]]
    covered, _ = Occluder("object", "bottom", 0.5, sources, seed).edit(0, read_image(sample))
    picture = out / "query.png"
    with atomic(picture) as draft:
        covered.save(draft, "PNG")
    box = (0.0, 0.0, float(covered.width), covered.height / 2)

    def drawn(result: SearchResult, title: str) -> RankedList:
        page = ranked_list(result, report.regions, title)
        hits = []
        for hit, found in zip(page.hits, result.hits, strict=True):
            hits.append(replace(hit, verdict=Verdict.RIGHT if found.sample.pid == sample.pid else Verdict.WRONG))
        return replace(page, hits=tuple(hits))

    return [
        drawn(search(model, picture, gallery, top=10), "A query with something in front, nothing said about it"),
        drawn(search(model, picture, gallery, top=10, visible=box), "The same, told which part is the person"),
    ]
