"""All stated values that are measured, and those that cannot be."""

from __future__ import annotations

from collections.abc import Mapping

from tests.stated_values import chance, convolving, golden, reaching, weighing
from tests.stated_values.stated import Stated

__all__ = ["ROWS", "SECTIONS", "WITHOUT_NUMBER"]

SECTIONS: Mapping[str, tuple[Stated, ...]] = {
    "Golden values": golden.ROWS,
    "Chance levels": chance.ROWS,
    "Reach, width and effective dimensions": reaching.ROWS,
    "Convolutions": convolving.ROWS,
    "Weights, drawn directions, signs and shared noise": weighing.ROWS,
}
ROWS = tuple(row for rows in SECTIONS.values() for row in rows)

WITHOUT_NUMBER: Mapping[str, str] = {
    "0.1.3: the first-order band holds too much where norms do not concentrate (few units, one "
    "channel)": "the diagnostics give it up there and redraw; what is recorded is calibrated",
    "0.1.4: z = 10 at a cosine of .09 is detectable and not useful": "the "
    "step efficiency is .0081; held by `tests/stated_values/test_stated_values.py`",
    "C1: over fresh feedback the mean of DFA's update is zero": "among the golden values",
    "E8: small singular values of the Jacobian widen the chance level": "a direction, no number",
    "0.1.6: a mask and a narrow layer act in opposite ways": "held by the tests of `bottleneck`",
}
"""Statements without a number of their own, and where they are held."""
