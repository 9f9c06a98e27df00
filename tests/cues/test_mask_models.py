"""Estimators of body parts, on networks whose answer is known: they sort by colour."""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from PIL import Image, ImageOps

from glimpse.cues.mask_models import DeepLab, Schp, SegFormerClothes
from glimpse.cues.parts import ATR_18, LIP_20, PERSON
from glimpse.data import open_dataset, read_image
from glimpse.errors import ConfigError
from glimpse.synthetic.people import render_person

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def halves(size: tuple[int, int], upper, lower, row: int) -> Image.Image:
    pixels = np.empty((*size, 3), np.uint8)
    pixels[:row], pixels[row:] = upper, lower
    return Image.fromarray(pixels)


# DeepLab


class RedFinder:
    """A TFLite interpreter to which red is a person, white a horse, and the rest background."""

    labelled = True

    def __init__(self, model_path: str, num_threads: int) -> None:
        self.picture = np.zeros(0)

    def allocate_tensors(self) -> None:
        pass

    def get_input_details(self):
        return [{"index": 0, "dtype": np.uint8, "shape": np.array((1, 128, 128, 3))}]

    def get_output_details(self):
        kind, shape = (np.int64, (1, 128, 128)) if self.labelled else (np.uint8, (1, 64, 64, 21))
        return [{"index": 1, "dtype": kind, "shape": np.array(shape)}]

    def set_tensor(self, index: int, value: np.ndarray) -> None:
        self.picture = value[0]

    def invoke(self) -> None:
        pass

    def get_tensor(self, index: int) -> np.ndarray:
        red, green = (self.picture[..., channel] > 128 for channel in (0, 1))
        labels = np.where(red & green, 13, np.where(red, 15, 0))
        return labels[None] if self.labelled else (200 * np.eye(21, dtype=np.uint8)[labels[::2, ::2]])[None]


@pytest.fixture(params=["labels", "scores"])
def red_finder(request, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(RedFinder, "labelled", request.param == "labels")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", SimpleNamespace(Interpreter=RedFinder))
    path = tmp_path / "deeplab.tflite"
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize("crop", [(64, 32), (128, 64), (96, 120)])
def test_deeplab_gives_the_person_at_the_crops_size(crop, red_finder):
    pixels = np.zeros((*crop, 3), np.uint8)
    pixels[crop[0] // 4 : crop[0] // 2, crop[1] // 8 : crop[1] // 2] = RED
    pixels[-crop[0] // 4 :] = 255  # a horse is not a person
    found = pickle.loads(pickle.dumps(DeepLab(red_finder, fill=1))).parts(Image.fromarray(pixels))
    assert (found.scheme, found.size) == (PERSON, crop)
    expected = (pixels[..., 0] == 255) & (pixels[..., 1] == 0)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(expected, 1, "edge"), (3, 3))
    inner = around.all((2, 3)) | ~around.any((2, 3))  # the edge may be one pixel off, where a cell is as large
    np.testing.assert_array_equal(found.mask()[inner], expected[inner])


def test_deeplab_shows_the_network_a_smaller_person(red_finder):
    estimator = DeepLab(red_finder)
    found = estimator.parts(halves((128, 64), RED, BLUE, 64))
    seen = estimator._network._interpreter().picture
    assert seen[0, 0].tolist() == [127, 127, 127]
    assert np.argwhere((seen != 127).any(2))[[0, -1]].tolist() == [[32, 48], [95, 79]]
    assert found.mask()[2:62, 2:62].all()
    assert not found.mask()[66:].any()
    assert estimator.name == f"deeplab@{hashlib.sha256(b'weights').hexdigest()[:8]},fill=0.5"


@pytest.mark.parametrize("fill", [0, 1.1, -0.5])
def test_a_fill_out_of_range_is_told(fill):
    with pytest.raises(ConfigError, match=f"fill: {fill} is out of range. Remedy: give a number above 0 and up to 1"):
        DeepLab("a.tflite", fill=fill)


def test_deeplab_for_other_classes_is_told(red_finder, monkeypatch):
    details = [{"index": 1, "dtype": np.float32, "shape": np.array((1, 64, 64, 151))}]
    monkeypatch.setattr(RedFinder, "get_output_details", lambda self: details)
    said = r"deeplab.tflite: gives float32 \[1, 64, 64, 151\], and int \[1, h, w\] or \[1, h, w, 21\] is needed"
    with pytest.raises(ConfigError, match=said):
        DeepLab(red_finder)


# SCHP


def colour_network(path: Path, *, channels: int = 20, stride: int = 4, edges: bool = True, size=(473, 473)) -> Path:
    """Cell i sees input pixel 4 i. Label 5 grows with the first channel, 9 with the second, 16 with the third."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make = onnx.helper
    weight = np.zeros((channels, 3, 1, 1), np.float32)
    weight[[5, 9, 16], [0, 1, 2]] = 1
    constants = {"w": weight, "bias": np.full(channels, -1.5, np.float32), "first": -weight, "edge": weight[:2]}
    constants["bias"][[5, 9, 16]] = 0
    names = ["guess", "final", "edges"] if edges else ["final"]
    takes = {"guess": ["in", "first"], "final": ["in", "w", "bias"], "edges": ["in", "edge"]}
    nodes = [make.make_node("Conv", takes[name], [name], strides=[stride, stride]) for name in names]
    ends = [make.make_tensor_value_info("in", 1, (1, 3, *size))]
    ends += [make.make_tensor_value_info(name, 1, None) for name in names]
    used = [name for name in constants if any(name in takes[output] for output in names)]
    tensors = [onnx.numpy_helper.from_array(constants[name], name) for name in used]
    graph = make.make_graph(nodes, "colours", ends[:1], ends[1:], tensors)
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize("bgr", [True, False])
def test_schp_takes_the_final_maps_and_the_order_of_colours_that_is_said(bgr, tmp_path):
    path = colour_network(tmp_path / "schp.onnx")
    estimator = Schp(path, bgr=bgr)
    found = pickle.loads(pickle.dumps(estimator)).parts(halves((128, 64), RED, GREEN, 50))
    first = LIP_20.labels.index("right_leg") - 1 if bgr else LIP_20.labels.index("upper_clothes")
    assert (found.scheme, found.size) == (LIP_20, (128, 64))
    assert np.unique(found.labels[:49]).tolist() == [first]
    assert np.unique(found.labels[51:]).tolist() == [LIP_20.labels.index("pants")]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert estimator.name == f"schp@{digest},473x473,{'bgr' if bgr else 'rgb'}"


def test_schps_edges_lie_where_they_are(tmp_path):
    """Over many places of an edge the mean is right to a tenth of a pixel."""
    estimator = Schp(colour_network(tmp_path / "schp.onnx"))
    off = []
    for row in range(20, 108):
        found = estimator.parts(halves((128, 64), GREEN, RED, row)).labels
        off.append((found[:, 32] == LIP_20.labels.index("pants")).sum() - row)
        across = estimator.parts(halves((64, 128), GREEN, RED, row // 2).transpose(Image.Transpose.TRANSPOSE)).labels
        off.append((across[64] == LIP_20.labels.index("pants")).sum() - row // 2)
    assert np.abs(off).max() <= 1
    assert abs(np.mean(off)) < 0.1


def test_schp_for_other_labels_is_told(tmp_path):
    path = colour_network(tmp_path / "schp.onnx", channels=18, edges=False, size=(64, 64))
    with pytest.raises(ConfigError, match=r"schp.onnx: gives float \[1, 18, 16, 16\], and \[1, 20, h, w\] is needed"):
        Schp(path)


# SegFormer

LABELS = (
    *("Background", "Hat", "Hair", "Sunglasses", "Upper-clothes", "Skirt", "Pants", "Dress", "Belt"),
    *("Left-shoe", "Right-shoe", "Face", "Left-leg", "Right-leg", "Left-arm", "Right-arm", "Bag", "Scarf"),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A tiny SegFormer with random weights, as transformers saves it."""
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=8,
        id2label=dict(enumerate(LABELS)),
    )
    folder = tmp_path_factory.mktemp("segformer")
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    transformers.SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of it."""
    copy = tmp_path / "model"
    copy.mkdir()
    for path in saved.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def test_segformer_gives_the_labels_of_its_highest_scores(saved):
    import torch
    import transformers

    pixels = np.random.default_rng(0).integers(0, 256, (8, 4, 3), dtype=np.uint8)
    crop = Image.fromarray(pixels).resize((32, 64), Image.Resampling.BICUBIC)
    estimator = pickle.loads(pickle.dumps(SegFormerClothes(saved)))
    found = estimator.parts(crop)
    assert (found.scheme, found.size) == (ATR_18, (64, 32))
    network = transformers.SegformerForSemanticSegmentation.from_pretrained(saved).eval()
    processor = transformers.SegformerImageProcessor.from_pretrained(saved)
    with torch.no_grad():
        outputs = network(**processor(images=crop, return_tensors="pt"))
    (expected,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[(64, 32)])
    assert len(np.unique(expected)) > 1
    assert np.mean(found.labels == expected.numpy()) > 0.99
    files = [saved / name for name in ("model.safetensors", "config.json", "preprocessor_config.json")]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:8]
    assert estimator.name == f"segformer@{digest}"


def test_segformer_leaves_torchs_threads_as_they_were(saved):
    import torch

    before = torch.get_num_threads()
    SegFormerClothes(saved, threads=before + 1).parts(Image.new("RGB", (8, 8)))
    assert torch.get_num_threads() == before


def test_a_model_of_the_hub_is_named_with_its_commit(folder, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = folder.rename(tmp_path / commit)
    asked = []

    def download(model, *, revision, allow_patterns):
        asked.append((model, revision, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    name = SegFormerClothes(revision="v1").name
    assert name == f"{SegFormerClothes(snapshot).name},mattmdjaga+segformer_b2_clothes,0123456789ab"
    (model, revision, patterns) = asked[0]
    assert (model, revision) == ("mattmdjaga/segformer_b2_clothes", "v1")
    assert not any("bin" in pattern or "pt" in pattern or ".py" in pattern for pattern in patterns)


def test_a_model_that_cannot_be_downloaded_is_told(monkeypatch):
    def offline(model, **_):
        raise huggingface_hub.errors.LocalEntryNotFoundError("Cannot find the snapshot.\nCheck your connection.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ConfigError) as caught:
        SegFormerClothes()
    assert caught.value.where == "mattmdjaga/segformer_b2_clothes (main)"
    assert caught.value.cause == "cannot be downloaded (Cannot find the snapshot)"
    assert caught.value.remedy.startswith(
        "connect this machine, or download the model on another one and give its folder"
    )


def test_a_text_that_is_neither_folder_nor_model_is_told():
    with pytest.raises(
        ConfigError, match=r"^\./no/such: is no folder, and no name of a model. Remedy: give a folder, or"
    ):
        SegFormerClothes("./no/such")


def change(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": "beit"}, "config.json: is of a 'beit', and a 'segformer' is needed. Remedy: give a SegFormer"),
        ({"id2label": {"0": "wall", "1": "sky"}}, "has the labels wall, sky; needed are background, hat, hair"),
        ({"id2label": {"1": "wall"}}, r"does not say what the network is \(model_type, id2label\)"),
        ({"id2label": None}, r"does not say what the network is \(model_type, id2label\)"),
    ],
)
def test_another_network_is_told(values, said, folder):
    change(folder, **values)
    with pytest.raises(ConfigError, match=said):
        SegFormerClothes(folder)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_file_that_is_missing_is_told(name, folder):
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=rf"{name}: cannot be read \(No such file"):
        SegFormerClothes(folder)


def test_weights_of_another_format_are_not_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"has no model.safetensors. Remedy: save the network as safetensors"):
        SegFormerClothes(folder)


def test_damaged_weights_are_told(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match=rf"{folder}: cannot be opened \(.+\)\. Remedy: download it again"):
        SegFormerClothes(folder)


def test_weights_that_are_missing_are_not_replaced_by_random_ones(folder):
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    kept = {name: value for name, value in load_file(path).items() if not name.startswith("decode_head.classifier")}
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks weights \(decode_head.classifier.bias and 1 more\)"):
        SegFormerClothes(folder)


def test_transformers_missing_is_told(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"transformers is not installed .*glimpse-reid\[parsing\]"):
        SegFormerClothes(folder)


# Real weights


@pytest.fixture(scope="module")
def deeplab(models: Path) -> DeepLab:
    path = models / "deeplabv3_mnv2_pascal_quant.tflite"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    pytest.importorskip("ai_edge_litert")
    return DeepLab(path)


@pytest.mark.real_data
def test_deeplab_finds_most_rendered_people(deeplab):
    """They are not photographs: it finds most of them, and what it finds is on them."""
    crops = [render_person(k, k, camera=1 + k % 6, size=(256, 128)) for k in range(1, 21)]
    found = [deeplab.parts(crop.image).mask() for crop in crops]
    both = np.array([(mask & crop.figure).sum() for mask, crop in zip(found, crops)])
    either = np.array([(mask | crop.figure).sum() for mask, crop in zip(found, crops)])
    assert np.median(both / either) > 0.45
    assert np.mean(both / either > 0.5) >= 0.5
    inside = [hit / mask.sum() for hit, mask in zip(both, found) if mask.any()]
    assert np.median(inside) > 0.8


@pytest.mark.real_data
def test_deeplab_finds_people_in_the_middle_of_real_crops_also_when_mirrored(deeplab, shared):
    path = shared / "data" / "Market-1501-v15.09.15.zip"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    crops = [read_image(sample) for sample in open_dataset(f"market1501:{path}").query[::240]]
    found = np.stack([deeplab.parts(crop).mask() for crop in crops])
    mirrored = np.stack([deeplab.parts(ImageOps.mirror(crop)).mask()[:, ::-1] for crop in crops])
    share = found.mean((1, 2))
    assert np.mean((share > 0.1) & (share < 0.9)) >= 0.8
    columns = [np.argwhere(mask)[:, 1].mean() + 0.5 for mask in found if mask.any()]
    assert abs(np.median(columns) - 32) < 6
    overlap = (found & mirrored).sum((1, 2)) / np.maximum((found | mirrored).sum((1, 2)), 1)
    assert np.median(overlap) > 0.75
