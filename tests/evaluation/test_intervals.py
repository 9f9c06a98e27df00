"""The bootstrap against one written with a loop, and against what is known of it."""

from __future__ import annotations

import numpy as np

from glimpse.evaluation import intervals
from glimpse.evaluation.intervals import bootstrap


def test_equals_a_loop_with_the_same_draws() -> None:
    values = np.random.default_rng(1).random((17, 2))
    rng = np.random.default_rng(3)
    means = [values[rng.integers(17, size=17)].mean(axis=0) for _ in range(50)]
    expected = np.quantile(means, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(bootstrap(values, seed=3, resamples=50), expected, atol=1e-12)


def test_does_not_depend_on_the_tile(monkeypatch) -> None:
    values = np.random.default_rng(1).random((30, 3))
    expected = bootstrap(values, seed=5, resamples=200)
    monkeypatch.setattr(intervals, "_TILE", 64)
    np.testing.assert_allclose(bootstrap(values, seed=5, resamples=200), expected, atol=1e-12)


def test_width_is_that_of_the_normal_approximation() -> None:
    values = (np.random.default_rng(2).random((2000, 1)) < 0.8).astype(float)
    low, high = bootstrap(values).ravel()
    half = 1.96 * np.sqrt(values.mean() * (1 - values.mean()) / 2000)
    assert abs((high - low) / 2 - half) < 0.1 * half


def test_equal_queries_have_an_interval_of_no_width() -> None:
    assert bootstrap(np.full((9, 1), 0.3)).ravel().round(12).tolist() == [0.3, 0.3]


def test_no_queries_no_interval() -> None:
    assert np.isnan(bootstrap(np.empty((0, 2)))).all()
