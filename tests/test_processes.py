"""Work in several processes: in order, with nothing left behind. They are handed functions that they can import."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from glimpse.errors import ConfigError
from glimpse.processes import mapped


@pytest.mark.parametrize(("jobs", "chunk"), [(1, 16), (2, 1), (2, 7), (2, 100)])
def test_results_come_in_the_order_of_the_items(jobs: int, chunk: int) -> None:
    with mapped(math.sqrt, [n * n for n in range(40)], jobs, chunk=chunk) as found:
        assert list(found) == list(range(40))
    with mapped(math.sqrt, [], jobs, chunk=chunk) as found:
        assert list(found) == []


def test_what_is_few_is_done_here() -> None:
    with mapped(_process, range(16), 8) as found:
        assert set(found) == {os.getpid()}


def _process(_: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_process_is_started_before_it_works(jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path.cwd())  # and back
    names = [f"{n}" for n in range(6)]
    with mapped(os.path.abspath, names, jobs, chunk=1, start=os.chdir, given=(tmp_path,)) as found:
        assert list(found) == [str(tmp_path / name) for name in names]


def test_threads_are_limited_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    names = ["OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]
    with mapped(os.getenv, names, 2, chunk=1, threads=1) as found:
        assert list(found) == ["1", "3"]
    with mapped(os.getenv, names, 2, chunk=1) as found:
        assert list(found) == [None, "3"]
    assert "OPENBLAS_NUM_THREADS" not in os.environ


def test_an_error_comes_back_as_it_was() -> None:
    with (
        pytest.raises(ValueError, match=r"math domain error|nonnegative"),
        mapped(math.sqrt, [1, -1], 2, chunk=1) as found,
    ):
        list(found)


def test_a_killed_process_is_said_and_not_waited_for() -> None:
    said = r"jobs: a process was killed, perhaps for want of memory\. Remedy: start again with fewer\."
    with pytest.raises(ConfigError, match=said), mapped(os._exit, [9] * 40, 2) as found:
        list(found)


@pytest.mark.parametrize("jobs", [0, -1])
def test_no_process_is_too_few(jobs: int) -> None:
    said = rf"jobs: {jobs} processes are too few\. Remedy: give at least 1\."
    with pytest.raises(ConfigError, match=said), mapped(math.sqrt, [1], jobs):
        pass


_WORK = """
import os
import sys
import time
from pathlib import Path

from glimpse.processes import mapped


def work(item):
    (Path(sys.argv[1]) / str(os.getpid())).touch()
    time.sleep(0.5)


if __name__ == "__main__":
    with mapped(work, range(400), 2, chunk=1) as found:
        list(found)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
def test_its_processes_end_when_it_is_killed(tmp_path: Path) -> None:
    log, script = tmp_path / "log", tmp_path / "work.py"
    log.mkdir()
    script.write_text(_WORK)
    with subprocess.Popen([sys.executable, script, log]) as working:
        assert within(60, lambda: len(list(log.iterdir())) == 2)
        working.kill()
    processes = [Path("/proc") / path.name for path in log.iterdir()]
    assert within(20, lambda: not any(process.exists() for process in processes))


def within(seconds: float, true: Callable[[], bool]) -> bool:
    """Whether it is true before so many seconds are over."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()
