"""The documents keep their word: their Python runs, their commands exist, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]


def _blocks(page: Path, *languages: str) -> Iterator[tuple[int, str]]:
    """(line number, text) of each fenced block in one of the languages."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if found[1] in languages:
            yield text.count("\n", 0, found.start(2)) + 1, found[2]


WITH_PYTHON = [name for name, page in zip(NAMES, PAGES, strict=True) if any(_blocks(page, "python"))]


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_python_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after the other, as if pasted into one session, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for line, code in _blocks(ROOT / name, "python"):
        # Blank lines above the code: a traceback then names the line of the page.
        exec(compile("\n" * (line - 1) + code, name, "exec", dont_inherit=True), names)


def _commands() -> list[tuple[str, str]]:
    """(page and line, command) of each `glimpse ...` in a shell block; a trailing backslash joins lines."""
    found = []
    for name, page in zip(NAMES, PAGES, strict=True):
        for line, text in _blocks(page, "sh", "bash", "console"):
            for offset, command in enumerate(re.sub(r"\\\n", " " * 2, text).splitlines()):
                command = command.removeprefix("$ ").strip()
                if command.startswith("glimpse "):
                    found.append((f"{name}:{line + offset}", command))
    return found


def _subcommands(command: Any) -> dict[str, Any]:
    """Commands below a command; typer brings its own kind of click, so it is not asked for its type."""
    return dict(getattr(command, "commands", {}))


def _root() -> Any:
    from glimpse.cli import app

    return typer.main.get_command(app)


@pytest.mark.parametrize(("where", "command"), _commands())
def test_command_can_be_parsed(where: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command shown in a page is one that the command line takes: its name, options and arguments."""
    monkeypatch.chdir(tmp_path)
    called, name, words = _root(), "", shlex.split(command, comments=True)[1:]
    while _subcommands(called):
        name, *words = words
        assert name in _subcommands(called), f"{where}: there is no command '{name}'"
        called = _subcommands(called)[name]
    try:
        called.make_context(name, words)
    except Exception as error:
        message = error.format_message() if hasattr(error, "format_message") else repr(error)
        pytest.fail(f"{where}: {command}\n{message}")


def test_every_command_is_shown() -> None:
    shown = {command.split()[1] for _, command in _commands()}
    assert set(_subcommands(_root())) - shown == set()


def _anchors(page: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        aim = (page.parent / file).resolve() if file else page
        if not aim.exists() or (anchor and aim.suffix == ".md" and anchor not in _anchors(aim)):
            dead.append(target)
    assert dead == []
