"""How activations grow from layer to layer (G4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from alignlab.diagnostics._base import Reading, SnapshotDiagnostic, Variable
from alignlab.kernels.cosines import wide
from alignlab.snapshot import Snapshot

__all__ = ["ResidualGrowth"]


class ResidualGrowth(SnapshotDiagnostic):
    """Norm of a layer's entry over the norm of its input."""

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "residual_growth",
            ("layer",),
            "Norm of the activations at the layer's entry over that of its input",
            source="Hao et al. 2026 (repository)",
            valid=(0.0, None),
        ),
    )
    cost: ClassVar[float] = 0.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading]:
        """Yield the growth over every hidden layer."""
        by_name = {layer.name: layer for layer in snapshot.layers}
        for layer in snapshot.hidden:
            x = wide(snapshot.capture.input_of(layer))
            h = wide(snapshot.capture.input_of(by_name[layer.consumer]))
            yield Reading("residual_growth", h.norm() / x.norm(), layer=layer.name)
