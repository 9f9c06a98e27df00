"""A norm of which half looks at each crop by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class IBN(nn.Module):
    """Instance norm on the first half of the channels, batch norm on the others (Pan et al., ECCV 2018).

    Its tensors are called as in the weights that were published with that paper.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.split = channels // 2
        self.IN = nn.InstanceNorm2d(self.split, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.split)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, c, h, w]` -> the same."""
        return torch.cat([self.IN(x[:, : self.split]), self.BN(x[:, self.split :])], 1)
