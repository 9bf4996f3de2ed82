"""The linear map of a layer, with any weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["adjoint", "linear_part", "operator_energy", "tap_counts", "transposed"]

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED_CONVOLUTIONS = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def linear_part(module: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """Apply a layer's linear map with another weight and without its bias.

    Args:
        module: Linear, convolution or transposed convolution.
        x: Input of the layer, shape ``(n_samples, ...)``.
        weight: Shaped like the module's weight.

    Returns:
        What the layer would put out, shape ``(n_samples, ...)``.
    """
    if isinstance(module, nn.Linear):
        return functional.linear(x, weight.to(x))
    result: Tensor
    if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        spread: Any = _TRANSPOSED_CONVOLUTIONS[len(module.kernel_size)]
        sizes = (module.stride, module.padding, module.output_padding)
        result = spread(x, weight.to(x), None, *sizes, module.groups, module.dilation)
        return result
    assert isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    padding: Any = module.padding
    if module.padding_mode != "zeros":
        twice = module._reversed_padding_repeated_twice
        x = functional.pad(x, twice, mode=module.padding_mode)
        padding = 0
    convolution: Any = _CONVOLUTIONS[len(module.kernel_size)]
    result = convolution(
        x, weight.to(x), None, module.stride, padding, module.dilation, module.groups
    )
    return result


def transposed(module: nn.Module, signal: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
    """Apply the transpose of a layer's linear map.

    Args:
        module: Linear or convolution.
        signal: Gradient at the layer's output, shape ``(n_samples, ...)``.
        weight: Shaped like the module's weight.
        shape: Shape of the layer's input with ``n_samples``.

    Returns:
        Gradient at the layer's input.
    """
    return adjoint(module, weight.to(signal), shape)(signal)


def adjoint(module: nn.Module, weight: Tensor, shape: torch.Size) -> Callable[[Tensor], Tensor]:
    """Return the transpose of a layer's linear map as a function, to be applied many times.

    Args:
        module: Linear or convolution.
        weight: Shaped like the module's weight; it gives device and type.
        shape: Shape of the layer's input with ``n_samples``.

    Returns:
        Takes a gradient at the layer's output, returns that at its input.
    """
    with torch.enable_grad():
        x = torch.zeros(shape, dtype=weight.dtype, device=weight.device, requires_grad=True)
        y = linear_part(module, x, weight.detach())

    def applied(signal: Tensor) -> Tensor:
        return torch.autograd.grad(y, x, signal.reshape(y.shape), retain_graph=True)[0]

    return applied


def tap_counts(module: nn.Module, shape: torch.Size) -> Tensor:
    """Return at how many places each weight entry acts in the unrolled matrix.

    Args:
        module: Linear or convolution.
        shape: Shape of one input.

    Returns:
        Shaped like the weight; 1 for a linear layer, at most the number of output
        positions for a convolution (fewer where the tap lies in the padding), of input
        positions for a transposed one.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    with torch.enable_grad():
        probe = torch.zeros_like(weight, dtype=torch.float64).requires_grad_()
        ones = torch.ones((1, *shape), dtype=torch.float64, device=weight.device)
        output = linear_part(module, ones, probe)
        (counts,) = torch.autograd.grad(output.sum(), probe)
    return counts


def operator_energy(module: nn.Module, weight: Tensor, shape: torch.Size) -> Tensor:
    """Return the squared Frobenius norm of a layer's unrolled matrix.

    Args:
        module: Linear or convolution with zero padding.
        weight: Shaped like the module's weight.
        shape: Shape of one input.

    Returns:
        Scalar, float64.
    """
    return (tap_counts(module, shape) * weight.double().square()).sum()
