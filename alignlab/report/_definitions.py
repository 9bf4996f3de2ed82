"""What the page explains: statuses, variables, attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from alignlab.recording.schema import COMPANIONS

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["STATUSES", "attributes", "definitions"]

STATUSES = {
    "useful": (
        "Beyond chance, and its squared cosine is at least the useful share of a gradient step's "
        "efficiency that the provenance names."
    ),
    "detectable": "Beyond chance, but too small to be useful: significance is not size.",
    "opposed": "Beyond chance on the other side: the update points against the gradient.",
    "at chance": "No larger than feedback drawn anew would give.",
    "undecidable": (
        "Even a cosine of 1 would lie within 4 standard deviations of chance, so no value could "
        "tell; typical of convolutions with few channels and of very narrow layers."
    ),
    "undefined": "No sample has both a true and an approximate direction, as in a dead layer.",
    "exact": "The output layer, where the rules use the true error.",
    "null draw": (
        "The feedback was drawn here and is not the one that trained the model, so nothing is "
        "observed; only the chance level is shown."
    ),
}

BETTER = {"higher": "higher is better", "lower": "lower is better", "none": ""}


def definitions(ds: xr.Dataset) -> list[tuple[str, str, str, str, str]]:
    """Return name, meaning, unit, reading and source of every variable that has a value.

    The companions of alignments, which repeat their meaning, are left out.
    """
    arrays = {name: ds.variables[name] for name in ds.data_vars}
    companions = {
        f"{name}_{end}"
        for name, array in arrays.items()
        if array.attrs.get("alignment") == 1
        for end in COMPANIONS
    }
    return [
        (
            str(name),
            str(array.attrs.get("long_name", "")),
            str(array.attrs.get("units", "")),
            _reading(array),
            str(array.attrs.get("source", "")),
        )
        for name, array in arrays.items()
        if name not in companions and _has_value(array)
    ]


def attributes(ds: xr.Dataset) -> list[tuple[str, str]]:
    """Return every attribute of the recording as text."""
    return [(str(name), _text(value)) for name, value in ds.attrs.items()]


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, np.ndarray) else str(value)


def _reading(array: xr.Variable) -> str:
    low, high = (array.attrs.get(f"valid_{end}") for end in ("min", "max"))
    bounds = ""
    if low is not None and high is not None:
        bounds = f"from {low:g} to {high:g}"
    elif low is not None:
        bounds = f"at least {low:g}"
    elif high is not None:
        bounds = f"at most {high:g}"
    chance = "with chance level" if array.attrs.get("alignment") == 1 else ""
    better = BETTER.get(str(array.attrs.get("better", "none")), "")
    return "; ".join(part for part in (better, bounds, chance) if part)


def _has_value(array: xr.Variable) -> bool:
    values = array.values
    if values.dtype.kind == "f":
        return bool(np.isfinite(values).any())
    return bool(values.size) and any(bool(value) for value in values.ravel())
