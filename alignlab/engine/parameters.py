"""Gradients of all parameters under injected errors, those outside every layer included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from alignlab.engine.graph import cut, leaves_between
from alignlab.engine.layout import Layout
from alignlab.engine.local import layer_gradients
from alignlab.sites import Layer

__all__ = ["names_outside", "parameter_gradients"]


def parameter_gradients(
    layout: Layout,
    model: nn.Module,
    loss: Tensor,
    *,
    preactivation: Mapping[str, Tensor],
    between: Mapping[int, Tensor],
) -> dict[str, Tensor]:
    """Return what a rule does to every parameter.

    Weights and biases of layers follow from the signals at their pre-activations, and so do
    parameters below the first layers. What acts on the loss without passing a layer (above the
    output layer, or in a penalty on weights) has its exact gradient, as the output layer has.

    Args:
        layout: Layers and entries of a captured forward pass.
        model: The model.
        loss: The loss on the graph.
        preactivation: dL/da by layer name under the rule.
        between: Gradients of parameters between entries and pre-activations, by identity.

    Returns:
        Gradient by parameter name; zero for parameters that nothing reaches.
    """
    total = dict(between)
    for source, gradient in layer_gradients(layout, preactivation):
        if isinstance(source, Tensor):
            _add(total, source, gradient)
        else:
            _add_computed(total, source, gradient)
    _add_above(total, layout, loss)
    _add_below(total, layout, preactivation)
    return {
        name: total[id(p)] if id(p) in total else torch.zeros_like(p)
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def _add_above(total: dict[int, Tensor], layout: Layout, loss: Tensor) -> None:
    nodes = {call.output_edge.node for call in layout.calls}
    leaves = layout.structure.once("leaves above", lambda: _wanted(loss.grad_fn, nodes))
    if not leaves:
        return
    with cut(nodes):
        found = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
    for leaf, gradient in zip(leaves, found, strict=True):
        if gradient is not None:
            _add(total, leaf, gradient)


def _add_below(total: dict[int, Tensor], layout: Layout, signals: Mapping[str, Tensor]) -> None:
    entries = {layout.entry_edge(segment).node for segment in layout.segments}
    nodes = {call.output_edge.node for call in layout.calls}

    def walked() -> list[tuple[Layer, list[Tensor]]]:
        edges = [(layer, layout.call(layer).input_edge) for layer in layout.layers]
        below = [(layer, edge.node) for layer, edge in edges if edge is not None]
        return [
            (layer, leaves)
            for layer, node in below
            if node not in entries and (leaves := _wanted(node, nodes | entries))
        ]

    for layer, leaves in layout.structure.once("leaves below", walked):
        call = layout.call(layer)
        with cut((nodes | entries) - {call.output_edge.node}):
            found = torch.autograd.grad(
                call.output_edge,
                leaves,
                grad_outputs=(signals[layer.name],),
                retain_graph=True,
                allow_unused=True,
            )
        for leaf, gradient in zip(leaves, found, strict=True):
            if gradient is not None:
                _add(total, leaf, gradient)


def _add_computed(total: dict[int, Tensor], edge: GradientEdge, gradient: Tensor) -> None:
    """Carry the gradient of a weight to the parameters from which it was computed."""
    leaves = _wanted(edge.node, set())
    found = torch.autograd.grad(
        edge, leaves, grad_outputs=(gradient,), retain_graph=True, allow_unused=True
    )
    for leaf, part in zip(leaves, found, strict=True):
        if part is not None:
            _add(total, leaf, part)


def _wanted(start: Any, stops: set[Any]) -> list[Tensor]:
    return [leaf for leaf in leaves_between(start, stops) if leaf.requires_grad]


def _add(total: dict[int, Tensor], leaf: Any, gradient: Tensor) -> None:
    total[id(leaf)] = total.get(id(leaf), 0) + gradient


def names_outside(layout: Layout, model: nn.Module, loss: Tensor) -> list[str]:
    """Return the parameters that act anywhere but as weight or bias of a measured layer.

    They are those of normalisations, attention or recurrent modules, and weights of layers that
    are used once more outside of them.

    Args:
        layout: Layers and entries of a captured forward pass.
        model: The model.
        loss: The loss on the graph.
    """
    stops = {call.output_edge.node for call in layout.calls}
    inputs = [call.input_edge.node for call in layout.calls if call.input_edge is not None]
    found = {
        id(leaf)
        for start in (loss.grad_fn, *inputs)
        if start not in stops
        for leaf in leaves_between(start, stops)
    }
    return [name for name, p in model.named_parameters() if id(p) in found]
