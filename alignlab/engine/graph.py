"""Which entry belongs to which layer: walks over the autograd graph."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alignlab.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from alignlab.engine.attach import Call

__all__ = [
    "Segment",
    "chain_between",
    "cut",
    "is_chain",
    "leaves_between",
    "reachable_calls",
    "reaches",
    "refuse_custom_backwards",
    "refuse_other_weights",
    "segments",
    "weight_operand",
]


_PRODUCTS = frozenset({"Addmm", "Mm", "Bmm", "Baddbmm", "Addbmm", "Mv", "Addmv", "Convolution"})
_VIEWS = frozenset(
    {
        *("T", "Transpose", "Permute", "View", "UnsafeView", "ReshapeAlias", "Expand"),
        *("ToCopy", "Unsqueeze", "Squeeze", "Slice", "Select", "AsStrided", "Clone"),
    }
)


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
    return [ends[node] for node in _walk(start, set(ends)) if node in ends]


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
        for node in _walk(start, blocked)
        if node not in blocked and hasattr(node, "variable")
    ]


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


def weight_operand(node: Any, weight: Tensor) -> tuple[int, int] | None:
    """Return where a pre-activation's node forms the gradient of a weight.

    Args:
        node: Autograd node of the pre-activation.
        weight: The weight.

    Returns:
        How many views lie between that node and the product, and the place of the weight among
        the product's operands; None if no product of the weight is found.
    """
    views = 0
    while True:
        for place, (following, _) in enumerate(node.next_functions):
            if following is not None and _leaf_behind(following) is weight:
                return views, place
        onward = [following for following, _ in node.next_functions if following is not None]
        if len(onward) != 1 or _operation(node) not in _VIEWS:
            return None
        node, views = onward[0], views + 1


def reaches(start: Any, target: Any, stops: set[Any]) -> bool:
    """Return whether a walk upstream meets a node without passing one of the stops.

    Args:
        start: Autograd node where the walk begins.
        target: Node to be met.
        stops: Nodes through which the walk may not pass.
    """
    return any(node is target for node in _walk(start, stops) if node not in stops)


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
    for node in _walk(start, set()):
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            name = type(node).__name__.removesuffix("Backward")
            msg = (
                f"The model runs the custom autograd function {name!r}, whose backward need not "
                "be the true gradient; give an equal model without it (--plain-model SPEC)."
            )
            raise MeasurementError(msg)


def refuse_other_weights(start: Any, model: nn.Module, measured: Mapping[str, Tensor]) -> None:
    """Refuse parameters that are multiplied as weights outside of the measured modules.

    No rule would replace them, and the signal below would be backpropagation's.

    Args:
        start: Autograd node of the loss.
        model: The model, for the names.
        measured: Weights of the measured modules.

    Raises:
        MeasurementError: Names the first such parameter.
    """
    known = {id(weight) for weight in measured.values()}
    for node in _walk(start, set()):
        if _operation(node) not in _PRODUCTS:
            continue
        for following, _ in node.next_functions:
            leaf = _leaf_behind(following)
            if leaf is None or id(leaf) in known or leaf.dim() < 2:
                continue
            names = [name for name, p in model.named_parameters() if p is leaf]
            if names:
                msg = (
                    f"The parameter {names[0]!r} is used as a weight outside of Linear and "
                    "Conv1d/2d/3d modules, where this version cannot measure it; put it into "
                    "such a module (--plain-model SPEC)."
                )
                raise MeasurementError(msg)


def _operation(node: Any) -> str:
    """Return the name of a node's operation, such as ``Addmm`` for ``AddmmBackward0``."""
    return type(node).__name__.partition("Backward")[0]


def _leaf_behind(node: Any) -> Tensor | None:
    """Return the parameter of which a node's operand is a view or a copy."""
    while node is not None and not hasattr(node, "variable"):
        if _operation(node) not in _VIEWS:
            return None
        node = next((following for following, _ in node.next_functions), None)
    leaf: Tensor | None = None if node is None else node.variable
    return leaf


def _walk(start: Any, stops: set[Any]) -> Iterable[Any]:
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
