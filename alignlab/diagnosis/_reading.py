"""Reading single numbers and texts out of a recording."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import xarray as xr

__all__ = [
    "STORED_ORIGINS",
    "base_name",
    "compared_layers",
    "convolutions",
    "hidden_layers",
    "is_drawn",
    "last_step",
    "layers_word",
    "number",
    "origin",
    "rules",
    "sends_error_directly",
    "text",
    "yields_updates_alone",
]

STORED_ORIGINS = ("checkpoint", "replayed", "replayed, unverified", "training")


def last_step(ds: xr.Dataset) -> xr.Dataset:
    """Return the recording at its last step, without the dimension ``step``."""
    return ds.isel(step=-1) if "step" in ds.dims else ds


def number(ds: xr.Dataset, name: str, **where: str) -> float:
    """Return one number of a recording of one step, NaN where it is missing.

    Args:
        ds: Recording without the dimension ``step``.
        name: Variable or coordinate.
        where: Labels along its dimensions; those that it lacks are ignored.
    """
    try:
        return float(cast("float", _entry(ds, name, where)))
    except (KeyError, ValueError):
        return math.nan


def text(ds: xr.Dataset, name: str, **where: str) -> str:
    """Return one text of a recording of one step, empty where it is missing."""
    try:
        found = _entry(ds, name, where)
    except (KeyError, ValueError):
        return ""
    return found if isinstance(found, str) else ""


def _entry(ds: xr.Dataset, name: str, where: Mapping[str, str]) -> object:
    """Return one entry of a variable.

    An answer asks for thousands, each of which xarray would give with all its coordinates.

    Raises:
        KeyError: There is no such variable or label.
        ValueError: There are several entries.
    """
    variable = ds.variables[name]
    places = {
        dim: ds.xindexes[dim].to_pandas_index().get_loc(label)
        for dim, label in where.items()
        if dim in variable.dims
    }
    return cast("object", variable.isel(places).values.item())


def rules(ds: xr.Dataset) -> list[str]:
    """Return the labels of the rules, backpropagation itself left out."""
    labels = [str(label) for label in ds["rule"].values] if "rule" in ds.coords else []
    return [label for label in labels if base_name(label) != "bp"]


def base_name(rule: str) -> str:
    """Return a rule's name without its options.

    Example:
        >>> base_name("dfa(distribution='uniform')")
        'dfa'
    """
    return rule.partition("(")[0]


def origin(ds: xr.Dataset, rule: str) -> str:
    """Return where a rule's feedback came from."""
    return text(ds, "feedback_origin", rule=rule)


def is_drawn(ds: xr.Dataset, rule: str) -> bool:
    """Return whether nothing may be said about a rule's observed alignment."""
    return origin(ds, rule) == "drawn"


def hidden_layers(ds: xr.Dataset) -> list[str]:
    """Return the names of all layers but the output layer, in call order."""
    if "layer" not in ds.coords:
        return []
    outputs = ds["is_output"].values if "is_output" in ds.variables else [False] * ds.sizes["layer"]
    return [
        str(name)
        for name, is_output in zip(ds["layer"].values, outputs, strict=True)
        if not bool(is_output)
    ]


def compared_layers(ds: xr.Dataset, rule: str) -> list[str]:
    """Return the layers whose gradient under a rule is not taken for exact, in call order.

    An output layer is one of them where it is compared with chance.
    """
    hidden = set(hidden_layers(ds))
    names = [str(name) for name in ds["layer"].values] if "layer" in ds.coords else []
    kind = "cosine_weight_gradient_null_kind"
    return [
        name
        for name in names
        if name in hidden or text(ds, kind, rule=rule, layer=name) not in {"", "none"}
    ]


def layers_word(ds: xr.Dataset, layers: Iterable[str]) -> str:
    """Return what layers are called of which output layers may be some."""
    return "hidden layers" if set(layers) <= set(hidden_layers(ds)) else "layers"


def yields_updates_alone(ds: xr.Dataset, rule: str) -> bool:
    """Return whether a rule has no error signals."""
    return text(ds, "rule_yields", rule=rule) == "parameter updates"


def convolutions(ds: xr.Dataset) -> list[str]:
    """Return the names of the hidden convolutions, in call order."""
    return [
        layer
        for layer in hidden_layers(ds)
        if text(ds, "layer_kind", layer=layer).lower().startswith("conv")
    ]


def sends_error_directly(ds: xr.Dataset, rule: str) -> bool:
    """Return whether a rule carries the output error to each layer by one fixed matrix.

    Only then do the reach of a fixed feedback and the width bound speak about the rule. A width
    bound in the recording shows it for rules that are called otherwise than ``dfa``.
    """
    bounds = [number(ds, "width_bound", rule=rule, layer=layer) for layer in hidden_layers(ds)]
    return base_name(rule) == "dfa" or any(not math.isnan(bound) for bound in bounds)
