"""The front door: quick to import, and the same whatever is imported first."""

from __future__ import annotations

import subprocess
import sys

import pytest

import glimpse


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_import_loads_nothing_heavy() -> None:
    heavy = python("import sys, glimpse; print([m for m in ('torch', 'numpy', 'PIL', 'pydantic') if m in sys.modules])")
    assert heavy == "[]"
    assert python("import sys, glimpse.cli; print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize(
    "first", ["import glimpse.search", "from glimpse.search.visible import read_visible", "import glimpse"]
)
def test_search_can_be_called_whatever_is_imported_first(first: str) -> None:
    code = f"{first}\nimport glimpse\nfrom glimpse.search import search, Hit\nprint(glimpse.search.Hit is Hit)\n"
    assert python(code + "print(callable(glimpse.search))") == "True\nTrue"


def test_every_public_name_is_there_and_no_other() -> None:
    for name in glimpse.__all__:
        assert getattr(glimpse, name) is not None
    with pytest.raises(AttributeError, match="module 'glimpse' has no attribute 'nothing'"):
        glimpse.nothing  # noqa: B018


def test_loading_the_default_weights_gives_no_warning() -> None:
    code = "import glimpse, warnings\nfrom glimpse import model\nwarnings.simplefilter('error')\n"
    assert python(code + "print(type(glimpse.load('default')).__name__)") == "Model"
