"""QPM against its equations, row by row of its tables, under prompts, and in matching."""

import math

import naive_qpm as naive
import pytest
import torch
from pydantic import ValidationError
from tiny import Tiny, fit, images, seeded, settled
from torch.testing import assert_close

from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, EmbeddingError
from glimpse.matching import Cascade, GlobalDistance, PairGlobalDistance, PartDistance
from glimpse.methods import QPM, QPMOptions
from glimpse.methods.qpm import ISA

ROWS = {  # row: (losses, tensors of the embedding, distance)
    "baseline": ({"part_id"}, {"parts", "weights"}, PartDistance),
    "baseline+triplet": ({"part_id", "part_triplet"}, {"parts", "weights"}, PartDistance),
    "part": ({"part_id", "part_triplet"}, {"parts", "weights"}, PartDistance),
    "gap": ({"pair_id", "global_triplet"}, {"globals", "weights"}, GlobalDistance),
    "gap+isa": ({"global_id", "pair_id", "global_triplet"}, {"globals", "weights"}, GlobalDistance),
    "si": ({"part_id", "part_triplet", "pair_id", "global_triplet"}, {"globals", "weights"}, GlobalDistance),
    "agfe": ({"part_id", "part_triplet", "pair_id", "global_triplet"}, {"globals", "weights"}, PairGlobalDistance),
    "agfe+isa": (
        {"part_id", "part_triplet", "global_id", "pair_id", "global_triplet"},
        {"globals", "weights"},
        PairGlobalDistance,
    ),
    "qpm": (
        {"part_id", "part_triplet", "global_id", "pair_id", "global_triplet"},
        {"parts", "globals", "weights"},
        Cascade,
    ),
}
IDS = 3
PIDS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 1, 2])


def qpm(ids: int = IDS, *, symmetric: bool = False, **options) -> QPM:
    torch.manual_seed(0)
    small = {"strips": 3, "dim": 16} | options
    method = QPM(Tiny(symmetric=symmetric), ids, QPMOptions(**small))
    for name, parameter in method.named_parameters():
        if "classifier" in name and ids:  # they start so small that no loss could tell them apart
            torch.nn.init.normal_(parameter, std=0.3)
    return method


def outputs(n: int = 9, dim: int = 16, parts: int = 3) -> dict[str, torch.Tensor]:
    random = seeded(3)
    return {
        "parts": torch.randn(n, parts, dim, generator=random) + 0.3,
        "weights": torch.rand(n, parts, generator=random) * 0.9 + 0.05,
        "globals": torch.randn(n, parts, dim, generator=random) + 0.3,
        "h_hat": torch.randn(n, dim // 4, generator=random),
        "shares": torch.ones(n, parts),
    }


def naive_loss(name: str, o: dict[str, torch.Tensor], method: QPM) -> torch.Tensor:
    pids, n = PIDS.tolist(), len(PIDS)
    if name == "part_id":
        return naive.eq_1(o["parts"], method.part_classifiers.weight.double(), pids)
    if name == "part_triplet":
        return naive.eq_3(naive.table(lambda i, j: naive.eq_2(o["parts"], o["weights"], i, j), n), pids, 0.3)
    if name == "global_id":
        return naive.eq_6(o["h_hat"], method.coarse_classifier.weight.double(), pids)
    if name == "pair_id":
        return naive.eq_12(o["globals"], o["weights"], method.global_classifier.weight.double(), pids)
    return naive.eq_3(naive.table(lambda i, j: naive.d_global(o["globals"], o["weights"], i, j), n), pids, 0.3)


@pytest.mark.parametrize("name", sorted(ROWS["qpm"][0]))
def test_each_loss_and_its_gradients_are_those_of_its_equation(name):
    method = qpm()
    ours = {k: v.clone().requires_grad_() for k, v in outputs().items()}
    theirs = {k: v.double().requires_grad_() for k, v in outputs().items()}
    loss, expected = method.losses(ours, PIDS)[name], naive_loss(name, theirs, method)
    assert expected.item() > 0.05
    assert_close(loss.double(), expected.double(), rtol=1e-5, atol=1e-6)
    loss.backward()
    weights = {k: p.grad.clone() for k, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    expected.backward()
    reached = set()
    for key in ours:
        a, b = ours[key].grad, theirs[key].grad
        assert (a is None) == (b is None), f"{name} and its equation do not reach {key} alike"
        if a is not None:
            reached.add(key)
            assert_close(a.double(), b, rtol=1e-4, atol=1e-6)
    assert weights.keys() == {k for k, p in method.named_parameters() if p.grad is not None}
    for key, grad in weights.items():
        assert_close(grad, method.get_parameter(key).grad, rtol=1e-4, atol=1e-6)
    # "Optimised together": the global losses train the quality scores as well.
    assert ("weights" in reached) == (name in ("part_triplet", "pair_id", "global_triplet"))


def test_losses_are_weighted_by_their_options_and_all_weigh_1_in_the_paper():
    names = sorted(ROWS["qpm"][0])
    plain = qpm().losses(outputs(), PIDS)
    scaled = qpm(**{name: i + 2.0 for i, name in enumerate(names)}).losses(outputs(), PIDS)
    for i, name in enumerate(names):
        assert_close(scaled[name], (i + 2.0) * plain[name])
    assert {getattr(QPMOptions(), name) for name in names} == {1.0}


def test_coarse_loss_is_before_the_relu_unless_asked():
    o = outputs() | {"h_hat": -outputs()["h_hat"].abs()}
    assert_close(qpm(isa_loss_after_relu=True).losses(o, PIDS)["global_id"], torch.tensor(math.log(IDS)))
    assert abs(qpm().losses(o, PIDS)["global_id"].item() - math.log(IDS)) > 0.01


def test_defaults_are_the_papers():
    o = QPMOptions()
    assert (o.strips, o.dim, o.row, o.margin, o.reduction) == (6, 1024, "qpm", 0.3, 4)
    assert (o.neighbours, o.gamma, o.isa_scale, o.isa_loss_after_relu, o.smoothing) == (30, 0.6, "paper", False, 0.0)


@pytest.mark.parametrize(
    "wrong", [{"strips": 0}, {"row": "all"}, {"gamma": 1.5}, {"neighbours": 0}, {"margins": 0.3}, {"smoothing": 1.0}]
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        QPMOptions(**wrong)


def test_heads_are_sections_a_and_b_of_the_paper():
    method = settled(qpm())
    with torch.no_grad():
        features = method.backbone(images(3))
        found, expected = method.heads(features), naive.heads(method, features)
    for name, value in expected.items():
        assert_close(found[name].double(), value, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_parts_share_no_weights():
    method = qpm()
    assert method.part_convs.weight.shape == (3, 16, 16)
    assert method.quality.weight.shape == (3, 16)
    assert method.part_classifiers.weight.shape == (3, IDS, 16)


def test_parameter_count_of_the_papers_setting():
    # Unshared convolutions of d = 1024 on 2048 channels; docs/methods/qpm.md says why this is not Table VIII's 29.0 M.
    with torch.device("meta"):
        backbone = Tiny(2048)
        method = QPM(backbone, 702)
    heads = sum(p.numel() for p in method.parameters()) - sum(p.numel() for p in backbone.parameters())
    part = 6 * (2048 * 1024 + 2 * 1024 + 2048 + 2)
    whole = 2048 * 1024 + 2 * 6 * 2 * 1024 + (1024 * 256 + 256) + (256 * 1024 + 1024)
    assert heads == part + whole + 702 * (6 * 1024 + 1024 + 256)


def test_scaled_attention_divides_the_inner_product_by_the_root_of_the_width():
    torch.manual_seed(0)
    paper, scaled = ISA(16, 4, "paper"), ISA(16, 4, "sqrt")
    scaled.load_state_dict(paper.state_dict())
    h, maps = torch.randn(2, 16, generator=seeded()), torch.randn(2, 5, 3, 2, generator=seeded(1))
    to_g = torch.randn(16, 5, generator=seeded(2)) / 5
    one, two = paper(h, maps, to_g)[1], scaled(h, maps, to_g)[1]
    assert_close(two.logit(), one.logit() / 4, rtol=1e-4, atol=1e-4)
    # Eq. 7, on G made cell by cell.
    h_tilde = paper.excite(paper.squeeze(h).relu())
    for i in range(2):
        for y in range(3):
            for x in range(2):
                response = (to_g @ maps[i, :, y, x]) @ h_tilde[i]
                assert_close(one[i, 0, y, x], response.sigmoid(), rtol=0, atol=1e-5)


# ---------------------------------------------------------------- the rows of Tables V and VI


@pytest.mark.parametrize("row", ROWS)
def test_every_row_learns_embeds_and_matches(row):
    losses, tensors, distance = ROWS[row]
    method, x = qpm(row=row), images(9)
    assert set(method.losses(method(x), PIDS)) == losses
    sums = fit(method, x, PIDS)
    assert sums[-1] < 0.7 * sums[0], sums
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, f"{name} takes no part"
        assert parameter.grad.isfinite().all()
    method.eval()
    with torch.no_grad():
        embedding = method.embed(method(x))
        again = method.embed(method(x))
    assert set(embedding.names) == tensors
    for name in embedding.names:
        assert embedding[name].dtype == torch.float32
        assert torch.equal(embedding[name], again[name])
    assert isinstance(method.distance(), distance)
    matrix = method.distance().matrix(embedding, embedding)
    assert matrix.argmin(1).tolist() == list(range(9))  # every crop is nearest to itself
    same = PIDS[:, None] == PIDS[None]
    others = ~torch.eye(9, dtype=torch.bool)
    assert matrix[same & others].mean() < matrix[~same].mean()


@pytest.mark.parametrize("row", ["baseline", "baseline+triplet", "gap", "gap+isa"])
def test_rows_without_quality_weigh_all_strips_alike(row):
    assert settled(qpm(row=row))(images(2))["weights"].tolist() == [[1.0] * 3] * 2


def test_gap_row_is_the_mean_of_the_map():
    method = settled(qpm(row="gap"))
    features = method.backbone(images(2))
    method.g_tilde_norm = torch.nn.Identity()
    assert_close(method.heads(features)["globals"], method.to_g(features).mean((2, 3)), rtol=0, atol=1e-5)


def test_si_row_fuses_strips_by_the_images_own_quality():
    method = settled(qpm(row="si"))
    features = method.backbone(images(2))
    found = method.heads(features)
    for i in range(2):
        maps = method.to_g(features)[i].double()
        q_hat = naive.eq_5(found["weights"][i].double())
        expected = naive.eq_4(q_hat, naive.normed(naive.strip_means(maps, 3), method.g_tilde_norm))
        assert_close(found["globals"][i].double(), expected, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- matching


def crops(n: int, seed: int) -> Embedding:
    random = seeded(seed)
    return Embedding(
        {
            "parts": torch.randn(n, 3, 8, generator=random) + 0.5,
            "weights": torch.rand(n, 3, generator=random) * 0.99 + 0.01,
            "globals": torch.randn(n, 3, 8, generator=random) + 0.5,
        }
    )


@pytest.mark.parametrize(("gamma", "neighbours"), [(None, None), (0.6, 5), (0.0, 5), (1.0, 5), (0.9, 1), (0.25, 60)])
def test_ranking_is_eq_2_for_all_then_eq_15_for_the_nearest(gamma, neighbours):
    query, gallery = crops(2, 1), crops(40, 2)
    matrix = qpm().distance(gamma=gamma, neighbours=neighbours).matrix(query, gallery)
    g, n = (0.6 if gamma is None else gamma), (30 if neighbours is None else neighbours)
    f, q, h = (torch.cat([query[name], gallery[name]]).double() for name in ("parts", "weights", "globals"))
    for i in range(2):
        d_part = [float(naive.eq_2(f, q, i, 2 + j)) for j in range(40)]
        nearest = sorted(range(40), key=d_part.__getitem__)
        eq_15 = {j: g * d_part[j] + (1 - g) * float(naive.d_global(h, q, i, 2 + j)) for j in nearest[:n]}
        assert matrix[i].argsort().tolist() == sorted(eq_15, key=eq_15.get) + nearest[n:]
        for j, value in eq_15.items():
            assert abs(float(matrix[i, j]) - value) < 1e-5


def test_options_set_what_matching_does_by_default():
    query, gallery = crops(2, 1), crops(40, 2)
    given = qpm().distance(gamma=0.3, neighbours=7).matrix(query, gallery)
    assert_close(qpm(gamma=0.3, neighbours=7).distance().matrix(query, gallery), given, rtol=0, atol=0)


def test_wrong_matching_options_are_named():
    with pytest.raises(ConfigError, match=r"gamma: 1.5 is not a share. Remedy: give a number from 0 to 1"):
        qpm().distance(gamma=1.5)
    with pytest.raises(ConfigError, match="gamma: nan"):
        qpm().distance(gamma=math.nan)
    with pytest.raises(ConfigError, match="n: 0 crops cannot be re-ranked"):
        qpm().distance(neighbours=0)


def test_an_embedding_of_another_row_does_not_match():
    method = settled(qpm(row="agfe"))
    with torch.no_grad():
        embedding = method.embed(method(images(2)))
    with pytest.raises(EmbeddingError, match="there is no tensor 'parts'"):
        qpm().distance().matrix(embedding, embedding)


def test_explanation_names_the_strips():
    method = settled(qpm())
    with torch.no_grad():
        embedding = method.embed(method(images(2)))
    explanation = method.distance().explain(embedding[0], embedding[1])
    assert [part.name for part in explanation.parts] == ["strip 1", "strip 2", "strip 3", "global"]
    assert abs(sum(part.share for part in explanation.parts) - 1) < 1e-5
    assert [region.name for region in method.regions] == ["strip 1", "strip 2", "strip 3"]
    assert [region.box[1] for region in method.regions] == [0, 1 / 3, 2 / 3]


# ---------------------------------------------------------------- embedding


def test_a_crop_is_embedded_alike_alone_and_in_a_batch():
    method, x = settled(qpm()), images(5)
    with torch.no_grad():
        alone, together = method.embed(method(x[3:4])), method.embed(method(x))
    for name in together.names:
        assert_close(alone[name], together[name][3:4], rtol=0, atol=1e-5)


def test_parts_are_unit_vectors_and_quality_is_a_share():
    method = settled(qpm())
    with torch.no_grad():
        embedding = method.embed(method(images(5)))
    assert_close(embedding["parts"].norm(dim=2), torch.ones(5, 3), rtol=0, atol=1e-5)
    assert ((embedding["weights"] > 0) & (embedding["weights"] < 1)).all()
    assert embedding["weights"].std() > 0.01


@pytest.mark.parametrize("row", ["gap+isa", "qpm"])
def test_a_mirrored_crop_has_the_same_parts(row):
    # Strips and the attention know no left and right, so neither does the method if its backbone does not.
    method, x = settled(qpm(row=row, symmetric=True)), images(3)
    with torch.no_grad():
        one, two = method.embed(method(x)), method.embed(method(x.flip(-1)))
    for name in one.names:
        assert_close(one[name], two[name], rtol=0, atol=1e-4)


def test_an_embedding_network_needs_no_identities():
    method = settled(qpm(ids=0))
    with torch.no_grad():
        assert method.embed(method(images(2)))["parts"].shape == (2, 3, 16)


def test_too_many_strips_for_the_map():
    with pytest.raises(ConfigError, match="7 strips do not fit a map of 6 rows"):
        qpm(strips=7).eval()(images(1))


def test_bfloat16_stays_close_to_float32():
    method, x = settled(qpm()), images(12)
    with torch.no_grad():
        exact = method.embed(method(x))
        with torch.autocast("cpu", torch.bfloat16):
            rough = method.embed(method(x))
    assert rough["weights"].dtype == rough["parts"].dtype == torch.float32
    assert (rough["weights"] - exact["weights"]).abs().max() < 0.01
    matrices = [method.distance(neighbours=12).matrix(e, e) for e in (exact, rough)]
    assert (matrices[0] - matrices[1]).abs().max() < 0.02


def test_losses_under_autocast_are_close_and_float32():
    method, x = qpm(), images(9)
    exact = method.losses(method(x), PIDS)
    with torch.autocast("cpu", torch.bfloat16):
        rough = method.losses(method(x), PIDS)
    for name, value in exact.items():
        assert rough[name].dtype == torch.float32
        assert abs(float(rough[name]) - float(value)) < 0.05 * max(1.0, float(value)), name


# ---------------------------------------------------------------- prompts


def shown(top: int, bottom: int, n: int = 2) -> torch.Tensor:
    """Rows of pixels `top` to `bottom` of a crop of 96 x 32 are the person; a strip has 32."""
    visible = torch.zeros(n, 96, 32)
    visible[:, top:bottom] = 1
    return visible


def test_weights_are_quality_times_visible_share():
    method, x = settled(qpm()), images(2)
    with torch.no_grad():
        features = method.backbone(x)
        quality = method.heads(features)["weights"]
        weights = method.heads(features, shown(0, 48))["weights"]
    # Quality itself is judged from what is seen: here the upper row of the second strip's cells.
    with torch.no_grad():
        second = method.quality(torch.stack([features[:, :, 2:3].mean((2, 3))] * 3, 1))[:, 1]
    assert_close(weights[:, 0], quality[:, 0], rtol=0, atol=1e-6)
    assert_close(weights[:, 1], second / 2, rtol=0, atol=1e-6)
    assert weights[:, 2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("row", ROWS)
def test_hidden_pixels_change_nothing_that_is_matched(row):
    method, x = settled(qpm(row=row)), images(2)
    other = x.clone()
    other[:, :, 48:] = images(2, seed=9)[:, :, 48:] * 3 + 1
    visible = shown(0, 48)
    with torch.no_grad():
        one, two = method.embed(method(x, visible)), method.embed(method(other, visible))
        plain = method.embed(method(x))
        moved = method.embed(method(other))
    for name in ("weights", "globals"):
        if name in one.names:
            assert_close(one[name], two[name], rtol=0, atol=1e-5)
    if "parts" in one.names:
        assert_close(one["parts"][:, :2], two["parts"][:, :2], rtol=0, atol=1e-5)
    distance = method.distance()
    assert_close(distance.matrix(one, plain), distance.matrix(two, plain), rtol=0, atol=1e-5)
    assert (distance.matrix(moved, plain) - distance.matrix(plain, plain)).abs().max() > 0.01


def test_a_prompt_of_the_whole_crop_is_no_prompt():
    method, x = settled(qpm()), images(2)
    with torch.no_grad():
        one, two = method.embed(method(x)), method.embed(method(x, torch.ones(2, 96, 32)))
    for name in one.names:
        assert_close(one[name], two[name], rtol=0, atol=1e-5)


def test_crops_that_show_no_common_strip_are_farthest():
    method, x = settled(qpm()), images(2)
    with torch.no_grad():
        above, below = method.embed(method(x, shown(0, 32))), method.embed(method(x, shown(64, 96)))
    part = PartDistance().matrix(above, below)
    assert part.tolist() == [[2.0, 2.0]] * 2


def test_a_hidden_strip_is_not_taught():
    method, x = qpm(), images(9)
    method.eval()
    found = method(x, shown(0, 64, 9))
    found["parts"].retain_grad()
    sum(method.losses(found, PIDS).values()).backward()
    assert found["parts"].grad[:, :2].any()
    assert not found["parts"].grad[:, 2].any()
    assert method.part_classifiers.weight.grad[:2].any()
    assert not method.part_classifiers.weight.grad[2].any()
