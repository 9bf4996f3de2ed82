"""Align-prop: the backward pass of the initial network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from alignlab.feedback import generator, unit_draw
from alignlab.rules._base import ReplacedWeightRule, State

if TYPE_CHECKING:
    from alignlab.engine.capture import Capture

__all__ = ["AlignProp"]


@dataclass(frozen=True)
class AlignProp(ReplacedWeightRule):
    """Backward weights that stay what the forward ones were before the first step, W(0).

    Feedback is exact at first and loses as much as the weights turn away from their start;
    nothing is drawn and nothing is learned. Activations and their slopes are those of the present
    network. Source: Boopathy & Fiete 2022, arXiv 2106.08453.

    The state is W(0) by name of the module, shaped like W. ``start`` takes the present weights:
    of a trained model those are not the initial ones, and the rule is then backpropagation until
    the next step. Hand in the state of its training instead (``Learner.measured``, or
    ``MeasuredRule`` with the initial weights).
    """

    name: ClassVar[str] = "align-prop"
    keeps_initial: ClassVar[bool] = True

    def start(self, capture: Capture, *, seed: int) -> State:
        """Return the present weights; see the base class.

        Raises:
            MeasurementError: A weight cannot be replaced, and would have to be after a step.
        """
        capture.require_replaceable()
        return super().start(capture, seed=seed)

    def backward_weights(self, weights: Mapping[str, Tensor], *, seed: int) -> Mapping[str, Tensor]:
        """Return copies of the weights as they are now; see the base class."""
        del seed
        return {name: weight.detach().clone() for name, weight in weights.items()}

    def by_chance(self, weights: Mapping[str, Tensor], *, seed: int) -> Mapping[str, Tensor]:
        """Return normal weights of the mean square of the forward ones."""
        result = {}
        for name, weight in weights.items():
            stream = generator(seed, self.name, name)
            unit = unit_draw(tuple(weight.shape), "normal", stream=stream)
            result[name] = unit.to(weight) * weight.detach().square().mean().sqrt()
        return result
