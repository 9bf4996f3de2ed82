"""Two hidden layers of equal sizes: convolutions, the same without sharing, fully connected."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from alignlab.experiments._alignment import WeightAlignment, feedback_matrices, weight_alignment
from alignlab.kernels.unrolled import support, unrolled
from alignlab.snapshot import MeasuredRule

__all__ = ["KINDS", "attainable_alignment", "structured_network", "unrolled_alignment"]

KINDS = ("dense", "local", "convolution")

_CHANNELS, _EDGE, _KERNEL, _CLASSES = 8, 8, 3, 10
_SHAPES = ((1, 8, 8), (8, 6, 6), (8, 4, 4))


class _Masked(nn.Module):
    """A weight of which only some entries act."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with zeros elsewhere."""
        assert isinstance(self.mask, Tensor)
        return weight * self.mask


def structured_network(kind: str, *, seed: int) -> nn.Sequential:
    """Return a tanh network 1x8x8, 8x6x6, 8x4x4, 10 without biases, for images.

    Weights are U(-1, 1) over the root of the inputs that a unit has, as torch draws those of a
    layer of that kind.

    Args:
        kind: ``convolution`` of 3 by 3; ``local``, the same windows with weights of their own at
            every position; ``dense``.
        seed: Of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second = (_layer(kind, number) for number in range(2))
        last = nn.Linear(prod(_SHAPES[2]), _CLASSES, bias=False)
    if kind == "convolution":
        return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Flatten(), last)
    return nn.Sequential(nn.Flatten(), first, nn.Tanh(), second, nn.Tanh(), last)


def _layer(kind: str, number: int) -> nn.Module:
    inside, outside = _SHAPES[number], _SHAPES[number + 1]
    windows = nn.Conv2d(inside[0], outside[0], _KERNEL, bias=False)
    if kind == "convolution":
        return windows
    layer = nn.Linear(prod(inside), prod(outside), bias=False)
    if kind == "local":
        acting = torch.from_numpy(support(windows, inside).toarray()).to(torch.float32)
        mask = acting.repeat(outside[0], inside[0])
        with torch.no_grad():
            layer.weight.mul_((prod(inside) / (inside[0] * _KERNEL**2)) ** 0.5)
        register_parametrization(layer, "weight", _Masked(mask))
    return layer


def _matrices(model: nn.Sequential) -> list[Tensor]:
    """Return the weights of all layers as matrices from units to units."""
    modules = [m for m in model if isinstance(m, nn.Linear | nn.Conv2d)]
    return [
        unrolled(m, m.weight.detach(), shape) if isinstance(m, nn.Conv2d) else m.weight.detach()
        for m, shape in zip(modules, _SHAPES, strict=True)
    ]


def unrolled_alignment(model: nn.Sequential, measured: MeasuredRule) -> WeightAlignment:
    """Return weight alignment of the second layer and the last, unrolled."""
    return weight_alignment(_matrices(model), feedback_matrices(measured))


def attainable_alignment(model: nn.Sequential, measured: MeasuredRule) -> float:
    r"""Return the largest weight alignment that the second layer could have.

    It is :math:`\|PT\|/\|T\|` for T = F_2 F_1^T and P the mean over entries that are one weight,
    and zero where there is none.
    """
    below, above = feedback_matrices(measured)[:2]
    target = above @ below.T
    labels = _labels(model)
    tied = torch.zeros(int(labels.max()) + 1, dtype=torch.float64)
    flat, entries = labels.flatten(), target.flatten().double()
    sums = tied.index_add(0, flat, entries)[1:]
    counts = tied.index_add(0, flat, torch.ones_like(entries))[1:]
    return float((sums.square() / counts).sum().sqrt() / entries.norm())


def _labels(model: nn.Sequential) -> Tensor:
    """Return the number of the weight at every entry of the second layer, 0 for none."""
    layers: Sequence[nn.Module] = [m for m in model if isinstance(m, nn.Linear | nn.Conv2d)]
    second = layers[1]
    weight = second.weight
    assert isinstance(weight, Tensor)
    if isinstance(second, nn.Conv2d):
        numbers = torch.arange(1, weight.numel() + 1, dtype=torch.float64).reshape(weight.shape)
        return unrolled(second, numbers, _SHAPES[1]).long()
    acts = weight.detach() != 0
    numbers = torch.zeros(weight.shape, dtype=torch.long)
    numbers[acts] = torch.arange(1, int(acts.sum()) + 1)
    return numbers
