"""How many units of a layer let a signal pass, and how often."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide
from alignlab.kernels.ranks import participation_ratio

__all__ = [
    "OPEN",
    "gate_energies",
    "gate_participation",
    "gate_size",
    "open_share",
    "silent_units",
]

OPEN = 0.19
"""Share of its largest value from which a gate counts as open.

For tanh that is an activation of at most 0.9, the bound of DFA-Stall (repository).
"""


def gate_energies(gates: Tensor) -> Tensor:
    r"""Return the mean squared gate of every unit, :math:`u_k = \overline{\varphi_k'^2}`.

    Args:
        gates: Derivatives of the activation, shape ``(..., n_samples, n)``.

    Returns:
        Dimensionless, at least 0, shape ``(..., n)``, float64.
    """
    return wide(gates).square().mean(-2)


def gate_participation(energies: Tensor) -> Tensor:
    r"""Return :math:`(\sum_k u_k)^2 / (n \sum_k u_k^2)`.

    Source: DFA-Stall (repository).

    Args:
        energies: Of ``gate_energies``, shape ``(..., n)``.

    Returns:
        Dimensionless, in [1/n, 1], shape ``(...)``, float64: 1 where all units pass as much, 1/n
        where one passes everything; NaN where none passes anything.

    Example:
        >>> gate_participation(torch.tensor([1.0, 0.0])).item()
        0.5
    """
    return (participation_ratio(wide(energies)) / energies.shape[-1]).clamp_max(1.0)


def gate_size(energies: Tensor) -> Tensor:
    r"""Return the root mean square gate, :math:`\sqrt{\bar u}`.

    Args:
        energies: Of ``gate_energies``, shape ``(..., n)``.

    Returns:
        Dimensionless, at least 0, shape ``(...)``, float64.

    Example:
        >>> gate_size(torch.tensor([0.25, 0.25])).item()
        0.5
    """
    return torch.sqrt(wide(energies).mean(-1))


def open_share(gates: Tensor, *, largest: Tensor) -> Tensor:
    r"""Return on which share of the samples each unit's gate is open.

    A gate is open from 0.19 of the largest value on that it could have.

    Args:
        gates: Derivatives of the activation, shape ``(..., n_samples, n)``.
        largest: The largest size of a gate, of a shape that broadcasts against ``gates``.

    Returns:
        Dimensionless, in [0, 1], shape ``(..., n)``, float64. A gate of zero is closed, also
        where the largest is zero.

    Example:
        >>> gates = torch.tensor([[1.0, 0.1], [0.5, 0.1]])
        >>> open_share(gates, largest=torch.tensor(1.0)).tolist()
        [1.0, 0.0]
    """
    sizes = gates.abs()
    is_open = (sizes >= OPEN * largest) & (sizes > 0)
    return is_open.sum(-2).double() / gates.shape[-2]


def silent_units(signal: Tensor) -> Tensor:
    """Return which units have a signal of zero on every sample.

    Args:
        signal: Shape ``(..., n_samples, n)``; a unit that acts at several positions has a row
            for every sample and position.

    Returns:
        Boolean, shape ``(..., n)``.

    Example:
        >>> silent_units(torch.tensor([[1.0, 0.0], [2.0, 0.0]])).tolist()
        [False, True]
    """
    return (signal == 0).all(-2)
