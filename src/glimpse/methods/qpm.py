"""QPM: quality-aware part models (Wang et al., IEEE Transactions on Multimedia 2022).

In the paper's order and symbols; equation numbers are the paper's. Our readings of what it leaves open are argued in
docs/methods/qpm.md.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from glimpse.backbones import Backbone
from glimpse.cues.needs import Cues
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError
from glimpse.matching import Cascade, GlobalDistance, MixedDistance, PairGlobalDistance, PartDistance
from glimpse.matching.distance import Distance
from glimpse.matching.kernels import cosine_distance, pair_global_distance, part_distance
from glimpse.methods.method import Method, Outputs, Region, strips_of
from glimpse.methods.parts import (
    Classifier,
    Classifiers,
    PartConvs,
    batch_hard,
    cells,
    part_cross_entropy,
    strip_means,
    strip_shares,
    weighted_mean,
)

Row = Literal["baseline", "baseline+triplet", "part", "gap", "gap+isa", "si", "agfe", "agfe+isa", "qpm"]


class QPMOptions(BaseModel):
    """Options of QPM.

    Attributes:
        strips: number of parts, K (6 in the paper, on maps of 24 rows; Table IX).
        dim: width of part and global features, d (1024 in the paper; Table X).
        row: which row of Tables V and VI this is; `qpm` is the whole method.
        margin: alpha of eq. 3 and 13.
        reduction: of the ISA's first convolution.
        isa_scale: factor on the inner product of eq. 7: 1 as printed, or 1 / sqrt(d), which keeps the sigmoid alive.
        isa_loss_after_relu: whether eq. 6 sees the ISA's first layer after its ReLU (before it, as printed).
        smoothing: label smoothing of all identity losses (none in the paper).
        part_id, part_triplet, global_id, pair_id, global_triplet: weights of the five losses of eq. 14 (all 1 there).
        neighbours: n of the test-time cascade.
        gamma: weight of the part distance in eq. 15 (Table XI).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strips: int = Field(default=6, ge=1)
    dim: int = Field(default=1024, ge=4)
    row: Row = "qpm"
    margin: float = Field(default=0.3, ge=0)
    reduction: int = Field(default=4, ge=1)
    isa_scale: Literal["paper", "sqrt"] = "paper"
    isa_loss_after_relu: bool = False
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    part_id: float = Field(default=1.0, ge=0)
    part_triplet: float = Field(default=1.0, ge=0)
    global_id: float = Field(default=1.0, ge=0)
    pair_id: float = Field(default=1.0, ge=0)
    global_triplet: float = Field(default=1.0, ge=0)
    neighbours: int = Field(default=30, ge=1)
    gamma: float = Field(default=0.6, ge=0, le=1)

    @property
    def has_parts(self) -> bool:
        """Whether there is a part branch: in all rows but the two that pool G globally and need no quality."""
        return self.row not in ("gap", "gap+isa")

    @property
    def has_quality(self) -> bool:
        """Whether quality scores are learned; otherwise all are 1."""
        return self.has_parts and not self.row.startswith("baseline")

    @property
    def has_part_triplet(self) -> bool:
        """Whether eq. 3 is used."""
        return self.has_parts and self.row != "baseline"

    @property
    def has_isa(self) -> bool:
        """Whether the identity-aware spatial attention is used."""
        return self.row in ("gap+isa", "agfe+isa", "qpm")

    @property
    def global_kind(self) -> Literal["none", "gap", "si", "agfe"]:
        """How the global feature is made."""
        if self.row in ("gap", "gap+isa"):
            return "gap"
        if self.row in ("agfe", "agfe+isa", "qpm"):
            return "agfe"
        return "si" if self.row == "si" else "none"

    @property
    def matches_parts(self) -> bool:
        """Whether the part distance takes part in matching."""
        return self.row in ("baseline", "baseline+triplet", "part", "qpm")


class QualityHeads(nn.Module):
    """K unshared predictors (1x1 convolution, batch norm, sigmoid): `[n, K, c]` -> q `[n, K]` in (0, 1)."""

    def __init__(self, parts: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(parts, channels).normal_(0.0, channels**-0.5))
        self.norm = nn.BatchNorm1d(parts)

    def forward(self, z: Tensor) -> Tensor:
        """float32 `[n, K]`."""
        with torch.autocast(z.device.type, enabled=False):  # bfloat16 has 128 values of q between 1/2 and 1
            logits: Tensor = self.norm(torch.einsum("nkc,kc->nk", z.float(), self.weight.float()))
            return logits.sigmoid()


class ISA(nn.Module):
    """Identity-aware spatial attention (fig. 3, eq. 4-8)."""

    def __init__(self, dim: int, reduction: int, scale: Literal["paper", "sqrt"]) -> None:
        super().__init__()
        self.squeeze = nn.Linear(dim, dim // reduction)
        self.excite = nn.Linear(dim // reduction, dim)
        self.scale = 1.0 if scale == "paper" else dim**-0.5

    def forward(self, h: Tensor, features: Tensor, to_g: Tensor) -> tuple[Tensor, Tensor]:
        """From the coarse feature h `[n, d]`, F `[n, c, y, x]` and the weights `[d, c]` of G = to_g F: `(h_hat
        [n, d/r], M [n, 1, y, x])`."""
        h_hat = self.squeeze(h)
        h_tilde = self.excite(F.relu(h_hat))
        # Inner product with G, cell by cell: G is linear in F, so its weights go to the vector and not to the map.
        response = torch.einsum("ncyx,nc->nyx", features, (h_tilde @ to_g.to(h_tilde.dtype)).to(features.dtype))
        return h_hat, torch.sigmoid(response.float() * self.scale)[:, None]  # eq. 7


class QPM(Method):
    """Part branch with quality scores, and a global branch with ISA and AGFE.

    Under a prompt, strips are pooled over their visible cells and their quality is multiplied by their visible share.

    Args:
        backbone: images -> map F, with `.channels`.
        ids: number of training identities; 0 for a network that only embeds.
    """

    name = "qpm"
    Options = QPMOptions
    options: QPMOptions

    def __init__(self, backbone: Backbone, ids: int, options: QPMOptions | None = None) -> None:
        super().__init__()
        self.options = o = options or QPMOptions()
        self.backbone = backbone
        channels: int = backbone.channels
        if o.has_parts:
            self.part_convs = PartConvs(o.strips, channels, o.dim)
            self.part_classifiers = Classifiers(o.strips, o.dim, ids)  # W^p of eq. 1
        if o.has_quality:
            self.quality = QualityHeads(o.strips, channels)
        if o.global_kind != "none":
            self.to_g = nn.Conv2d(channels, o.dim, 1, bias=False)
            # On pooled strips, as after the part convolutions. Without it what all crops have in common fills the
            # vectors, every cosine is near 1 and no loss of the branch moves.
            self.g_tilde_norm = nn.BatchNorm1d(o.strips * o.dim)
            self.global_classifier = Classifier(o.dim, ids)  # W^s of eq. 12
        if o.has_isa:
            self.g_norm = nn.BatchNorm1d(o.strips * o.dim)
            self.isa = ISA(o.dim, o.reduction, o.isa_scale)
            self.coarse_classifier = Classifier(o.dim // o.reduction, ids)  # W^g of eq. 6

    def heads(self, features: Tensor, visible: Tensor | None = None, cues: Cues | None = None) -> Outputs:
        """From F: `weights` q `[n, K]`, `parts` f `[n, K, d]`, `globals` g_tilde `[n, K, d]` or h `[n, d]`, and what
        the losses need: `shares` `[n, K]`, `h_hat` `[n, d/r]`; and M, `attention` `[n, 1, y, x]`."""
        o = self.options
        seen = cells(visible, features)
        shares = strip_shares(features, o.strips, seen)
        out: Outputs = {"shares": shares, "weights": shares}
        z = strip_means(features, o.strips, seen)
        if o.has_parts:
            out["parts"] = self.part_convs(z)
            if o.has_quality:
                out["weights"] = self.quality(z) * shares
        if o.global_kind == "none":
            return out
        q = out["weights"]
        # G is a 1x1 convolution of F without bias and is only ever pooled: pooled first, it costs K cells a crop.
        to_g = self.to_g.weight.flatten(1)
        pooled = z
        if o.has_isa:
            h = weighted_mean(self._normed(self.g_norm, F.linear(z, to_g)), q)  # eq. 4, 5
            out["h_hat"], out["attention"] = self.isa(h, features, to_g)
            pooled = strip_means(features, o.strips, seen, 1.0 + out["attention"])  # eq. 8: G_tilde = M G + G
        g_tilde = self._normed(self.g_tilde_norm, F.linear(pooled, to_g))
        # The single-image rows of Tables V and VI fuse strips by the image's own scores; AGFE waits for the pair.
        out["globals"] = g_tilde if o.global_kind == "agfe" else weighted_mean(g_tilde, q)
        return out

    @staticmethod
    def _normed(norm: nn.BatchNorm1d, strips: Tensor) -> Tensor:
        """Batch norm of each strip's channels, float32 `[n, K, d]`."""
        normed: Tensor = norm(strips.float().flatten(1))
        return normed.view(strips.shape)

    def losses(self, outputs: Outputs, pids: Tensor) -> dict[str, Tensor]:
        """The five terms of eq. 14, as far as the row has them."""
        o = self.options
        terms: dict[str, Tensor] = {}
        q = outputs["weights"]
        if o.has_parts:
            f = outputs["parts"]
            logits = self.part_classifiers(f)
            shares = outputs["shares"].detach()
            terms["part_id"] = o.part_id * part_cross_entropy(logits, pids, o.smoothing, shares)  # eq. 1
            if o.has_part_triplet:
                terms["part_triplet"] = o.part_triplet * batch_hard(part_distance(f, q, f, q), pids, o.margin)  # eq. 3
        if o.has_isa:
            h_hat = outputs["h_hat"]
            coarse = self.coarse_classifier(F.relu(h_hat) if o.isa_loss_after_relu else h_hat)
            terms["global_id"] = o.global_id * self._cross_entropy(coarse, pids)  # eq. 6
        if o.global_kind == "agfe":
            g = outputs["globals"]
            # h = sum_k q_k g_k is linear, so the classifier is applied to the K strips and not to the n^2 vectors.
            pair = q[:, None] * q[None]
            pair = pair / pair.sum(2, keepdim=True).clamp_min(1e-6)  # eq. 11
            logits = torch.einsum("pgk,pkc->pgc", pair, self.global_classifier(g).float())
            # Eq. 12 adds CE(h_g^p) and CE(h_p^g) over all ordered pairs: every vector twice.
            terms["pair_id"] = (
                o.pair_id * 2 * self._cross_entropy(logits.flatten(0, 1), pids.repeat_interleave(len(pids)))
            )
            distances = pair_global_distance(g, q, g, q)
            terms["global_triplet"] = o.global_triplet * batch_hard(distances, pids, o.margin)  # eq. 13
        elif o.global_kind != "none":
            h = outputs["globals"]
            terms["pair_id"] = o.pair_id * self._cross_entropy(self.global_classifier(h), pids)
            terms["global_triplet"] = o.global_triplet * batch_hard(cosine_distance(h, h), pids, o.margin)
        return terms

    def _cross_entropy(self, logits: Tensor, pids: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), pids, label_smoothing=self.options.smoothing)

    def distances(self, outputs: Outputs) -> dict[str, Tensor]:
        """`part`: eq. 2; `global`: cosine distance of the global features (of each pair's own, where there is AGFE)."""
        o, q = self.options, outputs["weights"]
        found: dict[str, Tensor] = {}
        if o.has_parts:
            f = outputs["parts"]
            found["part"] = part_distance(f, q, f, q)
        if o.global_kind == "agfe":
            g = outputs["globals"]
            found["global"] = pair_global_distance(g, q, g, q)
        elif o.global_kind != "none":
            found["global"] = cosine_distance(outputs["globals"], outputs["globals"])
        return found

    def vector(self, outputs: Outputs) -> Tensor:
        """The global strips, or without them the parts, fused by the crop's own scores (eq. 5)."""
        strips = outputs.get("globals", outputs.get("parts"))
        assert strips is not None
        return weighted_mean(strips, outputs["weights"]) if strips.ndim == 3 else strips

    def embed(self, outputs: Outputs) -> Embedding:
        """`weights` `[n, K]`, and of `parts` and `globals` what the row matches with."""
        kept = {"weights": outputs["weights"].float()}
        if self.options.matches_parts:
            kept["parts"] = F.normalize(outputs["parts"].float(), dim=2)
        if self.options.global_kind != "none":
            kept["globals"] = outputs["globals"].float()
        return Embedding(kept)

    def distance(self, gamma: float | None = None, neighbours: int | None = None) -> Distance:
        """The row's distance; for the whole method eq. 2 for all, then eq. 15 for the nearest n.

        Args:
            gamma: weight of the part distance in eq. 15; the option's where not given.
            neighbours: n; the option's where not given.

        Raises:
            ConfigError: gamma is not in [0, 1], or n is below 1.
        """
        o = self.options
        parts = PartDistance(names=tuple(region.name for region in self.regions))
        if o.global_kind == "none":
            return parts
        whole: Distance = PairGlobalDistance() if o.global_kind == "agfe" else GlobalDistance("globals")
        if not o.matches_parts:
            return whole
        gamma = o.gamma if gamma is None else gamma
        if not 0.0 <= gamma <= 1.0:
            raise ConfigError("gamma", f"{gamma} is not a share", "give a number from 0 to 1")
        terms = ((gamma, parts), (1.0 - gamma, whole))  # eq. 15
        mixed = MixedDistance(tuple(term for term in terms if term[0] > 0))
        return Cascade(coarse=parts, fine=mixed, n=o.neighbours if neighbours is None else neighbours)

    @property
    def regions(self) -> tuple[Region, ...]:
        """K strips."""
        return strips_of(self.options.strips)
