"""PGFA against its equations and its published heat maps, row by row, under prompts, and in matching."""

import math

import naive_pgfa as naive
import pytest
import torch
from naive_qpm import ce
from pydantic import ValidationError
from tiny import Tiny, embedded_alike, fit, images, recipe, seeded, settled
from torch import Tensor
from torch.testing import assert_close

import glimpse
from glimpse.cues.needs import Cues, Needs
from glimpse.cues.points import KeyPoints
from glimpse.cues.skeleton import OPENPOSE_18
from glimpse.errors import ConfigError
from glimpse.matching import PartDistance
from glimpse.methods.pgfa import PGFA, PGFAOptions, guided_feature, heat_maps, part_labels, seen_points

ROWS = {  # row: (losses, regions)
    "no_partial": ({"pose_id"}, ["pose"]),
    "no_global": ({"part_id"}, ["strip 1", "strip 2", "strip 3"]),
    "pgfa": ({"part_id", "pose_id"}, ["strip 1", "strip 2", "strip 3", "pose"]),
}
IDS = 3
PIDS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 1, 2])
HEIGHT, WIDTH = 96, 64  # of the inputs here: a map of 6 x 4


def pgfa(ids: int = IDS, *, symmetric: bool = False, **options) -> PGFA:
    torch.manual_seed(0)
    method = PGFA(Tiny(symmetric=symmetric), ids, PGFAOptions(**{"dim": 8, "sigma": 0.15} | options))
    for name, parameter in method.named_parameters():
        if "classifier" in name and ids:  # they start so small that no loss could tell them apart
            torch.nn.init.normal_(parameter, std=0.3)
    return method


def crops(n: int, seed: int = 0) -> Tensor:
    return images(n, HEIGHT, WIDTH, seed)


def poses(n: int = 9, seed: int = 4, scale: float = 1.5) -> Cues:
    """Points all over the input, above or below something, in turn; a third of them are not sure enough."""
    points = torch.rand(n, 18, 3, generator=seeded(seed)) * torch.tensor([WIDTH, HEIGHT, 0.6])
    points[1::3, :, 1] *= 0.6
    points[2::3, :, 1] = HEIGHT - 0.3 * points[2::3, :, 1] - 1
    return Cues(points, torch.zeros(n, 0, 1, 1), torch.full((n, 2), scale))


def at(*heights: float, score: float = 0.9, n: int = 1) -> Cues:
    """Points at some heights in the middle of the input; the others were not found."""
    points = torch.zeros(n, 18, 3)
    for j, y in enumerate(heights):
        points[:, j] = torch.tensor([WIDTH / 2, y, score])
    return Cues(points, torch.zeros(n, 0, 1, 1), torch.ones(n, 2))


def embedded(n: int = 5, seed: int = 0, given: Cues | None = None, **options):
    method = settled(pgfa(**options))
    with torch.no_grad():
        return method, method.embed(method(crops(n, seed), None, poses(n) if given is None else given))


def shown(top: int, bottom: int, n: int = 2) -> Tensor:
    """Rows of pixels `top` to `bottom` of an input are the person; a strip has 32, a cell 16."""
    visible = torch.zeros(n, HEIGHT, WIDTH)
    visible[:, top:bottom] = 1
    return visible


# ---------------------------------------------------------------- heat maps


@pytest.mark.parametrize(
    ("crop", "size", "close"),
    [
        ((128, 64), (384, 128), 0.05),  # sigma 8.2: half a pixel of rounding is a 16th of it
        ((200, 80), (384, 128), 0.03),
        ((256, 128), (384, 128), 0.02),
        ((128, 64), (240, 112), 0.05),
        ((61, 29), (128, 64), 0.05),  # a cell is 7.6 pixels, sigma 1.8
    ],
)
def test_heat_maps_are_the_published_ones_but_for_their_rounding(crop, size, close):
    cells = (size[0] // 16, size[1] // 16)
    points = torch.rand(12, 3, generator=seeded(7)) * torch.tensor([crop[1], crop[0], 1.0])
    scale = torch.tensor([size[1] / crop[1], size[0] / crop[0]])
    moved = torch.cat([points[:, :2] * scale, points[:, 2:]], 1)
    found = heat_maps(moved[None], scale[None], *cells)[0]
    for j, point in enumerate(points.tolist()):
        assert_close(found[j].double(), naive.heat_map(point, crop, cells, 0.2), rtol=0, atol=close)
        if point[2] > 0.2:
            smooth = naive.smooth_heat_map(point[:2], crop[0] * crop[1] / 1000, crop, cells)
            assert_close(found[j], smooth, rtol=0, atol=0.002)
        else:
            assert not found[j].any()


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_sigma_may_be_a_share_of_the_height_and_is_round_in_the_crop(share):
    crop, cells = (128, 64), (15, 7)
    scale = torch.tensor([[1.75, 1.875]])
    point = torch.tensor([[[20.5 * 1.75, 40.5 * 1.875, 0.9]]])
    found = heat_maps(point, scale, *cells, sigma=share)[0, 0]
    assert_close(found, naive.smooth_heat_map((20.5, 40.5), share * 128, crop, cells), rtol=0, atol=0.002)


def test_a_crop_that_was_zoomed_into_is_as_if_cut_so_on_disk():
    # The upper half of 128 x 64, enlarged to 96 x 64: the scale says so, and the rule sees a crop of 64 x 64.
    scale, point = torch.tensor([[1.0, 1.5]]), torch.tensor([[[30.0, 45.0, 0.9]]])
    expected = naive.smooth_heat_map((30.0, 30.0), 64 * 64 / 1000, (64, 64), (6, 4))
    assert_close(heat_maps(point, scale, 6, 4)[0, 0], expected, rtol=0, atol=0.002)


def test_a_crop_that_was_moved_has_its_maps_moved():
    point = torch.tensor([[[24.0, 40.0, 0.9]]])
    one, two = (heat_maps(p, torch.ones(1, 2), 9, 9, sigma=0.1)[0, 0] for p in (point, point + 16))
    assert_close(two[2:7, 2:6], one[1:6, 1:5], rtol=0, atol=1e-6)  # away from the edges


def test_points_that_are_not_sure_have_no_map_and_nobody_has_maps_of_ones():
    points = torch.zeros(3, 18, 3)
    points[0, 4] = torch.tensor([30.0, 40.0, 0.2])  # gamma itself is not above gamma
    points[1, 4] = torch.tensor([30.0, 40.0, 0.21])
    found = heat_maps(points, torch.ones(3, 2), 6, 4)
    assert not found[0].any()
    assert found[1, 4].any()
    assert not found[1, :4].any()
    assert bool((found[2] == 1).all())
    assert heat_maps(points, torch.ones(3, 2), 6, 4, gamma=0.1)[0].any()


# ---------------------------------------------------------------- part labels


@pytest.mark.parametrize("p", [1, 3, 4, 6])
@pytest.mark.parametrize("gamma", [0.0, 0.2, 0.45])
def test_part_labels_are_those_of_loops(p, gamma):
    points = poses(40).points
    points[:20, 6:] = 0.0  # few points, so that some crops have fewer than three landmarks
    found = part_labels(points, HEIGHT, p, gamma)
    expected = [naive.eq_5(crop, HEIGHT, p, gamma) for crop in points]
    assert found.tolist() == expected
    assert p == 1 or 0.1 < float(found.mean()) < 1


@pytest.mark.parametrize(
    ("heights", "labels"),
    [
        ((1, 2, 31.9), [1, 0, 0]),
        ((1, 2, 32), [1, 1, 0]),  # a border belongs to the part below it
        ((32, 33, 95), [0, 1, 1]),
        ((1, 2), [1, 1, 1]),  # two landmarks say nothing
        ((), [1, 1, 1]),
    ],
)
def test_borders_and_crops_with_few_landmarks(heights, labels):
    assert part_labels(at(*heights).points, HEIGHT, 3).tolist() == [labels]


def test_points_below_the_threshold_are_not_counted():
    cues = at(1, 2, 40, 90)
    cues.points[0, 2, 2] = 0.2
    assert part_labels(cues.points, HEIGHT, 3).tolist() == [[1, 0, 1]]
    assert part_labels(cues.points, HEIGHT, 3, gamma=0.1).tolist() == [[1, 1, 1]]
    cues.points[0, 3, 2] = 0.2  # two are left
    assert part_labels(cues.points, HEIGHT, 3).tolist() == [[1, 1, 1]]


# ---------------------------------------------------------------- network


def test_heads_are_section_4_1_of_the_paper():
    method, cues = settled(pgfa()), poses(3)
    with torch.no_grad():
        features = method.backbone(crops(3))
        found = method.heads(features, None, cues)
        expected = naive.heads(method, features, heat_maps(cues.points, cues.scale, 6, 4, 0.2, 0.15))
    assert_close(found["parts"].double(), expected, rtol=1e-4, atol=1e-5)
    labels = [[*naive.eq_5(points, HEIGHT, 3, 0.2), 1] for points in cues.points]
    assert found["weights"].tolist() == labels


def test_without_key_points_maps_are_ones_and_labels_1():
    method = settled(pgfa())
    nobody, parts_only = at(n=2), Cues(torch.zeros(2, 0, 3), torch.zeros(2, 1, 6, 4), torch.ones(2, 2))
    with torch.no_grad():
        features = method.backbone(crops(2))
        expected = naive.heads(method, features, torch.ones(2, 18, 6, 4))
        for cues in (None, nobody, parts_only):
            found = method.heads(features, None, cues)
            assert_close(found["parts"].double(), expected, rtol=1e-4, atol=1e-5)
            assert found["weights"].tolist() == [[1.0] * 4] * 2
        # One crop of nobody does not change the other.
        mixed = Cues(torch.stack([nobody.points[0], poses(1).points[0]]), nobody.parts, torch.full((2, 2), 1.5))
        found = method.heads(features, None, mixed)
        assert_close(found["parts"][0].double(), expected[0], rtol=1e-4, atol=1e-5)
        alone = method.heads(features[1:], None, poses(1))
        assert_close(found["parts"][1:], alone["parts"], rtol=0, atol=1e-5)


def test_points_that_are_all_unsure_guide_to_nothing():
    method = settled(pgfa())
    with torch.no_grad():
        features = method.backbone(crops(2))
        found = method.heads(features, None, at(10, 50, 90, score=0.1, n=2))
        expected = naive.heads(method, features, torch.zeros(2, 18, 6, 4))
    assert_close(found["parts"].double(), expected, rtol=1e-4, atol=1e-5)
    assert found["weights"].tolist() == [[1.0] * 4] * 2


def test_parts_share_no_weights_and_the_parameters_are_the_papers():
    with torch.device("meta"):
        backbone = Tiny(2048)
        method = PGFA(backbone, 702)
    assert method.part_convs.weight.shape == (3, 256, 2048)
    heads = sum(p.numel() for p in method.parameters()) - sum(p.numel() for p in backbone.parameters())
    assert heads == 4 * 2 * 256 + 3 * 2048 * 256 + 4096 * 256 + 4 * 702 * (256 + 1)
    assert 26.8e6 < 23.508e6 + heads < 26.95e6  # with ResNet-50


def test_defaults_are_the_papers():
    o = PGFAOptions()
    assert (o.strips, o.dim, o.dropout, o.row, o.lam, o.gamma) == (3, 256, 0.5, "pgfa", 0.2, 0.2)
    assert (o.sigma, o.smoothing, o.part_id, o.pose_id) == (0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"strips": 0},
        {"row": "baseline"},
        {"lam": 1.5},
        {"gamma": 1.0},
        {"sigma": -0.1},
        {"dropout": 1.0},
        {"pose_id": -1.0},
        {"lambda": 0.2},
    ],
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        PGFAOptions(**wrong)


@pytest.mark.parametrize(("lam", "row"), [(0, "no_partial"), (1, "no_global")])
def test_the_ends_of_lambda_are_rows(lam, row):
    with pytest.raises(ValidationError, match=f"lam {lam} leaves a branch without its loss: set row to {row}"):
        PGFAOptions(lam=lam)
    assert PGFAOptions(lam=lam, row=row).row == row


def test_key_points_are_needed_by_heat_maps_and_by_the_labels_of_matching():
    points = Needs(points=OPENPOSE_18)
    for row in ("pgfa", "no_partial"):
        assert PGFA.needs(PGFAOptions(row=row), "train") == PGFA.needs(PGFAOptions(row=row), "search") == points
    assert PGFA.needs(PGFAOptions(row="no_global"), "train") == Needs()  # all parts of all crops learn
    assert PGFA.needs(PGFAOptions(row="no_global"), "search") == points
    assert PGFA.needs(PGFAOptions(row="no_global", strips=1), "search") == Needs()  # its label is always 1


def test_other_key_points_are_refused():
    cues = Cues(torch.zeros(2, 17, 3), torch.zeros(2, 0, 1, 1), torch.ones(2, 2))
    with pytest.raises(ConfigError, match=r"cues: have 17 key points, and PGFA takes the 18 of 'openpose-18'\. Remedy"):
        pgfa().eval()(crops(2), None, cues)


def test_too_many_strips_for_the_map():
    with pytest.raises(ConfigError, match="7 strips do not fit a map of 6 rows"):
        pgfa(strips=7).eval()(crops(1))


def test_options_reach_what_they_say():
    def outputs(**options) -> dict[str, Tensor]:
        method = settled(pgfa(**options))
        with torch.no_grad():
            return method(crops(4), None, poses(4))

    plain = outputs()
    assert (outputs(gamma=0.5)["parts"][:, -1] - plain["parts"][:, -1]).abs().max() > 0.01
    assert (outputs(sigma=0.0)["parts"][:, -1] - plain["parts"][:, -1]).abs().max() > 0.01
    assert_close(outputs(sigma=0.0)["parts"][:, :-1], plain["parts"][:, :-1])
    assert outputs(gamma=0.55)["weights"].tolist() != plain["weights"].tolist()
    assert outputs(strips=2)["parts"].shape == (4, 3, 8)
    assert outputs(dim=5)["parts"].shape == (4, 4, 5)


def test_dropout_is_in_training_only_before_reductions_and_classifiers():
    method, cues = pgfa(), poses(9)
    method.train()
    features = method.backbone(crops(9))
    assert not torch.equal(method.heads(features, None, cues)["parts"], method.heads(features, None, cues)["parts"])
    found = method.heads(features, None, cues)
    one, two = (float(method.losses(found, PIDS)["part_id"].detach()) for _ in range(2))
    assert one != two
    still = pgfa(dropout=0.0).train()
    assert torch.equal(still.heads(features, None, cues)["parts"], still.heads(features, None, cues)["parts"])
    method.eval()
    assert torch.equal(method.heads(features, None, cues)["parts"], method.heads(features, None, cues)["parts"])
    assert torch.equal(*(method.losses(found, PIDS)["part_id"] for _ in range(2)))


# ---------------------------------------------------------------- losses


def outputs(n: int = 9, dim: int = 8) -> dict[str, Tensor]:
    random = seeded(3)
    labels = (torch.rand(n, 3, generator=random) < 0.6).float()
    return {
        "parts": torch.randn(n, 4, dim, generator=random) + 0.3,
        "weights": torch.cat([labels, torch.ones(n, 1)], 1),
        "shares": torch.ones(n, 3),
    }


@pytest.mark.parametrize("name", ["part_id", "pose_id"])
def test_each_loss_and_its_gradients_are_those_of_its_equation(name):
    method = pgfa(lam=0.3).eval()
    ours, theirs = outputs(), outputs()
    f, g = ours["parts"].requires_grad_(), theirs["parts"].double().requires_grad_()
    if name == "part_id":
        weight, bias = method.part_classifiers.weight, method.part_classifiers_bias
        expected = 0.3 * naive.eq_1(g, weight.double(), bias.double(), PIDS.tolist())
    else:
        weight, bias = method.pose_classifier.weight, method.pose_classifier_bias
        expected = 0.7 * naive.eq_3(g[:, -1], weight.double(), bias.double(), PIDS.tolist())
    loss = method.losses(ours, PIDS)[name]
    assert expected.item() > 0.1
    assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    loss.backward()
    found = [weight.grad.clone(), bias.grad.clone()]
    method.zero_grad()
    expected.backward()
    assert_close(f.grad.double(), g.grad, rtol=1e-4, atol=1e-6)
    assert_close(found, [weight.grad, bias.grad], rtol=1e-4, atol=1e-6)
    branch = slice(0, 3) if name == "part_id" else slice(3, 4)
    assert f.grad[:, branch].any()
    f.grad[:, branch] = 0
    assert not f.grad.any()  # of the other branch


@pytest.mark.parametrize("lam", [0.2, 0.9])
def test_lambda_weighs_the_branches_and_the_rows_are_its_ends(lam):
    o = outputs()
    halves = pgfa(lam=0.5).eval().losses(o, PIDS)
    found = pgfa(lam=lam, part_id=2.0, pose_id=3.0).eval().losses(o, PIDS)
    assert_close(found["part_id"], 2 * 2 * lam * halves["part_id"])
    assert_close(found["pose_id"], 2 * 3 * (1 - lam) * halves["pose_id"])
    method = pgfa(row="no_partial", lam=lam).eval()
    logits = o["parts"][:, -1] @ method.pose_classifier.weight.T + method.pose_classifier_bias
    alone = method.losses({"parts": o["parts"][:, -1:], "shares": o["shares"]}, PIDS)["pose_id"]
    assert_close(alone, sum(ce(logits[n], int(pid)) for n, pid in enumerate(PIDS)) / 9)


def test_losses_take_no_notice_of_labels_and_are_smoothed_if_asked():
    method, o = pgfa().eval(), outputs()
    plain = method.losses(o, PIDS)
    for name, term in method.losses(o | {"weights": torch.zeros(9, 4)}, PIDS).items():
        assert_close(term, plain[name])
    smooth = pgfa(smoothing=0.1).eval().losses(o, PIDS)
    logits = o["parts"][:, -1] @ method.pose_classifier.weight.T + method.pose_classifier_bias
    each = [
        0.9 * ce(logits[n], int(pid)) + 0.1 * sum(ce(logits[n], j) for j in range(3)) / 3 for n, pid in enumerate(PIDS)
    ]
    assert_close(smooth["pose_id"], 0.8 * sum(each) / 9)
    assert abs(float(smooth["part_id"].detach()) - float(plain["part_id"].detach())) > 1e-4


def test_the_guided_feature_has_the_gradients_of_finite_differences():
    random = seeded(2)
    features = torch.randn(2, 3, 4, 2, generator=random, dtype=torch.float64).requires_grad_()
    maps = torch.rand(2, 5, 4, 2, generator=random, dtype=torch.float64)
    seen = torch.rand(2, 1, 4, 2, generator=random, dtype=torch.float64)
    for given in (None, seen):
        found = guided_feature(features, maps, given)
        mask = torch.ones(2, 1, 4, 2).double() if given is None else given.float().double()
        products = (maps[:, :, None] * mask[:, None] * features[:, None]).sum((3, 4))
        expected = (products / mask.sum((1, 2, 3))[:, None, None]).amax(1)
        assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
        a, b = (torch.autograd.grad(x.square().sum(), features)[0] for x in (found, expected))
        assert_close(a, b, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("row", ROWS)
def test_every_row_learns_embeds_and_matches(row):
    losses, regions = ROWS[row]
    method, x, cues = pgfa(row=row, dropout=0.0), crops(9), poses(9)
    assert set(method.losses(method(x, None, cues), PIDS)) == losses
    heads = method.heads
    method.heads = lambda features, visible=None, given=None: heads(features, visible, cues)
    sums = fit(method, x, PIDS)
    del method.heads
    assert sums[-1] < 0.7 * sums[0], sums
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, f"{name} takes no part"
        assert parameter.grad.isfinite().all()
    method.eval()
    with torch.no_grad():
        found = method(x, None, cues)
        embedding, again = method.embed(found), method.embed(method(x, None, cues))
    k = len(regions)
    assert embedding["parts"].shape == (9, k, 8)
    assert embedding["weights"].shape == (9, k)
    assert_close(embedding["parts"].norm(dim=2), torch.ones(9, k), rtol=0, atol=1e-5)
    for name in embedding.names:
        assert embedding[name].dtype == torch.float32
        assert torch.equal(embedding[name], again[name])
    assert [region.name for region in method.regions] == regions
    distance = method.distance()
    assert isinstance(distance, PartDistance)
    matrix = distance.matrix(embedding, embedding)
    assert matrix.argmin(1).tolist() == list(range(9))  # every crop is nearest to itself
    same = PIDS[:, None] == PIDS[None]
    others = ~torch.eye(9, dtype=torch.bool)
    assert matrix[same & others].mean() < matrix[~same].mean()
    assert_close(method.distances(found)["part"], matrix, rtol=0, atol=1e-5)
    assert_close(method.distances(found)["part"].diagonal(), torch.zeros(9), rtol=0, atol=1e-5)
    assert method.vector(found).shape == (9, 8)


def test_the_vector_is_the_pose_guided_feature_or_the_mean_of_visible_parts():
    o = outputs()
    assert_close(pgfa().vector(o), o["parts"][:, -1])
    parts, labels = o["parts"][:, :3], o["weights"][:, :3].clone()
    labels[:, 0] = 1.0
    found = pgfa(row="no_global").vector({"parts": parts, "weights": labels})
    assert_close(found, (parts * labels[..., None]).sum(1) / labels.sum(1, keepdim=True))


# ---------------------------------------------------------------- matching


def test_matching_is_eq_8_for_all_pairs():
    method, e = embedded(7)
    f, labels = e["parts"].double(), e["weights"].double()
    assert (labels[:, :3] @ labels[:, :3].T == 0).any()  # pairs without a shared part
    options = {"pgfa": {}, "no_partial": {"parts": False}, "no_global": {"pose": False}}
    for row, which in options.items():
        matrix = method.distance(row=row).matrix(e, e)
        for i in range(7):
            for j in range(7):
                s = float(naive.similarity(f, labels, i, j, **which))
                expected = 2.0 if math.isnan(s) else 2 * (1 - s)  # no shared part: the published 0 / 0
                assert abs(float(matrix[i, j]) - expected) < 1e-5, (row, i, j)
    assert torch.equal(method.distance().matrix(e, e), method.distance(row="pgfa").matrix(e, e))


def test_a_pair_without_a_shared_part_is_compared_by_the_pose_guided_feature():
    upper, lower = at(1, 2, 3), at(90, 91, 92)
    method, _ = embedded(1)
    with torch.no_grad():
        one, two = (method.embed(method(crops(1, seed), None, cues)) for seed, cues in ((0, upper), (5, lower)))
    assert one["weights"].tolist() == [[1, 0, 0, 1]]
    assert two["weights"].tolist() == [[0, 0, 1, 1]]
    pose = 1 - torch.cosine_similarity(one["parts"][:, -1], two["parts"][:, -1])
    assert_close(method.distance().matrix(one, two)[0], pose, rtol=0, atol=1e-5)
    assert_close(method.distance(row="no_partial").matrix(one, two)[0], pose, rtol=0, atol=1e-5)
    assert method.distance(row="no_global").matrix(one, two).tolist() == [[2.0]]


@pytest.mark.parametrize("row", ["no_partial", "no_global"])
def test_rows_with_one_branch_match_as_the_whole_method_does_by_that_branch(row):
    whole, e = embedded(5)
    method, alone = embedded(5, row=row)
    parts = slice(3, 4) if row == "no_partial" else slice(0, 3)
    alone = glimpse.Embedding({"parts": e["parts"][:, parts], "weights": e["weights"][:, parts]})
    found = method.distance().matrix(alone, alone)
    assert_close(found, whole.distance(row=row).matrix(e, e), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("trained", "asked", "said"),
    [
        ("pgfa", "pose", r"row: 'pose' is not known\. Remedy: choose one of no_partial, no_global, pgfa"),
        (
            "no_partial",
            "pgfa",
            r"row: weights that were trained as 'no_partial' cannot match as 'pgfa'\. Remedy: train",
        ),
        ("no_global", "no_partial", "trained as 'no_global' cannot match as 'no_partial'"),
    ],
)
def test_wrong_matching_rows_are_named(trained, asked, said):
    with pytest.raises(ConfigError, match=said):
        pgfa(row=trained).distance(row=asked)


def test_explanation_names_the_parts_and_what_was_not_compared():
    method, e = embedded(2, given=at(1, 2, 3, n=2))
    explanation = method.distance().explain(e[0], e[1])
    assert [(part.name, part.compared) for part in explanation.parts] == [
        ("strip 1", True),
        ("strip 2", False),
        ("strip 3", False),
        ("pose", True),
    ]
    assert [part.share for part in explanation.parts] == [0.5, 0.0, 0.0, 0.5]
    assert method.regions[-1].box == (0.0, 0.0, 1.0, 1.0)
    assert [region.box[1] for region in method.regions[:3]] == [0, 1 / 3, 2 / 3]


# ---------------------------------------------------------------- embedding


@pytest.mark.parametrize("row", ROWS)
def test_a_crop_is_embedded_alike_alone_and_in_a_batch(row):
    method, x, cues = settled(pgfa(row=row)), crops(5), poses(5)
    embedded_alike(method, x, cues)


def test_a_batch_of_one_has_losses():
    method = pgfa().eval()
    terms = method.losses(method(crops(1), None, poses(1)), PIDS[:1])
    sum(terms.values()).backward()
    assert method.backbone.conv.weight.grad.isfinite().all()
    assert method.backbone.conv.weight.grad.any()


@pytest.mark.parametrize("sigma", [0.0, 0.15])
def test_a_mirrored_crop_with_mirrored_points_has_the_same_embedding(sigma):
    method, x, cues = settled(pgfa(symmetric=True, sigma=sigma)), crops(3), poses(3)
    people = [KeyPoints(points[None].numpy(), OPENPOSE_18).mirrored(WIDTH).values[0] for points in cues.points]
    mirrored = cues._replace(points=torch.stack([torch.from_numpy(points) for points in people]))
    with torch.no_grad():
        one, two = method.embed(method(x, None, cues)), method.embed(method(x.flip(-1), None, mirrored))
        other = method.embed(method(x.flip(-1), None, cues))
    for name in one.names:
        assert_close(one[name], two[name], rtol=0, atol=1e-4)
    assert (other["parts"][:, -1] - one["parts"][:, -1]).abs().max() > 0.01


def test_an_embedding_network_needs_no_identities():
    method = settled(pgfa(ids=0))
    with torch.no_grad():
        assert method.embed(method(crops(2)))["parts"].shape == (2, 4, 8)


def test_bfloat16_stays_close_to_float32():
    method, x, cues = settled(pgfa()), crops(12), poses(12)
    with torch.no_grad():
        exact = method.embed(method(x, None, cues))
        with torch.autocast("cpu", torch.bfloat16):
            rough = method.embed(method(x, None, cues))
    assert rough["parts"].dtype == rough["weights"].dtype == torch.float32
    assert torch.equal(rough["weights"], exact["weights"])
    matrices = [method.distance().matrix(e, e) for e in (exact, rough)]
    assert (matrices[0] - matrices[1]).abs().max() < 0.02


def test_losses_under_autocast_are_close_and_float32():
    method, x, cues = pgfa().eval(), crops(9), poses(9)
    exact = method.losses(method(x, None, cues), PIDS)
    with torch.autocast("cpu", torch.bfloat16):
        rough = method.losses(method(x, None, cues), PIDS)
    for name, value in exact.items():
        assert rough[name].dtype == torch.float32
        assert abs(float(rough[name].detach()) - float(value.detach())) < 0.05 * max(1.0, float(value.detach())), name


# ---------------------------------------------------------------- prompts


def test_weights_are_labels_times_visible_shares():
    method = settled(pgfa())
    with torch.no_grad():
        features = method.backbone(crops(1))
        weights = method.heads(features, shown(0, 48, 1), at(1, 2, 3))["weights"]
        assert weights.tolist() == [[1.0, 0.0, 0.0, 1.0]]
        weights = method.heads(features, shown(0, 48, 1), at(1, 2, 40))["weights"]
        assert weights.tolist() == [[1.0, 0.5, 0.0, 1.0]]
        assert method.heads(features, shown(0, 48, 1))["weights"].tolist() == [[1.0, 0.5, 0.0, 1.0]]


def test_points_that_a_prompt_hides_are_no_landmarks():
    points = at(1, 2, 47.9, 48.1, 90).points
    for visible in (shown(0, 48, 1), shown(0, 48, 1)[:, ::16, ::16], shown(0, 48, 1).bool()):
        assert (seen_points(points, visible, 6, 4)[0, :5, 2] > 0).tolist() == [True, True, True, False, False]
    method = settled(pgfa())
    with torch.no_grad():
        features = method.backbone(crops(1))
        # Of an occluder's points two are left, so that nothing is known but what is shown.
        found = method.heads(features, shown(0, 48, 1), at(1, 2, 50, 60, 70))
        assert found["weights"].tolist() == [[1.0, 0.5, 0.0, 1.0]]
        # All hidden: as if nobody had been found.
        hidden, none = (method.heads(features, shown(0, 48, 1), cues) for cues in (at(50, 60, 70), None))
    for name in none:
        assert_close(hidden[name], none[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("row", ROWS)
def test_hidden_pixels_and_points_change_nothing_that_is_matched(row):
    method, x, cues = settled(pgfa(row=row)), crops(2), poses(2)
    other, moved = x.clone(), cues.points.clone()
    other[:, :, 48:] = crops(2, seed=9)[:, :, 48:] * 3 + 1
    below = moved[..., 1] >= 48
    assert below.any()
    moved[below] = torch.tensor([5.0, 70.0, 1.0])
    visible = shown(0, 48)
    with torch.no_grad():
        one = method.embed(method(x, visible, cues))
        two = method.embed(method(other, visible, cues._replace(points=moved)))
        plain, changed = method.embed(method(x, None, cues)), method.embed(method(other, None, cues))
    assert torch.equal(one["weights"], two["weights"])
    distance = method.distance()
    assert_close(distance.matrix(one, plain), distance.matrix(two, plain), rtol=0, atol=1e-5)
    assert (distance.matrix(changed, plain) - distance.matrix(plain, plain)).abs().max() > 0.01


@pytest.mark.parametrize("given", [True, False])
def test_a_prompt_of_the_whole_crop_is_no_prompt(given):
    method, x, cues = settled(pgfa()), crops(2), poses(2) if given else None
    with torch.no_grad():
        one, two = method.embed(method(x, None, cues)), method.embed(method(x, torch.ones(2, HEIGHT, WIDTH), cues))
    for name in one.names:
        assert_close(one[name], two[name], rtol=0, atol=1e-5)


def test_a_prompt_may_come_in_cells():
    method, x, cues = settled(pgfa()), crops(2), poses(2)
    with torch.no_grad():
        features = method.backbone(x)
        one = method.heads(features, shown(0, 48), cues)
        two = method.heads(features, shown(0, 48)[:, ::16, ::16], cues)
    for name in one:
        assert_close(one[name], two[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("row", ROWS)
def test_a_crop_that_shows_nothing_is_farthest(row):
    method, x, cues = settled(pgfa(row=row)), crops(2), poses(2)
    with torch.no_grad():
        hidden = method.embed(method(x, torch.zeros(2, HEIGHT, WIDTH), cues))
        plain = method.embed(method(x, None, cues))
    assert method.distance().matrix(hidden, plain).tolist() == [[2.0] * 2] * 2


def test_hidden_parts_are_not_taught():
    method = pgfa()
    found = method(crops(9), shown(0, 64, 9), poses(9))
    sum(method.losses(found, PIDS).values()).backward()
    grad = method.part_classifiers.weight.grad
    assert grad[:2].any()
    assert not grad[2].any()
    assert method.backbone.conv.weight.grad.isfinite().all()


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", ["paper", "imagenet", "reid"])
def test_recipes_have_options_of_the_method(name):
    settings = recipe(f"pgfa-{name}")
    assert settings["method"] == "pgfa"
    options = PGFAOptions(**settings["options"])
    height = settings["transforms"]["size"][0] // 16
    assert height % options.strips == 0  # no row is shared by two parts


@pytest.mark.parametrize("name", ["imagenet", "reid"])
def test_recipes_differ_from_pcbs_in_nothing_but_the_method(name):
    ours, theirs = recipe(f"pgfa-{name}"), recipe(f"pcb-{name}")
    for settings in (ours, theirs):
        del settings["method"], settings["options"]
    assert ours == theirs


def test_the_papers_recipe_is_the_papers():
    settings = recipe("pgfa-paper")
    assert PGFAOptions(**settings["options"]) == PGFAOptions()
    assert settings["transforms"] == {"size": [384, 128], "pad": 0, "erasing": None}
    assert settings["sampling"] == {"people": 0, "crops": 32}
    (stage,) = settings["stages"]
    assert stage["epochs"] == 60
    optimiser = {"kind": "sgd", "lr": 0.1, "backbone_lr": 0.1, "weight_decay": 5e-4, "schedule": "step", "every": 40}
    assert stage["optimiser"] == optimiser
