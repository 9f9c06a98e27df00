"""Networks that turn a crop into a map of features at stride 16."""

from glimpse.backbones.backbone import Backbone, Look, VisibilityHead, to_cells
from glimpse.backbones.osnet import OSNet
from glimpse.backbones.starts import (
    BACKBONES,
    BackboneName,
    Start,
    build_backbone,
    load_start,
    preprocessing,
    read_safetensors,
)

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneName",
    "Look",
    "OSNet",
    "Start",
    "VisibilityHead",
    "build_backbone",
    "load_start",
    "preprocessing",
    "read_safetensors",
    "to_cells",
]
