"""What estimators share: naming one, opening networks, and where a crop lies in an input."""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glimpse.cues.estimators import (
    KINDS,
    OnnxNetwork,
    PartEstimator,
    PerProcess,
    PointEstimator,
    TfliteNetwork,
    letterbox,
    open_estimator,
    weights_digest,
)
from glimpse.cues.parts import PERSON
from glimpse.cues.skeleton import COCO_17
from glimpse.errors import ConfigError

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def stand_in(monkeypatch, inputs, outputs) -> None:
    """An ai-edge-litert whose networks take and give tensors of such kinds and shapes."""

    def details(tensors):
        return [{"index": row, "dtype": kind, "shape": np.array(shape)} for row, (kind, shape) in enumerate(tensors)]

    class Interpreter:
        def __init__(self, model_path, num_threads, **options):
            self.threads = num_threads

        def allocate_tensors(self):
            pass

        def get_input_details(self):
            return details(inputs)

        def get_tensor_details(self):
            return [{"name": "add"} | entry for entry in details(inputs + outputs)]

        def get_output_details(self):
            return details(outputs)

    kinds = SimpleNamespace(BUILTIN_WITHOUT_DEFAULT_DELEGATES="plain")
    litert = SimpleNamespace(Interpreter=Interpreter, OpResolverType=kinds)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", litert)


def echo(path: Path, shape=(1, 3, "h", "w"), kind: int = 1) -> Path:
    """An ONNX file that gives what it takes."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    ends = [onnx.helper.make_tensor_value_info(name, kind, shape) for name in ("in", "out")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["in"], ["out"])], "echo", ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def weights(path: Path, data: bytes = b"weights") -> Path:
    path.write_bytes(data)
    return path


# Naming an estimator


def test_a_spec_opens_the_estimator_of_its_kind(tmp_path, monkeypatch):
    path = weights(tmp_path / "a.tflite")
    digest = hashlib.sha256(b"weights").hexdigest()[:8]
    stand_in(monkeypatch, [("uint8", (1, 192, 192, 3))], [("float32", (1, 1, 17, 3))])
    points = open_estimator(f"movenet:{path}")
    assert (points.name, points.skeleton) == (f"movenet@{digest}", COCO_17)
    assert isinstance(points, PointEstimator)
    assert not isinstance(points, PartEstimator)
    with pytest.raises(ConfigError, match=r"has 0 tensors 'Sigmoid\.\.\.' float32"):
        open_estimator(f"heat:movenet:{path}")
    with pytest.raises(ConfigError, match=r"'heat:deeplab:.*': 'deeplab' gives no heat maps\. Remedy: choose"):
        open_estimator(f"heat:deeplab:{path}")
    stand_in(monkeypatch, [("uint8", (1, 513, 513, 3))], [("int64", (1, 513, 513))])
    parts = open_estimator(f"deeplab:{path}")
    assert (parts.name, parts.scheme) == (f"deeplab@{digest},fill=0.5", PERSON)
    assert isinstance(parts, PartEstimator)
    assert not isinstance(parts, PointEstimator)


@pytest.mark.parametrize(
    ("spec", "where", "cause"),
    [
        ("hrnet:a.onnx", "estimator 'hrnet:a.onnx'", "'hrnet' is no kind of estimator"),
        ("", "estimator ''", "'' is no kind of estimator"),
        ("movenet", "estimator 'movenet'", "names no file"),
        ("schp:", "estimator 'schp:'", "names no file"),
        ("onnx:no/such.onnx", "no/such.onnx", "there is no such file"),
        ("segformer:no/such", "no/such", "there is no such folder"),
        ("rtmpose:a.onnx", "estimator 'rtmpose:a.onnx'", "rtmpose takes no path"),
    ],
)
def test_what_a_spec_lacks_is_said_with_all_kinds(spec, where, cause):
    with pytest.raises(ConfigError) as caught:
        open_estimator(spec)
    assert (caught.value.where, caught.value.cause) == (where, cause)
    assert caught.value.remedy.endswith(f"choose from {', '.join(KINDS)}")


@pytest.mark.parametrize(
    ("kind", "module", "package", "extra"),
    [
        ("movenet:a", "ai_edge_litert.interpreter", "ai-edge-litert", "cues"),
        ("deeplab:a", "ai_edge_litert.interpreter", "ai-edge-litert", "cues"),
        ("onnx:a", "onnxruntime", "onnxruntime", "pose"),
        ("schp:a", "onnxruntime", "onnxruntime", "pose"),
        ("rtmpose", "rtmlib", "rtmlib", "pose"),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_extra(kind, module, package, extra, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights(Path("a"))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError) as caught:
        open_estimator(kind)
    assert caught.value.cause.startswith(f"{package} is not installed")
    assert caught.value.remedy == f"install the extra: pip install 'glimpse-reid[{extra}]'"


@pytest.mark.parametrize(("kind", "module"), [("movenet", "ai_edge_litert"), ("onnx", "onnxruntime")])
@pytest.mark.parametrize("data", [b"", b"no network at all" * 20])
def test_a_damaged_file_is_named(kind, module, data, tmp_path):
    pytest.importorskip(module)
    path = weights(tmp_path / "bad", data)
    with pytest.raises(
        ConfigError, match=r"is no (TFLite|ONNX) network, or is damaged \(.+\)\. Remedy: .*again"
    ) as caught:
        open_estimator(f"{kind}:{path}")
    assert caught.value.where == str(path)


# Opening


def test_each_process_opens_for_itself_and_once(monkeypatch):
    network = PerProcess(list)
    mine = network()
    assert network() is mine
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as after a fork
    assert network() is not mine
    assert network() is network()


def test_what_is_opened_is_not_pickled(tmp_path):
    network = OnnxNetwork(echo(tmp_path / "a.onnx"), (4, 2), *PLAIN, bgr=False, threads=1)
    picture = Image.new("RGB", (2, 4), (10, 20, 30))
    again = pickle.loads(pickle.dumps(network))
    assert again.__dict__.keys() == network.__dict__.keys()
    np.testing.assert_array_equal(again.run(picture)[0], network.run(picture)[0])


def test_weights_are_known_by_their_content(tmp_path):
    a, b = weights(tmp_path / "a", b"1" * 3_000_000), weights(tmp_path / "b", b"2")
    assert weights_digest([a, b]) == hashlib.sha256(a.read_bytes() + b.read_bytes()).hexdigest()[:8]
    assert weights_digest([a]) != weights_digest([a, b])
    with pytest.raises(ConfigError, match="none: cannot be read"):
        weights_digest([tmp_path / "none"])


def test_weights_beside_an_onnx_file_count(tmp_path):
    path = echo(tmp_path / "a.onnx")
    alone = OnnxNetwork(path, (4, 2), *PLAIN, bgr=False, threads=1).digest
    weights(tmp_path / "a.onnx.data")
    assert OnnxNetwork(path, (4, 2), *PLAIN, bgr=False, threads=1).digest != alone


def test_a_picture_goes_in_normalised(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 2, 3), dtype=np.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    path = echo(tmp_path / "a.onnx")
    rgb, bgr = (OnnxNetwork(path, (4, 2), mean, std, bgr=bgr, threads=1) for bgr in (False, True))
    for channel in range(3):
        expected = (pixels[..., channel] / 255 - mean[channel]) / std[channel]
        np.testing.assert_allclose(rgb.run(Image.fromarray(pixels))[0][0, channel], expected, rtol=1e-5)
        np.testing.assert_allclose(bgr.run(Image.fromarray(pixels))[0][0, 2 - channel], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "kind", "size", "said"),
    [
        ((1, 3, "h", "w"), 1, None, "leaves the size of its input open. Remedy: give the size"),
        ((1, 3, 8, 4), 1, (8, 8), "takes pictures of 8 x 4, not 8 x 8. Remedy: leave the size out"),
        ((1, 1, 8, 4), 1, None, r"takes float \[1, 1, 8, 4\], and float \[1, 3, H, W\] is needed"),
        ((2, 3, 8, 4), 1, None, r"takes float \[2, 3, 8, 4\], and float"),
        ((3, 8, 4), 1, None, r"takes float \[3, 8, 4\], and float"),
        ((1, 3, 8, 4), 2, None, r"takes uint8 \[1, 3, 8, 4\], and float"),
    ],
)
def test_an_onnx_network_with_another_input_is_told(shape, kind, size, said, tmp_path):
    path = echo(tmp_path / "a.onnx", shape, kind)
    with pytest.raises(ConfigError, match=f"^{path}: {said}"):
        OnnxNetwork(path, size, *PLAIN, bgr=False, threads=1)


def test_the_size_comes_from_the_file_or_from_the_caller(tmp_path):
    fixed = OnnxNetwork(echo(tmp_path / "a.onnx", ("batch", 3, 8, 4)), None, *PLAIN, bgr=False, threads=1)
    assert (fixed.size, fixed.shapes) == ((8, 4), ((1, 3, 8, 4),))
    open_ = OnnxNetwork(echo(tmp_path / "b.onnx"), (6, 2), *PLAIN, bgr=False, threads=1)
    assert (open_.size, open_.shapes) == ((6, 2), ((1, 3, 6, 2),))


def test_an_onnx_network_that_cannot_run_is_told(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    ends = [
        onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in (("in", (1, 3, "h", "w")), ("out", None))
    ]
    shape = onnx.numpy_helper.from_array(np.array([1, 3, 5]), "shape")
    node = onnx.helper.make_node("Reshape", ["in", "shape"], ["out"])
    graph = onnx.helper.make_graph([node], "fixed", ends[:1], ends[1:], [shape])
    path = tmp_path / "a.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    with pytest.raises(ConfigError, match=r"a.onnx: cannot be run on a picture of 4 x 2 \(.+give another size"):
        OnnxNetwork(path, (4, 2), *PLAIN, bgr=False, threads=1)


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        ([("float32", (1, 8, 8, 3))], [], r"takes float32 \[1, 8, 8, 3\], and uint8 \[1, H, W, 3\] is needed"),
        ([("uint8", (1, 3, 8, 8))], [], r"takes uint8 \[1, 3, 8, 8\], and"),
        ([("uint8", (1, 8, 8, 3)), ("bool", (1,))], [], r"takes uint8 \[1, 8, 8, 3\] and bool \[1\], and"),
        ([("uint8", (1, 8, 8, 3))], [], "gives nothing, and one tensor is needed"),
    ],
)
def test_a_tflite_network_with_other_ends_is_told(inputs, outputs, said, tmp_path, monkeypatch):
    stand_in(monkeypatch, inputs, outputs)
    path = weights(tmp_path / "a.tflite")
    with pytest.raises(ConfigError, match=f"^{path}: {said}"):
        TfliteNetwork(path, 1)


def test_a_network_runs_on_as_many_threads_as_asked(tmp_path, monkeypatch):
    stand_in(monkeypatch, [("uint8", (1, 8, 8, 3))], [("float32", (1,))])
    assert TfliteNetwork(weights(tmp_path / "a.tflite"), 3)._interpreter().threads == 3


# Where a crop lies


sides = st.integers(1, 300)


@given(crop=st.tuples(sides, sides), size=st.tuples(sides, sides), fill=st.sampled_from((1.0, 0.5)))
def test_the_box_of_a_crop_goes_back_to_its_corners(crop, size, fill):
    picture, frame = letterbox(Image.new("RGB", crop[::-1]), size, (9, 9, 9), fill)
    left, top, right, bottom = frame.box
    (x, x_shift), (y, y_shift) = frame.to_crop()
    assert picture.size == size[::-1]
    assert 0 <= left < right <= size[1]
    assert 0 <= top < bottom <= size[0]
    corners = (left * x + x_shift, top * y + y_shift, right * x + x_shift, bottom * y + y_shift)
    np.testing.assert_allclose(corners, (0, 0, crop[1], crop[0]), atol=1e-9)
    # Only black pixels are of the crop.
    np.testing.assert_array_equal(
        np.argwhere(~np.asarray(picture).any(2))[[0, -1]], [(top, left), (bottom - 1, right - 1)]
    )


@pytest.mark.parametrize("crop", [(128, 64), (40, 100), (33, 33)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_what_is_in_a_crop_is_found_at_its_place(crop, mode):
    pixels = np.zeros(crop, np.uint8)
    pixels[20:23, 12:15] = 255
    picture, frame = letterbox(Image.fromarray(pixels).convert(mode), (192, 160), (0, 0, 0))
    light = np.asarray(picture)[..., 0].astype(float)
    (x, x_shift), (y, y_shift) = frame.to_crop()
    found_x = (light.sum(0) @ (np.arange(160) + 0.5) / light.sum()) * x + x_shift
    found_y = (light.sum(1) @ (np.arange(192) + 0.5) / light.sum()) * y + y_shift
    assert (found_x, found_y) == (pytest.approx(13.5, abs=0.05), pytest.approx(21.5, abs=0.05))
