"""PGFA: pose-guided feature alignment (Miao et al., ICCV 2019).

In the paper's order and symbols; equation numbers are the paper's. Our readings of what it leaves open, and what the
published code does otherwise, are argued in docs/methods/pgfa.md.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from glimpse.backbones import Backbone
from glimpse.cues.needs import Cues, Needs
from glimpse.cues.skeleton import OPENPOSE_18
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError
from glimpse.matching import PartDistance, part_distance
from glimpse.methods.method import Method, Outputs, Region, When, strips_of
from glimpse.methods.parts import (
    Classifier,
    Classifiers,
    PartConvs,
    cells,
    global_mean,
    part_cross_entropy,
    strip_means,
    strip_shares,
    weighted_mean,
)

Row = Literal["no_partial", "no_global", "pgfa"]

LEAST = 3
"""With fewer landmarks than this, all parts count as visible."""

_STRIDE = 16  # pixels of the input per cell of the map
_ALL, _STRIPS, _POSE = "weights", "strip_weights", "pose_weights"


class PGFAOptions(BaseModel):
    """Options of PGFA.

    Attributes:
        strips: number of parts, p (3 in the paper, 6 for the partial sets; fig. 6a).
        dim: width of part and pose-guided features.
        dropout: before each reduction and before each classifier.
        row: which row of Table 2 this is; `pgfa` is the whole method.
        lam: lambda of eq. 4 (0.2 in the paper, 0.9 for the partial sets; fig. 5). The rows with one branch have none.
        gamma: score above which a key point is a landmark (eq. 2; fig. 6b).
        sigma: standard deviation of the heat maps as a share of the crop's height; 0 for the published rule, height x
            width / 1000 pixels of the crop.
        smoothing: label smoothing of the identity losses (none in the paper).
        part_id, pose_id: weights of L_part and L_pose beside lambda (1 in the paper).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strips: int = Field(default=3, ge=1)
    dim: int = Field(default=256, ge=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    row: Row = "pgfa"
    lam: float = Field(default=0.2, ge=0, le=1)
    gamma: float = Field(default=0.2, ge=0, lt=1)
    sigma: float = Field(default=0.0, ge=0, le=1)
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    part_id: float = Field(default=1.0, ge=0)
    pose_id: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _both_learn(self) -> PGFAOptions:
        if self.row == "pgfa" and self.lam in (0.0, 1.0):
            row = "no_partial" if self.lam == 0 else "no_global"
            raise ValueError(f"lam {self.lam:g} leaves a branch without its loss: set row to {row}")
        return self

    @property
    def has_parts(self) -> bool:
        """Whether there is a partial feature branch."""
        return self.row != "no_partial"

    @property
    def has_pose(self) -> bool:
        """Whether there is a pose-guided global feature branch."""
        return self.row != "no_global"


# ---------------------------------------------------------------- landmarks


def heat_maps(points: Tensor, scale: Tensor, h: int, w: int, gamma: float = 0.2, sigma: float = 0.0) -> Tensor:
    """Heat maps M_j of the landmarks on a map of h x w cells, `[n, N, h, w]` float32 in [0, 1].

    A Gaussian of height 1 around each landmark (eq. 2), round in the crop as it lies on disk, and brought down to the
    map as an antialiased bilinear resize does. A point that is no landmark has a map of zeros. A crop none of whose
    points has a score above 0 shows nobody as far as is known, and all its maps are ones.

    The published standard deviation is height x width / 1000 pixels of the image that the pose estimator was given.
    Here that is what the input shows: the crop, or of a crop that was zoomed into the part that is left, as if a
    detector had cut it out so. A shift changes nothing.

    Args:
        points: `[n, N, 3]`: x and y in pixels of the network's input, and the score.
        scale: pixels of the input per pixel of the crop, `[n, 2]`, across and down.
        h, w: cells of the map, of 16 x 16 pixels.
        gamma: a point whose score is above is a landmark.
        sigma: standard deviation as a share of the crop's height, or 0 for the published rule.

    >>> nose = torch.tensor([[[8.0, 24.0, 0.9], [8.0, 24.0, 0.1]]])        # the second one is not sure enough
    >>> maps = heat_maps(nose, torch.ones(1, 2), 3, 1, sigma=0.2)          # crops of 48 x 16: sigma is 9.6 pixels
    >>> maps[0, :, :, 0].round(decimals=2)
    tensor([[0.3400, 0.7500, 0.3400],
            [0.0000, 0.0000, 0.0000]])
    """
    points, scale = points.float(), scale.float()
    crop = scale.new_tensor([w * _STRIDE, h * _STRIDE]) / scale  # [n, 2], width and height of what is shown
    spread = crop[:, 1] * sigma if sigma else crop.prod(1) / 1000.0
    profiles = []  # exp(-(x^2 + y^2)) is a product, and so is a resize: each axis for itself
    for axis, size in enumerate((w, h)):
        centres = torch.arange(size * _STRIDE, device=points.device) + 0.5
        away = (centres - points[..., axis, None]) / (spread * scale[:, axis])[:, None, None]  # [n, N, pixels]
        drawn = torch.exp(-0.5 * away.square())[:, :, None]
        profiles.append(F.interpolate(drawn, (1, size), mode="bilinear", antialias=True)[:, :, 0])
    across, down = profiles
    scores = points[..., 2]
    maps = down[..., :, None] * across[..., None, :] * (scores > gamma)[..., None, None]  # eq. 2
    nobody = ~(scores > 0).any(1)
    return maps.masked_fill(nobody[:, None, None, None], 1.0)


def part_labels(points: Tensor, height: int, strips: int, gamma: float = 0.2) -> Tensor:
    """Part labels l_i, `[n, p]` float32 of 0 and 1: whether a landmark lies in part i (eq. 5).

    With fewer than `LEAST` landmarks nothing is known of the crop, and all labels are 1.

    Args:
        points: `[n, N, 3]`: x, y and score.
        height: of the image, in the unit of y.
        strips: p.
        gamma: a point whose score is above is a landmark.

    >>> points = torch.tensor([[[5.0, 1.0, 0.9], [5.0, 2.0, 0.9], [5.0, 7.0, 0.9], [5.0, 5.0, 0.1]]])
    >>> part_labels(points, height=9, strips=3)
    tensor([[1., 0., 1.]])
    """
    landmark = points[..., 2] > gamma
    part = (points[..., 1] * strips / height).floor()  # from (i - 1) / p H on, up to i / p H and without it
    there = (part[..., None] == torch.arange(strips, device=points.device)) & landmark[..., None]
    return (there.any(1) | (landmark.sum(1, keepdim=True) < LEAST)).float()


def seen_points(points: Tensor, visible: Tensor, h: int, w: int) -> Tensor:
    """The points `[n, N, 3]` of an input of h x w cells, with score 0 for those that a prompt hides.

    Args:
        points: x and y in pixels of the network's input, and the score.
        visible: the prompt `[n, H, W]`, in any resolution; below 0.5 is hidden.
    """
    rows, columns = visible.shape[1:]
    x = (points[..., 0] * columns / (w * _STRIDE)).floor().long().clamp(0, columns - 1)
    y = (points[..., 1] * rows / (h * _STRIDE)).floor().long().clamp(0, rows - 1)
    crop = torch.arange(len(points), device=points.device)[:, None]
    scores = points[..., 2] * (visible[crop, y, x] >= 0.5)
    return torch.cat([points[..., :2], scores[..., None]], 2)


def guided_feature(features: Tensor, maps: Tensor, seen: Tensor | None = None) -> Tensor:
    """Element-wise maximum over j of the mean of M_j * F over the visible cells, `[n, c]` float32.

    Args:
        features: F, `[n, c, h, w]`.
        maps: M, `[n, N, h, w]`.
        seen: visible share of each cell `[n, 1, h, w]`, or `None` for all.
    """
    h, w = features.shape[2:]
    area = maps.new_full((1,), h * w) if seen is None else seen.float().sum((1, 2, 3)).clamp_min(1e-6 * w)
    weights = maps if seen is None else maps * seen.float()
    # One product of matrices, which reads F once; M_j * F itself would be N maps.
    sums = weights.flatten(2).to(features.dtype) @ features.flatten(2).transpose(1, 2)  # [n, N, c]
    return (sums.float() / area[:, None, None]).amax(1)


# ---------------------------------------------------------------- the method


class PGFA(Method):
    """Strips that are compared where landmarks say that both are visible, and a global feature guided by heat maps.

    Under a prompt, means are taken over visible cells, points that it hides are not landmarks, and the label of a part
    is multiplied by its visible share. Without key points, of all crops or of one, maps are ones and labels 1.

    Args:
        backbone: images -> map F, with `.channels`.
        ids: number of training identities; 0 for a network that only embeds.
    """

    name = "pgfa"
    Options = PGFAOptions
    options: PGFAOptions

    def __init__(self, backbone: Backbone, ids: int, options: PGFAOptions | None = None) -> None:
        super().__init__()
        self.options = o = options or PGFAOptions()
        self.backbone = backbone
        channels = backbone.channels
        if o.has_parts:
            self.part_convs = PartConvs(o.strips, channels, o.dim)
            nn.init.normal_(self.part_convs.norm.weight, 1.0, 0.02)
            self.part_classifiers = Classifiers(o.strips, o.dim, ids)  # FC_i
            self.part_classifiers_bias = nn.Parameter(torch.zeros(o.strips, ids))
        if o.has_pose:
            self.pose_conv = PartConvs(1, 2 * channels, o.dim)
            nn.init.normal_(self.pose_conv.norm.weight, 1.0, 0.02)
            self.pose_classifier = Classifier(o.dim, ids)
            self.pose_classifier_bias = nn.Parameter(torch.zeros(ids))

    @classmethod
    def needs(cls, options: BaseModel, when: When) -> Needs:
        """Key points for heat maps always, and for part labels, of which training takes no notice, in search only."""
        assert isinstance(options, PGFAOptions)
        labels = when == "search" and options.strips > 1  # the label of a single part is always 1
        return Needs(points=OPENPOSE_18) if options.has_pose or labels else Needs()

    def heads(self, features: Tensor, visible: Tensor | None = None, cues: Cues | None = None) -> Outputs:
        """From F: `parts` f_1, ..., f_p, f_pose `[n, p + 1, d]` (of which a row may have only some), their `weights` in
        matching `[n, p + 1]`, and the visible `shares` of the parts `[n, p]`.

        Raises:
            ConfigError: the map has fewer than p rows, or the key points are not those of `OPENPOSE_18`.
        """
        o = self.options
        h, w = features.shape[2:]
        seen = cells(visible, features)
        points = None if cues is None else self._landmarks(cues, visible, h, w)
        shares = strip_shares(features, o.strips, seen)
        parts, weights = [], []
        if o.has_parts:  # 4.1.1
            means = strip_means(features, o.strips, seen)
            parts.append(self.part_convs(F.dropout(means, o.dropout, self.training)))
            weights.append(shares if points is None else shares * part_labels(points, h * _STRIDE, o.strips, o.gamma))
        if o.has_pose:  # 4.1.2
            f_g = global_mean(features, seen)
            guided = f_g  # as maps of ones give it
            if cues is not None and points is not None:
                guided = guided_feature(features, heat_maps(points, cues.scale, h, w, o.gamma, o.sigma), seen)
            f_cat = torch.cat([f_g, guided.to(f_g.dtype)], 1)[:, None]
            parts.append(self.pose_conv(F.dropout(f_cat, o.dropout, self.training)))
            weights.append((shares > 0).any(1, keepdim=True).float())  # 1, unless nothing of the crop is visible
        return {"parts": torch.cat(parts, 1), "weights": torch.cat(weights, 1), "shares": shares}

    @staticmethod
    def _landmarks(cues: Cues, visible: Tensor | None, h: int, w: int) -> Tensor | None:
        """The key points that can be seen; `None` where the cues have none."""
        given = cues.points.shape[1]
        if not given:
            return None
        if given != len(OPENPOSE_18):
            cause = f"have {given} key points, and PGFA takes the {len(OPENPOSE_18)} of '{OPENPOSE_18.name}'"
            raise ConfigError("cues", cause, "convert them with KeyPoints.to")
        return cues.points if visible is None else seen_points(cues.points, visible, h, w)

    def losses(self, outputs: Outputs, pids: Tensor) -> dict[str, Tensor]:
        """`part_id` and `pose_id`, the two terms of eq. 4, as far as the row has them; all parts of all crops learn,
        each by its visible share under a prompt."""
        o = self.options
        lam = {"no_partial": 0.0, "no_global": 1.0, "pgfa": o.lam}[o.row]  # the ends of fig. 5
        f = F.dropout(outputs["parts"], o.dropout, self.training)
        terms: dict[str, Tensor] = {}
        if o.has_parts:
            logits = self.part_classifiers(f[:, : o.strips]).float() + self.part_classifiers_bias
            l_part = part_cross_entropy(logits, pids, o.smoothing, outputs["shares"].detach())  # eq. 1
            terms["part_id"] = o.part_id * lam * l_part
        if o.has_pose:
            logits = self.pose_classifier(f[:, -1]).float() + self.pose_classifier_bias
            l_pose = F.cross_entropy(logits, pids, label_smoothing=o.smoothing)  # eq. 3
            terms["pose_id"] = o.pose_id * (1 - lam) * l_pose
        return terms

    def distances(self, outputs: Outputs) -> dict[str, Tensor]:
        """`part`: eq. 8."""
        f, weights = outputs["parts"], outputs["weights"]
        return {"part": part_distance(f, weights, f, weights)}

    def vector(self, outputs: Outputs) -> Tensor:
        """The pose-guided global feature; in the row without it the mean of the parts by their weights."""
        if self.options.has_pose:
            return outputs["parts"][:, -1].float()
        return weighted_mean(outputs["parts"], outputs["weights"])

    def embed(self, outputs: Outputs) -> Embedding:
        """`parts` of unit length `[n, p + 1, d]` and `weights` `[n, p + 1]`; for the whole method also `strip_weights`
        and `pose_weights`, the same for one branch alone and 0 for the other."""
        weights = outputs["weights"].float()
        kept = {"parts": F.normalize(outputs["parts"].float(), dim=2), _ALL: weights}
        if self.options.row == "pgfa":
            pose = torch.zeros_like(weights)
            pose[:, -1] = weights[:, -1]
            kept |= {_STRIPS: weights - pose, _POSE: pose}
        return Embedding(kept)

    def distance(self, row: Row | None = None) -> PartDistance:
        """Eq. 8: the mean of the cosine distances of the parts that both crops show and of the pose-guided feature.

        Twice the mean of (1 - cos) / 2, and so twice 1 less the similarity that the published code sorts by. A pair
        that shares nothing is as far as can be; with the pose-guided feature that is a crop of which nothing is seen.

        Args:
            row: match as this row of Table 2 does, whichever was trained: `no_partial` by the pose-guided feature
                alone, `no_global` by the parts alone. The trained row where it is not given.

        Raises:
            ConfigError: there is no such row, or the one that was trained has not what it takes.
        """
        trained = self.options.row
        row = trained if row is None else row
        if row not in get_args(Row):
            raise ConfigError("row", f"'{row}' is not known", f"choose one of {', '.join(get_args(Row))}")
        if trained not in ("pgfa", row):
            cause = f"weights that were trained as '{trained}' cannot match as '{row}'"
            raise ConfigError("row", cause, "train with options.row=pgfa, which can match as any")
        weights = {"no_partial": _POSE, "no_global": _STRIPS}.get(row, _ALL) if trained == "pgfa" else _ALL
        return PartDistance(weights=weights, names=tuple(region.name for region in self.regions))

    @property
    def regions(self) -> tuple[Region, ...]:
        """p strips and `pose`, the whole crop."""
        strips = strips_of(self.options.strips) if self.options.has_parts else ()
        return (*strips, Region("pose", (0.0, 0.0, 1.0, 1.0))) if self.options.has_pose else strips
