"""The contract of a method: a network, its losses and a distance, whatever paper they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from glimpse.embedding import Embedding
from glimpse.matching.distance import Distance

Outputs = dict[str, Tensor]
"""What `forward` hands to `losses`: named tensors."""


class Method(nn.Module, ABC):
    """A backbone, heads on its map, the losses that train them and the distance that compares what they say.

    The two steps are apart (`backbone(images) -> map`, `heads(map) -> outputs`) so that heads can be trained on
    cached maps of a frozen backbone.

    `visible` is the prompt: which part of a crop is the person, as `[n, h, w]` in [0, 1] at any resolution
    (1 = the person's region, 0 = hidden); `None` means the whole crop.
    """

    name: str
    backbone: nn.Module

    @abstractmethod
    def heads(self, features: Tensor, visible: Tensor | None = None) -> Outputs:
        """Everything that training or embedding needs, from maps `[n, c, h, w]`."""

    def forward(self, images: Tensor, visible: Tensor | None = None) -> Outputs:
        """Outputs for normalised images `[n, 3, H, W]`."""
        return self.heads(self.backbone(images), visible)

    @abstractmethod
    def losses(self, outputs: Outputs, pids: Tensor) -> dict[str, Tensor]:
        """Named terms whose sum is minimised; `pids` are class indices `[n]` int64."""

    @abstractmethod
    def embed(self, outputs: Outputs) -> Embedding:
        """What matching needs of `outputs`, one row per crop."""

    @abstractmethod
    def distance(self, **options: Any) -> Distance:
        """The distance that compares embeddings of this method."""
