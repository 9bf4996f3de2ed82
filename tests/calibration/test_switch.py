"""What the switch from closed form to redraws is for."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from alignlab.diagnostics._chance import CONCENTRATION_BOUND
from tests.calibration.coverage import LEVELS
from tests.calibration.switch import Switched, switched

pytestmark = pytest.mark.slow


@cache
def found() -> list[Switched]:
    every = switched(draws=2000, networks=LEVELS["backward weights"].networks)
    return [each for each in every if not each.closed_form.is_tied]


def shares(method: str, *, concentrates: bool) -> np.ndarray:
    here = [s for s in found() if (s.spread <= CONCENTRATION_BOUND) == concentrates]
    covered = [getattr(each, method) for each in here]
    return np.array([each.inside / each.count for each in covered])


def test_below_the_bound_the_closed_form_holds_for_every_alignment_of_every_network() -> None:
    below = shares("closed_form", concentrates=True)
    assert len(below) > 100
    assert below.min() >= 0.90
    assert below.max() <= 0.98
    assert below.mean() == pytest.approx(0.95, abs=0.01)


def test_above_the_bound_the_closed_form_fails_somewhere_and_redraws_hold() -> None:
    closed, redraws = (shares(m, concentrates=False) for m in ("closed_form", "redraws"))
    assert len(closed) > 20
    assert not ((closed >= 0.90) & (closed <= 0.98)).all()
    assert redraws.mean() == pytest.approx(0.95, abs=0.01)
    assert abs(redraws - 0.95).max() < 5 * (0.95 * 0.05 * (1 / 200 + 1 / 2000)) ** 0.5
    assert abs(closed - 0.95).mean() > abs(shares("closed_form", concentrates=True) - 0.95).mean()
