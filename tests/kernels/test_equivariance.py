"""Defects under shifts, against numpy's roll and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alignlab.kernels.equivariance import SharedUnderShifts, equivariance_defect, shifted


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 99), down=st.integers(-9, 9), right=st.integers(-9, 9))
def test_the_defect_is_that_of_numpy(seed: int, down: int, right: int) -> None:
    signal, moved = doubles(3, 2, 4, 5, seed=seed), doubles(3, 2, 4, 5, seed=seed + 1)
    rolled = np.roll(signal.numpy(), (down, right), (2, 3))
    expected = np.linalg.norm(moved.numpy() - rolled) / np.linalg.norm(signal.numpy())
    found = equivariance_defect(signal, moved, (down, right))
    assert float(found) == pytest.approx(expected)
    np.testing.assert_array_equal(shifted(signal, (down, right)).numpy(), rolled)


@given(seed=st.integers(0, 99), factor=st.floats(1e-12, 1e12))
def test_neither_scale_nor_the_order_of_samples_and_channels_matters(
    seed: int, factor: float
) -> None:
    signal, moved = doubles(4, 3, 6, seed=seed), doubles(4, 3, 6, seed=seed + 1)
    plain = float(equivariance_defect(signal, moved, (2,)))
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    other = equivariance_defect(factor * signal[order], factor * moved[order], (2,))
    assert float(other) == pytest.approx(plain)


def test_signals_that_move_have_no_defect_and_share_all_their_energy() -> None:
    signal, shares = doubles(2, 3, 8), SharedUnderShifts()
    for shift in range(5):
        moved = shifted(signal, (shift,))
        assert float(equivariance_defect(signal, moved, (shift,))) == 0.0
        shares.take(moved, (shift,))
    assert float(shares.share()) == pytest.approx(1.0)


def test_unrelated_signals_share_one_over_the_number_of_shifts_and_differ_by_root_two() -> None:
    shares = SharedUnderShifts()
    signal = doubles(50, 20, 16)
    for shift in range(5):
        fresh = doubles(50, 20, 16, seed=shift + 1)
        shares.take(fresh, (shift,))
        assert float(equivariance_defect(signal, fresh, (shift,))) == pytest.approx(
            2**0.5, rel=0.02
        )
    assert float(shares.share()) == pytest.approx(0.2, rel=0.05)


def test_the_share_over_all_shifts_of_what_stays_is_that_of_its_mean() -> None:
    signal, shares = doubles(3, 2, 6), SharedUnderShifts()
    for shift in range(6):
        shares.take(signal, (shift,))
    expected = 6 * signal.mean(2).square().sum() / signal.square().sum()
    assert float(shares.share()) == pytest.approx(float(expected))


def test_a_zero_signal_has_no_defect_to_speak_of() -> None:
    nothing, shares = torch.zeros(2, 1, 4), SharedUnderShifts()
    shares.take(nothing, (0,))
    assert torch.isnan(equivariance_defect(nothing, nothing, (1,)))
    assert torch.isnan(shares.share())
