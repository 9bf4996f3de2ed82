"""Convolutions as what they are: one small weight used at many positions."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from alignlab.kernels.cosines import wide
from alignlab.kernels.layers import linear_part
from alignlab.kernels.unrolled import read_positions, tap_overlaps

__all__ = [
    "CONVOLUTIONS",
    "design",
    "radial_power",
    "spatial_mean_share",
    "structured_share",
]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

RADIAL_EDGES = torch.linspace(0.0, 0.9, 19, dtype=torch.float64)
"""Upper edges of the bands of spatial frequency, cycles per position; the first is the mean."""


def spatial_mean_share(signal: Tensor) -> Tensor:
    """Return the share of a signal's energy that is the same at all positions.

    Args:
        signal: Shape ``(n_samples, channels, ...)``.

    Returns:
        Dimensionless, in [0, 1]; one over the number of positions for white noise; NaN for
        the zero signal.
    """
    maps = wide(signal).flatten(2)
    return maps.shape[2] * maps.mean(2).square().sum() / maps.square().sum()


def radial_power(signal: Tensor) -> Tensor:
    """Return the share of a signal's energy in every band of spatial frequency.

    Args:
        signal: Shape ``(n_samples, channels, ...)``.

    Returns:
        Shape ``(len(RADIAL_EDGES),)``, sums to 1; the first is the spatial mean.
    """
    maps = wide(signal)
    axes = tuple(range(2, maps.dim()))
    transform = torch.fft.rfftn(maps, dim=axes)
    power = (transform.real.square() + transform.imag.square()).sum((0, 1))
    # Of a real signal opposite frequencies hold the same; one of the two was formed.
    last = maps.shape[-1]
    power[..., 1 : (last + 1) // 2] *= 2.0
    axis_frequencies = [
        *(torch.fft.fftfreq(maps.shape[axis], dtype=torch.float64) for axis in axes[:-1]),
        torch.fft.rfftfreq(last, dtype=torch.float64),
    ]
    grids = torch.meshgrid(*axis_frequencies, indexing="ij")
    radius = torch.stack([grid.square() for grid in grids]).sum(0).sqrt()
    band = torch.bucketize(radius.flatten() - 1e-9, RADIAL_EDGES)
    band = band.clamp_max(len(RADIAL_EDGES) - 1).to(power.device)
    shares = power.new_zeros(len(RADIAL_EDGES)).index_add_(0, band, power.flatten())
    result: Tensor = shares / shares.sum()
    return result


def structured_share(module: nn.Module, below: Tensor, above: Tensor) -> Tensor:
    r"""Return :math:`\|PT\|/\|T\|` for T = B_l B_{l-1}^T, P the projector on layer weights.

    It bounds the cosine that weights of this layer can reach with T. Source: our
    derivation, the testable form of what Refinetti et al. 2021 say about convolutions.

    Args:
        module: Linear or convolution, transposed or not, with any padding.
        below: Feedback at the layer's input, shape ``(n_errors, *input_shape)``.
        above: Feedback at the layer's output, shape ``(n_errors, *shape)``.

    Returns:
        Dimensionless, in [0, 1].
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    below, above = wide(below), wide(above)
    with torch.enable_grad():
        kernel = torch.zeros_like(weight, dtype=torch.float64).requires_grad_()
        product = (linear_part(module, below, kernel).reshape(above.shape) * above).sum()
        (tied,) = torch.autograd.grad(product, kernel)
    overlaps = tap_overlaps(module, below.shape[1:]).to(tied)
    rows = tied.flatten(2) if tied.dim() > 2 else tied.unsqueeze(2)
    projected = rows @ torch.linalg.pinv(overlaps, hermitian=True, rtol=1e-9)
    first, second = below.flatten(1), above.flatten(1)
    energy = ((first @ first.T) * (second @ second.T)).sum()
    result: Tensor = ((projected * rows).sum() / energy).clamp_min(0.0).sqrt()
    return result


def design(module: nn.Module, signal: Tensor, shape: torch.Size) -> Tensor:
    """Return the signals from which every weight of a layer builds the gradient at its input.

    Args:
        module: Linear, or convolution with one group and any padding.
        signal: dL/da at the layer, shape ``(n_samples, ...)``.
        shape: Shape of the input with its samples.

    Returns:
        Shape ``(n_samples, n_features, n_places)``: the gradient at place p and input
        channel c is the sum over features of ``weight[feature, c] * design[:, feature, p]``.
        A feature is a tap and an output channel, in that order.
    """
    if isinstance(module, nn.Linear):
        return signal.reshape(shape[0], -1, signal.shape[-1]).mT
    read = read_positions(module, shape[2:])
    channels, taps = signal.shape[1], read.shape[1]
    # Channels last: what a tap brings to a place is then one piece of memory.
    by_place = signal.flatten(2).permute(2, 0, 1).contiguous()
    result = signal.new_zeros(prod(shape[2:]), shape[0], taps, channels)
    for tap in range(taps):
        # Geometry lies on the host; nothing waits for the device.
        where = read.numpy()[:, tap]
        source = torch.as_tensor(np.flatnonzero(where >= 0))
        target = torch.as_tensor(where[where >= 0])
        brought = by_place[source.to(signal.device)]
        result[:, :, tap].index_add_(0, target.to(signal.device), brought)
    return result.flatten(2).permute(1, 2, 0)
