"""Which combinations of a network's outputs are differentiated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from alignlab.errors import InputError
from alignlab.feedback import generator, unit_draw

__all__ = ["Combinations", "Directions", "Units", "sketch"]


class Directions(ABC):
    """Rows of a matrix S, shape ``(len(self), n_errors)``, by which a Jacobian is multiplied."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def write(self, number: int, into: Tensor) -> None:
        """Write one row of S for every sample.

        Args:
            number: Which row.
            into: Shape ``(n_samples, n_errors)``; overwritten.
        """

    @abstractmethod
    def times(self, matrix: Tensor) -> Tensor:
        """Return S times a matrix of shape ``(n_errors, ...)``, flat, ``(len(self), n)``."""


@final
@dataclass(frozen=True)
class Units(Directions):
    """Output units by themselves: rows of the identity.

    Attributes:
        indices: Entries of the flattened output of a sample.
        n_errors: How many entries there are.
    """

    indices: Sequence[int]
    n_errors: int

    def __post_init__(self) -> None:
        """Refuse units that do not exist."""
        outside = [k for k in self.indices if not 0 <= k < self.n_errors]
        if outside or not len(self.indices):
            asked = f"unit {outside[0]}" if outside else "no unit"
            msg = (
                f"The Jacobian of {asked} was asked for; the flattened output of a sample has "
                f"the units 0 to {self.n_errors - 1}."
            )
            raise InputError(msg)

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self.indices)

    def write(self, number: int, into: Tensor) -> None:
        """Write the one-hot row of a unit."""
        into.zero_()
        into[:, self.indices[number]] = 1.0

    def times(self, matrix: Tensor) -> Tensor:
        """Return the rows of these units."""
        rows = matrix.reshape(matrix.shape[0], -1)
        if len(self) == self.n_errors and list(self.indices) == list(range(self.n_errors)):
            return rows
        return rows[torch.tensor(list(self.indices), device=rows.device)]


@final
@dataclass(frozen=True)
class Combinations(Directions):
    """Any linear combinations of the output units.

    Attributes:
        matrix: S, shape ``(count, n_errors)``.
    """

    matrix: Tensor

    def __len__(self) -> int:
        """Return the number of combinations."""
        return int(self.matrix.shape[0])

    def write(self, number: int, into: Tensor) -> None:
        """Write one combination for every sample."""
        into.copy_(self.matrix[number].expand_as(into))

    def times(self, matrix: Tensor) -> Tensor:
        """Return the combinations of the matrix's rows."""
        rows = matrix.reshape(matrix.shape[0], -1)
        return self.matrix.to(rows) @ rows


def sketch(n_errors: int, count: int, *, seed: int, distribution: str = "normal") -> Combinations:
    r"""Draw combinations S with :math:`E[S^\top S] = I`, for outputs of many units.

    Inner products and squared norms of the Jacobian are then unbiased from its sketch:
    :math:`E\langle SJ, SB\rangle = \langle J, B\rangle`, with a relative error of about
    :math:`\sqrt{2/count}` for squared norms.

    Source: Hutchinson 1990, Communications in Statistics 19(2).

    Args:
        n_errors: Entries of the flattened output of a sample.
        count: Combinations, at least 1.
        seed: Seed of the draw.
        distribution: ``normal`` or ``sign``.

    Raises:
        InputError: Another distribution, or no combination.
    """
    if distribution not in {"normal", "sign"} or count < 1:
        msg = (
            f"A sketch of {count} {distribution!r} combinations was asked for; draw at least 1, "
            "'normal' or 'sign'."
        )
        raise InputError(msg)
    stream = generator(seed, "jacobian", distribution)
    return Combinations(unit_draw((count, n_errors), distribution, stream=stream) / count**0.5)
