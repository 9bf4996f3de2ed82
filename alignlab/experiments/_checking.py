"""What came out of runs, held against bounds: a mean, a rise, a share, the largest of all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignlab.experiments._base import Check
from alignlab.experiments._statistics import (
    interval_of_mean,
    interval_of_share,
    jackknifed,
)

__all__ = ["mean_check", "ratio_check", "rises", "share_check", "worst_check"]


def mean_check(
    what: str,
    values: Sequence[float] | np.ndarray,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    near: tuple[float, float] | None = None,
    stated: str = "",
    chance: str = "",
) -> Check:
    """Return the check that the mean of runs is within its bounds, all of which may be missing.

    A run that is NaN passes nothing, and neither does no run at all.

    Args:
        what: What the values are.
        values: One for each run.
        least: Smallest mean that passes.
        most: Largest mean that passes.
        above: What the mean must exceed.
        below: What the mean must be smaller than.
        near: A target, and how far from it the mean may be.
        stated: What the source or we have for it.
        chance: What would come out by chance.
    """
    values = np.asarray(values, dtype=float)
    mean, low, high = interval_of_mean(values)
    passed = (
        values.size > 0
        and bool(np.isfinite(values).all())
        and (least is None or mean >= least)
        and (most is None or mean <= most)
        and (above is None or mean > above)
        and (below is None or mean < below)
        and (near is None or abs(mean - near[0]) <= near[1])
    )
    words = {">=": least, "<=": most, ">": above, "<": below}
    parts = [f"{sign} {bound:g}" for sign, bound in words.items() if bound is not None]
    if least is not None and most is not None:
        parts[:2] = [f"{least:g} to {most:g}"]
    if near is not None:
        parts.append(f"{near[0]:.3f} within {near[1]:g}")
    expected = " and ".join(parts) or "no bound"
    return Check(what, mean, expected, passed, stated, low, high, chance, values.size)


def ratio_check(
    what: str,
    values: np.ndarray,
    others: np.ndarray,
    *,
    most: float,
    stated: str = "",
    chance: str = "",
) -> Check:
    """Return the check that the mean of runs is at most so much of the mean of others.

    Args:
        what: What the ratio is.
        values: One for each run; the interval is that of ``jackknifed``.
        others: Of the same runs in the same order.
        most: Largest ratio that passes.
        stated: What the source or we have for it.
        chance: What would come out by chance.
    """
    ratio, low, high = jackknifed(_ratio_of_means, values, others)
    passed, count = bool(ratio <= most), len(values)
    return Check(what, ratio, f"<= {most:g}", passed, stated, low, high, chance, count)


def _ratio_of_means(values: np.ndarray, others: np.ndarray) -> float:
    return float(values.mean() / others.mean())


def rises(what: str, values: np.ndarray, *, stated: str = "", chance: str = "") -> Check:
    """Return the check that means over runs rise with every step of a list of conditions.

    Args:
        what: What rises, and over which conditions.
        values: Shape ``(n_conditions, n_runs)``, conditions in the order in which they rise.
        stated: What the source or we have for it.
        chance: What would come out by chance.

    Returns:
        Its number is the smallest step from one mean to the next, with the interval of that step;
        NaN passes nothing.
    """
    steps = np.diff(values, axis=0)
    smallest = steps[int(np.argmin(steps.mean(1)))]
    return mean_check(f"{what}, smallest step", smallest, above=0.0, stated=stated, chance=chance)


def share_check(
    what: str,
    holds: Sequence[bool] | np.ndarray,
    *,
    least: float = 1.0,
    most: float = 1.0,
    stated: str = "",
    chance: str = "",
) -> Check:
    """Return the check that the share of runs in which something holds is within its bounds.

    No run at all passes nothing.
    """
    count, total = int(np.count_nonzero(holds)), len(holds)
    share, low, high = interval_of_share(count, total) if total else (float("nan"),) * 3
    bounds = {f">= {least:g}": least > 0.0, f"<= {most:g}": most < 1.0}
    parts = [words for words, is_bound in bounds.items() if is_bound]
    expected = f"{' and '.join(parts)} of the runs" if parts else "no bound"
    return Check(what, share, expected, least <= share <= most, stated, low, high, chance, total)


def worst_check(
    what: str, values: Sequence[float] | np.ndarray, *, most: float, stated: str = ""
) -> Check:
    """Return the check that the largest of all values is at most so; NaN passes nothing."""
    found = np.asarray(values, dtype=float).ravel()
    worst = float(found.max()) if found.size else float("nan")
    return Check(what, worst, f"<= {most:g} in every run", worst <= most, stated, runs=found.size)
