"""Reach of weight gradients, against least squares unit by unit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alignlab.kernels.gradient_reach import RIDGE, reached_held_out, reached_in_sample


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def squared_cosine(first: np.ndarray, second: np.ndarray) -> float:
    c = (first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second)
    return float(c * abs(c))


@given(seed=st.integers(0, 1000), r=st.integers(1, 5))
def test_in_sample_it_is_what_least_squares_of_every_unit_explain(seed: int, r: int) -> None:
    gradient, directions = doubles(4, 9, seed=seed), doubles(r, 4, 9, seed=seed + 1)
    made = []
    for unit in range(4):
        rows = directions[:, unit].numpy().T
        made.append(rows @ np.linalg.lstsq(rows, gradient[unit].numpy(), rcond=None)[0])
    expected = squared_cosine(np.stack(made), gradient.numpy())
    assert float(reached_in_sample(gradient, directions)) == pytest.approx(expected, abs=1e-10)


@given(seed=st.integers(0, 200))
def test_no_feedback_has_a_larger_cosine_than_what_is_in_reach(seed: int) -> None:
    gradient, directions = doubles(4, 9, seed=seed), doubles(3, 4, 9, seed=seed + 1)
    best = float(reached_in_sample(gradient, directions))
    for number in range(20):
        feedback = doubles(3, 4, 1, seed=100 * seed + number)
        made = (feedback * directions).sum(0)
        assert squared_cosine(made.numpy(), gradient.numpy()) <= best + 1e-12


@given(seed=st.integers(0, 1000))
def test_held_out_it_is_the_ridge_fit_of_the_other_half(seed: int) -> None:
    gradients = doubles(2, 4, 9, seed=seed)
    directions = doubles(2, 3, 4, 9, seed=seed + 1)
    expected = []
    for fit, show in ((0, 1), (1, 0)):
        made = []
        for unit in range(4):
            rows, aim = directions[fit][:, unit].numpy().T, gradients[fit][unit].numpy()
            size = RIDGE * (rows**2).sum() / 3
            stacked = np.vstack([rows, np.sqrt(size) * np.eye(3)])
            feedback = np.linalg.lstsq(stacked, np.append(aim, np.zeros(3)), rcond=None)[0]
            made.append(directions[show][:, unit].numpy().T @ feedback)
        expected.append(squared_cosine(np.stack(made), gradients[show].numpy()))
    found = reached_held_out((gradients[0], gradients[1]), (directions[0], directions[1]))
    assert float(found) == pytest.approx(np.mean(expected), abs=1e-10)


@given(seed=st.integers(0, 200), scale=st.sampled_from([1e-15, 1.0, 1e15]))
def test_scale_mixed_errors_and_rotated_inputs_change_nothing(seed: int, scale: float) -> None:
    gradient, directions = doubles(4, 6, seed=seed), doubles(3, 4, 6, seed=seed + 1)
    turn = torch.linalg.qr(doubles(6, 6, seed=seed + 2)).Q
    mixed = torch.einsum("rs,skd->rkd", doubles(3, 3, seed=seed + 3), directions)
    plain = reached_in_sample(gradient, directions)
    for other in ((scale * gradient, mixed), (gradient @ turn, scale * (directions @ turn))):
        torch.testing.assert_close(reached_in_sample(*other), plain, rtol=1e-6, atol=1e-9)


def test_unrelated_directions_reach_as_much_as_they_are() -> None:
    found = [
        float(reached_in_sample(doubles(50, 12, seed=k), doubles(3, 50, 12, seed=1000 + k)))
        for k in range(40)
    ]
    assert np.mean(found) == pytest.approx(3 / 12, rel=0.03)


def test_layers_together_are_layers_one_by_one() -> None:
    gradients, directions = doubles(2, 5, 4, 9), doubles(2, 5, 3, 4, 9, seed=1)
    inside = reached_in_sample(gradients[0], directions[0])
    outside = reached_held_out((gradients[0], gradients[1]), (directions[0], directions[1]))
    assert inside.shape == outside.shape == (5,)
    for k in range(5):
        torch.testing.assert_close(inside[k], reached_in_sample(gradients[0, k], directions[0, k]))
        alone = reached_held_out(
            (gradients[0, k], gradients[1, k]), (directions[0, k], directions[1, k])
        )
        torch.testing.assert_close(outside[k], alone)


def test_a_zero_gradient_is_undefined_and_dead_units_are_no_obstacle() -> None:
    gradient, directions = doubles(4, 6), doubles(3, 4, 6, seed=1)
    assert torch.isnan(reached_in_sample(torch.zeros(4, 6), directions))
    gradient[1], directions[:, 1] = 0.0, 0.0
    assert 0.0 < float(reached_in_sample(gradient, directions)) < 1.0
    assert torch.isfinite(reached_held_out((gradient, gradient), (directions, directions)))
