"""Every number that the derivations behind the diagnostics state, measured again."""

from __future__ import annotations

import numpy as np
import pytest

from alignlab.diagnostics._chance import adjusted_statuses, chance_of
from tests.stated_values.stated import Stated, measured_over_seeds
from tests.stated_values.table import OTHERWISE, REPRODUCED


def named(rows: tuple[Stated, ...]) -> list[object]:
    return [
        pytest.param(row, id=row.of, marks=[pytest.mark.slow] if row.is_slow else [])
        for row in rows
    ]


@pytest.mark.parametrize("stated", named(REPRODUCED))
def test_what_is_measured_agrees_with_what_is_stated(stated: Stated) -> None:
    found = measured_over_seeds(stated)
    assert found.agrees(stated).all(), found
    assert found.is_wide(stated) == stated.is_wide, found


@pytest.mark.parametrize("stated", named(OTHERWISE))
def test_what_is_not_reproduced_is_what_the_page_says(stated: Stated) -> None:
    found = measured_over_seeds(stated)
    mean, sd = np.transpose(stated.found)
    assert not found.agrees(stated).any(), found
    assert (np.abs(found.mean - mean) <= sd).all(), found
    np.testing.assert_allclose(found.sd, sd, rtol=0.5)


def test_a_cosine_ten_deviations_from_chance_can_be_of_no_use() -> None:
    draws = 0.009 * np.random.default_rng(0).normal(size=200)
    chance = chance_of(0.09, draws, kind="feedback_draw", concentration=0.05, closed_form=0.009)
    assert chance.p < 1e-20
    assert adjusted_statuses([0.09], [chance], is_drawn=False) == ["detectable"]
