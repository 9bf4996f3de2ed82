"""How much of a set of rows is the same in all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["common_mode", "common_mode_debiased", "mean_pairwise_cosine"]


def common_mode(rows: Tensor) -> Tensor:
    r"""Return :math:`\|\bar x\|^2 / \overline{\|x\|^2}`, the energy of the mean over the mean energy.

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
    rows = _scaled(rows)
    share: Tensor = rows.mean(-2).square().sum(-1) / rows.square().sum(-1).mean(-1)
    return share.clamp(0.0, 1.0)


def common_mode_debiased(rows: Tensor) -> Tensor:
    r"""Return the mean product of two different rows over the mean energy.

    .. math:: \frac{\sum_{i\ne j}\langle x_i, x_j\rangle / (N(N-1))}{\sum_i\|x_i\|^2/N}
        = \frac{N c - 1}{N - 1}, \qquad c = \|\bar x\|^2/\overline{\|x\|^2}

    The numerator is an unbiased estimate of the squared norm of the expectation, so that
    independent rows of mean zero give zero on average. Source: our derivation.

    Args:
        rows: One row per sample, shape ``(..., n_samples, n)``.

    Returns:
        Dimensionless, in [-1 / (n_samples - 1), 1], shape ``(...)``, float64; NaN where all rows
        are zero and for a single row.

    Example:
        >>> common_mode_debiased(torch.eye(4)).item()
        0.0
    """
    n_samples = rows.shape[-2]
    share = common_mode(rows)
    return (n_samples * share - 1.0) / (n_samples - 1.0) if n_samples > 1 else share * torch.nan


def mean_pairwise_cosine(rows: Tensor) -> Tensor:
    r"""Return the mean cosine of two different rows, those of norm zero left out.

    Source: DFA-Stall (repository).

    Args:
        rows: One row per sample, shape ``(..., n_samples, n)``.

    Returns:
        Dimensionless, in [-1, 1], shape ``(...)``, float64; NaN where fewer than two rows have
        a direction.

    Example:
        >>> mean_pairwise_cosine(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])).item()
        0.3333333333333333
    """
    rows = _scaled(rows)
    norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    unit = torch.where(norms > 0, rows / norms, 0.0)
    count = (norms > 0).sum((-2, -1)).double()
    total: Tensor = unit.sum(-2).square().sum(-1) - count
    pairs = count * (count - 1.0)
    return torch.where(pairs > 0, total / pairs, torch.nan).clamp(-1.0, 1.0)


def _scaled(rows: Tensor) -> Tensor:
    """Return rows in float64 by their largest entry, so that no square is too small to hold."""
    rows = wide(rows)
    return rows / rows.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
