"""What a small step along the update does to the loss (B2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._descent import (
    loss_at,
    moved,
    observed,
    products,
    start,
    step_length,
    whole,
)
from alignlab.diagnostics._together import fetched
from alignlab.snapshot import Snapshot

__all__ = ["LossChange"]

_WORDS = {
    "first_order": "First-order loss change of one step along the update",
    "actual": "Actual loss change of that step",
    "ratio": "Actual over first-order loss change",
    "step": "Length of that step in parameter space",
}


def _declared() -> tuple[Variable, ...]:
    rule = [
        Variable(f"loss_change_{key}", ("rule",), text, source="DFA-Stall (code)")
        for key, text in _WORDS.items()
    ]
    true = [
        Variable(f"loss_change_{key}_true", (), f"{text} of backpropagation")
        for key, text in _WORDS.items()
    ]
    return (*rule, *true)


class LossChange(SnapshotDiagnostic):
    r"""First-order and actual loss change for steps of one length along every rule's update.

    .. math:: \theta' = \theta - \eta \hat g, \quad \eta = r / \|\hat g\|, \quad
        r = 10^{-3} |L| / \|g\|, \qquad \text{first order } -\eta \langle g, \hat g\rangle

    The length r is that at which backpropagation lowers the loss by one per mille to first
    order; all parameters move, biases, normalisations and the output layer included. The loss is
    taken on the measured batch with the same randomness and the same buffers. Small networks run
    in float64 for it, large ones in their own precision, and the loss is taken of their output in
    float64.

    How to read it: the first-order change over backpropagation's is the cosine of the two updates.
    An actual change near it says that the step lies in the linear regime; our heuristic is a
    ratio of 0.8 to 1. Below 0.2 it is not the direction that fails but the step size or the
    curvature (our heuristic); ``loss-change-parts`` says which. A ratio means nothing where the
    first-order change is near zero. Expectation: an update that is unrelated to the gradient has a
    first-order change of 0, and an actual one that curvature alone makes, mostly above 0.

    Undefined where the true gradient is zero, where an update is zero, and for feedback that was
    drawn for the measurement.

    Source: DFA-Stall (code, step descent); the length is ours.

    Example:
        >>> import torch
        >>> from alignlab import Probe
        >>> from alignlab.rules import BP
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Linear(4, 3)
        >>> probe = Probe(
        ...     net,
        ...     torch.nn.functional.cross_entropy,
        ...     rules=[BP()],
        ...     diagnostics=["loss-change"],
        ...     draws=32,
        ... )
        >>> found = probe.measure(torch.randn(9, 4), torch.arange(9) % 3)
        >>> bool(0.9 < found["loss_change_ratio"].item() < 1.0)
        True
    """

    variables: ClassVar[tuple[Variable, ...]] = _declared()
    cost: ClassVar[float] = 1.1

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield loss changes of every rule and of backpropagation."""
        begun, found = snapshot.shared(start), snapshot.shared(products)
        length = step_length(snapshot, found[""].size)
        if not length > 0:
            yield NotDefined("the true gradient or the loss is zero")
            return
        labels = [""]
        for each in observed(snapshot):
            if isinstance(each, NotDefined):
                yield each
            elif not found[each.label].size > 0:
                yield NotDefined("its update is zero", each.label)
            else:
                labels.append(each.label)
        after = fetched([_after(snapshot, label, length / found[label].size) for label in labels])
        for label, loss in zip(labels, after, strict=True):
            first = -length / found[label].size * found[label].slope
            actual = float(loss) - begun.loss
            ratio = actual / first if first else float("nan")
            suffix = "" if label else "_true"
            values = {"first_order": first, "actual": actual, "ratio": ratio, "step": length}
            for key, value in values.items():
                yield Reading(f"loss_change_{key}{suffix}", value, rule=label)


def _after(snapshot: Snapshot, label: str, step: float) -> Tensor:
    """Return the loss after a step of a rule, of backpropagation for ""."""
    passes = snapshot.passes[label] if label else snapshot.true
    parameters = moved(snapshot, passes.parameters, whole(snapshot, step))
    return loss_at(snapshot, snapshot.shared(start), parameters)
