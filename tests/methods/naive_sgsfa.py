"""SGSFA's equations as loops in float64, one function an equation, in the paper's order and symbols."""

from __future__ import annotations

import math

import torch
from naive_qpm import cosine_distance
from torch import Tensor


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def conv(layer, x: Tensor) -> Tensor:
    """A 1 x 1 convolution of one cell's channels `[c]`."""
    y = layer.weight[:, :, 0, 0].double() @ x
    return y if layer.bias is None else y + layer.bias.double()


def norm(layer, x: Tensor, channels: slice = slice(None)) -> Tensor:
    """Batch norm of one cell's channels in eval mode."""
    mean, var = layer.running_mean[channels].double(), layer.running_var[channels].double()
    return (x - mean) / (var + layer.eps).sqrt() * layer.weight[channels].double() + layer.bias[channels].double()


def relu(x: Tensor) -> Tensor:
    return torch.stack([v if v > 0 else v * 0 for v in x])


def fig_3(attention, f: Tensor) -> tuple[Tensor, Tensor]:
    """f' `[c, h, w]` and the logits `[h, w]` of one crop."""
    c, h, w = f.shape
    mean = sum(f[:, y, x] for y in range(h) for x in range(w)) / (h * w)
    channel = sigmoid(conv(attention.excite, relu(conv(attention.squeeze, mean))))
    gated, logits = torch.zeros_like(f), torch.zeros(h, w, dtype=f.dtype)
    for y in range(h):
        for x in range(w):
            hidden = relu(norm(attention.spatial[1], conv(attention.spatial[0], f[:, y, x])))
            logits[y, x] = conv(attention.to_logits, hidden)[0]
            for k in range(c):
                m = sigmoid(logits[y, x]) * channel[k]
                if attention.strength is not None:
                    m = 1 + 10 * attention.strength[0].double() * (m - 1)
                gated[k, y, x] = f[k, y, x] * m
    return gated, logits


def fig_4(attentions, f: Tensor) -> Tensor:
    """Logits `[4, h, w]` of one crop."""
    h, w = f.shape[1:]
    out = torch.zeros(4, h, w, dtype=f.dtype)
    for y in range(h):
        for x in range(w):
            hidden = relu(norm(attentions.shared[1], conv(attentions.shared[0], f[:, y, x])))
            out[:, y, x] = conv(attentions.to_logits, hidden)
    return out


def local_feature(method, f: Tensor, m: Tensor, i: int) -> Tensor:
    """f_i of one crop: f' = f M', a convolution, batch norm, ReLU, global average."""
    d, (h, w) = method.options.dim, f.shape[1:]
    own = slice(i * d, (i + 1) * d)
    weight = method.part_conv.weight[own, :, 0, 0].double()
    total = torch.zeros(d, dtype=f.dtype)
    for y in range(h):
        for x in range(w):
            total = total + relu(norm(method.part_norm, weight @ (f[:, y, x] * m[y, x]), own))
    return total / (h * w)


def first_head_row(m: Tensor, nonzero: float) -> int:
    """3.2.1: scanned from top to bottom and from left to right."""
    for y in range(m.shape[0]):
        for x in range(m.shape[1]):
            if m[y, x] > nonzero:
                return y
    return 0


def row_below_peak(m: Tensor, nonzero: float) -> int:
    """3.3: l_head + 1."""
    best, row = nonzero, -1
    for y in range(m.shape[0]):
        for x in range(m.shape[1]):
            if m[y, x] > best:
                best, row = float(m[y, x]), y
    return row + 1


def division(start: int, h: int) -> list[range]:
    """Rows of top, middle and bottom."""
    start = min(start, h - 3)
    rest = h - start
    top, middle = (max(1, math.floor(round(share * rest, 9) + 0.5)) for share in (0.15, 0.23))
    return [range(start, start + top), range(start + top, start + top + middle), range(start + top + middle, h)]


def eq_1(rows: list[range]) -> list[list[int]]:
    top, middle, bottom = (list(r) for r in rows)
    return [top, middle, bottom, top + middle, middle + bottom]


def eq_2(masks: Tensor, rows: range, nonzero: float) -> int:
    """From the learned masks of all parts `[4, h, w]` of one crop."""
    return int(any(masks[i, y, x] > nonzero for i in range(4) for y in rows for x in range(masks.shape[2])))


def eq_3(t: int, m: int, b: int) -> list[int]:
    """Numbers of the regions of eq. 1."""
    if t == 1 and m == 1 and b == 1:
        return [0, 1, 2, 3, 4]
    if t == 1 and m == 1:
        return [0, 1, 3]
    if t == 1:
        return [0]
    return []


def eq_4_and_5(m: Tensor, tau: float) -> int:
    h, w = m.shape
    v = sum(float(m[y, x]) for y in range(h) for x in range(w)) / (w * h)
    return int(v > tau)


def eq_6_and_7(f: Tensor, v: Tensor, q: int, g: int, normalise: bool = True, lam: float | None = None) -> Tensor:
    """v of both crops, and a factor for each branch where lambda is given."""
    top, bottom = torch.zeros((), dtype=f.dtype), torch.zeros((), dtype=f.dtype)
    for i in range(f.shape[1]):
        factor = 1.0 if lam is None else (lam if i < 4 else 1 - lam)
        both = factor * v[q, i] * v[g, i]
        top = top + both * cosine_distance(f[q, i], f[g, i])
        bottom = bottom + both
    if bottom == 0:
        return top + (2.0 if normalise else 2.0 * f.shape[1])  # shares nothing
    return top / bottom if normalise else top


def eq_8(logits: Tensor, mask: Tensor, cut: float) -> Tensor:
    """Of one part of one crop; `mask` `[h', w']` in pixels that the cells divide."""
    h, w = logits.shape
    dy, dx = mask.shape[0] // h, mask.shape[1] // w
    total = torch.zeros((), dtype=logits.dtype)
    for y in range(h):
        for x in range(w):
            share = float(mask[y * dy : (y + 1) * dy, x * dx : (x + 1) * dx].double().mean())
            m = sigmoid(logits[y, x])
            total = total - (torch.log(m) if share > cut else torch.log(1 - m))
    return total / (h * w)


def eq_10(logits: Tensor, t: int, epsilon: float) -> Tensor:
    k = len(logits)
    log_p = logits - torch.logsumexp(logits, 0)
    others = sum(log_p[i] for i in range(k) if i != t)
    return -(1 - epsilon + epsilon / k) * log_p[t] - epsilon / k * others


def features(method, f: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of the whole method for maps `[n, c, h, w]` in eval mode: parts `[n, 7, d]`, weights `[n, 7]`, the features of
    FR `[n, 5, d]`, which of them are chosen `[n, 5]`, and the logits `[n, 4, h, w]`."""
    o, (n, _, h, w) = method.options, f.shape
    f = f.double()
    parts, weights = torch.zeros(n, 7, o.dim, dtype=f.dtype), torch.zeros(n, 7)
    regions, chosen = torch.zeros(n, 5, o.dim, dtype=f.dtype), torch.zeros(n, 5)
    logits = torch.stack([fig_4(method.attentions, one) for one in f])
    for j in range(n):
        masks = sigmoid(logits[j])
        for i in range(4):
            parts[j, i] = local_feature(method, f[j], masks[i], i)
            weights[j, i] = eq_4_and_5(masks[i], o.tau[i])
        find = first_head_row if o.head_row == "first" else row_below_peak
        rows = division(find(masks[0], o.nonzero), h)
        for r, inside in enumerate(eq_1(rows)):
            mean = sum(f[j, :, y, x] for y in inside for x in range(w)) / (len(inside) * w)
            own = slice(r * o.dim, (r + 1) * o.dim)
            regions[j, r] = norm(method.region_convs.norm, method.region_convs.weight[r].double() @ mean, own)
        tmb = [eq_2(masks, inside, o.nonzero) for inside in rows]
        parts[j, 4:] = regions[j, :3]
        weights[j, 4:] = torch.tensor(tmb)
        chosen[j, eq_3(*tmb)] = 1
    return parts, weights, regions, chosen, logits
