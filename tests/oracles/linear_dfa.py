"""Deep linear networks trained from zero by DFA, as weights and as alignment matrices.

The recursion is that of Refinetti et al. 2021: W_1 = F_1 A_1, W_l = F_l A_l F_{l-1}^T and
W_L = A_L F_{L-1}^T, where every A_l sums products of errors and of what reaches the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

__all__ = ["by_alignment_matrices", "by_weights"]

Array = np.ndarray


def by_weights(
    feedback: Sequence[Array], batch: tuple[Array, Array], *, steps: int, rate: float
) -> list[Array]:
    """Return the weights after full-batch steps on half the summed squared error.

    Args:
        feedback: F of every hidden layer, shape (units, outputs).
        batch: Inputs (samples, features) and targets (samples, outputs).
        steps: Number of steps.
        rate: Learning rate.
    """
    x, y = batch
    sizes = [x.shape[1], *(len(matrix) for matrix in feedback), y.shape[1]]
    weights = [np.zeros((above, below)) for below, above in pairwise(sizes)]
    for _ in range(steps):
        h = [x]
        for weight in weights:
            h.append(h[-1] @ weight.T)
        error = h.pop() - y
        signals = [error @ matrix.T for matrix in feedback] + [error]
        weights = [
            weight - rate * signal.T @ below
            for weight, signal, below in zip(weights, signals, h, strict=True)
        ]
    return weights


def by_alignment_matrices(
    feedback: Sequence[Array], batch: tuple[Array, Array], *, steps: int, rate: float
) -> list[Array]:
    """Return A_1 (outputs, features) and A_2 ... A_L (outputs, outputs) of the same training."""
    x, y = batch
    n = y.shape[1]
    matrices = [np.zeros((n, x.shape[1])), *(np.zeros((n, n)) for _ in feedback)]
    for _ in range(steps):
        z = [x, x @ matrices[0].T]
        for below, matrix in zip(feedback, matrices[1:], strict=True):
            z.append(z[-1] @ (matrix @ below.T @ below).T)
        error = z.pop() - y
        matrices = [
            matrix - rate * error.T @ below for matrix, below in zip(matrices, z, strict=True)
        ]
    return matrices
