"""A teacher: its distances between clear crops, and the pull towards them."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import glimpse
from glimpse.data import Dataset
from glimpse.errors import ConfigError, WeightsError
from glimpse.training import train
from glimpse.training.teacher import Teacher, neighbour_loss


def _naive(student: Tensor, teacher: Tensor, temperature: float) -> float:
    n, total = len(student), 0.0
    for i in range(n):
        others = [j for j in range(n) if j != i]
        p = [math.exp(-float(teacher[i, j]) / temperature) for j in others]
        q = [math.exp(-float(student[i, j]) / temperature) for j in others]
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / n


def _distances(seed: int) -> Tensor:
    points = torch.rand(5, 3, generator=torch.Generator().manual_seed(seed))
    return torch.cdist(points, points)


def test_the_loss_is_the_divergence_of_neighbourhoods() -> None:
    student, teacher = _distances(0), _distances(1)
    assert float(neighbour_loss(student, teacher, 0.3)) == pytest.approx(_naive(student, teacher, 0.3), rel=1e-4)
    assert float(neighbour_loss(student, student, 0.3)) == pytest.approx(0, abs=1e-6)
    # A crop's distance to itself and a shift of all distances say nothing about who is near whom.
    shifted = student + 0.4
    shifted.fill_diagonal_(9.0)
    assert torch.allclose(neighbour_loss(shifted, teacher, 0.3), neighbour_loss(student, teacher, 0.3), atol=1e-6)


def test_gradients_are_finite_and_lead_to_the_teacher() -> None:
    teacher = _distances(1)
    student = _distances(0).requires_grad_()
    optimiser = torch.optim.SGD([student], lr=1.0)
    losses = []
    for _ in range(50):
        loss = neighbour_loss(student, teacher, 0.5)
        optimiser.zero_grad()
        loss.backward()
        assert student.grad is not None
        assert bool(student.grad.isfinite().all())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 10


def test_a_stage_learns_from_weights_that_were_trained_before(small: Any, people: Dataset, tmp_path: Path) -> None:
    teacher = train(small(), people, tmp_path / "teacher", progress=False).last
    model = glimpse.load(teacher, precision="float32")
    samples = list(people.train)[:6]
    embedding = model.embed_samples(samples).embedding
    known = Teacher(model.distance(), embedding)
    rows = torch.tensor([4, 1, 1])
    expected = model.distance().matrix(embedding, embedding)[rows][:, rows]
    assert torch.allclose(known.matrix(rows), expected, atol=1e-5)

    stage = {"name": "taught", "epochs": 1, "teacher": 2.0, "optimiser": {"lr": 1e-3}}
    recipe = small("pcb", [stage], options={"strips": 2}, teacher=str(teacher))
    train(recipe, people, tmp_path / "run", progress=False)
    with open(tmp_path / "run" / "logs" / "taught" / "metrics.csv") as file:
        terms = [name for name in next(csv.reader(file)) if name.startswith("loss/")]
    assert "loss/id" in terms
    # What the teacher says of other crops is not taken for what it says of these.
    other = replace(people, train=tuple(replace(s, name=people.query[0].name) for s in people.train))
    cache = tmp_path / "run" / "cache"
    train(recipe, other, tmp_path / "other", cache=cache, progress=False)
    assert len(list(cache.glob("teacher-*.safetensors"))) == 2
    assert any(name.startswith("loss/teacher_") for name in terms)


def test_a_teacher_must_be_named_and_be_there(small: Any, people: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"field 'teacher'.*none is named"):
        small("pcb", [{"epochs": 1, "teacher": 1.0}])
    stages = [{"name": "first", "epochs": 1}, {"name": "taught", "epochs": 1, "teacher": 1.0}]
    recipe = small("pcb", stages, options={"strips": 2}, teacher=str(tmp_path / "no.safetensors"))
    with pytest.raises(WeightsError, match=r"^field 'teacher': '.*no\.safetensors': there is no such file.*default"):
        train(recipe, people, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
