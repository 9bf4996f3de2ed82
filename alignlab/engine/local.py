"""What lies between two sites, run once more in the middle of the user's backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from alignlab.engine.graph import chain_between

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from alignlab.engine.plan import Plan

__all__ = ["Gradients", "Signals", "carried", "compare_weights"]

Gradients = tuple[Tensor | None, ...]
Signals = dict[int, list[Tensor]]
"""By rule, its own signal and redraws of it."""


def carried(
    entry: GradientEdge,
    sites: Sequence[GradientEdge],
    signal: Tensor,
    *,
    is_chain: bool,
    memory: Tensor,
) -> list[Tensor]:
    """Return what the exact local backward map makes of a signal.

    Args:
        entry: Where it enters.
        sites: Where it is wanted.
        signal: Shaped like the entry.
        is_chain: Whether single nodes lead from the entry to the only site.
        memory: What the signal may lie in, and no result may.
    """
    if is_chain:
        for node in chain_between(entry, sites[0]):
            found = node(signal)
            signal = next(e for e in found if e is not None) if isinstance(found, tuple) else found
        results: Sequence[Tensor] = [signal]
    else:
        results = torch.autograd.grad(
            [entry], list(sites), grad_outputs=[signal], retain_graph=True
        )
    taken = memory.untyped_storage().data_ptr()
    return [
        each.clone() if each.untyped_storage().data_ptr() == taken else each for each in results
    ]


def compare_weights(
    plan: Plan,
    index: int,
    site: GradientEdge,
    *,
    x: Tensor,
    true: Tensor,
    signals: Signals,
    is_busy: Callable[[], bool],
) -> RemovableHandle | None:
    """Compare the weight gradients of a layer, which autograd is about to form.

    The rules' own are compared through Gram matrices at once, or formed and compared when the
    true one is there.

    Args:
        plan: What is known of the pass.
        index: The layer.
        site: Its pre-activation.
        x: Its input.
        true: True signal at the pre-activation.
        signals: Approximate signals there.
        is_busy: Whether a backward pass of our own is running, whose gradients do not count.

    Returns:
        What takes the hook away; None where the layer's product was not found.
    """
    operand = plan.operand[index]
    if operand is None:
        return None
    views, place = operand
    node: Any = site.node
    for _ in range(views):
        node = next(following for following, _ in node.next_functions if following is not None)
    gradients: Signals = {}
    if plan.gram[index]:
        plan.rows.gram(index, x, true, signals)
    else:
        target = GradientEdge(*node.next_functions[place])
        form = partial(torch.autograd.grad, [site], [target], retain_graph=True)
        for number, drawn in signals.items():
            gradients[number] = [form(grad_outputs=[signal])[0] for signal in drawn]

    def formed(inputs: Gradients, _outputs: Gradients) -> None:
        gradient = inputs[place]
        if not is_busy() and gradient is not None:
            plan.rows.weights(index, gradient, gradients)
            gradients.clear()

    handle: RemovableHandle = node.register_hook(formed)
    return handle
