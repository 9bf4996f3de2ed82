"""A bound holds on all runs or not at all, also where it is met exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from alignlab.experiments import chosen
from alignlab.experiments._checking import (
    mean_check,
    ratio_check,
    rises,
    share_check,
    worst_check,
)
from alignlab.experiments._selection import over_seeds

NAN = float("nan")
BOUNDS: list[tuple[dict[str, Any], str, dict[float, bool]]] = [
    ({"least": 0.5}, ">= 0.5", {0.25: False, 0.5: True, 0.75: True}),
    ({"most": 0.5}, "<= 0.5", {0.25: True, 0.5: True, 0.75: False}),
    ({"above": 0.5}, "> 0.5", {0.25: False, 0.5: False, 0.75: True}),
    ({"below": 0.5}, "< 0.5", {0.25: True, 0.5: False, 0.75: False}),
    ({"least": 0.25, "most": 0.5}, "0.25 to 0.5", {0.2: False, 0.25: True, 0.5: True, 0.6: False}),
    ({"least": 0, "below": 0.5}, ">= 0 and < 0.5", {-1.0: False, 0.0: True, 0.5: False}),
    ({"near": (1.0, 0.25)}, "1.000 within 0.25", {0.7: False, 0.75: True, 1.25: True, 1.3: False}),
    ({}, "no bound", {-1e9: True, 1e9: True}),
]


@pytest.mark.parametrize(("bounds", "words", "passes"), BOUNDS, ids=[each[1] for each in BOUNDS])
def test_a_mean_is_held_against_its_bounds(
    bounds: dict[str, Any], words: str, passes: dict[float, bool]
) -> None:
    for mean, expected in passes.items():
        check = mean_check("", [mean - 0.125, mean + 0.125], **bounds)
        assert (check.passed, check.expected, check.runs) == (expected, words, 2)
        assert type(check.passed) is bool


@pytest.mark.parametrize("bounds", [each[0] for each in BOUNDS], ids=[each[1] for each in BOUNDS])
@given(
    st.lists(st.floats(-1, 1), max_size=5),
    st.sampled_from([NAN, float("inf"), -float("inf")]),
    st.integers(0, 5),
)
def test_a_run_without_a_number_passes_nothing(
    bounds: dict[str, Any], values: list[float], missing: float, place: int
) -> None:
    values.insert(place, missing)
    assert not mean_check("", values, **bounds).passed


@pytest.mark.parametrize("bounds", [each[0] for each in BOUNDS], ids=[each[1] for each in BOUNDS])
def test_no_run_passes_nothing(bounds: dict[str, Any]) -> None:
    check = mean_check("", [], **bounds)
    assert (check.passed, check.runs) == (False, 0)
    assert np.isnan(check.measured)


def test_the_number_of_a_check_is_still_shown_where_a_run_is_missing() -> None:
    check = mean_check("", [0.5, 0.75, NAN], least=0.0)
    assert (check.measured, check.runs, check.passed) == (0.625, 3, False)


def test_a_rise_needs_every_step_of_every_run() -> None:
    values = np.array([[0.0, 0.25], [0.5, 0.5], [0.5, 0.75]])
    assert rises("", values).passed
    assert rises("", values).measured == 0.125
    assert not rises("", np.array([[0.0, 0.25], [0.0, 0.25]])).passed
    values[1, 0] = NAN
    assert not rises("", values).passed


@pytest.mark.parametrize(
    ("bounds", "words", "passed"),
    [
        ({}, ">= 1 of the runs", False),
        ({"least": 0.75}, ">= 0.75 of the runs", True),
        ({"least": 0.0, "most": 0.75}, "<= 0.75 of the runs", True),
        ({"least": 0.0, "most": 0.5}, "<= 0.5 of the runs", False),
        ({"least": 0.0}, "no bound", True),
    ],
)
def test_a_share_is_held_against_its_bounds(
    bounds: dict[str, float], words: str, passed: bool
) -> None:
    check = share_check("", [True, True, False, True], **bounds)
    assert (check.passed, check.expected, check.measured) == (passed, words, 0.75)
    nothing = share_check("", [], **bounds)
    assert (nothing.passed, nothing.runs) == (False, 0)


@pytest.mark.parametrize(
    ("values", "passed"), [([0.1, 0.5], True), ([0.6], False), ([0.1, NAN], False), ([], False)]
)
def test_the_largest_of_all_values_is_held_against_a_bound(
    values: list[float], passed: bool
) -> None:
    assert worst_check("", values, most=0.5).passed == passed


def test_runs_come_in_the_order_of_their_seeds() -> None:
    coords = {
        "rule": ("run", ["dfa", "bp", "dfa", "dfa"]),
        "seed": ("run", [2, 0, 0, 1]),
        "layer": ["h1", "h2"],
    }
    results = xr.Dataset({"cosine": (("layer", "run"), np.arange(8).reshape(2, 4))}, coords)
    found = over_seeds(results, "cosine", rule="dfa")
    np.testing.assert_array_equal(found, [[2, 6], [3, 7], [0, 4]])
    one = over_seeds(results, "cosine", rule="dfa", layer="h2")
    np.testing.assert_array_equal(one, [6, 7, 4])
    assert chosen(results, rule="dfa", seed=1)["cosine"].values.ravel().tolist() == [3, 7]
    unseeded = results.drop_vars("seed")
    np.testing.assert_array_equal(over_seeds(unseeded, "cosine", layer="h1", rule="dfa"), [0, 2, 3])


def test_the_smallest_step_decides_whether_means_rise() -> None:
    values = np.array([[0.0, 0.2], [0.5, 0.7], [0.4, 0.7]])
    check = rises("value", values)
    assert not check.passed
    assert check.measured == pytest.approx(-0.05)
    assert rises("value", values[:2]).passed


def test_a_ratio_is_one_of_means_and_passes_nothing_that_is_not_a_number() -> None:
    others = np.array([2.0, 0.0, 4.0])  # one run without errors makes no ratio infinite
    held = ratio_check("errors", np.array([1.0, 1.0, 1.0]), others, most=0.5)
    assert (held.measured, held.passed, held.runs) == (0.5, True, 3)
    assert held.low < 0.5 < held.high
    assert not ratio_check("errors", np.array([1.0, 1.0, 1.1]), others, most=0.5).passed
    assert not ratio_check("errors", np.array([1.0, NAN, 1.0]), others, most=0.5).passed
    assert not ratio_check("errors", np.array([1.0, 1.0, 1.0]), others * NAN, most=0.5).passed
