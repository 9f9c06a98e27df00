"""Estimators of cues: what finds key points or body parts in a crop, and what estimators share.

A crop is an RGB picture, and all results are in its own pixels. An estimator can be pickled: every process opens the
network for itself when it first asks it. One estimator is for one thread at a time.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image

from glimpse.cues.parts import PartMap, PartScheme
from glimpse.cues.points import Floats, KeyPoints
from glimpse.cues.skeleton import Skeleton
from glimpse.errors import ConfigError
from glimpse.pictures import Triple

T = TypeVar("T")
Colour = tuple[int, int, int]

KINDS = ("movenet:PATH", "onnx:PATH", "rtmpose", "deeplab:PATH", "segformer", "segformer:FOLDER", "schp:PATH")
"""What `open_estimator` knows."""


@runtime_checkable
class PointEstimator(Protocol):
    """Finds the key points of the people in a crop."""

    @property
    def name(self) -> str:
        """Kind, `@`, the first 8 hex digits of the weights' SHA-256, and the settings that change results."""
        ...

    @property
    def skeleton(self) -> Skeleton:
        """Which points it finds."""
        ...

    def points(self, image: Image.Image) -> KeyPoints:
        """The people in a crop."""
        ...


@runtime_checkable
class PartEstimator(Protocol):
    """Tells which part of a body each pixel of a crop shows."""

    @property
    def name(self) -> str:
        """Kind, `@`, the first 8 hex digits of the weights' SHA-256, and the settings that change results."""
        ...

    @property
    def scheme(self) -> PartScheme:
        """Which parts it tells apart."""
        ...

    def parts(self, image: Image.Image) -> PartMap:
        """The parts in a crop, at its size."""
        ...


def open_estimator(spec: str, threads: int = 1) -> PointEstimator | PartEstimator:
    """The estimator that a text names.

    `movenet:PATH`, `onnx:PATH` (any top-down heat-map or SimCC network) and `rtmpose` find key points, `deeplab:PATH`
    the person, `segformer`, `segformer:FOLDER` and `schp:PATH` parts. `heat:movenet:PATH` and `heat:onnx:PATH` give
    their heat maps with the key points. `rtmpose` and `segformer` download their weights when they are first used.

    Args:
        spec: kind, and the path of the weights.
        threads: on which it runs.

    Raises:
        ConfigError: the kind is not known, a path is missing, what it names is not there or not such a network, a
            library is not installed, or weights cannot be downloaded.
    """
    from glimpse.cues.mask_models import DeepLab, Schp, SegFormerClothes
    from glimpse.cues.pose_models import MoveNet, RtmPose, TopDownOnnx

    heat = spec.startswith("heat:")
    kind, _, path = spec.removeprefix("heat:").partition(":")
    known = f"choose from {', '.join(KINDS)}"
    from_file: dict[str, Callable[[], PointEstimator | PartEstimator]] = {
        "movenet": lambda: MoveNet(path, heat=heat, threads=threads),
        "onnx": lambda: TopDownOnnx(path, heat=heat, threads=threads),
        "deeplab": lambda: DeepLab(path, threads=threads),
        "schp": lambda: Schp(path, threads=threads),
    }
    if heat and kind not in ("movenet", "onnx"):
        raise ConfigError(f"estimator '{spec}'", f"'{kind}' gives no heat maps", "choose from movenet:PATH, onnx:PATH")
    if kind in from_file:
        if not path:
            raise ConfigError(f"estimator '{spec}'", "names no file", known)
        if not Path(path).is_file():
            raise ConfigError(path, "there is no such file", f"give the file of the network: {known}")
        return from_file[kind]()
    if kind == "segformer":
        if path and not Path(path).is_dir():
            raise ConfigError(path, "there is no such folder", f"give the folder of the network: {known}")
        return SegFormerClothes(path, threads=threads) if path else SegFormerClothes(threads=threads)
    if kind == "rtmpose":
        if path:
            raise ConfigError(f"estimator '{spec}'", "rtmpose takes no path", known)
        return RtmPose(threads=threads)
    raise ConfigError(f"estimator '{spec}'", f"'{kind}' is no kind of estimator", known)


class PerProcess(Generic[T]):
    """What cannot be pickled nor forked: each process opens it for itself, when it first asks for it.

    Args:
        opening: opens it; it can be pickled.

    >>> network = PerProcess(list)
    >>> network() is network()
    True
    """

    def __init__(self, opening: Callable[[], T]) -> None:
        self._opening = opening
        # By process: what a forked process takes over has lost its threads, and must neither be used nor closed.
        self._opened: dict[int, T] = {}

    def __call__(self) -> T:
        """What was opened in this process."""
        process = os.getpid()
        if process not in self._opened:
            self._opened[process] = self._opening()
        return self._opened[process]

    def __reduce__(self) -> tuple[type[PerProcess[T]], tuple[Callable[[], T]]]:
        return PerProcess, (self._opening,)


def library(module: str, package: str, extra: str) -> Any:
    """A module that an extra brings.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        remedy = f"install the extra: pip install 'glimpse-reid[{extra}]'"
        raise ConfigError("cues", f"{package} is not installed ({error})", remedy) from error


def weights_digest(paths: Sequence[Path]) -> str:
    """The first 8 hex digits of the SHA-256 of some files, one after the other.

    Raises:
        ConfigError: one cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise ConfigError(path, f"cannot be read ({error.strerror})", "give the file of the network") from error
    return digest.hexdigest()[:8]


def first_line(error: Exception) -> str:
    """What an error says, as the end of a sentence.

    >>> first_line(ValueError("No such file. \\nMore.")), first_line(ValueError())
    ('No such file', 'ValueError')
    """
    return str(error).strip().split("\n")[0].rstrip(". ") or type(error).__name__


@dataclass(frozen=True)
class Frame:
    """Where a crop lies in the input of a network.

    Attributes:
        crop: its height and width.
        box: left, top, right and bottom of the crop in pixels of the input.
    """

    crop: tuple[int, int]
    box: tuple[int, int, int, int]

    def to_crop(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """`(scale, shift)` of x and of y: what is at v in the input is at v * scale + shift in the crop."""
        left, top, right, bottom = self.box
        x, y = self.crop[1] / (right - left), self.crop[0] / (bottom - top)
        return (x, -left * x), (y, -top * y)


def letterbox(
    image: Image.Image, size: tuple[int, int], colour: Colour, fill: float = 1.0
) -> tuple[Image.Image, Frame]:
    """A crop as the input of a network: resized bilinearly with its aspect kept, in the middle of a plain picture.

    Args:
        image: the crop.
        size: height and width of the input.
        colour: of what is left over.
        fill: how much of the input the crop takes up in the direction in which it would fill it, in (0, 1].

    >>> letterbox(Image.new("RGB", (64, 128)), (192, 192), (0, 0, 0))[1].box
    (48, 0, 144, 192)
    """
    height, width = size
    scale = fill * min(height / image.height, width / image.width)
    w, h = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    left, top = (width - w) // 2, (height - h) // 2
    canvas = Image.new("RGB", (width, height), colour)
    canvas.paste(image.convert("RGB").resize((w, h), Image.Resampling.BILINEAR), (left, top))
    return canvas, Frame((image.height, image.width), (left, top, left + w, top + h))


class TfliteNetwork:
    """A TFLite network from one picture, uint8 RGB `[1, H, W, 3]`, to one tensor.

    Args:
        path: of the file.
        threads: on which it runs.
        inside: keep what lies between input and output, to be read after a run; slower.

    Attributes:
        digest: first 8 hex digits of the file's SHA-256.
        size: height and width of its input.
        output: kind and shape of its output, such as `("float32", (1, 1, 17, 3))`.

    Raises:
        ConfigError: ai-edge-litert is not installed, the file cannot be read, is no network, or takes or gives
            something else.
    """

    def __init__(self, path: str | Path, threads: int, *, inside: bool = False) -> None:
        self.path = Path(path)
        self.digest = weights_digest([self.path])
        self._interpreter = PerProcess(partial(_open_tflite, self.path, threads, inside))
        inputs = [_tensor(entry) for entry in self._interpreter().get_input_details()]
        outputs = [_tensor(entry) for entry in self._interpreter().get_output_details()]
        kind, shape = inputs[0]
        if len(inputs) != 1 or kind != "uint8" or len(shape) != 4 or shape[0] != 1 or shape[3] != 3:
            raise _misfit(self.path, "takes", inputs, "uint8 [1, H, W, 3]")
        if len(outputs) != 1:
            raise _misfit(self.path, "gives", outputs, "one tensor")
        self.size = (shape[1], shape[2])
        self.output = outputs[0]

    def misfit(self, wanted: str) -> ConfigError:
        """The error that the output is not what is `wanted`."""
        return _misfit(self.path, "gives", [self.output], wanted)

    def run(self, picture: Image.Image) -> npt.NDArray[Any]:
        """The output for an RGB picture of the input's size."""
        interpreter = self._interpreter()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.asarray(picture)[None])
        interpreter.invoke()
        return self.read(interpreter.get_output_details()[0]["index"])

    def read(self, number: int) -> npt.NDArray[Any]:
        """A tensor of the last run: see `inner`."""
        found: npt.NDArray[Any] = self._interpreter().get_tensor(number)
        return found

    def inner(self, name: str, shape: tuple[int | None, ...]) -> int:
        """Number of the one float32 tensor inside whose name begins so, of a shape in which `None` is any size.

        Raises:
            ConfigError: there is none, or there are several.
        """
        found = [
            entry["index"]
            for entry in self._interpreter().get_tensor_details()
            if entry["name"].startswith(name)
            and (one := _tensor(entry))[0] == "float32"
            and len(one[1]) == len(shape)
            and all(wanted in (None, there) for wanted, there in zip(shape, one[1], strict=True))
        ]
        if len(found) != 1:
            said = ", ".join("any" if n is None else str(n) for n in shape)
            cause = f"has {len(found)} tensors '{name}...' float32 [{said}] inside, and one is needed"
            raise ConfigError(self.path, cause, "give another network, or do without its heat maps")
        return int(found[0])


class OnnxNetwork:
    """An ONNX network from one normalised picture, float32 `[1, 3, H, W]`, to some tensors.

    Args:
        path: of the file; weights in a file beside it, named `<file>.data`, count as its own.
        size: height and width of the input; `None` takes them from the file.
        mean, std: of red, green and blue in [0, 1]: a channel v of the picture goes in as (v / 255 - mean) / std.
        bgr: whether blue comes first.
        threads: on which it runs.

    Attributes:
        digest: first 8 hex digits of the SHA-256 of the weights.
        size: height and width of the input.
        shapes: of the outputs.

    Raises:
        ConfigError: onnxruntime is not installed, the file cannot be read, is no network or takes something else, or
            `size` is not its own, is missing where the file leaves it open, or cannot be run.
    """

    def __init__(
        self, path: str | Path, size: tuple[int, int] | None, mean: Triple, std: Triple, bgr: bool, threads: int
    ) -> None:
        self.path = Path(path)
        beside = Path(f"{path}.data")
        self.digest = weights_digest([self.path, *([beside] if beside.is_file() else [])])
        self._mean = np.asarray(mean, np.float32)
        self._std = np.asarray(std, np.float32)
        self._bgr = bgr
        self._opened = PerProcess(partial(open_onnx, self.path, threads))
        self.size = self._input_size(size)
        blank = Image.new("RGB", (self.size[1], self.size[0]))
        self.shapes = tuple(np.shape(output) for output in self.run(blank))

    def _input_size(self, size: tuple[int, int] | None) -> tuple[int, int]:
        inputs = self._opened().get_inputs()
        shape = inputs[0].shape
        fits = len(inputs) == 1 and inputs[0].type == "tensor(float)" and len(shape) == 4
        # Of a dimension that is left open the name or nothing is given.
        batch, channels, *fixed = (n if isinstance(n, int) else None for n in shape) if fits else (0, 0)
        if batch not in (1, None) or channels not in (3, None):
            found = [(re.sub(r"tensor\((.*)\)", r"\1", entry.type), entry.shape) for entry in inputs]
            raise _misfit(self.path, "takes", found, "float [1, 3, H, W]")
        if size is not None:
            if any(own not in (None, given) for own, given in zip(fixed, size, strict=True)):
                cause = f"takes pictures of {fixed[0]} x {fixed[1]}, not {size[0]} x {size[1]}"
                raise ConfigError(self.path, cause, "leave the size out")
            return size
        height, width = fixed
        if height is None or width is None:
            raise ConfigError(self.path, "leaves the size of its input open", "give the size: (height, width)")
        return height, width

    def misfit(self, wanted: str) -> ConfigError:
        """The error that the outputs are not what is `wanted`."""
        return _misfit(self.path, "gives", [("float", shape) for shape in self.shapes], wanted)

    def run(self, picture: Image.Image) -> list[Floats]:
        """The outputs for an RGB picture of the input's size.

        Raises:
            ConfigError: it cannot be run.
        """
        values = (np.asarray(picture, np.float32) / 255 - self._mean) / self._std
        values = values[..., ::-1] if self._bgr else values
        network = self._opened()
        try:
            found: list[Floats] = network.run(
                None, {network.get_inputs()[0].name: np.ascontiguousarray(values.transpose(2, 0, 1)[None])}
            )
        except Exception as error:  # the classes of onnxruntime's errors have nothing in common
            cause = f"cannot be run on a picture of {self.size[0]} x {self.size[1]} ({first_line(error)})"
            raise ConfigError(self.path, cause, "export it again, or give another size") from error
        return found


def open_onnx(path: str | Path, threads: int) -> Any:
    """An ONNX network as onnxruntime opens it, on `threads` cores.

    Raises:
        ConfigError: onnxruntime is not installed, or the file is no ONNX network.
    """
    onnxruntime = library("onnxruntime", "onnxruntime", "pose")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors: its warnings are of use to those who export networks
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the classes of onnxruntime's errors have nothing in common
        cause = f"is no ONNX network, or is damaged ({first_line(error)})"
        raise ConfigError(path, cause, "export or download it again") from error


def _open_tflite(path: Path, threads: int, inside: bool) -> Any:
    litert = library("ai_edge_litert.interpreter", "ai-edge-litert", "cues")
    options: dict[str, Any] = {}
    if inside:  # delegates keep what is inside of them to themselves
        plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        options = {"experimental_preserve_all_tensors": True, "experimental_op_resolver_type": plain}
    try:
        interpreter = litert.Interpreter(model_path=str(path), num_threads=threads, **options)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        cause = f"is no TFLite network, or is damaged ({first_line(error)})"
        raise ConfigError(path, cause, "download it again") from error
    return interpreter


def _tensor(entry: Any) -> tuple[str, tuple[int, ...]]:
    return np.dtype(entry["dtype"]).name, tuple(int(n) for n in entry["shape"])


def _misfit(path: Path, verb: str, found: Sequence[tuple[str, Sequence[Any]]], wanted: str) -> ConfigError:
    said = " and ".join(f"{kind} [{', '.join(map(str, shape))}]" for kind, shape in found) or "nothing"
    return ConfigError(path, f"{verb} {said}, and {wanted} is needed", "give another network, or another kind")
