from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from glimpse.errors import GalleryError
from glimpse.gallery.checksums import Checksums

FOLDERS = ("a", "b")


@pytest.fixture
def sums(tmp_path: Path) -> Checksums:
    for name in ("a/one", "a/deep/two", "b/three"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"content of {name}\n")
    found = Checksums(tmp_path / "sums.txt", FOLDERS)
    found.record(FOLDERS)
    return found


def test_files_are_recorded_once(sums: Checksums) -> None:
    assert sorted(sums.read()) == ["a/deep/two", "a/one", "b/three"]
    assert sums.check() == ([], [])
    before = sums.path.read_bytes(), sums.path.stat().st_mtime_ns
    sums.record(FOLDERS)
    assert (sums.path.read_bytes(), sums.path.stat().st_mtime_ns) == before
    (sums.path.parent / "a/four").write_text("4")
    (sums.path.parent / "b/five").write_text("5")
    assert sums.check() == ([], ["a/four", "b/five"])
    sums.record(("a",))
    assert sums.check() == ([], ["b/five"])
    assert sorted(os.listdir(sums.path.parent)) == ["a", "b", "sums.txt"]


def test_nothing_is_wrong_where_nothing_is_recorded(tmp_path: Path) -> None:
    assert Checksums(tmp_path / "sums.txt", FOLDERS).check() == ([], [])


def test_what_is_wrong(sums: Checksums) -> None:
    root = sums.path.parent
    (root / "a/one").write_text("content of a/onf\n")
    (root / "a/deep/two").write_text("shorter\n")
    (root / "b/three").unlink()
    done: list[int] = []
    assert sums.check(done.append)[0] == [
        "a/one was changed: its SHA-256 is not the recorded one",
        "a/deep/two has 8 bytes instead of 22",
        "b/three is missing",
    ]
    assert done == [1, 1, 1]
    # What is wrong stays wrong when something else is recorded.
    (root / "b/new").write_text("new")
    sums.record(FOLDERS)
    assert len(sums.check()[0]) == 3


def test_a_file_that_cannot_be_read_is_said_and_the_others_are_checked(sums: Checksums) -> None:
    (sums.path.parent / "a/one").unlink()
    (sums.path.parent / "a/one").mkdir()
    (sums.path.parent / "b/three").unlink()
    assert sums.check()[0] == ["a/one cannot be read (Is a directory)", "b/three is missing"]


def test_what_is_struck_may_go_or_change(sums: Checksums) -> None:
    sums.strike(lambda name: name.startswith("a/"))
    assert list(sums.read()) == ["b/three"]
    (sums.path.parent / "a/one").write_text("other")
    assert sums.check() == ([], ["a/one", "a/deep/two"])
    sums.record(FOLDERS)
    assert sums.check() == ([], [])
    before = sums.path.stat().st_mtime_ns
    sums.strike(lambda name: False)
    assert sums.path.stat().st_mtime_ns == before


def test_hidden_and_written_over_files_are_not_recorded(sums: Checksums) -> None:
    for name in (".draft", "latest_version_hint.json", "two\nlines"):
        (sums.path.parent / "a" / name).write_text("x")
    assert sums.check() == ([], [])


def test_any_change_of_the_record_itself_shows(sums: Checksums) -> None:
    whole = sums.path.read_bytes()
    places = random.Random(0)
    changed = [whole[:n] for n in (0, 1, len(whole) // 2, len(whole) - 1)] + [whole + b"\n", b"no text \xff"]
    for place in [0, len(whole) - 1, *(places.randrange(len(whole)) for _ in range(60))]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << places.randrange(8)
        changed.append(bytes(flipped))
    said = (
        r"sums.txt: was changed: its SHA-256 is not the one in its last line\. Remedy: restore the gallery from a copy"
    )
    for each in changed:
        sums.path.write_bytes(each)
        with pytest.raises(GalleryError, match=said):
            sums.check()
    sums.path.write_bytes(whole)
    assert sums.check() == ([], [])


def test_a_record_that_cannot_be_read(sums: Checksums) -> None:
    sums.path.unlink()
    sums.path.mkdir()
    with pytest.raises(GalleryError, match=r"sums.txt: cannot be read \(Is a directory\)\. Remedy"):
        sums.read()


def test_a_record_that_cannot_be_written_stays_as_it_was(sums: Checksums, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sums.path.read_bytes()
    (sums.path.parent / "a/new").write_text("new")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        sums.record(FOLDERS)
    assert sums.path.read_bytes() == before
