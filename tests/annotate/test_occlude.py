"""Covered datasets open like their source, and their truth says what was done to every crop."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glimpse.annotate.occlude import Occlude, write_occluded
from glimpse.cues.cache import CueCache
from glimpse.data import open_dataset, read_image
from glimpse.errors import ConfigError, DataError
from glimpse.evaluation import read_prompts
from glimpse.synthetic.dataset import Rates, render_dataset
from glimpse.synthetic.people import Population


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered people with nothing in front, as PNG, so that pixels can be compared."""
    folder = tmp_path_factory.mktemp("occlude") / "people"
    crowd = Population(people=8, train=4, cameras=2)
    render_dataset(folder, crowd, crops=2, size=(48, 24), rates=Rates(0, 0, 0), image_format="png")
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pixels(spec: str, split: str) -> dict[str, np.ndarray]:
    return {sample.name: np.asarray(read_image(sample)) for sample in open_dataset(spec).split(split)}


def test_queries_are_covered_and_all_else_is_copied(people: Path, tmp_path: Path) -> None:
    spec = f"market1501:{people}"
    made = write_occluded(
        spec,
        tmp_path / "new",
        Occlude(("object", "thing", "grey"), ("top", "bottom", "centre"), (0.3, 0.6), seed=1),
        sources=open_dataset(spec).train,
    )
    assert (made.spec, made.truth) == (f"market1501:{tmp_path / 'new'}", tmp_path / "new-truth")
    assert (made.covered, made.copied) == (8, 24)
    for split in ("train", "gallery"):
        before, after = pixels(spec, split), pixels(made.spec, split)
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[name], after[name]) for name in before)
    before, after = pixels(spec, "query"), pixels(made.spec, "query")
    truth = rows(made.truth / "truth.csv")
    assert [row["path"] for row in truth] == list(after)
    boxes = read_prompts(made.truth / "prompts.csv")
    for row in truth:
        name = row["path"]
        with Image.open(made.truth / "masks" / f"{name}.png") as picture:
            mask = np.asarray(picture.convert("1"))
        assert np.array_equal(before[name][mask], after[name][mask])
        assert not np.array_equal(before[name], after[name])
        assert float(row["visible"]) == pytest.approx(mask.mean(), abs=1e-4)
        for strip in range(6):
            share = mask[8 * strip : 8 * strip + 8].mean()
            assert float(row[f"visible_strip_{strip + 1}"]) == pytest.approx(share, abs=1e-4)
        x0, y0, x1, y1 = map(int, boxes[name])
        assert mask[y0:y1, x0:x1].all()
        assert 0.3 <= float(row["fraction"]) <= 0.6
    assert {row["kind"] for row in truth} <= {"object", "thing", "grey"}
    assert len({(row["kind"], row["side"]) for row in truth}) > 2
    assert made.visible == pytest.approx(np.mean([float(row["visible"]) for row in truth]), abs=1e-4)


def test_the_same_seed_gives_the_same_pixels(people: Path, tmp_path: Path) -> None:
    spec, how = f"market1501:{people}", Occlude(("thing",), fraction=(0.5, 0.5))
    first, second = (write_occluded(spec, tmp_path / name, how).spec for name in "ab")
    a, b = pixels(first, "query"), pixels(second, "query")
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_a_border_makes_crops_smaller(people: Path, tmp_path: Path) -> None:
    made = write_occluded(f"market1501:{people}", tmp_path / "new", Occlude(("border",), ("bottom",), (0.5, 0.5)))
    assert {image.shape for image in pixels(made.spec, "query").values()} == {(24, 24, 3)}
    assert made.visible == 0.5
    assert set(read_prompts(made.truth / "prompts.csv").values()) == {(0.0, 0.0, 24.0, 24.0)}


def test_people_are_cut_out_by_part_maps(people: Path, tmp_path: Path) -> None:
    spec, how = f"market1501:{people}", Occlude(("person",), ("left",), (0.5, 0.5))
    sources, maps = open_dataset(spec).train, CueCache(people / "cues").parts("truth")
    cut = write_occluded(spec, tmp_path / "cut", how, sources=sources, masks=maps)
    window = write_occluded(spec, tmp_path / "window", how, sources=sources)
    assert cut.cut_out
    assert not window.cut_out
    assert window.visible == 0.5
    assert cut.visible > 0.52  # an outline hides less than the half that it reaches over
    with pytest.raises(DataError, match=r"truth: has part maps of none of the \d+ crops that people are cut from"):
        write_occluded(
            spec,
            tmp_path / "none",
            how,
            sources=sources,
            masks=type(maps)("truth", maps.says, maps._columns.slice(0, 0)),
        )
    assert not (tmp_path / "none").exists()


def test_a_list_goes_along(people: Path, tmp_path: Path) -> None:
    dataset = open_dataset(f"market1501:{people}")
    lines = ["path,pid,camid,split"]
    for split in ("query", "gallery"):
        lines += [f"{s.name},{s.pid},{s.camid},{split}" for s in dataset.split(split)]
    listed = people / "listed.csv"
    listed.write_text("\n".join(lines))
    try:
        made = write_occluded(f"csv:{listed}", tmp_path / "new", Occlude(("grey",), fraction=(0.4, 0.4)))
    finally:
        listed.unlink()
    assert made.spec == f"csv:{tmp_path / 'new' / 'listed.csv'}"
    assert len(open_dataset(made.spec).query) == made.covered == 8


def test_nothing_appears_when_a_crop_cannot_be_read(people: Path, tmp_path: Path) -> None:
    import shutil

    broken = shutil.copytree(people, tmp_path / "broken")
    next((broken / "query").iterdir()).write_bytes(b"no picture")
    with pytest.raises(DataError, match="query/"):
        write_occluded(f"market1501:{broken}", tmp_path / "new", Occlude(("grey",)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": ()}, r"kinds: \[\] has none"),
        ({"kinds": ("tree",)}, "kinds: 'tree' is not known"),
        ({"sides": ("top", "top")}, r"sides: .* or one twice"),
        ({"sides": ("above",)}, "sides: 'above' is not known"),
        ({"fraction": (0.2, 0.8)}, r"fraction: 0\.2 to 0\.8 is out of range. Remedy: give shares from 0 to 0\.7"),
        ({"fraction": (0.5, 0.4)}, "fraction: "),
        ({"kinds": ("border",), "sides": ("centre",)}, "sides: a picture does not end in the centre"),
        ({"seed": -1}, "seed: -1 is negative"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Occlude(**arguments)


def test_what_cannot_be_written_is_said(people: Path, tmp_path: Path) -> None:
    spec, grey = f"market1501:{people}", Occlude(("grey",))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(ConfigError, match=r"full: is not an empty folder"):
        write_occluded(spec, tmp_path / "full", grey)
    with pytest.raises(ConfigError, match=r"full: is not an empty folder"):
        write_occluded(spec, tmp_path / "new", grey, truth=tmp_path / "full")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match=r"identities: 50 of 4 people leaves nobody on one side"):
        write_occluded(spec, tmp_path / "new", Occlude(("object",)))
    with pytest.raises(ConfigError, match=r"sources: are no crops"):
        write_occluded(spec, tmp_path / "new", Occlude(("object",)), sources=())
