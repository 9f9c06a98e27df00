"""What every backbone is, and what it can learn to tell about occlusion."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Look(NamedTuple):
    """What a backbone makes of images.

    Attributes:
        features: map F, `[n, channels, H/16, W/16]`.
        seen: what of each crop shows the person, in [0, 1]: the prompt as it was given, `[n, H, W]`, or with a
            visibility head one value per cell, `[n, H/16, W/16]`; `None` where nothing is known.
        logits: of the visibility head, `[n, H/16, W/16]`.
        attention: of the attention after the first stage, logits `[n, 1, H/4, W/4]`.
    """

    features: Tensor
    seen: Tensor | None
    logits: Tensor | None = None
    attention: Tensor | None = None


def to_cells(visible: Tensor, features: Tensor) -> Tensor:
    """Visible share of each cell of a map `[..., h, w]`, from masks `[n, H, W]`: float32 `[n, h, w]`."""
    return F.adaptive_avg_pool2d(visible[:, None].float(), (features.shape[-2], features.shape[-1]))[:, 0]


class VisibilityHead(nn.Module):
    """Tells which cells of a crop show the person, from the map of an early stage.

    Early, because later stages have mixed what is visible with what covers it. Its 3 x 3 layers widen and narrow again
    (`DILATIONS`), so that a cell is judged by 21 x 21 cells, most of the crop: inside a large cover only its distant
    edge tells it from background. It learns from covers whose place is known (see `Stage.visibility` of the recipes),
    and stands in for the prompt that nobody gave.

    Args:
        channels: of the early map.
        width: of the layers between.
    """

    DILATIONS = (1, 2, 4, 2, 1)

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        wide = [layer for dilation in self.DILATIONS for layer in self._layer(width, width, dilation, 3)]
        self.layers = nn.Sequential(*self._layer(channels, width, 1), *wide)
        self.last = nn.Conv2d(width, 1, 1, bias=False)
        self.bias = nn.Parameter(torch.tensor(2.0))  # what is not known to be hidden counts as visible

    @staticmethod
    def _layer(inputs: int, outputs: int, dilation: int, size: int = 1) -> tuple[nn.Module, nn.Module, nn.Module]:
        conv = nn.Conv2d(inputs, outputs, size, padding=dilation * (size // 2), dilation=dilation, bias=False)
        return conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)

    def forward(self, early: Tensor, visible: Tensor | None) -> tuple[Tensor, Tensor]:
        """Judge each cell.

        Args:
            early: map `[n, channels, h, w]`.
            visible: prompt `[n, H, W]` or `None`; what it hides is hidden, whatever the head thinks.

        Returns:
            (share of each cell that is visible, float32 `[n, h, w]`, without gradient: only the truth teaches the
            head; logits `[n, h, w]`).
        """
        logits: Tensor = self.last(self.layers(early))[:, 0].float() + self.bias
        seen = logits.detach().sigmoid()
        if visible is not None:
            seen = seen * to_cells(visible, early)
        return seen, logits

    def loss(self, logits: Tensor, visible: Tensor) -> Tensor:
        """Binary cross entropy of `logits` `[n, h, w]` against the true share `visible` `[n, H, W]` of each cell."""
        return F.binary_cross_entropy_with_logits(logits, to_cells(visible, logits))


class Backbone(nn.Module, ABC):
    """Images -> map at stride 16.

    Attributes:
        channels: of the map.
        first_channels: of the map after the first stage, at stride 4.
        early_channels: of the map that a visibility head looks at.
        visibility: that head, if there is one (see `build_backbone`).
        attention: what a method puts after the first stage, if it puts anything there: from a map `[n, c, H/4, W/4]` to
            the map that the second stage is to see and logits `[n, 1, H/4, W/4]`.
    """

    channels: int
    first_channels: int
    early_channels: int

    def __init__(self) -> None:
        super().__init__()
        # Not on the class: there it would hide the module that `build_backbone` puts in its place.
        self.visibility: VisibilityHead | None = None
        self.attention: nn.Module | None = None

    @abstractmethod
    def look(self, x: Tensor, visible: Tensor | None = None) -> Look:
        """The map of normalised images `[n, 3, H, W]`, and what is known of their visible region.

        Args:
            x: images.
            visible: prompt `[n, H, W]`: what of each image shows the person, if somebody says so.
        """

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """The map alone, `[n, channels, H/16, W/16]`."""
        return self.look(x, visible).features

    def attend(self, first: Tensor) -> tuple[Tensor, Tensor | None]:
        """The map after the first stage as the second is to see it, and the logits of the attention."""
        if self.attention is None:
            return first, None
        seen, logits = self.attention(first)
        return seen, logits

    def see(self, early: Tensor, visible: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """`(seen, logits)` of a `Look`, from the early map that a visibility head looks at `[n, channels, h, w]`."""
        if self.visibility is None:
            return visible, None
        seen, logits = self.visibility(early, visible)
        return seen, logits
