"""Singular values of operators that are only applied, never written out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from alignlab.errors import InputError
from alignlab.kernels.bidiagonal import Operator, bidiagonalised
from alignlab.kernels.cosines import wide

__all__ = [
    "Estimate",
    "Extremes",
    "Leading",
    "estimated_participation_ratio",
    "extreme_singular_values",
    "largest_singular_values",
]


@dataclass(frozen=True)
class Leading:
    """The largest singular values as far as they were found.

    Attributes:
        values: Descending, float64, shape ``(count,)``.
        residuals: Within this distance of each value lies a singular value of the operator,
            up to rounding; float64, shape ``(count,)``.
    """

    values: Tensor
    residuals: Tensor


@dataclass(frozen=True)
class Extremes:
    """The largest and the smallest singular value as far as they were found.

    Attributes:
        largest: At most that of the operator, float64 scalar.
        largest_residual: Within this distance of it lies a singular value of the operator.
        smallest: At least that of the operator, among as many as its smaller side has units.
        smallest_residual: Within this distance of it lies a singular value; where it is not far
            below ``smallest`` nothing is known but that upper bound.
    """

    largest: Tensor
    largest_residual: Tensor
    smallest: Tensor
    smallest_residual: Tensor


@dataclass(frozen=True)
class Estimate:
    """A number from random draws.

    Attributes:
        value: float64 scalar.
        standard_error: Over the draws, float64 scalar; NaN for a single draw.
    """

    value: Tensor
    standard_error: Tensor


def largest_singular_values(
    apply: Operator,
    adjoint: Operator,
    *,
    shape: Sequence[int],
    count: int,
    like: Tensor,
    steps: int = 60,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> Leading:
    r"""Return the largest singular values by Golub-Kahan-Lanczos bidiagonalisation.

    As many steps as the smaller side has units give every value, repeated ones included. With
    fewer steps the largest converge first, and of several equal ones only one may be found. For
    the smallest value and the condition number see ``extreme_singular_values``, and for circular
    boundaries ``symbol_spectrum``.

    Source: Golub and Kahan 1965, SIAM Journal on Numerical Analysis 2(2).

    Args:
        apply: Takes ``(1, *shape)``, returns the image with its first axis 1.
        adjoint: Takes such an image, returns ``(1, *shape)``.
        shape: Of one input, without an axis of samples.
        count: How many values, at least 1.
        like: Gives device and floating type of the vectors.
        steps: At most so many; memory is that many inputs and images.
        tolerance: Steps end when all residuals are below this share of the largest value.
        seed: Of the start vector.

    Returns:
        At most ``count`` values, fewer where the operator or the steps have fewer. One
        host synchronisation every four steps.

    Raises:
        InputError: No value or no step is asked for.
    """
    _require(count, steps)
    every = bidiagonalised(apply, adjoint, shape=shape, steps=steps, like=like, seed=seed)
    for number, last in enumerate(every):
        if number % 4 != 3:
            continue
        found = Leading(*(part[:count] for part in last.singular_values()))
        small = found.residuals <= tolerance * found.values[0]
        if len(found.values) == count and bool((small & (found.residuals > 0.0)).all()):
            return found
    return Leading(*(part[:count] for part in last.singular_values()))


def _require(count: int, steps: int) -> None:
    if count < 1 or steps < 1:
        msg = (
            f"{count} singular values in {steps} steps were asked for; ask for at least 1 of both."
        )
        raise InputError(msg)


def extreme_singular_values(
    apply: Operator,
    adjoint: Operator,
    *,
    shapes: tuple[Sequence[int], Sequence[int]],
    like: Tensor,
    steps: int = 60,
    seed: int = 0,
) -> Extremes:
    r"""Return the largest and the smallest singular value after a fixed number of steps.

    Steps run on the smaller side, so that the smallest of its values is found and not the zeros
    of what the larger side has more. The largest comes from below and converges first; the
    smallest comes from above, and in few steps only where the operator is well conditioned: its
    residual says. With as many steps as the smaller side has units both are exact.

    Source: Golub and Kahan 1965, SIAM Journal on Numerical Analysis 2(2).

    Args:
        apply: Takes ``(1, *shapes[0])``, returns ``(1, *shapes[1])``.
        adjoint: The other way round.
        shapes: Of one input and one output, without an axis of samples.
        like: Gives device and floating type of the vectors.
        steps: At most so many, at least 1; memory is that many inputs and outputs.
        seed: Of the start vector.

    Returns:
        Values and residuals; nothing waits for the device.

    Raises:
        InputError: No step is asked for.

    Example:
        >>> weight = torch.diag(torch.tensor([4.0, 3.0, 2.0]))
        >>> found = extreme_singular_values(
        ...     lambda x: x @ weight, lambda y: y @ weight, shapes=((3,), (3,)), like=weight
        ... )
        >>> [round(found.largest.item(), 4), round(found.smallest.item(), 4)]
        [4.0, 2.0]
    """
    _require(1, steps)
    if prod(shapes[0]) > prod(shapes[1]):
        apply, adjoint, shapes = adjoint, apply, shapes[::-1]
    every = bidiagonalised(apply, adjoint, shape=shapes[0], steps=steps, like=like, seed=seed)
    *_, found = every
    values, residuals = found.singular_values()
    return Extremes(values[0], residuals[0], values[-1], residuals[-1])


def estimated_participation_ratio(
    apply: Operator,
    adjoint: Operator,
    *,
    shape: Sequence[int],
    energy: Tensor,
    like: Tensor,
    draws: int = 8,
    seed: int = 0,
) -> Estimate:
    r"""Return :math:`(\sum\sigma^2)^2/\sum\sigma^4` from random signs.

    :math:`\sum\sigma^4 = \|A^\top A\|_F^2 = E\|A^\top A z\|^2` for independent signs z, while
    :math:`\sum\sigma^2` is known exactly. The estimate is that of a reciprocal, so it is
    biased upwards by about the square of its relative standard error.

    Source: Hutchinson 1990, Communications in Statistics 19(2).

    Args:
        apply: Takes ``(1, *shape)``, returns the image with its first axis 1.
        adjoint: Takes such an image, returns ``(1, *shape)``.
        shape: Of one input, without an axis of samples.
        energy: The operator's squared Frobenius norm, scalar.
        like: Gives device and floating type of the vectors.
        draws: At least 1; 2 for a standard error.
        seed: Of the signs.

    Returns:
        Dimensionless; NaN for the zero operator.

    Raises:
        InputError: No draw is asked for.
    """
    if draws < 1:
        msg = f"{draws} draws estimate nothing; ask for at least 1, and 2 for a standard error."
        raise InputError(msg)
    stream = torch.Generator().manual_seed(seed)
    squares = []
    for _ in range(draws):
        signs = 2.0 * torch.randint(0, 2, (1, *shape), generator=stream).to(like) - 1.0
        squares.append(wide(adjoint(apply(signs))).square().sum())
    fourth = torch.stack(squares)
    value = wide(energy).square() / fourth.mean()
    spread = fourth.std() if draws > 1 else torch.full_like(value, torch.nan)
    return Estimate(value, value * spread / (draws**0.5 * fourth.mean()))
