"""Every number that the derivations behind the diagnostics state, measured again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alignlab.diagnostics._chance import adjusted_statuses, chance_of
from tests.stated_values.page import line_of
from tests.stated_values.stated import Stated, measured_over_seeds
from tests.stated_values.table import ROWS, WITHOUT_NUMBER

PAGE = Path(__file__).parents[2] / "docs" / "stated-values.md"


@pytest.mark.parametrize(
    "stated",
    [pytest.param(row, id=row.of, marks=[pytest.mark.slow] * row.is_slow) for row in ROWS],
)
def test_what_is_measured_is_what_the_table_says(stated: Stated) -> None:
    """A stated value, one measurement itself, must lie within two of our standard deviations.

    Where it does not, the row says why, and our own numbers are held.
    """
    found = measured_over_seeds(stated)
    if not stated.found:
        assert found.agrees(stated).all(), found
        assert found.is_wide(stated) == stated.is_wide, found
        return
    mean, sd = np.transpose(stated.found)
    assert not found.agrees(stated).any(), found
    assert (np.abs(found.mean - mean) <= sd).all(), found


def test_the_table_says_why_where_a_value_is_not_reproduced() -> None:
    assert len({row.of + row.setting for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert bool(row.because) == bool(row.found)
        assert len(row.found) in {0, len(row.values)}


def test_the_page_has_every_row_of_the_table() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for row in ROWS:
        start = " | ".join(line_of(row, ["MEASURED"] * len(row.values), "VERDICT"))
        before, after = f"| {start} |".split("MEASURED" + "; MEASURED" * (len(row.values) - 1))
        assert [line.startswith(before) for line in lines].count(True) == 1, row.of
        after = after.removesuffix("VERDICT |")
        assert any(line.startswith(before) and after in line for line in lines), row.of
    for statement, place in WITHOUT_NUMBER.items():
        assert f"| {statement} | {place} |" in lines


def test_a_cosine_ten_deviations_from_chance_can_be_of_no_use() -> None:
    draws = 0.009 * np.random.default_rng(0).normal(size=200)
    chance = chance_of(0.09, draws, kind="feedback_draw", concentration=0.05, closed_form=0.009)
    assert chance.p < 1e-20
    assert adjusted_statuses([0.09], [chance], is_drawn=False) == ["detectable"]
