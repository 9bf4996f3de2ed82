r"""Cosines with Jacobians of which only products with random output directions are known."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide
from alignlab.kernels.matrix_free import Estimate

__all__ = ["chance_factor", "sketched_cosine"]


def sketched_cosine(products: Tensor, squares: Tensor, norm: Tensor) -> Estimate:
    r"""Return an estimate of :math:`\langle B, J\rangle/(\|B\|\|J\|)` and its standard error.

    For signs (or normal numbers) s of mean square 1, :math:`\mathbb{E}\langle s^\top B,
    s^\top J\rangle = \langle B, J\rangle` and :math:`\mathbb{E}\|s^\top J\|^2 = \|J\|_F^2`, so
    that products and squares are unbiased. Their ratio is biased by about the reciprocal of the
    number of directions. The standard error is that of the ratio's linear part over directions.

    Source: Hutchinson 1990, Communications in Statistics 19(2).

    Args:
        products: :math:`\langle s_k^\top B, s_k^\top J\rangle`, shape ``(..., n_directions)``.
        squares: :math:`\|s_k^\top J\|^2`, likewise.
        norm: :math:`\|B\|_F`, known exactly, shape ``(...)``.

    Returns:
        Dimensionless, float64, shape ``(...)``. The value can leave [-1, 1] where there are few
        directions. Both are NaN for the zero Jacobian or feedback, and the standard error
        for a single direction.
    """
    products, squares, norm = wide(products), wide(squares), wide(norm)
    mean, energy = products.mean(-1), squares.mean(-1)
    size = norm * energy.sqrt()
    value = mean / size
    linear = (products - (mean / (2.0 * energy)).unsqueeze(-1) * squares) / size.unsqueeze(-1)
    count = products.shape[-1]
    spread = linear.std(-1) if count > 1 else torch.full_like(value, torch.nan)
    defined = size > 0
    return Estimate(
        torch.where(defined, value, torch.nan),
        torch.where(defined, spread / count**0.5, torch.nan),
    )


def chance_factor(n_errors: int, count: int) -> float:
    r"""Return by how much sketching widens the chance level, :math:`\sqrt{1 + (C - 1)/K}`.

    Over feedback B of independent entries, :math:`\langle B, \tfrac1K\sum_k s_ks_k^\top J\rangle`
    has the variance :math:`\sigma_B^2\,\|\tfrac1K\sum_k s_ks_k^\top J\|^2`, of which the mean over
    signs s is :math:`\sigma_B^2\|J\|^2(1 + (C-1)/K)`. Source: our derivation.

    Args:
        n_errors: Entries of the error, C.
        count: Directions of random signs, K.

    Example:
        >>> chance_factor(1000, 111)
        3.16...
    """
    return float((1.0 + (n_errors - 1.0) / count) ** 0.5)
