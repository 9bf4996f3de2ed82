"""Eigenvalues of the update Jacobian of a rule, as far as they can be found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading
from alignlab.diagnostics._field import Field, precisely, why_no_field
from alignlab.diagnostics._pushed import clause
from alignlab.diagnostics._together import fetched
from alignlab.errors import MeasurementError
from alignlab.kernels.arnoldi import Ritz, arnoldi, ritz_values

if TYPE_CHECKING:
    from alignlab.rules._task import Task
    from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["SHOWN", "growth"]

STEPS = 40
"""Most vectors of a Krylov space."""

FEWEST = 8
WORK = 1.6e8
"""Units times samples times vectors that are worth their time."""

ROOM = 2**27
"""Entries of a Krylov space that are held: 1 GiB in float64."""

SHOWN = 4
"""Eigenvalues that are recorded."""

_CONVERGED, _NEUTRAL = 1e-2, 1e-5
"""Residual over eigenvalue, or over the largest one, below which it counts as found."""

_DISPLACEMENT, _COARSE = 2e-9, 1e-3
"""Length of a displacement over that of the parameters: in float64, and in less.

Shorter by far than what is usual: of the millions of gates of a network some turn already at 1e-7,
and then differences show their jumps in place of the slope between them.
"""

_SMOOTH = 1e-2
"""Largest relative change of a product with a displacement four times as long."""


def growth(snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
    """Yield what Krylov spaces of the update Jacobians of all rules show."""
    size = sum(p.numel() for p in snapshot.true.parameters.values())
    units = sum(layer.width + layer.entry_width for layer in snapshot.layers)
    steps = int(min(STEPS, size, ROOM // size, WORK // (units * snapshot.capture.n_samples)))
    if steps < min(FEWEST, size):
        yield NotDefined("a Krylov space of its weights takes too much room or time")
        return
    with precisely(snapshot) as task:
        for measured in snapshot.rules:
            because = why_no_field(measured)
            if because:
                yield NotDefined(because, measured.label)
                continue
            try:
                yield from list(_of_rule(snapshot, task, measured, steps))
            except MeasurementError as error:
                yield NotDefined(clause(error), measured.label)


def _of_rule(
    snapshot: Snapshot, task: Task, measured: MeasuredRule, steps: int
) -> Iterator[Reading | NotDefined]:
    field, label = Field(task, measured), measured.label
    if field.depends_on_draws():
        yield NotDefined(
            "it draws anew in every step, and the Jacobian of one draw is not the rule's", label
        )
        return
    slope = _Slope(field)
    error, bend = slope.changes(seed=snapshot.seed)
    yield Reading("growth_error", error, label)
    yield Reading("growth_nonlinearity", bend, label)
    if not error <= _SMOOTH:
        yield NotDefined(
            "its update has no slope at these weights: differences do not agree", label
        )
        return
    size = len(field.origin)
    krylov = arnoldi(slope, size=size, steps=steps, like=field.origin, seed=snapshot.seed)
    yield from _of_ritz(ritz_values(krylov), label)


class _Slope:
    r"""Products with :math:`\partial(-\hat g)/\partial\theta` by differences of the update."""

    def __init__(self, field: Field) -> None:
        self._field = field
        self._share = _DISPLACEMENT if field.origin.dtype == torch.float64 else _COARSE
        self._length = self._share * field.origin.norm()
        self._here = field(torch.zeros_like(field.origin))

    def __call__(self, vector: Tensor, *, reach: float = 1.0) -> Tensor:
        moved = self._field(reach * self._length * vector)
        result: Tensor = (self._here - moved) / (reach * self._length)
        return result

    def changes(self, *, seed: int) -> tuple[float, float]:
        """Return by how much a product changes, over its norm, with a longer displacement.

        Returns:
            With one four times as long, and with one of ``_COARSE``.
        """
        stream = torch.Generator().manual_seed(seed)
        vector = torch.randn(len(self._field.origin), generator=stream).to(self._field.origin)
        vector = vector / vector.norm()
        near, far = self(vector), self(vector, reach=4.0)
        coarse = self(vector, reach=_COARSE / self._share)
        size, *gaps = fetched([near.norm(), (far - near).norm(), (coarse - near).norm()])
        first, second = (float(gap / size) if size > 0.0 else 0.0 for gap in gaps)
        return first, second


def _of_ritz(ritz: Ritz, label: str) -> Iterator[Reading | NotDefined]:
    yield Reading("growth_vectors", float(len(ritz.values)), label)
    yield Reading("growth_range_highest", ritz.highest, label)
    yield Reading("growth_range_lowest", ritz.lowest, label)
    sizes = np.abs(ritz.values)
    found = ritz.residuals <= np.maximum(_CONVERGED * sizes, _NEUTRAL * sizes.max())
    decaying = found & (ritz.values.real < 0.0) & (sizes > _NEUTRAL * sizes.max())
    if decaying.any():
        limits = -2.0 * ritz.values.real[decaying] / sizes[decaying] ** 2
        yield Reading("stable_step_at_most", float(limits.min()), label)
    first = int(np.argmin(found)) if not found.all() else len(found)
    if not first:
        yield NotDefined(
            f"Arnoldi has not converged in {len(sizes)} vectors: the Ritz value of largest real "
            f"part, {ritz.values[0].real:.3g}, has the residual {ritz.residuals[0]:.2g}"
        )
        return
    shown = slice(0, min(first, SHOWN))
    yield Reading("growth_rate", ritz.values.real[shown], label)
    yield Reading("growth_rotation", np.abs(ritz.values.imag[shown]), label)
    yield Reading("growth_residual", ritz.residuals[shown], label)
