"""What a piece of work costs, in a process of its own: for the benchmarks beside this file."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from glimpse.provenance import commit

T = TypeVar("T")
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Cost:
    """What the work took.

    Attributes:
        seconds: median of all runs but the first, in which memory is new to the process; of the first if it is alone.
        extra_mb: largest resident size during the first run, less that before it; `None` where Linux does not tell.
        peak_mb: largest resident size of the process during the first run; `None` likewise.
    """

    seconds: float
    extra_mb: float | None
    peak_mb: float | None


def apart(function: Callable[..., T], *arguments: object) -> T:
    """The result of a function of a module, called in a process that has done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "glimpse.evaluation"])  # imports once; no thread is started by that
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def measure(work: Callable[[], T], runs: int = 4) -> tuple[T, Cost]:
    """The result of the first run, and what all of them took."""
    before = _start_peak()
    seconds = []
    for run in range(runs):
        started = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - started)
        if not run:
            result, peak = found, _megabytes("VmHWM")
        del found
    extra = None if before is None or peak is None else peak - before
    return result, Cost(statistics.median(seconds[1:] or seconds), extra, peak)


def machine() -> dict[str, Any]:
    """Where and with what it was measured."""
    cpu, memory = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    name = re.search(r"model name\s*: (.*)", cpu.read_text()) if cpu.exists() else None
    total = re.search(r"MemTotal:\s*(\d+)", memory.read_text()) if memory.exists() else None
    return {
        "processor": name[1] if name else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(int(total[1]) / 1e6) if total else None,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "commit": commit(),
    }


def _start_peak() -> float | None:
    """Forget the peak so far, and tell the resident size in MB."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before is no room for what comes
        Path("/proc/self/clear_refs").write_text("5")
    except (AttributeError, OSError):
        return None
    return _megabytes("VmRSS")


def _megabytes(name: str) -> float | None:
    found = re.search(rf"{name}:\s*(\d+) kB", STATUS.read_text()) if STATUS.exists() else None
    return int(found[1]) * 1024 / 1e6 if found else None
