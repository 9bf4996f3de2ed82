"""Invented recordings whose decisive numbers are set by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from tests.recording.synthetic import make_recording

CONV, RULE = "features.0", "dfa"


def put(ds: xr.Dataset, name: str, value: object, **where: Any) -> xr.Dataset:
    """Return a recording with one variable changed at the given labels."""
    changed = ds.copy(deep=True)
    changed[name].loc[where or ...] = value
    return changed


def believable(**arguments: Any) -> xr.Dataset:
    """Return a recording of a model that is better than chance and of a reference that agrees."""
    ds = make_recording(**arguments)
    for name, value in {
        "loss": 0.31,
        "accuracy": 0.9,
        "accuracy_chance": 0.1,
        "reference_check_error": 2e-4,
        "reference_floor_ratio": 1e6,
        "error_rank": 9.0,
    }.items():
        ds = put(ds, name, value)
    return ds


def convolution(
    *,
    reach: tuple[float, float] = (0.7, 0.8),
    attainable: float = 0.8,
    share: float = 0.9,
    coherence: tuple[float, float] = (0.4, 0.5),
    status: str = "useful",
) -> xr.Dataset:
    """Return a recording whose first convolution has these numbers under DFA.

    Args:
        reach: Best cosine of a fixed feedback, held out and in sample.
        attainable: The attainable cosine.
        share: What share of it is reached.
        coherence: Of the rule and of backpropagation; chance is 0.125.
        status: Of the flattened cosine at the entry.
    """
    ds = believable(rules=("dfa",))
    own: dict[str, str] = {"layer": CONV, "rule": RULE}
    at: dict[str, str] = own | {"site": "entry"}
    ds = put(ds, "reach_held_out", reach[0] ** 2, layer=CONV, site="entry")
    ds = put(ds, "reach_in_sample", reach[1] ** 2, layer=CONV, site="entry")
    ds = put(ds, "attainable_cosine", attainable, **at)
    for edge in ("low", "high"):
        ds = put(ds, f"attainable_cosine_{edge}", np.nan, **at)
    ds = put(ds, "attainable_share", share, **at)
    ds = put(ds, "coherence", coherence[0], **own)
    ds = put(ds, "coherence_true", coherence[1], layer=CONV)
    ds = put(ds, "coherence_chance", 0.125, layer=CONV)
    return put(ds, "cosine_error_signal_flat_status", status, **at)


def narrow(bounds: dict[str, float], *, width: int, rank: int = 9) -> xr.Dataset:
    """Return a dense recording where ``fc3`` is so wide and bounds the layers below it so."""
    ds = believable(conv=False, rules=("dfa",))
    for layer in ds["layer"].values:
        ds = put(ds, "width_bound", bounds.get(str(layer), 1.0), rule="dfa", layer=layer)
        ds = put(ds, "narrowest_width_above", float(width), layer=layer)
    return put(ds, "error_rank", float(rank))
