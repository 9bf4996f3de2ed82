"""Golub-Kahan bidiagonalisation of operators, without a look at any value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["Bidiagonal", "Operator", "bidiagonalised"]

Operator = Callable[[Tensor], Tensor]

_NOTHING = 16.0
"""Times the rounding of the largest norm met: what is left of a vector by rounding alone."""


@dataclass(frozen=True)
class Bidiagonal:
    """What some steps have found of an operator: B with A V = U B, upper bidiagonal.

    Attributes:
        diagonal: Scalars, one a step.
        above: Scalars beside the diagonal; that of the last step leads out of the space.
        kept: Left vectors that were found.
    """

    diagonal: Sequence[Tensor]
    above: Sequence[Tensor]
    kept: int

    def singular_values(self) -> tuple[Tensor, Tensor]:
        """Return the singular values of B, descending, and their residuals, in float64.

        Within the residual of each lies a singular value of the operator.
        """
        count = len(self.diagonal)
        matrix = torch.diag(wide(torch.stack(list(self.diagonal))))
        if count > 1:
            matrix = matrix + torch.diag(wide(torch.stack(list(self.above[: count - 1]))), 1)
        left, values, _ = torch.linalg.svd(matrix)
        leaving = wide(self.above[count - 1]) if len(self.above) == count else 0.0
        residuals = leaving * left[-1].abs()
        return values[: self.kept], residuals[: self.kept]


def bidiagonalised(
    apply: Operator,
    adjoint: Operator,
    *,
    shape: Sequence[int],
    steps: int,
    like: Tensor,
    seed: int,
) -> Iterator[Bidiagonal]:
    """Yield what is found after every step.

    All vectors are kept, and each new one is made orthogonal to them twice. Where the space of
    the start vector is exhausted a random one goes on, so that as many steps as the smaller side
    has units give every value, repeated ones included. Nothing waits for the device.

    Source: Golub and Kahan 1965, SIAM Journal on Numerical Analysis 2(2).

    Args:
        apply: Takes ``(1, *shape)``, returns the image with its first axis 1.
        adjoint: Takes such an image, returns ``(1, *shape)``.
        shape: Of one input, without an axis of samples.
        steps: At most so many; memory is that many inputs and images.
        like: Gives device and floating type of the vectors.
        seed: Of the start vector.
    """
    stream = torch.Generator().manual_seed(seed)
    right = _Basis((1, *shape), steps, like, stream)
    left: _Basis | None = None
    diagonal: list[Tensor] = []
    above: list[Tensor] = []
    vector: Tensor | None = right.fresh()
    for _ in range(steps):
        if vector is None:
            return
        right.keep(vector)
        image = apply(vector)
        left = left or _Basis(tuple(image.shape), steps, like, stream)
        unit, size = left.orthogonal(image)
        diagonal.append(size)
        if unit is None:
            # No image is left that those before do not hold: this row of the matrix is zero.
            yield Bidiagonal(diagonal, above, left.kept)
            return
        left.keep(unit)
        vector, leaving = right.orthogonal(adjoint(unit))
        above.append(leaving)
        yield Bidiagonal(diagonal, above, left.kept)


class _Basis:
    """Orthonormal vectors of one shape, and what is orthogonal to all of them."""

    def __init__(
        self, shape: tuple[int, ...], most: int, like: Tensor, stream: torch.Generator
    ) -> None:
        self.kept = 0
        self._shape = shape
        self._length = prod(shape)
        self._vectors = like.new_empty((min(most, self._length), self._length))
        self._stream = stream
        self._largest = like.new_zeros(())

    def keep(self, vector: Tensor) -> None:
        self._vectors[self.kept] = vector.flatten()
        self.kept += 1

    def orthogonal(self, vector: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the unit vector of what is new in a vector, and how much that is.

        Where nothing is new it is a random one with size 0, or None where none is left.
        """
        if self.kept == self._length:
            return None, torch.zeros_like(self._largest)
        self._largest = torch.maximum(self._largest, vector.norm())
        rest = self._without_kept(vector.flatten())
        size = rest.norm()
        is_nothing = size <= _NOTHING * torch.finfo(rest.dtype).eps * self._largest
        unit = torch.where(is_nothing, self.fresh().flatten(), rest / size)
        return unit.reshape(self._shape), torch.where(is_nothing, 0.0, size)

    def fresh(self) -> Tensor:
        """Return a random unit vector orthogonal to those that are kept."""
        drawn = torch.randn(self._length, generator=self._stream).to(self._vectors)
        rest = self._without_kept(drawn / drawn.norm())
        unit: Tensor = (rest / rest.norm()).reshape(self._shape)
        return unit

    def _without_kept(self, vector: Tensor) -> Tensor:
        kept = self._vectors[: self.kept]
        for _ in range(2):
            vector = vector - kept.T @ (kept @ vector)
        return vector
