"""Effective dimensions of the error and of true and approximate error signals by layer."""

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

__all__ = ["EFFECTIVE_RANK"]

SITES = {"entry": "at the entry", "preactivation": "at the pre-activation"}
RULE, TRUE = "participation_ratio_signal", "participation_ratio_true_signal"
CHANCE, ERROR = f"{TRUE}_chance", "participation_ratio_error"


def _rows(ds: xr.Dataset) -> pd.DataFrame:
    table = tidy(
        ds,
        ("rule", "layer", "site"),
        variables=[RULE, TRUE, CHANCE],
        coords=("depth", "is_output"),
    )
    table[ERROR] = float(ds[ERROR]) if ERROR in ds else np.nan
    return table


def _plot(table: pd.DataFrame) -> matplotlib.figure.Figure:
    lanes = Lanes.of(table, shown=[RULE])
    sites = [site for site in SITES if site in set(table["site"])]
    figure, axes = lanes.panels([SITES[site] for site in sites])
    for axis, site in zip(axes, sites, strict=True):
        _panel(axis, table[table["site"] == site], lanes=lanes)
    entries: list[Artist] = [
        _styles.entry(rule, color=color, marker=marker)
        for rule, (color, marker) in lanes.styles.items()
    ]
    entries += [
        _styles.entry("true signal", color=_styles.TRUE, marker="|"),
        _styles.band_entry("isotropic signal of that size"),
    ]
    error = float(table[ERROR].iloc[0])
    if np.isfinite(error):
        line = axes[0].axvline(error, color=_styles.GREY, linestyle="--")
        for axis in axes[1:]:
            axis.axvline(error, color=_styles.GREY, linestyle="--")
        line.set_label(f"output error ({error:.1f})")
        entries.append(line)
    legend(figure, entries)
    return figure


def _panel(axis: Axes, table: pd.DataFrame, *, lanes: Lanes) -> None:
    layers = table.drop_duplicates("layer")
    rows = np.array([lanes.row(layer) for layer in layers["layer"]])
    for name, color, width in ((CHANCE, _styles.CHANCE, 3.0), (TRUE, _styles.TRUE, 1.2)):
        axis.vlines(layers[name].to_numpy(float), rows - 0.4, rows + 0.4, color, linewidth=width)
    for rule, (color, marker) in lanes.styles.items():
        own = table[table["rule"] == rule]
        height = [lanes.lane(layer, rule) for layer in own["layer"]]
        _styles.mark(axis, own[RULE], height, color=color, marker=marker, area=lanes.marker_area)
    _styles.logarithmic(axis)
    axis.set_xlabel("participation ratio")


EFFECTIVE_RANK = Figure(
    name="effective-rank",
    title="Effective dimensions of the error signals",
    caption=(
        "Participation ratio of the approximate signals (markers) and the true signal (black), "
        "beside that of the output error (dashed). Grey: an isotropic signal with as many samples "
        "and units. A rule far to the left of black sends a signal of collapsed rank."
    ),
    needs=(RULE, TRUE),
    rows=_rows,
    plot=_plot,
    place=60,
)
