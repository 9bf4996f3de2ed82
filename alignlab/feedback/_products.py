"""Products of feedback with errors and signals, in every form that feedback is held in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Final, final

import torch
from torch import Tensor

from alignlab.errors import MeasurementError
from alignlab.feedback._forms import Factored, Feedback, Matrix, Positional, Seeded
from alignlab.kernels.cosines import wide

__all__ = [
    "Projector",
    "as_tensor",
    "back_project",
    "inner_products",
    "project",
    "squared_norms",
]


def project(error: Tensor, feedback: Feedback, shape: Sequence[int]) -> Tensor:
    """Return B e in the shape of the entry.

    Args:
        error: Shape ``(n_samples, ...)``, ``n_errors`` entries a sample.
        feedback: Feedback of shape ``(n_errors, *entry_shape)``, in any form.
        shape: Shape of the entry with its samples.

    Raises:
        MeasurementError: The shapes do not fit.
    """
    return Projector(error)(feedback, shape)


@final
class Projector:
    """Brings one error to the entries of many layers, through shared factors once.

    Attributes:
        rows: The error, shape ``(n_samples, n_errors)``.
    """

    def __init__(self, error: Tensor) -> None:
        """Hold an error of shape ``(n_samples, ...)``."""
        self._error: Final = error
        self.rows: Final = error.flatten(1)
        self._coordinates: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def __call__(self, feedback: Feedback, shape: Sequence[int]) -> Tensor:
        """Return B e in the shape of the entry; see ``project``."""
        target = tuple(shape)
        _require_fit(feedback, self._error, target)
        values = self._applied(self._rows_of(feedback), _matrix(feedback))
        return _to_entry(values, feedback, len(self._error)).reshape(target)

    def squared_norms(self, feedback: Feedback) -> Tensor:
        """Return |B e|^2 of every sample; see the function of that name."""
        rows, matrix = self._rows_of(feedback), _matrix(feedback)
        if isinstance(matrix, Factored):
            reduced = self._reduced(rows, matrix.left)
            right = _compact(matrix.right).to(rows)
            norms = ((reduced @ (right @ right.T)) * reduced).sum(1)
        else:
            norms = self._applied(rows, matrix).square().sum(1)
        return _repeats(matrix) * norms.reshape(len(self._error), -1).sum(1)

    def inner_products(self, signal: Tensor, feedback: Feedback) -> Tensor:
        """Return <g, B e> of every sample; see the function of that name."""
        rows, matrix = self._rows_of(feedback), _matrix(feedback)
        given = _from_entry(signal, feedback)
        if isinstance(matrix, Factored):
            right = _compact(matrix.right).to(rows)
            products = ((given @ right.T) * self._reduced(rows, matrix.left)).sum(1)
        else:
            products = (given * self._applied(rows, matrix)).sum(1)
        return products.reshape(len(self._error), -1).sum(1)

    def _rows_of(self, feedback: Feedback) -> Tensor:
        return _error_rows(self._error, feedback)

    def _applied(self, rows: Tensor, matrix: Matrix) -> Tensor:
        if isinstance(matrix, Factored):
            return self._reduced(rows, matrix.left) @ _compact(matrix.right).to(rows)
        if isinstance(matrix, Seeded):
            result = rows.new_zeros(len(rows), prod(matrix.drawn))
            for start, stop, block in matrix.blocks():
                result.addmm_(rows[:, start:stop], block.to(rows))
            return result
        return rows @ _compact(matrix).to(rows)

    def _reduced(self, rows: Tensor, left: Tensor) -> Tensor:
        """Return e left, formed once for every left factor."""
        key = (id(left), len(rows))
        if key not in self._coordinates:
            self._coordinates[key] = (left, rows @ left.to(rows))
        return self._coordinates[key][1]


def back_project(signal: Tensor, feedback: Feedback) -> Tensor:
    """Return g B^T, the error that feedback transposed makes of a signal.

    Args:
        signal: Signal at the entry, shape ``(n_samples, ...)``.
        feedback: Feedback of shape ``(n_errors, *entry_shape)``, in any form.

    Returns:
        Shape ``(n_samples, n_errors)``.
    """
    rows, matrix = _from_entry(signal, feedback), _matrix(feedback)
    if isinstance(matrix, Factored):
        found = (rows @ _compact(matrix.right).to(rows).T) @ matrix.left.to(rows).T
    elif isinstance(matrix, Seeded):
        found = rows.new_empty(len(rows), matrix.shape[0])
        for start, stop, block in matrix.blocks():
            found[:, start:stop] = rows @ block.to(rows).T
    else:
        found = rows @ _compact(matrix).to(rows).T
    if isinstance(feedback, Positional):
        channels, axis = matrix.shape[0], feedback.error_axis
        positions = _positions(feedback.error_shape, axis)
        found = found.reshape(len(signal), *positions, channels).movedim(-1, _axis(axis))
    return found.reshape(len(signal), -1)


def inner_products(signal: Tensor, error: Tensor, feedback: Feedback) -> Tensor:
    """Return <g, B e> of every sample; of factored feedback as (g right^T)(e left).

    Args:
        signal: Signal g at the entry, shape ``(n_samples, ...)``.
        error: Shape ``(n_samples, ...)``, ``n_errors`` entries a sample.
        feedback: Feedback in any form.

    Returns:
        Shape ``(n_samples,)``.
    """
    return Projector(error).inner_products(signal, feedback)


def squared_norms(error: Tensor, feedback: Feedback) -> Tensor:
    """Return |B e|^2 of every sample; of factored feedback through the Gram matrix of right.

    Args:
        error: Shape ``(n_samples, ...)``, ``n_errors`` entries a sample.
        feedback: Feedback in any form.

    Returns:
        Shape ``(n_samples,)``.
    """
    return Projector(error).squared_norms(feedback)


def as_tensor(feedback: Feedback) -> Tensor:
    """Return feedback written out; large for many errors.

    Args:
        feedback: Feedback in any form.

    Returns:
        Shape ``(n_errors, *entry_shape)``. Factors are multiplied in float64, for the rounding of
        their product in float32 would fill the directions that a low rank leaves empty.
    """
    if isinstance(feedback, Tensor):
        return feedback
    if isinstance(feedback, Seeded):
        rows = feedback.rows(0, feedback.shape[0])
        return rows.reshape(-1, *feedback.drawn).expand(feedback.shape)
    if isinstance(feedback, Factored):
        product = wide(feedback.left) @ wide(_compact(feedback.right))
        return product.reshape(-1, *_drawn(feedback)).expand(feedback.shape)
    matrix = wide(as_tensor(feedback.matrix))
    plain = replace(feedback, matrix=matrix)
    whole = torch.eye(feedback.shape[0], dtype=matrix.dtype, device=matrix.device)
    return project(whole, plain, feedback.shape)


def _require_fit(feedback: Feedback, error: Tensor, target: tuple[int, ...]) -> None:
    n_samples, *per_sample = error.shape
    fits = prod(per_sample) == feedback.shape[0] if n_samples else True
    if fits and n_samples == target[0] and prod(feedback.shape[1:]) == prod(target[1:]):
        return
    msg = (
        f"The feedback {tuple(feedback.shape)} does not fit an error of shape "
        f"{tuple(error.shape)} and an entry of shape {target}."
    )
    raise MeasurementError(msg)


def _matrix(feedback: Feedback) -> Matrix:
    return feedback.matrix if isinstance(feedback, Positional) else feedback


def _axis(axis: int) -> int:
    """Return an axis of a sample as an axis of a batch."""
    return axis + 1 if axis >= 0 else axis


def _positions(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[1:] if axis == 0 else shape[:-1]


def _error_rows(error: Tensor, feedback: Feedback) -> Tensor:
    """Return what the matrix acts on: one row a sample, or one a sample and position."""
    if not isinstance(feedback, Positional):
        return error.reshape(len(error), -1)
    whole = error.reshape(len(error), *feedback.error_shape)
    return whole.movedim(_axis(feedback.error_axis), -1).reshape(-1, feedback.matrix.shape[0])


def _to_entry(values: Tensor, feedback: Feedback, n_samples: int) -> Tensor:
    """Return what the matrix gives in the shape of the entry, repeated where it repeats."""
    if isinstance(feedback, Positional):
        positions = _positions(feedback.entry_shape, feedback.entry_axis)
        whole = values.reshape(n_samples, *positions, feedback.matrix.shape[1])
        return whole.movedim(-1, _axis(feedback.entry_axis)).contiguous()
    spread = values.reshape(n_samples, *_drawn(feedback))
    return spread.expand(n_samples, *feedback.shape[1:]).contiguous()


def _from_entry(signal: Tensor, feedback: Feedback) -> Tensor:
    """Return rows of a signal as the transposed matrix takes them, repeats added up."""
    whole = signal.reshape(len(signal), *feedback.shape[1:])
    if isinstance(feedback, Positional):
        moved = whole.movedim(_axis(feedback.entry_axis), -1)
        return moved.reshape(-1, feedback.matrix.shape[1])
    sizes = zip(_drawn(feedback), feedback.shape[1:], strict=True)
    repeated = [axis + 1 for axis, (one, all_) in enumerate(sizes) if one < all_]
    return (whole.sum(repeated) if repeated else whole).reshape(len(signal), -1)


def _drawn(matrix: Matrix) -> tuple[int, ...]:
    """Return the shape of what differs: the entry's, 1 along axes of repeats."""
    if isinstance(matrix, Seeded):
        return matrix.drawn
    held = matrix.right if isinstance(matrix, Factored) else matrix
    return tuple(_compact_view(held).shape[1:])


def _repeats(matrix: Matrix) -> int:
    """Return at how many units of the entry each drawn value acts."""
    return prod(matrix.shape[1:]) // max(1, prod(_drawn(matrix)))


def _compact(held: Tensor) -> Tensor:
    """Return a matrix without the columns that only repeat others, shape ``(rows, n)``."""
    return _compact_view(held).reshape(held.shape[0], -1)


def _compact_view(held: Tensor) -> Tensor:
    for axis in range(1, held.dim()):
        if held.stride(axis) == 0:
            held = held.narrow(axis, 0, 1)
    return held
