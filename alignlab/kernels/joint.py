"""Cosines of vectors that come in parts, such as the gradients of many layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["joint_cosine", "products_and_energies"]


def products_and_energies(
    first: Sequence[Tensor], second: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return inner products and squared norms of matching parts.

    Args:
        first: Parts :math:`a_l`, each of shape ``(..., n_l)``.
        second: Parts :math:`b_l`, likewise.

    Returns:
        :math:`\langle a_l, b_l\rangle`, :math:`\|a_l\|^2` and :math:`\|b_l\|^2`, each of shape
        ``(..., n_parts)``, float64.

    Example:
        >>> parts = [torch.tensor([3.0, 4.0])], [torch.tensor([1.0, 0.0])]
        >>> [found.item() for found in products_and_energies(*parts)]
        [3.0, 25.0, 1.0]
    """
    pairs = [(wide(a), wide(b)) for a, b in zip(first, second, strict=True)]
    found = [
        torch.stack(each, -1)
        for each in (
            [(a * b).sum(-1) for a, b in pairs],
            [a.square().sum(-1) for a, _ in pairs],
            [b.square().sum(-1) for _, b in pairs],
        )
    ]
    return found[0], found[1], found[2]


def joint_cosine(products: Tensor, first: Tensor, second: Tensor) -> Tensor:
    r"""Return the cosine of two vectors from the products and energies of their parts.

    .. math:: c = \sum_l \langle a_l, b_l\rangle \Big/
        \sqrt{\textstyle\sum_l \|a_l\|^2 \sum_l \|b_l\|^2}

    It is that of the concatenated vectors: parts count by their norms, and it is no mean of the
    cosines of the parts.

    Args:
        products: Inner products of the parts, shape ``(..., n_parts)``.
        first: Squared norms of the parts of one vector, likewise.
        second: Those of the other, likewise.

    Returns:
        Dimensionless, in [-1, 1], shape ``(...)``, float64; NaN where either vector is zero, has
        no part, or is not finite.

    Example:
        >>> joint_cosine(torch.tensor([3.0, 0.0]), torch.tensor([9.0, 16.0]), torch.ones(2))
        tensor(0.4243, dtype=torch.float64)
    """
    whole = wide(first).sum(-1).sqrt() * wide(second).sum(-1).sqrt()
    value = (wide(products).sum(-1) / whole).clamp(-1.0, 1.0)
    return torch.where(whole > 0, value, torch.full_like(value, torch.nan))
