"""How much alignment with fresh direct feedback spreads, in closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from alignlab.experiments._alignment import weights_of

__all__ = ["fresh_spread"]

_UNITS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "tanh": (torch.tanh, lambda a: 1 - torch.tanh(a) ** 2),
    "relu": (torch.relu, lambda a: (a > 0).to(a.dtype)),
}


def fresh_spread(model: nn.Module, x: Tensor, y: Tensor, *, activation: str) -> np.ndarray:
    r"""Return the standard deviation of each hidden layer's alignment over draws of feedback.

    Of sample i with error e, slopes D and true signal :math:`\delta` the cosine with D F e is
    :math:`\langle F, D\delta e^T\rangle` over norms, that of DFe to first order
    :math:`\sigma\|D\|\|e\|`. The mean over samples is thus linear in F, and its deviation the norm
    of what F is multiplied by. A single sample without slopes has 1 over the root of the width.

    Args:
        model: Fully connected, without biases, under cross-entropy.
        x: Samples.
        y: Classes.
        activation: Of the hidden layers, ``tanh`` or ``relu``.
    """
    unit, slope = _UNITS[activation]
    weights = [weight.double() for weight in weights_of(model)]
    signal, slopes = x.double(), []
    for weight in weights[:-1]:
        before = signal @ weight.T
        slopes.append(slope(before))
        signal = unit(before)
    outputs = signal @ weights[-1].T
    error = outputs.softmax(1) - nn.functional.one_hot(y, outputs.shape[1])
    spreads: list[float] = []
    delta = error
    for weight, gate in zip(weights[:0:-1], slopes[::-1], strict=True):
        delta = delta @ weight * gate
        size = delta.norm(dim=1) * error.norm(dim=1) * gate.norm(dim=1)
        has_direction = size > 0
        pushed = (gate * delta)[has_direction] / size[has_direction, None]
        spreads.insert(0, float((pushed.T @ error[has_direction] / len(pushed)).norm()))
    return np.array(spreads)
