"""Data from a factory in the user's own code."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from alignlab.datasets._factories import call, import_object
from alignlab.datasets._samples import Arrays
from alignlab.errors import InputError

__all__ = ["read_factory"]


def read_factory(spec: str, split: str) -> Arrays:
    """Call a factory and read what it returns.

    Args:
        spec: ``file.py:factory``; the factory takes nothing, or ``split``.
        split: Handed to a factory that takes it.

    Returns:
        What the factory returned as ``(x, y)`` or as a map-style torch ``Dataset`` of such pairs;
        shapes are left as they are, integer inputs other than uint8 are taken as tokens.

    Raises:
        MissingError: No such file or factory.
        InputError: The factory fails, or returns something else.
    """
    factory = import_object(spec)
    takes_split = callable(factory) and "split" in inspect.signature(factory).parameters
    result = call(factory, {"split": split} if takes_split else {}, source=spec)
    x, y = _pair(result, spec)
    return Arrays(
        x=_array(x, spec), y=_array(y, spec), split=split if takes_split else "", tokens=True
    )


def _pair(result: object, spec: str) -> tuple[object, object]:
    """Return inputs and targets out of a pair or a data set."""
    if isinstance(result, Dataset):
        return _stack(result, spec)
    if isinstance(result, tuple | list) and len(result) == 2:
        return result[0], result[1]
    message = (
        f"{spec} returned {type(result).__name__}; it must return (x, y) as arrays or tensors, "
        "or a torch Dataset."
    )
    raise InputError(message)


def _stack(dataset: Dataset[Any], spec: str) -> tuple[object, object]:
    """Read every item of a map-style data set."""
    if not hasattr(dataset, "__len__"):
        message = f"{spec} returned a Dataset without a length; it must be indexed by number."
        raise InputError(message)
    items = cast("list[Any]", call(partial(_items, dataset), {}, source=spec))
    if any(not isinstance(item, tuple | list) or len(item) != 2 for item in items):
        message = f"{spec}: the items of its Dataset must be pairs (x, y)."
        raise InputError(message)
    if not items:
        message = f"{spec} is empty: its Dataset has no items."
        raise InputError(message)
    inputs = [_array(item[0], spec) for item in items]
    targets = [_array(item[1], spec) for item in items]
    shapes = {value.shape for value in inputs}
    if len(shapes) > 1:
        message = f"{spec}: its inputs have different shapes, such as {sorted(shapes)[:2]}."
        raise InputError(message)
    return np.stack(inputs), np.stack(targets)


def _items(dataset: Any) -> list[Any]:
    """Return every item of a map-style data set."""
    return [dataset[index] for index in range(len(dataset))]


def _array(value: object, spec: str) -> NDArray[Any]:
    """Return a tensor, an array or a number as an array of numbers."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return np.asarray(value.float() if value.is_floating_point() else value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        message = f"{spec} returned no regular array: {error}."
        raise InputError(message) from error
    if array.dtype.kind not in "fiub":
        message = (
            f"{spec} returned {type(value).__name__} of {array.dtype}; inputs and targets must be "
            "numbers in arrays or tensors."
        )
        raise InputError(message)
    return array
