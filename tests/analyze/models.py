"""Networks that a user may hand in, each a model SPEC; input 1x8x8 or 64, ten classes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def plain(dropout: float = 0.0) -> nn.Sequential:
    layers = {"flat": nn.Flatten(), "fc1": nn.Linear(64, 24), "act": nn.Tanh()}
    layers |= {"drop": nn.Dropout(dropout), "fc2": nn.Linear(24, 10)}
    return nn.Sequential(OrderedDict(layers))


def normalised() -> nn.Sequential:
    layers = {"flat": nn.Flatten(), "fc1": nn.Linear(64, 24), "norm": nn.BatchNorm1d(24)}
    layers |= {"act": nn.ReLU(), "fc2": nn.Linear(24, 10)}
    return nn.Sequential(OrderedDict(layers))


class StraightThrough(torch.autograd.Function):
    """The sign, with the identity for its backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class Tanh(torch.autograd.Function):
    """Tanh with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.tanh())
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grads[0] * (1 - y.square()) * 0.5


class Custom(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 24)
        self.fc2 = nn.Linear(24, 10)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc2(self.function(self.fc1(x.flatten(1))))
        return logits


def custom() -> nn.Module:
    return Custom(Tanh.apply)


def binary() -> nn.Module:
    return Custom(StraightThrough.apply)


class Fed(nn.Module):
    """A tuple for its output."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 24)
        self.fc2 = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(hidden), hidden


def returns_a_tuple() -> nn.Module:
    return Fed()


def fails() -> nn.Module:
    message = "the config\nis missing"
    raise OSError(message)


def no_module() -> str:
    return "not a network"


class Scaled(nn.Module):
    """Weights, but in no measured layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) * self.scale)[:, :10]


def without_layers() -> nn.Module:
    return Scaled()


class Stopped(nn.Module):
    """No gradient reaches the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 24)
        self.fc2 = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.fc2(self.fc1(x.flatten(1)))
        return logits


def without_gradient() -> nn.Module:
    return Stopped()


def one_layer() -> nn.Module:
    return nn.Sequential(OrderedDict(flat=nn.Flatten(), fc=nn.Linear(64, 10)))
