"""Normalised singular values of the alignment matrices by layer, with the band of random ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator

from alignlab.figures import _styles
from alignlab.figures._base import Figure, tidy
from alignlab.figures._lanes import legend
from alignlab.figures._multiples import multiples

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd
    import xarray as xr
    from matplotlib.artist import Artist

__all__ = ["ALIGNMENT_MATRIX_SPECTRUM"]

VALUE = "alignment_matrix_singular_value"
SUMMARY = ["alignment_matrix_condition", "alignment_matrix_condition_chance"]


def _rows(ds: xr.Dataset) -> pd.DataFrame:
    spectrum = [VALUE, f"{VALUE}_low", f"{VALUE}_high"]
    table = tidy(
        ds,
        ("rule", "layer", "singular_value"),
        variables=[*spectrum, *SUMMARY],
        coords=("depth",),
    )
    return table.dropna(how="all", subset=spectrum).reset_index(drop=True)


def _plot(table: pd.DataFrame) -> matplotlib.figure.Figure:
    layers = list(table["layer"].unique())
    styles = _styles.rule_styles(table, [f"{VALUE}_low", VALUE])
    figure, axes = multiples(layers, x_label="singular value", y_label="over the largest")
    for axis, layer in zip(axes, layers, strict=True):
        for rule, (color, marker) in styles.items():
            own = table[(table["layer"] == layer) & (table["rule"] == rule)]
            place = own["singular_value"].to_numpy(float)
            low, high = (own[f"{VALUE}_{edge}"].to_numpy(float) for edge in ("low", "high"))
            axis.fill_between(place, low, high, color=color, alpha=0.18, linewidth=0)
            axis.plot(place, own[VALUE].to_numpy(float), color=color, marker=marker, markersize=3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylim(bottom=0.0)
    entries: list[Artist] = [
        _styles.entry(rule, color=color, marker=marker) for rule, (color, marker) in styles.items()
    ]
    legend(figure, [*entries, _styles.band_entry("95% of random matrices, or of draws")])
    return figure


ALIGNMENT_MATRIX_SPECTRUM = Figure(
    name="alignment-matrix-spectrum",
    title="Spectra of the alignment matrices",
    caption=(
        "Singular values of the alignment matrix on the error space, over the largest. Flat means "
        "well-conditioned; inside the band it is no better than a random matrix of that size. "
        "Where feedback was drawn, the band is over the draws."
    ),
    needs=(f"{VALUE}_low", f"{VALUE}_high"),
    rows=_rows,
    plot=_plot,
    place=50,
)
