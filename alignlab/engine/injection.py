"""The feedback of a rule at one entry, its own and redraws of it, applied together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Final, final

import torch
from torch import Tensor

__all__ = ["Injection"]


@final
class Injection:
    """Feedback matrices of one entry in one tensor.

    Attributes:
        matrices: Shape ``(n_draws, n_errors, n)``; the first is the rule's own.
        grams: Products of each with its transpose, shape ``(n_draws * n_errors, n_errors)``.
    """

    def __init__(
        self, feedback: Sequence[Tensor], *, like: Tensor, shape: Sequence[int], dtype: torch.dtype
    ) -> None:
        """Stack feedback.

        Args:
            feedback: Each of shape ``(n_errors, *entry_shape)``.
            like: Gives device and precision.
            shape: Shape of the entry with its samples.
            dtype: Precision of the entry.
        """
        self._shape: Final = tuple(shape)
        self._dtype: Final = dtype
        n_errors = feedback[0].shape[0]
        flat = [each.reshape(n_errors, -1).to(like) for each in feedback]
        self.matrices: Final = torch.stack(flat) if len(flat) > 1 else flat[0].unsqueeze(0)
        self.grams: Final = (self.matrices @ self.matrices.mT).reshape(-1, n_errors)

    def signals(self, error: Tensor, count: int, *, into: Tensor) -> Iterator[Tensor]:
        """Yield B e of the first draws in the shape and precision of the entry.

        Args:
            error: e, shape ``(n_samples, n_errors)``.
            count: How many draws.
            into: Memory that every signal may take, one after the other.
        """
        place = into[: prod(self._shape)].view(len(error), -1)
        for matrix in self.matrices[:count]:
            yield torch.mm(error, matrix, out=place).view(self._shape).to(self._dtype)

    def norms(self, error: Tensor, *, out: Tensor) -> None:
        r"""Write :math:`\|B e\|` of every draw, shape ``(n_draws, n_samples)``."""
        rows = (self.grams @ error.T).view(*self.matrices.shape[:2], len(error))
        contract(rows, error, out=out)
        out.clamp_(min=0.0).sqrt_()

    def products(self, signal: Tensor, error: Tensor, *, out: Tensor) -> None:
        r"""Write :math:`\langle g, B e\rangle = (g B^\top) \cdot e` of every draw.

        Args:
            signal: g, shape ``(n_samples, n)``.
            error: e, shape ``(n_samples, n_errors)``.
            out: Shape ``(n_draws, n_samples)``.
        """
        n_draws, n_errors, n = self.matrices.shape
        rows = signal.reshape(len(error), n).to(error.dtype)
        back = self.matrices.view(n_draws * n_errors, n) @ rows.T
        contract(back.view(n_draws, n_errors, -1), error, out=out)


def contract(back: Tensor, error: Tensor, *, out: Tensor) -> None:
    """Write the products of projected rows with the error.

    Args:
        back: Shape ``(n_rows, n_errors, n_samples)``.
        error: Shape ``(n_samples, n_errors)``.
        out: Shape ``(n_rows, n_samples)``.
    """
    torch.sum(back.mul_(error.T), dim=1, out=out)
