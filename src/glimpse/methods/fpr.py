"""FPR: foreground-aware pyramid reconstruction (He et al., ICCV 2019), with DSR (CVPR 2018) as one of its rows.

In the paper's order and symbols; equation numbers are FPR's. Our readings of what it leaves open are argued in
docs/methods/fpr.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from glimpse.backbones import Backbone, to_cells
from glimpse.cues.needs import Cues, Needs
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError
from glimpse.matching import Bounded, Cascade, Distance, GlobalDistance, MixedDistance
from glimpse.matching.kernels import cosine_distance
from glimpse.matching.reconstruction import ReconstructionDistance, reconstruction_distance
from glimpse.methods.method import Method, Outputs, Region, When, strips_of
from glimpse.methods.parts import BNNeck, Classifier, batch_hard, cells, global_mean, weighted_mean

Row = Literal["baseline", "dsr", "fpr"]
Mode = Literal["full", "cascade"]


class FPROptions(BaseModel):
    """Options of FPR.

    Attributes:
        row: `fpr`; `dsr` weighs all vectors alike; `baseline` compares one vector per crop.
        pools: sizes of the pyramid's windows in cells, ascending (not in the paper; those of its author's later code);
            1 is the map itself. A window larger than the map is cut to it.
        stride: of the windows; smaller windows move by their size.
        dim: width of a 1x1 convolution (with batch norm and ReLU) between map and pyramid; 0 for none, as published.
        beta: of eq. 2.
        labels: what tells foreground from background in training: person `masks`, or only what is known to be
            `visible` of a crop, from prompts or a visibility head (not in the paper).
        tau: share of the person in a window above which it is foreground (eq. 8).
        alpha: weight of the foreground loss in eq. 10.
        identity: weight of an identity loss on the global vector (none in the paper).
        margin: m of eq. 6, on the FPR distance.
        smoothing: label smoothing of the identity loss.
        normalise: whether the foreground weights of a crop are divided by their sum (as printed, eq. 5, they are not).
        bands: horizontal bands that explanations show.
        mode: `full` compares all pairs by reconstruction; `cascade` the nearest by the global vector only.
        neighbours: how many the cascade re-ranks.
        lam: lambda, weight of the reconstruction distance beside that of the global vectors; 1 for it alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: Row = "fpr"
    pools: tuple[int, ...] = Field(default=(2, 4, 6, 8), min_length=1)
    stride: int = Field(default=2, ge=1)
    dim: int = Field(default=0, ge=0)
    beta: float = Field(default=0.01, ge=1e-4)  # below, a float32 solve in training has no digits left
    labels: Literal["masks", "visible"] = "masks"
    tau: float = Field(default=0.35, ge=0, le=1)
    alpha: float = Field(default=0.02, ge=0)
    identity: float = Field(default=0.0, ge=0)
    margin: float = Field(default=0.3, ge=0)
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    normalise: bool = True
    bands: int = Field(default=6, ge=1)
    mode: Mode = "full"
    neighbours: int = Field(default=100, ge=1)
    lam: float = Field(default=1.0, ge=0, le=1)

    @field_validator("pools")
    @classmethod
    def _ascending(cls, pools: tuple[int, ...]) -> tuple[int, ...]:
        if pools[0] < 1 or any(a >= b for a, b in pairwise(pools)):
            raise ValueError("window sizes must ascend, from 1 or more")
        return pools

    @property
    def learns_foreground(self) -> bool:
        """Whether eq. 9 is used."""
        return self.row == "fpr" and self.alpha > 0


class Pyramid:
    """Windows over a map of h x w cells: level by level, each from the upper left, row by row.

    >>> pyramid = Pyramid(24, 8, (2, 4, 6, 8), 2)
    >>> pyramid(torch.zeros(1, 5, 24, 8), F.max_pool2d).shape                     # 48 + 33 + 20 + 9 windows
    torch.Size([1, 110, 5])
    """

    def __init__(self, h: int, w: int, pools: tuple[int, ...], stride: int) -> None:
        # Two levels that the map cuts to the same size would be the same vectors twice.
        self.levels = tuple(dict.fromkeys((min(k, h), min(k, w)) for k in pools))
        self.h, self.w, self.stride = h, w, stride

    def __call__(self, maps: Tensor, pool: Callable[..., Tensor]) -> Tensor:
        """`[n, c, h, w]` -> `[n, N, c]`; at the lower and right edge windows are cut, so that no cell is left out."""
        levels = []
        for kernel in self.levels:
            stride = (min(self.stride, kernel[0]), min(self.stride, kernel[1]))
            levels.append(pool(maps, kernel, stride, ceil_mode=True).flatten(2))
        return torch.cat(levels, 2).transpose(1, 2)

    def bands(self, k: int) -> Tensor:
        """How much of each window's height lies in each of k equal bands, `[N, k]`; rows sum to 1."""
        cell = torch.arange(self.h)[:, None]
        band = torch.arange(k)
        # In units of 1 / (h k) of the height, so that it is exact.
        inside = (torch.minimum((cell + 1) * k, (band + 1) * self.h) - torch.maximum(cell * k, band * self.h)).clamp(0)
        shares = inside.float() / k  # [h, k]
        return self(shares.T[None, :, :, None].expand(1, k, self.h, self.w).contiguous(), F.avg_pool2d)[0]


class FPR(Method):
    """Vectors of a pyramid over the map, their foreground probabilities, and how well they make those of another crop.

    Under a prompt, windows are pooled over their visible cells; the visible share of a window is a factor on its
    foreground probability where it is a query's, and on its vector where it is a gallery crop's.

    Args:
        backbone: images -> map, with `.channels`.
        ids: number of training identities; 0 for a network that only embeds.
    """

    name = "fpr"
    Options = FPROptions
    options: FPROptions

    def __init__(self, backbone: Backbone, ids: int, options: FPROptions | None = None) -> None:
        super().__init__()
        self.options = o = options or FPROptions()
        self.backbone = backbone
        channels = o.dim or backbone.channels
        self.reduce = nn.Sequential()
        if o.dim:
            conv = nn.Conv2d(backbone.channels, o.dim, 1, bias=False)
            self.reduce = nn.Sequential(conv, nn.BatchNorm2d(o.dim), nn.ReLU())
        if o.row == "fpr":
            self.foreground = nn.Linear(channels, 1)  # f of eq. 9; a softmax of two classes is one sigmoid
        if o.identity:
            self.neck = BNNeck(channels)
            self.classifier = Classifier(channels, ids)

    @classmethod
    def needs(cls, options: BaseModel, when: When) -> Needs:
        """Masks of people to learn the foreground from; nothing to search."""
        assert isinstance(options, FPROptions)
        masks = when == "train" and options.learns_foreground and options.labels == "masks"
        return Needs(parts=("body",)) if masks else Needs()

    def heads(self, features: Tensor, visible: Tensor | None = None, cues: Cues | None = None) -> Outputs:
        """From F: `vectors` x `[n, N, c]`, `logits` of the foreground `[n, N]`, `shares` (how much of each window is
        visible) and `weights` h, both `[n, N]`, `seen` `[n, 1, h, w]`, and the global vector `pooled` `[n, c]` and
        `globals` (after the neck); from masks, `person` `[n, h', w']`."""
        o = self.options
        features = self.reduce(features)
        seen = cells(visible, features)
        if o.row == "baseline":
            pooled = global_mean(features, seen).float()
            return {"pooled": pooled, "globals": self.neck(pooled) if o.identity else pooled}
        n, _, h, w = features.shape
        pyramid = Pyramid(h, w, o.pools, o.stride)
        if seen is None:
            seen = features.new_ones(n, 1, h, w)
            vectors = pyramid(features, F.max_pool2d).float()
        else:
            # A cell has the say that is seen of it, and what is hidden is never a maximum.
            dimmed = (features * seen).masked_fill(seen <= 0, -torch.inf)
            vectors = pyramid(dimmed, F.max_pool2d).float()
            vectors = vectors.masked_fill(vectors.isinf(), 0.0)
        out: Outputs = {"vectors": vectors, "seen": seen.float()}
        out["weights"] = out["shares"] = pyramid(out["seen"], F.avg_pool2d)[..., 0].clamp(0.0, 1.0)
        if o.row == "fpr":
            with torch.autocast(vectors.device.type, enabled=False):  # bfloat16 has 128 values of h between 1/2 and 1
                out["logits"] = self.foreground(vectors)[..., 0]
            out["weights"] = out["logits"].sigmoid() * out["shares"]
            if cues is not None and cues.parts.shape[1] and o.labels == "masks":
                out["person"] = cues.parts[:, 0]  # the body
        out["pooled"] = weighted_mean(vectors, out["weights"])
        out["globals"] = self.neck(out["pooled"]) if o.identity else out["pooled"]
        return out

    def losses(self, outputs: Outputs, pids: Tensor) -> dict[str, Tensor]:
        """`id`; `triplet`, eq. 6 on the FPR distance; `foreground`, eq. 9, from `person` among the outputs (what of a
        crop is the person and not covered, `[n, h', w']` in [0, 1], -1 if nobody knows), or from what is visible."""
        o = self.options
        terms: dict[str, Tensor] = {}
        if o.identity:
            logits = self.classifier(outputs["globals"])
            terms["id"] = o.identity * F.cross_entropy(logits.float(), pids, label_smoothing=o.smoothing)
        if o.row == "baseline":
            distances = cosine_distance(outputs["pooled"], outputs["pooled"])
        else:
            x, h, shares = outputs["vectors"], outputs["weights"], outputs["shares"]
            distances = reconstruction_distance(x, h, x, shares, beta=o.beta, normalise=o.normalise)  # eq. 5
        terms["triplet"] = batch_hard(distances, pids, o.margin)  # eq. 6
        if o.learns_foreground:
            terms["foreground"] = o.alpha * self._foreground_loss(outputs)  # eq. 10
        return terms

    def _foreground_loss(self, outputs: Outputs) -> Tensor:
        """Eq. 7-9, with the sign that makes it a loss: summed over windows, averaged over crops."""
        person = seen = outputs["seen"]
        # A window that a prompt hides altogether has no vector to be judged, and a crop without a mask no labels.
        judged = outputs["shares"] > 0
        if "person" in outputs:
            person = to_cells(outputs["person"], seen)[:, None].to(seen.dtype)
            judged = judged & (person.flatten(1).amin(1, keepdim=True) >= 0)
        pyramid = Pyramid(seen.shape[2], seen.shape[3], self.options.pools, self.options.stride)
        y = pyramid(person, F.avg_pool2d)[..., 0] > self.options.tau  # eq. 7, 8
        logits = outputs["logits"]
        loss = F.binary_cross_entropy_with_logits(logits, y.to(logits.dtype), reduction="none")
        return (loss * judged).sum() / len(loss)

    def distances(self, outputs: Outputs) -> dict[str, Tensor]:
        """`global`: cosine distance of the global vectors. Eq. 5 is none that a teacher's could be compared with: some
        of anybody can be made of anybody else."""
        return {"global": cosine_distance(outputs["globals"], outputs["globals"])}

    def vector(self, outputs: Outputs) -> Tensor:
        """The global vector."""
        return outputs["globals"]

    def embed(self, outputs: Outputs) -> Embedding:
        """`globals` `[n, c]`; `vectors` of unit length `[n, N, c]`, their `foreground` h and visible `shares`
        `[n, N]`; how much of each lies in each of K `bands` `[n, N, K]`, and the mean h there, `weights` `[n, K]`."""
        kept = {"globals": outputs["globals"].float()}
        if self.options.row != "baseline":
            n, _, h, w = outputs["seen"].shape
            foreground = outputs["weights"].float()
            bands = Pyramid(h, w, self.options.pools, self.options.stride).bands(self.options.bands)
            bands = bands.to(foreground.device)
            kept["vectors"] = F.normalize(outputs["vectors"].float(), dim=2)
            kept["foreground"] = foreground
            kept["shares"] = outputs["shares"].float()
            kept["bands"] = bands.expand(n, -1, -1)
            kept["weights"] = (foreground @ bands / bands.sum(0).clamp_min(1e-6)).clamp(0.0, 1.0)
        return Embedding(kept)

    def distance(
        self,
        mode: Mode | None = None,
        neighbours: int | None = None,
        lam: float | None = None,
        rows: int | None = None,
    ) -> Distance:
        """Eq. 5 for all pairs, or for the nearest by a quicker distance; the options decide what is not given.

        Args:
            mode: `full` or `cascade`.
            neighbours: how many a cascade re-ranks.
            lam: weight of eq. 5 beside the distance of the global vectors.
            rows: make probes of the strongest `rows` directions of a gallery crop only: in a cascade, to find the
                nearest (the global vectors find them where it is not given), else in the distance itself.

        Raises:
            ConfigError: there is no such mode, lam is not in [0, 1], neighbours or rows are below 1, an option has no
                meaning here, or distances whose weights are not normalised were to be mixed or re-ranked.
        """
        o = self.options
        whole = GlobalDistance("globals")
        if o.row == "baseline":
            if any(given is not None for given in (mode, neighbours, lam, rows)):
                raise ConfigError("row", "the baseline has one distance without options", "leave them out")
            return whole
        exact = ReconstructionDistance(
            weights="foreground",
            shares="shares",
            beta=o.beta,
            normalise=o.normalise,
            parts="bands",
            names=tuple(region.name for region in self.regions),
        )
        mode, lam = mode or o.mode, o.lam if lam is None else lam
        if mode not in get_args(Mode):
            raise ConfigError("mode", f"'{mode}' is not known", f"choose one of {', '.join(get_args(Mode))}")
        if mode == "full" and neighbours is not None:
            raise ConfigError("neighbours", "nothing is re-ranked in mode full", "match with mode=cascade")
        if not 0.0 <= lam <= 1.0:
            raise ConfigError("lam", f"{lam} is not a share", "give a number from 0 to 1")
        if not o.normalise and (mode == "cascade" or lam < 1):
            raise ConfigError(
                "normalise",
                "sums of errors that are not normalised can be neither mixed nor re-ranked",
                "match with mode=full and lam=1, or train with options.normalise=true",
            )
        quick = exact if rows is None else replace(exact, rows=rows)
        if mode == "full":
            return _mixed(lam, quick, whole)
        coarse = whole if rows is None else quick
        return Cascade(coarse, _mixed(lam, exact, whole), o.neighbours if neighbours is None else neighbours)

    @property
    def regions(self) -> tuple[Region, ...]:
        """Horizontal bands; the whole crop in the baseline row."""
        if self.options.row == "baseline":
            return (Region("global", (0.0, 0.0, 1.0, 1.0)),)
        return strips_of(self.options.bands)


def _mixed(lam: float, reconstruction: ReconstructionDistance, whole: GlobalDistance) -> Bounded:
    """`lam` of the one and the rest of the other."""
    if lam == 1:
        return reconstruction
    return MixedDistance(((lam, reconstruction), (1.0 - lam, whole))) if lam > 0 else whole
