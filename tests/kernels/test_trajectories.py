"""Times, sums and orders of series, against constructed ones and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq

from alignlab.kernels.trajectories import cumulative_sum, first_reaching, order_correlation

VALUES = st.lists(st.floats(-10, 10), min_size=1, max_size=12)


@given(VALUES, st.floats(-10, 10), st.integers(0, 2**31))
def test_the_first_crossing_is_the_first_root_of_the_line(
    values: list[float], level: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    steps = np.sort(random.choice(10_000, len(values), replace=False))
    found = first_reaching(steps, np.array(values), level)
    reached = [k for k, value in enumerate(values) if value >= level]
    if not reached or reached[0] == 0:
        assert np.isnan(found)
        return
    a, b = steps[reached[0] - 1], steps[reached[0]]
    assert a <= found * (1 + 1e-9) + 1e-9
    assert found <= b * (1 + 1e-9) + 1e-9

    def line(t: float) -> float:
        return float(np.interp(np.log1p(t), np.log1p(steps), values)) - level

    if line(a) < 0 < line(b):
        assert found == pytest.approx(brentq(line, a, b, xtol=1e-10), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("half", [3.0, 40.0, 700.0])
def test_a_logistic_curve_in_log_steps_has_its_half_time(half: float) -> None:
    steps = np.unique(np.geomspace(1, 20_000, 80).astype(int)) - 1
    values = 0.8 / (1 + ((1 + steps) / (1 + half)) ** -2.0)
    found = first_reaching(steps, values, 0.4)
    assert found == pytest.approx(half, rel=0.02)


def test_what_was_not_recorded_is_left_out() -> None:
    steps, values = np.array([0, 1, 3, 15]), np.array([0.0, 1.0, np.nan, 3.0])
    kept = np.isfinite(values)
    found = first_reaching(steps, values, 2.0)
    assert found == first_reaching(steps[kept], values[kept], 2.0)
    assert np.isnan(first_reaching(steps, np.full(4, np.nan), 2.0))


@given(VALUES, st.integers(0, 2**31))
def test_the_estimate_is_the_sum_of_the_line_at_all_steps(values: list[float], seed: int) -> None:
    random = np.random.default_rng(seed)
    steps = np.sort(random.choice(200, len(values), replace=False))
    recorded, estimate = cumulative_sum(steps, np.array(values))
    assert recorded == pytest.approx(np.cumsum(values), abs=1e-9)
    for k, step in enumerate(steps):
        every = np.arange(steps[0], step + 1)
        assert estimate[k] == pytest.approx(np.interp(every, steps, values).sum(), abs=1e-6)


def test_where_every_step_is_recorded_both_sums_are_the_same() -> None:
    values = np.random.default_rng(0).normal(size=(30, 2, 3))
    recorded, estimate = cumulative_sum(np.arange(5, 35), values)
    np.testing.assert_allclose(recorded, estimate)
    np.testing.assert_allclose(recorded, values.cumsum(0))


def test_sums_begin_at_the_first_recorded_value_and_rest_between() -> None:
    values = np.array([[np.nan, np.nan], [2.0, np.nan], [np.nan, np.nan], [4.0, np.nan]])
    recorded, estimate = cumulative_sum(np.arange(4), values)
    np.testing.assert_array_equal(recorded[:, 0], [np.nan, 2.0, 2.0, 6.0])
    np.testing.assert_array_equal(estimate[:, 0], [np.nan, 2.0, 2.0, 9.0])
    assert np.isnan(recorded[:, 1]).all()


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=6))
def test_orders_are_those_of_scipy(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs, dtype=float).T
    found = order_correlation(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert np.isnan([found.value, found.p]).all()
        return

    def statistic(x: np.ndarray) -> float:
        return abs(stats.spearmanr(x, second).statistic)

    assert found.value == pytest.approx(stats.spearmanr(first, second).statistic)
    expected = stats.permutation_test(
        (first,), statistic, permutation_type="pairings", n_resamples=np.inf, alternative="greater"
    )
    assert found.p == pytest.approx(expected.pvalue)


def test_drawn_orders_give_the_p_of_all_orders() -> None:
    random = np.random.default_rng(3)
    first = np.arange(12.0)
    second = first + 6 * random.normal(size=12)
    found = order_correlation(first, second, seed=1)
    expected = stats.spearmanr(first, second)
    assert found.value == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue, abs=0.01)
    assert found == order_correlation(first, second, seed=1)


def test_p_is_uniform_for_unrelated_series() -> None:
    random = np.random.default_rng(0)
    ps = [order_correlation(np.arange(6), random.normal(size=6)).p for _ in range(400)]
    for level in (0.1, 0.3, 0.6):
        share = np.mean(np.array(ps) <= level)
        assert share <= level + 4 * (level * (1 - level) / 400) ** 0.5


def test_pairs_with_a_gap_are_left_out() -> None:
    first, second = np.array([1.0, 2.0, np.nan, 4.0]), np.array([1.0, 3.0, 0.0, 9.0])
    assert order_correlation(first, second).count == 3
    assert np.isnan(order_correlation(first[:1], second[:1]).value)
