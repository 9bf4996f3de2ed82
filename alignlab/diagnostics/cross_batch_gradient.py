"""Cosine of weight gradients across two disjoint halves of the samples (A6)."""

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
from alignlab.kernels.cosines import wide
from alignlab.kernels.layers import linear_part
from alignlab.layer_view import LayerView

__all__ = ["CrossBatchGradient"]

_KEY: Key = ("cosine_weight_gradient_debiased", "")


class CrossBatchGradient(AlignmentDiagnostic):
    r"""Cosine of true and approximate weight gradient of different samples.

    With the gradients of a random half A of the samples and of the other, B,

    .. math:: c = \frac{\langle\hat g_A, g_B\rangle + \langle\hat g_B, g_A\rangle}
        {2\sqrt{\langle\hat g_A, \hat g_B\rangle \langle g_A, g_B\rangle}}.

    *How to read it.* Two gradients of the same batch share its noise, which aligns them even
    where their means are unrelated. Here only what both halves agree on counts. Where this cosine
    is far below ``cosine_weight_gradient``, that one is mostly shared noise; a larger batch
    brings them together. It is a ratio of estimates and leaves [-1, 1] where little signal is
    left.

    *Chance.* That of redrawn feedback, or of rotated outputs. The closed form holds where the
    product of the two halves' approximate gradients, by which it divides, hardly varies over
    redraws. Where it does, the distribution by chance has heavy tails, and p-values are counts of
    redraws.

    *Undefined* where the gradients of the two halves have no positive product with each other,
    as when noise is all there is, and under rules that yield updates alone.

    Source: our derivation.

    Example:
        >>> from alignlab.probe import Probe
        >>> from alignlab.rules import BP
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
        ... )
        >>> loss = torch.nn.functional.cross_entropy
        >>> probe = Probe(
        ...     net, loss, rules=[BP()], diagnostics=["cross-batch-gradient"], draws=32
        ... )
        >>> found = probe.measure(torch.eye(4).repeat(10, 1), torch.arange(4).repeat(10) % 3)
        >>> round(found["cosine_weight_gradient_debiased"].sel(layer="0").item(), 6)
        1.0
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            _KEY[0],
            ("rule", "layer"),
            "Cosine of the weight gradients across two disjoint halves of the samples",
            better="higher",
            alignment=True,
        ),
    )
    cost: ClassVar[float] = 60.0
    without_value: ClassVar[str] = (
        "its gradients of the two halves have no positive product, true or the rule's"
    )

    def compare(self, true: LayerView, approximate: LayerView) -> Mapping[Key, Comparison]:
        """Return the cosine; NaN where a product of a gradient with itself is not positive."""
        exact, found = true.weight_halves, approximate.weight_halves
        if exact is None or found is None:
            return {}
        a, b = (wide(half).flatten() for half in exact)
        c, d = (wide(half).flatten() for half in found)
        scale, other = a.norm() + b.norm(), c.norm() + d.norm()
        a, b, c, d = a / scale, b / scale, c / other, d / other
        crossed = (torch.dot(c, b) + torch.dot(d, a)) / 2.0
        own, energy = torch.dot(a, b), torch.dot(c, d)
        value = crossed / (own * energy).sqrt()
        value = torch.where((own > 0) & (energy > 0), value, torch.nan)
        undefined = (~torch.isfinite(value)).double()
        return {_KEY: Comparison(value, energy * other.square(), undefined)}

    def undefined(self, true: LayerView, approximate: LayerView) -> str:
        """Return why there is nothing to compare."""
        if true.gradients[0] is None:
            return "its weight is no parameter that is learned"
        if approximate.weight_halves is None:
            return "the rule yields no gradients of single samples"
        return ""

    def energies(self, true: LayerView, approximate: LayerView) -> Mapping[Key, Tensor]:
        """Return the product of the two halves of the approximate gradient."""
        energy = approximate.energy_across_halves(true)
        return {} if energy is None else {_KEY: energy}

    def adjoints(self, true: LayerView, energies: Mapping[Key, Tensor]) -> Mapping[Key, Adjoint]:
        """Return T: the linear map of the layer's input with the true gradient of the others."""
        assert true.preactivation is not None
        weight, halves = true.gradients[0], true.weight_halves
        if weight is None or halves is None or _KEY not in energies:
            return {}
        norm = wide(weight).norm()
        first, second = ((wide(half) / norm).to(half) for half in halves)
        own = torch.dot(wide(first).flatten(), wide(second).flatten())
        module, x = true.capture.module_of(true.layer), true.capture.input_of(true.layer)
        images = [linear_part(module, x, half) for half in (first, second)]
        swapped = images[0] + true.in_first_half(images[1] - images[0])
        factor = 0.5 * (own * energies[_KEY]).rsqrt()
        at_entry = true.to_entry(swapped.to(true.preactivation))
        return {_KEY: Adjoint(at_entry, factor.expand(len(true.preactivation)))}
