"""Runs with the 95% interval of their mean, as the figures of claims show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alignlab.experiments._selection import over_seeds
from alignlab.experiments._statistics import interval_of_mean

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["curve", "dots", "dots_by", "legend_beside", "level", "whiskers"]


def curve(
    axes: Axes, x: Sequence[float] | np.ndarray, values: np.ndarray, label: str, **style: Any
) -> None:
    """Draw the mean over runs as a line, with its 95% interval as a band.

    Args:
        axes: Into which.
        x: Shape ``(n,)``.
        values: Shape ``(n_runs, n)``.
        label: For the legend.
        style: Of the line.
    """
    found = np.array([interval_of_mean(column) for column in values.T])
    (line,) = axes.plot(x, found[:, 0], label=label, **style)
    axes.fill_between(x, found[:, 1], found[:, 2], color=line.get_color(), alpha=0.2, lw=0)


def whiskers(
    axes: Axes, x: Sequence[float] | np.ndarray, values: np.ndarray, label: str, **style: Any
) -> None:
    """Draw the runs as dots, and their mean with its 95% interval, one column at each place.

    Args:
        axes: Into which.
        x: Shape ``(n,)``.
        values: Shape ``(n_runs, n)``.
        label: For the legend.
        style: Of the means; ``linestyle`` joins them.
    """
    mean, low, high = np.array([interval_of_mean(column) for column in values.T]).T
    around = np.nan_to_num([mean - low, high - mean]).clip(min=0.0)
    style = {"marker": "o", "markersize": 5, "capsize": 2, **style}
    bars = axes.errorbar(x, mean, around, label=label, **style)
    color = bars.lines[0].get_color()
    axes.plot(x, values.T, ".", color=color, alpha=0.4, markersize=4)


def dots(
    axes: Axes,
    groups: Mapping[str, np.ndarray],
    *,
    color: str = "C0",
    intervals: Sequence[tuple[float, float, float]] | None = None,
) -> None:
    """Draw the runs of every group as dots, and their mean with its 95% interval beside them.

    Args:
        axes: Into which.
        groups: Label to values.
        color: Of the dots.
        intervals: Mean and edges of every group where values are not independent runs.
    """
    for place, values in enumerate(groups.values()):
        mean, low, high = intervals[place] if intervals else interval_of_mean(values)
        axes.plot(np.full(len(values), place), values, "o", color=color, alpha=0.45, mew=0)
        error = [[mean - low], [high - mean]] if np.isfinite(low) else None
        axes.errorbar([place + 0.2], [mean], yerr=error, fmt="_", color="black", capsize=4)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_xlim(-0.5, len(groups) - 0.3)


def dots_by(axes: Axes, results: xr.Dataset, variable: str, *coordinates: str) -> None:
    """Draw the dots of a variable, a group for every combination of coordinates that was run."""
    places = dict.fromkeys(
        zip(*(results[name].values.tolist() for name in coordinates), strict=True)
    )
    groups = {
        "\n".join(map(str, place)): over_seeds(
            results, variable, **dict(zip(coordinates, place, strict=True))
        )
        for place in places
    }
    dots(axes, groups)


def level(axes: Axes, height: float, text: str) -> None:
    """Draw a level such as chance or a bound."""
    axes.axhline(height, color="grey", ls=":", lw=1, label=text)


def legend_beside(axes: Axes, title: str = "") -> None:
    """Put the legend to the right of the axes."""
    axes.legend(
        title=title,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        fontsize="small",
    )
