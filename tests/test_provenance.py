"""Which source runs: the commit of its own checkout, and of no other."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from glimpse import provenance

ROOT = Path(__file__).parents[1]


def _git(folder: Path, *command: str) -> str:
    who = ("-c", "user.name=glimpse", "-c", "user.email=glimpse@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", *who, *command], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def _commit_of_a_copy(folder: Path) -> str:
    """What a copy of the module in `folder` says."""
    copy = folder / "provenance.py"
    if not copy.exists():
        shutil.copy(provenance.__file__, copy)
    spec = importlib.util.spec_from_file_location("copied_provenance", copy)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: str = module.commit()
    return found


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_in_this_checkout_it_is_what_git_describes() -> None:
    if not (ROOT / ".git").exists() or not Path(provenance.__file__).is_relative_to(ROOT / "src"):
        pytest.skip("not a git checkout")
    assert provenance.commit() == _git(ROOT, "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude", "*")


def test_outside_a_checkout_there_is_none(tmp_path: Path) -> None:
    assert _commit_of_a_copy(tmp_path) == ""


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_of_somebody_elses_repository_is_not_taken(tmp_path: Path) -> None:
    _git(tmp_path, "init", "--quiet")
    _git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "theirs")
    assert _commit_of_a_copy(tmp_path) == ""
    # In a repository of its own: the commit and not a tag, and a mark if the source was changed since.
    _git(tmp_path, "add", "provenance.py")
    _git(tmp_path, "commit", "--quiet", "-m", "ours")
    _git(tmp_path, "tag", "-a", "v1", "-m", "v1")
    own = _git(tmp_path, "rev-parse", "--short=10", "HEAD")
    assert len(own) >= 10
    assert _commit_of_a_copy(tmp_path) == own
    with (tmp_path / "provenance.py").open("a", encoding="utf-8") as source:
        source.write("\n")
    assert _commit_of_a_copy(tmp_path) == f"{own}+"
