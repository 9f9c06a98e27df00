"""ResNet-50, HRNet-W32 and MobileNetV2 as maps at stride 16."""

import pytest
import torch

from glimpse.backbones import build_backbone
from glimpse.backbones.ibn import IBN


@pytest.mark.parametrize("name", ["resnet50", "resnet50_ibn_a", "hrnet_w32", "mobilenetv2_100", "mobilenetv2_100_same"])
def test_map_is_at_stride_16_with_the_channels_it_says(name):
    network = build_backbone(name).eval()
    with torch.no_grad():
        features = network(torch.zeros(1, 3, 96, 32), torch.ones(1, 96, 32))
    assert features.shape == (1, network.channels, 6, 2)
    assert network.channels == {"resnet50": 2048, "resnet50_ibn_a": 2048, "hrnet_w32": 1920}.get(name, 1280)
    if name.startswith("resnet50"):
        # Stride 1 in place of 2, and no dilation, as PCB does.
        first = network.net.layer4[0]
        assert (first.conv2.stride, first.conv2.dilation, first.downsample[0].stride) == ((1, 1), (1, 1), (1, 1))
        assert 23_500_000 < sum(p.numel() for p in network.parameters()) < 23_600_000


def test_ibn_a_has_its_norms_in_three_stages_under_the_published_names():
    network = build_backbone("resnet50_ibn_a").net
    found = {name for name, module in network.named_modules() if isinstance(module, IBN)}
    blocks = {1: 3, 2: 4, 3: 6}
    assert found == {f"layer{stage}.{row}.bn1" for stage, count in blocks.items() for row in range(count)}
    names = network.state_dict().keys()
    assert {"layer2.0.bn1.IN.weight", "layer2.0.bn1.BN.running_mean", "layer4.0.bn1.weight"} <= names
    assert network.layer2[0].bn1.IN.num_features == network.layer2[0].bn1.BN.num_features == 64
    torch.manual_seed(0)
    norm, x = IBN(6).eval(), 5 + 3 * torch.randn(2, 6, 8, 4)
    y = norm(x)
    torch.testing.assert_close(y[:, :3].mean((2, 3)), torch.zeros(2, 3), atol=1e-5, rtol=0)  # of each crop by itself
    torch.testing.assert_close(y[:, 3:], x[:, 3:] / (1 + 1e-5) ** 0.5)  # by running statistics
