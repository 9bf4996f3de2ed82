"""Intervals over seeds."""

from __future__ import annotations

import numpy as np
from scipy import stats

__all__ = ["interval_of_mean", "interval_of_share"]


def interval_of_mean(values: np.ndarray, *, level: float = 0.95) -> tuple[float, float, float]:
    """Return the mean of values and the edges of its interval by Student's t.

    Args:
        values: Of independent runs, shape ``(n_runs,)``; NaN is left out.
        level: Coverage.

    Returns:
        Mean and both edges; NaN for what fewer than two values do not give.

    Example:
        >>> mean, low, high = interval_of_mean(np.array([1.0, 2.0, 3.0]))
        >>> round(mean, 2), round(low, 2), round(high, 2)
        (2.0, -0.48, 4.48)
    """
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    nothing = float("nan")
    if finite.size == 0:
        return nothing, nothing, nothing
    mean = float(finite.mean())
    if finite.size < 2:
        return mean, nothing, nothing
    half = float(stats.t.ppf(0.5 + level / 2, finite.size - 1) * stats.sem(finite))
    return mean, mean - half, mean + half


def interval_of_share(count: int, total: int, *, level: float = 0.95) -> tuple[float, float, float]:
    """Return a share of runs and the edges of its Wilson interval.

    Args:
        count: Runs in which something happened.
        total: All runs, at least one.
        level: Coverage.

    Example:
        >>> share, low, high = interval_of_share(12, 12)
        >>> share, round(low, 2), high
        (1.0, 0.76, 1.0)
    """
    found = stats.binomtest(count, total).proportion_ci(level, method="wilson")
    return count / total, float(found.low), float(found.high)
