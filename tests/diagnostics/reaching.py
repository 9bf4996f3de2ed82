"""Networks whose reach is known, and their signals and gradients in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Signals", "deep", "noise", "signals_of"]

GAIN = {nn.ReLU: 2.0**0.5, nn.Tanh: 1.0, nn.Identity: 1.0}


def deep(sizes: Sequence[int], activation: type[nn.Module], *, seed: int = 0) -> nn.Sequential:
    """Return a multilayer perceptron without biases at its usual start, layers ``0``, ``2``, ..."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for number, (n_in, n_out) in enumerate(pairwise(sizes)):
        layer = nn.Linear(n_in, n_out, bias=False)
        last = number == len(sizes) - 2
        scale = 1.0 if last else GAIN[activation]
        nn.init.normal_(layer.weight, std=scale / n_in**0.5)
        layers += [layer] if last else [layer, activation()]
    return nn.Sequential(*layers)


def noise(n_samples: int, n: int, n_classes: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    x = torch.randn(n_samples, n, generator=stream)
    return x, torch.randint(0, n_classes, (n_samples,), generator=stream)


@dataclass(frozen=True)
class Signals:
    """What backpropagation brings to one layer.

    Attributes:
        error: Errors in the directions that they occupy, ``(n_samples, r)``.
        entry: True signal at the entry.
        gate: Derivative of the activation.
        x: The layer's input.
    """

    error: np.ndarray
    entry: np.ndarray
    gate: np.ndarray
    x: np.ndarray


def signals_of(model: nn.Sequential, batch: tuple[Tensor, Tensor], *, layer: int) -> Signals:
    """Return the signals of a layer of a ReLU or linear network, in float64."""
    kept: dict[int, Tensor] = {}
    h = batch[0].double()
    for number, module in enumerate(model):
        if number == layer:
            x = h
        h = functional.linear(h, module.weight.double()) if isinstance(module, nn.Linear) else (
            module(h)
        )  # fmt: skip
        h.requires_grad_()
        h.retain_grad()
        kept[number] = h
    functional.cross_entropy(h, batch[1]).backward()
    error = kept[len(model) - 1].grad
    entry = kept[layer + 1].grad
    assert error is not None
    assert entry is not None
    gate = (kept[layer] > 0).double() if isinstance(model[layer + 1], nn.ReLU) else 1.0
    directions = np.linalg.svd(error.numpy(), full_matrices=False)[2][: error.shape[1] - 1]
    return Signals(
        error.numpy() @ directions.T,
        entry.numpy(),
        np.broadcast_to(np.asarray(gate), entry.shape),
        x.detach().numpy(),
    )
