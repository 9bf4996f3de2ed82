"""Effective dimensions: bounds, order, exact values and noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alignlab.kernels.ranks import (
    energies,
    entropy_rank,
    isotropic_participation_ratio,
    numerical_rank,
    participation_ratio,
    relative_energies,
    scaled_grams,
    spectral_rank,
    stable_rank,
)

SPECTRA = st.lists(st.floats(0.0, 1e6, allow_subnormal=False), min_size=1, max_size=9).filter(
    lambda values: max(values) > 1e-6
)
MEASURES = (stable_rank, participation_ratio, entropy_rank)


def rows(n_samples: int, n: int, *, seed: int = 0) -> Tensor:
    return torch.randn(n_samples, n, generator=torch.Generator().manual_seed(seed))


@given(spectrum=SPECTRA, scale=st.integers(-30, 30))
def test_ranks_are_ordered_within_their_bounds_whatever_the_scale(
    spectrum: list[float], scale: int
) -> None:
    values = torch.tensor(spectrum, dtype=torch.float64) * 10.0**scale
    found = [float(measure(values)) for measure in MEASURES]
    slack = 1e-9
    assert 1.0 - slack <= found[0] <= found[1] + slack
    assert found[1] <= found[2] + slack
    assert found[2] <= len(spectrum) + slack


@given(k=st.integers(1, 6), rest=st.integers(0, 4))
def test_equal_energies_count_as_many_dimensions(k: int, rest: int) -> None:
    spectrum = torch.cat([torch.full((k,), 0.3), torch.zeros(rest)]).double()
    for measure in MEASURES:
        assert float(measure(spectrum)) == pytest.approx(k)


def test_no_energy_has_no_rank() -> None:
    for measure in MEASURES:
        assert torch.isnan(measure(torch.zeros(3)))
    assert numerical_rank(torch.zeros(3, 2)) == 0


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (1, 3)])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e15])
def test_energies_are_squared_singular_values(
    shape: tuple[int, int], centred: bool, scale: float
) -> None:
    matrix = rows(*shape) * scale
    plain = matrix.double().numpy()
    expected = np.linalg.svd(plain - plain.mean(0) * centred, compute_uv=False) ** 2
    found = energies(matrix, centred=centred)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * expected.max() + 1e-99)


@pytest.mark.parametrize(
    ("n_samples", "n", "repeats"), [(128, 512, 1), (512, 40, 3), (8, 12, 200), (1, 9, 1), (9, 1, 1)]
)
def test_isotropic_noise_has_the_stated_participation_ratio(
    n_samples: int, n: int, repeats: int
) -> None:
    found = [
        float(participation_ratio(energies(rows(n_samples, n, seed=seed), centred=False)))
        for seed in range(repeats)
    ]
    assert np.mean(found) == pytest.approx(isotropic_participation_ratio(n_samples, n), rel=0.02)


@given(rank=st.integers(1, 5))
def test_a_product_of_thin_matrices_has_their_rank(rank: int) -> None:
    product = rows(9, rank, seed=1) @ rows(rank, 8, seed=2)
    assert float(numerical_rank(product)) == rank
    assert float(numerical_rank(product * 1e-25)) == rank


@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
def test_matrices_together_are_matrices_one_by_one(shape: tuple[int, int]) -> None:
    stacked = torch.stack([rows(*shape, seed=k) * 10.0 ** (5 * k) for k in range(3)])
    for centred in (False, True):
        found = energies(stacked, centred=centred)
        for one, matrix in zip(found, stacked, strict=True):
            alone = energies(matrix, centred=centred)
            torch.testing.assert_close(one, alone, rtol=1e-9, atol=1e-12 * float(alone[0]))
    assert numerical_rank(stacked).tolist() == [4.0, 4.0, 4.0]


def test_what_is_not_finite_has_no_rank_and_spoils_no_other() -> None:
    stacked = torch.stack([rows(4, 3), rows(4, 3, seed=1)])
    stacked[0, 1, 2] = torch.nan
    found = energies(stacked, centred=False)
    assert torch.isnan(found[0]).all()
    torch.testing.assert_close(found[1], energies(stacked[1], centred=False))
    assert torch.isnan(spectral_rank(found))[0]
    assert spectral_rank(found)[1] == 3


@given(seed=st.integers(0, 100), centred=st.booleans(), scale=st.sampled_from([1e-25, 1.0, 1e15]))
def test_effective_dimensions_follow_from_scaled_gram_matrices(
    seed: int, centred: bool, scale: float
) -> None:
    shape = (7, 4) if seed % 2 else (4, 7)
    matrix = scale * (rows(*shape, seed=seed) + 3.0)
    found = relative_energies(scaled_grams(matrix)[int(centred)])
    exact = energies(matrix, centred=centred)
    for measure in (*MEASURES, spectral_rank):
        assert float(measure(found)) == pytest.approx(float(measure(exact)))


@given(rank=st.integers(1, 6), smallest=st.floats(1e-4, 1.0))
def test_the_rank_from_energies_is_that_of_singular_values(rank: int, smallest: float) -> None:
    left = torch.linalg.qr(rows(12, rank, seed=3).double()).Q
    right = torch.linalg.qr(rows(9, rank, seed=4).double()).Q
    values = torch.linspace(1.0, smallest, rank, dtype=torch.float64)
    matrix = (left * values) @ right.T
    exact = np.linalg.svd(matrix.numpy(), compute_uv=False)
    assert int(numerical_rank(matrix)) == int((exact > 1e-5 * exact[0]).sum()) == rank
