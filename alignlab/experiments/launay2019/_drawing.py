"""Cosines by layer and condition, with intervals over seeds and the chance band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import seaborn as sns
import xarray as xr

from alignlab.experiments._drawing import dots_by, whiskers
from alignlab.experiments._selection import chosen, over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["against", "by_layer", "layers_beside"]

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
        cosines = over_seeds(results, "cosine", **{key: value})
        shift = 0.5 * ((number + 0.5) / len(values) - 0.5)
        whiskers(axes, place + shift, cosines, str(value), color=colour, linestyle="none")
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
        at = [chosen(results, layer=layer, **{key: value}) for value in values]
        runs = np.stack([each["cosine"].values for each in at], axis=1)
        whiskers(axes, values, runs, str(layer), color=colour)
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


def layers_beside(
    figure: Figure,
    results: xr.Dataset,
    *,
    key: str,
    values: Sequence[str | float],
    error: str = "test",
) -> None:
    """Draw the cosines by layer, and beside them the error of every condition.

    Args:
        figure: An empty one.
        results: As for ``by_layer``.
        key: As for ``by_layer``.
        values: As for ``by_layer``.
        error: ``test`` or ``training``.
    """
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    by_layer(left, results, key=key, values=values)
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(values) + 1, frameon=False)
    dots_by(right, results, "test_error" if error == "test" else "train_error", key)
    right.set_ylim(bottom=0.0)
    right.set_xlabel(key)
    right.set_ylabel(f"{error} error (%)")


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
