"""Numbers of one measurement over its seeds: as checks, and as points with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from alignlab.experiments._base import Check, chosen
from alignlab.experiments._statistics import interval_of_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["at_least", "at_most", "between", "over_seeds", "plot_over", "points"]


def over_seeds(results: xr.Dataset, variable: str, **coordinates: str | float) -> np.ndarray:
    """Return a variable of the runs with these coordinates, in the order of their seeds.

    Args:
        results: Of all cases along ``run``, with a coordinate ``seed``.
        variable: Its name.
        **coordinates: Of the runs.

    Returns:
        Shape ``(n_seeds, ...)``, so that the numbers of two such calls can be paired.
    """
    found = chosen(results, **coordinates)
    order = np.argsort(found["seed"].values, kind="stable")
    values: np.ndarray = found[variable].transpose("run", ...).values[order]
    return values


def at_least(
    what: str, values: np.ndarray, bound: float, *, stated: str = "", chance: str = ""
) -> Check:
    """Return the check that the mean over seeds is no smaller than a bound."""
    mean, low, high = interval_of_mean(values)
    passed = bool(mean >= bound)
    runs = int(np.size(values))
    return Check(what, mean, f">= {bound:g}", passed, stated, low, high, chance, runs)


def at_most(
    what: str, values: np.ndarray, bound: float, *, stated: str = "", chance: str = ""
) -> Check:
    """Return the check that the mean over seeds is no larger than a bound."""
    mean, low, high = interval_of_mean(values)
    passed = bool(mean <= bound)
    runs = int(np.size(values))
    return Check(what, mean, f"<= {bound:g}", passed, stated, low, high, chance, runs)


def between(
    what: str,
    values: np.ndarray,
    lower: float,
    upper: float,
    *,
    stated: str = "",
    chance: str = "",
) -> Check:
    """Return the check that the mean over seeds lies between two bounds."""
    mean, low, high = interval_of_mean(values)
    passed, runs = bool(lower <= mean <= upper), int(np.size(values))
    return Check(what, mean, f"{lower:g} to {upper:g}", passed, stated, low, high, chance, runs)


def points(
    axes: Axes, names: Sequence[str], values: Sequence[np.ndarray], *, colour: str = "C0"
) -> None:
    """Draw one point a name with the 95% interval of its mean, and its runs beside it.

    Args:
        axes: Drawn into.
        names: Below the points.
        values: By name, shape ``(n_seeds,)``.
        colour: Of matplotlib.
    """
    for place, each in enumerate(values):
        mean, low, high = interval_of_mean(each)
        edges = [[mean - low], [high - mean]] if np.isfinite(low) else None
        axes.errorbar([place], [mean], yerr=edges, fmt="o", capsize=4, color=colour)
        axes.plot([place + 0.15] * len(each), each, ".", color="0.6", markersize=4)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)


def plot_over(
    axes: Axes, x: Sequence[float] | np.ndarray, values: np.ndarray, *, label: str, colour: str
) -> None:
    """Draw the mean over seeds as a line, with its 95% interval as a band.

    Args:
        axes: Drawn into.
        x: Shape ``(n,)``.
        values: Shape ``(n_seeds, n)``.
        label: In the legend.
        colour: Of matplotlib.
    """
    found = np.array([interval_of_mean(column) for column in np.asarray(values).T])
    axes.plot(x, found[:, 0], "o-", markersize=3, color=colour, label=label)
    axes.fill_between(x, found[:, 1], found[:, 2], color=colour, alpha=0.2, linewidth=0)
