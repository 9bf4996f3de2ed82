"""Sketched cosines against the exact ones, and their spread against the stated one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alignlab.engine.directions import Combinations, Units, sketch
from alignlab.kernels.output_sketch import chance_factor, sketched_cosine


def pair(n_errors: int, width: int, *, share: float) -> tuple[Tensor, Tensor]:
    """Return a Jacobian and feedback that is partly its own."""
    stream = torch.Generator().manual_seed(n_errors)
    jacobian = torch.randn(n_errors, width, dtype=torch.float64, generator=stream)
    other = torch.randn(n_errors, width, dtype=torch.float64, generator=stream)
    return jacobian, share * jacobian + (1.0 - share) * other


def estimated(
    jacobian: Tensor, feedback: Tensor, directions: Combinations | Units
) -> tuple[float, float]:
    count = len(directions)
    rows, images = (directions.times(each) for each in (jacobian, feedback))
    found = sketched_cosine(
        (rows * images).sum(1) * count, rows.square().sum(1) * count, feedback.norm()
    )
    return float(found.value), float(found.standard_error)


def test_all_output_units_give_the_cosine_itself() -> None:
    jacobian, feedback = pair(7, 20, share=0.4)
    exact = float((jacobian * feedback).sum() / jacobian.norm() / feedback.norm())
    value, _ = estimated(jacobian, feedback, Units(range(7), 7))
    assert value == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_the_estimate_is_the_cosine_within_its_standard_error(share: float) -> None:
    jacobian, feedback = pair(200, 300, share=share)
    exact = float((jacobian * feedback).sum() / jacobian.norm() / feedback.norm())
    found = [
        estimated(jacobian, feedback, sketch(200, 32, seed=s, distribution="sign"))
        for s in range(200)
    ]
    values = torch.tensor([value for value, _ in found])
    errors = torch.tensor([error for _, error in found])
    assert float(values.mean()) == pytest.approx(exact, abs=4 * float(values.std()) / 200**0.5)
    assert float(errors.square().mean().sqrt()) == pytest.approx(float(values.std()), rel=0.2)
    inside = ((values - exact).abs() < 2.04 * errors).double().mean()
    assert 0.88 < float(inside) < 0.99


@pytest.mark.parametrize(("n_errors", "count"), [(1, 3), (10, 10), (100, 16)])
def test_unrelated_feedback_has_the_stated_spread(n_errors: int, count: int) -> None:
    width = 50
    stream = torch.Generator().manual_seed(5)
    jacobian = torch.randn(n_errors, width, dtype=torch.float64, generator=stream)
    values = []
    for draw in range(600):
        feedback = torch.randn(n_errors, width, dtype=torch.float64, generator=stream)
        directions = sketch(n_errors, count, seed=draw, distribution="sign")
        values.append(estimated(jacobian, feedback, directions)[0])
    expected = chance_factor(n_errors, count) / (n_errors * width) ** 0.5
    assert float(torch.tensor(values).std()) == pytest.approx(expected, rel=0.12)


@given(power=st.integers(-12, 12), sign=st.sampled_from([1.0, -1.0]))
def test_scale_does_not_matter_and_sign_does(power: int, sign: float) -> None:
    jacobian, feedback = pair(12, 9, share=0.5)
    directions = sketch(12, 5, seed=0, distribution="sign")
    value, error = estimated(jacobian, feedback, directions)
    other, spread = estimated(jacobian * 10.0**power, sign * feedback, directions)
    assert other == pytest.approx(sign * value, rel=1e-9)
    assert spread == pytest.approx(error, rel=1e-9)


def test_the_zero_jacobian_has_no_cosine() -> None:
    found = sketched_cosine(torch.zeros(4), torch.zeros(4), torch.tensor(1.0))
    assert torch.isnan(found.value)
    assert torch.isnan(found.standard_error)
    single = sketched_cosine(torch.ones(1), torch.ones(1), torch.tensor(1.0))
    assert float(single.value) == 1.0
    assert torch.isnan(single.standard_error)
