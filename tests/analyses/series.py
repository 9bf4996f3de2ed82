"""Recordings of trainings that nobody ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

__all__ = ["recording_of"]


def recording_of(
    steps: Sequence[int],
    values: Mapping[str, tuple[tuple[str, ...], Any]],
    *,
    layers: Sequence[str] = ("fc1", "fc2", "fc3", "head"),
    rules: Sequence[str] = ("dfa",),
    attrs: Mapping[str, Mapping[str, Any]] | None = None,
) -> xr.Dataset:
    """Return a recording whose last layer is the output.

    Args:
        steps: Numbers of the steps.
        values: Dimensions and values by variable.
        layers: Names.
        rules: Labels.
        attrs: Of variables.
    """
    coords = {
        "step": np.asarray(steps),
        "rule": list(rules),
        "layer": list(layers),
        "depth": ("layer", np.arange(1, len(layers) + 1)),
        "is_output": ("layer", [name == layers[-1] for name in layers]),
        "site": ["entry", "preactivation"],
    }
    variables = {
        name: (dims, np.asarray(array, float), dict((attrs or {}).get(name, {})))
        for name, (dims, array) in values.items()
    }
    return xr.Dataset(variables, coords=coords)
