"""OSNet: its shapes and size, and that under a mask nothing hidden is averaged over."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from glimpse.backbones import OSNet, build_backbone
from glimpse.backbones.fast import folded
from glimpse.backbones.osnet import LCTGate, MaskedInstanceNorm, OSBlock, SEGate, masked_mean

quick = settings(max_examples=20, deadline=None, database=None)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def calibrated(network: nn.Module, x: torch.Tensor) -> nn.Module:
    """The network in eval mode, its batch norms set to the statistics of `x`."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        network.train()(x)
    return network.eval()


@pytest.mark.parametrize(("width", "channels"), [(0.25, 128), (0.5, 256), (0.75, 384), (1.0, 512)])
def test_map_has_512_width_channels_at_stride_16(width, channels):
    network = OSNet(width).eval()
    assert network.channels == channels
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 64, 32)).shape == (2, channels, 4, 2)


@pytest.mark.parametrize(("height", "width"), [(32, 16), (97, 50), (100, 33), (31, 17)])
def test_any_size_goes_through(height, width):
    # The stem and the max pool round up, the two average pools down.
    expected = tuple(math.ceil(math.ceil(side / 2) / 2) // 2 // 2 for side in (height, width))
    with torch.no_grad():
        assert OSNet(0.25).eval()(torch.zeros(1, 3, height, width)).shape[2:] == expected


def test_full_width_has_the_papers_two_point_two_million_parameters():
    # The paper counts the embedding layer too (512 -> 512 with bias, batch norm), which this network leaves out.
    ours = sum(p.numel() for p in build_backbone("osnet_x1_0").parameters())
    assert ours == 1_905_828
    assert round((ours + 512 * 512 + 512 + 2 * 512) / 1e6, 1) == 2.2


def test_streams_share_the_gate_and_grow_by_one_layer():
    block = OSBlock(16, 32, "se")
    assert [len(stream) for stream in block.streams] == [1, 2, 3, 4]
    assert sum(isinstance(m, SEGate) for m in block.modules()) == 1


def test_block_is_the_gated_sum_of_its_streams():
    # Paper, eq. 3: x~ = sum_t G(x_t) * x_t, then a linear 1x1 layer, the shortcut and ReLU.
    block = calibrated_block()
    x = torch.rand(2, 16, 5, 4, generator=seeded())
    with torch.no_grad():
        reduced = block.reduce(x)
        streams = [stream(reduced.clone()) for stream in block.streams]
        joined = sum(s * block.gate(s, None) for s in streams)
        expected = (block.expand(joined) + block.shortcut(x)).clamp(min=0)
        assert_close(block(x, None), expected, rtol=0, atol=1e-5)


def calibrated_block() -> OSBlock:
    torch.manual_seed(0)

    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = OSBlock(16, 32, "se")

        def forward(self, x):
            return self.block(x, None)

    alone = calibrated(Alone(), torch.rand(4, 16, 8, 4, generator=seeded(1)))
    return alone.block


@given(seed=st.integers(0, 2**31), h=st.integers(1, 6), w=st.integers(1, 6), shown=st.booleans())
@quick
def test_masked_mean_is_the_mean_of_a_double_loop(seed, h, w, shown):
    x = torch.randn(2, 3, h, w, generator=seeded(seed))
    visible = torch.rand(2, 1, h, w, generator=seeded(seed + 1)) if shown else torch.ones(2, 1, h, w)
    for n in range(2):
        for c in range(3):
            total = weight = 0.0
            for i in range(h):
                for j in range(w):
                    total += float(x[n, c, i, j]) * float(visible[n, 0, i, j])
                    weight += float(visible[n, 0, i, j])
            assert abs(float(masked_mean(x, visible if shown else None)[n, c]) - total / weight) < 1e-4


def test_instance_norm_without_a_mask_is_torchs():
    norm = MaskedInstanceNorm(3, affine=True)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    x = 3 + 2 * torch.randn(2, 3, 9, 5, generator=seeded())
    expected = nn.functional.instance_norm(x, weight=norm.weight, bias=norm.bias, eps=norm.eps)
    assert_close(norm(x), expected, rtol=0, atol=1e-4)
    assert_close(norm(x, torch.ones(2, 1, 9, 5)), expected, rtol=0, atol=1e-4)


def test_masked_instance_norm_of_a_region_is_that_of_the_region_alone():
    norm = MaskedInstanceNorm(3, affine=True)
    x = torch.randn(2, 3, 8, 4, generator=seeded())
    mask = torch.zeros(2, 1, 8, 4)
    mask[:, :, 2:5, 1:] = 1
    assert_close(norm(x, mask)[:, :, 2:5, 1:], norm(x[:, :, 2:5, 1:]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", [MaskedInstanceNorm(32, affine=True), SEGate(32), LCTGate(32), masked_mean])
def test_hidden_content_moves_no_average(layer):
    x = torch.randn(2, 32, 6, 4, generator=seeded())
    mask = torch.zeros(2, 1, 6, 4)
    mask[:, :, :3] = 1
    other = torch.where(mask > 0, x, 50 * torch.randn(x.shape, generator=seeded(1)) - 20)
    with torch.no_grad():
        one, two = layer(x, mask), layer(other, mask)
        if one.shape == x.shape:
            one, two = one[:, :, :3], two[:, :, :3]
        assert_close(one, two, rtol=0, atol=1e-5)
        assert (layer(x, None)[..., :1, :] - layer(other, None)[..., :1, :]).abs().max() > 0.01


@pytest.mark.parametrize(("instance_norm", "gate"), [(False, "se"), (True, "lct")])
def test_far_hidden_pixels_reach_a_visible_cell_only_through_averages(instance_norm, gate):
    # A cell's receptive field reaches less than 250 pixels: rows past 480 reach rows to 200 by averages alone.
    torch.manual_seed(0)
    x = torch.randn(1, 3, 640, 16, generator=seeded())
    network = calibrated(OSNet(0.5, instance_norm, gate), x)
    other = x.clone()
    other[:, :, 480:] = 5 + 3 * torch.randn(1, 3, 160, 16, generator=seeded(1))
    visible = torch.zeros(1, 640, 16)
    visible[:, :200] = 1
    with torch.no_grad():
        seen = slice(0, 200 // 16)
        assert_close(network(x, visible)[:, :, seen], network(other, visible)[:, :, seen], rtol=0, atol=1e-4)
        assert (network(x)[:, :, seen] - network(other)[:, :, seen]).abs().max() > 0.01


def test_a_mask_that_shows_everything_is_no_mask():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 32, generator=seeded())
    network = calibrated(OSNet(0.5, True, "lct"), x)
    with torch.no_grad():
        assert_close(network(x, torch.ones(2, 64, 32)), network(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("instance_norm", "gate"), [(False, "se"), (True, "lct")])
def test_folded_computes_the_same_without_batch_norms(instance_norm, gate):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 64, 32, generator=seeded())
    network = calibrated(OSNet(0.5, instance_norm, gate), x)
    before = copy.deepcopy(network.state_dict())
    quick_one = folded(network)
    # Plain OSNet keeps the one batch norm of its stem.
    assert sum(isinstance(m, nn.BatchNorm2d) for m in quick_one.modules()) == (0 if instance_norm else 1)
    with torch.no_grad():
        exact = network(x)
        assert_close(quick_one(x), exact, rtol=0, atol=1e-4 * float(exact.max()))
        assert_close(folded(quick_one)(x), quick_one(x), rtol=0, atol=0)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), f"folding changed {name} of the original"
