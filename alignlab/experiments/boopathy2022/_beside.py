"""Backpropagation that also adds up what Align-zero would have done with the same errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from alignlab.rules import AlignZero, Rule, Updates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from alignlab.engine.capture import Capture
    from alignlab.rules import State, Task

__all__ = ["BesideBackpropagation", "changes"]

SUM = "sum of "


@dataclass(frozen=True)
class BesideBackpropagation(Rule):
    """Train by backpropagation, and hold the sum of Align-zero's updates on the way.

    Under plain gradient descent minus the rate times that sum is the weight change of a network
    of the same start that learns by the initial Jacobian from this network's errors, which is
    what the alignment score compares with.
    """

    name: ClassVar[str] = "bp beside align-zero"
    learns: ClassVar[bool] = True
    needs_history: ClassVar[bool] = True
    reads_true: ClassVar[bool] = False

    def start(self, capture: Capture, *, seed: int) -> State:
        """Keep the initial parameters, and sums of zero."""
        initial = AlignZero().start(capture, seed=seed)
        zeros = {SUM + key: torch.zeros_like(_tensor(one)) for key, one in initial.items()}
        return {**initial, **zeros}

    def updates(self, task: Task, state: State, *, parameters: bool = True) -> Updates:
        """Return the gradients, and the sums with the present updates of Align-zero."""
        initial = {key: one for key, one in state.items() if not key.startswith(SUM)}
        found = AlignZero().updates(task, initial).parameters
        sums = {SUM + key: _tensor(state[SUM + key]) + found[key].detach() for key in initial}
        true = task.capture.reference(parameters=parameters)
        return Updates(true.entry, true.preactivation, true.parameters, state={**initial, **sums})


def changes(
    model: nn.Module, feedback: Mapping[str, object], *, lr: float
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return both changes of every weight: of the network, and of the one beside it.

    Args:
        model: After its training.
        feedback: State of the rule then.
        lr: Rate of the plain gradient descent.

    Returns:
        By parameter name, for parameters of two axes.
    """
    return {
        name: (p.detach() - _tensor(feedback[name]), -lr * _tensor(feedback[SUM + name]))
        for name, p in model.named_parameters()
        if p.dim() == 2
    }


def _tensor(one: object) -> Tensor:
    assert isinstance(one, Tensor)
    return one
