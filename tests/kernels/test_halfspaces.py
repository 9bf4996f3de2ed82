"""Shares of positive values against orthant probabilities and direct draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignlab.kernels.halfspaces import positive_share_sd, positive_shares


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def covariance(n: int, rank: int, *, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(n, rank, generator=stream(seed), dtype=torch.float64)
    return rows @ rows.T


@pytest.mark.parametrize("correlation", [-0.9, 0.0, 0.5, 0.99])
def test_two_values_are_both_positive_as_often_as_sheppard_says(correlation: float) -> None:
    matrix = torch.tensor([[1.0, correlation], [correlation, 1.0]], dtype=torch.float64)
    drawn = positive_shares(9.0 * matrix, count=20_000, stream=stream())
    both = (drawn == 1.0).double().mean().item()
    expected = 0.25 + np.arcsin(correlation) / (2 * np.pi)
    assert both == pytest.approx(expected, abs=4 * (expected / 20_000) ** 0.5)


@pytest.mark.parametrize(("n", "rank"), [(5, 5), (40, 3), (40, 1), (7, 20)])
def test_draws_have_mean_one_half_and_the_stated_deviation(n: int, rank: int) -> None:
    matrix = covariance(n, rank)
    drawn = positive_shares(matrix, count=20_000, stream=stream(1))
    sd = positive_share_sd(matrix).item()
    assert drawn.mean().item() == pytest.approx(0.5, abs=4 * sd / 20_000**0.5)
    assert drawn.std().item() == pytest.approx(sd, rel=0.03)


def test_the_shares_are_those_of_products_with_random_feedback() -> None:
    n_samples, n, n_errors = 12, 6, 4
    rows = torch.randn(n_samples, n, generator=stream(2), dtype=torch.float64)
    errors = torch.randn(n_samples, n_errors, generator=stream(3), dtype=torch.float64)
    feedback = torch.randn(20_000, n, n_errors, generator=stream(4), dtype=torch.float64)
    products = torch.einsum("in,dnc,ic->di", rows, feedback, errors)
    direct = (products > 0).double().mean(1).sort().values
    matrix = (rows @ rows.T) * (errors @ errors.T)
    drawn = positive_shares(matrix, count=20_000, stream=stream(5)).sort().values
    grid = torch.linspace(0, 1, n_samples + 1)[:-1] + 0.5 / n_samples
    below = [(each.unsqueeze(0) <= grid.unsqueeze(1)).double().mean(1) for each in (direct, drawn)]
    assert (below[0] - below[1]).abs().max() < 0.02  # two samples of 20,000: 0.001 exceeds it


@given(st.integers(0, 1000), st.floats(1e-12, 1e12), st.permutations(range(6)))
def test_neither_scale_nor_order_matters(seed: int, scale: float, order: list[int]) -> None:
    matrix = covariance(6, 3, seed=seed)
    sd = positive_share_sd(matrix).item()
    assert positive_share_sd(scale * matrix).item() == pytest.approx(sd)
    assert positive_share_sd(matrix[order][:, order]).item() == pytest.approx(sd)
    assert 0.0 <= sd <= 0.5


def test_values_that_do_not_vary_are_left_out() -> None:
    matrix = torch.zeros(5, 5, dtype=torch.float64)
    matrix[:3, :3] = covariance(3, 3)
    alone = positive_shares(matrix[:3, :3], count=50, stream=stream())
    assert positive_share_sd(matrix).item() == positive_share_sd(matrix[:3, :3]).item()
    assert set(positive_shares(matrix, count=50, stream=stream()).tolist()) <= {0, 1 / 3, 2 / 3, 1}
    assert set(alone.tolist()) <= {0, 1 / 3, 2 / 3, 1}
    assert torch.isnan(positive_shares(0.0 * matrix, count=2, stream=stream())).all()
    assert torch.isnan(positive_share_sd(0.0 * matrix))


def test_values_that_go_together_are_never_apart() -> None:
    signs = torch.tensor([1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    sizes = torch.tensor([1e-9, 1.0, 3.0, 1e6], dtype=torch.float64)
    matrix = torch.outer(signs * sizes, signs * sizes)
    assert set(positive_shares(matrix, count=500, stream=stream()).tolist()) == {0.25, 0.75}


def test_values_of_any_size_are_counted_and_overflown_ones_left_out() -> None:
    small = torch.tensor([1.0, 1e-130, 0.0, 1e-64], dtype=torch.float64)
    stream = torch.Generator().manual_seed(0)
    alike = positive_shares(torch.outer(small, small), count=50, stream=stream)
    assert set(alike.tolist()) == {0.0, 1.0}
    broken = torch.eye(3, dtype=torch.float64)
    broken[0, 0] = broken[0, 1] = torch.inf
    shares = positive_shares(broken, count=50, stream=stream)
    assert set(shares.tolist()) <= {0.0, 0.5, 1.0}
