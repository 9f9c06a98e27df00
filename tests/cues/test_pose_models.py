"""Estimators of key points, on networks whose answer is known: they find what is light."""

from __future__ import annotations

import hashlib
import pickle
import sys
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from glimpse.cues.points import KeyPoints
from glimpse.cues.pose_models import HeatMaps, MoveNet, RtmPose, TopDownOnnx
from glimpse.cues.skeleton import COCO_17, Skeleton
from glimpse.data import open_dataset, read_image
from glimpse.errors import ConfigError
from glimpse.synthetic.people import render_person
from glimpse.synthetic.render import SEEN

RGB = Skeleton(name="rgb-3", points=("red", "green", "blue"))
ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def spots(size: tuple[int, int], places, sigma: float) -> Image.Image:
    """A crop with a soft spot in red, in green and in blue, each centred at its (x, y)."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    light = [np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)) for x, y in places]
    return Image.fromarray((255 * np.stack(light, axis=-1)).round().astype(np.uint8))


def save(path: Path, nodes, constants, outputs, size) -> Path:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    ends = [onnx.helper.make_tensor_value_info("in", 1, (1, 3, *size))]
    ends += [onnx.helper.make_tensor_value_info(name, 1, None) for name in outputs]
    made = [onnx.helper.make_node(kind, takes, gives, **options) for kind, takes, gives, options in nodes]
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = onnx.helper.make_graph(made, "made", ends[:1], ends[1:], tensors)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def maps_network(path: Path, size, stride: int = 4, kernel: int = 1) -> Path:
    """Heat maps of red, green and blue: the mean of `kernel` x `kernel` pixels at every `stride`-th pixel."""
    weight = np.zeros((3, 3, kernel, kernel), np.float32)
    weight[range(3), range(3)] = 1 / kernel**2
    return save(path, [("Conv", ["in", "w"], ["maps"], {"strides": [stride, stride]})], {"w": weight}, ["maps"], size)


def bins_network(path: Path, size) -> Path:
    """SimCC of red, green and blue with two bins per pixel; bin b is on pixel b / 2."""
    scale = {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}
    nodes = [
        ("ReduceMax", ["in"], ["over_y"], {"axes": [2], "keepdims": 0}),
        ("ReduceMax", ["in"], ["over_x"], {"axes": [3], "keepdims": 0}),
        ("Resize", ["over_y", "", "scales"], ["x"], scale),
        ("Resize", ["over_x", "", "scales"], ["y"], scale),
    ]
    return save(path, nodes, {"scales": np.array([1, 1, 2], np.float32)}, ["x", "y"], size)


def errors(estimator: TopDownOnnx, crop: tuple[int, int], sigma: float) -> np.ndarray:
    """How far off the points are of spots all over the middle of a crop, `[n, 2]` in its pixels."""
    found = []
    for step in range(24):
        places = [(crop[1] * 0.35 + 0.37 * step, crop[0] * (0.3 + 0.1 * k) + 0.43 * step) for k in range(3)]
        points = estimator.points(spots(crop, places, sigma)).values
        assert points.shape == (1, 3, 3)
        found.append(points[0, :, :2] - places)
    return np.concatenate(found)


# Top-down networks


@pytest.mark.parametrize(
    ("cells", "size", "kernel"),
    # Cell i sees input pixel 4 i; 16 cells on 61 pixels have both ends in common; cell i sees pixels 4 i to 4 i + 3.
    [("strided", (128, 96), 1), ("udp", (61, 61), 1), ("centres", (128, 96), 4)],
)
def test_points_are_within_a_quarter_of_a_cell_and_off_to_no_side(cells, size, kernel, tmp_path):
    path = maps_network(tmp_path / "a.onnx", size, kernel=kernel)
    off = errors(TopDownOnnx(path, mean=ZERO, std=ONE, skeleton=RGB, cells=cells), size, sigma=5)
    assert np.abs(off).max() < 1.01  # a cell is 4 pixels: half a cell off would be 3
    assert np.abs(off.mean(0)).max() < 0.1


def test_points_of_a_resized_and_padded_crop_are_in_its_own_pixels(tmp_path):
    path = maps_network(tmp_path / "a.onnx", (128, 96))
    off = errors(TopDownOnnx(path, mean=ZERO, std=ONE, skeleton=RGB), (64, 32), sigma=3)  # scale 2, 16 pixels on a side
    assert np.abs(off).max() < 0.51
    assert np.abs(off.mean(0)).max() < 0.1


@pytest.mark.parametrize(("crop", "sigma", "most"), [((128, 96), 5, 0.6), ((64, 32), 3, 0.3)])
def test_bins_are_decoded_to_the_nearest_pixel_and_off_to_no_side(crop, sigma, most, tmp_path):
    estimator = TopDownOnnx(bins_network(tmp_path / "a.onnx", (128, 96)), mean=ZERO, std=ONE, skeleton=RGB)
    off = errors(estimator, crop, sigma)
    assert np.abs(off).max() < most
    assert np.abs(off.mean(0)).max() < 0.05


def test_a_peak_moves_a_quarter_towards_its_higher_neighbour_but_not_over_an_edge():
    values = np.zeros((4, 4, 5), np.float32)
    values[0, 1, 2], values[0, 1, 3], values[0, 0, 2] = 9, 5, 4  # right and up
    values[1, 2, 0], values[1, 2, 1] = 8, 1  # at the left edge
    values[2, 3, 4] = 7  # in the corner, alone
    values[3] = -1
    maps = HeatMaps(values, x=(2.0, 10.0), y=(4.0, 100.0))
    expected = [
        (2 * 2.25 + 10, 4 * 0.75 + 100, 9),
        (10, 4 * 2 + 100, 8),
        (2 * 4 + 10, 4 * 3 + 100, 7),
        (10, 100, 0),  # nothing found
    ]
    np.testing.assert_allclose(maps.peaks(), expected)


def test_heat_maps_are_the_networks_own_and_say_where_they_lie(tmp_path):
    path = maps_network(tmp_path / "a.onnx", (128, 96))
    crop = spots((128, 96), [(40.5, 60.5), (20.5, 20.5), (80.5, 100.5)], sigma=5)
    maps = TopDownOnnx(path, mean=ZERO, std=ONE, skeleton=RGB).heatmaps(crop)
    np.testing.assert_allclose(maps.values, np.asarray(crop).transpose(2, 0, 1)[:, ::4, ::4] / 255, atol=1e-6)
    assert (maps.x, maps.y) == ((4.0, 0.5), (4.0, 0.5))
    small = TopDownOnnx(path, mean=ZERO, std=ONE, skeleton=RGB, cells="centres").heatmaps(crop.resize((16, 64)))
    # The crop is enlarged twice and has 32 pixels of padding on the left: cell 8 begins with it.
    assert small.x == (2.0, -15.0)
    assert small.y == (2.0, 1.0)
    assert not small.values[:, :, :8].any()
    assert small.values[:, :, 8:16].any()


@pytest.mark.parametrize(("cells", "off"), [("strided", 0.0), ("centres", 1.5)])
def test_heat_maps_over_a_crop_leave_its_padding_out(cells, off, tmp_path):
    path = maps_network(tmp_path / "a.onnx", (128, 96))
    estimator = TopDownOnnx(path, mean=ZERO, std=ONE, skeleton=RGB, cells=cells, heat=True)
    assert estimator.name.endswith(",heat")
    places = [(8.5, 16.5), (4.5, 8.5), (9.5, 50.5)]
    found = estimator.points(spots((64, 16), places, sigma=3))
    assert found.heat.shape == (3, 32, 8)  # cells of two pixels, as the network's are on this crop
    assert found.heights.max() <= 1
    rows, columns = np.mgrid[:32, :8] * 2 + 1.0
    for (x, y), maps in zip(places, found.heights, strict=True):
        # In this network a cell is the pixel at its first corner: told otherwise, it lies so much too far.
        expected = np.exp(-((columns - x - off / 2) ** 2 + (rows - y - off / 2) ** 2) / 18)
        np.testing.assert_allclose(maps, expected, atol=0.12)
    plain = TopDownOnnx(path, mean=ZERO, std=ONE, skeleton=RGB, cells=cells).points(spots((64, 16), places, sigma=3))
    assert plain.heat is None
    np.testing.assert_array_equal(plain.values, found.values)


def test_heat_maps_are_kept_where_they_are_nearly_nothing():
    maps = HeatMaps(np.array([[[-3.0, 0.0005, 0.001, 0.002, 0.5, 7.0]]], np.float32), x=(1.0, 0.5), y=(1.0, 0.5))
    heat = maps.over(1, 6)
    points = KeyPoints(np.zeros((1, 1, 3)), Skeleton(name="one", points=("nose",)), heat)
    np.testing.assert_allclose(points.heights[0, 0], [0, 0.0005, 0.001, 0.002, 0.5, 1], rtol=0.13)


def test_the_score_of_bins_is_the_lower_of_both(tmp_path):
    constants = {"x": np.zeros((1, 3, 192), np.float32), "y": np.zeros((1, 3, 256), np.float32)}
    constants["x"][0, :, 10] = (0.9, 0.4, 0.8)
    constants["y"][0, :, 20] = (0.7, 0.6, -1)
    constants["y"][0, 2] = -1
    nodes = [("Identity", ["x"], ["out_x"], {}), ("Identity", ["y"], ["out_y"], {})]
    path = save(tmp_path / "a.onnx", nodes, constants, ["out_x", "out_y"], (128, 96))
    points = TopDownOnnx(path, skeleton=RGB).points(Image.new("RGB", (96, 128))).values[0]
    np.testing.assert_allclose(points[:, 2], (0.7, 0.4, 0))
    np.testing.assert_allclose(points[:2, :2], [(5.5, 10.5)] * 2)


def test_its_name_says_what_changes_results(tmp_path):
    path = maps_network(tmp_path / "a.onnx", (128, 96))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert TopDownOnnx(path, skeleton=RGB).name == f"onnx@{digest},rgb-3,128x96,strided"
    other = TopDownOnnx(path, skeleton=RGB, cells="udp", mean=ZERO, std=(0.5, 0.5, 0.5))
    assert other.name == f"onnx@{digest},rgb-3,128x96,udp,mean=0.0+0.0+0.0,std=0.5+0.5+0.5"
    bins = bins_network(tmp_path / "b.onnx", (128, 96))
    assert TopDownOnnx(bins, skeleton=RGB).name.endswith(",rgb-3,128x96")


def test_a_top_down_network_can_be_pickled(tmp_path):
    estimator = TopDownOnnx(maps_network(tmp_path / "a.onnx", (128, 96)), skeleton=RGB)
    crop = spots((64, 32), [(9, 9), (20, 30), (10, 50)], sigma=3)
    again = pickle.loads(pickle.dumps(estimator))
    assert again.name == estimator.name
    np.testing.assert_array_equal(again.points(crop).values, estimator.points(crop).values)


def test_another_number_of_maps_is_told(tmp_path):
    path = maps_network(tmp_path / "a.onnx", (128, 96))
    said = (
        r"a.onnx: gives float \[1, 3, 32, 24\], and \[1, 17, h, w\] or \[1, 17, r 96\] and \[1, 17, r 128\] is needed"
    )
    with pytest.raises(ConfigError, match=said):
        TopDownOnnx(path)


def test_bins_of_y_before_those_of_x_are_told(tmp_path):
    nodes = [("ReduceMax", ["in"], [name], {"axes": [axis], "keepdims": 0}) for name, axis in (("y", 3), ("x", 2))]
    path = save(tmp_path / "a.onnx", nodes, {}, ["y", "x"], (128, 96))
    with pytest.raises(ConfigError, match=r"gives float \[1, 3, 128\] and float \[1, 3, 96\], and"):
        TopDownOnnx(path, skeleton=RGB)


def test_bins_are_no_heat_maps(tmp_path):
    estimator = TopDownOnnx(bins_network(tmp_path / "a.onnx", (128, 96)), skeleton=RGB)
    with pytest.raises(ConfigError, match=r"gives bins \(SimCC\), not heat maps. Remedy: use a heat-map network"):
        estimator.heatmaps(Image.new("RGB", (9, 9)))
    with pytest.raises(ConfigError, match=r"gives bins \(SimCC\), not heat maps"):
        TopDownOnnx(tmp_path / "a.onnx", skeleton=RGB, heat=True)


def test_cells_that_are_not_known_are_told():
    with pytest.raises(ConfigError, match=r"cells: 'corner' is not known. Remedy: choose from strided, udp, centres"):
        TopDownOnnx("a.onnx", cells="corner")  # type: ignore[arg-type]


# MoveNet


class LightFinder:
    """A TFLite interpreter that finds what is light, 17 times, counted from the corner of the input."""

    output = (1, 1, 17, 3)

    inside = ("Sigmoid2", "Sigmoid", "add")

    def __init__(self, model_path: str, num_threads: int, **options: Any) -> None:
        assert options in ({}, {"experimental_preserve_all_tensors": True, "experimental_op_resolver_type": "plain"})
        self.picture, self.keeps = np.zeros(0), bool(options)

    def allocate_tensors(self) -> None:
        pass

    def get_input_details(self):
        return [{"index": 0, "dtype": np.uint8, "shape": np.array((1, 192, 192, 3))}]

    def get_output_details(self):
        return [{"index": 1, "dtype": np.float32, "shape": np.array(self.output)}]

    def get_tensor_details(self):
        shape = np.array((1, 48, 48, 17))
        kinds = (np.float32, np.int8, np.float32)
        named = zip(self.inside, kinds, strict=True)
        return [{"index": 7 + k, "name": name, "dtype": kind, "shape": shape} for k, (name, kind) in enumerate(named)]

    def set_tensor(self, index: int, value: np.ndarray) -> None:
        assert (value.dtype, value.shape) == (np.uint8, (1, 192, 192, 3))
        self.picture = value[0, ..., 0].astype(float)

    def invoke(self) -> None:
        pass

    def get_tensor(self, index: int) -> np.ndarray:
        if index == 7:
            assert self.keeps
            return np.repeat(self.picture.reshape(1, 48, 4, 48, 4, 1).mean((2, 4)) / 255, 17, 3).astype(np.float32)
        steps = (np.arange(192) + 0.5) / 192
        y, x = (self.picture.sum(axis) @ steps / self.picture.sum() for axis in (1, 0))
        return np.array([[[(y, x, 0.75)] * 17]], np.float32)


@pytest.fixture
def light_finder(tmp_path, monkeypatch) -> Path:
    kinds = SimpleNamespace(BUILTIN_WITHOUT_DEFAULT_DELEGATES="plain")
    litert = SimpleNamespace(Interpreter=LightFinder, OpResolverType=kinds)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", litert)
    path = tmp_path / "movenet.tflite"
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize("crop", [(128, 64), (50, 33), (40, 90), (400, 400)])
def test_movenets_points_are_in_pixels_of_the_crop(crop, light_finder):
    found = pickle.loads(pickle.dumps(MoveNet(light_finder))).points(spots(crop, [(14.2, 24.7)] * 3, sigma=3))
    assert (found.people, found.skeleton) == (1, COCO_17)
    np.testing.assert_allclose(found.values[0], [(14.2, 24.7, 0.75)] * 17, atol=0.05)


def test_movenets_heat_maps_are_read_from_inside(light_finder, monkeypatch):
    movenet = MoveNet(light_finder, heat=True)
    assert movenet.name == MoveNet(light_finder).name + ",heat"
    found = movenet.points(spots((96, 48), [(14, 24)] * 3, sigma=6))
    assert found.heat.shape == (17, 48, 24)
    rows, columns = np.mgrid[:48, :24] * 2 + 1.0
    expected = np.exp(-((columns - 14) ** 2 + (rows - 24) ** 2) / 72)
    np.testing.assert_allclose(found.heights, np.broadcast_to(expected, (17, 48, 24)), atol=0.03)
    for inside, number in ((("Sigmoid2", "a", "Sigmoid"), 2), (("a", "Sigmoid", "b"), 0)):
        monkeypatch.setattr(LightFinder, "inside", inside)
        said = rf"has {number} tensors 'Sigmoid...' float32 \[1, any, any, 17\] inside, and one is needed"
        with pytest.raises(ConfigError, match=said):
            MoveNet(light_finder, heat=True)


def test_movenet_with_several_people_is_told(light_finder, monkeypatch):
    monkeypatch.setattr(LightFinder, "output", (1, 6, 56))
    said = r"movenet.tflite: gives float32 \[1, 6, 56\], and float32 \[1, 1, 17, 3\] is needed. Remedy: give another"
    with pytest.raises(ConfigError, match=said):
        MoveNet(light_finder)


# RTMPose


@pytest.fixture
def rtmlib(tmp_path, monkeypatch) -> SimpleNamespace:
    """A stand-in for rtmlib, onnxruntime and OpenCV. Its body finds what is red, and says so of two people."""
    state = SimpleNamespace(asked=[], threads=[], opened=[])

    def mode(name: str) -> dict[str, object]:
        networks = {"det": f"{name}/det.zip", "pose": f"{name}/pose.zip"}
        return networks | {"det_input_size": (640, 640), "pose_input_size": (192, 256)}

    class Body:
        MODE = MappingProxyType({name: mode(name) for name in ("lightweight", "balanced", "performance")})

        def __init__(self, **options: object) -> None:
            state.options = options
            self.det_model, self.pose_model = SimpleNamespace(session=None), SimpleNamespace(session=None)
            print("load a file")

        def __call__(self, bgr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            row, column = np.argwhere(bgr[..., 2] > 200)[0]
            return np.full((2, 17, 2), (column, row), float), np.stack([np.full(17, 0.8), np.full(17, -0.1)])

    def download(url: str) -> str:
        state.asked.append(url)
        path = tmp_path / url.replace("/", "-")
        path.write_bytes(url.encode())
        return str(path)

    def open_network(path: str, options: SimpleNamespace, providers: list[str]) -> str:
        state.opened.append(f"{Path(path).name} on {options.intra_op_num_threads}")
        return state.opened[-1]

    state.Body = Body
    state.file = SimpleNamespace(download_checkpoint=download)
    state.onnxruntime = SimpleNamespace(SessionOptions=SimpleNamespace, InferenceSession=open_network)
    monkeypatch.setitem(sys.modules, "rtmlib", SimpleNamespace(Body=Body))
    monkeypatch.setitem(sys.modules, "rtmlib.tools.file", state.file)
    monkeypatch.setitem(sys.modules, "onnxruntime", state.onnxruntime)
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(setNumThreads=state.threads.append))
    return state


def test_rtmpose_tells_all_people_from_the_corner_of_the_crop(rtmlib):
    pixels = np.zeros((20, 10, 3), np.uint8)
    pixels[13, 4] = (255, 0, 0)
    pixels[2, 2] = (0, 0, 255)
    found = RtmPose().points(Image.fromarray(pixels))
    assert found.skeleton == COCO_17
    np.testing.assert_allclose(found.values[0], [(4.5, 13.5, 0.8)] * 17)
    np.testing.assert_allclose(found.values[1], [(4.5, 13.5, 0)] * 17)  # a score is never below 0


def test_rtmposes_weights_are_downloaded_at_once_and_opened_where_they_are_used(rtmlib, monkeypatch, capsys):
    estimator = RtmPose("lightweight", threads=2)
    digest = hashlib.sha256(b"lightweight/det.ziplightweight/pose.zip").hexdigest()[:8]
    assert estimator.name == f"rtmpose-lightweight@{digest}"
    assert rtmlib.asked == ["lightweight/det.zip", "lightweight/pose.zip"]
    assert (rtmlib.options["det_input_size"], rtmlib.options["pose_input_size"]) == ((640, 640), (192, 256))
    assert Path(rtmlib.options["pose"]).name == "lightweight-pose.zip"
    assert rtmlib.opened == ["lightweight-det.zip on 2", "lightweight-pose.zip on 2"]
    assert (estimator._body().det_model.session, estimator._body().pose_model.session) == tuple(rtmlib.opened)
    assert rtmlib.threads == [2]
    assert capsys.readouterr().out == ""  # standard output is the caller's
    again = pickle.loads(pickle.dumps(estimator))
    assert (again.name, len(rtmlib.opened)) == (estimator.name, 2)
    again.points(Image.new("RGB", (4, 4), (255, 0, 0)))
    assert len(rtmlib.opened) == 4
    assert len(rtmlib.asked) == 2


def test_weights_that_cannot_be_downloaded_are_told(rtmlib):
    def offline(url: str) -> str:
        raise OSError("<urlopen error no route to host>")

    rtmlib.file.download_checkpoint = offline
    with pytest.raises(ConfigError) as caught:
        RtmPose()
    assert caught.value.where == "balanced/det.zip"
    assert caught.value.cause == "the weights of rtmpose cannot be downloaded (<urlopen error no route to host>)"
    assert caught.value.remedy.startswith("connect this machine, or copy ~/.cache/rtmlib from one that has it")


def test_downloaded_weights_that_are_damaged_are_told(rtmlib):
    def damaged(path: str, options: object, providers: object) -> None:
        raise RuntimeError("Protobuf parsing failed.")

    rtmlib.onnxruntime.InferenceSession = damaged
    said = (
        r"balanced-det.zip: is no ONNX network, or is damaged \(Protobuf parsing failed\)\. Remedy: .*download it again"
    )
    with pytest.raises(ConfigError, match=said):
        RtmPose()


def test_a_mode_that_is_not_known_is_told():
    with pytest.raises(ConfigError, match=r"'tiny' is no mode. Remedy: choose from lightweight, balanced, performance"):
        RtmPose("tiny")  # type: ignore[arg-type]


def test_rtmlib_itself_is_understood(tmp_path, monkeypatch):
    """With networks that always find two people and put all points in the middle of each."""
    pytest.importorskip("rtmlib")
    from rtmlib.tools import file

    boxes = np.array([[[52, 104, 156, 312, 0.9], [156, 104, 208, 416, 0.8]]], np.float32)  # of 416 x 416
    found = {"det": {"boxes": boxes}, "pose": {"x": np.zeros((1, 17, 384)), "y": np.zeros((1, 17, 512))}}
    found["pose"]["x"][..., 192] = found["pose"]["y"][..., 256] = 0.7
    for name, size in (("det", (416, 416)), ("pose", (256, 192))):
        constants = {key: value.astype(np.float32) for key, value in found[name].items()}
        nodes = [("Identity", [key], [f"out_{key}"], {}) for key in constants]
        save(tmp_path / f"{name}.onnx", nodes, constants, [f"out_{key}" for key in constants], size)
    monkeypatch.setattr(
        file, "download_checkpoint", lambda url: str(tmp_path / f"{'det' if 'yolox' in url else 'pose'}.onnx")
    )
    points = RtmPose("lightweight").points(Image.new("RGB", (64, 128))).values  # scale 3.25
    assert points.shape == (2, 17, 3)
    np.testing.assert_allclose(points[0], [(32.5, 64.5, 0.7)] * 17, atol=1e-4)
    np.testing.assert_allclose(points[1], [(56.5, 80.5, 0.7)] * 17, atol=1e-4)


# Real weights


@pytest.fixture(scope="module")
def movenet(models: Path) -> MoveNet:
    path = models / "movenet_single_pose_lightning_ptq.tflite"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    pytest.importorskip("ai_edge_litert")
    return MoveNet(path)


def heights(points: np.ndarray) -> np.ndarray:
    """y of nose, hips and ankles."""
    return np.array([points[0, 1], points[11:13, 1].mean(), points[15:, 1].mean()])


@pytest.mark.real_data
def test_movenet_finds_most_joints_of_rendered_people(movenet):
    """They are not photographs: of the joints that can be seen it finds three of four, and those without a bias."""
    crops = [render_person(k, k, camera=1 + k % 6, size=(256, 128)) for k in range(1, 31)]
    found = np.stack([movenet.points(crop.image).values[0] for crop in crops])
    tall = np.array([crop.figure.any(1).sum() for crop in crops])[:, None, None]
    off = (found[..., :2] - np.stack([crop.keypoints for crop in crops])) / tall
    seen = np.stack([crop.states for crop in crops]) == SEEN
    away = np.linalg.norm(off, axis=2)
    assert np.mean(away[seen] < 0.08) > 0.65  # of the person's height
    assert np.median(away[seen]) < 0.05
    assert np.abs(np.median(off[seen], axis=0)).max() < 0.01
    assert np.mean([(np.diff(heights(points)) > 0).all() for points in found]) >= 0.85


@pytest.mark.real_data
def test_movenet_on_real_crops_is_upright_and_the_same_when_mirrored(movenet, shared):
    path = shared / "data" / "Market-1501-v15.09.15.zip"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    crops = [read_image(sample) for sample in open_dataset(f"market1501:{path}").query[::140]]
    found = np.stack([movenet.points(crop).values[0] for crop in crops])
    mirrored = np.stack([movenet.points(ImageOps.mirror(crop)).mirrored(crop.width).values[0] for crop in crops])
    assert np.mean([(np.diff(heights(points)) > 0).all() for points in found]) >= 0.9
    sure = (found[..., 2] > 0.3) & (mirrored[..., 2] > 0.3)
    off = (found - mirrored)[sure][:, :2]
    assert np.median(np.linalg.norm(off, axis=1)) < 3
    assert np.abs(np.median(off, axis=0)).max() < 0.5  # no half pixel to one side


@pytest.mark.real_data
def test_movenets_own_heat_maps_are_highest_at_its_points(models, shared):
    path, data = models / "movenet_single_pose_lightning_ptq.tflite", shared / "data" / "Market-1501-v15.09.15.zip"
    if not (path.exists() and data.exists()):
        pytest.skip(f"{path} or {data} is not there")
    pytest.importorskip("ai_edge_litert")
    movenet, off = MoveNet(path, heat=True), []
    for sample in open_dataset(f"market1501:{data}").query[::280]:
        found = movenet.points(read_image(sample))
        k, h, w = found.heat.shape
        assert (k, h, w) == (17, 48, 24)
        row, column = np.divmod(found.heat.reshape(k, -1).argmax(1), w)
        peaks = np.stack([(column + 0.5) * 64 / w, (row + 0.5) * 128 / h], 1)
        off.append((peaks - found.values[0, :, :2])[found.values[0, :, 2] > 0.5])
    off = np.concatenate(off)
    assert np.median(np.linalg.norm(off, axis=1)) < 2  # a cell is 2.7 pixels
    assert np.abs(np.median(off, axis=0)).max() < 0.7


@pytest.mark.real_data
def test_another_networks_file_is_told(movenet, models):
    path = models / "deeplabv3_mnv2_pascal_quant.tflite"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with pytest.raises(ConfigError, match=r"gives int64 \[1, 513, 513\], and float32 \[1, 1, 17, 3\] is needed"):
        MoveNet(path)


@pytest.mark.real_data
def test_a_truncated_file_is_told(movenet, models, tmp_path):
    path = tmp_path / "cut.tflite"
    path.write_bytes((models / "movenet_single_pose_lightning_ptq.tflite").read_bytes()[:1_000_000])
    with pytest.raises(ConfigError, match=r"cut.tflite: is no TFLite network, or is damaged \("):
        MoveNet(path)
