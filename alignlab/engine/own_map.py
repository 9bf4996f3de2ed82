"""Whether a measured module does with its weight what its base class does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from alignlab.errors import MeasurementError
from alignlab.kernels.layers import linear_part

__all__ = ["MEASURED", "needs_check", "require_own_map"]

MEASURED = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
"""Modules that are layers: their calls are measured."""

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def needs_check(module: nn.Module) -> bool:
    """Return whether anything can go wrong in a call, which is asked once for all calls."""
    return isinstance(module, _TRANSPOSED) or not _is_plain(module)


def _is_plain(module: nn.Module) -> bool:
    return _base(module) in MEASURED and "forward" not in vars(module)


def require_own_map(name: str, module: nn.Module, x: Tensor, weight: Tensor, output: Any) -> None:
    """Refuse a subclass that does something else with its weight than its base class does."""
    if isinstance(module, _TRANSPOSED):
        _require_own_size(name, module, x, output)
    if _is_plain(module):
        return
    with torch.no_grad():
        expected = linear_part(module, x, weight)
        if isinstance(module.bias, Tensor):
            axes = (1,) * (weight.dim() - 2)
            expected = expected + module.bias.reshape(-1, *axes)
    same = isinstance(output, Tensor) and output.shape == expected.shape
    if not same or not torch.allclose(output, expected, rtol=1e-4, atol=1e-5):
        msg = (
            f"The module {name!r} ({type(module).__name__}) does not apply its weight as "
            "its base class does, so its backward weight is not known; give an equal model of "
            "plain modules (--plain-model SPEC)."
        )
        raise MeasurementError(msg)


def _base(module: nn.Module) -> type:
    """Return the class whose forward pass a module has."""
    kind = type(module)
    if kind is nn.modules.linear.NonDynamicallyQuantizableLinear:
        return nn.Linear
    # A parametrised module has a class of its own, which adds the property alone.
    return kind.__base__ or kind if is_parametrized(module) else kind


def _require_own_size(name: str, module: Any, x: Tensor, output: Tensor) -> None:
    """Refuse an output size that was asked for in the call and is not the module's own."""
    own = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + o + 1
        for n, s, p, d, k, o in zip(
            x.shape[-len(module.kernel_size) :],
            module.stride,
            module.padding,
            module.dilation,
            module.kernel_size,
            module.output_padding,
            strict=True,
        )
    )
    if tuple(output.shape[-len(own) :]) != own:
        msg = (
            f"The module {name!r} was called with an output_size that its output_padding does "
            "not give; set output_padding when it is built."
        )
        raise MeasurementError(msg)
