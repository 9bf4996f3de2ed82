"""What a layer does by itself: its backward map, the adjoint of that, its own gradients."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from alignlab.engine.graph import cut
from alignlab.engine.layout import Layout
from alignlab.errors import MeasurementError
from alignlab.sites import Layer

if TYPE_CHECKING:
    from alignlab.engine.attach import Call

__all__ = ["layer_gradients", "own_gradients", "to_entry", "to_preactivation"]


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


def own_gradients(call: Call, signal: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of weight and bias that a signal at a call's output causes.

    Args:
        call: Of a captured forward pass.
        signal: Shape ``(n_samples, *shape)``.

    Returns:
        Gradients shaped like weight and bias; None where there is no such parameter or it is
        frozen.
    """
    wanted: list[Any] = list(_sources(call))
    is_active = [p is not None and _has_gradient(p) for p in wanted]
    active = [p for p, is_in in zip(wanted, is_active, strict=True) if is_in]
    # The weight may be that of a layer below too, which is none of this one's business.
    with cut([] if call.input_edge is None else [call.input_edge.node]):
        gradients = active and torch.autograd.grad(
            call.output_edge, active, grad_outputs=(signal,), retain_graph=True
        )
    found = iter(gradients)
    pair: list[Tensor | None] = [next(found) if is_in else None for is_in in is_active]
    return pair[0], pair[1]


def layer_gradients(
    layout: Layout, signals: Mapping[str, Tensor]
) -> list[tuple[Tensor | GradientEdge, Tensor]]:
    """Return the gradients of all layers' weights and biases that signals cause.

    Args:
        layout: Layers and entries of a captured forward pass.
        signals: At the pre-activations by layer, shape ``(n_samples, *shape)``.

    Returns:
        Parameters, or edges of computed weights, with their gradients; frozen ones left out.
        What acts in several calls may come several times, to be summed.
    """
    if layout.structure.once("shared", lambda: _are_shared(layout)):
        return _together(layout, signals)
    found = []
    for layer in layout.layers:
        call = layout.call(layer)
        pair = zip(_sources(call), own_gradients(call, signals[layer.name]), strict=True)
        found += [(s, g) for s, g in pair if s is not None and g is not None]
    return found


def _are_shared(layout: Layout) -> bool:
    """Return whether weights act in several calls, and one pass can bring all their gradients.

    Asked for one call after the other, each of a recurrence's would walk through all before it.
    """
    known = [_key(s) for call in layout.calls for s in _sources(call) if s is not None]
    are_plain = all(len(call.output_edge.node._input_metadata) == 1 for call in layout.calls)
    return are_plain and len(set(known)) < len(known)


def _together(
    layout: Layout, signals: Mapping[str, Tensor]
) -> list[tuple[Tensor | GradientEdge, Tensor]]:
    """Return the gradients of one pass in which every layer has its signal and nothing else."""
    calls = layout.calls
    wanted = {
        _key(source): source
        for call in calls
        for source in _sources(call)
        if source is not None and _has_gradient(source)
    }
    if not wanted:
        return []
    given = [signals[x.name].to(c.output_type) for x, c in zip(layout.layers, calls, strict=True)]
    outputs = [call.output_edge for call in calls]
    nodes = {edge.node for edge in outputs}
    below = {call.input_edge.node for call in calls if call.input_edge is not None}
    asked: Any = list(wanted.values())
    with cut(below - nodes), ExitStack() as stack:
        for edge, signal in zip(outputs, given, strict=True):
            # What comes down from layers above gives way.
            handle = edge.node.register_prehook(lambda _, signal=signal: (signal,))
            stack.callback(handle.remove)
        found = torch.autograd.grad(
            outputs, asked, grad_outputs=given, retain_graph=True, allow_unused=True
        )
    return [(s, g) for s, g in zip(wanted.values(), found, strict=True) if g is not None]


def _sources(call: Call) -> tuple[Tensor | GradientEdge | None, Tensor | None]:
    """Return where the gradients of a call's weight and bias are read; None where nowhere."""
    bias: Any = call.module.bias
    return call.weight_source, bias


def _key(source: Tensor | GradientEdge) -> Any:
    """Return what tells a parameter or the edge of a computed weight from others."""
    return id(source) if isinstance(source, Tensor) else (source.node, source.output_nr)


def _has_gradient(source: Any) -> bool:
    """Return whether a parameter or the edge of a computed weight has a gradient."""
    return not isinstance(source, Tensor) or source.requires_grad
