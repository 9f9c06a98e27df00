"""ResNet-50, HRNet-W32 and MobileNetV2 as maps at stride 16."""

import pytest
import torch

from glimpse.backbones import build_backbone


@pytest.mark.parametrize("name", ["resnet50", "hrnet_w32", "mobilenetv2_100", "mobilenetv2_100_same"])
def test_map_is_at_stride_16_with_the_channels_it_says(name):
    network = build_backbone(name).eval()
    with torch.no_grad():
        features = network(torch.zeros(1, 3, 96, 32), torch.ones(1, 96, 32))
    assert features.shape == (1, network.channels, 6, 2)
    assert network.channels == {"resnet50": 2048, "hrnet_w32": 1920}.get(name, 1280)
    if name == "resnet50":
        # Stride 1 in place of 2, and no dilation, as PCB does.
        first = network.net.layer4[0]
        assert (first.conv2.stride, first.conv2.dilation, first.downsample[0].stride) == ((1, 1), (1, 1), (1, 1))
        assert 23_500_000 < sum(p.numel() for p in network.parameters()) < 23_600_000
