"""From arrays and the declaration of their variables to a recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
import xarray as xr

from alignlab.errors import RecordingError
from alignlab.recording.attributes import plain_attributes
from alignlab.recording.schema import COORDINATES, SCHEMA_VERSION, Kind, Variable, companions

__all__ = ["assemble"]


def assemble(
    values: Mapping[str, tuple[Sequence[str], Any]],
    variables: Sequence[Variable],
    *,
    coords: Mapping[str, Any],
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """Return the recording that holds these values, with the metadata of their variables.

    A variable without a value is left out. A value may omit the leading ``step`` where the
    recording has one step.

    Args:
        values: Name of a variable, or of an alignment's companion, to (dimensions, array).
        variables: What the names mean; companions are added.
        coords: Labels of the dimensions, and coordinates of the layers; ``step`` is [0] if absent,
            a dimension without labels is counted (singular values from 1).
        attrs: Global attributes; ``alignlab_schema`` is added.

    Returns:
        Float variables as float64, integers as int64, text as objects.

    Raises:
        RecordingError: A name that is declared twice or not at all, or a shape, kind or attribute
            that does not fit.

    Example:
        >>> width = Variable("width_used", ("layer",), "Units in use")
        >>> recording = assemble(
        ...     {"width_used": (("layer",), [3.0, 2.0])},
        ...     [width],
        ...     coords={"layer": ["fc1", "fc2"]},
        ...     attrs={},
        ... )
        >>> recording["width_used"].dims
        ('step', 'layer')
    """
    declared = _declared(variables)
    unknown = sorted(set(values) - set(declared))
    if unknown:
        message = f"No variable is declared for {unknown}; pass a Variable for each."
        raise RecordingError(message)
    labels: dict[str, xr.Variable] = {
        str(name): _labels(str(name), given)
        for name, given in ({"step": [0]} | dict(coords)).items()
    }
    sizes = {name: label.sizes[name] for name, label in labels.items() if name in label.dims}
    stored = {
        name: _stored(declared[name], tuple(values[name][0]), values[name][1], sizes)
        for name in declared
        if name in values
    }
    for dim, size in sizes.items():
        if dim not in labels:
            labels[dim] = _labels(dim, np.arange(size) + (dim == "singular_value"))
    plain = plain_attributes({"alignlab_schema": SCHEMA_VERSION} | dict(attrs), "the recording")
    return xr.Dataset(stored, coords=labels, attrs=plain)


def _declared(variables: Sequence[Variable]) -> dict[str, Variable]:
    declared: dict[str, Variable] = {}
    for variable in variables:
        for each in (variable, *companions(variable)):
            if declared.setdefault(each.name, each) != each:
                message = f"The variable {each.name!r} is declared twice, differently; rename one."
                raise RecordingError(message)
    return declared


def _labels(name: str, given: object) -> xr.Variable:
    """Return one coordinate with its metadata; a pair (dims, values) brings its own dimension."""
    if isinstance(given, tuple) and len(given) == 2 and _is_row(given[1]):
        dims, given = given
        dim = dims if isinstance(dims, str) else next(iter(dims))
    else:
        dim = COORDINATES[name].dims[0] if name in COORDINATES else name
    known = COORDINATES.get(name)
    array = np.asarray(given)
    if array.ndim != 1:
        message = f"The coordinate {name!r} has shape {array.shape}; give one label per {dim}."
        raise RecordingError(message)
    kind: Kind = known.dtype if known else "string" if array.dtype.kind in "OUT" else "float"
    attrs = {"long_name": known.long_name, "units": known.units} if known else {}
    return xr.Variable((dim,), _converted(array, kind, f"The coordinate {name!r}"), attrs)


def _is_row(labels: object) -> bool:
    """Tell (dims, labels) from two labels."""
    return isinstance(labels, Sized) and not isinstance(labels, (str, bytes))


def _stored(
    variable: Variable, dims: tuple[str, ...], values: object, sizes: dict[str, int]
) -> xr.Variable:
    """Return one variable in its stored form, and note the sizes of dimensions that are new."""
    array = np.asarray(values)
    if variable.per_step and dims == variable.dims and sizes["step"] == 1:
        dims, array = variable.stored_dims, array[np.newaxis]
    if dims != variable.stored_dims:
        message = f"{variable.name!r} came with {dims}; it is declared over {variable.stored_dims}."
        raise RecordingError(message)
    if array.ndim != len(dims):
        message = f"{variable.name!r} came with shape {array.shape} for the dimensions {dims}."
        raise RecordingError(message)
    for dim, size in zip(dims, array.shape, strict=True):
        if sizes.setdefault(dim, size) != size:
            message = f"{variable.name!r} has {size} along {dim!r}; the recording has {sizes[dim]}."
            raise RecordingError(message)
    converted = _converted(array, variable.dtype, repr(variable.name))
    return xr.Variable(dims, converted, plain_attributes(dict(variable.attrs), variable.name))


def _converted(array: np.ndarray, kind: Kind, owner: str) -> np.ndarray:
    """Return the array in the stored form of its kind."""
    if kind == "string":
        if array.size and not all(isinstance(text, str) for text in array.flat):
            message = f"{owner} holds something that is not text; use '' for a missing word."
            raise RecordingError(message)
        out = np.empty(array.shape, dtype=object)
        out.ravel()[:] = [str(text) for text in array.flat]
        return out
    allowed = {"float": "fiub", "int": "iu", "bool": "b"}[kind]
    if array.dtype.kind not in allowed and array.size:
        message = f"{owner} holds {array.dtype}, where {kind} is declared."
        raise RecordingError(message)
    return array.astype({"float": np.float64, "int": np.int64, "bool": np.bool_}[kind])
