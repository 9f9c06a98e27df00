"""Pirt's equations as loops in float64, one function an equation, in the paper's order and symbols. Where the paper and
its published code differ, as the code has them; but the ranking, and d_local unless asked, are the paper's."""

from __future__ import annotations

import math

import torch
from naive_qpm import ce, cosine_distance
from torch import Tensor

GROUPS = {
    "published": ((0, 1, 2, 3, 4, 5), (5, 6, 7, 8, 9, 10), (11, 12, 13, 14, 15, 16)),
    "disjoint": ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9, 10), (11, 12, 13, 14, 15, 16)),
}


def eq_1(point: tuple[float, float, float], h: int, w: int, sigma: float) -> Tensor:
    """One map `[h, w]`: the maximum of a Gaussian of `sigma` pixels over a fine grid in each cell of 16 x 16."""
    out = torch.zeros(h, w, dtype=torch.float64)
    steps = [i / 4 for i in range(65)]
    for row in range(h):
        for column in range(w):
            for dy in steps:
                y = 16 * row + dy - point[1]
                near = min(abs(16 * column + dx - point[0]) for dx in steps)
                value = point[2] * math.exp(-(near**2 + y**2) / (2 * sigma**2))
                out[row, column] = max(float(out[row, column]), value)
    return out


def eq_2(maps: Tensor) -> Tensor:
    """C `[h, w]` of one crop, from M `[P, h, w]`."""
    out = torch.zeros(maps.shape[1:], dtype=maps.dtype)
    for y in range(maps.shape[1]):
        for x in range(maps.shape[2]):
            out[y, x] = max(maps[:, y, x])
    return out


def eq_3(maps: Tensor, f_irm: Tensor, tau: float) -> Tensor:
    """F_pose `[P, c]` of one crop."""
    h, w = maps.shape[1:]
    out = torch.zeros(len(maps), len(f_irm), dtype=f_irm.dtype)
    for j in range(len(maps)):
        for y in range(h):
            for x in range(w):
                if maps[j, y, x] > tau:
                    out[j] += f_irm[:, y, x] / (h * w)
    return out


def conv(x: Tensor, layer) -> Tensor:
    """1x1 convolution of one map `[c, h, w]`."""
    out = torch.einsum("dc,chw->dhw", layer.weight[:, :, 0, 0].double(), x)
    return out if layer.bias is None else out + layer.bias.double()[:, None, None]


def batch_norm(x: Tensor, layer) -> Tensor:
    mean, var = layer.running_mean.double(), layer.running_var.double()
    scale = layer.weight.double() / (var + layer.eps).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + layer.bias.double()[:, None, None]


def instance_norm(x: Tensor, layer) -> Tensor:
    out = torch.zeros_like(x)
    for k in range(len(x)):
        mean, var = x[k].mean(), x[k].var(unbiased=False)
        out[k] = (x[k] - mean) / (var + layer.eps).sqrt() * layer.weight[k].double() + layer.bias[k].double()
    return out


def attention(x: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Eq. 6 and the concatenation of eq. 7 for tokens x, already projected: `[T, d]` each."""
    width = x.shape[1] // heads
    out = torch.zeros_like(x)
    for i in range(heads):
        part = slice(i * width, (i + 1) * width)
        for a in range(len(x)):
            scores = torch.stack([q[a, part] @ k[b, part] / math.sqrt(width) for b in range(len(x))])
            shares = torch.exp(scores) / torch.exp(scores).sum()
            for b in range(len(x)):
                out[a, part] += shares[b] * v[b, part]
    return out


def irm(module, features: Tensor, mask: Tensor) -> Tensor:
    """Eq. 4-8 for one map `[c, h, w]` and its C `[h, w]`, in eval mode."""
    to_phi, norm, _ = module.phi
    x = conv(features, to_phi)
    half = norm.split
    f_phi = torch.cat([instance_norm(x[:half], norm.IN), batch_norm(x[half:], norm.BN)]).clamp_min(0)  # eq. 4
    d, h, _ = f_phi.shape
    projected = conv(f_phi, module.qkv)
    related = torch.zeros_like(f_phi)
    for y in range(h):
        row = f_phi[:, y].T  # [w, d]
        q, k, v = (projected[i * d : (i + 1) * d, y].T for i in range(3))
        related[:, y] = attention(row, q, k, v, module.heads).T
    f_star = batch_norm(related + f_phi, module.norm).clamp_min(0)  # eq. 5
    back, back_norm = module.theta
    return (batch_norm(conv(f_star, back), back_norm) + mask * features).clamp_min(0)  # eq. 8


def layer_norm(x: Tensor, layer) -> Tensor:
    mean, var = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    return (x - mean) / (var + layer.eps).sqrt() * layer.weight.double() + layer.bias.double()


def irt(module, tokens: Tensor) -> Tensor:
    """Eq. 9-11 for the tokens `[T, c]` of one crop, in eval mode."""
    x = tokens
    for unit in module.layers:
        heads = unit.self_attn
        qkv = x @ heads.in_proj_weight.double().T + heads.in_proj_bias.double()
        q, k, v = qkv.chunk(3, 1)
        related = attention(x, q, k, v, heads.num_heads)
        related = related @ heads.out_proj.weight.double().T + heads.out_proj.bias.double()  # W^R
        x = layer_norm(x + related, unit.norm1)
        hidden = (x @ unit.linear1.weight.double().T + unit.linear1.bias.double()).clamp_min(0)
        x = layer_norm(x + hidden @ unit.linear2.weight.double().T + unit.linear2.bias.double(), unit.norm2)  # eq. 11
    return x


def stripe_tokens(f_irm: Tensor) -> Tensor:
    return torch.stack([f_irm[:, y].mean(1) for y in range(f_irm.shape[1])])


def patch_tokens(f_irm: Tensor, down: int, across: int) -> Tensor:
    """Of a map that the patches divide."""
    out = []
    for y in range(0, f_irm.shape[1], down):
        for x in range(0, f_irm.shape[2], across):
            out.append(f_irm[:, y : y + down, x : x + across].amax((1, 2)))
    return torch.stack(out)


def csm(module, f_pose: Tensor) -> Tensor:
    """Eq. 13 with the sigmoid of the published code, for F^_pose `[3, c]`."""
    first, _, last = module
    hidden = (f_pose @ first.weight.double().T + first.bias.double()).clamp_min(0)
    logits = hidden @ last.weight.double().T + last.bias.double()
    return 1 / (1 + torch.exp(-logits[:, 0]))


def heads(method, features: Tensor, maps: Tensor) -> dict[str, Tensor]:
    """Section 3 for maps F `[n, c, h, w]` and M `[n, 17, h, w]`, with the weights of `method` in eval mode."""
    o = method.options
    f_stripe, f_patch, parts, confidence = [], [], [], []
    for one, m in zip(features.double(), maps.double(), strict=True):
        f_irm = irm(method.irm, one, eq_2(m)) if o.row in ("intra", "pirt") else one
        related = (lambda tokens: irt(method.irt, tokens)) if o.row == "pirt" else (lambda tokens: tokens)
        f_stripe.append(related(stripe_tokens(f_irm)).mean(0))  # eq. 12
        f_patch.append(related(patch_tokens(f_irm, *o.patch)).mean(0))
        tokens = eq_3(m, f_irm, o.tau)
        f_pose = torch.stack([related(tokens[list(rows)]).mean(0) for rows in GROUPS[o.groups]])
        s = torch.stack([m[list(rows)].max() for rows in GROUPS[o.groups]])
        product = csm(method.csm, f_pose) * s
        confidence.append(product / product.sum())
        parts.append(f_pose * confidence[-1][:, None])  # eq. 14
    return {
        "stripe": torch.stack(f_stripe),
        "patch": torch.stack(f_patch),
        "parts": torch.stack(parts),
        "confidence": torch.stack(confidence),
    }


def smoothed(logits: Tensor, label: int, eps: float, over: str) -> Tensor:
    """Cross entropy with label smoothing: eps / (K - 1) for each other identity, or eps / K for all."""
    ids = len(logits)
    total = torch.zeros((), dtype=logits.dtype)
    for k in range(ids):
        if over == "others":
            share = 1 - eps if k == label else eps / (ids - 1)
        else:
            share = eps / ids + (1 - eps if k == label else 0)
        total = total + share * ce(logits, k)
    return total


def soft_triplet(f: Tensor, pids: list[int]) -> Tensor:
    """Of one group's features `[n, c]`: log(1 + exp(d_ap - d_an)), averaged over anchors."""
    total, anchors = torch.zeros((), dtype=f.dtype), 0
    for a, pid in enumerate(pids):
        apart = [((f[a] - f[b]).square().sum() + 0.0).sqrt() if a != b else f.new_zeros(()) for b in range(len(f))]
        positives = [d for d, other in zip(apart, pids, strict=True) if other == pid]
        negatives = [d for d, other in zip(apart, pids, strict=True) if other != pid]
        if len(positives) > 1 and negatives:
            total = total + torch.log(1 + torch.exp(max(positives) - min(negatives)))
            anchors += 1
    return total / anchors


def d_local(f: Tensor, c: Tensor, q: int, g: int, sides: str = "both", metric: str = "cosine") -> Tensor:
    """Of the groups `f` `[n, 3, c]` and their confidences."""
    total = torch.zeros((), dtype=f.dtype)
    for i in range(f.shape[1]):
        a = {"both": (c[q, i] * c[g, i]).sqrt(), "query": c[q, i], "gallery": c[g, i], "none": 1 / 3}[sides]
        if metric == "cosine":
            d = cosine_distance(f[q, i], f[g, i])
        else:
            d = (f[q, i] / f[q, i].norm() - f[g, i] / f[g, i].norm()).norm()
        total = total + a * d
    return total


def ranking(d_s: Tensor, d_p: Tensor, d_l: Tensor, n: int) -> list[int]:
    """One query's gallery, nearest first: the n best by d_s in the order of the sum, then all others by d_s."""
    first = d_s.argsort(stable=True).tolist()
    best = sorted(first[:n], key=lambda row: float(d_s[row] + d_p[row] + d_l[row]))
    return best + first[n:]
