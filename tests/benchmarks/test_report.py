"""Verdicts on rows, and the page that shows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks._harness import Quartiles, Timing
from tests.benchmarks._report import BEGIN, END, page_with, table_of_times, verdict
from tests.benchmarks.costs import Launches, Memory
from tests.benchmarks.rows import ROWS

ROOT = Path(__file__).parents[2]
AT_MOST = replace(ROWS["mlp-preactivation"], target=1.15, stretch=1.08)
AT_LEAST = replace(ROWS["mlp-biotorch"], target=2.0, stretch=2.5)


@pytest.mark.parametrize(
    ("row", "ratio", "expected"),
    [
        (AT_MOST, Quartiles(1.0, 1.1, 1.15), "yes"),
        (AT_MOST, Quartiles(1.0, 1.1, 1.151), "no"),
        (AT_MOST, Quartiles(1.0, 1.05, 1.08), "stretch"),
        (AT_LEAST, Quartiles(2.0, 3.0, 4.0), "yes"),
        (AT_LEAST, Quartiles(1.99, 3.0, 4.0), "no"),
        (AT_LEAST, Quartiles(2.5, 3.0, 4.0), "stretch"),
        (replace(AT_MOST, stretch=None), Quartiles(0.5, 0.5, 0.5), "yes"),
    ],
)
def test_a_bound_is_met_when_the_worse_quartile_is_within_it(
    row, ratio: Quartiles, expected: str
) -> None:
    assert verdict(row, ratio) == expected


def test_the_table_has_the_quartiles_over_the_medians_of_the_runs() -> None:
    runs = [
        Timing(Quartiles(0.0, median, 9.0), reference=0.02, work=0.03, rounds=60)
        for median in (1.2, 1.0, 1.1, 1.4, 1.3)
    ]
    (line,) = table_of_times({AT_MOST: runs}).splitlines()[2:]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:] == ["≤ 1.15", "≤ 1.08", "1.200 [1.100, 1.300]", "20 / 30", "5 × 60", "no"]


def test_one_site_buffer_is_allowed_where_the_bound_says_so() -> None:
    held = Memory("", 1.1, plain=100, observed=105, kept=10, feedback=0, allowed=5)
    assert held.met
    assert held.ratio == pytest.approx(1.15)
    assert not replace(held, allowed=4).met


def test_launches_within_their_bound_are_not_enough_where_the_host_waits() -> None:
    found = Launches("", plain=26, observed=44, sites=3, waits=0, target=6.0)
    assert found.met
    assert not replace(found, waits=1).met
    assert not replace(found, observed=45).met
    assert replace(found, observed=99, target=None).met


def test_what_was_measured_takes_the_place_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n", encoding="utf-8")
    for text in ("one", "two"):
        page_with(page, text)
    expected = f"above\n{BEGIN}\n\ntwo\n\n{END}\nbelow\n"
    assert page.read_text(encoding="utf-8") == expected
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="has no lines"):
        page_with(page, "three")


def test_the_page_of_the_documentation_has_the_marks() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)
