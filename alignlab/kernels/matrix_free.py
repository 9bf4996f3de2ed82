"""Singular values of operators that are only applied, never written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from alignlab.errors import InputError
from alignlab.kernels.cosines import wide

__all__ = ["Estimate", "Leading", "estimated_participation_ratio", "largest_singular_values"]

Operator = Callable[[Tensor], Tensor]

_NOTHING = 16.0
"""Times the rounding of the largest norm met: what is left of a vector by rounding alone."""


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

    All vectors are kept, and each new one is made orthogonal to them twice. Where the space of
    the start vector is exhausted a random one goes on, so that as many steps as the smaller side
    has units give every value, repeated ones included. With fewer steps the largest converge
    first, and of several equal ones only one may be found. The smallest values and the condition
    number converge last: at size they are only to be had for circular boundaries, from
    ``symbol_spectrum``.

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
        host synchronisation a step.

    Raises:
        InputError: No value or no step is asked for.
    """
    if count < 1 or steps < 1:
        msg = (
            f"{count} singular values in {steps} steps were asked for; ask for at least 1 of both."
        )
        raise InputError(msg)
    found: Leading | None = None
    stream = torch.Generator().manual_seed(seed)
    right = _Basis((1, *shape), steps, like, stream)
    for found in _bidiagonalised(apply, adjoint, right, count=count, steps=steps):
        small = found.residuals <= tolerance * found.values[0]
        if len(found.values) == count and bool((small & (found.residuals > 0.0)).all()):
            break
    assert found is not None
    return found


def _bidiagonalised(
    apply: Operator, adjoint: Operator, right: _Basis, *, count: int, steps: int
) -> Iterator[Leading]:
    """Yield what is found after every fourth step, and after the last one."""
    left: _Basis | None = None
    diagonal: list[float] = []
    above: list[float] = []
    leaving = 0.0
    vector = right.fresh()
    for step in range(steps):
        if vector is None:
            break
        right.keep(vector)
        image = apply(vector)
        left = left or right.beside(tuple(image.shape))
        unit, size = left.orthogonal(image)
        diagonal.append(size)
        if unit is None:
            # No image is left that those before do not hold: this row of the matrix is zero.
            leaving = 0.0
            break
        left.keep(unit)
        vector, leaving = right.orthogonal(adjoint(unit))
        above.append(leaving)
        if step % 4 == 3:
            yield _values(diagonal, above, leaving, count)
    assert left is not None
    yield _values(diagonal, above, leaving, min(count, left.kept))


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


class _Basis:
    """Orthonormal vectors of one shape, and what is orthogonal to all of them."""

    def __init__(
        self, shape: tuple[int, ...], most: int, like: Tensor, stream: torch.Generator
    ) -> None:
        self.kept = 0
        self._shape = shape
        self._most = most
        self._length = prod(shape)
        self._vectors = like.new_empty((min(most, self._length), self._length))
        self._stream = stream
        self._largest = 0.0

    def beside(self, shape: tuple[int, ...]) -> _Basis:
        """Return an empty basis of vectors of another shape."""
        return _Basis(shape, self._most, self._vectors, self._stream)

    def keep(self, vector: Tensor) -> None:
        self._vectors[self.kept] = vector.flatten()
        self.kept += 1

    def orthogonal(self, vector: Tensor) -> tuple[Tensor | None, float]:
        """Return the unit vector of what is new in a vector, and how much that is.

        Where nothing is new it is a random one with size 0, or None where none is left.
        """
        self._largest = max(self._largest, float(vector.norm()))
        rest = self._without_kept(vector.flatten())
        size = float(rest.norm())
        if size <= _NOTHING * torch.finfo(rest.dtype).eps * self._largest:
            return self.fresh(), 0.0
        return (rest / size).reshape(self._shape), size

    def fresh(self) -> Tensor | None:
        """Return a random unit vector orthogonal to those that are kept, None if there is none."""
        if self.kept == self._length:
            return None
        drawn = torch.randn(self._length, generator=self._stream).to(self._vectors)
        rest = self._without_kept(drawn / drawn.norm())
        unit: Tensor = (rest / rest.norm()).reshape(self._shape)
        return unit

    def _without_kept(self, vector: Tensor) -> Tensor:
        kept = self._vectors[: self.kept]
        for _ in range(2):
            vector = vector - kept.T @ (kept @ vector)
        return vector


def _values(diagonal: list[float], above: list[float], leaving: float, count: int) -> Leading:
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if len(diagonal) > 1:
        beside = torch.tensor(above[: len(diagonal) - 1], dtype=torch.float64)
        matrix += torch.diag(beside, 1)
    left, values, _ = torch.linalg.svd(matrix)
    return Leading(values[:count], (leaving * left[-1].abs())[:count])
