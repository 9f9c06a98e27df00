"""What every backbone is."""

from __future__ import annotations

from torch import nn


class Backbone(nn.Module):
    """Images -> map: `forward(x [n, 3, H, W], visible [n, H, W] or None)` gives `[n, channels, H/16, W/16]`."""

    channels: int
