"""A training that was killed and started again ends where an unbroken one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from glimpse.training import Recipe

KILLED_AT = 6  # steps of the last stage; an epoch has four of them
SCRIPT = """
import os, signal, sys
from glimpse.training import Recipe, train
from glimpse.training.module import StageModule

step, killed_at = StageModule.training_step, int(sys.argv[4])
def until_killed(self, batch, index):
    if self.stage.name == "joint" and self.global_step == killed_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, index)
StageModule.training_step = until_killed
train(Recipe.model_validate_json(sys.argv[1]), "market1501:" + sys.argv[2], sys.argv[3], progress=False)
"""


def _recipe(small: Any, workers: int) -> Recipe:
    """All that is random: dropout, prompts, occluders, the order of crops; and a rate that changes at every step."""
    optimiser = {"kind": "adamw", "lr": 2e-3, "schedule": "cosine", "warmup": 0.5}
    ide = {"name": "ide", "epochs": 1, "method": "baseline", "options": {"triplet": False}, "optimiser": optimiser}
    seeing = {"name": "visibility", "epochs": 1, "learns": "visibility", "prompt": 0.5, "optimiser": optimiser}
    joint = {
        "name": "joint",
        "epochs": 3,
        "freeze": ["stem", "stage1"],
        "prompt": 0.5,
        "visibility": 0.5,
        "average": 0.7,
    }
    recipe: Recipe = small(
        "pcb",
        [ide, seeing, {**joint, "optimiser": optimiser}],
        visibility=True,
        options={"strips": 2, "dim": 16, "dropout": 0.5},
        transforms={"size": [64, 32], "pad": 2, "occlusion": {"p": 0.5}},
        sampling={"people": 2, "crops": 2},
        validation={"identities": 2},
        workers=workers,
    )
    return recipe


def _train(recipe: Recipe, rendered: Path, out: Path, killed_at: int = -1) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own: rounding depends on threads and on where tensors lie in memory, and what other
    tests did to this process must not show."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, recipe.model_dump_json(), str(rendered), str(out), str(killed_at)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_training_ends_where_an_unbroken_one_does(
    workers: int, small: Any, rendered: Path, tmp_path: Path
) -> None:
    recipe = _recipe(small, workers)
    whole, out = tmp_path / "whole", tmp_path / "broken"
    unbroken = _train(recipe, rendered, whole)
    assert unbroken.returncode == 0, unbroken.stderr

    killed = _train(recipe, rendered, out, KILLED_AT)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"stages/0-ide/weights.safetensors", "stages/2-joint/epoch.ckpt", "best.safetensors"} <= left
    assert not {"stages/2-joint/weights.safetensors", "last.safetensors"} & left
    assert not list(out.rglob(".*"))
    first_stage = (out / "stages" / "0-ide" / "weights.safetensors").stat().st_mtime_ns
    first_log = (out / "logs" / "joint" / "metrics.csv").read_text()

    resumed = _train(recipe, rendered, out)
    assert resumed.returncode == 0, resumed.stderr
    assert (out / "stages" / "0-ide" / "weights.safetensors").stat().st_mtime_ns == first_stage
    expected, found = load_file(whole / "last.safetensors"), load_file(out / "last.safetensors")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.allclose(value.float(), found[name].float(), atol=1e-6, rtol=1e-6), name
    cards = [json.loads((folder / "best.json").read_text()) for folder in (whole, out)]
    assert cards[0]["metrics"] == cards[1]["metrics"]
    # What the first call logged is kept beside what the second did.
    assert (out / "logs" / "joint" / "metrics-1.csv").read_text() == first_log
    assert (out / "logs" / "joint" / "metrics.csv").exists()
