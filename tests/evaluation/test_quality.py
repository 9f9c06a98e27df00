"""AUC against a double loop, and the quality check on a model that knows and on one that does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimpse.errors import ConfigError, EmbeddingError
from glimpse.evaluation import quality_auc
from glimpse.evaluation.quality import auc, visible_shares


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
def test_auc_equals_all_pairs(pairs: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([s for s, _ in pairs], float), np.array([p for _, p in pairs])
    found = auc(scores, positive)
    wins = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    if wins:
        assert found == pytest.approx(np.mean(wins))
    else:
        assert np.isnan(found)


def test_visible_shares_of_strips() -> None:
    visible = np.zeros((8, 4), bool)
    visible[:3] = True
    regions = [(str(i), (0.0, i / 4, 1.0, (i + 1) / 4)) for i in range(4)]
    assert visible_shares(visible, regions).tolist() == [1.0, 0.5, 0.0, 0.0]


def test_weights_that_know_what_is_hidden(model, partial) -> None:
    found = quality_auc(model, partial.query, kind="grey", sides=("top", "bottom"), fraction=0.5)
    assert found.auc == 1.0
    assert found.covered == pytest.approx(0.1)
    assert found.clear == pytest.approx(1.0)
    # Half of four strips, twice.
    assert found.covered_parts == found.clear_parts == 2 * 2 * len(partial.query)
    assert all(prompt is None for prompt in model.prompts)


def test_weights_that_do_not_know(model, partial) -> None:
    embed = model.embed_samples

    def constant(samples, **options):
        embedded = embed(samples, **options)
        weights = embedded.embedding["weights"] * 0 + 0.3
        embedded.embedding = embedded.embedding.with_tensors(weights=weights)
        return embedded

    model.embed_samples = constant
    found = quality_auc(model, partial.query, kind="grey", fraction=0.5)
    assert found.auc == 0.5
    assert found.covered == pytest.approx(found.clear)


def test_half_covered_strips_are_not_judged(model, partial) -> None:
    # 12 of 32 rows: strip 1 covered, strip 2 half covered, strips 3 and 4 clear.
    found = quality_auc(model, partial.query, kind="grey", sides=("top",), fraction=0.375)
    assert (found.covered_parts, found.clear_parts) == (len(partial.query), 2 * len(partial.query))


def test_unreadable_crops_are_left_out(model, partial, store) -> None:
    store.files[partial.query[0].name] = b""
    found = quality_auc(model, partial.query, kind="grey", sides=("top",), fraction=0.5, skip_bad=True)
    assert found.covered_parts == 2 * (len(partial.query) - 1)


def test_no_weights_is_an_error(make_model, partial) -> None:
    with pytest.raises(EmbeddingError, match="no part weights"):
        quality_auc(make_model(weights=False), partial.query, kind="grey")


def test_an_occluder_that_covers_no_part_is_an_error(model, partial) -> None:
    with pytest.raises(ConfigError, match="no part covered or none clear"):
        quality_auc(model, partial.query, kind="grey", sides=("left",), fraction=0.5)
