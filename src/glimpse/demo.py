"""Everything once, on people who do not exist: render, train, evaluate, search, and one page that shows it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from glimpse.data import Dataset, open_dataset
from glimpse.errors import ConfigError
from glimpse.evaluation import OcclusionPlan, Report, evaluate_dataset
from glimpse.evaluation.report import write_report
from glimpse.evaluation.robustness import Robustness, csv_text
from glimpse.files import atomic, write_text
from glimpse.model import Model, load
from glimpse.search import Gallery, SearchResult, search
from glimpse.search.report import ranked_list
from glimpse.synthetic.cutouts import largest_box
from glimpse.synthetic.dataset import Rates, render_dataset
from glimpse.synthetic.people import InFront, Population, render_person
from glimpse.templates.page import RankedList, Verdict
from glimpse.training import parse_recipe, train

FRACTIONS = (0.2, 0.4, 0.6)
"""Shares of the query that are covered."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large the demo is: a few minutes on two cores unless told otherwise.

    Attributes:
        people: rendered people; half of them are trained on.
        cameras, crops: crops of each person by each camera.
        warmup, epochs: of the two stages of training.
        queries: that are covered.
        lists: ranked lists of the evaluation that the page shows.
    """

    people: int = 64
    cameras: int = 3
    crops: int = 4
    warmup: int = 18
    epochs: int = 18
    queries: int = 48
    lists: int = 8


def run(
    out: str | Path, *, seed: int = 0, size: Size | None = None, say: Callable[[str], None] = lambda _: None
) -> Path:
    """Render a small multi-camera dataset, train QPM and a baseline on it, and compare them on covered queries.

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

    told(f"rendering {size.people} people, seen by {size.cameras} cameras")
    crowd = Population(people=size.people, train=size.people // 2, cameras=size.cameras, seed=seed)
    # Nothing in front, so that what is put there is known to the pixel.
    rates = Rates(train=0, query=0, gallery=0)
    rendered = render_dataset(out / "people", crowd, crops=size.crops, rates=rates, cues=False, jobs=2)
    dataset = open_dataset(f"market1501:{rendered.path}")
    reports: list[Report] = []
    models: list[Model] = []
    for method in ("qpm", "baseline"):
        told(f"training {method} on {len(dataset.train)} crops")
        trained = train(parse_recipe(recipe(method, seed, size)), dataset, out / method, progress=False)
        models.append(load(trained.best))
        told(f"evaluating {method}, with more and more in front of the queries as well")
        plan = OcclusionPlan(
            kinds=("thing",), fractions=FRACTIONS, prompted=(False, True), quality=method == "qpm", queries=size.queries
        )
        report = evaluate_dataset(
            models[-1], dataset, occlusion=plan, seed=seed, command=f"glimpse demo --out {out} --seed {seed}"
        )
        reports.append(report)
        write_text(out / f"curves-{method}.csv", csv_text(Robustness.of(report).record()))
    told("searching for someone whose legs are hidden")
    searches = _searches(models[0], reports[0], dataset, out, crowd, size)
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
            "occlusion": {"p": 0.5, "kinds": {"grey": 1, "object": 1, "thing": 3}},
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


def _searches(
    model: Model, report: Report, dataset: Dataset, out: Path, crowd: Population, size: Size
) -> list[RankedList]:
    """Somebody behind a car, searched without and with a prompt."""
    sample = dataset.query[0]
    assert sample.camid is not None
    # Crops of the same person by the same camera are left out, as the protocol does: they are too easy to find.
    ignored = set(report.relevance.ignored(0).tolist())
    rows = [row for row in range(len(dataset.gallery)) if row not in ignored]
    gallery = Gallery(
        report.gallery[torch.tensor(rows)], [dataset.gallery[row] for row in rows], "the rendered gallery"
    )
    car = InFront("car", "bottom", 0.5)
    hidden = render_person(sample.pid, size.crops, camera=sample.camid, in_front=car, population=crowd)
    picture = out / "query.png"
    with atomic(picture) as draft:
        hidden.image.save(draft, "PNG")
    box = largest_box(hidden.shown)
    assert box is not None

    def drawn(result: SearchResult, title: str) -> RankedList:
        page = ranked_list(result, report.regions, title)
        hits = []
        for hit, found in zip(page.hits, result.hits, strict=True):
            hits.append(replace(hit, verdict=Verdict.RIGHT if found.sample.pid == sample.pid else Verdict.WRONG))
        return replace(page, hits=tuple(hits))

    return [
        drawn(search(model, picture, gallery, top=10), "Somebody behind a car, nothing said about it"),
        drawn(search(model, picture, gallery, top=10, visible=box), "The same, told which part is the person"),
    ]
