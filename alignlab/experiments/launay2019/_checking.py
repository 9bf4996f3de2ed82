"""One number over seeds, held against what must come out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from alignlab.experiments._base import Check, chosen
from alignlab.experiments._statistics import interval_of_mean

__all__ = ["at_layer", "held", "near", "rises"]


def at_layer(results: xr.Dataset, layer: str, **coordinates: str | float) -> np.ndarray:
    """Return the cosine of one layer in the runs with these coordinates, ordered by seed."""
    found = chosen(results, **coordinates).sortby("seed")
    return np.asarray(found["cosine"].sel(layer=layer).values, dtype=float)


def held(
    what: str,
    values: np.ndarray,
    *,
    expected: str,
    passes: Callable[[float], bool],
    stated: str = "",
    chance: str = "",
) -> Check:
    """Return the check of the mean of one value for each seed.

    Args:
        what: What the values are.
        values: One for each seed.
        expected: What ``passes`` asks of their mean, in words.
        passes: Takes the mean.
        stated: What the source or we have for it.
        chance: What would come out by chance.
    """
    mean, low, high = interval_of_mean(values)
    return Check(
        what, mean, expected, bool(passes(mean)), stated, low, high, chance, int(np.size(values))
    )


def near(target: float, tolerance: float) -> Callable[[float], bool]:
    """Return what tells whether a mean is within a tolerance of a target."""
    return lambda mean: abs(mean - target) <= tolerance


def rises(what: str, values: np.ndarray, *, stated: str = "", chance: str = "") -> Check:
    """Return the check that means over seeds rise with every step of a list of conditions.

    Args:
        what: What rises, and over which conditions.
        values: Shape ``(n_conditions, n_seeds)``, conditions in the order in which they rise.
        stated: What the source or we have for it.
        chance: What would come out by chance.

    Returns:
        Its number is the smallest step from one mean to the next, with the interval of that step.
    """
    steps = np.diff(values, axis=0)
    smallest = steps[int(np.argmin(steps.mean(1)))]
    return held(
        f"{what}, smallest step",
        smallest,
        expected="> 0",
        passes=lambda mean: mean > 0,
        stated=stated,
        chance=chance,
    )
