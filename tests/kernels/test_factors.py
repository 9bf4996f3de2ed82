"""Factors of unrolled layers against numpy's svd and many starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from alignlab.errors import InputError
from alignlab.kernels.factors import Factors, exact_factors, singular_factors, support_factors
from alignlab.kernels.layers import linear_part
from alignlab.kernels.unrolled import support, unrolled

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (nn.Linear(7, 9), (7,)),
    "linear on positions": (nn.Linear(3, 4), (5, 3)),
    "padded": (nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4)),
    "strided": (nn.Conv2d(3, 2, 3, stride=2, padding=1), (3, 6, 6)),
    "grouped": (nn.Conv1d(4, 6, 3, groups=2, padding=1), (4, 6)),
    "circular": (nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"), (2, 7)),
    "transposed": (nn.ConvTranspose1d(4, 2, 3, stride=2, groups=2), (4, 5)),
}
each_layer = pytest.mark.parametrize(("module", "shape"), LAYERS.values(), ids=LAYERS)


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def product(factors: Factors) -> np.ndarray:
    return (factors.above.flatten(1).T @ factors.below.flatten(1)).double().numpy()


@each_layer
def test_the_product_is_the_best_of_its_rank(module: Any, shape: tuple[int, ...]) -> None:
    weight = doubles(*module.weight.shape)
    found = singular_factors(module, weight, shape, rank=3, iterations=60)
    matrix = unrolled(module, weight, shape).numpy()
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_allclose(found.values, values[:3], rtol=1e-6)
    best = np.linalg.norm(matrix - (left[:, :3] * values[:3]) @ right[:3])
    assert np.linalg.norm(matrix - product(found)) == pytest.approx(best, rel=1e-6)
    norms = found.above.flatten(1).square().sum(1)
    torch.testing.assert_close(norms, found.values)
    torch.testing.assert_close(found.below.flatten(1).square().sum(1), found.values)


@each_layer
def test_small_layers_are_decomposed_exactly(module: Any, shape: tuple[int, ...]) -> None:
    weight = doubles(*module.weight.shape)
    found = exact_factors(module, weight, shape, rank=3)
    matrix = unrolled(module, weight, shape).numpy()
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_allclose(found.values, values[:3], rtol=1e-12)
    best = np.linalg.norm(matrix - (left[:, :3] * values[:3]) @ right[:3])
    assert np.linalg.norm(matrix - product(found)) == pytest.approx(best, rel=1e-12)
    assert found.above.shape[1:] == linear_part(module, doubles(1, *shape), weight).shape[1:]


def test_few_iterations_hold_almost_all_of_the_energy_that_there_is() -> None:
    module = nn.Conv2d(8, 8, 3, padding=1)
    weight = doubles(8, 8, 3, 3)
    values = np.linalg.svd(unrolled(module, weight, (8, 9, 9)).numpy(), compute_uv=False)[:10]
    found = singular_factors(module, weight, (8, 9, 9), rank=10).values.numpy()
    assert (found <= values * (1.0 + 1e-9)).all()
    assert (found**2).sum() >= 0.97 * (values**2).sum()


def test_pairs_beyond_the_smaller_side_are_zero() -> None:
    found = singular_factors(nn.Linear(2, 5), doubles(5, 2), (2,), rank=4)
    assert found.values[2:].tolist() == [0.0, 0.0]
    assert found.above.shape == (4, 5)
    assert float(found.below[2:].abs().sum()) == 0.0


@each_layer
def test_the_support_is_where_the_unrolled_matrix_has_entries(
    module: Any, shape: tuple[int, ...]
) -> None:
    matrix = unrolled(module, torch.ones(module.weight.shape), shape).numpy() != 0
    groups = getattr(module, "groups", 1)
    mask = support(module, shape).toarray()
    if isinstance(module, nn.Linear):
        places = len(mask)
        matrix = matrix.reshape(places, -1, places, module.in_features)[:, 0, :, 0]
    else:
        outs, ins = (n // groups for n in (module.out_channels, module.in_channels))
        rows, columns = (n // groups for n in mask.shape)
        matrix = matrix.reshape(groups, outs, rows, groups, ins, columns)[:, 0, :, :, 0]
    np.testing.assert_array_equal(mask, matrix.reshape(mask.shape))


def best_of_many(matrix: np.ndarray, rank: int) -> float:
    """Return the smallest residual of alternating least squares from many starts."""
    stream, missed = np.random.default_rng(0), []
    for _ in range(6):
        first, second = stream.random((len(matrix), rank)), stream.random((matrix.shape[1], rank))
        for _ in range(50):
            for k in range(rank):
                for own, other, whole in ((first, second, matrix), (second, first, matrix.T)):
                    rest = whole - own @ other.T + np.outer(own[:, k], other[:, k])
                    own[:, k] = np.maximum(rest @ other[:, k], 0) / max(
                        other[:, k] @ other[:, k], 1e-12
                    )
        missed.append(np.linalg.norm(matrix - first @ second.T))
    return float(min(missed))


@each_layer
def test_support_factors_are_as_good_as_the_best_of_many_starts(
    module: Any, shape: tuple[int, ...]
) -> None:
    mask = support(module, shape).toarray()
    whole = (unrolled(module, torch.ones(module.weight.shape), shape).numpy() != 0).astype(float)
    found = support_factors(module, shape, rank=3)
    assert float(found.above.min()) >= 0.0
    assert float(found.below.min()) >= 0.0
    rest = np.linalg.norm(whole - product(found))
    per_place = (whole.size / mask.size) ** 0.5
    assert rest <= 1.1 * per_place * best_of_many(mask, 3) + 1e-5
    assert rest < np.linalg.norm(whole)


@settings(deadline=None, max_examples=10)
@given(rank=st.integers(1, 6), seed=st.integers(0, 99))
def test_more_pairs_never_fit_worse(rank: int, seed: int) -> None:
    module, shape = nn.Conv1d(2, 2, 3, padding=1), (2, 9)
    whole = (unrolled(module, torch.ones(2, 2, 3), shape).numpy() != 0).astype(float)
    missed = [
        np.linalg.norm(whole - product(support_factors(module, shape, rank=each, seed=seed)))
        for each in (rank, rank + 3)
    ]
    assert missed[1] <= missed[0] * 1.05
    weight = doubles(2, 2, 3, seed=seed)
    values = [singular_factors(module, weight, shape, rank=r).values for r in (rank, rank + 3)]
    assert float(values[1].square().sum()) >= float(values[0].square().sum()) * (1 - 1e-6)


def test_no_pairs_are_refused() -> None:
    with pytest.raises(InputError, match="rank 0"):
        singular_factors(nn.Linear(2, 2), torch.eye(2), (2,), rank=0)
    with pytest.raises(InputError, match="rank 0"):
        support_factors(nn.Linear(2, 2), (2,), rank=0)
