"""Attributes that every file format carries alike: text, numbers and rows of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from alignlab.errors import RecordingError

__all__ = ["Attribute", "plain_attribute", "plain_attributes", "require_storable_text"]

Attribute = str | int | float | np.ndarray

# xarray or the formats give these a meaning of their own, on a variable and on the file.
_RESERVED = frozenset(
    {"_FillValue", "missing_value", "scale_factor", "add_offset", "coordinates", "dtype"}
    | {"_ARRAY_DIMENSIONS", "CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST"}
)
_RESERVED_ON_FILE = _RESERVED - {"dtype"} | {"_NCProperties"}


def plain_attributes(attrs: Mapping[Any, object], owner: str) -> dict[str, Attribute]:
    """Return the attributes in the one form that files can hold, or refuse the first that has none.

    Args:
        attrs: What a variable or a recording carries.
        owner: How the error calls what carries them; ``"the recording"`` for global attributes.

    Returns:
        The same names; every value as :func:`plain_attribute` gives it.

    Raises:
        RecordingError: A name that is not text or is reserved, or a value that cannot be stored.

    Example:
        >>> plain_attributes({"seed": np.int64(3), "betas": [0.9, 0.999]}, "the recording")
        {'seed': 3, 'betas': array([0.9  , 0.999])}
    """
    reserved = _RESERVED_ON_FILE if owner == "the recording" else _RESERVED
    plain = {}
    for name, value in attrs.items():
        if not isinstance(name, str) or not name:
            message = f"{owner} has an attribute named {name!r}; names are text that is not empty."
            raise RecordingError(message)
        if name in reserved:
            message = f"{owner} has an attribute {name!r}, which files reserve; rename it."
            raise RecordingError(message)
        require_storable_text(name, f"the name of attribute {name!r} of {owner}")
        plain[name] = plain_attribute(value, f"attribute {name!r} of {owner}")
    return plain


def plain_attribute(value: object, owner: str) -> Attribute:
    """Return one attribute as ``str``, ``int``, ``float`` or an array of at least two numbers.

    netCDF does not tell a number from a row of one number, so such a row becomes the number.

    Args:
        value: What was given; numpy's scalars, lists and tuples of numbers are understood.
        owner: How the error calls it.

    Returns:
        The plain value; arrays are one-dimensional, int64 or float64.

    Raises:
        RecordingError: The value is of another kind; the text says how to store it instead.
    """
    if isinstance(value, str):
        require_storable_text(value, owner)
        return str(value)
    if isinstance(value, (bool, np.bool_)):
        message = f"{owner} is a boolean, which files cannot hold; store 1 or 0, or a word."
        raise RecordingError(message)
    if isinstance(value, Integral):
        return _int64(int(value), owner)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, (list, tuple, np.ndarray)):
        return _numbers(value, owner)
    message = (
        f"{owner} is a {type(value).__name__}, which files cannot hold; "
        "store text, a number, a row of numbers, or json.dumps(...) of a structure."
    )
    raise RecordingError(message)


def _int64(value: int, owner: str) -> int:
    if not -(2**63) <= value < 2**63:
        message = f"{owner} is {value}, which 64 bits cannot hold; store it as text."
        raise RecordingError(message)
    return value


def _numbers(value: list[object] | tuple[object, ...] | np.ndarray, owner: str) -> Attribute:
    """Return a row of numbers as an array, or a single number as itself."""
    row = np.asarray(value)
    if row.ndim != 1 or row.size == 0 or row.dtype.kind not in "iuf":
        message = (
            f"{owner} is not a row of numbers (shape {row.shape}, kind {row.dtype}); "
            "store json.dumps(...) of it."
        )
        raise RecordingError(message)
    if row.dtype.kind == "u" and row.max() > np.iinfo(np.int64).max:
        message = f"{owner} holds {row.max()}, which 64 signed bits cannot hold; store it as text."
        raise RecordingError(message)
    row = row.astype(np.float64 if row.dtype.kind == "f" else np.int64)
    return row if row.size > 1 else plain_attribute(row[0], owner)


def require_storable_text(text: str, owner: str) -> None:
    """Refuse the characters that netCDF's text cannot carry: NUL and lone surrogates.

    Args:
        text: What is to be stored.
        owner: How the error calls it.

    Raises:
        RecordingError: The text holds such a character.
    """
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        message = f"{owner} is {text!r}; files cannot hold NUL or broken characters, remove them."
        raise RecordingError(message)
