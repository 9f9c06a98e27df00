"""ResNet-50, plain and with IBN, HRNet-W32 and MobileNetV2 of timm as maps at stride 16."""

from __future__ import annotations

from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glimpse.backbones.backbone import Backbone, Look
from glimpse.backbones.ibn import IBN


class ResNet50(Backbone):
    """ResNet-50 whose last stage keeps its input's resolution (stride 1, no dilation), as PCB does.

    Map: 2048 channels at stride 16.

    Args:
        ibn: ResNet-50-IBN-a (Pan et al., ECCV 2018): the first norm of each block of the first three stages is an IBN.
    """

    def __init__(self, *, ibn: bool = False) -> None:
        super().__init__()
        self.net = cast(Any, timm.create_model("resnet50", num_classes=0, global_pool=""))
        first = self.net.layer4[0]
        first.conv2.stride = (1, 1)
        first.downsample[0].stride = (1, 1)
        self.channels, self.first_channels, self.early_channels = 2048, 256, 1024
        if ibn:
            for stage in (self.net.layer1, self.net.layer2, self.net.layer3):
                for block in stage:
                    block.bn1 = IBN(block.bn1.num_features)

    def look(self, x: Tensor, visible: Tensor | None = None) -> Look:
        """Map `[n, 2048, H/16, W/16]`. Nothing in the plain network looks at the whole crop, so `visible` changes
        nothing; the instance norms of IBN do, and are not told what is visible.

        A visibility head looks at the third stage.
        """
        net = self.net
        x = net.maxpool(net.act1(net.bn1(net.conv1(x))))
        x, attention = self.attend(net.layer1(x))
        early = net.layer3(net.layer2(x))
        return Look(net.layer4(early), *self.see(early, visible), attention)


class HRNetW32(Backbone):
    """HRNet-W32 (Sun et al., CVPR 2019): its four branches, widened as in its classifier, joined at stride 16.

    The paper of QPM names the backbone but not how its map is made; ISP, which it follows, joins the same 1,920
    channels at stride 4. Stride 16 keeps the strips and the cost of the other backbones.
    Map: 1,920 channels at stride 16.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = cast(Any, timm.create_model("hrnet_w32", num_classes=0, global_pool=""))
        self.channels = self.early_channels = 1920
        self.first_channels = 256

    def look(self, x: Tensor, visible: Tensor | None = None) -> Look:
        """Map `[n, 1920, H/16, W/16]`, which a visibility head looks at too; `visible` changes nothing in it."""
        net = self.net
        x = net.act1(net.bn1(net.conv1(x)))
        x = net.act2(net.bn2(net.conv2(x)))
        x, attention = self.attend(net.layer1(x))
        branches = net.stage2([step(x) for step in net.transition1])
        for transition, stage in ((net.transition2, net.stage3), (net.transition3, net.stage4)):
            # A branch goes on as it is, or a new one is made of the last.
            steps = enumerate(transition)
            branches = stage([branches[i] if isinstance(s, nn.Identity) else s(branches[-1]) for i, s in steps])
        branches = [increase(branch) for increase, branch in zip(net.incre_modules, branches, strict=True)]
        size = branches[2].shape[-2:]
        at_16 = [
            F.adaptive_avg_pool2d(b, size)
            if b.shape[-2] >= size[0]
            else F.interpolate(b, size=size, mode="bilinear", align_corners=False)
            for b in branches
        ]
        features = torch.cat(at_16, dim=1)
        return Look(features, *self.see(features, visible), attention)


class MobileNetV2(Backbone):
    """MobileNetV2 1.0 with output stride 16 (the last strided layer dilated). Map: 1,280 channels.

    Args:
        pad_type: timm's padding; `"same"` for weights that come from TensorFlow.
    """

    def __init__(self, pad_type: str = "") -> None:
        super().__init__()
        self.net = cast(
            Any,
            timm.create_model("mobilenetv2_100", num_classes=0, global_pool="", output_stride=16, pad_type=pad_type),
        )
        self.channels, self.first_channels, self.early_channels = 1280, 24, 96

    def look(self, x: Tensor, visible: Tensor | None = None) -> Look:
        """Map `[n, 1280, H/16, W/16]`; `visible` changes nothing in it. A visibility head looks at the fifth stage."""
        net = self.net
        x, attention = self.attend(net.blocks[:2](net.bn1(net.conv_stem(x))))
        early = net.blocks[2:5](x)
        return Look(net.bn2(net.conv_head(net.blocks[5:](early))), *self.see(early, visible), attention)
