"""Sizes of energy maps against closed forms, and what they must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignlab.kernels.receptive_field import effective_positions, relative_radius


@given(seed=st.integers(0, 99), factor=st.floats(1e-12, 1e12))
def test_neither_size_knows_the_scale_and_both_are_those_of_numpy(seed: int, factor: float) -> None:
    stream = torch.Generator().manual_seed(seed)
    energy = torch.rand(3, 20, generator=stream, dtype=torch.float64)
    found = effective_positions(factor * energy)
    shares = (energy / energy.sum(1, keepdim=True)).numpy()
    np.testing.assert_allclose(found, 1.0 / (shares**2).sum(1))
    order = torch.randperm(20, generator=stream)
    torch.testing.assert_close(effective_positions(energy[:, order]), found)
    rows, columns = np.indices((4, 5))
    variance = sum(
        (shares * axis.ravel() ** 2).sum(1) - (shares * axis.ravel()).sum(1) ** 2
        for axis in (rows, columns)
    )
    expected = np.sqrt(variance / ((16 - 1 + 25 - 1) / 12))
    np.testing.assert_allclose(relative_radius(factor * energy, (4, 5)), expected)
    turned = energy.reshape(3, 4, 5).mT.flatten(1)
    np.testing.assert_allclose(relative_radius(turned, (5, 4)), expected)


@pytest.mark.parametrize("channels", [1, 4, 16])
def test_normal_noise_carries_its_energy_in_k_over_k_plus_two_of_all_positions(
    channels: int,
) -> None:
    stream = torch.Generator().manual_seed(0)
    energy = torch.randn(400, 1024, channels, generator=stream).square().sum(2)
    found = effective_positions(energy).mean() / 1024
    assert float(found) == pytest.approx(channels / (channels + 2), rel=0.01)
    assert float(relative_radius(energy, (32, 32)).mean()) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("sd", [1.0, 2.5])
def test_a_gaussian_spot_has_its_own_area_and_radius(sd: float) -> None:
    place = torch.arange(41).double() - 20
    line = torch.exp(-place.square() / (2 * sd**2))
    spot = (line[:, None] * line).flatten()
    assert float(effective_positions(spot)) == pytest.approx(4 * np.pi * sd**2, rel=1e-3)
    expected = sd * 2**0.5 / ((2 * 41**2 - 2) / 12) ** 0.5
    assert float(relative_radius(spot, (41, 41))) == pytest.approx(expected, rel=1e-3)


def test_extremes_and_nothing() -> None:
    one = torch.zeros(3, 12)
    one[0, 5], one[1] = 2.0, 3.0
    assert effective_positions(one)[:2].tolist() == pytest.approx([1.0, 12.0])
    assert relative_radius(one, (3, 4))[:2].tolist() == pytest.approx([0.0, 1.0])
    assert torch.isnan(effective_positions(one)[2])
    assert torch.isnan(relative_radius(one, (3, 4))[2])
    assert torch.isnan(relative_radius(torch.ones(1), (1, 1)))
