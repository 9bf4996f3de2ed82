"""Ridge regression from inner products, against scikit-learn's and explicit hat matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import Tensor

from alignlab.kernels.recalibration import PENALTIES, inner_products, recalibrated


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def scaled(rows: Tensor) -> np.ndarray:
    array = rows.numpy()
    return array / np.sqrt((array**2).sum(1).mean())


def by_ridge(features: np.ndarray, targets: np.ndarray, *, split: int) -> float:
    """Return the share by scikit-learn, its penalty chosen by written-out cross-validation."""
    found = []
    fold = np.arange(len(features)) < split
    for train, test in ((fold, ~fold), (~fold, fold)):
        x, y = features[train], targets[train]
        products, n = x @ x.T, len(x)
        errors = {}
        for penalty in PENALTIES:
            alpha = penalty * np.trace(products) / n
            kept = np.eye(n) - products @ np.linalg.inv(products + alpha * np.eye(n))
            errors[alpha] = ((kept @ y) ** 2).sum() / np.trace(kept) ** 2
        best = min(errors, key=errors.__getitem__)
        model = Ridge(alpha=best, fit_intercept=False, solver="svd").fit(x, y)
        rest = targets[test] - model.predict(features[test])
        found.append(1.0 - (rest**2).sum() / (targets[test] ** 2).sum())
    return float(np.mean(found))


@given(seed=st.integers(0, 300), n=st.sampled_from([3, 8, 40]))
def test_the_share_is_that_of_ridge_regression(seed: int, n: int) -> None:
    features = doubles(24, n, seed=seed)
    targets = features @ doubles(n, 5, seed=seed + 1) + 2.0 * doubles(24, 5, seed=seed + 2)
    found = recalibrated(inner_products(features), inner_products(targets), split=10)
    expected = by_ridge(scaled(features), scaled(targets), split=10)
    assert float(found) == pytest.approx(expected, abs=1e-7)


@given(seed=st.integers(0, 100))
def test_scales_rotations_and_the_order_of_samples_change_nothing(seed: int) -> None:
    features, targets = doubles(20, 4, seed=seed), doubles(20, 6, seed=seed + 1)
    plain = recalibrated(inner_products(features), inner_products(targets), split=10)
    turn = torch.linalg.qr(doubles(4, 4, seed=seed + 2)).Q
    turned = inner_products(1e-20 * features @ turn), inner_products(1e18 * targets)
    torch.testing.assert_close(recalibrated(*turned, split=10), plain, rtol=1e-6, atol=1e-9)
    stream = torch.Generator().manual_seed(seed)
    first, second = (torch.randperm(10, generator=stream) for _ in range(2))
    order = torch.cat([10 + first, second])
    mixed = inner_products(features[order]), inner_products(targets[order])
    torch.testing.assert_close(recalibrated(*mixed, split=10), plain, rtol=1e-6, atol=1e-9)


def test_a_scrambled_signal_is_had_back_and_an_unrelated_one_is_not() -> None:
    signal = doubles(200, 12)
    scrambled = inner_products(signal @ doubles(12, 12, seed=1))
    assert float(recalibrated(scrambled, inner_products(signal), split=100)) > 0.999
    unrelated = [
        float(
            recalibrated(
                inner_products(doubles(200, 12, seed=2 * k + 10)),
                inner_products(doubles(200, 5, seed=2 * k + 11)),
                split=100,
            )
        )
        for k in range(50)
    ]
    assert -0.03 < np.mean(unrelated) < 0.005


def test_layers_and_permutations_broadcast() -> None:
    features = torch.stack([inner_products(doubles(16, 3, seed=k)) for k in range(4)])
    targets = torch.stack([inner_products(doubles(16, 5, seed=10 + k)) for k in range(3)])
    found = recalibrated(features.unsqueeze(1), targets, split=8)
    assert found.shape == (4, 3)
    torch.testing.assert_close(found[2, 1], recalibrated(features[2], targets[1], split=8))


def test_nothing_to_fit_is_undefined() -> None:
    features, targets = inner_products(doubles(10, 3)), inner_products(doubles(10, 4, seed=1))
    zero = inner_products(torch.zeros(10, 3))
    assert torch.isnan(recalibrated(zero, targets, split=5))
    assert torch.isnan(recalibrated(features, zero, split=5))
    assert torch.isnan(recalibrated(features, targets, split=0))
