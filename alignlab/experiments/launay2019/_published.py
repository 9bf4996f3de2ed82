"""The log of the bottleneck experiment that lies beside the work's code, last epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignlab.experiments._checking import mean_check
from alignlab.experiments._selection import over_seeds

if TYPE_CHECKING:
    import xarray as xr

    from alignlab.experiments._base import Check

__all__ = ["LOGS", "WIDTHS", "against_the_log"]

_COSINES, _ERRORS = 0.05, 1.5
"""How far from the log a cosine and an error in percentage points may be; ours."""

WIDTHS = (1, 3, 5, 8, 11, 18, 28, 46, 73, 118, 191, 308, 496, 800)
"""Widths that the mask stands for."""

LOGS: dict[str, dict[str, tuple[float, ...]]] = {
    "standard": {
        "h1": (
            *(0.0, 0.0019, 0.0005, 0.0026, 0.0076, 0.0238, 0.0330),
            *(0.0535, 0.0817, 0.1375, 0.2264, 0.3726, 0.6081, 0.9686),
        ),
        "h2": (
            *(0.0689, 0.1677, 0.2342, 0.3154, 0.3744, 0.4655, 0.5406),
            *(0.6217, 0.6917, 0.7597, 0.8260, 0.8705, 0.8953, 0.8924),
        ),
        "h3": (
            *(0.4657, 0.4642, 0.4629, 0.4608, 0.4582, 0.4575, 0.4629),
            *(0.4760, 0.4985, 0.5355, 0.5836, 0.6405, 0.6796, 0.6770),
        ),
        "test": (
            *(40.5, 41.1, 41.5, 41.9, 42.8, 43.4, 44.6),
            *(45.6, 46.8, 47.9, 47.6, 46.8, 46.4, 47.1),
        ),
    },
    "pre-alignment": {
        "h1": (
            *(0.0, 0.0, 0.0, 0.0040, 0.0120, 0.0184, 0.0329),
            *(0.0591, 0.0932, 0.1533, 0.2431, 0.3830, 0.6112, 0.9760),
        ),
        "h2": (
            *(0.2792, 0.4292, 0.5164, 0.5976, 0.6516, 0.7268, 0.7858),
            *(0.8364, 0.8831, 0.9214, 0.9508, 0.9695, 0.9547, 0.9608),
        ),
        "h3": (
            *(0.9656, 0.9738, 0.9777, 0.9810, 0.9839, 0.9856, 0.9867),
            *(0.9873, 0.9883, 0.9894, 0.9904, 0.9853, 0.9560, 0.9645),
        ),
        "test": (
            *(36.1, 38.1, 39.4, 40.2, 41.1, 42.4, 43.0),
            *(44.7, 46.2, 47.2, 48.2, 47.2, 46.4, 46.5),
        ),
    },
}
"""Mean cosine at each layer over 128 samples, and test accuracy in percent, of one run a width."""


def against_the_log(results: xr.Dataset) -> list[Check]:
    """Return what came out without mask at 800 units on CIFAR-10, held against the log.

    Not the cosine at h1, which is another one with a feedback point there.

    Args:
        results: With ``kept`` along ``run``, its largest value the full width.
    """
    log, full = LOGS["standard"], WIDTHS[-1]
    least = int(results["kept"].min())
    cosine = {
        layer: over_seeds(results, "cosine", layer=layer, kept=full) for layer in ("h2", "h3")
    }
    fall = cosine["h2"] - over_seeds(results, "cosine", layer="h2", kept=least)
    stated = "its log, one run: "
    found = [
        mean_check(
            f"cosine at {layer}, full width",
            values,
            near=(log[layer][-1], _COSINES),
            stated=f"{stated}{log[layer][-1]:.3f}",
            chance="0",
        )
        for layer, values in cosine.items()
    ]
    lowest = log["h2"][WIDTHS.index(least)]
    return [
        *found,
        mean_check(
            f"cosine at h2, full width less {least}",
            fall,
            near=(log["h2"][-1] - lowest, _COSINES),
            stated=f"{stated}{log['h2'][-1]:.3f} - {lowest:.3f}",
            chance="0",
        ),
        mean_check(
            "test error, full width, per cent",
            over_seeds(results, "test_error", kept=full),
            near=(100 - log["test"][-1], _ERRORS),
            stated=f"{stated}{100 - log['test'][-1]:.1f}",
            chance="90",
        ),
    ]
