"""The one form in which datasets go to files and come back: no tool's habits in between."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np
import xarray as xr

from alignlab.errors import RecordingError
from alignlab.recording.attributes import plain_attributes, require_storable_text

__all__ = ["decoded", "encoded"]

_STORABLE = (
    *("float32", "float64", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64", "bool"),
)
# xarray takes objects for text by their content, and an array of none for numbers, but for this.
_TEXT = np.dtype("O", metadata={"element_type": str})


def encoded(ds: xr.Dataset) -> xr.Dataset:
    """Return the dataset as files hold it, or refuse what would not come back the same.

    Args:
        ds: A recording, or the raw tensors of a layer.

    Returns:
        A copy in memory without encodings; text as objects, attributes plain.

    Raises:
        RecordingError: A name, kind of number, character or attribute that files cannot hold.
    """
    return _rebuilt(ds, _storable)


def decoded(ds: xr.Dataset) -> xr.Dataset:
    """Return a dataset that was read, in the form in which it was written.

    Args:
        ds: What xarray reads, still open.

    Returns:
        A copy in memory without encodings; text as objects, attributes plain.

    Raises:
        RecordingError: A name or attribute that alignlab does not write.
    """
    return _rebuilt(ds, lambda array, _: _as_objects(array) if _may_be_text(array) else array)


def _rebuilt(ds: xr.Dataset, convert: Callable[[np.ndarray, str], np.ndarray]) -> xr.Dataset:
    """Return a copy without encodings, every array converted and every attribute plain."""
    for name in (*ds.variables, *ds.dims):
        if not isinstance(name, str) or not name.isidentifier():
            message = f"{name!r} cannot name a variable or dimension; use letters, digits and _."
            raise RecordingError(message)

    def rebuilt(name: Hashable) -> xr.Variable:
        variable = ds.variables[name]
        array = convert(np.asarray(variable.values), repr(name))
        return xr.Variable(variable.dims, array, plain_attributes(variable.attrs, repr(name)))

    return xr.Dataset(
        {name: rebuilt(name) for name in ds.data_vars},
        coords={name: rebuilt(name) for name in ds.coords},
        attrs=plain_attributes(ds.attrs, "the recording"),
    )


def _storable(array: np.ndarray, owner: str) -> np.ndarray:
    """Return the array as it is stored, or refuse it."""
    if not _may_be_text(array):
        if array.dtype.name in _STORABLE:
            return array
        message = f"{owner} holds {array.dtype}, which files cannot hold; convert it to a float."
        raise RecordingError(message)
    for text in array.flat:
        if not isinstance(text, str):
            message = f"{owner} holds {text!r} among its words; use '' for a missing word."
            raise RecordingError(message)
        require_storable_text(text, f"an entry of {owner}")
    return _as_objects(array)


def _may_be_text(array: np.ndarray) -> bool:
    return array.dtype.kind in "OUT"


def _as_objects(array: np.ndarray) -> np.ndarray:
    """Return words as an array of ``str`` objects, however they were held."""
    objects = np.empty(array.shape, dtype=_TEXT)
    objects.reshape(-1)[:] = [str(text) for text in array.reshape(-1)]
    return objects
