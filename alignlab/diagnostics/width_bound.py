"""How far a narrow layer lets the layers below it align (bottleneck)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from alignlab.diagnostics._base import Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._feedback import at_entries
from alignlab.feedback import Feedback, project
from alignlab.kernels.cosines import wide
from alignlab.rules._base import DirectRule
from alignlab.snapshot import Snapshot

__all__ = ["WidthBound"]

_SOURCE = "our derivation; exact for linear networks"
_DRAWS = 200


class WidthBound(SnapshotDiagnostic):
    """Largest cosine that the narrowest place above a layer allows with direct feedback."""

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "width_bound",
            ("rule", "layer"),
            "Largest flattened cosine that the narrowest width above the layer allows",
            source=_SOURCE,
            better="higher",
            valid=(0.0, 1.0),
        ),
        Variable(
            "width_bound_low",
            ("rule", "layer"),
            "Lower edge of the central 95% of that bound over draws of the feedback",
            source=_SOURCE,
            valid=(0.0, 1.0),
        ),
        Variable(
            "width_bound_high",
            ("rule", "layer"),
            "Upper edge of the central 95% of that bound over draws of the feedback",
            source=_SOURCE,
            valid=(0.0, 1.0),
        ),
        Variable(
            "narrowest_width_above",
            ("layer",),
            "Units at the narrowest place between the layer's entry and the output",
            valid=(1.0, None),
        ),
        Variable(
            "narrowest_layer_above",
            ("layer",),
            "Layer at whose output or entry that place is",
            units="",
            dtype="string",
        ),
    )
    cost: ClassVar[float] = 0.1

    def measure(self, snapshot: Snapshot) -> Iterator[Reading]:
        """Yield the bound of every direct rule and the places that set it."""
        errors = wide(snapshot.exact_error)
        for layer in snapshot.hidden:
            place = snapshot.capture.layout.narrowest_above(layer)
            if place is not None:
                yield Reading("narrowest_width_above", float(place[0]), layer=layer.name)
                yield Reading("narrowest_layer_above", place[1], layer=layer.name)
        for measured in snapshot.rules:
            if not isinstance(measured.rule, DirectRule):
                continue
            observed = _bounds(snapshot, at_entries(snapshot, measured.feedback), errors)
            if not measured.is_drawn:
                for name, value in observed.items():
                    yield Reading("width_bound", value, measured.label, name)
                continue
            draws: dict[str, list[float]] = {name: [] for name in observed}
            for redrawn in snapshot.redrawn(measured, min(snapshot.draws, _DRAWS)):
                feedback = at_entries(snapshot, redrawn.feedback)
                for name, value in _bounds(snapshot, feedback, errors).items():
                    draws[name].append(value)
            for name, values in draws.items():
                low, median, high = np.quantile(values, [0.025, 0.5, 0.975])
                yield Reading("width_bound", median, measured.label, name)
                yield Reading("width_bound_low", low, measured.label, name)
                yield Reading("width_bound_high", high, measured.label, name)


def _bounds(snapshot: Snapshot, feedback: dict[str, Feedback], errors: Tensor) -> dict[str, float]:
    return {
        layer.name: _bound(errors, feedback[layer.name], place[0] if place else None)
        for layer in snapshot.hidden
        if layer.name in feedback
        for place in [snapshot.capture.layout.narrowest_above(layer)]
    }


def _bound(errors: Tensor, feedback: Feedback, rank: int | None) -> float:
    r"""Return :math:`\sqrt{\sum_{j\le r}s_j^2/\sum_j s_j^2}`, s the singular values of E B^T."""
    if rank is None:
        return 1.0
    half = torch.linalg.qr(errors).R
    images = project(half, feedback, (half.shape[0], *feedback.shape[1:]))
    energies = torch.linalg.svdvals(images.reshape(half.shape[0], -1)).square()
    return float((energies[:rank].sum() / energies.sum()).sqrt().clamp_max(1.0))
