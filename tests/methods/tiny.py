"""A backbone small enough to reason about: each cell of its map sees one square of 16 x 16 pixels and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

import glimpse
from glimpse.backbones import Backbone, Look
from glimpse.cues.needs import Cues
from glimpse.methods import Method


class Tiny(Backbone):
    """Images `[n, 3, H, W]` -> map `[n, channels, H/16, W/16]`."""

    def __init__(self, channels: int = 16, symmetric: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 16, stride=16)
        if symmetric:
            with torch.no_grad():
                self.conv.weight.copy_((self.conv.weight + self.conv.weight.flip(-1)) / 2)
        self.channels = channels

    def look(self, x: Tensor, visible: Tensor | None = None) -> Look:
        return Look(F.relu(self.conv(x)), visible)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, height: int = 96, width: int = 32, seed: int = 0) -> Tensor:
    """Noise whose colour differs from square to square."""
    coarse = 2 * torch.randn(n, 3, height // 16, width // 16, generator=seeded(seed))
    return F.interpolate(coarse, scale_factor=16) + torch.randn(n, 3, height, width, generator=seeded(seed + 1))


def settled(method: Method, seed: int = 0) -> Method:
    """The method in eval mode, its batch norms filled with numbers that are not the identity."""
    random = seeded(seed)
    for module in method.modules():
        if isinstance(module, nn.BatchNorm1d):
            with torch.no_grad():
                module.running_mean.normal_(0, 0.2, generator=random)
                module.running_var.uniform_(0.5, 1.5, generator=random)
                module.weight.uniform_(0.5, 1.5, generator=random)
                if module.bias.requires_grad:
                    module.bias.normal_(0, 0.3, generator=random)
    return method.eval()


def fit(method: Method, x: Tensor, pids: Tensor, steps: int = 12, lr: float = 0.01) -> list[float]:
    """The sum of the losses before each step on one fixed batch."""
    method.train()
    optimiser = torch.optim.Adam(method.parameters(), lr=lr)
    sums = []
    for _ in range(steps):
        total = sum(method.losses(method(x), pids).values())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        sums.append(float(total))
    return sums


def recipe(name: str) -> dict[str, Any]:
    """An installed recipe as it is written."""
    path = Path(glimpse.__file__).parent / "recipes" / f"{name}.yaml"
    settings: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return settings


def embedded_alike(method: Method, x: Tensor, cues: Cues) -> None:
    """Assert that the fourth crop is embedded alike alone and among others."""
    with torch.no_grad():
        together = method.embed(method(x, None, cues))
        alone = method.embed(method(x[3:4], None, Cues(*(t[3:4] for t in cues))))
    for name in together.names:
        assert_close(alone[name], together[name][3:4], rtol=0, atol=1e-5)
