"""A number made of means over seeds, with an interval."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

__all__ = ["jackknifed"]


def jackknifed(
    statistic: Callable[..., float], *columns: np.ndarray, level: float = 0.95
) -> tuple[float, float, float]:
    """Return a statistic of runs that are paired by seed, and the edges of its interval.

    The spread is that over leaving out one seed at a time (Tukey 1958), with Student's t of the
    seeds less one.

    Args:
        statistic: Takes the columns.
        *columns: Of the same seeds in the same order.
        level: Coverage.

    Returns:
        The number and both edges; the edges are NaN for fewer than three seeds.

    Example:
        >>> value, low, high = jackknifed(np.mean, np.array([1.0, 2.0, 3.0]))
        >>> round(value, 2), round(low, 2), round(high, 2)
        (2.0, -0.48, 4.48)
    """
    value, count, nothing = float(statistic(*columns)), len(columns[0]), float("nan")
    if count < 3:
        return value, nothing, nothing
    left = np.array([statistic(*(np.delete(c, n) for c in columns)) for n in range(count)])
    spread = np.sqrt((count - 1) / count * np.square(left - left.mean()).sum())
    half = float(stats.t.ppf(0.5 + level / 2, count - 1) * spread)
    return value, value - half, value + half
