"""Cosines of vectors in parts are those of the vectors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignlab.kernels.cosines import cosine
from alignlab.kernels.joint import joint_cosine, products_and_energies

SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=4)


def parts(sizes: list[int], seed: int, rows: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    stream = torch.Generator().manual_seed(seed)
    scales = 10.0 ** torch.randint(-3, 4, (len(sizes),), generator=stream)
    return (
        [torch.randn(rows, n, generator=stream) * s for n, s in zip(sizes, scales, strict=True)],
        [torch.randn(rows, n, generator=stream) for n in sizes],
    )


@given(SIZES, st.integers(0, 2**31), st.integers(1, 4))
def test_it_is_the_cosine_of_the_concatenated_vectors(
    sizes: list[int], seed: int, rows: int
) -> None:
    first, second = parts(sizes, seed, rows)
    found = joint_cosine(*products_and_energies(first, second))
    torch.testing.assert_close(found, cosine(torch.cat(first, 1), torch.cat(second, 1)))


@given(SIZES, st.integers(0, 2**31), st.floats(1e-18, 1e18), st.randoms())
def test_it_knows_neither_the_size_nor_the_order_of_the_parts(
    sizes: list[int], seed: int, factor: float, random: object
) -> None:
    first, second = parts(sizes, seed, 2)
    plain = joint_cosine(*products_and_energies(first, second))
    order = list(range(len(sizes)))
    random.shuffle(order)  # type: ignore[attr-defined]
    other = [first[k].double() * factor for k in order], [second[k] for k in order]
    torch.testing.assert_close(joint_cosine(*products_and_energies(*other)), plain)


def test_a_large_part_carries_it() -> None:
    # An exact large part hides an opposed small one: total cosines must be read by layer too.
    large, small = torch.full((100,), 10.0), torch.ones(100)
    found = joint_cosine(*products_and_energies([large, small], [large, -small]))
    assert found.item() == pytest.approx(99 / 101)


def test_vectors_without_a_direction_have_no_cosine() -> None:
    zero, ones = [torch.zeros(2), torch.zeros(3)], [torch.ones(2), torch.ones(3)]
    assert torch.isnan(joint_cosine(*products_and_energies(zero, ones)))
    assert torch.isnan(joint_cosine(*products_and_energies(ones, zero)))
    nothing = torch.zeros(0, dtype=torch.float64)
    assert torch.isnan(joint_cosine(nothing, nothing, nothing))
    infinite = [torch.tensor([float("inf"), 1.0]), torch.ones(3)]
    assert torch.isnan(joint_cosine(*products_and_energies(infinite, ones)))
