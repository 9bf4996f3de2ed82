r"""Linear networks of one hidden layer, built so that one rule rests and the other does not.

With whitened inputs, :math:`\sum_i x_i x_i^T = I`, and :math:`M = \sum_i e_i x_i^T = W_2W_1 - Y`
the gradient is :math:`(W_2^T M, M W_1^T)` and the update of direct feedback
:math:`(F M, M W_1^T)`. With F of a null space (fewer hidden units than outputs) M can lie in it:
the update vanishes and the gradient need not. At zero weights the gradient vanishes and FM does
not, unless F is zero on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignlab.experiments._alignment import network
from alignlab.models.mlp import MLP

__all__ = ["Resting", "rests_under_feedback", "rests_under_gradient"]


@dataclass(frozen=True)
class Resting:
    """A network, its samples, and its feedback.

    Attributes:
        model: Linear, in float64.
        x: Inputs, whitened.
        y: Targets.
        feedback: Outputs by hidden units, as a rule holds it.
    """

    model: MLP
    x: Tensor
    y: Tensor
    feedback: Tensor


def rests_under_feedback() -> Resting:
    """Return a network of one hidden unit where the update is zero and the gradient is not."""
    lower, upper = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0], [1.0]])
    error = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    return _built(lower, upper, upper @ lower - error, torch.tensor([[1.0], [0.0]]))


def rests_under_gradient() -> Resting:
    """Return a network of zero weights, where the gradient is zero and the update is not."""
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    return _built(torch.zeros(1, 2), torch.zeros(2, 1), target, torch.tensor([[1.0], [0.5]]))


def _built(lower: Tensor, upper: Tensor, target: Tensor, feedback: Tensor) -> Resting:
    model = network((2, 1, 2), activation="identity", seed=0).double()
    with torch.no_grad():
        for weight, value in zip(model.parameters(), (lower, upper), strict=True):
            weight.copy_(value)
    x = torch.eye(2, dtype=torch.float64)
    return Resting(model, x, target.double().T, feedback.double())
