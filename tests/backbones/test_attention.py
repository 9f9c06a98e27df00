"""An attention after the first stage is given the map at stride 4, and later stages see what it makes of it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from glimpse.backbones import BACKBONES, build_backbone, load_start
from glimpse.backbones.fast import folded
from glimpse.errors import WeightsError

SIZE = (128, 64)


class Gate(nn.Module):
    """Lets the upper half through."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.seen: tuple[int, ...] = ()
        self.to_logits = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.seen = tuple(x.shape)
        upper = torch.ones_like(x)
        upper[:, :, x.shape[2] // 2 :] = 0
        return x * upper, self.to_logits(x)


@pytest.mark.parametrize("name", ["osnet_x0_25", "resnet50", "hrnet_w32", "mobilenetv2_100_same"])
def test_the_second_stage_sees_what_the_attention_lets_through(name: str) -> None:
    assert name in BACKBONES
    torch.manual_seed(0)
    network = build_backbone(name).eval()
    x = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        plain = network.look(x)
        assert plain.attention is None
        gate = Gate(network.first_channels)
        network.attention = gate
        gated = network.look(x)
        assert gate.seen == (1, network.first_channels, 32, 16)
        assert gated.attention is not None
        assert gated.attention.shape == (1, 1, 32, 16)
        assert gated.features.shape == plain.features.shape
        lower = (gated.features - plain.features)[:, :, -1].abs().mean()
        assert float(lower) > 0
        torch.testing.assert_close(folded(network).look(x).features, gated.features, atol=1e-3, rtol=1e-3)
    assert "attention.to_logits.weight" in network.state_dict()


def test_hrnet_goes_through_its_stages_as_timm_does() -> None:
    torch.manual_seed(0)
    network = build_backbone("hrnet_w32").eval()
    net = network.net
    x = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        stem = net.act2(net.bn2(net.conv2(net.act1(net.bn1(net.conv1(x))))))
        branches = [increase(b) for increase, b in zip(net.incre_modules, net.stages(stem), strict=True)]
        first = nn.functional.adaptive_avg_pool2d(branches[0], (8, 4))
        torch.testing.assert_close(network.look(x).features[:, : first.shape[1]], first)
        last = nn.functional.interpolate(branches[3], size=(8, 4), mode="bilinear", align_corners=False)
        torch.testing.assert_close(network.look(x).features[:, -last.shape[1] :], last)


def gated(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    backbone = build_backbone("osnet_x0_25")
    backbone.attention = Gate(backbone.first_channels)
    return backbone


def test_a_start_brings_its_attention_or_has_none(tmp_path: Path) -> None:
    trained, other = gated(0), gated(1)
    save_file({f"backbone.{k}": v for k, v in trained.state_dict().items()}, tmp_path / "whole.safetensors")
    load_start(other, "osnet_x0_25", tmp_path / "whole.safetensors")
    assert torch.equal(other.attention.to_logits.weight, trained.attention.to_logits.weight)
    plain = {k: v for k, v in trained.state_dict().items() if not k.startswith("attention.")}
    save_file(plain, tmp_path / "plain.safetensors")
    other = gated(1)
    before = other.attention.to_logits.weight.clone()
    load_start(other, "osnet_x0_25", tmp_path / "plain.safetensors")
    assert torch.equal(other.attention.to_logits.weight, before)
    assert torch.equal(other.stem.weight, trained.stem.weight)
    with pytest.raises(WeightsError, match=r"whole\.safetensors: has another attention .*Remedy: train"):
        load_start(build_backbone("osnet_x0_25"), "osnet_x0_25", tmp_path / "whole.safetensors")
    other = gated(1)
    del other.attention.to_logits.bias
    other.attention.to_logits.bias = None  # an attention that lacks something of it
    with pytest.raises(WeightsError, match=r"whole\.safetensors: has another attention"):
        load_start(other, "osnet_x0_25", tmp_path / "whole.safetensors")
