"""QPM's equations as loops in float64, one function an equation, in the paper's order and symbols."""

from __future__ import annotations

import torch
from torch import Tensor


def ce(logits: Tensor, label: int) -> Tensor:
    return torch.logsumexp(logits, 0) - logits[label]


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    return 1 - (a @ b) / (a.norm() * b.norm())


def eq_1(f: Tensor, w_p: Tensor, pids: list[int]) -> Tensor:
    n, parts = f.shape[:2]
    total = torch.zeros((), dtype=f.dtype)
    for i in range(n):
        for k in range(parts):
            total = total + ce(w_p[k] @ f[i, k], pids[i])
    return total / n


def eq_2(f: Tensor, q: Tensor, p: int, g: int) -> Tensor:
    top = bottom = torch.zeros((), dtype=f.dtype)
    for k in range(f.shape[1]):
        top = top + q[p, k] * q[g, k] * cosine_distance(f[p, k], f[g, k])
        bottom = bottom + q[p, k] * q[g, k]
    return top / bottom


def eq_3(distance: list[list[Tensor]], pids: list[int], alpha: float) -> Tensor:
    """Also eq. 13, by the distances it is given."""
    total = torch.zeros(())
    violating = 0
    for a, pid in enumerate(pids):
        positives = [distance[a][p] for p in range(len(pids)) if pids[p] == pid]
        negatives = [distance[a][n] for n in range(len(pids)) if pids[n] != pid]
        if len(positives) < 2 or not negatives:
            continue
        hinge = alpha + max(positives) - min(negatives)
        if hinge > 0:
            total = total + hinge
            violating += 1
    return total / violating if violating else total


def eq_5(q: Tensor) -> Tensor:
    out = []
    for k in range(len(q)):
        out.append(q[k] / sum(q[i] for i in range(len(q))))
    return torch.stack(out)


def eq_4(q_hat: Tensor, g: Tensor) -> Tensor:
    return sum(q_hat[k] * g[k] for k in range(len(q_hat)))


def eq_6(h_hat: Tensor, w_g: Tensor, pids: list[int]) -> Tensor:
    return sum(ce(w_g @ h_hat[i], pids[i]) for i in range(len(pids))) / len(pids)


def eq_7(maps: Tensor, h_tilde: Tensor) -> Tensor:
    out = torch.zeros(maps.shape[1:], dtype=maps.dtype)
    for y in range(maps.shape[1]):
        for x in range(maps.shape[2]):
            out[y, x] = 1 / (1 + torch.exp(-(maps[:, y, x] @ h_tilde)))
    return out


def eq_8(m: Tensor, maps: Tensor) -> Tensor:
    out = maps.clone()
    for channel in range(len(maps)):
        out[channel] = m * maps[channel] + maps[channel]
    return out


def eq_11(q: Tensor, p: int, g: int) -> Tensor:
    products = [q[p, k] * q[g, k] for k in range(q.shape[1])]
    return torch.stack([product / sum(products) for product in products])


def eq_9_10(g_tilde: Tensor, q: Tensor, p: int, g: int) -> tuple[Tensor, Tensor]:
    """h_g^p and h_p^g."""
    a = eq_11(q, p, g)
    return sum(a[k] * g_tilde[p, k] for k in range(len(a))), sum(a[k] * g_tilde[g, k] for k in range(len(a)))


def eq_12(g_tilde: Tensor, q: Tensor, w_s: Tensor, pids: list[int]) -> Tensor:
    n = len(pids)
    total = torch.zeros((), dtype=g_tilde.dtype)
    for g in range(n):
        for p in range(n):
            h_p, h_g = eq_9_10(g_tilde, q, p, g)
            total = total + ce(w_s @ h_p, pids[p]) + ce(w_s @ h_g, pids[g])
    return total / (n * n)


def d_global(g_tilde: Tensor, q: Tensor, p: int, g: int) -> Tensor:
    return cosine_distance(*eq_9_10(g_tilde, q, p, g))


def table(distance, n: int) -> list[list[Tensor]]:
    return [[distance(i, j) for j in range(n)] for i in range(n)]


def strip_means(maps: Tensor, parts: int) -> Tensor:
    """RAP of one map `[c, h, w]` whose rows K divides: `[K, c]`."""
    rows = maps.shape[1] // parts
    out = torch.zeros(parts, maps.shape[0], dtype=maps.dtype)
    for k in range(parts):
        for y in range(k * rows, (k + 1) * rows):
            for x in range(maps.shape[2]):
                out[k] += maps[:, y, x] / (rows * maps.shape[2])
    return out


def batch_norm(value: float, norm, channel: int) -> Tensor:
    scale = norm.weight[channel].double() / torch.sqrt(norm.running_var[channel].double() + norm.eps)
    return (value - norm.running_mean[channel].double()) * scale + norm.bias[channel].double()


def normed(strips: Tensor, norm) -> Tensor:
    """Each channel of each strip through its own batch norm."""
    out = strips.clone()
    for k in range(strips.shape[0]):
        for channel in range(strips.shape[1]):
            out[k, channel] = batch_norm(strips[k, channel], norm, k * strips.shape[1] + channel)
    return out


def heads(method, features: Tensor) -> dict[str, Tensor]:
    """Section III-A and III-B for maps `[n, c, h, w]`, with the weights of `method` in eval mode."""
    parts = method.options.strips
    out: dict[str, list[Tensor]] = {name: [] for name in ("parts", "weights", "h_hat", "attention", "globals")}
    for one in features.double():
        z = strip_means(one, parts)
        q = torch.zeros(parts, dtype=torch.float64)
        f = torch.zeros(parts, method.options.dim, dtype=torch.float64)
        for k in range(parts):
            logit = batch_norm(method.quality.weight[k].double() @ z[k], method.quality.norm, k)
            q[k] = 1 / (1 + torch.exp(-logit))
            f[k] = method.part_convs.weight[k].double() @ z[k]
        f = normed(f, method.part_convs.norm)
        conv = method.to_g.weight.double()[:, :, 0, 0]
        maps = torch.stack(
            [torch.stack([conv @ one[:, y, x] for x in range(one.shape[2])], 1) for y in range(one.shape[1])], 1
        )
        h = eq_4(eq_5(q), normed(strip_means(maps, parts), method.g_norm))
        squeeze, excite = method.isa.squeeze, method.isa.excite
        h_hat = squeeze.weight.double() @ h + squeeze.bias.double()
        h_tilde = excite.weight.double() @ h_hat.clamp(min=0) + excite.bias.double()
        m = eq_7(maps, h_tilde)
        found = {"parts": f, "weights": q, "h_hat": h_hat, "attention": m[None]}
        found["globals"] = normed(strip_means(eq_8(m, maps), parts), method.g_tilde_norm)
        for name, value in found.items():
            out[name].append(value)
    return {name: torch.stack(values) for name, values in out.items()}
