"""What narrow places and frozen weights leave, against the best of its rank and Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alignlab.kernels.bottleneck import (
    bounds_by_rank,
    expected_masked_cosine,
    masked_cosine,
    sufficient_rank,
    trained_bound,
    trained_share,
)
from alignlab.kernels.ranks import energies

SHARES = torch.tensor([1.0, 0.5, 0.25, 0.1, 0.05])


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float((first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second))


@given(seed=st.integers(0, 300))
def test_the_bound_is_reached_by_the_truncated_matrix_and_by_no_other(seed: int) -> None:
    matrix = doubles(9, 6, seed=seed)
    bounds = bounds_by_rank(energies(matrix, centred=False))
    left, values, right = np.linalg.svd(matrix.numpy(), full_matrices=False)
    for rank in range(1, 7):
        best = (left[:, :rank] * values[:rank]) @ right[:rank]
        assert float(bounds[rank - 1]) == pytest.approx(cosine(best, matrix.numpy()))
        other = (doubles(9, rank, seed=seed + 1) @ doubles(rank, 6, seed=seed + 2)).numpy()
        assert cosine(other, matrix.numpy()) <= float(bounds[rank - 1]) + 1e-12
    assert float(bounds[-1]) == 1.0


def softmax_errors(n_samples: int, n_classes: int, *, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    share = np.exp(0.3 * rng.normal(size=(n_samples, n_classes)))
    share /= share.sum(1, keepdims=True)
    return np.asarray(share - np.eye(n_classes)[rng.integers(0, n_classes, n_samples)])


def test_ten_classes_and_gaussian_feedback_give_the_known_bounds() -> None:
    found = []
    for seed in range(20):
        feedback = np.random.default_rng(1000 + seed).normal(size=(110, 10))
        images = torch.as_tensor(softmax_errors(2000, 10, seed=seed) @ feedback.T)
        found.append(bounds_by_rank(energies(images, centred=False)).numpy())
    mean = np.mean(found, 0)[[0, 1, 3, 7, 8]]
    np.testing.assert_allclose(mean, [0.41, 0.57, 0.75, 0.97, 1.0], atol=0.01)


def test_the_sufficient_rank_is_the_least_that_allows_a_cosine() -> None:
    bounds = torch.tensor([[0.5, 0.8, 0.95, 1.0], [1.0, 1.0, 1.0, 1.0]])
    assert sufficient_rank(bounds, level=0.9).tolist() == [3.0, 1.0]
    assert sufficient_rank(bounds, level=0.99).tolist() == [4.0, 1.0]
    assert torch.isnan(sufficient_rank(torch.full((3,), torch.nan), level=0.9))
    assert torch.isnan(bounds_by_rank(torch.zeros(3))).all()


def related(n: int, c: float, *, seed: int, heavy: bool) -> tuple[Tensor, Tensor]:
    """Return two gradients of about this cosine, of Gaussian or of heavy-tailed entries."""
    true, noise = doubles(n, seed=seed), doubles(n, seed=seed + 1)
    size = doubles(n, seed=seed + 2).abs() + 0.1 if heavy else torch.ones(n, dtype=torch.float64)
    return size * true, size * (c * true + (1 - c**2) ** 0.5 * noise)


def monte_carlo(first: Tensor, second: Tensor, *, draws: int, kind: str) -> Tensor:
    """Return the mean cosine over masks of one gradient, of both together, or of each its own."""
    totals = []
    for share in SHARES:
        masks = (torch.rand(2, draws, len(first), dtype=torch.float64) < share).double()
        other = {"one": torch.ones_like(masks[0]), "both": masks[0], "own": masks[1]}[kind]
        aims, rows = first * other, second * masks[0]
        totals.append(torch.nn.functional.cosine_similarity(aims, rows, dim=-1).mean())
    return torch.stack(totals)


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("c", [0.0, 0.3, 1.0])
def test_masked_gradients_have_the_expected_cosine(heavy: bool, c: float) -> None:
    torch.manual_seed(0)
    first, second = related(1500, c, seed=3, heavy=heavy)
    found = monte_carlo(first, second, draws=1500, kind="one")
    expected = expected_masked_cosine(first, second, SHARES)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=3e-3)


def test_a_mask_takes_root_of_the_share_one_on_both_nothing_and_two_the_share() -> None:
    torch.manual_seed(0)
    first, second = related(2000, 0.6, seed=5, heavy=False)
    whole = cosine(first.numpy(), second.numpy())
    by_kind = {kind: monte_carlo(first, second, draws=1500, kind=kind) for kind in ("both", "own")}
    expected = expected_masked_cosine(first, second, SHARES)
    torch.testing.assert_close(expected, whole * SHARES.double().sqrt(), rtol=0.02, atol=0.0)
    torch.testing.assert_close(
        by_kind["both"], torch.full((5,), whole).double(), rtol=0.02, atol=0.0
    )
    torch.testing.assert_close(by_kind["own"], whole * SHARES.double(), rtol=0.02, atol=6e-3)


@given(seed=st.integers(0, 100), scale=st.sampled_from([1e-20, 1.0, 1e15]))
def test_scales_and_the_order_of_entries_change_nothing(seed: int, scale: float) -> None:
    first, second = doubles(60, seed=seed), doubles(60, seed=seed + 1)
    number = torch.rand(60, generator=torch.Generator().manual_seed(seed))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    for found, other in (
        (
            expected_masked_cosine(first, second, SHARES),
            expected_masked_cosine(scale * first[order], second[order] / scale, SHARES),
        ),
        (
            masked_cosine(first, second, number, SHARES),
            masked_cosine(scale * first[order], second[order] / scale, number[order], SHARES),
        ),
    ):
        torch.testing.assert_close(found, other, rtol=1e-9, atol=1e-12, equal_nan=True)


def test_smaller_masks_are_parts_of_larger_ones_and_none_leaves_nothing() -> None:
    first, second = doubles(3, 40), doubles(3, 40, seed=1)
    number = torch.rand(3, 40, generator=torch.Generator().manual_seed(0))
    found = masked_cosine(first, second, number, torch.tensor([1.0, 0.5, 0.0]))
    assert found.shape == (3, 3)
    assert float(found[0, 0]) == pytest.approx(cosine(first[0].numpy(), second[0].numpy()))
    half = (second * (number < 0.5))[1].numpy()
    assert float(found[1, 1]) == pytest.approx(cosine(first[1].numpy(), half))
    assert torch.isnan(found[:, 2]).all()
    few = expected_masked_cosine(first, second, torch.tensor([0.01]))
    assert torch.isnan(few).all()


@given(seed=st.integers(0, 200))
def test_no_update_of_some_entries_has_a_larger_cosine_than_the_true_one_there(seed: int) -> None:
    true = doubles(30, seed=seed)
    true[:5] = 0.0
    mask = torch.rand(30, generator=torch.Generator().manual_seed(seed)) < 0.6
    bound = float(trained_bound(true, mask.double()))
    if mask[5:].any():
        assert bound == pytest.approx(cosine((true * mask).numpy(), true.numpy()))
    update = doubles(30, seed=seed + 1) * mask
    if mask.any():
        assert abs(cosine(update.numpy(), true.numpy())) <= bound + 1e-12
    assert float(trained_share(true, update)) == pytest.approx(float(mask[5:].sum()) / 25)


def test_a_zero_gradient_has_no_trained_share() -> None:
    nothing, update = torch.zeros(4), torch.ones(4)
    for measure in (trained_share, trained_bound):
        assert torch.isnan(measure(nothing, update))
