"""Alignment matrices and their conditioning."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = [
    "condition_number",
    "cosine_with_identity",
    "restricted",
    "symmetric_eigenvalues",
    "symmetric_minimum",
]


def restricted(matrix: Tensor, basis: Tensor) -> Tensor:
    r"""Return :math:`U^\top A U`, an alignment matrix on the space of the errors.

    Args:
        matrix: Alignment matrix A, shape ``(n_errors, n_errors)``.
        basis: Orthonormal columns U, shape ``(n_errors, r)``.

    Returns:
        Shape ``(r, r)``, float64.
    """
    basis = wide(basis)
    return basis.T @ wide(matrix) @ basis


def condition_number(matrix: Tensor) -> Tensor:
    """Return the largest over the smallest singular value.

    Args:
        matrix: Shape ``(..., r, r)``.

    Returns:
        Dimensionless, at least 1, shape ``(...)``; infinite for a singular matrix.
    """
    values = torch.linalg.svdvals(wide(matrix))
    smallest = values[..., -1]
    singular = smallest <= values[..., 0] * torch.finfo(torch.float64).eps * values.shape[-1]
    return torch.where(singular, torch.inf, values[..., 0] / smallest)


def cosine_with_identity(matrix: Tensor) -> Tensor:
    r"""Return :math:`\mathrm{tr}A/(\sqrt r\,\|A\|_F)`, the signed cosine with the identity.

    Args:
        matrix: Shape ``(..., r, r)``.

    Returns:
        Dimensionless, in [-1, 1], shape ``(...)``; NaN for the zero matrix.

    Example:
        >>> cosine_with_identity(-torch.eye(3)).item()
        -1.0
    """
    matrix = wide(matrix)
    trace = torch.diagonal(matrix, dim1=-2, dim2=-1).sum(-1)
    value = trace / (matrix.shape[-1] ** 0.5 * torch.linalg.matrix_norm(matrix))
    result: Tensor = value.clamp(-1.0, 1.0)
    return result


def symmetric_eigenvalues(matrix: Tensor) -> Tensor:
    """Return the eigenvalues of the symmetric part, over the largest singular value, descending.

    Args:
        matrix: Shape ``(..., r, r)``.

    Returns:
        Dimensionless, in [-1, 1], float64, shape ``(..., r)``; NaN for the zero matrix.

    Example:
        >>> symmetric_eigenvalues(torch.tensor([[2.0, 2.0], [-2.0, -1.0]])).tolist()[0]
        0.6...
    """
    matrix = wide(matrix)
    values = torch.linalg.eigvalsh((matrix + matrix.mT) / 2.0).flip(-1)
    result: Tensor = values / torch.linalg.matrix_norm(matrix, 2).unsqueeze(-1)
    return result


def symmetric_minimum(matrix: Tensor) -> Tensor:
    """Return the smallest eigenvalue of the symmetric part, over the largest singular value.

    Args:
        matrix: Shape ``(..., r, r)``.

    Returns:
        Dimensionless, in [-1, 1], shape ``(...)``; positive where every error descends.
    """
    return symmetric_eigenvalues(matrix)[..., -1]
