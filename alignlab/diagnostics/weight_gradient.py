"""Alignment of weight gradients (A1, A2, A5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import (
    Adjoint,
    AlignmentDiagnostic,
    Comparison,
    Key,
    Reading,
    Variable,
)
from alignlab.kernels.cosines import cosine, is_rounding, unit, wide
from alignlab.kernels.layers import linear_part
from alignlab.layer_view import LayerView

__all__ = ["WeightGradient"]

_DIMS = ("rule", "layer")


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
    cost: ClassVar[float] = 4.0

    def compare(self, true: LayerView, approximate: LayerView) -> Mapping[Key, Comparison]:
        """Return the cosines of weight and bias gradients."""
        result: dict[Key, Comparison] = {}
        bias = true.gradients_beside(approximate)[1]
        other_bias = approximate.gradients[1]
        found = approximate.weight_products(true)
        if found is not None:
            product, first, second = found
            value = (product / first.sqrt() / second.sqrt()).clamp(-1.0, 1.0)
            undefined = (~torch.isfinite(value)).double()
            result["cosine_weight_gradient", ""] = Comparison(value, second, undefined)
        if bias is not None and other_bias is not None:
            # Before normalisation over the batch the bias gradient is zero but for rounding.
            cancels = _cancels(bias, true) | _cancels(other_bias, approximate)
            value = torch.where(cancels, torch.nan, cosine(bias.flatten(), other_bias.flatten()))
            energy, undefined = wide(other_bias).square().sum(), (~torch.isfinite(value)).double()
            result["cosine_bias_gradient", ""] = Comparison(value, energy, undefined)
        return result

    def undefined(self, true: LayerView, approximate: LayerView) -> str:
        """Return why there is nothing to compare: no weight that is learned by both."""
        exact, found = true.gradients_beside(approximate)[0], approximate.gradients[0]
        if exact is None:
            return "its weight is no parameter that is learned"
        return "" if found is not None else "the rule leaves its weight alone"

    def energies(self, true: LayerView, approximate: LayerView) -> Mapping[Key, Tensor]:
        """Return what the two cosines divide by, squared."""
        result: dict[Key, Tensor] = {}
        energy = approximate.weight_energy(true)
        if energy is not None:
            result["cosine_weight_gradient", ""] = energy
        signal = approximate.preactivation
        if true.gradients[1] is not None and signal is not None:
            axis = 1 if true.layer.is_convolution else -1
            bias = signal.movedim(axis, -1).flatten(0, -2).sum(0)
            result["cosine_bias_gradient", ""] = wide(bias).square().sum()
        return result

    def adjoints(self, true: LayerView, energies: Mapping[Key, Tensor]) -> Mapping[Key, Adjoint]:
        """Return T of the two cosines; see the base class.

        The product of two weight gradients is that of the signal with the layer's own
        linear map of its input, with the true gradient for its weight.
        """
        assert true.preactivation is not None
        module, x = true.capture.module_of(true.layer), true.capture.input_of(true.layer)
        weight, bias = true.gradients
        tangents: dict[Key, Tensor] = {}
        if weight is not None:
            tangents["cosine_weight_gradient", ""] = linear_part(module, x, unit(weight))
        if bias is not None:
            shape = [1] * true.preactivation.dim()
            shape[1 if true.layer.is_convolution else -1] = -1
            row = unit(bias).reshape(shape)
            tangents["cosine_bias_gradient", ""] = row.expand(1, *true.layer.shape)
        result = {}
        for key, tangent in tangents.items():
            factor = energies[key].rsqrt().expand(len(true.preactivation))
            result[key] = Adjoint(true.to_entry(tangent.to(true.preactivation)), factor)
        return result

    def describe(self, true: LayerView, approximate: LayerView) -> Iterator[Reading]:
        """Yield norm ratio, projection, best scale, unexplained share, and their raw products."""
        found = approximate.weight_products(true)
        if found is None:
            return
        product, first, second = found
        similarity = (product / first.sqrt() / second.sqrt()).clamp(-1.0, 1.0)
        ratio = torch.where(first > 0, second.sqrt() / first.sqrt(), torch.nan)
        yield Reading("norm_ratio_weight_gradient", ratio)
        yield Reading("projection_weight_gradient", similarity * ratio)
        yield Reading("best_scale_weight_gradient", similarity / ratio)
        yield Reading("unexplained_weight_gradient", 1.0 - similarity.square())
        yield Reading("inner_product_weight_gradient", product)
        yield Reading("squared_norm_weight_gradient", second)
        yield Reading("squared_norm_weight_gradient_true", first)


def _cancels(bias: Tensor, view: LayerView) -> Tensor:
    """Return whether a bias gradient is what rounding leaves of the signals it sums up."""
    if view.preactivation is None:
        return torch.zeros((), dtype=torch.bool, device=bias.device)
    return is_rounding(bias, wide(view.preactivation).norm())
