"""SGSFA: semantic-guided shared feature alignment (Ren, Zhang and Bao, ACML 2020).

In the paper's order and symbols; equation numbers are the paper's. Our readings of what it leaves open are argued in
docs/methods/sgsfa.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from glimpse.backbones import Backbone, Look
from glimpse.cues.limbs import SHARES
from glimpse.cues.needs import Cues, Needs
from glimpse.cues.parts import BODY
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError
from glimpse.matching import PartDistance, cosine_distance, part_distance
from glimpse.matching.operands import weights_of
from glimpse.methods.method import Method, Outputs, Region, When
from glimpse.methods.parts import (
    Classifiers,
    PartConvs,
    batch_hard,
    cells,
    global_mean,
    part_cross_entropy,
    strip_shares,
    weighted_mean,
)

Row = Literal["baseline", "spatial", "semantic", "no_whole", "sgsfa"]
Gate = Literal["published", "residual"]
HeadRow = Literal["first", "peak"]
Blocks = Literal["any", "own"]
_OWN = ((0,), (1,), (2, 3))
"""Of top, middle and bottom: the local attentions of their own (head; upper body; lower body and shoes)."""

SEMANTIC = ("head", "upper", "lower", "shoes")
"""The local parts of the SGA branch."""

SPATIAL = ("top", "middle", "bottom")
"""The parts of the SFA branch."""

OPEN = 3.0
"""Bias of both branches of the whole-body attention at the start: M' is 0.91 everywhere."""

_TOP, _MIDDLE = 15, 23  # per cent of the body; the bottom is what is left, 62 %
_GAIN = 10.0  # of a over what is learned: some hundred steps at 3e-4 would not move a itself far from 0
_LEAST = 8  # channels inside the whole-body attention, however few it is given
_RIM = 0.02  # less of a strip than this is the rim of a prompt in the next one

_Share = Annotated[float, Field(ge=0, lt=1)]


class SGSFAOptions(BaseModel):
    """Options of SGSFA.

    Attributes:
        row: which row of the ablations this is; `sgsfa` is the whole method.
        dim: width of each of the seven features.
        reduction: gamma, of the whole-body attention (fig. 3); at least eight channels are left.
        local_reduction: gamma_1, of the convolution that the local attentions share (fig. 4).
        gate: how M' of the whole body meets the map: f' = f M' as `published`, or `residual`, f' = f (1 + a (M' - 1))
            with a learned from 0, which leaves a trained trunk as it is until something is learned.
        cuts: share of a cell above which a training mask is 1 there: of body, head, upper, lower, shoes.
        nonzero: above this a cell of a learned mask is not 0 (3.2.1, eq. 2).
        head_row: where the body begins: in the `first` row of the head's mask (3.2.1), or in that below its `peak`
            (3.3).
        blocks: whose masks say that a strip is visible (eq. 2): `any` of the four in its rows, or its `own`: the head's
            for the top, the upper body's for the middle, the lower body's or the shoes' for the bottom.
        tau: of eq. 5, for head, upper, lower, shoes.
        lam: lambda of eq. 11. In the row `spatial` it is 0.
        margin: of the triplet, on the cosine distance of the concatenated semantic features.
        smoothing: epsilon of eq. 10.
        normalise: whether eq. 7 is divided by its weights (as printed it is not).
        branch: lambda as section 5.2 speaks of it, weight of the semantic parts in eq. 7, where the spatial parts have
            1 - lambda; 0.5 for the equation itself. Rows with one branch have none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: Row = "sgsfa"
    dim: int = Field(default=256, ge=1)
    reduction: int = Field(default=8, ge=1)
    local_reduction: int = Field(default=2, ge=1)
    gate: Gate = "published"
    cuts: tuple[_Share, _Share, _Share, _Share, _Share] = (0.5, 0.25, 0.5, 0.5, 0.5)
    nonzero: float = Field(default=0.5, ge=0, lt=1)
    head_row: HeadRow = "first"
    blocks: Blocks = "any"
    tau: tuple[_Share, _Share, _Share, _Share] = (0.02, 0.05, 0.05, 0.01)
    lam: float = Field(default=0.8, ge=0, le=1)
    margin: float = Field(default=0.3, ge=0)
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    normalise: bool = True
    branch: float = Field(default=0.5, ge=0, le=1)

    @property
    def has_whole(self) -> bool:
        """Whether there is a whole-body attention after stage 1."""
        return self.row in ("semantic", "sgsfa")

    @property
    def has_semantic(self) -> bool:
        """Whether there are the four local parts of SGA."""
        return self.row in ("semantic", "no_whole", "sgsfa")

    @property
    def has_spatial(self) -> bool:
        """Whether there are the three strips of SFA."""
        return self.row in ("spatial", "no_whole", "sgsfa")

    @property
    def masks(self) -> tuple[str, ...]:
        """The groups of part maps that L_se is learned from (eq. 9), in the order of the cues."""
        if not self.has_semantic or not self.lam:
            return ()
        return (BODY, *SEMANTIC) if self.has_whole else SEMANTIC


# ---------------------------------------------------------------- 3.1 Semantic Guided Alignment


class WholeBodyAttention(nn.Module):
    """M' of the whole body after stage 1: a spatial map times a factor for each channel (fig. 3).

    It begins wide open, so that what a trained trunk sees is hardly changed at first.

    Args:
        channels: of the map.
        reduction: gamma.
        gate: as `SGSFAOptions.gate`.
    """

    def __init__(self, channels: int, reduction: int = 8, gate: Gate = "published") -> None:
        super().__init__()
        width = max(channels // reduction, _LEAST)
        self.spatial = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.to_logits = nn.Conv2d(width, 1, 1)
        self.squeeze = nn.Conv2d(channels, width, 1)
        self.excite = nn.Conv2d(width, channels, 1)
        for last in (self.to_logits, self.excite):
            nn.init.zeros_(last.weight)
            assert last.bias is not None
            nn.init.constant_(last.bias, OPEN)
        self.strength = nn.Parameter(torch.zeros(1)) if gate == "residual" else None  # a / 10

    def forward(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """f `[n, c, h, w]` -> (f' of the same shape, logits of the spatial map `[n, 1, h, w]`, at least float32)."""
        hidden = self.spatial(first)
        channel = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(first, 1))))
        with torch.autocast(first.device.type, enabled=False):  # bfloat16 has 128 values between 1/2 and 1
            logits: Tensor = self.to_logits(hidden.to(self.to_logits.weight.dtype))
            m = logits.sigmoid() * channel.to(logits.dtype).sigmoid()
            if self.strength is not None:
                m = 1 + _GAIN * self.strength * (m - 1)
        return first * m.to(first.dtype), logits


class LocalAttentions(nn.Module):
    """Masks M' of the four local parts after stage 4; they share their first convolution (fig. 4)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        width = max(channels // reduction, 1)
        self.shared = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.to_logits = nn.Conv2d(width, len(SEMANTIC), 1)

    def forward(self, features: Tensor) -> Tensor:
        """`[n, c, h, w]` -> logits `[n, 4, h, w]`, at least float32."""
        hidden = self.shared(features)
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.to_logits(hidden.to(self.to_logits.weight.dtype))
        return logits


def mask_loss(logits: Tensor, parts: Tensor, cuts: tuple[float, ...]) -> Tensor:
    """Eq. 8, summed over masks as in eq. 9: binary cross entropy, averaged over cells and over crops with a part map.

    Args:
        logits: of the learned masks, `[n, k, h, w]`.
        parts: of the same parts, as `Cues.parts`, `[n, k, h', w']`.
        cuts: share of a cell above which a part is there, one for each part.

    >>> crop = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])
    >>> mask_loss(torch.zeros(1, 1, 1, 2), crop, (0.5,))            # log 2 in both cells
    tensor(0.6931)
    >>> mask_loss(torch.zeros(1, 1, 1, 2), crop - 2, (0.5,))        # nobody knows
    tensor(0.)
    """
    shares = F.adaptive_avg_pool2d(parts.to(logits.dtype), (logits.shape[2], logits.shape[3]))
    known = (shares.flatten(1).amin(1) >= 0).to(logits.dtype)
    truth = shares > shares.new_tensor(cuts)[:, None, None]  # M_s
    loss = F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none")
    return (loss.mean((2, 3)).sum(1) * known).sum() / known.sum().clamp_min(1)


# ---------------------------------------------------------------- 3.2 Spatial Feature Alignment


def head_rows(mask: Tensor, nonzero: float = 0.5, rule: HeadRow = "first") -> Tensor:
    """Row in which each body begins, `[n]` int64, from the learned mask of the head `[n, h, w]` (3.2.1, 3.3).

    `first`: the first row with a cell above `nonzero`. `peak`: the row after the largest cell, if it is above. 0 where
    no cell is: the head cannot be seen.

    >>> mask = torch.tensor([[[0.1], [0.6], [0.9], [0.0]]])
    >>> head_rows(mask), head_rows(mask, rule="peak"), head_rows(mask, 0.95)
    (tensor([1]), tensor([3]), tensor([0]))
    """
    rows = mask.amax(2)
    there = rows > nonzero
    if rule == "first":
        return there.int().argmax(1)
    return torch.where(there.any(1), rows.argmax(1) + 1, 0)


def body_rows(start: Tensor, h: int) -> Tensor:
    """Rows of top, middle and bottom, `[n, 3, h]` float32 of 0 and 1: 15, 23 and 62 % of what is below `start`.

    Whole rows, at least one each; a start that leaves less than three is moved up.

    Args:
        start: first row of each body, `[n]`.
        h: rows of the map.

    Raises:
        ConfigError: the map has fewer than three rows.

    >>> body_rows(torch.tensor([0, 6]), 16).sum(2)
    tensor([[ 2.,  4., 10.],
            [ 2.,  2.,  6.]])
    """
    if h < len(SPATIAL):
        raise ConfigError("map", f"a body cannot be divided in {h} rows", "use a taller input: 48 pixels or more")
    start = start.clamp(max=h - len(SPATIAL))
    rest = h - start
    # Rounded in whole numbers: 23 % of 50 rows are 11.5 and not 11.499.
    top, middle = (((rest * share + 50) // 100).clamp_min(1) for share in (_TOP, _MIDDLE))
    edges = torch.stack([start, start + top, start + top + middle, torch.full_like(start, h)], 1)[..., None]
    row = torch.arange(h, device=start.device)
    return ((row >= edges[:, :-1]) & (row < edges[:, 1:])).float()


def regions_of(rows: Tensor) -> Tensor:
    """FR of eq. 1, top, middle, bottom, top + middle, middle + bottom, as rows `[n, 5, h]`, from `[n, 3, h]`."""
    return torch.cat([rows, rows[:, :2].sum(1, keepdim=True), rows[:, 1:].sum(1, keepdim=True)], 1)


def chosen_regions(visible: Tensor) -> Tensor:
    """f_choose of eq. 3 as `[n, 5]` of 0 and 1, in the order of eq. 1, from t, m, b `[n, 3]` of 0 and 1.

    >>> chosen_regions(torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]))
    tensor([[1., 1., 1., 1., 1.],
            [1., 1., 0., 1., 0.],
            [1., 0., 0., 0., 0.],
            [0., 0., 0., 0., 0.]])
    """
    t, tm, tmb = visible.cumprod(1).unbind(1)
    return torch.stack([t, tm, tmb, tm, tmb], 1)


def region_means(features: Tensor, regions: Tensor, seen: Tensor | None = None) -> Tensor:
    """Mean of each crop's own regions over their visible cells, `[n, k, c]`; zero where none is visible.

    Args:
        features: map `[n, c, h, w]`.
        regions: rows of each region, `[n, k, h]` of 0 and 1.
        seen: visible share of each cell `[n, 1, h, w]`, or `None` for all.
    """
    w = features.shape[3]
    counted = regions[..., None].expand(*regions.shape, w)
    if seen is not None:
        counted = counted * seen.float()
    # One product of matrices, which reads the map once.
    sums = counted.flatten(2).to(features.dtype) @ features.flatten(2).transpose(1, 2)
    return (sums.float() / counted.sum((2, 3)).clamp_min(1e-6 * w)[..., None]).to(features.dtype)


def region_shares(regions: Tensor, seen: Tensor | None) -> Tensor:
    """Visible share of each region `[n, k, h]`, as `[n, k]` float32; what is below 2 % is nothing (unless all are)."""
    if seen is None:
        return regions.new_ones(regions.shape[:2])
    shares = ((regions * seen.float().mean(3)).sum(2) / regions.sum(2)).clamp(0.0, 1.0)
    return shares.masked_fill((shares < _RIM) & (shares >= _RIM).any(1, keepdim=True), 0.0)


# ---------------------------------------------------------------- 3.3 Feature Matching


@dataclass(frozen=True)
class BranchDistance(PartDistance):
    """Eq. 7 where each semantic part counts `semantic` times and each spatial part 1 - `semantic` times (section 5.2).

    Weights in explanations are multiplied by the square root of that.

    Args:
        semantic: lambda, in [0, 1].
    """

    semantic: float = 0.5

    def prepare(self, embedding: Embedding) -> Embedding:
        """As `PartDistance.prepare`, of weights times the square root of their branch's."""
        assert self.weights is not None
        if self._unit not in embedding.names:
            weights = weights_of(embedding, "weights", self.parts)
            factors = torch.full_like(weights, 1 - self.semantic)
            factors[:, : len(SEMANTIC)] = self.semantic
            tensors = {self.parts: embedding[self.parts], self.weights: weights * factors.sqrt()}
            embedding = Embedding(tensors, embedding.made_by)
        return super().prepare(embedding)


# ---------------------------------------------------------------- the method


class SGSFA(Method):
    """Four parts that attention finds and three strips below the head, compared where both crops show them.

    Under a prompt, means are taken over visible cells, what it hides is in no mask, and the label of a strip is
    multiplied by its visible share. The whole-body attention, which is inside the backbone, knows of no prompt.

    The backbone gets the attention, and keeps it: stages with a method of their own train through it.

    Args:
        backbone: images -> map f, with `.channels` and `.first_channels`.
        ids: number of training identities; 0 for a network that only embeds.
    """

    name = "sgsfa"
    Options = SGSFAOptions
    options: SGSFAOptions

    def __init__(self, backbone: Backbone, ids: int, options: SGSFAOptions | None = None) -> None:
        super().__init__()
        self.options = o = options or SGSFAOptions()
        self.backbone = backbone
        channels = backbone.channels
        if o.has_whole:
            backbone.attention = WholeBodyAttention(backbone.first_channels, o.reduction, o.gate)
        if o.has_semantic:
            self.attentions = LocalAttentions(channels, o.local_reduction)
            width = len(SEMANTIC) * o.dim
            self.part_conv = nn.Conv2d(channels, width, 1, bias=False)
            self.part_norm = nn.BatchNorm2d(width)
            self.part_classifiers = Classifiers(len(SEMANTIC), o.dim, ids)
        if o.has_spatial:
            self.region_convs = PartConvs(5, channels, o.dim)  # of FR, eq. 1
            self.region_classifiers = Classifiers(5, o.dim, ids)
        if o.row == "baseline":
            self.global_conv = PartConvs(1, channels, o.dim)
            self.global_classifier = Classifiers(1, o.dim, ids)

    @classmethod
    def needs(cls, options: BaseModel, when: When) -> Needs:
        """Part maps to learn attention from; nothing to search."""
        assert isinstance(options, SGSFAOptions)
        return Needs(parts=options.masks if when == "train" else ())

    def heads(self, features: Tensor, visible: Tensor | None = None, cues: Cues | None = None) -> Outputs:
        """From f: `parts` `[n, k, d]`, head, upper, lower, shoes, top, middle, bottom (of which a row may have only
        some), and their `weights` in matching `[n, k]`.

        With semantic parts also the `logits` of their masks `[n, 4, h, w]`, and from part maps `truth` `[n, 4, h',
        w']`; with spatial parts the features of FR, `regions` `[n, 5, d]`, and which of them learn, `chosen` `[n, 5]`.

        Raises:
            ConfigError: the map has fewer than three rows, or the cues have other part maps than `needs` says.
        """
        o = self.options
        seen = cells(visible, features)
        if o.row == "baseline":
            f = self.global_conv(global_mean(features, seen)[:, None])
            return {"parts": f, "weights": strip_shares(features, 1, seen)}
        n, _, h, _ = features.shape
        out: Outputs = {}
        parts, weights = [], []
        start = torch.zeros(n, dtype=torch.int64, device=features.device)
        body: Tensor | None = None  # rows in which the masks of a strip are not all 0, `[n, 1 or 3, h]`
        if o.has_semantic:
            out["logits"] = self.attentions(features)
            masks = out["logits"].sigmoid()
            parts.append(self._semantic(features, masks, seen))
            # What a prompt hides is in no mask. How much of a part lies there only hidden pixels could tell: no share.
            shown = masks.detach() if seen is None else masks.detach() * seen.float()
            v = shown.mean((2, 3))  # eq. 4
            weights.append((v > v.new_tensor(o.tau)).float())  # eq. 5
            start = head_rows(shown[:, 0], o.nonzero, o.head_row)
            rows = shown.amax(3)
            groups = _OWN if o.blocks == "own" else (range(len(SEMANTIC)),)
            body = torch.stack([rows[:, group].amax(1) for group in groups], 1) > o.nonzero
            maps = self._part_maps(cues)
            if maps is not None:
                out["truth"] = maps[:, -len(SEMANTIC) :]
        if o.has_spatial:
            regions = regions_of(body_rows(start, h))
            shares = region_shares(regions, seen)
            out["regions"] = self.region_convs(region_means(features, regions, seen))
            k = len(SPATIAL)
            tmb = (shares[:, :k] > 0).float()  # eq. 2
            if body is not None:
                tmb = tmb * (regions[:, :k] * body).amax(2)
            out["chosen"] = chosen_regions(tmb) * shares
            parts.append(out["regions"][:, :k])
            weights.append(tmb * shares[:, :k])
        return out | {"parts": torch.cat(parts, 1), "weights": torch.cat(weights, 1)}

    def _semantic(self, features: Tensor, masks: Tensor, seen: Tensor | None) -> Tensor:
        """f_head, f_upper, f_lower, f_shoes, float32 `[n, 4, d]`: f' = f M', convolution, global average."""
        # M' is one number a cell and the convolution has no bias: it is done once for all, and multiplied afterwards.
        reduced = self.part_conv(features).unflatten(1, (len(SEMANTIC), -1))
        gated = (reduced * masks[:, :, None].to(reduced.dtype)).flatten(1, 2)
        pooled = global_mean(F.relu(self.part_norm(gated)), seen)
        return pooled.float().view(len(pooled), len(SEMANTIC), self.options.dim)

    def _part_maps(self, cues: Cues | None) -> Tensor | None:
        """The part maps that `needs` asks for; `None` where the cues have none."""
        given = 0 if cues is None else cues.parts.shape[1]
        wanted = self.options.masks
        if cues is None or not given or not wanted:
            return None
        if given != len(wanted):
            cause = f"have {given} groups of part maps, and SGSFA takes {', '.join(wanted)}"
            raise ConfigError("cues", cause, "give those that `needs` names, in its order")
        return cues.parts

    def early_losses(self, look: Look, cues: Cues | None) -> dict[str, Tensor]:
        """`body`: L_wholebody of eq. 9, by eq. 11, on the attention after stage 1."""
        maps = self._part_maps(cues)
        if maps is None or look.attention is None or not self.options.has_whole:
            return {}
        return {"body": self.options.lam * mask_loss(look.attention, maps[:, :1], self.options.cuts[:1])}

    def losses(self, outputs: Outputs, pids: Tensor) -> dict[str, Tensor]:
        """The terms of eq. 11, as far as the row has them: `triplet`, L_tri; `mask`, L_se without the whole body;
        `part_id` and `strip_id` (in the baseline `id`), L_d_cls of the semantic and the spatial parts."""
        o = self.options
        f, weights = outputs["parts"], outputs["weights"].detach()
        if o.row == "baseline":
            return {
                "triplet": o.lam * self._triplet(f, pids),
                "id": (1 - o.lam) * self._cross_entropy(self.global_classifier(f), pids, weights),
            }
        lam = o.lam if o.has_semantic else 0.0
        terms: dict[str, Tensor] = {}
        if o.has_semantic:
            semantic, v = f[:, : len(SEMANTIC)], weights[:, : len(SEMANTIC)]
            terms["triplet"] = lam * self._triplet(semantic, pids)
            if "truth" in outputs:
                terms["mask"] = lam * mask_loss(outputs["logits"], outputs["truth"], o.cuts[1:])
            terms["part_id"] = (1 - lam) * self._cross_entropy(self.part_classifiers(semantic), pids, v)
        if o.has_spatial:
            logits, chosen = self.region_classifiers(outputs["regions"]), outputs["chosen"].detach()
            terms["strip_id"] = (1 - lam) * self._cross_entropy(logits, pids, chosen)
        return terms

    def _triplet(self, f: Tensor, pids: Tensor) -> Tensor:
        """L_tri on the concatenated features `[n, k, d]`."""
        joined = f.flatten(1)
        return batch_hard(cosine_distance(joined, joined), pids, self.options.margin)

    def _cross_entropy(self, logits: Tensor, pids: Tensor, chosen: Tensor) -> Tensor:
        """Eq. 10, averaged over what is chosen of all parts of all crops, `[n, k]`."""
        total = part_cross_entropy(logits, pids, self.options.smoothing, chosen) * len(pids)
        return total / chosen.sum().clamp_min(1e-6)

    def distances(self, outputs: Outputs) -> dict[str, Tensor]:
        """`part`: eq. 7, normalised."""
        f, weights = outputs["parts"], outputs["weights"]
        return {"part": part_distance(f, weights, f, weights)}

    def vector(self, outputs: Outputs) -> Tensor:
        """Mean of the parts by their weights."""
        return weighted_mean(outputs["parts"], outputs["weights"])

    def embed(self, outputs: Outputs) -> Embedding:
        """`parts` of unit length `[n, k, d]` and `weights` v `[n, k]`, of 0 and 1 (under a prompt
        shares for the spatial parts)."""
        return Embedding({"parts": F.normalize(outputs["parts"].float(), dim=2), "weights": outputs["weights"].float()})

    def distance(self, normalise: bool | None = None, branch: float | None = None) -> PartDistance:
        """Eq. 7 with the cosine distance for D, over the parts that both crops show; the options decide what is not
        given. A pair that shares none is as far as can be.

        Args:
            normalise: divide by the sum of the weights, or, as printed, do not.
            branch: weight of semantic parts beside 1 - `branch` for spatial parts; 0.5 for none.

        Raises:
            ConfigError: `branch` is not in [0, 1], or the row has one branch.
        """
        o = self.options
        both = o.has_semantic and o.has_spatial
        if branch is not None and not both:
            raise ConfigError("branch", f"the row '{o.row}' has one branch", "leave it out")
        branch = o.branch if branch is None else branch
        if not 0.0 <= branch <= 1.0:
            raise ConfigError("branch", f"{branch} is not a share", "give a number from 0 to 1")
        normalise = o.normalise if normalise is None else normalise
        names = tuple(region.name for region in self.regions)
        if not both or branch == 0.5:
            return PartDistance(normalise=normalise, names=names)
        return BranchDistance(weights=f"weights.{branch}", normalise=normalise, names=names, semantic=branch)

    @property
    def regions(self) -> tuple[Region, ...]:
        """Where the parts are in a crop of a whole body; the whole crop in the baseline row."""
        o = self.options
        if o.row == "baseline":
            return (Region("global", (0.0, 0.0, 1.0, 1.0)),)
        semantic = _bands(SEMANTIC, SHARES) if o.has_semantic else ()
        spatial = _bands(SPATIAL, (_TOP / 100, (_TOP + _MIDDLE) / 100)) if o.has_spatial else ()
        return semantic + spatial


def _bands(names: tuple[str, ...], ends: tuple[float, ...]) -> tuple[Region, ...]:
    """Horizontal bands, one below the other."""
    edges = (0.0, *ends, 1.0)
    return tuple(Region(name, (0.0, edges[i], 1.0, edges[i + 1])) for i, name in enumerate(names))
