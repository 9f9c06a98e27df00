"""A gallery among processes that are killed, that write at once, and on a disk that is full."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from numbered import CASCADE, PART, add, create, id_of, number_of, numbers, probes, whole

from glimpse.gallery.filters import Filter
from glimpse.gallery.store import Gallery

KILLS = 50
HERE = Path(__file__).parent


class Workers:
    """Forks what works on a gallery; see `worker.py`."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        self.server = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        self.said()
        self.started: list[int] = []

    def said(self) -> str:
        assert self.server.stdout is not None
        return self.server.stdout.readline()

    def start(self, job: str, folder: Path, report: Path, number: int) -> int:
        assert self.server.stdin is not None
        self.server.stdin.write(f"{job} {folder} {report} {number}\n")
        self.server.stdin.flush()
        self.started.append(int(self.said()))
        return self.started[-1]

    def kill(self, process: int) -> None:
        """As a power cut does it, and wait until it is gone."""
        os.kill(process, signal.SIGKILL)
        wait(lambda: not _lives(process))

    def close(self) -> None:
        for process in self.started:
            if _lives(process):
                os.kill(process, signal.SIGKILL)
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(30)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def wait(for_: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not for_():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.002)


def lines(report: Path) -> list[dict[str, Any]]:
    """What a worker said; a line that its death cut off is left out."""
    if not report.exists():
        return []
    found = [json.loads(line) for line in report.read_text().split("\n")[:-1]]
    assert not [line["error"] for line in found if "error" in line], found[-1]["error"]
    return found


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    made = Workers()
    yield made
    made.close()


def applied(state: dict[int, bool], step: dict[str, Any]) -> dict[int, bool]:
    """The gallery, as the number of each crop and whether it was changed, after one more step."""
    if step["do"] == "add":
        return state | dict.fromkeys(step["numbers"], False)
    if step["do"] == "delete":
        return {number: changed for number, changed in state.items() if number not in step["numbers"]}
    if step["do"] == "update":
        return state | dict.fromkeys(step["numbers"], True)
    return state


def test_killed_at_any_moment(workers: Workers, tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    add(create(folder), range(60))
    state = dict.fromkeys(range(60), False)
    moments = random.Random(0)
    interrupted: dict[str, int] = {}
    steps = 0
    for kill in range(1, KILLS + 1):
        report = tmp_path / f"{kill}.jsonl"
        worker = workers.start("mixed", folder, report, kill)
        wait(lambda report=report: lines(report))
        time.sleep(moments.uniform(0.0, 0.25))
        workers.kill(worker)

        pending = None
        for line in lines(report)[1:]:
            if "do" in line:
                pending = line
            elif pending is not None:
                state, pending, steps = applied(state, pending), None, steps + 1
        possible = [state] if pending is None else [state, applied(state, pending)]
        if pending is not None:
            interrupted[pending["do"]] = interrupted.get(pending["do"], 0) + 1

        gallery = Gallery.open(folder)
        there = {number_of(crop): crop.pid == "changed" for crop in gallery.crops()}
        assert there in possible
        state = there
        assert sorted(whole(gallery)) == sorted(there)
        verified = gallery.verify()
        assert verified.problems == ()
        assert verified.crops == len(there)
        for number in moments.sample(sorted(there), min(3, len(there))):
            for mode in ("exact", "auto"):
                (found,) = gallery.nearest(PART, probes(number), 3, mode=mode)  # type: ignore[arg-type]
                assert number_of(gallery.crops(Filter(ids=(id_of(number),)))[0]) == number
                assert int(found.row_ids[0]) == int(gallery.table.row_ids(Filter(ids=(id_of(number),)).sql())[0])
                assert abs(float(found.distance[0])) < 1e-3
    # The kills met all kinds of work, and work was done between them.
    assert len(interrupted) >= 4, interrupted
    assert steps > KILLS


@pytest.mark.parametrize("indexing", [0, 1])
def test_two_add_one_searches_and_one_compacts(workers: Workers, tmp_path: Path, indexing: int) -> None:
    folder = tmp_path / "gallery"
    gallery = create(folder)
    add(gallery, range(150, 200))
    gallery.index(CASCADE)
    reports = [tmp_path / f"{name}.jsonl" for name in ("forwards", "backwards", "searching", "compacting")]
    forwards, backwards, searching, compacting = reports
    workers.start("searching", folder, searching, 1000)
    workers.start("compacting", folder, compacting, indexing)
    wait(lambda: lines(searching) and lines(compacting))
    workers.start("adding", folder, forwards, 7)
    workers.start("adding", folder, backwards, -11)
    wait(lambda: all(lines(report) and "end" in lines(report)[-1] for report in (forwards, backwards)))
    searches = len(lines(searching))
    wait(lambda: len(lines(searching)) > searches + 10)
    (folder / "stop").touch()
    wait(lambda: all("end" in lines(report)[-1] for report in reports))

    said = [line for report in (forwards, backwards) for line in lines(report) if "added" in line]
    assert sum(line["added"] for line in said) == 400 - 50
    assert sum(line["known"] for line in said) == 600 - 350
    assert sorted(whole(Gallery.open(folder))) == list(range(400))
    assert len(lines(compacting)) > 3
    assert all(len(set(rows)) == len(rows) == 8 for line in lines(searching) for rows in line.get("rows", []))
    (folder / "stop").unlink()
    assert Gallery.open(folder).verify().problems == ()


def test_a_full_disk(workers: Workers, tmp_path: Path) -> None:
    made = tmp_path / "made"
    gallery = create(made)
    add(gallery, range(200))
    gallery.delete(Filter(pids=("person-3-",)))
    gallery.index(PART)
    there = sorted(numbers(gallery))
    refused: dict[str, int] = {}
    for limit in (0, 300, 1200, 2500, 5000, 8200, 9000, 12700, 20000, 60000):
        folder = tmp_path / f"at-{limit}"
        shutil.copytree(made, folder)
        report = tmp_path / f"{limit}.jsonl"
        workers.start("full", folder, report, limit)
        wait(lambda report=report: lines(report) and "end" in lines(report)[-1])
        for what, said in lines(report)[0]["errors"].items():
            refused[what] = refused.get(what, 0) + 1
            full = ": the disk is full. Remedy: make room on the disk, and do it again: nothing that was acknowledged"
            assert full in said or "the audit log cannot be written (No space" in said, (limit, what, said)
        left = Gallery.open(folder)
        # All or nothing of each step, whatever stopped it.
        now = set(whole(left))
        assert now & set(range(5000, 5400)) in (set(), set(range(5000, 5400)))
        gone = set(there) - now
        assert gone in (set(), {n for n in there if n % 5 != 4 and n % 7 == 1})
        assert left.verify().problems == ()
        add(left, range(6000, 6050))
        left.compact()
        left.index(PART)
        assert left.verify().problems == ()
        assert now | set(range(6000, 6050)) == set(whole(left))
    assert refused.keys() >= {"create", "add", "delete", "update", "index", "compact"}
