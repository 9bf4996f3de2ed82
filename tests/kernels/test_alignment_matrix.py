"""Conditioning and sign of alignment matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alignlab.kernels.alignment_matrix import (
    condition_number,
    cosine_with_identity,
    restricted,
    symmetric_minimum,
)


def matrix(n: int, *, seed: int = 0) -> Tensor:
    return torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(n=st.integers(1, 6), seed=st.integers(0, 1000), power=st.integers(-25, 25))
def test_conditioning_is_numpys_whatever_the_scale(n: int, seed: int, power: int) -> None:
    plain = matrix(n, seed=seed)
    scaled = plain * 10.0**power
    assert float(condition_number(scaled)) == pytest.approx(np.linalg.cond(plain.numpy()))
    assert -1.0 <= float(cosine_with_identity(scaled)) <= 1.0
    assert float(cosine_with_identity(-scaled)) == -float(cosine_with_identity(scaled))
    symmetric = (plain + plain.T).numpy() / 2
    lowest = np.linalg.eigvalsh(symmetric)[0] / np.linalg.norm(plain.numpy(), 2)
    assert float(symmetric_minimum(scaled)) == pytest.approx(lowest, abs=1e-12)


def test_a_singular_matrix_has_an_infinite_condition_number() -> None:
    flat = torch.ones(3, 3)
    assert torch.isinf(condition_number(flat))
    assert torch.isfinite(condition_number(restricted(flat, torch.ones(3, 1) / 3**0.5)))


@given(k=st.floats(1.0, 1e6))
def test_two_eigenvalues_give_the_stated_cosine(k: float) -> None:
    found = cosine_with_identity(torch.diag(torch.tensor([1.0, k], dtype=torch.float64)))
    assert float(found) == pytest.approx((1 + k) / (2 * (1 + k**2)) ** 0.5)


def test_conditioning_does_not_tell_the_sign_but_the_cosine_and_the_symmetric_part_do() -> None:
    turned = -torch.eye(3)
    assert float(condition_number(turned)) == 1.0
    assert float(cosine_with_identity(turned)) == -1.0
    assert float(symmetric_minimum(turned)) == -1.0


def test_a_rank_one_matrix_has_one_over_the_root_of_its_size() -> None:
    vector = torch.tensor([0.6, 0.8, 0.0, 0.0])
    assert float(cosine_with_identity(torch.outer(vector, vector))) == pytest.approx(0.5)


def test_restriction_reads_a_matrix_on_a_subspace() -> None:
    whole = torch.block_diag(matrix(2), matrix(3, seed=1))
    basis = torch.eye(5, dtype=torch.float64)[:, 2:]
    torch.testing.assert_close(restricted(whole, basis), matrix(3, seed=1))
