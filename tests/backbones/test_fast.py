"""What speeds networks up asks the machine first."""

import ctypes
import sys

import pytest
import torch
from torch import nn

from glimpse.backbones import fast
from glimpse.backbones.fast import FusedConv, can_fuse


def test_memory_is_kept_only_where_the_c_library_can(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert fast.keep_freed_memory() is False
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert fast.keep_freed_memory() is False


def test_every_memory_setting_is_made_even_if_one_is_refused(monkeypatch):
    made = []

    class Library:
        @staticmethod
        def mallopt(name, value):
            made.append(name)
            return 0

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library)
    assert fast.keep_freed_memory() is False
    assert len(made) == 3


def test_bfloat16_is_not_called_fast_on_an_old_processor(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert fast.has_fast_bfloat16("cpu") is False


def test_fused_convolution_is_the_convolution_and_its_relu() -> None:
    if not can_fuse():
        pytest.skip("this build of torch has no fused convolution for bfloat16 on CPU")
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=1, groups=16).bfloat16().requires_grad_(False)
    x = torch.randn(2, 16, 8, 4).bfloat16().contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        plain = conv(x)
        torch.testing.assert_close(FusedConv(conv, relu=False)(x), plain, atol=0.02, rtol=0.02)
        torch.testing.assert_close(FusedConv(conv, relu=True)(x), plain.relu(), atol=0.02, rtol=0.02)
