"""glimpse finds a person again when only part of them can be seen.

>>> import glimpse
>>> "search" in dir(glimpse)
True

The names below are loaded when they are first used, so that `import glimpse` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glimpse.data import open_crops, open_dataset
    from glimpse.embedding import Embedding
    from glimpse.errors import GlimpseError
    from glimpse.evaluation import evaluate_dataset as evaluate
    from glimpse.model import Model, load
    from glimpse.search import search
    from glimpse.training.train import train

__version__ = "0.1.0"

__all__ = [
    "Embedding",
    "GlimpseError",
    "Model",
    "__version__",
    "evaluate",
    "load",
    "open_crops",
    "open_dataset",
    "search",
    "train",
]

_HOMES = {
    "Embedding": ("glimpse.embedding", "Embedding"),
    "GlimpseError": ("glimpse.errors", "GlimpseError"),
    "Model": ("glimpse.model", "Model"),
    "evaluate": ("glimpse.evaluation", "evaluate_dataset"),
    "load": ("glimpse.model", "load"),
    "open_crops": ("glimpse.data", "open_crops"),
    "open_dataset": ("glimpse.data", "open_dataset"),
    "train": ("glimpse.training.train", "train"),
}


def __getattr__(name: str) -> Any:
    if name == "search":
        # The room and its one verb share a name; the module is callable (see glimpse/search/__init__.py).
        return importlib.import_module("glimpse.search")
    if name not in _HOMES:
        raise AttributeError(f"module 'glimpse' has no attribute '{name}'")
    home, attribute = _HOMES[name]
    value = getattr(importlib.import_module(home), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
