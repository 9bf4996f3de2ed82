"""P-values that are recorded where there is nothing but chance, and the statuses made of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest

from alignlab.engine.capture import Capture
from alignlab.rules import DFA
from alignlab.rules._base import Rule
from alignlab.snapshot import MeasuredRule
from tests.calibration.nulls import Network, mlp
from tests.calibration.pvalues import (
    CONTINUOUS,
    SETTINGS,
    TIED,
    Found,
    distance_from_uniform,
    largest_distance,
    p_values,
    statuses,
)
from tests.cases import Batch

pytestmark = pytest.mark.slow

SEEDS = 120
DRAWS = 64
DEEP = Network(mlp(24, 24, 24, 24), 10, n_samples=40)


@cache
def found(setting: str) -> Found:
    return p_values(SETTINGS[setting], range(SEEDS), draws=DRAWS)


@pytest.mark.parametrize("key", CONTINUOUS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_p_values_of_untrained_networks_are_uniform(setting: str, key: tuple[str, str]) -> None:
    p = found(setting)[key]
    assert len(p) > 0.9 * SEEDS
    assert distance_from_uniform(p) <= largest_distance(len(p), draws=DRAWS)


@pytest.mark.parametrize("key", TIED)
@pytest.mark.parametrize("setting", SETTINGS)
def test_where_values_are_tied_small_p_values_are_not_too_frequent(
    setting: str, key: tuple[str, str]
) -> None:
    p = found(setting)[key]
    distance = distance_from_uniform(p, one_sided=True)
    assert distance <= largest_distance(len(p), draws=DRAWS)


@pytest.mark.parametrize("level", [0.05, 0.01])
def test_small_p_values_are_within_binomial_limits(level: float) -> None:
    p = np.concatenate([found(setting)[key] for setting in SETTINGS for key in CONTINUOUS])
    # Those of one network go together: its share counts as one number.
    error = (level * (1 - level) / (SEEDS * len(SETTINGS))) ** 0.5
    assert np.mean(p <= level) <= level + 3 * error


def unrelated(seeds: range) -> Iterator[tuple[Batch, Rule]]:
    for seed in seeds:
        yield DEEP.make(seed), DFA(seed=10_000 + seed)


def related_at_the_top(seeds: range) -> Iterator[tuple[Batch, MeasuredRule]]:
    """Yield networks whose uppermost feedback is the weights above it, transposed."""
    for seed in seeds:
        batch = DEEP.make(seed)
        capture = Capture(batch.model, batch.loss, batch.x, batch.y)
        rule = DFA(seed=10_000 + seed)
        feedback = dict(rule.start(capture, seed=rule.seed))
        feedback[capture.layers[-2].name] = capture.module_weights()[capture.layers[-1].module]
        capture.close()
        yield batch, MeasuredRule(rule, feedback, "checkpoint")


@pytest.mark.parametrize("place", [CONTINUOUS[0], CONTINUOUS[2]])
def test_of_unrelated_networks_few_have_any_layer_called_detectable(
    place: tuple[str, str],
) -> None:
    every = list(statuses(unrelated(range(SEEDS)), *place))
    limit = 0.05 + 3 * (0.05 * 0.95 / SEEDS) ** 0.5
    discovered = [any(each in ("detectable", "useful") for each in row) for row in every]
    opposed = [any(each == "opposed" for each in row) for row in every]
    assert np.mean(discovered) <= limit
    assert np.mean(opposed) <= limit


def test_beside_one_aligned_layer_few_of_the_discoveries_are_false() -> None:
    every = list(statuses(related_at_the_top(range(SEEDS)), *CONTINUOUS[0]))
    found = [[each in ("detectable", "useful") for each in row] for row in every]
    assert all(row[-1] for row in found)
    false = [sum(row[:-1]) / sum(row) for row in found]
    assert np.mean(false) <= 0.05 + 3 * np.std(false) / SEEDS**0.5
