"""Files that appear whole, and only where a file may stand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from glimpse.errors import ConfigError
from glimpse.files import atomic, write_text


def test_a_link_stays_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "far" / "real.txt")
    write_text(link, "one")
    write_text(link, "two")
    assert link.is_symlink()
    assert (tmp_path / "far" / "real.txt").read_text() == "two"
    assert [p.name for p in (tmp_path / "far").iterdir()] == ["real.txt"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    {"folder": target.mkdir, "pipe": lambda: os.mkfifo(target), "loop": lambda: target.symlink_to(target)}[kind]()
    before = target.lstat()
    with pytest.raises(ConfigError, match="target"), atomic(target):
        pass
    assert target.lstat().st_ino == before.st_ino
    assert list(tmp_path.iterdir()) == [target]
