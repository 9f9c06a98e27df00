"""The visibility head in training: taught alone, then standing in for prompts, then taught beside the method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from steps import a_batch, fit, logged, stage_weights
from torch import Tensor, nn
from torch.nn import functional as F

import glimpse
from glimpse.backbones import Look, build_backbone
from glimpse.cues.needs import Cues
from glimpse.data import Dataset
from glimpse.data.transforms import Occlusion, TrainTransform, TransformSettings
from glimpse.methods import PCB, Baseline, PCBOptions
from glimpse.training import Recipe, Trained, train
from glimpse.training.crops import Batch, CropDataset, give_prompts, read_crops
from glimpse.training.maps import MapDataset, MapPass
from glimpse.training.module import StageModule
from glimpse.training.recipe import Optimiser, Stage

COVERED = {"size": [64, 32], "pad": 2, "erasing": None, "occlusion": {"p": 0.8, "kinds": {"grey": 1.0}}}
STAGES = [
    {
        "name": "visibility",
        "epochs": 40,
        "learns": "visibility",
        "prompt": 0.2,
        "optimiser": {"lr": 1e-3},
        "sampling": {"people": 0, "crops": 4},
    },
    {"name": "heads", "epochs": 1, "cached": 1, "prompt": 0.3, "optimiser": {"lr": 1e-3}},
    {"name": "joint", "epochs": 1, "anchor": 1.0, "visibility": 0.5, "prompt": 0.3, "optimiser": {"lr": 1e-3}},
]


@pytest.fixture(scope="module")
def start(people: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone that has no head, its batch norms set to the statistics of the people."""
    torch.manual_seed(3)
    backbone = build_backbone("osnet_x0_25")
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    crops, _, _ = read_crops(people.train)
    plain = TrainTransform(TransformSettings(size=(64, 32), flip=0, pad=0, erasing=None), crops)
    data = CropDataset(crops, [0] * len(crops), plain)
    with torch.no_grad():
        backbone.train()(torch.stack([data[(row, 0)].pixels for row in range(len(crops))]))
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    save_file(backbone.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def seeing(
    small: Any, people: Dataset, start: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Recipe, Trained]:
    """PCB through a stage that teaches the head, one on cached maps and a joint one."""
    recipe = small(
        "pcb",
        STAGES,
        options={"strips": 2, "dim": 8},
        visibility=True,
        start=str(start),
        transforms=COVERED,
        validation={"identities": 2},
        sampling={"people": 0, "crops": 8},
    )
    return recipe, train(recipe, people, tmp_path_factory.mktemp("seeing") / "run", progress=False)


def _differ(one: dict[str, Tensor], two: dict[str, Tensor]) -> set[str]:
    return {name for name in one if not torch.equal(one[name], two[name])}


def test_each_stage_teaches_what_it_says(seeing: tuple[Recipe, Trained], start: Path) -> None:
    _, trained = seeing
    first, heads, joint = (stage_weights(trained.last.parent, name) for name in ("0-visibility", "1-heads", "2-joint"))
    head = {name for name in first if name.startswith("backbone.visibility.")}
    given = load_file(start)
    assert {f"backbone.{name}" for name in given} == {name for name in first if name.startswith("backbone.")} - head
    assert all(torch.equal(first[f"backbone.{name}"], value) for name, value in given.items())
    # On cached maps only PCB's own heads learn, in the joint stage the backbone and the visibility head do too.
    assert {name.split(".")[0] for name in _differ(first, heads)} == {"reduce", "norm", "classifiers"}
    changed = _differ(heads, joint)
    assert head <= changed
    assert {"backbone.stem.weight", "backbone.stage3.1.expand.conv.weight", "reduce.weight"} <= changed


def test_the_visibility_stage_has_one_loss_which_falls_and_nothing_to_validate(
    seeing: tuple[Recipe, Trained],
) -> None:
    _, trained = seeing
    alone = logged(trained.last.parent, "visibility")
    assert {name for name in alone if name.startswith("loss/")} == {"loss/visibility"}
    assert not [name for name in alone if name.startswith("val/")]
    losses = alone["loss/visibility"]
    assert alone["loss_epoch"] == pytest.approx(losses, rel=1e-5)
    assert sum(losses[-3:]) < 0.75 * sum(losses[:3])
    metrics = trained.last.parent / "stages" / "0-visibility" / "metrics.json"
    assert json.loads(metrics.read_text()) == {}
    joint = logged(trained.last.parent, "joint")
    assert {name for name in joint if name.startswith("loss/")} == {"loss/id", "loss/anchor", "loss/visibility"}
    terms = [joint[f"loss/{name}"][0] for name in ("id", "anchor", "visibility")]
    assert sum(terms) == pytest.approx(joint["loss_epoch"][0], rel=1e-5)
    assert joint["val/score"] == [pytest.approx(trained.metrics["score"], abs=1e-6)]


def test_trainings_of_several_methods_share_the_head(small: Any, people: Dataset, tmp_path: Path) -> None:
    def run(method: str, name: str, **changes: Any) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
        stages = [{"name": "head", "epochs": 1, "learns": "visibility"}, {"epochs": 1, "cached": 1}]
        recipe = small(method, stages, visibility=True, **changes)
        trained = train(recipe, people, tmp_path / name, cache=tmp_path / "cache", progress=False)
        assert (tmp_path / name / "stages" / "0-head" / "weights.safetensors").exists()
        tensors = load_file(trained.best)
        return {k: v for k, v in tensors.items() if k.startswith("backbone.visibility")}, trained.notes

    first, notes = run("baseline", "first")
    (kept,) = (tmp_path / "cache").glob("head-*")
    assert not [note for note in notes if "taken from" in note]
    second, notes = run("pcb", "second", options={"strips": 2, "dim": 8})
    assert f"stage 'head': taken from {kept}." in notes
    assert not (tmp_path / "second" / "logs" / "head").exists()
    assert all(torch.equal(first[name], second[name]) for name in first)
    run("baseline", "third", seed=1)  # other numbers, and so another head
    assert len(list((tmp_path / "cache").glob("head-*"))) == 2


def test_on_people_it_has_not_seen_it_finds_covers_more_often_than_chance_would(
    seeing: tuple[Recipe, Trained], people: Dataset
) -> None:
    recipe, trained = seeing
    model = glimpse.load(trained.last, precision="float32")
    model.method.load_state_dict(stage_weights(trained.last.parent, "0-visibility"))
    crops, _, _ = read_crops([*people.query, *people.gallery])
    occlusion = recipe.transforms.occlusion
    assert occlusion is not None
    settings = recipe.transforms.model_copy(
        update={"mean": model.card.mean, "std": model.card.std, "occlusion": occlusion.model_copy(update={"p": 1.0})}
    )
    data = CropDataset(crops, [0] * len(crops), TrainTransform(settings, crops))
    items = [data[(row, 1000 * turn + row)] for row in range(len(crops)) for turn in range(4)]
    with torch.no_grad():
        look = model.method.eval().backbone.look(torch.stack([item.pixels for item in items]))
    assert look.seen is not None
    truth = F.adaptive_avg_pool2d(torch.stack([item.visible for item in items])[:, None], (4, 2))[:, 0]
    plain = (truth < 0.05) | (truth > 0.95)
    right = ((look.seen > 0.5) == (truth > 0.5))[plain].float().mean()
    most = max(float((truth[plain] > 0.5).float().mean()), float((truth[plain] < 0.5).float().mean()))
    assert 0.45 < most < 0.6  # what always saying the same would get
    assert float(right) > most + 0.25


def test_the_card_knows_of_the_head_and_what_is_loaded_uses_it(seeing: tuple[Recipe, Trained], people: Dataset) -> None:
    recipe, trained = seeing
    model = glimpse.load(trained.last, precision="float32")
    assert model.card.visibility
    assert recipe.visibility
    weights = model.embed_samples(people.query).embedding["weights"]
    # Without a prompt: what the head makes of each strip.
    assert bool(((weights > 0) & (weights < 1)).all())
    embedded = glimpse.load(trained.best, precision="float32").embed_samples(people.query)
    assert len(embedded.embedding) == len(people.query)


# ---------------------------------------------------------------- one stage


def _changed(stage: Stage, method: PCB | None = None) -> set[str]:
    """Names of the weights and statistics that a step of `stage` changes."""
    torch.manual_seed(0)
    method = method or PCB(build_backbone("osnet_x0_25", visibility=True), 4, PCBOptions(strips=2, dim=8))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    module = StageModule(method, stage)
    fit(module, a_batch())
    module.release()
    assert all(p.requires_grad for p in method.parameters())
    return _differ(before, method.state_dict())


def test_a_visibility_stage_changes_nothing_but_the_head() -> None:
    torch.manual_seed(0)
    method = PCB(build_backbone("osnet_x0_25", visibility=True), 4, PCBOptions(strips=2, dim=8))
    changed = _changed(Stage(epochs=1, learns="visibility"), method)
    assert changed == {name for name in method.state_dict() if name.startswith("backbone.visibility.")}
    assert all(p.grad is None for n, p in method.named_parameters() if not n.startswith("backbone.visibility."))


def test_its_loss_is_that_of_the_head_alone() -> None:
    torch.manual_seed(0)
    backbone, batch = build_backbone("osnet_x0_25", visibility=True), a_batch()
    module = StageModule(Baseline(backbone, 4), Stage(epochs=1, learns="visibility"))
    module._set_modes()
    assert backbone.visibility is not None
    with torch.no_grad():
        look = backbone.look(batch.pixels)
        assert look.logits is not None
        expected = float(backbone.visibility.loss(look.logits, batch.visible))
    assert fit(module, batch) == pytest.approx(expected, rel=1e-4)


def test_a_head_that_a_stage_does_not_teach_stands_still() -> None:
    """Its batch norms too: their statistics are part of what it learned."""
    still = {name for name in _changed(Stage(epochs=1)) if "visibility" in name}
    assert still == set()
    assert {name for name in _changed(Stage(epochs=1, visibility=1.0)) if "visibility" in name}


@pytest.mark.parametrize("part", ["visibility", "all"])
def test_a_frozen_head_cannot_be_taught(part: str) -> None:
    with pytest.raises(ValueError, match="a frozen visibility head cannot learn"):
        Stage(epochs=1, freeze=(part,), visibility=1.0)


def test_the_weight_scales_the_heads_loss() -> None:
    def loss(weight: float) -> float:
        torch.manual_seed(0)
        method = PCB(build_backbone("osnet_x0_25", visibility=True), 4, PCBOptions(strips=2, dim=8, dropout=0))
        return fit(StageModule(method, Stage(epochs=1, visibility=weight)), a_batch())

    one, two, four = loss(1.0), loss(2.0), loss(4.0)
    assert two - one > 0.1
    assert four - two == pytest.approx(2 * (two - one), rel=1e-3)


def test_heads_are_given_what_the_head_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Tensor | None] = []
    heads = PCB.heads

    def noted(self: PCB, features: Tensor, visible: Tensor | None = None, cues: Cues | None = None) -> Any:
        given.append(visible)
        return heads(self, features, visible, cues)

    monkeypatch.setattr(PCB, "heads", noted)
    _changed(Stage(epochs=1, visibility=1.0, optimiser=Optimiser(lr=1e-3)))
    (seen,) = given
    assert seen is not None
    assert seen.shape == (8, 4, 2)
    assert not seen.requires_grad
    assert bool(((seen > 0) & (seen < 1)).all())
    torch.manual_seed(0)
    _changed(Stage(epochs=1), PCB(build_backbone("osnet_x0_25"), 4, PCBOptions(strips=2, dim=8)))
    assert given[1] is None


# ---------------------------------------------------------------- cached maps


@pytest.mark.parametrize("prompt", [0.0, 0.5])
def test_cached_passes_keep_what_the_head_saw(prompt: float, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    crops = [torch.from_numpy(random.integers(0, 256, (3, 64, 32), dtype=np.uint8)) for _ in range(5)]
    settings = TransformSettings(size=(64, 32), erasing=None, occlusion=Occlusion(p=1.0, kinds={"grey": 1.0}))
    data = CropDataset(crops, list(range(5)), TrainTransform(settings, crops))
    torch.manual_seed(0)
    backbone = build_backbone("osnet_x0_25", visibility=True).eval()
    cached = MapPass(tmp_path, {"a": 1}, 5)
    cached.make(backbone, data, seed=2, prompt=prompt)
    items = [data[(row, 2 * 5 + row)] for row in range(5)]
    images, visible = (torch.stack([item[i] for item in items]) for i in (0, 1))
    shown = None
    if prompt:
        images, shown = give_prompts(images, visible, prompt, torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = backbone.look(images, shown).seen
    assert expected is not None
    found = MapDataset([cached.open()], list(range(5)))
    seen = torch.stack([found[(row, 0)].visible for row in range(5)])
    assert seen.shape == (5, 4, 2)
    # Both are of the head, whose judgement bfloat16 and half precision round, and neither is the truth.
    assert torch.allclose(seen, expected, atol=0.05)
    truth = F.adaptive_avg_pool2d(visible[:, None], (4, 2))[:, 0]
    assert bool(((seen - truth).abs() > 0.2).any())
    module = StageModule(Baseline(backbone, 5), Stage(epochs=1, cached=1))
    look = module.look(Batch(*(torch.stack(part) for part in zip(*(found[(row, 0)] for row in range(5)), strict=True))))
    assert isinstance(look, Look)
    assert look.seen is not None
    assert torch.equal(look.seen, seen)
    assert look.logits is None
