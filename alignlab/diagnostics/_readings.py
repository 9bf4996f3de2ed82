"""From readings to the arrays of a recording."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, Variable
from alignlab.diagnostics._together import fetched
from alignlab.kernels.convolution import RADIAL_EDGES
from alignlab.recording.reasons import worded
from alignlab.recording.schema import companions
from alignlab.sites import SITES, Layer

if TYPE_CHECKING:
    from alignlab.rules._base import Rule

__all__ = [
    "FEEDBACK_HASH",
    "FEEDBACK_ORIGIN",
    "FEEDBACK_SEED",
    "NOT_DEFINED",
    "OF_RULES",
    "RULE_YIELDS",
    "arrays",
    "coordinates",
    "reasons",
    "seed_of",
    "yielded",
]

FEEDBACK_ORIGIN = Variable(
    "feedback_origin",
    ("rule",),
    "Where the feedback came from",
    units="",
    dtype="string",
    per_step=False,
)

RULE_YIELDS = Variable(
    "rule_yields",
    ("rule",),
    "What a rule yields; diagnostics of error signals are not defined for updates alone",
    units="",
    dtype="string",
    per_step=False,
)

FEEDBACK_SEED = Variable(
    "feedback_seed",
    ("rule",),
    "Seed from which the rule draws its feedback; NaN for rules that draw none",
    units="",
    per_step=False,
)

NOT_DEFINED = Variable(
    "not_defined",
    ("diagnostic", "layer"),
    "Why a diagnostic says nothing of a layer",
    units="",
    dtype="string",
)

FEEDBACK_HASH = Variable(
    "feedback_sha256",
    ("rule",),
    "Hash of the feedback, by which two recordings prove that they share it",
    units="",
    dtype="string",
    per_step=False,
)

OF_RULES = (FEEDBACK_ORIGIN, RULE_YIELDS, FEEDBACK_SEED)
"""What every recording says of its rules."""


def seed_of(rule: Rule) -> float:
    """Return the seed from which a rule draws, NaN where it draws nothing."""
    return float(getattr(rule, "seed", float("nan")))


def yielded(rule: Rule) -> str:
    """Return what a rule yields, for the recording."""
    return "error signals" if rule.has_signals else "parameter updates"


def arrays(
    readings: Iterable[Reading],
    variables: Sequence[Variable],
    *,
    rules: Sequence[str],
    layers: Sequence[str],
    own: Mapping[str, Sequence[Any]] = MappingProxyType({}),
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Return dimensions and values of every variable that was read, missing ones as NaN or "".

    Args:
        readings: In any order.
        variables: Declarations of the readings' variables; companions are added.
        rules: Labels of the rules.
        layers: Names of the layers.
        own: Labels along other dimensions; vectors along these have as many entries.

    Returns:
        Name to (dimensions without ``step``, array); vectors along one dimension are padded
        with NaN to the longest of all variables.
    """
    declared = {v.name: v for variable in variables for v in (variable, *companions(variable))}
    labels: Mapping[str, Sequence[str]] = {"rule": rules, "layer": layers, "site": SITES}
    by_name: dict[str, list[Reading]] = {}
    for reading in _on_host(list(readings)):
        by_name.setdefault(reading.name, []).append(reading)
    along: dict[str, Sequence[Any]] = {}
    for name, found in by_name.items():
        if set(declared[name].dims) - set(labels):
            dim, sizes = declared[name].dims[-1], [np.size(reading.value) for reading in found]
            along[dim] = range(max(len(along.get(dim, ())), *sizes))
    along |= own
    return {
        name: (declared[name].dims, _array(declared[name], found, labels, along))
        for name, found in by_name.items()
    }


def _array(
    variable: Variable,
    readings: Sequence[Reading],
    labels: Mapping[str, Sequence[str]],
    along: Mapping[str, Sequence[Any]],
) -> np.ndarray:
    values = [_plain(reading.value) for reading in readings]
    named = [dim for dim in variable.dims if dim in labels]
    shape = [len(labels[dim]) for dim in named]
    if len(named) < len(variable.dims):
        shape.append(len(along[variable.dims[-1]]))
        assert max(np.size(value) for value in values) <= shape[-1], variable.name
    text = variable.dtype == "string"
    array = np.full(shape, "" if text else np.nan, dtype=object if text else float)
    for reading, value in zip(readings, values, strict=True):
        place: tuple[Any, ...] = tuple(labels[dim].index(getattr(reading, dim)) for dim in named)
        if len(named) < len(variable.dims):
            place = (*place, slice(0, np.size(value)))
        array[place] = value
    return array


def _on_host(found: Sequence[Reading]) -> list[Reading]:
    """Return readings with all their tensors moved to the host at once."""
    held = [reading.value for reading in found if isinstance(reading.value, Tensor)]
    moved = iter(fetched(held))
    return [
        replace(reading, value=next(moved)) if isinstance(reading.value, Tensor) else reading
        for reading in found
    ]


def reasons(
    found: Mapping[str, Sequence[NotDefined]], layers: Sequence[str]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return dimensions and texts of why diagnostics say nothing.

    Args:
        found: By name of the diagnostic.
        layers: Names of the layers.
    """
    texts = np.full((len(found), len(layers)), "", dtype=object)
    for row, missing in enumerate(found.values()):
        for column, layer in enumerate(layers):
            here = [each for each in missing if each.layer in {"", layer}]
            texts[row, column] = "; ".join(dict.fromkeys(_reason(each, layer) for each in here))
    return NOT_DEFINED.dims, texts


def _reason(missing: NotDefined, layer: str) -> str:
    return worded(missing.because, layer=layer, rule=missing.rule)


def _plain(value: Tensor | np.ndarray | float | str) -> np.ndarray | float | str:
    assert not isinstance(value, Tensor)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return float(value)
    return value


def coordinates(
    rules: Sequence[str],
    layers: Sequence[Layer],
    values: Mapping[str, tuple[Sequence[str], Any]],
    own: Mapping[str, Sequence[Any]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the coordinates of a recording.

    Args:
        rules: Labels of the rules.
        layers: Measured layers.
        values: Name to (dimensions, array), which tell what coordinates are needed.
        own: Labels along other dimensions, used where they are needed.
    """
    coords: dict[str, Any] = {"rule": list(rules), "site": list(SITES)}
    if any("frequency" in dims for dims, _ in values.values()):
        coords["frequency"] = RADIAL_EDGES.tolist()
    used = {dim for dims, _ in values.values() for dim in dims}
    coords |= {dim: list(labels) for dim, labels in own.items() if dim in used}
    coords["layer"] = [layer.name for layer in layers]
    coords["layer_kind"] = ("layer", [layer.kind for layer in layers])
    for name in ("depth", "width", "entry_width", "channels", "positions", "fan_in"):
        coords[name] = ("layer", [getattr(layer, name) for layer in layers])
    coords["n_parameters"] = ("layer", [layer.n_parameters for layer in layers])
    coords["is_output"] = ("layer", [layer.is_output for layer in layers])
    coords["consumer"] = ("layer", [layer.consumer for layer in layers])
    return coords
