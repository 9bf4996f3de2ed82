"""Feedback alignment written as custom autograd functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional, grad

from tests.oracles.products import replace_weights_inside, through

__all__ = ["with_feedback"]

_CONVOLUTIONS: dict[int, tuple[Any, Any, Any]] = {
    1: (functional.conv1d, grad.conv1d_input, grad.conv1d_weight),
    2: (functional.conv2d, grad.conv2d_input, grad.conv2d_weight),
    3: (functional.conv3d, grad.conv3d_input, grad.conv3d_weight),
}


def with_feedback(feedback: Mapping[str, Tensor]) -> Callable[[nn.Module], None]:
    """Return what gives every layer of a model a backward weight of its own, by module name."""

    def prepare(model: nn.Module) -> None:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and name in feedback:
                module.forward = _linear(module, feedback[name])  # type: ignore[method-assign]
            elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                module.forward = _conv(module, feedback[name])  # type: ignore[method-assign]
            elif isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
                module.forward = _spread(module, feedback[name])
            else:
                inside = {
                    key.removeprefix(f"{name}."): value
                    for key, value in feedback.items()
                    if key.startswith(f"{name}.")
                }
                replace_weights_inside(module, inside)

    return prepare


def _spread(module: Any, kernel: Tensor) -> Callable[[Tensor], Tensor]:
    function = getattr(functional, f"conv_transpose{len(module.kernel_size)}d")
    options = (None, module.stride, module.padding, module.output_padding)

    def forward(x: Tensor) -> Tensor:
        y = through(
            lambda h, w: function(h, w, *options, module.groups, module.dilation),
            x,
            module.weight,
            kernel,
        )
        if module.bias is None:
            return y
        return y + module.bias.reshape(-1, *(1 for _ in module.kernel_size))

    return forward


def _linear(module: nn.Linear, matrix: Tensor) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        y = _Linear.apply(x.reshape(-1, x.shape[-1]), module.weight, matrix)
        y = y.reshape(*x.shape[:-1], -1)
        return y if module.bias is None else y + module.bias

    return forward


def _conv(module: Any, kernel: Tensor) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        padding = module.padding
        if padding == "same":
            padding = tuple((k - 1) // 2 for k in module.kernel_size)
        if module.padding_mode != "zeros":
            twice = module._reversed_padding_repeated_twice
            x, padding = functional.pad(x, twice, mode=module.padding_mode), 0
        options = (module.stride, padding, module.dilation, module.groups)
        y = _Convolution.apply(x, module.weight, kernel, options)
        if module.bias is None:
            return y
        return y + module.bias.reshape(-1, *(1 for _ in module.kernel_size))

    return forward


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, matrix: Tensor) -> Tensor:
        ctx.save_for_backward(x, matrix)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Any:
        x, matrix = ctx.saved_tensors
        return signal @ matrix, signal.T @ x, None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, kernel: Tensor, options: Any) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.options = options
        function, _, _ = _CONVOLUTIONS[x.dim() - 2]
        return function(x, weight, None, *options)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Any:
        x, kernel = ctx.saved_tensors
        _, of_input, of_weight = _CONVOLUTIONS[x.dim() - 2]
        below = of_input(x.shape, kernel, signal, *ctx.options)
        return below, of_weight(x, kernel.shape, signal, *ctx.options), None, None
