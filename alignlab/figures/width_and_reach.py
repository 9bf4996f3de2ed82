"""What width and a fixed feedback allow at each layer, beside the widths and the classes."""

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

__all__ = ["WIDTH_AND_REACH"]

BOUND = ("width_bound", "width_bound_low", "width_bound_high")
REACH = {"reach_held_out": "reach_cosine_held_out", "reach_in_sample": "reach_cosine_in_sample"}


def _rows(ds: xr.Dataset) -> pd.DataFrame:
    entry = ds.sel(site="entry") if "site" in ds.dims else ds
    roots = {new: np.sqrt(entry[old].clip(min=0.0)) for old, new in REACH.items() if old in entry}
    table = tidy(
        entry.assign(roots),
        ("rule", "layer"),
        variables=[*REACH.values(), *BOUND],
        coords=("depth", "is_output", "width", "entry_width"),
    )
    table["n_classes"] = ds.attrs.get("n_classes", np.nan)
    table["error_rank"] = float(ds["error_rank"]) if "error_rank" in ds else np.nan
    return table


def _plot(table: pd.DataFrame) -> matplotlib.figure.Figure:
    lanes = Lanes.of(table, shown=BOUND)
    figure, axes = lanes.panels(["best cosine that is possible", "width of the layer"])
    entries = _ceilings(axes[0], table, lanes=lanes)
    entries += _widths(axes[1], table, lanes=lanes)
    legend(figure, entries)
    return figure


def _ceilings(axis: Axes, table: pd.DataFrame, *, lanes: Lanes) -> list[Artist]:
    """Draw the reach bracket of each layer and the width bound of each rule."""
    entries: list[Artist] = []
    layers = table.drop_duplicates("layer")
    low, high = (layers[name].to_numpy(float) for name in REACH.values())
    rows = [lanes.row(layer) for layer in layers["layer"]]
    if np.isfinite(high).any():
        low = np.fmin(np.where(np.isnan(low), high, low), high)
        axis.barh(rows, high - low, left=low, height=0.72, color=_styles.CHANCE, alpha=0.6)
        axis.scatter(high, rows, s=24, marker="|", color=_styles.TRUE)
        axis.scatter(low, rows, s=24, marker="|", color=_styles.TRUE)
        entries.append(_styles.band_entry("reach of a fixed feedback, held out to in sample"))
    for rule, (color, marker) in lanes.styles.items():
        own = table[table["rule"] == rule].dropna(subset=["width_bound"])
        if own.empty:
            continue
        bound, least, most = (own[name].to_numpy(float) for name in BOUND)
        height = np.array([lanes.lane(layer, rule) for layer in own["layer"]])
        axis.hlines(height, least, most, color=color, linewidth=1.2)
        _styles.mark(axis, bound, height, color=color, marker=marker, area=lanes.marker_area)
        entries.append(_styles.entry(f"width bound, {rule}", color=color, marker=marker))
    axis.axvline(1, color=_styles.GREY, linewidth=0.6)
    axis.set_xlim(0, 1.03)
    axis.set_xlabel("cosine at the entry")
    return entries


def _widths(axis: Axes, table: pd.DataFrame, *, lanes: Lanes) -> list[Artist]:
    """Draw the widths against the number of classes and the rank of the error."""
    layers = table.drop_duplicates("layer")
    rows = [lanes.row(layer) for layer in layers["layer"]]
    width = layers["width"].to_numpy(float)
    axis.hlines(rows, 1, width, color=_styles.CHANCE)
    axis.scatter(width, rows, s=14, color=_styles.TRUE, zorder=3)
    _styles.logarithmic(axis)
    axis.set_xlabel("units at the pre-activation")
    entries: list[Artist] = []
    for column, style, label in (("n_classes", "--", "classes"), ("error_rank", ":", "error rank")):
        value = float(table[column].iloc[0])
        if np.isfinite(value):
            line = axis.axvline(value, color=_styles.GREY, linestyle=style)
            line.set_label(f"{label} ({value:.0f})")
            entries.append(line)
    return entries


WIDTH_AND_REACH = Figure(
    name="width-and-reach",
    title="Width and reach by layer",
    caption=(
        "Grey: the best cosine that any fixed feedback of the output error could have at a layer; "
        "held out is biased down, in sample up. Markers: what the narrowest layer above leaves of "
        "it for each rule (exact for linear networks; lines span the feedback draws). Right: a "
        "layer with fewer units than the error has rank limits the layers below it."
    ),
    needs=("reach_in_sample", "reach_held_out", "width"),
    rows=_rows,
    plot=_plot,
    place=30,
)
