"""Convolutions: attained and attainable cosine, coherence, spatial mean and caps of weights."""

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

__all__ = ["CONVOLUTION_PANEL"]

PANELS = {
    "signal": "flattened cosine",
    "coherence": "over positions",
    "spatial mean": "share of power",
    "weights": "cosine with feedback",
}
ATTAINED = (
    "cosine_error_signal_flat",
    "coherence",
    "spatial_dc_fraction",
    "cosine_weight_feedback",
)
CEILING = ("attainable_cosine", "", "", "convolution_weight_attainable")
TRUE = ("", "coherence_true", "spatial_dc_fraction_true", "")
CHANCE = ("", "coherence_chance", "spatial_dc_fraction_chance", "convolution_weight_cap")


def _rows(ds: xr.Dataset) -> pd.DataFrame:
    entry = ds.sel(site="entry") if "site" in ds.dims else ds
    kinds = np.array([str(kind).lower().startswith("conv") for kind in entry["layer_kind"].values])
    entry = entry.isel(layer=np.flatnonzero(kinds))
    names = dict.fromkeys((*ATTAINED, *CEILING, *TRUE, *CHANCE, "attainable_share"))
    names |= dict.fromkeys(("attainable_cosine_low", "attainable_cosine_high"))
    table = tidy(
        entry,
        ("rule", "layer"),
        variables=[name for name in names if name],
        coords=("depth", "channels", "positions"),
    )
    specific = ["coherence", "spatial_dc_fraction", "attainable_cosine"]
    return table.dropna(how="all", subset=specific).reset_index(drop=True)


def _plot(table: pd.DataFrame) -> matplotlib.figure.Figure:
    lanes = Lanes.of(table, shown=[name for name in (*ATTAINED, *CEILING) if name])
    figure, axes = lanes.panels(list(PANELS))
    for place, (axis, label) in enumerate(zip(axes, PANELS.values(), strict=True)):
        _shared(axis, table, lanes=lanes, true=TRUE[place], chance=CHANCE[place])
        _by_rule(axis, table, lanes=lanes, attained=ATTAINED[place], ceiling=CEILING[place])
        axis.set_xlabel(label)
    legend(figure, _entries(lanes))
    return figure


def _shared(axis: Axes, table: pd.DataFrame, *, lanes: Lanes, true: str, chance: str) -> None:
    """Draw what the rules share: the true value and chance, across a layer's row."""
    layers = table.drop_duplicates("layer")
    rows = np.array([lanes.row(layer) for layer in layers["layer"]])
    axis.axvline(0, color=_styles.GREY, linewidth=0.6)
    for name, color, width in ((chance, _styles.CHANCE, 3.0), (true, _styles.TRUE, 1.2)):
        if name:
            axis.vlines(
                layers[name].to_numpy(float), rows - 0.4, rows + 0.4, color, linewidth=width
            )


def _by_rule(axis: Axes, table: pd.DataFrame, *, lanes: Lanes, attained: str, ceiling: str) -> None:
    """Draw each rule's value, and an open marker at its ceiling with the interval of it."""
    for rule, (color, marker) in lanes.styles.items():
        own = table[table["rule"] == rule]
        height = np.array([lanes.lane(layer, rule) for layer in own["layer"]])
        value = own[attained].to_numpy(float)
        look = {"color": color, "marker": marker}
        if ceiling:
            most = own[ceiling].to_numpy(float)
            axis.hlines(height, value, most, color=color, linewidth=0.6, alpha=0.6)
            _styles.mark(axis, most, height, area=lanes.marker_area, filled=False, **look)
        if ceiling == "attainable_cosine":
            edges = (own[f"{ceiling}_{edge}"].to_numpy(float) for edge in ("low", "high"))
            axis.hlines(height, *edges, color=color, linewidth=1.2)
        _styles.mark(axis, value, height, area=lanes.marker_area, **look)


def _entries(lanes: Lanes) -> list[Artist]:
    entries: list[Artist] = [
        _styles.entry(rule, color=color, marker=marker)
        for rule, (color, marker) in lanes.styles.items()
    ]
    return [
        *entries,
        _styles.entry("attainable", color=_styles.GREY, filled=False),
        _styles.entry("backpropagation", color=_styles.TRUE, marker="|"),
        _styles.band_entry("chance; for weights, expected cap"),
    ]


CONVOLUTION_PANEL = Figure(
    name="convolution-panel",
    title="What limits the convolutions",
    caption=(
        "Signal: the flattened cosine at the entry (filled) and the best that any kernels of the "
        "next layer could attain with this feedback (open, held out). Coherence and spatial mean: "
        "how far the contributions of the positions add up, for the rule, backpropagation (black) "
        "and chance (grey). Weights: cosine with the feedback, what kernels could attain, and its "
        "expectation for dense feedback."
    ),
    hint="only hidden convolutions have them",
    needs=("layer_kind", "attainable_cosine", "coherence", "coherence_true", "coherence_chance"),
    rows=_rows,
    plot=_plot,
    place=40,
)
