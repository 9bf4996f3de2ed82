"""How activations grow along the trunk of a network (G4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from alignlab.diagnostics._base import Reading, SnapshotDiagnostic, Variable
from alignlab.kernels.cosines import wide
from alignlab.snapshot import Snapshot

__all__ = ["ResidualGrowth"]


class ResidualGrowth(SnapshotDiagnostic):
    """Norm of the activations at one entry of the trunk over that at the one before.

    The trunk are the entries that every path from the layers below to the loss passes; inside
    the branches of a residual block there are none.
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "residual_growth",
            ("layer",),
            "Norm of the activations at the layer's entry over that at the trunk's last entry",
            source="after Hao et al. 2026 (repository); which entries are the trunk: ours",
            valid=(0.0, None),
        ),
    )
    cost: ClassVar[float] = 0.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading]:
        """Yield the growth at every entry of the trunk but the first."""
        layout = snapshot.capture.layout
        by_name = {layer.name: layer for layer in snapshot.layers}
        last: Tensor | None = None
        seen = ""
        for layer in snapshot.hidden:
            if layer.consumer == seen or not layout.is_trunk(layer):
                continue
            seen = layer.consumer
            norm = wide(snapshot.capture.input_of(by_name[layer.consumer])).norm()
            if last is not None:
                yield Reading("residual_growth", norm / last, layer=layer.name)
            last = norm
