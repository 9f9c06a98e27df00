"""What holds for the project as a whole: the pins, the order of imports, what is tracked."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
PHOTOGRAPHS = {".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif"}
BUNDLES = {".zip", ".tar", ".gz", ".npz", ".pkl", ".pth", ".pt"}


def _pins() -> dict[str, str]:
    pins: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!_-]+", line), f"not an exact pin: {line}"
            name, version = line.split("==")
            pins[canonicalize_name(name)] = version
    return pins


def test_constraints_pin_every_dependency_inside_its_range() -> None:
    pins = _pins()
    asked = [*PROJECT["dependencies"], *(r for extra in PROJECT["optional-dependencies"].values() for r in extra)]
    for requirement in map(Requirement, asked):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} is not pinned in constraints.txt"
        assert requirement.specifier.contains(pin), f"constraints.txt pins {pin}, pyproject.toml asks {requirement}"


def test_changelog_names_this_version() -> None:
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def _lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.path.insert(0, 'src'); from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("errors.py", "", None),
        ("matching/distance.py", "from glimpse.methods import method", "glimpse.matching -> glimpse.methods"),
        ("embedding.py", "def late() -> None:\n    import glimpse.search", "glimpse.embedding -> glimpse.search"),
        ("backbones/__init__.py", "import glimpse.matching.distance", "glimpse.backbones -> glimpse.matching"),
        ("strayroom.py", "", "strayroom"),
    ],
    ids=["as it is", "upwards", "upwards inside a function", "sideways", "a room without a place"],
)
def test_import_order_is_checked(tmp_path: Path, file: str, line: str, broken: str | None) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "src" / "glimpse", tmp_path / "src" / "glimpse", ignore=shutil.ignore_patterns("weights"))
    with (tmp_path / "src" / "glimpse" / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    done = _lint_imports(tmp_path)
    if broken is None:
        assert done.returncode == 0, done.stdout
    else:
        assert done.returncode != 0
        assert broken in done.stdout.replace(" is not allowed to import ", " -> ")


def test_no_photograph_and_no_large_file_is_tracked() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in tracked.split("\0") if name]
    assert [f.name for f in files if f.suffix.lower() in PHOTOGRAPHS | BUNDLES] == []
    assert [f.name for f in files if f.exists() and f.stat().st_size > 25_000_000] == []


def test_the_wheel_takes_what_is_not_code_along() -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]
    package = ROOT / "src" / "glimpse"
    taken = {path for pattern in patterns["glimpse"] for path in package.glob(pattern)}
    others = {p for p in package.rglob("*") if p.is_file() and p.suffix != ".py" and "__pycache__" not in p.parts}
    assert others - taken == set()
