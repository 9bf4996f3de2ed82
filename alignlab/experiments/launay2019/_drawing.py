"""Cosines by layer and condition, with intervals over seeds and the chance band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
import xarray as xr

from alignlab.experiments._base import chosen
from alignlab.experiments._statistics import interval_of_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["against", "beside", "by_layer", "legend"]

BAND = 1.96
"""Standard deviations of chance that are drawn to each side."""


def by_layer(axes: Axes, results: xr.Dataset, *, key: str, values: Sequence[str | float]) -> None:
    """Draw the cosine of every layer for every condition, in rows of points.

    Args:
        axes: Where.
        results: With ``cosine`` and ``null_sd`` along ``run`` and ``layer``.
        key: Coordinate that tells the conditions apart.
        values: Its values, in the order of the legend.
    """
    layers = [str(name) for name in results["layer"].values]
    place = np.arange(len(layers), dtype=float)
    if "null_sd" in results:
        _band_by_layer(axes, place, results["null_sd"].mean("run").values)
    for number, (value, colour) in enumerate(zip(values, sns.color_palette(), strict=False)):
        cosines = chosen(results, **{key: value})["cosine"]
        shift = 0.5 * ((number + 0.5) / len(values) - 0.5)
        _points(axes, place + shift, cosines, colour=colour, label=str(value))
    axes.set_xticks(place, layers)
    axes.set_xlabel("hidden layer")
    axes.set_ylabel("cosine with backpropagation")


def against(
    axes: Axes,
    results: xr.Dataset,
    *,
    key: str,
    values: Sequence[float],
    label: str,
    band: bool = True,
) -> None:
    """Draw the cosine of every layer against a number, on a logarithmic axis.

    Args:
        axes: Where.
        results: With ``cosine`` and ``null_sd`` along ``run`` and ``layer``.
        key: Coordinate that holds the number.
        values: Its values, ascending.
        label: Of the axis.
        band: Whether the chance band of every layer is drawn.
    """
    for layer, colour in zip(results["layer"].values, sns.color_palette(), strict=False):
        one = results.sel(layer=[layer])
        at = [chosen(one, **{key: value}) for value in values]
        runs = np.array([interval_of_mean(each["cosine"].values.ravel()) for each in at])
        _line(axes, np.asarray(values, dtype=float), runs, colour=colour, label=str(layer))
        if band and "null_sd" in results:
            half = BAND * np.array([float(each["null_sd"].mean()) for each in at])
            name = f"{layer}, chance 95%" if np.isfinite(half).all() else None
            axes.fill_between(
                values, -half, half, color=colour, alpha=0.12, linewidth=0, label=name
            )
    axes.axhline(0.0, color="0.6", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
    axes.set_xlabel(label)
    axes.set_ylabel("cosine with backpropagation")


def beside(
    axes: Axes, results: xr.Dataset, *, key: str, values: Sequence[str | float], name: str
) -> None:
    """Draw one number of every condition, with its interval and the runs.

    Args:
        axes: Where.
        results: Along ``run``.
        key: Coordinate that tells the conditions apart.
        values: Its values.
        name: Variable.
    """
    for place, (value, colour) in enumerate(zip(values, sns.color_palette(), strict=False)):
        runs = chosen(results, **{key: value})[name].values.astype(float)
        mean, low, high = interval_of_mean(runs)
        axes.bar(place, mean, 0.6, color=colour, alpha=0.6)
        if np.isfinite(low):
            axes.errorbar(place, mean, [[mean - low], [high - mean]], color="0.2", capsize=3)
        axes.plot(np.full(runs.shape, place), runs, "o", color="0.2", markersize=3)
    axes.set_xticks(range(len(values)), [str(value) for value in values])
    axes.set_ylim(bottom=0.0)


def legend(axes: Axes, title: str) -> None:
    """Put the legend beside the data."""
    axes.legend(title=title, loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False)


def _band_by_layer(axes: Axes, place: np.ndarray, deviations: np.ndarray) -> None:
    for number, (centre, deviation) in enumerate(zip(place, deviations, strict=True)):
        axes.fill_between(
            [centre - 0.35, centre + 0.35],
            *(-BAND * deviation, BAND * deviation),
            color="0.8",
            linewidth=0,
            label="chance, 95%" if number == 0 else None,
        )
    axes.axhline(0.0, color="0.6", linewidth=0.8)


def _points(
    axes: Axes, place: np.ndarray, cosines: xr.DataArray, *, colour: Any, label: str
) -> None:
    runs = [cosines.isel(layer=number).values for number in range(cosines.sizes["layer"])]
    found = np.array([interval_of_mean(each) for each in runs])
    _intervals(axes, place, found, colour=colour, label=label, line="")
    for at, each in zip(place, runs, strict=True):
        axes.plot(np.full(each.shape, at), each, ".", color=colour, alpha=0.4, markersize=4)


def _line(axes: Axes, place: np.ndarray, found: np.ndarray, *, colour: Any, label: str) -> None:
    _intervals(axes, place, found, colour=colour, label=label, line="-")


def _intervals(
    axes: Axes, place: np.ndarray, found: np.ndarray, *, colour: Any, label: str, line: str
) -> None:
    """Draw rows of mean and edges; an interval that is unknown is not drawn."""
    mean = found[:, 0]
    around = np.nan_to_num(np.abs(found[:, 1:] - mean[:, None]).T)
    axes.errorbar(
        place, mean, around, color=colour, label=label, marker="o", markersize=5,
        linestyle=line or "none", capsize=2,
    )  # fmt: skip
