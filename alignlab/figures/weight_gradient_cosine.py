"""Cosine of true and approximate weight gradients by layer, also debiased and without sharing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignlab.figures._base import Figure, tidy
from alignlab.figures._forest import alignment_columns, draw_alignment, finish
from alignlab.figures._lanes import Lanes

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd
    import xarray as xr

__all__ = ["WEIGHT_GRADIENT_COSINE"]

COSINE = "cosine_weight_gradient"
VARIANTS = {
    COSINE: "same samples",
    f"{COSINE}_debiased": "disjoint halves",
    f"{COSINE}_unshared": "without weight sharing",
}


def _rows(ds: xr.Dataset) -> pd.DataFrame:
    columns = [column for variant in VARIANTS for column in alignment_columns(variant)]
    return tidy(ds, ("rule", "layer"), variables=columns, coords=("depth", "is_output"))


def _plot(table: pd.DataFrame) -> matplotlib.figure.Figure:
    lanes = Lanes.of(table, shown=[f"{COSINE}_n_undefined", *alignment_columns(COSINE)[:3]])
    shown = [
        name for name in VARIANTS if table[[name, f"{name}_null_low"]].notna().to_numpy().any()
    ]
    figure, axes = lanes.panels([VARIANTS[name] for name in shown])
    for axis, name in zip(axes, shown, strict=True):
        draw_alignment(axis, table, lanes=lanes, variable=name)
        axis.set_xlabel("cosine")
    return finish(figure, axes, lanes=lanes, table=table)


WEIGHT_GRADIENT_COSINE = Figure(
    name="weight-gradient-cosine",
    title="Cosine of the weight gradients by layer",
    caption=(
        "Cosine between the true and the approximate weight gradient: on the same samples; "
        "between disjoint halves, where noise that the samples share drops out; and, for "
        "convolutions, position by position as if weights were not shared. Bars are 95% chance "
        "bands, cut off at -1 and 1: for shared kernels they are wide, and a large cosine may "
        "still be chance."
    ),
    needs=(COSINE, f"{COSINE}_null_low", f"{COSINE}_null_high", f"{COSINE}_status"),
    rows=_rows,
    plot=_plot,
    place=20,
)
