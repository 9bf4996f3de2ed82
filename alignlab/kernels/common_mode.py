"""How much of a set of rows is the same in all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["common_mode", "common_mode_debiased", "mean_pairwise_cosine"]


def common_mode(rows: Tensor) -> Tensor:
    r"""Return the energy of the mean over the mean energy, :math:`\|\bar x\|^2/\overline{\|x\|^2}`.

    Rows that are independent and of mean zero have :math:`1/N` on average. Source: Reddy,
    Safaai & Sabatini, DFA-Stall (repository).

    Args:
        rows: One row per sample, shape ``(..., n_samples, n)``.

    Returns:
        Dimensionless, in [0, 1], shape ``(...)``, float64; NaN where all rows are zero.

    Example:
        >>> common_mode(torch.tensor([[1.0, 1.0], [1.0, -1.0]])).item()
        0.5
    """
    rows = wide(rows)
    energy = torch.linalg.vector_norm(rows, dim=(-2, -1)).square() / rows.shape[-2]
    share: Tensor = rows.mean(-2).square().sum(-1) / energy
    return share.clamp(0.0, 1.0)


def common_mode_debiased(share: Tensor, *, n_samples: int) -> Tensor:
    r"""Return the mean product of two different rows over the mean energy.

    .. math:: \frac{\sum_{i\ne j}\langle x_i, x_j\rangle / (N(N-1))}{\sum_i\|x_i\|^2/N}
        = \frac{N c - 1}{N - 1}

    The numerator is an unbiased estimate of the squared norm of the expectation, so that
    independent rows of mean zero give zero on average. Source: our derivation.

    Args:
        share: c, of ``common_mode``, any shape.
        n_samples: N, the number of rows.

    Returns:
        Dimensionless, in [-1 / (n_samples - 1), 1], of the same shape; NaN where c is, and for a
        single row.

    Example:
        >>> common_mode_debiased(common_mode(torch.eye(4)), n_samples=4).item()
        0.0
    """
    return (n_samples * share - 1.0) / (n_samples - 1.0) if n_samples > 1 else share * torch.nan


def mean_pairwise_cosine(gram: Tensor) -> Tensor:
    r"""Return the mean cosine of two different samples, those of norm zero left out.

    Source: DFA-Stall (repository).

    Args:
        gram: Products of all pairs of samples, shape ``(..., n_samples, n_samples)``.

    Returns:
        Dimensionless, in [-1, 1], shape ``(...)``, float64; NaN where fewer than two samples have
        a direction.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
        >>> mean_pairwise_cosine(rows @ rows.T).item()
        0.3333333333333333
    """
    gram = wide(gram)
    norms = torch.diagonal(gram, dim1=-2, dim2=-1).sqrt()
    inverse = torch.where(norms > 0, 1.0 / norms, 0.0)
    count = (norms > 0).sum(-1).double()
    cosines = gram * inverse.unsqueeze(-1) * inverse.unsqueeze(-2)
    pairs = count * (count - 1.0)
    found = torch.where(pairs > 0, (cosines.sum((-2, -1)) - count) / pairs, torch.nan)
    return found.clamp(-1.0, 1.0)
