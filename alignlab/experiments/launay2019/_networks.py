"""Networks in the order of blocks that the work's code has: layer, dropout, activation, norm."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import nn

__all__ = ["ACTIVATIONS", "Pooled", "dense", "drawn", "pooled"]

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky-0.5": partial(nn.LeakyReLU, 0.5),
}


@dataclass(frozen=True)
class Pooled:
    """Sizes of a convolutional network with one hidden linear layer.

    Attributes:
        shape: Channels and edge of the images.
        maps: Of the convolutions.
        kernel: Edge of the kernels; padding keeps the size.
        window: Edge of the max pooling, of stride 2.
        width: Units of the linear layer.
    """

    shape: tuple[int, int]
    maps: tuple[int, ...]
    kernel: int
    window: int
    width: int

    @property
    def edges(self) -> tuple[int, ...]:
        """Edge of the image after each pooling."""
        edge, found = self.shape[1], []
        for _ in self.maps:
            edge = (edge - self.window) // 2 + 1
            found.append(edge)
        return tuple(found)

    @property
    def entries(self) -> tuple[int, ...]:
        """Units that each hidden layer hands on: those of a dense network of the same sizes."""
        pooled = zip(self.maps, self.edges, strict=True)
        return (*(maps * edge**2 for maps, edge in pooled), self.width)


def dense(
    inputs: int,
    widths: Sequence[int],
    *,
    activation: str = "tanh",
    normed: bool = False,
    dropout: tuple[float, float] = (0.0, 0.0),
) -> nn.Sequential:
    """Return a dense network for ten classes, its hidden layers ``fc1``, ``fc2``, ...

    Args:
        inputs: Numbers of a sample.
        widths: Of the hidden layers.
        activation: One of ``ACTIVATIONS``.
        normed: Whether batch norm follows each activation, as in the work's code.
        dropout: Shares that are dropped of the inputs, and of each layer before its activation.
    """
    steps: OrderedDict[str, nn.Module] = OrderedDict(flat=nn.Flatten())
    if dropout[0]:
        steps["drop0"] = nn.Dropout(dropout[0])
    for number, (before, width) in enumerate(pairwise((inputs, *widths)), start=1):
        steps[f"fc{number}"] = nn.Linear(before, width)
        if dropout[1]:
            steps[f"drop{number}"] = nn.Dropout(dropout[1])
        steps[f"act{number}"] = ACTIVATIONS[activation]()
        if normed:
            steps[f"bn{number}"] = nn.BatchNorm1d(width)
    steps["out"] = nn.Linear(widths[-1], 10)
    return nn.Sequential(steps)


def pooled(sizes: Pooled) -> nn.Sequential:
    """Return a convolutional network of tanh units, ``conv1``, ``conv2``, ..., ``fc``, ``out``."""
    steps: OrderedDict[str, nn.Module] = OrderedDict()
    channels = (sizes.shape[0], *sizes.maps)
    for number, (before, maps) in enumerate(pairwise(channels), start=1):
        steps[f"conv{number}"] = nn.Conv2d(before, maps, sizes.kernel, padding=sizes.kernel // 2)
        steps[f"act{number}"] = nn.Tanh()
        steps[f"pool{number}"] = nn.MaxPool2d(sizes.window, 2)
    steps["flat"] = nn.Flatten()
    steps["fc"] = nn.Linear(sizes.entries[-2], sizes.width)
    steps["act"] = nn.Tanh()
    steps["out"] = nn.Linear(sizes.width, 10)
    return nn.Sequential(steps)


def drawn(make: Callable[[], nn.Module], *, seed: int) -> nn.Module:
    """Return a network whose initial weights, torch's own, follow from a seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
