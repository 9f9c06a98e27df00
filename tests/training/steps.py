"""One step of a stage without files, and what a whole training wrote."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from glimpse.training.crops import Batch
from glimpse.training.module import StageModule


def a_batch(n: int = 8) -> Batch:
    """Noise of 64 x 32, two crops a person; the lower half of every other crop is hidden."""
    images = torch.randn(n, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    visible = torch.ones(n, 64, 32)
    visible[::2, 32:] = 0
    return Batch(images, visible, torch.arange(n) // 2, torch.arange(n), torch.zeros(n, 2, 2))


def bare_trainer(**changes: Any) -> lightning.Trainer:
    """One epoch on the CPU, and nothing written or shown."""
    how: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False}
    return lightning.Trainer(**how, enable_progress_bar=False, enable_model_summary=False, **changes)


def fit(module: StageModule, *batches: Batch, **changes: Any) -> float:
    """The mean loss of a step on each batch."""
    trainer = bare_trainer(**changes)
    trainer.fit(module, DataLoader(list(batches), batch_size=None))
    return float(trainer.callback_metrics["loss"])


def stage_weights(out: Path, stage: str) -> dict[str, Tensor]:
    """What a stage left, such as `0-ide`, of the training in `out`."""
    return load_file(out / "stages" / stage / "weights.safetensors")


def logged(out: Path, stage: str) -> dict[str, list[float]]:
    """Columns of the log of a stage, such as `ide`, without their empty cells."""
    with open(out / "logs" / stage / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}
