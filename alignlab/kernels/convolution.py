"""Convolutions as what they are: one small weight used at many positions."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.kernels.cosines import wide
from alignlab.kernels.layers import linear_part, tap_counts

__all__ = [
    "CONVOLUTIONS",
    "coherence",
    "design",
    "has_even_padding",
    "position_gradients",
    "radial_power",
    "spatial_mean_share",
    "structured_share",
]

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

RADIAL_EDGES = torch.linspace(0.0, 0.9, 19, dtype=torch.float64)
"""Upper edges of the bands of spatial frequency, cycles per position; the first is the mean."""

_TRANSPOSED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
_LARGEST_CHUNK = 2**25


def position_gradients(module: Convolution, x: Tensor, signal: Tensor) -> Tensor:
    """Return the weight gradient of every position, as if weights were not shared.

    Args:
        module: The convolution.
        x: Its input, shape ``(n_samples, in_channels, ...)``.
        signal: dL/da, shape ``(n_samples, out_channels, ...)``.

    Returns:
        Shape ``(n_positions, out_channels, in_channels / groups * taps)``; its sum over
        positions is the weight gradient.
    """
    taps = prod(module.kernel_size)
    groups, n_samples = module.groups, x.shape[0]
    n_positions = prod(signal.shape[2:])
    per_sample = x.shape[1] * taps * n_positions
    chunk = max(1, _LARGEST_CHUNK // max(per_sample, 1))
    total: Tensor | None = None
    for start in range(0, n_samples, chunk):
        part = slice(start, start + chunk)
        patches = _patches(module, x[part]).flatten(2)
        rows = signal[part].to(patches).flatten(2)
        rows = rows.unflatten(1, (groups, -1)).permute(1, 3, 2, 0)
        columns = patches.unflatten(1, (groups, -1)).permute(1, 3, 0, 2)
        product = (rows @ columns).transpose(0, 1).flatten(1, 2)
        total = product if total is None else total + product
    assert total is not None
    return total


def coherence(gradients: Tensor) -> Tensor:
    r"""Return :math:`\|\sum_p g_p\|/\sqrt{P\sum_p\|g_p\|^2}`.

    Source: our derivation.

    Args:
        gradients: Weight gradient of every position, shape ``(n_positions, ...)``.

    Returns:
        Dimensionless, in [0, 1]; about ``n_positions ** -0.5`` where positions are
        unrelated, 1 where all agree; NaN where all are zero.
    """
    rows = wide(gradients).flatten(1)
    result: Tensor = rows.sum(0).norm() / (rows.shape[0] * rows.square().sum()).sqrt()
    return result


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
    power = torch.fft.fftn(maps, dim=axes).abs().square().sum((0, 1)).cpu()
    grids = torch.meshgrid(
        *(torch.fft.fftfreq(maps.shape[axis], dtype=torch.float64) for axis in axes), indexing="ij"
    )
    radius = torch.stack([grid.square() for grid in grids]).sum(0).sqrt()
    band = torch.bucketize(radius.flatten() - 1e-9, RADIAL_EDGES)
    shares = torch.zeros(len(RADIAL_EDGES), dtype=torch.float64)
    shares.index_add_(0, band.clamp_max(len(RADIAL_EDGES) - 1), power.flatten())
    return shares / shares.sum()


def structured_share(module: nn.Module, below: Tensor, above: Tensor) -> Tensor:
    r"""Return :math:`\|PT\|/\|T\|` for T = B_l B_{l-1}^T, P the projector on layer weights.

    It bounds the cosine that weights of this layer can reach with T. Source: our
    derivation, the testable form of what Refinetti et al. 2021 say about convolutions.

    Args:
        module: Linear or convolution with zero padding.
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
    counts = tap_counts(module, below.shape[1:])
    first, second = below.flatten(1), above.flatten(1)
    energy = ((first @ first.T) * (second @ second.T)).sum()
    return (torch.nan_to_num(tied.square() / counts).sum() / energy).sqrt()


def design(module: nn.Module, signal: Tensor, shape: torch.Size) -> Tensor:
    """Return the signals from which every weight of a layer builds the gradient at its input.

    Args:
        module: Linear, or convolution with one group and zero padding, as much before as after.
        signal: dL/da at the layer, shape ``(n_samples, ...)``.
        shape: Shape of the input with its samples.

    Returns:
        Shape ``(n_samples, n_features, n_places)``: the gradient at place p and input
        channel c is the sum over features of ``weight[feature, c] * design[:, feature, p]``.
        A linear layer has one place.
    """
    if isinstance(module, nn.Linear):
        return signal.reshape(shape[0], -1, 1)
    assert isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    taps = prod(module.kernel_size)
    one_hot = torch.eye(taps, dtype=signal.dtype, device=signal.device)
    one_hot = one_hot.reshape(taps, *module.kernel_size)
    kernel = one_hot.repeat(1, *(1 for _ in module.kernel_size)).unsqueeze(0)
    kernel = kernel.expand(signal.shape[1], *kernel.shape[1:])
    padding = _paddings(module)
    spatial = shape[2:]
    extra = [
        n + 2 * p - d * (k - 1) - 1 - (m - 1) * s
        for n, p, d, k, m, s in zip(
            spatial,
            padding,
            module.dilation,
            module.kernel_size,
            signal.shape[2:],
            module.stride,
            strict=True,
        )
    ]
    result = _TRANSPOSED[len(spatial)](
        signal,
        kernel,
        stride=module.stride,
        padding=padding,
        output_padding=extra,
        groups=signal.shape[1],
        dilation=module.dilation,
    )
    return result.flatten(2)


def has_even_padding(module: Convolution) -> bool:
    """Whether the convolution pads by as much before as after."""
    spans = zip(module.dilation, module.kernel_size, strict=True)
    return module.padding != "same" or all(d * (k - 1) % 2 == 0 for d, k in spans)


def _paddings(module: Convolution) -> list[int]:
    if module.padding == "valid":
        return [0 for _ in module.kernel_size]
    if module.padding == "same":
        return [d * (k - 1) // 2 for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    return [int(p) for p in module.padding]


def _patches(module: Convolution, x: Tensor) -> Tensor:
    """Return what every weight of the convolution sees, ``(n, in_channels * taps, ...)``."""
    taps, channels = prod(module.kernel_size), x.shape[1]
    kernel = torch.eye(taps, dtype=x.dtype, device=x.device)
    kernel = kernel.reshape(taps, 1, *module.kernel_size)
    kernel = kernel.repeat(channels, *(1 for _ in range(kernel.dim() - 1)))
    padding: str | tuple[int, ...] = module.padding
    if module.padding_mode != "zeros":
        twice = module._reversed_padding_repeated_twice
        x = functional.pad(x, twice, mode=module.padding_mode)
        padding = tuple(0 for _ in module.kernel_size)
    convolution = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
    return convolution[len(module.kernel_size)](
        x, kernel, None, module.stride, padding, module.dilation, channels
    )
