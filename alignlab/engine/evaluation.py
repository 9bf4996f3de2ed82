"""The loss at other parameters, without a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["evaluated"]


def evaluated(
    model: nn.Module,
    loss_function: Callable[[Any, Any], Tensor],
    x: Any,
    y: Any,
    *,
    parameters: Mapping[str, Tensor],
    precision: torch.dtype,
    loss_precision: torch.dtype | None = None,
) -> Tensor:
    """Return the loss with other parameters, and leave the buffers of the model alone.

    Args:
        model: The model.
        loss_function: Takes output and targets.
        x: Batch.
        y: Targets.
        parameters: By name; those left out stay as they are.
        precision: Floating type in which parameters, buffers and batch are taken.
        loss_precision: That in which the output is handed to the loss, with its targets, so that
            small changes are not lost in the rounding of one number; None for ``precision``.
            Outputs other than tensors, tuples, lists and dictionaries stay as they are.

    Returns:
        Scalar, detached.
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    tensors = {**tensors, **parameters}
    cast = {name: _cast(tensor.detach(), precision) for name, tensor in tensors.items()}
    # What the forward pass writes into buffers must not reach the model's own.
    cast = {name: t.clone() if t.dtype == tensors[name].dtype else t for name, t in cast.items()}
    batch, target = _cast_all(x, precision), _cast_all(y, loss_precision or precision)
    named = dict(batch) if isinstance(batch, Mapping) else {}
    given = () if named else batch if isinstance(batch, tuple) else (batch,)
    with torch.no_grad():
        output = torch.func.functional_call(model, cast, given, named)
        if loss_precision is not None:
            output = _cast_output(output, loss_precision)
        return loss_function(output, target).detach()


def _cast_output(output: Any, precision: torch.dtype) -> Any:
    """Return an output with its tensors in a floating type, of the same kind."""
    if isinstance(output, Tensor):
        return _cast(output, precision)
    if type(output) is dict:
        return {name: _cast_output(each, precision) for name, each in output.items()}
    if type(output) in {tuple, list}:
        return type(output)(_cast_output(each, precision) for each in output)
    return output


def _cast_all(batch: Any, precision: torch.dtype) -> Any:
    """Return a batch with its tensors in a floating type; several inputs as a tuple or dict."""
    if isinstance(batch, Mapping):
        return {name: _cast_all(each, precision) for name, each in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(_cast_all(each, precision) for each in batch)
    return _cast(batch, precision) if isinstance(batch, Tensor) else batch


def _cast(tensor: Tensor, precision: torch.dtype) -> Tensor:
    return tensor.to(precision) if tensor.is_floating_point() else tensor
