"""Estimators of body parts: DeepLab (person or not), SegFormer (clothes) and SCHP (clothes and limbs)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glimpse.cues.estimators import (
    OnnxNetwork,
    PerProcess,
    TfliteNetwork,
    first_line,
    letterbox,
    library,
    weights_digest,
)
from glimpse.cues.parts import ATR_18, LIP_20, PERSON, Labels, PartMap
from glimpse.cues.points import Floats
from glimpse.errors import ConfigError
from glimpse.pictures import IMAGENET_MEAN, IMAGENET_STD

_PERSON_OF_VOC = 15
_CLASSES_OF_VOC = 21
_GREY = (127, 127, 127)
_BLACK = (0, 0, 0)
_FILES = ["config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json"]


class DeepLab:
    """DeepLab for Pascal VOC as TFLite: which pixels are a person.

    The crop is padded with mid-grey, the mean of what the network was trained with. It takes up half of the input's
    height: the network was trained on whole scenes, and finds little in a person who fills the picture.

    Args:
        path: of the file, with an input uint8 RGB `[1, H, W, 3]` and either the number of a class per pixel
            `[1, h, w]` or 21 scores per cell `[1, h, w, 21]`; class 15 is person.
        fill: how much of the input the crop takes up, in (0, 1].
        threads: on which it runs.

    Raises:
        ConfigError: ai-edge-litert is not installed (extra `cues`), the file is not such a network, or `fill` is out of
            range.
    """

    scheme = PERSON

    def __init__(self, path: str | Path, *, fill: float = 0.5, threads: int = 1) -> None:
        if not 0 < fill <= 1:
            raise ConfigError("fill", f"{fill} is out of range", "give a number above 0 and up to 1")
        self._fill = fill
        self._network = TfliteNetwork(path, threads)
        kind, shape = self._network.output
        self._labelled = len(shape) == 3 and "int" in kind
        if not self._labelled and (len(shape) != 4 or shape[3] != _CLASSES_OF_VOC):
            raise self._network.misfit("int [1, h, w] or [1, h, w, 21]")
        self.name = f"deeplab@{self._network.digest},fill={fill}"

    def parts(self, image: Image.Image) -> PartMap:
        """Person or not."""
        picture, frame = letterbox(image, self._network.size, _GREY, self._fill)
        found = self._network.run(picture)[0]
        if self._labelled:
            person = (found == _PERSON_OF_VOC).astype(np.float32)
            scores, number = np.stack((1 - person, person)), 1
        else:
            scores, number = found.transpose(2, 0, 1), _PERSON_OF_VOC
        box = _cells(frame.box, self._network.size, scores)
        return PartMap((_labels(scores, box, frame.crop) == number).astype(np.uint8), PERSON)


class Schp:
    """Self-Correction Human Parsing (Li et al., TPAMI 2020) trained on LIP, as ONNX.

    The crop is padded to the input's aspect with black. Of several outputs with 20 maps the last is taken: the network
    gives a first guess, then its final one, and may give edges beside them.

    Args:
        path: of the file, with one input float32 `[1, 3, H, W]` (473 x 473 as published), normalised by ImageNet's mean
            and deviation, and an output `[1, 20, h, w]` whose corner cells are on the corner pixels of the input.
        size: height and width of the input, where the file leaves them open.
        bgr: whether blue comes first, as published; exports with red first exist.
        threads: on which it runs.

    Raises:
        ConfigError: onnxruntime is not installed (extra `pose`), or the file is not such a network or not of this size.
    """

    scheme = LIP_20

    def __init__(
        self, path: str | Path, size: tuple[int, int] | None = None, *, bgr: bool = True, threads: int = 1
    ) -> None:
        self._network = OnnxNetwork(path, size, IMAGENET_MEAN, IMAGENET_STD, bgr=bgr, threads=threads)
        wanted = (1, len(LIP_20.labels))
        fitting = [row for row, shape in enumerate(self._network.shapes) if len(shape) == 4 and shape[:2] == wanted]
        if not fitting:
            raise self._network.misfit("[1, 20, h, w]")
        self._output = fitting[-1]
        height, width = self._network.size
        self.name = f"schp@{self._network.digest},{height}x{width},{'bgr' if bgr else 'rgb'}"

    def parts(self, image: Image.Image) -> PartMap:
        """Parts by the labels of LIP."""
        picture, frame = letterbox(image, self._network.size, _BLACK)
        scores = self._network.run(picture)[self._output][0]
        box = _cells(frame.box, self._network.size, scores, corners=True)
        return PartMap(_labels(scores, box, frame.crop), LIP_20)


class SegFormerClothes:
    """SegFormer (Xie et al., NeurIPS 2021) trained on ATR, through transformers.

    Only safetensors are read, and no code that comes with weights is run. The crop is stretched to the input, as the
    network's own settings say.

    Args:
        model: folder with config.json, preprocessor_config.json and model.safetensors, or the name of a model on the
            Hugging Face Hub, which is downloaded when an estimator is first made and kept in its cache.
        revision: branch, tag or commit on the hub.
        threads: on which it runs.

    Raises:
        ConfigError: transformers is not installed (extra `parsing`), the model cannot be downloaded, is damaged, or has
            other labels than ATR's 18 in their order.
    """

    scheme = ATR_18

    def __init__(
        self, model: str | Path = "mattmdjaga/segformer_b2_clothes", *, revision: str = "main", threads: int = 1
    ) -> None:
        if Path(model).is_dir():
            folder, said = Path(model), ""
        else:
            folder = _snapshot(str(model), revision)
            said = f",{str(model).replace('/', '+')},{folder.name[:12]}"  # of a snapshot, the commit
        _check_config(folder)
        weights = sorted(folder.glob("model*.safetensors"))
        if not weights:
            raise ConfigError(folder, "has no model.safetensors", "save the network as safetensors")
        digest = weights_digest([*weights, folder / "config.json", folder / "preprocessor_config.json"])
        self._threads = threads
        self._network = PerProcess(partial(_open_segformer, folder))
        self._network()  # a damaged file is told before work starts
        self.name = f"segformer@{digest}{said}"

    def parts(self, image: Image.Image) -> PartMap:
        """Parts by the labels of ATR."""
        import torch

        network, processor = self._network()
        with _torch_threads(self._threads), torch.inference_mode():
            pixels = processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"]
            scores: Floats = network(pixel_values=pixels).logits[0].numpy()
        _, h, w = scores.shape
        return PartMap(_labels(scores, (0, 0, w, h), (image.height, image.width)), ATR_18)


def _cells(
    box: tuple[int, int, int, int], size: tuple[int, int], scores: Floats, *, corners: bool = False
) -> tuple[float, float, float, float]:
    """A box in the input of a network as a box in its output `[k, h, w]`.

    Args:
        box: left, top, right, bottom in pixels.
        size: height and width of the input.
        scores: the output.
        corners: whether the corner cells are on the corner pixels; else cells divide the input into equal parts.
    """
    (height, width), (h, w) = size, scores.shape[1:]
    if not corners:
        x, y, shift = w / width, h / height, 0.0
    else:
        x, y, shift = (w - 1) / (width - 1), (h - 1) / (height - 1), 0.5
    left, top, right, bottom = ((v - shift) * (y if row % 2 else x) + shift for row, v in enumerate(box))
    return left, top, right, bottom


def _labels(scores: Floats, box: tuple[float, float, float, float], size: tuple[int, int]) -> Labels:
    """Which of the maps `[k, h, w]` is highest, after the box of them was resized to `size`, uint8 `size`."""
    height, width = size
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in scores]
    resized = [plane.resize((width, height), Image.Resampling.BILINEAR, box) for plane in planes]
    found: Labels = np.stack([np.asarray(plane) for plane in resized]).argmax(0).astype(np.uint8)
    return found


def _snapshot(model: str, revision: str) -> Path:
    """The folder of a model on the hub, downloaded if need be."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        remedy = "give a folder, or the name of a model as OWNER/NAME"
        raise ConfigError(model, "is no folder, and no name of a model", remedy)
    hub = library("huggingface_hub", "huggingface_hub", "parsing")
    try:
        return Path(hub.snapshot_download(model, revision=revision, allow_patterns=_FILES))
    except (OSError, ValueError) as error:
        cause = f"cannot be downloaded ({first_line(error)})"
        remedy = "connect this machine, or download the model on another one and give its folder: segformer:FOLDER"
        raise ConfigError(f"{model} ({revision})", cause, remedy) from error


def _check_config(folder: Path) -> None:
    """Raise unless the network in `folder` is a SegFormer with ATR's labels."""
    path = folder / "config.json"
    remedy = "give a SegFormer trained on ATR, such as mattmdjaga/segformer_b2_clothes"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config["model_type"]
        labels = tuple(config["id2label"][str(row)] for row in range(len(config["id2label"])))
    except OSError as error:
        raise ConfigError(path, f"cannot be read ({error.strerror})", remedy) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(path, "does not say what the network is (model_type, id2label)", remedy) from error
    if kind != "segformer":
        raise ConfigError(path, f"is of a '{kind}', and a 'segformer' is needed", remedy)
    if tuple(str(label).lower().replace("-", "_") for label in labels) != ATR_18.labels:
        said = ", ".join(map(str, labels))
        raise ConfigError(path, f"has the labels {said}; needed are {', '.join(ATR_18.labels)}", remedy)


def _open_segformer(folder: Path) -> tuple[Any, Any]:
    transformers = library("transformers", "transformers", "parsing")
    try:
        network, info = transformers.SegformerForSemanticSegmentation.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, output_loading_info=True
        )
        processor = transformers.SegformerImageProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises nearly anything on damaged files
        cause = f"cannot be opened ({first_line(error)})"
        raise ConfigError(folder, cause, "download it again") from error
    if info["missing_keys"]:  # they would be random numbers
        cause = f"lacks weights ({sorted(info['missing_keys'])[0]} and {len(info['missing_keys']) - 1} more)"
        raise ConfigError(folder, cause, "download it again")
    return network.eval(), processor


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """Let torch work on so many threads in this process meanwhile."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
