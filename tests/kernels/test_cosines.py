"""Cosines and angles: right for every size that float32 holds, undefined where there is none."""

from __future__ import annotations

from fractions import Fraction
from math import atan2, cos, degrees, nan, radians, sqrt

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from alignlab.kernels.cosines import angle, cosine, flat, inner, norm, scaled, unit, wide

WHOLE = st.integers(-1000, 1000)
VECTORS = st.lists(st.tuples(WHOLE, WHOLE), min_size=1, max_size=6)
SIZES = st.integers(-30, 30).map(lambda power: 10.0**power)
COORDINATES = st.floats(-1e3, 1e3, allow_subnormal=False).filter(lambda v: v == 0 or abs(v) > 1e-9)
POINTS = st.tuples(*(COORDINATES for _ in range(6)))


def pair(vectors: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    both = torch.tensor(vectors, dtype=torch.float32).T
    assume(both.any(1).all())
    return both[0], both[1]


def exact_angle(points: tuple[float, ...]) -> float:
    """Return the angle of two vectors in space, products taken without rounding."""
    a, b = ([Fraction(v) for v in points[k : k + 3]] for k in (0, 3))
    dot = sum((p * q for p, q in zip(a, b, strict=True)), Fraction(0))
    cross = [a[i] * b[j] - a[j] * b[i] for i, j in ((1, 2), (2, 0), (0, 1))]
    return degrees(atan2(sqrt(sum((c * c for c in cross), Fraction(0))), dot))


@given(vectors=VECTORS, one=SIZES, other=SIZES)
def test_cosine_and_angle_do_not_depend_on_the_sizes(
    vectors: list[tuple[int, int]], one: float, other: float
) -> None:
    first, second = pair(vectors)
    for measure, tolerance in ((cosine, 1e-6), (angle, 1e-3)):
        plain, scaled = measure(first, second), measure(first * one, second * other)
        assert scaled.item() == pytest.approx(plain.item(), abs=tolerance)


@given(vectors=VECTORS)
def test_cosine_and_angle_are_symmetric_and_change_with_the_sign(
    vectors: list[tuple[int, int]],
) -> None:
    first, second = pair(vectors)
    assert cosine(first, second).item() == cosine(second, first).item()
    assert angle(first, second).item() == angle(second, first).item()
    assert cosine(first, -second).item() == -cosine(first, second).item()
    together = angle(first, second) + angle(first, -second)
    assert together.item() == pytest.approx(180.0, abs=1e-9)


@given(vectors=VECTORS)
def test_cosine_is_in_range_and_the_cosine_of_the_angle(vectors: list[tuple[int, int]]) -> None:
    first, second = pair(vectors)
    value = cosine(first, second).item()
    assert -1.0 <= value <= 1.0
    assert cos(radians(angle(first, second).item())) == pytest.approx(value, abs=1e-12)
    assert cosine(first, first).item() == pytest.approx(1.0, abs=1e-15)


@given(points=POINTS)
def test_angles_are_exact_in_space(points: tuple[float, ...]) -> None:
    first, second = torch.tensor(points, dtype=torch.float64).reshape(2, 3)
    assume(first.any() and second.any())
    assert angle(first, second).item() == pytest.approx(exact_angle(points), abs=1e-12, rel=1e-12)


@given(power=st.integers(1, 15), flip=st.sampled_from([1.0, -1.0]))
def test_small_angles_keep_their_digits_at_both_ends(power: int, flip: float) -> None:
    tilt = 10.0**-power
    first = torch.tensor([1.0, 0.0], dtype=torch.float64)
    second = flip * torch.tensor([1.0, tilt], dtype=torch.float64)
    found = angle(first, second).item()
    small = found if flip > 0 else 180.0 - found
    # Near 180 the spacing of float64 itself is what is left.
    spacing = 1e-9 if flip > 0 else 3e-14 / degrees(tilt)
    assert small == pytest.approx(degrees(atan2(tilt, 1.0)), rel=max(1e-9, spacing))


@pytest.mark.parametrize("measure", [cosine, angle])
@pytest.mark.parametrize("value", [0.0, nan, float("inf")])
def test_what_has_no_direction_has_no_cosine(measure: object, value: float) -> None:
    rows = torch.tensor([[value, 0.0], [3.0, 4.0]])
    found = measure(rows, torch.ones(2, 2))  # type: ignore[operator]
    assert torch.isnan(found[0])
    assert torch.isfinite(found[1])


def test_everything_is_computed_in_float64() -> None:
    near = torch.tensor([1.0, 1e-6])
    assert cosine(near, near).dtype == angle(near, near).dtype == torch.float64
    assert wide(near.half()).dtype == torch.float64
    assert 1.0 - cosine(near, torch.tensor([1.0, 0.0])).item() == pytest.approx(5e-13, rel=1e-3)


def test_sums_and_norms_over_the_last_axis() -> None:
    rows = torch.arange(24.0).reshape(2, 3, 4)
    assert flat(rows).shape == (2, 12)
    assert torch.equal(inner(rows, rows).sqrt(), norm(rows))
    assert norm(flat(rows))[0].item() == pytest.approx(sqrt(sum(k * k for k in range(12))))


@given(st.lists(st.tuples(SIZES, WHOLE, WHOLE), min_size=1, max_size=5))
def test_samples_of_any_size_come_to_the_size_of_one_and_back(
    samples: list[tuple[float, int, int]],
) -> None:
    rows = torch.tensor([[size * a, size * b] for size, a, b in samples], dtype=torch.float32)
    near_one, size = scaled(rows)
    largest = near_one.abs().amax(1)
    assert ((largest == 1.0) | (rows == 0.0).all(1)).all()
    torch.testing.assert_close(wide(near_one) * size[:, None], wide(rows), rtol=1e-6, atol=0.0)


@given(vectors=VECTORS, size=SIZES)
def test_unit_vectors_have_norm_one_at_every_size(
    vectors: list[tuple[int, int]], size: float
) -> None:
    row = pair(vectors)[0]
    found = unit(row * size)
    assert wide(found).norm().item() == pytest.approx(1.0, abs=1e-6)
    assert float(cosine(found, row)) == pytest.approx(1.0, abs=1e-6)
