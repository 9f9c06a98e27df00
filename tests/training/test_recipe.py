"""Recipes: what is taken, and what is refused with the name of the file and the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from glimpse.errors import ConfigError
from glimpse.training import load_recipe, packaged_recipes, parse_recipe
from glimpse.training.recipe import Sampling

SMALL: dict[str, Any] = {
    "method": "pcb",
    "options": {"strips": 4},
    "backbone": "osnet_x0_25",
    "transforms": {"size": [64, 32], "erasing": None},
    "stages": [{"name": "a", "epochs": 1}, {"name": "b", "epochs": 2, "freeze": ["stem"]}],
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


@pytest.mark.parametrize("name", sorted(packaged_recipes()))
def test_installed_recipes_are_sound(name: str) -> None:
    recipe = load_recipe(name)
    assert name.startswith(recipe.method)
    assert recipe.stages[-1].method is None


def test_there_is_a_paper_size_recipe_for_each_method() -> None:
    assert {"baseline-paper", "pcb-paper", "qpm-paper"} <= set(packaged_recipes())


def _settings(name: str, *apart: str) -> dict[str, Any]:
    recipe: dict[str, Any] = load_recipe(name).model_dump(mode="json")
    return {field: value for field, value in recipe.items() if field not in ("method", "options", *apart)}


def test_reid_recipes_differ_in_nothing_but_the_method() -> None:
    qpm = _settings("qpm-reid")
    assert _settings("pcb-reid") == qpm
    assert _settings("baseline-reid") == qpm


def test_imagenet_recipes_differ_in_nothing_but_the_method_and_the_ide_stage_of_qpm() -> None:
    assert _settings("pcb-imagenet") == _settings("baseline-imagenet")
    # With two stages it validates, as often in all, at other epochs.
    apart = ("stages", "validation")
    assert _settings("qpm-imagenet", *apart) == _settings("baseline-imagenet", *apart)
    whole, qpm = load_recipe("baseline-imagenet"), load_recipe("qpm-imagenet")
    assert whole.validation.model_copy(update={"every": 0}) == qpm.validation.model_copy(update={"every": 0})
    (one,), (ide, own) = whole.stages, qpm.stages
    assert ide.epochs + own.epochs == one.epochs
    for stage in (ide, own):
        changed = {"name": one.name, "epochs": one.epochs, "method": None, "options": {}, "optimiser": one.optimiser}
        assert stage.model_copy(update=changed) == one
        schedule = {"schedule": one.optimiser.schedule, "warmup": one.optimiser.warmup}
        assert stage.optimiser.model_copy(update=schedule) == one.optimiser


def test_unknown_recipe_lists_the_installed_ones() -> None:
    with pytest.raises(ConfigError) as told:
        load_recipe("qpm-rapid")
    assert told.value.where == "qpm-rapid"
    assert all(name in told.value.cause for name in packaged_recipes())


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"epochs": 3}, "epochs", "there is no field 'epochs'; known: method, options, backbone, visibility, start"),
        (
            {"stages": [{"epochs": 1, "optimizer": {}}]},
            "stages.0.optimizer",
            "there is no field 'optimizer'; known: name, epochs, method, options, cached, freeze, optimiser",
        ),
        ({"stages": [{"epoch": 1}]}, "stages.0.epoch", "there is no field 'epoch', and 'epochs' is missing; known: na"),
        (
            {"stages": [{"epochs": 1, "sampling": {"persons": 4}}]},
            "stages.0.sampling.persons",
            "there is no field 'persons'; known: people, crops",
        ),
        ({"transforms": {"erasing": {"q": 1}}}, "transforms.erasing.q", "known: p, area, aspect"),
        ({"validation": {"identities": 1}}, "validation.identities", "hold out at least 2 people, or 0 for none"),
        ({"stages": [{"epochs": 0}]}, "stages.0.epochs", "greater than or equal to 1"),
        ({"stages": []}, "stages", "at least 1 item"),
        ({"options": {"stripes": 4}}, "options.stripes", "there is no field 'stripes'; known: "),
        ({"options": {"dropout": 1.5}}, "options.dropout", "less than 1"),
        ({"method": "sift"}, "method", "only baseline, pcb, pgfa, sgsfa, pirt, qpm, fpr"),
        ({"method": "peer", "options": {}}, "method", "'peer' is not a method that can be trained"),
        ({"backbone": "vgg"}, "backbone", "osnet_x0_25"),
        ({"stages": [{"epochs": 1}, {"epochs": 1}]}, "stages", "two stages have the same name"),
        (
            {"stages": [{"epochs": 1, "method": "baseline"}]},
            "stages.0.method",
            "the last stage must train 'pcb' itself",
        ),
        ({"stages": [{"epochs": 1, "options": {"strips": 2}}]}, "stages.0.options", "a method of its own"),
        (
            {"stages": [{"name": "i", "epochs": 1, "method": "baseline", "options": {"k": 1}}, {"epochs": 1}]},
            "stages.0.options.k",
            "there is no field 'k'; known: ",
        ),
        ({"stages": [{"epochs": 1, "cached": 1, "anchor": 1.0}]}, "stages.0", "no backbone to anchor"),
        ({"transforms": {"size": [64]}}, "transforms.size.1", "field required"),
        ({"visibility": True}, "visibility", "no stage teaches it"),
        ({"stages": [{"epochs": 1, "visibility": 1.0}]}, "visibility", "a stage teaches a head that is not there"),
        (
            {"stages": [{"name": "a", "epochs": 1, "learns": "visibility"}, {"epochs": 1}]},
            "visibility",
            "a stage teaches a head that is not there",
        ),
        (
            {"visibility": True, "stages": [{"epochs": 1, "learns": "visibility"}]},
            "stages.0.learns",
            "the last stage must train 'pcb' itself",
        ),
        ({"stages": [{"epochs": 1, "learns": "heads"}]}, "stages.0.learns", "'method' or 'visibility'"),
        ({"stages": [{"epochs": 1, "visibility": -1}]}, "stages.0.visibility", "greater than or equal to 0"),
        ({"stages": [{"epochs": 1, "cached": 1, "visibility": 1}]}, "stages.0", "no backbone that could learn"),
        *(
            (
                {"stages": [{"epochs": 1, "learns": "visibility", **idle}, {"name": "b", "epochs": 1}]},
                "stages.0",
                f"only the visibility head learns here: leave out {next(iter(idle))}",
            )
            for idle in (
                {"method": "baseline"},
                {"cached": 2},
                {"freeze": ["stem"]},
                {"anchor": 1.0},
                {"teacher": 1.0},
                {"teacher_vector": 1.0},
            )
        ),
    ],
)
def test_wrong_settings_name_file_and_field(change: dict[str, Any], field: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **change}))
    with pytest.raises(ConfigError) as told:
        load_recipe(path)
    assert told.value.where == f"{path}, field '{field}'"
    assert said in told.value.cause
    assert "docs/recipes.md" in told.value.remedy


def test_a_stage_that_teaches_the_head_alone_names_all_that_does_not_belong_in_it() -> None:
    stage = {"epochs": 1, "learns": "visibility", "freeze": ["stem"], "visibility": 2.0, "anchor": 1.0}
    with pytest.raises(ConfigError, match=r"leave out freeze, anchor, visibility\."):
        parse_recipe({**SMALL, "visibility": True, "stages": [stage, {"name": "b", "epochs": 1}]})
    # Its own optimiser, batches and prompts do.
    own = {"epochs": 2, "learns": "visibility", "prompt": 0.2, "optimiser": {"lr": 1e-3}, "sampling": {"people": 0}}
    recipe = parse_recipe({**SMALL, "visibility": True, "stages": [own, {"name": "b", "epochs": 1}]})
    assert [stage.learns for stage in recipe.stages] == ["visibility", "method"]
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe


def test_a_head_may_be_taught_beside_the_method_alone() -> None:
    recipe = parse_recipe({**SMALL, "visibility": True, "stages": [{"epochs": 1, "visibility": 0.5}]})
    assert recipe.visibility


def test_changes_reach_options_lists_and_groups_that_are_not_there(small: Path) -> None:
    recipe = load_recipe(
        small,
        [
            "options.dropout=0",
            "stages.1.epochs=7",
            "stages.1.freeze.0=stage1",
            "stages.0.optimiser.lr=2.0e-3",
            "transforms.erasing.p=0.25",
            "transforms.size=[32, 16]",
            "transforms.pad=4",
        ],
    )
    assert recipe.options == {"strips": 4, "dropout": 0}
    assert [stage.epochs for stage in recipe.stages] == [1, 7]
    assert recipe.stages[1].freeze == ("stage1",)
    assert recipe.stages[0].optimiser.lr == 0.002
    assert recipe.transforms.erasing is not None
    assert recipe.transforms.erasing.p == 0.25
    assert recipe.transforms.size == (32, 16)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("seed", "is not key=value"),
        ("=3", "is not key=value"),
        ("stages.2.epochs=1", "there is no '2' among 2 items"),
        ("stages.first.epochs=1", "there is no 'first' among 2 items"),
        ("stages.1.freeze.4=stem", "there is no '4' among 1 items"),
        ("backbone.width.x=2", "'width' is inside a value"),
        ("backbone.width=2", "'width' is inside a value"),
        ("seed=[1", "the value is not YAML"),
    ],
)
def test_a_bad_change_is_named(change: str, said: str, small: Path) -> None:
    with pytest.raises(ConfigError) as told:
        load_recipe(small, [change])
    assert told.value.where == f"--set {change}"
    assert said in told.value.cause


def test_a_change_to_an_unknown_or_unfit_value_names_the_field(small: Path) -> None:
    with pytest.raises(ConfigError, match=r"field 'stages\.0\.epoch': there is no field 'epoch'; known: name, epochs"):
        load_recipe(small, ["stages.0.epoch=5"])
    with pytest.raises(ConfigError, match=r"field 'seed': input should be a valid integer"):
        load_recipe(small, ["seed=soon"])


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"a: [", "is not YAML"), (b"- 1\n", "holds no settings"), (b"\xff\xfe\x00", "cannot be read")],
)
def test_a_file_that_is_no_recipe(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load_recipe(path)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(tmp_path)


def test_batch_counts_crops() -> None:
    assert Sampling(people=8, crops=4).batch == 32
    assert Sampling(people=0, crops=64).batch == 64


def test_a_recipe_survives_its_own_json() -> None:
    recipe = parse_recipe(SMALL)
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe
