"""A model at other parameters for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from alignlab.errors import MeasurementError

__all__ = ["at_parameters", "write_buffers"]


@contextmanager
def at_parameters(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Give the parameters other values, and put theirs back to the bit.

    Values lie in the parameters' own memory and versions are kept, so that graphs of earlier
    forward passes are as they were afterwards; what is computed inside must be used inside.

    Args:
        model: The model.
        values: By parameter name; those left out stay as they are.

    Raises:
        MeasurementError: A value fits no parameter.
    """
    parameters = dict(model.named_parameters())
    for name, value in values.items():
        if name not in parameters or parameters[name].shape != value.shape:
            has = tuple(parameters[name].shape) if name in parameters else "no such parameter"
            msg = (
                f"There is a value of shape {tuple(value.shape)} for the parameter {name!r}, of "
                f"which {type(model).__name__} has {has}; give values of the same model."
            )
            raise MeasurementError(msg)
    kept = {name: parameters[name].detach().clone() for name in values}
    with ExitStack() as stack:
        for name in values:
            stack.enter_context(_unsafe_preserve_version_counter(parameters[name]))
        try:
            _write(parameters, values)
            yield
        finally:
            _write(parameters, kept)


@torch.no_grad()
def write_buffers(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Write values into buffers; for where the model's state is put back afterwards."""
    buffers = dict(model.named_buffers())
    for name, value in values.items():
        buffers[name].copy_(value)


@torch.no_grad()
def _write(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)
    # Inside of autocast a layer would go on with the low-precision copy of the other values.
    torch.clear_autocast_cache()
