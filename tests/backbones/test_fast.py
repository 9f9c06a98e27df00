"""What speeds networks up asks the machine first."""

import ctypes
import sys

import pytest
import torch

from glimpse.backbones import fast


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


@pytest.mark.parametrize(
    ("precision", "quick", "expected"),
    [("auto", True, True), ("auto", False, False), ("bfloat16", False, True), ("float32", True, False)],
)
def test_auto_takes_bfloat16_where_the_processor_is_quick_with_it(precision, quick, expected, monkeypatch):
    monkeypatch.setattr(fast, "has_fast_bfloat16", lambda device: quick)
    assert fast.in_bfloat16(precision, "cpu") is expected
