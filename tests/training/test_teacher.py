"""A teacher: its distances between clear crops, and the pull towards them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from steps import logged
from torch import Tensor

import glimpse
from glimpse.data import Dataset
from glimpse.errors import ConfigError, WeightsError
from glimpse.training import train
from glimpse.training.teacher import Teacher, distance_loss, vector_loss


def _distances(seed: int) -> Tensor:
    points = torch.rand(5, 3, generator=torch.Generator().manual_seed(seed))
    return torch.cdist(points, points)


def test_the_loss_of_distances_is_their_mean_squared_difference() -> None:
    student, teacher = _distances(0), _distances(1)
    squares = [float(student[i, j] - teacher[i, j]) ** 2 for i in range(5) for j in range(5) if i != j]
    assert float(distance_loss(student, teacher)) == pytest.approx(sum(squares) / 20, rel=1e-4)
    assert float(distance_loss(student, student)) == 0
    # A crop's distance to itself says nothing.
    assert torch.equal(distance_loss(student.clone().fill_diagonal_(9.0), teacher), distance_loss(student, teacher))


def test_the_loss_of_vectors_is_their_mean_cosine_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(4, 3, generator=generator), torch.randn(4, 3, generator=generator)
    total = 0.0
    for a, b in zip(student.tolist(), teacher.tolist(), strict=True):
        inner = sum(x * y for x, y in zip(a, b, strict=True))
        total += 1 - inner / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    assert float(vector_loss(student, teacher)) == pytest.approx(total / 4, rel=1e-5)
    assert float(vector_loss(5 * teacher, teacher)) == pytest.approx(0, abs=1e-6)


def test_a_stage_learns_from_weights_that_were_trained_before(small: Any, people: Dataset, tmp_path: Path) -> None:
    teacher = train(small(), people, tmp_path / "teacher", progress=False).last
    model = glimpse.load(teacher, precision="float32")
    samples = list(people.train)[:6]
    embedding = model.embed_samples(samples).embedding
    known = Teacher(model.distance(), embedding)
    rows = torch.tensor([4, 1, 1])
    expected = model.distance().matrix(embedding, embedding)[rows][:, rows]
    assert torch.allclose(known.matrix(rows), expected, atol=1e-5)
    vectors = embedding["globals"][rows]
    assert torch.allclose(known.vectors(rows), vectors / vectors.norm(dim=1, keepdim=True), atol=1e-6)
    assert known.width == vectors.shape[1]

    stage = {"name": "taught", "epochs": 1, "teacher": 2.0, "teacher_vector": 3.0, "optimiser": {"lr": 1e-3}}
    recipe = small("pcb", [stage], options={"strips": 2}, teacher=str(teacher))
    train(recipe, people, tmp_path / "run", progress=False)
    terms = {name for name in logged(tmp_path / "run", "taught") if name.startswith("loss/")}
    assert terms == {"loss/id", "loss/teacher_part", "loss/teacher_vector"}
    # What the teacher says of other crops is not taken for what it says of these.
    other = replace(people, train=tuple(replace(s, name=people.query[0].name) for s in people.train))
    cache = tmp_path / "run" / "cache"
    train(recipe, other, tmp_path / "other", cache=cache, progress=False)
    assert len(list(cache.glob("teacher-*.safetensors"))) == 2


def test_a_teacher_of_vectors_needs_one_vector_per_crop(small: Any, people: Dataset, tmp_path: Path) -> None:
    teacher = train(small("pcb", options={"strips": 2}), people, tmp_path / "teacher", progress=False).last
    stages = [{"name": "first", "epochs": 1}, {"name": "taught", "epochs": 1, "teacher_vector": 1.0}]
    recipe = small(stages=stages, teacher=str(teacher))
    with pytest.raises(
        ConfigError, match=r"field 'teacher': the teacher has no one vector per crop.*set teacher_vector"
    ):
        train(recipe, people, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_what_reads_the_teachers_vector_is_handed_on_to_the_next_stage(
    small: Any, people: Dataset, tmp_path: Path
) -> None:
    teacher = train(small(), people, tmp_path / "teacher", progress=False).last
    still = {"lr": 1e-12}
    stages = [
        {"name": "one", "epochs": 1, "teacher_vector": 1.0, "optimiser": {"lr": 1e-2}},
        {"name": "two", "epochs": 1, "teacher_vector": 1.0, "optimiser": still},
    ]
    recipe = small("pcb", stages, options={"strips": 2, "dim": 8, "descriptor": "reduced"}, teacher=str(teacher))
    trained = train(recipe, people, tmp_path / "run", progress=False)
    readers = [load_file(tmp_path / "run" / "stages" / name / "reader.safetensors") for name in ("0-one", "1-two")]
    assert readers[0]["weight"].shape == (128, 8)
    for name, value in readers[0].items():
        assert torch.allclose(value, readers[1][name], atol=1e-6), name
    # It is no part of the method.
    assert not [name for name in load_file(trained.last) if "reader" in name]


def test_a_teacher_must_be_named_and_be_there(small: Any, people: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"field 'teacher'.*none is named"):
        small("pcb", [{"epochs": 1, "teacher": 1.0}])
    with pytest.raises(ConfigError, match=r"field 'teacher'.*none is named"):
        small("pcb", [{"epochs": 1, "teacher_vector": 1.0}])
    stages = [{"name": "first", "epochs": 1}, {"name": "taught", "epochs": 1, "teacher": 1.0}]
    recipe = small("pcb", stages, options={"strips": 2}, teacher=str(tmp_path / "no.safetensors"))
    with pytest.raises(WeightsError, match=r"^field 'teacher': '.*no\.safetensors': there is no such file.*default"):
        train(recipe, people, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
