"""A method that searches by key points is given them for every crop, in pixels of its input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import BaseModel
from torch import Tensor

import glimpse
from glimpse.cues.cache import CueCache, Row, digest_of
from glimpse.cues.needs import Cues, Needs
from glimpse.cues.points import KeyPoints
from glimpse.cues.skeleton import COCO_17, OPENPOSE_18
from glimpse.data import Sample, open_crops
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, DataError
from glimpse.methods import METHODS, Baseline, Outputs
from glimpse.model import Card, Model, build, save
from glimpse.search import search

NOSE, NECK = OPENPOSE_18.row("nose"), OPENPOSE_18.row("neck")


class Posed(Baseline):
    """Its embedding is the key points that it is given."""

    name = "posed"

    @classmethod
    def needs(cls, options: BaseModel, when: str) -> Needs:
        return Needs(points=OPENPOSE_18)

    def heads(self, features: Tensor, visible: Tensor | None = None, cues: Cues | None = None) -> Outputs:
        assert cues is not None
        assert cues.parts.shape[:2] == (len(features), 0)
        return {"points": cues.points, "scale": cues.scale, "globals": cues.points.flatten(1)}

    def embed(self, outputs: Outputs) -> Embedding:
        return Embedding(outputs)


@pytest.fixture(autouse=True)
def _posed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "posed", Posed)  # type: ignore[arg-type]


def card() -> Card:
    return Card(method="posed", backbone="osnet_x0_25", size=(64, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), ids=0)


def corner(image: Image.Image, read: Any = None) -> KeyPoints | None:
    """Two people: one of a nose, and one with nose and shoulders; nobody in a black crop."""
    if not np.asarray(image).any():
        return None
    values = np.zeros((2, 17, 3), np.float32)
    values[0, 0] = 1, 1, 1
    values[1, 0] = image.width, image.height / 2, 0.9
    values[1, COCO_17.row("left_shoulder")] = 4, 8, 0.6
    values[1, COCO_17.row("right_shoulder")] = 8, 8, 0.8
    return KeyPoints(values, COCO_17)


def crop(shade: int = 200, size: tuple[int, int] = (16, 64)) -> Image.Image:
    return Image.new("RGB", size, (shade, shade, shade))


@pytest.fixture
def posed() -> Model:
    torch.manual_seed(0)
    return Model(build(card()), card(), "posed@1", precision="float32", keypoints=corner, batch=2)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_points_of_the_target_are_in_pixels_of_the_input(engine: Any) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    model = Model(build(card()), card(), "posed@1", precision="float32", keypoints=corner, batch=2, engine=engine)
    found = model.embed([crop(), crop(0), crop(size=(64, 128))])
    assert found["scale"].tolist() == [[2.0, 1.0], [2.0, 1.0], [0.5, 0.5]]
    # Of the two, the person with more points; the point on the right border lies outside.
    assert found["points"][0, NOSE].tolist() == [32.0, 32.0, 0.0]
    assert found["points"][0, NECK].tolist() == pytest.approx([12.0, 8.0, 0.7])
    assert found["points"][2, NECK].tolist() == pytest.approx([3.0, 4.0, 0.7])
    assert not found["points"][1].any()


def test_points_that_a_prompt_hides_were_not_found(posed: Model) -> None:
    upper, lower = posed.embed([crop(), crop()], [(0, 0, 16, 32), (0, 32, 16, 64)])["points"].unbind(0)
    assert float(upper[NECK, 2]) == pytest.approx(0.7)
    assert float(lower[NECK, 2]) == 0.0


def folder(path: Path) -> list[Sample]:
    path.mkdir()
    for number in range(3):
        crop(50 * number).save(path / f"{number}.png")
    return open_crops(path)


def test_files_are_handed_on_where_the_crop_is_as_it_lies_there(posed: Model, tmp_path: Path) -> None:
    samples, reads = folder(tmp_path / "crops"), []

    def noted(image: Image.Image, read: Any) -> KeyPoints | None:
        reads.append(None if read is None else read())
        return corner(image)

    posed.keypoints = noted
    posed.embed_samples(samples)
    posed.embed_samples(samples, edit=lambda row, image: (image, (0, 0, 8, 8)))
    assert reads == 2 * [sample.store.read(sample.name) for sample in samples]
    reads.clear()
    posed.embed_samples(samples, edit=lambda row, image: (image.copy(), None))
    assert reads == [None, None, None]


def test_heat_maps_reach_a_method_that_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Tensor] = []

    class Warm(Posed):
        @classmethod
        def needs(cls, options: BaseModel, when: str) -> Needs:
            return Needs(points=COCO_17, heat=True)

        def heads(self, features: Tensor, visible: Tensor | None = None, cues: Cues | None = None) -> Outputs:
            assert cues is not None
            given.append(cues.heat)
            return super().heads(features, visible, cues)

    def glowing(image: Image.Image, read: Any = None) -> KeyPoints | None:
        heat = np.zeros((17, 16, 4), np.uint8)
        heat[0, 2, 1], heat[5, 12, 3] = 255, 128
        return KeyPoints(np.ones((1, 17, 3)), COCO_17, heat) if np.asarray(image).any() else None

    monkeypatch.setitem(METHODS, "posed", Warm)  # type: ignore[arg-type]
    model = Model(build(card()), card(), "posed@1", precision="float32", keypoints=glowing)
    model.embed([crop(), crop(0)])
    (heat,) = given
    assert heat.shape == (2, 17, 16, 8)  # the input is 64 x 32
    assert heat[0, 0].nonzero().tolist() == [[2, 2], [2, 3]]
    assert heat[0, 5, 12, 6:].tolist() == pytest.approx([(128 / 255) ** 2] * 2)
    assert not heat[1].any()  # nobody
    model.embed([crop()], [(0, 0, 16, 32)])
    assert given[1][0, 0, 2, 2] == 1
    assert not given[1][0, 5].any()  # what a prompt hides
    monkeypatch.setitem(METHODS, "posed", Posed)  # type: ignore[arg-type]
    Model(build(card()), card(), "posed@1", precision="float32", keypoints=glowing).embed([crop()])


def test_without_key_points_nothing_is_read(tmp_path: Path) -> None:
    model = Model(build(card()), card(), "posed@1", precision="float32")
    missing = [Sample(store, "gone.png", 0) for store in [folder(tmp_path / "crops")[0].store]]
    message = (
        r"posed@1: 'posed' compares crops by key points, and nothing gives them\. Remedy: name an estimator or a cache"
    )
    with pytest.raises(ConfigError, match=message):
        model.embed_samples(missing)
    with pytest.raises(ConfigError, match=message):
        model.embed([crop()])


def test_a_search_by_cached_points(tmp_path: Path) -> None:
    samples = folder(tmp_path / "crops")
    with CueCache(tmp_path / "cues").writer("a@1", COCO_17) as writer:
        for row, sample in enumerate(samples):
            values = np.full((1, 17, 3), row + 1, np.float32) * np.array([1, (-1) ** row, 1]) + np.array([0, 5, 0])
            writer.add(
                Row(digest_of(sample.store.read(sample.name)), sample.name, (64, 16), KeyPoints(values, COCO_17))
            )
    save(build(card()), card(), tmp_path / "posed.safetensors")
    model = glimpse.load(tmp_path / "posed.safetensors", keypoints=f"cache:{tmp_path / 'cues'}")
    result = search(model, tmp_path / "crops" / "0.png", tmp_path / "crops")
    assert [Path(hit.path).name for hit in result.hits] == ["2.png", "1.png"]
    crop(200).save(tmp_path / "crops" / "3.png")  # nobody looked at it
    with pytest.raises(DataError, match=r"3\.png: 'a@1' has no row of this crop\. Remedy: make them of all crops"):
        search(model, tmp_path / "crops" / "0.png", tmp_path / "crops")


def standing(image: Image.Image, read: Any = None) -> KeyPoints:
    """Somebody whose head and shoulders show, and nothing below."""
    values = np.zeros((1, 17, 3), np.float32)
    values[0, :7] = image.width / 2, image.height / 10, 0.9
    return KeyPoints(values, COCO_17)


def test_pgfa_weighs_the_parts_in_which_points_were_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = card().model_copy(update={"method": "pgfa", "options": {"strips": 4, "dim": 8}, "ids": 3})
    save(build(made), made, tmp_path / "pgfa.safetensors", for_search=True)
    model = glimpse.load(tmp_path / "pgfa.safetensors", precision="float32", keypoints=standing)
    assert model.embed([crop()])["weights"].tolist() == [[1.0, 0.0, 0.0, 0.0, 1.0]]
    model.keypoints = corner  # nobody in a black crop: nothing is known of it
    assert model.embed([crop(0)])["weights"].tolist() == [[1.0] * 5]
    samples = folder(tmp_path / "crops")
    model.keypoints = standing
    result = search(model, samples[1], samples)
    assert result.hits[0].not_compared == ("strip 2", "strip 3", "strip 4")
