"""Radial power spectra of true and approximate error signals of the convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignlab.figures import _styles
from alignlab.figures._base import Figure, tidy
from alignlab.figures._lanes import legend
from alignlab.figures._multiples import multiples

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd
    import xarray as xr
    from matplotlib.artist import Artist

__all__ = ["SPATIAL_SPECTRUM"]

RULE, TRUE = "spatial_power", "spatial_power_true"


def _rows(ds: xr.Dataset) -> pd.DataFrame:
    table = tidy(
        ds,
        ("rule", "layer", "frequency"),
        variables=[RULE, TRUE],
        coords=("depth", "positions"),
    )
    # A small map has no wave in some bands.
    return table[table[[RULE, TRUE]].fillna(0.0).ne(0.0).any(axis=1)].reset_index(drop=True)


def _plot(table: pd.DataFrame) -> matplotlib.figure.Figure:
    layers = list(table["layer"].unique())
    styles = _styles.rule_styles(table, [RULE])
    figure, axes = multiples(
        layers, x_label="spatial frequency (cycles per position)", y_label="share of power"
    )
    for axis, layer in zip(axes, layers, strict=True):
        rows = table[table["layer"] == layer]
        shared = rows.drop_duplicates("frequency")
        axis.plot(shared["frequency"], shared[TRUE], color=_styles.TRUE, linewidth=1.4)
        for rule, (color, marker) in styles.items():
            own = rows[rows["rule"] == rule]
            axis.plot(own["frequency"], own[RULE], color=color, marker=marker, markersize=3)
    axes[0].set_ylim(bottom=0.0)
    entries: list[Artist] = [
        _styles.entry(rule, color=color, marker=marker) for rule, (color, marker) in styles.items()
    ]
    legend(figure, [*entries, _styles.entry("backpropagation", color=_styles.TRUE, marker="_")])
    return figure


SPATIAL_SPECTRUM = Figure(
    name="spatial-spectrum",
    title="Spatial spectra of the error signals",
    caption=(
        "Share of the pre-activation signal's power in each band of spatial frequency. "
        "Backpropagation through pooled features concentrates at low frequencies; dense random "
        "feedback is white, and what it sends at high frequencies cancels in shared weights."
    ),
    hint="only hidden convolutions have them",
    needs=(RULE, TRUE),
    rows=_rows,
    plot=_plot,
    place=80,
)
