"""Effective dimensions of a set of rows."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = [
    "energies",
    "entropy_rank",
    "isotropic_participation_ratio",
    "numerical_rank",
    "participation_ratio",
    "stable_rank",
]


def energies(rows: Tensor, *, centred: bool) -> Tensor:
    r"""Return the eigenvalues of :math:`X^\top X` that can differ from zero, descending.

    Args:
        rows: Matrix of samples, shape ``(n_samples, n)``.
        centred: Take the mean over samples away first.

    Returns:
        Squared singular values, float64, shape ``(min(n_samples, n),)``, at least 0.
    """
    matrix = wide(rows)
    if centred:
        matrix = matrix - matrix.mean(0, keepdim=True)
    scale = matrix.abs().amax().clamp_min(torch.finfo(torch.float64).tiny)
    matrix = matrix / scale
    gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    eigenvalues = torch.linalg.eigvalsh(gram).clamp_min(0.0).flip(0)
    result: Tensor = eigenvalues * scale**2
    return result


def participation_ratio(eigenvalues: Tensor) -> Tensor:
    r"""Return how many dimensions carry the variance, :math:`(\sum\lambda)^2/\sum\lambda^2`.

    Source: Gao et al. 2017, bioRxiv 214262.

    Args:
        eigenvalues: Eigenvalues of a covariance, shape ``(..., n)``.

    Returns:
        Dimensionless, in [1, n], shape ``(...)``; NaN where all are zero.

    Example:
        >>> participation_ratio(torch.ones(3)).item()
        3.0
    """
    share = eigenvalues / eigenvalues.sum(-1, keepdim=True)
    return 1.0 / (share**2).sum(-1)


def entropy_rank(eigenvalues: Tensor) -> Tensor:
    r"""Return :math:`\exp H(\lambda/\sum\lambda)`, the effective rank.

    Source: Roy & Vetterli 2007, EUSIPCO (there of singular values; here of energies).

    Args:
        eigenvalues: Eigenvalues of a covariance, shape ``(..., n)``.

    Returns:
        Dimensionless, in [1, n], shape ``(...)``; NaN where all are zero.

    Example:
        >>> round(entropy_rank(torch.ones(3)).item(), 6)
        3.0
    """
    share = eigenvalues / eigenvalues.sum(-1, keepdim=True)
    result: Tensor = torch.special.entr(share).sum(-1).exp()
    return result


def stable_rank(eigenvalues: Tensor) -> Tensor:
    r"""Return :math:`\|X\|_F^2/\|X\|_2^2`.

    Source: Rudelson & Vershynin 2007, Journal of the ACM 54(4).

    Args:
        eigenvalues: Eigenvalues of :math:`X^\top X`, shape ``(..., n)``.

    Returns:
        Dimensionless, in [1, n], shape ``(...)``; NaN where all are zero.
    """
    return eigenvalues.sum(-1) / eigenvalues.amax(-1)


def isotropic_participation_ratio(n_samples: int, n: int) -> float:
    """Return the participation ratio that isotropic noise of this shape has.

    Source: moments of the Wishart distribution, our derivation (checked by simulation).

    Args:
        n_samples: Number of rows.
        n: Number of columns.

    Returns:
        Dimensionless, at least 1, ``(n_samples * n + 2) / (n_samples + n + 1)``.

    Example:
        >>> round(isotropic_participation_ratio(128, 512))
        102
    """
    return (n_samples * n + 2) / (n_samples + n + 1)


def numerical_rank(rows: Tensor, *, tolerance: float = 1e-5) -> Tensor:
    """Return how many singular values exceed ``tolerance`` times the largest.

    Args:
        rows: Shape ``(n_samples, n)``.
        tolerance: Relative to the largest singular value.

    Returns:
        Count, float64 scalar; 0 for the zero matrix.
    """
    values = torch.linalg.svdvals(wide(rows))
    result: Tensor = (values > tolerance * values.amax().clamp_min(1e-300)).sum().double()
    return result
