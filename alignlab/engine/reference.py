"""The true backward pass: what backpropagation brings to every site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from alignlab.engine.attach import Call
from alignlab.engine.layout import Layout
from alignlab.engine.updates import Updates
from alignlab.errors import MeasurementError

__all__ = ["output_errors", "true_updates"]


def true_updates(layout: Layout, loss: Tensor, parameters: Mapping[str, nn.Parameter]) -> Updates:
    """Return the true gradient at every site.

    Args:
        layout: Layers and entries of a captured forward pass.
        loss: The loss on the graph.
        parameters: By name, those whose gradients are wanted too, but for frozen ones.

    Raises:
        MeasurementError: None reached a layer; names it.
    """
    edges = [call.output_edge for call in layout.calls]
    entries = {segment.consumer: layout.entry_edge(segment) for segment in layout.segments}
    wanted = {name: p for name, p in parameters.items() if p.requires_grad}
    gradients = torch.autograd.grad(
        loss,
        [*edges, *entries.values(), *wanted.values()],
        retain_graph=True,
        allow_unused=True,
    )
    at_output = gradients[: len(edges)]
    at_entry = dict(zip(entries, gradients[len(edges) :], strict=False))
    of_parameters = gradients[len(edges) + len(entries) :]
    _require_all(layout.calls, at_output)
    return Updates(
        entry={
            layout.layers[member].name: at_entry[segment.consumer]
            for segment in layout.segments
            for member in segment.members
        },
        preactivation={layer.name: g for layer, g in zip(layout.layers, at_output, strict=True)},
        parameters={
            name: torch.zeros_like(p) if g is None else g
            for (name, p), g in zip(wanted.items(), of_parameters, strict=True)
        },
    )


def output_errors(layout: Layout, loss: Tensor) -> Updates:
    """Return the true gradient at the output layers alone.

    Args:
        layout: Layers and entries of a captured forward pass.
        loss: The loss on the graph.

    Raises:
        MeasurementError: None reached one; names it.
    """
    layers = layout.outputs
    edges = [layout.call(layer).output_edge for layer in layers]
    found = torch.autograd.grad(loss, edges, retain_graph=True, allow_unused=True)
    _require_all([layout.call(layer) for layer in layers], found)
    return Updates(preactivation={layer.name: g for layer, g in zip(layers, found, strict=True)})


def _require_all(calls: Sequence[Call], gradients: Sequence[Tensor | None]) -> None:
    missing = [call.name for call, g in zip(calls, gradients, strict=True) if g is None]
    if missing:
        msg = f"No gradient reached {', '.join(missing)}; the loss does not depend on it."
        raise MeasurementError(msg)
