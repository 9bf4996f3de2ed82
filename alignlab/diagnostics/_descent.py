"""What diagnostics that take steps have in common: where they begin, how long they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import nan, sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined
from alignlab.diagnostics._together import fetched
from alignlab.engine.replay import Replay, loss_of
from alignlab.kernels.cosines import wide

if TYPE_CHECKING:
    from alignlab.engine.capture import Capture
    from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = [
    "OTHERS",
    "SHARE",
    "Products",
    "Start",
    "exact_start",
    "groups",
    "loss_at",
    "moved",
    "observed",
    "products",
    "replay",
    "replay_at",
    "start",
    "step_length",
    "whole",
    "without_own",
]

SHARE = 1e-3
"""Share of the loss by which backpropagation lowers it, to first order, in a step of our length.

A heuristic of ours: short enough for most networks to be in their linear regime, and long enough
for the change to stand out of the rounding of float32.
"""

OTHERS = "(others)"
"""The group of the parameters that lie in no measured layer, as those of normalisations.

No layer has this name; that of a model which is one layer by itself is empty.
"""

FEW_UNITS = 2**21
"""Units times samples up to which losses are taken in float64, which for more is too slow."""

SAME_LOSS = 1e-3
"""Relative difference of the losses in two precisions that is rounding."""


@dataclass(frozen=True)
class Start:
    """Where steps begin.

    Attributes:
        precision: Floating type in which the network runs.
        loss_precision: That in which the loss is taken of its output; None for the same.
        loss: The loss there.
    """

    precision: torch.dtype
    loss_precision: torch.dtype | None
    loss: float

    @property
    def resolution(self) -> float:
        """Rounding of a loss, above which its changes are known."""
        return float(torch.finfo(self.precision).eps) * abs(self.loss)


@dataclass(frozen=True)
class Products:
    """An update and its product with the true gradient, by group of parameters.

    Attributes:
        inner: Inner products with the true gradient.
        norm: Norms of the update.
    """

    inner: Mapping[str, float]
    norm: Mapping[str, float]

    @property
    def slope(self) -> float:
        """Inner product of all parameters together."""
        return sum(self.inner.values())

    @property
    def size(self) -> float:
        """Norm of all parameters together."""
        return sqrt(sum(each**2 for each in self.norm.values()))


def start(snapshot: Snapshot) -> Start:
    """Return where steps begin, in float64 for small networks; for ``Snapshot.shared``.

    Where the loss in float64 is another one, as noise is drawn anew there, it is the model's own
    precision.
    """
    units = sum(layer.width for layer in snapshot.layers) * snapshot.capture.n_samples
    return _start(snapshot, is_exact=units <= FEW_UNITS)


def exact_start(snapshot: Snapshot) -> Start:
    """Return where steps begin, in float64 wherever that can be; for ``Snapshot.shared``."""
    return _start(snapshot, is_exact=True)


def _start(snapshot: Snapshot, *, is_exact: bool) -> Start:
    own, capture = snapshot.error.dtype, snapshot.capture
    plain = float(capture.loss.detach())
    tolerance = max(SAME_LOSS, 4.0 * torch.finfo(own).eps)
    for precision, loss_precision in _precisions(snapshot, is_exact=is_exact):
        try:
            loss = float(loss_of(capture, {}, precision=precision, loss_precision=loss_precision))
        except (RuntimeError, TypeError):
            continue
        if abs(loss - plain) <= tolerance * (abs(loss) + 1e-2):
            return Start(precision, loss_precision, loss)
    return Start(own, None, float(loss_of(capture, {}, precision=own)))


def _precisions(
    snapshot: Snapshot, *, is_exact: bool
) -> Iterator[tuple[torch.dtype, torch.dtype | None]]:
    """Yield precisions of network and loss, the most exact first."""
    own = snapshot.error.dtype
    has_wide = snapshot.error.device.type != "mps"
    if is_exact and has_wide:
        yield torch.float64, None
    for precision in dict.fromkeys((torch.float32 if own.itemsize < 4 else own, own)):
        if has_wide and precision != torch.float64:
            yield precision, torch.float64
        yield precision, None


def replay(snapshot: Snapshot) -> Replay:
    """Return the forward pass to be run again with changes; for ``Snapshot.shared``."""
    return replay_at(snapshot, {})


def replay_at(snapshot: Snapshot, parameters: Mapping[str, Tensor]) -> Replay:
    """Return the forward pass with other parameters, to be run again with changes."""
    begun = snapshot.shared(start)
    return Replay(
        snapshot.capture,
        precision=begun.precision,
        loss_precision=begun.loss_precision,
        parameters=parameters,
    )


def loss_at(snapshot: Snapshot, begun: Start, parameters: Mapping[str, Tensor]) -> Tensor:
    """Return the loss with other parameters, in the precisions of where steps begin."""
    return loss_of(
        snapshot.capture,
        parameters,
        precision=begun.precision,
        loss_precision=begun.loss_precision,
    )


def groups(capture: Capture) -> dict[str, tuple[str, ...]]:
    """Return the parameters that learn, in groups: those of each layer, and all others.

    A parameter that several layers have belongs to the first. A layer of which all are those of
    another one, or frozen, has no group.

    Returns:
        Names of parameters by name of the layer, ``OTHERS`` for those of none; no group is empty.
    """
    left = {id(p): name for name, p in capture.model.named_parameters() if p.requires_grad}
    found = {}
    for layer in capture.layers:
        own = [left.pop(id(p)) for p in capture.module_of(layer).parameters() if id(p) in left]
        if own:
            found[layer.name] = tuple(own)
    if left:
        found[OTHERS] = tuple(left.values())
    return found


def whole(snapshot: Snapshot, step: float) -> dict[str, float]:
    """Return a step of all groups together, for ``moved``."""
    return dict.fromkeys(groups(snapshot.capture), step)


def without_own(snapshot: Snapshot) -> Iterator[NotDefined]:
    """Yield the layers that have no group of parameters of their own."""
    named = groups(snapshot.capture)
    for layer in snapshot.layers:
        if layer.name not in named:
            module = snapshot.capture.module_of(layer)
            is_frozen = not any(p.requires_grad for p in module.parameters())
            because = "its parameters are frozen" if is_frozen else "another layer has its weights"
            yield NotDefined(because, layer=layer.name)


def observed(snapshot: Snapshot) -> Iterator[MeasuredRule | NotDefined]:
    """Yield the rules whose updates are the training's, and why the others are left out."""
    for measured in snapshot.rules:
        if measured.is_drawn:
            yield NotDefined("its feedback is drawn, not the training's", measured.label)
        else:
            yield measured


def products(snapshot: Snapshot) -> dict[str, Products]:
    """Return norms and slopes of every rule's update by its label, those of backpropagation as "".

    For ``Snapshot.shared``.
    """
    named = groups(snapshot.capture)
    true = snapshot.true.parameters
    updates = {"": true} | {m.label: snapshot.passes[m.label].parameters for m in snapshot.rules}
    sums = [
        torch.stack([_sum(true, update, names), _sum(update, update, names)])
        for update in updates.values()
        for names in named.values()
    ]
    values = iter(fetched(sums))
    found = {}
    for label in updates:
        pairs = {group: next(values) for group in named}
        found[label] = Products(
            {group: float(inner) for group, (inner, _) in pairs.items()},
            {group: sqrt(square) for group, (_, square) in pairs.items()},
        )
    return found


def _sum(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], names: tuple[str, ...]
) -> Tensor:
    parts = [
        (wide(first[name]) * wide(second[name]).to(first[name].device)).sum() for name in names
    ]
    return torch.stack([part.to(parts[0].device) for part in parts]).sum()


def step_length(snapshot: Snapshot, norm: float) -> float:
    """Return the length at which a step against a gradient lowers the loss by ``SHARE``.

    Args:
        snapshot: The probing.
        norm: Norm of the gradient in what is moved.

    Returns:
        NaN where there is no such length.
    """
    return SHARE * abs(snapshot.shared(start).loss) / norm if norm > 0 else nan


def moved(
    snapshot: Snapshot, update: Mapping[str, Tensor], steps: Mapping[str, float]
) -> dict[str, Tensor]:
    """Return parameters after a step against an update, in float64.

    Args:
        snapshot: The probing.
        update: By parameter name.
        steps: Factor on the update by group; groups that are left out do not move.
    """
    named = groups(snapshot.capture)
    parameters = dict(snapshot.capture.model.named_parameters())
    result = {}
    for group, step in steps.items():
        for name in named[group]:
            own = wide(parameters[name].detach())
            result[name] = own - step * wide(update[name]).to(own.device)
    return result
