"""How many of several correlated normal values are positive."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["positive_share_sd", "positive_shares"]


def positive_shares(covariance: Tensor, *, count: int, stream: torch.Generator) -> Tensor:
    r"""Draw the share of positive values among jointly normal ones of mean zero.

    Source: our derivation, for products with random feedback of which only the sign counts.

    Args:
        covariance: Positive semidefinite, shape ``(n, n)``; values of variance zero are left out.
        count: How many draws.
        stream: Source of randomness, on the host.

    Returns:
        Dimensionless, in [0, 1], shape ``(count,)``, float64; NaN where all variances are zero.

    Example:
        >>> stream = torch.Generator().manual_seed(0)
        >>> alike = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
        >>> positive_shares(alike, count=3, stream=stream)
        tensor([0.5000, 0.5000, 0.5000], dtype=torch.float64)
    """
    correlation, known = _correlation(covariance)
    values, vectors = torch.linalg.eigh(correlation)
    # What rounding leaves of directions that are not there would break ties.
    kept = values.clamp_min(0.0) * (values > 1e-10 * values[-1:])
    root = vectors * kept.sqrt()
    normal = torch.randn(count, len(root), generator=stream, dtype=torch.float64).to(root)
    positive = (normal @ root.T > 0) & known
    result: Tensor = positive.double().sum(1) / known.sum()
    return result


def positive_share_sd(covariance: Tensor) -> Tensor:
    r"""Return the standard deviation of the share of positive values among normal ones.

    .. math:: \mathrm{sd}^2 = \frac{1}{n^2} \sum_{ij} \frac{\arcsin \rho_{ij}}{2\pi}

    Source: Sheppard 1899 for the probability of two equal signs.

    Args:
        covariance: Shape ``(n, n)``; values of variance zero are left out.

    Returns:
        Dimensionless, in [0, 0.5], scalar, float64; NaN where all variances are zero.

    Example:
        >>> round(positive_share_sd(torch.eye(4)).item(), 6)
        0.25
    """
    correlation, known = _correlation(covariance)
    both = known.unsqueeze(0) & known.unsqueeze(1)
    angles = torch.where(both, correlation.clamp(-1.0, 1.0).asin(), 0.0)
    total = angles.sum().clamp_min(0.0) / (2.0 * torch.pi)
    result: Tensor = total.sqrt() / known.sum()
    return result


def _correlation(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return correlations, and which values vary; those of the others are zero."""
    matrix = wide(covariance)
    deviations = torch.diagonal(matrix).clamp_min(0.0).sqrt()
    known = (deviations > 0) & torch.isfinite(deviations)
    scale = torch.where(known, deviations, 1.0)
    both = known.unsqueeze(0) & known.unsqueeze(1)
    found = torch.where(both, matrix / scale.unsqueeze(0) / scale.unsqueeze(1), 0.0)
    # Numbers below all rounding can keep an eigenvalue iteration from ending.
    return torch.where(found.abs() > 1e-30, found, 0.0), known
