"""Eigenvalues of operators that are only applied and need not be symmetric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alignlab.errors import InputError

__all__ = ["Krylov", "Ritz", "arnoldi", "ritz_values"]

_NOTHING = 16.0
"""Times the rounding of the largest image: what is left of a vector by rounding alone."""


@dataclass(frozen=True)
class Krylov:
    r"""An operator on a space of few vectors, :math:`H = V^\top A V` with orthonormal V.

    Attributes:
        projected: H, float64 on the host, shape ``(steps, steps)``.
        leaving: How much of the image of the last vector lies outside of the space; 0 where
            nothing does.
    """

    projected: np.ndarray
    leaving: float


@dataclass(frozen=True)
class Ritz:
    r"""Eigenvalues of an operator as far as they were found, largest real part first.

    Attributes:
        values: Complex, shape ``(steps,)``.
        residuals: :math:`|A x - \lambda x|` with the unit Ritz vector x, shape ``(steps,)``. A
            symmetric operator has an eigenvalue within this distance; of another one it says
            that a change of A by as much would have this eigenvalue.
        lowest: Smallest real part that :math:`x^* A x` takes on the space for unit x. The
            numerical range of the operator reaches at least from here...
        highest: ... to here.
    """

    values: np.ndarray
    residuals: np.ndarray
    lowest: float
    highest: float


def arnoldi(
    apply: Callable[[Tensor], Tensor], *, size: int, steps: int, like: Tensor, seed: int = 0
) -> Krylov:
    """Run Arnoldi's process from a random vector; each new one is made orthogonal twice.

    Where the space is exhausted a random vector goes on, so that as many steps as the operator
    has rows give all of it.

    Source: Arnoldi 1951, Quarterly of Applied Mathematics 9(1).

    Args:
        apply: Takes and returns a vector, shape ``(size,)``.
        size: Entries of a vector.
        steps: At least 1; memory is as many vectors. No more than ``size`` are made.
        like: Gives device and floating type of the vectors.
        seed: Of the random vectors.

    Returns:
        The operator on the space. One host synchronisation a step.

    Raises:
        InputError: No step is asked for.
    """
    if steps < 1:
        msg = f"{steps} steps of Arnoldi were asked for; ask for at least 1."
        raise InputError(msg)
    steps = min(steps, size)
    stream = torch.Generator().manual_seed(seed)
    basis = like.new_empty((steps, size))
    projected = np.zeros((steps, steps))
    vector, leaving, largest = _fresh(basis[:0], stream), 0.0, 0.0
    for step in range(steps):
        basis[step] = vector
        image = apply(vector)
        kept = basis[: step + 1]
        coefficients = kept @ image
        rest = image - kept.T @ coefficients
        again = kept @ rest
        rest = rest - kept.T @ again
        ends = torch.stack([image.norm(), rest.norm()])
        column = torch.cat([coefficients + again, ends]).double().cpu().numpy()
        projected[: step + 1, step] = column[:-2]
        largest, leaving = max(largest, column[-2]), float(column[-1])
        exhausted = leaving <= _NOTHING * torch.finfo(rest.dtype).eps * largest
        leaving = 0.0 if exhausted else leaving
        if step + 1 < steps:
            projected[step + 1, step] = leaving
            vector = _fresh(kept, stream) if exhausted else rest / leaving
    return Krylov(projected, leaving)


def _fresh(kept: Tensor, stream: torch.Generator) -> Tensor:
    """Return a random unit vector orthogonal to those that are kept."""
    vector = torch.randn(kept.shape[1], generator=stream).to(kept)
    for _ in range(2):
        vector = vector - kept.T @ (kept @ vector)
        vector = vector / vector.norm()
    return vector


def ritz_values(krylov: Krylov) -> Ritz:
    """Return the eigenvalues that a space of few vectors shows, with how far to trust them.

    Values at the edges of the spectrum converge first. No number of small residuals proves that
    nothing was missed, and of several equal eigenvalues only one may be found.

    Args:
        krylov: From ``arnoldi``.

    Returns:
        All Ritz values; those of the operator itself where the space is everything.

    Example:
        >>> matrix = torch.tensor([[0.0, 2.0], [-2.0, 0.0]])
        >>> found = ritz_values(arnoldi(lambda v: matrix @ v, size=2, steps=2, like=matrix))
        >>> np.abs(found.values.imag).round(4).tolist()
        [2.0, 2.0]
        >>> round(found.highest, 4)
        0.0
    """
    projected = krylov.projected
    values, vectors = np.linalg.eig(projected)
    vectors = vectors / np.linalg.norm(vectors, axis=0)
    residuals = krylov.leaving * np.abs(vectors[-1])
    extent = np.linalg.eigvalsh((projected + projected.T) / 2.0)
    order = np.lexsort((-values.imag, -values.real))
    return Ritz(values[order], residuals[order], float(extent[0]), float(extent[-1]))
