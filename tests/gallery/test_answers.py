from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colours import B, Colours, G, R, coming, crop

from glimpse.gallery import Ask, Filter, Gallery
from glimpse.gallery.answers import AnswerRecord, schema, shown_time
from glimpse.matching import KReciprocal

CROPS = {"a": crop(R, R, B, B), "b": crop(G, G, B, B), "c": crop(G, G, G, G)}


@pytest.fixture
def model() -> Any:
    return Colours()


@pytest.fixture
def gallery(tmp_path: Path, model: Any) -> Gallery:
    gallery = Gallery.create(tmp_path / "people.gallery", model)
    known = {"pid": "anna", "camera": "1", "time": 12.5, "track": "s:1", "tags": ("red", "hat")}
    gallery.add(model, [coming(tmp_path / f"{name}.png", image, **known) for name, image in CROPS.items()])
    return gallery


@pytest.mark.parametrize(
    "ask",
    [
        Ask(where=Filter(cameras=("1", "2"), before=99.0, tags=("red",))),
        Ask(top=1, skip=1),
        Ask(group="pid", pictures=True),
        Ask(explain=False, rerank=KReciprocal(2, 1)),
        Ask(where=Filter(pids=("nobody",))),
    ],
)
def test_json_fits_its_schema(gallery: Gallery, model: Any, ask: Ask) -> None:
    answer = gallery.search(model, crop(R, G, G, G), ask, visible=(0, 0, 32, 16), options={"n": 1})
    record = AnswerRecord.model_validate_json(answer.to_json())
    assert (record.weights, record.gallery, record.mode) == ("colours@1", gallery.where, "exact")
    assert (record.visible, record.skipped, record.searched) == ((0.0, 0.0, 32.0, 16.0), ask.skip, answer.searched)
    assert [(hit.rank, hit.distance, hit.crop) for hit in record.hits] == [(h.rank, h.distance, h.crop) for h in answer]
    assert [(hit.group, hit.crops_in_group) for hit in record.hits] == [(h.group, h.crops_in_group) for h in answer]
    assert [[part.compared for part in hit.parts] for hit in record.hits] == [
        [p.compared for p in h.parts] for h in answer
    ]
    written = json.loads(answer.to_json())
    assert written["format"] == "glimpse-gallery-search-1"
    assert written["where"] == json.loads(json.dumps(ask.where.said()))
    assert "picture" not in answer.to_json()


def test_several_queries_and_masks_in_json(gallery: Gallery, model: Any, tmp_path: Path) -> None:
    mask = np.tri(64, 32, 0) > 0
    answer = gallery.search(model, [tmp_path / "a.png", crop(G, B, B, B)], visible=[mask, None])
    record = AnswerRecord.model_validate_json(answer.to_json())
    assert (record.query, record.visible) == ([f"{tmp_path}/a.png", "query"], "mask")
    assert record.notes == ["1 crop of the gallery left out: the query itself."]


def test_the_committed_schema_is_current() -> None:
    file = Path(__file__).parents[2] / "docs" / "gallery-search.schema.json"
    assert file.read_text(encoding="utf-8") == schema(), "write it with glimpse.gallery.answers.schema()"


def test_an_answer_is_a_sequence(gallery: Gallery, model: Any) -> None:
    answer = gallery.search(model, crop(R, R, R, R))
    assert len(answer) == 3
    assert list(answer) == [answer[0], *answer[1:]]
    assert answer[0].crop.tags == ("red", "hat")
    assert [hit.crop.id for hit in answer[:2]] == [hit.crop.id for hit in answer.hits[:2]]
    assert answer.seconds > 0


def test_times_are_shown_in_a_form_that_commands_take() -> None:
    assert [shown_time(t) for t in (0.0, 12.5, 0.04, 86_400.0, -3.0)] == ["0", "12.5", "0.04", "86400", "-3"]
    for when in ("2026-11-21T18:00:00", "1980-01-01T00:00:00.500000"):
        assert shown_time(datetime.fromisoformat(when).timestamp()) == when
    assert shown_time(1e15) == "1000000000000000"
