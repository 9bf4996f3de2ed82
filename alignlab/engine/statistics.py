"""Inner products per sample, written where they stay until the device is asked for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "MOST_STEPS",
    "RING_BYTES",
    "SLOTS",
    "Flushed",
    "Ring",
    "aligned_rows",
    "norms",
    "products",
    "ring_dtype",
]

SLOTS = 8
"""Steps that are written one after the other before they are put to those that wait."""

RING_BYTES = 250_000
"""Memory of the rows that wait on the device, where a few steps do not need more."""

MOST_STEPS = 256
"""Steps after which waiting rows are copied to the host in any case."""

LONG_ROW = 16_384
"""Entries from which, on the host, one product a row beats all rows at once.

All at once makes a temporary as large as the signal, whose pages cost more than the calls.
"""


def aligned_rows(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two signals of one shape with one row per sample, without a copy where possible.

    The units of both rows are in the same order, which need not be that of the shape: inner
    products do not depend on it, and signals whose channels lie last in memory stay in place.

    Args:
        first: Shape ``(n_samples, ...)``.
        second: The same shape.

    Returns:
        Two tensors of shape ``(n_samples, n)``.
    """
    n_samples = first.shape[0]
    if first.is_contiguous():
        return first.view(n_samples, -1), second.reshape(n_samples, -1)
    n = first.numel() // n_samples
    strides = first.stride()
    if strides == second.stride() and (n_samples == 1 or strides[0] == n):
        spread = sorted(
            (stride, size) for stride, size in zip(strides[1:], first.shape[1:], strict=True)
        )
        expected = 1
        for stride, size in spread:
            if size != 1 and stride != expected:
                break
            expected *= size
        if expected == n:
            shape, dense = (n_samples, n), (n, 1)
            return first.as_strided(shape, dense), second.as_strided(shape, dense)
    return first.reshape(n_samples, -1), second.reshape(n_samples, -1)


def products(first: Tensor, second: Tensor, *, out: Tensor, memory: Tensor) -> None:
    """Write the inner products of matching rows.

    Half precision is widened first, so that sums are taken in float32 or better.

    Args:
        first: Shape ``(n_rows, n)``.
        second: The same shape.
        out: Shape ``(n_rows,)``, float32 or float64.
        memory: Room for as many entries, of the type of ``out``, where there is so much.
    """
    first, second = first.to(out.dtype), second.to(out.dtype)
    if first.device.type == "cpu" and first.shape[1] >= LONG_ROW:
        for a, b, place in zip(first.unbind(), second.unbind(), out.unbind(), strict=True):
            torch.dot(a, b, out=place)
    elif memory.numel() >= first.numel():
        # Fresh memory costs more than the products.
        place = memory[: first.numel()].view(first.shape)
        torch.sum(torch.mul(first, second, out=place), dim=1, out=out)
    else:
        torch.linalg.vecdot(first, second, out=out)


def norms(rows: Tensor, *, out: Tensor) -> None:
    """Write the Euclidean norms of rows.

    Args:
        rows: Shape ``(n_rows, n)``; half precision is widened.
        out: Shape ``(n_rows,)``, float32 or float64.
    """
    torch.linalg.vector_norm(rows.to(out.dtype), dim=1, out=out)


def ring_dtype(signal: Tensor) -> torch.dtype:
    """Return the precision in which products of a signal are kept: float32 or better."""
    return torch.float64 if signal.dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class Flushed:
    """Rows of some steps on the host.

    Attributes:
        steps: Step of each slot.
        rows: Shape ``(n_steps, n_rows, n_samples)``, float64.
    """

    steps: tuple[int, ...]
    rows: np.ndarray


@final
class Ring:
    """Rows of the present step, and of the steps before that wait on the device.

    Nothing is copied to the host before the memory is full or the rows are asked for, so that
    a step costs no synchronisation.

    Attributes:
        slots: Where steps are written in turn, shape ``(n_slots, n_rows, n_samples)``.
        before_moving: Told how many slots are written before they are put to those that wait.
    """

    def __init__(
        self, n_rows: int, n_samples: int, *, like: Tensor, sink: Callable[[Flushed], None]
    ) -> None:
        """Allocate.

        Args:
            n_rows: Rows of a step.
            n_samples: Entries of a row.
            like: Gives device and precision; half precision is widened to float32.
            sink: Takes what was copied to the host.
        """
        of: dict[str, Any] = {"dtype": ring_dtype(like), "device": like.device}
        self.slots: Final = torch.full((SLOTS, n_rows, n_samples), torch.nan, **of)
        n_waiting = max(SLOTS, min(MOST_STEPS, RING_BYTES // max(1, 4 * n_rows * n_samples)))
        self._waiting: Final = torch.empty((n_waiting, n_rows, n_samples), **of)
        self._sink: Final = sink
        self._written: list[int] = []
        self._steps: list[int] = []
        self.before_moving: Callable[[int], None] = lambda _n_slots: None

    @property
    def present(self) -> int:
        """Index of the slot of the present step."""
        return len(self._written)

    def keep(self, step: int) -> None:
        """Keep the rows of the present step and go on to the next slot."""
        self._written.append(step)
        if len(self._written) == SLOTS:
            self._move()

    def flush(self) -> None:
        """Copy what waits on the device to the host."""
        self._move()
        self._copy()

    def _move(self) -> None:
        """Let written slots wait, and make room for others."""
        if len(self._steps) + len(self._written) > len(self._waiting):
            self._copy()
        first = len(self._steps)
        last = first + len(self._written)
        if last > first:
            self.before_moving(last - first)
            self._waiting[first:last].copy_(self.slots[: last - first])
        self._steps += self._written
        self._written.clear()

    def _copy(self) -> None:
        if self._steps:
            rows = self._waiting[: len(self._steps)].to("cpu", torch.float64, copy=True)
            self._sink(Flushed(tuple(self._steps), rows.numpy()))
            self._steps.clear()
