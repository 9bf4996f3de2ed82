"""Tied least squares against numpy's, with every tie written out as a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignlab.kernels.regression import explained_held_out, explained_in_sample
from alignlab.kernels.structured_regression import explained_by_region, regions_of


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_numpy(
    errors: np.ndarray,
    targets: np.ndarray,
    regions: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
) -> float:
    """Return the share that is explained, channel by channel and region by region."""
    missed = 0.0
    for channel in range(targets.shape[1]):
        for region in regions.T:
            inside = np.flatnonzero(region)
            rows = np.repeat(errors[train], len(inside), 0)
            aims = targets[train][:, channel, inside].ravel()
            weights = np.linalg.lstsq(rows, aims)[0]
            fitted = (errors[test] @ weights)[:, None]
            missed += ((targets[test][:, channel, inside] - fitted) ** 2).sum()
    return float(1.0 - missed / (targets[test] ** 2).sum())


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), per_axis=st.integers(1, 3))
def test_the_shares_are_those_of_least_squares_on_tied_rows(seed: int, per_axis: int) -> None:
    errors, targets = doubles(24, 3, seed=seed), doubles(24, 2, 12, seed=seed + 1)
    regions = regions_of((4, 3), per_axis=per_axis)
    fold = torch.arange(24) % 2 == 0
    inside, outside = explained_by_region(errors, targets, regions, fold=fold)
    arrays = errors.numpy(), targets.numpy(), regions.numpy()
    every = np.ones(24, dtype=bool)
    assert float(inside) == pytest.approx(by_numpy(*arrays, every, every), abs=1e-9)
    half = fold.numpy()
    expected = np.mean([by_numpy(*arrays, half, ~half), by_numpy(*arrays, ~half, half)])
    assert float(outside) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_regions_of_one_position_are_plain_least_squares(weighted: bool) -> None:
    errors, targets = doubles(60, 3), doubles(60, 2, 5, seed=1)
    gains = (doubles(60, 2, 5, seed=2) > 0).double() * doubles(1, 2, 5, seed=3).square()
    given_gains = gains if weighted else None
    flat = None if given_gains is None else gains.flatten(1)
    fold = torch.arange(60) < 30
    inside, outside = explained_by_region(
        errors, targets, torch.eye(5), fold=fold, gains=given_gains
    )
    plain = explained_in_sample(errors, targets.flatten(1), gains=flat)
    assert float(inside) == pytest.approx(float(plain), abs=1e-9)
    held_out = explained_held_out(errors, targets.flatten(1), fold, gains=flat)
    assert float(outside) == pytest.approx(float(held_out), abs=3e-3 if weighted else 1e-9)


def test_a_signal_that_is_the_same_everywhere_needs_one_value_a_channel() -> None:
    errors = doubles(40, 3)
    constant = torch.einsum("ic,ck->ik", errors, doubles(3, 4, seed=1)).unsqueeze(2)
    fold = torch.arange(40) < 20
    everywhere = regions_of((3, 3), per_axis=1)
    both = explained_by_region(errors, constant.expand(-1, -1, 9), everywhere, fold=fold)
    assert [float(each) for each in both] == pytest.approx([1.0, 1.0])
    alternating = constant * torch.tensor([1.0, -1.0, 0.0] * 3, dtype=torch.float64)
    none = explained_by_region(errors, alternating, everywhere, fold=fold)
    assert [float(each) for each in none] == pytest.approx([0.0, 0.0], abs=1e-12)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), factor=st.floats(1e-6, 1e6))
def test_shares_know_neither_scale_nor_basis_of_the_errors(seed: int, factor: float) -> None:
    errors, targets = doubles(30, 3, seed=seed), doubles(30, 2, 4, seed=seed + 1)
    turn = torch.linalg.qr(doubles(3, 3, seed=seed + 2)).Q
    fold, regions = torch.arange(30) < 15, regions_of((4,), per_axis=2)
    plain = explained_by_region(errors, targets, regions, fold=fold)
    other = explained_by_region(factor * errors @ turn, 3.0 * targets, regions, fold=fold)
    for first, second in zip(plain, other, strict=True):
        assert float(second) == pytest.approx(float(first), abs=1e-9)


def test_nothing_to_explain_is_undefined() -> None:
    fold = torch.arange(10) < 5
    both = explained_by_region(doubles(10, 2), torch.zeros(10, 2, 3), torch.ones(3, 1), fold=fold)
    assert all(torch.isnan(each) for each in both)


def test_regions_cut_every_axis_into_equal_parts() -> None:
    regions = regions_of((4, 6), per_axis=2)
    assert regions.shape == (24, 4)
    assert regions.sum(0).tolist() == [6.0] * 4
    assert regions.reshape(4, 6, 4)[1, 2].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert regions.reshape(4, 6, 4)[2, 3].tolist() == [0.0, 0.0, 0.0, 1.0]
    assert regions_of((1, 3), per_axis=2).shape == (3, 2)
