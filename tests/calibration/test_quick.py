"""A small calibration of every kind of chance level, wide enough to pass and to see what is broken.

The whole one is in the documentation (calibration.md) and in the slow tests beside this file.
"""

from __future__ import annotations

import numpy as np
import pytest

from alignlab.diagnostics import _closed_forms
from tests.calibration.coverage import LEVELS, Covered, coverages, share
from tests.calibration.pvalues import CONTINUOUS, SETTINGS, distance_from_uniform, p_values

NETWORKS = ("24-12", "conv 16, pooled")
DRAWS, REDRAWS = 400, 60


def found(level: str) -> list[Covered]:
    return list(coverages(level, draws=DRAWS, networks=NETWORKS, redraws=REDRAWS, tried=0))


@pytest.mark.parametrize("level", LEVELS)
def test_fresh_draws_fall_into_the_band_as_often_as_it_says(level: str) -> None:
    every = found(level)
    free = [each for each in every if not each.is_tied]
    assert 0.91 <= share(free) <= 0.99
    for each in every:
        # Five standard errors of the draws and, where the band is made of few redraws, of these.
        limit = 5 * np.sqrt(
            0.95 * 0.05 * (1 / each.count + (each.band.method == "redraws") / REDRAWS)
        )
        assert each.inside / each.count >= 0.95 - limit, each
        if not each.is_tied:
            assert each.inside / each.count <= min(0.95 + limit, 0.999), each


def test_a_null_of_the_wrong_size_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = _closed_forms._product_norm
    monkeypatch.setattr(_closed_forms, "_product_norm", lambda *given: 0.8 * right(*given))
    narrow = [each for each in found("direct feedback") if each.band.method == "closed form"]
    assert share(narrow) < 0.91


@pytest.mark.parametrize("setting", ["4 units", "64 units"])
def test_recorded_p_values_by_chance_are_about_uniform(setting: str) -> None:
    values = p_values(SETTINGS[setting], range(12), draws=32)
    for key in CONTINUOUS:
        # Passed by 12 uniform values once in 10,000 times.
        assert distance_from_uniform(values[key]) < 2.1 / 12**0.5, key
