"""Training from recipe to weights: what is written, what is refused, what is kept in the cache."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from steps import logged, stage_weights
from torch import Tensor

import glimpse
from glimpse.data import Dataset, PKSampler, holdout, open_dataset
from glimpse.errors import ConfigError, DataError, WeightsError
from glimpse.training import Recipe, Trained, train
from glimpse.training.crops import Seeded
from glimpse.training.module import StageModule

SLOW = {"kind": "adamw", "lr": 1e-3}
HEADS = {"name": "heads", "epochs": 1, "cached": 2, "prompt": 0.5, "optimiser": SLOW}
JOINT = {
    "name": "joint",
    "epochs": 2,
    "freeze": ["stem", "stem_norm", "stage1", "down1"],
    "prompt": 0.4,
    "anchor": 10.0,
    "optimiser": {**SLOW, "clip": 10.0},
}
IDE = {"name": "ide", "epochs": 1, "method": "baseline", "options": {"triplet": False}, "optimiser": SLOW}
COVERED = {
    "size": [64, 32],
    "pad": 2,
    "zoom": {"p": 0.2},
    "erasing": {"p": 0.2},
    "occlusion": {"p": 0.6, "kinds": {"grey": 1.0, "object": 1.0, "person": 1.0}},
}


@pytest.fixture(scope="module")
def qpm(small: Any, people: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Trained]:
    """QPM through an identity stage, a stage on cached maps and a joint stage, with two people held out."""
    recipe = small(
        "qpm",
        [IDE, HEADS, JOINT],
        options={"strips": 4, "dim": 8, "isa_scale": "sqrt"},
        transforms=COVERED,
        validation={"identities": 2},
    )
    out = tmp_path_factory.mktemp("qpm") / "run"
    return recipe, train(recipe, people, out, terms="rendered, no terms", command="glimpse train qpm", progress=False)


def test_the_folder_holds_weights_cards_logs_and_the_recipe(qpm: tuple[Recipe, Trained]) -> None:
    recipe, trained = qpm
    out = trained.last.parent
    assert {path.name for path in out.iterdir()} == {
        "best.json",
        "best.safetensors",
        "cache",
        "data.json",
        "last.json",
        "last.safetensors",
        "logs",
        "minutes.json",
        "recipe.json",
        "stages",
    }
    assert Recipe.model_validate_json((out / "recipe.json").read_text()) == recipe
    for folder in ("0-ide", "1-heads", "2-joint"):
        assert {"weights.safetensors", "metrics.json", "epoch.ckpt"} == {
            p.name for p in (out / "stages" / folder).iterdir()
        }
    # Nothing half-written: drafts begin with a dot.
    assert not list(out.rglob(".*"))
    assert trained.minutes > 0
    assert [(out / "logs" / "tensorboard" / name).is_dir() for name in ("ide", "heads", "joint")] == [True] * 3
    assert list((out / "logs" / "tensorboard" / "joint").glob("events.out.tfevents.*"))


def test_every_field_of_the_card_is_filled(qpm: tuple[Recipe, Trained]) -> None:
    recipe, trained = qpm
    for path in (trained.best, trained.last):
        card = json.loads(path.with_suffix(".json").read_text())
        empty = {name for name, value in card.items() if value in ("", None, {}, [])}
        assert empty <= {"commit", "cues"}  # perhaps not run from a checkout; QPM needs no cues
        assert card["recipe"] == recipe.model_dump(mode="json")
        assert card["training_data"].endswith("without 2 identities held out (seed 0): 16 crops of 4 identities")
        assert (card["terms"], card["command"]) == ("rendered, no terms", "glimpse train qpm")
        assert (card["ids"], card["epochs"], card["seed"], card["size"]) == (4, 4, 0, [64, 32])
        assert card["start"]["name"] == "scratch"
        assert set(card["metrics"]) == {"clear/rank1", "clear/mAP", "occluded/rank1", "occluded/mAP", "score"}
        mean = (card["metrics"]["clear/mAP"] + card["metrics"]["occluded/mAP"]) / 2
        assert card["metrics"]["score"] == pytest.approx(mean)
    assert trained.metrics == json.loads(trained.best.with_suffix(".json").read_text())["metrics"]


def test_weights_load_and_embed(qpm: tuple[Recipe, Trained], people: Dataset) -> None:
    _, trained = qpm
    model = glimpse.load(trained.last, precision="float32")
    embedding = model.embed_samples(people.query).embedding
    assert embedding.tensors["parts"].shape == (len(people.query), 4, 8)
    assert model.distance().matrix(embedding, embedding).isfinite().all()


def test_parts_of_the_loss_are_logged(qpm: tuple[Recipe, Trained]) -> None:
    _, trained = qpm
    out = trained.last.parent
    five = {f"loss/{term}" for term in ("part_id", "part_triplet", "global_id", "pair_id", "global_triplet")}
    assert {name for name in logged(out, "ide") if name.startswith("loss/")} == {"loss/id"}
    assert {name for name in logged(out, "heads") if name.startswith("loss/")} == five
    joint = logged(out, "joint")
    assert {name for name in joint if name.startswith("loss/")} == {*five, "loss/anchor"}
    terms = [sum(joint[name][epoch] for name in (*five, "loss/anchor")) for epoch in range(2)]
    assert terms == pytest.approx(joint["loss_epoch"], rel=1e-5)
    assert len(joint["val/score"]) == 2
    assert all(math.isfinite(value) for values in joint.values() for value in values)


def test_each_stage_changes_what_it_trains_and_nothing_else(qpm: tuple[Recipe, Trained]) -> None:
    """Weights and the statistics of batch norms alike."""
    _, trained = qpm
    ide, heads, joint = (stage_weights(trained.last.parent, name) for name in ("0-ide", "1-heads", "2-joint"))
    backbone = [name for name in heads if name.startswith("backbone.")]
    assert any("running_mean" in name for name in backbone)
    # The heads learn on maps of the backbone that the identity stage left.
    assert all(torch.equal(ide[name], heads[name]) for name in backbone)
    frozen = [n for n in backbone if n.split(".")[1] in ("stem", "stem_norm", "stage1", "down1")]
    assert any("running_var" in name for name in frozen)
    assert all(torch.equal(heads[name], joint[name]) for name in frozen)
    learned = [n for n in joint if n not in frozen and "num_batches" not in n]
    same = {n for n in learned if torch.equal(heads[n], joint[n])}
    assert same == set()
    assert load_file(trained.last).keys() == joint.keys()
    assert all(torch.equal(value, joint[name]) for name, value in load_file(trained.last).items())


def test_a_finished_training_is_not_done_again(qpm: tuple[Recipe, Trained], people: Dataset) -> None:
    recipe, trained = qpm
    out = trained.last.parent
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = train(recipe, people, out, progress=False)
    assert (again.best, again.metrics) == (trained.best, trained.metrics)
    assert [note for note in again.notes if "finished already" in note]
    assert not [note for note in trained.notes if "finished already" in note]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before


def test_another_recipe_in_the_same_folder_is_refused(qpm: tuple[Recipe, Trained], people: Dataset) -> None:
    recipe, trained = qpm
    other = recipe.model_copy(update={"seed": 1})
    with pytest.raises(ConfigError, match="holds the training of another recipe"):
        train(other, people, trained.last.parent, progress=False)
    with pytest.raises(ConfigError, match="is not an empty folder"):
        train(recipe, people, trained.last.parent, resume=False, progress=False)


def test_other_data_in_the_same_folder_is_refused(qpm: tuple[Recipe, Trained], people: Dataset) -> None:
    recipe, trained = qpm
    out = trained.last.parent
    first, *others = people.train
    for other in (
        replace(people, train=tuple(others)),
        replace(people, train=(replace(first, pid=others[-1].pid), *others)),
        replace(people, name="others"),
    ):
        with pytest.raises(ConfigError, match=r"holds a training on other data .*24 crops; now") as told:
            train(recipe, other, out, progress=False)
        assert told.value.where == str(out)


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        ({"validation": {"identities": 6}}, ConfigError, r"^validation\.identities: 6 of 6 people"),
        ({"sampling": {"people": 50, "crops": 2}}, DataError, r"^sampling\.people=50: 6 people can be used"),
        (
            {"stages": [{"epochs": 1, "sampling": {"people": 50, "crops": 2}}]},
            DataError,
            r"^stages\.0\.sampling\.people=50: ",
        ),
        ({"stages": [{"epochs": 1, "freeze": ["stm"]}]}, ConfigError, r"no part 'stm'"),
        (
            {"start": "no.safetensors", "backbone": "resnet50"},
            WeightsError,
            r"^field 'start': 'no\.safetensors': there is no such file.*resnet50, or `imagenet` or `scratch`",
        ),
        (
            {"start": "no.safetensors", "backbone": "osnet_lct_x1_0"},
            WeightsError,
            r"^field 'start': .*such as .*default\.safetensors\), or `scratch`",
        ),
    ],
)
def test_a_training_that_cannot_begin_leaves_the_folder_free(
    wrong: dict[str, Any], kind: type[Exception], said: str, small: Any, people: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=said):
        train(small(**wrong), people, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_too_many_held_out_can_be_corrected_in_the_same_folder(small: Any, people: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"validation\.identities"):
        train(small(validation={"identities": 50}), people, out, progress=False)
    assert train(small(validation={"identities": 2}), people, out, progress=False).best.exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_each_epoch_draws_batches_of_its_own(
    workers: int, small: Any, people: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    step = StageModule.training_step

    def noted(self: StageModule, batch: Any, index: int) -> Tensor:
        seen.append(batch[3].tolist())
        return step(self, batch, index)

    monkeypatch.setattr(StageModule, "training_step", noted)
    recipe = small("baseline", [{"epochs": 3}], sampling={"people": 0, "crops": 8}, workers=workers)
    train(recipe, people, tmp_path / "run", progress=False)
    wanted = []
    for epoch in range(3):
        sampler = Seeded(len(people.train), None, 8, recipe.seed)
        sampler.set_epoch(epoch)
        wanted += [[row for row, _ in batch] for batch in sampler]
    assert seen == wanted
    assert seen[:3] != seen[3:6]


def test_a_folder_with_nothing_but_a_recipe_can_be_had_by_another(small: Any, people: Dataset, tmp_path: Path) -> None:
    first, second = small(seed=1), small(seed=2)
    (tmp_path / "recipe.json").write_text(first.model_dump_json())
    (tmp_path / "data.json").write_text("{}")
    (tmp_path / "cache").mkdir()
    train(second, people, tmp_path, progress=False)
    assert Recipe.model_validate_json((tmp_path / "recipe.json").read_text()) == second
    assert json.loads((tmp_path / "data.json").read_text())["crops"] == "24"


@pytest.mark.parametrize("content", ["", "[]", '{"flour": 500}'])
def test_a_recipe_of_another_kind_is_left_alone(content: str, small: Any, people: Dataset, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(ConfigError):
        train(small(), people, tmp_path, progress=False)
    assert (tmp_path / "recipe.json").read_text() == content


def test_a_foreign_folder_is_refused_and_left_alone(small: Any, people: Dataset, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="is not an empty folder"):
        train(small(), people, tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ConfigError, match="is not an empty folder"):
        train(small(), people, tmp_path / "thesis.tex", progress=False)


def test_the_bias_of_the_neck_stays_zero_through_the_stages(small: Any, people: Dataset, tmp_path: Path) -> None:
    stages = [{"name": "one", "epochs": 1, "optimiser": SLOW}, {"name": "two", "epochs": 1, "optimiser": SLOW}]
    trained = train(small("baseline", stages, precision="bfloat16"), people, tmp_path / "run", progress=False)
    weights = load_file(trained.last)
    assert not bool(weights["neck.bias"].any())
    assert bool((weights["neck.weight"] != 1).any())
    # Without validation the best is the last, and nothing is measured.
    assert trained.metrics == {}
    assert all(torch.equal(value, weights[name]) for name, value in load_file(trained.best).items())


def test_maps_are_shared_between_trainings_and_made_anew_when_what_they_show_changes(
    small: Any, people: Dataset, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"

    def maps(method: str, name: str, data: Dataset = people, **stage: Any) -> dict[Path, int]:
        recipe = small(method, [{"epochs": 1, "cached": 1, **stage}], options={"strips": 2} if method == "pcb" else {})
        train(recipe, data, tmp_path / name, cache=cache, progress=False)
        return {path: path.stat().st_mtime_ns for path in cache.glob("*.maps")}

    first = maps("baseline", "a")
    assert len(first) == 1
    assert maps("pcb", "b") == first
    prompted = maps("pcb", "c", prompt=1.0)
    assert len(prompted) == 2
    assert first.items() <= prompted.items()
    # Crops of the same names that show something else.
    other = replace(people, train=tuple(replace(s, name=people.query[0].name) for s in people.train))
    assert len(maps("baseline", "d", other)) == 3


def test_corrupt_crops_stop_or_are_reported(small: Any, rendered: Path, tmp_path: Path) -> None:
    shutil.copytree(rendered, tmp_path / "people")
    broken = sorted((tmp_path / "people" / "bounding_box_train").glob("*.jpg"))[0]
    broken.write_bytes(b"not a picture")
    data = f"market1501:{tmp_path / 'people'}"
    with pytest.raises(DataError, match=broken.name):
        train(small(), data, tmp_path / "a", progress=False)
    trained = train(small(), data, tmp_path / "b", skip_bad=True, progress=False)
    assert [broken.name in note for note in trained.notes] == [True]
    assert "23 crops of 6 identities" in trained.best.with_suffix(".json").read_text()


def test_a_corrupt_crop_among_the_held_out_stops_at_once(small: Any, rendered: Path, tmp_path: Path) -> None:
    shutil.copytree(rendered, tmp_path / "people")
    data = open_dataset(f"market1501:{tmp_path / 'people'}")
    _, held = holdout(data.train, identities=2, seed=0)
    (tmp_path / "people" / held.query[0].name).write_bytes(b"not a picture")
    with pytest.raises(DataError, match=Path(held.query[0].name).name):
        train(small(validation={"identities": 2}), data, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "stages").exists()


def test_nothing_to_train_on(small: Any, people: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no train crops"):
        train(small(), replace(people, train=()), tmp_path / "a", progress=False)
    assert not (tmp_path / "a").exists()
    one = tuple(sample for sample in people.train if sample.pid == people.train[0].pid)
    with pytest.raises(DataError, match="has 1 identities to train on"):
        train(small(), replace(people, train=one), tmp_path / "b", progress=False)


def test_few_crops_are_repeated_and_single_ones_left_out_and_both_are_said(
    small: Any, people: Dataset, tmp_path: Path
) -> None:
    """Five people with two crops and one with a single crop, four crops of each wanted."""
    pids = sorted({sample.pid for sample in people.train})
    few = [
        sample
        for number, pid in enumerate(pids)
        for sample in [s for s in people.train if s.pid == pid][: 2 if number else 1]
    ]
    stages = [{"name": "one", "epochs": 1}, {"name": "two", "epochs": 1}]
    recipe = small("baseline", stages, sampling={"people": 5, "crops": 4})
    trained = train(recipe, replace(people, train=tuple(few)), tmp_path / "run", progress=False)
    assert len(trained.notes) == 1
    assert "1 person with a single crop left out" in trained.notes[0]
    assert "5 people with fewer than 4 crops" in trained.notes[0]
    labels = [sample.pid for sample in few]
    assert [len(batch) for batch in PKSampler(labels, 5, 4)] == [20]
    with pytest.raises(DataError, match="batches need 16 different people"):
        train(small(sampling={"people": 16, "crops": 4}), people, tmp_path / "more", progress=False)


def test_a_rate_that_is_too_high_is_told(small: Any, people: Dataset, tmp_path: Path) -> None:
    wild = {"kind": "sgd", "lr": 1e30, "schedule": "constant"}
    recipe = small("pcb", [{"name": "wild", "epochs": 2, "optimiser": wild}], options={"strips": 2})
    with pytest.raises(ConfigError, match=r"stage 'wild', step \d+: the loss is not finite \(id\)"):
        train(recipe, people, tmp_path / "run", progress=False)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_dataset_can_be_named(small: Any, rendered: Path, tmp_path: Path) -> None:
    random = {"people": 0, "crops": 8}
    trained = train(small(sampling=random), f"market1501:{rendered}", tmp_path / "run", progress=False)
    assert open_dataset(f"market1501:{rendered}").name in trained.last.with_suffix(".json").read_text()
