"""How well conditioned layers are: their extreme singular values, exact where that can be had."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from alignlab.kernels.convolution_spectrum import Circular, symbol_spectrum
from alignlab.kernels.cosines import wide
from alignlab.kernels.layers import adjoint, linear_part
from alignlab.kernels.matrix_free import Extremes, extreme_singular_values
from alignlab.kernels.unrolled import unrolled

__all__ = ["circular_extremes", "circular_operator", "condition_number", "layer_extremes"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_DENSE = 512
_MOST_WORK = 2e10


def condition_number(extremes: Extremes, *, precision: torch.dtype, size: int) -> Tensor:
    r"""Return :math:`\sigma_\text{max}/\sigma_\text{min}`.

    Args:
        extremes: Largest and smallest singular value.
        precision: Floating type of the weight, whose rounding hides what is smaller.
        size: Units of the larger side.

    Returns:
        At least 1, float64 scalar; infinite where the smallest is rounding alone (at most
        ``size`` roundings of the largest), NaN for the zero operator.

    Example:
        >>> one, zero = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0)
        >>> condition_number(Extremes(one, zero, one / 4, zero), precision=torch.float32, size=9)
        tensor(4., dtype=torch.float64)
    """
    floor = size * torch.finfo(precision).eps * extremes.largest
    ratio = extremes.largest / extremes.smallest
    singular = torch.where(extremes.largest > 0, torch.inf, torch.nan)
    return torch.where(extremes.smallest > floor, ratio, singular)


def circular_operator(module: nn.Module, weight: Tensor, shape: torch.Size) -> Circular:
    """Return a convolution with circular boundaries, for a transposed one what it transposes.

    Args:
        module: A convolution, transposed or not.
        weight: Shaped like the module's weight.
        shape: Shape of one input.

    Raises:
        InputError: It is no convolution, or its stride does not divide the size.
    """
    if isinstance(module, _TRANSPOSED):
        size = linear_part(module, weight.new_zeros((1, *shape)), weight).shape[2:]
        return Circular(weight, tuple(size), module.stride, module.dilation, module.groups)
    plain = Circular.of(module, shape[1:])
    return Circular(weight, plain.size, plain.stride, plain.dilation, plain.groups)


def circular_extremes(operator: Circular) -> Extremes:
    """Return the extreme singular values over all frequencies, exact.

    Args:
        operator: The convolution; its symbol is decomposed in float64 unless that takes more than
            seconds.
    """
    out, inside = operator.weight.shape[0] // operator.groups, operator.weight.shape[1]
    inside = inside * prod(operator.stride)
    work = prod(operator.out_size) * operator.groups * out * inside * min(out, inside)
    if 8 * work <= _MOST_WORK:
        operator = Circular(
            wide(operator.weight), operator.size, operator.stride, operator.dilation,
            operator.groups,
        )  # fmt: skip
    return _of_values(symbol_spectrum(operator).values)


def layer_extremes(
    module: nn.Module, weight: Tensor, shape: torch.Size, *, steps: int = 60
) -> Extremes:
    """Return the extreme singular values of a layer with the padding that it has.

    Exact for a Linear layer and for small maps, from the dense matrix, and for a convolution
    that is circular and keeps the size, from its symbol; else as far as some steps of
    bidiagonalisation find them, with their residuals.

    Args:
        module: Linear or convolution, transposed or not.
        weight: Shaped like the module's weight.
        shape: Shape of one input.
        steps: Of bidiagonalisation.

    Returns:
        Of as many singular values as the smaller side has units; residuals are 0 where exact.

    Example:
        >>> extremes = layer_extremes(nn.Linear(2, 2), torch.diag(torch.tensor([3.0, 2.0])), (2,))
        >>> [extremes.largest.item(), extremes.smallest.item()]
        [3.0, 2.0]
    """
    shape = torch.Size(shape)
    if isinstance(module, nn.Linear):
        if weight.numel() * min(weight.shape) <= _MOST_WORK:
            return _of_values(torch.linalg.svdvals(wide(weight)))
        shape = shape[-1:]
    outer = linear_part(module, weight.new_zeros((1, *shape)), weight).shape[1:]
    if _keeps_circular(module, shape, outer):
        return circular_extremes(circular_operator(module, weight, shape))
    if min(prod(shape), prod(outer)) <= _DENSE and prod(shape) * prod(outer) <= 4 * _DENSE**2:
        return _of_values(torch.linalg.svdvals(unrolled(module, wide(weight), shape)))
    return extreme_singular_values(
        lambda x: linear_part(module, x, weight),
        adjoint(module, weight, torch.Size((1, *shape))),
        shapes=(shape, outer),
        like=weight,
        steps=steps,
    )


def _keeps_circular(module: Any, shape: torch.Size, outer: torch.Size) -> bool:
    """Whether the layer is its own circular operator: no position is read past one period."""
    if getattr(module, "padding_mode", "") != "circular":
        return False
    divided = [
        n % s == 0 and n // s == m
        for n, s, m in zip(shape[1:], module.stride, outer[1:], strict=True)
    ]
    return all(divided)


def _of_values(values: Tensor) -> Extremes:
    values = wide(values)
    nothing = torch.zeros((), dtype=torch.float64, device=values.device)
    return Extremes(values.amax(), nothing, values.amin(), nothing)
