"""Kernels of rules seen along random output directions, where they are too large to be formed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignlab.diagnostics._draws import parameters_by_layer
from alignlab.diagnostics._kernel import DIFFERS, ELSEWHERE
from alignlab.diagnostics._pushed import backward_path, clause, why_no_path
from alignlab.diagnostics._together import fetched
from alignlab.errors import MeasurementError
from alignlab.feedback import generator
from alignlab.kernels.cosines import wide

if TYPE_CHECKING:
    from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["HIDDEN", "NETWORK", "RuleSketch", "Sketch", "sketch"]

DIRECTIONS = 6
"""Random directions; every pair of different ones counts."""

LARGEST = 2**28
"""Entries of gradients that are held at once."""

HIDDEN, NETWORK = "hidden layers", "all layers"
"""What stands beside the layers; no layer is called so."""

_SAME = 1e-3

Gradients = Mapping[str, Tensor]


@dataclass(frozen=True)
class RuleSketch:
    r"""A rule's kernel along random directions v, centred over samples.

    Attributes:
        because: Why there is none, a clause; empty where there is.
        values: :math:`v_a^\top K v_b` by layer, shape ``(DIRECTIONS, DIRECTIONS)``.
        along_targets: :math:`y^\top K y / |y|^2` by layer, where there are targets.
    """

    because: str = ""
    values: Mapping[str, Tensor] = field(default_factory=dict)
    along_targets: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Sketch:
    """The kernels of all rules along the same directions.

    Attributes:
        because: Why there are none, a clause; empty where there are.
        truth: The tangent kernel.
        rules: By label.
    """

    because: str = ""
    truth: RuleSketch = RuleSketch()
    rules: Mapping[str, RuleSketch] = field(default_factory=dict)


def sketch(snapshot: Snapshot, targets: Tensor | None) -> Sketch:
    """Return the kernels of all rules along random directions.

    Args:
        snapshot: The probing.
        targets: One row a sample, ``(n_samples, n_errors)``; None where there are none.
    """
    size = sum(g.numel() for g in snapshot.true.parameters.values())
    if (DIRECTIONS + 3) * size > LARGEST:
        return Sketch(f"gradients of {size:,} parameters would take too much room")
    try:
        work = _Sketching(snapshot, targets)
    except MeasurementError as error:
        return Sketch(clause(error))
    if not work.truth.values:
        return Sketch(work.truth.because)
    found = {}
    for measured in snapshot.rules:
        because = why_no_path(measured)
        try:
            found[measured.label] = RuleSketch(because) if because else work.of_rule(measured)
        except MeasurementError as error:
            found[measured.label] = RuleSketch(clause(error))
    return Sketch("", work.truth, found)


class _Sketching:
    """The directions, and the true gradients along them."""

    def __init__(self, snapshot: Snapshot, targets: Tensor | None) -> None:
        self._snapshot = snapshot
        self._parts = _parts(snapshot)
        names = {name for part in self._parts.values() for name in part}
        error = snapshot.error
        stream = generator(snapshot.seed, "rule kernel")
        drawn = torch.randn((DIRECTIONS, *error.shape), generator=stream).to(error)
        self._drawn = drawn - drawn.mean(1, keepdim=True)
        self._targets = None if targets is None else _unit(targets.to(error))
        with backward_path(snapshot, None) as path:
            rows = [path.gradients(v) for v in self._drawn]
            self._true = {n: torch.stack([wide(row[n]).flatten() for row in rows]) for n in names}
            along = None if self._targets is None else path.gradients(self._targets)
            self._along = along
            differs = self._differs(path.gradients(error), snapshot.true.parameters)
        squares = {name: rows @ rows.T for name, rows in self._true.items()}
        self.truth = (
            RuleSketch(ELSEWHERE)
            if differs
            else RuleSketch("", self._summed(squares), self._summed(self._targets_along(along)))
        )

    def of_rule(self, measured: MeasuredRule) -> RuleSketch:
        """Return a rule's kernel along the directions."""
        updates = self._snapshot.passes[measured.label].parameters
        columns: dict[str, list[Tensor]] = {name: [] for name in self._true}
        with backward_path(self._snapshot, measured) as path:
            if self._differs(path.gradients(self._snapshot.error), updates):
                return RuleSketch(DIFFERS)
            for v in self._drawn:
                found = path.gradients(v)
                for name, rows in self._true.items():
                    columns[name].append(rows @ wide(found[name]).flatten())
            along = None if self._targets is None else path.gradients(self._targets)
        values = {name: torch.stack(parts, 1) for name, parts in columns.items()}
        return RuleSketch("", self._summed(values), self._summed(self._targets_along(along)))

    def _targets_along(self, found: Gradients | None) -> dict[str, Tensor]:
        r"""Return :math:`y^\top K y` by parameter, from what a path makes of the targets."""
        if found is None or self._along is None:
            return {}
        return {n: (wide(self._along[n]) * wide(found[n])).sum() for n in self._true}

    def _summed(self, by_name: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what belongs to parameters summed over those of every layer."""
        if not by_name:
            return {}
        return {
            layer: torch.stack([by_name[name] for name in names]).sum(0)
            for layer, names in self._parts.items()
        }

    def _differs(self, found: Gradients, expected: Gradients) -> bool:
        """Return whether an error at the output brings other gradients than those given."""
        gaps = []
        for names in self._parts.values():
            pairs = [(wide(found[name]), wide(expected[name])) for name in names]
            gap = torch.stack([(a - b).square().sum() for a, b in pairs]).sum()
            gaps.append(torch.stack([gap, torch.stack([b.square().sum() for _, b in pairs]).sum()]))
        return any(not gap <= _SAME**2 * size for gap, size in fetched(gaps))


def _parts(snapshot: Snapshot) -> dict[str, Sequence[str]]:
    """Return the names of the parameters of every layer, of hidden ones and of all together."""
    learned = {layer: names for layer, names in parameters_by_layer(snapshot).items() if names}
    hidden = {layer.name for layer in snapshot.hidden}
    together = {
        HIDDEN: tuple({n: 0 for layer, names in learned.items() if layer in hidden for n in names}),
        NETWORK: tuple({n: 0 for names in learned.values() for n in names}),
    }
    return {**learned, **{key: names for key, names in together.items() if names}}


def _unit(targets: Tensor) -> Tensor:
    """Return targets without their mean over samples, of norm 1."""
    rows = targets - targets.mean(0)
    result: Tensor = rows / rows.norm()
    return result
