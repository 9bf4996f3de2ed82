"""A mean over runs, held against a bound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignlab.experiments._base import Check
from alignlab.experiments._statistics import interval_of_mean, interval_of_share

__all__ = ["mean_check", "share_check"]


def mean_check(
    what: str,
    values: Sequence[float] | np.ndarray,
    *,
    least: float | None = None,
    most: float | None = None,
    stated: str = "",
    chance: str = "",
) -> Check:
    """Return the check that the mean of runs lies between two bounds, either of which may be none.

    NaN passes nothing.
    """
    values = np.asarray(values, dtype=float)
    mean, low, high = interval_of_mean(values)
    is_whole = bool(np.isfinite(values).all()) and values.size > 0
    passed = is_whole and (least is None or mean >= least) and (most is None or mean <= most)
    bounds = ((">=", least), ("<=", most))
    expected = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
    return Check(what, mean, expected or "no bound", passed, stated, low, high, chance, values.size)


def share_check(
    what: str,
    holds: Sequence[bool] | np.ndarray,
    *,
    least: float = 1.0,
    stated: str = "",
    chance: str = "",
) -> Check:
    """Return the check that something holds in at least a share of the runs."""
    count, total = int(np.count_nonzero(holds)), len(holds)
    share, low, high = interval_of_share(count, total)
    expected = f">= {least:g} of the runs"
    return Check(what, share, expected, share >= least, stated, low, high, chance, total)
