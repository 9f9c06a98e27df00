"""The commands of `glimpse gallery`: one function per command, no logic."""

from __future__ import annotations

import math
from collections import deque
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from glimpse.console import (
    Json,
    Keypoints,
    Options,
    Seed,
    Weights,
    as_k_reciprocal,
    beside,
    check_outputs,
    choices,
    command_line,
    err,
    key_values,
    out,
    print_skipped,
    progress_bar,
    say,
)
from glimpse.errors import ConfigError, GalleryError
from glimpse.files import write_text

if TYPE_CHECKING:
    from glimpse.gallery import Answer, Filter, Gallery

gallery_app = typer.Typer(help="Crops that last: add, search, change and delete them.", no_args_is_help=True)

Where = Annotated[str, typer.Argument(metavar="GALLERY", help="Its folder, or its address such as s3://bucket/people.")]
Who = Annotated[str | None, typer.Option(envvar="GLIMPSE_WHO", help="Who is at work, for the log.")]
NoAudit = Annotated[bool, typer.Option("--no-audit", help="Keep no log of what is done.")]
Store = Annotated[
    list[str] | None,
    typer.Option("--store", metavar="KEY=VALUE", help="An option of the object store, such as region=eu-west-1."),
]
Ids = Annotated[list[str] | None, typer.Option("--id", help="Crops of this id; can be repeated.")]
Pids = Annotated[list[str] | None, typer.Option("--pid", help="Crops of this person; can be repeated.")]
Cameras = Annotated[list[str] | None, typer.Option("--camera", help="Crops of this camera; can be repeated.")]
Tracks = Annotated[list[str] | None, typer.Option("--track", help="Crops of this track; can be repeated.")]
Sources = Annotated[list[str] | None, typer.Option("--source", help="Crops from this file; can be repeated.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Crops with this tag; repeat for all of several.")]
NotCameras = Annotated[list[str] | None, typer.Option("--not-camera", help="No crops of this camera; can be repeated.")]
NotSources = Annotated[list[str] | None, typer.Option("--not-source", help="No crops from this file; can be repeated.")]
After = Annotated[str | None, typer.Option(help="Crops from this time on: seconds, or such as 2026-11-21T18:00.")]
Before = Annotated[str | None, typer.Option(help="Crops before this time.")]
Ray = Annotated[str | None, typer.Option("--ray", help="Do it on a Ray cluster: its address, or 'local'.")]


@gallery_app.command("create")
def create(
    where: Where,
    weights: Weights = "default",
    thumbnails: Annotated[
        int, typer.Option(min=0, help="Height of small pictures that are kept with the crops; 0 keeps none.")
    ] = 0,
    store: Store = None,
    who: Who = None,
    no_audit: NoAudit = False,
) -> None:
    """Make an empty gallery for the embeddings of some weights."""
    _installed()
    from glimpse.gallery import Gallery
    from glimpse.model import load

    made = Gallery.create(
        where, load(weights), thumbnails=thumbnails, options=_store(store), who=who, audit=not no_audit
    )
    out.print(f"{escape(made.where)}: for crops embedded with {made.info.made_by}", highlight=False, soft_wrap=True)


@gallery_app.command("add")
def add(
    where: Where,
    crops: Annotated[
        str,
        typer.Argument(
            help="A folder or zip of crops, a list of crops (.csv), a dataset as KIND:PATH, or with --mot a file of "
            "boxes."
        ),
    ],
    weights: Weights = "default",
    keypoints: Keypoints = None,
    people: Annotated[bool, typer.Option("--people", help="Each folder is a person and gives their name.")] = False,
    split: Annotated[str | None, typer.Option(help="Of a dataset: train, query or gallery; all if not given.")] = None,
    mot: Annotated[
        bool, typer.Option("--mot", help="CROPS holds boxes in MOTChallenge's form, to be cut out of --frames.")
    ] = False,
    frames: Annotated[
        Path | None, typer.Option(help="With --mot: a folder or zip of frames, or a video; img1 beside if not given.")
    ] = None,
    camera: Annotated[str | None, typer.Option(help="With --mot: what saw them.")] = None,
    start: Annotated[str, typer.Option(help="With --mot: time of the first frame.")] = "0",
    rate: Annotated[float | None, typer.Option(help="With --mot: frames per second.")] = None,
    every: Annotated[int, typer.Option(min=1, help="With --mot: take each n-th frame only.")] = 1,
    padding: Annotated[
        float, typer.Option(min=0, help="With --mot: share of a box's width and height added on each side.")
    ] = 0.0,
    min_confidence: Annotated[float | None, typer.Option(help="With --mot: leave out less certain boxes.")] = None,
    min_height: Annotated[float, typer.Option(min=0, help="With --mot: leave out lower boxes, in pixels.")] = 0.0,
    ray: Ray = None,
    store: Store = None,
    who: Who = None,
    no_audit: NoAudit = False,
) -> None:
    """Embed crops and add those that are not there yet; can be stopped, and goes on when it is called again."""
    _installed()
    from glimpse.gallery import MotOptions, open_incoming, open_mot
    from glimpse.model import load

    only_mot = {
        "--frames": frames is not None,
        "--camera": camera is not None,
        "--start": start != "0",
        "--rate": rate is not None,
        "--every": every != 1,
        "--padding": padding != 0,
        "--min-confidence": min_confidence is not None,
        "--min-height": min_height != 0,
    }
    never_mot = {"--people": people, "--split": split is not None}
    given = [name for name, is_given in (never_mot if mot else only_mot).items() if is_given]
    if given:
        cause, remedy = (
            ("is not for boxes", "leave it or --mot out") if mot else ("is for boxes", "add --mot, or leave it out")
        )
        raise ConfigError(given[0], cause, remedy)
    gallery = _open(where, store, who, no_audit)
    if mot:
        options = MotOptions(
            min_confidence=min_confidence,
            min_height=min_height,
            every=every,
            padding=padding,
            camera=camera,
            start=_time(start, "--start"),
            rate=rate,
        )
        incoming = open_mot(crops, frames, options)
    else:
        incoming = open_incoming(crops, split=_split(split), people=people)
    for note in incoming.notes:
        say(note)
    model = load(weights, keypoints=keypoints)
    with progress_bar("adding", len(incoming)) as advance:
        if ray is not None:
            from glimpse.gallery.cluster import embed_on_cluster

            added = embed_on_cluster(gallery, weights, incoming, address=ray, keypoints=keypoints, progress=advance)
        else:
            added = gallery.add(model, incoming, progress=advance)
    print_skipped(added.bad)
    out.print(f"{escape(gallery.where)}: {added}", highlight=False, soft_wrap=True)


@gallery_app.command("search")
def search(
    where: Where,
    query: Annotated[list[Path] | None, typer.Option(help="A crop of the person; repeat for several of them.")] = None,
    like: Annotated[list[str] | None, typer.Option(help="A crop of the gallery, by its id; can be repeated.")] = None,
    weights: Weights = "default",
    keypoints: Keypoints = None,
    visible: Annotated[
        str | None,
        typer.Option(metavar="X0,Y0,X1,Y1|MASK", help="Where the person is in the query: box in pixels, or mask."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many hits.")] = 20,
    skip: Annotated[int, typer.Option(min=0, help="Leave out so many nearer ones: the next page.")] = 0,
    mode: Annotated[str, typer.Option(help="exact, fast, or auto: fast where there is an index.")] = "auto",
    group: Annotated[str | None, typer.Option(help="Only the nearest crop of each pid or track.")] = None,
    combine: Annotated[str, typer.Option(help="Several queries: min, the nearest counts, or mean.")] = "min",
    expand: Annotated[int, typer.Option(min=0, help="Search again with so many hits beside the query.")] = 0,
    rerank: Annotated[
        str | None, typer.Option(metavar="K1,K2,LAMBDA", help="Re-rank the best by their neighbours, such as 20,6,0.3.")
    ] = None,
    pool: Annotated[int, typer.Option(min=2, help="How many are re-ranked.")] = 100,
    ids: Ids = None,
    pid: Pids = None,
    camera: Cameras = None,
    track: Tracks = None,
    source: Sources = None,
    tag: Tags = None,
    not_camera: NotCameras = None,
    not_source: NotSources = None,
    after: After = None,
    before: Before = None,
    option: Options = None,
    ray: Ray = None,
    report: Annotated[Path | None, typer.Option(help="Write the hits to this HTML file.")] = None,
    json_file: Json = None,
    store: Store = None,
    who: Who = None,
    no_audit: NoAudit = False,
) -> None:
    """Rank the crops of a gallery by their distance to a person, part by part."""
    _installed()
    from glimpse.gallery import Ask, Crop, write_report
    from glimpse.gallery.port import check_outside
    from glimpse.model import load

    queries: list[Any] = [*(query or []), *(Crop(id=each) for each in like or [])]
    if not queries:
        raise ConfigError("--query", "nobody is looked for", "give --query PICTURE or --like ID")
    if visible is not None and len(queries) > 1:
        raise ConfigError("--visible", "there are several queries", "give one query, or leave it out")
    inputs = [*(query or []), Path(weights), *beside(weights), *([] if visible is None else [Path(visible)])]
    check_outputs([json_file, report], inputs)
    ask = Ask(
        top=top,
        skip=skip,
        where=_filter(ids, pid, camera, track, source, tag, not_camera, not_source, after, before),
        mode=mode,  # type: ignore[arg-type]  # checked there
        group=group,  # type: ignore[arg-type]
        combine=combine,  # type: ignore[arg-type]
        expand=expand,
        rerank=None if rerank is None else as_k_reciprocal(rerank),
        pool=pool,
        pictures=report is not None,
        ray=ray,
    )
    gallery = _open(where, store, who, no_audit)
    check_outside(gallery.where, json_file, report)
    model = load(weights, keypoints=keypoints)
    answer = gallery.search(
        model,
        queries if len(queries) > 1 else queries[0],
        ask,
        visible=visible,
        options=key_values(option, "--option"),
    )
    _print_answer(answer)
    if json_file is not None:
        write_text(json_file, answer.to_json())
        say(f"json: {json_file}")
    if report is not None:
        write_report(report, [answer], model.regions, command=command_line())
        say(f"report: {report}")


@gallery_app.command("index")
def index(
    where: Where,
    weights: Weights = "default",
    recall: Annotated[
        float, typer.Option(help="Share of the ten nearest that fast search is to find: measured on this gallery.")
    ] = 0.99,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build it anew, and not only bring it up to date.")
    ] = False,
    option: Options = None,
    seed: Seed = 0,
    who: Who = None,
    no_audit: NoAudit = False,
) -> None:
    """Build the index that makes searches fast, or bring it up to date."""
    from glimpse.model import load

    gallery = _open(where, None, who, no_audit)
    model = load(weights)
    gallery.check_weights(model.made_by)
    with progress_bar("indexing", len(gallery)) as advance:
        made = gallery.index(
            model.distance(**key_values(option, "--option")),
            recall=recall,
            rebuild=rebuild,
            seed=seed,
            progress=advance,
        )
    _print_facts(made.said())
    if made.measured is not None and made.measured.recall < made.measured.target:
        err.print(f"[yellow]the recall that was asked for is not reached: {made.measured.recall:.4f}[/]")


@gallery_app.command("delete")
def delete(
    where: Where,
    ids: Ids = None,
    pid: Pids = None,
    camera: Cameras = None,
    track: Tracks = None,
    source: Sources = None,
    tag: Tags = None,
    after: After = None,
    before: Before = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Say how many there are, and delete none.")] = False,
    store: Store = None,
    who: Who = None,
    no_audit: NoAudit = False,
) -> None:
    """Delete crops. Their bytes go from the disk with `glimpse gallery compact`."""
    gallery = _open(where, store, who, no_audit)
    chosen = _filter(ids, pid, camera, track, source, tag, None, None, after, before)
    if dry and not chosen.empty:
        fit = gallery.table.count(chosen.sql())
        out.print(f"{fit:,} of {_count(len(gallery), 'crop')} would be deleted", highlight=False)
        return
    found = gallery.delete(chosen)
    out.print(f"{_count(found, 'crop')} deleted, {len(gallery):,} left", highlight=False)
    if found:
        say(f"their bytes are on the disk until `glimpse gallery compact {where}`")


@gallery_app.command("update")
def update(
    where: Where,
    values: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="pid, camera, track, time or tags (a;b); nothing for unknown."),
    ],
    ids: Ids = None,
    pid: Pids = None,
    camera: Cameras = None,
    track: Tracks = None,
    source: Sources = None,
    tag: Tags = None,
    after: After = None,
    before: Before = None,
    store: Store = None,
    who: Who = None,
    no_audit: NoAudit = False,
) -> None:
    """Change what is known of crops."""
    gallery = _open(where, store, who, no_audit)
    chosen = _filter(ids, pid, camera, track, source, tag, None, None, after, before)
    found = gallery.update(chosen, _values(values))
    out.print(f"{_count(found, 'crop')} changed", highlight=False)


@gallery_app.command("stats")
def stats(where: Where, json_file: Json = None, store: Store = None) -> None:
    """What a gallery holds, and what was measured of its index."""
    import json

    check_outputs([json_file], [])
    gallery = _open(where, store, None, False)
    from glimpse.gallery.answers import shown_time
    from glimpse.gallery.port import check_outside

    check_outside(gallery.where, json_file)
    found = gallery.stats()
    times = {name: shown_time(found[name]) for name in ("from", "to") if found[name] is not None}
    index = {f"index: {name}": value for name, value in (found["index"] or {}).items()}
    _print_facts({**found, **times, **index}, leave_out=("index",))
    if json_file is not None:
        write_text(json_file, json.dumps(found, indent=1) + "\n")
        say(f"json: {json_file}")


@gallery_app.command("verify")
def verify(where: Where, store: Store = None) -> None:
    """Read every byte of a gallery and check it; exit code 1 if anything is wrong."""
    try:
        gallery = _open(where, store, None, False)
    except GalleryError:
        wrong = _wrong_files(where)
        for problem in wrong:
            out.print(f"[bold red]problem[/] {escape(problem)}", highlight=False, soft_wrap=True)
        if wrong:
            raise typer.Exit(1) from None
        raise
    with progress_bar("reading") as advance:
        found = gallery.verify(progress=advance)
    for note in found.notes:
        out.print(f"[dim]{escape(note)}[/]", highlight=False, soft_wrap=True)
    for problem in found.problems:
        out.print(f"[bold red]problem[/] {escape(problem)}", highlight=False, soft_wrap=True)
    if found.problems:
        raise typer.Exit(1)
    said = f"{_count(found.crops, 'crop')} in {_count(found.files, 'file')}: no problems"
    out.print(said, highlight=False)


@gallery_app.command("compact")
def compact(where: Where, store: Store = None, who: Who = None, no_audit: NoAudit = False) -> None:
    """Write the files anew, without what was deleted: after it, no byte of that is on the disk."""
    gallery = _open(where, store, who, no_audit)
    gallery.compact()
    files = _count(gallery.stats()["fragments"], "file")
    out.print(f"{_count(len(gallery), 'crop')} in {files} of data", highlight=False)


@gallery_app.command("export")
def export(
    where: Where,
    file: Annotated[Path, typer.Argument(help="The Parquet file to write.")],
    ids: Ids = None,
    pid: Pids = None,
    camera: Cameras = None,
    track: Tracks = None,
    source: Sources = None,
    tag: Tags = None,
    after: After = None,
    before: Before = None,
    store: Store = None,
    who: Who = None,
    no_audit: NoAudit = False,
) -> None:
    """Write crops with their embeddings to one Parquet file."""
    _installed()
    from glimpse.gallery.port import export

    gallery = _open(where, store, who, no_audit)
    chosen = _filter(ids, pid, camera, track, source, tag, None, None, after, before)
    with progress_bar("exporting", gallery.table.count(chosen.sql())) as advance:
        found = export(gallery, file, chosen, progress=advance)
    out.print(f"{_count(found, 'crop')}: {escape(str(file))}", highlight=False, soft_wrap=True)


@gallery_app.command("import")
def import_(
    where: Where,
    file: Annotated[Path, typer.Argument(help="A Parquet file that `glimpse gallery export` wrote.")],
    store: Store = None,
    who: Who = None,
    no_audit: NoAudit = False,
) -> None:
    """Add exported crops to a gallery, which is made if it is not there."""
    _installed()
    from glimpse.gallery.port import import_into

    with progress_bar("importing") as advance:
        gallery, added = import_into(where, file, options=_store(store), who=who, audit=not no_audit, progress=advance)
    out.print(f"{escape(gallery.where)}: {added}", highlight=False, soft_wrap=True)


@gallery_app.command("re-embed")
def re_embed(
    where: Where,
    new: Annotated[str, typer.Option("--out", help="The new gallery: a folder or an address.")],
    weights: Weights = "default",
    keypoints: Keypoints = None,
    store: Store = None,
    who: Who = None,
    no_audit: NoAudit = False,
) -> None:
    """Embed the crops of a gallery with other weights, from their sources, into a new gallery."""
    from glimpse.model import load

    gallery = _open(where, store, who, no_audit)
    with progress_bar("embedding", len(gallery)) as advance:
        made, added = gallery.re_embed(new, load(weights, keypoints=keypoints), progress=advance)
    print_skipped(added.bad)
    out.print(f"{escape(made.where)}: {added}", highlight=False, soft_wrap=True)


@gallery_app.command("log")
def log(
    where: Where,
    last: Annotated[int, typer.Option(min=1, help="How many of the last lines.")] = 20,
    store: Store = None,
) -> None:
    """Show who did what, and when."""
    entries = deque(_open(where, store, None, False).entries(), maxlen=last)
    table = Table("when", "who", "what", "details")
    for entry in entries:
        details = ", ".join(f"{key} {value}" for key, value in entry.details.items())
        table.add_row(*(escape(text) for text in (entry.when, entry.who, entry.what, details[:200])))
    out.print(table)


def _count(number: int, one: str) -> str:
    from glimpse.data.words import count

    return count(number, one)


def _installed() -> None:
    """Say which extra is missing before anything is imported that needs it."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        cause = f"galleries need what is not installed ({error.name})"
        raise GalleryError("gallery", cause, "install the extra: pip install 'glimpse-reid[gallery]'") from error


def _open(where: str, store: list[str] | None, who: str | None, no_audit: bool) -> Gallery:
    _installed()
    from glimpse.gallery import Gallery

    return Gallery.open(where, options=_store(store), who=who, audit=not no_audit)


def _wrong_files(where: str) -> list[str]:
    """What is wrong with the files of a gallery that cannot be opened; nothing where there is none."""
    _installed()
    from glimpse.gallery.checksums import Checksums
    from glimpse.gallery.table import INDEX, NAME, is_local, local_path

    if not is_local(where):
        return []
    return Checksums(Path(local_path(where), "checksums.txt"), (NAME, INDEX)).check()[0]


def _store(store: list[str] | None) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for text in store or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError("--store", f"'{text}' is not KEY=VALUE", "write such as region=eu-west-1")
        found[key] = value
    return found or None


def _filter(
    ids: list[str] | None,
    pid: list[str] | None,
    camera: list[str] | None,
    track: list[str] | None,
    source: list[str] | None,
    tag: list[str] | None,
    not_camera: list[str] | None,
    not_source: list[str] | None,
    after: str | None,
    before: str | None,
) -> Filter:
    from glimpse.gallery import Filter

    return Filter(
        ids=tuple(ids or ()),
        pids=tuple(pid or ()),
        cameras=tuple(camera or ()),
        tracks=tuple(track or ()),
        sources=tuple(source or ()),
        tags=tuple(tag or ()),
        not_cameras=tuple(not_camera or ()),
        not_sources=tuple(not_source or ()),
        after=None if after is None else _time(after, "--after"),
        before=None if before is None else _time(before, "--before"),
    )


def _time(text: str, where: str) -> float:
    """Seconds; a date is in the time of this machine unless it says otherwise."""
    try:
        seconds = float(text)
        if math.isfinite(seconds):
            return seconds
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        remedy = "give seconds, or a date and time such as 2026-11-21T18:00"
        raise ConfigError(where, f"'{text}' is no time", remedy) from error


def _values(texts: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError("--set", f"'{text}' is not KEY=VALUE", "write such as pid=anna")
        if key in found:
            raise ConfigError("--set", f"'{key}' is given twice", "give it once")
        if key == "tags":
            found[key] = tuple(tag for tag in value.split(";") if tag)
        elif not value:
            found[key] = None
        else:
            found[key] = _time(value, "--set time") if key == "time" else value
    return found


def _split(split: str | None) -> Any:
    from glimpse.data import SPLITS

    return None if split is None else choices([split], "--split", SPLITS)[0]


def _print_answer(answer: Answer) -> None:
    from glimpse.gallery.answers import shown_time

    table = Table("rank", "distance", "crop and id", "pid", "camera", "time", "compared on", "not compared")
    for hit in answer:
        compared = sorted((part for part in hit.parts if part.compared), key=lambda part: -part.share)
        shares = ", ".join(f"{part.name} {part.share:.0%}" for part in compared)
        crop = hit.crop
        more = f" (+{hit.crops_in_group - 1})" if hit.crops_in_group > 1 else ""
        time = "" if crop.time is None else shown_time(crop.time)
        name = escape(crop.name) if crop.name == crop.id else f"{escape(crop.name)}\n[dim]{crop.id}[/]"
        cells = ((crop.pid or "") + more, crop.camera or "", time, shares, ", ".join(hit.not_compared))
        table.add_row(str(hit.rank), f"{hit.distance:.4f}", name, *map(escape, cells))
    if answer.hits:
        out.print(table)
    for note in answer.notes:
        out.print(f"[dim]{escape(note)}[/]", highlight=False)
    said = f"{_count(answer.searched, 'crop')} compared ({answer.mode}) in {1e3 * answer.seconds:.0f} ms"
    out.print(f"[dim]{said}[/]", highlight=False)


def _print_facts(facts: dict[str, Any], leave_out: tuple[str, ...] = ()) -> None:
    table = Table(show_header=False)
    for name, value in facts.items():
        if name not in leave_out and value is not None:
            shown = f"{value:,}" if isinstance(value, int) else str(value)
            table.add_row(escape(name), escape(shown))
    out.print(table)
