"""Weight gradients of shared weights as if they were not shared (F2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import (
    Adjoint,
    AlignmentDiagnostic,
    Comparison,
    Key,
    Variable,
)
from alignlab.diagnostics._positions import not_at_positions
from alignlab.layer_view import LayerView

__all__ = ["UnsharedGradient"]

_KEY = ("cosine_weight_gradient_unshared", "")


class UnsharedGradient(AlignmentDiagnostic):
    r"""Cosine of the weight gradients of all positions, before they are summed.

    .. math:: \frac{\sum_p \langle\hat g_p, g_p\rangle}
        {\sqrt{\sum_p\|\hat g_p\|^2\,\sum_p\|g_p\|^2}}

    with :math:`g_p` the gradient that position p alone causes, of a convolution or of a Linear
    layer on positions (tokens). It is the cosine of the same layer without weight sharing.

    How to read it: beside ``cosine_weight_gradient``, that of the sums. Where the shared cosine
    is far higher and its z small, the sums agree in a common mode that any feedback has, and the
    layer is not credited position by position. Judge such layers on z and on this number.

    Chance: that of redrawn feedback (or rotated outputs), as for every alignment; narrower than
    that of the shared gradient, for positions are many. The first-order closed form is exact in
    the same sense as that of weight gradients.

    Undefined for weights that act at one position alone, for transposed convolutions, at whose
    output several input positions meet, and for updates that are no sum over positions.

    Source: our derivation.

    Example:
        >>> from torch.nn import Conv1d, Flatten, Linear, Sequential
        >>> from torch.nn.functional import cross_entropy
        >>> from alignlab import Probe
        >>> from alignlab.rules import BP
        >>> net = Sequential(Conv1d(2, 4, 3), Flatten(), Linear(24, 3))
        >>> with Probe(net, cross_entropy, rules=[BP()], draws=32,
        ...            diagnostics=["unshared-gradient"]) as probe:
        ...     found = probe.measure(torch.randn(9, 2, 8), torch.arange(9) % 3)
        >>> round(found["cosine_weight_gradient_unshared"].sel(layer="0").item(), 6)
        1.0
    """

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
    cost: ClassVar[float] = 8.0
    max_draws: ClassVar[int] = 32
    without_value: ClassVar[str] = "its gradients are zero at all positions, true or the rule's"

    def undefined(self, true: LayerView, approximate: LayerView) -> str:
        """Return why positions have no gradients of their own."""
        if true.position_products is None:
            return not_at_positions(true)
        if true.layer.is_output:
            return "it is the output layer, and hidden layers alone are compared"
        if not approximate.is_local:
            return not_at_positions(approximate)
        return ""

    def compare(self, true: LayerView, approximate: LayerView) -> Mapping[Key, Comparison]:
        """Return the cosine for a layer on positions, nothing for other layers."""
        products, adjoint = true.position_products, true.position_adjoint
        signal = approximate.preactivation
        if true.layer.is_output or products is None or adjoint is None or signal is None:
            return {}
        if not approximate.is_local:
            return {}
        energy = products.energy(signal)
        by_sample = (adjoint * signal.to(adjoint)).flatten(1).sum(1)
        inner = by_sample.sum(dtype=torch.float64)
        value = (inner / energy.sqrt()).clamp(-1.0, 1.0)
        return {_KEY: Comparison(value, energy, (~torch.isfinite(value)).double())}

    def adjoints(self, true: LayerView, energies: Mapping[Key, Tensor]) -> Mapping[Key, Adjoint]:
        """Return T of the cosine; see the base class."""
        adjoint = true.position_adjoint
        if true.layer.is_output or adjoint is None or _KEY not in energies:
            return {}
        at_entry = true.to_entry(adjoint.to(true.preactivation))
        return {_KEY: Adjoint(at_entry, energies[_KEY].rsqrt().expand(len(at_entry)))}
