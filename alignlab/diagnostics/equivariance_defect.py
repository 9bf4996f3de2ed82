"""Whether error signals move with the input, as convolutions do (F5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.errors import MeasurementError
from alignlab.kernels.equivariance import SharedUnderShifts, equivariance_defect, shifted
from alignlab.rules._task import Task
from alignlab.snapshot import Snapshot

if TYPE_CHECKING:
    from alignlab.sites import Layer

__all__ = ["EquivarianceDefect"]

_SHIFTS = (1, 2, 4, 8)
_TRUE = ""


class EquivarianceDefect(SnapshotDiagnostic):
    r"""How far true and approximate signals are from moving with a shifted input.

    The input is moved cyclically by s positions along every axis, labels staying as they are,
    and forward and backward passes run again with the same randomness. With T the shift, which
    at a layer of fewer positions is smaller by the ratio of the input's positions to its own
    (the product of the strides),

    .. math:: \frac{\|\delta(Tx) - T\delta(x)\|}{\|\delta(x)\|}

    of the pre-activation signals, and over all shifts, none among them, the share of the energy
    that moves with it, :math:`\|\overline{T^{-1}\delta(Tx)}\|^2/\overline{\|\delta(Tx)\|^2}`.

    How to read it: 0 for backpropagation through circular convolutions and a pooled head; there
    a rule with a defect near :math:`\sqrt 2` (dense feedback) credits places and not what is
    seen, and weights that are shared over positions average that away. Where backpropagation has
    such a defect too (a flattened head) it is the architecture that knows places. Padding with
    zeros, strides and dropout masks, which do not move, add to both.

    Expectation: :math:`\sqrt 2` and one over the number of shifts (``equivariant_share_chance``)
    for signals that are unrelated under shifts.

    Undefined for layers that are no convolutions, for shifts by no whole number of the layer's
    positions or by whole turns, where the layer's positions are no whole part or multiple of the
    input's, for batches that are not one tensor of maps, and for rules without error signals. No
    trained feedback is needed: of drawn feedback the numbers are those of this draw.

    Source: our derivation.

    Example:
        >>> from torch.nn import AdaptiveAvgPool1d, Conv1d, Flatten, Linear, Sequential
        >>> from torch.nn.functional import cross_entropy
        >>> from alignlab import Probe
        >>> from alignlab.rules import BP
        >>> circular = Conv1d(2, 4, 3, padding=1, padding_mode="circular")
        >>> net = Sequential(circular, AdaptiveAvgPool1d(1), Flatten(), Linear(4, 3)).double()
        >>> with Probe(net, cross_entropy, rules=[BP()], draws=32,
        ...            diagnostics=["equivariance-defect"]) as probe:
        ...     found = probe.measure(torch.randn(9, 2, 8).double(), torch.arange(9) % 3)
        >>> bool((found["equivariance_defect"].sel(layer="0", shift=[1, 2, 4]) < 1e-12).all())
        True
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "equivariance_defect_true",
            ("layer", "shift"),
            "Distance of the true signal of a shifted input from the shifted true signal",
            valid=(0.0, None),
        ),
        Variable(
            "equivariance_defect",
            ("rule", "layer", "shift"),
            "Distance of the rule's signal of a shifted input from its shifted signal",
            better="lower",
            valid=(0.0, None),
        ),
        Variable(
            "equivariant_share_true",
            ("layer",),
            "Share of the true signal's energy that moves with the input",
            valid=(0.0, 1.0),
        ),
        Variable(
            "equivariant_share",
            ("rule", "layer"),
            "Share of the rule's signal's energy that moves with the input",
            better="higher",
            valid=(0.0, 1.0),
        ),
        Variable(
            "equivariant_share_chance",
            ("layer",),
            "That share for signals unrelated under shifts, one over the number of these",
            valid=(0.0, 1.0),
        ),
    )
    coords: ClassVar[Mapping[str, Sequence[float]]] = {"shift": _SHIFTS}
    cost: ClassVar[float] = 13.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield defects and shares of every convolution that some shift moves."""
        x = snapshot.x
        if not isinstance(x, Tensor) or x.dim() < 3:
            yield NotDefined("the batch is not one tensor of maps, whose positions could be moved")
            return
        moves: dict[str, dict[int, tuple[int, ...]]] = {}
        for layer in snapshot.layers:
            found = _moves(layer, tuple(x.shape[2:]))
            if isinstance(found, str):
                yield NotDefined(found, layer=layer.name)
            else:
                moves[layer.name] = found
        if not moves:
            return
        kept, because = _shifted_passes(snapshot, x, moves)
        for label, reason in because.items():
            yield NotDefined(reason, rule=label)
        yield from _readings(kept)


@dataclass
class _Kept:
    """What is kept of one layer's signals over the shifts."""

    defects: dict[int, Tensor] = field(default_factory=dict)
    shares: SharedUnderShifts = field(default_factory=SharedUnderShifts)


def _moves(layer: Layer, positions: tuple[int, ...]) -> dict[int, tuple[int, ...]] | str:
    """Return by how many of a layer's positions each shift of the input should move it."""
    if not layer.is_convolution:
        return f"it is no convolution ({layer.kind})"
    if layer.is_output:
        return "it is the output layer, whose signal is exact"
    own = layer.shape[1:]
    if len(own) != len(positions):
        return "its positions have other axes than the input's"
    if any(n % m and m % n for n, m in zip(positions, own, strict=True)):
        return f"its positions {own} are no whole part or multiple of the input's {positions}"
    found = {}
    for shift in _SHIFTS:
        pairs = [(shift * m, n) for n, m in zip(positions, own, strict=True)]
        if all(part % n == 0 for part, n in pairs) and any(shift % n for n in positions):
            found[shift] = tuple(part // n for part, n in pairs)
    if not found:
        listed = ", ".join(map(str, _SHIFTS))
        return f"no shift by {listed} positions of the input moves it by whole positions of its own"
    return found


def _shifted_passes(
    snapshot: Snapshot, x: Tensor, moves: Mapping[str, Mapping[int, tuple[int, ...]]]
) -> tuple[dict[tuple[str, str], _Kept], dict[str, str]]:
    """Run all rules on every shifted input; what is kept by rule ("" for the truth) and layer."""
    because = {
        m.label: "the rule has no error signals" for m in snapshot.rules if not m.rule.has_signals
    }
    plain = {_TRUE: snapshot.true.preactivation}
    plain |= {m.label: snapshot.passes[m.label].preactivation for m in snapshot.rules}
    kept: dict[tuple[str, str], _Kept] = {}
    for label, signals in plain.items():
        for name, by_shift in moves.items():
            if label not in because and name in signals:
                place = kept.setdefault((label, name), _Kept())
                place.shares.take(signals[name], [0] * len(next(iter(by_shift.values()))))
    shifts = [s for s in _SHIFTS if any(s in by_shift for by_shift in moves.values())]
    for number, shift in enumerate(shifts):
        snapshot.progress("shifted inputs", number + 1, len(shifts))
        moved = shifted(x, [shift] * (x.dim() - 2))
        with snapshot.task.again(x=moved) as capture:
            task = Task(capture, capture.reference())
            again = {_TRUE: task.true.preactivation}
            for measured in snapshot.rules:
                if measured.label not in because:
                    try:
                        again[measured.label] = measured.updates(
                            task, parameters=False
                        ).preactivation
                    except MeasurementError as error:
                        because[measured.label] = f"on a shifted input {error}"
            for (label, name), place in kept.items():
                move = moves[name].get(shift)
                if move is not None and label in again:
                    signal = again[label][name]
                    place.defects[shift] = equivariance_defect(plain[label][name], signal, move)
                    place.shares.take(signal, move)
    return {key: each for key, each in kept.items() if key[0] not in because}, because


def _readings(kept: Mapping[tuple[str, str], _Kept]) -> Iterator[Reading]:
    for (label, name), place in kept.items():
        nothing = torch.full_like(next(iter(place.defects.values())), torch.nan)
        values = torch.stack([place.defects.get(shift, nothing) for shift in _SHIFTS])
        suffix = "" if label else "_true"
        yield Reading(f"equivariance_defect{suffix}", values, label, name)
        yield Reading(f"equivariant_share{suffix}", place.shares.share(), label, name)
        if not label:
            yield Reading("equivariant_share_chance", 1.0 / place.shares.count, layer=name)
