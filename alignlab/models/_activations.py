"""Activations by name, as functions and as modules."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab.errors import MissingError

__all__ = ["activation"]


def _identity(x: Tensor) -> Tensor:
    """Return the argument."""
    return x


_BY_NAME: dict[str, tuple[Callable[[Tensor], Tensor], type[nn.Module]]] = {
    "elu": (F.elu, nn.ELU),
    "gelu": (F.gelu, nn.GELU),
    "identity": (_identity, nn.Identity),
    "leaky-relu": (F.leaky_relu, nn.LeakyReLU),
    "relu": (F.relu, nn.ReLU),
    "selu": (F.selu, nn.SELU),
    "sigmoid": (torch.sigmoid, nn.Sigmoid),
    "silu": (F.silu, nn.SiLU),
    "softplus": (F.softplus, nn.Softplus),
    "tanh": (torch.tanh, nn.Tanh),
}


def activation(name: str, *, functional: bool) -> Callable[[Tensor], Tensor]:
    """Return an activation.

    Args:
        name: Such as ``relu`` or ``leaky-relu``.
        functional: Whether it is a function, or else a new module.

    Returns:
        What maps a tensor to one of the same shape.

    Raises:
        MissingError: No such name; the text gives the nearest one.

    Example:
        >>> activation("relu", functional=True)(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """
    if name not in _BY_NAME:
        near = difflib.get_close_matches(str(name), _BY_NAME, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        message = f"There is no activation {name!r}.{hint} They are: {', '.join(_BY_NAME)}."
        raise MissingError(message)
    function, module = _BY_NAME[name]
    return function if functional else module()
