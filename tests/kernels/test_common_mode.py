"""Common mode: loops over pairs, what noise gives, and what does not change it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alignlab.kernels.common_mode import common_mode, common_mode_debiased, mean_pairwise_cosine


def pairwise_cosine(rows: Tensor) -> Tensor:
    return mean_pairwise_cosine(rows.double() @ rows.double().mT)


def debiased(rows: Tensor) -> Tensor:
    return common_mode_debiased(common_mode(rows), n_samples=rows.shape[-2])


MEASURES = (common_mode, debiased, pairwise_cosine)
SEEDS = st.integers(0, 2**31)


def rows(*shape: int, seed: int = 0, mean: float = 0.5) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=stream, dtype=torch.float64) + mean


@given(seed=SEEDS, n_samples=st.integers(2, 6), n=st.integers(1, 5))
def test_each_is_what_loops_over_samples_and_pairs_give(seed: int, n_samples: int, n: int) -> None:
    x = rows(n_samples, n, seed=seed).numpy()
    energy = np.mean([each @ each for each in x])
    pairs = [(x[i], x[j]) for i in range(n_samples) for j in range(n_samples) if i != j]
    cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in pairs]
    mean = x.mean(0)
    assert common_mode(torch.tensor(x)).item() == pytest.approx(mean @ mean / energy)
    products = np.mean([a @ b for a, b in pairs]) / energy
    assert debiased(torch.tensor(x)).item() == pytest.approx(products, abs=1e-12)
    assert pairwise_cosine(torch.tensor(x)).item() == pytest.approx(np.mean(cosines), abs=1e-12)


@given(seed=SEEDS, exponent=st.integers(-30, 30))
def test_no_scale_rotation_or_order_of_the_samples_changes_it(seed: int, exponent: int) -> None:
    x = rows(7, 4, seed=seed)
    turn, _ = torch.linalg.qr(rows(4, 4, seed=seed + 1))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    for measure in MEASURES:
        expected = measure(x).item()
        for same in (x * 10.0**exponent, x @ turn, x[order]):
            assert measure(same).item() == pytest.approx(expected, abs=1e-9)


def test_noise_without_a_mean_has_one_over_n_and_debiased_nothing() -> None:
    x = rows(4000, 8, 5, mean=0.0)
    numerator = x.mean(-2).square().sum(-1).mean() / x.square().sum(-1).mean()
    assert numerator.item() == pytest.approx(1 / 8, rel=0.03)
    assert common_mode(x).mean().item() == pytest.approx(1 / 8, rel=0.03)
    for measure in (debiased, pairwise_cosine):
        values = measure(x)
        error = values.std().item() / np.sqrt(len(values))
        assert abs(values.mean().item()) < 4.0 * error


def test_a_mean_in_noise_is_found_without_the_bias_of_few_samples() -> None:
    # Energy of the mean .25 n, of the noise n: a common mode of 0.2 at any number of samples.
    for n_samples in (4, 64):
        x = rows(300, n_samples, 400)
        assert debiased(x).mean().item() == pytest.approx(0.2, abs=0.005)
        expected = 0.2 + 0.8 / n_samples
        assert common_mode(x).mean().item() == pytest.approx(expected, abs=0.005)


def test_equal_rows_have_everything_in_common() -> None:
    for measure in MEASURES:
        assert measure(torch.ones(5, 3)).item() == pytest.approx(1.0)


def test_batches_are_measured_one_by_one() -> None:
    x = rows(3, 2, 6, 4)
    for measure in MEASURES:
        each = torch.stack([torch.stack([measure(b) for b in a]) for a in x])
        torch.testing.assert_close(measure(x), each)


def test_zero_rows_are_undefined_and_dead_samples_are_left_out_of_cosines() -> None:
    for measure in MEASURES:
        assert torch.isnan(measure(torch.zeros(4, 3)))
    x = rows(4, 3)
    x[1] = 0.0
    expected = pairwise_cosine(x[[0, 2, 3]])
    torch.testing.assert_close(pairwise_cosine(x), expected)
    assert torch.isnan(pairwise_cosine(x[:2]))
    assert torch.isnan(debiased(x[:1]))
    assert common_mode(x[:1]).item() == pytest.approx(1.0)
