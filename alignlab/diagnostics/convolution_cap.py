"""How far convolution weights can turn towards dense feedback (F1)."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import ClassVar

import numpy as np
import torch

from alignlab.diagnostics._base import Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._feedback import direct_pairs
from alignlab.kernels.convolution import structured_share
from alignlab.kernels.layers import tap_counts
from alignlab.rules._base import DirectRule
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["ConvolutionCap"]

_DRAWS = 32


class ConvolutionCap(SnapshotDiagnostic):
    """Largest cosine that the weights of a convolution can have with B_l B_{l-1}^T."""

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "convolution_weight_cap",
            ("layer",),
            "Expected largest cosine of convolution weights with dense feedback",
            valid=(0.0, 1.0),
        ),
        Variable(
            "convolution_weight_attainable",
            ("rule", "layer"),
            "Largest cosine of convolution weights with the feedback of this rule",
            better="higher",
            valid=(0.0, 1.0),
        ),
    )
    cost: ClassVar[float] = 0.1

    def measure(self, snapshot: Snapshot) -> Iterator[Reading]:
        """Yield the cap of every convolution with a layer below, and that for the feedback."""
        fed = {layer.consumer for layer in snapshot.hidden}
        for layer in snapshot.hidden:
            if layer.is_convolution and layer.name in fed:
                shape = snapshot.capture.input_of(layer).shape[1:]
                counts = tap_counts(snapshot.capture.module_of(layer), shape)
                free = float((counts > 0).sum())
                cap = (free / (layer.width * prod(shape))) ** 0.5
                yield Reading("convolution_weight_cap", cap, layer=layer.name)
        for measured in snapshot.rules:
            if not isinstance(measured.rule, DirectRule):
                continue
            drawn = snapshot.redrawn(measured, _DRAWS) if measured.is_drawn else (measured,)
            found: dict[str, list[float]] = {}
            for each in drawn:
                for name, value in _attainable(snapshot, each):
                    found.setdefault(name, []).append(value)
            for name, values in found.items():
                value = float(np.median(values))
                yield Reading("convolution_weight_attainable", value, measured.label, name)


def _attainable(snapshot: Snapshot, measured: MeasuredRule) -> Iterator[tuple[str, float]]:
    for pair in direct_pairs(snapshot, measured.feedback):
        module = snapshot.capture.module_of(pair.layer)
        zeros = getattr(module, "padding_mode", "zeros") == "zeros"
        if pair.above is None or not pair.layer.is_convolution or not zeros:
            continue
        assert isinstance(module, torch.nn.Module)
        yield pair.layer.name, float(structured_share(module, pair.below, pair.above))
