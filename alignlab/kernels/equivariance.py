"""Whether signals move with the input: cyclic shifts, and what is the same under all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["SharedUnderShifts", "equivariance_defect", "shifted"]


def shifted(maps: Tensor, shift: Sequence[int]) -> Tensor:
    """Return maps moved cyclically.

    Args:
        maps: Shape ``(n_samples, channels, ...)``.
        shift: Positions along each spatial axis.

    Returns:
        Of the same shape; what leaves at one end comes in at the other.

    Example:
        >>> shifted(torch.arange(4).reshape(1, 1, 4), (1,)).flatten().tolist()
        [3, 0, 1, 2]
    """
    return torch.roll(maps, tuple(shift), tuple(range(2, maps.dim())))


def equivariance_defect(signal: Tensor, moved: Tensor, shift: Sequence[int]) -> Tensor:
    r"""Return :math:`\|\delta(Tx) - T\delta(x)\|/\|\delta(x)\|` for a shift T.

    Source: our derivation.

    Args:
        signal: Signals of an input, shape ``(n_samples, channels, ...)``.
        moved: Signals of the shifted input, of the same shape.
        shift: Positions along each spatial axis by which the signals should have moved.

    Returns:
        Dimensionless, at least 0, float64 scalar: 0 where signals move with the input, about
        :math:`\sqrt 2` where they are unrelated and of one size; NaN for a zero signal.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.0, 0.0]]])
        >>> equivariance_defect(maps, shifted(maps, (1,)), (1,)).item()
        0.0
        >>> round(equivariance_defect(maps, maps, (1,)).item(), 6)  # stays where it is
        1.414214
    """
    expected = wide(shifted(signal, shift))
    result: Tensor = (wide(moved) - expected).norm() / expected.norm()
    return result


@final
class SharedUnderShifts:
    r"""Share of the energy that is in the equivariant subspace, over some shifts.

    .. math:: \frac{\|\frac1m\sum_T T^{-1}\delta(Tx)\|^2}{\frac1m\sum_T\|\delta(Tx)\|^2}

    over m shifts T, the one by nothing among them. Signals come one after another and only their
    sum is kept. Source: our derivation.

    Example:
        >>> maps, shares = torch.tensor([[[1.0, 0.0]]]), SharedUnderShifts()
        >>> for shift in ((0,), (1,)):
        ...     shares.take(maps, shift)  # the same wherever the input is
        >>> shares.share().item()
        0.5
    """

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.count = 0
        self._sum: Tensor | None = None
        self._energy: Tensor | None = None

    def take(self, moved: Tensor, shift: Sequence[int]) -> None:
        """Take the signals of the input shifted by so many positions of the layer.

        Args:
            moved: Shape ``(n_samples, channels, ...)``.
            shift: Positions along each spatial axis.
        """
        back = shifted(moved, [-each for each in shift])
        energy = wide(moved).square().sum()
        self._sum = back.clone() if self._sum is None else self._sum.add_(back)
        self._energy = energy if self._energy is None else self._energy + energy
        self.count += 1

    def share(self) -> Tensor:
        """Return the share so far.

        Returns:
            Dimensionless, in [0, 1], float64 scalar; 1 where signals move with the input, one
            over the number of shifts where they are unrelated; NaN where all are zero.
        """
        assert self._sum is not None
        assert self._energy is not None
        return (wide(self._sum).square().sum() / (self.count * self._energy)).clamp_max(1.0)
