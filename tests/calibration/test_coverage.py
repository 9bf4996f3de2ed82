"""The 95% bands of 20 to 28 networks against 2,000 fresh draws each, for every kind of null."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from tests.calibration.coverage import LEVELS, Covered, coverages, share, small_shares

pytestmark = pytest.mark.slow

DRAWS = 2000
METHODS = ("closed form", "redraws")
KINDS = {
    "direct feedback": "feedback_draw",
    "direct feedback of targets": "feedback_draw",
    "backward weights": "feedback_draw",
    "random signs": "rule_draw",
    "rotated signals": "output_rotation",
    "rotated updates": "output_rotation",
    "feedback matrices": "feedback_draw",
    "weights and backward weights": "feedback_draw",
}


@cache
def found(level: str) -> list[Covered]:
    return list(coverages(level, draws=DRAWS))


def of_method(level: str, method: str) -> list[Covered]:
    here = [each for each in found(level) if each.band.method == method]
    if not here:
        pytest.skip(f"{level} has no {method}")
    return here


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_says_what_was_drawn_on_20_networks(level: str) -> None:
    assert {each.band.kind for each in found(level)} == {KINDS[level]}
    assert len({each.network for each in found(level)}) >= 19 + (level != "feedback matrices")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("level", LEVELS)
def test_the_band_holds_what_it_says_pooled_and_in_every_network(level: str, method: str) -> None:
    free = [each for each in of_method(level, method) if not each.is_tied]
    assert 0.93 <= share(free) <= 0.97
    networks = dict.fromkeys(each.network for each in free)
    shares = {name: share([c for c in free if c.network == name]) for name in networks}
    assert {name: s for name, s in shares.items() if not 0.90 <= s <= 0.99} == {}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("level", LEVELS)
def test_every_alignment_is_covered_by_itself(level: str, method: str) -> None:
    here = of_method(level, method)
    for key in dict.fromkeys((c.band.variable, c.band.site) for c in here):
        free = [c for c in here if (c.band.variable, c.band.site) == key and not c.is_tied]
        if len(free) >= 10:
            assert 0.93 <= share(free) <= 0.97, key


@pytest.mark.parametrize("level", LEVELS)
def test_a_band_of_few_values_holds_at_least_what_it_says(level: str) -> None:
    tied = [each for each in found(level) if each.is_tied]
    if tied:
        assert share(tied) >= 0.94
        # A band of 200 redraws holds as little as this once in 10,000 times.
        assert min(each.inside / each.count for each in tied) >= 0.88


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("level", LEVELS)
def test_small_p_values_are_no_more_frequent_than_they_should_be(level: str, method: str) -> None:
    free = [each for each in of_method(level, method) if not each.is_tied]
    five, one, tenth = small_shares(free)
    assert 0.04 <= five <= 0.06
    assert 0.005 <= one <= 0.013
    assert tenth <= 0.002


def test_both_methods_are_in_use() -> None:
    methods = np.array([each.band.method for each in found("direct feedback")])
    assert min((methods == name).mean() for name in METHODS) > 0.2
