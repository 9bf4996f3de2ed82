"""Turned products: exact spread, the law of draws, and what does not change them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from alignlab.kernels.rotation import LARGEST_TURNED, rotation_sd, turned_products


def matrices(n: int, m: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    draw = torch.randn(2, n, m, generator=stream, dtype=torch.float64)
    return draw[0], draw[1]


def turned(a: Tensor, b: Tensor, count: int, *, seed: int = 1) -> np.ndarray:
    stream = torch.Generator().manual_seed(seed)
    return turned_products(a, b, count=count, stream=stream).numpy()


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (2, 3), (4, 1), (16, 40), (40, 3)])
def test_the_standard_deviation_is_that_of_haar_rotations(n: int, m: int) -> None:
    a, b = matrices(n, m)
    rotations = (
        np.atleast_3d(stats.ortho_group.rvs(n, size=4000, random_state=0))
        if n > 1
        else (np.random.default_rng(0).choice([-1.0, 1.0], size=(4000, 1, 1)))
    )
    products = np.einsum("kij,jm,im->k", rotations, a.numpy(), b.numpy())
    assert rotation_sd(a, b).item() == pytest.approx(np.sqrt((products**2).mean()), rel=0.06)
    draws = turned(a, b, 4000)
    assert draws.mean() == pytest.approx(0.0, abs=5 * draws.std() / 4000**0.5)
    assert draws.std() == pytest.approx(products.std(), rel=0.06)


@pytest.mark.parametrize("n", [2, 4, 16, LARGEST_TURNED, LARGEST_TURNED + 1, 100])
def test_draws_of_rank_one_have_the_law_of_one_entry_of_a_rotation(n: int) -> None:
    a = torch.zeros(n, 1, dtype=torch.float64)
    a[0] = 1.0
    entry = stats.beta(0.5, (n - 1) / 2)
    draws = turned(a, a, 2000)
    if n <= LARGEST_TURNED:
        assert stats.kstest(draws**2, entry.cdf).pvalue > 1e-3
    inside = np.abs(draws) <= 1.96 / n**0.5
    true = float(entry.cdf(min(1.0, 1.96**2 / n)))
    assert inside.mean() == pytest.approx(true, abs=0.02)


@given(seed=st.integers(0, 20), scale=st.floats(0.01, 100.0))
def test_scales_factor_out_and_rotations_of_both_change_nothing(seed: int, scale: float) -> None:
    a, b = matrices(5, 3, seed=seed)
    plain = rotation_sd(a, b).item()
    assert rotation_sd(a * scale, b).item() == pytest.approx(scale * plain)
    rows, columns = (torch.linalg.qr(matrices(n, n, seed=seed + n)[0])[0] for n in (5, 3))
    assert rotation_sd(rows @ a, b).item() == pytest.approx(plain)
    assert rotation_sd(a @ columns, b @ columns).item() == pytest.approx(plain)
    wider = [torch.cat([each, torch.zeros(5, 9)], 1) for each in (a, b)]
    assert rotation_sd(*wider).item() == pytest.approx(plain)


def test_stacks_are_turned_by_the_same_rotations() -> None:
    a, b = matrices(4, 3)
    stacked = turned_products(
        torch.stack([a, 2 * a]),
        torch.stack([b, b]),
        count=6,
        stream=torch.Generator().manual_seed(3),
    )
    assert stacked.shape == (2, 6)
    torch.testing.assert_close(stacked[1], 2 * stacked[0])
    torch.testing.assert_close(stacked[0], torch.as_tensor(turned(a, b, 6, seed=3)))


def test_zero_has_no_spread() -> None:
    _, b = matrices(4, 3)
    assert rotation_sd(torch.zeros(4, 3), b).item() == 0.0
