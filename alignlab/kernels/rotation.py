"""The product of two matrices when one is turned at random among its rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alignlab.kernels.cosines import wide

__all__ = ["LARGEST_TURNED", "output_rows", "rotation_sd", "turned_products", "weight_of_rows"]

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Modules whose weight has its inputs on the first axis and a group's outputs on the second."""

LARGEST_TURNED = 32
"""Rows up to which turned products are drawn; above, they are close to normal.

The least normal case is that of two matrices of rank one, where the product is one entry of a
rotation, with excess kurtosis -6/(n + 2).
"""


def output_rows(module: nn.Module, weight: Tensor) -> Tensor:
    """Return a weight with one row for each output unit.

    Args:
        module: The module whose weight it is, or whose weight it is shaped like.
        weight: Linear or (transposed) convolution weight, or its gradient.

    Returns:
        Shape ``(n_outputs, ...)``.

    Example:
        >>> module = torch.nn.ConvTranspose1d(4, 6, 3, groups=2)
        >>> tuple(output_rows(module, module.weight).shape)
        (6, 2, 3)
    """
    if not isinstance(module, TRANSPOSED):
        return weight
    rows: Tensor = weight.unflatten(0, (module.groups, -1)).movedim(2, 1).flatten(0, 1)
    return rows


def weight_of_rows(module: nn.Module, rows: Tensor) -> Tensor:
    """Return the weight whose ``output_rows`` are given.

    Args:
        module: The module whose weight it is shaped like.
        rows: Shape ``(n_outputs, ...)``.
    """
    if not isinstance(module, TRANSPOSED):
        return rows
    weight: Tensor = rows.unflatten(0, (module.groups, -1)).movedim(1, 2).flatten(0, 1)
    return weight


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
