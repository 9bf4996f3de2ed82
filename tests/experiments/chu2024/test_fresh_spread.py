"""The closed form of the spread against redraws."""

from __future__ import annotations

import numpy as np
import pytest
from torch import Tensor

from alignlab.experiments._alignment import (
    drawn,
    gradient_alignment,
    network,
    summed_cross_entropy,
)
from alignlab.experiments._deep_digits import feedback_rule
from alignlab.experiments._digits import digits
from alignlab.experiments.chu2024._fresh_spread import fresh_spread


def first_digits(count: int) -> tuple[Tensor, Tensor]:
    """Return images and classes of the first training digits."""
    data = digits(samples=1437, scaling="global")
    return data.x[:count], data.y[:count]


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_closed_form_is_the_deviation_of_redraws(activation: str) -> None:
    x, y = first_digits(100)
    model = network((64, 48, 64, 10), activation=activation, seed=0)
    rules = [drawn(feedback_rule(k), model, x, y, seed=k) for k in range(300)]
    found = gradient_alignment(model, summed_cross_entropy, x, y, *rules)
    seen = np.std([each.layers for each in found], axis=0, ddof=1)
    assert fresh_spread(model, x, y, activation=activation) == pytest.approx(seen, rel=0.15)


def test_a_single_sample_of_linear_units_has_one_over_the_root_of_the_width() -> None:
    x, y = first_digits(1)
    model = network((64, 25, 10), activation="tanh", seed=0)
    for weight in model.parameters():
        weight.data.mul_(1e-4)
    spread = fresh_spread(model, x, y, activation="tanh")
    assert spread == pytest.approx([0.2], rel=1e-3)
