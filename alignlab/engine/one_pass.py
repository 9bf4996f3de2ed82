"""Direct feedback as one backward pass, in graphs whose stretches touch at the entries alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alignlab.engine.direct import Signals, projected
from alignlab.engine.graph import Segment, walk
from alignlab.engine.layout import Layout
from alignlab.engine.reference import output_errors
from alignlab.engine.updates import owned
from alignlab.errors import MeasurementError
from alignlab.feedback import Feedback

if TYPE_CHECKING:
    from alignlab.engine.capture import Capture

__all__ = ["direct_step"]


def direct_step(
    capture: Capture,
    feedback: Mapping[str, Feedback],
    *,
    sent: Callable[[Tensor], Tensor],
    granularity: str,
) -> Mapping[str, Tensor]:
    """Return what direct feedback does to every parameter; no pass can be asked for after it.

    Args:
        capture: A captured forward pass.
        feedback: By injection layer, in any form.
        sent: Returns what is sent in place of the error.
        granularity: ``micro`` or ``macro``.

    Returns:
        Gradient by parameter name that nothing else holds; zero for parameters that nothing
        reaches.

    Raises:
        MeasurementError: No gradient reaches a layer, there is no feedback for one, or what the
            pass needs was changed in place.
    """
    try:
        return _found(capture, feedback, sent=sent, granularity=granularity)
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        msg = (
            "A tensor that the backward pass needs was changed in place; change a copy of it "
            f"({error})."
        )
        raise MeasurementError(msg) from error


def _found(
    capture: Capture,
    feedback: Mapping[str, Feedback],
    *,
    sent: Callable[[Tensor], Tensor],
    granularity: str,
) -> Mapping[str, Tensor]:
    layout, loss = capture.layout, capture.loss
    # Whether gradients reach all layers is asked once of graphs that are alike.
    layout.structure.once("reached", lambda: capture.reference().state)
    mixed = torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
    can_replace = not capture.is_hooked and not mixed
    if can_replace and layout.structure.once("tree", lambda: _fits(layout, loss.grad_fn)):
        return _gradients(
            capture, lambda error: projected(sent(error), feedback), granularity=granularity
        )
    error = layout.joined(output_errors(layout, loss).preactivation)
    found = capture.direct(
        feedback, error=error, sent=sent(error), granularity=granularity, parameters=True
    )
    return {name: one.detach().clone() for name, one in found.parameters.items()}


def _fits(layout: Layout, start: Any) -> bool:
    """Return whether all signals can take their ways in one pass.

    In a tree every tensor is read once, so that below an entry nothing arrives but what has
    passed it. With one output layer, the error is known before any entry is reached.
    """
    entries = [layout.entry_edge(segment) for segment in layout.segments]
    edges = [*entries, *(call.output_edge for call in layout.calls)]
    return (
        layout.only_output is not None
        and all(len(edge.node._input_metadata) == 1 for edge in edges)
        and _is_tree(start)
    )


def _gradients(
    capture: Capture, sending: Callable[[Tensor], Signals], *, granularity: str
) -> dict[str, Tensor]:
    """Run backpropagation where at every entry what arrives gives way to what is sent there.

    Args:
        capture: One that fits.
        sending: Makes of the error what enters at the layers.
        granularity: ``micro`` or ``macro``.
    """
    layout, loss = capture.layout, capture.loss
    output = layout.only_output
    assert output is not None
    signals: list[Signals] = []

    def seen(gradients: tuple[Tensor, ...]) -> None:
        signals.append(sending(gradients[0]))

    def entering(group: Segment) -> Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]:
        owner, shape = layout.layers[group.members[-1]], layout.entry_shape(group)
        return lambda _: (layout.at_entry(group, signals[0](owner, shape)),)

    wanted = {name: p for name, p in capture.parameters.items() if p.requires_grad}
    handles = [layout.call(output).output_edge.node.register_prehook(seen)]
    try:
        for group in layout.groups(granularity):
            node = layout.entry_edge(group).node
            handles.append(node.register_prehook(entering(group)))
        found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    reached = {n: g for n, g in zip(wanted, found, strict=True) if g is not None}
    own = owned(reached, wanted)
    return {name: own[name] if name in own else torch.zeros_like(p) for name, p in wanted.items()}


def _is_tree(start: Any) -> bool:
    below = [each for node in walk(start, set()) for each, _ in node.next_functions]
    nodes = [node for node in below if node is not None]
    return len(nodes) == len(set(nodes))
