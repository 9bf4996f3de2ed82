"""Alignment of weight gradients (A1, A2, A5, A6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import AlignmentDiagnostic, Comparison, Key, Reading, Variable
from alignlab.kernels.cosines import cosine, is_rounding, wide
from alignlab.kernels.layers import linear_part
from alignlab.layer_view import LayerView

__all__ = ["WeightGradient"]

_DIMS = ("rule", "layer")
_NAN = float("nan")


class WeightGradient(AlignmentDiagnostic):
    """Cosines, norm ratios and best step of weight and bias gradients."""

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "cosine_weight_gradient",
            _DIMS,
            "Cosine of true and approximate weight gradient",
            source="bioflax, DFA-Stall (code)",
            better="higher",
            valid=(-1.0, 1.0),
            alignment=True,
        ),
        Variable(
            "cosine_bias_gradient",
            _DIMS,
            "Cosine of true and approximate bias gradient",
            source="bioflax (code)",
            better="higher",
            valid=(-1.0, 1.0),
            alignment=True,
        ),
        Variable(
            "cosine_weight_gradient_debiased",
            _DIMS,
            "Cosine of the weight gradients across two disjoint halves of the samples",
            better="higher",
            alignment=True,
        ),
        Variable(
            "norm_ratio_weight_gradient",
            _DIMS,
            "Norm of the approximate weight gradient over that of the true one",
            source="bioflax, DFA-Stall (code)",
            valid=(0.0, None),
        ),
        Variable(
            "projection_weight_gradient",
            _DIMS,
            "Approximate weight gradient projected on the true one, over the true norm",
            source="DFA-Stall (code)",
        ),
        Variable(
            "best_scale_weight_gradient",
            _DIMS,
            "Factor on the approximate weight gradient that brings it closest to the true one",
        ),
        Variable(
            "unexplained_weight_gradient",
            _DIMS,
            "Share of the true weight gradient's energy that the approximate one misses",
            better="lower",
            valid=(0.0, 1.0),
        ),
        Variable(
            "inner_product_weight_gradient",
            _DIMS,
            "Inner product of true and approximate weight gradient",
        ),
        Variable(
            "squared_norm_weight_gradient",
            _DIMS,
            "Squared norm of the approximate weight gradient",
            valid=(0.0, None),
        ),
        Variable(
            "squared_norm_weight_gradient_true",
            _DIMS,
            "Squared norm of the true weight gradient, with which that was multiplied",
            valid=(0.0, None),
        ),
    )
    cost: ClassVar[float] = 1.0

    def compare(self, true: LayerView, approximate: LayerView) -> Mapping[Key, Comparison]:
        """Return the cosines of weight and bias gradients, and the debiased one."""
        result: dict[Key, Comparison] = {}
        weight, bias = true.gradients_beside(approximate)
        other_weight, other_bias = approximate.gradients
        if weight is not None and other_weight is not None:
            result[("cosine_weight_gradient", "")] = _whole(weight, other_weight)
        if bias is not None and other_bias is not None:
            # Before normalisation over the batch the bias gradient is zero but for rounding.
            cancels = _cancels(bias, true) | _cancels(other_bias, approximate)
            found = _whole(bias, other_bias)
            value = torch.where(cancels, torch.nan, found.value)
            undefined = (~torch.isfinite(value)).double()
            result[("cosine_bias_gradient", "")] = Comparison(value, found.energy, undefined)
        halves, other = true.weight_halves, approximate.weight_halves
        if halves is not None and other is not None:
            value = _debiased(halves, other)
            energy = wide(other[0] + other[1]).square().sum()
            undefined = (~torch.isfinite(value)).double()
            result[("cosine_weight_gradient_debiased", "")] = Comparison(value, energy, undefined)
        return result

    def undefined(self, true: LayerView, approximate: LayerView) -> str:
        """Return why there is nothing to compare: no weight that is learned by both."""
        exact, found = true.gradients_beside(approximate)[0], approximate.gradients[0]
        if exact is None:
            return "its weight is no parameter that is learned"
        return "" if found is not None else "the rule leaves its weight alone"

    def adjoints(self, true: LayerView, energies: Mapping[Key, Tensor]) -> Mapping[Key, Tensor]:
        """Return T of the two plain cosines; see the base class.

        The product of two weight gradients is that of the signal with the layer's own
        linear map of its input, with the true gradient for its weight.
        """
        assert true.preactivation is not None
        module = true.capture.module_of(true.layer)
        x = true.capture.input_of(true.layer)
        weight, bias = true.gradients
        result = {}
        tangents: dict[str, Tensor] = {}
        if weight is not None and weight.norm() > 0:
            tangents["cosine_weight_gradient"] = linear_part(module, x, weight / weight.norm())
        if bias is not None and bias.norm() > 0:
            shape = [1] * true.preactivation.dim()
            shape[1 if true.layer.is_convolution else -1] = -1
            row = (bias / bias.norm()).reshape(shape)
            tangents["cosine_bias_gradient"] = row.expand_as(true.preactivation)
        for name, tangent in tangents.items():
            at_entry = true.capture.to_entry(true.layer, tangent.reshape(true.preactivation.shape))
            result[(name, "")] = wide(at_entry) / energies[(name, "")].sqrt()
        return result

    def describe(self, true: LayerView, approximate: LayerView) -> Iterator[Reading]:
        """Yield norm ratio, projection, best scale, unexplained share, and their raw products."""
        exact, found = true.gradients_beside(approximate)[0], approximate.gradients[0]
        if exact is None or found is None:
            return
        first, second = wide(exact).flatten(), wide(found).flatten()
        similarity = cosine(first, second)
        ratio = torch.where(first.norm() > 0, second.norm() / first.norm(), torch.nan)
        yield Reading("norm_ratio_weight_gradient", ratio)
        yield Reading("projection_weight_gradient", similarity * ratio)
        yield Reading("best_scale_weight_gradient", similarity / ratio)
        yield Reading("unexplained_weight_gradient", 1.0 - similarity.square())
        yield Reading("inner_product_weight_gradient", torch.dot(first, second))
        yield Reading("squared_norm_weight_gradient", second.square().sum())
        yield Reading("squared_norm_weight_gradient_true", first.square().sum())


def _whole(first: Tensor, second: Tensor) -> Comparison:
    value = cosine(first.flatten(), second.flatten())
    return Comparison(value, wide(second).square().sum(), (~torch.isfinite(value)).double())


def _cancels(bias: Tensor, view: LayerView) -> Tensor:
    """Return whether a bias gradient is what rounding leaves of the signals it sums up."""
    if view.preactivation is None:
        return torch.zeros((), dtype=torch.bool, device=bias.device)
    return is_rounding(bias, wide(view.preactivation).norm())


def _debiased(true: tuple[Tensor, Tensor], approximate: tuple[Tensor, Tensor]) -> Tensor:
    """Return the cross-batch cosine; NaN where a product of a gradient with itself is not > 0."""
    a, b = (wide(half).flatten() for half in true)
    c, d = (wide(half).flatten() for half in approximate)
    scale, other = a.norm() + b.norm(), c.norm() + d.norm()
    a, b, c, d = a / scale, b / scale, c / other, d / other
    crossed = (torch.dot(c, b) + torch.dot(d, a)) / 2.0
    own = torch.dot(a, b), torch.dot(c, d)
    if not (own[0] > 0 and own[1] > 0):
        return torch.tensor(_NAN, dtype=torch.float64)
    return crossed / (own[0] * own[1]).sqrt()
