from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from glimpse.errors import GalleryError
from glimpse.gallery import audit as module
from glimpse.gallery.audit import Audit, whoever


@pytest.fixture
def log(tmp_path: Path) -> Audit:
    log = Audit(tmp_path / "audit.jsonl")
    for number in range(5):
        log.write("add", {"crops": number, "name": "Zoë\u2028\n"}, "me")
    return log


def wrong(log: Audit) -> str:
    """What reading the log says."""
    with pytest.raises(GalleryError) as error:
        list(log)
    return str(error.value)


def test_lines_come_back(log: Audit) -> None:
    entries = list(log)
    assert [entry.details["crops"] for entry in entries] == [0, 1, 2, 3, 4]
    assert {(entry.what, entry.who, entry.details["name"]) for entry in entries} == {("add", "me", "Zoë\u2028\n")}
    assert [entry.previous for entry in entries[1:]] == [entry.digest for entry in entries[:-1]]
    assert entries[0].previous == "0" * 32
    assert entries[0].when.endswith("+00:00")
    assert all(json.loads(line) for line in log.path.read_text(encoding="utf-8").split("\n")[:-1])


def test_no_log_is_empty(tmp_path: Path) -> None:
    assert list(Audit(tmp_path / "audit.jsonl")) == []


def test_any_changed_byte_shows(log: Audit) -> None:
    whole = log.path.read_bytes()
    places = random.Random(0)
    for place in [0, len(whole) - 1, *(places.randrange(len(whole)) for _ in range(120))]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << places.randrange(8)
        log.path.write_bytes(flipped)
        line = whole[:place].count(b"\n") + 1
        assert wrong(log).startswith(f"{log.path}:{line}: is not the line that was written: it was damaged or changed.")


@pytest.mark.parametrize("gone", [0, 1, 3])
def test_a_line_that_is_taken_out_shows(log: Audit, gone: int) -> None:
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join(lines[:gone] + lines[gone + 1 :]))
    said = "does not follow the line before it: some were taken out or put in. Remedy: restore the file from a copy."
    assert wrong(log) == f"{log.path}:{gone + 1}: {said}"


def test_a_line_that_is_put_in_shows(log: Audit) -> None:
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join([*lines[:3], lines[1], *lines[3:]]))
    assert "audit.jsonl:4: does not follow the line before it" in wrong(log)


def test_what_a_power_cut_left_is_not_glued_to_the_next_line(log: Audit) -> None:
    log.path.write_bytes(log.path.read_bytes()[:-9])
    log.write("search", {}, "me")
    lines = log.path.read_bytes().splitlines()
    assert len(lines) == 6
    assert json.loads(lines[-1])["what"] == "search"
    assert "audit.jsonl:5: is not the line that was written" in wrong(log)


def test_long_lines_and_what_is_no_json(log: Audit) -> None:
    log.write("delete", {"ids": ["0" * 32] * 3000, "path": Path("a"), "odd": "\udcff"}, "me")
    log.write("add", {}, "me")
    entries = list(log)
    assert len(entries[-2].details["ids"]) == 3000
    assert (entries[-2].details["path"], entries[-2].details["odd"]) == ("a", "?")


_WRITE = """
import importlib.util
import sys

# The module alone: what lies around it takes seconds to import.
spec = importlib.util.spec_from_file_location("audit", sys.argv[3])
audit = sys.modules["audit"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)
log = audit.Audit(sys.argv[1])
for number in range(200):
    log.write("add", {"crops": number}, sys.argv[2])
"""


def test_processes_write_at_once(tmp_path: Path) -> None:
    log = Audit(tmp_path / "audit.jsonl")
    command = [sys.executable, "-c", _WRITE, str(log.path)]
    workers = [subprocess.Popen([*command, who, str(module.__file__)]) for who in ("first", "second")]
    while any(worker.poll() is None for worker in workers):
        list(log)  # never sees half a line
    assert [worker.returncode for worker in workers] == [0, 0]
    entries = list(log)
    for who in ("first", "second"):
        assert [entry.details["crops"] for entry in entries if entry.who == who] == list(range(200))


def test_a_log_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Audit(tmp_path / "audit.jsonl")
    log.path.mkdir()
    said = r"the audit log cannot be written \(Is a directory\)\. Remedy: make room or get the right to write, or open"
    with pytest.raises(GalleryError, match=said):
        log.write("add", {}, "me")
    log.path.rmdir()
    log.write("add", {}, "me")
    before = log.path.read_bytes()

    def half(handle: int, data: bytes) -> int:
        return write(handle, data[: len(data) // 2])

    write = os.write
    monkeypatch.setattr(module.os, "write", half)
    with pytest.raises(GalleryError, match=rf"cannot be written \({os.strerror(errno.ENOSPC)}\)"):
        log.write("add", {}, "me")
    monkeypatch.undo()
    assert log.path.read_bytes() == before
    log.write("add", {}, "me")
    assert len(list(log)) == 2


def test_somebody_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "@" in whoever()

    def nameless() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(module.getpass, "getuser", nameless)
    assert whoever().startswith(f"{os.getuid()}@")
