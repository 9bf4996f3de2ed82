"""Similarity of representations: other people's formulas, pure noise, permutations."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from alignlab.kernels.cosines import cosine
from alignlab.kernels.similarity import (
    centred_gram,
    debiased_gram,
    debiased_similarity,
    dissimilarity_ranks,
    permutation_sd,
    permuted,
    sample_products,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=stream, dtype=torch.float64)


def debiased(x: Tensor) -> Tensor:
    return debiased_gram(sample_products(x)[0])


def ranks_of(x: Tensor) -> Tensor:
    return dissimilarity_ranks(*sample_products(x), n_units=x.shape[-1])


def similarity(x: Tensor, y: Tensor) -> Tensor:
    return debiased_similarity(debiased(x), debiased(y))


def unbiased_hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Return the estimate of Song et al. 2012, equation by equation."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    trace = np.trace(k @ m)
    means = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return float((trace + means - 2.0 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3)))


def biased(x: Tensor, y: Tensor) -> float:
    """Return plain linear CKA by cross-covariances."""
    x, y = x - x.mean(0), y - y.mean(0)
    energies = torch.linalg.norm(x @ x.T) * torch.linalg.norm(y @ y.T)
    return float((x.T @ y).square().sum() / energies)


@pytest.mark.parametrize("shape", [(4, 3, 2), (9, 5, 12), (30, 7, 7)])
def test_it_is_the_ratio_of_unbiased_independence_criteria(shape: tuple[int, int, int]) -> None:
    n_samples, n, other = shape
    x = noise(n_samples, n) + 1.5
    y = torch.tanh(x @ noise(n, other, seed=1)) + 0.5 * noise(n_samples, other, seed=2)
    k, m = (x @ x.T).numpy(), (y @ y.T).numpy()
    expected = unbiased_hsic(k, m) / np.sqrt(unbiased_hsic(k, k) * unbiased_hsic(m, m))
    assert similarity(x, y).item() == pytest.approx(expected, abs=1e-12)
    product = (debiased(x) * debiased(x)).sum()
    scale = (x - x.mean(0)).square().sum(1).mean() ** 2
    found = float(product * scale / (n_samples * (n_samples - 3)))
    assert found == pytest.approx(unbiased_hsic(k, k))


def test_the_centred_gram_is_that_of_centred_samples() -> None:
    x = noise(7, 4) + 3.0
    centred = x - x.mean(0)
    expected = centred @ centred.T / centred.square().sum(1).mean()
    torch.testing.assert_close(centred_gram(sample_products(x)[0]), expected)


def test_rows_of_a_debiased_gram_add_up_to_zero() -> None:
    gram = debiased(noise(3, 8, 5) + 2.0)
    assert gram.sum(-1).abs().max() < 1e-12
    assert torch.diagonal(gram, dim1=-2, dim2=-1).abs().max() == 0.0
    torch.testing.assert_close(gram, gram.mT)


@given(seed=st.integers(0, 2**31), exponent=st.integers(-30, 30))
@settings(deadline=None)
def test_no_rotation_scale_shift_or_common_order_changes_it(seed: int, exponent: int) -> None:
    x, y = noise(8, 5, seed=seed), noise(8, 3, seed=seed + 1)
    turn, _ = torch.linalg.qr(noise(5, 5, seed=seed + 2))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    expected = similarity(x, y).item()
    for same in ((x @ turn, y), (10.0**exponent * x, -y), (x + 7.0, y - 3.0), (x[order], y[order])):
        assert similarity(*same).item() == pytest.approx(expected, abs=1e-9)
    assert similarity(x, x @ turn).item() == pytest.approx(1.0)
    assert similarity(y, x).item() == pytest.approx(expected)
    assert -1.0 <= expected <= 1.0


def test_noise_is_unlike_noise_where_plain_cka_calls_it_alike() -> None:
    # Plain CKA of unrelated noise goes to one with the number of units; the debiased one does not.
    for n, plain in ((256, 0.50), (4096, 0.94)):
        x, y = noise(256, n), noise(256, n, seed=1)
        assert biased(x, y) == pytest.approx(plain, abs=0.005)
        assert biased(x, y) == pytest.approx(n / (n + 256), abs=0.01)
        assert abs(similarity(x, y).item()) < 4.0 * permutation_sd(256)


def test_what_two_representations_share_is_found_at_any_width() -> None:
    # y = x and as much noise: products of unlike samples correlate by one half in expectation.
    for n_samples in (32, 200):
        found = [
            similarity(x, x + noise(n_samples, 2000, seed=k + 100)).item()
            for k in range(6)
            for x in [noise(n_samples, 2000, seed=k)]
        ]
        assert np.mean(found) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("n_samples", [4, 5, 6])
def test_over_all_permutations_it_has_mean_zero_and_the_stated_sd(n_samples: int) -> None:
    first, second = (debiased(noise(n_samples, 3, seed=k) + 0.4) for k in range(2))
    found = torch.stack(
        [
            debiased_similarity(first, permuted(second, torch.tensor(order)))
            for order in permutations(range(n_samples))
        ]
    )
    assert found.mean().item() == pytest.approx(0.0, abs=1e-12)
    assert found.square().mean().sqrt().item() == pytest.approx(permutation_sd(n_samples))


def test_a_permuted_gram_is_that_of_permuted_samples() -> None:
    x, order = noise(7, 4), torch.tensor([3, 0, 6, 1, 5, 2, 4])
    torch.testing.assert_close(permuted(debiased(x), order), debiased(x[order]))


@given(seed=st.integers(0, 2**31), n_samples=st.integers(4, 9), n=st.integers(3, 6))
@settings(deadline=None)
def test_dissimilarities_are_compared_as_scipy_does(seed: int, n_samples: int, n: int) -> None:
    x, y = noise(n_samples, n, seed=seed), noise(n_samples, n + 1, seed=seed + 1)
    above = np.triu_indices(n_samples, 1)
    first, second = ((1.0 - np.corrcoef(each.numpy()))[above] for each in (x, y))
    expected = stats.spearmanr(first.round(10), second.round(10)).statistic
    found = cosine(ranks_of(x), ranks_of(y)).item()
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)
    ranks = stats.rankdata(first.round(10))
    np.testing.assert_allclose(ranks_of(x).numpy(), ranks - ranks.mean())


def test_ties_have_the_mean_of_their_ranks() -> None:
    # Samples 0 and 1 alike, and both as far from sample 2.
    x = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert ranks_of(x).tolist() == [-1.0, 0.5, 0.5]


def test_over_all_permutations_ranks_correlate_by_nothing_on_average() -> None:
    x, y = noise(5, 4), noise(5, 3, seed=1)
    fixed = ranks_of(x)
    found = [cosine(fixed, ranks_of(y[list(o)])).item() for o in permutations(range(5))]
    assert np.mean(found) == pytest.approx(0.0, abs=1e-12)


def test_what_does_not_differ_between_samples_is_undefined() -> None:
    x, same = noise(6, 3), torch.full((6, 3), 0.1)
    assert torch.isnan(similarity(x, same))
    assert torch.isnan(similarity(x, torch.zeros(6, 3)))
    assert torch.isnan(cosine(ranks_of(x), ranks_of(same)))


def test_batches_are_compared_one_by_one() -> None:
    x, y = noise(3, 7, 4), noise(3, 7, 6, seed=1)
    each = torch.stack([similarity(a, b) for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(similarity(x, y), each)
    ranks = torch.stack([ranks_of(a) for a in x])
    torch.testing.assert_close(ranks_of(x), ranks)
