"""From a model and a dataset to everything that tables, JSON and pages show."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import torch
from rich.table import Table

from glimpse import __version__
from glimpse.data.dataset import Dataset, Split
from glimpse.data.protocol import ProtocolReport, Relevance, single_shot
from glimpse.data.samples import Sample
from glimpse.data.visible import Box
from glimpse.data.words import count
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, DataError
from glimpse.evaluation.evaluate import DEFAULT_MAX_BYTES, Result, estimates, evaluate_rows, ranked_rows
from glimpse.evaluation.metrics import Values
from glimpse.evaluation.occluded import (
    FRACTIONS,
    OcclusionSuite,
    check_grid,
    draw_queries,
    occlusion_suite,
    read_sources,
)
from glimpse.evaluation.prompts import check_boxes, match_prompts
from glimpse.evaluation.quality import Quality, quality_auc
from glimpse.evaluation.records import (
    DatasetRecord,
    EvaluationRecord,
    Metrics,
    ModelRecord,
    ProtocolRecord,
    RankedRecord,
    RerankRecord,
    TimingRecord,
)
from glimpse.evaluation.single_shot import SingleShot, Trials
from glimpse.matching.distance import Distance
from glimpse.matching.reranking import KReciprocal
from glimpse.provenance import commit
from glimpse.synthetic.occlusion import EDGES, FROM_CROPS, KINDS, Kind, Occluder, Side

if TYPE_CHECKING:
    from glimpse.model import Model

GALLERY_BLOCK = 16384
"""Gallery rows compared at a time."""


@dataclass(frozen=True)
class OcclusionPlan:
    """Which covered queries to try, see `occlusion_suite`.

    Attributes:
        kinds: what covers.
        sides: where it stands.
        fractions: shares of a crop that are covered.
        prompted: `(False,)` without prompts, `(True,)` with, `(False, True)` both.
        queries: how many queries to draw; `None` takes all.
        quality: whether to check if part weights know what is hidden.

    Raises:
        ConfigError: one of them is out of range, missing or given twice, or a kind cannot stand on a side.
    """

    kinds: tuple[Kind, ...] = ("object",)
    sides: tuple[Side, ...] = EDGES
    fractions: tuple[float, ...] = FRACTIONS
    prompted: tuple[bool, ...] = (False,)
    queries: int | None = None
    quality: bool = False

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError("kinds", f"'{kind}' is no kind of occluder", f"choose among {', '.join(KINDS)}")
        if not self.kinds or not self.prompted:
            raise ConfigError(
                "occlusion", "no kind of occluder is given, or neither prompted nor not", "give at least one"
            )
        if len(set(self.kinds)) < len(self.kinds) or len(set(self.prompted)) < len(self.prompted):
            raise ConfigError("occlusion", "a kind of occluder is given twice", "give each once")
        check_grid(self.sides, self.fractions, self.queries)
        dot = torch.zeros(3, 1, 1, dtype=torch.uint8)
        for kind, side in product(self.kinds, self.sides):
            Occluder(kind, side, self.fractions[0], (dot,))  # refuses what does not go together


@dataclass(frozen=True)
class Timing:
    """Wall-clock times.

    Attributes:
        embed_seconds: reading and embedding of queries and gallery.
        crops: crops embedded in that time.
        match_seconds: distances, ranking and metrics of all queries.
        bytes_per_gallery_item: size of one embedded crop.
    """

    embed_seconds: float
    crops: int
    match_seconds: float
    bytes_per_gallery_item: int

    @property
    def crops_per_second(self) -> float:
        """Crops embedded per second, 0 if no time passed."""
        return self.crops / self.embed_seconds if self.embed_seconds > 0 else 0.0


@dataclass(frozen=True)
class Report:
    """Everything an evaluation found. Made once; tables, JSON and pages only read it.

    Attributes:
        dataset: what was evaluated on, without the crops that could not be read; `dataset.query` holds the queries.
        split: split that the queries came from.
        protocol: what the rules left out.
        relevance: which gallery rows match each query, and which are ignored.
        made_by: name and hash of the weights.
        method: name of the method.
        card: what lies beside the weights.
        part_names: parts that the distance compares.
        regions: where each part lies in a crop, relative (x0, y0, x1, y1).
        distance: that compared the crops; `distance.explain(query[i], gallery[j])` says how.
        distance_options: options of the distance that were given.
        query: embedded queries, one row per crop of `dataset.query`.
        gallery: embedded gallery.
        prompts: row of the query -> box that the model was told.
        gallery_prompts: row of the gallery -> box.
        result: metrics, per query, and the closest gallery rows of each (`result.top`).
        single_shot: on partial sets the mean over all trials with one crop per person.
        suites: results with covered queries.
        quality: whether part weights know what is hidden.
        bad: crops that could not be read and were left out.
        timing: wall-clock times.
        seed: of everything random.
        command: the command line, empty where there was none.
        commit: of glimpse, where it runs from a checkout.
        version: of glimpse.
        rerank: how the ranking of `distance` was re-ranked; `None` if it was not.
    """

    dataset: Dataset = field(repr=False)
    split: str
    protocol: ProtocolReport
    relevance: Relevance = field(repr=False)
    made_by: str
    method: str
    card: Mapping[str, Any] = field(repr=False)
    part_names: tuple[str, ...]
    regions: tuple[tuple[str, tuple[float, float, float, float]], ...]
    distance: Distance = field(repr=False)
    distance_options: Mapping[str, Any]
    query: Embedding = field(repr=False)
    gallery: Embedding = field(repr=False)
    prompts: Mapping[int, Box] = field(repr=False)
    gallery_prompts: Mapping[int, Box] = field(repr=False)
    result: Result = field(repr=False)
    single_shot: SingleShot | None = field(repr=False)
    suites: tuple[OcclusionSuite, ...] = field(repr=False)
    quality: Quality | None
    bad: tuple[DataError, ...]
    timing: Timing
    seed: int = 0
    command: str = ""
    commit: str | None = None
    version: str = __version__
    rerank: KReciprocal | None = None

    @property
    def told(self) -> str:
        """How many queries had a prompt and whether they were re-ranked, to be put behind a setting's name."""
        prompted = f", {len(self.prompts):,} of {len(self.dataset.query):,} prompted" if self.prompts else ""
        return prompted + (", re-ranked" if self.rerank is not None else "")

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know: what was dropped or decided, one sentence each."""
        said = [*self.dataset.notes, *self.protocol.lines]
        if self.bad:
            were = "was" if len(self.bad) == 1 else "were"
            some = f"{count(len(self.bad), 'crop')} could not be read and {were}"
            said.append(f"{some} left out (first: {self.bad[0].where}).")
            if self.dataset.protocol.per_identity is not None:
                said.append("Single-shot trials need all crops of everybody, so there are none.")
        prompted = len(self.prompts) + len(self.gallery_prompts)
        if prompted:
            said.append(
                f"{len(self.prompts):,} of {len(self.dataset.query):,} queries and {len(self.gallery_prompts):,} of "
                f"{len(self.dataset.gallery):,} gallery crops came with a prompt."
            )
        if self.rerank is not None:
            how = f"k1 {self.rerank.k1}, k2 {self.rerank.k2}, lambda {self.rerank.lam:g}"
            said.append(
                f"Re-ranked by k-reciprocal neighbours ({how}): all queries and all gallery crops have a say in each "
                "other's ranks. Lists with pictures are those of the distance before."
            )
            if self.dataset.protocol.per_identity is not None:
                said.append("Single-shot trials have one crop per person, too few to re-rank, so there are none.")
        return tuple(said)

    def ranked(self, query: int) -> list[tuple[int, float, bool]]:
        """The closest gallery rows of a query: row, distance, and whether it shows the same person."""
        right = set(self.relevance.matches(query).tolist())
        rows = zip(self.result.top[query].tolist(), self.result.top_distance[query].tolist(), strict=True)
        return [(row, distance, row in right) for row, distance in rows if row >= 0]

    def clear_values(self, suite: OcclusionSuite) -> Values:
        """Values `[n, 7]` of a suite's queries as they are, not covered, see `Result.values`."""
        drawn = {sample.path for sample in suite.queries}
        chosen = [self.dataset.query[row].path in drawn for row in self.result.rows]
        values: Values = self.result.values[np.array(chosen)]
        return values

    def clear(self, suite: OcclusionSuite) -> Metrics:
        """Metrics of a suite's queries as they are, not covered: what its curves start from."""
        return estimates(self.clear_values(suite), self.seed)

    def record(self, *, ranked: bool = False) -> EvaluationRecord:
        """What goes into JSON; `ranked` adds the closest gallery crops of every query."""
        lists = []
        for i, sample in enumerate(self.dataset.query if ranked else ()):
            found = self.ranked(i)
            lists.append(
                RankedRecord(
                    query=sample.path,
                    gallery=[self.dataset.gallery[row].path for row, _, _ in found],
                    distance=[distance for _, distance, _ in found],
                    right=[right for _, _, right in found],
                )
            )
        rules = self.dataset.protocol
        return EvaluationRecord(
            version=self.version,
            commit=self.commit,
            command=self.command,
            seed=self.seed,
            dataset=DatasetRecord(
                name=self.dataset.name, spec=self.dataset.spec, split=self.split, notes=list(self.dataset.notes)
            ),
            protocol=ProtocolRecord(
                name=rules.name,
                same_camera_rule=rules.same_camera_rule,
                queries=self.protocol.queries,
                gallery=self.protocol.gallery,
                junk=self.protocol.junk,
                distractors=self.protocol.distractors,
                unmatched=list(self.protocol.unmatched),
                said=list(self.protocol.lines),
            ),
            model=ModelRecord(
                made_by=self.made_by, method=self.method, card=dict(self.card), distance=dict(self.distance_options)
            ),
            rerank=None if self.rerank is None else RerankRecord.model_validate(self.rerank),
            prompts=len(self.prompts) + len(self.gallery_prompts),
            result=self.result.record(),
            single_shot=None if self.single_shot is None else self.single_shot.record(),
            occlusion=[suite.record(self.clear(suite)) for suite in self.suites],
            quality=None if self.quality is None else self.quality.record(),
            timing=TimingRecord(
                embed_seconds=self.timing.embed_seconds,
                crops=self.timing.crops,
                crops_per_second=self.timing.crops_per_second,
                match_seconds=self.timing.match_seconds,
                bytes_per_gallery_item=self.timing.bytes_per_gallery_item,
            ),
            bad=[str(error) for error in self.bad],
            ranked=lists,
        )

    def to_json(self, *, ranked: bool = False) -> str:
        """JSON text that fits `docs/evaluation.schema.json`."""
        return self.record(ranked=ranked).model_dump_json(indent=1) + "\n"


def evaluate_dataset(
    model: Model,
    dataset: Dataset,
    *,
    split: Split = "query",
    prompts: Mapping[str, Box] | None = None,
    occlusion: OcclusionPlan | None = None,
    sources: Sequence[Sample] = (),
    options: Mapping[str, Any] | None = None,
    rerank: KReciprocal | None = None,
    top: int = 10,
    seed: int = 0,
    max_bytes: int = DEFAULT_MAX_BYTES,
    gallery_block: int = GALLERY_BLOCK,
    skip_bad: bool = False,
    command: str = "",
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Embed queries and gallery, compare all of them, score, and repeat with covered queries if asked.

    Args:
        model: what `glimpse.load` gives.
        dataset: what `glimpse.open_dataset` gives.
        split: which crops of the dataset are the queries.
        prompts: path of a query or gallery crop, or a unique end of it -> box of the person, see `read_prompts`. They
            are not used with covered queries, where the prompt is what the occluder leaves.
        occlusion: covered queries to try; `None` for none.
        sources: crops that occluders are cut from; the dataset's training crops if there are none given.
        options: options of the method's distance.
        rerank: how to re-rank by k-reciprocal neighbours; `None` to leave the ranking as it is. There are then no
            single-shot trials, whose galleries are others, and no covered queries.
        top: how many of the closest gallery crops to keep for each query.
        seed: of everything random.
        max_bytes: scratch memory of matching.
        gallery_block: gallery rows compared at a time.
        skip_bad: leave out crops that cannot be read instead of stopping at them.
        command: command line to write into the report.
        progress: called with the number of crops embedded since the last call.

    Raises:
        DataError: a crop cannot be read, a split is empty, no query has a match, or a prompt fits no crop.
        ConfigError: an option is not valid, a prompt's box leaves its crop, or covered queries are to be re-ranked.
        EmbeddingError: the model gives embeddings that its distance cannot compare.
    """
    if rerank is not None and occlusion is not None:
        cause = "covered queries are not re-ranked, so they could not be compared with the clear ones"
        raise ConfigError("rerank", cause, "leave out one of the two")
    dataset = replace(dataset, query=dataset.split(split), gallery=dataset.split("gallery"))
    distance = model.distance(**(options or {}))
    # All that can be wrong with labels, prompts and sources is found before the minutes of embedding.
    dataset.protocol.relevance(dataset.query, dataset.gallery)
    boxes = match_prompts(prompts or {}, [*dataset.query, *dataset.gallery])
    check_boxes(boxes, [*dataset.query, *dataset.gallery])
    if not sources:
        sources = dataset.train
    if occlusion is not None:
        kinds = [kind for kind in occlusion.kinds if kind in FROM_CROPS]
        if kinds and not sources:
            raise ConfigError(
                "sources",
                f"{dataset.name} has no training crops to take a '{kinds[0]}' from",
                "give crops of people who are not looked for, or cover with grey",
            )

    start = time.perf_counter()
    query = model.embed_samples(
        dataset.query, edit=_prompted(boxes, 0) if boxes else None, skip_bad=skip_bad, progress=progress
    )
    offset = len(dataset.query)
    gallery = model.embed_samples(
        dataset.gallery, edit=_prompted(boxes, offset) if boxes else None, skip_bad=skip_bad, progress=progress
    )
    embed_seconds = time.perf_counter() - start
    query_prompts = {i: boxes[row] for i, row in enumerate(query.kept) if row in boxes}
    gallery_prompts = {i: boxes[offset + row] for i, row in enumerate(gallery.kept) if offset + row in boxes}
    dataset = replace(
        dataset,
        query=tuple(dataset.query[row] for row in query.kept),
        gallery=tuple(dataset.gallery[row] for row in gallery.kept),
    )
    relevance = dataset.protocol.relevance(dataset.query, dataset.gallery)

    start = time.perf_counter()
    rows = ranked_rows(
        distance, query.embedding, gallery.embedding, rerank, max_bytes=max_bytes, gallery_block=gallery_block
    )
    # One crop per person on both sides makes the single-shot trial the whole protocol.
    per_identity = dataset.protocol.per_identity or 1
    complete = not query.bad and not gallery.bad
    trials = None
    if per_identity > 1 and complete and rerank is None:
        trials = Trials(single_shot(dataset.query, dataset.gallery, per_identity=per_identity))
        rows = trials.watch(rows)
    result = evaluate_rows(rows, relevance, top=top, seed=seed)
    match_seconds = time.perf_counter() - start

    suites: list[OcclusionSuite] = []
    quality: Quality | None = None
    if occlusion is not None:
        for kind in occlusion.kinds:
            for prompted in occlusion.prompted:
                suites.append(
                    occlusion_suite(
                        model,
                        dataset,
                        gallery.embedding,
                        kind=kind,
                        sides=occlusion.sides,
                        fractions=occlusion.fractions,
                        prompted=prompted,
                        queries=occlusion.queries,
                        sources=sources,
                        distance=distance,
                        seed=seed,
                        max_bytes=max_bytes,
                        skip_bad=skip_bad,
                        progress=progress,
                    )
                )
        if occlusion.quality:
            kind = occlusion.kinds[0]
            quality = quality_auc(
                model,
                draw_queries(dataset, occlusion.queries, seed),
                kind=kind,
                sources=read_sources(sources, seed, skip_bad=skip_bad) if kind in FROM_CROPS else (),
                seed=seed,
                skip_bad=skip_bad,
                progress=progress,
            )
    return Report(
        dataset=dataset,
        split=split,
        protocol=relevance.report,
        relevance=relevance,
        made_by=model.made_by,
        method=model.method.name,
        card=model.card.model_dump(mode="json"),
        part_names=tuple(model.part_names),
        regions=tuple(model.regions),
        distance=distance,
        distance_options=dict(options or {}),
        query=query.embedding,
        gallery=gallery.embedding,
        prompts=query_prompts,
        gallery_prompts=gallery_prompts,
        result=result,
        single_shot=None if trials is None else trials.result(seed),
        suites=tuple(suites),
        quality=quality,
        bad=(*query.bad, *gallery.bad),
        timing=Timing(
            embed_seconds=embed_seconds,
            crops=len(query.kept) + len(gallery.kept),
            match_seconds=match_seconds,
            bytes_per_gallery_item=gallery.embedding.bytes_per_row,
        ),
        seed=seed,
        command=command,
        commit=commit() or None,
        rerank=rerank,
    )


def _prompted(
    boxes: Mapping[int, Box], offset: int
) -> Callable[[int, PIL.Image.Image], tuple[PIL.Image.Image, Box | None]]:
    return lambda index, image: (image, boxes.get(offset + index))


def table(report: Report) -> Table:
    """The report as a table for the screen: percent, with 95 % intervals over queries where there is room. Below
    it stands what some papers print instead.

    One row for the dataset itself, one for single-shot where it is defined, one for the queries that were drawn to be
    covered if these are not all, and one per kind and share of covered queries (means over sides).
    """
    shown = Table(
        "setting",
        "queries",
        "rank-1",
        "rank-5",
        "mAP",
        "mINP",
        title=f"{report.made_by} on {report.dataset.name}",
        title_justify="left",
        caption_justify="left",
    )
    for column in shown.columns[1:]:
        column.justify = "right"
        column.no_wrap = True

    def add(setting: str, queries: int, metrics: Metrics) -> None:
        shown.add_row(
            setting,
            f"{queries:,}",
            str(metrics.rank_1),
            f"{100 * metrics.rank_5.value:.1f}",
            str(metrics.map),
            f"{100 * metrics.minp.value:.1f}",
        )

    summary = report.result.summary
    metrics = summary.metrics
    shown.caption = (
        f"rank-3 {100 * metrics.rank_3.value:.1f}, rank-10 {100 * metrics.rank_10.value:.1f}, mAP by trapezoids (older "
        f"code) {100 * metrics.map_trapezoid.value:.1f}"
    )
    add(f"as it is{report.told}", summary.queries, summary.metrics)
    if report.single_shot is not None:
        record = report.single_shot.record()
        trials = record.query_crops * record.gallery_crops
        add(f"single-shot, {trials} trials", record.people, record.metrics)
    if report.suites and len(report.suites[0].queries) < summary.queries:
        add("drawn queries", len(report.suites[0].queries), report.clear(report.suites[0]))
    for suite in report.suites:
        prompt = ", prompted" if suite.prompted else ""
        for fraction in suite.fractions:
            add(f"{suite.kind} over {100 * fraction:.0f} %{prompt}", len(suite.queries), suite.mean(fraction))
    return shown
