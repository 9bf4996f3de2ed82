"""Intervals over seeds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

__all__ = ["interval_of_mean", "interval_of_pairs", "interval_of_share", "jackknifed"]


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


def interval_of_pairs(values: np.ndarray, *, level: float = 0.95) -> tuple[float, float, float]:
    """Return the mean over all pairs of runs and the edges of its interval.

    Pairs that share a run are not independent: the spread is the jackknife's, which leaves out
    one run with all its pairs at a time (Arvesen 1969), with Student's t of the runs less one.

    Args:
        values: Of each two runs, symmetric, shape ``(n_runs, n_runs)``; the diagonal is not used.
        level: Coverage.

    Returns:
        Mean and both edges; the edges are NaN for fewer than three runs.

    Example:
        >>> values = np.array([[1.0, 0.5, 0.4], [0.5, 1.0, 0.3], [0.4, 0.3, 1.0]])
        >>> mean, low, high = interval_of_pairs(values)
        >>> round(mean, 2), round(low, 2), round(high, 2)
        (0.4, -0.1, 0.9)
    """
    count = len(values)
    sums = values.sum(1) - np.diag(values)
    total, nothing = float(sums.sum()), float("nan")
    mean = total / (count * (count - 1)) if count > 1 else nothing
    if count < 3:
        return mean, nothing, nothing
    half = _half_width((total - 2 * sums) / ((count - 1) * (count - 2)), level)
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


def jackknifed(
    statistic: Callable[..., float], *columns: np.ndarray, level: float = 0.95
) -> tuple[float, float, float]:
    """Return a statistic of runs, such as a ratio of means, and the edges of its interval.

    The spread is that over leaving out one run at a time (Tukey 1958), with Student's t of the
    runs less one.

    Args:
        statistic: Takes the columns.
        *columns: Of the same runs in the same order, shape ``(n_runs, ...)`` each.
        level: Coverage.

    Returns:
        The number and both edges; the edges are NaN for fewer than three runs.

    Example:
        >>> value, low, high = jackknifed(np.mean, np.array([1.0, 2.0, 3.0]))
        >>> round(value, 2), round(low, 2), round(high, 2)
        (2.0, -0.48, 4.48)
    """
    value, count, nothing = float(statistic(*columns)), len(columns[0]), float("nan")
    if count < 3:
        return value, nothing, nothing
    left = [statistic(*(np.delete(each, out, axis=0) for each in columns)) for out in range(count)]
    half = _half_width(np.array(left), level)
    return value, value - half, value + half


def _half_width(left: np.ndarray, level: float) -> float:
    """Return half of the jackknife's interval from what is found without each run in turn."""
    count = len(left)
    spread = np.sqrt((count - 1) / count * np.square(left - left.mean()).sum())
    return float(stats.t.ppf(0.5 + level / 2, count - 1) * spread)
