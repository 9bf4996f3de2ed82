"""Alignments by layer: markers over their chance bands, undefined values and the exact output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from alignlab.figures import _styles
from alignlab.figures._lanes import legend

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from alignlab.figures._lanes import Lanes

__all__ = ["alignment_columns", "draw_alignment", "finish"]

BEYOND_CHANCE = ("useful", "detectable", "opposed")


def alignment_columns(variable: str) -> list[str]:
    """Return an alignment with the companions that its drawing needs."""
    ends = ("null_low", "null_high", "p", "status", "n_undefined")
    return [variable, *(f"{variable}_{end}" for end in ends)]


def draw_alignment(axis: Axes, table: pd.DataFrame, *, lanes: Lanes, variable: str) -> None:
    """Draw one alignment: chance bands, markers, crosses where it is undefined.

    Args:
        axis: Where to draw.
        table: Rows with ``rule``, ``layer`` and the columns of :func:`alignment_columns`.
        lanes: Where the rows lie.
        variable: Name of the alignment.
    """
    axis.axvline(0, color=_styles.GREY, linewidth=0.6, zorder=1)
    for rule, (color, marker) in lanes.styles.items():
        rows = table[table["rule"] == rule]
        height = np.array([lanes.lane(layer, rule) for layer in rows["layer"]])
        value, status = rows[variable].to_numpy(float), rows[f"{variable}_status"].to_numpy(str)
        low, high = (rows[f"{variable}_null_{end}"].to_numpy(float) for end in ("low", "high"))
        axis.barh(
            height,
            high - low,
            left=low,
            height=lanes.thickness * 0.85,
            color=color,
            alpha=0.25,
            linewidth=0,
        )
        seen = ~np.isnan(value) & (status != "exact")
        beyond = np.isin(status[seen], BEYOND_CHANCE)
        _styles.mark(
            *(axis, value[seen], height[seen]),
            color=color,
            marker=marker,
            area=lanes.marker_area,
            filled=beyond,
        )
        exact, undefined = height[status == "exact"], height[status == "undefined"]
        axis.scatter(np.ones(len(exact)), exact, lanes.marker_area, _styles.GREY, marker="D")
        axis.scatter(np.zeros(len(undefined)), undefined, lanes.marker_area, color, marker="x")


def finish(figure: Figure, axes: list[Axes], *, lanes: Lanes, table: pd.DataFrame) -> Figure:
    """Give all panels the range of their numbers, and explain the marks that occur."""
    columns = [name.removesuffix("_status") for name in table if name.endswith("_status")]
    # A band may be wider than any cosine; its end is cut off, no marker ever is.
    lows = table[[f"{name}_null_low" for name in columns]].clip(lower=-1.0).to_numpy(float)
    highs = table[[f"{name}_null_high" for name in columns]].clip(upper=1.0).to_numpy(float)
    seen = np.concatenate([table[columns].to_numpy(float), lows, highs, [[0.0, 1.0]]], axis=None)
    for axis in axes:
        axis.set_xlim(np.nanmin(seen) - 0.05, np.nanmax(seen) + 0.05)
    status = {str(label) for name in columns for label in table[f"{name}_status"].dropna()}
    grey = _styles.GREY
    marks = [
        (set(BEYOND_CHANCE), _styles.entry("beyond chance", color=grey)),
        (
            {"at chance", "undecidable"},
            _styles.entry("at chance or undecidable", color=grey, filled=False),
        ),
        ({"undefined"}, _styles.entry("undefined", color=grey, marker="x")),
        ({"exact"}, _styles.entry("output layer, exact", color=grey, marker="D")),
    ]
    entries = [
        _styles.entry(rule, color=color, marker=marker)
        for rule, (color, marker) in lanes.styles.items()
    ]
    entries += [entry for needed, entry in marks if needed & status]
    legend(figure, [*entries, _styles.band_entry("95% chance band")])
    return figure
