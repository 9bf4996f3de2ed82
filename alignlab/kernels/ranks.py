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
    "relative_energies",
    "scaled_grams",
    "spectral_rank",
    "stable_rank",
]


def energies(rows: Tensor, *, centred: bool) -> Tensor:
    r"""Return the eigenvalues of :math:`X^\top X` that can differ from zero, descending.

    Args:
        rows: Matrices of samples, shape ``(..., n_samples, n)``.
        centred: Take the mean over samples away first.

    Returns:
        Squared singular values, float64, shape ``(..., min(n_samples, n))``, at least 0; NaN
        for a matrix that is not finite.

    Example:
        >>> energies(torch.diag(torch.tensor([1.0, 3.0])), centred=False).tolist()
        [9.0, 1.0]
    """
    matrix = wide(rows)
    if centred:
        matrix = matrix - matrix.mean(-2, keepdim=True)
    scale = matrix.abs().amax((-2, -1)).square()
    return relative_energies(scaled_grams(matrix)[0]) * scale.unsqueeze(-1)


def scaled_grams(rows: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the smaller of :math:`X^\top X` and :math:`XX^\top`, as it is and about the mean.

    Args:
        rows: Matrices X of samples, shape ``(..., n_samples, n)``; scaled to 1 at most.

    Returns:
        Plain, and with the mean over samples taken away; float64, each of shape ``(..., k, k)``
        with k the smaller of ``n_samples`` and n; NaN for a matrix that is not finite.

    Example:
        >>> plain, centred = scaled_grams(torch.tensor([[4.0], [2.0]]))
        >>> plain.tolist(), centred.tolist()
        ([[1.25]], [[0.125]])
    """
    matrix = wide(rows)
    scale = matrix.abs().amax((-2, -1), keepdim=True)
    matrix = matrix / scale.clamp_min(torch.finfo(torch.float64).tiny)
    if matrix.shape[-2] >= matrix.shape[-1]:
        mean = matrix.mean(-2, keepdim=True)
        apart = matrix - mean
        return matrix.mT @ matrix, apart.mT @ apart
    gram = matrix @ matrix.mT
    by_sample = gram.mean(-1, keepdim=True)
    return gram, gram - by_sample - by_sample.mT + by_sample.mean(-2, keepdim=True)


def relative_energies(grams: Tensor) -> Tensor:
    """Return the eigenvalues of Gram matrices, descending; effective dimensions need no more.

    Args:
        grams: As ``scaled_gram`` gives them, shape ``(..., k, k)``.

    Returns:
        Float64, shape ``(..., k)``, at least 0; NaN for a matrix that is not finite.

    Example:
        >>> relative_energies(torch.diag(torch.tensor([1.0, 4.0]))).tolist()
        [4.0, 1.0]
    """
    finite = torch.isfinite(grams).all(-1).all(-1)[..., None]
    found = torch.linalg.eigvalsh(torch.where(finite.unsqueeze(-1), wide(grams), 0.0))
    result: Tensor = torch.where(finite, found.clamp_min(0.0).flip(-1), torch.nan)
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


def spectral_rank(eigenvalues: Tensor, *, tolerance: float = 1e-5) -> Tensor:
    r"""Return how many singular values exceed ``tolerance`` times the largest.

    Args:
        eigenvalues: Eigenvalues of :math:`X^\top X`, as ``energies`` gives them, ``(..., n)``.
            They are good to about 1e-15 of the largest, singular values thus to 1e-7.
        tolerance: Relative to the largest singular value, at least 1e-6.

    Returns:
        Count, float64, shape ``(...)``; 0 for the zero matrix, NaN where one is not finite.

    Example:
        >>> spectral_rank(torch.tensor([4.0, 1.0, 0.0])).item()
        2.0
    """
    largest = eigenvalues.amax(-1, keepdim=True)
    above = (eigenvalues > tolerance**2 * largest).sum(-1).double()
    result: Tensor = torch.where(torch.isfinite(largest.squeeze(-1)), above, torch.nan)
    return result


def numerical_rank(rows: Tensor, *, tolerance: float = 1e-5) -> Tensor:
    """Return how many singular values of matrices exceed ``tolerance`` times the largest.

    Args:
        rows: Shape ``(..., n_samples, n)``.
        tolerance: Relative to the largest singular value, at least 1e-6.

    Returns:
        Count, float64, shape ``(...)``; 0 for the zero matrix.

    Example:
        >>> numerical_rank(torch.ones(3, 2)).item()
        1.0
    """
    return spectral_rank(energies(rows, centred=False), tolerance=tolerance)
