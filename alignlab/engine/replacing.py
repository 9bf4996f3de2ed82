"""Whole backward passes in the middle of the user's, for rules that replace weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, final

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from alignlab.engine.carry import redraw_weights
from alignlab.engine.comparison import ENTRY, PREACTIVATION, Levels
from alignlab.errors import MeasurementError

if TYPE_CHECKING:
    from alignlab.engine.attach import Call
    from alignlab.engine.exchange import Exchange
    from alignlab.engine.plan import Plan, Replaced

__all__ = ["Reached", "Ways", "run_backward", "run_redraws"]

LARGEST_GAP = 0.02
"""Relative difference of two backward passes that is rounding, in half precision too."""

Reached = dict[tuple[str, int], Tensor]
"""Signals by place and index."""


@final
class Ways:
    """Whether the loss reaches every site through the output layer alone, as rules suppose.

    Nothing is read back before the pass is over.
    """

    def __init__(self, expected: Reached | None = None) -> None:
        """Compare nothing, or true signals with those of a backward pass from the output layer.

        Args:
            expected: Signals of that pass.
        """
        self._expected: Final = dict(expected or {})
        self._gaps: Final[list[tuple[str, Tensor]]] = []

    def see(self, plan: Plan, place: str, index: int, true: Tensor) -> None:
        """Compare the true signal of a site.

        Args:
            plan: What is known of the pass.
            place: ``entry`` or ``preactivation``.
            index: Index of the site.
            true: True signal there.
        """
        expected = self._expected.pop((place, index), None)
        if expected is not None:
            # Squares of what has vanished would be zero.
            size = true.abs().amax()
            gap = ((true - expected) / size).norm() / (true / size).norm()
            self._gaps.append((plan.name_of(place, index), gap))

    def require_one(self) -> None:
        """Refuse a loss that reaches a site past the output layer; waits for the device.

        Raises:
            MeasurementError: It does.
        """
        past = [name for name, gap in self._gaps if gap > LARGEST_GAP]
        if past:
            msg = (
                f"The loss reaches {past[-1]} on a way past the output layer, such as a penalty on "
                "an activation, which rules that replace weights cannot follow here; use "
                "Probe.measure."
            )
            raise MeasurementError(msg)


def run_backward(plan: Plan, calls: Sequence[Call], gradient: Tensor, *, levels: Levels) -> Reached:
    """Run the backward pass once, from the error at the output to every site.

    Args:
        plan: What is known of the pass.
        calls: Its layers, the output last.
        gradient: Gradient of the output.
        levels: What is measured.
    """
    edges: dict[tuple[str, int], GradientEdge] = {}
    if levels.local:
        for k, call in enumerate(calls[:-1]):
            edges[PREACTIVATION, k] = call.output_edge
    if levels.entry:
        for k, segment in enumerate(plan.segments):
            edge = calls[segment.consumer].input_edge
            assert edge is not None
            edges[ENTRY, k] = edge
    found = torch.autograd.grad(
        [calls[-1].output_edge], list(edges.values()), grad_outputs=[gradient], retain_graph=True
    )
    return dict(zip(edges, found, strict=True))


def run_redraws(
    plan: Plan,
    numbered: tuple[int, Replaced],
    exchange: Exchange,
    *,
    step: int,
    calls: Sequence[Call],
    inputs: Mapping[int, Tensor | None],
    levels: Levels,
    backward: Callable[[], Reached],
) -> None:
    """Compare redraws one after the other, with the true signals of a pass of their own.

    Args:
        plan: What is known of the pass.
        numbered: Index of the rule, and the rule.
        exchange: Replaces the weights.
        step: Number of the step.
        calls: Layers of the pass.
        inputs: Their inputs by index, where weight gradients are measured.
        levels: What is measured.
        backward: Runs the backward pass.
    """
    number, rule = numbered
    true = backward()
    for draw, weights in enumerate(rule.weights[1:], 1):
        with exchange.replaced(weights(exchange.weights, step)):
            found = backward()
        for (place, index), signal in found.items():
            reference = true[place, index]
            if place in levels.places:
                plan.rows.approximate(place, index, number, signal, draw=draw)
                plan.rows.compare(place, index, number, reference, [signal], first=draw)
            if place == PREACTIVATION and levels.weight_gradient:
                x = inputs[index]
                assert x is not None
                signals = {number: [signal]}
                redraw_weights(plan, index, calls[index], x, reference, signals, first=draw)
