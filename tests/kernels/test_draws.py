"""Bias, variance and cosines of random updates against closed forms and Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignlab.kernels.draws import (
    averaged_cosines,
    error_parts,
    exponent,
    fitted_dimension,
    products_of,
    rms_cosines,
    tangent_law,
)

COUNTS = (1, 2, 4, 8, 16, 32)


def normal(*shape: int, seed: int) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=stream)


def forward_gradients(count: int, n: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return draws of (g v) v, one a row, and g."""
    g, v = normal(n, seed=seed), normal(count, n, seed=seed + 10_000)
    return (v @ g)[:, None] * v, g


def parts_of(draws: Tensor, gradient: Tensor) -> np.ndarray:
    found, _ = error_parts(products_of(list(draws), gradient))
    return np.array([float(getattr(found, name)) for name in vars(found)])


def test_products_are_those_of_all_pairs_in_any_shape() -> None:
    draws, g = normal(5, 3, 4, seed=0), normal(3, 4, seed=1)
    rows = torch.cat([draws.reshape(5, -1), g.reshape(1, -1)])
    torch.testing.assert_close(products_of(list(draws), g), rows @ rows.T)


def test_the_parts_of_the_error_are_unbiased_already_for_few_draws() -> None:
    n, count = 6, 4
    g, mean = normal(n, seed=0), normal(n, seed=1)
    root = normal(n, n, seed=2)
    found = np.array(
        [parts_of(mean + normal(count, n, seed=10 + k) @ root.T, g) for k in range(4000)]
    )
    square = float(g @ g)
    variance = float((root @ root.T).trace())
    scale = float(mean @ g) / square
    expected = [
        float((mean - g).square().sum()) / square,
        float((mean - scale * g).square().sum()) / square,
        scale,
        variance / square,
    ]
    error = found[:, :4].std(0) / len(found) ** 0.5
    assert (np.abs(found[:, :4].mean(0) - expected) < 4.0 * error).all()
    # Without taking the variance off, the bias would be off by as much.
    assert variance / square / count > 20.0 * error[0]


def test_the_standard_errors_are_the_spread_over_repetitions() -> None:
    n, count = 20, 24
    found, errors = [], []
    for k in range(300):
        draws, g = forward_gradients(count, n, seed=k)
        parts, spread = error_parts(products_of(list(draws), g))
        found.append([float(getattr(parts, name)) for name in vars(parts)])
        errors.append([float(getattr(spread, name)) for name in vars(spread)])
    ratio = np.sqrt(np.square(errors).mean(0)) / np.std(found, axis=0)
    assert (ratio > 0.8).all()
    # Of pairs of draws without a mean the jackknife says up to the root of 2 too much.
    assert (ratio < 1.55).all()


def test_a_forward_gradient_is_all_variance_and_brsf_like_updates_are_not() -> None:
    draws, g = forward_gradients(32, 1000, seed=3)
    _, _, _, variance, share, _ = parts_of(draws, g)
    assert variance == pytest.approx(1001, rel=0.6)
    assert share == pytest.approx(1.0, abs=0.02)
    constant = g + normal(1000, seed=5)
    noisy = constant + 0.1 * normal(32, 1000, seed=6)
    _, best, scale, variance, share, _ = parts_of(noisy, g)
    assert best == pytest.approx(float((constant - scale * g).square().sum() / (g @ g)), rel=0.02)
    assert variance == pytest.approx(0.01 * 1000 / float(g @ g), rel=0.05)
    assert share < 0.02


@pytest.mark.parametrize(("count", "expected"), [(1, 0.0316), (10, 0.0994), (100, 0.301)])
def test_the_rms_cosine_of_averaged_tangents_is_the_golden_one(count: int, expected: float) -> None:
    draws, g = forward_gradients(400, 1000, seed=7)
    products = products_of(list(draws), g)
    assert float(rms_cosines(products, (count,))) == pytest.approx(expected, rel=0.12)
    assert float(averaged_cosines(products, (count,))) == pytest.approx(expected, rel=0.12)
    assert float(tangent_law(torch.tensor(1000.0), (count,))) == pytest.approx(expected, abs=5e-4)


def test_a_thousand_tangents_of_a_thousand_parameters_and_the_mean_of_one_are_golden() -> None:
    draws, g = forward_gradients(1000, 1000, seed=8)
    mean = draws.mean(0)
    assert float(mean @ g / (mean.norm() * g.norm())) == pytest.approx(0.707, abs=0.03)
    single = draws @ g / (draws.norm(dim=1) * g.norm())
    assert float(single.mean()) == pytest.approx(0.0252, rel=0.1)
    frame = torch.linalg.qr(normal(1000, 10, seed=9))[0]
    squares = [
        float((torch.linalg.qr(normal(1000, 10, seed=s))[0].T @ g).square().sum() / (g @ g))
        for s in range(100)
    ]
    assert np.mean(squares) ** 0.5 == pytest.approx((10 / 1000) ** 0.5, rel=0.06)
    projected = frame @ (frame.T @ g)
    assert float(projected @ g) == pytest.approx(float(projected.square().sum()))


def test_the_exponent_tells_variance_from_bias() -> None:
    draws, g = forward_gradients(32, 2000, seed=11)
    cosines = averaged_cosines(products_of(list(draws), g), COUNTS)
    assert float(exponent(COUNTS, cosines)) == pytest.approx(0.5, abs=0.03)
    assert float(fitted_dimension(COUNTS, cosines)) == pytest.approx(2000, rel=0.7)
    biased = g + 3.0 * normal(2000, seed=12) + 0.1 * normal(32, 2000, seed=13)
    flat = averaged_cosines(products_of(list(biased), g), COUNTS)
    assert float(exponent(COUNTS, flat)) == pytest.approx(0.0, abs=0.01)


def test_the_law_is_fitted_exactly_where_it_holds() -> None:
    law = tangent_law(torch.tensor([5.0, 123.0]), COUNTS)
    torch.testing.assert_close(
        fitted_dimension(COUNTS, law), torch.tensor([5.0, 123.0], dtype=torch.float64)
    )


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 8), seed=st.integers(0, 500), power=st.integers(-12, 12))
def test_all_are_invariant_to_scale_rotation_and_order(n: int, seed: int, power: int) -> None:
    draws, g = normal(6, n, seed=seed), normal(n, seed=seed + 1000)
    plain = products_of(list(draws), g)
    turn = torch.linalg.qr(normal(n, n, seed=seed + 2000))[0]
    other = products_of(list((draws @ turn).flip(0) * 10.0**power), (g @ turn) * 10.0**power)
    for first, second in zip(
        vars(error_parts(plain)[0]).values(),
        parts_of((draws @ turn).flip(0) * 10.0**power, (g @ turn) * 10.0**power),
        strict=True,
    ):
        assert second == pytest.approx(float(first), rel=1e-6, abs=1e-8)
    torch.testing.assert_close(
        averaged_cosines(other, (1, 2, 6)), averaged_cosines(plain, (1, 2, 6)), equal_nan=True
    )
    whole = rms_cosines(plain, (1, 6))
    torch.testing.assert_close(rms_cosines(other, (1, 6)), whole)
    cosines = draws @ g / (draws.norm(dim=1) * g.norm())
    assert float(whole[0]) == pytest.approx(float(cosines.square().mean().sqrt()))


def test_batches_of_products_are_handled_at_once() -> None:
    one = products_of(list(normal(5, 7, seed=0)), normal(7, seed=1))
    two = products_of(list(normal(5, 7, seed=2)), normal(7, seed=3))
    both = torch.stack([one, two])
    for function in (averaged_cosines, rms_cosines):
        torch.testing.assert_close(
            function(both, (1, 3)), torch.stack([function(one, (1, 3)), function(two, (1, 3))])
        )
    found, errors = error_parts(both)
    assert found.bias.shape == errors.bias.shape == (2,)
    assert float(found.bias[1]) == float(error_parts(two)[0].bias)


def test_what_is_not_defined_is_nan() -> None:
    zero = products_of(list(normal(4, 3, seed=0)), torch.zeros(3))
    assert all(np.isnan(parts_of(normal(4, 3, seed=0), torch.zeros(3))))
    assert torch.isnan(averaged_cosines(zero, (1,))).all()
    assert torch.isnan(rms_cosines(zero, (1,))).all()
    few = products_of([normal(3, seed=1)], normal(3, seed=2))
    assert torch.isnan(error_parts(few)[0].variance)
    pair = products_of(list(normal(2, 3, seed=1)), normal(3, seed=2))
    assert torch.isfinite(error_parts(pair)[0].variance)
    assert torch.isnan(error_parts(pair)[1].variance)
    assert torch.isnan(averaged_cosines(pair, (4,))).all()
    assert torch.isnan(rms_cosines(pair, (4,))).all()
    nothing = torch.tensor([0.1, -0.2])
    assert torch.isnan(exponent((1, 2), nothing))
    assert torch.isnan(fitted_dimension((1, 2), nothing))
    assert torch.isnan(exponent((1, 2), torch.tensor([0.1, torch.nan])))
