"""Spectra of convolutions against their dense matrices."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alignlab.errors import InputError
from alignlab.kernels.convolution_spectrum import Circular, participation_ratio, symbol_spectrum
from alignlab.kernels.layers import adjoint, linear_part, operator_energy
from alignlab.kernels.matrix_free import (
    Leading,
    estimated_participation_ratio,
    largest_singular_values,
)

Array = np.ndarray
KINDS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}


def unrolled(operator: Circular) -> Array:
    """Return the matrix of a circular convolution, entry by entry."""
    weight, groups = operator.weight.double().numpy(), operator.groups
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    matrix = np.zeros((weight.shape[0], *operator.out_size, inputs * groups, *operator.size))
    for out, inside in product(range(weight.shape[0]), range(inputs)):
        channel = out // outputs * inputs + inside
        for place in product(*map(range, operator.out_size)):
            for tap in product(*map(range, weight.shape[2:])):
                where = tuple(
                    (p * s + t * d) % n
                    for p, s, t, d, n in zip(
                        *(place, operator.stride, tap, operator.dilation, operator.size),
                        strict=True,
                    )
                )
                matrix[(out, *place, channel, *where)] += weight[(out, inside, *tap)]
    return matrix.reshape(weight.shape[0] * prod(operator.out_size), -1)


def ratio(values: Array) -> float:
    return float((values**2).sum() ** 2 / (values**4).sum())


@st.composite
def circulars(draw: st.DrawFn) -> Circular:
    axes = draw(st.integers(1, 3))
    each = st.integers(1, {1: 6, 2: 3, 3: 2}[axes])
    stride = tuple(draw(st.integers(1, 2)) for _ in range(axes))
    size = tuple(s * draw(each) for s in stride)
    taps = tuple(draw(st.integers(1, {1: 7, 2: 4, 3: 3}[axes])) for _ in range(axes))
    dilation = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    groups, out, inside = (draw(st.integers(1, 3)) for _ in range(3))
    stream = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    weight = torch.randn(groups * out, inside, *taps, dtype=torch.float64, generator=stream)
    return Circular(weight, size, stride, dilation, groups)


@settings(deadline=None, max_examples=60)
@given(operator=circulars())
def test_closed_form_and_symbol_are_those_of_the_dense_matrix(operator: Circular) -> None:
    expected = np.linalg.svd(unrolled(operator), compute_uv=False)
    found = symbol_spectrum(operator)
    values = found.all_values().numpy()
    np.testing.assert_allclose(values, expected[: len(values)], atol=1e-10 * expected[0])
    np.testing.assert_allclose(expected[len(values) :], 0.0, atol=1e-10 * expected[0])
    assert found.multiplicity.sum() == prod(operator.out_size)
    assert float(participation_ratio(operator)) == pytest.approx(ratio(expected), rel=1e-10)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_circular_operator_is_what_a_module_with_circular_padding_does(axes: int) -> None:
    torch.manual_seed(axes)
    size = (5, 4, 3)[:axes]
    module = KINDS[axes](4, 6, 3, padding=1, groups=2, padding_mode="circular").double()
    images = torch.eye(4 * prod(size), dtype=torch.float64).reshape(-1, 4, *size)
    with torch.no_grad():
        matrix = linear_part(module, images, module.weight).flatten(1).T
    expected = torch.linalg.svdvals(matrix)
    found = symbol_spectrum(Circular.of(module, size)).all_values()
    torch.testing.assert_close(found, expected[: len(found)], rtol=1e-10, atol=1e-10)


def test_a_coarse_grid_holds_exact_values_of_the_fine_one() -> None:
    torch.manual_seed(0)
    operator = Circular(torch.randn(3, 2, 3, 3).double(), (8, 6), (1, 1), (1, 1))
    fine = symbol_spectrum(operator).values
    coarse = symbol_spectrum(operator, grid=(4, 2))
    assert coarse.multiplicity.sum() == 48
    assert len(coarse.values) == 8
    nearest = (coarse.values[:, None] - fine[None]).abs().amax(-1).amin(1)
    assert nearest.max() <= 1e-12


def test_float32_weights_keep_five_digits() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 4, 3, 3)
    plain = Circular(weight, (6, 6), (1, 1), (1, 1))
    exact = Circular(weight.double(), (6, 6), (1, 1), (1, 1))
    assert float(participation_ratio(plain)) == float(participation_ratio(exact))
    found, expected = symbol_spectrum(plain).all_values(), symbol_spectrum(exact).all_values()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_participation_ratio_has_no_scale(scale: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 4, 3)
    one, other = (Circular(w, (7,), (1,), (1,)) for w in (weight, weight.double() * scale))
    assert float(participation_ratio(other)) == pytest.approx(float(participation_ratio(one)))
    zero = Circular(torch.zeros(3, 4, 3), (7,), (1,), (1,))
    assert participation_ratio(zero).isnan()


def test_what_has_no_circular_spectrum_is_refused_by_name() -> None:
    weight = torch.randn(4, 2, 3)
    with pytest.raises(InputError, match=r"stride \(2,\).*size is \(7,\)"):
        Circular(weight, (7,), (2,), (1,))
    with pytest.raises(InputError, match="ConvTranspose1d has no circular spectrum"):
        Circular.of(nn.ConvTranspose1d(2, 3, 3), (7,))
    with pytest.raises(InputError, match="no convolution"):
        Circular(weight, (7, 7), (1,), (1,))
    with pytest.raises(InputError, match="4 output channels do not make 3 groups"):
        Circular(weight, (7,), (1,), (1,), 3)
    with pytest.raises(InputError, match=r"\(3,\) frequencies"):
        symbol_spectrum(Circular(weight, (8,), (1,), (1,)), grid=(3,))


ZERO_PADDED: dict[str, tuple[Any, tuple[int, ...]]] = {
    "padded": (nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4)),
    "strided": (nn.Conv2d(3, 2, 3, stride=2), (3, 7, 7)),
    "depthwise": (nn.Conv1d(4, 4, 3, padding="same", groups=4), (4, 6)),
    "dilated": (nn.Conv3d(1, 2, 2, dilation=2, padding=1), (1, 3, 4, 3)),
    "identity": (nn.Conv1d(2, 2, 1), (2, 3)),
    "positions": (nn.Linear(7, 5), (3, 7)),
}


def dense(module: Any, shape: tuple[int, ...]) -> Array:
    images = torch.eye(prod(shape), dtype=torch.float64).reshape(-1, *shape)
    with torch.no_grad():
        return linear_part(module, images, module.weight).flatten(1).T.numpy()


def leading(module: Any, shape: tuple[int, ...], **options: Any) -> Leading:
    weight = module.weight.detach()
    return largest_singular_values(
        lambda x: linear_part(module, x, weight),
        adjoint(module, weight, torch.Size((1, *shape))),
        shape=shape,
        like=weight,
        **options,
    )


@pytest.fixture(params=ZERO_PADDED)
def padded(request: pytest.FixtureRequest) -> tuple[Any, tuple[int, ...]]:
    module, shape = ZERO_PADDED[request.param]
    torch.manual_seed(1)
    module = module.double()
    with torch.no_grad():
        module.weight.normal_()
        if request.param == "identity":
            module.weight.copy_(torch.eye(2)[:, :, None])
    return module, shape


def test_as_many_steps_as_units_find_every_value(padded: tuple[Any, tuple[int, ...]]) -> None:
    expected = np.linalg.svd(dense(*padded), compute_uv=False)
    found = leading(*padded, count=1000, steps=1000)
    np.testing.assert_allclose(found.values, expected, atol=1e-10 * expected[0])
    assert float(found.residuals.max()) <= 1e-10 * expected[0]


def test_few_steps_come_from_below_and_within_the_residual(
    padded: tuple[Any, tuple[int, ...]],
) -> None:
    expected = np.linalg.svd(dense(*padded), compute_uv=False)
    found = leading(*padded, count=3, steps=5)
    assert float(found.values[0]) <= expected[0] * (1.0 + 1e-12)
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert np.abs(expected - float(value)).min() <= float(residual) + 1e-12
    again = leading(*padded, count=3, steps=5)
    assert torch.equal(found.values, again.values)


def test_converged_values_end_the_steps() -> None:
    module, shape = nn.Conv2d(3, 4, 3, padding=1).double(), (3, 9, 9)
    seen = 0

    def counted(x: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += 1
        return linear_part(module, x, module.weight.detach())

    weight = module.weight.detach()
    back = adjoint(module, weight, torch.Size((1, *shape)))
    found = largest_singular_values(
        counted, back, shape=shape, count=1, like=weight, steps=200, tolerance=1e-4
    )
    expected = np.linalg.svd(dense(module, shape), compute_uv=False)[0]
    assert float(found.values[0]) == pytest.approx(expected, rel=1e-6)
    assert seen < 100


def test_random_signs_estimate_the_participation_ratio(
    padded: tuple[Any, tuple[int, ...]],
) -> None:
    module, shape = padded
    weight = module.weight.detach()
    found = estimated_participation_ratio(
        lambda x: linear_part(module, x, weight),
        adjoint(module, weight, torch.Size((1, *shape))),
        shape=shape,
        energy=operator_energy(module, weight, torch.Size(shape)),
        like=weight,
        draws=400,
    )
    expected = ratio(np.linalg.svd(dense(*padded), compute_uv=False))
    slack = 4.0 * float(found.standard_error) + 1e-9
    assert abs(float(found.value) - expected) <= slack
    assert slack <= 0.25 * expected


def test_zero_and_circular_padding_differ() -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(3, 3, 3, padding=1).double()
    zero = np.linalg.svd(dense(module, (3, 5, 5)), compute_uv=False)
    circular = symbol_spectrum(Circular.of(module, (5, 5))).all_values()
    assert float(circular[0]) > zero[0] * 1.01
    assert abs(float(participation_ratio(Circular.of(module, (5, 5)))) / ratio(zero) - 1) > 0.01


def test_nothing_asked_for_is_refused() -> None:
    module, shape = ZERO_PADDED["padded"]
    with pytest.raises(InputError, match="0 singular values"):
        leading(module, shape, count=0)
    with pytest.raises(InputError, match="0 draws"):
        estimated_participation_ratio(
            *(torch.clone, torch.clone),
            shape=shape,
            energy=torch.ones(()),
            like=torch.ones(()),
            draws=0,
        )
