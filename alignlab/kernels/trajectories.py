"""What series along the steps of a training tell: when a level is reached, sums, orders."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from math import factorial

import numpy as np
from scipy.stats import rankdata

__all__ = ["OrderCorrelation", "cumulative_sum", "first_reaching", "order_correlation"]

Array = np.ndarray

MOST_ORDERS = 50_000
"""Permutations up to which all of them are gone through: those of 8 values."""

DRAWN_ORDERS = 9_999
"""Permutations that are drawn where there are more."""


def first_reaching(steps: Array, values: Array, level: float) -> float:
    r"""Return when a series first reaches a level from below.

    Between two recorded steps the series is a straight line in :math:`\log(1 + t)`, so that step 0
    has a place:

    .. math:: \log(1+t) = \log(1+t_a) + \frac{v^* - v_a}{v_b - v_a}\log\frac{1+t_b}{1+t_a}.

    Args:
        steps: Ascending, at least 0, shape ``(n_steps,)``.
        values: Likewise; what is NaN was not recorded and is left out.
        level: The level :math:`v^*`.

    Returns:
        In steps; NaN where the level is never reached, or was reached at the first recorded value.

    Example:
        >>> first_reaching(np.array([0, 3, 15]), np.array([0.0, 1.0, 3.0]), 2.0)
        7.0
    """
    known = np.isfinite(values)
    place, height = np.log1p(np.asarray(steps, float)[known]), np.asarray(values, float)[known]
    reached = np.flatnonzero(height >= level)
    if not reached.size or reached[0] == 0:
        return float("nan")
    after = int(reached[0])
    before = after - 1
    share = (level - height[before]) / (height[after] - height[before])
    return float(np.expm1(place[before] + share * (place[after] - place[before])))


def cumulative_sum(steps: Array, values: Array) -> tuple[Array, Array]:
    r"""Return sums over steps: of those that were recorded, and an estimate for all.

    For all steps the series is a straight line between recorded ones, so that the steps
    :math:`a < t \le b` add :math:`\tfrac{n}{2}(v_a+v_b) + \tfrac12(v_b-v_a)` with
    :math:`n = b - a`. Where every step is recorded both are the same. Of a series that is nowhere
    negative the sum of the recorded steps is a lower bound of the sum over all.

    Args:
        steps: Ascending whole numbers, shape ``(n_steps,)``.
        values: Shape ``(n_steps, ...)``; what is NaN was not recorded and adds nothing by itself,
            and the line goes past it.

    Returns:
        Two arrays of the shape of ``values``; NaN before the first recorded value. Between
        recorded values both keep what they were.

    Example:
        >>> recorded, estimate = cumulative_sum(np.array([0, 1, 4]), np.array([4.0, 3.0, 0.0]))
        >>> recorded.tolist(), estimate.tolist()
        ([4.0, 7.0, 7.0], [4.0, 7.0, 10.0])
    """
    values = np.asarray(values, float)
    columns = values.reshape(len(values), -1)
    found = [np.full(columns.shape, np.nan) for _ in range(2)]
    for k, column in enumerate(columns.T):
        known = np.flatnonzero(np.isfinite(column))
        if not known.size:
            continue
        height, gaps = column[known], np.diff(np.asarray(steps, float)[known])
        between = gaps / 2 * (height[:-1] + height[1:]) + (height[1:] - height[:-1]) / 2
        totals = np.cumsum(height), np.cumsum(np.concatenate([height[:1], between]))
        last = np.searchsorted(known, np.arange(len(column)), side="right") - 1
        for total, result in zip(totals, found, strict=True):
            result[known[0] :, k] = total[last[known[0] :]]
    return found[0].reshape(values.shape), found[1].reshape(values.shape)


@dataclass(frozen=True)
class OrderCorrelation:
    """How far two series have the same order.

    Attributes:
        value: Spearman's rank correlation, in [-1, 1]; NaN for fewer than 2 values, or where one
            series is constant.
        p: Two-sided p-value over permutations of one of them; NaN likewise.
        count: Values in both.
    """

    value: float
    p: float
    count: int


def order_correlation(first: Array, second: Array, *, seed: int = 0) -> OrderCorrelation:
    r"""Return Spearman's rank correlation with its permutation p-value.

    The p-value is the share of permutations whose correlation is at least as far from zero, all
    of them for up to 8 values, and :math:`(1 + \#)/(1 + 9999)` of drawn ones above.

    Source: Spearman 1904; permutation test.

    Args:
        first: Shape ``(n,)``; ties share their mean rank.
        second: Likewise; pairs with a NaN are left out.
        seed: Of drawn permutations.

    Example:
        >>> found = order_correlation(np.array([1, 2, 3, 4]), np.array([0.1, 0.5, 0.7, 0.9]))
        >>> found.value, round(found.p, 4)  # two of 24 orders are as extreme
        (1.0, 0.0833)
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    known = np.isfinite(first) & np.isfinite(second)
    count = int(known.sum())
    nothing = OrderCorrelation(float("nan"), float("nan"), count)
    if count < 2:
        return nothing
    a, b = (ranks - ranks.mean() for ranks in (rankdata(first[known]), rankdata(second[known])))
    size = np.sqrt((a @ a) * (b @ b))
    if not size > 0:
        return nothing
    value = float(a @ b / size)
    is_all = factorial(count) <= MOST_ORDERS
    if is_all:
        orders = np.array(list(permutations(range(count))))
    else:
        random = np.random.default_rng(seed)
        orders = random.permuted(np.tile(np.arange(count), (DRAWN_ORDERS, 1)), axis=1)
    # Orders that differ by rounding alone are the same.
    reached = np.abs(b[orders] @ a / size) >= abs(value) - 1e-12
    p = reached.mean() if is_all else (1 + reached.sum()) / (1 + len(orders))
    return OrderCorrelation(value, float(p), count)
