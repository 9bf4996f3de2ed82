"""Small models with losses and batches on which whatever is said of every model is tested."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.architecture_cases import ARCHITECTURE_CASES
from tests.case import Batch, Case, cnn, made, mlp
from tests.wide_cases import WIDE_CASES

__all__ = ["CASES", "Batch", "Case", "each_case"]


class Functional(nn.Module):
    """A multilayer perceptron whose activations are functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 7), nn.Linear(7, 5)
        self.last = nn.Linear(5, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(functional.relu(self.second(functional.relu(self.first(x)))))


class Block(nn.Module):
    """Two convolutions with a shortcut, which is a convolution where sizes change."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(out), nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.down: nn.Module = nn.Identity()
        if stride > 1:
            self.down = nn.Conv2d(channels, out, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        inside = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        return functional.relu(self.norm2(self.conv2(inside)) + self.down(x))


def residual() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    blocks = [Block(4, 4, 1), Block(4, 6, 2)]
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


class Sequence(nn.Module):
    """Linear layers on positions, whose outputs are views that are changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu_(self.first(x))
        h = functional.relu_(self.second(h))
        return self.last(h.mean(1))


class Reused(nn.Module):
    """One layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(6, 7), nn.Linear(7, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        h = torch.tanh(self.again(torch.tanh(self.again(h))))
        return self.last(h)


class Tied(nn.Module):
    """Two layers with one weight, and a scale between them that both use."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight
        self.slope = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.slope(self.second(self.slope(self.first(x)))))


class Counting(nn.Module):
    """Buffers that the forward pass changes in place, replaces, and computes with."""

    seen: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 7), nn.Linear(7, 3)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(6), persistent=False)
        self.register_buffer("scale", torch.ones(7))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        self.scale.mul_(1.5)
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return self.last(torch.tanh(self.first(x - self.mean) * self.scale))


class Noisy(nn.Module):
    """Noise from every global source of randomness."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 7), nn.Linear(7, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x)) * (1.0 + random.random())
        h = h + float(np.random.normal())  # noqa: NPY002
        return self.last(torch.relu(self.second(h)) + 0.1 * torch.randn(len(x), 5, device=x.device))


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
    model[2].requires_grad_(False)
    return model


def one_vector() -> nn.Module:
    """Return a model whose parameters lie in one piece of memory."""
    model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
    parameters = list(model.parameters())
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(parameters).detach(), parameters)
    return model


def relu(_: int) -> nn.Module:
    return nn.ReLU()


def tanh(_: int) -> nn.Module:
    return nn.Tanh()


RELU, FLAT = made(nn.ReLU), made(nn.Flatten)

CASES: dict[str, Case] = {
    "functional relu": Case((6,), Functional, {"first": "second", "second": "last"}),
    "relu in place": Case(
        (6,), mlp(lambda _: nn.ReLU(inplace=True)), {"0": "2", "2": "4"}, loss="mse"
    ),
    "tanh": Case((6,), mlp(tanh), {"0": "2", "2": "4"}, loss="bce"),
    "linear": Case((6,), mlp(), {"0": "1", "1": "2"}, loss="mse"),
    "one hidden layer": Case(
        (6,), cnn(made(nn.Linear, 6, 9), RELU, made(nn.Linear, 9, 3)), {"0": "2"}
    ),
    "conv1d, strided": Case(
        (2, 9),
        cnn(
            made(nn.Conv1d, 2, 4, 3, stride=2, padding=1), RELU,
            made(nn.Conv1d, 4, 3, 2, dilation=2, bias=False), RELU,
            FLAT, made(nn.Linear, 9, 3),
        ),
        {"0": "2", "2": "5"},
    ),
    "conv2d, grouped": Case(
        (2, 6, 5),
        cnn(
            made(nn.Conv2d, 2, 4, 3, padding="same"), made(nn.Tanh), made(nn.AvgPool2d, 2),
            made(nn.Conv2d, 4, 4, (2, 1), groups=2, stride=(1, 2)), made(nn.Tanh),
            FLAT, made(nn.Linear, 8, 3),
        ),
        {"0": "3", "3": "6"},
        loss="bce",
    ),
    "conv2d, circular": Case(
        (1, 5, 5),
        cnn(
            made(nn.Conv2d, 1, 3, 3, padding=1, padding_mode="circular"), RELU,
            made(nn.Conv2d, 3, 2, 3, dilation=2, padding=2), made(nn.ReLU, inplace=True),
            FLAT, made(nn.Linear, 50, 3),
        ),
        {"0": "2", "2": "5"},
    ),
    "conv3d": Case(
        (1, 4, 4, 4),
        cnn(
            made(nn.Conv3d, 1, 3, 2, stride=2), RELU, made(nn.Conv3d, 3, 4, (1, 2, 1)), RELU,
            FLAT, made(nn.Linear, 16, 3),
        ),
        {"0": "2", "2": "5"},
    ),
    "overlapping pools": Case(
        (1, 7, 7),
        cnn(
            made(nn.Conv2d, 1, 4, 3), made(nn.MaxPool2d, 3, stride=1), RELU,
            made(nn.Conv2d, 4, 5, 2), RELU, made(nn.AdaptiveAvgPool2d, 1), FLAT,
            made(nn.Linear, 5, 3),
        ),
        {"0": "3", "3": "7"},
        loss="mse",
    ),
    "batch norm, training": Case(
        (6,), mlp(nn.BatchNorm1d, relu), {"0": "3", "3": "6"}
    ),
    "batch norm, evaluation": Case(
        (6,), mlp(nn.BatchNorm1d, relu), {"0": "3", "3": "6"}, train=False
    ),
    "batch norm of maps": Case(
        (1, 6, 6),
        cnn(
            made(nn.Conv2d, 1, 4, 3), made(nn.BatchNorm2d, 4), made(nn.ReLU, inplace=True),
            made(nn.MaxPool2d, 2), made(nn.Conv2d, 4, 6, 2, padding=1), made(nn.GroupNorm, 2, 6),
            RELU, FLAT, made(nn.Linear, 54, 3),
        ),
        {"0": "4", "4": "8"},
    ),
    "layer norm": Case((6,), mlp(relu, nn.LayerNorm), {"0": "3", "3": "6"}, loss="mse"),
    "dropout": Case((6,), mlp(relu, lambda _: nn.Dropout(0.4)), {"0": "3", "3": "6"}),
    "dropout of maps": Case(
        (2, 6),
        cnn(
            made(nn.Conv1d, 2, 6, 2), RELU, made(nn.Dropout1d, 0.4), made(nn.Conv1d, 6, 4, 2),
            RELU, FLAT, made(nn.Linear, 16, 3),
        ),
        {"0": "3", "3": "6"},
    ),
    "residual": Case(
        (2, 6, 6),
        residual,
        {
            "0.0": "1.conv1", "1.conv1": "1.conv2", "1.conv2": "2.conv1", "2.conv1": "2.conv2",
            "2.conv2": "5", "2.down": "5",
        },
        has_shortcut=True,
    ),
    "positions": Case((4, 5), Sequence, {"first": "second", "second": "last"}),
    "reused": Case((6,), Reused, {"first": "again", "again": "again@2", "again@2": "last"}),
    "tied": Case((6,), Tied, {"first": "second", "second": "last"}),
    "counting": Case((6,), Counting, {"first": "last"}, loss="mse"),
    "noisy": Case((6,), Noisy, {"first": "second", "second": "last"}),
    "frozen": Case((6,), frozen, {"0": "2", "2": "4"}),
    "one vector": Case((6,), one_vector, {"0": "2", "2": "4"}),
    **WIDE_CASES,
    **ARCHITECTURE_CASES,
}  # fmt: skip
"""By name; together everything that this version measures."""

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
