"""The head that tells which cells are visible, and what each backbone does with what it tells."""

import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from glimpse.backbones import BACKBONES, Backbone, OSNet, VisibilityHead, build_backbone, load_start
from glimpse.backbones.fast import folded
from glimpse.errors import WeightsError
from glimpse.methods import PCB, PCBOptions

quick = settings(max_examples=20, deadline=None, database=None)
SIZE = (64, 32)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(n: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, *SIZE, generator=seeded(seed))


def settled(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in eval mode, its batch norms set to the statistics of some images."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in norms:
        module.momentum = 1.0
    with torch.no_grad():
        network.train()(noise(8, seed))
    return network.eval()


def headless(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in network.state_dict().items() if not name.startswith("visibility.")}


class Says(VisibilityHead):
    """Says what it is told to."""

    def __init__(self, seen: torch.Tensor) -> None:
        super().__init__(1)
        self.said = torch.logit(seen)

    def forward(self, early, visible):
        assert early.shape[-2:] == self.said.shape[-2:]
        logits = self.said.expand(len(early), -1, -1)
        return logits.sigmoid(), logits


# ---------------------------------------------------------------- the head alone


def test_untaught_it_takes_nearly_everything_for_visible():
    torch.manual_seed(0)
    head = VisibilityHead(24)
    seen, logits = head(torch.randn(16, 24, 8, 4, generator=seeded()), None)
    assert seen.shape == logits.shape == (16, 8, 4)
    assert float(seen.mean()) == pytest.approx(1 / (1 + math.exp(-2)), abs=0.05)
    assert float(seen.min()) > 0.5
    assert_close(seen, logits.sigmoid())


def test_a_cell_is_judged_by_its_neighbours_as_far_as_the_dilations_add_up():
    head = settled(VisibilityHeadAsNetwork()).head
    early = torch.randn(1, 3, 25, 25, generator=seeded())
    other = early.clone()
    other[:, :, 12, 12] += 3
    with torch.no_grad():
        moved = (head(early, None)[1] - head(other, None)[1])[0].abs() > 1e-6
    reached = [(y, x) for y in range(25) for x in range(25) if bool(moved[y, x])]
    assert (12, 12) in reached
    assert max(max(abs(y - 12), abs(x - 12)) for y, x in reached) == sum(VisibilityHead.DILATIONS)


class VisibilityHeadAsNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = VisibilityHead(3, width=16)

    def forward(self, x):
        return self.head(x, None)[1]


def test_what_a_prompt_hides_is_hidden_whatever_the_head_thinks():
    head = VisibilityHead(5).eval()
    early = torch.randn(2, 5, 4, 2, generator=seeded())
    prompt = torch.ones(2, 64, 32)
    prompt[0, :, 16:] = 0
    prompt[1, :24] = 0  # a row of cells and half of the next
    with torch.no_grad():
        own, logits = head(early, None)
        told, the_same = head(early, prompt)
    assert torch.equal(logits, the_same)  # the head does not look at the prompt
    assert_close(told[0], own[0] * torch.tensor([1.0, 0.0]))
    assert_close(told[1], own[1] * torch.tensor([0.0, 0.5, 1.0, 1.0])[:, None])
    assert head(early, prompt > 0)[0].equal(told)  # a mask of bool is a mask


def test_only_the_truth_teaches_the_head():
    head = VisibilityHead(5)
    early = torch.randn(2, 5, 4, 2, generator=seeded())
    seen, logits = head(early, torch.ones(2, 64, 32))
    assert not seen.requires_grad
    head.loss(logits, torch.ones(2, 64, 32)).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in head.parameters())
    assert bool(head.bias.grad != 0)


@given(seed=st.integers(0, 2**31), h=st.integers(1, 4), w=st.integers(1, 3), hard=st.booleans())
@quick
def test_its_loss_is_the_cross_entropy_of_loops(seed, h, w, hard):
    logits = 4 * torch.randn(2, h, w, generator=seeded(seed))
    visible = torch.rand(2, 8 * h, 8 * w, generator=seeded(seed + 1))
    if hard:
        visible = (visible > 0.5).float()
    total = 0.0
    for n in range(2):
        for y in range(h):
            for x in range(w):
                square = [float(visible[n, 8 * y + i, 8 * x + j]) for i in range(8) for j in range(8)]
                truth = sum(square) / 64
                p = 1 / (1 + math.exp(-float(logits[n, y, x])))
                total -= truth * math.log(p) + (1 - truth) * math.log(1 - p)
    loss = VisibilityHead(3).loss(logits, visible)
    assert float(loss) == pytest.approx(total / (2 * h * w), rel=1e-4, abs=1e-5)


def test_under_autocast_it_judges_in_float32():
    head = VisibilityHead(5).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        seen, logits = head(torch.randn(1, 5, 4, 2, generator=seeded()), None)
    assert (seen.dtype, logits.dtype) == (torch.float32, torch.float32)


# ---------------------------------------------------------------- in the backbones


def test_a_backbone_must_say_how_it_looks():
    class Blind(Backbone):
        channels = early_channels = 8

    with pytest.raises(TypeError, match=r"abstract method '?look\b"):
        Blind()


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_tells_what_it_sees(name):
    torch.manual_seed(0)
    network = build_backbone(name, visibility=True).eval()
    plain = build_backbone(name).eval()
    assert plain.visibility is None
    assert plain.state_dict().keys() == headless(network).keys()
    plain.load_state_dict(headless(network))
    x, prompt = noise(1), torch.ones(1, *SIZE)
    prompt[:, 32:] = 0
    with torch.no_grad():
        features, seen, logits, _ = network.look(x)
        told = network.look(x, prompt)
        without = plain.look(x, prompt)
        assert torch.equal(network(x), features)
    assert features.shape == (1, network.channels, 4, 2)
    assert seen.shape == logits.shape == (1, 4, 2)
    assert_close(seen, logits.sigmoid())
    assert_close(told.seen[:, 2:], torch.zeros(1, 2, 2))
    assert without.seen is prompt
    assert without.logits is None
    if not name.startswith("osnet"):  # nothing in these looks at the whole crop
        assert torch.equal(features, without.features)
        assert torch.equal(told.features, features)


@pytest.mark.parametrize(("instance_norm", "gate"), [(False, "se"), (True, "lct")])
def test_osnet_whose_head_sees_everything_is_osnet(instance_norm, gate):
    torch.manual_seed(0)
    network = settled(OSNet(0.5, instance_norm, gate))
    x = noise()
    with torch.no_grad():
        expected = network(x)
        network.visibility = VisibilityHead(network.early_channels).eval()
        assert (network(x) - expected).abs().max() > 0.01  # 0.88 is not 1
        network.visibility.bias.fill_(50.0)
        features, seen, _, _ = network.look(x)
    assert seen.eq(1).all()
    assert_close(features, expected, rtol=0, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize(("instance_norm", "gate"), [(False, "se"), (True, "lct")])
def test_osnets_third_stage_sees_nothing_of_cells_said_to_be_hidden(instance_norm, gate):
    torch.manual_seed(0)
    network = settled(OSNet(0.5, instance_norm, gate))
    hidden = torch.zeros(4, 2, dtype=torch.bool)
    hidden[2:, 1] = True
    pixels = hidden.repeat_interleave(2, 0).repeat_interleave(2, 1)  # of the second stage, whose map is twice as large
    changed = False

    def change(module, inputs, out):
        return torch.where(pixels, 30 * torch.rand(out.shape, generator=seeded(1)), out) if changed else out

    network.down2.register_forward_hook(change)
    x = noise()
    with torch.no_grad():
        plain = network(x)
        network.visibility = Says((~hidden).float())
        before = network(x)
        changed = True
        after = network(x)
        network.visibility = None
        plain_after = network(x)
    assert torch.equal(before, after)
    # Without a head the change reaches what is visible, through convolutions and gates.
    assert (plain - plain_after)[:, :, ~hidden].abs().max() > 0.1
    assert (plain - before)[:, :, ~hidden].abs().max() > 1e-3


def test_osnets_gates_average_over_what_the_head_sees():
    torch.manual_seed(0)
    network = settled(OSNet(0.25))
    given_to = []
    network.stage3[0].streams[0].register_forward_hook(lambda module, inputs, out: given_to.append(out.clone()))
    gates = []
    network.stage3[0].gate.register_forward_pre_hook(lambda module, inputs: gates.append(inputs))
    said = torch.rand(4, 2, generator=seeded())
    network.visibility = Says(said)
    with torch.no_grad():
        network.look(noise(), torch.ones(2, *SIZE))
    x, weights = gates[0]
    assert_close(weights, said.expand(2, 1, 4, 2))
    assert_close(x, given_to[0])


def test_what_the_head_has_to_learn_from_changes_the_stages_before_it_alone():
    torch.manual_seed(0)
    network = build_backbone("osnet_x0_25", visibility=True)
    look = network.look(noise(4))
    network.visibility.loss(look.logits, (noise(4)[:, 0] > 0).float()).backward()
    taught = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert taught == {"stem", "stem_norm", "stage1", "down1", "stage2", "visibility"}
    network.zero_grad(set_to_none=True)
    network(noise(4)).square().mean().backward()
    assert all(p.grad is None for p in network.visibility.parameters())
    assert network.stage2[0].expand.conv.weight.grad is not None


def test_folding_leaves_the_head_as_it_is():
    torch.manual_seed(0)
    network = settled(build_backbone("osnet_x0_25", visibility=True))
    x, quick_one = noise(), folded(network)
    with torch.no_grad():
        exact, found = network.look(x), quick_one.look(x)
    assert_close(found.features, exact.features, rtol=0, atol=1e-4 * float(exact.features.max()))
    assert_close(found.seen, exact.seen, rtol=0, atol=1e-5)


# ---------------------------------------------------------------- weights to start from


@pytest.mark.parametrize("name", ["osnet_x0_25", "mobilenetv2_100"])
def test_a_start_without_a_head_leaves_the_head_as_it_is(name, tmp_path: Path):
    torch.manual_seed(0)
    plain = build_backbone(name)
    own = getattr(plain, "net", plain)
    save_file(own.state_dict(), tmp_path / "plain.safetensors")
    network = build_backbone(name, visibility=True)
    untaught = {key: value.clone() for key, value in network.visibility.state_dict().items()}
    load_start(network, name, tmp_path / "plain.safetensors")
    assert_close(headless(network), plain.state_dict(), rtol=0, atol=0)
    assert_close(dict(network.visibility.state_dict()), untaught, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["osnet_x0_25", "mobilenetv2_100"])
def test_a_whole_method_brings_its_head(name, tmp_path: Path):
    torch.manual_seed(0)
    taught = build_backbone(name, visibility=True)
    taught.visibility.bias.data.fill_(-1.5)
    method = PCB(taught, 3, PCBOptions(strips=2, dim=8))
    path = tmp_path / "method.safetensors"
    save_file({key: value.contiguous() for key, value in method.state_dict().items()}, path)
    network = build_backbone(name, visibility=True)
    load_start(network, name, path)
    assert_close(dict(network.state_dict()), dict(taught.state_dict()), rtol=0, atol=0)
    # A backbone that wants no head takes the rest.
    plain = build_backbone(name)
    load_start(plain, name, path)
    assert_close(dict(plain.state_dict()), headless(taught), rtol=0, atol=0)


def test_half_a_head_is_refused(tmp_path: Path):
    torch.manual_seed(0)
    network = build_backbone("osnet_x0_25", visibility=True)
    whole = {key: value.clone() for key, value in network.state_dict().items()}
    head = sorted(whole.keys() - headless(network).keys())
    for absent in (head[0], head[-1]):
        save_file({key: value + 1 for key, value in whole.items() if key != absent}, tmp_path / "half.safetensors")
        with pytest.raises(WeightsError, match=rf"1 tensors are missing .* \(first: {re.escape(absent)}\)"):
            load_start(network, "osnet_x0_25", tmp_path / "half.safetensors")
        assert_close(dict(network.state_dict()), whole, rtol=0, atol=0)


def test_a_head_of_another_shape_is_refused(tmp_path: Path):
    network = build_backbone("osnet_x0_25", visibility=True)
    tensors = network.state_dict() | {"visibility.last.weight": torch.zeros(1, 32, 1, 1)}
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"1 have another shape \(first: visibility\.last\.weight\)"):
        load_start(network, "osnet_x0_25", tmp_path / "other.safetensors")
