"""Bootstrap intervals over queries."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
"""How often queries are drawn anew."""
_TILE = 1 << 21
"""Draws held at a time."""


def bootstrap(values: NDArray[np.float64], *, seed: int = 0, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """95 % percentile intervals of the means of columns, over rows drawn with replacement (Efron 1979).

    All columns share the same draws, so that columns of the same queries can be compared. The same seed gives the
    same interval. Scratch memory is at most about 35 MB, or two draws of all rows if that is more.

    Args:
        values: `[n, m]`, one row per query, one column per metric.
        seed: of the draws.
        resamples: how many draws of n rows.

    Returns:
        Lower and upper ends `[2, m]`; NaN where n is 0.

    >>> bootstrap(np.array([[0.0], [1.0], [1.0], [1.0]])).ravel().tolist()
    [0.25, 1.0]
    """
    n, m = values.shape
    if n == 0:
        return np.full((2, m), np.nan)
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, m))
    step = max(1, _TILE // n)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = rng.integers(n, size=(size, n)) + np.arange(size)[:, None] * n
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means[start : start + size] = times @ values / n
    return np.quantile(means, [0.025, 0.975], axis=0)
