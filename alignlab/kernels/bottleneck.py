"""What a narrow place or frozen weights leave of an alignment."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.kernels.cosines import cosine, wide

__all__ = [
    "bounds_by_rank",
    "expected_masked_cosine",
    "masked_cosine",
    "sufficient_rank",
    "trained_bound",
    "trained_share",
]


def bounds_by_rank(energies: Tensor) -> Tensor:
    r"""Return the largest cosine of a matrix with one of rank r, for r = 1, 2, ...

    It is :math:`\sqrt{\sum_{j\le r}s_j^2/\sum_j s_j^2}` with s the singular values: no matrix of
    that rank is closer in direction than the truncated one (Eckart & Young 1936).

    Args:
        energies: Squared singular values, descending, shape ``(..., n)``.

    Returns:
        Dimensionless, in [0, 1], increasing, shape ``(..., n)``; NaN where all are zero.

    Example:
        >>> bounds_by_rank(torch.tensor([0.64, 0.36])).tolist()
        [0.8, 1.0]
    """
    partial = wide(energies).cumsum(-1)
    return (partial / partial[..., -1:]).sqrt().clamp_max(1.0)


def sufficient_rank(bounds: Tensor, *, level: float) -> Tensor:
    """Return the least rank that allows a cosine.

    Args:
        bounds: As ``bounds_by_rank`` gives them, shape ``(..., n)``.
        level: The cosine that is wanted, below 1.

    Returns:
        Count, from 1, float64, shape ``(...)``; NaN where a bound is.

    Example:
        >>> sufficient_rank(torch.tensor([0.8, 0.95, 1.0]), level=0.9).item()
        2.0
    """
    count = (bounds < level).sum(-1).double() + 1.0
    return torch.where(torch.isnan(bounds).any(-1), torch.nan, count)


def masked_cosine(true: Tensor, approximate: Tensor, order: Tensor, shares: Tensor) -> Tensor:
    r"""Return the cosines of a gradient with another of which only some entries are left.

    Args:
        true: Shape ``(..., n)``.
        approximate: Shape ``(..., n)``.
        order: Numbers in [0, 1) that say when an entry is left out, shape ``(..., n)``: an entry
            stays at share p where its number is below p, so that smaller shares are parts of
            larger ones.
        shares: Shape ``(n_shares,)``.

    Returns:
        Dimensionless, in [-1, 1], shape ``(..., n_shares)``; NaN where nothing is left.

    Example:
        >>> true, order = torch.tensor([3.0, 4.0]), torch.tensor([0.1, 0.7])
        >>> masked_cosine(true, true, order, torch.tensor([1.0, 0.5])).tolist()
        [1.0, 0.6]
    """
    rows = wide(approximate)
    found = [cosine(true, rows * (order < share)) for share in shares.unbind()]
    return torch.stack(found, -1)


def expected_masked_cosine(true: Tensor, approximate: Tensor, shares: Tensor) -> Tensor:
    r"""Return that cosine on average over masks that keep each entry with probability p.

    To second order in how well the norm of what is left concentrates,

    .. math:: \sqrt p\,c\,\Big[1 - \frac{1-p}{2p}\frac{\sum_j a_j b_j}{\sum a\sum b}
        + \frac{3(1-p)}{8p}\frac{\sum_j b_j^2}{(\sum b)^2}\Big],

    with :math:`a_j = \hat g_j g_j`, :math:`b_j = \hat g_j^2` and c the cosine without a mask;
    :math:`\sqrt p\,c` where no few entries hold the gradient. Against a true gradient under the
    same mask it is c, against one under a mask of its own :math:`p\,c`, to first order.
    Source: our derivation.

    Args:
        true: Shape ``(..., n)``.
        approximate: Shape ``(..., n)``.
        shares: Probabilities p, above 0, shape ``(n_shares,)``.

    Returns:
        Dimensionless, in [-1, 1], shape ``(..., n_shares)``; NaN where either is zero, or where
        fewer than four entries' worth of gradient would be left.

    Example:
        >>> ones, share = torch.ones(400), torch.tensor([0.25])
        >>> round(expected_masked_cosine(ones, ones, share).item(), 8)
        0.49953125
    """
    first = wide(true) / wide(true).abs().amax(-1, keepdim=True)
    second = wide(approximate) / wide(approximate).abs().amax(-1, keepdim=True)
    product, energy = first * second, second.square()
    total, own = product.sum(-1, keepdim=True), energy.sum(-1, keepdim=True)
    # The relative covariance of product and energy under the mask, without the product's mean.
    together = (product * energy).sum(-1, keepdim=True) / own
    spread = energy.square().sum(-1, keepdim=True) / own.square()
    odds = (1.0 - wide(shares)) / wide(shares)
    # Multiplied out, so that a cosine of zero is not divided by.
    mean = total * (1.0 + 0.375 * odds * spread) - 0.5 * odds * together
    norms = torch.linalg.vector_norm(first, dim=-1, keepdim=True) * own.sqrt()
    found = wide(shares).sqrt() * mean / norms
    left = wide(shares) / spread
    return torch.where(left >= 4.0, found.clamp(-1.0, 1.0), torch.nan)


def trained_share(true: Tensor, update: Tensor) -> Tensor:
    """Return the share of the entries with a true gradient that an update moves.

    Args:
        true: True gradient, shape ``(..., n)``.
        update: Approximate gradient, shape ``(..., n)``.

    Returns:
        Dimensionless, in [0, 1], shape ``(...)``, float64; NaN for a zero true gradient.

    Example:
        >>> true, update = torch.tensor([3.0, 4.0, 0.0]), torch.tensor([0.0, 1.0, 1.0])
        >>> trained_share(true, update).item()
        0.5
    """
    asked = true != 0
    return (asked & (update != 0)).sum(-1).double() / asked.sum(-1).double()


def trained_bound(true: Tensor, update: Tensor) -> Tensor:
    r"""Return the largest cosine that an update of these entries alone can have.

    It is :math:`\sqrt{\sum_{j\in T}g_j^2/\sum_j g_j^2}` with T the entries that the update moves.
    Source: algebra (Cauchy-Schwarz).

    Args:
        true: True gradient g, shape ``(..., n)``.
        update: Approximate gradient, shape ``(..., n)``.

    Returns:
        Dimensionless, in [0, 1], shape ``(...)``, float64; NaN for a zero true gradient.

    Example:
        >>> round(trained_bound(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0])).item(), 9)
        0.8
    """
    rows = wide(true) / wide(true).abs().amax(-1, keepdim=True)
    kept = torch.linalg.vector_norm(rows * (update != 0), dim=-1)
    result: Tensor = kept / torch.linalg.vector_norm(rows, dim=-1)
    return result
