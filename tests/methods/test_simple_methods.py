"""The baseline, PCB and the published peer."""

import pytest
import torch
from naive_qpm import ce, cosine_distance, eq_3, table
from tiny import Tiny, fit, images, seeded, settled
from torch.testing import assert_close

from glimpse.backbones import Backbone, Look
from glimpse.data import open_dataset
from glimpse.errors import ConfigError
from glimpse.methods import METHODS, PCB, Baseline, BaselineOptions, PCBOptions, Peer
from glimpse.model import load

PIDS = torch.tensor([0, 0, 1, 1, 2, 2])


def baseline(**options) -> Baseline:
    torch.manual_seed(0)
    method = Baseline(Tiny(), 3, BaselineOptions(**options))
    torch.nn.init.normal_(method.classifier.weight, std=0.3)
    return method


def pcb(**options) -> PCB:
    torch.manual_seed(0)
    method = PCB(Tiny(), 3, PCBOptions(**{"strips": 3, "dim": 8} | options))
    torch.nn.init.normal_(method.classifiers.weight, std=0.3)
    return method


def shown(bottom: int, n: int = 2) -> torch.Tensor:
    visible = torch.zeros(n, 96, 32)
    visible[:, :bottom] = 1
    return visible


def test_methods_are_found_by_their_own_names():
    assert {name: kind.name for name, kind in METHODS.items()} == {
        n: n for n in ("baseline", "pcb", "pgfa", "sgsfa", "pirt", "qpm", "fpr", "peer")
    }


# ---------------------------------------------------------------- baseline


def test_baseline_embeds_the_normed_mean_of_the_map():
    method, x = settled(baseline()), images(2)
    with torch.no_grad():
        embedding, features = method.embed(method(x)), method.backbone(x)
    neck = method.neck
    expected = (features.mean((2, 3)) - neck.running_mean) / (neck.running_var + neck.eps).sqrt() * neck.weight
    assert_close(embedding["globals"], expected, rtol=0, atol=1e-5)
    assert embedding.names == ("globals",)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_baseline_losses_are_those_of_loops(smoothing):
    method = baseline(smoothing=smoothing)
    o = {"pooled": torch.randn(6, 16, generator=seeded()), "globals": torch.randn(6, 16, generator=seeded(1))}
    found = method.losses(o, PIDS)
    total = 0.0
    for i, pid in enumerate(PIDS.tolist()):
        logits = (method.classifier.weight @ o["globals"][i]).detach().double()
        everyone = sum(float(ce(logits, j)) for j in range(3)) / 3
        total += ((1 - smoothing) * float(ce(logits, pid)) + smoothing * everyone) / 6
    assert abs(float(found["id"]) - total) < 1e-5
    # Before the neck, as in the paper.
    pooled = o["pooled"].double()
    triplet = eq_3(table(lambda i, j: cosine_distance(pooled[i], pooled[j]), 6), PIDS.tolist(), 0.3)
    assert abs(float(found["triplet"]) - float(triplet)) < 1e-5


def test_without_the_triplet_it_is_ide():
    method = baseline(triplet=False)
    assert set(method.losses(method(images(6)), PIDS)) == {"id"}


def test_baseline_learns_and_matches():
    method, x = baseline(), images(6)
    sums = fit(method, x, PIDS)
    assert sums[-1] < 0.7 * sums[0]
    with torch.no_grad():
        embedding = method.eval().embed(method(x))
    matrix = method.distance().matrix(embedding, embedding)
    expected = [[float(cosine_distance(a, b)) for b in embedding["globals"]] for a in embedding["globals"]]
    assert_close(matrix, torch.tensor(expected), rtol=0, atol=1e-5)
    assert [region.name for region in method.regions] == ["global"]


def test_baseline_pools_what_the_prompt_shows():
    method, x = settled(baseline()), images(2)
    other = x.clone()
    other[:, :, 48:] = 7
    with torch.no_grad():
        one = method.embed(method(x, shown(48)))["globals"]
        assert_close(one, method.embed(method(other, shown(48)))["globals"], rtol=0, atol=1e-5)
        assert_close(one, method.embed(method(x[:, :, :48]))["globals"], rtol=0, atol=1e-5)
        assert (one - method.embed(method(x))["globals"]).abs().max() > 0.01


# ---------------------------------------------------------------- PCB


def test_pcb_embeds_unit_strips_of_the_map():
    method, x = settled(pcb()), images(2)
    with torch.no_grad():
        embedding, features = method.embed(method(x)), method.backbone(x)
    for k in range(3):
        strip = features[:, :, 2 * k : 2 * k + 2].mean((2, 3))
        assert_close(embedding["parts"][:, k], strip / strip.norm(dim=1, keepdim=True), rtol=0, atol=1e-5)
    assert embedding["weights"].tolist() == [[1.0] * 3] * 2


def test_pcb_shares_its_convolution_and_sums_its_losses():
    method = pcb(dropout=0.0)
    assert method.reduce.weight.shape == (8, 16)
    found = method.eval()(images(6))
    loss = method.losses(found, PIDS)["id"]
    total = 0.0
    for i, pid in enumerate(PIDS.tolist()):
        for k in range(3):
            reduced = method.norm((method.reduce.weight @ found["parts"][i, k])[None])[0].clamp(min=0)
            total += float(ce((method.classifiers.weight[k] @ reduced).double(), pid)) / 6
    assert abs(float(loss) - total) < 1e-4


def test_pcb_drops_out_only_in_training():
    method, x = pcb(), images(6)
    method.train()
    assert not torch.equal(method(x)["reduced"], method(x)["reduced"])
    method.eval()
    assert torch.equal(method(x)["reduced"], method(x)["reduced"])


def test_pcb_learns_and_matches_by_the_mean_distance_of_strips():
    method, x = pcb(dropout=0.0), images(6)
    sums = fit(method, x, PIDS)
    assert sums[-1] < 0.7 * sums[0]
    with torch.no_grad():
        embedding = method.eval().embed(method(x))
    matrix = method.distance().matrix(embedding, embedding)
    for i in range(6):
        for j in range(6):
            parts = zip(embedding["parts"][i], embedding["parts"][j], strict=True)
            assert abs(float(matrix[i, j]) - sum(float(cosine_distance(a, b)) for a, b in parts) / 3) < 1e-5


def test_pcb_counts_strips_by_what_the_prompt_shows():
    method, x = settled(pcb()), images(2)
    other = x.clone()
    other[:, :, 48:] = 7
    with torch.no_grad():
        one, two = method.embed(method(x, shown(48))), method.embed(method(other, shown(48)))
        plain = method.embed(method(x))
    assert one["weights"].tolist() == [[1.0, 0.5, 0.0]] * 2
    assert_close(one["parts"][:, :2], two["parts"][:, :2], rtol=0, atol=1e-5)
    assert_close(method.distance().matrix(one, plain), method.distance().matrix(two, plain), rtol=0, atol=1e-5)


def test_pcb_is_not_taught_by_hidden_strips():
    method = pcb()
    sum(method.losses(method(images(6), shown(64, 6)), PIDS).values()).backward()
    assert method.classifiers.weight.grad[:2].any()
    assert not method.classifiers.weight.grad[2].any()


@pytest.mark.parametrize(("descriptor", "matched"), [("pooled", "parts"), ("reduced", "reduced")])
def test_pcbs_vector_is_the_mean_of_its_matched_strips_by_what_is_seen_of_them(descriptor, matched):
    method = settled(pcb(descriptor=descriptor))
    with torch.no_grad():
        found = method(images(2), shown(48))
        vector = method.vector(found)
    assert_close(vector, (found[matched][:, 0] + 0.5 * found[matched][:, 1]) / 1.5, rtol=0, atol=1e-5)


# ---------------------------------------------------------------- the peer


class Wide(Backbone):
    """A map of 512 channels."""

    channels = 512

    def look(self, x, visible=None):
        return Look(torch.nn.functional.avg_pool2d(x, 16).mean(1, keepdim=True).expand(-1, 512, -1, -1), visible)


def test_peer_is_not_trained_here():
    with pytest.raises(ConfigError, match=r"'peer': is not trained here\. Remedy: train another method from its"):
        Peer(Wide(), 0).losses({}, PIDS)


def test_peer_takes_one_input_size():
    with pytest.raises(ConfigError, match="input size: the peer's head needs a 16 x 8 map, not"):
        Peer(Wide(), 0)(torch.zeros(1, 3, 128, 64))


def test_peer_sees_a_prompt_as_pixels_only():
    peer, x = Peer(Wide(), 0).eval(), images(1, 256, 128)
    with torch.no_grad():
        assert torch.equal(peer(x, torch.zeros(1, 256, 128))["globals"], peer(x)["globals"])
        assert peer.embed(peer(x))["globals"].shape == (1, 256)


@pytest.mark.real_data
def test_peer_finds_people_of_partial_reid(shared, models):
    weights, data = models / "osnet_lct_reid.safetensors", shared / "data" / "Partial-REID_Dataset.zip"
    for path in (weights, data):
        if not path.exists():
            pytest.skip(f"{path} is not there")
    dataset = open_dataset(f"partialreid:{data}")
    peer = load(weights, batch=8)  # the published file has no card
    assert (peer.card.method, peer.size) == ("peer", (256, 128))
    query, gallery = dataset.query[:60:3], dataset.gallery[:60:3]
    found = [peer.embed_samples(samples).embedding for samples in (query, gallery)]
    best = peer.distance().matrix(*found).argmin(1)
    hits = [q.pid == gallery[int(row)].pid for q, row in zip(query, best, strict=True)]
    assert len(hits) == 20
    assert sum(hits) >= 17
