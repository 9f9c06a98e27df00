"""Robustness curves: a hand-worked area, its intervals, what is written, and what can be compared."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glimpse import cli
from glimpse.errors import ConfigError, DataError
from glimpse.evaluation import OcclusionPlan, OcclusionSuite, Result, evaluate, evaluate_dataset
from glimpse.evaluation.intervals import RESAMPLES, bootstrap
from glimpse.evaluation.occluded import Occluded, digest_of
from glimpse.evaluation.records import DatasetRecord, ModelRecord
from glimpse.evaluation.robustness import (
    FILES,
    About,
    Robustness,
    RobustnessRecord,
    compare,
    read_robustness,
)

FRACTIONS = (0.2, 0.6)


def result(first: list[int], ap: list[float]) -> Result:
    """Queries with the ranks of their first matches and their AP."""
    n = len(first)
    none, one = np.zeros(n, np.int64), np.ones(n, np.int64)
    rows, ranks, values = np.arange(n), np.array(first, np.int64), np.array(ap)
    top = np.zeros((n, 0))
    return Result(rows, none[:0], ranks, one, none, values, values, values, 9, top.astype(np.int64), top)


def about(name: str = "pcb@12345678", seed: int = 0) -> About:
    return About(
        version="0", commit=None, command="glimpse evaluate", seed=seed,
        dataset=DatasetRecord(name="rendered", spec="rendered:x", split="query", notes=[]), protocol="rendered",
        same_camera_rule=True, gallery=9, gallery_sha256="9" * 64,
        model=ModelRecord(made_by=name, method="pcb", card={}, distance={}),
    )  # fmt: skip


@pytest.fixture
def by_hand() -> Robustness:
    """Two queries, covered from two sides by two shares."""
    grid = {
        ("top", 0.2): ([1, 2], [0.9, 0.5]),
        ("left", 0.2): ([1, 2], [0.7, 0.3]),
        ("top", 0.6): ([2, 2], [0.4, 0.2]),
        ("left", 0.6): ([1, 4], [0.6, 0.2]),
    }
    results = tuple(Occluded(side, f, result(*found), f) for (side, f), found in grid.items())
    suite = OcclusionSuite("grey", False, (), results)
    return Robustness(about(), (suite,), (result([1, 2], [1.0, 0.5]).values,))


@pytest.fixture
def covered(model, partial):
    """A report with covered queries, prompted too."""
    plan = OcclusionPlan(
        kinds=("grey",), sides=("top", "left"), fractions=(0.25, 0.5), prompted=(False, True), queries=20
    )
    return evaluate_dataset(model, partial, occlusion=plan, seed=3, command="glimpse evaluate --robustness out")


def test_the_mean_takes_the_sides_of_a_query_first(by_hand) -> None:
    # Query a has AP 1, then (0.9 + 0.7) / 2 = 0.8, then 0.5; query b has 0.5, 0.4, 0.2.
    assert [(f, e.value) for f, e in by_hand.curve("map")] == [
        (0, pytest.approx(0.75)),
        (0.2, pytest.approx(0.6)),
        (0.6, pytest.approx(0.35)),
    ]
    # Rank-1 of a: 1, 1, (0 + 1) / 2; of b always 0. With two queries the interval reaches from the one to the other.
    assert [(e.value, e.low, e.high) for _, e in by_hand.curve("rank_1")] == [(0.5, 0, 1), (0.5, 0, 1), (0.25, 0, 0.5)]
    assert [e.value for _, e in by_hand.curve("rank_1", "top")] == [0.5, 0.5, 0]
    assert [e.value for _, e in by_hand.curve("map", "left")] == pytest.approx([0.75, 0.5, 0.4])


def test_the_area_is_the_mean_over_hidden_fractions(by_hand) -> None:
    # Trapezoids of width 0.2 and 0.4. a: (0.2 (1 + 0.8) / 2 + 0.4 (0.8 + 0.5) / 2) / 0.6 = 0.44 / 0.6.
    # b: (0.2 (0.5 + 0.4) / 2 + 0.4 (0.4 + 0.2) / 2) / 0.6 = 0.21 / 0.6.
    area = by_hand.area("map")
    assert area.per_query == pytest.approx([0.44 / 0.6, 0.21 / 0.6])
    assert area.absolute.value == pytest.approx(0.65 / 1.2)
    assert area.relative.value == pytest.approx(0.65 / 1.2 / 0.75)
    area = by_hand.area("rank_1")
    assert area.per_query == pytest.approx([(0.2 * 1 + 0.4 * 0.75) / 0.6, 0])
    assert area.relative.value == pytest.approx((0.5 / 0.6) / 2 / 0.5)


def test_nothing_lost_is_an_area_of_the_clear_value(by_hand) -> None:
    (suite,) = by_hand.suites
    same = tuple(replace(o, result=result([1, 1], [1.0, 1.0])) for o in suite)
    area = replace(by_hand, suites=(replace(suite, results=same),), clear=(result([1, 1], [1.0, 1.0]).values,)).area()
    assert (area.absolute.value, area.relative.value, area.per_query) == (1, 1, [1, 1])


def test_without_a_clear_hit_there_is_no_relative_area(by_hand) -> None:
    none = replace(by_hand, clear=(result([5, 5], [0.2, 0.2]).values,))
    assert none.area("rank_1").relative is None
    assert none.area("map").relative.value > 1  # covered, they did better


def many(n: int = 300) -> Robustness:
    random = np.random.default_rng(1)
    clear = result(list(np.where(random.random(n) < 0.8, 1, 3)), list(random.uniform(0.4, 1, n)))
    results = []
    for fraction in FRACTIONS:
        for side in ("top", "left"):
            first = np.where(random.random(n) < 0.8 - fraction, clear.first, 5)
            found = result(list(first), list(clear.ap * (1 - fraction)))
            results.append(Occluded(side, fraction, found, fraction))
    return Robustness(about(), (OcclusionSuite("grey", False, (), tuple(results)),), (clear.values,))


def test_the_interval_of_the_area_is_that_of_redrawn_queries() -> None:
    robustness = many()
    (suite,), (clear,) = robustness.suites, robustness.clear
    means = [np.mean([o.result.values[:, 0] for o in suite if o.fraction == f], axis=0) for f in FRACTIONS]
    curve = np.stack([clear[:, 0], *means])
    random, n = np.random.default_rng(0), len(clear)
    areas, ratios = [], []
    for _ in range(RESAMPLES):
        c0, c2, c6 = curve[:, random.integers(n, size=n)].mean(axis=1)
        areas.append((0.2 * (c0 + c2) / 2 + 0.4 * (c2 + c6) / 2) / 0.6)
        ratios.append(areas[-1] / c0)
    area = robustness.area()
    assert (area.absolute.low, area.absolute.high) == pytest.approx(tuple(np.quantile(areas, [0.025, 0.975])), abs=1e-9)
    low, high = np.quantile(ratios, [0.025, 0.975])
    assert (area.relative.low, area.relative.high) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_fraction_0_is_the_same_queries_uncovered(model, partial, covered) -> None:
    robustness = Robustness.of(covered)
    for suite, prompted in zip(covered.suites, (False, True), strict=True):
        assert len(suite.queries) == 20
        clear = evaluate(
            model.distance(),
            model.embed_samples(suite.queries).embedding,
            model.embed_samples(partial.gallery).embedding,
            partial.protocol.relevance(suite.queries, partial.gallery),
            seed=3,
        )
        for side in ("mean", "top", "left"):
            fraction, found = robustness.curve("map", side, prompted=prompted)[0]
            assert (fraction, found) == (0, clear.summary.metrics.map)
        assert [e for _, e in robustness.curve("rank_1", prompted=prompted)[1:]] == [
            suite.mean(f).rank_1 for f in (0.25, 0.5)
        ]


def test_what_is_hidden_is_measured(model, partial) -> None:
    plan = OcclusionPlan(kinds=("grey", "border"), sides=("top", "left"), fractions=(0.26, 0.5))
    for suite in evaluate_dataset(model_of_any_size(model), partial, occlusion=plan).suites:
        # Crops are 32 x 16: 26 % are 8 of 32 rows and 4 of 16 columns.
        assert [o.hidden for o in suite] == [0.25, 0.25, 0.5, 0.5]


def model_of_any_size(model):
    """The model of stripes, which needs crops of one size: whatever is cut off is given back as black."""
    embed = model.embed_samples

    def embed_samples(samples, *, edit=None, **options):
        def padded(index, image):
            changed, _ = edit(index, image)
            whole = Image.new("RGB", image.size)
            whole.paste(changed)
            return whole, None

        return embed(samples, edit=None if edit is None else padded, **options)

    model.embed_samples = embed_samples
    return model


def test_sources_are_told_by_name_wherever_they_lie(partial, store, make_store) -> None:
    moved = [replace(s, store=make_store("elsewhere"), name=f"Market/{s.name}") for s in partial.train]
    assert digest_of(moved) == digest_of(partial.train) != digest_of(partial.train[::-1])


def test_files_hold_the_same(covered, tmp_path: Path) -> None:
    robustness = Robustness.of(covered)
    record = robustness.write(tmp_path / "new" / "out")
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == sorted(FILES)
    table, file, svg, png = (tmp_path / "new" / "out" / name for name in FILES)
    assert read_robustness(file) == record == robustness.record()
    assert record.about.command == "glimpse evaluate --robustness out"
    assert record.about.seed == 3
    assert record.about.model.made_by == "stripes@00000000"
    assert [(c.kind, c.prompted, c.queries, c.sides) for c in record.curves] == [
        ("grey", False, 20, ("top", "left")),
        ("grey", True, 20, ("top", "left")),
    ]

    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == 2 * 3 * 3 * 2  # kinds and prompts, mean and sides, fractions, metrics
    point = record.curves[1].lines[2].points[1]
    (row,) = (
        r
        for r in rows
        if (r["prompted"], r["side"], float(r["fraction"]), r["metric"]) == ("true", "left", 0.25, "map")
    )
    assert (row["model"], row["kind"], row["queries"]) == ("stripes@00000000", "grey", "20")
    assert [float(row[name]) for name in ("value", "low", "high")] == [point.map.value, point.map.low, point.map.high]
    assert float(row["hidden"]) == point.hidden == 0.25

    assert "covered by grey, prompted" in svg.read_text()
    assert Image.open(png).format == "PNG"


def test_options_of_the_distance_are_part_of_the_name(model, partial) -> None:
    plan = OcclusionPlan(kinds=("grey",), fractions=(0.5,))
    report = evaluate_dataset(model, partial, occlusion=plan, options={"normalise": False})
    assert Robustness.of(report).record().about.name == "stripes@00000000 (normalise=False)"


def test_curves_need_covered_queries_and_no_other_prompts(model, partial) -> None:
    with pytest.raises(ConfigError, match="robustness: no query was covered"):
        Robustness.of(evaluate_dataset(model, partial))
    plan = OcclusionPlan(kinds=("grey",), fractions=(0.5,))
    report = evaluate_dataset(model, partial, occlusion=plan, prompts={partial.query[0].name: (0.0, 0.0, 16.0, 8.0)})
    with pytest.raises(ConfigError, match="1 clear queries came with a prompt"):
        Robustness.of(report)


def test_what_does_not_fit_together_is_refused(by_hand) -> None:
    (suite,), (clear,) = by_hand.suites, by_hand.clear
    with pytest.raises(ConfigError, match="1 clear queries and 2 covered by grey"):
        replace(by_hand, clear=(clear[:1],))
    with pytest.raises(ConfigError, match="a kind of cover is there twice"):
        replace(by_hand, suites=(suite, suite), clear=(clear, clear))
    with pytest.raises(ConfigError, match="not every side is covered by grey at every fraction"):
        replace(by_hand, suites=(replace(suite, results=suite.results[:3]),))
    with pytest.raises(ConfigError, match=r"by 'person' without a prompt. Remedy: there is grey"):
        by_hand.curve(kind="person")
    with pytest.raises(ConfigError, match=r"nothing was covered from 'right'. Remedy: choose among mean, top, left"):
        by_hand.curve(side="right")
    with pytest.raises(ConfigError, match="not every side is covered"):
        replace(by_hand, suites=(replace(suite, results=()),))
    with pytest.raises(ConfigError, match="a kind of occluder is given twice"):
        OcclusionPlan(kinds=("grey", "grey"))
    with pytest.raises(ConfigError, match="a picture does not end in the centre"):
        OcclusionPlan(kinds=("grey", "border"), sides=("top", "centre"))


def test_a_folder_that_cannot_be_written_to(by_hand, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match=r"file/curves.csv: cannot be written .*Remedy: choose a folder you can write"
    ):
        by_hand.write(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"plot.pdf: ends neither in .svg nor in .png"):
        compare([by_hand.record()]).draw(tmp_path / "plot.pdf")


def changed(record: RobustnessRecord, **values: Any) -> dict[str, Any]:
    """The record as JSON, with other values at some places, such as `curves__0__kind`."""
    data = json.loads(record.model_dump_json())
    for path, value in values.items():
        *keys, last = (int(key) if key.isdigit() else key for key in path.split("__"))
        place: Any = data
        for key in keys:
            place = place[key]
        place[last] = value
    return data


@pytest.mark.parametrize(
    ("change", "field", "cause"),
    [
        ({"format": "glimpse-evaluation-1"}, "format", "input should be 'glimpse-robustness-1'"),
        ({"colour": 1}, "colour", "extra inputs are not permitted"),
        ({"curves": []}, "curves", "list should have at least 1 item"),
        ({"curves__0__lines__0__side": "top"}, "curves.0", "the first line has to be the mean"),
        ({"curves__0__lines__2__side": "top"}, "curves.0", "each side may be there once"),
        ({"curves__0__lines__0__points__2__fraction": 0.1}, "curves.0", "begin with 0 and to ascend"),
        ({"curves__0__lines__1__points__2__fraction": 0.7}, "curves.0", "all lines need the same fractions"),
        ({"curves__0__queries": 3}, "curves.0", "there has to be one area per query"),
        ({"curves__0__areas__map__per_query": [1, 2]}, "curves.0.areas.map.per_query.1", "less than or equal to 1"),
    ],
)
def test_damaged_curves_are_named(by_hand, tmp_path: Path, change: dict, field: str, cause: str) -> None:
    file = tmp_path / "curves.json"
    file.write_text(json.dumps(changed(by_hand.record(), **change)))
    with pytest.raises(DataError) as error:
        read_robustness(file)
    assert error.value.where == f"{file}, field '{field}'"
    assert error.value.cause.startswith("does not hold robustness curves: ")
    assert cause in error.value.cause


def test_the_same_cover_twice_is_damage(by_hand, tmp_path: Path) -> None:
    data = changed(by_hand.record())
    data["curves"] *= 2
    (tmp_path / "curves.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="each kind of cover may be there once"):
        read_robustness(tmp_path / "curves.json")


def test_what_is_no_json_and_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text('{"format": "glimpse-robust')
    with pytest.raises(DataError, match=r"half.json: does not hold robustness curves: invalid JSON"):
        read_robustness(tmp_path / "half.json")
    with pytest.raises(
        DataError, match=r"none.json: cannot be read \(No such file or directory\). Remedy: name a curves"
    ):
        read_robustness(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"about__dataset__name": "other"}, "is on the dataset other, query, and first.json has rendered, query"),
        ({"about__dataset__split": "gallery"}, "is on the dataset rendered, gallery, and"),
        (
            {"about__same_camera_rule": False},
            "has the protocol rendered, and first.json has rendered, same-camera rule",
        ),
        ({"about__seed": 7}, "has the seed 7, and first.json has 0"),
        ({"about__gallery": 8}, "has the number of gallery crops 8, and first.json has 9"),
        ({"about__gallery_sha256": "7" * 64}, "has the gallery 7777777777..., and first.json has 9999999999..."),
        ({"curves__0__kind": "person"}, "has covers person, and first.json has grey"),
        ({"curves__0__prompted": True}, "has covers grey, prompted, and first.json has grey"),
        ({"curves__0__lines__2__side": "right"}, "has for grey the sides top, right, and first.json has top, left"),
        ({"curves__0__queries_sha256": "7" * 64}, "has for grey the queries 7777777777..., and"),
        (
            {"curves__0__sources_sha256": "7" * 64},
            "has for grey the sources of occluders 7777777777..., and first.json has none",
        ),
    ],
)
def test_curves_of_other_settings_are_refused(
    by_hand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("first.json").write_text(by_hand.record().model_dump_json())
    Path("other.json").write_text(json.dumps(changed(by_hand.record(), **change)))
    with pytest.raises(DataError) as error:
        compare(["first.json", "other.json"])
    assert error.value.where == "other.json"
    assert error.value.cause.startswith(said)


def test_other_fractions_and_other_numbers_of_queries_are_refused(by_hand) -> None:
    (suite,) = by_hand.suites
    fewer = replace(by_hand, suites=(replace(suite, results=suite.results[:2]),))
    with pytest.raises(DataError, match=r"has for grey the fractions 0, 0.2, and pcb@12345678 has 0, 0.2, 0.6"):
        compare([by_hand.record(), fewer.record()])
    with pytest.raises(DataError, match="has for grey the number of queries 2, and pcb@12345678 has 300"):
        compare([many().record(), by_hand.record()])


def test_differences_are_taken_query_by_query(by_hand) -> None:
    first = many()
    (suite,) = first.suites
    # A little worse for every query: far less than the queries differ among themselves.
    worse = [replace(o, result=replace(o.result, ap=o.result.ap * 0.95)) for o in suite]
    other = replace(first, suites=(replace(suite, results=tuple(worse)),), about=about("qpm@1"))
    table = compare([first.record(), other.record()], names=["PCB", "QPM"]).table()
    cells = [list(column.cells) for column in table.columns]
    assert [column.header for column in table.columns][4:] == ["area", "of clear", "against the first"]
    assert cells[2] == ["PCB", "QPM"] * 2
    assert cells[6][0] == cells[6][2] == "–"
    assert cells[6][1] == "+0.0 (+0.0 to +0.0)"  # rank-1 is the same
    a, b = (np.array(r.area("map").per_query) for r in (first, other))
    low, high = bootstrap((b - a)[:, None]).ravel()
    assert cells[6][3] == f"{100 * (b - a).mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    assert high < 0 < other.area("map").absolute.high - first.area("map").absolute.low
    assert cells[4][2] == str(first.area("map").absolute)


def test_one_model_shows_its_sides_and_several_their_means(by_hand) -> None:
    one = compare([by_hand.record()])
    text = one.drawing().write("svg").decode()
    assert all(
        f">{said}<" in text for said in ("top", "left", "mean 41.7", "mean 54.2", "pcb@12345678 on rendered, 2 queries")
    )
    assert "against the first" not in [column.header for column in one.table().columns]
    two = compare([by_hand.record(), by_hand.record()], names=["A", "B"])
    text = two.drawing().write("svg").decode()
    assert all(f">{said}<" in text for said in ("A 41.7", "B 41.7", "A 54.2", "rendered, 2 queries"))
    assert ">top<" not in text


def test_names_and_curves_that_are_missing_or_the_same(by_hand) -> None:
    record = by_hand.record()
    with pytest.raises(ConfigError, match="there are no curves"):
        compare([])
    with pytest.raises(ConfigError, match="two curves are called 'pcb@12345678'"):
        compare([record, record])
    with pytest.raises(ConfigError, match="1 names for 2 curves"):
        compare([record, record], names=["PCB"])


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(model, partial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in an empty folder, with the model of stripes and its dataset."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("glimpse.model.load", lambda *_, **__: model)
    monkeypatch.setattr("glimpse.data.open_dataset", lambda *_, **__: partial)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["glimpse", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return call


def test_the_command_line_writes_and_compares(run: Run, model) -> None:
    code, out, err = run("evaluate", "--data", "x:y", "--robustness", "a", "--queries", "6")
    assert code == 0, err
    assert "robustness: a/curves.csv, a/curves.json, a/curves.svg, a/curves.png" in err
    record = read_robustness("a/curves.json")
    (curves,) = record.curves
    assert record.about.command == "glimpse evaluate --data x:y --robustness a --queries 6"
    assert (curves.kind, curves.prompted, curves.queries) == ("object", False, 6)
    assert curves.sides == ("top", "bottom", "left", "right")
    assert curves.fractions == (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert str(curves.areas.map.absolute) in out

    model.made_by = "other@1"
    more = ("--occlude", "object", "--queries", "6", "--fractions", "0.1,0.2,0.3,0.4,0.5,0.6,0.7")
    assert run("evaluate", "--data", "x:y", "--robustness", "b", *more)[0] == 0
    code, out, err = run(
        "robustness", "a/curves.json", "b/curves.json", "--out", "plot.svg", "--name", "A", "--name", "B"
    )
    assert (code, err) == (0, "plot: plot.svg\n")
    assert "against the first" in out
    assert "<svg" in Path("plot.svg").read_text()
    code, out, _ = run("robustness", "b/curves.json")
    assert code == 0
    assert "other@1" in out

    assert run("evaluate", "--data", "x:y", "--robustness", "c", "--queries", "5")[0] == 0
    code, out, err = run("robustness", "a/curves.json", "c/curves.json", "--out", "new.png")
    assert (code, out) == (2, "")
    assert "c/curves.json: has for object the number of queries 5, and a/curves.json has 6" in err
    assert not Path("new.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fractions", "0.5,1.2"), "fractions: 1.2 is not between 0 and 1"),
        (("--fractions", "0,0.5"), "fractions: 0.0 is not between 0 and 1"),
        (("--occlude", "fog"), "--occlude: 'fog' is none of them"),
        (("--occlude", "border", "--sides", "centre"), "side: a picture does not end in the centre"),
        (("--prompts", "boxes.csv"), "--robustness: covered queries have no prompts of their own"),
        (("--robustness", "file"), "file: is a file, and a folder is needed there"),
        (("--robustness", "/proc/new"), "cannot be written to"),
        (("--json", "out/curves.json"), "out/curves.json: is to hold two results"),
    ],
)
def test_mistakes_are_found_before_any_work(run: Run, model, arguments: tuple[str, ...], message: str) -> None:
    Path("file").write_text("")
    code, out, err = run("evaluate", "--data", "x:y", "--robustness", "out", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert not model.calls
    assert [path.name for path in Path().iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.json",), "none.json: cannot be read (No such file or directory)"),
        (("file.json",), "file.json: does not hold robustness curves"),
        (("file.json", "--out", "plot.pdf"), "plot.pdf: ends neither in .svg nor in .png"),
        (("file.svg", "--out", "file.svg"), "file.svg: is an input of this command and would be overwritten"),
    ],
)
def test_mistakes_with_curves_are_one_message(run: Run, arguments: tuple[str, ...], message: str) -> None:
    Path("file.json").write_text("no curves")
    Path("file.svg").write_text("no curves")
    code, out, err = run("robustness", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error {message}")
    assert "Traceback" not in err
