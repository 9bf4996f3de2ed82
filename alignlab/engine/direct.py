"""The error injected at every entry, and carried from there to the pre-activations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from alignlab.engine.graph import Segment, cut, leaves_between
from alignlab.engine.layout import Layout
from alignlab.errors import MeasurementError
from alignlab.feedback import Feedback, Projector
from alignlab.sites import Layer

__all__ = ["Injected", "Signals", "has_leaves", "inject", "of_layer", "projected"]

Signals = Callable[[Layer, tuple[int, ...]], Tensor]
"""What enters at a layer, given the shape of its entry with the samples."""


@dataclass(frozen=True)
class Injected:
    """Signals that follow from errors injected at the entries.

    Attributes:
        entry: dL/dh by layer name.
        preactivation: dL/da by layer name.
        leaves: Gradients of parameters between entries and pre-activations, by identity.
    """

    entry: dict[str, Tensor] = field(default_factory=dict)
    preactivation: dict[str, Tensor] = field(default_factory=dict)
    leaves: dict[int, Tensor] = field(default_factory=dict)


def projected(error: Tensor, feedback: Mapping[str, Feedback]) -> Signals:
    """Return what sends an error through the feedback of every layer.

    Args:
        error: ``n_errors`` entries for each sample, ``(n_samples, ...)``.
        feedback: By injection layer, shape ``(n_errors, *entry_shape)``, in any form.

    The signals raise MeasurementError at a layer that has none.
    """
    # Products in less than float32 would lose what the statistics are to show.
    projector = Projector(error if error.dtype.itemsize >= 4 else error.float())

    def signals(layer: Layer, shape: tuple[int, ...]) -> Tensor:
        return projector(of_layer(feedback, layer.name), shape)

    return signals


def of_layer(state: Mapping[str, Feedback], name: str) -> Feedback:
    """Return what a state holds for a layer.

    Args:
        state: Feedback by name.
        name: Of the layer, or of what is held for it.

    Raises:
        MeasurementError: Nothing.
    """
    if name not in state:
        msg = (
            f"There is no feedback for {name!r}: the state is that of another model, or was drawn "
            "while everything below that layer was frozen. Draw it anew (a new Learner) with all "
            "layers that are to learn, and freeze them afterwards."
        )
        raise MeasurementError(msg)
    return state[name]


def inject(
    layout: Layout,
    signals: Signals,
    *,
    error: Tensor,
    granularity: str,
    leaves: bool,
    only: Collection[str] | None = None,
) -> Injected:
    """Let signals enter at every entry and carry them to the pre-activations below.

    Args:
        layout: Layers and entries of a captured forward pass.
        signals: What enters at an injection layer.
        error: dL/da at the output layers, ``n_errors`` entries a sample, ``(n_samples, ...)``.
        granularity: ``micro`` or ``macro``.
        leaves: Whether parameters between entry and pre-activation are wanted too.
        only: Injection layers to which this is kept; None for all.
    """
    result = Injected()
    result.preactivation.update(layout.parted(error))
    for group in layout.groups(granularity):
        owner = layout.layers[group.members[-1]]
        if only is not None and owner.name not in only:
            continue
        signal = signals(owner, layout.entry_shape(group))
        _inject_at(layout, group, layout.at_entry(group, signal), leaves=leaves, into=result)
    return result


def _inject_at(
    layout: Layout,
    group: Segment,
    signal: Tensor,
    *,
    leaves: bool,
    into: Injected,
) -> None:
    edge = layout.entry_edge(group)
    edges = [layout.calls[k].output_edge for k in group.members]
    inner = _inner(layout, group)
    parameters = _own_leaves(layout, group, inner) if leaves else []
    with cut(layout.around(group, inner) if parameters else ()):
        gradients = torch.autograd.grad(
            edge,
            [*edges, *(layout.entry_edge(s) for s in inner), *parameters],
            grad_outputs=(signal,),
            retain_graph=True,
            allow_unused=True,
        )
    for k, gradient in zip(group.members, gradients, strict=False):
        into.preactivation[layout.layers[k].name] = gradient
        into.entry[layout.layers[k].name] = signal
    for s, gradient in zip(inner, gradients[len(edges) :], strict=False):
        into.entry.update({layout.layers[k].name: gradient for k in s.members})
    for leaf, gradient in zip(parameters, gradients[len(edges) + len(inner) :], strict=True):
        if gradient is not None:
            into.leaves[id(leaf)] = into.leaves.get(id(leaf), 0) + gradient


def has_leaves(layout: Layout) -> bool:
    """Return whether there are parameters between entries and the pre-activations below them."""
    groups = layout.groups("micro")
    return any(_own_leaves(layout, group, _inner(layout, group)) for group in groups)


def _inner(layout: Layout, group: Segment) -> list[Segment]:
    """Return the segments that lie within a group of layers."""
    inner = [s for s in layout.segments if s.consumer in group.members]
    return [s for s in inner if set(s.members) <= set(group.members)]


def _own_leaves(layout: Layout, group: Segment, inner: Sequence[Segment]) -> list[Tensor]:
    """Return the parameters of a group that are not in its measured layers, each once."""

    def walked() -> list[Tensor]:
        found: dict[int, Tensor] = {}
        for start in (group, *inner):
            stops = layout.ends_below(start)
            for leaf in leaves_between(layout.entry_edge(start).node, stops):
                if leaf.requires_grad:
                    found[id(leaf)] = leaf
        return list(found.values())

    return layout.structure.once(("own leaves", group), walked)
