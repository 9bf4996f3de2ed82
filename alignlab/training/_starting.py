"""What a rule holds before the first step."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from alignlab.engine.capture import Capture, Loss
from alignlab.feedback import Feedback
from alignlab.learner import Learner
from alignlab.rules._base import State
from alignlab.rules.bp import BP

__all__ = ["initial_feedback", "initial_state"]


def initial_state(learner: Learner, loss_function: Loss, x: Tensor, y: Tensor) -> State:
    """Return the state that the first step of a learner will draw; the learner draws none yet."""
    rule = learner.rule
    capture = Capture(learner.model, loss_function, x, y)
    try:
        return rule.start(capture, seed=int(getattr(rule, "seed", 0)))
    finally:
        capture.close()


def initial_feedback(
    learner: Learner, loss_function: Loss, x: Tensor, y: Tensor
) -> Mapping[str, Feedback]:
    """Return what of it must be kept: all but what follows from the initial weights."""
    rule = learner.rule
    known = learner.feedback
    if known or rule.is_derived or isinstance(rule, BP):
        return known
    return initial_state(learner, loss_function, x, y)
