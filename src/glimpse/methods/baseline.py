"""The baseline: one global feature, BNNeck, identity loss and batch-hard triplet.

Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-identification", CVPRW 2019. With the triplet off it
is the IDE model (Zheng et al., arXiv 1610.02984) from which QPM is fine-tuned.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from glimpse.backbones import Backbone
from glimpse.cues.needs import Cues
from glimpse.embedding import Embedding
from glimpse.matching import GlobalDistance
from glimpse.matching.kernels import cosine_distance
from glimpse.methods.method import Method, Outputs, Region
from glimpse.methods.parts import BNNeck, Classifier, batch_hard, cells, global_mean


class BaselineOptions(BaseModel):
    """Options of the baseline.

    Attributes:
        triplet: whether the batch-hard triplet takes part; without it this is IDE.
        margin: margin of the triplet, on cosine distance.
        smoothing: label smoothing of the identity loss.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    triplet: bool = True
    margin: float = Field(default=0.3, ge=0)
    smoothing: float = Field(default=0.1, ge=0, lt=1)


class Baseline(Method):
    """Global average of the map -> BNNeck -> classifier; cosine distance of what the BNNeck gives.

    Args:
        backbone: images -> map, with `.channels`.
        ids: number of training identities; 0 for a network that only embeds.
    """

    name = "baseline"
    Options = BaselineOptions
    options: BaselineOptions

    def __init__(self, backbone: Backbone, ids: int, options: BaselineOptions | None = None) -> None:
        super().__init__()
        self.options = options or BaselineOptions()
        self.backbone = backbone
        self.neck = BNNeck(backbone.channels)
        self.classifier = Classifier(backbone.channels, ids)

    def heads(self, features: Tensor, visible: Tensor | None = None, cues: Cues | None = None) -> Outputs:
        """`pooled` and `globals`, each `[n, c]`."""
        pooled = global_mean(features, cells(visible, features))
        return {"pooled": pooled, "globals": self.neck(pooled.float())}

    def losses(self, outputs: Outputs, pids: Tensor) -> dict[str, Tensor]:
        """`id`: cross entropy after the neck; `triplet`: batch-hard on the cosine distance before it."""
        logits = self.classifier(outputs["globals"])
        terms = {"id": F.cross_entropy(logits.float(), pids, label_smoothing=self.options.smoothing)}
        if self.options.triplet:
            pooled = outputs["pooled"].float()
            terms["triplet"] = batch_hard(cosine_distance(pooled, pooled), pids, self.options.margin)
        return terms

    def distances(self, outputs: Outputs) -> dict[str, Tensor]:
        """`global`: cosine distance after the neck."""
        return {"global": cosine_distance(outputs["globals"], outputs["globals"])}

    def vector(self, outputs: Outputs) -> Tensor:
        """What the neck gives."""
        return outputs["globals"]

    def embed(self, outputs: Outputs) -> Embedding:
        """`globals` `[n, c]`."""
        return Embedding({"globals": outputs["globals"].float()})

    def distance(self) -> GlobalDistance:
        """Cosine distance of the global features."""
        return GlobalDistance("globals")

    @property
    def regions(self) -> tuple[Region, ...]:
        """One region: the whole crop."""
        return (Region("global", (0.0, 0.0, 1.0, 1.0)),)
