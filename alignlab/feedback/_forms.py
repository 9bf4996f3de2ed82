"""The forms in which direct feedback is held: whole, factored, seeded, the same at positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from alignlab.errors import InputError
from alignlab.feedback._draws import generator, unit_draw

__all__ = ["Factored", "Feedback", "Matrix", "Positional", "Seeded", "n_entries"]

STREAM_ENTRIES = 2**18
"""Entries of seeded feedback that come from one random stream: 1 MiB in float32.

It is part of what a seed means: another value gives other feedback.
"""

_BY_CLASS = ("normal", "uniform", "sign")


@final
@dataclass(frozen=True, eq=False)
class Factored:
    """Feedback of low rank, B = left right, of which only the factors are held.

    All layers of one draw share ``left``, so that the error is brought to ``rank`` numbers
    once for all of them.

    Attributes:
        left: Shape ``(n_errors, rank)``.
        right: Shape ``(rank, *entry_shape)``.
    """

    left: Tensor
    right: Tensor

    def __post_init__(self) -> None:
        """Refuse factors that do not fit."""
        if self.left.dim() != 2 or self.right.dim() < 1 or self.left.shape[1] != len(self.right):
            msg = (
                f"Factors of shapes {tuple(self.left.shape)} and {tuple(self.right.shape)} have no "
                "product; give (n_errors, rank) and (rank, *entry_shape)."
            )
            raise InputError(msg)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the feedback that the factors stand for, ``(n_errors, *entry_shape)``."""
        return (self.left.shape[0], *self.right.shape[1:])


@final
@dataclass(frozen=True)
class Seeded:
    """Feedback of which only the seed is held; its rows are drawn again whenever they act.

    Classes are drawn in groups of a size that depends on ``width`` alone, each group from a
    stream of its own on the host, so that the numbers do not depend on how many classes are
    formed at once, nor on the device.

    Attributes:
        seed: Seed of the streams.
        names: What the streams are for, such as rule and layer.
        shape: Shape of the feedback that the seed stands for, ``(n_errors, *entry_shape)``.
        drawn: Shape of what is drawn for a class: the entry's, with 1 along axes over which
            the feedback is repeated.
        width: Entries drawn for a class, of which the first ``prod(drawn)`` are used.
        distribution: ``normal``, ``uniform`` or ``sign``.
        factor: Standard deviation of the entries.
        block: Classes formed at once; 0 for one group.
    """

    seed: int
    names: tuple[str, ...]
    shape: tuple[int, ...]
    drawn: tuple[int, ...]
    width: int
    distribution: str
    factor: float
    block: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn class by class."""
        if self.distribution not in _BY_CLASS:
            msg = (
                f"Seeded feedback is drawn class by class, which {self.distribution!r} cannot "
                f"be; choose {' or '.join(_BY_CLASS)}, or storage=dense."
            )
            raise InputError(msg)
        repeats = zip(self.drawn, self.shape[1:], strict=False)
        fits = len(self.drawn) == len(self.shape) - 1 and all(d in {1, n} for d, n in repeats)
        if not fits or not 0 < prod(self.drawn) <= self.width:
            msg = (
                f"Rows drawn as {self.drawn} of {self.width} entries do not make feedback of shape "
                f"{self.shape}."
            )
            raise InputError(msg)

    @property
    def group(self) -> int:
        """Classes that share one random stream."""
        return max(1, STREAM_ENTRIES // self.width)

    def rows(self, start: int, stop: int) -> Tensor:
        """Draw the feedback of some classes again.

        Args:
            start: First class.
            stop: Class after the last.

        Returns:
            Shape ``(stop - start, prod(drawn))``, float32, on the host.
        """
        parts = []
        for first in range(start - start % self.group, stop, self.group):
            last = min(first + self.group, self.shape[0])
            stream = generator(self.seed, *self.names, "classes", str(first))
            part = unit_draw((last - first, self.width), self.distribution, stream=stream)
            parts.append(part[max(start - first, 0) : stop - first, : prod(self.drawn)])
        return torch.cat(parts).mul_(self.factor)

    def blocks(self) -> Iterator[tuple[int, int, Tensor]]:
        """Yield first class, class after the last and rows, one block after another."""
        for start in range(0, self.shape[0], self.block or self.group):
            stop = min(start + (self.block or self.group), self.shape[0])
            yield start, stop, self.rows(start, stop)


Matrix = Tensor | Factored | Seeded
"""Feedback from all errors of a sample to a whole entry."""


@final
@dataclass(frozen=True, eq=False)
class Positional:
    """One matrix that acts at every position by itself, as the kernel of a 1x1 convolution.

    Error and entry have the same positions (tokens, pixels); the error at one of them reaches
    the entry at that one alone.

    Attributes:
        matrix: Shape ``(n_channels_of_error, n_channels_of_entry)``, in any form.
        error_shape: Shape of the error per sample.
        error_axis: Axis of its channels, 0 or -1.
        entry_shape: Shape of the entry per sample.
        entry_axis: Axis of its channels, 0 or -1.
    """

    matrix: Matrix
    error_shape: tuple[int, ...]
    error_axis: int
    entry_shape: tuple[int, ...]
    entry_axis: int

    def __post_init__(self) -> None:
        """Refuse a matrix whose sides are not the channels of error and entry."""
        axes = {self.error_axis, self.entry_axis} <= {0, -1}
        channels = (self.error_shape[self.error_axis], self.entry_shape[self.entry_axis])
        positions = prod(self.error_shape) * channels[1] == prod(self.entry_shape) * channels[0]
        if not axes or not positions or tuple(self.matrix.shape) != channels:
            msg = (
                f"A matrix of shape {tuple(self.matrix.shape)} does not lead from errors of shape "
                f"{self.error_shape} to entries of shape {self.entry_shape}, position by position."
            )
            raise InputError(msg)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the feedback from all errors to all entries, which is never formed."""
        return (prod(self.error_shape), *self.entry_shape)


Feedback = Matrix | Positional
"""Feedback of one layer; a plain tensor has shape ``(n_errors, *entry_shape)``."""


def n_entries(feedback: Feedback) -> int:
    """Return how many numbers are held for a layer; none for what a seed stands for."""
    if isinstance(feedback, Positional):
        return n_entries(feedback.matrix)
    if isinstance(feedback, Factored):
        return feedback.left.numel() + feedback.right.numel()
    return 0 if isinstance(feedback, Seeded) else feedback.numel()
