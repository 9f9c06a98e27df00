"""The occlusion grid: what is embedded, what the model is told, and how sides are averaged."""

from __future__ import annotations

import numpy as np
import pytest

from glimpse.errors import ConfigError, DataError
from glimpse.evaluation import evaluate, occlusion_suite
from glimpse.evaluation.intervals import bootstrap
from glimpse.evaluation.occluded import MAX_SOURCES, draw_queries, read_sources


@pytest.fixture
def gallery(model, partial):
    return model.embed_samples(partial.gallery).embedding


def test_every_side_and_share_once(model, partial, gallery) -> None:
    model.calls.clear()
    suite = occlusion_suite(model, partial, gallery, kind="grey", sides=("top", "left"), fractions=(0.25, 0.5))
    assert [(o.side, o.fraction) for o in suite] == [("top", 0.25), ("left", 0.25), ("top", 0.5), ("left", 0.5)]
    assert model.calls == [len(partial.query)] * 4  # the gallery is never embedded again
    assert suite.fractions == (0.25, 0.5)
    assert suite.sides == ("top", "left")


def test_a_share_of_nearly_nothing_equals_the_clear_result(model, partial, gallery) -> None:
    clear = evaluate(
        model.distance(),
        model.embed_samples(partial.query).embedding,
        gallery,
        partial.protocol.relevance(partial.query, partial.gallery),
    )
    suite = occlusion_suite(model, partial, gallery, kind="grey", sides=("top",), fractions=(0.001,))
    np.testing.assert_array_equal(suite.results[0].result.values, clear.values)


@pytest.mark.parametrize("prompted", [False, True])
def test_the_prompt_is_what_the_occluder_leaves(model, partial, gallery, prompted: bool) -> None:
    model.prompts.clear()
    occlusion_suite(model, partial, gallery, kind="person", sides=("top",), fractions=(0.5,), sources=partial.train,
                    prompted=prompted)  # fmt: skip
    for prompt in model.prompts:
        if not prompted:
            assert prompt is None
        else:
            assert not prompt[:16].any()
            assert prompt[16:].all()


def test_a_prompt_helps_against_another_person(model, partial, gallery) -> None:
    options = {"kind": "person", "sides": ("top", "bottom"), "fractions": (0.5,), "sources": partial.train}
    told = occlusion_suite(model, partial, gallery, prompted=True, **options).mean(0.5)
    untold = occlusion_suite(model, partial, gallery, prompted=False, **options).mean(0.5)
    assert told.map.value > untold.map.value + 0.1


def test_means_keep_the_sides_of_a_query_together(model, partial, gallery) -> None:
    suite = occlusion_suite(
        model, partial, gallery, kind="object", sides=("top", "left", "right"), fractions=(0.6,), sources=partial.train
    )
    per_query = np.mean([o.result.values for o in suite], axis=0)
    low, high = bootstrap(per_query, seed=0)
    mean = suite.mean(0.6)
    assert mean.map.value == pytest.approx(np.mean([o.result.ap.mean() for o in suite]))
    assert (mean.rank_1.low, mean.rank_1.high) == pytest.approx((low[0], high[0]))


def test_the_seed_fixes_everything(model, partial, gallery) -> None:
    options = {"kind": "object", "sides": ("left",), "fractions": (0.5,), "sources": partial.train, "queries": 9}
    one, same, other = (occlusion_suite(model, partial, gallery, seed=s, **options) for s in (4, 4, 5))
    assert one.queries == same.queries != other.queries
    assert one.record(one.mean(0.5)) == same.record(same.mean(0.5))
    assert len(one.queries) == 9


def test_queries_without_a_match_are_never_drawn(cameras) -> None:
    drawn = draw_queries(cameras, None, 0)
    assert [s.pid for s in drawn] == [1, 2, 3, 4, 5, 6]
    some = draw_queries(cameras, 3, 0)
    assert len(some) == 3
    assert [s for s in drawn if s in some] == some


def test_unreadable_queries_are_left_out_everywhere(model, partial, gallery, store) -> None:
    store.files[partial.query[3].name] = b"broken"
    with pytest.raises(DataError, match=partial.query[3].name):
        occlusion_suite(model, partial, gallery, kind="grey")
    suite = occlusion_suite(model, partial, gallery, kind="grey", fractions=(0.5,), skip_bad=True)
    assert suite.queries == (*partial.query[:3], *partial.query[4:])
    assert all(len(o.result.rows) == len(partial.query) - 1 for o in suite)


def test_sources_are_a_bounded_seeded_choice(partial) -> None:
    many = list(partial.train) * 40
    chosen = read_sources(many, seed=1)
    assert len(chosen) == MAX_SOURCES
    assert all((a == b).all() for a, b in zip(chosen, read_sources(many, seed=1), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "person"}, "no crops to take a 'person' from"),
        ({"kind": "grey", "fractions": (0.5, 1.0)}, "1.0 is not between 0 and 1"),
        ({"kind": "grey", "fractions": ()}, "no side or no covered share"),
        ({"kind": "grey", "sides": ("top", "top")}, "has one twice"),
        ({"kind": "grey", "sides": ("middle",)}, "'middle' is not a side"),
        ({"kind": "grey", "queries": 0}, "0 queries are none"),
    ],
)
def test_wrong_options_are_refused_before_any_work(model, partial, gallery, options: dict, message: str) -> None:
    model.calls.clear()
    with pytest.raises(ConfigError, match=message):
        occlusion_suite(model, partial, gallery, **options)
    assert not model.calls


def test_the_gallery_must_be_the_datasets(model, partial, gallery) -> None:
    with pytest.raises(DataError, match="35 embedded crops and 36 listed"):
        occlusion_suite(model, partial, gallery[:35], kind="grey")
