"""Arnoldi's process against dense eigenvalues and scipy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import linalg
from torch import Tensor

from alignlab.errors import InputError
from alignlab.kernels.arnoldi import Ritz, arnoldi, ritz_values


def matrix(n: int, *, seed: int) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(n, n, dtype=torch.float64, generator=stream) / n**0.5


def found(operator: Tensor, steps: int, *, seed: int = 0) -> Ritz:
    krylov = arnoldi(
        lambda v: operator @ v, size=len(operator), steps=steps, like=operator, seed=seed
    )
    return ritz_values(krylov)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 12), seed=st.integers(0, 1000))
def test_as_many_steps_as_rows_give_every_eigenvalue_and_the_numerical_range(
    n: int, seed: int
) -> None:
    operator = matrix(n, seed=seed)
    given_ = found(operator, n + 3)
    expected = np.linalg.eigvals(operator.numpy())
    expected = expected[np.lexsort((-expected.imag, -expected.real))]
    np.testing.assert_allclose(given_.values.real, expected.real, atol=1e-8)
    np.testing.assert_allclose(np.sort(given_.values.imag), np.sort(expected.imag), atol=1e-8)
    assert given_.residuals.max() < 1e-12
    extent = np.linalg.eigvalsh(((operator + operator.T) / 2).numpy())
    np.testing.assert_allclose([given_.lowest, given_.highest], extent[[0, -1]], atol=1e-10)


def test_outlying_eigenvalues_of_a_large_operator_are_scipys() -> None:
    operator = matrix(300, seed=1)
    operator += 4.0 * torch.outer(*torch.linalg.qr(matrix(300, seed=2))[0][:2])
    operator[0, 0] += 3.0
    given_ = found(operator, 60)
    expected = linalg.eigs(operator.numpy(), k=1, which="LR", return_eigenvectors=False)
    assert given_.residuals[0] < 1e-6
    assert abs(given_.values[0] - expected[0]) < 1e-6


def test_the_residual_is_that_of_the_ritz_vector_and_the_range_lies_within_the_operators() -> None:
    operator = matrix(80, seed=3)
    given_ = found(operator, 15)
    extent = np.linalg.eigvalsh(((operator + operator.T) / 2).numpy())
    assert extent[0] <= given_.lowest <= given_.values.real.min() + 1e-12
    assert given_.values.real.max() - 1e-12 <= given_.highest <= extent[-1]
    assert given_.residuals.max() > 0.1
    # A change of the operator by the residual has the Ritz value: a small singular value says so.
    for value, residual in zip(given_.values, given_.residuals, strict=True):
        shifted = operator.numpy() - value * np.eye(80)
        assert np.linalg.svd(shifted, compute_uv=False)[-1] <= residual * (1 + 1e-9) + 1e-12


def test_a_space_that_is_exhausted_is_left_for_another_one() -> None:
    operator = torch.diag(torch.tensor([2.0, 2.0, 2.0, -1.0], dtype=torch.float64))
    np.testing.assert_allclose(found(operator, 4).values.real, [2, 2, 2, -1], atol=1e-12)
    nothing = found(torch.zeros(3, 3, dtype=torch.float64), 3)
    np.testing.assert_array_equal(nothing.values, 0.0)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(-8.0, 8.0), seed=st.integers(0, 100))
def test_eigenvalues_scale_with_the_operator(scale: float, seed: int) -> None:
    operator = matrix(9, seed=seed)
    plain, scaled = found(operator, 5), found(operator * 10.0**scale, 5)
    np.testing.assert_allclose(scaled.values, plain.values * 10.0**scale, rtol=1e-6)
    np.testing.assert_allclose(scaled.residuals, plain.residuals * 10.0**scale, rtol=1e-6)


def test_no_step_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        found(torch.eye(2), 0)
