"""What narrow layers allow at each layer against the alignment measured, and what would lift it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from alignlab.figures import _styles
from alignlab.figures._base import Figure, tidy
from alignlab.figures._lanes import Lanes, legend

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["BOTTLENECK_ATLAS"]

BOUND = ("width_bound", "width_bound_low", "width_bound_high")
COSINE = "cosine_error_signal_flat"
CHANCE = (f"{COSINE}_null_low", f"{COSINE}_null_high")
ABOVE, LIFTS, BELOW = "narrowest_width_above", "width_that_lifts", "width_limit_from_below"


def _rows(ds: xr.Dataset) -> pd.DataFrame:
    entry = ds.sel(site="entry") if "site" in ds.dims else ds
    table = tidy(
        entry,
        ("rule", "layer"),
        variables=[*BOUND, BELOW, COSINE, *CHANCE, LIFTS],
        coords=("depth", "is_output", "width"),
    )
    table = table.dropna(how="all", subset=list(BOUND)).reset_index(drop=True)
    above = tidy(entry, ("layer",), variables=[ABOVE]) if ABOVE in entry else None
    widths = {} if above is None else dict(zip(above["layer"], above[ABOVE], strict=True))
    table[ABOVE] = [widths.get(layer, np.nan) for layer in table["layer"]]
    # Where nothing is narrow there is nothing to lift.
    table[LIFTS] = table[LIFTS].where(table[ABOVE].notna())
    table["n_classes"] = ds.attrs.get("n_classes", np.nan)
    table["error_rank"] = float(ds["error_rank"]) if "error_rank" in ds else np.nan
    return table


def _plot(table: pd.DataFrame) -> matplotlib.figure.Figure:
    lanes = Lanes.of(table, shown=BOUND)
    figure, axes = lanes.panels(["bound and measured cosine", "narrowest width above"])
    entries = _cosines(axes[0], table, lanes=lanes)
    entries += _widths(axes[1], table, lanes=lanes)
    legend(figure, entries)
    return figure


def _cosines(axis: Axes, table: pd.DataFrame, *, lanes: Lanes) -> list[Artist]:
    """Draw the bound of each layer and rule, the cosine measured, and the gap between them."""
    entries: list[Artist] = []
    for rule, (color, marker) in lanes.styles.items():
        own = table[table["rule"] == rule].dropna(subset=["width_bound"])
        height = np.array([lanes.lane(layer, rule) for layer in own["layer"]])
        bound, low, high = (own[name].to_numpy(float) for name in BOUND)
        found, least, most = (own[name].to_numpy(float) for name in (COSINE, *CHANCE))
        half = 0.42 * lanes.thickness
        axis.barh(
            height, most - least, left=least, height=2 * half, color=_styles.CHANCE, alpha=0.6
        )
        axis.hlines(height, found, bound, color=color, linewidth=0.6, linestyle=":")
        axis.hlines(height, low, high, color=color, linewidth=1.2)
        axis.vlines(bound, height - half, height + half, color=color, linewidth=1.8)
        axis.scatter(bound, height, s=4.0, marker="|", color=color, linewidth=0.8)
        below = own[BELOW].to_numpy(float)
        axis.scatter(below, height, s=20, marker="4", color=color, linewidth=0.8)
        _styles.mark(axis, found, height, color=color, marker=marker, area=lanes.marker_area)
        entries.append(_styles.entry(f"measured, {rule}", color=color, marker=marker))
    entries.append(_styles.entry("width bound", color=_styles.TRUE, marker="|"))
    if np.isfinite(table[BELOW].to_numpy(float)).any():
        entries.append(
            _styles.entry("limit of learning from below", color=_styles.TRUE, marker="4")
        )
    entries.append(_styles.band_entry("95% by chance"))
    axis.axvline(0, color=_styles.GREY, linewidth=0.6)
    axis.axvline(1, color=_styles.GREY, linewidth=0.6)
    lowest = np.nanmin([0.0, *np.ravel(table[[COSINE, *CHANCE]].to_numpy(float))])
    axis.set_xlim(max(float(lowest), -1.0) - 0.04, 1.04)
    axis.set_xlabel("flattened cosine at the entry")
    return entries


def _widths(axis: Axes, table: pd.DataFrame, *, lanes: Lanes) -> list[Artist]:
    """Draw the narrowest width above each layer and the one that would lift its limit."""
    layers = table.drop_duplicates("layer")
    rows = np.array([lanes.row(layer) for layer in layers["layer"]])
    width = layers[ABOVE].to_numpy(float)
    axis.hlines(rows, 1, width, color=_styles.CHANCE)
    axis.scatter(width, rows, s=14, color=_styles.TRUE, zorder=3)
    entries: list[Artist] = [
        _styles.entry("width there is", color=_styles.TRUE),
        _styles.entry("width that lifts the limit", color=_styles.TRUE, filled=False),
    ]
    for rule, (color, marker) in lanes.styles.items():
        own = table[table["rule"] == rule].dropna(subset=[LIFTS])
        height = np.array([lanes.lane(layer, rule) for layer in own["layer"]])
        needed = own[LIFTS].to_numpy(float)
        area = lanes.marker_area
        _styles.mark(axis, needed, height, color=color, marker=marker, area=area, filled=False)
    _styles.logarithmic(axis)
    axis.set_xlabel("units")
    for column, style, name in (("n_classes", "--", "classes"), ("error_rank", ":", "error rank")):
        value = float(table[column].iloc[0])
        if np.isfinite(value):
            line = axis.axvline(value, color=_styles.GREY, linestyle=style)
            line.set_label(f"{name} ({value:.0f})")
            entries.append(line)
    return entries


BOTTLENECK_ATLAS = Figure(
    name="bottleneck-atlas",
    title="Bottlenecks: what width allows and what is there",
    caption=(
        "Left: the cosine that the narrowest place above each layer allows under direct feedback "
        "(bars; exact for linear networks, lines span the feedback draws), the limit that the "
        "narrowest place below sets to what weights can learn (tripods; no bound of the weights "
        "there are), and the cosine measured (markers) with its 95% chance band. A marker at its "
        "bar is limited by that width, one far below both has another cause. Right: the narrowest "
        "width above (black) and the width from which the bound is at least 0.99 (open); a black "
        "mark left of an open one limits the layer."
    ),
    needs=("width_bound", COSINE, LIFTS),
    rows=_rows,
    plot=_plot,
    hint="direct rules have it, in the preset bottleneck",
    place=32,
)
