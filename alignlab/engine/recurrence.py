"""Recurrent products: where a weight acts on what it has acted on before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alignlab.engine.graph import walk
from alignlab.engine.modules import plain_name
from alignlab.engine.products import PRODUCTS, operation, other_uses

if TYPE_CHECKING:
    from alignlab.engine.attach import Call
    from alignlab.engine.products import Use

__all__ = ["Product", "closed", "recurrent_products", "weights_without_credit"]

Slot = tuple[Any, int]
"""An autograd node and the number of one of its operands."""


@dataclass(frozen=True)
class Product:
    """One product of a weight with what may be a state.

    Attributes:
        owner: Name of the measured module, or of the parameter outside of these.
        node: Autograd node of the product's result.
        below: Nodes of the product's input; none where that has no gradient.
        slots: Where the gradient of the input leaves the product.
        depth: How many products of the same weight lie one behind the other up to this one, it
            included: the number of its step in a recurrence, from 1.
    """

    owner: str
    node: Any
    below: tuple[Any, ...]
    slots: tuple[Slot, ...]
    depth: int = 1


def recurrent_products(start: Any, calls: Sequence[Call], model: nn.Module) -> list[Product]:
    """Return the products of all weights of which some act behind themselves.

    Both measured modules and parameters that act as weights outside of them are looked at, such
    as those of ``torch.nn.RNNCell``. Two modules that share a weight are two layers, not two
    steps. Two sequences that one weight runs through one after the
    other are two chains.

    Args:
        start: Autograd node of the loss.
        calls: Measured calls.
        model: The model, for the names of its parameters.

    Returns:
        All products of these weights, those that begin a chain included, with their depths.
    """
    named = {plain_name(name): p for name, p in model.named_parameters()}
    by_weight: dict[int, list[Product]] = defaultdict(list)
    for call in calls:
        by_weight[id(call.module)].append(_of_call(call))
    for use in other_uses(start, calls, model):
        by_weight[id(named[use.owner])].append(_of_use(use))
    found: list[Product] = []
    for products in by_weight.values():
        ranked = _ranked(products) if len(products) > 1 else products
        if any(product.depth > 1 for product in ranked):
            found += ranked
    return found


@contextmanager
def closed(products: Sequence[Product]) -> Iterator[None]:
    """Let no gradient leave products through their inputs.

    Gradients of their weights are as they would be, and so is every other way to the same input.

    Args:
        products: Which.
    """
    numbers: dict[Any, set[int]] = defaultdict(set)
    for product in products:
        for node, number in product.slots:
            numbers[node].add(number)
    handles = [node.register_hook(_closing(chosen)) for node, chosen in numbers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def weights_without_credit(start: Any, products: Sequence[Product], model: nn.Module) -> list[str]:
    """Return the weights that no gradient reaches while products are closed, and does otherwise.

    Args:
        start: Autograd node of the loss.
        products: Those that are closed.
        model: The model, for the names of its parameters.
    """
    shut = {slot for product in products for slot in product.slots}
    seen, stack = {start}, [start]
    while stack:
        node = stack.pop()
        for number, (following, _) in enumerate(node.next_functions):
            if following is None or following in seen or (node, number) in shut:
                continue
            seen.add(following)
            stack.append(following)
    names = {id(p): plain_name(name) for name, p in model.named_parameters() if p.dim() > 1}
    lost = [node for node in walk(start, set()) if node not in seen and hasattr(node, "variable")]
    return sorted(names[id(node.variable)] for node in lost if id(node.variable) in names)


def _of_call(call: Call) -> Product:
    node = call.output_edge.node
    if call.input_edge is None:
        return Product(call.module_name, node, (), ())
    below = call.input_edge
    slots = tuple(
        (inside, number)
        for inside in walk(node, {below.node})
        if inside is not below.node
        for number, edge in enumerate(inside.next_functions)
        if edge[0] is below.node and edge[1] == below.output_nr
    )
    return Product(call.module_name, node, (below.node,), slots)


def _of_use(use: Use) -> Product:
    operands = PRODUCTS[operation(use.node)]
    slots = tuple(
        (use.node, number)
        for number, attribute in operands.items()
        if attribute != use.attribute and use.node.next_functions[number][0] is not None
    )
    below = tuple(node.next_functions[number][0] for node, number in slots)
    return Product(use.owner, use.node, below, slots)


def _ranked(products: Sequence[Product]) -> list[Product]:
    """Return the products of one weight in the order in which they ran, with their depths."""
    ordered = sorted(products, key=lambda product: product.node._sequence_nr())
    nodes = {product.node for product in ordered}
    depths: dict[Any, int] = {}
    for product in ordered:
        before = [
            depths.get(node, 0)
            for below in product.below
            for node in walk(below, nodes)
            if node in nodes
        ]
        depths[product.node] = 1 + max(before, default=0)
    return [replace(product, depth=depths[product.node]) for product in ordered]


def _closing(numbers: set[int]) -> Any:
    def hook(
        gradients: tuple[Tensor | None, ...], _above: tuple[Tensor | None, ...]
    ) -> tuple[Tensor | None, ...]:
        return tuple(
            torch.zeros_like(g) if g is not None and number in numbers else g
            for number, g in enumerate(gradients)
        )

    return hook
