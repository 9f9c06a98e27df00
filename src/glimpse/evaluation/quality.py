"""Whether part weights know what is hidden: AUC against occluders of known place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from torch import Tensor

from glimpse.data.samples import Sample
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, EmbeddingError
from glimpse.evaluation.records import QualityRecord
from glimpse.synthetic.occlusion import Kind, Occluder, Side

if TYPE_CHECKING:
    from glimpse.model import Model

COVERED, CLEAR = 0.25, 0.75
"""A part is covered below the first visible share and clear above the second; those between are not judged."""


def auc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Probability that a positive scores higher than a negative, ties counting half (Mann-Whitney).

    Args:
        scores: `[n]`, higher is more positive.
        positive: `[n]`.

    Returns:
        In [0, 1]; NaN without a positive or without a negative.

    >>> auc(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False]))
    0.875
    """
    p = int(positive.sum())
    n = len(positive) - p
    if p == 0 or n == 0:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # Mean rank of each distinct score: tied scores share the middle of the ranks they take.
    ranks = (counts.cumsum() - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * n))


@dataclass(frozen=True)
class Quality:
    """Weights of parts that an occluder covered and of parts that it left clear.

    Attributes:
        auc: probability that a clear part weighs more than a covered one, ties counting half.
        covered: mean weight of covered parts.
        clear: mean weight of clear parts.
        covered_parts: how many parts were covered.
        clear_parts: how many parts were clear.
    """

    auc: float
    covered: float
    clear: float
    covered_parts: int
    clear_parts: int

    def record(self) -> QualityRecord:
        """What goes into JSON."""
        return QualityRecord(
            auc=self.auc,
            covered=min(max(self.covered, 0.0), 1.0),  # weights may leave [0, 1] by a rounding error
            clear=min(max(self.clear, 0.0), 1.0),
            covered_parts=self.covered_parts,
            clear_parts=self.clear_parts,
        )


def visible_shares(
    visible: NDArray[np.bool_], regions: Sequence[tuple[str, tuple[float, float, float, float]]]
) -> NDArray[np.float64]:
    """Visible share of each region of a crop, `[K]`.

    Args:
        visible: `[h, w]`.
        regions: names and boxes (x0, y0, x1, y1) relative to the crop, 0 to 1.

    >>> visible_shares(np.array([[True], [False]]), [("upper", (0, 0, 1, 0.5)), ("all", (0, 0, 1, 1))]).tolist()
    [1.0, 0.5]
    """
    h, w = visible.shape
    shares = []
    for _, (x0, y0, x1, y1) in regions:
        top, left = round(y0 * h), round(x0 * w)
        shares.append(visible[top : max(top + 1, round(y1 * h)), left : max(left + 1, round(x1 * w))].mean())
    return np.array(shares)


def part_weights(embedding: Embedding, regions: int) -> NDArray[np.float64]:
    """The weights of the parts `[n, K]`.

    Raises:
        EmbeddingError: the embedding has none, or not one for each of the `regions`.
    """
    if "weights" not in embedding.names:
        cause = "the method has no part weights, so there is no quality to check"
        where = f"embedding of {embedding.made_by or 'the model'}"
        raise EmbeddingError(where, cause, "choose a method with parts and weights")
    found = embedding["weights"].double().cpu().numpy()
    if found.shape != (len(embedding), regions):
        cause = f"are {list(found.shape)} and not {[len(embedding), regions]}"
        raise EmbeddingError("weights", cause, "name one region per part weight")
    return found


def quality_auc(
    model: Model,
    samples: Sequence[Sample],
    *,
    kind: Kind = "object",
    sides: Sequence[Side] = ("top", "bottom"),
    fraction: float = 0.4,
    sources: Sequence[Tensor] = (),
    seed: int = 0,
    skip_bad: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Quality:
    """Cover known parts of crops and ask the model, without a prompt, how much it trusts each part.

    Args:
        model: its embeddings must have `weights` `[n, K]`, one per region of `model.regions`.
        samples: crops to cover.
        kind: of occluder.
        sides: where it stands; every crop is embedded once per side.
        fraction: share of the crop that is covered.
        sources: what covers, as for `Occluder`.
        seed: of the occluder.
        skip_bad: leave out crops that cannot be read instead of stopping at them.
        progress: called with the number of crops embedded since the last call.

    Raises:
        EmbeddingError: the embeddings have no weights, or not one per region.
        ConfigError: the occluder covers no part or leaves none clear.
    """
    weights: list[NDArray[np.float64]] = []
    shares: list[NDArray[np.float64]] = []
    for side in sides:
        occluder = Occluder(kind, side, fraction, sources, seed)
        masks: dict[int, NDArray[np.float64]] = {}

        def cover(index: int, image: PIL.Image.Image) -> tuple[PIL.Image.Image, None]:
            covered, visible = occluder.edit(index, image)  # noqa: B023 - called before the loop goes on
            masks[index] = visible_shares(visible, model.regions)  # noqa: B023
            return covered, None

        embedded = model.embed_samples(samples, edit=cover, skip_bad=skip_bad, progress=progress)
        weights.append(part_weights(embedded.embedding, len(model.regions)))
        shares.append(np.stack([masks[row] for row in embedded.kept]))
    weight, share = np.concatenate(weights).ravel(), np.concatenate(shares).ravel()
    covered, clear = share < COVERED, share > CLEAR
    if not covered.any() or not clear.any():
        raise ConfigError(
            "fraction", f"covering {fraction} from {', '.join(sides)} leaves no part covered or none clear", "change it"
        )
    judged = covered | clear
    return Quality(
        auc=auc(weight[judged], clear[judged]),
        covered=float(weight[covered].mean()),
        clear=float(weight[clear].mean()),
        covered_parts=int(covered.sum()),
        clear_parts=int(clear.sum()),
    )
