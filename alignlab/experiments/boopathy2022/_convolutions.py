"""The convolutional network of the paper's code, in the NTK parametrisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alignlab.experiments._digits import CLASSES
from alignlab.models._parametrisation import parametrised

__all__ = ["Convolutional", "standardised"]

KERNEL = 3
EPSILON = 1e-6


class Convolutional(nn.Module):
    r"""Convolutions of 3 by 3 pixels, each standardised over the batch, a mean, a readout.

    Every layer is :math:`W * h / \sqrt{k^2 c_{in}}` with weights N(0, 1); the readout of the
    last maps' means has a bias, the convolutions have none, since what follows would take it
    away. As in the code there is a normalisation without parameters between every convolution
    and its ReLU.

    Args:
        width: Maps of every convolution.
        edge: Of the images, which come as rows of ``edge ** 2`` pixels.
        strides: Of the convolutions, one each.
        seed: Of the weights.
    """

    def __init__(self, width: int, *, edge: int, strides: Sequence[int], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.edge = edge
        maps = (1, *[width] * (len(strides) - 1))
        self.convs = nn.ModuleList(
            nn.Conv2d(n, width, KERNEL, stride, padding=KERNEL // 2, bias=False)
            for n, stride in zip(maps, strides, strict=True)
        )
        self.out = nn.Linear(width, CLASSES)
        parametrised(self, "ntk")

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, shape ``(N, classes)``, of rows of pixels."""
        h = x.reshape(len(x), 1, self.edge, self.edge)
        for conv in self.convs:
            h = torch.relu(standardised(conv(h)))
        result: Tensor = self.out(h.mean((2, 3)))
        return result


def standardised(maps: Tensor) -> Tensor:
    """Return maps with mean 0 and deviation 1 over the batch, at every pixel by itself.

    That is not torch's batch norm, which takes the pixels of a map together and running
    statistics at test.

    Example:
        >>> standardised(torch.tensor([[[[1.0, 5.0]]], [[[3.0, 5.0]]]])).flatten().round().tolist()
        [-1.0, 0.0, 1.0, 0.0]
    """
    centred = maps - maps.mean(0)
    return centred / (centred.square().mean(0) + EPSILON).sqrt()
