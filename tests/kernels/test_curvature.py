"""Bounds of steps and leading eigenvalues, against quadratic losses that are written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alignlab.kernels.curvature import leading_eigenvalue, step_bound, step_efficiency

SEEDS = st.integers(0, 2**31)


def quadratic(seed: int, n: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Return a symmetric matrix, the gradient at a point, and an update."""
    stream = torch.Generator().manual_seed(seed)
    root, g, update = (
        torch.randn(size, generator=stream, dtype=torch.float64) for size in ((n, n), (n,), (n,))
    )
    return root + root.T, g, update


def change(matrix: Tensor, g: Tensor, update: Tensor, step: float) -> float:
    return float(-step * g @ update + 0.5 * step**2 * update @ matrix @ update)


@given(SEEDS)
def test_below_the_bound_the_quadratic_loss_falls_and_above_it_rises(seed: int) -> None:
    matrix, g, update = quadratic(seed)
    curvature = update @ matrix @ update / update.square().sum()
    bound = step_bound(g @ update, curvature, update.square().sum())
    if g @ update > 0 and curvature > 0:
        assert change(matrix, g, update, bound.item() * 0.999) < 0
        assert change(matrix, g, update, bound.item() * 1.001) > 0
        largest = torch.linalg.eigvalsh(matrix)[-1]
        careful = step_bound(g @ update, largest, update.square().sum())
        assert careful <= bound * (1 + 1e-12)
    else:
        assert torch.isnan(bound)


@given(SEEDS, st.floats(1e-6, 1e6))
def test_a_larger_update_has_a_smaller_bound_and_the_same_efficiency(
    seed: int, factor: float
) -> None:
    _, g, update = quadratic(seed)
    curvature = torch.tensor(2.0)
    plain = step_bound(g @ update, curvature, update.square().sum())
    scaled = step_bound(factor * g @ update, curvature, (factor * update).square().sum())
    torch.testing.assert_close(scaled * factor, plain, equal_nan=True)
    efficiencies = [
        step_efficiency(g @ v, v.square().sum(), g.square().sum())
        for v in (update, factor * update)
    ]
    torch.testing.assert_close(efficiencies[0], efficiencies[1])


@given(SEEDS)
def test_efficiency_is_the_share_of_the_best_decrease_under_one_curvature(seed: int) -> None:
    _, g, update = quadratic(seed)
    matrix = 3.0 * torch.eye(len(g), dtype=torch.float64)
    steps = torch.linspace(0.0, 5.0, 20_001, dtype=torch.float64)

    def best(direction: Tensor) -> Tensor:
        along = direction / direction.norm() * g.norm()
        curved = 0.5 * steps.square() * (along @ matrix @ along)
        return (steps * (g @ along) - curved).amax()

    found = step_efficiency(g @ update, update.square().sum(), g.square().sum())
    assert found.item() == pytest.approx((best(update) / best(g)).item(), abs=1e-4)


def test_what_does_not_descend_has_no_bound_and_no_efficiency() -> None:
    one = torch.tensor(1.0)
    assert torch.isnan(step_bound(-one, one, one))
    assert torch.isnan(step_bound(one, -one, one))
    assert step_efficiency(-one, one, one).item() == 0.0
    assert torch.isnan(step_efficiency(0 * one, 0 * one, one))


@given(SEEDS, st.integers(1, 9))
def test_as_many_steps_as_dimensions_give_the_largest_eigenvalue(seed: int, n: int) -> None:
    matrix, start, _ = quadratic(seed, n)
    found = leading_eigenvalue(lambda v: matrix @ v, start, steps=n)
    expected = torch.linalg.eigvalsh(matrix)[-1]
    assert found.value.item() == pytest.approx(expected.item(), rel=1e-7, abs=1e-7)
    along = start @ matrix @ start / start.square().sum()
    assert found.along_start.item() == pytest.approx(along.item(), rel=1e-12, abs=1e-12)


@given(SEEDS, st.integers(1, 6))
def test_fewer_steps_give_a_lower_bound_with_an_eigenvalue_within_the_residual(
    seed: int, steps: int
) -> None:
    matrix, start, _ = quadratic(seed, 12)
    found = leading_eigenvalue(lambda v: matrix @ v, start, steps=steps)
    every = torch.linalg.eigvalsh(matrix)
    assert found.value <= every[-1] + 1e-9
    assert (every - found.value).abs().amin() <= found.residual + 1e-9


def test_a_space_that_is_spent_early_ends_there() -> None:
    # The start vector lies in two eigenspaces; eigenvalue 0 of the rest must not come in.
    diagonal = torch.tensor([-3.0, -1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    start = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    found = leading_eigenvalue(lambda v: diagonal * v, start, steps=5)
    assert found.value.item() == pytest.approx(-1.0)
    assert found.residual.item() == pytest.approx(0.0, abs=1e-12)


def test_single_precision_products_are_enough_for_an_outlier() -> None:
    stream = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 300, generator=stream)
    rows[:, 0] *= 10
    matrix = rows.T @ rows / 40
    found = leading_eigenvalue(lambda v: matrix @ v, torch.randn(300, generator=stream), steps=6)
    expected = torch.linalg.eigvalsh(matrix.double())[-1]
    assert found.value.item() == pytest.approx(expected.item(), rel=1e-4)


@given(SEEDS, st.integers(2, 6))
def test_an_operator_that_is_not_symmetric_is_told_from_one_that_is(seed: int, steps: int) -> None:
    matrix, start, _ = quadratic(seed, 12)
    found = leading_eigenvalue(lambda v: matrix @ v, start, steps=steps)
    assert found.asymmetry.item() == pytest.approx(0.0, abs=1e-12)
    # The part added maps the second vector of the iteration to the first, and not back.
    first = start / start.norm()
    second = matrix @ first - first * (first @ matrix @ first)
    second = second / second.norm()
    skewed = matrix + torch.linalg.matrix_norm(matrix, 2) * torch.outer(first, second)
    found = leading_eigenvalue(lambda v: skewed @ v, start, steps=steps)
    assert found.asymmetry > 0.4


def test_a_start_without_a_direction_gives_nothing() -> None:
    found = leading_eigenvalue(lambda v: v, torch.zeros(3), steps=2)
    assert torch.isnan(found.value)
    assert torch.isnan(found.along_start)
