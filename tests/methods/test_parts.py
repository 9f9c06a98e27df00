"""What the methods share, against loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_qpm import eq_3
from tiny import seeded
from torch.testing import assert_close

from glimpse.errors import ConfigError
from glimpse.methods.parts import (
    BNNeck,
    Classifiers,
    batch_hard,
    cells,
    global_mean,
    part_cross_entropy,
    strip_means,
    strip_shares,
)

quick = settings(max_examples=25, deadline=None, database=None)


def naive_strips(maps, strips, seen):
    """Mean of each strip over its visible cells, and how much of it counts as visible; rows as adaptive pooling cuts
    them."""
    n, c, h, w = maps.shape
    means, shares = torch.zeros(n, strips, c), torch.zeros(n, strips)
    for i in range(n):
        for k in range(strips):
            rows = range(k * h // strips, math.ceil((k + 1) * h / strips))
            weight = sum(float(seen[i, 0, y, x]) for y in rows for x in range(w))
            shares[i, k] = weight / (len(rows) * w)
            for channel in range(c):
                total = sum(float(maps[i, channel, y, x]) * float(seen[i, 0, y, x]) for y in rows for x in range(w))
                means[i, k, channel] = total / weight if weight else 0.0
        # Less than 2 % of a strip is a rim, unless no strip shows more.
        shown = [float(share) for share in shares[i]]
        for k in range(strips):
            if shown[k] < 0.02 and max(shown) >= 0.02:
                shares[i, k] = 0.0
    return means, shares


@given(seed=st.integers(0, 2**31), h=st.integers(1, 7), w=st.integers(1, 3), data=st.data())
@quick
def test_strip_means_and_shares_are_those_of_loops(seed, h, w, data):
    strips = data.draw(st.integers(1, h))
    maps = torch.randn(2, 3, h, w, generator=seeded(seed))
    seen = torch.rand(2, 1, h, w, generator=seeded(seed + 1))
    faint = (seen > 0.5) * (0.001 + 0.05 * torch.rand(2, 1, h, 1, generator=seeded(seed + 2)))
    seen = data.draw(st.sampled_from([seen, faint, (seen > 0.5).float(), torch.ones_like(seen)]))
    means, shares = naive_strips(maps, strips, seen)
    assert_close(strip_means(maps, strips, seen), means, rtol=0, atol=1e-5)
    assert_close(strip_shares(maps, strips, seen), shares, rtol=0, atol=1e-5)
    everything, _ = naive_strips(maps, strips, torch.ones_like(seen))
    assert_close(strip_means(maps, strips), everything, rtol=0, atol=1e-5)
    assert strip_shares(maps, strips, None).tolist() == [[1.0] * strips] * 2


def test_a_rim_of_the_next_strips_prompt_counts_as_nothing_unless_it_is_all_there_is():
    maps, seen = torch.zeros(3, 2, 6, 1), torch.zeros(3, 1, 6, 1)
    seen[0, 0, :, 0] = torch.tensor([1.0, 1.0, 0.038, 0.0, 0.04, 0.0])  # strips: 1, 0.019 and 0.02
    seen[1, 0, :, 0] = torch.tensor([0.0, 0.0, 0.038, 0.0, 0.02, 0.0])
    shares = strip_shares(maps, 3, seen)
    assert_close(shares[0], torch.tensor([1.0, 0.0, 0.02]), rtol=0, atol=1e-6)
    assert_close(shares[1], torch.tensor([0.0, 0.019, 0.01]), rtol=0, atol=1e-6)
    assert shares[2].tolist() == [0.0, 0.0, 0.0]


def test_a_gain_on_cells_does_not_count_as_more_of_them():
    maps, seen = torch.randn(2, 3, 5, 2, generator=seeded()), torch.rand(2, 1, 5, 2, generator=seeded(1))
    gain = 1 + torch.rand(2, 1, 5, 2, generator=seeded(2))
    for shown in (seen, None):
        assert_close(strip_means(maps, 2, shown, gain), strip_means(maps * gain, 2, shown), rtol=0, atol=1e-5)


def test_global_mean_is_one_strip():
    maps = torch.randn(2, 3, 4, 2, generator=seeded())
    assert_close(global_mean(maps, None), maps.mean((2, 3)), rtol=0, atol=1e-6)


def test_more_strips_than_rows_is_an_error():
    with pytest.raises(ConfigError, match=r"strips: 5 strips do not fit a map of 4 rows\. Remedy: use fewer strips"):
        strip_means(torch.zeros(1, 2, 4, 2), 5)


def test_cells_are_the_visible_share_of_their_pixels():
    visible = torch.zeros(1, 32, 32)
    visible[0, :24, 16:] = 1
    assert cells(visible, torch.zeros(1, 5, 2, 2)).tolist() == [[[[0.0, 1.0], [0.0, 0.5]]]]
    assert cells(None, torch.zeros(1, 5, 2, 2)) is None


@given(seed=st.integers(0, 2**31), identities=st.integers(1, 4), each=st.integers(1, 3), margin=st.floats(0, 1))
@quick
def test_batch_hard_is_eq_3_with_its_gradient(seed, identities, each, margin):
    pids = torch.arange(identities).repeat_interleave(each)[torch.randperm(identities * each, generator=seeded(seed))]
    distances = torch.rand(len(pids), len(pids), generator=seeded(seed), dtype=torch.float64).fill_diagonal_(0)
    ours, theirs = distances.clone().requires_grad_(), distances.clone().requires_grad_()
    loss = batch_hard(ours, pids, margin)
    naive = eq_3([list(row) for row in theirs], pids.tolist(), margin)
    assert_close(loss.item(), naive.item(), rtol=0, atol=1e-9)
    assert loss.isfinite()
    loss.backward()
    assert ours.grad.isfinite().all()
    if naive.requires_grad:
        naive.backward()
        assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-9)
    else:
        assert not ours.grad.any()


def test_batch_hard_counts_only_the_triplets_that_violate():
    far = torch.tensor([[0.0, 0.1, 2.0, 2.0], [0.1, 0.0, 2.0, 2.0], [2.0, 2.0, 0.0, 0.1], [2.0, 2.0, 0.1, 0.0]])
    pids = torch.tensor([0, 0, 1, 1])
    assert batch_hard(far, pids, 0.3) == 0.0  # N_tp = 0 divides nothing
    far[0, 1] = 1.9  # one anchor of four: 0.3 + 1.9 - 2.0, not a quarter of it
    assert_close(batch_hard(far, pids, 0.3), torch.tensor(0.2), rtol=0, atol=1e-6)


def test_anchors_without_a_positive_or_a_negative_take_no_part():
    distances = torch.tensor([[0.0, 0.9, 0.1], [0.9, 0.0, 0.1], [0.1, 0.1, 0.0]])
    # The third has no positive; the first two violate by 0.3 + 0.9 - 0.1.
    assert_close(batch_hard(distances, torch.tensor([0, 0, 1]), 0.3), torch.tensor(1.1), rtol=0, atol=1e-6)
    assert batch_hard(distances, torch.tensor([0, 0, 0]), 0.3) == 0.0
    assert batch_hard(distances, torch.tensor([0, 1, 2]), 0.3) == 0.0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_part_cross_entropy_counts_parts_by_their_visible_share(smoothing):
    logits = torch.randn(4, 3, 5, generator=seeded())
    pids = torch.tensor([4, 0, 0, 2])
    shares = torch.rand(4, 3, generator=seeded())
    shares[0, 1], shares[2, 2] = 0.0, 1.0
    everything = by_share = 0.0
    for i in range(4):
        for k in range(3):
            log_p = (logits[i, k].double() - torch.logsumexp(logits[i, k].double(), 0)).tolist()
            loss = -(1 - smoothing) * log_p[pids[i]] - smoothing * sum(log_p) / 5
            everything += loss / 4
            by_share += loss / 4 * float(shares[i, k])
    assert abs(float(part_cross_entropy(logits, pids, smoothing)) - everything) < 1e-5
    assert abs(float(part_cross_entropy(logits, pids, smoothing, shares)) - by_share) < 1e-5


def test_classifiers_are_one_matrix_per_part():
    layer = Classifiers(3, 4, 5)
    x = torch.randn(2, 3, 4, generator=seeded())
    for i in range(2):
        for k in range(3):
            assert_close(layer(x)[i, k], layer.weight[k] @ x[i, k], rtol=0, atol=1e-6)
    assert Classifiers(3, 4, 0)(x).shape == (2, 3, 0)


def test_bnneck_never_learns_a_bias():
    neck = BNNeck(4)
    neck(torch.randn(8, 4, generator=seeded())).square().sum().backward()
    assert neck.bias.grad is None
    assert neck.bias.tolist() == [0.0] * 4
    assert neck.weight.grad is not None
