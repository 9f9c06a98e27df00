"""The front door: quick to import, and the same whatever is imported first."""

from __future__ import annotations

import subprocess
import sys

import pytest

import glimpse


def _python(code: str) -> str:
    """What a fresh interpreter prints when it runs `code`."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_fast() -> None:
    code = "import time; start = time.perf_counter(); import glimpse; print(time.perf_counter() - start)"
    fastest = min(float(_python(code)) for _ in range(3))  # the fastest of three: the machine may be busy
    assert fastest < 0.5


def test_import_brings_in_nothing_heavy() -> None:
    loaded = set(_python("import sys, glimpse; print(*{m.partition('.')[0] for m in sys.modules})").split())
    assert not loaded & {"torch", "torchvision", "timm", "lightning", "numpy", "PIL", "pydantic", "typer"}


def test_import_touches_no_network_and_no_file_but_code() -> None:
    code = """
import sys
touched = []
def audit(event, arguments):
    if event.startswith(("socket.", "subprocess.", "urllib.", "os.mkdir", "os.remove")):
        touched.append((event, str(arguments)))
    if event == "open" and not str(arguments[0]).endswith((".py", ".pyc")) and "__pycache__" not in str(arguments[0]):
        touched.append((event, str(arguments)))
sys.addaudithook(audit)
import glimpse
print(touched)
"""
    assert _python(code) == "[]"


def test_the_command_line_starts_without_torch() -> None:
    assert _python("import sys, glimpse.cli; print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize("first", ["import glimpse.search", "from glimpse.search.run import search", "import glimpse"])
def test_search_can_be_called_whatever_is_imported_first(first: str) -> None:
    code = f"{first}\nimport glimpse\nfrom glimpse.search import search, Hit\nprint(glimpse.search.Hit is Hit)\n"
    assert _python(code + "print(callable(glimpse.search))") == "True\nTrue"


def test_every_public_name_is_there_and_no_other() -> None:
    assert set(glimpse.__all__) == {*glimpse._HOMES, "search", "__version__"}
    assert set(glimpse.__all__) <= set(dir(glimpse))
    assert [name for name in glimpse.__all__ if not hasattr(glimpse, name)] == []
    with pytest.raises(AttributeError, match="module 'glimpse' has no attribute 'nothing'"):
        glimpse.nothing  # noqa: B018


def test_loading_the_default_weights_gives_no_warning() -> None:
    code = "import glimpse, warnings\nfrom glimpse import model\nwarnings.simplefilter('error')\n"
    assert _python(code + "print(type(glimpse.load('default')).__name__)") == "Model"
