"""The command line: one function per command, no logic. Anything heavy is imported inside the command that needs it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from glimpse import __version__
from glimpse.errors import ConfigError, GlimpseError
from glimpse.files import write_text

if TYPE_CHECKING:
    from glimpse.search import SearchResult

app = typer.Typer(
    name="glimpse",
    help="Find a person again when only part of them can be seen.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at datasets, and draw one.", no_args_is_help=True)
app.add_typer(data_app, name="data")

out = Console()
err = Console(stderr=True)

Weights = Annotated[str, typer.Option(help="A .safetensors file with its card, or the name of packaged weights.")]
Data = Annotated[str, typer.Option(help="A dataset as KIND:PATH, such as market1501:Market-1501.zip.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything that is random.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read, and say which.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result to this JSON file.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="An option of the method's distance; can be repeated."),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"glimpse {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _glimpse(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
) -> None:
    pass


@app.command()
def search(
    query: Annotated[Path, typer.Option(help="The crop to look for.")],
    gallery: Annotated[Path, typer.Option(help="A folder or zip of crops, or a file written by `glimpse embed`.")],
    weights: Weights = "default",
    top: Annotated[int, typer.Option(min=1, help="How many hits.")] = 20,
    visible: Annotated[
        str | None,
        typer.Option(metavar="X0,Y0,X1,Y1|MASK", help="Where the person is in the query: box in pixels, or mask."),
    ] = None,
    option: Options = None,
    skip_bad: SkipBad = False,
    report: Annotated[Path | None, typer.Option(help="Write the hits to this HTML file.")] = None,
    json_file: Json = None,
) -> None:
    """Rank the crops of a folder by their distance to one query, part by part."""
    from glimpse.model import load
    from glimpse.search import search, write_report

    options = _pairs(option, "--option")
    _writable(report, json_file)
    model = load(weights)
    with _progress("embedding the gallery") as advance:
        result = search(
            model, query, gallery, top=top, visible=visible, skip_bad=skip_bad, options=options, progress=advance
        )
    _print_hits(result)
    if json_file is not None:
        write_text(json_file, json.dumps(result.to_json(), indent=1) + "\n")
    if report is not None:
        write_report(report, [result], model.regions, command=_command())
        err.print(f"report: {escape(str(report))}", highlight=False, soft_wrap=True)


@app.command()
def embed(
    folder: Annotated[Path, typer.Argument(help="A folder or zip of crops.")],
    out_file: Annotated[Path, typer.Option("--out", help="The .safetensors file; the list of crops lies beside it.")],
    weights: Weights = "default",
    skip_bad: SkipBad = False,
) -> None:
    """Embed the crops of a folder once, for many searches."""
    from glimpse.model import load
    from glimpse.search import embed_gallery

    if out_file.suffix != ".safetensors":
        raise ConfigError("--out", f"'{out_file}' does not end in .safetensors", "call it crops.safetensors")
    _writable(out_file)
    model = load(weights)
    with _progress("embedding") as advance:
        stored = embed_gallery(model, folder, skip_bad=skip_bad, progress=advance)
    listing = stored.save(out_file)
    _print_skipped(stored.skipped)
    out.print(
        f"{len(stored.samples)} crops, {stored.embedding.bytes_per_row} bytes each: "
        f"{escape(str(out_file))}, {escape(str(listing))}",
        highlight=False,
        soft_wrap=True,
    )


def main() -> None:
    """Run the command line.

    A `GlimpseError` becomes one message on stderr and exit code 2; with `--debug` it keeps its traceback.
    """
    debug = "--debug" in sys.argv[1:]
    # `--debug` may stand anywhere, although it belongs to no command.
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        app(arguments, prog_name="glimpse")
    except GlimpseError as error:
        if debug:
            raise
        _print_error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _print_error(error: GlimpseError) -> None:
    err.print(
        f"[bold red]error[/] [bold]{escape(error.where)}[/]: {escape(error.cause)}.\n[dim]remedy:[/] {escape(error.remedy)}.",
        highlight=False,
        soft_wrap=True,
    )


def _print_skipped(skipped: tuple[GlimpseError, ...]) -> None:
    for error in skipped:
        err.print(f"[yellow]left out[/] {escape(error.where)}: {escape(error.cause)}", highlight=False, soft_wrap=True)


def _print_hits(result: SearchResult) -> None:
    for note in result.notes:
        err.print(f"[yellow]note[/] {escape(note)}", highlight=False, soft_wrap=True)
    _print_skipped(result.skipped)
    names = [part.name for part in result.hits[0].parts]
    table = Table("rank", "crop", "distance", title=f"{result.query} in {result.gallery}", title_justify="left")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("not compared")
    for hit in result:
        cells = [
            f"{part.distance:.3f} [dim]×{part.query_weight * part.gallery_weight:.2f}[/]"
            if part.distance is not None
            else "–"
            for part in hit.parts
        ]
        table.add_row(
            f"{hit.rank}", escape(hit.path), f"{hit.distance:.3f}", *cells, escape(", ".join(hit.not_compared))
        )
    out.print(table)


def _pairs(texts: list[str] | None, where: str) -> dict[str, Any]:
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


def _writable(*paths: Path | None) -> None:
    """Find out before the work, not after it, that a result could not be written."""
    for path in paths:
        if path is not None and path.is_dir():
            raise ConfigError(path, "is a folder, and a file is to be written there", "give the name of a file")


@contextmanager
def _progress(task: str) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr that counts crops."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    ) as bars:
        bar = bars.add_task(task, total=None)
        yield lambda n: bars.advance(bar, n)


def _command() -> str:
    """The command line as it was typed."""
    return shlex.join(["glimpse", *sys.argv[1:]])
