"""What makes convolutions quick on CPUs without changing what they compute."""

from __future__ import annotations

import copy
import ctypes
import sys
from typing import Literal

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from glimpse.backbones.backbone import Backbone
from glimpse.backbones.osnet import ConvBN, Lite

Precision = Literal["auto", "float32", "bfloat16"]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Let this process keep memory that tensors free, instead of handing it back and asking again for each layer.

    glibc maps every large tensor anew and the kernel clears its pages each time: a third of the time of OSNet on CPU.
    The process then holds its peak until it ends. Does nothing where the C library is not glibc.

    Returns:
        Whether it took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)


def has_fast_bfloat16(device: torch.device | str = "cpu") -> bool:
    """Whether bfloat16 is worth using on `device`."""
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported()) and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def in_bfloat16(precision: Precision, device: torch.device | str = "cpu") -> bool:
    """Whether `precision` means bfloat16 on `device`: `auto` takes it where it is worth using."""
    return precision == "bfloat16" or (precision == "auto" and has_fast_bfloat16(device))


def folded(backbone: Backbone) -> Backbone:
    """A copy of `backbone` for inference, its OSNet batch norms folded into the convolutions before them.

    Other networks than OSNet are only copied.
    """
    backbone = copy.deepcopy(backbone).eval().requires_grad_(False)
    for module in backbone.modules():
        if isinstance(module, ConvBN):
            module.conv, module.bn = _joined(module.conv, module.bn)
        elif isinstance(module, Lite):
            module.depthwise, module.bn = _joined(module.depthwise, module.bn)
    return backbone


def _joined(conv: nn.Module, norm: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The convolution with the norm in it, and nothing in the norm's place; as they are if that was done before."""
    if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
        return fuse_conv_bn_eval(conv, norm).requires_grad_(False), nn.Identity()
    return conv, norm
