"""Which entry belongs to which layer: walks over the autograd graph."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from alignlab.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from alignlab.engine.attach import Call

__all__ = [
    "Segment",
    "chain_between",
    "cut",
    "edge_of",
    "flowing_in",
    "is_chain",
    "leaves_between",
    "reachable_calls",
    "reaches",
    "refuse_custom_backwards",
    "segments",
    "walk",
]


@dataclass(frozen=True)
class Segment:
    """The stretch between one entry and the layers whose output flows into it.

    Attributes:
        consumer: Index of the call whose input is the entry.
        members: Indices of the calls whose entry it is, in call order.
    """

    consumer: int
    members: tuple[int, ...]


def segments(calls: Sequence[Call]) -> list[Segment]:
    """Pair every layer with the first measured input that its output can reach.

    Calls run in topological order, so on no path from a layer to that input lies another
    measured layer.

    Args:
        calls: Calls in order.

    Returns:
        Segments in order of their consumers; layers that reach none are outputs.
    """
    found: list[Segment] = []
    paired: set[int] = set()
    for index, call in enumerate(calls):
        if call.input_edge is None:
            continue
        reached = reachable_calls(call.input_edge.node, calls[:index])
        members = tuple(sorted(set(reached) - paired))
        paired.update(members)
        if members:
            found.append(Segment(index, members))
    return found


def reachable_calls(start: Any, calls: Sequence[Call]) -> list[int]:
    """Return the calls whose output lies upstream of a node, nearest ones only.

    Args:
        start: Autograd node of a tensor.
        calls: Calls that may lie upstream.

    Returns:
        Indices of the calls at which the walk ended.
    """
    ends = {call.output_edge.node: index for index, call in enumerate(calls)}
    return [ends[node] for node in walk(start, set(ends)) if node in ends]


def leaves_between(start: Any, stops: Iterable[Any]) -> list[Tensor]:
    """Return the leaf tensors that act between a node and the nodes where the walk stops.

    Args:
        start: Autograd node of the entry.
        stops: Nodes of the pre-activations and entries below it.

    Returns:
        Leaves with gradients, such as the scale of a normalisation, each once.
    """
    blocked = set(stops)
    return [
        node.variable
        for node in walk(start, blocked)
        if node not in blocked and hasattr(node, "variable")
    ]


def flowing_in(node: Any, outputs: Mapping[Any, int]) -> tuple[int, ...]:
    """Return which calls' outputs flow into a node, without passing another call.

    Args:
        node: Autograd node of a call's input.
        outputs: Number of each call by the node of its output.
    """
    reached = walk(node, set(outputs))
    return tuple(sorted(outputs[each] for each in reached if each in outputs))


def is_chain(entry: Any, end: Any) -> bool:
    """Return whether one node after another leads from an entry to a pre-activation.

    Each takes one gradient and hands on one; such nodes can be called one by one.

    Args:
        entry: Gradient edge of the entry.
        end: Gradient edge of the pre-activation.
    """
    node, number = entry.node, entry.output_nr
    while node is not end.node:
        following = [edge for edge in node.next_functions if edge[0] is not None]
        if number != 0 or len(node._input_metadata) != 1 or len(following) != 1:
            return False
        node, number = following[0]
    return bool(number == end.output_nr)


def chain_between(entry: Any, end: Any) -> list[Any]:
    """Return the nodes of a chain, from the entry down to the pre-activation, without its node."""
    nodes = []
    node = entry.node
    while node is not end.node:
        nodes.append(node)
        node = next(edge[0] for edge in node.next_functions if edge[0] is not None)
    return nodes


def edge_of(tensor: Tensor) -> GradientEdge:
    """Return where the gradient of a tensor is read."""
    node = tensor.grad_fn
    return get_gradient_edge(tensor) if node is None else GradientEdge(node, tensor.output_nr)


def reaches(start: Any, target: Any, stops: set[Any]) -> bool:
    """Return whether a walk upstream meets a node without passing one of the stops.

    Args:
        start: Autograd node where the walk begins.
        target: Node to be met.
        stops: Nodes through which the walk may not pass.
    """
    return any(node is target for node in walk(start, stops) if node not in stops)


@contextmanager
def cut(nodes: Iterable[Any]) -> Iterator[None]:
    """Let no gradient pass the given autograd nodes.

    What is asked of the nodes themselves is still read: hooks run after it is.

    Args:
        nodes: Where backward passes end.
    """
    handles = [node.register_prehook(_nothing) for node in nodes]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _nothing(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(None if g is None else torch.zeros_like(g) for g in gradients)


def refuse_custom_backwards(start: Any) -> None:
    """Refuse graphs with a backward written by hand: their gradient may not be the true one.

    Args:
        start: Autograd node of the loss.

    Raises:
        MeasurementError: Names the first such function.
    """
    for node in walk(start, set()):
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            name = type(node).__name__.removesuffix("Backward")
            if name == "CheckpointFunction":
                msg = (
                    "The model recomputes activations with reentrant checkpointing, which hides "
                    "its layers from the graph; call checkpoint(..., use_reentrant=False)."
                )
                raise MeasurementError(msg)
            msg = (
                f"The model runs the custom autograd function {name!r}, whose backward need not "
                "be the true gradient; give an equal model without it (--plain-model SPEC)."
            )
            raise MeasurementError(msg)


def walk(start: Any, stops: set[Any]) -> Iterable[Any]:
    """Yield every autograd node upstream of one, itself first, not beyond the stops."""
    seen = {start}
    stack = [start]
    while stack:
        node = stack.pop()
        yield node
        if node in stops:
            continue
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                stack.append(following)
