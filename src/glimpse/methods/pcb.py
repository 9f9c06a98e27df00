"""PCB: part-based convolutional baseline (Sun et al., ECCV 2018), without refined part pooling.

K strips, dropout, one 1x1 convolution shared by the strips, a classifier for each strip. The test descriptor is the
K pooled strips before the convolution, each of unit length.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from glimpse.backbones import Backbone
from glimpse.cues.needs import Cues
from glimpse.embedding import Embedding
from glimpse.matching import PartDistance, part_distance
from glimpse.methods.method import Method, Outputs, Region, strips_of
from glimpse.methods.parts import Classifiers, cells, part_cross_entropy, strip_means, strip_shares, weighted_mean


class PCBOptions(BaseModel):
    """Options of PCB.

    Attributes:
        strips: number of parts, K.
        dim: width of the shared 1x1 convolution.
        dropout: before the convolution.
        smoothing: label smoothing of the identity losses (none in the paper).
        descriptor: what is matched: the `pooled` strips, as published, or what the convolution makes of them
            (`reduced`), which a frozen backbone needs: nothing else of PCB can learn on it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strips: int = Field(default=6, ge=1)
    dim: int = Field(default=256, ge=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    descriptor: Literal["pooled", "reduced"] = "pooled"


class PCB(Method):
    """Strips of the map, each with its own identity loss; mean cosine distance of the strips.

    Under a prompt a strip counts by its visible share.

    Args:
        backbone: images -> map, with `.channels`.
        ids: number of training identities; 0 for a network that only embeds.
    """

    name = "pcb"
    Options = PCBOptions
    options: PCBOptions

    def __init__(self, backbone: Backbone, ids: int, options: PCBOptions | None = None) -> None:
        super().__init__()
        self.options = options or PCBOptions()
        self.backbone = backbone
        self.reduce = nn.Linear(backbone.channels, self.options.dim, bias=False)
        nn.init.kaiming_normal_(self.reduce.weight, mode="fan_out")
        self.norm = nn.BatchNorm1d(self.options.dim)
        self.classifiers = Classifiers(self.options.strips, self.options.dim, ids)

    def heads(self, features: Tensor, visible: Tensor | None = None, cues: Cues | None = None) -> Outputs:
        """`parts` `[n, K, c]`, `reduced` `[n, K, dim]`, `weights` `[n, K]`."""
        seen = cells(visible, features)
        parts = strip_means(features, self.options.strips, seen)
        reduced = self.reduce(F.dropout(parts, self.options.dropout, self.training))
        reduced = F.relu(self.norm(reduced.float().flatten(0, 1)).unflatten(0, reduced.shape[:2]))
        return {"parts": parts, "reduced": reduced, "weights": strip_shares(features, self.options.strips, seen)}

    def losses(self, outputs: Outputs, pids: Tensor) -> dict[str, Tensor]:
        """`id`: cross entropy, summed over the strips."""
        logits = self.classifiers(outputs["reduced"])
        return {"id": part_cross_entropy(logits, pids, self.options.smoothing, outputs["weights"].detach())}

    def distances(self, outputs: Outputs) -> dict[str, Tensor]:
        """`part`: weighted mean cosine distance of the strips' descriptors."""
        parts, weights = outputs[self._matched], outputs["weights"]
        return {"part": part_distance(parts, weights, parts, weights)}

    @property
    def _matched(self) -> str:
        return "parts" if self.options.descriptor == "pooled" else "reduced"

    def vector(self, outputs: Outputs) -> Tensor:
        """Mean of the strips that are matched, each weighted by its visible share."""
        return weighted_mean(outputs[self._matched], outputs["weights"])

    def embed(self, outputs: Outputs) -> Embedding:
        """`parts` of unit length, `[n, K, c]` or `[n, K, dim]`, and `weights` `[n, K]`."""
        parts = F.normalize(outputs[self._matched].float(), dim=2)
        return Embedding({"parts": parts, "weights": outputs["weights"].float()})

    def distance(self) -> PartDistance:
        """Mean cosine distance of the strips, each weighted by its visible shares."""
        return PartDistance(names=tuple(region.name for region in self.regions))

    @property
    def regions(self) -> tuple[Region, ...]:
        """K strips."""
        return strips_of(self.options.strips)
