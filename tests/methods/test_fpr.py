"""FPR against its equations, row by row, under prompts, and in matching."""

import math

import pytest
import torch
from naive_qpm import ce, cosine_distance, eq_3, table
from pydantic import ValidationError
from tiny import Tiny, fit, images, recipe, seeded, settled
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from glimpse.cues.needs import Cues, Needs
from glimpse.errors import ConfigError
from glimpse.matching import Cascade, GlobalDistance, MixedDistance
from glimpse.matching.reconstruction import ReconstructionDistance
from glimpse.methods.fpr import FPR, FPROptions, Pyramid

ROWS = {  # row: (losses, tensors of the embedding, distances of a batch)
    "baseline": ({"id", "triplet"}, {"globals"}, {"global"}),
    "dsr": (
        {"id", "triplet"},
        {"globals", "vectors", "foreground", "shares", "bands", "weights"},
        {"global"},
    ),
    "fpr": (
        {"id", "triplet", "foreground"},
        {"globals", "vectors", "foreground", "shares", "bands", "weights"},
        {"global"},
    ),
}
IDS = 3
PIDS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 1, 2])


def fpr(ids: int = IDS, *, symmetric: bool = False, **options) -> FPR:
    torch.manual_seed(0)
    method = FPR(Tiny(symmetric=symmetric), ids, FPROptions(**{"pools": (2, 3), "identity": 1.0} | options))
    if ids and options.get("identity", 1.0):
        torch.nn.init.normal_(method.classifier.weight, std=0.3)
    return method


def person(n: int = 9, seed: int = 5) -> Tensor:
    """A mask as a segmentation gives it, `[n, 96, 32]`."""
    coarse = torch.rand(n, 1, 6, 2, generator=seeded(seed))
    return (F.interpolate(coarse, (96, 32), mode="bilinear")[:, 0] > 0.5).float()


def cues(masks: Tensor) -> Cues:
    return Cues(torch.zeros(len(masks), 0, 3), masks[:, None], torch.ones(len(masks), 2))


# ---------------------------------------------------------------- the equations as loops, in float64


def windows(h: int, w: int, pools: tuple[int, ...], stride: int) -> list[tuple[range, range]]:
    """Rows and columns of each window, level by level; the last ones are cut at the edge."""
    found = []
    for kh, kw in dict.fromkeys((min(k, h), min(k, w)) for k in pools):
        sh, sw = min(stride, kh), min(stride, kw)
        tops, lefts = (list(range(0, 1 + math.ceil((n - k) / s) * s, s)) for n, k, s in ((h, kh, sh), (w, kw, sw)))
        found += [(range(y, min(y + kh, h)), range(x, min(x + kw, w))) for y in tops for x in lefts]
    return found


def eq_3_and_5(x: Tensor, y: Tensor, h: Tensor, beta: float, normalise: bool = True) -> Tensor:
    """Of the rows of x and y, `[N, d]`."""
    x, y = (x / x.norm(dim=1, keepdim=True)).T, (y / y.norm(dim=1, keepdim=True)).T
    w = torch.linalg.solve(y.T @ y + beta * torch.eye(y.shape[1], dtype=y.dtype), y.T @ x)
    errors = (x - y @ w).norm(dim=0)
    return (errors @ h) / h.sum() if normalise else errors @ h


def eq_7_to_9(logits: Tensor, mask: Tensor, places: list[tuple[range, range]], tau: float) -> Tensor:
    """Of one crop, from its mask `[h, w]` in cells."""
    total = torch.zeros((), dtype=logits.dtype)
    for n, (rows, columns) in enumerate(places):
        m = sum(float(mask[y, x]) for y in rows for x in columns) / (len(rows) * len(columns))
        f = 1 / (1 + torch.exp(-logits[n]))
        total = total - (torch.log(f) if m > tau else torch.log(1 - f))
    return total


def outputs(n: int = 9, count: int = 12, width: int = 16) -> dict[str, Tensor]:
    """As heads give them for a map of 6 x 2 cells and windows of 2 and 3: 3 + 3 of the whole width."""
    random = seeded(3)
    logits = torch.randn(n, 6, generator=random)
    out = {"vectors": torch.randn(n, 6, width, generator=random) + 0.3, "logits": logits}
    out |= {"weights": logits.sigmoid(), "shares": torch.ones(n, 6), "seen": torch.ones(n, 1, 6, 2)}
    return out | {"pooled": torch.randn(n, width, generator=random), "globals": torch.randn(n, width, generator=random)}


# ---------------------------------------------------------------- network


@pytest.mark.parametrize(
    ("size", "levels"),
    [
        ((24, 8), [48, 33, 20, 9]),  # ResNet-50 at 384 x 128: the 110 of the author's later code
        ((16, 8), [32, 21, 12, 5]),  # at 256 x 128
        ((15, 7), [32, 21, 12, 5]),  # odd: the windows at the edge are cut, and no cell is left out
        ((8, 4), [8, 3, 2, 1]),  # windows that are wider than the map are cut to it
        ((2, 2), [1]),  # all four would be the same
    ],
)
def test_windows_of_the_houses_maps(size, levels):
    pyramid = Pyramid(*size, (2, 4, 6, 8), 2)
    places = windows(*size, (2, 4, 6, 8), 2)
    assert len(places) == sum(levels)
    assert {(y, x) for rows, columns in places for y in rows for x in columns} == {
        (y, x) for y in range(size[0]) for x in range(size[1])
    }
    maps = torch.randn(1, 3, *size, generator=seeded())
    found = pyramid(maps, F.max_pool2d)
    assert found.shape == (1, sum(levels), 3)
    for n, (rows, columns) in enumerate(places):
        patch = maps[0, :, rows.start : rows.stop, columns.start : columns.stop]
        assert_close(found[0, n], patch.amax((1, 2)))


@pytest.mark.parametrize(("size", "k"), [((24, 8), 6), ((15, 7), 5), ((8, 4), 4), ((8, 4), 3), ((2, 2), 6)])
def test_bands_say_how_much_of_a_windows_height_lies_in_them(size, k):
    found = Pyramid(*size, (2, 4, 6, 8), 2).bands(k)
    for n, (rows, _) in enumerate(windows(*size, (2, 4, 6, 8), 2)):
        for band in range(k):
            top, bottom = band * size[0] / k, (band + 1) * size[0] / k
            inside = max(0.0, min(rows.stop, bottom) - max(rows.start, top))
            assert abs(float(found[n, band]) - inside / len(rows)) < 1e-6
    assert_close(found.sum(1), torch.ones(len(found)))


@pytest.mark.parametrize("pools", [(2, 3), (1,), (1, 2, 9)])
@pytest.mark.parametrize("stride", [1, 2])
def test_heads_are_maxima_of_windows_and_a_sigmoid_for_each(pools, stride):
    method = settled(fpr(pools=pools, stride=stride))
    with torch.no_grad():
        features = method.backbone(images(2))
        found = method.heads(features)
    places = windows(6, 2, pools, stride)
    assert found["vectors"].shape == (2, len(places), 16)
    weight, bias = method.foreground.weight[0].double(), method.foreground.bias.double()
    for i in range(2):
        x = torch.stack(
            [features[i, :, r.start : r.stop, c.start : c.stop].amax((1, 2)) for r, c in places]
        ).double()  # eq. before (1)
        h = 1 / (1 + torch.exp(-(x @ weight + bias)))
        assert_close(found["vectors"][i].double(), x)
        assert_close(found["weights"][i].double(), h, rtol=0, atol=1e-6)
        mean = (h[:, None] * x).sum(0) / h.sum()
        neck = method.neck
        expected = (mean - neck.running_mean) / (neck.running_var + neck.eps).sqrt() * neck.weight
        assert_close(found["globals"][i].double(), expected, rtol=1e-5, atol=1e-5)


def test_a_1x1_convolution_may_come_before_the_pyramid():
    method = settled(fpr(dim=5))
    with torch.no_grad():
        features = method.backbone(images(2))
        found = method.heads(features)
        conv, norm, _ = method.reduce
        reduced = torch.einsum("dc,nchw->ndhw", conv.weight[:, :, 0, 0], features)
        expected = (reduced / (1 + norm.eps) ** 0.5).relu()
    assert_close(found["vectors"], Pyramid(6, 2, (2, 3), 2)(expected, F.max_pool2d), rtol=1e-4, atol=1e-5)
    assert method.embed(found)["globals"].shape == (2, 5)


def test_defaults_are_the_papers():
    o = FPROptions()
    assert (o.row, o.alpha, o.beta, o.tau, o.identity, o.mode, o.lam) == ("fpr", 0.02, 0.01, 0.35, 0.0, "full", 1.0)
    assert (o.pools, o.stride, o.dim, o.smoothing) == ((2, 4, 6, 8), 2, 0, 0.0)
    with torch.device("meta"):
        backbone = Tiny(2048)
        method = FPR(backbone, 751)
    heads = sum(p.numel() for p in method.parameters()) - sum(p.numel() for p in backbone.parameters())
    assert heads == 2048 + 1  # the foreground classifier; the rest of FPR learns nothing


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"pools": ()}, "pools"),
        ({"pools": (4, 2)}, "window sizes must ascend, from 1 or more"),
        ({"pools": (0, 2)}, "window sizes must ascend, from 1 or more"),
        ({"row": "sfr"}, "row"),
        ({"beta": 1e-6}, "beta"),
        ({"tau": 1.5}, "tau"),
        ({"lam": -0.1}, "lam"),
        ({"bands": 0}, "bands"),
        ({"gamma": 0.5}, "gamma"),
    ],
)
def test_wrong_options_are_refused(wrong, said):
    with pytest.raises(ValidationError, match=said):
        FPROptions(**wrong)


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize("normalise", [True, False])
def test_the_triplet_is_eq_6_on_the_fpr_distance_with_its_gradients(normalise):
    beta, margin = 0.05, 0.2
    method = fpr(beta=beta, margin=margin, normalise=normalise)
    ours = {k: v.clone().requires_grad_(k != "seen") for k, v in outputs().items()}
    theirs = {k: v.double().requires_grad_() for k, v in outputs().items()}
    x, h = theirs["vectors"], theirs["weights"]
    expected = eq_3(table(lambda i, j: eq_3_and_5(x[i], x[j], h[i], beta, normalise), 9), PIDS.tolist(), margin)
    loss = method.losses(ours, PIDS)["triplet"]
    assert expected.item() > 0.05
    assert_close(loss.double(), expected.double(), rtol=1e-5, atol=2e-5)
    loss.backward()
    expected.backward()
    for name in ("vectors", "weights"):  # the triplet teaches the foreground as well
        assert_close(ours[name].grad.double(), theirs[name].grad, rtol=1e-3, atol=1e-6)
    assert ours["globals"].grad is None


@pytest.mark.parametrize("with_person", [True, False])
def test_the_foreground_loss_is_eq_7_to_9_with_its_gradients(with_person):
    method = fpr(alpha=0.5, tau=0.45)
    o = outputs()
    o["seen"] = F.adaptive_avg_pool2d(person(seed=6)[:, None], (6, 2))
    if with_person:
        o["person"] = person()
    o["logits"].requires_grad_()
    theirs = o["logits"].detach().double().requires_grad_()
    mask = o["seen"][:, 0]
    if with_person:
        mask = F.adaptive_avg_pool2d(o["person"], (6, 2))  # masks of a training show what is not covered
    places = windows(6, 2, (2, 3), 2)
    expected = 0.5 * sum(eq_7_to_9(theirs[i], mask[i], places, 0.45) for i in range(9)) / 9
    loss = method.losses(o, PIDS)["foreground"]
    assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    loss.backward()
    expected.backward()
    assert_close(o["logits"].grad.double(), theirs.grad, rtol=1e-4, atol=1e-7)
    labels = (o["logits"].grad < 0).float().mean()
    assert 0.2 < labels < 0.8  # of both kinds


def test_person_masks_may_have_any_size():
    method, o = fpr(), outputs()
    one, two = (method.losses(o | {"person": p}, PIDS)["foreground"] for p in (person(), person()[:, ::2, ::2]))
    assert_close(one, two, rtol=0.1, atol=0)
    small = F.adaptive_avg_pool2d(person(), (6, 2))
    assert_close(method.losses(o | {"person": small}, PIDS)["foreground"], one)
    as_bytes = method.losses(o | {"person": person().to(torch.uint8)}, PIDS)["foreground"]
    assert_close(as_bytes, one)


def test_masks_are_needed_to_learn_the_foreground_and_for_nothing_else():
    body = Needs(parts=("body",))
    assert FPR.needs(FPROptions(), "train") == body
    assert FPR.needs(FPROptions(), "search") == Needs()
    for without in ({"labels": "visible"}, {"alpha": 0.0}, {"row": "dsr"}, {"row": "baseline"}):
        assert FPR.needs(FPROptions(**without), "train") == Needs()


def test_masks_reach_the_loss_and_labels_of_what_is_visible_do_without():
    x, masks = images(9), person()
    seen = fpr(labels="visible").eval()
    method = fpr().eval()
    with torch.no_grad():
        found = method(x, None, cues(masks))
        assert_close(found["person"], masks)
        assert "person" not in method(x)
        without = seen(x, masks, cues(masks))
        assert "person" not in without
        told = method.losses(method(x, masks, cues(masks)), PIDS)["foreground"]
        assert_close(seen.losses(without, PIDS)["foreground"], told)


def test_a_crop_without_a_mask_teaches_no_foreground():
    method, o = fpr(), outputs()
    o["logits"].requires_grad_()
    masks = person()
    masks[4] = -1.0
    method.losses(o | {"person": masks}, PIDS)["foreground"].backward()
    assert not o["logits"].grad[4].any()
    assert o["logits"].grad[[0, 8]].all()


def test_tau_is_the_edge_and_belongs_to_the_background():
    o = outputs() | {"logits": torch.full((9, 6), 30.0), "person": torch.full((9, 96, 32), 0.25)}
    assert float(fpr(tau=0.25, alpha=1.0).losses(o, PIDS)["foreground"]) == pytest.approx(30 * 6)  # eq. 8: m <= tau
    assert float(fpr(tau=0.24, alpha=1.0).losses(o, PIDS)["foreground"]) == pytest.approx(0.0, abs=1e-6)


def test_the_identity_loss_is_smoothed_cross_entropy_of_the_global_vector():
    method, o = fpr(identity=0.7, smoothing=0.1), outputs()
    total = 0.0
    for i, pid in enumerate(PIDS.tolist()):
        logits = (method.classifier.weight @ o["globals"][i]).detach().double()
        total += (0.9 * float(ce(logits, pid)) + 0.1 * sum(float(ce(logits, j)) for j in range(3)) / 3) / 9
    assert abs(float(method.losses(o, PIDS)["id"].detach()) - 0.7 * total) < 1e-5


def test_gradients_of_the_losses_are_those_of_finite_differences():
    method = fpr(beta=0.1, margin=5.0).double()  # all triplets violate the margin, and none sits on an edge
    pids = torch.tensor([0, 0, 1, 1])
    fixed = {k: v[:4].double() for k, v in outputs(width=4).items()} | {"person": person(4).double()}
    names = ("vectors", "weights", "logits")
    given = [fixed[name][..., :4].requires_grad_() if name == "vectors" else fixed[name] for name in names]
    given = [t.detach().requires_grad_() for t in given]

    def losses(*tensors: Tensor) -> tuple[Tensor, ...]:
        named = fixed | {"globals": torch.zeros(4, 16).double()} | dict(zip(names, tensors, strict=True))
        terms = method.losses(named, pids)
        return terms["triplet"], terms["foreground"]

    assert torch.autograd.gradcheck(losses, given, atol=1e-6)


def test_baseline_losses_are_on_the_global_vector():
    method, o = fpr(row="baseline"), outputs()
    pooled = o["pooled"].double()
    expected = eq_3(table(lambda i, j: cosine_distance(pooled[i], pooled[j]), 9), PIDS.tolist(), 0.3)
    terms = method.losses({"pooled": o["pooled"], "globals": o["globals"]}, PIDS)
    assert abs(float(terms["triplet"]) - float(expected)) < 1e-5


def test_without_alpha_nothing_is_asked_of_the_foreground_and_without_identity_nothing_of_the_classifier():
    assert set(fpr(alpha=0.0).losses(outputs(), PIDS)) == {"id", "triplet"}
    method = fpr(identity=0.0)
    assert set(method.losses(outputs(), PIDS)) == {"triplet", "foreground"}
    assert not hasattr(method, "classifier")
    with torch.no_grad():
        found = method(images(2))
    assert found["globals"] is found["pooled"]


def test_a_teacher_is_compared_with_the_global_vectors():
    o = outputs()
    found = fpr().distances(o)
    assert set(found) == {"global"}
    for i, j in ((0, 1), (4, 8)):
        assert abs(float(found["global"][i, j]) - float(cosine_distance(o["globals"][i], o["globals"][j]))) < 1e-5


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("row", ROWS)
def test_every_row_learns_embeds_and_matches(row):
    losses, tensors, distances = ROWS[row]
    method, x = fpr(row=row, dim=12), images(9)
    masks = person()

    found = method(x, None, cues(masks))
    assert ("person" in found) == (row == "fpr")
    assert set(method.losses(found, PIDS)) == losses
    assert set(method.distances(found)) == distances
    heads = method.heads
    method.heads = lambda features, visible=None, given=None: heads(features, visible, cues(masks))
    sums = fit(method, x, PIDS)
    method.heads = heads
    assert sums[-1] < 0.75 * sums[0], sums
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} takes no part"
            assert parameter.grad.isfinite().all()
    method.eval()
    with torch.no_grad():
        embedding, again = method.embed(method(x)), method.embed(method(x))
    assert set(embedding.names) == tensors
    for name in embedding.names:
        assert embedding[name].dtype == torch.float32
        assert torch.equal(embedding[name], again[name])
    matrix = method.distance().matrix(embedding, embedding)
    assert matrix.argmin(1).tolist() == list(range(9))  # every crop is nearest to itself
    same = PIDS[:, None] == PIDS[None]
    others = ~torch.eye(9, dtype=torch.bool)
    assert matrix[same & others].mean() < matrix[~same].mean()


def test_dsr_weighs_all_vectors_alike():
    method = settled(fpr(row="dsr"))
    with torch.no_grad():
        found = method(images(2))
    assert found["weights"].tolist() == [[1.0] * 6] * 2
    assert not hasattr(method, "foreground")
    assert_close(found["pooled"], found["vectors"].mean(1))


def test_baseline_is_the_mean_of_the_map():
    method = settled(fpr(row="baseline", identity=0.0))
    with torch.no_grad():
        assert_close(method(images(2))["globals"], method.backbone(images(2)).mean((2, 3)), rtol=0, atol=1e-6)


# ---------------------------------------------------------------- matching


def embedded(n: int = 5, **options):
    method = settled(fpr(**options))
    with torch.no_grad():
        return method, method.embed(method(images(n)))


@pytest.mark.parametrize("normalise", [True, False])
def test_matching_is_eq_5_for_all_pairs(normalise):
    method, e = embedded(normalise=normalise)
    matrix = method.distance().matrix(e, e)
    x, h = e["vectors"].double(), e["foreground"].double()
    for i in range(5):
        for j in range(5):
            assert abs(float(matrix[i, j]) - float(eq_3_and_5(x[i], x[j], h[i], 0.01, normalise))) < 1e-5


def test_modes_are_the_distances_they_say():
    method, e = embedded()
    exact = method.distance()
    assert isinstance(exact, ReconstructionDistance)
    assert exact.names == tuple(region.name for region in method.regions) == tuple(f"strip {k}" for k in range(1, 7))
    assert method.distance(mode="full", rows=3) == method.distance(rows=3) != exact
    assert method.distance(rows=3).rows == 3
    assert method.distance(lam=0.3) == MixedDistance(((0.3, exact), (0.7, GlobalDistance("globals"))))
    assert method.distance(lam=0.0) == GlobalDistance("globals")
    assert method.distance(mode="cascade") == Cascade(GlobalDistance("globals"), exact, 100)
    assert method.distance(mode="cascade", neighbours=7, rows=3) == Cascade(method.distance(rows=3), exact, 7)
    order = method.distance(mode="cascade", neighbours=2).matrix(e, e).argsort(1)
    coarse, fine = GlobalDistance("globals").matrix(e, e), exact.matrix(e, e)
    for i in range(5):
        first = coarse[i].argsort().tolist()
        assert order[i].tolist() == sorted(first[:2], key=fine[i].tolist().__getitem__) + first[2:]


def test_options_set_what_matching_does_by_default():
    method, e = embedded(mode="cascade", neighbours=3, lam=0.5, beta=0.2)
    given = fpr(beta=0.2).distance(mode="cascade", neighbours=3, lam=0.5)
    assert method.distance() == given
    assert method.distance(mode="full") == fpr(beta=0.2).distance(lam=0.5)
    assert given.fine.terms[0][1].beta == 0.2
    assert_close(method.distance().matrix(e, e), given.matrix(e, e), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "given", "said"),
    [
        ({}, {"mode": "quick"}, r"mode: 'quick' is not known. Remedy: choose one of full, cascade"),
        ({}, {"lam": 1.5}, r"lam: 1.5 is not a share. Remedy: give a number from 0 to 1"),
        ({}, {"lam": math.nan}, "lam: nan is not a share"),
        ({}, {"rows": 0}, "rows: 0 rows reconstruct nothing"),
        ({}, {"neighbours": 5}, r"neighbours: nothing is re-ranked in mode full. Remedy: match with mode=cascade"),
        ({}, {"mode": "cascade", "neighbours": 0}, "n: 0 crops cannot be re-ranked"),
        ({"normalise": False}, {"mode": "cascade"}, "normalise: sums of errors that are not normalised can be neither"),
        ({"normalise": False}, {"lam": 0.5}, "match with mode=full and lam=1, or train with options.normalise=true"),
        ({"row": "baseline"}, {"lam": 0.5}, r"row: the baseline has one distance without options. Remedy: leave them"),
    ],
)
def test_wrong_matching_options_are_named(options, given, said):
    with pytest.raises(ConfigError, match=said):
        fpr(**options).distance(**given)


def test_explanation_names_the_bands_and_adds_up():
    method, e = embedded(bands=4)
    explanation = method.distance().explain(e[0], e[1])
    assert [part.name for part in explanation.parts] == [region.name for region in method.regions]
    assert [region.box[1] for region in method.regions] == [0, 0.25, 0.5, 0.75]
    assert sum(part.share * part.distance for part in explanation.parts) == pytest.approx(explanation.distance)
    for k, part in enumerate(explanation.parts):
        assert part.query_weight == pytest.approx(float(e["weights"][0, k]), abs=1e-5)
        assert part.gallery_weight == pytest.approx(float(e["weights"][1, k]), abs=1e-5)
    assert [region.name for region in fpr(row="baseline").regions] == ["global"]
    assert e["weights"].shape == (5, 4)  # as reports and the check of qualities want it: one per region


# ---------------------------------------------------------------- embedding


@pytest.mark.parametrize("row", ROWS)
def test_a_crop_is_embedded_alike_alone_and_in_a_batch(row):
    method, x = settled(fpr(row=row, dim=8)), images(5)
    with torch.no_grad():
        alone, together = method.embed(method(x[3:4])), method.embed(method(x))
    for name in together.names:
        assert_close(alone[name], together[name][3:4], rtol=0, atol=1e-5)
    matrix = method.distance().matrix(together, together)
    assert_close(method.distance().matrix(alone, together), matrix[3:4], rtol=0, atol=1e-5)


def test_a_batch_of_one_has_losses():
    method = fpr()
    method.eval()
    terms = method.losses(method(images(1)), PIDS[:1])
    assert float(terms["triplet"].detach()) == 0.0  # nobody to compare with
    sum(terms.values()).backward()
    assert method.backbone.conv.weight.grad.isfinite().all()


def test_a_mirrored_crop_has_the_same_vectors_in_mirrored_places():
    method, x = settled(fpr(symmetric=True, pools=(1,))), images(3)
    with torch.no_grad():
        one, two = method.embed(method(x)), method.embed(method(x.flip(-1)))
    swapped = one["vectors"].view(3, 6, 2, 16).flip(2).flatten(1, 2)
    assert_close(two["vectors"], swapped, rtol=0, atol=1e-5)
    matrix = method.distance().matrix
    assert_close(matrix(one, two), matrix(one, one), rtol=0, atol=1e-4)  # alignment-free


def test_an_embedding_network_needs_no_identities():
    method = settled(fpr(ids=0))
    with torch.no_grad():
        assert method.embed(method(images(2)))["vectors"].shape == (2, 6, 16)


def test_bfloat16_stays_close_to_float32():
    method, x = settled(fpr(dim=8)), images(12, seed=2)
    with torch.no_grad():
        exact = method.embed(method(x))
        with torch.autocast("cpu", torch.bfloat16):
            rough = method.embed(method(x))
    assert (rough["foreground"] - exact["foreground"]).abs().max() < 0.02
    assert all(rough[name].dtype == torch.float32 for name in rough.names)
    matrices = [method.distance().matrix(e, e) for e in (exact, rough)]
    assert (matrices[0] - matrices[1]).abs().max() < 0.02


def test_losses_under_autocast_are_close_and_float32():
    method, x = fpr(), images(9)
    exact = method.losses(method(x) | {"person": person()}, PIDS)
    with torch.autocast("cpu", torch.bfloat16):
        rough = method.losses(method(x) | {"person": person()}, PIDS)
    for name, value in exact.items():
        assert rough[name].dtype == torch.float32
        assert abs(float(rough[name].detach()) - float(value.detach())) < 0.05 * max(1.0, float(value.detach())), name


# ---------------------------------------------------------------- prompts


def shown(top: int, bottom: int, n: int = 2) -> Tensor:
    """Rows of pixels `top` to `bottom` of a crop of 96 x 32 are the person; a cell has 16."""
    visible = torch.zeros(n, 96, 32)
    visible[:, top:bottom] = 1
    return visible


def test_weights_are_foreground_times_visible_share():
    method, x = settled(fpr(pools=(2,))), images(2)
    with torch.no_grad():
        features = method.backbone(x)
        plain = method.heads(features)
        found = method.heads(features, shown(0, 48))
        upper = features[:, :, 2].amax(2)  # what is seen of the second window
        second = method.foreground(upper)[:, 0].sigmoid()
    assert found["shares"].tolist() == [[1.0, 0.5, 0.0]] * 2
    assert_close(found["vectors"][:, 0], plain["vectors"][:, 0])
    assert_close(found["vectors"][:, 1], upper)
    assert found["vectors"][:, 2].abs().max() == 0
    assert_close(found["weights"][:, 0], plain["weights"][:, 0], rtol=0, atol=1e-6)
    assert_close(found["weights"][:, 1], second / 2, rtol=0, atol=1e-6)
    assert found["weights"][:, 2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("dim", [0, 8])
def test_hidden_pixels_change_nothing_that_is_matched(row, dim):
    method, x = settled(fpr(row=row, dim=dim)), images(2)
    other = x.clone()
    other[:, :, 48:] = images(2, seed=9)[:, :, 48:] * 3 + 1
    visible = shown(0, 48)
    with torch.no_grad():
        one, two = method.embed(method(x, visible)), method.embed(method(other, visible))
        plain, moved = method.embed(method(x)), method.embed(method(other))
    for name in one.names:
        assert_close(one[name], two[name], rtol=0, atol=1e-5)
    distance = method.distance()
    assert_close(distance.matrix(one, plain), distance.matrix(two, plain), rtol=0, atol=1e-5)
    assert_close(distance.matrix(plain, one), distance.matrix(plain, two), rtol=0, atol=1e-5)  # in the gallery as well
    assert (distance.matrix(moved, plain) - distance.matrix(plain, plain)).abs().max() > 0.01


def test_what_is_hidden_in_a_gallery_crop_makes_nobody():
    method, x = settled(fpr()), images(2)
    with torch.no_grad():
        lower = method.embed(method(x, shown(48, 96)))
        whole, upper = method.embed(method(x)), method.embed(method(x, shown(0, 48)))
    distance = method.distance()
    itself, half, none = (distance.matrix(lower, e).diagonal() for e in (lower, whole, upper))
    assert (itself < none).all()
    assert (half < none).all()


@pytest.mark.parametrize("row", ROWS)
def test_a_prompt_of_the_whole_crop_is_no_prompt(row):
    method, x = settled(fpr(row=row)), images(2)
    with torch.no_grad():
        one, two = method.embed(method(x)), method.embed(method(x, torch.ones(2, 96, 32)))
    for name in one.names:
        assert_close(one[name], two[name], rtol=0, atol=1e-5)


def test_a_crop_that_shows_nothing_is_farthest():
    method, x = settled(fpr()), images(2)
    with torch.no_grad():
        hidden, plain = method.embed(method(x, torch.zeros(2, 96, 32))), method.embed(method(x))
    distance = method.distance()
    for matrix in (distance.matrix(hidden, plain), distance.matrix(plain, hidden)):
        assert matrix.tolist() == [[distance.farthest] * 2] * 2


def test_a_hidden_window_is_not_taught():
    method = fpr(pools=(2,))
    method.eval()
    found = method(images(9), shown(0, 48, 9))
    found["logits"].retain_grad()
    sum(method.losses(found, PIDS).values()).backward()
    assert found["logits"].grad[:, :2].any()
    assert not found["logits"].grad[:, 2].any()
    assert method.backbone.conv.weight.grad.isfinite().all()


def test_windows_of_maps_that_are_not_positive_keep_to_what_is_seen():
    method = settled(fpr(pools=(6,)))
    features = -1 - torch.rand(2, 16, 6, 2, generator=seeded())
    found = method.heads(features, shown(0, 48))["vectors"][:, 0]
    assert_close(found, features[:, :, :3].amax((2, 3)))


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", ["paper", "imagenet", "reid"])
def test_recipes_have_options_of_the_method(name):
    settings = recipe(f"fpr-{name}")
    assert settings["method"] == "fpr"
    FPR(Tiny(), IDS, FPROptions(**settings["options"])).distance()


@pytest.mark.parametrize("name", ["imagenet", "reid"])
def test_recipes_differ_from_qpms_in_nothing_but_the_method(name):
    ours, theirs = recipe(f"fpr-{name}"), recipe(f"qpm-{name}")
    for settings in (ours, theirs):
        del settings["method"], settings["options"]
    assert ours == theirs


def test_the_papers_recipe_is_the_papers():
    settings = recipe("fpr-paper")
    assert FPROptions(**settings["options"]) == FPROptions()
    assert settings["transforms"] == {"size": [384, 128], "flip": 0.0, "pad": 0, "erasing": None}
    assert settings["sampling"] == {"people": 16, "crops": 4}
    assert sum(stage["epochs"] for stage in settings["stages"]) == 200
