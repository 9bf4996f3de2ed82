"""Intervals over runs hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from alignlab.experiments._statistics import interval_of_mean, interval_of_pairs, jackknifed

TRIALS = 1500


@pytest.mark.parametrize("count", [3, 6])
def test_an_interval_over_pairs_covers_where_one_that_takes_them_for_independent_does_not(
    count: int,
) -> None:
    random = np.random.default_rng(0)
    of_pairs, of_values = 0, 0
    for _ in range(TRIALS):
        own, between = random.normal(size=count), 0.3 * random.normal(size=(count, count))
        values = own[:, None] + own + between + between.T
        mean, low, high = interval_of_pairs(values)
        plain = interval_of_mean(values[np.triu_indices(count, 1)])
        assert mean == pytest.approx(plain[0])
        of_pairs += low <= 0 <= high
        of_values += plain[1] <= 0 <= plain[2]
    assert 0.93 <= of_pairs / TRIALS <= 0.985
    assert of_values / TRIALS < 0.9


def test_two_runs_have_a_mean_and_no_interval() -> None:
    mean, low, high = interval_of_pairs(np.array([[1.0, 0.25], [0.25, 1.0]]))
    assert mean == 0.25
    assert np.isnan([low, high]).all()


def test_an_interval_over_a_ratio_of_means_covers_the_ratio() -> None:
    random, covered = np.random.default_rng(1), 0
    for _ in range(TRIALS):
        own = random.normal(size=(6, 4))
        values, others = 2 + 0.3 * own + 0.1 * random.normal(size=(6, 4)), 4 + 0.5 * own
        _, low, high = jackknifed(lambda a, b: a.mean() / b.mean(), values, others)
        covered += low <= 0.5 <= high
    assert 0.93 <= covered / TRIALS <= 0.98


def test_a_jackknife_of_a_mean_is_students_interval() -> None:
    values = np.random.default_rng(2).normal(size=7)
    assert jackknifed(np.mean, values) == pytest.approx(interval_of_mean(values))
