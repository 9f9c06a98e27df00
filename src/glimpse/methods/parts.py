"""What the methods share: strips, their prompts, BNNeck and the losses of the field."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glimpse.backbones import to_cells
from glimpse.errors import ConfigError


def cells(visible: Tensor | None, features: Tensor) -> Tensor | None:
    """Visible share of each cell of a map `[n, c, h, w]`, as `[n, 1, h, w]`; `None` without a prompt."""
    if visible is None:
        return None
    return to_cells(visible, features)[:, None].to(features.dtype)


def strip_means(features: Tensor, strips: int, seen: Tensor | None = None, gain: Tensor | None = None) -> Tensor:
    """Region average pooling: mean of each of K equal strips over its visible cells, `[n, K, c]`.

    Rows that K does not divide are shared between neighbours as adaptive pooling does. A strip without a visible cell
    has mean zero.

    Args:
        features: map `[n, c, h, w]`.
        seen: visible share of each cell `[n, 1, h, w]`, or `None` for all.
        gain: factor on the features of each cell `[n, 1, h, w]`; it does not count as more or less of the cell.

    Raises:
        ConfigError: the map has fewer than K rows.

    >>> strip_means(torch.arange(4.0).reshape(1, 1, 4, 1), 2)
    tensor([[[0.5000],
             [2.5000]]])
    """
    if features.shape[2] < strips:
        raise ConfigError(
            "strips",
            f"{strips} strips do not fit a map of {features.shape[2]} rows",
            "use fewer strips or a taller input",
        )
    n, _, h, w = features.shape
    rows = torch.zeros(strips, h, 1, device=features.device)
    for k in range(strips):
        rows[k, k * h // strips : -(-(k + 1) * h // strips)] = 1.0
    counted = rows.expand(n, strips, h, w) if seen is None else rows * seen.float()
    weights = counted if gain is None else counted * gain.float()
    # One product of matrices, which reads the map once.
    sums = weights.flatten(2).to(features.dtype) @ features.flatten(2).transpose(1, 2)
    means = sums.float() / counted.sum((2, 3)).clamp_min(1e-6 * w)[..., None]
    return means.to(features.dtype)


def strip_shares(features: Tensor, strips: int, seen: Tensor | None) -> Tensor:
    """Visible share of each strip, `[n, K]` float32 in [0, 1]; ones without a prompt.

    Less than 2 % of a strip is the rim of a prompt in the next one, and counts as nothing (unless it is all there is).
    """
    if seen is None:
        return torch.ones(features.shape[0], strips, device=features.device)
    shares = F.adaptive_avg_pool2d(seen.float(), (strips, 1)).flatten(1).clamp(0.0, 1.0)
    rim = (shares < 0.02) & (shares >= 0.02).any(1, keepdim=True)
    return shares.masked_fill(rim, 0.0)


def weighted_mean(parts: Tensor, weights: Tensor) -> Tensor:
    """Mean of parts `[n, K, d]` by weights `[n, K]`, float32 `[n, d]`."""
    shares = weights / weights.sum(1, keepdim=True).clamp_min(1e-6)
    return torch.einsum("nk,nkd->nd", shares.float(), parts.float())


def global_mean(features: Tensor, seen: Tensor | None) -> Tensor:
    """Global average pooling over the visible cells, `[n, c]`."""
    return strip_means(features, 1, seen).squeeze(1)


class BNNeck(nn.BatchNorm1d):
    """Batch norm between the triplet's feature and the classifier's (Luo et al., CVPRW 2019); its bias stays 0."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.bias.requires_grad_(False)


class Classifier(nn.Linear):
    """A bias-free linear classifier: `[n, d]` -> logits `[n, ids]`; with 0 identities there is nothing to draw."""

    def __init__(self, width: int, ids: int) -> None:
        super().__init__(width, ids, bias=False)

    def reset_parameters(self) -> None:
        """Small random weights."""
        if self.out_features:
            super().reset_parameters()  # keeps the random numbers of what is made after it
            nn.init.normal_(self.weight, std=0.001)


class Classifiers(nn.Module):
    """K bias-free linear classifiers, one per part: `[n, K, d]` -> logits `[n, K, ids]`."""

    def __init__(self, parts: int, width: int, ids: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(parts, ids, width).normal_(0.0, 0.001 if ids else 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """`[n, K, d]` -> `[n, K, ids]`."""
        return torch.einsum("nkd,kcd->nkc", x, self.weight.to(x.dtype))


def part_cross_entropy(logits: Tensor, pids: Tensor, smoothing: float = 0.0, shares: Tensor | None = None) -> Tensor:
    """Cross entropy summed over parts, averaged over crops (QPM eq. 1).

    Args:
        logits: `[n, K, ids]`.
        pids: `[n]`.
        smoothing: label smoothing.
        shares: how much of each part is visible, `[n, K]`; what is hidden has nothing to classify.
    """
    n, parts, ids = logits.shape
    loss = F.cross_entropy(
        logits.float().reshape(n * parts, ids),
        pids.repeat_interleave(parts),
        label_smoothing=smoothing,
        reduction="none",
    )
    return (loss if shares is None else loss * shares.flatten()).sum() / n


def batch_hard(distances: Tensor, pids: Tensor, margin: float) -> Tensor:
    """Batch-hard triplet loss on a distance matrix, averaged over the triplets that violate the margin.

    QPM eq. 3 and 13; Hermans et al., arXiv 1703.07737. Crops without a positive or a
    negative in the batch take no part.

    Args:
        distances: `[n, n]`, row = anchor.
        pids: `[n]`.

    >>> d = torch.tensor([[0.0, 0.5, 0.6], [0.5, 0.0, 0.9], [0.6, 0.9, 0.0]])
    >>> batch_hard(d, torch.tensor([0, 0, 1]), margin=0.3)        # only the first anchor violates: 0.3 + 0.5 - 0.6
    tensor(0.2000)
    """
    same = pids[:, None] == pids[None, :]
    hardest_positive = distances.masked_fill(~same, -torch.inf).amax(1)
    hardest_negative = distances.masked_fill(same, torch.inf).amin(1)
    valid = (same.sum(1) > 1) & (~same).any(1)
    violation = F.relu(margin + hardest_positive[valid] - hardest_negative[valid])
    return violation.sum() / (violation > 0).sum().clamp_min(1)


class PartConvs(nn.Module):
    """K unshared 1x1 convolutions on pooled strips: `[n, K, c]` -> `[n, K, d]`, each with batch norm."""

    def __init__(self, parts: int, channels: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(parts, dim, channels).normal_(0.0, (2.0 / dim) ** 0.5))
        self.norm = nn.BatchNorm1d(parts * dim)

    def forward(self, z: Tensor) -> Tensor:
        """float32 `[n, K, d]`."""
        f = torch.einsum("nkc,kdc->nkd", z, self.weight.to(z.dtype)).float()
        normed: Tensor = self.norm(f.flatten(1))
        return normed.view(f.shape)
