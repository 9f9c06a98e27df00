"""What an evaluation writes as JSON: pydantic models, unknown keys forbidden."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from glimpse.records import Record
from glimpse.synthetic.occlusion import Kind, Side


class Estimate(Record):
    """A mean over queries and its 95 % bootstrap interval."""

    value: float = Field(ge=0, le=1, description="mean over queries, a share (0.9 is 90 %)")
    low: float = Field(ge=0, le=1, description="lower end of the 95 % bootstrap interval over queries")
    high: float = Field(ge=0, le=1, description="upper end of the 95 % bootstrap interval over queries")

    def __str__(self) -> str:
        """In percent, as tables show it.

        >>> str(Estimate(value=0.9, low=0.874, high=0.921))
        '90.0 (87.4-92.1)'
        """
        return f"{100 * self.value:.1f} ({100 * self.low:.1f}-{100 * self.high:.1f})"


class Metrics(Record):
    """The metrics of one protocol."""

    rank_1: Estimate = Field(description="CMC at 1: share of queries whose closest gallery crop shows the same person")
    rank_3: Estimate = Field(description="CMC at 3")
    rank_5: Estimate = Field(description="CMC at 5")
    rank_10: Estimate = Field(description="CMC at 10")
    map: Estimate = Field(description="mean AP, plain: mean over hits of the precision at the hit")
    map_trapezoid: Estimate = Field(
        description="mean AP, trapezoid: mean over hits of the average of the precision at the hit and just before it "
        "(1 at rank 1), as in Market-1501's own evaluation code; never larger than plain"
    )
    minp: Estimate = Field(description="mean INP: number of matches divided by the rank of the farthest")


class Summary(Record):
    """The metrics of one run of queries through one gallery, and how much they rest on."""

    metrics: Metrics
    queries: int = Field(ge=1, description="queries that were scored")
    skipped: int = Field(ge=0, description="queries without a valid match in the gallery, left out of all means")
    gallery: int = Field(ge=1, description="gallery crops")
    ignored_per_query: float = Field(
        ge=0, description="mean number of gallery crops that the protocol left out per query"
    )


class PerQuery(Record):
    """Columns with one entry per scored query."""

    row: list[int] = Field(description="position in the list of queries, from 0")
    first_rank: list[int] = Field(description="rank of the closest match, from 1")
    matches: list[int] = Field(description="number of valid matches in the gallery")
    ap: list[float]
    ap_trapezoid: list[float]
    inp: list[float]


class ResultRecord(Record):
    """One result, with the values of each query."""

    summary: Summary
    per_query: PerQuery
    skipped_rows: list[int] = Field(description="positions of the queries without a valid match")


class SingleShotRecord(Record):
    """Means over all trials with one crop per person on both sides."""

    metrics: Metrics
    people: int = Field(ge=1, description="queried people, so crops per trial; intervals are over people")
    query_crops: int = Field(ge=1, description="query crops per person")
    gallery_crops: int = Field(ge=1, description="gallery crops per person; trials are query_crops x gallery_crops")


class QualityRecord(Record):
    """Whether part weights tell covered parts from clear ones, without a prompt."""

    auc: float = Field(ge=0, le=1, description="probability that a clear part weighs more than a covered one")
    covered: float = Field(ge=0, le=1, description="mean weight of covered parts (visible share below 0.25)")
    clear: float = Field(ge=0, le=1, description="mean weight of clear parts (visible share above 0.75)")
    covered_parts: int = Field(ge=1)
    clear_parts: int = Field(ge=1)


class OccludedRecord(Record):
    """One side and one covered share."""

    side: Side
    fraction: float = Field(gt=0, lt=1, description="share of each query that is covered")
    summary: Summary


class OcclusionMeanRecord(Record):
    """Mean over sides at one covered share; intervals are over queries, whose sides stay together."""

    fraction: float = Field(gt=0, lt=1, description="share of each query that is covered")
    metrics: Metrics


class OcclusionRecord(Record):
    """Queries covered by one kind of occluder, with or without a prompt."""

    kind: Kind = Field(description="what covers: background texture, another person, or grey")
    prompted: bool = Field(description="whether the model was told which pixels are visible")
    queries: int = Field(ge=1, description="queries that were covered")
    seed: int
    clear: Metrics = Field(description="the same queries, not covered")
    means: list[OcclusionMeanRecord]
    results: list[OccludedRecord]


class ProtocolRecord(Record):
    """Which gallery crops counted."""

    name: str
    same_camera_rule: bool = Field(description="crops of the query's person by the query's camera are ignored")
    queries: int = Field(ge=0)
    gallery: int = Field(ge=0)
    junk: int = Field(ge=0, description="gallery crops of pid -1, ignored for every query")
    distractors: int = Field(ge=0, description="gallery crops of pid 0, which stay in")
    unmatched: list[str] = Field(description="queries without a valid match, which are not scored")
    said: list[str] = Field(description="the same in sentences")


class DatasetRecord(Record):
    """What was evaluated on."""

    name: str
    spec: str = Field(description="how the dataset was named when it was opened")
    split: str = Field(description="split that the queries came from")
    notes: list[str] = Field(description="what was dropped or decided while reading")


class ModelRecord(Record):
    """What was evaluated."""

    made_by: str = Field(description="name and hash of the weights")
    method: str
    card: dict[str, JsonValue] = Field(description="the card that lies beside the weights")
    distance: dict[str, JsonValue] = Field(description="options of the distance that were given")


class RerankRecord(Record):
    """Re-ranking by k-reciprocal neighbours, which took part in all of the result."""

    k1: int = Field(ge=1, description="neighbours of a crop that were asked whether it is one of theirs")
    k2: int = Field(ge=1, description="nearest crops over which the neighbourhood of a crop was averaged")
    lam: float = Field(ge=0, le=1, description="lambda: share of the distance itself")


class TimingRecord(Record):
    """Wall-clock times on the machine that ran the evaluation; they are not comparable between machines."""

    embed_seconds: float = Field(ge=0, description="reading and embedding of queries and gallery")
    crops: int = Field(ge=0, description="crops embedded in that time")
    crops_per_second: float = Field(ge=0)
    match_seconds: float = Field(ge=0, description="distances, ranking and metrics of all queries")
    bytes_per_gallery_item: int = Field(ge=0, description="size of one embedded crop")


class RankedRecord(Record):
    """The closest gallery crops of one query, those that the protocol ignores left out."""

    query: str
    gallery: list[str]
    distance: list[float]
    right: list[bool] = Field(description="whether they show the same person")


class EvaluationRecord(Record):
    """The file that `glimpse evaluate --json` writes. All metrics are shares, not percent."""

    format: Literal["glimpse-evaluation-1"] = "glimpse-evaluation-1"
    version: str = Field(description="of glimpse")
    commit: str | None = Field(description="of glimpse, where it runs from a checkout")
    command: str = Field(description="the command line, empty where there was none")
    seed: int
    dataset: DatasetRecord
    protocol: ProtocolRecord
    model: ModelRecord
    rerank: RerankRecord | None = Field(None, description="how the ranking was re-ranked; null if it was not")
    prompts: int = Field(ge=0, description="crops that came with a prompt")
    result: ResultRecord
    single_shot: SingleShotRecord | None = Field(description="partial sets only: one crop per person on both sides")
    occlusion: list[OcclusionRecord]
    quality: QualityRecord | None = Field(description="whether part weights know what is hidden")
    timing: TimingRecord
    bad: list[str] = Field(description="crops that could not be read and were left out, with the reason")
    ranked: list[RankedRecord] = Field(description="ranked lists of all queries, empty if they were not kept")


def schema() -> str:
    """JSON schema of `EvaluationRecord`, as `docs/evaluation.schema.json` holds it."""
    return EvaluationRecord.schema_text()


class CalibrationRecord(Record):
    """Parts whose weights are in one step of the calibration."""

    weight: float = Field(description="their mean weight")
    share: float = Field(ge=0, le=1, description="their mean visible share")
    parts: int = Field(ge=1, description="how many they are")


class PartVisibilityRecord(Record):
    """How well the weight of one part says what of it can be seen."""

    name: str = Field(description="of the part")
    auc: float | None = Field(description="clear against covered parts; null without either")
    correlation: float | None = Field(description="Spearman's, of weight and visible share")
    covered: float | None = Field(description="mean weight of covered parts (less than 0.25 visible)")
    clear: float | None = Field(description="mean weight of clear parts (more than 0.75 visible)")
    covered_parts: int = Field(ge=0, description="how many were covered")
    clear_parts: int = Field(ge=0, description="how many were clear")


class VisibilityRecord(Record):
    """How well part weights say what can be seen."""

    method: str = Field(description="of the model")
    made_by: str = Field(description="name and hash of the weights")
    crops: int = Field(ge=1, description="crops that were embedded")
    auc: float | None = Field(description="clear against covered parts, all parts together; 0.5 is chance")
    correlation: float | None = Field(description="Spearman's, of weight and visible share, all parts together")
    calibration: list[CalibrationRecord] = Field(description="mean visible share by weight")
    parts: list[PartVisibilityRecord] = Field(description="in the order of the embedding's weights")
