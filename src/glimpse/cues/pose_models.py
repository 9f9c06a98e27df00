"""Estimators of key points: MoveNet, any top-down network in ONNX, and RTMPose with its own detector."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from glimpse.cues.estimators import (
    Frame,
    OnnxNetwork,
    PerProcess,
    TfliteNetwork,
    first_line,
    letterbox,
    library,
    open_onnx,
    weights_digest,
)
from glimpse.cues.points import Bytes, Floats, KeyPoints
from glimpse.cues.skeleton import COCO_17, Skeleton
from glimpse.errors import ConfigError
from glimpse.pictures import IMAGENET_MEAN, IMAGENET_STD, Triple

_BLACK = (0, 0, 0)
Cells = Literal["strided", "udp", "centres"]
Mode = Literal["lightweight", "balanced", "performance"]


class MoveNet:
    """Single-pose MoveNet (Lightning or Thunder) as TFLite: one person per crop, always, however sure it is of them.

    The crop is padded to a square with black, as the network was trained to see pictures that are not square.

    Args:
        path: of the file, with an input uint8 RGB `[1, H, W, 3]` and an output `[1, 1, 17, 3]`: y and x relative to
            the input, and a score in [0, 1].
        heat: give its heat maps as well, from inside the network, which is then run as it is written and not by faster
            kernels: a third as fast.
        threads: on which it runs.

    Raises:
        ConfigError: ai-edge-litert is not installed (extra `cues`), or the file is not such a network, or has no heat
            maps that could be told.
    """

    skeleton = COCO_17

    def __init__(self, path: str | Path, *, heat: bool = False, threads: int = 1) -> None:
        self._network = TfliteNetwork(path, threads, inside=heat)
        if self._network.output != ("float32", (1, 1, len(COCO_17), 3)):
            raise self._network.misfit("float32 [1, 1, 17, 3]")
        self._heat = self._network.inner("Sigmoid", (1, None, None, len(COCO_17))) if heat else None
        self.name = f"movenet@{self._network.digest}" + (",heat" if heat else "")

    def points(self, image: Image.Image) -> KeyPoints:
        """The one person in a crop."""
        picture, frame = letterbox(image, self._network.size, _BLACK)
        y, x, score = self._network.run(picture)[0, 0].T
        height, width = self._network.size
        person = _person(x * width, y * height, score, frame)
        if self._heat is None:
            return KeyPoints(person, COCO_17)
        values = self._network.read(self._heat)[0].transpose(2, 0, 1)
        maps = _on_crop(values, frame, (height, width), "centres")
        return KeyPoints(person, COCO_17, maps.over(image.height, image.width))


@dataclass(frozen=True, eq=False)
class HeatMaps:
    """Heat maps of one crop, and where their cells lie on it.

    Attributes:
        values: float32 `[k, h, w]`, one map per key point, as the network gives them: not bounded, and as a rule not
            quite 0 where the point is not.
        x, y: `(scale, shift)`: the centre of the cell in column i and row j is at `i * scale + shift` in pixels of the
            crop, by `x` and `y`. Cells beyond the crop are of its padding.
    """

    values: Floats
    x: tuple[float, float]
    y: tuple[float, float]

    def over(self, height: int, width: int) -> Bytes:
        """The maps over a crop of so many pixels and nothing else, as `KeyPoints.heat` has them: cells of about the
        same size that divide it evenly, read bilinearly; below 0 is 0, above 1 is 1."""
        h, w = self.values.shape[1:]
        across, down = max(1, round(width / self.x[0])), max(1, round(height / self.y[0]))
        columns = ((np.arange(across) + 0.5) * width / across - self.x[1]) / self.x[0]
        rows = ((np.arange(down) + 0.5) * height / down - self.y[1]) / self.y[0]
        values = self.values
        for axis, places, cells in ((1, rows, h), (2, columns, w)):
            places = np.clip(places, 0, cells - 1)
            low = np.minimum(places.astype(np.intp), max(cells - 2, 0))
            high = np.minimum(low + 1, cells - 1)
            share = (places - low).astype(np.float32).reshape((-1, 1) if axis == 1 else (1, -1))
            values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
        found: Bytes = np.rint(255 * np.sqrt(values.clip(0, 1))).astype(np.uint8)
        return found

    def peaks(self) -> Floats:
        """Where each map is highest: x, y in pixels of the crop, and the height, at least 0; float32 `[k, 3]`.

        A quarter of a cell is added towards the higher neighbour, in x and in y (Newell, Yang, Deng, ECCV 2016): the
        truth is between two cells, and nearer to the higher.
        """
        k, _, w = self.values.shape
        maps = np.arange(k)
        row, column = np.divmod(self.values.reshape(k, -1).argmax(1), w)
        # Mirrored at the edges, where a cell has one neighbour: both are then equal, and nothing is added.
        around = np.pad(self.values, ((0, 0), (1, 1), (1, 1)), mode="reflect")
        right = np.sign(around[maps, row + 1, column + 2] - around[maps, row + 1, column])
        down = np.sign(around[maps, row + 2, column + 1] - around[maps, row, column + 1])
        x = (column + right / 4) * self.x[0] + self.x[1]
        y = (row + down / 4) * self.y[0] + self.y[1]
        height = np.maximum(self.values[maps, row, column], 0)
        return np.stack((x, y, height), axis=1).astype(np.float32)


class TopDownOnnx:
    """Any network for one person per picture as ONNX: HRNet, SimpleBaseline, ViTPose, RTMPose.

    The crop is taken for the box of the person and padded with black, as these networks were trained. What a network
    gives is told from the shapes of its outputs: heat maps `[1, k, h, w]`, or two outputs `[1, k, r W]` and
    `[1, k, r H]` with the same number of bins per pixel r for x and for y (SimCC; Li et al., ECCV 2022). The score is
    the height of the peak, of SimCC the lower one of both.

    Networks disagree on where a cell lies, by up to half of one. `cells` says it:

    - `strided`: cell i is on the centre of input pixel i W / w (HRNet and SimpleBaseline, as published);
    - `udp`: the first and last cells are on the centres of the first and last pixels (ViTPose; unbiased data
      processing, Huang et al., CVPR 2020);
    - `centres`: the cells divide the input into equal parts.

    Bins of SimCC are always `strided`, as RTMPose has them.

    Args:
        path: of the file, with one input float32 `[1, 3, H, W]`, RGB.
        size: height and width of the input, where the file leaves them open.
        mean, std: of red, green and blue in [0, 1]: what the network was trained with.
        skeleton: what the k points are.
        cells: where the cells of heat maps lie.
        heat: give heat maps with the key points.
        threads: on which it runs.

    Raises:
        ConfigError: onnxruntime is not installed (extra `pose`), or the file is not such a network, or not of this size
            or skeleton, or has no heat maps to give (SimCC).
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int] | None = None,
        *,
        mean: Triple = IMAGENET_MEAN,
        std: Triple = IMAGENET_STD,
        skeleton: Skeleton = COCO_17,
        cells: Cells = "strided",
        heat: bool = False,
        threads: int = 1,
    ) -> None:
        if cells not in get_args(Cells):
            raise ConfigError("cells", f"'{cells}' is not known", f"choose from {', '.join(get_args(Cells))}")
        self.skeleton = skeleton
        self._cells = cells
        self._network = OnnxNetwork(path, size, mean, std, bgr=False, threads=threads)
        height, width = self._network.size
        shapes = self._network.shapes
        k = len(skeleton)
        maps = len(shapes) == 1 and len(shapes[0]) == 4
        bins = len(shapes) == 2 and all(len(shape) == 3 for shape in shapes)
        bins = bins and shapes[0][2] * height == shapes[1][2] * width
        if not (maps or bins) or any(shape[:2] != (1, k) for shape in shapes):
            raise self._network.misfit(f"[1, {k}, h, w] or [1, {k}, r {width}] and [1, {k}, r {height}]")
        self._simcc = bins
        self._heat = heat
        if heat and bins:
            raise self._no_maps()
        said = [f"onnx@{self._network.digest}", skeleton.name, f"{height}x{width}"]
        said += [] if bins else [cells]
        for word, value, usual in (("mean", mean, IMAGENET_MEAN), ("std", std, IMAGENET_STD)):
            said += [] if tuple(value) == usual else [f"{word}={'+'.join(map(str, value))}"]
        said += ["heat"] if heat else []
        self.name = ",".join(said)

    def points(self, image: Image.Image) -> KeyPoints:
        """The one person in a crop."""
        if not self._simcc:
            maps = self.heatmaps(image)
            heat = maps.over(image.height, image.width) if self._heat else None
            return KeyPoints(maps.peaks()[None], self.skeleton, heat)
        picture, frame = letterbox(image, self._network.size, _BLACK)
        x, y = (output[0] for output in self._network.run(picture))
        per_pixel = x.shape[1] / self._network.size[1]
        score = np.maximum(np.minimum(x.max(1), y.max(1)), 0)
        # Bin 0 is on the centre of the first pixel.
        where = _person(x.argmax(1) / per_pixel + 0.5, y.argmax(1) / per_pixel + 0.5, score, frame)
        return KeyPoints(where, self.skeleton)

    def heatmaps(self, image: Image.Image) -> HeatMaps:
        """The network's own maps of a crop.

        Raises:
            ConfigError: it has none (SimCC).
        """
        if self._simcc:
            raise self._no_maps()
        picture, frame = letterbox(image, self._network.size, _BLACK)
        values = np.asarray(self._network.run(picture)[0][0], np.float32)
        return _on_crop(values, frame, self._network.size, self._cells)

    def _no_maps(self) -> ConfigError:
        return ConfigError(self._network.path, "gives bins (SimCC), not heat maps", "use a heat-map network")


class RtmPose:
    """RTMPose with the person detector YOLOX, through rtmlib: all people in a crop, the surest first.

    Where the detector finds nobody, the whole crop is taken for one person. Weights are downloaded when an estimator is
    first made, and kept in rtmlib's own folder (under `~/.cache/rtmlib`, or `TORCH_HOME`).

    Args:
        mode: size of the networks, by rtmlib.
        threads: on which it runs.

    Raises:
        ConfigError: rtmlib is not installed (extra `pose`), or weights cannot be downloaded or opened.
    """

    skeleton = COCO_17

    def __init__(self, mode: Mode = "balanced", *, threads: int = 1) -> None:
        if mode not in get_args(Mode):
            raise ConfigError("rtmpose", f"'{mode}' is no mode", f"choose from {', '.join(get_args(Mode))}")
        sizes = library("rtmlib", "rtmlib", "pose").Body.MODE[mode]
        files = [_download(sizes[network]) for network in ("det", "pose")]
        self._body = PerProcess(partial(_open_body, mode, files[0], files[1], threads))
        self._body()  # a damaged file is told before work starts
        self.name = f"rtmpose-{mode}@{weights_digest(files)}"

    def points(self, image: Image.Image) -> KeyPoints:
        """All people in a crop."""
        bgr = np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
        where, scores = self._body()(bgr)
        values = np.empty((len(where), len(COCO_17), 3), np.float32)
        # rtmlib counts from the centre of the upper left pixel.
        values[..., :2] = np.asarray(where) + 0.5
        values[..., 2] = np.maximum(scores, 0)
        return KeyPoints(values, COCO_17)


def _on_crop(values: Floats, frame: Frame, size: tuple[int, int], cells: Cells) -> HeatMaps:
    """Maps of a network's whole input `size`, by where their cells lie on the crop."""
    (x, x_shift), (y, y_shift) = frame.to_crop()
    rows, columns = (_grid(pixels, count, cells) for pixels, count in zip(size, values.shape[1:], strict=True))
    return HeatMaps(values, (columns[0] * x, columns[1] * x + x_shift), (rows[0] * y, rows[1] * y + y_shift))


def _grid(pixels: int, cells: int, kind: Cells) -> tuple[float, float]:
    """`(scale, shift)`: the centre of cell i is at i * scale + shift in the input."""
    if kind == "udp" and cells > 1:
        return (pixels - 1) / (cells - 1), 0.5
    stride = pixels / cells
    return stride, stride / 2 if kind == "centres" else 0.5


def _person(x: Floats, y: Floats, score: Floats, frame: Frame) -> Floats:
    """One person `[1, k, 3]` in pixels of the crop, from pixels of the input `[k]`."""
    (x_scale, x_shift), (y_scale, y_shift) = frame.to_crop()
    return np.stack((x * x_scale + x_shift, y * y_scale + y_shift, score), axis=1)[None].astype(np.float32)


def _download(url: str) -> Path:
    """Where rtmlib keeps the weights of that address, downloaded if need be."""
    download = library("rtmlib.tools.file", "rtmlib", "pose").download_checkpoint
    try:
        return Path(download(url))
    except Exception as error:  # of the network, of the archive, and of rtmlib where it finds no weights in it
        cause = f"the weights of rtmpose cannot be downloaded ({first_line(error)})"
        remedy = "connect this machine, or copy ~/.cache/rtmlib from one that has it, or use movenet:PATH or onnx:PATH"
        raise ConfigError(url, cause, remedy) from error


def _open_body(mode: Mode, detector: Path, pose: Path, threads: int) -> Any:
    rtmlib = library("rtmlib", "rtmlib", "pose")
    library("cv2", "opencv-python", "pose").setNumThreads(threads)
    sizes = rtmlib.Body.MODE[mode]
    # rtmlib opens networks on all cores and cannot be told otherwise: they are opened anew, which also finds damage.
    networks = [open_onnx(path, threads) for path in (detector, pose)]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it opens
        body = rtmlib.Body(
            det=str(detector),
            det_input_size=sizes["det_input_size"],
            pose=str(pose),
            pose_input_size=sizes["pose_input_size"],
            backend="onnxruntime",
            device="cpu",
        )
    body.det_model.session, body.pose_model.session = networks
    return body
