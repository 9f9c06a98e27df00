"""Search, with a model small enough to work out by hand: each strip of a crop is described by its mean colour."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from glimpse.data import Sample, open_crops, read_image
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, DataError, EmbeddingError
from glimpse.matching.cascade import Cascade
from glimpse.matching.distance import Distance
from glimpse.matching.kernels import GlobalDistance, PartDistance
from glimpse.model import Edit
from glimpse.search import Gallery, SearchRecord, embed_gallery, load_gallery, schema, search

STRIPS = 4
NAMES = tuple(f"strip {k + 1}" for k in range(STRIPS))


@dataclass
class Embedded:
    embedding: Embedding
    kept: list[int]
    bad: list[DataError]


class ColourModel:
    """Parts are mean colours of four strips, weights the visible share of each strip."""

    made_by = "colour@1"
    size = (128, 64)

    def __init__(self) -> None:
        self.part_names = list(NAMES)
        self.regions = [(name, (0.0, k / STRIPS, 1.0, (k + 1) / STRIPS)) for k, name in enumerate(NAMES)]
        self.embedded = 0
        self.least = 0.0  # smaller shares count as nothing

    def embed(self, images: Iterable[Image.Image], visible: Iterable[object] | None = None) -> Embedding:
        images = list(images)
        prompts = [None] * len(images) if visible is None else list(visible)
        self.embedded += len(images)
        parts, weights = [], []
        for image, prompt in zip(images, prompts, strict=True):
            pixels = torch.tensor(np.asarray(image.convert("RGB")), dtype=torch.float32) / 255
            shown = torch.ones(pixels.shape[:2])
            if isinstance(prompt, tuple):
                x0, y0, x1, y1 = (round(v) for v in prompt)
                shown = torch.zeros(pixels.shape[:2])
                shown[y0:y1, x0:x1] = 1
            elif prompt is not None:
                shown = torch.tensor(prompt, dtype=torch.float32)
            parts.append(torch.stack([strip.mean((0, 1)) for strip in pixels.chunk(STRIPS)]))
            shares = torch.stack([strip.mean() for strip in shown.chunk(STRIPS)])
            weights.append(shares.masked_fill(shares < self.least, 0.0))
        stacked = torch.stack(parts)
        return Embedding({"parts": stacked, "weights": torch.stack(weights), "globals": stacked.mean(1)}, self.made_by)

    def embed_samples(
        self,
        samples: Sequence[Sample],
        *,
        edit: Edit | None = None,
        skip_bad: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Embedded:
        kept, bad, images = [], [], []
        for row, sample in enumerate(samples):
            try:
                images.append(read_image(sample))
                kept.append(row)
            except DataError as error:
                if not skip_bad:
                    raise
                bad.append(error)
        if not kept:
            raise DataError(samples[0].path, "no crop can be read", "check that the path holds images")
        if progress is not None:
            progress(len(kept))
        edited = [(image, None) if edit is None else edit(row, image) for row, image in zip(kept, images, strict=True)]
        return Embedded(self.embed(*zip(*edited, strict=True)), kept, bad)

    def distance(self, *, n: int = 0) -> Distance:
        fine = PartDistance(names=NAMES)
        return Cascade(GlobalDistance(), fine, n) if n else fine


def crop(*colours: tuple[int, int, int]) -> Image.Image:
    """A 64 x 128 crop with a strip of each colour."""
    pixels = np.repeat(np.array(colours, np.uint8), 128 // len(colours), axis=0)[:, None].repeat(64, 1)
    return Image.fromarray(pixels)


R, G, B = (250, 10, 10), (10, 250, 10), (10, 10, 250)


@pytest.fixture
def model() -> ColourModel:
    return ColourModel()


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Three crops: red over blue, green over blue, all green."""
    folder = tmp_path / "crops"
    folder.mkdir()
    crop(R, R, B, B).save(folder / "a.png")
    crop(G, G, B, B).save(folder / "b.png")
    crop(G, G, G, G).save(folder / "c.png")
    return folder


@pytest.fixture
def query(tmp_path: Path) -> Path:
    """A red head; something green stands in front of the rest."""
    crop(R, G, G, G).save(tmp_path / "query.png")
    return tmp_path / "query.png"


def names(result: Any) -> list[str]:
    return [Path(hit.path).name for hit in result]


def test_a_prompt_turns_the_ranking_to_the_visible_parts(model: Any, query: Path, crops: Path) -> None:
    assert names(search(model, query, crops))[0] == "c.png"
    result = search(model, query, crops, visible=(0, 0, 64, 32))
    assert names(result) == ["a.png", "b.png", "c.png"]
    assert result[0].distance == pytest.approx(0, abs=1e-6)
    assert result[1].distance == pytest.approx(result[2].distance)
    assert result[0].not_compared == ("strip 2", "strip 3", "strip 4")
    assert [part.share for part in result[0].parts] == pytest.approx([1, 0, 0, 0])


def test_distances_are_those_of_a_loop(model: Any, query: Path, crops: Path) -> None:
    result = search(model, query, crops, visible="0,0,64,48")
    q = model.embed([Image.open(query)], [(0, 0, 64, 48)])
    expected = {}
    for path in sorted(crops.iterdir()):
        g = model.embed([Image.open(path)])
        top = bottom = 0.0
        for k in range(4):
            a, b = q["parts"][0, k].double(), g["parts"][0, k].double()
            weight = float(q["weights"][0, k] * g["weights"][0, k])
            top += weight * float(1 - a @ b / a.norm() / b.norm())
            bottom += weight
        expected[path.name] = top / bottom
    assert {Path(h.path).name: h.distance for h in result} == pytest.approx(expected, abs=1e-5)
    assert [h.rank for h in result] == [1, 2, 3]


def test_top_bounds_the_hits_and_pictures_lists_and_samples_are_queries(model: Any, query: Path, crops: Path) -> None:
    picture = Image.open(query)
    sample = open_crops(crops)[0]
    prompts = [None, "0,0,64,32", None]
    one, two, three = search(model, [picture, query, sample], open_crops(crops), top=1, visible=prompts)
    assert (one.query, two.query) == ("query", str(query))
    assert [len(r) for r in (one, two, three)] == [1, 1, 1]
    assert names(two) == ["a.png"]
    assert search(model, [], crops) == []


def test_the_query_itself_is_left_out_and_said(model: Any, crops: Path) -> None:
    result = search(model, crops / "a.png", crops, top=2)
    assert names(result) == ["b.png", "c.png"]
    assert result.gallery_size == 2
    assert result.notes == (f"{crops}/a.png is the query itself and was left out.",)


def test_a_cascade_says_which_hits_it_reranked(model: Any, query: Path, crops: Path) -> None:
    result = search(model, query, crops, options={"n": 1})
    assert [hit.reranked for hit in result] == [True, False, False]
    # The coarse distances of the others are handed on as they are, not as the cascade encodes them.
    q = model.embed([Image.open(query)])["globals"][0]
    for hit in result[1:]:
        g = model.embed([Image.open(hit.path)])["globals"][0]
        assert hit.distance == pytest.approx(float(1 - q @ g / q.norm() / g.norm()), abs=1e-5)


def test_a_stored_gallery_gives_the_same_hits_without_embedding_again(
    model: Any, query: Path, crops: Path, tmp_path: Path
) -> None:
    stored = embed_gallery(model, crops)
    listing = stored.save(tmp_path / "store" / "g.safetensors")
    assert listing == tmp_path / "store" / "g.json"
    model.embedded = 0
    again = search(model, query, tmp_path / "store" / "g.safetensors")
    assert model.embedded == 1
    fresh = search(model, query, crops)
    assert [(h.path, h.distance) for h in again] == [(h.path, h.distance) for h in fresh]
    for path in crops.iterdir():
        path.unlink()
    crops.rmdir()
    assert names(search(model, query, load_gallery(tmp_path / "store" / "g.safetensors"))) == names(fresh)


def test_a_gallery_of_other_weights_is_refused(model: Any, query: Path, crops: Path, tmp_path: Path) -> None:
    embed_gallery(model, crops).save(tmp_path / "g.safetensors")
    model.made_by = "colour@2"
    with pytest.raises(EmbeddingError, match="weights colour@1, and the query is with colour@2") as error:
        search(model, query, tmp_path / "g.safetensors")
    assert error.value.where == str(tmp_path / "g.safetensors")


def test_damaged_listings_are_named(model: Any, query: Path, crops: Path, tmp_path: Path) -> None:
    path, listing = tmp_path / "g.safetensors", tmp_path / "g.json"
    embed_gallery(model, crops).save(path)
    whole = json.loads(listing.read_text())

    def cause(text: str | None) -> tuple[str, str]:
        listing.unlink(missing_ok=True)
        if text is not None:
            listing.write_text(text)
        with pytest.raises(EmbeddingError) as error:
            load_gallery(path)
        return error.value.where, error.value.cause

    assert cause(None) == (str(listing), f"there is no list of crops beside {path}")
    assert cause("{")[0] == str(listing)
    assert cause(json.dumps({**whole, "extra": 1})) == (f"{listing}: extra", "extra inputs are not permitted")
    assert cause(json.dumps({**whole, "sha256": "0"})) == (str(listing), f"was not written together with {path}")
    assert cause(json.dumps({**whole, "roots": []}))[0] == f"{listing}: crops"
    assert "has 3 rows and 2 crops" in cause(json.dumps({**whole, "crops": whole["crops"][:2]}))[1]


def test_bad_images_stop_or_are_left_out(model: Any, query: Path, crops: Path) -> None:
    (crops / "b.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"b\.png"):
        search(model, query, crops)
    result = search(model, query, crops, skip_bad=True)
    assert sorted(names(result)) == ["a.png", "c.png"]
    assert [error.where for error in result.skipped] == [f"{crops}/b.png"]
    for path in crops.iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="no crop can be read"):
        search(model, query, crops, skip_bad=True)


def test_mistakes_are_found_before_the_gallery_is_read(model: Any, query: Path, crops: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="top: is 0"):
        search(model, query, crops, top=0)
    with pytest.raises(ConfigError, match="leaves the crop"):
        search(model, query, crops, visible=(0, 0, 65, 128))
    with pytest.raises(ConfigError, match="1 prompts for 2 queries"):
        search(model, [query, query], crops, visible=[None])
    with pytest.raises(DataError, match=r"nobody\.png"):
        search(model, tmp_path / "nobody.png", crops)
    assert model.embedded == 0
    empty: list[Sample] = []
    with pytest.raises(DataError, match="no crop"):
        search(model, query, empty)


def test_a_gallery_needs_a_crop_for_each_row(model: Any, crops: Path) -> None:
    stored = embed_gallery(model, crops)
    with pytest.raises(EmbeddingError, match="has 3 rows and 2 crops"):
        Gallery(stored.embedding, stored.samples[:2])


def test_json_fits_its_schema(model: Any, query: Path, crops: Path) -> None:
    result = search(model, query, crops, visible=np.tri(128, 64, 0) > 0)
    record = SearchRecord.model_validate_json(result.to_json())
    assert (record.weights, record.visible) == ("colour@1", "mask")
    assert search(model, query, crops, visible=(0, 0, 64, 80)).record().visible == (0.0, 0.0, 64.0, 80.0)
    assert search(model, query, crops).record().visible is None
    assert [(hit.rank, hit.path, hit.distance) for hit in record.hits] == [(h.rank, h.path, h.distance) for h in result]
    assert [part.name for part in record.hits[0].parts] == ["strip 1", "strip 2", "strip 3", "strip 4"]
    assert [part.compared for part in record.hits[0].parts] == [part.compared for part in result[0].parts]


def test_a_query_that_shows_too_little_is_said_so(model: Any, query: Path, crops: Path) -> None:
    said = "No part of the query could be compared with any hit: too little of it shows."
    model.least = 0.5
    assert said in search(model, query, crops, visible=(0, 0, 1, 1)).notes
    assert said not in search(model, query, crops, visible=(0, 0, 64, 64)).notes


def test_the_committed_schema_is_current() -> None:
    file = Path(__file__).parents[2] / "docs" / "search.schema.json"
    assert file.read_text(encoding="utf-8") == schema(), "write it with glimpse.search.schema()"


def test_a_gallery_of_the_query_alone_is_said_so(model: ColourModel, tmp_path: Path) -> None:
    crop(R, B).save(tmp_path / "only.png")
    with pytest.raises(DataError, match="holds nothing but the query itself"):
        search(model, tmp_path / "only.png", tmp_path)


def test_a_stored_gallery_is_told_apart_from_a_folder(model: ColourModel, tmp_path: Path) -> None:
    (tmp_path / "people.gallery" / "crops.lance").mkdir(parents=True)
    said = r"is a stored gallery, not a folder of crops\. Remedy: use `glimpse gallery search .*people.gallery"
    with pytest.raises(DataError, match=said):
        search(model, crop(R, B), tmp_path / "people.gallery")


def test_an_array_is_a_query(model: ColourModel, crops: Path) -> None:
    picture = crop(R, R, B, B)
    given, expected = search(model, np.asarray(picture), crops), search(model, picture, crops)
    assert [(hit.path, hit.distance) for hit in given] == [(hit.path, hit.distance) for hit in expected]


@pytest.mark.parametrize("query", [None, 7, [None], np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8)])
def test_what_is_no_query_is_said_so(model: ColourModel, crops: Path, query: Any) -> None:
    with pytest.raises(DataError, match=r"query: is .*array \[h, w, 3\] of uint8"):
        search(model, query, crops)
    assert model.embedded == 0


def test_a_bad_query_cannot_be_skipped(model: ColourModel, crops: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(DataError) as error:
        search(model, tmp_path / "bad.png", crops)
    assert "skip" not in str(error.value)
