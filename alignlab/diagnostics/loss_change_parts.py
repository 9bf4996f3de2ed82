"""What curvature and single layers make of the loss change of a step (B2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._descent import (
    OTHERS,
    groups,
    moved,
    observed,
    products,
    replay,
    start,
    step_length,
    whole,
    without_own,
)
from alignlab.diagnostics._together import fetched
from alignlab.kernels.descent import interaction, second_order
from alignlab.snapshot import Snapshot

__all__ = ["LossChangeParts"]

_WHOLE = {
    "second_order": "Second-order loss change of one step along the update",
    "remainder": "Actual loss change of that step less first and second order",
    "interaction": "Loss change of that step less those of its parts, each taken alone",
}
_LAYER = {
    "alone": "Loss change where of that step the layer's own part is taken alone",
    "alone_first_order": "First-order loss change of the layer's own part of that step",
}


def _declared() -> tuple[Variable, ...]:
    found = []
    for words, dims in ((_WHOLE, ()), (_LAYER, ("layer",))):
        for key, text in words.items():
            name = f"loss_change_{key}"
            found += [
                Variable(name, ("rule", *dims), text),
                Variable(f"{name}_true", dims, f"{text}, of backpropagation"),
            ]
    resolution = "Rounding of the loss, which changes must exceed to be known"
    return (*found, Variable("loss_change_resolution", (), resolution, valid=(0.0, None)))


class LossChangeParts(SnapshotDiagnostic):
    r"""Second order, remainder and single layers' parts of the step that ``loss-change`` takes.

    .. math:: L(\theta - \eta \hat g) - L(\theta) = -\eta \langle g, \hat g\rangle
        + \tfrac12 \eta^2 \hat g^\top H \hat g + \text{remainder}

    The second order is a central second difference of the loss over the step itself, so that
    kinks of rectified units which the step crosses count as curvature. A layer's part is the step
    in its own weights and biases with all else at rest; parameters of no layer, as those of
    normalisations, are one part more. The interaction is the change of the whole step less the
    changes of all parts: to second order
    :math:`\frac{\eta^2}{2} \sum_{l \ne m} \hat g_l^\top H_{lm} \hat g_m`.

    How to read it: a second order near the size of the first says that the step is too long for
    the curvature along it. A positive interaction says that layers undo each other's gain, as they
    do when each corrects the same error; it would change with a smaller step, a negative one says
    that they help each other. A layer whose part alone raises the loss is not on a descent
    direction, or stands on too much curvature: its first order tells which. Expectation for an
    update that is unrelated to the gradient: first orders of 0. A change below
    ``loss_change_resolution`` is not known, nor an interaction below as many of these as there are
    layers: large networks run in float32, which resolves one ten-thousandth of backpropagation's
    first order or better.

    Undefined at layers without parameters of their own that learn, where the true gradient is
    zero, where an update is zero, and for feedback that was drawn for the measurement.

    Source: our derivation; steps in single layers are also those of DFA-Stall (code, masked
    virtual steps).

    Example:
        >>> import torch
        >>> from alignlab import Probe
        >>> from alignlab.rules import DFA
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
        ... )
        >>> probe = Probe(
        ...     net,
        ...     torch.nn.functional.cross_entropy,
        ...     rules=[DFA()],
        ...     diagnostics=["loss-change-parts"],
        ...     draws=32,
        ... )
        >>> found = probe.measure(torch.randn(9, 4), torch.arange(9) % 3)
        >>> bool((found["loss_change_alone_true"] < 0).all())
        True
    """

    variables: ClassVar[tuple[Variable, ...]] = _declared()
    cost: ClassVar[float] = 11.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the parts of the steps of every rule and of backpropagation."""
        found = snapshot.shared(products)
        length = step_length(snapshot, found[""].size)
        yield from without_own(snapshot)
        if not length > 0:
            yield NotDefined("the true gradient or the loss is zero")
            return
        yield Reading("loss_change_resolution", snapshot.shared(start).resolution)
        yield from _parts(snapshot, "", length / found[""].size)
        for each in observed(snapshot):
            if isinstance(each, NotDefined):
                yield each
            elif not found[each.label].size > 0:
                yield NotDefined("its update is zero", each.label)
            else:
                yield from _parts(snapshot, each.label, length / found[each.label].size)


def _parts(snapshot: Snapshot, label: str, step: float) -> Iterator[Reading]:
    """Yield the parts of a step of a rule, of backpropagation for ""."""
    update = (snapshot.passes[label] if label else snapshot.true).parameters
    own, runs = snapshot.shared(products)[label], snapshot.shared(replay)
    named = groups(snapshot.capture)
    ways = [whole(snapshot, step), whole(snapshot, -step), *({group: step} for group in named)]
    losses = [runs.changed(moved(snapshot, update, way)) for way in ways]
    before, ahead, behind, *alone = fetched([runs.loss, *losses])
    changes = dict(zip(named, (each - before for each in alone), strict=True))
    joint, first = ahead - before, -step * own.slope
    second = second_order(*map(torch.as_tensor, (before, ahead, behind, np.ones(()))))
    together = interaction(torch.as_tensor(joint), torch.as_tensor(np.array([*changes.values()])))
    suffix = "" if label else "_true"
    values = {
        "second_order": second,
        "remainder": float(joint) - first - second,
        "interaction": together,
    }
    for key, value in values.items():
        yield Reading(f"loss_change_{key}{suffix}", value, label)
    for layer, change in changes.items():
        if layer != OTHERS:
            slope = -step * own.inner[layer]
            yield Reading(f"loss_change_alone{suffix}", change, label, layer)
            yield Reading(f"loss_change_alone_first_order{suffix}", slope, label, layer)
