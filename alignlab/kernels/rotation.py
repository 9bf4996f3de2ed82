"""The product of two matrices when one is turned at random among its rows."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["LARGEST_TURNED", "rotation_sd", "turned_products"]

LARGEST_TURNED = 32
"""Rows up to which turned products are drawn; above, they are close to normal.

The least normal case is that of two matrices of rank one, where the product is one entry of a
rotation, with excess kurtosis -6/(n + 2).
"""


def rotation_sd(first: Tensor, second: Tensor) -> Tensor:
    r"""Return the standard deviation of :math:`\langle QA, B\rangle` over Haar rotations Q.

    .. math:: \sqrt{E \langle QA, B\rangle^2} = \|A B^\top\|_F / \sqrt n

    The mean is zero. As the norm of QA is that of A, dividing by both norms gives the standard
    deviation of the cosine, exactly.

    Source: our derivation, from :math:`E[Q_{ij} Q_{kl}] = \delta_{ik}\delta_{jl}/n`.

    Args:
        first: A, shape ``(..., n, m)``.
        second: B, shape ``(..., n, m)``.

    Returns:
        In units of the product, shape ``(...)``, float64.

    Example:
        >>> rotation_sd(torch.eye(4), torch.eye(4)).item()
        1.0
    """
    a, b = wide(first), wide(second)
    n, m = a.shape[-2:]
    if m < n:
        # The smaller of two products with the same norm.
        square = ((a.mT @ a) * (b.mT @ b)).sum((-2, -1)).clamp_min(0.0)
    else:
        square = (a @ b.mT).square().sum((-2, -1))
    return (square / n).sqrt()


def turned_products(
    first: Tensor, second: Tensor, *, count: int, stream: torch.Generator
) -> Tensor:
    r"""Return draws of :math:`\langle QA, B\rangle` over Haar rotations Q.

    Up to ``LARGEST_TURNED`` rows rotations are drawn, the same ones for all pairs; above, normal
    numbers of the exact standard deviation stand for the products.

    Args:
        first: A, shape ``(..., n, m)``.
        second: B, shape ``(..., n, m)``.
        count: How many draws.
        stream: Source of randomness, on the host.

    Returns:
        In units of the product, shape ``(..., count)``, float64.

    Example:
        >>> stream = torch.Generator().manual_seed(0)
        >>> turned_products(torch.ones(1, 1), torch.ones(1, 1), count=4, stream=stream).abs()
        tensor([1., 1., 1., 1.], dtype=torch.float64)
    """
    a, b = wide(first), wide(second)
    n = a.shape[-2]
    if n > LARGEST_TURNED:
        normal = torch.randn(count, generator=stream, dtype=torch.float64)
        return rotation_sd(a, b).unsqueeze(-1) * normal.to(a)
    drawn = torch.randn(count, n, n, generator=stream, dtype=torch.float64)
    q, r = torch.linalg.qr(drawn)
    turns = q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)
    return torch.einsum("kij,...ij->...k", turns.to(a), b @ a.mT)
