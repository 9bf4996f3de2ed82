"""What the loss says to the layers directly, and how a network carries it to everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alignlab.engine.graph import Segment, cut, leaves_between, reachable_calls, walk
from alignlab.engine.layout import Layout
from alignlab.engine.updates import Updates
from alignlab.errors import MeasurementError

__all__ = ["carried", "direct_errors", "from_outputs", "gradients_above"]


def direct_errors(layout: Layout, loss: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the part of every gradient that has passed no layer's weight.

    At an output layer that is the error. Where the loss reads a hidden layer as well (a penalty
    on activity, a shortcut to the output), it is what arrives there on that way alone.

    Args:
        layout: Layers and entries of a captured forward pass.
        loss: The loss on the graph.

    Returns:
        By layer, at the pre-activations that the loss reaches so; and by layer at the entries
        that it does, where these are not pre-activations themselves.
    """
    nodes = {call.output_edge.node for call in layout.calls}
    start = loss.grad_fn
    nearest = layout.structure.once("nearest", lambda: reachable_calls(start, layout.calls))
    entries = layout.structure.once("read", lambda: _read_directly(layout, start, nodes))
    edges = [layout.calls[k].output_edge for k in nearest]
    with cut(edge.node for edge in edges):
        found = torch.autograd.grad(
            loss,
            [*edges, *(layout.entry_edge(segment) for segment in entries)],
            retain_graph=True,
            allow_unused=True,
        )
    at_layers = {
        layout.layers[k].name: g for k, g in zip(nearest, found, strict=False) if g is not None
    }
    at_entries = {
        layout.layers[member].name: g
        for segment, g in zip(entries, found[len(edges) :], strict=True)
        for member in segment.members
        if g is not None
    }
    return at_layers, at_entries


def _read_directly(layout: Layout, start: Any, nodes: set[Any]) -> list[Segment]:
    """Return the segments whose entries a loss reaches on ways that pass no layer."""
    reached = set(walk(start, nodes)) - nodes
    return [s for s in layout.segments if layout.entry_edge(s).node in reached]


def carried(
    layout: Layout, model: nn.Module, errors: Mapping[str, Tensor], *, parameters: bool = True
) -> Updates:
    """Backpropagate given errors from pre-activations through a captured network.

    Args:
        layout: Layers and entries of the forward pass.
        model: The model, at the parameters of that pass.
        errors: At pre-activations by layer, shape ``(n_samples, *shape)``.
        parameters: Whether the gradients of the parameters are wanted too.

    Returns:
        Signals at all entries and pre-activations, and gradients of all parameters that lie
        below the given pre-activations.
    """
    named = model.named_parameters() if parameters else ()
    wanted = {name: p for name, p in named if p.requires_grad}
    calls = {layer.name: layout.call(layer) for layer in layout.layers}
    starts = [calls[name].output_edge for name in errors]
    entries = {
        layout.layers[member].name: layout.entry_edge(segment)
        for segment in layout.segments
        for member in segment.members
    }
    targets: list[Any] = [
        *(call.output_edge for call in calls.values()),
        *entries.values(),
        *wanted.values(),
    ]
    found = torch.autograd.grad(
        starts,
        targets,
        grad_outputs=tuple(errors.values()),
        retain_graph=True,
        allow_unused=True,
    )
    at_layers = dict(zip(calls, found, strict=False))
    missing = [name for name, g in at_layers.items() if g is None]
    if missing:
        msg = f"No error reaches {', '.join(missing)} in the network at other parameters."
        raise MeasurementError(msg)
    rest = found[len(calls) + len(entries) :]
    return Updates(
        entry=dict(zip(entries, found[len(calls) :], strict=False)),
        preactivation=at_layers,
        parameters={
            name: torch.zeros_like(p) if g is None else g
            for (name, p), g in zip(wanted.items(), rest, strict=True)
        },
    )


def from_outputs(layout: Layout, errors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what output layers by themselves say to the entries that they read.

    Args:
        layout: Layers and entries of a captured forward pass.
        errors: At the pre-activations of the output layers, by layer.

    Returns:
        Signals at those entries, by the layers whose entries they are.
    """
    found: dict[str, Tensor] = {}
    for segment in layout.segments:
        edge = layout.entry_edge(segment)
        members = [layout.layers[k] for k in segment.members]
        readers = [each for each in layout.consumers_of(members[0]) if each.is_output]
        if readers:
            (signal,) = torch.autograd.grad(
                [layout.call(each).output_edge for each in readers],
                [edge],
                grad_outputs=[errors[each.name] for each in readers],
                retain_graph=True,
            )
            found |= {layer.name: signal for layer in members}
    return found


def gradients_above(layout: Layout, model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Return exact gradients of what acts on the loss without passing a layer.

    They are those of parameters above the output layers, and of penalties on parameters.

    Args:
        layout: Layers and entries of a captured forward pass.
        model: The model.
        loss: The loss on the graph.

    Returns:
        By name, of those parameters alone.
    """
    nodes = {call.output_edge.node for call in layout.calls}
    names = {id(p): name for name, p in model.named_parameters()}

    def walked() -> list[Tensor]:
        found = leaves_between(loss.grad_fn, nodes)
        return [p for p in found if p.requires_grad and id(p) in names]

    leaves = layout.structure.once("own leaves above", walked)
    if not leaves:
        return {}
    with cut(nodes):
        found = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
    pairs = zip(leaves, found, strict=True)
    return {names[id(leaf)]: g for leaf, g in pairs if g is not None}
