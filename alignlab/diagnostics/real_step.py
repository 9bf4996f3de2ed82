"""What the step that an optimizer really took does to the loss (B3)."""

from __future__ import annotations

from collections.abc import Iterator
from math import nan
from typing import ClassVar

import numpy as np
import torch

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._descent import (
    OTHERS,
    exact_start,
    groups,
    loss_at,
    moved,
    products,
    step_length,
    whole,
    without_own,
)
from alignlab.diagnostics._rotated import of_parameters, rotated, scalars
from alignlab.diagnostics._together import fetched
from alignlab.kernels.descent import second_order
from alignlab.rules._observed import ObservedRule
from alignlab.rules.displacement import Displacement
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["RealStep"]

_CODE = "after DFA-Stall (code)"
_WHOLE = {
    "length": "Norm of the real displacement of all parameters",
    "first_order": "First-order loss change of the real displacement",
    "second_order": "Second-order loss change of the real displacement",
    "actual": "Actual loss change of the real displacement on this batch",
    "remainder": "Actual loss change of the real displacement less first and second order",
    "ratio": "Actual over first-order loss change of the real displacement",
}


class RealStep(SnapshotDiagnostic):
    r"""First order, second order and actual loss change of the displacement :math:`\Delta\theta`.

    .. math:: L(\theta + \Delta\theta) - L(\theta) = \langle g, \Delta\theta\rangle
        + \tfrac12 \Delta\theta^\top H \Delta\theta + \text{remainder}

    :math:`\Delta\theta` is what the rule ``displacement`` holds, at its real length: all that the
    optimizer made of a gradient, step size, momentum, adaptive scales and weight decay included.
    The loss is that of the measured batch at the weights where the displacement began, with the
    same randomness and buffers, in float64 where the model has the same loss there. The second
    order is a central second difference, over at most the length at which backpropagation lowers
    the loss by one per mille, which sees the kinks of rectified units there as curvature.

    How to read it: ``real_step_descends`` is 1 where the layer has moved downhill to first order,
    0 where uphill; over many steps its mean is the frequency of descent, by chance 1/2. A
    first order below 0 with an actual change above it says that the step was too long, and the
    second order how much of that is curvature. Weight decay and momentum can turn the cosine away
    from that of the gradient that the optimizer was given (rule ``applied``); comparing both says
    which of the two it was. Chance level of the cosines: the displacement turned at random among
    the output units of each layer, a low bar that keeps what the inputs share.

    Undefined for rules that move no weights. Of ``applied``, the gradient that an optimizer is
    given, direction and descent are recorded, and no lengths: these are the optimizer's.

    Source: after DFA-Stall (code); the chance level is our derivation.

    Example:
        >>> import torch
        >>> from alignlab import Probe
        >>> from alignlab.rules import Displacement
        >>> _ = torch.manual_seed(0)
        >>> net, x, y = torch.nn.Linear(4, 3), torch.randn(9, 4), torch.arange(9) % 3
        >>> loss = torch.nn.functional.cross_entropy
        >>> probe = Probe(net, loss, rules=[Displacement()], diagnostics=["real-step"], draws=32)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> with probe.observe(0, x, y):
        ...     loss(net(x), y).backward()
        ...     optimizer.step()
        >>> bool(probe.recording()["real_step_actual"] < 0)
        True
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        *(
            Variable(f"real_step_{key}", ("rule",), text, source=_CODE)
            for key, text in _WHOLE.items()
        ),
        Variable(
            "real_step_first_order_layer",
            ("rule", "layer"),
            "First-order loss change of the layer's own part of the real displacement",
            source=_CODE,
        ),
        Variable(
            "real_step_descends",
            ("rule", "layer"),
            "Whether the layer's own part of the real displacement goes downhill to first order",
            source=_CODE,
            better="higher",
            valid=(0.0, 1.0),
        ),
        Variable(
            "real_step_cosine",
            ("rule", "layer"),
            "Cosine of the layer's displacement with the step against its gradient",
            source=_CODE,
            better="higher",
            valid=(-1.0, 1.0),
            alignment=True,
        ),
        Variable(
            "real_step_cosine_total",
            ("rule",),
            "Cosine of the displacement of all parameters with the step against the gradient",
            source=_CODE,
            better="higher",
            valid=(-1.0, 1.0),
            alignment=True,
        ),
    )
    cost: ClassVar[float] = 8.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield what is known of the real steps among the rules."""
        yield from without_own(snapshot)
        if not snapshot.rules:
            yield NotDefined("no rule was measured; displacement tells the real step")
        for measured in snapshot.rules:
            if not isinstance(measured.rule, ObservedRule):
                yield NotDefined("it has moved no weights; displacement has", measured.label)
            elif not snapshot.shared(products)[measured.label].size > 0:
                yield NotDefined("nothing has moved", measured.label)
            else:
                yield from _directions(snapshot, measured)
                if isinstance(measured.rule, Displacement):
                    yield from _lengths(snapshot, measured)


def _directions(snapshot: Snapshot, measured: MeasuredRule) -> Iterator[Reading | NotDefined]:
    """Yield cosines and whether layers go downhill."""
    model, label, named = snapshot.capture.model, measured.label, groups(snapshot.capture)
    true = {name: one[None] for name, one in snapshot.true.parameters.items()}
    update = {name: one[None] for name, one in snapshot.passes[label].parameters.items()}
    pairs = {group: of_parameters(model, names, update, true) for group, names in named.items()}
    found, together = rotated(snapshot, pairs, stream=f"real-step, {label}")
    layers = {group: each for group, each in found.items() if group != OTHERS}
    yield from scalars("real_step_cosine", label, layers)
    yield from scalars("real_step_cosine_total", label, {"": together})
    own, exact = snapshot.shared(products)[label], snapshot.shared(products)[""]
    for layer in layers:
        if not (own.norm[layer] > 0 and exact.norm[layer] > 0):
            because = "its true gradient is zero" if own.norm[layer] > 0 else "it has not moved"
            yield NotDefined(because, label, layer)
            continue
        yield Reading("real_step_descends", float(own.inner[layer] > 0), label, layer)
        if isinstance(measured.rule, Displacement):
            yield Reading("real_step_first_order_layer", -own.inner[layer], label, layer)


def _lengths(snapshot: Snapshot, measured: MeasuredRule) -> Iterator[Reading]:
    """Yield what the displacement does to the loss at its real length."""
    begun, found = snapshot.shared(exact_start), snapshot.shared(products)
    own, update = found[measured.label], snapshot.passes[measured.label].parameters
    short = step_length(snapshot, found[""].size) / own.size
    share = min(1.0, short) if short > 0 else 1.0
    losses = [
        loss_at(snapshot, begun, moved(snapshot, update, whole(snapshot, step)))
        for step in (1.0, share, -share)
    ]
    after, ahead, behind = fetched(losses)
    first, actual = -own.slope, float(after) - begun.loss
    places = (np.array(begun.loss), ahead, behind, np.array(share))
    second = float(second_order(*map(torch.as_tensor, places)))
    values = {
        "length": own.size,
        "first_order": first,
        "second_order": second,
        "actual": actual,
        "remainder": actual - first - second,
        "ratio": actual / first if first else nan,
    }
    for key, value in values.items():
        yield Reading(f"real_step_{key}", value, measured.label)
