"""OSNet: omni-scale residual blocks with a shared gate (Zhou et al., ICCV 2019, arXiv 1905.00953).

The plain network is the paper's. Two options make it the network of Intel's person-reidentification-retail-0265:
instance norm on the input and after the stem, and the second block of each stage gated by LCT
(Linear Context Transform, Ruan et al., arXiv 1909.03834) instead of squeeze-and-excitation.

Map: 512 x width channels at stride 16 for any input size.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glimpse.backbones.backbone import Backbone, Look, to_cells

GateKind = Literal["se", "lct"]


class ConvBN(nn.Module):
    """1x1 convolution without bias, batch norm, and ReLU unless it closes a residual path."""

    def __init__(self, inputs: int, outputs: int, relu: bool = True) -> None:
        super().__init__()
        self.conv: nn.Module = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(outputs)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """`[n, inputs, h, w]` -> `[n, outputs, h, w]`."""
        x = self.bn(self.conv(x))
        return F.relu(x, inplace=True) if self.relu else x


class Lite(nn.Module):
    """Lite 3x3 layer (paper, fig. 3b): pointwise, then depthwise convolution, batch norm, ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.depthwise: nn.Module = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in and out."""
        return F.relu(self.bn(self.depthwise(self.pointwise(x))), inplace=True)


def masked_mean(x: Tensor, visible: Tensor | None) -> Tensor:
    """Mean of `x` `[n, c, h, w]` over the cells that `visible` `[n, 1, h, w]` shows, or over all: `[n, c, 1, 1]`."""
    if visible is None:
        return F.adaptive_avg_pool2d(x, 1)
    return (x * visible).sum((2, 3), keepdim=True) / visible.sum((2, 3), keepdim=True).clamp_min(1e-6)


class SEGate(nn.Module):
    """Unified aggregation gate (paper, eq. 4): global average, two 1x1 layers with reduction r, sigmoid."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """Gate `[n, c, 1, 1]` of `[n, c, h, w]`."""
        return torch.sigmoid(self.fc2(F.relu(self.fc1(masked_mean(x, visible)))))


class LCTGate(nn.Module):
    """Linear context transform: global average, group norm of the pooled channels, sigmoid."""

    def __init__(self, channels: int, groups: int = 16) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-9)

    def forward(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """Gate `[n, c, 1, 1]` of `[n, c, h, w]`."""
        norm = self.norm
        pooled = masked_mean(x, visible).float()
        context = F.group_norm(pooled, norm.num_groups, norm.weight.float(), norm.bias.float(), norm.eps)
        return torch.sigmoid(context).to(x.dtype)


class OSBlock(nn.Module):
    """Omni-scale residual block (paper, fig. 4): four streams of 1 to 4 lite layers under one shared gate."""

    def __init__(self, inputs: int, outputs: int, gate: GateKind) -> None:
        super().__init__()
        width = outputs // 4
        self.reduce = ConvBN(inputs, width)
        self.streams = nn.ModuleList(nn.Sequential(*(Lite(width) for _ in range(depth))) for depth in range(1, 5))
        self.gate = SEGate(width) if gate == "se" else LCTGate(width)
        self.expand = ConvBN(width, outputs, relu=False)
        self.shortcut = ConvBN(inputs, outputs, relu=False) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """`[n, inputs, h, w]` -> `[n, outputs, h, w]`."""
        reduced = self.reduce(x)
        joined: Tensor | None = None
        for stream in self.streams:
            scale = stream(reduced)
            gate = self.gate(scale, visible).to(scale.dtype)
            joined = scale * gate if joined is None else torch.addcmul(joined, scale, gate)
        return F.relu(self.expand(joined).add_(self.shortcut(x)), inplace=True)


class MaskedInstanceNorm(nn.InstanceNorm2d):
    """Instance norm whose statistics come from the visible cells only, where a mask is given.

    Written out, in float32, because torch's own is several times slower on channels-last CPU tensors.
    """

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Same shape in and out."""
        # For another engine, which knows the layer by its name.
        if visible is None and torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            return super().forward(x)
        y = x.float()
        mean = masked_mean(y, visible)
        variance = (masked_mean(y * y, visible) - mean * mean).clamp_min(0.0)
        scale = self.weight.float()[:, None, None] * (variance + self.eps).rsqrt()
        return torch.addcmul(self.bias.float()[:, None, None] - mean * scale, y, scale).to(x.dtype)


class OSNet(Backbone):
    """OSNet without its classifier.

    Args:
        width: 0.25, 0.5, 0.75 or 1.0; the map has 512 x width channels.
        instance_norm: instance norm on the input and after the stem's convolution (there instead of batch norm).
        second_gate: gate of the second block of each stage.

    >>> OSNet(0.25)(torch.zeros(2, 3, 128, 64)).shape
    torch.Size([2, 128, 8, 4])
    """

    def __init__(self, width: float = 1.0, instance_norm: bool = False, second_gate: GateKind = "se") -> None:
        super().__init__()
        c0, c1, c2, c3 = (int(c * width) for c in (64, 256, 384, 512))
        self.input_norm = MaskedInstanceNorm(3, affine=True) if instance_norm else None
        self.stem = nn.Conv2d(3, c0, 7, stride=2, padding=3, bias=False)
        self.stem_norm: nn.Module = MaskedInstanceNorm(c0, affine=True) if instance_norm else nn.BatchNorm2d(c0)
        self.stage1 = nn.ModuleList([OSBlock(c0, c1, "se"), OSBlock(c1, c1, second_gate)])
        self.down1 = ConvBN(c1, c1)
        self.stage2 = nn.ModuleList([OSBlock(c1, c2, "se"), OSBlock(c2, c2, second_gate)])
        self.down2 = ConvBN(c2, c2)
        self.stage3 = nn.ModuleList([OSBlock(c2, c3, "se"), OSBlock(c3, c3, second_gate)])
        self.final = ConvBN(c3, c3)
        self.channels, self.first_channels, self.early_channels = c3, c1, c2
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def look(self, x: Tensor, visible: Tensor | None = None) -> Look:
        """Map `[n, 512 width, H/16, W/16]` of normalised images `[n, 3, H, W]`.

        With `visible` `[n, H, W]`, whatever the network averages over the whole crop (instance norms, gates)
        it averages over the visible region only, so that the hidden region changes no channel of the visible one.
        A visibility head looks at the second stage, and the third sees nothing of the cells that it finds hidden.
        """

        def at(features: Tensor) -> Tensor | None:
            return None if visible is None else to_cells(visible, features)[:, None].to(features.dtype)

        if self.input_norm is not None:
            x = self.input_norm(x, at(x))
        x = self.stem(x)
        x = self.stem_norm(x, at(x)) if isinstance(self.stem_norm, MaskedInstanceNorm) else self.stem_norm(x)
        x = F.max_pool2d(F.relu(x, inplace=True), 3, stride=2, padding=1)
        for stage, down in ((self.stage1, self.down1), (self.stage2, self.down2)):
            shown = at(x)
            for block in stage:
                x = block(x, shown)
            if stage is self.stage1:
                x, attention = self.attend(x)
            early = x
            x = F.avg_pool2d(down(x), 2)
        seen, logits = self.see(F.avg_pool2d(early, 2), visible)
        shown = at(x)
        if self.visibility is not None and seen is not None:
            shown = seen[:, None].to(x.dtype)
            x = x * shown
        for block in self.stage3:
            x = block(x, shown)
        return Look(self.final(x), seen, logits, attention)
