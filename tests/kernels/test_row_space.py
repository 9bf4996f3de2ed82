"""What Gram matrices tell of Jacobians, against singular values and pseudo-inverses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alignlab.kernels.row_space import (
    conditioning,
    inverse,
    rank,
    rank_one_cosine_bound,
    row_space_share,
    singular_values,
)

shapes = st.tuples(st.integers(1, 5), st.integers(1, 9))


def jacobian(shape: tuple[int, ...], *, seed: int = 0, rank: int | None = None) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    if rank is None:
        return torch.randn(*shape, dtype=torch.float64, generator=stream)
    left = torch.randn(*shape[:-1], rank, dtype=torch.float64, generator=stream)
    return left @ torch.randn(*shape[:-2], rank, shape[-1], dtype=torch.float64, generator=stream)


@given(shape=shapes, seed=st.integers(0, 1000), power=st.integers(-12, 12))
def test_singular_values_are_numpys_whatever_the_scale(
    shape: tuple[int, int], seed: int, power: int
) -> None:
    matrix = jacobian(shape, seed=seed) * 10.0**power
    found = singular_values(matrix @ matrix.T)
    expected = np.linalg.svd(matrix.numpy(), compute_uv=False)
    kept = min(shape)
    np.testing.assert_allclose(found[:kept], expected, rtol=1e-6, atol=1e-7 * expected[0])
    assert float(rank(found)) == np.linalg.matrix_rank(matrix.numpy(), tol=1e-5 * expected[0])
    if expected[-1] > 1e-4 * expected[0]:
        assert float(conditioning(found, shape[1])) == pytest.approx(
            expected[0] / expected[-1], rel=1e-4
        )


@given(shape=shapes, seed=st.integers(0, 1000))
def test_the_inverse_gives_numpys_pseudo_inverse(shape: tuple[int, int], seed: int) -> None:
    matrix = jacobian(shape, seed=seed)
    found = matrix.T @ inverse(matrix @ matrix.T)
    expected = np.linalg.pinv(matrix.numpy(), rcond=1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


@given(
    shape=shapes, seed=st.integers(0, 1000), power=st.integers(-12, 12), factor=st.floats(0.1, 9)
)
def test_the_share_is_that_of_the_projection_on_the_rows(
    shape: tuple[int, int], seed: int, power: int, factor: float
) -> None:
    matrix = jacobian(shape, seed=seed) * 10.0**power
    signal = jacobian((shape[1],), seed=seed + 1) * factor
    inverted = inverse(matrix @ matrix.T)
    found = row_space_share(inverted, matrix @ signal, signal.square().sum())
    _, values, right = np.linalg.svd(matrix.numpy(), full_matrices=False)
    basis = right[values > 1e-5 * values[0]]
    inside = np.linalg.norm(basis @ signal.numpy()) ** 2 / np.linalg.norm(signal.numpy()) ** 2
    assert float(found) == pytest.approx(inside, rel=1e-5, abs=1e-9)
    assert 0.0 <= float(found) <= 1.0


@pytest.mark.parametrize(("n_errors", "width", "rows"), [(3, 40, 3), (5, 8, 2), (6, 4, 4)])
def test_an_isotropic_signal_has_the_rank_over_the_width_inside_on_average(
    n_errors: int, width: int, rows: int
) -> None:
    matrix = jacobian((n_errors, width), rank=rows)
    signals = torch.randn(4000, width, generator=torch.Generator().manual_seed(1)).double()
    inverted = inverse(matrix @ matrix.T).expand(4000, -1, -1)
    shares = row_space_share(inverted, signals @ matrix.T, signals.square().sum(1))
    tolerance = 4.0 * float(shares.std()) / 4000**0.5 + 1e-6
    assert float(shares.mean()) == pytest.approx(rows / width, abs=tolerance)


def test_a_rank_deficient_jacobian_is_infinitely_ill_conditioned_unless_the_layer_is_narrow() -> (
    None
):
    deficient = jacobian((4, 9), rank=2)
    values = singular_values(deficient @ deficient.T)
    assert float(rank(values)) == 2.0
    assert torch.isinf(conditioning(values, 9))
    narrow = jacobian((4, 2))
    values = singular_values(narrow @ narrow.T)
    assert float(conditioning(values, 2)) == pytest.approx(np.linalg.cond(narrow.numpy()), rel=1e-6)


def test_nothing_is_undefined_and_never_a_number() -> None:
    values = singular_values(torch.zeros(2, 3, 3))
    assert rank(values).tolist() == [0.0, 0.0]
    assert torch.isnan(conditioning(values, 5)).all()
    assert torch.isnan(rank_one_cosine_bound(values, 5)).all()
    assert (inverse(torch.zeros(3, 3)) == 0).all()
    broken = torch.full((3, 3), torch.nan)
    assert torch.isnan(singular_values(broken)).all()
    assert torch.isnan(inverse(broken)).all()
    assert torch.isnan(rank(singular_values(broken)))
    nothing = row_space_share(torch.eye(2), torch.zeros(2), torch.tensor(0.0))
    assert torch.isnan(nothing)
    outside = row_space_share(inverse(torch.zeros(2, 2)), torch.zeros(2), torch.tensor(3.0))
    assert float(outside) == 0.0


@pytest.mark.parametrize(("n_errors", "width"), [(1, 4), (3, 30), (10, 100)])
def test_a_rank_one_estimate_has_the_stated_mean_square_and_bound(
    n_errors: int, width: int
) -> None:
    matrix = jacobian((n_errors, width))
    u = torch.randn(20_000, width, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    images = u @ matrix.T
    # The cosine itself, from the estimate written out for a few directions.
    estimate = torch.einsum("kc,kn->kcn", images[:50], u[:50])
    cosines = images.norm(dim=1) / u.norm(dim=1) / matrix.norm()
    written = (estimate * matrix).sum((1, 2)) / estimate.flatten(1).norm(dim=1) / matrix.norm()
    torch.testing.assert_close(written, cosines[:50])
    assert float(cosines.square().mean()) == pytest.approx(1.0 / width, rel=0.05)
    bound = float(rank_one_cosine_bound(singular_values(matrix @ matrix.T), width))
    assert bound <= float(cosines.mean())
    if n_errors == 1:
        # A single output has the bound's own direction alone, up to its rounding of the gammas.
        assert bound == pytest.approx(float(cosines.mean()), rel=0.1)
