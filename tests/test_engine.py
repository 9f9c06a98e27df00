"""Backbones run by OpenVINO say what torch says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from glimpse import model as room
from glimpse.backbones import build_backbone
from glimpse.backbones.openvino import OpenVino
from glimpse.data import open_crops
from glimpse.errors import ConfigError, DataError
from glimpse.methods import Baseline
from glimpse.methods.qpm import QPM, QPMOptions
from glimpse.model import Card, Model

pytest.importorskip("openvino", reason="OpenVINO is not installed (extra cpu)")


def made(backbone: str = "osnet_x0_25", visibility: bool = False, **how) -> Model:
    torch.manual_seed(0)
    options = QPMOptions(strips=2, dim=8)
    method = QPM(build_backbone(backbone, visibility=visibility), 0, options)
    for name, buffer in method.named_buffers():  # as if trained: norms that do something
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            buffer.normal_(std=0.2)
    card = Card(
        method="qpm",
        options=options.model_dump(mode="json"),
        backbone=backbone,
        visibility=visibility,
        size=(64, 32),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )
    return Model(method, card, "qpm@test", **{"precision": "float32", "batch": 3} | how)


def crops(n: int) -> list[Image.Image]:
    random = np.random.default_rng(1)
    return [Image.fromarray(random.integers(256, size=(50, 24, 3), dtype=np.uint8)) for _ in range(n)]


def same(one: Model, two: Model, images: list[Image.Image], visible=None, atol: float = 2e-5) -> None:
    a, b = one.embed(images, visible), two.embed(images, visible)
    assert sorted(a.names) == sorted(b.names)
    for name in a.names:
        assert_close(a[name], b[name], rtol=0, atol=atol, msg=lambda said, name=name: f"{name}: {said}")


@pytest.mark.parametrize(
    ("backbone", "visibility"),
    [("osnet_x0_25", False), ("osnet_lct_x1_0", True), ("mobilenetv2_100", True), ("resnet50", False)],
)
def test_both_engines_embed_the_same_in_order(backbone, visibility):
    torch_made = made(backbone, visibility, engine="torch")
    same(torch_made, made(backbone, visibility, engine="openvino"), crops(20), atol=2e-4)


def test_one_crop_is_a_batch():
    same(made(engine="torch"), made(engine="openvino"), crops(1))


def test_crops_with_prompts_keep_their_place_among_the_others():
    prompts = [None] * 14
    prompts[4] = prompts[9] = (0, 0, 24, 25)
    same(made("osnet_lct_x1_0", engine="torch"), made("osnet_lct_x1_0", engine="openvino"), crops(14), prompts, 2e-4)


def test_bfloat16_is_near_float32():
    rough = made("osnet_lct_x1_0", engine="openvino", precision="bfloat16").embed(crops(6))
    exact = made("osnet_lct_x1_0", engine="torch").embed(crops(6))
    cosines = torch.nn.functional.cosine_similarity(rough["parts"], exact["parts"], dim=2)
    assert cosines.min() > 0.99


def test_only_large_jobs_are_compiled_for(monkeypatch):
    compiled = []

    class Counted(OpenVino):
        def __init__(self, *args, **how) -> None:
            compiled.append(1)
            super().__init__(*args, **how)

    monkeypatch.setattr(room, "OpenVino", Counted)
    monkeypatch.setattr(room, "_MANY", 8)
    model = made()
    model.embed(crops(7))
    assert not compiled
    model.embed(crops(8))
    model.embed(iter(crops(2)))  # nobody knows how many will come
    assert compiled == [1]


def test_torch_is_given_its_threads_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # with one there would be nothing to take
    try:
        model = made(engine="openvino")
        model.embed(crops(4))
        assert torch.get_num_threads() == 2
        with pytest.raises(DataError):
            model.embed([*crops(4), "no picture"])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_after_a_crop_that_could_not_be_read_the_next_job_is_its_own(tmp_path):
    """The batches before it were under way, and nobody fetched them."""
    for row, picture in enumerate(crops(30)):
        picture.save(tmp_path / f"{row:02}.png")
    samples = open_crops(tmp_path)
    (tmp_path / "08.png").write_bytes(b"no picture")
    torch_made, model = made("osnet_lct_x1_0", engine="torch"), made("osnet_lct_x1_0", engine="openvino")
    for _ in range(3):
        with pytest.raises(DataError, match=r"08\.png"):
            model.embed_samples(samples)
        found, expected = (m.embed_samples(samples[9:]).embedding for m in (model, torch_made))
        for name in expected.names:
            assert_close(found[name], expected[name], rtol=0, atol=2e-4)


def test_what_cannot_be_had_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"engine: 'tensorrt' is not known.*auto, torch, openvino"):
        made(engine="tensorrt")
    monkeypatch.setattr(room, "has_openvino", lambda: False)
    with pytest.raises(ConfigError, match=r"OpenVINO is not installed.*glimpse-reid\[cpu\]"):
        made(engine="openvino")
    assert made().engine == "torch"


def test_other_devices_have_engines_of_their_own():
    method = Baseline(build_backbone("osnet_x0_25"), 0)
    card = Card(method="baseline", backbone="osnet_x0_25", size=(64, 32), mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(ConfigError, match="'openvino' runs on the CPU only"):
        Model(method, card, "x@y", device="meta", engine="openvino")
