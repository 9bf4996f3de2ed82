"""How large a part of a map an energy occupies: how many positions, and how far apart."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["effective_positions", "relative_radius"]


def effective_positions(energy: Tensor) -> Tensor:
    r"""Return :math:`(\sum_p s_p)^2/\sum_p s_p^2`, how many positions carry an energy.

    Source: participation ratio, as in Gao et al. 2017 of eigenvalues; of positions ours.

    Args:
        energy: At least 0, shape ``(..., n_positions)``.

    Returns:
        Positions, in [1, n_positions], float64, shape ``(...)``; of m equal ones m, of the
        squares of K independent normal numbers at every position about
        ``n_positions * K / (K + 2)``; NaN for a map of zeros.

    Example:
        >>> effective_positions(torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])).tolist()
        [2.0, 1.0]
    """
    energy = wide(energy)
    shares = energy / energy.sum(-1, keepdim=True)
    result: Tensor = 1.0 / shares.square().sum(-1)
    return result


def relative_radius(energy: Tensor, grid: tuple[int, ...]) -> Tensor:
    r"""Return the radius of gyration of an energy on a grid over that of a uniform one.

    .. math:: \sqrt{\sum_p w_p\|p - \bar p\|^2}, \qquad \bar p = \sum_p w_p\,p,

    with w the shares of the energy. A uniform map of :math:`n_1 \times n_2` positions has
    :math:`\sqrt{(n_1^2 + n_2^2 - 2)/12}`. Source: mechanics; its use here is ours.

    Args:
        energy: At least 0, shape ``(..., n_positions)``.
        grid: Positions along each axis.

    Returns:
        Dimensionless, float64, shape ``(...)``: 0 for a single position, 1 for a uniform map,
        more for an energy at its edges; NaN for a map of zeros or of one position.

    Example:
        >>> relative_radius(torch.ones(1, 9), (3, 3)).item()
        1.0
    """
    energy = wide(energy)
    shares = energy / energy.sum(-1, keepdim=True)
    axes = torch.meshgrid(*(torch.arange(n).to(shares) for n in grid), indexing="ij")
    variance, uniform = torch.zeros_like(shares[..., 0]), 0.0
    for size, axis in zip(grid, axes, strict=True):
        place = axis.flatten()
        centre = (shares * place).sum(-1, keepdim=True)
        variance = variance + (shares * (place - centre).square()).sum(-1)
        uniform += (size**2 - 1) / 12.0
    if not uniform:
        return torch.full_like(variance, torch.nan)
    return (variance / uniform).sqrt()
