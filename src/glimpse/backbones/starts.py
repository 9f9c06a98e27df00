"""Backbones by name, and the weights they start from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

import timm
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from glimpse.backbones.backbone import Backbone, VisibilityHead
from glimpse.backbones.osnet import OSNet
from glimpse.backbones.timm_backbones import HRNetW32, MobileNetV2, ResNet50
from glimpse.errors import WeightsError
from glimpse.pictures import IMAGENET_MEAN, IMAGENET_STD, Triple

BackboneName = Literal[
    "osnet_x0_25",
    "osnet_x0_5",
    "osnet_x0_75",
    "osnet_x1_0",
    "osnet_lct_x1_0",
    "resnet50",
    "resnet50_ibn_a",
    "hrnet_w32",
    "mobilenetv2_100",
    "mobilenetv2_100_same",
]

BACKBONES: Mapping[BackboneName, Callable[[], Backbone]] = {
    "osnet_x0_25": lambda: OSNet(0.25),
    "osnet_x0_5": lambda: OSNet(0.5),
    "osnet_x0_75": lambda: OSNet(0.75),
    "osnet_x1_0": lambda: OSNet(1.0),
    "osnet_lct_x1_0": lambda: OSNet(1.0, instance_norm=True, second_gate="lct"),
    "resnet50": ResNet50,
    "resnet50_ibn_a": lambda: ResNet50(ibn=True),
    "hrnet_w32": HRNetW32,
    "mobilenetv2_100": MobileNetV2,
    "mobilenetv2_100_same": lambda: MobileNetV2(pad_type="same"),
}


_INSERTED = ("visibility.", "attention.")
"""Beginnings of the names of what is put into a backbone, and is in none that comes from elsewhere."""


class Start(BaseModel):
    """Where the weights of a backbone came from, for the card of what is trained from them.

    Attributes:
        name: `scratch`, `imagenet` (timm's weights) or the file's name.
        sha256: of the file; empty if there is none.
        mean, std: pre-processing that the weights expect, of RGB in [0, 1].
        source, training_data: as the file's metadata states them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str = ""
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    source: str = ""
    training_data: str = ""


def build_backbone(name: BackboneName, *, visibility: bool = False) -> Backbone:
    """The backbone `name` with random weights: images `[n, 3, H, W]` -> map `[n, .channels, H/16, W/16]`.

    Args:
        name: which.
        visibility: whether it has a head that tells which cells are visible.

    Raises:
        WeightsError: there is no backbone of that name.

    >>> build_backbone("osnet_x0_25").channels
    128
    """
    if name not in BACKBONES:
        raise WeightsError(f"backbone '{name}'", "is not known", f"choose one of {', '.join(get_args(BackboneName))}")
    backbone = BACKBONES[name]()
    if visibility:
        backbone.visibility = VisibilityHead(backbone.early_channels)
    return backbone


def load_start(backbone: Backbone, name: BackboneName, start: str | Path) -> Start:
    """Load weights into `backbone` and say what they are.

    Args:
        backbone: what `build_backbone(name)` gave.
        start: `scratch` (leave it as it is), `imagenet` (timm downloads its weights) or a `.safetensors` file: of a
            backbone, or of a method trained here. Tensors that belong to a head are left out. What a method puts into
            the backbone, a visibility head or an attention, may be missing from the file.

    Raises:
        WeightsError: the file is missing or damaged, or does not fit the backbone.
    """
    if start == "scratch":
        return Start(name="scratch")
    if start == "imagenet":
        return _download(backbone, name)
    path = Path(start)
    tensors, metadata = read_safetensors(path)
    if any(key.startswith("backbone.") for key in tensors):  # weights of a whole method: its backbone is the start
        whole = {key.removeprefix("backbone."): value for key, value in tensors.items() if key.startswith("backbone.")}
        tensors = {key.removeprefix("net."): value for key, value in whole.items()}
    wanted = backbone.state_dict()
    # Files name tensors as timm and others do; a visibility head is beside their network, and always ours.
    given = {key: tensors[own] for key in wanted if (own := key.removeprefix("net.")) in tensors}
    # A start may come without a visibility head or an attention, which the training will teach; half of one is wrong.
    absent = tuple(part for part in _INSERTED if not any(key.startswith(part) for key in given))
    missing = [
        key
        for key in wanted
        if key not in given and not key.endswith("num_batches_tracked") and not key.startswith(absent)
    ]
    if any(key.startswith("attention.") and key not in wanted for key in tensors):
        cause = "has another attention after its first stage (SGSFA's), and what comes after it knows no other input"
        raise WeightsError(path, cause, "train what it is of, with the same gate, or start from weights without one")
    wrong = [key for key, value in given.items() if value.shape != wanted[key].shape]
    if missing or wrong:
        raise WeightsError(
            path,
            f"does not fit backbone '{name}': {len(missing)} tensors are missing and {len(wrong)} have another shape "
            f"(first: {(missing + wrong)[0]})",
            "name the backbone that the file was made for",
        )
    backbone.load_state_dict({key: value.to(wanted[key].dtype) for key, value in given.items()}, strict=False)
    mean, std = preprocessing(metadata)
    return Start(
        name=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        mean=mean,
        std=std,
        source=metadata.get("source", ""),
        training_data=metadata.get("training_data", ""),
    )


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        WeightsError: the file is missing or is not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError as error:
        raise WeightsError(path, "there is no such file", "give the path of a .safetensors file") from error
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            path, f"is not a readable safetensors file ({error})", "pickled weights are not read; convert or copy again"
        ) from error


def preprocessing(metadata: Mapping[str, str]) -> tuple[Triple, Triple]:
    """Mean and standard deviation (of RGB in [0, 1]) that the metadata of a weights file states.

    Read from `mean` and `std` as JSON lists, else from a sentence in `input`; ImageNet's where nothing is said.

    Raises:
        WeightsError: `mean` or `std` is not a list of three numbers.

    >>> preprocessing({"input": "RGB / 127.5 - 1 (mean 0.5, std 0.5)"})
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """
    if "mean" in metadata and "std" in metadata:
        three: TypeAdapter[Triple] = TypeAdapter(Triple)
        try:
            return three.validate_json(metadata["mean"]), three.validate_json(metadata["std"])
        except ValidationError as error:
            raise WeightsError(
                "metadata 'mean' and 'std' of the weights",
                f"are not three numbers each ({metadata['mean']!r} and {metadata['std']!r})",
                "write them as JSON lists, such as [0.5, 0.5, 0.5]",
            ) from error
    said = re.search(r"mean ([\d.]+), std ([\d.]+)", metadata.get("input", ""))
    if said:
        m, s = float(said[1]), float(said[2])
        return (m, m, m), (s, s, s)
    return IMAGENET_MEAN, IMAGENET_STD


def _download(backbone: nn.Module, name: BackboneName) -> Start:
    own: nn.Module | None = getattr(backbone, "net", None)
    if own is None or name == "resnet50_ibn_a":
        raise WeightsError(
            f"start 'imagenet' of backbone '{name}'",
            f"no ImageNet weights of {'OSNet' if own is None else 'ResNet-50-IBN-a'} are published as safetensors",
            "give a .safetensors file, or start: scratch",
        )
    architecture = {"resnet50": "resnet50.tv_in1k"}.get(name, name.removesuffix("_same"))  # the papers had these
    try:
        trained = cast(Any, timm.create_model(architecture, pretrained=True, num_classes=0, global_pool=""))
    except Exception as error:  # timm lets errors of several network libraries through
        raise WeightsError(
            f"start 'imagenet' of backbone '{name}'",
            f"cannot be downloaded ({error})",
            "check the network, or give a local .safetensors file as start",
        ) from error
    own.load_state_dict(trained.state_dict())
    config = trained.pretrained_cfg
    return Start(
        name=f"imagenet ({config.get('hf_hub_id') or config.get('architecture')})",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        source=f"timm, {config.get('license', 'licence not stated')}",
        training_data="ImageNet",
    )
