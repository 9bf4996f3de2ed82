"""What makes a dataset a recording, checked from the metadata that it carries itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from numbers import Integral

import numpy as np
import xarray as xr

from alignlab.errors import RecordingError
from alignlab.recording.attributes import plain_attributes
from alignlab.recording.schema import (
    BETTER,
    COMPANIONS,
    COORDINATES,
    DIMS,
    FEEDBACK_ORIGINS,
    NULL_KINDS,
    NULL_METHODS,
    RECORDING_KINDS,
    SITES,
    STATUSES,
    STATUSES_AGAINST_CHANCE,
    STATUSES_WITHOUT_VALUE,
    migrate,
)

__all__ = ["REQUIRED_ATTRS", "validate"]

_ALWAYS = ("alignlab_version", "torch_version", "recording_kind")
_MEASURED = ("model", "device", "dtype", "mode", "n_samples", "seed", "draws")
_FROM_COMMAND = ("numpy_version", "python_version", "created", "command")
_FROM_FILE = ("checkpoint", "checkpoint_sha256")
_FROM_SAMPLES = ("parameter_hash", "data", "data_hash", "loss", "reduction")
REQUIRED_ATTRS = {
    "checkpoint": (*_ALWAYS, *_MEASURED, *_FROM_COMMAND, *_FROM_FILE, *_FROM_SAMPLES),
    "weights": (*_ALWAYS, *_FROM_COMMAND, *_FROM_FILE),
    "probe": (*_ALWAYS, *_MEASURED),
}
_OF_EVERY_VARIABLE = ("long_name", "units", "source", "better")
_KINDS = {"float": "fiu", "int": "iu", "string": "OUT", "bool": "b"}
_TOLERANCE = 1e-6
_SHOWN = 5
_WORDS = {
    "_status": ("", *STATUSES),
    "_null_kind": ("", *NULL_KINDS),
    "_null_method": ("", *NULL_METHODS),
}


def validate(ds: xr.Dataset) -> None:
    """Refuse a dataset that is no recording of today's schema.

    The rules hold for any variable: its own attributes say what it is, what it may be, and whether
    it is an alignment and so must travel with its chance level.

    Args:
        ds: What is to be saved or was loaded.

    Raises:
        RecordingError: The first few violations, in one line.
    """
    if migrate(ds) is not ds:
        message = "The recording has an older schema; pass it through migrate first."
        raise RecordingError(message)
    found = list(islice(_violations(ds), _SHOWN + 1))
    if found:
        more = "; and more" if len(found) > _SHOWN else ""
        message = f"The recording breaks its schema: {'; '.join(found[:_SHOWN])}{more}."
        raise RecordingError(message)


def _violations(ds: xr.Dataset) -> Iterator[str]:
    yield from _attributes(ds)
    yield from _dimensions(ds)
    yield from _known_coordinates(ds)
    # Of several hundred variables, each as an array with all its coordinates takes a second.
    for name in ds.data_vars:
        variable = ds.variables[name]
        yield from _metadata(str(name), variable)
        yield from _range(ds, str(name))
        if variable.attrs.get("alignment") == 1:
            yield from _alignment(ds, str(name))
    yield from _words(ds, "feedback_origin", ("", *FEEDBACK_ORIGINS))
    yield from _counts(ds)


def _attributes(ds: xr.Dataset) -> Iterator[str]:
    """Check the global attributes."""
    try:
        attrs = plain_attributes(ds.attrs, "the recording")
    except RecordingError as error:
        yield str(error).rstrip(".")
        return
    kind = attrs.get("recording_kind", "")
    if kind not in RECORDING_KINDS:
        yield f"recording_kind is {kind!r}, not one of {', '.join(RECORDING_KINDS)}"
    missing = [name for name in REQUIRED_ATTRS.get(str(kind), _ALWAYS) if name not in attrs]
    if missing:
        yield f"the recording lacks the attributes {', '.join(missing)}"
    if "created" in attrs:
        try:
            datetime.fromisoformat(str(attrs["created"]))
        except ValueError:
            yield f"created is {attrs['created']!r}, not a date and time in ISO form"


def _dimensions(ds: xr.Dataset) -> Iterator[str]:
    """Check the dimensions and their labels."""
    for dim in ds.dims:
        if dim not in DIMS:
            yield f"{dim!r} is no dimension of the schema ({', '.join(DIMS)})"
        elif dim not in ds.coords:
            yield f"the dimension {dim!r} has no labels"
        elif not ds.indexes[dim].is_unique:
            yield f"the labels of {dim!r} are not unique"
    if "step" not in ds.dims:
        yield "there is no dimension 'step'"
    if "layer" in ds.dims:
        of_every_layer = ["layer_kind", "depth"]
        if ds.attrs.get("recording_kind") != "weights":
            of_every_layer.append("is_output")
        missing = [name for name in of_every_layer if name not in ds.coords]
        if missing:
            yield f"the layers lack {', '.join(missing)}"
    if "site" in ds.coords:
        yield from _words(ds, "site", SITES)


def _known_coordinates(ds: xr.Dataset) -> Iterator[str]:
    """Check the coordinates that the schema names."""
    for name, coordinate in ds.coords.items():
        known = COORDINATES.get(str(name))
        if known is None:
            continue
        if coordinate.dims != known.dims:
            yield f"the coordinate {name!r} lies along {coordinate.dims}, not {known.dims}"
        if coordinate.dtype.kind not in _KINDS[known.dtype]:
            yield f"the coordinate {name!r} holds {coordinate.dtype}, not {known.dtype}"


def _metadata(name: str, variable: xr.Variable) -> Iterator[str]:
    """Check what a variable says about itself."""
    if not name.isidentifier():
        yield f"{name!r} cannot name a variable; use letters, digits and _"
    if "step" in variable.dims[1:]:
        yield f"{name!r} has 'step' behind {variable.dims[0]!r}; it leads"
    if variable.dtype.kind not in "fiubOUT":
        yield f"{name!r} holds {variable.dtype}; two real variables hold a complex one"
    try:
        attrs = plain_attributes(variable.attrs, repr(name))
    except RecordingError as error:
        yield str(error).rstrip(".")
        return
    missing = [word for word in _OF_EVERY_VARIABLE if not isinstance(attrs.get(word), str)]
    if missing:
        yield f"{name!r} lacks the attributes {', '.join(missing)}"
    elif attrs["better"] not in BETTER:
        yield f"{name!r} says better={attrs['better']!r}, not one of {', '.join(BETTER)}"


def _range(ds: xr.Dataset, name: str) -> Iterator[str]:
    """Check the values against the range that the variable states."""
    variable = ds.variables[name]
    for bound, sign in (("valid_min", -1.0), ("valid_max", 1.0)):
        limit = variable.attrs.get(bound)
        if limit is None or variable.dtype.kind not in "fiu":
            continue
        excess = sign * (variable.values.astype(float) - limit)
        outside = excess > _TOLERANCE * max(1.0, abs(limit))
        if outside.any():
            value = float(variable.values[outside][0])
            yield f"{name!r} is {value:g} at {_place(ds, name, outside)}; {bound} is {limit:g}"


def _alignment(ds: xr.Dataset, name: str) -> Iterator[str]:
    """Check that an alignment travels with its chance level and agrees with its status."""
    missing = [suffix for suffix in COMPANIONS if f"{name}_{suffix}" not in ds]
    if missing:
        yield f"the alignment {name!r} lacks {', '.join(f'{name}_{suffix}' for suffix in missing)}"
        return
    of = {suffix: ds.variables[f"{name}_{suffix}"] for suffix in COMPANIONS}
    variable = ds.variables[name]
    other = [suffix for suffix, companion in of.items() if companion.dims != variable.dims]
    if other:
        yield f"{name}_{other[0]} has other dimensions than {name!r}"
        return
    for suffix, vocabulary in _WORDS.items():
        yield from _words(ds, f"{name}{suffix}", vocabulary)
    status = of["status"].values
    finite = np.isfinite(variable.values)
    without = np.isin(status, ("", *STATUSES_WITHOUT_VALUE))
    decided = np.isin(status, STATUSES_AGAINST_CHANCE)
    uncertain = ~np.isfinite(of["p"].values)
    uncertain |= np.isin(of["null_kind"].values, ("", "none"))
    for wrong, phrase in (
        (finite & without, "has a value"),
        (~finite & ~without, "has no value"),
        (decided & uncertain, "has no p or no kind of chance level"),
    ):
        if wrong.any():
            place = _place(ds, name, wrong)
            yield f"{name!r} {phrase} at {place}, where its status is {status[wrong][0]!r}"
    low, high = of["null_low"].values, of["null_high"].values
    if (low > high).any():
        yield f"the chance band of {name!r} is upside down at {_place(ds, name, low > high)}"


def _words(ds: xr.Dataset, name: str, vocabulary: tuple[str, ...]) -> Iterator[str]:
    """Check that a variable of words uses the vocabulary."""
    if name not in ds.variables:
        return
    strange = sorted({str(word) for word in ds.variables[name].values.flat} - set(vocabulary))
    if strange:
        words = ", ".join(repr(word) for word in vocabulary if word)
        yield f"{name!r} says {strange[0]!r}, not one of {words}"


def _counts(ds: xr.Dataset) -> Iterator[str]:
    """Check every number of samples against the number of samples measured."""
    n_samples = ds.attrs.get("n_samples")
    if n_samples is None:
        return
    if isinstance(n_samples, bool) or not isinstance(n_samples, Integral) or n_samples < 1:
        yield f"n_samples is {n_samples!r}, not a number of samples"
        return
    if ds.sizes.get("sample", 0) > n_samples:
        yield f"there are {ds.sizes['sample']} samples along 'sample', and n_samples is {n_samples}"
    for name in ds.data_vars:
        if not str(name).endswith("_n_undefined"):
            continue
        if (ds.variables[name].values > n_samples).any():
            yield f"{name!r} counts more than the {n_samples} samples"


def _place(ds: xr.Dataset, name: str, mask: np.ndarray) -> str:
    """Name the first entry of a variable that a mask marks, by its labels."""
    index = np.argwhere(mask)[0]
    labels = [
        f"{dim}={ds.variables[dim].values[i]}"
        for dim, i in zip(ds.variables[name].dims, index, strict=True)
        if dim in ds.coords
    ]
    return ", ".join(labels) or "its only entry"
