"""Weight gradients of convolutions as if weights were not shared (F2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from alignlab.diagnostics._base import AlignmentDiagnostic, Comparison, Key, Variable
from alignlab.kernels.cosines import cosine, wide
from alignlab.layer_view import LayerView

__all__ = ["UnsharedGradient"]


class UnsharedGradient(AlignmentDiagnostic):
    """Cosine of the weight gradients of all positions, before they are summed."""

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "cosine_weight_gradient_unshared",
            ("rule", "layer"),
            "Cosine of true and approximate weight gradient with every position by itself",
            better="higher",
            valid=(-1.0, 1.0),
            alignment=True,
        ),
    )
    cost: ClassVar[float] = 1.0
    max_draws: ClassVar[int] = 32

    def undefined(self, true: LayerView, approximate: LayerView) -> str:
        """Return why positions have no gradients of their own."""
        if true.layer.is_output:
            return "it is the output layer, whose gradient is exact"
        if true.position_gradients is None:
            return "it is no convolution"
        if approximate.position_gradients is None:
            return "the rule's update of its weight is no sum over positions"
        return ""

    def compare(self, true: LayerView, approximate: LayerView) -> Mapping[Key, Comparison]:
        """Return the cosine for a convolution, nothing for other layers."""
        if true.layer.is_output:
            return {}
        first, second = true.position_gradients, approximate.position_gradients
        if first is None or second is None:
            return {}
        value = cosine(first.flatten(), second.flatten())
        energy = wide(second).square().sum()
        key = ("cosine_weight_gradient_unshared", "")
        return {key: Comparison(value, energy, (~torch.isfinite(value)).double())}
