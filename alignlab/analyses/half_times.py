r"""When layers reach half of their alignment, in which order, and when the data is fitted (C5).

:math:`t_{1/2}` is the first step at which the alignment reaches the middle between its chance
mean and its maximum over the training, on a straight line in :math:`\log(1+t)` between recorded
steps. Its order is Spearman's correlation with depth, with a permutation p-value.

*How to read it.* An order near 1 says that layers align from the bottom up, near -1 from the top
down; with four layers p is at least 0.083, so take several runs. ``fit_after_half_time`` below
zero: the samples were fitted before the layer had aligned, and more training was memorising.
``fit_after_peak`` above zero is the align-then-memorise split: alignment was largest before the fit
and fell, or stood, from then on. The measured samples decide: give those that are trained on.

*Undefined*, with the reason in ``half_time_status``: nothing was measured; the maximum is not above
its chance band at that step, or not above the chance mean where there is no band; half was there
at the first recorded step, so that only an upper bound is known. Half-times are those of the curve
as recorded: noise of single steps moves them early, steps far apart blur them.

Source: Refinetti et al. 2021 for the order and the split; half-times: our derivation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan

import numpy as np
import xarray as xr

from alignlab.analyses._base import dataset, require
from alignlab.errors import InputError
from alignlab.kernels.trajectories import first_reaching, order_correlation
from alignlab.recording.schema import Variable

__all__ = ["half_times"]

FITTED_ACCURACY = 0.99
"""Accuracy from which the samples count as fitted (our heuristic)."""

_DIMS = ("rule", "layer")
_OURS = "our derivation"
_SOURCE = "Refinetti et al. 2021 (layers align one after the other); half-times: our derivation"
_HALF = Variable("half_time", _DIMS, "Step at which half of the alignment is reached", "step",
                 _SOURCE, valid=(0.0, None))  # fmt: skip
_STATUS = Variable("half_time_status", _DIMS, "Why there is no half-time", "", dtype="string")
_MAXIMUM = Variable("largest_alignment", _DIMS, "Largest alignment of the training")
_PEAK = Variable("peak_step", _DIMS, "Step of the largest alignment", "step", valid=(0.0, None))
_ORDER = Variable("half_time_order", ("rule",), "Rank correlation of half-time with depth", "1",
                  _SOURCE, valid=(-1.0, 1.0))  # fmt: skip
_P = Variable("half_time_order_p", ("rule",), "Two-sided p-value of that order over permutations",
              "1", _OURS, valid=(0.0, 1.0))  # fmt: skip
_COUNT = Variable("half_time_order_layers", ("rule",), "Layers with a half-time", "count")
_FIT = Variable("fit_time", (), "Step at which the samples are fitted", "step", valid=(0.0, None))
_AFTER_HALF = Variable("fit_after_half_time", _DIMS, "Steps from half-time to fit", "step")
_AFTER_PEAK = Variable("fit_after_peak", _DIMS, "Steps from largest alignment to fit", "step",
                       "Refinetti et al. 2021 (align, then memorise)")  # fmt: skip


def half_times(
    recording: xr.Dataset,
    *,
    alignment: str = "cosine_error_signal",
    site: str = "preactivation",
    fit: str | xr.DataArray = "accuracy",
    fit_level: float | None = None,
    seed: int = 0,
) -> xr.Dataset:
    r"""Return when every hidden layer has aligned by half, and in which order layers do.

    Args:
        recording: Of a training, many steps; one that is measured at log-spaced steps will do.
        alignment: The variable.
        site: Where, if it is measured at several sites.
        fit: Name of a variable along step, or such an array of the user's with its own steps. Its
            attribute ``better`` says whether it rises (``higher``) or falls (``lower``) to the
            level.
        fit_level: Level from which the samples count as fitted; 0.99 for what rises.
        seed: Of permutations for more than eight layers.

    Returns:
        ``half_time``, ``half_time_status``, ``largest_alignment``, ``peak_step`` by rule and layer;
        ``half_time_order``, its ``_p`` and ``_layers`` by rule; where ``fit`` is there
        ``fit_time``, ``fit_after_half_time``, ``fit_after_peak``, NaN without a fit.

    Raises:
        MissingError: The recording has no such alignment.
        InputError: There is no level for what falls, or no such site.
    """
    require(
        *(recording, [alignment]),
        analysis="half-times",
        hint="name another with alignment=, or measure it at several steps of a training",
    )
    values = _at_site(recording, alignment, site)
    high = _at_site(recording, f"{alignment}_null_high", site, otherwise=values)
    hidden = np.ones(values.sizes["layer"], bool)
    if "is_output" in recording.coords:
        hidden = ~recording["is_output"].values.astype(bool)
    mean = float(recording[alignment].attrs.get("null_mean", 0.0))
    table = [
        [
            _half(recording["step"].values, values.values[:, r, k], high.values[:, r, k], mean)
            if hidden[k]
            else _Half(nan, "", nan, nan)
            for k in range(values.sizes["layer"])
        ]
        for r in range(values.sizes["rule"])
    ]
    found = _ordered(table, recording, seed)
    series = recording.get(fit) if isinstance(fit, str) else fit
    if series is not None:
        time = _fit_time(series, fit_level)
        found |= {
            _FIT: ((), np.asarray(time)),
            _AFTER_HALF: (_DIMS, time - found[_HALF][1]),
            _AFTER_PEAK: (_DIMS, time - found[_PEAK][1]),
        }
    return dataset(found, recording)


@dataclass(frozen=True)
class _Half:
    """What one series says."""

    time: float
    status: str
    largest: float
    peak: float


def _ordered(
    table: Sequence[Sequence[_Half]], recording: xr.Dataset, seed: int
) -> dict[Variable, tuple[tuple[str, ...], np.ndarray]]:
    """Return half-times by rule and layer, and their order by rule."""
    time, largest, peak = (
        np.array([[getattr(each, name) for each in row] for row in table])
        for name in ("time", "largest", "peak")
    )
    status = np.array([[each.status for each in row] for row in table], dtype=object)
    depth = np.arange(time.shape[1], dtype=float)
    if "depth" in recording.coords:
        depth = recording["depth"].values.astype(float)
    orders = [order_correlation(depth, row, seed=seed) for row in time]
    by_rule = np.array([[order.value, order.p, float(order.count)] for order in orders]).T
    return {
        _HALF: (_DIMS, time),
        _STATUS: (_DIMS, status),
        _MAXIMUM: (_DIMS, largest),
        _PEAK: (_DIMS, peak),
        **{v: (("rule",), row) for v, row in zip((_ORDER, _P, _COUNT), by_rule, strict=True)},
    }


def _half(steps: np.ndarray, values: np.ndarray, high: np.ndarray, mean: float) -> _Half:
    known = np.isfinite(values)
    if not known.any():
        return _Half(nan, "nothing was measured", nan, nan)
    at = int(np.nanargmax(values))
    largest, peak = float(values[at]), float(steps[at])
    least = high[at] if np.isfinite(high[at]) else mean
    if not largest > least:
        return _Half(nan, "its largest value is within chance", largest, peak)
    time = first_reaching(steps, values, mean + (largest - mean) / 2)
    first = steps[known][0]
    status = "" if np.isfinite(time) else f"it was there at the first recorded step, {first}"
    return _Half(time, status, largest, peak)


def _at_site(
    recording: xr.Dataset, name: str, site: str, *, otherwise: xr.DataArray | None = None
) -> xr.DataArray:
    """Return a variable along step, rule and layer; NaN in the shape of another where it is not."""
    if name not in recording and otherwise is not None:
        return xr.full_like(otherwise, nan)
    found = recording[name]
    if "site" in found.dims:
        if site not in found["site"]:
            msg = f"The recording has no site {site!r}; it has {', '.join(found['site'].values)}."
            raise InputError(msg)
        found = found.sel(site=site)
    if set(found.dims) != {"step", "rule", "layer"}:
        msg = (
            f"{name} lies along {', '.join(map(str, found.dims))}, not along step, rule and layer."
        )
        raise InputError(msg)
    return found.transpose("step", "rule", "layer")


def _fit_time(series: xr.DataArray, level: float | None) -> float:
    """Return the first step at which a series reaches a level from its bad side."""
    if series.dims != ("step",):
        msg = f"What tells the fit lies along {', '.join(map(str, series.dims))}; give it by step."
        raise InputError(msg)
    falls = series.attrs.get("better", "higher") == "lower"
    if level is None and falls:
        msg = "There is no usual level for what falls, such as a loss; give one with fit_level=."
        raise InputError(msg)
    sign = -1.0 if falls else 1.0
    wanted = sign * (FITTED_ACCURACY if level is None else level)
    steps, values = series["step"].values, sign * series.values.astype(float)
    known = np.isfinite(values)
    # At the first recorded step it is no later than that one.
    if known.any() and values[known][0] >= wanted > -inf:
        return float(steps[known][0])
    return first_reaching(steps, values, wanted)
