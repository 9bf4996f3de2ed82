"""Sizes in the place of a claim's own: those that make no sense are refused."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from alignlab.errors import InputError
from alignlab.experiments._sizes import changed

OWN = {
    "steps": 200,
    "widths": (64, 32),
    "shapes": ((2, 3), (4, 5)),
    "first": 0,
    "teacher_seed": 7,
    "rate": 0.05,
    "rates": {"slow": 0.1},
    "noise": (0.0, 0.5),
    "stop": None,
    "data": "digits",
    "biased": True,
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", 0, "steps of A1 is 200; 0 is too small; give 1 or more."),
        ("steps", -3, "steps of A1 is 200; -3 is too small; give 1 or more."),
        ("widths", [64, 0], "widths of A1 is [64, 32]; [64, 0] is too small; give 1 or more."),
        (
            "shapes",
            [[2, -1]],
            "shapes of A1 is [[2, 3], [4, 5]]; [[2, -1]] is too small; give 1 or more.",
        ),
        ("rate", math.inf, "rate of A1 is 0.05; give finite numbers."),
        ("noise", [0.0, math.nan], "noise of A1 is [0.0, 0.5]; give finite numbers."),
        ("rates", {"slow": -math.inf}, 'rates of A1 is {"slow": 0.1}; give finite numbers.'),
        ("stop", math.inf, "stop of A1 is null; give finite numbers."),
    ],
)
def test_a_size_that_makes_no_sense_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        changed("A1", OWN, {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 1),
        ("widths", [1]),
        ("first", -1),
        ("teacher_seed", 0),
        ("rate", -1.0),
        ("rate", 0),
        ("noise", [0.0]),
        ("stop", 0.1),
        ("data", "mnist"),
        ("biased", False),
    ],
)
def test_a_size_that_may_be_meant_is_taken(name: str, value: Any) -> None:
    assert changed("A1", OWN, {name: value}) == {name: value}
