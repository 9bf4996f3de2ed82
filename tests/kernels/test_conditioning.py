"""Condition numbers of layers against numpy's, of the matrices that they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from alignlab.errors import InputError
from alignlab.kernels.conditioning import (
    circular_extremes,
    circular_operator,
    condition_number,
    layer_extremes,
)
from tests.oracles.dense import unrolled

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (nn.Linear(7, 4), (7,)),
    "linear on positions": (nn.Linear(3, 5), (6, 3)),
    "padded": (nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4)),
    "strided": (nn.Conv2d(3, 2, 3, stride=2), (3, 7, 7)),
    "circular": (nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"), (3, 4, 5)),
    "circular, strided": (
        nn.Conv1d(2, 3, 3, stride=2, padding=1, padding_mode="circular"), (2, 8),
    ),
    "circular, growing": (nn.Conv1d(2, 2, 3, padding=2, padding_mode="circular"), (2, 6)),
    "grouped": (nn.Conv1d(4, 6, 3, groups=2, padding=1), (4, 6)),
    "transposed": (nn.ConvTranspose1d(2, 3, 3, stride=2, output_padding=1), (2, 5)),
}  # fmt: skip


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_numpy(module: Any, weight: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    return np.linalg.svd(unrolled(module, weight.numpy(), shape), compute_uv=False)


@pytest.mark.parametrize(("module", "shape"), LAYERS.values(), ids=LAYERS)
def test_extremes_and_condition_are_those_of_the_unrolled_matrix(
    module: Any, shape: tuple[int, ...]
) -> None:
    weight = doubles(*module.weight.shape)
    found = layer_extremes(module, weight, torch.Size(shape))
    expected = by_numpy(module, weight, shape)
    assert float(found.largest) == pytest.approx(expected[0], rel=1e-10)
    assert float(found.smallest) == pytest.approx(expected[-1], rel=1e-8)
    assert float(found.largest_residual) == float(found.smallest_residual) == 0.0
    condition = condition_number(found, precision=torch.float64, size=100)
    assert float(condition) == pytest.approx(expected[0] / expected[-1], rel=1e-8)


def test_a_transposed_convolution_has_the_circular_spectrum_of_the_one_it_transposes() -> None:
    module = nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1, groups=2)
    plain = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, padding_mode="circular")
    weight = doubles(*module.weight.shape)
    found = circular_extremes(circular_operator(module, weight, torch.Size((4, 3, 3))))
    expected = by_numpy(plain, weight, (2, 6, 6))
    assert float(found.largest) == pytest.approx(expected[0], rel=1e-10)
    assert float(found.smallest) == pytest.approx(expected[-1], rel=1e-8)


def test_large_maps_with_zero_padding_give_what_converged_and_their_residuals() -> None:
    module = nn.Conv2d(3, 16, 3, padding=1)
    weight = doubles(*module.weight.shape)
    found = layer_extremes(module, weight, torch.Size((3, 14, 14)), steps=40)
    expected = by_numpy(module, weight, (3, 14, 14))
    assert float(found.largest) <= expected[0] * (1.0 + 1e-12)
    assert expected[0] - float(found.largest) <= float(found.largest_residual)
    assert float(found.smallest) >= expected[-1]
    assert float(found.smallest) == pytest.approx(expected[-1], rel=0.1)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), scale=st.floats(1e-6, 1e6))
def test_the_condition_number_knows_neither_scale_nor_orthogonal_factors(
    seed: int, scale: float
) -> None:
    weight = doubles(5, 4, seed=seed)
    left = torch.linalg.qr(doubles(5, 5, seed=seed + 1)).Q
    values = []
    for matrix in (weight, scale * left @ weight):
        extremes = layer_extremes(nn.Linear(4, 5), matrix, torch.Size((4,)))
        values.append(float(condition_number(extremes, precision=torch.float64, size=5)))
    assert values[1] == pytest.approx(values[0], rel=1e-6)


def test_a_singular_layer_has_an_infinite_and_a_zero_one_no_condition_number() -> None:
    weight = torch.outer(torch.arange(1.0, 4.0), torch.arange(1.0, 5.0))
    for matrix, expected in ((weight, np.inf), (torch.zeros(3, 4), np.nan), (torch.eye(3, 4), 1.0)):
        extremes = layer_extremes(nn.Linear(4, 3), matrix, torch.Size((4,)))
        found = float(condition_number(extremes, precision=torch.float32, size=4))
        assert found == pytest.approx(expected, nan_ok=True)


def test_a_stride_that_does_not_divide_the_size_has_no_circular_operator() -> None:
    module = nn.Conv1d(2, 3, 3, stride=2)
    with pytest.raises(InputError, match="needs an input whose size it"):
        circular_operator(module, module.weight.detach(), torch.Size((2, 7)))


def test_float32_symbols_are_decomposed_in_float64() -> None:
    weight = torch.zeros(2, 2, 1)
    weight[0, 0], weight[1, 1] = 1.0, 1e-9
    operator = circular_operator(nn.Conv1d(2, 2, 1), weight, torch.Size((2, 4)))
    found = circular_extremes(operator)
    assert float(found.smallest) == pytest.approx(1e-9, rel=1e-6)
