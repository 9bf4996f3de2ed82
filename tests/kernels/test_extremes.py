"""Largest and smallest singular values against those of the dense matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from alignlab.errors import InputError
from alignlab.kernels.layers import adjoint, linear_part
from alignlab.kernels.matrix_free import Extremes, extreme_singular_values
from tests.oracles.dense import output_shape, unrolled

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "more outputs": (nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4)),
    "more inputs": (nn.Conv2d(3, 2, 3, stride=2), (3, 7, 7)),
    "depthwise": (nn.Conv1d(4, 4, 3, padding="same", groups=4), (4, 6)),
    "transposed": (nn.ConvTranspose1d(2, 3, 3, stride=2), (2, 5)),
}


def extremes(module: Any, shape: tuple[int, ...], *, steps: int) -> tuple[Extremes, np.ndarray]:
    weight = torch.randn(module.weight.shape, generator=torch.Generator().manual_seed(1)).double()
    found = extreme_singular_values(
        lambda x: linear_part(module, x, weight),
        adjoint(module, weight, torch.Size((1, *shape))),
        shapes=(shape, output_shape(module, shape)),
        like=weight,
        steps=steps,
    )
    return found, np.linalg.svd(unrolled(module, weight.numpy(), shape), compute_uv=False)


@pytest.mark.parametrize(("module", "shape"), LAYERS.values(), ids=LAYERS)
def test_as_many_steps_as_the_smaller_side_has_units_give_both(
    module: Any, shape: tuple[int, ...]
) -> None:
    found, expected = extremes(module, shape, steps=1000)
    assert float(found.largest) == pytest.approx(expected[0], rel=1e-10)
    assert float(found.smallest) == pytest.approx(expected[-1], rel=1e-8)
    assert max(float(found.largest_residual), float(found.smallest_residual)) <= 1e-8


@pytest.mark.parametrize(("module", "shape"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("steps", [1, 4, 9])
def test_few_steps_bound_both_from_inside_and_their_residuals_hold(
    module: Any, shape: tuple[int, ...], steps: int
) -> None:
    found, expected = extremes(module, shape, steps=steps)
    assert float(found.largest) <= expected[0] * (1.0 + 1e-12)
    assert float(found.smallest) >= expected[-1] * (1.0 - 1e-12)
    for value, residual in (
        (found.largest, found.largest_residual),
        (found.smallest, found.smallest_residual),
    ):
        assert np.abs(expected - float(value)).min() <= float(residual) + 1e-12


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), rows=st.integers(1, 8), columns=st.integers(1, 8))
def test_matrices_of_any_shape_and_their_transposes_agree(
    seed: int, rows: int, columns: int
) -> None:
    stream = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=stream, dtype=torch.float64)

    def both(a: Tensor) -> Extremes:
        return extreme_singular_values(
            lambda x: x @ a.T, lambda y: y @ a, shapes=((a.shape[1],), (a.shape[0],)), like=a
        )

    expected = np.linalg.svd(matrix.numpy(), compute_uv=False)
    for found in (both(matrix), both(matrix.T)):
        assert float(found.largest) == pytest.approx(expected[0], rel=1e-9)
        assert float(found.smallest) == pytest.approx(expected[-1], rel=1e-6, abs=1e-12)


def test_a_well_conditioned_operator_converges_in_few_steps_and_a_bad_one_does_not() -> None:
    n = 400
    for ratio, converges in ((1.5, True), (1e5, False)):
        values = torch.logspace(0, float(np.log10(ratio)), n, dtype=torch.float64)
        found = extreme_singular_values(
            *(lambda x, v=values: x * v, lambda y, v=values: y * v),
            shapes=((n,), (n,)), like=values, steps=60,
        )  # fmt: skip
        assert (float(found.smallest_residual) <= 1e-2 * float(found.smallest)) is converges
        assert float(found.smallest) >= 1.0 - 1e-9
        if converges:
            assert float(found.smallest) == pytest.approx(1.0, rel=1e-3)


def test_no_steps_are_refused() -> None:
    with pytest.raises(InputError, match="0 steps"):
        extreme_singular_values(
            *(torch.clone, torch.clone), shapes=((2,), (2,)), like=torch.ones(()), steps=0
        )
