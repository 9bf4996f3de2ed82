"""The networks and batches on which stated values are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import pi
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from alignlab.learner import Learner
from alignlab.probe import Probe
from alignlab.rules import DFA
from alignlab.snapshot import MeasuredRule

__all__ = [
    "CIRCULAR",
    "CLASSES",
    "DEEP",
    "HEADS",
    "SAMPLES",
    "convolutions",
    "hidden",
    "linear",
    "maps",
    "measured",
    "one_hot",
    "trained_from_zero",
    "values_of",
]

CLASSES = 10
DEEP = (100, 200, 200, 200, 200, CLASSES)
"""Widths of the multilayer perceptrons: four hidden layers."""
HEADS = ("pooled", "flattened")
SAMPLES = 512
_CHANNELS, _SIDE = 16, 8

CIRCULAR = (
    "four circular ReLU convolutions 3x3 of 16 channels on 8x8 positions, no biases, He weights; "
    "512 inputs of 3 channels, white noise under a Gaussian filter one position wide; dense "
    "feedback into every map"
)
"""What ``convolutions`` and ``maps`` are, in words."""


def measured(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    *rules: Any,
    names: Sequence[str],
    loss: Any = functional.cross_entropy,
    draws: int = 32,
    kept: dict[str, xr.Dataset] | None = None,
) -> xr.Dataset:
    """Return the one step of a recording, and the signals where a place for them is given."""
    save = () if kept is None else ("signals",)
    with Probe(model, loss, rules=rules, diagnostics=names, draws=draws, save=save) as probe:
        found = probe.measure(*batch).isel(step=0)
        if kept is not None:
            kept.update(probe.tensors)
    return found


def hidden(found: xr.Dataset, name: str, **place: Any) -> Any:
    """Return a variable of the hidden layers, under the only rule where there is one."""
    values = found[name].sel(layer=~found["is_output"]).sel(**place)
    return (values.isel(rule=0) if "rule" in values.dims else values).values


def convolutions(
    head: str, *, seed: int, channels: int = _CHANNELS, readout: float = 1.0
) -> nn.Sequential:
    """Return four circular ReLU convolutions of 8 by 8 positions and a head.

    Both heads are one Linear layer over all positions, so that feedback enters at the maps below
    it; the pooled one has the same weights at every position.

    Args:
        head: One of ``HEADS``.
        seed: Of all weights.
        channels: Of every layer.
        readout: Factor on the weights of the head.
    """
    torch.manual_seed(seed)
    modules: list[nn.Module] = []
    for below, above in pairwise((3, *[channels] * 4)):
        layer = nn.Conv2d(below, above, 3, padding=1, padding_mode="circular", bias=False)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        modules += [layer, nn.ReLU()]
    positions = _SIDE**2
    last = nn.Linear(channels * positions, CLASSES, bias=False)
    with torch.no_grad():
        if head == "pooled":
            weight = torch.randn(CLASSES, channels, 1) / channels**0.5
            last.weight.copy_(weight.expand(-1, -1, positions).flatten(1) / positions)
        else:
            nn.init.normal_(last.weight, std=last.in_features**-0.5)
        last.weight.mul_(readout)
    return nn.Sequential(*modules, nn.Flatten(), last)


def maps(n_samples: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return white noise under a circular Gaussian filter one position wide, and classes."""
    stream = torch.Generator().manual_seed(1_000 + seed)
    white = torch.randn(n_samples, 3, _SIDE, _SIDE, generator=stream)
    frequency = torch.fft.fftfreq(_SIDE)
    squared = frequency[:, None] ** 2 + frequency**2
    passed = torch.exp(-2.0 * pi**2 * squared)
    x = torch.fft.ifft2(torch.fft.fft2(white) * passed).real
    return x / x.std(), torch.randint(CLASSES, (n_samples,), generator=stream)


def linear(*sizes: int, seed: int) -> nn.Sequential:
    """Return a linear network without biases in float64, weights of variance one over inputs."""
    torch.manual_seed(seed)
    layers = [nn.Linear(a, b, bias=False, dtype=torch.float64) for a, b in pairwise(sizes)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    return nn.Sequential(*layers)


def one_hot(y: Tensor) -> Tensor:
    """Return rows of a single one."""
    return functional.one_hot(y, CLASSES).double()


def trained_from_zero(
    loss: Any, *, seed: int, steps: int, rate: float
) -> tuple[nn.Module, MeasuredRule, tuple[Tensor, Tensor]]:
    """Train a linear 20-200-200-10 network from zero by DFA on classes of a linear teacher."""
    model = linear(20, 200, 200, CLASSES, seed=seed)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(500, 20).double()
    y = (x @ torch.randn(20, CLASSES).double()).argmax(1)
    target = y if loss is functional.cross_entropy else one_hot(y)
    learner = Learner(model, loss, DFA(seed=seed))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        learner.backward(x, target)
        optimizer.step()
    return model, learner.measured(), (x, target)


def values_of(kept: Mapping[str, xr.Dataset], layer: str, name: str) -> Tensor:
    """Return a raw tensor of a layer."""
    return torch.as_tensor(kept[layer][name].values)
