"""One stage: the rate of learning, anchors, what is frozen, a loss that is not finite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from steps import a_batch, bare_trainer, fit
from torch import Tensor, nn
from torch.nn import functional as F

from glimpse.backbones import Backbone, Look, build_backbone
from glimpse.data.transforms import Occlusion, TrainTransform, TransformSettings, Zoom
from glimpse.errors import ConfigError
from glimpse.methods import Baseline, BaselineOptions
from glimpse.training.crops import Batch, CropDataset
from glimpse.training.module import StageModule, frozen_modules, make_optimiser, rate
from glimpse.training.recipe import Optimiser, Stage


def _rates(how: Optimiser, total: int, per_epoch: int) -> list[float]:
    return [round(rate(how, step, total, per_epoch), 6) for step in range(total)]


def test_rates_by_hand() -> None:
    assert _rates(Optimiser(schedule="constant"), 4, 2) == [1, 1, 1, 1]
    assert _rates(Optimiser(schedule="step", every=1, gamma=0.5), 6, 2) == [1, 1, 0.5, 0.5, 0.25, 0.25]
    cosine = _rates(Optimiser(schedule="cosine"), 4, 2)
    assert cosine == [round(0.5 * (1 + math.cos(math.pi * k / 4)), 6) for k in range(4)]
    # One epoch of four steps to warm up: a hundredth, then linearly to 1, from where the cosine falls over four steps.
    warm = _rates(Optimiser(schedule="cosine", warmup=1), 8, 4)
    assert warm[:4] == [0.01, 0.2575, 0.505, 0.7525]
    assert warm[4:] == cosine
    # Steps are counted from the start of the stage, warm-up included.
    assert _rates(Optimiser(schedule="step", every=2, gamma=0.1, warmup=1), 6, 2)[2:] == [1, 1, 0.1, 0.1]


def test_a_cosine_may_begin_late_and_end_above_zero() -> None:
    how = Optimiser(schedule="cosine", warmup=1, hold=2, least=0.2)
    assert _rates(how, 8, 2)[:4] == [0.01, 0.505, 1, 1]
    assert _rates(how, 8, 2)[4:] == [round(0.2 + 0.4 * (1 + math.cos(math.pi * k / 4)), 6) for k in range(4)]
    assert rate(how, 8, 8, 2) == pytest.approx(0.2)


def test_a_cosine_ends_at_zero_even_when_all_is_warm_up() -> None:
    assert rate(Optimiser(schedule="cosine"), 10, 10, 5) == 0
    assert rate(Optimiser(schedule="cosine", warmup=2), 10, 10, 5) == 1


@pytest.mark.parametrize(("kind", "expected"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_optimisers_by_name(kind: Any, expected: type) -> None:
    optimiser = make_optimiser(Optimiser(kind=kind, weight_decay=0.1), [{"params": [nn.Parameter(torch.ones(1))]}])
    assert type(optimiser) is expected
    assert optimiser.defaults["weight_decay"] == 0.1
    assert type(make_optimiser(Optimiser(), [{"params": [nn.Parameter(torch.ones(1))]}])) is torch.optim.AdamW


def test_frozen_parts_are_named() -> None:
    backbone = build_backbone("osnet_x0_25")
    assert frozen_modules(backbone, ("stem", "stage1")) == [backbone.stem, backbone.stage1]
    assert frozen_modules(backbone, ("all",)) == [backbone]
    assert frozen_modules(build_backbone("mobilenetv2_100"), ("conv_stem",))
    watched = build_backbone("mobilenetv2_100", visibility=True)
    assert frozen_modules(watched, ("visibility",)) == [watched.visibility]
    with pytest.raises(ConfigError, match=r"no part 'layer1'.*choose from all, stem"):
        frozen_modules(backbone, ("layer1",))


class Pooling(Backbone):
    """A backbone that sees nothing but colours: means of 8 x 8 pixels."""

    channels = 3

    def look(self, x: Tensor, visible: Tensor | None = None) -> Look:
        return Look(F.avg_pool2d(x, 8), visible)


def _anchored(settings: TransformSettings, corners_known: bool = True) -> float:
    """The anchor's loss of a backbone that has not changed, on a crop whose colours change linearly."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(32), indexing="ij")
    crop = torch.stack((40 + 6 * x, 240 - 3 * y, torch.full_like(x, 120))).to(torch.uint8)
    plain = TransformSettings(size=(64, 32), flip=0, pad=0, erasing=None, mean=(0, 0, 0), std=(1, 1, 1))
    clear = CropDataset([crop], [0], TrainTransform(plain))[(0, 0)]
    moved = CropDataset([crop], [0], TrainTransform(settings, [crop]))[(0, 3)]
    backbone = Pooling()
    module = StageModule(
        Baseline(backbone, 1),
        Stage(epochs=1, anchor=1.0),
        anchors=backbone(clear.pixels[None]).half().numpy(),
    )
    module.trainer = bare_trainer()
    batch = Batch(*(torch.stack([item]) for item in moved))
    if not corners_known:
        batch = batch._replace(corners=clear.corners[None])
    return float(module._anchor(backbone(batch.pixels), batch))


STILL = TransformSettings(size=(64, 32), flip=0, pad=0, erasing=None, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.mark.parametrize(
    ("changes", "near"),
    [
        ({}, 1e-6),
        ({"flip": 1.0}, 1e-6),
        ({"pad": 8}, 2e-4),
        ({"flip": 1.0, "pad": 8}, 2e-4),
        ({"zoom": Zoom(p=1.0, keep=(0.5, 0.6))}, 5e-4),
        ({"occlusion": Occlusion(p=1.0, fraction=(0.5, 0.5), kinds={"grey": 1.0}, sides={"bottom": 1.0})}, 1e-6),
    ],
)
def test_an_unchanged_backbone_has_no_anchor_loss(changes: dict[str, Any], near: float) -> None:
    settings = STILL.model_copy(update=changes)
    assert abs(_anchored(settings)) < near
    if "occlusion" not in changes and changes:
        # The corners do this: were the crop taken for unmoved, the loss would be far larger.
        assert _anchored(settings, corners_known=False) > 10 * near


def test_the_anchor_pulls_at_a_backbone_that_has_changed() -> None:
    settings = STILL
    crop = torch.zeros(3, 64, 32, dtype=torch.uint8)
    crop[0] = 200
    batch = Batch(*(torch.stack([item]) for item in CropDataset([crop], [0], TrainTransform(settings))[(0, 0)]))
    clear = np.zeros((1, 3, 8, 4), np.float16)
    clear[:, 1] = 1  # the start saw green where this backbone sees red
    module = StageModule(Baseline(Pooling(), 1), Stage(epochs=1, anchor=1.0), anchors=clear)
    module.trainer = bare_trainer()
    assert float(module._anchor(Pooling()(batch.pixels), batch)) == pytest.approx(1.0)


def test_frozen_parts_keep_weights_and_statistics() -> None:
    backbone = build_backbone("osnet_x0_25")
    method = Baseline(backbone, 4)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    module = StageModule(method, Stage(epochs=1, freeze=("stem", "stage1")))
    fit(module, a_batch())
    after = method.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert not {k for k in changed if k.startswith(("backbone.stem.", "backbone.stage1."))}
    assert {"neck.weight", "neck.running_mean", "backbone.final.bn.running_var", "classifier.weight"} <= changed
    # The neck's bias never learns; what was frozen for the stage does so again in the next.
    module.release()
    assert {n for n, p in method.named_parameters() if not p.requires_grad} == {"neck.bias"}
    assert not bool(method.neck.bias.any())


def test_a_stage_hands_on_the_running_mean_of_its_weights() -> None:
    """Of each step's weights w, mean <- mean + (1 - d) (w - mean), d = min(average, (1 + steps) / (10 + steps))."""

    def run(average: float) -> tuple[dict[str, Tensor], list[dict[str, Tensor]], StageModule]:
        torch.manual_seed(0)
        method = Baseline(build_backbone("osnet_x0_25"), 4)
        begin = {k: v.clone() for k, v in method.state_dict().items()}
        seen: list[dict[str, Tensor]] = []
        module = StageModule(method, Stage(epochs=1, average=average))
        end = module.on_train_batch_end

        def noted(*args: Any) -> None:
            seen.append({k: v.detach().clone() for k, v in method.state_dict().items()})
            end(*args)

        module.on_train_batch_end = noted  # type: ignore[method-assign]
        fit(module, a_batch(), a_batch(), a_batch())
        return begin, seen, module

    begin, steps, module = run(0.25)
    expected = {k: v.double() for k, v in begin.items()}
    for number, weights in enumerate(steps, 1):
        decay = min(0.25, (1 + number) / (10 + number))
        expected = {k: v + (1 - decay) * (weights[k].double() - v) for k, v in expected.items()}
    judged = module.averaged().state_dict()
    assert module.averaged() is not module.method
    module.release()
    handed_on = module.method.state_dict()
    for name, value in expected.items():
        if begin[name].is_floating_point():
            assert torch.allclose(handed_on[name].double(), value, atol=1e-5, rtol=1e-4), name
        else:
            assert torch.equal(handed_on[name], steps[-1][name])
        assert torch.equal(judged[name], handed_on[name])
    assert not torch.equal(handed_on["classifier.weight"], steps[-1]["classifier.weight"])

    _, steps, module = run(0.0)
    assert module.averaged() is module.method
    module.release()
    assert torch.equal(module.method.state_dict()["classifier.weight"], steps[-1]["classifier.weight"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_loss_that_is_not_finite_names_stage_and_terms() -> None:
    batch = a_batch()
    batch.pixels[0] = math.inf
    module = StageModule(
        Baseline(build_backbone("osnet_x0_25"), 4, BaselineOptions(triplet=True)), Stage(name="joint", epochs=1)
    )
    with pytest.raises(ConfigError) as told:
        fit(module, batch)
    assert told.value.where == "stage 'joint', step 0"
    assert "(id" in told.value.cause
    assert "optimiser.lr" in told.value.remedy
