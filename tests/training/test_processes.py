"""Several processes: as one process would, on a batch of as many crops."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from steps import fit
from torch import Tensor, nn

import glimpse
from glimpse.backbones import Backbone, Look, VisibilityHead
from glimpse.data import Dataset
from glimpse.errors import DataError
from glimpse.methods import PCB, PCBOptions
from glimpse.training import train
from glimpse.training.crops import Batch
from glimpse.training.module import StageModule
from glimpse.training.processes import Place, launch
from glimpse.training.recipe import Optimiser, Stage

CROPS = 8


class Patches(Backbone):
    """A backbone without batch norms, which see the crops of their own process only."""

    channels = 6

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 8, stride=8)

    def look(self, x: Tensor, visible: Tensor | None = None) -> Look:
        features = self.conv(x)
        return Look(features, *self.see(features, visible))


class Cells(VisibilityHead):
    """A head without batch norms, for the same reason."""

    def __init__(self) -> None:
        super().__init__(6)
        self.layers, self.last = nn.Sequential(), nn.Conv2d(6, 1, 1, bias=False)


def seeing() -> Patches:
    backbone = Patches()
    backbone.visibility = Cells()
    return backbone


def one_step(place: Place) -> tuple[dict[str, Tensor], float]:
    """Weights after a step of SGD on a fixed batch, of which each process has its share, and the loss before it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    method = PCB(seeing(), 4, PCBOptions(strips=2, dim=5, dropout=0.5))
    images = torch.randn(CROPS, 3, 32, 16)
    visible = torch.ones(CROPS, 32, 16)
    visible[1, 16:] = visible[6, :, 8:] = visible[7, 8:] = 0  # more is hidden from the second process than the first
    corners = torch.tensor([[0.0, 0.0], [16.0, 32.0]]).repeat(CROPS, 1, 1)
    rows = torch.arange(CROPS)
    share = rows.chunk(place.world)[place.rank]
    batch = Batch(images[share], visible[share], (rows // 2)[share], share, corners[share])
    how = Optimiser(kind="sgd", lr=0.5, momentum=0, schedule="constant")
    stage = Stage(epochs=1, anchor=3.0, visibility=2.0, optimiser=how)
    anchors = np.random.default_rng(0).normal(size=(CROPS, 6, 4, 2)).astype(np.float16)
    module = StageModule(method, stage, anchors=anchors, seed=3)
    strategy = "ddp" if place.world > 1 else "auto"
    loss = fit(module, batch, devices=place.world, strategy=strategy, use_distributed_sampler=False)
    return {k: v.detach().clone() for k, v in method.state_dict().items()}, loss


def test_two_processes_learn_what_one_would() -> None:
    """Loss and gradients (in what a step of SGD does) are those of one process with the whole batch: losses, dropout,
    the heads' batch norms, the anchor and the visibility head see all crops."""
    (one, loss), (two, loss_of_two) = one_step(Place()), launch(one_step, 2)
    assert loss_of_two == pytest.approx(loss, rel=1e-5)
    start = PCB(seeing(), 4, PCBOptions(strips=2, dim=5)).state_dict()
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=1e-5, rtol=1e-5), name
        assert not value.is_floating_point() or not torch.equal(value, start[name])


def one_fails(place: Place) -> None:
    if place.rank == 1:
        raise DataError("crops/7.jpg", "the file is truncated", "copy it again")
    place.wait()


def test_an_error_of_one_process_ends_all_and_is_handed_on() -> None:
    with pytest.raises(DataError) as told:
        launch(one_fails, 2)
    assert (told.value.where, told.value.cause, told.value.remedy) == (
        "crops/7.jpg",
        "the file is truncated",
        "copy it again",
    )
    assert "LOCAL_RANK" not in os.environ


def test_training_in_two_processes_from_recipe_to_weights(small: Any, people: Dataset, tmp_path: Path) -> None:
    optimiser = {"lr": 1e-3}
    recipe = small(
        "pcb",
        [
            {"name": "ide", "epochs": 1, "method": "baseline", "optimiser": optimiser},
            {"name": "visibility", "epochs": 1, "learns": "visibility", "optimiser": optimiser},
            {"name": "heads", "epochs": 1, "cached": 1, "prompt": 0.5, "optimiser": optimiser},
            {"name": "joint", "epochs": 2, "prompt": 0.5, "anchor": 1.0, "visibility": 0.5, "optimiser": optimiser},
        ],
        visibility=True,
        options={"strips": 2, "dim": 16},
        transforms={"size": [64, 32], "pad": 2, "occlusion": {"p": 0.5}},
        sampling={"people": 2, "crops": 2},
        validation={"identities": 2},
        precision="bfloat16",
        workers=1,
    )
    trained = train(recipe, people, tmp_path / "run", devices=2)  # with a progress bar, which the first process has
    assert 0 <= trained.metrics["score"] <= 1
    model = glimpse.load(trained.last)
    assert len(model.embed_samples(people.query).embedding) == len(people.query)
    assert "2 processes" in model.card.machine
    ide, joint = (
        load_file(tmp_path / "run" / "stages" / name / "weights.safetensors") for name in ("0-ide", "3-joint")
    )
    assert not torch.equal(ide["backbone.final.conv.weight"], joint["backbone.final.conv.weight"])
    # 16 crops in batches of 2 x 4: two steps an epoch.
    assert int(joint["norm.num_batches_tracked"]) == 2 * 3
    assert not list((tmp_path / "run").rglob(".*"))
