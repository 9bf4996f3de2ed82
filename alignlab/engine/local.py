"""The local backward map from an entry to a pre-activation, and its adjoint."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.engine.layout import Layout
from alignlab.errors import MeasurementError
from alignlab.sites import Layer

__all__ = ["to_entry", "to_preactivation"]


def to_preactivation(layout: Layout, layer: Layer, signal: Tensor) -> Tensor:
    """Carry a signal from a layer's entry to its pre-activation (V, a local vjp).

    Args:
        layout: Of a captured forward pass.
        layer: Any layer but an output.
        signal: Shape ``(n_samples, *entry_shape)``.

    Returns:
        Shape ``(n_samples, *shape)``.
    """
    segment = layout.segment_of(layer)
    (result,) = torch.autograd.grad(
        layout.entry_edge(segment),
        [layout.call(layer).output_edge],
        grad_outputs=(layout.at_entry(segment, signal),),
        retain_graph=True,
    )
    return result


def to_entry(layout: Layout, layer: Layer, tangent: Tensor) -> Tensor:
    """Carry a tangent from a layer's pre-activation to its entry (the adjoint of V).

    It is the derivative of the local backward map in its argument, which is linear.

    Args:
        layout: Of a captured forward pass.
        layer: Any layer but an output.
        tangent: Shape ``(n_samples, *shape)``.

    Returns:
        Shape ``(n_samples, *entry_shape)``.

    Raises:
        MeasurementError: An operation on the way has a backward that cannot be
            differentiated again, as fused attention and recurrent kernels have.
    """
    segment = layout.segment_of(layer)
    argument = torch.zeros(
        layout.entry_shape(segment), dtype=layout.entry_type(segment), device=tangent.device
    ).requires_grad_()
    try:
        (image,) = torch.autograd.grad(
            layout.entry_edge(segment),
            [layout.call(layer).output_edge],
            grad_outputs=(argument,),
            retain_graph=True,
            create_graph=True,
        )
        if not image.requires_grad:
            return torch.zeros_like(argument.detach())
        (result,) = torch.autograd.grad(image, [argument], grad_outputs=(tangent.to(image),))
    except RuntimeError as error:
        if "not implemented" not in str(error):
            raise
        msg = f"The way from {layer.name!r} to its entry has no second derivative: {error}."
        raise MeasurementError(msg) from error
    return result
