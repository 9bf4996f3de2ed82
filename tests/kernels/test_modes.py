"""Modes of correlations against numpy, least squares and derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignlab.kernels.modes import coefficients, correlation_modes, cotangents


def normal(*shape: int, seed: int) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=stream)


def white(n: int, d: int, *, seed: int) -> Tensor:
    """Return inputs whose mean square is the identity."""
    return torch.linalg.qr(normal(n, d, seed=seed))[0] * n**0.5


def test_modes_are_singular_vectors_of_the_correlation() -> None:
    x, y = normal(20, 5, seed=0), normal(20, 3, seed=1)
    modes = correlation_modes(x, y, count=2)
    values = np.linalg.svd((y.T @ x / 20).numpy(), compute_uv=False)
    np.testing.assert_allclose(modes.strengths, values[:2])
    correlation = y.T @ x / 20
    torch.testing.assert_close(correlation @ modes.inputs, modes.outputs * modes.strengths)


def test_a_linear_map_of_white_inputs_has_its_own_coefficients() -> None:
    x, y, w = white(30, 4, seed=0), normal(30, 3, seed=1), normal(3, 4, seed=2)
    modes = correlation_modes(x, y, count=3)
    expected = torch.diagonal(modes.outputs.T @ w @ modes.inputs)
    torch.testing.assert_close(coefficients(modes, x, x @ w.T), expected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(-6.0, 6.0))
def test_least_squares_have_learned_every_mode_whatever_the_inputs(seed: int, scale: float) -> None:
    x = normal(15, 4, seed=seed) @ normal(4, 4, seed=seed + 1) * 10.0**scale
    y = normal(15, 3, seed=seed + 2)
    modes = correlation_modes(x, y, count=8)
    fit = x @ torch.linalg.lstsq(x, y).solution
    torch.testing.assert_close(coefficients(modes, x, fit), modes.strengths, rtol=1e-6, atol=0)
    torch.testing.assert_close(coefficients(modes, x, y), modes.strengths, rtol=1e-9, atol=0)
    turn = torch.linalg.qr(normal(3, 3, seed=seed + 3))[0]
    turned = correlation_modes(x, y @ turn, count=8)
    torch.testing.assert_close(turned.strengths, modes.strengths, rtol=1e-7, atol=0)


def test_a_correlation_of_lower_rank_has_fewer_modes() -> None:
    x = normal(12, 6, seed=0)
    y = torch.outer(normal(12, seed=1), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    assert len(correlation_modes(x, y, count=8).strengths) == 1
    assert len(correlation_modes(x, torch.zeros(12, 3), count=8).strengths) == 0


def test_cotangents_are_derivatives_of_the_coefficients() -> None:
    x, y, f = normal(6, 4, seed=0), normal(6, 3, seed=1), normal(6, 3, seed=2)
    modes = correlation_modes(x, y, count=3)
    expected = torch.autograd.functional.jacobian(lambda z: coefficients(modes, x, z), f)
    torch.testing.assert_close(cotangents(modes, x), expected)
    assert float((cotangents(modes, x)[0] * f).sum()) == pytest.approx(
        float(coefficients(modes, x, f)[0])
    )
