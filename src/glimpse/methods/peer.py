"""The peer to beat: Intel's person-reidentification-retail-0265 with its own global head, as published.

One vector for a whole crop: a depthwise convolution over the whole 16 x 8 map, a fully connected layer, batch norm and
PReLU, compared by cosine. It is here to be compared with; glimpse does not train it.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from glimpse.backbones import Backbone
from glimpse.cues.needs import Cues
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError
from glimpse.matching import GlobalDistance, cosine_distance
from glimpse.methods.method import Method, Outputs, Region


class PeerOptions(BaseModel):
    """The peer has no options."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Peer(Method):
    """The published head on its own backbone (`osnet_lct_x1_0`, input 256 x 128).

    A prompt reaches it as blanked pixels only: the published network is not changed.
    """

    name = "peer"
    knows_prompts = False
    Options = PeerOptions
    options: PeerOptions

    def __init__(self, backbone: Backbone, ids: int, options: PeerOptions | None = None) -> None:
        super().__init__()
        self.options = options or PeerOptions()
        self.backbone = backbone
        self.head_pool = nn.Conv2d(512, 512, (16, 8), groups=512)
        self.head_fc = nn.Linear(512, 256)
        self.head_bn = nn.BatchNorm1d(256)
        self.head_act = nn.PReLU(1)

    def heads(self, features: Tensor, visible: Tensor | None = None, cues: Cues | None = None) -> Outputs:
        """`globals` `[n, 256]`."""
        if features.shape[2:] != (16, 8):
            raise ConfigError(
                "input size", f"the peer's head needs a 16 x 8 map, not {tuple(features.shape[2:])}", "use 256 x 128"
            )
        pooled = self.head_pool(features.to(self.head_pool.weight.dtype)).flatten(1).float()
        return {"globals": self.head_act(self.head_bn(self.head_fc(pooled)))}

    def losses(self, outputs: Outputs, pids: Tensor) -> dict[str, Tensor]:
        """Refused: the peer is compared with as it was published."""
        raise ConfigError("method 'peer'", "is not trained here", "train another method from its backbone")

    def distances(self, outputs: Outputs) -> dict[str, Tensor]:
        """`global`: cosine distance."""
        return {"global": cosine_distance(outputs["globals"], outputs["globals"])}

    def vector(self, outputs: Outputs) -> Tensor:
        """`globals`."""
        return outputs["globals"]

    def embed(self, outputs: Outputs) -> Embedding:
        """`globals` `[n, 256]`."""
        return Embedding({"globals": outputs["globals"].float()})

    def distance(self) -> GlobalDistance:
        """Cosine distance."""
        return GlobalDistance("globals")

    @property
    def regions(self) -> tuple[Region, ...]:
        """One region: the whole crop."""
        return (Region("global", (0.0, 0.0, 1.0, 1.0)),)
