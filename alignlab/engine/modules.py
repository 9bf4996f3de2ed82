"""The measured modules of a model, and their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized

from alignlab.engine.own_map import MEASURED
from alignlab.errors import InputError, MeasurementError

__all__ = ["has_own_weight", "measured_modules", "own_weights", "plain_name"]


def measured_modules(model: nn.Module, only: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """Return the modules whose calls are layers, by qualified name.

    Args:
        model: Any module.
        only: Names of those that are wanted; None for all. What lies between them is then part
            of the way from one to the next.

    Raises:
        InputError: A name is not that of such a module.
        MeasurementError: The model has none, or has weights without values.
    """
    # Multi-head attention takes the weight of its output projection and never calls it.
    uncalled = {m.out_proj for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    found: dict[str, nn.Module] = {
        plain_name(name): m
        for name, m in model.named_modules()
        if isinstance(m, MEASURED) and m not in uncalled
    }
    if not found:
        msg = (
            f"{type(model).__name__} has no Linear and no Conv or ConvTranspose module, so there "
            "is nothing to measure; give the model that holds the layers."
        )
        raise MeasurementError(msg)
    for name, parameter in model.named_parameters():
        _require_values(name, parameter)
    if only is None:
        return found
    unknown = [name for name in only if name not in found]
    if unknown or not only:
        msg = (
            f"There is no layer {', '.join(unknown) or 'named'} to measure in "
            f"{type(model).__name__}; its layers are {', '.join(found)}."
        )
        raise InputError(msg)
    return {name: module for name, module in found.items() if name in only}


def plain_name(name: str) -> str:
    """Return a qualified name without what compilation puts into it."""
    return name.replace("_orig_mod.", "")


def has_own_weight(module: nn.Module) -> bool:
    """Return whether a module's weight is a parameter, not computed from other tensors."""
    if is_parametrized(module, "weight"):
        return False
    return isinstance(module.weight, nn.Parameter)


def own_weights(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the weights that are parameters, detached, by name of the module."""
    return {
        name: module.get_parameter("weight").detach()
        for name, module in modules.items()
        if has_own_weight(module)
    }


def _require_values(name: str, parameter: Tensor) -> None:
    if isinstance(parameter, UninitializedParameter):
        owner = name.rpartition(".")[0]
        msg = f"The weight of {owner!r} has no shape yet; run one batch through the model first."
        raise MeasurementError(msg)
    if parameter.is_meta:
        msg = (
            f"The parameter {name!r} is on the meta device and has no values; load or initialise "
            "the model on a real device (model.to_empty(device=...), then its weights)."
        )
        raise MeasurementError(msg)
    if parameter.layout != torch.strided:
        msg = f"The parameter {name!r} is stored as {parameter.layout}; make it dense."
        raise MeasurementError(msg)
