"""What all commands share: where they print, options that several have, checks before any work."""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from glimpse.errors import ConfigError, GlimpseError
from glimpse.files import check_target

if TYPE_CHECKING:
    from glimpse.matching import KReciprocal

Choice = TypeVar("Choice", bound=str)

# Into a file or a pipe there is no width to fit: tables keep their lines whole.
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200)
err = Console(stderr=True)

Weights = Annotated[str, typer.Option(help="A .safetensors file with its card, or the name of packaged weights.")]
Keypoints = Annotated[
    str | None,
    typer.Option(
        metavar="ESTIMATOR|cache:FOLDER",
        help="Where key points come from, for methods that search by them: movenet:PATH, onnx:PATH, rtmpose, or the "
        "folder that `glimpse cues make` filled.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything that is random.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read, and say which.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result to this JSON file.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="An option of the method's distance; can be repeated."),
]


def print_error(error: GlimpseError) -> None:
    """Where, why, and what to do."""
    where, cause, remedy = escape(error.where), escape(error.cause), escape(error.remedy)
    err.print(f"[bold red]error[/] [bold]{where}[/]: {cause}.", highlight=False, soft_wrap=True)
    err.print(f"[dim]remedy:[/] {remedy}.", highlight=False, soft_wrap=True)


def print_skipped(skipped: Sequence[GlimpseError]) -> None:
    """A line for each thing that was left out."""
    for error in skipped:
        err.print(f"[yellow]left out[/] {escape(error.where)}: {escape(error.cause)}", highlight=False, soft_wrap=True)


def key_values(texts: list[str] | None, where: str) -> dict[str, Any]:
    """`key=value` texts as a dict; values are read as JSON where they are JSON, else as text."""
    pairs: dict[str, Any] = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(where, f"'{text}' is not KEY=VALUE", f"write it as {where} gamma=0.6")
        if key in pairs:
            raise ConfigError(where, f"'{key}' is given twice", "give it once")
        try:
            pairs[key.strip()] = json.loads(value)
        except ValueError:
            pairs[key.strip()] = value
    return pairs


def choices(texts: Sequence[str], where: str, known: Sequence[Choice]) -> tuple[Choice, ...]:
    """Words out of a few that are known."""
    chosen = []
    for text in texts:
        if text.strip() not in known:
            raise ConfigError(where, f"'{text.strip()}' is none of them", f"choose among {', '.join(known)}")
        chosen.append(known[known.index(text.strip())])
    return tuple(chosen)


def weighted(texts: Sequence[str] | None, where: str, known: Sequence[Choice]) -> dict[Choice, float]:
    """`word=weight` texts, or words alone that weigh 1."""
    found: dict[Choice, float] = {}
    for text in texts or ():
        word, equals, weight = text.partition("=")
        (chosen,) = choices([word], where, known)
        found[chosen] = as_number(weight, where) if equals else 1.0
    return found


def as_size(text: str, where: str) -> tuple[int, int]:
    """Rows and columns, as `128x64`."""
    rows, cross, columns = text.partition("x")
    if not cross or not rows.isdigit() or not columns.isdigit():
        raise ConfigError(where, f"'{text}' is not HxW", "write rows and columns, such as 128x64")
    return int(rows), int(columns)


def as_k_reciprocal(text: str) -> KReciprocal:
    """k1, k2 and lambda, as `20,6,0.3`."""
    from glimpse.matching import KReciprocal

    try:
        k1, k2, lam = text.split(",")
        return KReciprocal(int(k1), int(k2), float(lam))
    except ValueError:
        cause = f"'{text}' is not K1,K2,LAMBDA"
        raise ConfigError("--rerank", cause, "write two whole numbers and a share, such as 20,6,0.3") from None


def as_number(text: str, where: str) -> float:
    """A number that was typed."""
    try:
        return float(text)
    except ValueError:
        raise ConfigError(where, f"'{text}' is not a number", "write such as 0.2,0.4") from None


def beside(path: str | Path) -> list[Path]:
    """The card or list that lies beside a .safetensors file."""
    return [Path(path).with_suffix(".json")] if str(path).endswith(".safetensors") else []


def data_paths(*specs: str | None) -> list[Path]:
    """Paths of datasets given as KIND:PATH."""
    return [Path(spec.partition(":")[2]) for spec in specs if spec is not None and ":" in spec]


def check_outputs(outputs: Sequence[Path | None], inputs: Sequence[Path]) -> None:
    """Find out before the work, not after it, that a result could not be written or would destroy what is read."""
    from glimpse.data.stores import is_image

    read = [os.path.realpath(path) for path in inputs]
    taken: set[str] = set()
    for path in outputs:
        if path is None:
            continue
        check_target(path)
        real = os.path.realpath(path)
        if real in read:
            raise ConfigError(path, "is an input of this command and would be overwritten", "write to another file")
        if os.path.exists(real) and is_image(real) and any(real.startswith(folder + os.sep) for folder in read):
            raise ConfigError(path, "is one of the crops and would be overwritten", "write to another file")
        if real in taken:
            raise ConfigError(path, "is to hold two results", "give each its own file")
        taken.add(real)
        writable_folder(Path(real).parent)


def writable_folder(path: Path | None) -> None:
    """The same for a folder, which may have to be made."""
    if path is None:
        return
    try:
        there = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not there.is_dir():
            raise ConfigError(there, "is a file, and a folder is needed there", "choose another place")
        # Rights alone do not tell: a file system may be read-only or full.
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        cause = f"cannot be written to ({error.strerror})"
        raise ConfigError(path, cause, "choose a folder you can write to") from error


def say(message: str) -> None:
    """A line on stderr, so that stdout stays the result."""
    err.print(escape(message), highlight=False, soft_wrap=True)


@contextmanager
def progress_bar(task: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr that counts crops."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    ) as bars:
        bar = bars.add_task(task, total=total)
        yield lambda n: bars.advance(bar, n)


def command_line() -> str:
    """The command line as it was typed."""
    return shlex.join(["glimpse", *sys.argv[1:]])
