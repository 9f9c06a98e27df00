"""Whether part weights say what can be seen: against the exact truth of rendered people, or of covered crops."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.markup import escape
from rich.table import Table

from glimpse.cues.cache import CueCache, digest_of
from glimpse.data.samples import Sample
from glimpse.errors import ConfigError, DataError
from glimpse.evaluation.quality import CLEAR, COVERED, auc, part_weights, visible_shares
from glimpse.evaluation.records import CalibrationRecord, PartVisibilityRecord, VisibilityRecord
from glimpse.evaluation.robustness import check_picture
from glimpse.files import atomic
from glimpse.templates.chart import Drawing, Panel, Series, draw_panels

if TYPE_CHECKING:
    from glimpse.model import Model

Regions = Sequence[tuple[str, tuple[float, float, float, float]]]
Shares = NDArray[np.float64]

VISIBLE, WHOLE = "truth", "truth-whole"
"""Names of the part maps of what can be seen of somebody, and of all of them."""
BINS = 10
"""Of the calibration: weights from 0 to 1 in so many steps."""

_GROUPS = {
    "head": "head",
    "upper": "upper",
    "upper body": "upper",
    "lower": "lower",
    "lower body": "lower",
    "shoes": "shoes",
}


class Truth(Protocol):
    """Knows what of a crop can be seen."""

    def shares(self, sample: Sample, regions: Regions) -> Shares:
        """Visible share of each region of a crop, `[K]` in [0, 1]; NaN where there is nothing that could be seen.

        Raises:
            DataError: nothing is known of the crop.
        """
        ...


class BodyTruth:
    """Exact part maps, of what can be seen and of the whole person, as `glimpse data render` writes them.

    A region that is named after a part of the body (head, upper, lower, shoes) is that part, wherever it is; of others
    the share counts the body inside their box. Parts are taken from the dataset's `truth.csv` if it has one, which
    counts what lies outside of the crop as well.

    Args:
        cues: the folder of the cues.

    Raises:
        ConfigError: the folder has no such maps.
    """

    def __init__(self, cues: str | Path) -> None:
        cache = CueCache(cues)
        self._visible, self._whole = cache.parts(VISIBLE), cache.parts(WHOLE)
        self._rows: dict[str, dict[str, dict[str, str]]] = {}

    def shares(self, sample: Sample, regions: Regions) -> Shares:
        """See `Truth`."""
        digest = digest_of(sample.store.read(sample.name))
        visible, whole = self._visible.get(digest), self._whole.get(digest)
        if visible is None or whole is None:
            raise DataError(sample.path, "has no exact part maps", "give the cues that were rendered with the crop")
        row = self._written(sample)
        seen, there = visible.mask(), whole.mask()
        found = []
        for name, (x0, y0, x1, y1) in regions:
            group = _GROUPS.get(name)
            if group is not None and f"visible_{group}" in row:
                found.append(float(row[f"visible_{group}"] or "nan"))
                continue
            a, b = (seen, there) if group is None else (visible.mask(group), whole.mask(group))
            if group is None:
                height, width = seen.shape
                box = slice(round(y0 * height), round(y1 * height)), slice(round(x0 * width), round(x1 * width))
                a, b = a[box], b[box]
            found.append(float(a.sum() / b.sum()) if b.any() else float("nan"))
        return np.array(found)

    def _written(self, sample: Sample) -> dict[str, str]:
        """The crop's row in the dataset's `truth.csv`; empty if there is none."""
        root = sample.store.root
        if root not in self._rows:
            try:
                text = sample.store.read("truth.csv").decode("utf-8")
            except DataError:
                text = ""
            self._rows[root] = {row["file"]: row for row in csv.DictReader(io.StringIO(text)) if row.get("file")}
        return self._rows[root].get(sample.name, {})


class CropTruth:
    """Masks of what is left of covered crops, as `glimpse data occlude` writes them: of a region, not of a body.

    Args:
        folder: the truth folder; masks are in `masks/NAME.png`.

    Raises:
        ConfigError: it has no masks.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder) / "masks"
        if not self._folder.is_dir():
            cause = "has neither masks (of glimpse data occlude) nor cues (of glimpse data render)"
            raise ConfigError(folder, cause, "give the folder that one of them wrote beside its crops")

    def shares(self, sample: Sample, regions: Regions) -> Shares:
        """See `Truth`."""
        path = self._folder / f"{sample.name}.png"
        try:
            with Image.open(path) as picture:
                mask = np.asarray(picture.convert("1"), np.bool_)
        except OSError as error:
            cause = f"has no mask that can be read ({path}: {error.strerror or error})"
            raise DataError(sample.path, cause, "evaluate the split that was covered") from error
        return visible_shares(mask, regions)


def open_truth(folder: str | Path) -> Truth:
    """The truth in a folder: cues of rendered people, or masks of covered crops.

    Raises:
        ConfigError: it has neither.
    """
    has_maps = (Path(folder) / "parts").is_dir()
    return BodyTruth(folder) if has_maps else CropTruth(folder)


@dataclass(frozen=True, eq=False)
class Visibility:
    """Weights of parts beside what can really be seen of them.

    Attributes:
        names: of the parts `[K]`.
        weights: by the model, `[n, K]`.
        shares: visible shares by the truth, `[n, K]`; NaN where a part does not show at all.
        method: of the model.
        made_by: name and hash of the weights.
    """

    names: tuple[str, ...]
    weights: Shares
    shares: Shares
    method: str = ""
    made_by: str = ""

    def auc(self, part: int | None = None) -> float:
        """Probability that a part that is clear (more than 0.75 visible) weighs more than one that is covered (less
        than 0.25), ties counting half; of all parts, or of one. NaN without either.
        """
        weights, shares = self._of(part)
        judged = (shares < COVERED) | (shares > CLEAR)
        return auc(weights[judged], shares[judged] > CLEAR)

    def correlation(self, part: int | None = None) -> float:
        """Spearman's rank correlation of weight and visible share; NaN where one of them is constant."""
        weights, shares = self._of(part)
        if len(weights) < 2 or np.ptp(weights) == 0 or np.ptp(shares) == 0:
            return float("nan")
        return float(np.corrcoef(_ranks(weights), _ranks(shares))[0, 1])

    def calibration(self, bins: int = BINS) -> list[CalibrationRecord]:
        """Mean visible share of the parts whose weight falls into each of `bins` steps from 0 to 1; empty ones left
        out. Of a weight that is a probability, both are alike.
        """
        weights, shares = self._of(None)
        step = np.clip((weights * bins).astype(int), 0, bins - 1)
        return [
            CalibrationRecord(
                weight=float(weights[step == each].mean()),
                share=float(shares[step == each].mean()),
                parts=int((step == each).sum()),
            )
            for each in range(bins)
            if (step == each).any()
        ]

    def record(self) -> VisibilityRecord:
        """What goes into JSON."""
        return VisibilityRecord(
            method=self.method,
            made_by=self.made_by,
            crops=len(self.weights),
            auc=_known(self.auc()),
            correlation=_known(self.correlation()),
            calibration=self.calibration(),
            parts=[self._part(part) for part in range(len(self.names))],
        )

    def _part(self, part: int) -> PartVisibilityRecord:
        weights, shares = self._of(part)
        covered, clear = weights[shares < COVERED], weights[shares > CLEAR]
        return PartVisibilityRecord(
            name=self.names[part],
            auc=_known(self.auc(part)),
            correlation=_known(self.correlation(part)),
            covered=_known(float(covered.mean())) if len(covered) else None,
            clear=_known(float(clear.mean())) if len(clear) else None,
            covered_parts=len(covered),
            clear_parts=len(clear),
        )

    def _of(self, part: int | None) -> tuple[Shares, Shares]:
        weights = self.weights.ravel() if part is None else self.weights[:, part]
        shares = self.shares.ravel() if part is None else self.shares[:, part]
        known = ~np.isnan(shares)
        return weights[known], shares[known]


def visibility(
    model: Model,
    samples: Sequence[Sample],
    truth: Truth,
    *,
    skip_bad: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Visibility:
    """Embed crops, without a prompt, and put the weights of their parts beside the truth.

    Args:
        model: its embeddings must have `weights` `[n, K]`, one per region of `model.regions`.
        samples: the crops.
        truth: what can be seen of them.
        skip_bad: leave out crops that cannot be read instead of stopping at them.
        progress: called with the number of crops done since the last call.

    Raises:
        EmbeddingError: the embeddings have no weights, or not one per region.
        DataError: nothing is known of a crop, or it cannot be read.
    """
    if not samples:
        raise DataError("visibility", "there are no crops", "choose a split that has some")
    # Before the work of embedding: what is missing is said at once.
    known = [truth.shares(sample, model.regions) for sample in samples]
    embedded = model.embed_samples(samples, skip_bad=skip_bad, progress=progress)
    weights = part_weights(embedded.embedding, len(model.regions))
    shares = np.stack([known[row] for row in embedded.kept])
    names = tuple(name for name, _ in model.regions)
    return Visibility(names, weights, shares, model.card.method, model.made_by)


def table(record: VisibilityRecord, name: str = "") -> Table:
    """One row per part and one for all together, under the name of the model, which is that of its weights if none is
    given."""

    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    shown = Table(
        *("part", "AUC", "rank correlation", "weight covered", "weight clear", "covered", "clear"),
        title=f"{escape(name or record.made_by)}, {record.crops:,} crops",
        title_justify="left",
    )
    for part in record.parts:
        values = (part.auc, part.correlation, part.covered, part.clear)
        shown.add_row(part.name, *map(cell, values), f"{part.covered_parts:,}", f"{part.clear_parts:,}")
    shown.add_row("all", cell(record.auc), cell(record.correlation), end_section=True)
    return shown


def call_models(made_by: Sequence[str], names: Sequence[str] = ()) -> tuple[str, ...]:
    """What to call models in tables and plots: `names`, or if none are given the names and hashes of their weights.

    Raises:
        ConfigError: names are missing or the same.
    """
    if names and len(names) != len(made_by):
        raise ConfigError("names", f"{len(names)} names for {len(made_by)} models", "give one for each, or none")
    called = tuple(names or made_by)
    twice = [name for i, name in enumerate(called) if name in called[:i]]
    if twice:
        raise ConfigError("names", f"two models are called '{twice[0]}'", "give each a name of its own")
    return called


def calibration_drawing(records: Sequence[VisibilityRecord], names: Sequence[str] = ()) -> Drawing:
    """The visible share of parts against their weight, with the diagonal, and how many parts have such a weight.

    Args:
        records: of one model, or of several on the same crops.
        names: what to call them; name and hash of the weights if none are given.

    Raises:
        ConfigError: there is no record, names are missing or the same, or matplotlib is not installed.
        DataError: two records are of other numbers of crops, or one of no part that could be seen.
    """
    if not records:
        raise ConfigError("visibility", "there is nothing to draw", "give the record of at least one model")
    names = call_models([record.made_by for record in records], names)
    one, crops = len(records) == 1, records[0].crops
    shares, numbers = [], []
    for name, record in zip(names, records, strict=True):
        if record.crops != crops:
            cause = f"is of {record.crops:,} crops, and {names[0]} of {crops:,}"
            raise DataError(name, cause, "evaluate both on the same crops")
        if not record.calibration:
            raise DataError(name, "has weighed no part of which anything could be seen", "choose other crops")
        total = sum(step.parts for step in record.calibration)
        # Weights may leave [0, 1] by a rounding error.
        steps = [(100 * min(max(step.weight, 0.0), 1.0), step) for step in record.calibration]
        found = [(weight, 100 * step.share) for weight, step in steps]
        held = [(weight, 100 * step.parts / total) for weight, step in steps]
        auc = "no AUC" if record.auc is None else f"AUC {record.auc:.3f}"
        start = "" if one else f"{name}, "
        shares.append(Series(start + auc, tuple((x, y, y, y) for x, y in found)))
        labels = tuple(f"{step.parts:,}" for _, step in steps) if one else ()
        numbers.append(Series(f"{start}{total:,} parts", tuple((x, y, y, y) for x, y in held), labels=labels))
    notes = (
        "Left: mean of what can really be seen of the parts in each tenth of the weight; on the dashed line the weight "
        "is that share.",
        "Right: how many of all parts each tenth holds. AUC: probability that a part of which more than "
        f"{100 * CLEAR:g} % can be seen weighs more than one with less than {100 * COVERED:g} %.",
    )
    panels = [
        Panel("visible share in %", tuple(shares), diagonal=True),
        Panel("parts of such a weight, in % of all", tuple(numbers)),
    ]
    title = f"{names[0]} on {crops:,} crops" if one else f"{crops:,} crops"
    return draw_panels([panels], title=title, x_title="weight in %", notes=notes, x_max=100)


def draw_calibration(records: Sequence[VisibilityRecord], path: str | Path, names: Sequence[str] = ()) -> None:
    """Write the plot of `calibration_drawing` to a file that ends in .svg or .png.

    Raises:
        ConfigError: it ends in something else or cannot be written, or as `calibration_drawing`.
        DataError: as `calibration_drawing`.
    """
    check_picture(path)
    drawing = calibration_drawing(records, names)
    called = ", ".join(call_models([record.made_by for record in records], names))
    with atomic(path) as draft:
        title = f"visible share of parts against their weight: {called}"
        draft.write_bytes(drawing.write("svg" if draft.suffix == ".svg" else "png", title))


def _ranks(values: Shares) -> Shares:
    """Ranks from 0, ties at their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Shares = (counts.cumsum() - (counts + 1) / 2)[inverse]
    return ranks


def _known(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return None if np.isnan(value) else value
