"""Pirt against its equations as loops, row by row, without key points, under prompts, and in matching."""

import naive_pirt as naive
import pytest
import torch
from pydantic import ValidationError
from tiny import Tiny, embedded_alike, fit, images, recipe, seeded
from tiny import settled as settled_vectors
from torch import Tensor, nn
from torch.testing import assert_close

from glimpse.cues.needs import Cues, Needs
from glimpse.cues.points import KeyPoints
from glimpse.cues.skeleton import COCO_17
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, EmbeddingError
from glimpse.matching import Cascade, Distance, GlobalDistance, MixedDistance, PartDistance
from glimpse.methods.pirt import (
    GroupDistance,
    Pirt,
    PirtOptions,
    guide,
    heat_maps,
    pose_tokens,
    soft_batch_hard,
)
from glimpse.training.module import rate
from glimpse.training.recipe import Optimiser

ALL = {"stripe_id", "patch_id", "part_id", "part_triplet"}
ROWS = {"baseline": {"id"}, "pose": ALL, "intra": ALL, "pirt": ALL}  # row: losses
REGIONS = ["stripe", "patch", "head", "upper body", "lower body"]
NAMES = ("head", "upper body", "lower body")
IDS = 3
PIDS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 1, 2])
HEIGHT, WIDTH = 96, 64  # of the inputs here: a map of 6 x 4
SIDES = ("both", "query", "gallery", "none")


def pirt(ids: int = IDS, *, symmetric: bool = False, **options) -> Pirt:
    small = {"layers": 2, "heads": 4, "ffn": 12, "dropout": 0.0, "irm_dropout": 0.0, "patch": (3, 2), "sigma": 0.06}
    torch.manual_seed(0)
    method = Pirt(Tiny(symmetric=symmetric), ids, PirtOptions(**small | options))
    for name, parameter in method.named_parameters():
        # Both begin so small that nothing here could tell them from nothing.
        if ("classifier" in name and ids) or (name.startswith(("irt", "csm")) and parameter.ndim == 2):
            nn.init.normal_(parameter, std=0.3)
    return method


def settled(method: Pirt, seed: int = 0) -> Pirt:
    """The method in eval mode, its norms filled with numbers that are not the identity."""
    settled_vectors(method, seed)
    random = seeded(seed + 1)
    with torch.no_grad():
        for module in method.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2, generator=random)
                module.running_var.uniform_(0.5, 1.5, generator=random)
            if isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d | nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5, generator=random)
                module.bias.normal_(0, 0.3, generator=random)
    return method


def crops(n: int, seed: int = 0) -> Tensor:
    return images(n, HEIGHT, WIDTH, seed)


def cues_of(points: Tensor) -> Cues:
    return Cues(points, torch.zeros(len(points), 0, 1, 1), torch.ones(len(points), 2))


def poses(n: int = 9, seed: int = 4) -> Cues:
    """Somebody who stands, a little different from crop to crop; some points were not found."""
    random = seeded(seed)
    heights = torch.tensor([8.0] * 5 + [28.0, 28.0, 42.0, 42.0, 52.0, 52.0] + [56.0, 56.0, 72.0, 72.0, 90.0, 90.0])
    points = torch.empty(n, 17, 3)
    points[..., 0] = WIDTH / 2 + 12 * torch.randn(n, 17, generator=random).clamp(-2, 2)
    points[..., 1] = heights + 2 * torch.randn(n, 17, generator=random).clamp(-2, 2)
    points[..., 2] = torch.rand(n, 17, generator=random).clamp_min(0.05)
    points[torch.rand(n, 17, generator=random) < 0.2] = 0.0
    return cues_of(points)


def nobody(n: int) -> Cues:
    return cues_of(torch.zeros(n, 17, 3))


def shown(top: int, bottom: int, n: int = 2) -> Tensor:
    """Rows of pixels `top` to `bottom` of an input are the person; a cell has 16."""
    visible = torch.zeros(n, HEIGHT, WIDTH)
    visible[:, top:bottom] = 1
    return visible


def embedded(n: int = 7, seed: int = 0, **options) -> tuple[Pirt, Embedding]:
    method = settled(pirt(**options))
    with torch.no_grad():
        return method, method.embed(method(crops(n, seed), None, poses(n)))


# ---------------------------------------------------------------- heat maps and what they say


@pytest.mark.parametrize("sigma", [1 / 48, 0.1])
@pytest.mark.parametrize("point", [(21.0, 40.5, 0.7), (2.0, 95.0, 1.0), (63.9, 16.0, 0.2)])
def test_heat_maps_are_maxima_of_gaussians_in_each_cell(point, sigma):
    found = heat_maps(torch.tensor([[point]]), 6, 4, sigma)[0, 0].double()
    assert_close(found, naive.eq_1(point, 6, 4, sigma * HEIGHT), rtol=0, atol=0.01)
    assert found.max() == pytest.approx(point[2], abs=1e-6)


def test_heat_maps_of_points_that_were_not_found_are_empty_and_no_map_is_above_1():
    points = torch.tensor([[[20.0, 20.0, 0.0], [20.0, 20.0, 2.5]]])
    found = heat_maps(points, 6, 4)
    assert not found[0, 0].any()
    assert found[0, 1].max() == 1.0


def test_mask_scores_and_groups_are_maxima():
    maps = heat_maps(poses(3).points, 6, 4)
    for groups in ("published", "disjoint"):
        joints = PirtOptions(groups=groups).joints
        assert [sorted(rows) for rows in joints] == [list(rows) for rows in naive.GROUPS[groups]]
        found = guide(maps, joints)
        for i in range(3):
            assert_close(found.mask[i, 0], naive.eq_2(maps[i]))
            for k, rows in enumerate(naive.GROUPS[groups]):
                assert found.scores[i, k] == max(float(maps[i, j].max()) for j in rows)
        assert found.shares.tolist() == [[1.0] * 3] * 3
        assert torch.equal(found.maps, maps)


def test_groups_are_the_points_that_their_names_say():
    head, upper, lower = ([COCO_17.points[j] for j in rows] for rows in PirtOptions(groups="disjoint").joints)
    assert all(name.split("_")[-1] in ("nose", "eye", "ear") for name in head)
    assert all(name.split("_")[-1] in ("shoulder", "elbow", "wrist") for name in upper)
    assert all(name.split("_")[-1] in ("hip", "knee", "ankle") for name in lower)
    assert COCO_17.points[PirtOptions().joints[0][-1]] == "left_shoulder"  # as published


@pytest.mark.parametrize("tau", [0.001, 0.3])
def test_tokens_are_means_over_the_whole_map_of_what_a_map_marks(tau):
    maps, features = heat_maps(poses(2).points, 6, 4), torch.randn(2, 5, 6, 4, generator=seeded())
    found = pose_tokens(features, maps, tau)
    for i in range(2):
        assert_close(found[i].double(), naive.eq_3(maps[i], features[i].double(), tau), rtol=0, atol=1e-6)
    assert (found == 0).all(2).any()  # a point that was not found


def test_tokens_under_a_prompt_are_means_over_visible_cells_at_the_same_scale():
    maps, features = torch.zeros(1, 1, 6, 4), torch.randn(1, 5, 6, 4, generator=seeded())
    maps[0, 0, 2:4] = 1.0
    seen = torch.zeros(1, 1, 6, 4)
    seen[:, :, :3] = 1.0
    found = pose_tokens(features, maps, 0.001, seen)[0, 0]
    assert_close(found, features[0, :, 2].mean(1) * 8 / 24)
    assert not pose_tokens(features, maps, 0.001, 0 * seen).any()


def test_hidden_points_are_not_there_and_shares_are_of_the_groups_maps():
    points = torch.zeros(1, 17, 3)
    points[0, 0] = torch.tensor([8.0, 8.0, 0.9])  # nose in the first cell
    points[0, 9] = torch.tensor([8.0, 40.0, 0.8])  # wrist in the third row, next to the edge of the prompt
    points[0, 15] = torch.tensor([8.0, 88.0, 0.7])  # ankle in the last row
    maps, joints = heat_maps(points, 6, 4, sigma=0.06), PirtOptions().joints
    seen = torch.zeros(1, 1, 6, 4)
    seen[:, :, :3] = 1.0
    found = guide(maps, joints, seen)
    assert_close(found.scores, torch.tensor([[0.9, 0.8, 0.0]]))
    assert not found.maps[0, 15].any()
    for k, j in enumerate((0, 9)):
        assert found.shares[0, k] == pytest.approx(float((maps[0, j] * seen[0, 0]).sum() / maps[0, j].sum()), abs=1e-6)
    assert 0.5 < found.shares[0, 1] < 1
    assert found.shares[0, 2] == 0
    # A group of which nothing is left does not show, prompt or not.
    points[0, 9] = 0
    assert guide(heat_maps(points, 6, 4), joints, seen).shares[0, 1] == 0
    assert guide(heat_maps(points, 6, 4), joints).shares.tolist() == [[1.0, 0.0, 1.0]]


def test_an_estimators_own_maps_take_the_place_of_drawn_ones():
    points, own = poses(3), torch.rand(3, 17, 24, 8, generator=seeded(2))
    method = settled(pirt())
    with torch.no_grad():
        features = method.backbone(crops(3))
        expected = method.from_maps(features, own)
        found = method.heads(features, None, points._replace(heat=own))
        drawn = method.heads(features, None, points)
        asked = settled(pirt(maps="drawn")).heads(features, None, points._replace(heat=own))
    assert_close(found["parts"], expected["parts"])
    assert not torch.allclose(found["parts"], drawn["parts"])
    assert_close(asked["parts"], drawn["parts"])
    assert Pirt.needs(PirtOptions(), "search") == Needs(points=COCO_17, heat=True)
    assert Pirt.needs(PirtOptions(maps="drawn"), "search") == Needs(points=COCO_17)


def test_what_does_not_show_of_a_group_teaches_nothing_of_it():
    method, points = pirt(), poses(6).points
    pids = torch.tensor([0, 0, 1, 1, 2, 2])
    legs = list(PirtOptions().joints[2])
    points[2:, legs] = 0.0  # as those that an occluder covers
    found = method(crops(6), None, cues_of(points))
    assert found["shares"][2:, 2].tolist() == [0.0] * 4
    assert not found["parts"][2:, 2].any()
    terms = method.losses(found, pids)
    changed = dict(found, parts=found["parts"].detach().clone())
    changed["parts"][2:, 2] += 5 * torch.randn(4, found["parts"].shape[2])
    assert_close(method.losses(changed, pids)["part_triplet"], terms["part_triplet"])
    gone = dict(found, shares=torch.zeros(6, 3))
    assert float(method.losses(gone, pids)["part_triplet"]) == 0
    assert float(method.losses(gone, pids)["part_id"]) == 0


# ---------------------------------------------------------------- network


@pytest.mark.parametrize("row", ["pose", "intra", "pirt"])
@pytest.mark.parametrize("options", [{}, {"groups": "disjoint", "tau": 0.2, "layers": 1, "patch": (2, 4)}])
def test_heads_are_section_3_of_the_paper(row, options):
    method, cues = settled(pirt(row=row, **options)), poses(3)
    with torch.no_grad():
        features = method.backbone(crops(3))
        found = method.heads(features, None, cues)
        expected = naive.heads(method, features, heat_maps(cues.points, 6, 4, method.options.sigma))
        neck = method.global_neck
        f = torch.stack([expected["stripe"], expected["patch"]], 1)
        normed = (f.flatten(1) - neck.running_mean) / (neck.running_var + neck.eps).sqrt() * neck.weight
    assert_close(found["parts"].double(), expected["parts"], rtol=1e-4, atol=1e-5)
    assert_close(found["confidence"].double(), expected["confidence"], rtol=1e-4, atol=1e-6)
    assert_close(found["globals"].double(), normed.view(3, 2, 16).double(), rtol=1e-4, atol=1e-4)
    assert_close(found["confidence"].sum(1), torch.ones(3))
    assert found["confidence"].std() > 0.01


def test_an_estimators_own_maps_serve_in_any_resolution():
    method, cues = settled(pirt()), poses(2)
    with torch.no_grad():
        features = method.backbone(crops(2))
        drawn = heat_maps(cues.points, 6, 4, 0.06)
        expected = method.heads(features, None, cues)
        fine = drawn.repeat_interleave(4, 2).repeat_interleave(4, 3) * torch.rand(2, 17, 24, 16, generator=seeded())
        fine[:, :, ::4, ::4] = drawn
        for maps in (drawn, fine):
            found = method.from_maps(features, maps)
            for name in expected:
                assert_close(found[name], expected[name])
        below = method.from_maps(features, torch.where(drawn > 0, drawn, -0.01))  # networks are not bounded
        assert_close(below["parts"], expected["parts"])


def test_without_key_points_maps_are_ones_and_confidences_equal():
    method = settled(pirt())
    parts_only = Cues(torch.zeros(2, 0, 3), torch.zeros(2, 1, 6, 4), torch.ones(2, 2))
    with torch.no_grad():
        features = method.backbone(crops(2))
        expected = method.from_maps(features, torch.ones(2, 17, 6, 4))
        assert_close(expected["confidence"], torch.full((2, 3), 1 / 3))
        for cues in (None, nobody(2), parts_only):
            found = method.heads(features, None, cues)
            for name in expected:
                assert_close(found[name], expected[name], rtol=0, atol=1e-6)
        # One crop of nobody does not change the other.
        mixed = cues_of(torch.stack([torch.zeros(17, 3), poses(1).points[0]]))
        found, alone = method.heads(features, None, mixed), method.heads(features[1:], None, poses(1))
    for name in expected:
        assert_close(found[name][:1], expected[name][:1], rtol=0, atol=1e-5)
        assert_close(found[name][1:], alone[name], rtol=0, atol=1e-5)


def test_a_group_of_which_nothing_was_found_has_no_say():
    method, cues = settled(pirt()), poses(2)
    cues.points[0, 11:] = 0.0
    with torch.no_grad():
        found = method(crops(2), None, cues)
    assert found["confidence"][0, 2] == 0
    assert found["confidence"][0, :2].sum() == pytest.approx(1)
    assert not found["parts"][0, 2].any()


def test_parameters_are_the_papers():
    with torch.device("meta"):
        backbone = Tiny(2048)
        method = Pirt(backbone, 702)
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in method.named_children()}
    assert counts["irt"] == 3 * (4 * 2048**2 + 2 * 2048 * 512 + 9 * 2048 + 512)
    assert counts["irm"] == (2048 + 1) * 512 + 3 * 512**2 + 4 * 512 + (512 + 1) * 2048 + 2 * 2048
    assert counts["csm"] == (2048 + 1) * 512 + 512 + 1
    assert counts["global_classifiers"] + counts["part_classifiers"] == 5 * 2048 * 702
    assert 67.8e6 < sum(counts.values()) - counts["backbone"] < 67.9e6


def test_defaults_are_the_papers_and_its_published_codes():
    o = PirtOptions()
    assert (o.row, o.partitions, o.groups, o.patch) == ("pirt", ("stripe", "patch", "pose"), "published", (4, 2))
    assert (o.dim, o.reduction, o.stripe_heads, o.irm_dropout) == (0, 4, 4, 0.3)
    assert (o.layers, o.heads, o.ffn, o.dropout) == (3, 8, 512, 0.1)
    assert (o.tau, o.sigma, o.confidence) == (0.001, 1 / 48, True)
    assert (o.margin, o.smoothing, o.smoothing_over) == (0.0, 0.1, "others")
    assert (o.stripe_id, o.patch_id, o.part_id, o.part_triplet) == (1.0, 1.0, 1.0, 1.0)
    assert (o.neighbours, o.sides, o.metric, o.normalise) == (100, "both", "cosine", False)


def test_units_begin_small_and_unlike_one_another():
    torch.manual_seed(0)
    units = Pirt(Tiny(64), IDS).irt.layers
    for unit in units:
        for linear in (unit.linear1, unit.linear2, unit.self_attn.out_proj):
            assert float(linear.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
            assert not linear.bias.any()
    assert not torch.equal(units[0].self_attn.in_proj_weight, units[1].self_attn.in_proj_weight)
    assert not torch.equal(units[0].linear1.weight, units[1].linear1.weight)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"row": "inter"}, "row"),
        ({"partitions": ()}, "partitions"),
        ({"partitions": ("stripe", "grid")}, "partitions"),
        ({"partitions": ("stripe", "stripe")}, "a partition is named twice"),
        ({"patch": (0, 2)}, "a patch has at least one cell each way"),
        ({"layers": 0}, "layers"),
        ({"tau": 1.0}, "tau"),
        ({"sigma": 0.0}, "sigma"),
        ({"dropout": 1.0}, "dropout"),
        ({"sides": "left"}, "sides"),
        ({"neighbours": 0}, "neighbours"),
        ({"gamma": 0.5}, "gamma"),
    ],
)
def test_wrong_options_are_refused(wrong, said):
    with pytest.raises(ValidationError, match=said):
        PirtOptions(**wrong)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"heads": 3}, r"options\.heads: 3 heads do not divide the 16 channels of the map\. Remedy: choose a divisor"),
        ({"dim": 18}, r"options\.heads: 4 heads do not divide the 18 channels of the map"),
        (
            {"stripe_heads": 3},
            r"options\.stripe_heads: 3 heads do not divide the 4 channels inside the module\. Rem",
        ),
        ({"reduction": 16}, r"options\.stripe_heads: 4 heads do not divide the 1 channels inside the module"),
    ],
)
def test_heads_have_to_divide_the_widths(options, said):
    with pytest.raises(ConfigError, match=said):
        pirt(**{"dim": 0} | options)


def test_key_points_are_needed_by_pose_guided_features_and_by_the_mask():
    points = Needs(points=COCO_17, heat=True)
    for when in ("train", "search"):
        for row in ("pose", "intra", "pirt"):
            assert Pirt.needs(PirtOptions(row=row), when) == points
        assert Pirt.needs(PirtOptions(row="intra", partitions=("stripe",)), when) == points
        assert Pirt.needs(PirtOptions(row="pose", partitions=("stripe", "patch")), when) == Needs()
        assert Pirt.needs(PirtOptions(row="baseline"), when) == Needs()


def test_other_key_points_and_maps_are_refused():
    method = pirt().eval()
    other = Cues(torch.zeros(2, 18, 3), torch.zeros(2, 0, 1, 1), torch.ones(2, 2))
    with pytest.raises(
        ConfigError, match=r"cues: have 18 key points, and Pirt takes the 17 of 'coco-17'\. Remedy: conv"
    ):
        method(crops(2), None, other)
    features = method.backbone(crops(2))
    with pytest.raises(ConfigError, match=r"heat maps: are \[2, 18, 6, 4\] and not \[2, 17, h, w\]\. Remedy: give one"):
        method.from_maps(features, torch.zeros(2, 18, 6, 4))
    with pytest.raises(ConfigError, match=r"heat maps: are \[17, 6, 4\]"):
        method.from_maps(features, torch.zeros(17, 6, 4))


def test_options_reach_what_they_say():
    def outputs(**options) -> dict[str, Tensor]:
        method = settled(pirt(**options))
        with torch.no_grad():
            return method(crops(4), None, poses(4))

    plain = outputs()
    for option in ({"tau": 0.5}, {"sigma": 0.2}, {"groups": "disjoint"}):
        assert (outputs(**option)["parts"] - plain["parts"]).abs().max() > 1e-3, option
    for option in ({"layers": 1}, {"heads": 2}, {"stripe_heads": 1}, {"patch": (2, 2)}):
        assert (outputs(**option)["globals"] - plain["globals"]).abs().max() > 1e-3, option
    assert_close(outputs(patch=(2, 2))["globals"][:, 0], plain["globals"][:, 0])  # the stripes keep theirs
    assert outputs(dim=32)["parts"].shape == (4, 3, 32)
    assert pirt(reduction=2).irm.qkv.weight.shape == (24, 8, 1, 1)
    assert pirt(reduction=2).csm[0].weight.shape == (8, 16)
    assert pirt(ffn=20).irt.layers[0].linear1.weight.shape == (20, 16)
    even = outputs(confidence=False)
    assert_close(even["confidence"], torch.full((4, 3), 1 / 3))
    assert not hasattr(pirt(confidence=False), "csm")


@pytest.mark.parametrize("partitions", [("stripe",), ("patch",), ("pose",), ("patch", "stripe"), ("pose", "stripe")])
def test_partitions_can_be_left_out(partitions):
    method, whole = settled(pirt(partitions=partitions)), settled(pirt())
    shared = {name: t for name, t in whole.state_dict().items() if name.startswith(("backbone", "irm", "irt", "csm"))}
    method.load_state_dict(shared, strict=False)
    cues = poses(4)
    with torch.no_grad():
        found, all_three = method(crops(4), None, cues), whole(crops(4), None, cues)
    if "pose" in partitions:
        assert_close(found["parts"], all_three["parts"])
    assert set(method.losses(found, PIDS[[0, 1, 3, 4]])) == {
        loss for loss in ALL if loss.split("_")[0].replace("part", "pose") in partitions
    }
    expected = [name for name in REGIONS if name in partitions or (name in NAMES and "pose" in partitions)]
    assert [region.name for region in method.regions] == expected
    embedding = method.embed(found)
    assert embedding["weights"].shape == (4, len(expected))
    distance = method.distance()
    assert isinstance(distance, Cascade) == (len(partitions) == 2 and "pose" in partitions)
    assert [part.name for part in distance.explain(embedding[0], embedding[1]).parts] == expected
    assert distance.matrix(embedding, embedding).argmin(1).tolist() == [0, 1, 2, 3]
    assert method.vector(found).shape == (4, 16 * max(1, len(set(partitions) - {"pose"})))


def test_dropout_is_on_the_identity_path_and_in_the_units_in_training_only():
    for option in ({"irm_dropout": 0.5}, {"dropout": 0.5}):
        method, cues = pirt(**option).train(), poses(9)
        features = method.backbone(crops(9))
        one, two = (method.heads(features, None, cues)["parts"] for _ in range(2))
        assert not torch.equal(one, two)
        method.eval()
        assert torch.equal(*(method.heads(features, None, cues)["parts"] for _ in range(2)))
    still = pirt().train()
    assert torch.equal(*(still.heads(features, None, cues)["parts"] for _ in range(2)))
    # With nothing left of the identity path the attention alone is left.
    irm = pirt(irm_dropout=0.999).irm.train()
    irm.norm.eval(), irm.theta.eval(), irm.phi.eval()
    x, ones = torch.rand(1, 16, 6, 4, generator=seeded()), torch.ones(1, 1, 6, 4)
    torch.manual_seed(1)
    assert (irm(x, ones) - irm.eval()(x, ones)).abs().max() > 1e-3


# ---------------------------------------------------------------- losses


def outputs(n: int = 9, dim: int = 16) -> dict[str, Tensor]:
    random = seeded(3)
    confidence = torch.rand(n, 3, generator=random)
    return {
        "globals": torch.randn(n, 2, dim, generator=random),
        "parts": torch.randn(n, 3, dim, generator=random) + 0.3,
        "confidence": confidence / confidence.sum(1, keepdim=True),
        "shares": torch.ones(n, 3),
        "seen": torch.ones(n, 1),
    }


@pytest.mark.parametrize("over", ["others", "all"])
@pytest.mark.parametrize("name", sorted(ALL))
def test_each_loss_and_its_gradients_are_those_of_its_equation(name, over):
    method = settled(pirt(smoothing=0.2, smoothing_over=over, **{name: 0.7}))
    ours, theirs, pids = outputs(), outputs(), PIDS.tolist()
    kind = "parts" if name.startswith("part") else "globals"
    f, g = ours[kind].requires_grad_(), theirs[kind].double().requires_grad_()
    if name == "part_triplet":
        expected = sum(naive.soft_triplet(g[:, i], pids) for i in range(3)) / 3
    elif name == "part_id":
        neck, w = method.part_neck, method.part_classifiers.weight.detach().double()
        normed = ((g.flatten(1) - neck.running_mean) / (neck.running_var + neck.eps).sqrt() * neck.weight).view_as(g)
        terms = [naive.smoothed(w[i] @ normed[n, i], pids[n], 0.2, over) for n in range(9) for i in range(3)]
        expected = sum(terms) / 27
    else:
        k = ["stripe_id", "patch_id"].index(name)
        w = method.global_classifiers.weight.detach().double()
        expected = sum(naive.smoothed(w[k] @ g[n, k], pids[n], 0.2, over) for n in range(9)) / 9
    loss = method.losses(ours, PIDS)[name]
    assert expected.item() > 0.1
    assert_close(loss.double(), 0.7 * expected.detach(), rtol=1e-5, atol=1e-6)
    loss.backward()
    (0.7 * expected).backward()
    assert_close(f.grad.double(), g.grad, rtol=1e-4, atol=1e-6)


def test_gradients_of_the_triplet_are_those_of_finite_differences():
    method = pirt()
    f = torch.randn(5, 3, generator=seeded(2), dtype=torch.float64, requires_grad=True)
    pids = torch.tensor([0, 0, 1, 1, 2])  # the last one has no positive
    assert torch.autograd.gradcheck(lambda x: method._triplet(x, pids), f)
    with torch.no_grad():
        assert_close(method._triplet(f, pids), naive.soft_triplet(f, pids.tolist()))


def test_crops_alike_have_finite_gradients():
    f = torch.ones(4, 3, requires_grad=True)  # all distances are 0, where a root has no gradient
    loss = pirt()._triplet(f, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.6931, abs=1e-4)
    assert f.grad.isfinite().all()


def test_triplets_need_a_positive_and_a_negative():
    d = torch.rand(3, 3, generator=seeded())
    for pids in ([0, 0, 0], [0, 1, 2]):
        assert float(soft_batch_hard(d, torch.tensor(pids))) == 0.0
    assert float(soft_batch_hard(d[:1, :1], torch.tensor([0]))) == 0.0


def test_a_margin_makes_a_hinge():
    o = outputs()
    apart = torch.stack([torch.cdist(o["parts"][:, i], o["parts"][:, i]) for i in range(3)])
    same = PIDS[:, None] == PIDS
    positive, negative = apart.masked_fill(~same, 0).amax(2), apart.masked_fill(same, 1e9).amin(2)
    hinge = (0.5 + positive - negative).clamp_min(0)
    expected = (hinge.sum(1) / (hinge > 0).sum(1)).mean()
    assert_close(pirt(margin=0.5).eval().losses(o, PIDS)["part_triplet"], expected, rtol=1e-4, atol=1e-5)


def test_smoothing_of_one_or_two_identities_stays_in_bounds():
    method = pirt(ids=2, smoothing=0.9).eval()
    terms = method.losses(outputs(), torch.tensor([0, 0, 0, 1, 1, 0, 1, 1, 0]))
    assert all(bool(term.isfinite()) for term in terms.values())
    assert float(pirt(ids=1).eval().losses(outputs(), torch.zeros(9, dtype=torch.int64))["stripe_id"].detach()) == 0.0


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("row", ROWS)
def test_every_row_learns_embeds_and_matches(row):
    method, x, cues = pirt(row=row), crops(9), poses(9)
    assert set(method.losses(method(x, None, cues), PIDS)) == ROWS[row]
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
        found = method(x, None, cues)
        embedding, again = method.embed(found), method.embed(method(x, None, cues))
    names = {"globals"} if row == "baseline" else {"seen", "stripe", "patch", "parts", "confidence", "weights"}
    assert set(embedding.names) == names
    for name in embedding.names:
        assert embedding[name].dtype == torch.float32
        assert torch.equal(embedding[name], again[name])
    matrix = method.distance().matrix(embedding, embedding)
    assert matrix.argmin(1).tolist() == list(range(9))  # every crop is nearest to itself
    same = PIDS[:, None] == PIDS[None]
    others = ~torch.eye(9, dtype=torch.bool)
    assert matrix[same & others].mean() < matrix[~same].mean()
    assert set(method.distances(found)) == ({"global"} if row == "baseline" else {"stripe", "patch", "part"})
    for distances in method.distances(found).values():
        assert_close(distances.diagonal(), torch.zeros(9), rtol=0, atol=1e-5)
        assert distances.max() <= 2
    assert method.vector(found).shape == (9, 16 if row == "baseline" else 32)


def test_the_baseline_is_the_mean_of_the_map_without_a_triplet():
    method, x = settled(pirt(row="baseline", smoothing=0.0)), crops(9)
    with torch.no_grad():
        pooled, neck = method.backbone(x).mean((2, 3)), method.neck
        expected = (pooled - neck.running_mean) / (neck.running_var + neck.eps).sqrt() * neck.weight
        found = method(x)
        assert_close(found["globals"], expected, rtol=1e-4, atol=1e-5)
        logits = expected @ method.classifier.weight.T
        assert_close(method.losses(found, PIDS)["id"], nn.functional.cross_entropy(logits, PIDS), rtol=1e-4, atol=1e-4)
    assert method.distance() == GlobalDistance("globals")
    assert [region.name for region in method.regions] == ["global"]


@pytest.mark.parametrize(("row", "modules"), [("pose", set()), ("intra", {"irm"}), ("pirt", {"irm", "irt"})])
def test_rows_add_one_module_after_the_other(row, modules):
    assert {name for name in ("irm", "irt") if hasattr(pirt(row=row), name)} == modules


# ---------------------------------------------------------------- matching


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("sides", SIDES)
def test_matching_is_the_papers_ranking_and_the_printed_sum(sides, metric):
    method, e = embedded(seed=1)
    q, g = e[:3], e
    distance = method.distance(neighbours=4, sides=sides, metric=metric)
    matrix = distance.matrix(q, g)
    f, c = e["parts"].double(), e["confidence"].double()
    fine = distance.fine.matrix(q, g)
    for i in range(3):
        d_s, d_p, d_l = torch.zeros(7), torch.zeros(7), torch.zeros(7)
        for j in range(7):
            d_s[j] = naive.cosine_distance(e["stripe"][i, 0], e["stripe"][j, 0])
            d_p[j] = naive.cosine_distance(e["patch"][i, 0], e["patch"][j, 0])
            d_l[j] = naive.d_local(f, c, i, j, sides, metric)
        assert_close(fine[i], d_s + d_p + d_l, rtol=0, atol=2e-5)
        assert matrix[i].argsort(stable=True).tolist() == naive.ranking(d_s, d_p, d_l, 4)


def test_the_default_is_made_of_kernels():
    method, _ = embedded(2)
    stripe = PartDistance(parts="stripe", weights="seen", names=("stripe",))
    patch = PartDistance(parts="patch", weights="seen", names=("patch",))
    local = PartDistance(weights="confidence", normalise=False, combine="sqrt_product", names=NAMES)
    assert method.distance() == Cascade(stripe, MixedDistance(((1.0, stripe), (1.0, patch), (1.0, local))), 100)
    assert method.distance(normalise=True).fine.terms[2][1] == PartDistance(
        weights="confidence", combine="sqrt_product", names=NAMES
    )
    assert isinstance(method.distance(sides="query").fine.terms[2][1], GroupDistance)
    assert method.distance().fine.farthest == 2 + 2 + 6


def test_options_set_what_matching_does_by_default():
    given = pirt(neighbours=5, sides="gallery", metric="euclidean", normalise=True).distance()
    assert given == pirt().distance(neighbours=5, sides="gallery", metric="euclidean", normalise=True)
    assert given.n == 5
    assert given.fine.terms[2][1] == GroupDistance("gallery", "euclidean", True, NAMES)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("normalise", [True, False])
def test_group_distance_keeps_the_contract_of_distances(sides, metric, normalise):
    _, e = embedded(6, seed=2)
    e = e.with_tensors(confidence=torch.cat([e["confidence"][:5], torch.zeros(1, 3)]))
    distance = GroupDistance(sides, metric, normalise, NAMES)
    assert isinstance(distance, Distance)
    matrix = distance.matrix(e, e)
    f, c = e["parts"].double(), e["confidence"].double()
    for i in range(5):
        for j in range(5):
            expected = float(naive.d_local(f, c, i, j, sides, metric))
            if normalise and sides == "both":
                expected /= float((c[i] * c[j]).sqrt().sum())
            assert abs(float(matrix[i, j]) - expected) < 2e-5
    everything = torch.arange(6).expand(6, 6)
    assert_close(distance.candidates(e, e, everything), matrix, rtol=0, atol=1e-5)
    assert_close(torch.cat([distance.matrix(e, e[:2]), distance.matrix(e, e[2:])], 1), matrix, rtol=0, atol=1e-5)
    prepared = distance.prepare(e)
    assert prepared.names == ("parts", "confidence")
    assert distance.prepare(prepared) is prepared
    assert_close(distance.matrix(prepared, e), matrix)
    # A crop that is sure of nothing shares nothing with anybody, if it is asked.
    nothing = {"both": ("row", "column"), "query": ("row",), "gallery": ("column",), "none": ()}[sides]
    assert (matrix[5] == distance.farthest).all() == ("row" in nothing)
    assert (matrix[:, 5] == distance.farthest).all() == ("column" in nothing)
    assert matrix.max() <= distance.farthest
    explanation = distance.explain(e[0], e[1])
    assert explanation.distance == pytest.approx(float(matrix[0, 1]), abs=1e-5)
    shares = [part.share for part in explanation.parts]
    assert sum(shares) == pytest.approx(1)
    mean = sum(part.share * part.distance for part in explanation.parts)
    assert mean == pytest.approx(float(GroupDistance(sides, metric, True, NAMES).matrix(e[0], e[1])), abs=1e-5)
    assert [part.query_weight for part in explanation.parts] == pytest.approx(e["confidence"][0].tolist())
    assert distance.shortlist_vectors(e).norm(dim=1).tolist() == pytest.approx([1.0] * 6)
    assert distance.candidates(e[:0], e, everything[:0]).shape == (0, 6)


def test_group_distance_is_the_kernel_where_that_has_words_for_it():
    _, e = embedded(6)
    e = e.with_tensors(confidence=torch.cat([e["confidence"][:4], torch.eye(3)[1:]]))  # the last two share nothing
    for normalise in (True, False):
        kernel = PartDistance(weights="confidence", normalise=normalise, combine="sqrt_product", names=NAMES)
        ours = GroupDistance("both", "cosine", normalise, NAMES)
        assert_close(ours.matrix(e, e), kernel.matrix(e, e), rtol=0, atol=1e-5)
        assert ours.farthest == kernel.farthest == ours.matrix(e, e)[4, 5]
    kernel = PartDistance(weights=None, names=NAMES)
    assert_close(GroupDistance("none", "cosine", False, NAMES).matrix(e, e), kernel.matrix(e, e), rtol=0, atol=1e-5)


def test_group_distance_names_what_it_cannot_read():
    _, e = embedded(2)
    distance = GroupDistance("query", "cosine", False, NAMES)
    with pytest.raises(EmbeddingError, match="there is no tensor 'confidence'"):
        distance.prepare(Embedding({"parts": e["parts"]}))
    with pytest.raises(EmbeddingError, match=r"'confidence' has values outside \[0, 1\]"):
        distance.prepare(e.with_tensors(confidence=e["confidence"] + 1))
    with pytest.raises(EmbeddingError, match="'confidence' has 2 columns, but 'parts' has 3 parts"):
        distance.prepare(e.with_tensors(confidence=e["confidence"][:, :2]))
    with pytest.raises(EmbeddingError, match="explain one pair at a time"):
        distance.explain(e, e[0])


@pytest.mark.parametrize(
    ("options", "given", "said"),
    [
        ({}, {"sides": "left"}, r"sides: 'left' is not known\. Remedy: choose one of both, query, gallery, none"),
        ({}, {"metric": "l1"}, r"metric: 'l1' is not known\. Remedy: choose one of cosine, euclidean"),
        ({}, {"neighbours": 0}, "n: 0 crops cannot be re-ranked"),
        ({"row": "baseline"}, {"neighbours": 5}, r"neighbours: nothing is re-ranked here\. Remedy: leave it out"),
        ({"row": "baseline"}, {"sides": "none"}, r"sides: there are no pose-guided features here\. Remedy: leave it"),
        ({"partitions": ("pose",)}, {"neighbours": 5}, "neighbours: nothing is re-ranked here"),
        ({"partitions": ("stripe",)}, {"metric": "cosine"}, "metric: there are no pose-guided features here"),
        ({"partitions": ("stripe", "patch")}, {"normalise": True}, "normalise: there are no pose-guided features here"),
    ],
)
def test_wrong_matching_options_are_named(options, given, said):
    with pytest.raises(ConfigError, match=said):
        pirt(**options).distance(**given)


def test_explanation_names_the_regions():
    method, e = embedded(2)
    explanation = method.distance().explain(e[0], e[1])
    assert [part.name for part in explanation.parts] == [region.name for region in method.regions] == REGIONS
    assert [part.gallery_weight for part in explanation.parts] == pytest.approx(e["weights"][1].tolist())
    assert sum(part.share for part in explanation.parts) == pytest.approx(1)
    assert e["weights"].tolist()[0][:2] == [1.0, 1.0]
    assert torch.equal(e["weights"][:, 2:], e["confidence"])


# ---------------------------------------------------------------- embedding


@pytest.mark.parametrize("row", ROWS)
def test_a_crop_is_embedded_alike_alone_and_in_a_batch(row):
    method, x, cues = settled(pirt(row=row)), crops(5), poses(5)
    embedded_alike(method, x, cues)


def test_a_batch_of_one_has_losses():
    method = pirt().eval()
    terms = method.losses(method(crops(1), None, poses(1)), PIDS[:1])
    assert float(terms["part_triplet"].detach()) == 0.0
    sum(terms.values()).backward()
    assert method.backbone.conv.weight.grad.isfinite().all()
    assert method.backbone.conv.weight.grad.any()


def test_a_mirrored_crop_with_mirrored_points_has_the_same_embedding():
    cues = poses(3)
    people = [KeyPoints(points[None].numpy(), COCO_17).mirrored(WIDTH).values[0] for points in cues.points]
    mirrored = cues_of(torch.stack([torch.from_numpy(points) for points in people]))
    apart = {}
    for groups in ("disjoint", "published"):
        method, x = settled(pirt(symmetric=True, groups=groups)), crops(3)
        with torch.no_grad():
            one, two = method.embed(method(x, None, cues)), method.embed(method(x.flip(-1), None, mirrored))
        apart[groups] = max(float((one[name] - two[name]).abs().max()) for name in one.names)
    assert apart["disjoint"] < 1e-4
    assert apart["published"] > 1e-3  # the left shoulder is in the head, the right one is not


def test_an_embedding_network_needs_no_identities():
    method = settled(pirt(ids=0))
    with torch.no_grad():
        assert method.embed(method(crops(2)))["parts"].shape == (2, 3, 16)


def test_bfloat16_stays_close_to_float32():
    method, x, cues = settled(pirt()), crops(12), poses(12)
    with torch.no_grad():
        exact = method.embed(method(x, None, cues))
        with torch.autocast("cpu", torch.bfloat16):
            rough = method.embed(method(x, None, cues))
    assert all(rough[name].dtype == torch.float32 for name in rough.names)
    assert (rough["confidence"] - exact["confidence"]).abs().max() < 0.01
    for distance in (method.distance().coarse, *(term for _, term in method.distance().fine.terms)):
        assert (distance.matrix(exact, exact) - distance.matrix(rough, rough)).abs().max() < 0.02


def test_losses_under_autocast_are_close_and_float32():
    method, x, cues = settled(pirt()), crops(9), poses(9)
    exact = method.losses(method(x, None, cues), PIDS)
    with torch.autocast("cpu", torch.bfloat16):
        rough = method.losses(method(x, None, cues), PIDS)
    for name, value in exact.items():
        assert rough[name].dtype == torch.float32
        assert abs(float(rough[name].detach()) - float(value.detach())) < 0.05 * max(1.0, float(value.detach())), name


# ---------------------------------------------------------------- prompts


@pytest.mark.parametrize("confidence", [True, False])
def test_confidences_are_multiplied_by_visible_shares(confidence):
    method, cues = settled(pirt(confidence=confidence)), poses(2)
    joints, visible = method.options.joints, shown(0, 48)
    with torch.no_grad():
        features = method.backbone(crops(2))
        found = method.heads(features, visible, cues)
        seen = torch.nn.functional.adaptive_avg_pool2d(visible[:, None], (6, 4))
        pose = guide(heat_maps(cues.points, 6, 4, 0.06), joints, seen)
        f_pose = found["parts"] / found["confidence"][..., None].clamp_min(1e-9)
        scores = pose.shares * (method.csm(f_pose).sigmoid()[..., 0] * pose.scores if confidence else 1.0)
    assert_close(found["shares"], pose.shares)
    assert 0 < pose.shares[0, 1] < 1
    assert_close(found["confidence"], scores / scores.sum(1, keepdim=True), rtol=1e-4, atol=1e-5)
    assert_close(found["confidence"].sum(1), torch.ones(2))


def test_means_are_over_visible_cells():
    method, cues = settled(pirt(row="pose")), poses(2)
    with torch.no_grad():
        features = method.backbone(crops(2))
        found = method.heads(features, shown(0, 48), cues)["globals"]
        neck = method.global_neck
        patches = nn.functional.adaptive_max_pool2d(features[:, :, :3], (1, 2)).mean((2, 3))
        f = torch.cat([features[:, :, :3].mean((2, 3)), patches], 1)
        expected = (f - neck.running_mean) / (neck.running_var + neck.eps).sqrt() * neck.weight
    assert_close(found.flatten(1), expected, rtol=1e-4, atol=1e-5)


def test_points_that_are_all_hidden_are_as_if_nobody_was_found():
    method, cues = settled(pirt()), poses(2)
    cues.points[:, :11] = 0.0  # legs only
    with torch.no_grad():
        features = method.backbone(crops(2))
        hidden, none = (method.heads(features, shown(0, 48), given) for given in (cues, None))
    for name in none:
        assert_close(hidden[name], none[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("row", ROWS)
def test_hidden_pixels_and_points_change_nothing_that_is_matched(row):
    method, x, cues = settled(pirt(row=row)), crops(2), poses(2)
    other, moved = x.clone(), cues.points.clone()
    other[:, :, 48:] = crops(2, seed=9)[:, :, 48:] * 3 + 1
    moved[:, 13:, :2] = torch.tensor([5.0, 70.0])  # knees and ankles, which the prompt hides wherever they are
    visible = shown(0, 48)
    with torch.no_grad():
        one = method.embed(method(x, visible, cues))
        two = method.embed(method(other, visible, cues._replace(points=moved)))
        same = method.embed(method(other, visible, cues))
        plain, changed = method.embed(method(x, None, cues)), method.embed(method(other, None, cues))
    for name in one.names:
        assert_close(one[name], same[name], rtol=0, atol=1e-5)
    if row != "baseline":
        assert_close(one["parts"], two["parts"], rtol=0, atol=1e-5)
    distance = method.distance()
    assert_close(distance.matrix(one, plain), distance.matrix(same, plain), rtol=0, atol=1e-5)
    assert (distance.matrix(changed, plain) - distance.matrix(plain, plain)).abs().max() > 0.01


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("given", [True, False])
def test_a_prompt_of_the_whole_crop_is_no_prompt(row, given):
    method, x, cues = settled(pirt(row=row)), crops(2), poses(2) if given else None
    with torch.no_grad():
        one, two = method(x, None, cues), method(x, torch.ones(2, HEIGHT, WIDTH), cues)
    for name in one:
        assert_close(one[name], two[name], rtol=0, atol=1e-5)


def test_a_prompt_may_come_in_cells():
    method, x, cues = settled(pirt()), crops(2), poses(2)
    with torch.no_grad():
        features = method.backbone(x)
        one = method.heads(features, shown(0, 48), cues)
        two = method.heads(features, shown(0, 48)[:, ::16, ::16], cues)
    for name in one:
        assert_close(one[name], two[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("row", ["pose", "intra", "pirt"])
def test_a_crop_that_shows_nothing_is_farthest(row):
    method, x, cues = settled(pirt(row=row)), crops(2), poses(2)
    with torch.no_grad():
        hidden = method.embed(method(x, torch.zeros(2, HEIGHT, WIDTH), cues))
        plain = method.embed(method(x, None, cues))
    assert hidden["weights"].tolist() == [[0.0] * 5] * 2
    distance = method.distance()
    assert distance.matrix(hidden, plain).tolist() == [[distance.fine.farthest] * 2] * 2


def test_hidden_groups_are_not_taught():
    method = settled(pirt(sigma=0.01))  # no tail of a hidden map ends in a visible cell
    found = method(crops(9), shown(0, 32, 9), poses(9))
    assert not found["shares"][:, 2].any()
    sum(method.losses(found, PIDS).values()).backward()
    grad = method.part_classifiers.weight.grad
    assert grad[:2].any()
    assert not grad[2].any()
    assert method.backbone.conv.weight.grad.isfinite().all()


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize(("name", "channels"), [("paper", 2048), ("imagenet", 1280), ("reid", 512)])
def test_recipes_have_options_of_the_method_that_fit_their_backbones(name, channels):
    settings = recipe(f"pirt-{name}")
    assert settings["method"] == "pirt"
    with torch.device("meta"):
        Pirt(Tiny(channels), 0, PirtOptions(**settings["options"])).distance()


@pytest.mark.parametrize("name", ["imagenet", "reid"])
def test_recipes_differ_from_fprs_in_nothing_but_the_method(name):
    ours, theirs = recipe(f"pirt-{name}"), recipe(f"fpr-{name}")
    for settings in (ours, theirs):
        del settings["method"], settings["options"]
    assert ours == theirs


def test_the_papers_recipe_is_the_papers():
    settings = recipe("pirt-paper")
    assert PirtOptions(**settings["options"]) == PirtOptions()
    assert settings["transforms"] == {"size": [384, 128], "pad": 10, "erasing": {"p": 0.5}}
    assert settings["sampling"] == {"people": 16, "crops": 4}
    assert settings["backbone"] == "resnet50_ibn_a"
    (stage,) = settings["stages"]
    how = Optimiser(**stage["optimiser"])
    assert (stage["epochs"], how.kind, how.lr, how.weight_decay) == (60, "adam", 3.5e-4, 5e-4)
    rates = [how.lr * rate(how, epoch, 60, 1) for epoch in (0, 10, 30, 45, 60)]
    assert rates == pytest.approx([3.5e-6, 3.5e-4, 3.5e-4, 1.755e-4, 1e-6], rel=1e-3)
