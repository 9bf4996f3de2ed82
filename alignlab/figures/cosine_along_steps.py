"""Cosine of true and approximate error signals along a training, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.ticker import FuncFormatter

from alignlab.figures import _styles
from alignlab.figures._base import Figure, tidy
from alignlab.figures._lanes import legend
from alignlab.figures._multiples import multiples

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd
    import xarray as xr

__all__ = ["COSINE_ALONG_STEPS"]

COSINE = "cosine_error_signal"
LOW, HIGH = f"{COSINE}_null_low", f"{COSINE}_null_high"
SITE = "entry"
BAND_ALPHA = 0.15


def _rows(ds: xr.Dataset) -> pd.DataFrame:
    columns = [COSINE, LOW, HIGH]
    hidden = ds.isel(layer=~ds["is_output"].values) if "is_output" in ds.coords else ds
    has_entry = "site" in ds.coords and SITE in ds["site"].values
    several = hidden if "step" in ds.dims and ds.sizes["step"] > 1 else hidden.drop_dims("layer")
    at_entry = several.sel(site=SITE) if has_entry else several.drop_dims("layer")
    table = tidy(at_entry, ("step", "layer", "rule"), variables=columns)
    return table.dropna(subset=[COSINE]).reset_index(drop=True)


def _plot(table: pd.DataFrame) -> matplotlib.figure.Figure:
    styles = _styles.rule_styles(table, [COSINE])
    layers = list(table["layer"].unique())
    drawing, axes = multiples(layers, x_label="step", y_label="cosine at the entry")
    for axis, layer in zip(axes, layers, strict=True):
        axis.axhline(0, color=_styles.GREY, linewidth=0.6)
        for rule, rows in table[table["layer"] == layer].groupby("rule", sort=False):
            color, marker = styles[str(rule)]
            low, high = (rows[name].to_numpy(float) for name in (LOW, HIGH))
            steps = rows["step"].to_numpy(float)
            axis.fill_between(steps, low, high, color=color, alpha=BAND_ALPHA, linewidth=0)
            axis.plot(rows["step"], rows[COSINE], color=color, marker=marker, markersize=2.5)
        axis.set_xscale("symlog", linthresh=1)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.minorticks_off()
    entries = [
        _styles.entry(_styles.shortened(rule, 30), color=color, marker=marker)
        for rule, (color, marker) in styles.items()
    ]
    legend(drawing, [*entries, _styles.band_entry("95% chance band")])
    return drawing


COSINE_ALONG_STEPS = Figure(
    name="cosine-along-steps",
    title="Cosine of the error signals along the training",
    caption=(
        "Cosine between the true and the approximate error signal at the entry of every hidden "
        "layer, the mean of the samples' cosines, at the steps of the training that were probed; "
        "in the colour of each rule its 95% chance band. The axis of the steps is logarithmic "
        "from step 1 on."
    ),
    hint="a training that was probed at several steps has it (alignlab train)",
    needs=(COSINE, LOW, HIGH),
    rows=_rows,
    plot=_plot,
    place=15,
    along_steps=True,
)
