"""The command line: one function per command, no logic. Anything heavy is imported inside the command that needs it."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from glimpse import __version__
from glimpse.console import (
    Json,
    Keypoints,
    Options,
    Seed,
    SkipBad,
    Weights,
    as_k_reciprocal,
    as_number,
    as_size,
    beside,
    check_outputs,
    choices,
    command_line,
    data_paths,
    err,
    key_values,
    out,
    print_error,
    print_skipped,
    progress_bar,
    say,
    weighted,
    writable_folder,
)
from glimpse.console_gallery import gallery_app
from glimpse.errors import ConfigError, GlimpseError
from glimpse.files import write_text

if TYPE_CHECKING:
    from glimpse.cues.cache import CueCache
    from glimpse.search import SearchResult

app = typer.Typer(
    name="glimpse",
    help="Find a person again when only part of them can be seen.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at datasets, and render one.", no_args_is_help=True)
app.add_typer(data_app, name="data")
cues_app = typer.Typer(help="Key points and body parts that methods learn from.", no_args_is_help=True)
app.add_typer(cues_app, name="cues")
app.add_typer(gallery_app, name="gallery")

Data = Annotated[str, typer.Option(help="A dataset as KIND:PATH, such as market1501:Market-1501.zip.")]
CueData = Annotated[
    str, typer.Argument(metavar="DATA", help="A dataset as KIND:PATH, or crops:PATH for a folder or zip of crops.")
]
CueFolder = Annotated[Path, typer.Option("--cues", help="The folder that `glimpse cues make` filled.")]
Splits = Annotated[
    list[str] | None, typer.Option(help="Only train, query or gallery; can be repeated. All if not given.")
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
    keypoints: Keypoints = None,
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

    options = key_values(option, "--option")
    inputs = [query, gallery, *beside(gallery), Path(weights), *beside(weights)]
    check_outputs([json_file, report], [*inputs, *([Path(visible)] if visible is not None else [])])
    model = load(weights, keypoints=keypoints)
    with progress_bar("embedding the gallery") as advance:
        result = search(
            model, query, gallery, top=top, visible=visible, skip_bad=skip_bad, options=options, progress=advance
        )
    _print_hits(result)
    if json_file is not None:
        write_text(json_file, result.to_json())
        say(f"json: {json_file}")
    if report is not None:
        write_report(report, [result], model.regions, command=command_line())
        say(f"report: {report}")


@app.command()
def embed(
    folder: Annotated[Path, typer.Argument(help="A folder or zip of crops.")],
    out_file: Annotated[Path, typer.Option("--out", help="The .safetensors file; the list of crops lies beside it.")],
    weights: Weights = "default",
    keypoints: Keypoints = None,
    skip_bad: SkipBad = False,
) -> None:
    """Embed the crops of a folder once, for many searches."""
    from glimpse.data.words import count
    from glimpse.model import load
    from glimpse.search import embed_gallery
    from glimpse.search.gallery import check_overwrite, listing_path

    if out_file.suffix != ".safetensors":
        raise ConfigError("--out", f"'{out_file}' does not end in .safetensors", "call it crops.safetensors")
    check_outputs([out_file, listing_path(out_file)], [folder, Path(weights), *beside(weights)])
    check_overwrite(out_file)
    model = load(weights, keypoints=keypoints)
    with progress_bar("embedding") as advance:
        stored = embed_gallery(model, folder, skip_bad=skip_bad, progress=advance)
    listing = stored.save(out_file)
    print_skipped(stored.skipped)
    out.print(
        f"{count(len(stored.samples), 'crop')}, {stored.embedding.bytes_per_row} bytes each: "
        f"{escape(str(out_file))}, {escape(str(listing))}",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def evaluate(
    data: Data,
    weights: Weights = "default",
    keypoints: Keypoints = None,
    occlude: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="Also cover the queries, such as by an object or a person; can be repeated."),
    ] = None,
    sides: Annotated[
        str | None, typer.Option(help="Where the occluder stands, separated by commas; all four edges if not given.")
    ] = None,
    fractions: Annotated[
        str | None,
        typer.Option(
            help="Shares of the query to cover, separated by commas; 0.2,0.4,0.6 if not given, with --robustness 0.1 "
            "to 0.7."
        ),
    ] = None,
    prompted: Annotated[
        bool, typer.Option("--prompted", help="Cover them once more with a prompt that says what is visible.")
    ] = False,
    queries: Annotated[
        int | None, typer.Option(min=1, help="How many queries to cover (drawn by seed); all if not given.")
    ] = None,
    sources: Annotated[
        str | None,
        typer.Option(help="A dataset whose training crops occluders are cut from; the data's own if not given."),
    ] = None,
    quality: Annotated[
        bool, typer.Option("--quality", help="Check whether part weights know what is hidden (with --occlude).")
    ] = False,
    robustness: Annotated[
        Path | None,
        typer.Option(
            help="Cover the queries more and more (by an object, unless --occlude says otherwise) and write curves of "
            "rank-1 and mAP to this folder: CSV, JSON, SVG, PNG."
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A CSV file (path,x0,y0,x1,y1) that says where in a crop the person is.")
    ] = None,
    option: Options = None,
    rerank: Annotated[
        str | None,
        typer.Option(
            metavar="K1,K2,LAMBDA",
            help="Re-rank by k-reciprocal neighbours before scoring; 20,6,0.3 is what papers use.",
        ),
    ] = None,
    seed: Seed = 0,
    skip_bad: SkipBad = False,
    json_file: Json = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML page and the JSON result to this folder.")] = None,
    lists: Annotated[int, typer.Option(min=0, help="How many ranked lists the page shows.")] = 24,
) -> None:
    """Rank the gallery of a dataset for its queries and score the ranking: CMC, mAP, mINP."""
    from glimpse.data import open_dataset
    from glimpse.evaluation import OcclusionPlan, evaluate_dataset, read_prompts, table
    from glimpse.evaluation.occluded import FRACTIONS
    from glimpse.evaluation.report import write_report
    from glimpse.evaluation.robustness import FILES, Robustness, compare
    from glimpse.evaluation.robustness import FRACTIONS as CURVE
    from glimpse.model import load
    from glimpse.synthetic.occlusion import EDGES, KINDS, SIDES

    options = key_values(option, "--option")
    settings = None if rerank is None else as_k_reciprocal(rerank)
    if robustness is not None and prompts is not None:
        cause = "covered queries have no prompts of their own, and curves would begin with queries that do"
        raise ConfigError("--robustness", cause, "leave --prompts out")
    plan = None
    if occlude or robustness is not None:
        plan = OcclusionPlan(
            kinds=choices(occlude or ["object"], "--occlude", KINDS),
            sides=EDGES if sides is None else choices(sides.split(","), "--sides", SIDES),
            fractions=(FRACTIONS if robustness is None else CURVE)
            if fractions is None
            else tuple(as_number(text, "--fractions") for text in fractions.split(",")),
            prompted=(False, True) if prompted else (False,),
            queries=queries,
            quality=quality,
        )
    else:
        needing = {
            "--sides": sides, "--fractions": fractions, "--prompted": prompted or None, "--queries": queries,
            "--sources": sources, "--quality": quality or None,
        }  # fmt: skip
        given = [name for name, value in needing.items() if value is not None]
        if given:
            cause = f"is not given, and {' and '.join(given)} {'needs' if len(given) == 1 else 'need'} it"
            raise ConfigError("--occlude", cause, f"name a kind: {', '.join(KINDS)}")
    inputs = [*data_paths(data, sources), Path(weights), *beside(weights), *([prompts] if prompts else [])]
    pages = [report / "index.html", report / "result.json"] if report is not None else []
    curves = [robustness / name for name in FILES] if robustness is not None else []
    for folder in (report, robustness):
        writable_folder(folder)
    check_outputs([json_file, *pages, *curves], inputs)
    dataset = open_dataset(data, skip_bad=skip_bad)
    with progress_bar("embedding") as advance:
        found = evaluate_dataset(
            load(weights, keypoints=keypoints),
            dataset,
            prompts=read_prompts(prompts) if prompts is not None else None,
            occlusion=plan,
            sources=() if sources is None else open_dataset(sources, skip_bad=skip_bad).split("train"),
            options=options,
            rerank=settings,
            seed=seed,
            skip_bad=skip_bad,
            command=command_line(),
            progress=advance,
        )
    out.print(table(found))
    if found.quality is not None:
        out.print(
            f"part weights tell clear parts from covered ones with an AUC of {found.quality.auc:.3f} (0.5 is chance); "
            f"mean weight {found.quality.clear:.2f} clear, {found.quality.covered:.2f} covered",
            highlight=False,
            soft_wrap=True,
        )
    for note in found.notes:
        out.print(f"[dim]{escape(note)}[/]", highlight=False)
    print_skipped(found.bad)
    if json_file is not None:
        write_text(json_file, found.to_json())
        say(f"json: {json_file}")
    if report is not None:
        say(f"report: {write_report(report, [found], queries=lists)}")
    if robustness is not None:
        out.print(compare([Robustness.of(found).write(robustness)]).table())
        say(f"robustness: {', '.join(map(str, curves))}")


@app.command()
def robustness(
    files: Annotated[
        list[Path], typer.Argument(metavar="CURVES...", help="curves.json files that `glimpse evaluate` wrote.")
    ],
    out_file: Annotated[Path | None, typer.Option("--out", help="The plot, .svg or .png.")] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="What to call the first, the second, ...; their weights if not given.")
    ] = None,
) -> None:
    """Compare robustness curves of several models on the same queries: one table, one plot."""
    from glimpse.evaluation.robustness import check_picture, compare

    if out_file is not None:
        check_picture(out_file)
    check_outputs([out_file], files)
    comparison = compare(files, name or ())
    out.print(comparison.table())
    if out_file is not None:
        comparison.draw(out_file)
        say(f"plot: {out_file}")


@app.command()
def visibility(
    data: Data,
    truth: Annotated[
        Path, typer.Option(help="The cues of rendered people, or the truth folder that `glimpse data occlude` wrote.")
    ],
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="A .safetensors file with its card, or the name of packaged weights; can be repeated, to compare "
            "several. Default if not given."
        ),
    ] = None,
    keypoints: Keypoints = None,
    split: Annotated[str, typer.Option(help="Which crops: train, query or gallery.")] = "query",
    skip_bad: SkipBad = False,
    json_file: Json = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write a plot of visible share against weight to this file, .svg or .png.")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="What to call the first, the second, ...; their weights if not given.")
    ] = None,
) -> None:
    """Check whether part weights say what can be seen of somebody, against the exact truth."""
    from glimpse.data import SPLITS, open_dataset
    from glimpse.evaluation.robustness import check_picture
    from glimpse.evaluation.visibility import call_models, draw_calibration, open_truth, table, visibility
    from glimpse.model import load

    files = weights or ["default"]
    if plot is not None:
        check_picture(plot)
    if json_file is not None and len(files) > 1:
        raise ConfigError("--json", "holds what was found of one model", "ask for one model at a time, or leave it out")
    inputs = [path for file in files for path in (Path(file), *beside(file))]
    check_outputs([json_file, plot], [*data_paths(data), truth, *inputs])
    (chosen,) = choices([split], "--split", SPLITS)
    known = open_truth(truth)
    samples = open_dataset(data, skip_bad=skip_bad).split(chosen)
    models = [load(file, keypoints=keypoints) for file in files]
    names = call_models([model.made_by for model in models], name or ())
    records = []
    for model, called in zip(models, names, strict=True):
        with progress_bar("embedding") as advance:
            found = visibility(model, samples, known, skip_bad=skip_bad, progress=advance).record()
        out.print(table(found, called))
        for step in found.calibration:
            out.print(f"weight {step.weight:.2f}: {step.share:.2f} visible ({step.parts:,} parts)", highlight=False)
        records.append(found)
    if json_file is not None:
        write_text(json_file, records[0].model_dump_json(indent=2) + "\n")
        say(f"json: {json_file}")
    if plot is not None:
        draw_calibration(records, plot, names)
        say(f"plot: {plot}")


@app.command()
def train(
    method: Annotated[str, typer.Argument(help="The method, such as qpm.")],
    data: Data,
    out_folder: Annotated[Path, typer.Option("--out", help="The folder for weights, logs and checkpoints.")],
    recipe: Annotated[
        str | None, typer.Option(help="A YAML file or the name of an installed recipe; METHOD-imagenet if not given.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a setting, such as stages.0.epochs=5; can be repeated."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything; the recipe's if not given.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in --out.")] = True,
    cache: Annotated[Path | None, typer.Option(help="A folder for cached maps, to share between trainings.")] = None,
    cues: Annotated[Path | None, typer.Option(help="The folder that `glimpse cues make` filled.")] = None,
    keypoints: Annotated[str | None, typer.Option(help="Which key points of --cues, if it has several.")] = None,
    masks: Annotated[str | None, typer.Option(help="Which part maps of --cues, if it has several.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="How many devices to train on.")] = 1,
    terms: Annotated[str, typer.Option(help="Licence of the weights and terms of the data, for the card.")] = "",
    skip_bad: SkipBad = False,
) -> None:
    """Train a method by a recipe; stopped and started again, it goes on where it was."""
    from glimpse.training import load_recipe
    from glimpse.training.cues import CueSource
    from glimpse.training.train import train

    recipe = recipe or f"{method}-imagenet"
    settings = load_recipe(recipe, [*(changes or []), *([f"seed={seed}"] if seed is not None else [])])
    if settings.method != method:
        cause = f"the recipe '{recipe}' trains '{settings.method}', and not '{method}'"
        raise ConfigError("METHOD", cause, "name the recipe's method, or another recipe")
    writable_folder(out_folder)
    done = train(
        settings,
        data,
        out_folder,
        resume=resume,
        cache=cache,
        cues=CueSource(cues, keypoints, masks) if cues is not None else None,
        devices=devices,
        skip_bad=skip_bad,
        terms=terms,
        command=command_line(),
    )
    for note in done.notes:
        say(note)
    measured = ", ".join(f"{name} {value:.3f}" for name, value in done.metrics.items())
    say(f"trained for {done.minutes:.1f} minutes" + (f": {measured}" if measured else ""))
    out.print(escape(str(done.best)), highlight=False, soft_wrap=True)


@app.command()
def models() -> None:
    """List the weights that are installed with glimpse."""
    from glimpse.model import packaged, read_card

    table = Table("name", "method", "backbone", "input", "trained on", "measured")
    for name, path in packaged().items():
        card = read_card(path.with_suffix(".json"))
        measured = ", ".join(f"{key} {value:g}" for key, value in card.metrics.items())
        size = f"{card.size[0]} x {card.size[1]}"
        table.add_row(
            *(escape(cell) for cell in (name, card.method, card.backbone, size, card.training_data, measured))
        )
    if table.row_count:
        out.print(table)
    else:
        out.print("no weights are installed with glimpse; give --weights FILE")


@app.command()
def demo(
    out_folder: Annotated[Path, typer.Option("--out", help="A folder that does not exist yet, or is empty.")],
    seed: Seed = 0,
) -> None:
    """Render people, train on them, evaluate and search with something in front: one page, in a few minutes."""
    from glimpse.demo import run

    out.print(f"{escape(str(run(out_folder, seed=seed, say=say)))}", highlight=False, soft_wrap=True)


@data_app.command("check")
def data_check(
    spec: Annotated[str, typer.Argument(help="A dataset as KIND:PATH.")],
    read: Annotated[bool, typer.Option("--read", help="Decode every picture.")] = False,
    skip_bad: SkipBad = False,
) -> None:
    """Count a dataset and say what is odd about it; exit code 1 if there are problems."""
    from glimpse.data import open_dataset
    from glimpse.data.check import check_dataset

    dataset = open_dataset(spec, skip_bad=skip_bad)
    with progress_bar("reading") as advance:
        found = check_dataset(dataset, read=read, progress=advance)
    table = Table(
        "split", "crops", "people", "cameras", "junk and distractors", "people with one crop", title=dataset.name
    )
    for c in found.counts:
        cells = (c.crops, c.people, c.cameras, c.junk_and_distractors, c.single)
        table.add_row(c.split, *(f"{n:,}" for n in cells))
    out.print(table)
    for line in (f"protocol: {dataset.protocol.name}", *found.protocol, *found.remarks):
        out.print(escape(line), highlight=False)
    for problem in found.problems:
        out.print(f"[bold red]problem[/] {escape(problem)}", highlight=False, soft_wrap=True)
    if found.problems:
        raise typer.Exit(1)
    out.print("no problems")


@data_app.command("render")
def data_render(
    path: Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty folder, or a new file NAME.zip.")],
    people: Annotated[int, typer.Option(help="People.")] = 40,
    train: Annotated[int | None, typer.Option(help="How many of them are for training; half if not given.")] = None,
    cameras: Annotated[int, typer.Option(help="Cameras.")] = 3,
    crops: Annotated[int, typer.Option(help="Crops of each person by each camera.")] = 4,
    size: Annotated[str, typer.Option(metavar="HxW", help="Rows and columns of the crops.")] = "128x64",
    twins: Annotated[float, typer.Option(help="Share of people who differ from another in one item only.")] = 0.15,
    query: Annotated[float, typer.Option(help="Share of the queries with something in front.")] = 1.0,
    gallery: Annotated[float, typer.Option(help="Share of the gallery with something in front.")] = 0.1,
    training: Annotated[float, typer.Option(help="Share of the training crops with something in front.")] = 0.1,
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND[=WEIGHT]", help="What can be in front, such as car or person=2; repeat."),
    ] = None,
    cues: Annotated[bool, typer.Option(help="Write key points and part maps as well.")] = True,
    png: Annotated[bool, typer.Option("--png", help="Write PNG instead of JPEG.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    seed: Seed = 0,
) -> None:
    """Render a dataset of people who do not exist, laid out like Market-1501, with cues and the truth of every crop."""
    from glimpse.synthetic.dataset import Rates, render_dataset
    from glimpse.synthetic.people import KINDS, Population

    population = Population(
        people=people, train=people // 2 if train is None else train, cameras=cameras, twins=twins, seed=seed
    )
    kinds = weighted(kind, "--kind", KINDS)
    with progress_bar("rendering") as advance:
        made = render_dataset(
            path,
            population,
            crops=crops,
            size=as_size(size, "--size"),
            rates=Rates(train=training, query=query, gallery=gallery),
            kinds=kinds or None,
            image_format="png" if png else "jpg",
            cues=cues,
            jobs=jobs,
            progress=advance,
        )
    hidden = sum(made.occluded.values())
    out.print(
        f"{made.train:,} training crops, {made.query:,} queries, {made.gallery:,} gallery crops, {hidden:,} with "
        f"something in front, {made.crops / made.seconds:.0f} crops/s: market1501:{escape(str(made.path))}"
        + (f" --cues {escape(str(made.cues))}" if made.cues is not None else ""),
        highlight=False,
        soft_wrap=True,
    )


@data_app.command("occlude")
def data_occlude(
    spec: Annotated[str, typer.Argument(metavar="DATA", help="A dataset as KIND:PATH.")],
    folder: Annotated[Path, typer.Option("--out", help="A folder that does not exist yet, or is empty.")],
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kind", metavar="KIND", help="object, person, thing, border or grey; repeat for several."),
    ] = None,
    sides: Annotated[
        str | None, typer.Option(help="Where it stands, separated by commas; the four edges if not given.")
    ] = None,
    fraction: Annotated[
        str, typer.Option(metavar="SHARE|LEAST-GREATEST", help="How much of the height or width it reaches over.")
    ] = "0.4",
    split: Annotated[
        list[str] | None,
        typer.Option(help="Whose crops are covered: train, query, gallery; repeat. query if not given."),
    ] = None,
    sources: Annotated[
        str | None,
        typer.Option(
            help="A dataset whose training crops objects and people are cut from; the training identities that recipes "
            "hold out if not given."
        ),
    ] = None,
    cues: Annotated[
        Path | None, typer.Option(help="The folder with part maps of the sources, by which people are cut out.")
    ] = None,
    masks: Annotated[str | None, typer.Option(help="Which part maps of --cues, if it has several.")] = None,
    truth: Annotated[Path | None, typer.Option(help="The folder of the truth; OUT-truth if not given.")] = None,
    seed: Seed = 0,
) -> None:
    """Write a dataset again with something in front of its crops, and the truth about what is hidden beside it."""
    from glimpse.annotate.occlude import Occlude, write_occluded
    from glimpse.cues.cache import CueCache
    from glimpse.data import SPLITS, open_dataset
    from glimpse.synthetic.occlusion import EDGES, KINDS, SIDES

    if masks is not None and cues is None:
        raise ConfigError("--masks", "is of --cues, which is not given", "give the folder of the part maps")
    least, dash, greatest = fraction.partition("-")
    low = as_number(least, "--fraction")
    how = Occlude(
        kinds=choices(kinds or ["object"], "--kind", KINDS),
        sides=EDGES if sides is None else choices(sides.split(","), "--sides", SIDES),
        fraction=(low, as_number(greatest, "--fraction") if dash else low),
        seed=seed,
    )
    with progress_bar("covering") as advance:
        made = write_occluded(
            spec,
            folder,
            how,
            splits=choices(split or ["query"], "--split", SPLITS),
            sources=None if sources is None else open_dataset(sources).split("train"),
            masks=None if cues is None else CueCache(cues).parts(masks),
            truth=truth,
            progress=advance,
        )
    out.print(
        f"{made.covered:,} crops covered ({100 * made.visible:.0f} % visible on average), {made.copied:,} copied: "
        f"{escape(made.spec)}, truth in {escape(str(made.truth))}",
        highlight=False,
        soft_wrap=True,
    )


@data_app.command("show")
def data_show(
    spec: CueData,
    picture: Annotated[Path, typer.Option("--out", help="The picture, .png or .jpg.")],
    split: Splits = None,
    people: Annotated[int, typer.Option(min=1, help="How many people.")] = 8,
    crops: Annotated[int, typer.Option(min=1, help="Crops of each at most.")] = 10,
    seed: Seed = 0,
) -> None:
    """Draw a contact sheet: some people of a dataset, a row for each."""
    from glimpse.annotate.contact import write_contact_sheet
    from glimpse.annotate.crops import open_splits

    pids = write_contact_sheet(open_splits(spec, split), picture, people=people, crops=crops, seed=seed)
    say(f"people {', '.join(map(str, pids))}, from the top")
    out.print(escape(str(picture)), highlight=False, soft_wrap=True)


@cues_app.command("make")
def cues_make(
    spec: CueData,
    folder: Annotated[Path, typer.Option("--out", help="The folder of the cues; what it has is not made again.")],
    keypoints: Annotated[
        str | None,
        typer.Option(metavar="ESTIMATOR|file:PATH", help="movenet:PATH, onnx:PATH, rtmpose, or a file of key points."),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(
            metavar="ESTIMATOR|file:PATH|limbs",
            help="deeplab:PATH, segformer[:FOLDER], schp:PATH, a file or folder of part maps, or limbs: "
            "from key points and person masks in --out.",
        ),
    ] = None,
    split: Splits = None,
    source: Annotated[
        list[str] | None,
        typer.Option(help="Of limbs: key points or masks in --out to make them of, where it has several; repeat."),
    ] = None,
    scheme: Annotated[
        str | None, typer.Option(help="Of a file of part maps: what its numbers mean (lip-20, atr-18, limbs, person).")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="What cues from a file are called; files of one name count as one, such as one per split."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Of a file of key points by image number: the JSON that names the images.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    skip_bad: SkipBad = False,
) -> None:
    """Make cues of all crops with estimators, or take them over from files; stopped, it goes on where it was."""
    from glimpse.annotate.crops import open_splits
    from glimpse.annotate.make import add_file, make_cues, make_limbs
    from glimpse.cues.cache import CueCache
    from glimpse.cues.estimators import PartEstimator, PointEstimator, open_estimator
    from glimpse.cues.part_files import read_parts
    from glimpse.cues.parts import SCHEMES
    from glimpse.cues.point_files import read_points

    if keypoints is None and masks is None:
        raise ConfigError("cues make", "nothing is to be made", "give --keypoints or --masks, or both")
    if masks is not None and masks.startswith("file:") and scheme is None:
        # The numbers of one scheme all mean something in another.
        cause = "are numbers, and nothing says of what"
        raise ConfigError(f"--masks {masks}", cause, f"give --scheme: {', '.join(SCHEMES)}")
    choices([scheme] if scheme else [], "--scheme", tuple(SCHEMES))
    if source and masks != "limbs":
        raise ConfigError("--source", "is of --masks limbs only", "leave it out")
    samples = [sample for crops in open_splits(spec, split, skip_bad=skip_bad).values() for sample in crops]
    cache = CueCache(folder)
    wanted = (("--keypoints", keypoints, PointEstimator), ("--masks", masks, PartEstimator))
    # All that can be wrong with the second is known before the first is begun.
    opened = [
        (option, given, None if given == "limbs" or given.startswith("file:") else open_estimator(given), kind)
        for option, given, kind in wanted
        if given is not None
    ]
    for option, given, estimator, kind in opened:
        if (given == "limbs" and option == "--keypoints") or not (estimator is None or isinstance(estimator, kind)):
            said = {"--keypoints": "key points", "--masks": "part maps"}[option]
            raise ConfigError(f"{option} {given}", f"does not make {said}", "see `glimpse cues make --help`")
    for option, given, estimator, _ in opened:
        with progress_bar(option.removeprefix("--")) as advance:
            if given == "limbs":
                points, parts = _limb_sources(source or [], cache)
                made = make_limbs(samples, cache, points=points, masks=parts, skip_bad=skip_bad, progress=advance)
            elif estimator is not None:
                made = make_cues(samples, cache, estimator, jobs=jobs, skip_bad=skip_bad, progress=advance)
            else:
                path = given.removeprefix("file:")
                file: Any = (
                    read_points(path, images=images)
                    if option == "--keypoints"
                    else read_parts(path, scheme=SCHEMES[str(scheme)])
                )
                made = add_file(samples, cache, file, name=name, skip_bad=skip_bad, progress=advance)
        for problem in made.bad[:20]:
            err.print(f"[bold yellow]left out[/] {escape(str(problem))}", highlight=False, soft_wrap=True)
        if len(made.bad) > 20:
            say(f"and {len(made.bad) - 20:,} more left out")
        if made.missing:
            say(f"{len(made.missing):,} crops have none (first: {made.missing[0]})")
        say(f"{made.source}: {made.made:,} made, {made.known:,} known before, {made.seconds:.1f} s")
    out.print(escape(str(folder)), highlight=False, soft_wrap=True)


def _limb_sources(named: list[str], cache: CueCache) -> tuple[str | None, str | None]:
    """The named source of key points, and that of part maps."""
    points, parts = cache.sources("points"), cache.sources("parts")
    for name in named:
        if name not in (*points, *parts):
            known = ", ".join((*points, *parts)) or "none"
            raise ConfigError(f"--source {name}", f"is not in {cache.folder}", f"choose from {known}")
    return next((n for n in named if n in points), None), next((n for n in named if n in parts), None)


@cues_app.command("check")
def cues_check(
    spec: CueData,
    folder: CueFolder,
    split: Splits = None,
) -> None:
    """Say how many crops have cues, and how many of them show nobody; exit code 1 where crops have none."""
    from glimpse.annotate.check import check_cues
    from glimpse.annotate.crops import open_splits
    from glimpse.cues.cache import CueCache

    cache = CueCache(folder)
    splits = open_splits(spec, split)
    with progress_bar("reading") as advance:
        found = check_cues(splits, cache, progress=advance)
    if not found.counts:
        raise ConfigError(folder, "has no cues", "make some: glimpse cues make")
    table = Table("cues", "made by", "split", "crops", "have some", "nobody", "several people", "mean", "mean score")
    for c in found.counts:
        mean = f"{c.mean:.1f} points" if c.kind == "points" else f"{c.mean:.0f} % body"
        if c.groups:
            mean += ": " + ", ".join(f"{share:.0f} % {group}" for group, share in c.groups.items())
        numbers = (f"{n:,}" for n in (c.crops, c.covered, c.nobody))
        several = f"{c.several:,}" if c.kind == "points" else ""
        score = "" if c.score is None else f"{c.score:.2f}"
        table.add_row(c.kind, escape(c.source), c.split, *numbers, several, mean, score)
    out.print(table)
    print_skipped(found.bad)
    for c in found.counts:
        if c.missing:
            cause = f"{c.crops - c.covered:,} crops of {c.split} have no {c.kind} by {c.source} (first: {c.missing[0]})"
            out.print(f"[bold red]problem[/] {escape(cause)}", highlight=False, soft_wrap=True)
    if any(c.missing for c in found.counts):
        raise typer.Exit(1)


@cues_app.command("show")
def cues_show(
    spec: CueData,
    folder: CueFolder,
    picture: Annotated[Path, typer.Option("--out", help="The picture, .png or .jpg.")],
    split: Splits = None,
    keypoints: Annotated[str | None, typer.Option(help="Which key points, where several are there.")] = None,
    masks: Annotated[str | None, typer.Option(help="Which part maps, where several are there.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many crops.")] = 24,
    seed: Seed = 0,
) -> None:
    """Draw the cues of some crops over them."""
    from glimpse.annotate.crops import open_splits
    from glimpse.annotate.show import write_sheet
    from glimpse.cues.cache import CueCache

    samples = [sample for crops in open_splits(spec, split).values() for sample in crops]
    names = write_sheet(samples, CueCache(folder), picture, points=keypoints, parts=masks, count=count, seed=seed)
    say("from left to right, row by row: " + ", ".join(names))
    out.print(escape(str(picture)), highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line.

    A `GlimpseError` becomes one message on stderr and exit code 2; with `--debug` it keeps its traceback.
    """
    debug = "--debug" in sys.argv[1:]
    if not debug:
        # What libraries say to those who write against them is noise to those who run a command.
        warnings.filterwarnings("ignore", module=r"(torch|torchvision|timm|lightning)(\.|$)")
        for part in ("pytorch", "fabric"):
            logging.getLogger(f"lightning.{part}.utilities.rank_zero").setLevel(logging.WARNING)
    # `--debug` may stand anywhere, although it belongs to no command.
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        app(arguments, prog_name="glimpse")
    except GlimpseError as error:
        if debug:
            raise
        print_error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _print_hits(result: SearchResult) -> None:
    from glimpse.data.words import count

    for note in result.notes:
        err.print(f"[yellow]note[/] {escape(note)}", highlight=False, soft_wrap=True)
    print_skipped(result.skipped)
    table = Table(
        "rank",
        "crop",
        "distance",
        title=escape(
            f"{result.query} in {result.gallery} ({count(result.gallery_size, 'crop')}), with {result.made_by}"
        ),
        title_justify="left",
        caption="per part: its own distance, and its share of the pair's distance",
        caption_justify="left",
    )
    for part in result.hits[0].parts if result.hits else ():
        table.add_column(escape(part.name), justify="right")
    table.add_column("not compared")
    for hit in result:
        cells = [
            f"{part.distance:.3f}\n[dim]{100 * part.share:.0f} %[/]" if part.distance is not None else "–"
            for part in hit.parts
        ]
        table.add_row(
            f"{hit.rank}", escape(hit.path), f"{hit.distance:.3f}", *cells, escape(", ".join(hit.not_compared))
        )
    out.print(table)
