"""Agreement of signs: what is counted, and the Gaussian curve."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score

from alignlab.kernels.sign_agreement import gaussian_sign_agreement, sign_agreement

ENTRIES = st.integers(-3, 3)
PAIRS = st.lists(st.tuples(ENTRIES, ENTRIES), min_size=1, max_size=12)


def vectors(pairs: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    both = torch.tensor(pairs, dtype=torch.float64).T
    return both[0], both[1]


@given(PAIRS)
def test_it_is_the_accuracy_of_the_signs_where_there_are_any(pairs: list[tuple[int, int]]) -> None:
    first, second = vectors(pairs)
    found = sign_agreement(first, second)
    kept = [(a, b) for a, b in pairs if a and b]
    assert found.left_out == len(pairs) - len(kept)
    if not kept:
        assert torch.isnan(torch.stack([found.share, found.weighted, found.cosine])).all()
        return
    a, b = np.array(kept).T
    assert found.share.item() == pytest.approx(accuracy_score(np.sign(a), np.sign(b)))
    assert found.weighted.item() == pytest.approx(
        accuracy_score(np.sign(a), np.sign(b), sample_weight=np.abs(a))
    )
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert found.cosine.item() == pytest.approx(expected)


@given(PAIRS, st.floats(1e-150, 1e150), st.floats(1e-150, 1e150), st.randoms())
def test_it_knows_neither_sizes_nor_the_order_of_the_entries(
    pairs: list[tuple[int, int]], one: float, other: float, random: object
) -> None:
    first, second = vectors(pairs)
    plain = sign_agreement(first, second)
    mixed = list(pairs)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    first, second = vectors(mixed)
    found = sign_agreement(first * one, second * other)
    for name in ("share", "weighted", "left_out"):
        torch.testing.assert_close(
            getattr(found, name), getattr(plain, name), equal_nan=True, msg=name
        )


@given(PAIRS)
def test_the_opposite_gradient_has_the_opposite_agreement(pairs: list[tuple[int, int]]) -> None:
    first, second = vectors(pairs)
    plain, opposed = sign_agreement(first, second), sign_agreement(first, -second)
    for name in ("share", "weighted"):
        both = getattr(plain, name) + getattr(opposed, name)
        assert torch.isnan(both) or both.item() == pytest.approx(1.0)


def test_a_batch_of_gradients_is_compared_one_by_one() -> None:
    stream = torch.Generator().manual_seed(0)
    first, second = (torch.randn(3, 2, 40, generator=stream).round() for _ in range(2))
    together = sign_agreement(first, second)
    for place in np.ndindex(3, 2):
        alone = sign_agreement(first[place], second[place])
        for name in ("share", "weighted", "cosine", "left_out"):
            torch.testing.assert_close(getattr(together, name)[place], getattr(alone, name))


@pytest.mark.parametrize("value", [nan, inf])
def test_what_is_not_finite_has_no_agreement(value: float) -> None:
    found = sign_agreement(torch.tensor([1.0, value]), torch.tensor([1.0, 1.0]))
    assert torch.isnan(torch.stack([found.share, found.weighted, found.cosine])).all()


@pytest.mark.parametrize("similarity", [-0.9, -0.2, 0.0, 0.1, 0.3, 0.5, 0.95])
def test_the_curve_is_twice_the_orthant_probability(similarity: float) -> None:
    orthant = stats.multivariate_normal(cov=[[1.0, similarity], [similarity, 1.0]]).cdf([0.0, 0.0])
    found = gaussian_sign_agreement(torch.tensor(similarity, dtype=torch.float64)).item()
    assert found == pytest.approx(2.0 * orthant, abs=1e-5)


@pytest.mark.parametrize(("similarity", "expected"), [(0.1, 0.532), (0.3, 0.597), (0.5, 0.667)])
def test_the_curve_has_its_golden_values(similarity: float, expected: float) -> None:
    assert gaussian_sign_agreement(torch.tensor(similarity)).item() == pytest.approx(
        expected, abs=5e-4
    )


@pytest.mark.parametrize("similarity", [-0.5, 0.1, 0.3, 0.8])
def test_gaussian_gradients_lie_on_the_curve(similarity: float) -> None:
    stream = torch.Generator().manual_seed(1)
    n = 400_000
    first = torch.randn(n, generator=stream, dtype=torch.float64)
    second = similarity * first + (1 - similarity**2) ** 0.5 * torch.randn(
        n, generator=stream, dtype=torch.float64
    )
    found = sign_agreement(first, second)
    # Four standard errors of a share.
    assert found.share.item() == pytest.approx(
        gaussian_sign_agreement(found.cosine).item(), abs=4 * 0.5 / n**0.5
    )
    # Large entries agree more often: P(same | |g|) rises with |g|.
    assert (found.weighted - found.share).item() * np.sign(similarity) > 0.01


def test_flips_of_small_entries_lie_below_the_curve_and_of_large_ones_above() -> None:
    stream = torch.Generator().manual_seed(2)
    true = torch.randn(20_000, generator=stream, dtype=torch.float64).abs() ** 2 + 1e-3
    for is_small, side in ((True, -1.0), (False, 1.0)):
        rank = true.argsort().argsort() / len(true)
        flipped = rank < 0.3 if is_small else rank > 0.9
        found = sign_agreement(true, torch.where(flipped, -true, true))
        above = found.share - gaussian_sign_agreement(found.cosine)
        assert above.item() * side > 0
