"""PGFA's equations as loops in float64, one function an equation, in the paper's order and symbols; and its heat maps
as they were published, drawn on the crop as it lies on disk."""

from __future__ import annotations

import math

import numpy as np
import torch
from naive_qpm import batch_norm, ce, strip_means
from PIL import Image
from torch import Tensor


def heat_map(point: tuple[float, float, float], size: tuple[int, int], cells: tuple[int, int], gamma: float) -> Tensor:
    """One map `[h, w]` of a point in pixels of a crop of `size` (height, width): whole pixels, 8 bits, PIL's resize."""
    height, width = size
    drawn = np.zeros((height, width))
    if point[2] > gamma:
        cx, cy, sigma = int(point[0]), int(point[1]), height * width / 1000
        for y in range(height):
            for x in range(width):
                drawn[y, x] = math.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
    image = Image.fromarray((drawn * 255).astype(np.uint8)).resize(cells[::-1], Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(image) / 255)


def smooth_heat_map(point: tuple[float, float], sigma: float, size: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """The same without rounding anything: the Gaussian at the centres of pixels, and PIL's resize of real numbers."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    drawn = np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * sigma**2))
    image = Image.fromarray(drawn.astype(np.float32)).resize(cells[::-1], Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image))


def eq_1(f: Tensor, weight: Tensor, bias: Tensor, pids: list[int]) -> Tensor:
    """L_part, averaged over crops."""
    total = torch.zeros((), dtype=f.dtype)
    for n, pid in enumerate(pids):
        for i in range(len(weight)):
            total = total + ce(weight[i] @ f[n, i] + bias[i], pid)
    return total / len(pids)


def eq_3(f_pose: Tensor, weight: Tensor, bias: Tensor, pids: list[int]) -> Tensor:
    """L_pose, averaged over crops."""
    return sum(ce(weight @ f_pose[n] + bias, pid) for n, pid in enumerate(pids)) / len(pids)


def eq_5(points: Tensor, height: float, p: int, gamma: float) -> list[int]:
    """Part labels of one crop, from its points `[N, 3]`."""
    kept = [float(y) for _, y, score in points if score > gamma]  # eq. 2
    if len(kept) < 3:
        return [1] * p
    return [int(any((i - 1) / p * height <= y < i / p * height for y in kept)) for i in range(1, p + 1)]


def similarity(f: Tensor, labels: Tensor, q: int, g: int, parts: bool = True, pose: bool = True) -> Tensor:
    """Eq. 6-8 with the sign that the text gives them: cosines moved to [0, 1]. The last row of f is f_pose."""
    top, bottom = torch.zeros((), dtype=f.dtype), 0.0
    for i in range(f.shape[1]):
        last = i == f.shape[1] - 1
        both = float(pose) if last else float(parts) * labels[q, i] * labels[g, i]
        top = top + both * (torch.cosine_similarity(f[q, i], f[g, i], dim=0) + 1) / 2
        bottom = bottom + both
    return top / bottom


def heads(method, features: Tensor, maps: Tensor) -> Tensor:
    """Section 4.1 for feature maps `[n, c, h, w]` and heat maps `[n, N, h, w]`, with the weights of `method` in eval
    mode: f_1, ..., f_p, f_pose as `[n, p + 1, d]`."""
    p, d = method.options.strips, method.options.dim
    out = torch.zeros(len(features), p + 1, d, dtype=torch.float64)
    for n, (one, heat) in enumerate(zip(features.double(), maps.double(), strict=True)):
        z = strip_means(one, p)
        for i in range(p):
            reduced = method.part_convs.weight[i].double() @ z[i]
            for k in range(d):
                out[n, i, k] = batch_norm(reduced[k], method.part_convs.norm, i * d + k)
        h, w = one.shape[1:]
        vectors = []
        for m in heat:
            total = torch.zeros(len(one), dtype=torch.float64)
            for y in range(h):
                for x in range(w):
                    total = total + m[y, x] * one[:, y, x]
            vectors.append(total / (h * w))
        largest = torch.stack([max(v[k] for v in vectors) for k in range(len(one))])
        f_cat = torch.cat([strip_means(one, 1)[0], largest])
        reduced = method.pose_conv.weight[0].double() @ f_cat
        for k in range(d):
            out[n, p, k] = batch_norm(reduced[k], method.pose_conv.norm, k)
    return out
