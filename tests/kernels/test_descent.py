"""Orders of a step, interactions and random steps, against closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alignlab.kernels.descent import (
    averaging_weights,
    chance_of_step,
    interaction,
    second_order,
)

NUMBERS = st.floats(-5, 5, allow_subnormal=False)
SHARES = st.floats(0.01, 1.0)


def wide(*values: float) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(value, dtype=torch.float64) for value in values)


@given(coefficients=st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), share=SHARES)
def test_the_second_order_of_a_cubic_is_its_coefficient_at_every_share(
    coefficients: tuple[float, ...], share: float
) -> None:
    a, b, c, d = coefficients
    values = [a + b * t + c * t**2 + d * t**3 for t in (0.0, share, -share)]
    found = second_order(*wide(*values), *wide(share))
    assert found.item() == pytest.approx(c, abs=1e-13 / share**2)


def test_the_second_order_of_a_quartic_is_off_by_the_square_of_the_share() -> None:
    shares = torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64)
    ends = 2 * shares**2 + 3 * shares**4
    found = second_order(torch.zeros(3), ends, ends, shares)
    np.testing.assert_allclose(found, 2 + 3 * shares**2, rtol=1e-12)


@given(
    steps=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4),
    seed=st.integers(0, 10),
)
def test_the_interaction_of_a_quadratic_is_its_blocks_off_the_diagonal(
    steps: list[tuple[float, float]], seed: int
) -> None:
    s = np.array(steps).ravel()
    rng = np.random.default_rng(seed)
    h, g = rng.normal(size=(len(s), len(s))), rng.normal(size=len(s))
    h = h + h.T

    def change(step: np.ndarray) -> float:
        return float(g @ step + step @ h @ step / 2)

    parts = [np.where(np.arange(len(s)) // 2 == k, s, 0.0) for k in range(len(steps))]
    expected = sum(p @ h @ q / 2 for p in parts for q in parts if p is not q)
    found = interaction(*wide(change(s)), torch.tensor([change(p) for p in parts]).double())
    assert found.item() == pytest.approx(expected, abs=1e-4 * (1 + np.abs(s).max() ** 2))


@pytest.mark.parametrize("n", [1, 2, 7, 60])
def test_random_steps_have_the_mean_and_spread_of_simulation(n: int) -> None:
    rng = np.random.default_rng(n)
    g, h, r = rng.normal(size=n), rng.normal(size=(n, n)), 0.05
    h = h + h.T
    u = rng.normal(size=(20_000, n))
    u *= r / np.linalg.norm(u, axis=1, keepdims=True)
    curved = np.einsum("ki,ij,kj->k", u, h, u) / 2
    changes = u @ g + curved
    mean, sd = chance_of_step(
        *wide(float(np.linalg.norm(g)), r, float(n)), torch.as_tensor(curved[:5000])
    )
    expected_mean = r**2 * np.trace(h) / (2 * n)
    spread = changes.std() / len(changes) ** 0.5
    assert mean.item() == pytest.approx(expected_mean, abs=5 * curved.std() / 5000**0.5 + 1e-12)
    assert changes.mean() == pytest.approx(expected_mean, abs=5 * spread)
    assert sd.item() == pytest.approx(changes.std(), rel=0.02)


def test_without_curvature_the_spread_is_exact() -> None:
    mean, sd = chance_of_step(*wide(3.0, 0.5, 9.0), torch.zeros(2))
    assert (mean.item(), sd.item()) == (0.0, 0.5)


@given(length=st.floats(1.0, 50.0), count=st.integers(1, 30))
def test_averaging_weights_are_those_of_the_recursion_with_its_start_corrected(
    length: float, count: int
) -> None:
    weights = averaging_weights(length, count)
    beta = 1.0 - 1.0 / length
    average = np.zeros(count)
    for k in range(count):
        average = beta * average + (1 - beta) * np.eye(count)[k]
    np.testing.assert_allclose(weights, average / (1 - beta**count), atol=1e-12)
    assert weights.sum().item() == pytest.approx(1.0)


def test_a_long_average_of_many_weighs_as_many_as_twice_its_length_less_one() -> None:
    weights = averaging_weights(4, 400)
    assert 1.0 / weights.square().sum().item() == pytest.approx(7.0, rel=1e-6)
