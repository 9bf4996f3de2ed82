"""What walks over autograd graphs have found, kept for the next pass of equal structure."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

from torch import nn

from alignlab.engine.prepared import Prepared

if TYPE_CHECKING:
    from alignlab.engine.attach import Call

__all__ = ["Structure", "Structures"]

Found = TypeVar("Found")

KEPT = 8
"""Structures that are known at a time: of training and evaluation mode, of sequence lengths."""


@final
class Structure:
    """What is known of all graphs of one structure; nothing at first.

    What is kept must hold of every such graph: numbers of calls, leaves, layers, and that
    nothing is to be refused; never nodes.
    """

    def __init__(self, holds: Sequence[Any] = ()) -> None:
        """Know nothing.

        Args:
            holds: Leaves and modules by whose identity the structure is told from others.
        """
        self._holds: Final = holds
        self._found: Final[dict[Hashable, Any]] = {}

    def once(self, key: Hashable, find: Callable[[], Found]) -> Found:
        """Return what was found under a key, searched for where it is not known.

        Args:
            key: What is wanted.
            find: Searches; what it raises is raised, and searched for again next time.
        """
        if key not in self._found:
            self._found[key] = find()
        found: Found = self._found[key]
        return found


@final
class Structures:
    """The structures of the last graphs of one model and loss.

    Two graphs have the same one if they have the same operations, joined in the same way, on
    the same leaves, and if the same modules were called at the same places with samples of the
    same shapes. All that a walk can tell of them is then the same.
    """

    def __init__(self) -> None:
        """Know none."""
        self._known: dict[Hashable, Structure] = {}
        self._prepared: Prepared | None = None

    def __reduce__(self) -> tuple[type[Structures], tuple[()]]:
        """Copy nothing: what is known is of these very objects."""
        return Structures, ()

    def prepared(self, model: nn.Module, only: Sequence[str] | None) -> Prepared:
        """Return what is known of the one model; see ``Prepared``."""
        if self._prepared is None or not self._prepared.is_up_to_date:
            self._prepared = Prepared(model, only)
        return self._prepared

    def of(self, start: Any, calls: Sequence[Call]) -> Structure:
        """Return what is known of a graph.

        Args:
            start: Autograd node of the loss.
            calls: All calls of the forward pass, in order.
        """
        places, operations, leaves = _walked(start)
        key = operations, tuple(_described(calls, places))
        known = self._known.get(key)
        if known is None:
            known = Structure([*leaves, *(call.module for call in calls)])
            # A batch that is a leaf is another one every time, and must not be kept.
            if all(isinstance(leaf, nn.Parameter) for leaf in leaves):
                if len(self._known) == KEPT:
                    del self._known[next(iter(self._known))]
                self._known[key] = known
        return known


def _walked(start: Any) -> tuple[dict[Any, int], tuple[Any, ...], list[Any]]:
    """Return a graph's nodes with their numbers, what tells it from others, and its leaves."""
    places, nodes = {start: 0}, [start]
    operations: list[Any] = []
    leaves = []
    for node in nodes:
        operations.append(type(node))
        following = node.next_functions
        for below, number in following:
            if below is not None and below not in places:
                places[below] = len(nodes)
                nodes.append(below)
            operations.append((places[below], number) if below is not None else None)
        if not following and hasattr(node, "variable"):
            leaves.append(node.variable)
            operations.append(id(node.variable))
    return places, tuple(operations), leaves


def _described(calls: Sequence[Call], places: dict[Any, int]) -> list[Any]:
    """Return what is the same of the calls of all graphs of one structure."""
    rows: dict[int, int] = {}
    return [
        (
            call.name,
            id(call.module),
            *(_place(edge, places) for edge in (call.output_edge, call.input_edge)),
            _place(call.weight_edge, places),
            call.output_shape[1:],
            call.input_shape[1:],
            call.weight.shape,
            rows.setdefault(call.output_shape[0] if call.output_shape else -1, len(rows)),
        )
        for call in calls
    ]


def _place(edge: Any, places: dict[Any, int]) -> Any:
    """Return where an edge is in a graph; None where there is none."""
    return None if edge is None else (places.get(edge.node, -1), edge.output_nr)
