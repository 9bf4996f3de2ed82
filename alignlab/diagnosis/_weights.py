"""What weights alone tell, where a file was read without model and data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from alignlab.diagnosis._reading import number
from alignlab.diagnosis._wording import counted, decimal, extremes

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["weights"]


def weights(ds: xr.Dataset) -> list[str]:
    """Return the sentences on a recording of weights, none for any other recording."""
    if ds.attrs.get("recording_kind") != "weights" or "layer" not in ds.coords:
        return []
    layers = [str(layer) for layer in ds["layer"].values]
    clauses = [_dimensions(ds, layer) for layer in layers]
    known = [clause for clause in clauses if not math.isnan(clause[0])]
    sentence = f"The file was read without model and data, as {counted(layers, 'layer')} of weights"
    if known:
        sentence += f"; effective dimensions of the matrices: {extremes(known, most=2)}"
    return [
        f"{sentence}.",
        f"Nothing is known of the error signals at these {counted(layers, 'layer')}: analyze the "
        "checkpoint with --model and --data.",
    ]


def _dimensions(ds: xr.Dataset, layer: str) -> tuple[float, str]:
    own = number(ds, "participation_ratio_weight", layer=layer)
    rows, columns = (number(ds, name, layer=layer) for name in ("channels", "fan_in"))
    return own, f"{decimal(own)} at {layer} ({rows:.0f} x {columns:.0f})"
