r"""What gradient flow with fixed feedback conserves between consecutive layers.

Feedback alignment sends :math:`s = R\delta'` to the output h of a layer with weights W, where
:math:`\delta'` is the signal at the next layer, of weights W'. Under gradient flow

.. math:: \dot W' = -\sum\delta'h^\top, \qquad \dot W = -\sum (V s)x^\top,

with V the local backward map of what lies between. Both products with the weights' own change
are the same sum over samples, :math:`R\dot W' = -\sum s h^\top` and
:math:`\dot WW^\top = -\sum (Vs)(Wx)^\top`. Hence, for any loss, any data and any number of layers:

* where nothing lies between (V = 1, h = Wx), :math:`RW' + W'^\top R^\top - WW^\top` is conserved;
* where each unit is positively homogeneous of its own pre-activation (ReLU, max pooling),
  :math:`\varphi'(a)a = \varphi(a)`, only the diagonal is:
  :math:`(RW')_{kk} - \tfrac12\|W_k\|^2` of every unit k.

A bias of the lower layer is one more column of W. For convolutions products are summed over taps
and the units are channels, with the same proof. From zero weights the constant is 0, so that
:math:`RW' + W'^\top R^\top = WW^\top` is positive semidefinite: alignment by construction.

Direct feedback of a linear network is such feedback with :math:`R = B_lB_{l+1}^+` wherever
:math:`B_{l+1}` has full column rank, since then :math:`B_le = R\,B_{l+1}e` for every error e, and
with :math:`R = B_{L-1}` below the output layer, there also with ReLU.

Source: our derivation. For two linear layers it is the law of Lillicrap et al. 2016 (supplement),
which we know from others; Robertson & Koyejo 2024 have a conservation law for feedback alignment,
of which we know the abstract.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["drift", "drift_of_change", "matrix_terms", "unit_terms"]


def matrix_terms(columns: tuple[Tensor, Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`RW' + W'^\top R^\top` and :math:`WW^\top`, whose difference is conserved.

    Args:
        columns: Of feedback :math:`R^\top` and of the weight W' above, each by the unit
            (channel) between, shape ``(n_units, n)``.
        rows: Of the weight W below, with its bias, shape ``(n_units, n_in)``.

    Returns:
        Float64, shape ``(n_units, n_units)`` each.
    """
    product = wide(columns[0]) @ wide(columns[1]).T
    below = wide(rows)
    return product + product.T, below @ below.T


def unit_terms(columns: tuple[Tensor, Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`2(RW')_{kk}` and :math:`\|W_k\|^2`: the diagonals of ``matrix_terms``.

    Args:
        columns: As there.
        rows: As there.

    Returns:
        Float64, shape ``(n_units,)`` each.
    """
    product = (wide(columns[0]) * wide(columns[1])).sum(1)
    return 2.0 * product, wide(rows).square().sum(1)


def drift(now: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor]) -> Tensor:
    r"""Return how far S - P has moved, over the sizes of S and P.

    .. math:: \|\Delta S - \Delta P\| / (\|S\| + \|P\|)

    Args:
        now: S and P, of one shape.
        then: The same of earlier.

    Returns:
        Dimensionless, at least 0, scalar: 0 where the difference is conserved; NaN where S and P
        are zero.
    """
    moved = torch.linalg.vector_norm((now[0] - then[0]) - (now[1] - then[1]))
    return _over(moved, now)


def drift_of_change(now: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor]) -> Tensor:
    r"""Return how far S - P has moved, over how far S and P have.

    .. math:: \|\Delta S - \Delta P\| / (\|\Delta S\| + \|\Delta P\|)

    Args:
        now: S and P, of one shape.
        then: The same of earlier.

    Returns:
        Dimensionless, in [0, 1], scalar: 0 where the difference is conserved, 1 where one moves
        alone or both against each other; NaN where nothing has moved.
    """
    changes = now[0] - then[0], now[1] - then[1]
    moved = torch.linalg.vector_norm(changes[0] - changes[1])
    return _over(moved, changes)


def _over(moved: Tensor, parts: tuple[Tensor, Tensor]) -> Tensor:
    size = torch.linalg.vector_norm(parts[0]) + torch.linalg.vector_norm(parts[1])
    return torch.where(size > 0, moved / size, torch.nan)
