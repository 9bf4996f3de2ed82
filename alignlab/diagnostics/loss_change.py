"""What a small step along the update does to the loss (B2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import Reading, SnapshotDiagnostic, Variable
from alignlab.kernels.cosines import wide
from alignlab.snapshot import Snapshot

__all__ = ["LossChange"]

_SHARE = 1e-3
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
    """First-order and actual loss change for steps of one length along every rule's update.

    The length is that at which backpropagation lowers the loss by one per mille to first
    order; all parameters move, biases, normalisations and the output layer included.
    """

    variables: ClassVar[tuple[Variable, ...]] = _declared()
    cost: ClassVar[float] = 0.7

    def measure(self, snapshot: Snapshot) -> Iterator[Reading]:
        """Yield loss changes of every rule and of backpropagation."""
        true = snapshot.true.parameters
        precision = _precision(snapshot)
        before = snapshot.capture.evaluate({}, precision=precision)
        norm = _norm(true)
        if not float(norm) > 0:
            return
        length = float(_SHARE * before.abs().double().cpu() / norm)
        updates = {
            m.label: snapshot.passes[m.label].parameters for m in snapshot.rules if not m.is_drawn
        }
        for label, update in {"": true, **updates}.items():
            size = float(_norm(update))
            if not size > 0:
                continue
            step = length / size
            moved = {
                name: wide(p.detach()) - step * wide(update[name]).to(p.device)
                for name, p in snapshot.capture.model.named_parameters()
                if name in update
            }
            after = snapshot.capture.evaluate(moved, precision=precision)
            first = -step * float(_inner(true, update))
            actual = float((after - before).double())
            ratio = actual / first if first else float("nan")
            suffix = "" if label else "_true"
            values = {"first_order": first, "actual": actual, "ratio": ratio, "step": length}
            for key, value in values.items():
                yield Reading(f"loss_change_{key}{suffix}", value, rule=label)


def _precision(snapshot: Snapshot) -> torch.dtype:
    """Return float64 where the model runs in it, else its own precision."""
    own = snapshot.error.dtype
    if snapshot.error.device.type == "mps":
        return own
    try:
        snapshot.capture.evaluate({}, precision=torch.float64)
    except (RuntimeError, TypeError):
        return own
    return torch.float64


def _inner(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    products = [(wide(first[name]) * wide(second[name])).sum().cpu() for name in first]
    return torch.stack(products).sum()


def _norm(tensors: Mapping[str, Tensor]) -> Tensor:
    return _inner(tensors, tensors).sqrt()
