"""SGSFA against its equations, row by row, under prompts, and in matching."""

import math
from dataclasses import replace

import naive_sgsfa as naive
import pytest
import torch
from naive_qpm import cosine_distance, eq_3, table
from pydantic import ValidationError
from tiny import fit, images, recipe, seeded, settled
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

import glimpse
from glimpse.backbones import Backbone, Look, build_backbone
from glimpse.cues.needs import Cues, Needs
from glimpse.errors import ConfigError, EmbeddingError
from glimpse.matching import PartDistance
from glimpse.methods.sgsfa import (
    SGSFA,
    BranchDistance,
    LocalAttentions,
    SGSFAOptions,
    WholeBodyAttention,
    body_rows,
    chosen_regions,
    head_rows,
    mask_loss,
    region_means,
    region_shares,
    regions_of,
)

LOCAL = ("head", "upper", "lower", "shoes")
STRIPS = ("top", "middle", "bottom")
ROWS = {  # row: (losses with part maps, losses of the first stage, parts, part maps that it learns from)
    "baseline": ({"triplet", "id"}, set(), ("global",), ()),
    "spatial": ({"strip_id"}, set(), STRIPS, ()),
    "semantic": ({"triplet", "mask", "part_id"}, {"body"}, LOCAL, ("body", *LOCAL)),
    "no_whole": ({"triplet", "mask", "part_id", "strip_id"}, set(), LOCAL + STRIPS, LOCAL),
    "sgsfa": ({"triplet", "mask", "part_id", "strip_id"}, {"body"}, LOCAL + STRIPS, ("body", *LOCAL)),
}
IDS = 3
PIDS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 1, 2])
HEIGHT, WIDTH = 128, 48  # of the inputs here: a map of 8 x 3
MIXED = {"tau": (0.402, 0.597, 0.405, 0.52), "nonzero": 0.62}  # so that random masks have labels of both kinds


class TwoStages(Backbone):
    """A backbone with a first stage; each cell of its map sees one square of 16 x 16 pixels and no other."""

    def __init__(self, channels: int = 16, first_channels: int = 12) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, first_channels, 4, stride=4)
        self.second = nn.Conv2d(first_channels, channels, 4, stride=4)
        self.channels, self.first_channels = channels, first_channels

    def look(self, x: Tensor, visible: Tensor | None = None) -> Look:
        seen, attention = self.attend(F.relu(self.first(x)))
        return Look(F.relu(self.second(seen)), visible, attention=attention)


def sgsfa(ids: int = IDS, **options) -> SGSFA:
    torch.manual_seed(0)
    method = SGSFA(TwoStages(), ids, SGSFAOptions(**{"dim": 8} | options))
    for name, parameter in method.named_parameters():
        if "classifier" in name and ids:  # they start so small that no loss could tell them apart
            nn.init.normal_(parameter, std=0.3)
    if method.options.has_semantic:  # masks of all kinds, so that labels are
        nn.init.normal_(method.attentions.to_logits.weight, std=1.5)
    return method


def still(method: SGSFA, seed: int = 7) -> SGSFA:
    """In eval mode, with batch norms that are not the identity and an attention that has learned something."""
    settled(method)
    random = seeded(seed)
    with torch.no_grad():
        for module in method.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=random)
                module.running_var.uniform_(0.5, 1.5, generator=random)
                module.bias.normal_(0, 0.3, generator=random)
            if isinstance(module, WholeBodyAttention):
                module.to_logits.weight.normal_(0, 1.0, generator=random)
                module.excite.weight.normal_(0, 1.0, generator=random)
    return method


def crops(n: int, seed: int = 0) -> Tensor:
    return images(n, HEIGHT, WIDTH, seed)


def maps(n: int = 9, seed: int = 5, groups: int = 5) -> Cues:
    """Part maps as parsing gives them, in pixels."""
    coarse = torch.rand(n, 5, 8, 3, generator=seeded(seed))
    parts = (F.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear") > 0.5).float()
    return Cues(torch.zeros(n, 0, 3), parts[:, 5 - groups :], torch.ones(n, 2))


def shown(top: int, bottom: int, n: int = 2) -> Tensor:
    """Rows of pixels `top` to `bottom` are the person; a cell has 16."""
    visible = torch.zeros(n, HEIGHT, WIDTH)
    visible[:, top:bottom] = 1
    return visible


def masked(method: SGSFA, probabilities: Tensor) -> SGSFA:
    """The method with these masks `[n, 4, h, w]`, whatever the map is."""
    method.attentions.forward = lambda features: torch.logit(probabilities.clamp(1e-6, 1 - 1e-6))
    return method


def person(n: int = 1, head: int = 1) -> Tensor:
    """Masks of somebody whose head is in row `head`, with upper body, lower body and shoes below it, on 8 x 3 cells."""
    masks = torch.full((n, 4, 8, 3), 0.01)
    for part, (top, bottom) in enumerate(((head, head + 1), (head + 1, 4), (4, 7), (7, 8))):
        masks[:, part, top:bottom, 1] = 0.9
    return masks


# ---------------------------------------------------------------- whole-body attention


@pytest.mark.parametrize("gate", ["published", "residual"])
@pytest.mark.parametrize(("channels", "reduction", "width"), [(24, 8, 8), (12, 2, 8), (64, 4, 16), (256, 8, 32)])
def test_the_whole_body_attention_is_fig_3(gate, channels, reduction, width):
    torch.manual_seed(1)
    attention = still(nn.ModuleList([WholeBodyAttention(channels, reduction, gate)]))[0]
    assert attention.to_logits.in_channels == attention.squeeze.out_channels == width
    if attention.strength is not None:
        nn.init.constant_(attention.strength, 0.07)
    f = torch.randn(2, channels, 4, 3, generator=seeded(2))
    with torch.no_grad():
        gated, logits = attention(f)
        for i in range(2):
            expected = naive.fig_3(attention, f[i].double())
            assert_close(gated[i].double(), expected[0], rtol=1e-4, atol=1e-5)
            assert_close(logits[i, 0].double(), expected[1], rtol=1e-4, atol=1e-5)
    assert logits.shape == (2, 1, 4, 3)
    assert logits.std() > 0.1


def test_the_attention_begins_open_and_a_residual_one_changes_nothing():
    f = torch.randn(2, 24, 4, 3, generator=seeded())
    gated, logits = WholeBodyAttention(24)(f)
    assert logits.unique().tolist() == [3.0]
    assert_close(gated, f * torch.sigmoid(torch.tensor(3.0)) ** 2)
    residual = WholeBodyAttention(24, gate="residual")
    assert torch.equal(residual(f)[0], f)
    assert torch.equal(residual.eval()(f)[0], f)
    residual(f)[0].square().sum().backward()
    assert residual.strength.grad.abs() > 0.1  # and can learn
    assert not residual.to_logits.weight.grad.any()  # until then by the mask loss alone


@pytest.mark.parametrize("gate", ["published", "residual"])
def test_gradients_of_the_attention_are_those_of_differences(gate):
    torch.manual_seed(3)
    attention = still(nn.ModuleList([WholeBodyAttention(4, 1, gate)]))[0].double()
    if attention.strength is not None:
        nn.init.constant_(attention.strength, 0.07)
    f = torch.randn(2, 4, 3, 2, dtype=torch.float64, generator=seeded(1), requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: attention(f), (f,))
    assert attention(f)[0].dtype == torch.float64


def test_the_body_mask_teaches_the_spatial_branch_alone_at_its_own_resolution():
    method = sgsfa(lam=0.6)
    attention = method.backbone.attention
    method.train()
    for module in (attention.to_logits, attention.excite):
        nn.init.normal_(module.weight, std=0.3, generator=seeded())
    look, cues = method.backbone.look(crops(3)), maps(3)
    cues.parts[1] = -1.0
    terms = method.early_losses(look, cues)
    assert look.attention.shape == (3, 1, 32, 12)
    logits = look.attention.detach().double()
    expected = 0.6 * sum(naive.eq_8(logits[i, 0], cues.parts[i, 0], 0.5) for i in (0, 2)) / 2
    assert set(terms) == {"body"}
    assert_close(terms["body"].double(), expected, rtol=1e-5, atol=1e-6)
    terms["body"].backward()
    assert attention.spatial[0].weight.grad.any()
    assert attention.squeeze.weight.grad is attention.excite.weight.grad is None


@pytest.mark.parametrize("name", ["mobilenetv2_100_same", "osnet_x0_25"])
def test_backbones_of_the_house_get_the_attention(name):
    torch.manual_seed(0)
    backbone, x = build_backbone(name).eval(), images(1, 64, 32)
    with torch.no_grad():
        plain = backbone(x)
        assert torch.equal(SGSFA(backbone, 0, SGSFAOptions(dim=4, gate="residual", row="sgsfa")).backbone(x), plain)
        method = SGSFA(backbone, 0, SGSFAOptions(dim=4)).eval()
        look = method.backbone.look(x)
        assert look.attention.shape == (1, 1, 16, 8)
        assert method.embed(method(x))["parts"].shape == (1, 7, 4)
        near = torch.cosine_similarity(look.features.flatten(1), plain.flatten(1))
    assert float(near) > 0.9
    assert not torch.equal(look.features, plain)
    assert any(key.startswith("backbone.attention.") for key in method.state_dict())


# ---------------------------------------------------------------- local attentions and their masks


def test_local_attentions_are_fig_4_and_share_their_first_convolution():
    torch.manual_seed(2)
    attentions = still(nn.ModuleList([LocalAttentions(10, 2)]))[0]
    assert attentions.shared[0].weight.shape == (5, 10, 1, 1)
    assert attentions.to_logits.weight.shape == (4, 5, 1, 1)
    f = torch.randn(2, 10, 4, 3, generator=seeded(1))
    with torch.no_grad():
        found = attentions(f)
    for i in range(2):
        assert_close(found[i].double(), naive.fig_4(attentions, f[i].double()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cuts", [(0.5, 0.25), (0.1, 0.9)])
def test_the_mask_loss_is_eq_8_summed_with_its_gradients(cuts):
    logits = torch.randn(3, 2, 4, 3, dtype=torch.float64, generator=seeded(), requires_grad=True)
    parts = F.interpolate(torch.rand(3, 2, 4, 3, generator=seeded(1)), (16, 12), mode="bilinear")
    found = mask_loss(logits, parts, cuts)
    expected = sum(naive.eq_8(logits[i, k], parts[i, k], cuts[k]) for i in range(3) for k in range(2)) / 3
    assert_close(found, expected)
    assert torch.autograd.gradcheck(lambda x: mask_loss(x, parts, cuts), (logits,))
    ones = (torch.autograd.grad(found, logits)[0] < 0).float().mean()
    assert 0.1 < ones < 0.9  # of both kinds


def test_a_crop_without_a_part_map_teaches_no_mask():
    logits = torch.randn(3, 4, 8, 3, generator=seeded(), requires_grad=True)
    parts = maps(3, groups=4).parts
    both = mask_loss(logits[[0, 2]], parts[[0, 2]], (0.5,) * 4)
    parts[1] = -1.0
    found = mask_loss(logits, parts, (0.5,) * 4)
    assert_close(found, both)
    found.backward()
    assert not logits.grad[1].any()
    assert logits.grad[[0, 2]].all()
    assert float(mask_loss(logits, torch.full_like(parts, -1.0), (0.5,) * 4).detach()) == 0.0


def test_part_maps_may_have_any_resolution():
    logits, parts = torch.randn(3, 4, 8, 3, generator=seeded()), maps(3, groups=4).parts
    plain = mask_loss(logits, parts, (0.3,) * 4)
    for other in (F.adaptive_avg_pool2d(parts, (8, 3)), F.adaptive_avg_pool2d(parts, (64, 24)), parts.to(torch.uint8)):
        assert_close(mask_loss(logits, other, (0.3,) * 4), plain)


# ---------------------------------------------------------------- body division


@pytest.mark.parametrize("h", [3, 4, 8, 15, 16, 24])
def test_bodies_are_divided_from_their_heads_down(h):
    start = torch.arange(h)  # a crop for each
    found = body_rows(start, h)
    assert found.shape == (h, 3, h)
    for i in range(h):
        rows = [found[i, k].nonzero().flatten().tolist() for k in range(3)]
        assert rows == [list(r) for r in naive.division(i, h)]
        assert all(rows)
        assert [row for inside in rows for row in inside] == list(range(min(i, h - 3), h))
    assert regions_of(found).sum(2).tolist() == [[len(r) for r in naive.eq_1(naive.division(i, h))] for i in range(h)]


def test_a_body_of_the_papers_map():
    assert body_rows(torch.zeros(1, dtype=torch.int64), 16).sum(2).tolist() == [[2, 4, 10]]
    assert body_rows(torch.zeros(1, dtype=torch.int64), 50).sum(2).tolist() == [[8, 12, 30]]  # 7.5 and 11.5


def test_too_few_rows_for_a_body():
    with pytest.raises(ConfigError, match=r"map: a body cannot be divided in 2 rows\. Remedy: use a taller input"):
        sgsfa().eval()(images(1, 32, 32))


@pytest.mark.parametrize("nonzero", [0.3, 0.5, 0.8])
def test_heads_are_found_by_scanning(nonzero):
    mask = torch.rand(40, 8, 3, generator=seeded()) ** 3
    mask[::5] *= 0.2  # nobody's head is there
    assert head_rows(mask, nonzero).tolist() == [naive.first_head_row(m, nonzero) for m in mask]
    assert head_rows(mask, nonzero, "peak").tolist() == [naive.row_below_peak(m, nonzero) for m in mask]
    assert head_rows(mask, nonzero)[::5].tolist() == [0] * 8


@pytest.mark.parametrize("t", [0, 1])
@pytest.mark.parametrize("m", [0, 1])
@pytest.mark.parametrize("b", [0, 1])
def test_regions_are_chosen_by_eq_3(t, m, b):
    found = chosen_regions(torch.tensor([[t, m, b]], dtype=torch.float32))[0]
    assert found.nonzero().flatten().tolist() == naive.eq_3(t, m, b)


def test_regions_are_pooled_over_what_is_visible_of_them():
    features = torch.randn(2, 5, 8, 3, generator=seeded())
    regions = regions_of(body_rows(torch.tensor([0, 3]), 8))
    seen = (torch.rand(2, 1, 8, 3, generator=seeded(1)) > 0.4).float()
    seen[0, :, :1] = 0  # of the first crop the top is hidden
    means, shares = region_means(features, regions, seen), region_shares(regions, seen)
    for i in range(2):
        for k in range(5):
            inside = regions[i, k].bool()
            cells, there = features[i][:, inside].flatten(1), seen[i, 0][inside].flatten()
            expected = cells @ there / there.sum() if there.any() else torch.zeros(5)
            assert_close(means[i, k], expected)
            assert float(shares[i, k]) == pytest.approx(float(there.mean()))
    assert not means[0, 0].any()
    assert_close(region_means(features, regions), region_means(features, regions, torch.ones(2, 1, 8, 3)))


def test_the_rim_of_a_prompt_is_nothing_unless_it_is_all():
    regions = regions_of(body_rows(torch.zeros(2, dtype=torch.int64), 16))
    seen = torch.zeros(2, 1, 16, 4)
    seen[0, :, :2] = 1.0
    seen[:, :, 2] = 0.06  # 1.5 % of the middle's four rows
    found = region_shares(regions, seen)
    assert found[0].tolist() == pytest.approx([1.0, 0.0, 0.0, (2 + 0.06) / 6, 0.0])
    assert found[1, :3].tolist() == pytest.approx([0.0, 0.015, 0.0])


# ---------------------------------------------------------------- heads


@pytest.mark.parametrize("rule", ["first", "peak"])
def test_heads_are_those_of_the_equations(rule):
    method = still(sgsfa(head_row=rule, **MIXED))
    with torch.no_grad():
        features = method.backbone(crops(6))
        found = method.heads(features)
        parts, weights, regions, chosen, logits = naive.features(method, features)
    assert_close(found["logits"].double(), logits, rtol=1e-4, atol=1e-5)
    assert_close(found["parts"].double(), parts, rtol=1e-4, atol=1e-5)
    assert_close(found["regions"].double(), regions, rtol=1e-4, atol=1e-5)
    assert found["weights"].tolist() == weights.tolist()
    assert found["chosen"].tolist() == chosen.tolist()
    assert 0.2 < float(weights[:, :4].mean()) < 0.95
    assert 0.2 < float(weights[:, 4:].mean()) < 1


def test_strips_begin_at_each_crops_own_head():
    method = masked(still(sgsfa()), torch.cat([person(head=0), person(head=1)]))
    with torch.no_grad():
        features = method.backbone(crops(2))
        found = method.heads(features)
    for i, start in enumerate((0, 1)):
        for k, inside in enumerate(naive.division(start, 8)):
            mean = features[i, :, inside.start : inside.stop].mean((1, 2)).double()
            own = slice(8 * k, 8 * k + 8)
            expected = naive.norm(method.region_convs.norm, method.region_convs.weight[k].double() @ mean, own)
            assert_close(found["parts"][i, 4 + k].double(), expected, rtol=1e-4, atol=1e-5)
    assert found["weights"].tolist() == [[1.0] * 7] * 2


def test_a_crop_whose_upper_half_is_hidden_is_divided_as_a_whole_and_trains_no_strip():
    masks = person()
    masks[:, 0] = 0.01
    masks[:, 1] = 0.01
    method = masked(still(sgsfa()), masks)
    with torch.no_grad():
        found = method.heads(method.backbone(crops(1)))
    rows = [1, 2, 5]  # of 8: the first four show nobody
    assert body_rows(torch.tensor([0]), 8).sum(2).tolist() == [rows]
    assert found["weights"].tolist() == [[0, 0, 1, 1, 0, 0, 1]]
    assert found["chosen"].tolist() == [[0] * 5]


def test_strips_may_be_visible_by_their_own_masks_only():
    masks = person()
    masks[:, 0] = 0.01  # no head: the body begins at row 0
    masks[:, 1, :2] = 0.9  # and an upper body lies in the top strip
    for blocks, tmb in (("any", [1, 1, 1]), ("own", [0, 1, 1])):
        method = masked(still(sgsfa(blocks=blocks)), masks)
        with torch.no_grad():
            found = method.heads(method.backbone(crops(1)))
        assert found["weights"][0, 4:].tolist() == tmb
        assert bool(found["chosen"].any()) == (blocks == "any")  # eq. 3: without a top nothing
    masks = person()
    masks[:, 2] = 0.01
    method = masked(still(sgsfa(blocks="own")), masks)
    with torch.no_grad():
        found = method.heads(method.backbone(crops(1)))
    assert found["weights"][0].tolist() == [1, 1, 0, 1, 1, 1, 1]  # shoes alone make the bottom visible


def test_a_crop_that_shows_its_head_alone_trains_the_top():
    masks = person()
    masks[:, 1:] = 0.001
    method = masked(still(sgsfa()), masks)
    with torch.no_grad():
        found = method.heads(method.backbone(crops(1)))
    assert found["weights"].tolist() == [[1, 0, 0, 0, 1, 0, 0]]
    assert found["chosen"].tolist() == [[1, 0, 0, 0, 0]]


def test_the_spatial_row_knows_no_masks_and_divides_the_whole_crop():
    method = still(sgsfa(row="spatial"))
    assert method.backbone.attention is None
    with torch.no_grad():
        features = method.backbone(crops(2))
        found = method.heads(features)
    first = features[:, :, :1].mean((2, 3)).double()
    expected = naive.norm(method.region_convs.norm, method.region_convs.weight[0].double() @ first[0], slice(0, 8))
    assert_close(found["parts"][0, 0].double(), expected, rtol=1e-4, atol=1e-5)
    assert found["weights"].tolist() == [[1.0] * 3] * 2
    assert found["chosen"].tolist() == [[1.0] * 5] * 2


def test_parameters_and_defaults_are_the_papers():
    o = SGSFAOptions()
    assert (o.row, o.dim, o.reduction, o.local_reduction, o.gate) == ("sgsfa", 256, 8, 2, "published")
    assert (o.lam, o.margin, o.smoothing, o.head_row, o.nonzero) == (0.8, 0.3, 0.1, "first", 0.5)
    assert o.cuts == (0.5, 0.25, 0.5, 0.5, 0.5)
    with torch.device("meta"):
        backbone = TwoStages(2048, 256)
        trunk = sum(p.numel() for p in backbone.parameters())
        method = SGSFA(backbone, 702)
    heads = sum(p.numel() for p in method.parameters()) - trunk
    whole = 256 * 32 + 2 * 32 + 32 + 1 + 256 * 32 + 32 + 32 * 256 + 256
    local = 2048 * 1024 + 2 * 1024 + 4 * (1024 + 1) + 2048 * 1024 + 2 * 1024
    spatial = 5 * 256 * (2048 + 2)
    assert heads == whole + local + spatial + 9 * 256 * 702


@pytest.mark.parametrize(
    "wrong",
    [
        {"row": "pcb"},
        {"dim": 0},
        {"gate": "open"},
        {"cuts": (0.5, 0.5)},
        {"cuts": (0.5, 0.25, 0.5, 0.5, 1.0)},
        {"tau": (0.1, 0.1, 0.1, -0.1)},
        {"head_row": "last"},
        {"nonzero": 1.0},
        {"lam": 1.2},
        {"branch": -0.1},
        {"gamma": 8},
    ],
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        SGSFAOptions(**wrong)


def test_options_reach_what_they_say():
    def outputs(**options) -> dict[str, Tensor]:
        method = still(sgsfa(**options))
        with torch.no_grad():
            return method(crops(6))

    def loss(name: str, **options) -> float:
        method = sgsfa(**options).eval()
        with torch.no_grad():
            look, cues = method.backbone.look(crops(9)), maps()
            terms = method.losses(method.heads(look.features, None, cues), PIDS) | method.early_losses(look, cues)
        return float(terms[name])

    plain = outputs()
    assert outputs(dim=5)["parts"].shape == (6, 7, 5)
    assert (outputs(gate="residual")["parts"] - plain["parts"]).abs().max() > 0.01
    assert outputs(tau=(0.5,) * 4)["weights"].tolist() != plain["weights"].tolist()
    assert outputs(nonzero=0.9)["weights"][:, 4:].tolist() != plain["weights"][:, 4:].tolist()
    assert (outputs(head_row="peak")["regions"] - plain["regions"]).abs().max() > 0.01
    assert sgsfa(local_reduction=4).attentions.to_logits.in_channels == 4
    wide = SGSFA(TwoStages(first_channels=64), 0, SGSFAOptions(dim=4, reduction=2)).backbone.attention
    assert wide.to_logits.in_channels == 32
    assert loss("mask", cuts=(0.5, 0.5, 0.5, 0.5, 0.9)) != loss("mask")
    assert loss("body", cuts=(0.9, 0.25, 0.5, 0.5, 0.5)) != loss("body")
    assert loss("triplet", margin=0.5) > loss("triplet")
    assert loss("part_id", smoothing=0.0) != loss("part_id")
    assert loss("strip_id", smoothing=0.0) != loss("strip_id")


# ---------------------------------------------------------------- losses


def outputs(n: int = 9, dim: int = 8) -> dict[str, Tensor]:
    random = seeded(3)
    f = torch.randn(n, 7, dim, generator=random) + 0.3
    weights = (torch.rand(n, 7, generator=random) < 0.6).float()
    return {
        "parts": f,
        "weights": weights,
        "logits": torch.randn(n, 4, 8, 3, generator=random),
        "truth": maps(n).parts[:, 1:],
        "regions": torch.randn(n, 5, dim, generator=random) + 0.3,
        "chosen": chosen_regions(weights[:, 4:]),
    }


def chosen_ce(f: Tensor, weight: Tensor, chosen: Tensor, epsilon: float) -> Tensor:
    terms = [
        chosen[i, k] * naive.eq_10(weight[k] @ f[i, k], int(PIDS[i]), epsilon)
        for i in range(len(f))
        for k in range(f.shape[1])
    ]
    return sum(terms) / float(chosen.sum())


@pytest.mark.parametrize("name", ["triplet", "mask", "part_id", "strip_id"])
def test_each_loss_and_its_gradients_are_those_of_its_equation(name):
    lam, epsilon, margin = 0.7, 0.2, 0.4
    method = sgsfa(lam=lam, smoothing=epsilon, margin=margin)
    learns = ("parts", "logits", "regions")
    ours = {k: v.clone().requires_grad_(k in learns) for k, v in outputs().items()}
    theirs = {k: v.double().requires_grad_(k in learns) for k, v in outputs().items()}
    f = theirs["parts"][:, :4]
    if name == "triplet":
        expected = lam * eq_3(
            table(lambda i, j: cosine_distance(f[i].flatten(), f[j].flatten()), 9), PIDS.tolist(), margin
        )
    elif name == "mask":
        cuts = method.options.cuts[1:]
        each = (naive.eq_8(theirs["logits"][i, k], ours["truth"][i, k], cuts[k]) for i in range(9) for k in range(4))
        expected = lam * sum(each) / 9
    elif name == "part_id":
        weight = method.part_classifiers.weight.double()
        expected = (1 - lam) * chosen_ce(f, weight, theirs["weights"][:, :4], epsilon)
    else:
        weight = method.region_classifiers.weight.double()
        expected = (1 - lam) * chosen_ce(theirs["regions"], weight, theirs["chosen"], epsilon)
    loss = method.losses(ours, PIDS)[name]
    assert expected.item() > 0.02
    assert_close(loss.double(), expected.double(), rtol=1e-5, atol=1e-6)
    loss.backward()
    expected.backward()
    for key in learns:
        found, wanted = ours[key].grad, theirs[key].grad
        assert (found is None) == (wanted is None), key
        if wanted is not None:
            assert_close(found.double(), wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("lam", [0.0, 0.2, 0.8, 1.0])
def test_lambda_weighs_the_terms_of_eq_11(lam):
    o = outputs()
    halves, found = (sgsfa(lam=value).losses(o, PIDS) for value in (0.5, lam))
    for name, value in found.items():
        assert_close(value, 2 * (lam if name in ("triplet", "mask") else 1 - lam) * halves[name])
    spatial = sgsfa(row="spatial", lam=lam)
    spatial.region_classifiers.load_state_dict(sgsfa().region_classifiers.state_dict())
    assert_close(spatial.losses(o, PIDS)["strip_id"], 2 * halves["strip_id"])  # its lambda is 0


def test_without_part_maps_nothing_teaches_masks():
    method, x = sgsfa().eval(), crops(9)
    with torch.no_grad():
        look = method.backbone.look(x)
        none = Cues(torch.zeros(9, 0, 3), torch.zeros(9, 0, 1, 1), torch.ones(9, 2))
        for cues in (None, none):
            found = method.heads(look.features, None, cues)
            assert "truth" not in found
            assert set(method.losses(found, PIDS)) == {"triplet", "part_id", "strip_id"}
            assert method.early_losses(look, cues) == {}
        found = method.heads(look.features, None, maps())
    assert torch.equal(found["truth"], maps().parts[:, 1:])


def test_part_maps_that_are_not_those_asked_for_are_refused():
    said = r"cues: have 3 groups of part maps, and SGSFA takes body, head, upper, lower, shoes\. Remedy: give those"
    with pytest.raises(ConfigError, match=said):
        sgsfa().eval()(crops(2), None, maps(2, groups=3))


def test_nobody_visible_has_no_identity_loss():
    o = outputs()
    o["weights"], o["chosen"] = torch.zeros(9, 7), torch.zeros(9, 5)
    terms = sgsfa().losses(o, PIDS)
    assert float(terms["part_id"].detach()) == float(terms["strip_id"].detach()) == 0.0


def test_hidden_parts_and_regions_that_are_not_chosen_are_not_taught():
    o = outputs()
    o["weights"][:, 3], o["chosen"][:, 4] = 0.0, 0.0
    method = sgsfa()
    terms = method.losses(o, PIDS)
    (terms["part_id"] + terms["strip_id"]).backward()
    assert method.part_classifiers.weight.grad[:3].any()
    assert not method.part_classifiers.weight.grad[3].any()
    assert method.region_classifiers.weight.grad[:4].any()
    assert not method.region_classifiers.weight.grad[4].any()


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("row", ROWS)
def test_every_row_says_what_it_needs(row):
    *_, names, groups = ROWS[row]
    options = SGSFAOptions(row=row)
    assert SGSFA.needs(options, "train") == Needs(parts=groups)
    assert SGSFA.needs(options, "search") == Needs()
    assert not SGSFA.needs(SGSFAOptions(row=row, lam=0.0), "train")  # masks have no weight
    assert tuple(region.name for region in sgsfa(row=row).regions) == names


@pytest.mark.parametrize("row", ROWS)
def test_every_row_learns_embeds_and_matches(row):
    losses, early, names, groups = ROWS[row]
    method, x, cues = sgsfa(row=row, lam=0.4), crops(9), maps(groups=len(groups))
    look = method.backbone.look(x)
    assert (look.attention is not None) == ("body" in groups)
    found = method.heads(look.features, None, cues)
    assert set(method.losses(found, PIDS)) == losses
    assert set(method.early_losses(look, cues)) == early
    heads = method.heads
    method.heads = lambda features, visible=None, given=None: heads(features, visible, cues)
    sums = fit(method, x, PIDS, steps=25)
    del method.heads
    assert sums[-1] < 0.8 * sums[0], sums
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} takes no part"
            assert parameter.grad.isfinite().all()
    method.eval()
    with torch.no_grad():
        embedding, again = method.embed(method(x)), method.embed(method(x))
        vector, distances = method.vector(method(x)), method.distances(method(x))
    assert embedding.names == ("parts", "weights")
    assert embedding["parts"].shape == (9, len(names), 8)
    assert vector.shape == (9, 8)
    for name in embedding.names:
        assert embedding[name].dtype == torch.float32
        assert torch.equal(embedding[name], again[name])
    matrix = method.distance().matrix(embedding, embedding)
    assert set(distances) == {"part"}
    assert_close(distances["part"], matrix, rtol=0, atol=1e-5)
    same, others = PIDS[:, None] == PIDS[None], ~torch.eye(9, dtype=torch.bool)
    assert matrix[same & others].mean() < matrix[~same].mean()


def test_the_whole_body_mask_is_learned():
    method, x, cues = sgsfa(), crops(9), maps()
    cues.parts[:, 0] = (x.mean(1) > 0).float()  # what the first stage can tell
    optimiser = torch.optim.Adam(method.parameters(), lr=0.02)
    sums = []
    for _ in range(40):
        (term,) = method.early_losses(method.backbone.look(x), cues).values()
        optimiser.zero_grad()
        term.backward()
        optimiser.step()
        sums.append(float(term.detach()))
    assert sums[-1] < 0.4 * sums[0]


def test_a_batch_of_one_has_losses():
    method = sgsfa().eval()
    look, cues = method.backbone.look(crops(1)), maps(1)
    terms = method.losses(method.heads(look.features, None, cues), PIDS[:1]) | method.early_losses(look, cues)
    assert float(terms["triplet"].detach()) == 0.0  # nobody to compare with
    sum(terms.values()).backward()
    assert method.backbone.first.weight.grad.isfinite().all()
    assert method.backbone.first.weight.grad.any()


# ---------------------------------------------------------------- matching


def embedded(n: int = 6, **options):
    method = still(sgsfa(**MIXED | options))
    with torch.no_grad():
        return method, method.embed(method(crops(n)))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("branch", [None, 0.0, 0.2, 0.5, 0.8, 1.0])
def test_matching_is_eq_7_as_it_is_and_as_it_is_printed(normalise, branch):
    method, e = embedded()
    distance = method.distance(normalise=normalise, branch=branch)
    matrix = distance.matrix(e, e)
    f, v = e["parts"].double(), e["weights"].double()
    assert set(v.unique().tolist()) == {0.0, 1.0}
    lam = None if branch in (None, 0.5) else branch
    for i in range(6):
        for j in range(6):
            assert abs(float(matrix[i, j]) - float(naive.eq_6_and_7(f, v, i, j, normalise, lam))) < 1e-5
    assert_close(distance.candidates(e, e, torch.arange(6).expand(6, 6)), matrix, rtol=0, atol=1e-5)
    blocks = [distance.matrix(e, distance.prepare(e[rows])) for rows in (slice(0, 2), slice(2, 6))]
    assert_close(torch.cat(blocks, 1), matrix, rtol=0, atol=1e-6)


def test_a_pair_that_shares_nothing_is_as_far_as_can_be():
    method, e = embedded(2)
    e = glimpse.Embedding(
        {"parts": e["parts"], "weights": torch.tensor([[1.0, 0, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 1, 0]])}
    )
    for normalise, farthest in ((True, 2.0), (False, 14.0)):
        for branch in (0.5, 0.8):
            distance = method.distance(normalise=normalise, branch=branch)
            assert distance.farthest == farthest
            assert float(distance.matrix(e[0], e[1])) == farthest  # and not 0, as printed


def test_options_set_what_matching_does_by_default():
    names = LOCAL + STRIPS
    plain = PartDistance(names=names)
    assert sgsfa().distance() == sgsfa().distance(branch=0.5) == plain
    assert sgsfa(normalise=False).distance() == replace(plain, normalise=False) == sgsfa().distance(normalise=False)
    assert sgsfa(normalise=False).distance(normalise=True) == plain
    branch = BranchDistance(weights="weights.0.8", names=names, semantic=0.8)
    assert sgsfa(branch=0.8).distance() == sgsfa().distance(branch=0.8) == branch
    assert sgsfa(branch=0.8).distance(branch=0.5) == plain
    assert sgsfa(row="semantic", branch=0.8).distance() == PartDistance(names=LOCAL)


@pytest.mark.parametrize(
    ("options", "given", "said"),
    [
        ({}, {"branch": 1.5}, r"branch: 1\.5 is not a share\. Remedy: give a number from 0 to 1"),
        ({}, {"branch": math.nan}, "branch: nan is not a share"),
        ({"row": "semantic"}, {"branch": 0.5}, r"branch: the row 'semantic' has one branch\. Remedy: leave it out"),
        ({"row": "baseline"}, {"branch": 0.5}, "the row 'baseline' has one branch"),
    ],
)
def test_wrong_matching_options_are_named(options, given, said):
    with pytest.raises(ConfigError, match=said):
        sgsfa(**options).distance(**given)


def test_embeddings_of_another_row_are_refused():
    _, e = embedded(2, row="semantic")
    for branch in (0.5, 0.8):
        with pytest.raises(EmbeddingError, match="'parts' has 4 parts, the distance 7"):
            sgsfa().distance(branch=branch).matrix(e, e)


def test_explanation_names_the_parts_and_adds_up():
    method, e = embedded(2)
    e = glimpse.Embedding(
        {"parts": e["parts"], "weights": torch.tensor([[1.0, 1, 0, 0, 1, 1, 0], [1, 0, 1, 0, 1, 1, 1]])}
    )
    for branch, shares in ((0.5, [1 / 3, 1 / 3, 1 / 3]), (0.8, [2 / 3, 1 / 6, 1 / 6])):
        explanation = method.distance(branch=branch).explain(e[0], e[1])
        assert [part.name for part in explanation.parts] == list(LOCAL + STRIPS)
        assert [part.name for part in explanation.parts if part.compared] == ["head", "top", "middle"]
        assert [part.share for part in explanation.parts if part.compared] == pytest.approx(shares)
        total = sum(part.share * part.distance for part in explanation.parts if part.compared)
        assert total == pytest.approx(explanation.distance, abs=1e-6)
    boxes = {region.name: region.box[1::2] for region in method.regions}
    assert boxes == {
        "head": (0.0, 0.15),
        "upper": (0.15, 0.38),
        "lower": (0.38, 0.95),
        "shoes": (0.95, 1.0),
        "top": (0.0, 0.15),
        "middle": (0.15, 0.38),
        "bottom": (0.38, 1.0),
    }


# ---------------------------------------------------------------- embedding


@pytest.mark.parametrize("row", ROWS)
def test_a_crop_is_embedded_alike_alone_and_in_a_batch(row):
    method, x = still(sgsfa(row=row)), crops(5)
    with torch.no_grad():
        alone, together = method.embed(method(x[3:4])), method.embed(method(x))
    for name in together.names:
        assert_close(alone[name], together[name][3:4], rtol=0, atol=1e-5)


def test_part_maps_do_not_change_an_embedding():
    method, x = still(sgsfa()), crops(3)
    with torch.no_grad():
        one, two = method.embed(method(x)), method.embed(method(x, None, maps(3)))
    assert all(torch.equal(one[name], two[name]) for name in one.names)


def test_an_embedding_network_needs_no_identities():
    method = still(sgsfa(ids=0))
    with torch.no_grad():
        assert method.embed(method(crops(2)))["parts"].shape == (2, 7, 8)


def test_bfloat16_stays_close_to_float32():
    method, x = still(sgsfa()), crops(12)
    with torch.no_grad():
        exact = method.embed(method(x))
        with torch.autocast("cpu", torch.bfloat16):
            found = method(x)
            rough = method.embed(found)
    assert found["logits"].dtype == torch.float32
    assert all(rough[name].dtype == torch.float32 for name in rough.names)
    assert (rough["weights"] != exact["weights"]).float().mean() < 0.03  # labels that were at their thresholds
    alike = (rough["weights"] == exact["weights"]).all(1)
    matrices = [method.distance().matrix(e[alike], e[alike]) for e in (exact, rough)]
    assert alike.sum() >= 9
    assert (matrices[0] - matrices[1]).abs().max() < 0.02


def test_losses_under_autocast_are_close_and_float32():
    method, cues = sgsfa().eval(), maps()

    def terms() -> dict[str, Tensor]:
        look = method.backbone.look(crops(9))
        return method.losses(method.heads(look.features, None, cues), PIDS) | method.early_losses(look, cues)

    with torch.no_grad():
        exact = terms()
        with torch.autocast("cpu", torch.bfloat16):
            rough = terms()
    assert set(exact) == {"triplet", "mask", "part_id", "strip_id", "body"}
    for name, value in exact.items():
        assert rough[name].dtype == torch.float32
        assert abs(float(rough[name]) - float(value)) < 0.05 * max(1.0, float(value)), name


# ---------------------------------------------------------------- prompts


def test_labels_are_of_what_is_seen_and_those_of_strips_are_times_its_share():
    masks = person(head=0)
    method = masked(still(sgsfa()), masks)
    with torch.no_grad():
        features = method.backbone(crops(1))
        plain = method.heads(features)
        found = method.heads(features, shown(0, 80, 1))  # five rows of eight
    assert plain["weights"].tolist() == [[1.0] * 7]
    # One of three rows of the lower body is seen: 0.9 + 14 * 0.01 of 24 cells are 4.3 %, and tau is 5 %.
    assert found["weights"][0, :4].tolist() == [1.0, 1.0, 0.0, 0.0]
    strips = [1.0, 1.0, 0.4]  # rows 0; 1 and 2; 3 to 7, of which two are seen
    assert found["weights"][0, 4:].tolist() == pytest.approx(strips)
    assert found["chosen"][0].tolist() == pytest.approx([*strips, 1.0, 4 / 7])


@pytest.mark.parametrize("row", ["baseline", "spatial", "no_whole"])  # in the others the gate sees the whole crop
def test_hidden_pixels_change_nothing_that_is_matched(row):
    method, x = still(sgsfa(row=row)), crops(2)
    other = x.clone()
    other[:, :, 64:] = crops(2, seed=9)[:, :, 64:] * 3 + 1
    visible = shown(0, 64)
    with torch.no_grad():
        one, two = method.embed(method(x, visible)), method.embed(method(other, visible))
        plain, moved = method.embed(method(x)), method.embed(method(other))
    assert torch.equal(one["weights"], two["weights"])
    assert_close(one["parts"], two["parts"], rtol=0, atol=1e-5)
    distance = method.distance()
    assert_close(distance.matrix(one, plain), distance.matrix(two, plain), rtol=0, atol=1e-5)
    assert (distance.matrix(moved, plain) - distance.matrix(plain, plain)).abs().max() > 0.01


@pytest.mark.parametrize("row", ROWS)
def test_a_prompt_of_the_whole_crop_is_no_prompt(row):
    method, x = still(sgsfa(row=row)), crops(2)
    with torch.no_grad():
        one, two = method.embed(method(x)), method.embed(method(x, torch.ones(2, HEIGHT, WIDTH)))
    for name in one.names:
        assert_close(one[name], two[name], rtol=0, atol=1e-5)


def test_a_prompt_may_come_in_cells():
    method, x = still(sgsfa()), crops(2)
    with torch.no_grad():
        features = method.backbone(x)
        one, two = (method.heads(features, v) for v in (shown(0, 80), shown(0, 80)[:, ::16, ::16]))
    for name in one:
        assert_close(one[name], two[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("row", ROWS)
def test_a_crop_that_shows_nothing_is_farthest_and_finite(row):
    method, x = still(sgsfa(row=row)), crops(2)
    with torch.no_grad():
        hidden, plain = method.embed(method(x, torch.zeros(2, HEIGHT, WIDTH))), method.embed(method(x))
    assert not hidden["weights"].any()
    assert hidden["parts"].isfinite().all()
    assert method.distance().matrix(hidden, plain).tolist() == [[2.0] * 2] * 2


def test_a_hidden_top_trains_no_strip():
    for row in ("spatial", "sgsfa"):
        method = sgsfa(row=row).eval()
        with torch.no_grad():
            features = method.backbone(crops(2))
            if row == "sgsfa":
                masked(method, person(2, head=0))
            found = method.heads(features, shown(16, 128))
        # In the one the body begins where the crop does; in the other no head is seen, and so it does as well.
        assert found["chosen"].tolist() == [[0.0] * 5] * 2, row
        assert found["weights"][:, -2:].all()
        assert not found["weights"][:, -3].any()


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", ["paper", "imagenet", "reid"])
def test_recipes_have_options_of_the_method(name):
    settings = recipe(f"sgsfa-{name}")
    assert settings["method"] == "sgsfa"
    SGSFA(TwoStages(), IDS, SGSFAOptions(**settings["options"])).distance()


@pytest.mark.parametrize("name", ["imagenet", "reid"])
def test_recipes_differ_from_qpms_in_the_method_and_in_what_stands_still(name):
    ours, theirs = recipe(f"sgsfa-{name}"), recipe(f"qpm-{name}")
    for settings in (ours, theirs):
        del settings["method"], settings["options"]
    if name == "reid":  # what comes after the attention learns with it
        theirs["stages"][-1]["freeze"].remove("down1")
        assert ours["stages"][-1]["freeze"][-1] == "stage1"
    assert ours == theirs


def test_the_papers_recipe_is_the_papers():
    settings = recipe("sgsfa-paper")
    assert SGSFAOptions(**settings["options"]) == SGSFAOptions()
    assert settings["transforms"] == {"size": [256, 128], "pad": 0, "erasing": {"p": 0.5}}
    assert settings["sampling"] == {"people": 16, "crops": 4}
    ends, rates = [], []
    for stage in settings["stages"]:
        ends.append(stage["epochs"] + (ends[-1] if ends else 0))
        rates.append(stage["optimiser"]["lr"])
        assert stage["optimiser"]["schedule"] == "constant"
    assert ends == [50, 80, 100, 120]
    assert rates == pytest.approx([3e-4, 3e-5, 3e-6, 3e-7])
