"""What an analysis is: a function of a recording, and what its datasets say of themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import xarray as xr

from alignlab import plugins
from alignlab.errors import MissingError
from alignlab.recording.schema import Variable

__all__ = ["Analysis", "dataset", "load", "names", "require"]

Analysis = Callable[..., xr.Dataset]
"""Takes a recording, and options by name; returns a dataset along dimensions of the recording."""

_PACKAGE = "alignlab.analyses"


def names() -> list[str]:
    """Return the names of all analyses, without importing any."""
    return plugins.names(_PACKAGE)


def load(name: str) -> Analysis:
    """Return one analysis.

    Raises:
        MissingError: No analysis has this name; the text gives the nearest ones.
    """
    return cast("Analysis", plugins.load(_PACKAGE, name))


def require(recording: xr.Dataset, wanted: Sequence[str], *, analysis: str, hint: str) -> None:
    """Refuse a recording that lacks what an analysis reads.

    Args:
        recording: A recording.
        wanted: Names of variables.
        analysis: Name of the analysis.
        hint: How to record them.

    Raises:
        MissingError: Names what is missing.
    """
    missing = [name for name in wanted if name not in recording.variables]
    if missing:
        msg = f"{analysis} needs {', '.join(missing)}, which the recording has not; {hint}."
        raise MissingError(msg)


def dataset(
    values: Mapping[Variable, tuple[Sequence[str], Any]], recording: xr.Dataset
) -> xr.Dataset:
    """Return a dataset whose variables say what they are, with coordinates of the recording.

    Args:
        values: Dimensions and array by variable.
        recording: Where they come from.
    """
    dims = {dim for dim, _ in values.values() for dim in dim}
    coords = {name: each for name, each in recording.coords.items() if set(each.dims) <= dims}
    arrays = {
        variable.name: (tuple(dim), np.asarray(array), variable.attrs)
        for variable, (dim, array) in values.items()
    }
    kept = ("alignlab_version", "model", "data", "checkpoint")
    attrs = {name: recording.attrs[name] for name in kept if name in recording.attrs}
    return xr.Dataset(arrays, coords=coords, attrs=attrs)
