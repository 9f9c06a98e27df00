"""What makes convolutions quick on CPUs without changing what they compute."""

from __future__ import annotations

import copy
import ctypes
import sys

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from glimpse.backbones.backbone import Backbone
from glimpse.backbones.osnet import ConvBN, Lite

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


class FusedConv(nn.Module):
    """A convolution and the ReLU after it in one pass of oneDNN, for inference on CPU.

    Args:
        conv: without gradient.
        relu: whether a ReLU follows.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool) -> None:
        super().__init__()
        self.conv = conv
        self.after = "relu" if relu else "none"

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution and the ReLU one after the other."""
        c = self.conv
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, c.weight, c.bias, c.padding, c.stride, c.dilation, c.groups, self.after, [], None
        )
        return fused


def can_fuse() -> bool:
    """Whether `FusedConv` works here, for bfloat16 tensors on CPU (it rests on an operator that is torch's own)."""
    probe = FusedConv(nn.Conv2d(8, 8, 1).bfloat16().requires_grad_(False), relu=True)
    try:
        with torch.inference_mode():
            return not bool((probe(torch.ones(1, 8, 2, 2, dtype=torch.bfloat16)) < 0).any())
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def folded(backbone: Backbone, *, fuse: bool = False) -> Backbone:
    """A copy of `backbone` for inference, its OSNet batch norms folded into the convolutions before them.

    Args:
        backbone: any; other networks than OSNet are only copied.
        fuse: also join convolutions with the ReLUs after them, in bfloat16; see `can_fuse`.
    """
    backbone = copy.deepcopy(backbone).eval().requires_grad_(False)
    for module in list(backbone.modules()):
        if isinstance(module, ConvBN):
            module.conv, module.bn, module.relu = _joined(module.conv, module.bn, module.relu, fuse)
        elif isinstance(module, Lite):
            module.depthwise, module.bn, module.relu = _joined(module.depthwise, module.bn, module.relu, fuse)
    return backbone


def _joined(conv: nn.Module, norm: nn.Module, relu: bool, fuse: bool) -> tuple[nn.Module, nn.Module, bool]:
    """`(convolution, what is left of the norm, whether a ReLU is left)` after folding, and fusing if asked."""
    if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
        conv, norm = fuse_conv_bn_eval(conv, norm).requires_grad_(False), nn.Identity()
    if fuse and isinstance(conv, nn.Conv2d) and isinstance(norm, nn.Identity):
        return FusedConv(conv.bfloat16(), relu), norm, False
    return conv, norm, relu
