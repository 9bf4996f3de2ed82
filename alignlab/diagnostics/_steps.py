"""From observed passes to the arrays of a recording along its steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alignlab.diagnostics._base import Diagnostic, Reading, Variable
from alignlab.diagnostics._chance import Chance, adjusted_statuses, chance_of, readings
from alignlab.diagnostics._readings import arrays
from alignlab.engine.comparison import ENTRY, PREACTIVATION, WEIGHT
from alignlab.kernels.rows import Summary
from alignlab.observation import Observations, Series
from alignlab.plugins import load
from alignlab.recording.schema import companions
from alignlab.sites import Layer

__all__ = ["ObservedRule", "step_arrays", "step_variables"]

CHANCE_STEP = Variable(
    "chance_step",
    ("rule", "site"),
    "Step at which the chance level of the error signals was drawn",
)
CHANCE_STEP_WEIGHT = Variable(
    "chance_step_weight_gradient",
    ("rule",),
    "Step at which the chance level of the weight gradients was drawn",
)

_SIGNAL = {
    "cosine_error_signal": "cosine",
    "cosine_error_signal_flat": "cosine_flat",
    "descent_rate": "descent_rate",
}
_WEIGHT = {"cosine_weight_gradient": "cosine"}
_RAW = {
    ("inner_product", ""): "inner_product",
    ("squared_norm", ""): "squared_norm",
    ("squared_norm", "_true"): "squared_norm_true",
}
"""First and last part of the name of a variable, and the field that it is read from."""

_FLAT = frozenset({"cosine_error_signal_flat"})

Values = dict[str, tuple[tuple[str, ...], np.ndarray]]


@dataclass(frozen=True)
class ObservedRule:
    """What must be known of a rule to judge what was observed.

    Attributes:
        label: Its name in the recording.
        kind: What was drawn again, one of ``schema.NULL_KINDS``.
        is_drawn: Whether its feedback is not the one that the model is trained with.
    """

    label: str
    kind: str
    is_drawn: bool


def step_variables() -> list[Variable]:
    """Return the declarations of everything that is read from observed passes."""
    wanted = {
        *_SIGNAL,
        *_WEIGHT,
        *("cosine_error_signal_sd", "angle_error_signal", "norm_ratio_error_signal"),
        *("projection_error_signal", "norm_ratio_weight_gradient", "projection_weight_gradient"),
        *("best_scale_weight_gradient", "unexplained_weight_gradient"),
        *(f"{name}_error_signal{end}" for name, end in _RAW),
        *(f"{name}_weight_gradient{end}" for name, end in _RAW),
    }
    found = [CHANCE_STEP, CHANCE_STEP_WEIGHT]
    for name in ("error-signal", "weight-gradient"):
        diagnostic = load("alignlab.diagnostics", name)
        assert isinstance(diagnostic, type)
        assert issubclass(diagnostic, Diagnostic)
        found += [variable for variable in diagnostic.variables if variable.name in wanted]
    return found


def step_arrays(
    observations: Observations, rules: Sequence[ObservedRule]
) -> tuple[np.ndarray, Values]:
    """Return the steps, and values by variable with ``step`` as their first dimension.

    Args:
        observations: What was seen.
        rules: The observed rules, in the order of the recording.
    """
    by_step: dict[int, list[Reading]] = {}
    known = {rule.label: rule for rule in rules}
    for place, label, series in observations.series():
        for number, step in enumerate(series.steps):
            found = by_step.setdefault(int(step), [])
            found += _readings(place, known[label], series, number, observations.layers)
    steps = sorted(by_step)
    declared = step_variables()
    labels, layers = [rule.label for rule in rules], [layer.name for layer in observations.layers]
    each = [arrays(by_step[step], declared, rules=labels, layers=layers) for step in steps]
    missing = {v.name: "" if v.dtype == "string" else np.nan for v in _with_companions(declared)}
    values: Values = {}
    for name in dict.fromkeys(name for one in each for name in one):
        dims, first = next(one[name] for one in each if name in one)
        nothing = np.full(first.shape, missing[name], dtype=first.dtype)
        stacked = np.stack([one[name][1] if name in one else nothing for one in each])
        values[name] = (("step", *dims), stacked)
    return np.array(steps), values


def _with_companions(variables: Sequence[Variable]) -> Iterator[Variable]:
    for variable in variables:
        yield variable
        yield from companions(variable)


def _readings(
    place: str, rule: ObservedRule, series: Series, number: int, layers: Sequence[Layer]
) -> Iterator[Reading]:
    """Yield what one step shows of a rule at a place."""
    site = "" if place == WEIGHT else place
    outputs = {layer.name for layer in layers if layer.is_output}
    hidden = [k for k, name in enumerate(series.layers) if name not in outputs]
    by_layer = [_drawn_at(series, number, k) for k in range(len(series.layers))]
    drawn = min((each for each in by_layer if each is not None), default=None)
    if drawn is not None:
        name = CHANCE_STEP_WEIGHT.name if place == WEIGHT else CHANCE_STEP.name
        yield Reading(name, float(series.steps[drawn]), rule.label, site=site)
    for variable, field in (_WEIGHT if place == WEIGHT else _SIGNAL).items():
        values = getattr(series.shown, field)
        mean = 0.5 if variable == "descent_rate" else 0.0
        chances = [
            _chance(series, by_layer[k], k, float(values[number, k, 0]), variable, rule.kind)
            for k in hidden
        ]
        statuses = adjusted_statuses(
            [float(values[number, k, 0]) for k in hidden],
            chances,
            is_drawn=rule.is_drawn,
            is_cosine=mean == 0.0,
        )
        for k, chance, status in zip(hidden, chances, statuses, strict=True):
            undefined = float(series.shown.n_undefined[number, k, 0])
            at = (rule.label, series.layers[k], site)
            value = float(values[number, k, 0])
            yield from readings(variable, value, chance, status, undefined=undefined, place=at)
    if not rule.is_drawn:
        for k in hidden:
            yield from _described(series.shown, (number, k, 0), place, rule.label, series.layers[k])
    if place != ENTRY:
        for name in outputs & set(series.layers):
            yield from _exact(place, rule.label, name)


def _drawn_at(series: Series, number: int, layer: int) -> int | None:
    """Return the latest step up to this one with redraws, else the first after it."""
    drawn = np.isfinite(series.shown.cosine[:, layer, 1:]).any(axis=1).nonzero()[0]
    if not drawn.size:
        return None
    before = drawn[drawn <= number]
    return int(before[-1] if before.size else drawn[0])


def _chance(
    series: Series, drawn: int | None, layer: int, value: float, variable: str, kind: str
) -> Chance:
    mean = 0.5 if variable == "descent_rate" else 0.0
    if drawn is None:
        return _nothing(mean)
    field = (_SIGNAL | _WEIGHT)[variable]
    spread = series.spread[1 if variable in _FLAT else 0]
    return chance_of(
        value,
        getattr(series.shown, field)[drawn, layer, 1:],
        kind=kind,
        concentration=float(spread[drawn, layer]),
        mean=mean,
    )


def _nothing(mean: float = 0.0) -> Chance:
    nan = float("nan")
    return Chance(nan, nan, nan, "none", "", nan, nan, mean=mean)


def _described(
    shown: Summary, at: tuple[int, int, int], place: str, rule: str, layer: str
) -> Iterator[Reading]:
    """Yield what is recorded beside the alignments."""
    ratio, flat = float(shown.norm_ratio[at]), float(shown.cosine_flat[at])
    if place == WEIGHT:
        found = {
            "norm_ratio_weight_gradient": ratio,
            "projection_weight_gradient": flat * ratio,
            "best_scale_weight_gradient": flat / ratio if ratio > 0 else float("nan"),
            "unexplained_weight_gradient": 1.0 - flat**2,
        }
    else:
        found = {
            "cosine_error_signal_sd": float(shown.cosine_sd[at]),
            "angle_error_signal": float(np.degrees(np.arccos(flat))),
            "norm_ratio_error_signal": ratio,
            "projection_error_signal": flat * ratio,
        }
    middle = "weight_gradient" if place == WEIGHT else "error_signal"
    found |= {
        f"{name}_{middle}{end}": float(getattr(shown, field)[at])
        for (name, end), field in _RAW.items()
    }
    for name, value in found.items():
        yield Reading(name, value, rule, layer, "" if place == WEIGHT else place)


def _exact(place: str, rule: str, layer: str) -> Iterator[Reading]:
    """Yield the alignments of an output layer, whose gradient is exact by construction."""
    exact: Mapping[str, str] = _WEIGHT if place == WEIGHT else _SIGNAL
    at = (rule, layer, "" if place == WEIGHT else PREACTIVATION)
    for variable in exact:
        yield from readings(variable, 1.0, _nothing(), "exact", undefined=0.0, place=at)
