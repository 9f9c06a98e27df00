"""Pirt: pose-guided inter- and intra-part relational transformer (Ma, Zhao, Li, ACM Multimedia 2021).

In the paper's order and symbols; equation numbers are the paper's. Our readings of what it leaves open, and what the
published code does otherwise, are argued in docs/methods/pirt.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from glimpse.backbones import Backbone
from glimpse.backbones.ibn import IBN
from glimpse.cues.needs import Cues, Needs
from glimpse.cues.skeleton import COCO_17
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError
from glimpse.matching import (
    EPS,
    Cascade,
    Distance,
    Explanation,
    GlobalDistance,
    MixedDistance,
    PartDistance,
    PartMatch,
    cosine_distance,
    part_distance,
    unit_vectors,
)
from glimpse.matching.operands import check_index, fitting, in_float32, one_row, only, tensor_of, weights_of
from glimpse.methods.method import Method, Outputs, Region, When
from glimpse.methods.parts import (
    BNNeck,
    Classifier,
    Classifiers,
    batch_hard,
    cells,
    global_mean,
    part_cross_entropy,
    strip_means,
    weighted_mean,
)

Row = Literal["baseline", "pose", "intra", "pirt"]
Partition = Literal["stripe", "patch", "pose"]
Groups = Literal["published", "disjoint"]
Sides = Literal["both", "query", "gallery", "none"]
Metric = Literal["cosine", "euclidean"]

_STRIDE = 16  # pixels of the input per cell of the map
_JOINTS = len(COCO_17)
_HEAD, _UPPER, _LOWER = (0, 1, 2, 3, 4), (5, 7, 9, 6, 8, 10), (11, 13, 15, 12, 14, 16)  # rows of COCO_17
_NAMES = ("head", "upper body", "lower body")


class PirtOptions(BaseModel):
    """Options of Pirt.

    Attributes:
        row: which row of Table 3 this is; `pirt` is the whole method.
        partitions: of the map; the paper has all three.
        dim: width of a 1x1 convolution (with batch norm and ReLU) before all else; 0 for none, as published.
        reduction: by which the IRM and the CSM narrow the channels (512 of 2048 in the paper).
        stripe_heads: attention heads of the IRM.
        irm_dropout: on the identity path of the IRM (eq. 5).
        layers: transformer units, N (3 in the paper; Table 4).
        heads: attention heads of a unit.
        ffn: hidden width of its feed-forward network (eq. 11).
        dropout: of the units.
        tau: value above which a cell of a heat map belongs to its key point (eq. 3).
        maps: `own`, the estimator's own heat maps, where it gives them, or always those `drawn` around its key points.
        sigma: standard deviation of the drawn heat maps as a share of the input's height; 1 / 48 is two cells of an
            estimator's map at the paper's size.
        groups: of key points: `published` counts the left shoulder to the head as well, so that all groups have six;
            `disjoint` has five in the head, as the text says.
        patch: cells of a patch, down and across.
        confidence: whether confidences are learned (eq. 13 and 14); otherwise the three groups are alike.
        margin: of the triplet; 0 for the soft margin that was published.
        smoothing: label smoothing of the identity losses (published, not in the paper).
        smoothing_over: whether it is shared by all `others` than the label, as published, or by `all`.
        stripe_id, patch_id, part_id, part_triplet: weights of the losses of eq. 15 and 16 (all 1 there).
        neighbours: how many the cascade re-ranks.
        sides: whose confidences weigh the groups in matching (Table 5).
        metric: of the groups in matching; cosine in the paper, Euclidean between unit vectors as published.
        normalise: whether the groups' distance is divided by the sum of their weights (in the paper it is not).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: Row = "pirt"
    partitions: tuple[Partition, ...] = Field(default=("stripe", "patch", "pose"), min_length=1)
    dim: int = Field(default=0, ge=0)
    reduction: int = Field(default=4, ge=1)
    stripe_heads: int = Field(default=4, ge=1)
    irm_dropout: float = Field(default=0.3, ge=0, lt=1)
    layers: int = Field(default=3, ge=1)
    heads: int = Field(default=8, ge=1)
    ffn: int = Field(default=512, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    tau: float = Field(default=0.001, ge=0, lt=1)
    maps: Literal["own", "drawn"] = "own"
    sigma: float = Field(default=1 / 48, gt=0, le=1)
    groups: Groups = "published"
    patch: tuple[int, int] = (4, 2)
    confidence: bool = True
    margin: float = Field(default=0.0, ge=0)
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    smoothing_over: Literal["others", "all"] = "others"
    stripe_id: float = Field(default=1.0, ge=0)
    patch_id: float = Field(default=1.0, ge=0)
    part_id: float = Field(default=1.0, ge=0)
    part_triplet: float = Field(default=1.0, ge=0)
    neighbours: int = Field(default=100, ge=1)
    sides: Sides = "both"
    metric: Metric = "cosine"
    normalise: bool = False

    @field_validator("partitions")
    @classmethod
    def _once(cls, partitions: tuple[Partition, ...]) -> tuple[Partition, ...]:
        if len(set(partitions)) != len(partitions):
            raise ValueError("a partition is named twice")
        return partitions

    @field_validator("patch")
    @classmethod
    def _not_empty(cls, patch: tuple[int, int]) -> tuple[int, int]:
        if min(patch) < 1:
            raise ValueError("a patch has at least one cell each way")
        return patch

    @property
    def has_irm(self) -> bool:
        """Whether the intra-part relational module is used."""
        return self.row in ("intra", "pirt")

    @property
    def has_irt(self) -> bool:
        """Whether the inter-part relational transformer is used."""
        return self.row == "pirt"

    @property
    def whole(self) -> tuple[Partition, ...]:
        """The partitions whose parts become one vector of the whole crop, in the paper's order."""
        known: tuple[Partition, ...] = ("stripe", "patch")
        return tuple(name for name in known if self.row != "baseline" and name in self.partitions)

    @property
    def has_pose(self) -> bool:
        """Whether there are pose-guided features."""
        return self.row != "baseline" and "pose" in self.partitions

    @property
    def joints(self) -> tuple[tuple[int, ...], ...]:
        """Rows of the key points of each group: head, upper body, lower body."""
        return ((*_HEAD, 5) if self.groups == "published" else _HEAD, _UPPER, _LOWER)


# ---------------------------------------------------------------- 3.2 pose


def heat_maps(points: Tensor, h: int, w: int, sigma: float = 1 / 48) -> Tensor:
    """Heat maps M of key points on a map of h x w cells, `[n, P, h, w]` float32 in [0, 1].

    A Gaussian around each point, as high as its score (at most 1) and round in the input. A cell has the largest value
    that lies in it, as global max pooling of ever finer maps gives it (eq. 1).

    Args:
        points: `[n, P, 3]`: x and y in pixels of the network's input, and the score.
        h, w: cells of the map, of 16 x 16 pixels.
        sigma: standard deviation as a share of the input's height.

    >>> heat_maps(torch.tensor([[[8.0, 24.0, 0.9]]]), 3, 1, sigma=0.2)[0, 0, :, 0].round(decimals=2)
    tensor([0.6400, 0.9000, 0.6400])
    """
    points = points.float()
    profiles = []  # exp(-(x^2 + y^2)) is a product: each axis for itself
    for axis, size in enumerate((w, h)):
        centres = (torch.arange(size, device=points.device) + 0.5) * _STRIDE
        away = ((centres - points[..., axis, None]).abs() - _STRIDE / 2).clamp_min(0.0)  # from the cell's nearer edge
        profiles.append(torch.exp(-0.5 * (away / (sigma * h * _STRIDE)).square()))
    across, down = profiles
    return points[..., 2].clamp(0.0, 1.0)[..., None, None] * down[..., :, None] * across[..., None, :]


class Guide(NamedTuple):
    """What heat maps say of a batch of crops.

    Attributes:
        maps: M, without the key points that a prompt hides, `[n, P, h, w]`.
        mask: the human mask C, `[n, 1, h, w]`.
        scores: S, the highest value of each group, `[n, 3]`.
        shares: visible share of the maps of each group, `[n, 3]` in [0, 1]; 0 for a group without a key point, which
            is what is left of one that is covered, and 1 for others without a prompt.
    """

    maps: Tensor
    mask: Tensor
    scores: Tensor
    shares: Tensor


def guide(maps: Tensor, joints: tuple[tuple[int, ...], ...], seen: Tensor | None = None) -> Guide:
    """Human mask, scores of the groups and their visible shares.

    A key point whose highest cell is hidden is not there. A crop in which no key point is left shows nobody as far as
    is known, and all its maps are ones.

    Args:
        maps: M, `[n, P, h, w]`.
        joints: rows of the key points of each group.
        seen: visible share of each cell `[n, 1, h, w]`, or `None` for all.
    """
    maps = maps.float().clamp_min(0.0)
    kept = maps
    if seen is not None:
        peaks = maps.flatten(2).argmax(2)
        kept = maps * (seen.float().flatten(1).gather(1, peaks) >= 0.5)[..., None, None]
    nobody = ~(kept.flatten(1) > 0).any(1)[:, None, None, None]
    kept = kept.masked_fill(nobody, 1.0)
    mask = kept.amax(1, keepdim=True)  # eq. 2
    scores = torch.stack([kept[:, rows].amax((1, 2, 3)) for rows in joints], 1)
    there = (scores > 0).float()
    if seen is None:
        return Guide(kept, mask, scores, there)
    areas = torch.stack([maps.masked_fill(nobody, 1.0)[:, rows].amax(1) for rows in joints], 1)  # [n, 3, h, w]
    total, shown = areas.sum((2, 3)), (areas * seen.float()).sum((2, 3))
    shares = (shown / total.clamp_min(1e-12)).clamp(0.0, 1.0)
    return Guide(kept, mask, scores, there * shares)


def pose_tokens(features: Tensor, maps: Tensor, tau: float, seen: Tensor | None = None) -> Tensor:
    """F_pose: the mean over the map of (M_j > tau) F_irm for each key point (eq. 3), `[n, P, c]`.

    Under a prompt the mean over the cells of a key point is that over those that are visible.

    Args:
        features: F_irm, `[n, c, h, w]`.
        maps: M, `[n, P, h, w]`.
        tau: the threshold.
        seen: visible share of each cell `[n, 1, h, w]`, or `None` for all.
    """
    area = (maps > tau).float().flatten(2)  # [n, P, cells]
    shown = area if seen is None else area * seen.float().flatten(2)
    # One product of matrices, which reads F_irm once.
    sums = shown.to(features.dtype) @ features.flatten(2).transpose(1, 2)
    scale = area.sum(2) / (shown.sum(2).clamp_min(1e-6) * area.shape[2])
    return (sums.float() * scale[..., None]).to(features.dtype)


# ---------------------------------------------------------------- 3.3 intra-part relations


class IRM(nn.Module):
    """Intra-part relational module (fig. 3a): self-attention within each row of cells.

    Args:
        channels: of F.
        dim: d, the width of the attention.
        heads: of the attention.
        dropout: on the identity path.

    Raises:
        ConfigError: the heads do not divide d.
    """

    def __init__(self, channels: int, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dim < 2 or dim % heads:
            cause = f"{heads} heads do not divide the {dim} channels inside the module"
            raise ConfigError("options.stripe_heads", cause, "choose a divisor, or another reduction")
        self.heads, self.dropout = heads, dropout
        self.phi = nn.Sequential(nn.Conv2d(channels, dim, 1), IBN(dim), nn.ReLU())
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.norm = nn.BatchNorm2d(dim)
        self.theta = nn.Sequential(nn.Conv2d(dim, channels, 1), nn.BatchNorm2d(channels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.normal_(self.qkv.weight, std=(2.0 / dim) ** 0.5)  # fan-out of each of the three

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """F `[n, c, h, w]` and C `[n, 1, h, w]` -> F_irm `[n, c, h, w]`."""
        f_phi = self.phi(features)  # eq. 4
        # [n, 3 d, h, w] -> 3 of [n, h, heads, w, d / heads]: a row of cells is a sentence.
        q, k, v = self.qkv(f_phi).unflatten(1, (3, self.heads, -1)).permute(1, 0, 4, 2, 5, 3)
        related = F.scaled_dot_product_attention(q, k, v).permute(0, 2, 4, 1, 3).flatten(1, 2)  # eq. 6; 7 without W^H
        f_phi = F.relu(self.norm(related + F.dropout(f_phi, self.dropout, self.training)))  # eq. 5
        return F.relu(self.theta(f_phi) + mask.to(features.dtype) * features)  # eq. 8


# ---------------------------------------------------------------- 3.4 inter-part relations


def transformer(channels: int, o: PirtOptions) -> nn.TransformerEncoder:
    """IRT: N transformer units (fig. 3b, eq. 9-11) with norms after the residuals and no positions.

    Raises:
        ConfigError: the heads do not divide the channels.
    """
    if channels % o.heads:
        cause = f"{o.heads} heads do not divide the {channels} channels of the map"
        raise ConfigError("options.heads", cause, "choose a divisor, or set options.dim to a multiple")
    unit = nn.TransformerEncoderLayer(channels, o.heads, o.ffn, o.dropout, batch_first=True)
    units = nn.TransformerEncoder(unit, o.layers, enable_nested_tensor=False)
    for module in units.modules():
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            nn.init.xavier_uniform_(module.in_proj_weight)  # the units are copies of one, and would begin alike
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    return units


def soft_batch_hard(distances: Tensor, pids: Tensor) -> Tensor:
    """Batch-hard triplet loss with a soft margin, log(1 + exp(d_ap - d_an)), averaged over the anchors.

    Hermans et al., arXiv 1703.07737. Crops without a positive or a negative in the batch take no part.

    Args:
        distances: `[n, n]`, row = anchor.
        pids: `[n]`.

    >>> d = torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
    >>> soft_batch_hard(d, torch.tensor([0, 0, 1]))                                # the logarithm of 2
    tensor(0.6931)
    """
    same = pids[:, None] == pids[None, :]
    valid = (same.sum(1) > 1) & (~same).any(1)
    hardest_positive = distances[valid].masked_fill(~same[valid], -torch.inf).amax(1)
    hardest_negative = distances[valid].masked_fill(same[valid], torch.inf).amin(1)
    return F.softplus(hardest_positive - hardest_negative).sum() / valid.sum().clamp_min(1)


# ---------------------------------------------------------------- the method


class Pirt(Method):
    """Vectors of stripes, patches and three groups of key points, related within rows of cells and with one another.

    Under a prompt, means are taken over visible cells, key points that it hides are not there, and the confidence of a
    group is multiplied by its visible share. Without key points, of all crops or of one, maps are ones: the mask hides
    nothing, and the three groups are alike.

    Args:
        backbone: images -> map F, with `.channels`.
        ids: number of training identities; 0 for a network that only embeds.

    Raises:
        ConfigError: the numbers of heads do not divide the widths.
    """

    name = "pirt"
    Options = PirtOptions
    options: PirtOptions

    def __init__(self, backbone: Backbone, ids: int, options: PirtOptions | None = None) -> None:
        super().__init__()
        self.options = o = options or PirtOptions()
        self.backbone = backbone
        channels = o.dim or backbone.channels
        narrow = max(1, channels // o.reduction)
        self.reduce = nn.Sequential()
        if o.dim:
            conv = nn.Conv2d(backbone.channels, o.dim, 1, bias=False)
            self.reduce = nn.Sequential(conv, nn.BatchNorm2d(o.dim), nn.ReLU())
        if o.row == "baseline":
            self.neck = BNNeck(channels)
            self.classifier = Classifier(channels, ids)
            return
        if o.has_irm:
            self.irm = IRM(channels, narrow, o.stripe_heads, o.irm_dropout)
        if o.has_irt:
            self.irt = transformer(channels, o)
        if o.whole:
            self.global_neck = BNNeck(len(o.whole) * channels)
            self.global_classifiers = Classifiers(len(o.whole), channels, ids)
        if o.has_pose:
            if o.confidence:
                self.csm = nn.Sequential(nn.Linear(channels, narrow), nn.ReLU(), nn.Linear(narrow, 1))
            self.part_neck = BNNeck(len(_NAMES) * channels)
            self.part_classifiers = Classifiers(len(_NAMES), channels, ids)

    @classmethod
    def needs(cls, options: BaseModel, when: When) -> Needs:
        """Key points for pose-guided features and for the mask of eq. 8, in training and in search."""
        assert isinstance(options, PirtOptions)
        return Needs(points=COCO_17, heat=options.maps == "own") if options.has_pose or options.has_irm else Needs()

    def heads(self, features: Tensor, visible: Tensor | None = None, cues: Cues | None = None) -> Outputs:
        """See `from_maps`; the heat maps are the estimator's own, or drawn around its key points.

        Raises:
            ConfigError: the key points are not those of `COCO_17`.
        """
        maps = None
        if cues is not None and (given := cues.points.shape[1]):
            if given != _JOINTS:
                cause = f"have {given} key points, and Pirt takes the {_JOINTS} of '{COCO_17.name}'"
                raise ConfigError("cues", cause, "convert them with KeyPoints.to")
            own = cues.heat.ndim == 4 and cues.heat.shape[1] > 0 and self.options.maps == "own"
            height, width = features.shape[2:]
            maps = cues.heat if own else heat_maps(cues.points, height, width, self.options.sigma)
        return self.from_maps(features, maps, visible)

    def from_maps(self, features: Tensor, maps: Tensor | None, visible: Tensor | None = None) -> Outputs:
        """From F and an estimator's own heat maps.

        `globals` after the neck, of the stripes and of the patches as far as there are any, `[n, 2, c]`, and `seen`
        `[n, 1]`, 0 for a crop of which nothing is visible; `parts` F~_pose `[n, 3, c]`, their `confidence` `[n, 3]`,
        which sums to 1, and the visible `shares` of the groups `[n, 3]`. The baseline has `globals` `[n, c]` only.

        Args:
            features: F, `[n, c, h, w]`.
            maps: heat maps by COCO's 17 points over the whole input, in any resolution, `[n, 17, h', w']`; `None` if
                nobody knows.
            visible: the prompt, `[n, H, W]`.

        Raises:
            ConfigError: the maps are not one for each of 17 key points of each crop.
        """
        o = self.options
        features = self.reduce(features)
        seen = cells(visible, features)  # [n, 1, h, w]
        n, _, h, w = features.shape
        if o.row == "baseline":
            return {"globals": self.neck(global_mean(features, seen).float())}
        if maps is None:
            maps = torch.ones(n, _JOINTS, h, w, device=features.device)
        elif maps.ndim != 4 or maps.shape[:2] != (n, _JOINTS):
            cause = f"are {list(maps.shape)} and not [{n}, {_JOINTS}, h, w]"
            raise ConfigError("heat maps", cause, f"give one map for each of the points of '{COCO_17.name}'")
        pose = guide(F.adaptive_max_pool2d(maps.float(), (h, w)), o.joints, seen)  # eq. 1
        f_irm = features
        if o.has_irm:
            # What is hidden must not reach its neighbours: it is blank before cells of a row are related.
            f_irm = self.irm(features if seen is None else features * seen, pose.mask)
        out: Outputs = {"seen": torch.ones(n, 1, device=features.device)}
        if seen is not None:
            out["seen"] = (seen.flatten(1) > 0).any(1, keepdim=True).float()
        if o.whole:
            f_local = torch.stack([self._whole(name, f_irm, seen) for name in o.whole], 1)
            out["globals"] = self.global_neck(f_local.flatten(1)).view_as(f_local)
        if o.has_pose:
            f_pose = self._related(pose_tokens(f_irm, pose.maps, o.tau, seen), o.joints)  # F^_pose
            out["shares"] = pose.shares
            out["confidence"] = self._confidences(f_pose, pose)
            out["parts"] = f_pose * out["confidence"][..., None]  # eq. 14
        return out

    def _whole(self, name: Partition, f_irm: Tensor, seen: Tensor | None) -> Tensor:
        """f_stripe or f_patch, `[n, c]` float32 (eq. 12)."""
        h, w = f_irm.shape[2:]
        if name == "stripe":
            tokens = strip_means(f_irm, h, seen)  # rows of cells
            shares = None if seen is None else seen.float().mean((1, 3))
        else:
            down, across = self.options.patch
            grid = (-(-h // down), -(-w // across))
            if seen is not None:
                # What is hidden is never a maximum.
                f_irm = (f_irm * seen).masked_fill(seen <= 0, -torch.inf)
            tokens = F.adaptive_max_pool2d(f_irm, grid).flatten(2).transpose(1, 2)
            tokens = tokens.masked_fill(tokens.isinf(), 0.0)
            shares = None if seen is None else F.adaptive_avg_pool2d(seen.float(), grid).flatten(1)
        if self.options.has_irt:
            tokens = self.irt(tokens)
        return tokens.float().mean(1) if shares is None else weighted_mean(tokens, shares)

    def _related(self, tokens: Tensor, joints: tuple[tuple[int, ...], ...]) -> Tensor:
        """F^_pose `[n, 3, c]` float32 from F_pose `[n, P, c]`: each group for itself (eq. 12)."""
        groups = [tokens[:, rows] for rows in joints]
        if self.options.has_irt:
            groups = [self.irt(group) for group in groups]
        return torch.stack([group.float().mean(1) for group in groups], 1)

    def _confidences(self, f_pose: Tensor, pose: Guide) -> Tensor:
        """norm(S_self S) of eq. 13 and 14, times what is visible, `[n, 3]`; zeros where nothing is."""
        scores = pose.shares
        if self.options.confidence:
            with torch.autocast(f_pose.device.type, enabled=False):  # bfloat16 has 128 values between 1/2 and 1
                s_self = self.csm(f_pose).sigmoid()[..., 0]  # eq. 13
            scores = scores * s_self * pose.scores
        return scores / scores.sum(1, keepdim=True).clamp_min(1e-12)

    def losses(self, outputs: Outputs, pids: Tensor) -> dict[str, Tensor]:
        """The terms of eq. 15 and 16 as far as there are such parts: `stripe_id`, `patch_id`, and the means over three
        groups `part_id` (each by its visible share) and `part_triplet` (among crops that show the group). The baseline
        has `id`."""
        o = self.options
        if o.row == "baseline":
            return {"id": self._cross_entropy(self.classifier(outputs["globals"]), pids)}
        terms: dict[str, Tensor] = {}
        if o.whole:
            logits = self.global_classifiers(outputs["globals"])
            weights = {"stripe": o.stripe_id, "patch": o.patch_id}
            for k, name in enumerate(o.whole):
                terms[f"{name}_id"] = weights[name] * self._cross_entropy(logits[:, k], pids)  # eq. 16
        if o.has_pose:
            f_pose, groups = outputs["parts"], len(_NAMES)
            logits = self.part_classifiers(self.part_neck(f_pose.flatten(1)).view_as(f_pose))
            smoothing = self._smoothing(logits.shape[2])
            l_cls = part_cross_entropy(logits, pids, smoothing, outputs["shares"].detach()) / groups
            terms["part_id"] = o.part_id * l_cls
            # A group that does not show is the same vector in all crops: neither a positive nor a negative of any.
            shown = (outputs["shares"] > 0).unbind(1)
            l_tri = torch.stack([self._triplet(f_pose[s, i], pids[s]) for i, s in enumerate(shown)]).mean()
            terms["part_triplet"] = o.part_triplet * l_tri  # eq. 15
        return terms

    def _smoothing(self, ids: int) -> float:
        """What torch, which shares the smoothing among all identities, has to be told."""
        o = self.options
        if o.smoothing_over == "all" or ids < 2:
            return o.smoothing
        return min(1.0, o.smoothing * ids / (ids - 1))

    def _cross_entropy(self, logits: Tensor, pids: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), pids, label_smoothing=self._smoothing(logits.shape[1]))

    def _triplet(self, f: Tensor, pids: Tensor) -> Tensor:
        if not len(f):
            return f.sum()
        # By differences: distances from inner products have no digits left where vectors are close.
        distances = torch.cdist(f, f, compute_mode="donot_use_mm_for_euclid_dist")
        margin = self.options.margin
        return batch_hard(distances, pids, margin) if margin else soft_batch_hard(distances, pids)

    def distances(self, outputs: Outputs) -> dict[str, Tensor]:
        """Cosine distances `stripe` and `patch`, and `part`, that of the groups by their confidences, divided by the
        sum of the weights so that its range is the same; the baseline has `global`."""
        o, found = self.options, {}
        if o.row == "baseline":
            return {"global": cosine_distance(outputs["globals"], outputs["globals"])}
        for k, name in enumerate(o.whole):
            f = outputs["globals"][:, k]
            found[str(name)] = cosine_distance(f, f)
        if o.has_pose:
            f, c = outputs["parts"], outputs["confidence"]
            found["part"] = part_distance(f, c, f, c, combine="sqrt_product")
        return found

    def vector(self, outputs: Outputs) -> Tensor:
        """The global vectors side by side; where there are none, the mean of the groups by their confidences."""
        if "globals" in outputs:
            return outputs["globals"].flatten(1)
        return weighted_mean(outputs["parts"], outputs["confidence"])

    def embed(self, outputs: Outputs) -> Embedding:
        """`stripe` and `patch`, each `[n, 1, c]`, and `seen` `[n, 1]`; `parts` `[n, 3, c]` and their `confidence`
        `[n, 3]`; vectors of unit length, as far as there are such; `weights`, one for each region. The baseline has
        `globals` `[n, c]` only."""
        o = self.options
        if o.row == "baseline":
            return Embedding({"globals": outputs["globals"].float()})
        seen = outputs["seen"]
        kept, weights = {"seen": seen}, [seen] * len(o.whole)
        for k, name in enumerate(o.whole):
            kept[name] = F.normalize(outputs["globals"][:, k : k + 1].float(), dim=2)
        if o.has_pose:
            kept["parts"] = F.normalize(outputs["parts"].float(), dim=2)
            kept["confidence"] = outputs["confidence"].float().clamp(0.0, 1.0)
            weights.append(kept["confidence"])
        return Embedding(kept | {"weights": torch.cat(weights, 1)})

    def distance(
        self,
        neighbours: int | None = None,
        sides: Sides | None = None,
        metric: Metric | None = None,
        normalise: bool | None = None,
    ) -> Distance:
        """d_stripe for all, then d_stripe + d_patch + d_local for the nearest n; options decide what is not given.

        Args:
            neighbours: n.
            sides: whose confidences weigh the groups: of `both` crops (the root of their product), of the `query` or
                the `gallery` crop only, or of `none` (a third each).
            metric: of the groups.
            normalise: whether d_local is divided by the sum of its weights.

        Raises:
            ConfigError: there is no such metric or side, n is below 1, or an option has no meaning here.
        """
        o = self.options
        local = {"sides": sides, "metric": metric, "normalise": normalise}
        idle = [name for name, given in local.items() if given is not None and not o.has_pose]
        if neighbours is not None and not (o.whole and o.has_pose):
            idle.append("neighbours")
        if idle:
            cause = "nothing is re-ranked here" if idle[0] == "neighbours" else "there are no pose-guided features here"
            raise ConfigError(idle[0], cause, "leave it out")
        if o.row == "baseline":
            return GlobalDistance("globals")
        terms: list[tuple[float, Distance]] = [
            (1.0, PartDistance(parts=name, weights="seen", names=(name,))) for name in o.whole
        ]
        if o.has_pose:
            local_distance = _local_distance(
                o.sides if sides is None else sides,
                o.metric if metric is None else metric,
                o.normalise if normalise is None else normalise,
            )
            terms.append((1.0, local_distance))
        if len(terms) == 1:
            return terms[0][1]
        fine = MixedDistance(tuple(terms))
        if not o.has_pose:
            return fine
        return Cascade(terms[0][1], fine, o.neighbours if neighbours is None else neighbours)

    @property
    def regions(self) -> tuple[Region, ...]:
        """The crop for its global vectors; for the groups, where they are of somebody who stands upright."""
        o = self.options
        whole = (0.0, 0.0, 1.0, 1.0)
        if o.row == "baseline":
            return (Region("global", whole),)
        boxes = ((0.0, 0.0, 1.0, 0.2), (0.0, 0.2, 1.0, 0.55), (0.0, 0.55, 1.0, 1.0))
        groups = tuple(map(Region, _NAMES, boxes)) if o.has_pose else ()
        return (*(Region(name, whole) for name in o.whole), *groups)


# ---------------------------------------------------------------- matching


def _local_distance(sides: Sides, metric: Metric, normalise: bool) -> PartDistance | GroupDistance:
    """d_local of three groups: of kernels where they can say it."""
    for name, given, known in (("sides", sides, get_args(Sides)), ("metric", metric, get_args(Metric))):
        if given not in known:
            raise ConfigError(name, f"'{given}' is not known", f"choose one of {', '.join(known)}")
    if metric == "cosine" and sides == "both":
        return PartDistance(weights="confidence", normalise=normalise, combine="sqrt_product", names=_NAMES)
    if metric == "cosine" and sides == "none":
        return PartDistance(weights=None, names=_NAMES)
    return GroupDistance(sides, metric, normalise, _NAMES)


@dataclass(frozen=True)
class GroupDistance:
    """d_local where `PartDistance` has no words for it: by the confidences of one side, or Euclidean (Table 5).

    `sum_k a_k d_k`, or that divided by `sum_k a_k`, with `d_k = 1 - cos` of group k or the Euclidean distance of the
    unit vectors, both in [0, 2], and `a_k` as `sides` says: `sqrt(c_k^q c_k^g)`, `c_k^q`, `c_k^g` or 1 / K. A pair
    that shares no group (`sum a <= EPS`) is at `farthest`.

    For the few that a cascade re-ranks: it compares one group after the other, and candidates one query at a time.

    Args:
        sides: whose confidences count.
        metric: of a group.
        normalise: whether to divide by the sum of the weights.
        names: of the groups.
    """

    sides: Sides
    metric: Metric
    normalise: bool
    names: tuple[str, ...]

    @property
    def farthest(self) -> float:
        """No distance is larger: 2 if normalised, else 2 K."""
        return 2.0 if self.normalise else 2.0 * len(self.names)

    def prepare(self, embedding: Embedding) -> Embedding:
        """The groups' vectors and confidences, and nothing else.

        Raises:
            EmbeddingError: one of them is missing, of the wrong shape or not finite, or a confidence is not in [0, 1].
        """
        if embedding.names != ("parts", "confidence"):
            tensor_of(embedding, "parts", 3, "[n, k, d]")
            weights_of(embedding, "confidence", "parts")
        return only(embedding, ("parts", "confidence"))

    def matrix(self, query: Embedding, gallery: Embedding) -> Tensor:
        """Distances of all pairs, `[q, g]`.

        Raises:
            EmbeddingError: an embedding has not what the distance reads, or the two do not fit each other.
        """
        query, gallery = fitting(self, query, gallery)
        total = torch.zeros(len(query), len(gallery), device=query.device)
        sums = torch.zeros_like(total)
        for weights, distances in self._groups(query, gallery):
            total += weights * distances
            sums += weights
        shared = sums > EPS
        if self.normalise:
            total /= torch.where(shared, sums, 1.0)
        return torch.where(shared, total, self.farthest).clamp_(0.0, self.farthest)

    def _groups(self, query: Embedding, gallery: Embedding) -> Iterator[tuple[Tensor, Tensor]]:
        """`(a_k, d_k)` of all pairs, each `[q, g]`, for one group after the other."""
        q_weights, g_weights = self._weights(query, "query"), self._weights(gallery, "gallery")
        with in_float32(q_weights):
            for k in range(q_weights.shape[1]):
                q, g = unit_vectors(query["parts"][:, k]), unit_vectors(gallery["parts"][:, k])
                if self.metric == "cosine":
                    distances = cosine_distance(q, g)
                else:  # by differences: the root of a rounded 0 is 1e-4
                    distances = torch.cdist(q, g, compute_mode="donot_use_mm_for_euclid_dist")
                yield q_weights[:, k, None] * g_weights[:, k], distances

    def _weights(self, embedding: Embedding, side: Literal["query", "gallery"]) -> Tensor:
        """Weights `[n, k]` whose product over two crops is the weight of the pair."""
        c = embedding["confidence"].float()
        if self.sides == "both":
            return c.sqrt()
        if self.sides == "none":
            return torch.full_like(c, len(self.names) ** -0.5)
        return c if self.sides == side else torch.ones_like(c)

    def candidates(self, query: Embedding, gallery: Embedding, index: Tensor) -> Tensor:
        """Distances of query i and gallery rows `index[i]` (`[q, n]` int64), `[q, n]`.

        Raises:
            EmbeddingError: as `matrix`; or `index` is not `[q, n]` or points outside the gallery.
        """
        query, gallery = fitting(self, query, gallery)
        index = check_index(query, gallery, index)
        rows = [self.matrix(query[i], gallery[picked]) for i, picked in enumerate(index)]
        return torch.cat(rows) if rows else torch.empty(index.shape, device=index.device)

    def explain(self, query: Embedding, gallery: Embedding) -> Explanation:
        """The distance of two crops, group by group; the share of group k is `a_k / sum a`.

        Raises:
            EmbeddingError: as `matrix`; or one of them has not exactly one row.
        """
        one_row(query, gallery)
        query, gallery = fitting(self, query, gallery)
        groups = [(float(a), float(d)) for a, d in self._groups(query, gallery)]
        total = sum(a for a, _ in groups)
        c_q, c_g = query["confidence"][0].tolist(), gallery["confidence"][0].tolist()
        matches = []
        for name, (a, d), q, g in zip(self.names, groups, c_q, c_g, strict=True):
            compared = a > EPS and total > EPS
            matches.append(PartMatch(name, d if compared else None, q, g, a / total if compared else 0.0))
        return Explanation(float(self.matrix(query, gallery)), tuple(matches))

    def shortlist_vectors(self, embedding: Embedding) -> Tensor:
        """Unit vectors `[n, k d]` float32: the groups side by side, as if all were equally sure."""
        return unit_vectors(unit_vectors(embedding["parts"]).flatten(1))
