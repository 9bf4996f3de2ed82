"""What data must be before anything is measured on it; every refusal is one line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignlab.datasets._samples import Arrays
from alignlab.errors import InputError

__all__ = ["check"]


def check(arrays: Arrays, *, source: str) -> Arrays:
    """Return the arrays in the types that are measured on, or refuse them.

    Args:
        arrays: As they were read.
        source: Name of the data for the error's text.

    Returns:
        ``x`` uint8, float32 or, for tokens, int64; ``y`` int64 or float32; ``n_classes`` set for
        labels.

    Raises:
        InputError: Empty, not finite, of different lengths, of a type that is neither an input
            nor a target, or labels that are no class numbers.
    """
    x = _inputs(np.asarray(arrays.x), tokens=arrays.tokens, source=source)
    y = _targets(np.asarray(arrays.y), source=source)
    if len(x) != len(y):
        message = f"{source}: x has {len(x)} samples and y has {len(y)}; they must go in pairs."
        raise InputError(message)
    if not len(x) or not x.size:
        message = f"{source} is empty: x has the shape {x.shape}."
        raise InputError(message)
    if y.dtype != np.int64:
        return replace(arrays, x=x, y=y, n_classes=None)
    if y.ndim != 1 and not arrays.tokens:
        message = (
            f"{source}: labels y have the shape {y.shape}; class numbers have the shape "
            f"({len(y)},). One-hot targets must be float."
        )
        raise InputError(message)
    return replace(arrays, x=x, y=y, n_classes=_n_classes(y, arrays.n_classes, source=source))


def _inputs(x: NDArray[Any], *, tokens: bool, source: str) -> NDArray[Any]:
    """Return inputs as uint8, float32 or int64."""
    if x.ndim < 2:
        message = f"{source}: x has the shape {x.shape}; it must be (samples, ...)."
        raise InputError(message)
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind == "f":
        return _finite(x, "x", source=source)
    if tokens and x.dtype.kind in "iu":
        return x.astype(np.int64)
    message = (
        f"{source}: x holds {x.dtype}; it must be float, or uint8, which is scaled to 0..1. "
        "Convert it before it is saved."
    )
    raise InputError(message)


def _targets(y: NDArray[Any], *, source: str) -> NDArray[Any]:
    """Return targets as int64 labels or finite float32."""
    if y.ndim == 0:
        message = f"{source}: y is a single number; it must have one entry a sample."
        raise InputError(message)
    if y.dtype.kind in "iub":
        return y.astype(np.int64)
    if y.dtype.kind == "f":
        return _finite(y, "y", source=source)
    message = (
        f"{source}: y holds {y.dtype}; it must be integer class numbers from 0, or float targets."
    )
    raise InputError(message)


def _finite(values: NDArray[Any], name: str, *, source: str) -> NDArray[np.float32]:
    """Return float values as float32, and refuse NaN, infinities and what float32 cannot hold."""
    with np.errstate(over="ignore"):
        single: NDArray[np.float32] = values.astype(np.float32)
    bad = int(single.size - np.isfinite(single).sum())
    if bad:
        message = (
            f"{source}: {name} holds {bad} of {single.size} values that are NaN or infinite; "
            "remove or replace them."
        )
        raise InputError(message)
    return single


def _n_classes(labels: NDArray[np.int64], n_classes: int | None, *, source: str) -> int:
    """Return the number of classes, and refuse labels outside of 0..n_classes-1."""
    low, high = int(labels.min()), int(labels.max())
    known = high + 1 if n_classes is None else n_classes
    if low < 0 or high >= known:
        limit = "" if n_classes is None else f", and there are {known} classes"
        message = (
            f"{source}: labels run from {low} to {high}; they must count from 0{limit}. "
            "Renumber them, or leave such samples out."
        )
        raise InputError(message)
    return known
